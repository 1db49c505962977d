"""Score sets of features in microseconds: a Gaussian classifier from moments that are counted once, block by block."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from stages.errors import LabelError
from stages.formats.samples import UNLABELLED, Role
from stages.geo.grid import Window
from stages.training.ground import Split
from stages.training.splits import assign_blocks
from stages.training.statistics import scatter

#: Standardised values are cut here, as outliers would rule the covariances.
CLIP = 4.0
#: Share of a class's own covariance beside the pooled one at most; of the diagonal in what comes of it; and what is
#: added to that, so that a constant feature does no harm.
OWN, ROUND, FLOOR = 0.5, 0.02, 1e-6
#: Pixels of every class that are drawn at least, if there are so many.
LEAST = 200

#: Says how good a map is, from reference and mapped class indices (pixels,) each; larger is better.
Measure = Callable[[np.ndarray, np.ndarray], float]


@dataclass(frozen=True)
class Pixels:
    """Labelled pixels: ``values`` float64 (feature, pixel), standardised, 0 where missing; labels and blocks (pixel,).

    ``labels`` int64 are class indices, ``blocks`` int64 the ground blocks.
    """

    values: np.ndarray
    labels: np.ndarray
    blocks: np.ndarray

    def __len__(self) -> int:
        return len(self.labels)

    def of(self, picked: np.ndarray) -> Pixels:
        """Keep some pixels."""
        return Pixels(self.values[:, picked], self.labels[picked], self.blocks[picked])


def draw(split: Split, role: Role, limit: int, seed: int) -> Pixels:
    """Draw about ``limit`` of the training or validation pixels of a split, by their places and so always the same.

    Classes keep their shares, but of every class at least `LEAST` are drawn if there are so many. Training pixels are
    read as a training reads them: nothing of a held-out block is looked at, neither a label nor a value.

    Raises:
        LeakError: a held-out pixel or label would be among the training's.
    """
    seasons = split.each_season()
    windows = [window for _, _, window in split.tiles.grid.tiles()]
    total = sum(
        np.bincount(labels[labels != UNLABELLED], minlength=split.classes)
        for one in seasons for labels in (_labels(one, role, window) for window in windows)
    )  # fmt: skip
    quota = np.maximum(limit * total / max(1, np.sum(total)), LEAST)
    shares = np.append(np.minimum(1.0, quota / np.maximum(total, 1)), 0.0)
    mean, deviation = (np.array(of)[:, None] for of in split.moments())
    steps, found = np.array(split.steps), []
    for one in seasons:
        for window in windows:
            for values, valid, labels, block in _read(one, role, window, shares, seed):
                known = np.clip((values - mean) / np.maximum(deviation, 1e-6), -CLIP, CLIP)
                found.append((np.where(valid[steps], known, 0.0), labels, block))
    if not found:
        return Pixels(np.zeros((len(split.channels), 0)), np.zeros(0, np.int64), np.zeros(0, np.int64))
    values, labels, blocks = (np.concatenate(parts, axis=-1) for parts in zip(*found, strict=True))
    return Pixels(np.ascontiguousarray(values), labels.astype(np.int64), blocks.astype(np.int64))


def _labels(split: Split, role: Role, window: Window) -> np.ndarray:
    """Labels of one role in a window: uint8 (y, x), `UNLABELLED` elsewhere."""
    target, roles = split.samples.read("target", window), split.samples.roles(split.fold, window)
    kept = (roles == role) & (target < split.classes)
    labels: np.ndarray = np.where(kept, target, np.uint8(UNLABELLED))
    return labels


def _read(
    split: Split, role: Role, window: Window, shares: np.ndarray, seed: int
) -> Iterator[tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]]:
    """Read the drawn pixels of a window: values (channel, pixel), valid (step, pixel), labels and blocks (pixel,)."""
    labels = _labels(split, role, window)
    places = np.indices(labels.shape)
    number = scatter(places[0] + window.row, places[1] + window.col, seed + 977 * split.tiles.season)
    drawn = number < shares[np.minimum(labels, split.classes)]
    if not drawn.any():
        return
    if role == Role.TRAIN:
        image, valid, seen = split.read_training(window)
        drawn &= seen != UNLABELLED
    else:
        image, valid = split.read(window)
        drawn &= valid.any(axis=0)
    yield image[:, drawn].astype(np.float64), valid[:, drawn], labels[drawn], split.samples.read("block", window)[drawn]


def fold_blocks(pixels: Pixels, classes: int, folds: int, seed: int) -> np.ndarray:
    """Deal whole blocks to inner folds with like shares of the classes: fold of every pixel, int64 (pixel,).

    Raises:
        LabelError: all pixels lie in one block.
    """
    names, place = np.unique(pixels.blocks, return_inverse=True)
    folds = min(folds, len(names))
    if folds < 2:
        raise LabelError(
            f"The training labels lie in {len(names)} ground block, but choosing features needs at least 2 to hold one "
            "out; lower label.block, or set select.method to none."
        )
    counts = np.zeros((len(names), classes))
    np.add.at(counts, (place, pixels.labels), 1)
    found: np.ndarray = assign_blocks(counts, (1 / folds,) * folds, seed)[place]
    return found


@dataclass(frozen=True)
class Gaussians:
    """Pixels by their moments: number (class,), means (class, feature) and covariances within the classes.

    ``own`` (class, feature, feature) are those of every class, ``pooled`` (feature, feature) that of all of them.
    """

    count: np.ndarray
    mean: np.ndarray
    own: np.ndarray
    pooled: np.ndarray

    @classmethod
    def of(cls, pixels: Pixels, classes: int) -> Gaussians:
        """Count the moments of every class."""
        count = np.bincount(pixels.labels, minlength=classes).astype(np.float64)
        size = len(pixels.values)
        mean, squares = np.zeros((classes, size)), np.zeros((classes, size, size))
        for k in np.flatnonzero(count):
            values = pixels.values[:, pixels.labels == k]
            mean[k] = values.mean(axis=1)
            centred = values - mean[k][:, None]
            squares[k] = centred @ centred.T
        pooled = squares.sum(axis=0) / max(1.0, count.sum())
        return cls(count, mean, squares / np.maximum(count, 1.0)[:, None, None], pooled)

    def classify(self, values: np.ndarray, chosen: np.ndarray) -> np.ndarray:
        """Most likely class (pixel,) of ``values`` (feature, pixel), told from the ``chosen`` rows alone."""
        if not len(chosen):
            return np.full(values.shape[1], int(self.count.argmax()))
        shown, known = values[chosen], np.flatnonzero(self.count)
        roots = np.linalg.cholesky(self._covariances(known, chosen))
        whitened = np.linalg.inv(roots)
        likely = np.empty((len(known), values.shape[1]))
        for place, k in enumerate(known):
            away = whitened[place] @ (shown - self.mean[k, chosen][:, None])
            prior = np.log(self.count[k]) - np.log(np.diagonal(roots[place])).sum()
            likely[place] = prior - 0.5 * np.einsum("fp,fp->p", away, away)
        found: np.ndarray = known[likely.argmax(axis=0)]
        return found

    def _covariances(self, known: np.ndarray, chosen: np.ndarray) -> np.ndarray:
        """Covariances of classes, regularised (Friedman 1989): the more numbers they hold, the less of its own."""
        numbers = len(chosen) * (len(chosen) + 1) / 2
        share = (OWN * self.count[known] / (self.count[known] + numbers))[:, None, None]
        mixed = (1 - share) * self.pooled[np.ix_(chosen, chosen)] + share * self.own[np.ix_(known, chosen, chosen)]
        found: np.ndarray = mixed * (1 - ROUND)
        diagonal = np.einsum("kii->ki", found)
        diagonal += diagonal * (ROUND / (1 - ROUND)) + FLOOR
        return found


class Scorer:
    """How good a set of units is, cross-validated over the inner folds of some training pixels, and computed once.

    A unit is what is chosen as a whole, ``groups`` (unit, features): one feature, a band or a step. ``costs`` (unit,)
    are what reading it takes, 1 on average.
    """

    def __init__(
        self, pixels: Pixels, folds: np.ndarray, classes: int, measure: Measure, *, groups: Sequence[np.ndarray],
        costs: np.ndarray,
    ) -> None:  # fmt: skip
        self.pixels, self.classes, self.measure, self.groups, self.costs = pixels, classes, measure, groups, costs
        parts = [(pixels.of(folds != fold), pixels.of(folds == fold)) for fold in np.unique(folds)]
        self._folds = [(Gaussians.of(learnt, classes), held) for learnt, held in parts]
        self._reference = np.concatenate([held.labels for _, held in parts])
        self._scores: dict[frozenset[int], float] = {}
        self.nothing = self.score(())

    @property
    def units(self) -> int:
        """Number of units there are to choose from."""
        return len(self.groups)

    @property
    def evaluations(self) -> int:
        """Number of different sets that were scored, the empty one left out."""
        return len(self._scores) - 1

    @property
    def scored(self) -> Iterable[frozenset[int]]:
        """All sets that were scored."""
        return self._scores.keys()

    def features(self, units: Iterable[int]) -> np.ndarray:
        """Features of some units, in order: int64 (feature,)."""
        picked = [self.groups[unit] for unit in units]
        return np.sort(np.concatenate(picked)) if picked else np.zeros(0, np.int64)

    def score(self, units: Iterable[int]) -> float:
        """Measure of what the Gaussian classifier says of every inner fold, learnt on the others."""
        key = frozenset(units)
        if key not in self._scores:
            chosen = self.features(key)
            mapped = [learnt.classify(held.values, chosen) for learnt, held in self._folds]
            self._scores[key] = self.measure(self._reference, np.concatenate(mapped))
        return self._scores[key]

    def merit(self, units: Iterable[int]) -> float:
        """Score per cost: what is gained over knowing the largest class alone, by the mean cost of the units."""
        chosen = list(units)
        if not chosen:
            return 0.0
        return (self.score(chosen) - self.nothing) / float(self.costs[chosen].mean())

    def apart(self) -> Scorer:
        """Give the same scorer with nothing counted yet."""
        other = copy.copy(self)
        other._scores = {frozenset(): self.nothing}
        return other

    def held_out(self, units: Iterable[int], test: Pixels) -> float:
        """Measure on pixels that no choice has seen, of the classifier that learnt from all of its own."""
        everything = Gaussians.of(self.pixels, self.classes)
        return self.measure(test.labels, everything.classify(test.values, self.features(units)))
