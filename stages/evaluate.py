"""Score every trained model, and the majority class, on the test blocks only."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from pydantic import Field

from stages import progress
from stages.accuracy.calibration_error import BINS
from stages.accuracy.tally import Answers, Tally, merged, scores, tally, warning_of
from stages.errors import ModelError
from stages.formats.samples import DROPPED, UNLABELLED, Part, Role, Samples
from stages.formats.scores import write_scores
from stages.formats.series import copied
from stages.formats.tiles import Tiles
from stages.formats.weights import CHOICE, ITEM, chosen_folder, fold_folder, read_card, read_choice
from stages.geo.grid import Window
from stages.inference.blend import Block, Layout
from stages.inference.chip_pieces import predicted_chips
from stages.inference.layers import top_class
from stages.inference.stream import Piece, Streaming, blocks_of, finished, stream_of

_logger = logging.getLogger(__name__)

#: Says who computes what, and cannot change a byte of the scores.
RUN_SETTINGS = ("rows", "batch")
MAJORITY = "majority"
ESTIMATES = "expected agreement with {} at unlabelled ground inside this area"
RANDOM = "scores are too good: labels were divided at random"
#: Tiles of chips in one task.
TILES = 8
#: Measures that are told of every season.
BY_SEASON = ("overall_accuracy", "balanced_accuracy", "macro_f1")
#: Measures that make no sense of a table of series, whose samples have neither ground nor neighbours.
OF_GROUND = ("mapped_ha", "reference_ha", "ratio", "inner", "boundary")
#: What was counted of a piece of the map, and where it lies.
Tallied = tuple[Window, Tally]
POOLED = "scores are pooled out of fold; the map's model is refitted on all labels with the same settings"


class Config(Streaming):
    """How the test blocks are predicted, as the map is, and how sure the scores are."""

    reference: str = Field(
        "the reference labels", min_length=1, description="What the labels are, as reports call them"
    )
    replicates: int = Field(2000, ge=100, le=100_000, description="Bootstrap replicates behind every interval")
    seed: int = Field(0, ge=0, description="Seed of the bootstrap draws")
    bins: int = Field(BINS, ge=2, le=100, description="Bins of the expected calibration errors")


@dataclass(frozen=True)
class Question:
    """The labels to score against: the test labels of a fold, or with None those of the independent test set.

    They are those of the season at which ``samples`` are opened.
    """

    samples: Samples
    fold: int | None
    #: A table of series whose test series that are copies of training series are not asked for.
    without_copies: Tiles | None = None

    @property
    def has_labels(self) -> bool:
        """Whether any block of the season is asked for."""
        return self.fold is None or bool((self.samples.parts[self.fold] == Part.TEST).any())

    def __call__(self, window: Window) -> np.ndarray:
        """Which pixels of a window are asked for: bool (y, x)."""
        asked: np.ndarray = self.reference(window) != UNLABELLED
        return asked

    def labels(self, window: Window) -> np.ndarray:
        """All labels of the same source, whatever their role: uint8 (y, x)."""
        return self.samples.read("independent" if self.fold is None else "target", window)

    def reference(self, window: Window) -> np.ndarray:
        """Class index or `DROPPED` where a pixel is asked for, `UNLABELLED` elsewhere: uint8 (y, x)."""
        labels = self.labels(window)
        if self.without_copies is not None:
            labels = np.where(copied(self.without_copies, window), np.uint8(UNLABELLED), labels)
        if self.fold is None:
            return labels
        roles = self.samples.roles(self.fold, window)
        dropped = (
            (labels == DROPPED) & (roles != Role.INDEPENDENT) & (self.samples.part(self.fold, window) == Part.TEST)
        )
        found: np.ndarray = np.where((roles == Role.TEST) | dropped, labels, np.uint8(UNLABELLED))
        return found


@dataclass(frozen=True)
class Inputs:
    """What the stage reads, opened."""

    tiles: Tiles
    samples: Samples
    model: Path
    config: Config

    def candidates(self) -> tuple[str, tuple[str, ...]]:
        """Name the model of the map, and all that were trained on these splits: it alone where it is from elsewhere."""
        if not (self.model / CHOICE).is_file():
            name = read_card(self.model).name
            return name, (name,)
        choice = read_choice(self.model)
        return choice["chosen"], tuple(choice["candidates"]) if self.own else (choice["chosen"],)

    @property
    def own(self) -> bool:
        """True where the models were trained with these very splits, false where they come from elsewhere."""
        return (self.model / CHOICE).is_file() and read_choice(self.model)["split"] == self.samples.split

    def independent(self, names: tuple[str, ...]) -> tuple[str, ...]:
        """Name the models for the independent test set: those that learnt from all labels that there are to learn."""
        if not self.own or not self.samples.refitted:
            return names
        return tuple(name for name in names if (self.model / name / ITEM).is_file())

    def folder_of(self, name: str, fold: int | None) -> Path:
        """Find the model ``name`` that saw none of the labels asked for.

        Raises:
            ModelError: it is incomplete, or maps other classes than the labels hold.
        """
        folder = chosen_folder(self.model)
        if self.own:
            folder = fold_folder(self.model, name, fold or 0, self.samples.refitted and fold is not None)
        card = read_card(folder)
        if card.class_names != self.samples.classes:
            raise ModelError(
                f"model {card.name} maps {', '.join(card.class_names)}, but the labels hold "
                f"{', '.join(self.samples.classes)}; name the classes of the config as the model does, in its order."
            )
        return folder


def run(tiles: Path, samples: Path, model: Path, out: Path, config: Config) -> None:
    """Write the scores of every candidate of the model artifact, the majority class among them.

    Raises:
        ModelError: a model folder is incomplete, or does not fit the tiles or the classes of the labels.
    """
    inputs = Inputs(Tiles(tiles), Samples(samples), model, config)
    labels = inputs.samples
    best, names = inputs.candidates()
    test = _score_all(inputs, (*names, MAJORITY), range(labels.folds))
    refitted = inputs.independent(names)
    independent = _score_all(inputs, (*refitted, MAJORITY), [None])
    if copied(inputs.tiles, inputs.tiles.grid.whole).any():
        independent["without_copies"] = _score_all(inputs, (*refitted, MAJORITY), [None], without_copies=True)
    if test["warning"]:
        _logger.warning("evaluate: %s", test["warning"])
    estimates = ESTIMATES.format(config.reference)
    table = _rows(inputs, names, test, independent) if inputs.tiles.is_table else []
    write_scores(out, {
        "best": best,
        **test,
        "split_by": labels.split_by,
        "reference": config.reference,
        "estimates": estimates,
        "pooled": POOLED if labels.crossed and inputs.own else None,
        "folds": labels.folds if labels.crossed else None,
        "independent": independent if independent["pixels"] else None,
        **({"table": table} if table else {}),
    })  # fmt: skip
    if table:
        _logger.info("evaluate: overall accuracy of the samples\n%s", _accuracies(table, best))
    else:
        shown = _table(test["models"], best)
        _logger.info("evaluate: %s, %s test pixels\n%s", estimates, f"{test['pixels']:,}", shown)


def boundary_of(labels: np.ndarray) -> np.ndarray:
    """Pixels with more than one class in their 3 x 3 neighbourhood: bool (y, x); no label is no class."""
    padded = np.pad(labels, 1, constant_values=UNLABELLED)
    neighbours = np.lib.stride_tricks.sliding_window_view(padded, (3, 3))
    highest = np.where(neighbours == UNLABELLED, 0, neighbours).max(axis=(2, 3))
    found: np.ndarray = neighbours.min(axis=(2, 3)) < highest
    return found


def score_model(store: Tiles, folder: Path, question: Question, block: Block, config: Config) -> list[Tallied]:
    """Tally what a model says of the asked pixels in one block, predicted as `classify` predicts them."""
    return _tallies(finished(stream_of(store, folder, config, question), block), store, question, config.bins)


def score_chips(
    store: Tiles, folder: Path, question: Question, tiles: Sequence[Window], config: Config
) -> list[Tallied]:
    """Tally what a model says of the asked chips in some tiles of a collection."""
    pieces = predicted_chips(stream_of(store, folder, config, question), tiles)
    return _tallies(pieces, store, question, config.bins)


def score_majority(store: Tiles, shares: np.ndarray, question: Question, block: Block, config: Config) -> list[Tallied]:
    """Tally what one knows without looking: everywhere the class ``shares`` (class,) of the training labels."""
    layout = _layout(store, config)
    return _tallies(_constant(store, layout, shares, question, block), store, question, config.bins)


def _score_all(
    inputs: Inputs, names: tuple[str, ...], folds: Iterable[int | None], without_copies: bool = False
) -> dict[str, Any]:
    """Score every model on the labels of some folds, pooled: pixels, blocks, warning and models."""
    import dask

    samples = inputs.samples
    store = inputs.tiles if without_copies else None
    asked = [Question(season, fold, store) for fold in folds for season in samples.each_season()]
    planned = {name: [(question.samples.season, task) for question in asked if question.has_labels
                      for task in _plan(inputs, name, question)] for name in names}  # fmt: skip
    tasks = [task for listed in planned.values() for _, task in listed]
    work = [dask.delayed(_done)(task, number, len(tasks)) for number, task in enumerate(tasks, start=1)]
    counted = iter(dask.compute(*work))
    found = {name: [(season, next(counted)) for season, _ in listed] for name, listed in planned.items()}
    pooled = {name: _pooled(inputs, listed) for name, listed in found.items()}
    # Every model answers the same questions: what was asked can be read from any of them.
    one, config = pooled[names[0]], inputs.config
    pixels = int(one.matrices.sum())
    few = warning_of(len(one.blocks)) if pixels else None
    warnings = [text for text in (few, RANDOM if samples.split_by == "random" else None) if text]
    told = {name: scores(counts, samples.classes, config.replicates, config.seed) for name, counts in pooled.items()}
    return {
        "pixels": pixels,
        "blocks": len(one.blocks),
        "dropped_pixels": int(one.dropped.sum()),
        "warning": "; ".join(warnings) or None,
        "models": _without_ground(told) if inputs.tiles.is_table else told,
        **({"by_season": _by_season(inputs, found)} if samples.seasons > 1 else {}),
    }


def _without_ground(told: Any) -> Any:
    """Leave out `OF_GROUND`, at whatever depth."""
    if not isinstance(told, dict):
        return told
    return {key: _without_ground(value) for key, value in told.items() if key not in OF_GROUND}


def _pooled(inputs: Inputs, found: Iterable[tuple[int, list[Tallied]]], season: int | None = None) -> Tally:
    """Add up the tallies of one season, or of all, by their places."""
    nothing = _no_pixel(len(inputs.samples.classes), inputs.config.bins)
    counted = [one for of, tallies in found for one in tallies if season in (None, of)]
    return merged([nothing, *(one for _, one in sorted(counted, key=lambda one: one[0]))])


def _by_season(inputs: Inputs, found: dict[str, list[tuple[int, list[Tallied]]]]) -> dict[str, dict[str, Any]]:
    """Score every model season by season, in those with labels: pixels and `BY_SEASON` by season and model."""
    config, names = inputs.config, inputs.samples.classes
    seasons: dict[str, dict[str, Any]] = {}
    for season in inputs.samples.each_season():
        for name, listed in found.items():
            counts = _pooled(inputs, listed, season.season)
            if counts.matrices.any():
                all_of = scores(counts, names, config.replicates, config.seed)
                told = {"pixels": int(counts.matrices.sum())} | {measure: all_of[measure] for measure in BY_SEASON}
                seasons.setdefault(season.season_name, {})[name] = told
    return seasons


def _plan(inputs: Inputs, name: str, question: Question) -> list[Callable[[], list[Tallied]]]:
    """List what scores one model on one fold and season, a task a block."""
    # The models and folds keep all workers busy, so a block is as high as it may be.
    store, config = inputs.tiles.of(question.samples.season), inputs.config
    if name == MAJORITY:
        # The independent test set is for the map's model, which may have learnt from every block.
        fold = 0 if question.fold is None and not inputs.samples.refitted else question.fold
        shares = _shares(question.samples, fold)
        blocks = blocks_of(_layout(store, config), config, 1)
        return [partial(score_majority, store, shares, question, block, config) for block in blocks]
    folder = inputs.folder_of(name, question.fold)
    if store.cells is not None:
        windows = [window for _, _, window in store.grid.tiles()]
        some = [windows[first : first + TILES] for first in range(0, len(windows), TILES)]
        return [partial(score_chips, store, folder, question, tiles, config) for tiles in some]
    layout = stream_of(store, folder, config).layout
    return [partial(score_model, store, folder, question, block, config) for block in blocks_of(layout, config, 1)]


def _done(task: Callable[[], list[Tallied]], number: int, total: int) -> list[Tallied]:
    """Do a task and say so."""
    found = task()
    progress.report("evaluate", number, total)
    return found


def _layout(store: Tiles, config: Config) -> Layout:
    """Lay out windows for what looks at nothing."""
    return Layout(*store.grid.shape, config.window, 0, 1, 0)


def _shares(samples: Samples, fold: int | None) -> np.ndarray:
    """Class shares of the training labels of a fold: float64 (class,)."""
    counts = np.asarray(samples.statistics(fold)["class_pixels"], np.float64)
    shares: np.ndarray = counts / max(counts.sum(), 1.0)
    return shares


def _constant(store: Tiles, layout: Layout, shares: np.ndarray, question: Question, block: Block) -> Iterator[Piece]:
    likely = shares.astype(np.float32)[:, None, None]
    for row in block.rows:
        for col in block.cols:
            bottom, right = layout.final(row, col)
            window = Window(layout.rows[row], layout.cols[col], bottom - layout.rows[row], right - layout.cols[col])
            if question(window).any():
                yield window, likely * store.read_valid(window)


def _tallies(pieces: Iterator[Piece], store: Tiles, question: Question, bins: int) -> list[Tallied]:
    """Tally finished pixels against the labels asked for, piece by piece.

    The pieces are the same however the windows are divided into blocks, and they are added up in one go and in the
    order of their places, so that floating-point sums do not depend on the division either.
    """
    found = []
    for window, likely in pieces:
        reference = question.reference(window)
        asked = (reference != UNLABELLED) & (likely.max(axis=0) > 0)
        if not asked.any():
            continue
        outer = window.padded(1, store.grid)
        hectares = store.grid.pixel_hectares(window.row, window.row + window.height)
        answers = Answers(
            reference=reference[asked],
            predicted=top_class(likely[:, asked])[0],
            probabilities=likely[:, asked].T.astype(np.float64),
            block=question.samples.read("block", window)[asked],
            boundary=boundary_of(question.labels(outer))[window.within(outer)][asked],
            hectares=np.broadcast_to(hectares[:, None], asked.shape)[asked],
        )
        found.append((window, tally(answers, bins)))
    return found


def _no_pixel(classes: int, bins: int) -> Tally:
    nothing = np.empty(0, np.int64)
    return tally(Answers(nothing, nothing, np.empty((0, classes)), nothing, nothing, np.empty(0)), bins)


def _rows(
    inputs: Inputs, names: tuple[str, ...], test: dict[str, Any], independent: dict[str, Any]
) -> list[dict[str, Any]]:
    """Overall accuracy of every model of a table of series: on validation, on the test samples, and without copies.

    The test samples are the independent ones where there are any; None where a model was not asked.
    """
    validation = read_choice(inputs.model)["candidates"] if inputs.own else {}
    scored = independent if independent["pixels"] else test
    parts = {"validation": validation, "test": scored["models"],
             "without_copies": scored.get("without_copies", {}).get("models", {})}  # fmt: skip
    return [{"model": name, **{part: _accuracy(found.get(name)) for part, found in parts.items()}} for name in names]


def _accuracy(found: dict[str, Any] | None) -> float | None:
    value = (found or {}).get("overall_accuracy")
    return value["value"] if isinstance(value, dict) else value


def _accuracies(rows: list[dict[str, Any]], best: str) -> str:
    """Lay the accuracies of `_rows` out as one aligned table."""
    titles = {"validation": "validation", "test": "test", "without_copies": "without copies"}
    wide = max(len(row["model"]) for row in rows) + 2
    lines = [" " * wide + "".join(f"{title:>16}" for title in titles.values())]
    for row in rows:
        cells = ["-" if row[key] is None else f"{row[key]:.4f}" for key in titles]
        name = row["model"] + (" *" if row["model"] == best else "")
        lines.append(f"{name:{wide}}" + "".join(f"{cell:>16}" for cell in cells))
    return "\n".join([*lines, "* best on validation, or named in the settings"])


def _table(models: dict[str, Any], best: str) -> str:
    """Lay the scores of all models out as one aligned table."""
    wide = max(len(name) for name in models) + 2
    lines = [f"{'':{wide}}{'overall':>21}{'balanced':>21}{'macro F1':>10}{'kappa':>8}{'ECE':>8}"]
    for name, found in models.items():
        spreads = [_spread(found[key]) for key in ("overall_accuracy", "balanced_accuracy")]
        numbers = found["macro_f1"]["value"], found["kappa"]["value"], found["ece"]
        cells = "".join(f"{text:>21}" for text in spreads)
        tail = "".join(f"{value:>{w}.3f}" for value, w in zip(numbers, (10, 8, 8), strict=True))
        lines.append(f"{name + (' *' if name == best else ''):{wide}}{cells}{tail}")
    return "\n".join([*lines, "* makes the map; intervals are 95 % from resampling blocks"])


def _spread(score: dict[str, float]) -> str:
    return f"{score['value']:.3f} [{score['low']:.3f} {score['high']:.3f}]"
