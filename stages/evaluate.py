"""Score every trained model, and the majority class, on the test blocks only."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Iterator
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
from stages.formats.tiles import Tiles
from stages.formats.weights import CHOICE, chosen_folder, fold_folder, read_card, read_choice
from stages.geo.grid import Window
from stages.inference.blend import SCALE, UNITS, Band, Layout, probabilities_of, top_class
from stages.inference.stream import Finished, Streaming, bands_of, finished_rows, stream_of

_logger = logging.getLogger(__name__)

#: Says who computes what, and cannot change a byte of the scores.
RUN_SETTINGS = ("rows",)
MAJORITY = "majority"
ESTIMATES = "expected agreement with {} at unlabelled ground inside this area"
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
    """The labels to score against: the test labels of a fold, or with None those of the independent test set."""

    samples: Samples
    fold: int | None

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

    def folder_of(self, name: str, fold: int | None) -> Path:
        """Find the model ``name`` that saw none of the labels asked for.

        Raises:
            ModelError: it is incomplete, or maps other classes than the labels hold.
        """
        folder = chosen_folder(self.model)
        if self.own:
            folder = fold_folder(self.model, name, fold or 0, self.samples.crossed and fold is not None)
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
    independent = _score_all(inputs, (*names, MAJORITY), [None])
    if test["warning"]:
        _logger.warning("evaluate: %s", test["warning"])
    estimates = ESTIMATES.format(config.reference)
    write_scores(out, {
        "best": best,
        **test,
        "reference": config.reference,
        "estimates": estimates,
        "pooled": POOLED if labels.crossed and inputs.own else None,
        "folds": labels.folds if labels.crossed else None,
        "independent": independent if independent["pixels"] else None,
    })  # fmt: skip
    _logger.info("evaluate: %s, %s test pixels\n%s", estimates, f"{test['pixels']:,}", _table(test["models"], best))


def boundary_of(labels: np.ndarray) -> np.ndarray:
    """Pixels with more than one class in their 3 x 3 neighbourhood: bool (y, x); no label is no class."""
    padded = np.pad(labels, 1, constant_values=UNLABELLED)
    neighbours = np.lib.stride_tricks.sliding_window_view(padded, (3, 3))
    highest = np.where(neighbours == UNLABELLED, 0, neighbours).max(axis=(2, 3))
    found: np.ndarray = neighbours.min(axis=(2, 3)) < highest
    return found


def score_model(store: Tiles, folder: Path, question: Question, band: Band, config: Config) -> list[Tally]:
    """Tally what a model says of the asked pixels in one band, predicted as `classify` predicts them."""
    return _tallies(finished_rows(stream_of(store, folder, config, question), band), store, question, config.bins)


def score_majority(store: Tiles, layout: Layout, question: Question, band: Band, config: Config) -> list[Tally]:
    """Tally what one knows without looking: everywhere the class shares of the training labels."""
    return _tallies(_constant_rows(store, layout, question, band), store, question, config.bins)


def _score_all(inputs: Inputs, names: tuple[str, ...], folds: Iterable[int | None]) -> dict[str, Any]:
    """Score every model on the labels of some folds, pooled: pixels, blocks, warning and models."""
    import dask

    questions = [Question(inputs.samples, fold) for fold in folds]
    planned = {name: [task for question in questions for task in _plan(inputs, name, question)] for name in names}
    tasks = [task for listed in planned.values() for task in listed]
    work = [dask.delayed(_done)(task, number, len(tasks)) for number, task in enumerate(tasks, start=1)]
    bands = iter(dask.compute(*work))
    nothing = _no_pixel(len(inputs.samples.classes), inputs.config.bins)
    pooled = {name: merged([nothing, *(one for _ in tasks for one in next(bands))]) for name, tasks in planned.items()}
    # Every model answers the same questions: what was asked can be read from any of them.
    one, config = pooled[names[0]], inputs.config
    return {
        "pixels": int(one.matrices.sum()),
        "blocks": len(one.blocks),
        "dropped_pixels": int(one.dropped.sum()),
        "warning": warning_of(len(one.blocks)),
        "models": {
            name: scores(found, inputs.samples.classes, config.replicates, config.seed)
            for name, found in pooled.items()
        },
    }


def _plan(inputs: Inputs, name: str, question: Question) -> list[Callable[[], list[Tally]]]:
    """List what scores one model on one fold, a task a band."""
    # The models and folds keep all workers busy, so a band is as high as it may be.
    store, config = inputs.tiles, inputs.config
    if name == MAJORITY:
        layout = Layout(*store.grid.shape, config.window, 0, 1, 0)
        return [partial(score_majority, store, layout, question, band, config) for band in bands_of(layout, config, 1)]
    folder = inputs.folder_of(name, question.fold)
    layout = stream_of(store, folder, config).layout
    return [partial(score_model, store, folder, question, band, config) for band in bands_of(layout, config, 1)]


def _done(task: Callable[[], list[Tally]], number: int, total: int) -> list[Tally]:
    """Do a task and say so."""
    found = task()
    progress.report("evaluate", number, total)
    return found


def _constant_rows(store: Tiles, layout: Layout, question: Question, band: Band) -> Iterator[Finished]:
    samples = question.samples
    # The independent test set is for the map's model: with folds the one that learnt from every block.
    fold = 0 if question.fold is None and not samples.crossed else question.fold
    counts = np.asarray(samples.statistics(fold)["class_pixels"], np.float64)
    shares = counts / max(counts.sum(), 1.0)
    sums = np.rint(shares * SCALE).astype(np.uint32) * np.uint32(UNITS * UNITS)
    for row in range(band.first, band.last):
        top = layout.rows[row]
        window = Window(top, 0, layout.final(row) - top, layout.width)
        if question(window).any():
            _, seen = store.read_channels(window)
            yield top, np.broadcast_to(sums[:, None, None], (len(sums), *seen.shape)), seen


def _tallies(rows: Iterator[Finished], store: Tiles, question: Question, bins: int) -> list[Tally]:
    """Tally finished rows against the labels asked for.

    The pieces are the same however the rows of windows are divided into bands, and they are added up in one go and
    in order, so that floating-point sums do not depend on the division either.
    """
    found = []
    for top, sums, seen in rows:
        window = Window(top, 0, *seen.shape)
        reference = question.reference(window)
        asked = seen & (reference != UNLABELLED)
        if not asked.any():
            continue
        outer = window.padded(1, store.grid)
        hectares = np.broadcast_to(store.grid.pixel_hectares(top, top + len(seen))[:, None], seen.shape)
        answers = Answers(
            reference=reference[asked],
            predicted=top_class(sums[:, asked])[0],
            probabilities=probabilities_of(sums[:, asked]).T,
            block=question.samples.read("block", window)[asked],
            boundary=boundary_of(question.labels(outer))[window.within(outer)][asked],
            hectares=hectares[asked],
        )
        found.append(tally(answers, bins))
    return found


def _no_pixel(classes: int, bins: int) -> Tally:
    nothing = np.empty(0, np.int64)
    return tally(Answers(nothing, nothing, np.empty((0, classes)), nothing, nothing, np.empty(0)), bins)


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
