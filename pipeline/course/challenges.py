"""Lecture 3: what makes remote sensing hard, in figures: neighbours that leak, few labels, mixed pixels, clouds."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from pipeline.course.ground import FOLDS, Labelled, labelled
from pipeline.course.lecture import Lecture, Picture, Result

NUMBER = "3"
TITLE = "Challenges of remote sensing"
TEXT = (
    "A digit in one image says nothing about the digit in the next. A pixel says nearly everything about the pixel "
    "beside it: both lie in the same field, under the same haze, seen by the same detector. Pixels dealt at random to "
    "training and test therefore measure how well a model remembers fields, not how well it maps ground it has not "
    "seen. Whole blocks of ground that are held out measure the latter. Both are estimates of something; only one of "
    "them is the accuracy of the map.",
    "The leak grows with what a model can see. A spectrum alone remembers little; means and deviations in windows of "
    "up to 15 pixels overlap those of the test pixels themselves, and the gap between the two estimates opens.",
    "Labels are few, and fewer than they seem: what counts is not the number of labelled pixels but of places they "
    "come from. Ten times the pixels of the same blocks add little to what other blocks would add.",
    "A pixel at a border of two classes holds both. Its label is a decision, the reference map drew the line a pixel "
    "aside, and no classifier agrees with it often. A large share of all errors lies there.",
    "An optical series has gaps wherever there were clouds, and they are not spread evenly over the year. What is "
    "filled in between is no observation.",
)


def run(folder: Path, full: bool, seed: int = 0) -> Lecture:
    """Measure on carolina and romania; the full version uses all labelled pixels and five seeds."""
    root = folder.parents[3]
    ground = labelled(root, "carolina")
    some = ground.some(200_000 if full else 12_000, seed)
    seeds = range(seed, seed + (5 if full else 1))
    leak = {
        (name, by): float(np.mean([_accuracy(values, some, by, one)[0] for one in seeds]))
        for name, values in (("single pixels", some.values), ("with context", some.context))
        for by in ("random", "block")
    }
    blocks, pixels = _few(ground, seed, 3 if full else 1)
    inside, border, share = _mixed(some, seed)
    results = [
        Result(
            f"random forest, {name}: pixels held out at random, blocks held out",
            f"{leak[name, 'random']:.3f}, {leak[name, 'block']:.3f}",
            "optimism of random cross-validation", "Ploton et al. 2020, Spatial validation reveals poor predictive "
            "performance of large-scale ecological mapping models",
        )
        for name in ("single pixels", "with context")
    ]  # fmt: skip
    results += [
        Result("accuracy within classes, at their borders", f"{inside:.3f}, {border:.3f}"),
        Result("share of pixels at a border", f"{share:.2f}"),
    ]
    clear = _clear(root)
    results.append(Result("romania: clear share of the observations, worst and best month",
                          f"{min(clear.values()):.2f}, {max(clear.values()):.2f}"))  # fmt: skip
    return Lecture(NUMBER, TITLE, TEXT, _pictures(leak, blocks, pixels, clear), tuple(results))


def _pictures(
    leak: dict[tuple[str, str], float], blocks: Any, pixels: Any, clear: dict[str, float]
) -> tuple[Picture, ...]:
    from pipeline.course import plots

    gap = {f"{name}, {by} held out": value for (name, by), value in leak.items()}
    few = {"more blocks, 50 pixels of each": blocks, "more pixels of the same 5 blocks": pixels}
    return (
        Picture("Overall accuracy on carolina by what is held out.", plots.bars(gap, "overall accuracy")),
        Picture(
            "Accuracy on held-out blocks by the number of labelled pixels (random forest).",
            plots.plot(few, "labelled pixels", "overall accuracy", log="x"),
        ),
        Picture("Clear share of the observations of romania by month.", plots.bars(clear, "clear share")),
    )


def _accuracy(values: np.ndarray, ground: Labelled, by: str, seed: int) -> tuple[float, np.ndarray]:
    """Cross-validate a random forest: overall accuracy, and which pixels it got right, bool (pixel,)."""
    fold = ground.folds(by, seed)
    right = np.zeros(len(fold), dtype=bool)
    for held in range(FOLDS):
        fitted = forest(seed).fit(values[fold != held], ground.labels[fold != held])
        right[fold == held] = fitted.predict(values[fold == held]) == ground.labels[fold == held]
    return float(right.mean()), right


def forest(seed: int) -> Any:
    """Make the random forest of the lectures (Breiman 2001)."""
    from sklearn.ensemble import RandomForestClassifier

    return RandomForestClassifier(60, min_samples_leaf=5, max_samples=0.5, random_state=seed, n_jobs=2)


def _few(ground: Labelled, seed: int, repeats: int) -> tuple[Any, Any]:
    """Learning curves on held-out blocks: more blocks with few pixels each, and more pixels of the same few blocks."""
    counts = (5, 10, 20, 40)
    wide, deep = np.zeros(len(counts)), np.zeros(len(counts))
    for repeat in range(repeats):
        rng = np.random.default_rng(seed + repeat)
        blocks = rng.permutation(np.unique(ground.block))
        held, may = np.isin(ground.block, blocks[-10:]), blocks[:-10]
        tested = rng.choice(np.flatnonzero(held), min(10_000, int(held.sum())), replace=False)
        for place, count in enumerate(counts):
            of_many = _of_blocks(ground, may[:count], 50, rng)
            of_few = _of_blocks(ground, may[:5], 50 * count // 5, rng)
            for scores, picked in ((wide, of_many), (deep, of_few)):
                fitted = forest(seed).fit(ground.context[picked], ground.labels[picked])
                scores[place] += fitted.score(ground.context[tested], ground.labels[tested]) / repeats
    labelled_pixels = [50 * count for count in counts]
    return (labelled_pixels, wide.tolist()), (labelled_pixels, deep.tolist())


def _of_blocks(ground: Labelled, blocks: np.ndarray, each: int, rng: np.random.Generator) -> np.ndarray:
    """Draw up to so many pixels of each of some blocks: their numbers."""
    drawn = []
    for block in blocks:
        inside = np.flatnonzero(ground.block == block)
        drawn.append(rng.choice(inside, min(each, len(inside)), replace=False))
    return np.concatenate(drawn)


def _mixed(ground: Labelled, seed: int) -> tuple[float, float, float]:
    """Accuracy on held-out blocks within classes and at their borders, and the share of pixels at a border."""
    _, right = _accuracy(ground.context, ground, "block", seed)
    target = ground.target
    rows, cols = ground.place.T
    at_border = np.zeros(len(rows), dtype=bool)
    for down, across in ((0, 1), (1, 0), (0, -1), (-1, 0)):
        y, x = (rows + down).clip(0, len(target) - 1), (cols + across).clip(0, target.shape[1] - 1)
        at_border |= (target[y, x] >= 0) & (target[y, x] != ground.labels)
    return float(right[~at_border].mean()), float(right[at_border].mean()), float(at_border.mean())


def _clear(root: Path) -> dict[str, float]:
    """Clear share of romania's observations by month, by the scene classification of Sentinel-2."""
    import xarray

    labelled(root, "romania")
    path = next((root / "data" / "raw").glob("nrt-*/sentinel2_cube_subset_romania_20m.nc"))
    with xarray.open_dataset(path, engine="h5netcdf") as cube:
        scl, months = cube["SCL"].to_numpy(), cube["time"].dt.month.to_numpy()
    clear = np.isin(scl, (4, 5, 6, 7)).mean(axis=(1, 2))
    names = ["Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec"]
    return {name: float(clear[months == month].mean()) for month, name in enumerate(names, 1)}
