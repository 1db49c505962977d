"""Lecture 4: what it is good for: a land-cover map of a whole scene, and how far it can be trusted."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np

from pipeline.course.challenges import forest
from pipeline.course.ground import Labelled, bring_up, context_of, labelled
from pipeline.course.lecture import Lecture, Picture, Result

NUMBER = "4"
TITLE = "Applications of remote sensing"
TEXT = (
    "A land-cover map is a classifier evaluated at every pixel of a scene, and a promise about ground that nobody "
    "labelled. The map below was made by a random forest from five bands of one Landsat 7 scene and means and "
    "deviations in windows, trained on four fifths of the ground blocks; the map of the project's own networks is "
    "beside it where `make run` has made it.",
    "The reference is itself a map, made from imagery four years older: what is called accuracy here is agreement with "
    "it, and real change counts as error. A class that covers little ground can be missed altogether at a high overall "
    "accuracy, so the mean over classes (balanced accuracy) stands beside it.",
    "Areas counted from a map are biased by its errors: a class that is mapped too often is counted too large. With "
    "the confusion matrix of a probability sample they can be corrected (Olofsson et al. 2014).",
)


def run(folder: Path, full: bool, seed: int = 0) -> Lecture:
    """Map carolina; the full version runs the area's whole pipeline first."""
    root = folder.parents[3]
    ground = labelled(root, "carolina")
    if full:
        bring_up(root, "carolina")
    some = ground if full else ground.some(30_000, seed)
    fold = some.folds("block", seed)
    fitted = forest(seed).fit(some.context[fold > 0], some.labels[fold > 0])
    found, held = fitted.predict(some.context[fold == 0]), some.labels[fold == 0]
    recalls = {
        name: float((found[held == number] == number).mean())
        for number, name in enumerate(ground.classes)
        if (held == number).any()
    }
    results = [
        Result("random forest on held-out blocks: overall accuracy", f"{float((found == held).mean()):.3f}",
               "0.744 (global, 11 classes, ESA WorldCover 2020)",
               "Tsendbazar et al. 2021, WorldCover Product Validation Report"),
        Result("the same: balanced accuracy", f"{np.mean(list(recalls.values())):.3f}"),
        *_of_pipeline(root),
    ]  # fmt: skip
    return Lecture(NUMBER, TITLE, TEXT, _pictures(root, ground, fitted, recalls), tuple(results))


def _pictures(root: Path, ground: Labelled, fitted: object, recalls: dict[str, float]) -> tuple[Picture, ...]:
    from pipeline.course import plots

    shown = [Picture("The map of the random forest, and the reference.", _map(root, ground, fitted))]
    made = root / "data" / "carolina" / "map" / "map.png"
    if made.is_file():
        shown.append(Picture("The map that `make run` made of the same scene.", made.read_bytes()))
    shown.append(Picture("Share of each class that was found (recall).", plots.bars(recalls, "recall")))
    return tuple(shown)


def _map(root: Path, ground: Labelled, fitted: object) -> bytes:
    """Draw the map and the reference side by side in the colours of the area: a PNG."""
    from io import BytesIO

    from matplotlib.colors import to_rgb
    from matplotlib.image import imsave

    from pipeline.config import load_area

    config = load_area(root, "carolina").configs["train"]
    colours = np.array([(1.0, 1.0, 1.0), *(to_rgb(one.color) for one in config.classes)])  # type: ignore[attr-defined]
    features = context_of(ground.image, ground.valid)
    mapped = np.full(ground.valid.shape, -1)
    mapped[ground.valid] = fitted.predict(features[:, ground.valid].T)  # type: ignore[attr-defined]
    gap = np.full((len(mapped), 12), -1)
    written = BytesIO()
    imsave(written, colours[np.concatenate([mapped, gap, ground.target], axis=1) + 1], format="png")
    return written.getvalue()


def _of_pipeline(root: Path) -> list[Result]:
    """Give the test scores of the area's own run, where there is one."""
    path = root / "data" / "carolina" / "scores" / "scores.json"
    if not path.is_file():
        return []
    scores = json.loads(path.read_text())
    best = scores["models"][scores["best"]]
    return [
        Result(
            f"`make run`, {scores['best']}, test blocks: {name.replace('_', ' ')}",
            f"{best[name]['value']:.3f} ({best[name]['low']:.3f} to {best[name]['high']:.3f})",
        )
        for name in ("overall_accuracy", "balanced_accuracy")
    ]
