"""Draw samples of rare classes from the training ground: copies, points between neighbours, or a generator's."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal

import numpy as np
import torch

from stages.errors import LabelError, LeakError
from stages.formats.samples import Role
from stages.formats.synthetic import Prior, Synthetic
from stages.models.gan import Generator
from stages.training.generators.adversary import Adversary, draw, train_gan
from stages.training.ground import Ground, Split, cell_window
from stages.training.interpolation import between_neighbours
from stages.training.rarity import draw_pixels

Kind = Literal["pixel", "series", "chip"]
#: Share of a class's drawn values outside its real range above which the generator has not learnt it.
STRAYED = 0.1
_logger = logging.getLogger(__name__)
#: From the simplest to the most laborious.
METHODS = ("oversample", "interpolate", "gan")


@dataclass(frozen=True)
class Drawing:
    """How samples are drawn.

    ``kind`` says what a generator sees: a vector, a series (steps, bands) or a chip (channels, side, side). ``most``
    bounds the real samples of every class that are looked at.
    """

    kind: Kind = "pixel"
    side: int = 1
    most: int = 5_000
    neighbours: int = 5
    adversary: Adversary = field(default_factory=Adversary)
    share: float = 0.25
    prior: Prior = "labels"


@dataclass(frozen=True)
class Real:
    """Real samples, cut from the training ground, so that nothing held out is in them.

    ``image`` float32 (n, channel, side, side), 0 where invalid, ``valid`` bool (n, step, side, side), ``labels``
    int64 (n,) and ``places`` int64 (n, 3): season, row and column.
    """

    image: np.ndarray
    valid: np.ndarray
    labels: np.ndarray
    places: np.ndarray

    def of(self, label: int) -> Real:
        """Take those of one class."""
        own = self.labels == label
        return Real(self.image[own], self.valid[own], self.labels[own], self.places[own])

    @property
    def season(self) -> np.ndarray:
        """Season of every sample (n,)."""
        season: np.ndarray = self.places[:, 0]
        return season


def real_samples(ground: Ground, drawing: Drawing, rng: np.random.Generator) -> Real:
    """Cut at most ``drawing.most`` squares of every class out of the training ground, around pixels drawn at random."""
    side = drawing.side
    places = [draw_pixels(ground, label, drawing.most, rng) for label in range(ground.split.classes)]
    labels = np.repeat(np.arange(len(places)), [len(some) for some in places])
    where = np.concatenate(places)
    image = np.empty((len(where), len(ground.split.channels), side, side), np.float32)
    valid = np.empty((len(where), ground.days.shape[1], side, side), bool)
    corners = [(season, row - side // 2, col - side // 2) for season, row, col in where.tolist()]
    ground.cut_into(corners, (image, valid, np.empty((len(where), side, side), np.uint8)))
    return Real(image, valid, labels, where)


def draw_synthetic(  # noqa: PLR0917
    method: str, ground: Ground, wanted: Mapping[int, int], drawing: Drawing, seed: int, folder: Path | None = None
) -> Synthetic:
    """Draw samples of the classes that are ``wanted``, so many of each, by one of the `METHODS`.

    Args:
        method: oversample copies real samples, interpolate draws between neighbours, gan from a generator that is
            trained on the real samples of all classes.
        ground: the training ground of a fold, the only thing that is looked at.
        wanted: number of samples by class index.
        drawing: how they are drawn.
        seed: of the real samples, of what is drawn, and of the generator.
        folder: where a generator's training keeps its checkpoints.

    Raises:
        LabelError: a class has a single training pixel, and its neighbours are asked for.
        DivergedError: the generator's training diverged.
    """
    rng = np.random.default_rng((seed, 8))
    real, names = real_samples(ground, drawing, rng), ground.split.samples.classes
    if method == "gan":
        generator = _learnt(real, ground.split, drawing, seed, folder)
        made = [_generated(generator, real, ground.split, label, count, rng) for label, count in wanted.items()]
    elif method == "interpolate":
        made = [_interpolated(real.of(label), count, drawing, rng, names[label]) for label, count in wanted.items()]
    else:
        made = [_copied(real.of(label), count, rng) for label, count in wanted.items()]
    # A generator has looked at every class to tell one from another.
    sources = real.places if method == "gan" else real.places[np.isin(real.labels, list(wanted))]
    image, valid, season = (np.concatenate(parts) for parts in zip(*made, strict=True))
    labels = np.repeat(list(wanted), list(wanted.values())).astype(np.uint8)
    # Between two series whose gaps do not overlap there may be nothing.
    there = valid[:, :, drawing.side // 2, drawing.side // 2].any(axis=1)
    image = np.where(valid[:, ground.split.steps], image, np.float32(0.0))
    return Synthetic(
        image[there], valid[there], labels[there], season[there], sources, ground.split.channels, drawing.share,
        drawing.prior,
    )  # fmt: skip


#: Image, valid and season of drawn samples of one class.
_Made = tuple[np.ndarray, np.ndarray, np.ndarray]


def _copied(real: Real, count: int, rng: np.random.Generator) -> _Made:
    """Copy real samples, each equally often to within one."""
    rounds = [rng.permutation(len(real.labels)) for _ in range(-(-count // len(real.labels)))]
    at = np.concatenate(rounds)[:count]
    return real.image[at], real.valid[at], real.season[at]


def _interpolated(real: Real, count: int, drawing: Drawing, rng: np.random.Generator, name: str) -> _Made:
    """Draw between neighbours; a value is valid where it is in both. As gaps hold 0, samples of like gaps are near."""
    if len(real.labels) < 2:
        raise LabelError(
            f"Class {name} has {len(real.labels)} training pixel, but augment.method interpolate draws between at "
            "least 2; label more of it, or take method oversample."
        )
    found = between_neighbours(real.image.reshape(len(real.image), -1), count, drawing.neighbours, rng)
    return found.of(real.image), real.valid[found.first] & real.valid[found.second], real.season[found.first]


def _learnt(real: Real, split: Split, drawing: Drawing, seed: int, folder: Path | None) -> Generator:
    """Train a generator on the real samples of all classes."""
    filled = _filled(real, split)
    if drawing.kind == "chip":
        data = filled
    elif drawing.kind == "series":
        data = filled.reshape(len(filled), -1, split.bands)
    else:
        data = filled.reshape(len(filled), -1)
    settings = replace(drawing.adversary, seed=seed)
    return train_gan(torch.from_numpy(data), torch.from_numpy(real.labels), split.classes, settings, folder)


def _filled(real: Real, split: Split) -> np.ndarray:
    """Put the class's mean where a value is missing: a generator knows no gaps; float32 (n, channel, side, side)."""
    shown, filled = real.valid[:, split.steps], real.image.copy()
    for label in np.unique(real.labels):
        own = real.labels == label
        count = shown[own].sum(axis=(0, 2, 3))
        mean = real.image[own].sum(axis=(0, 2, 3), dtype=np.float64) / np.maximum(count, 1)
        filled[own] = np.where(shown[own], real.image[own], mean.astype(np.float32)[:, None, None])
    return filled


def _generated(  # noqa: PLR0917
    generator: Generator, real: Real, split: Split, label: int, count: int, rng: np.random.Generator
) -> _Made:
    """Draw from a generator, within the range of the class's real values; gaps and season are those of real samples."""
    own = real.of(label)
    drawn = draw(generator, torch.full((count,), label), int(rng.integers(2**31)))
    image = drawn.numpy().reshape(count, *real.image.shape[1:])
    shown = own.valid[:, split.steps]
    low, high = (
        reach(np.where(shown, own.image, outside), axis=(0, 2, 3))[:, None, None]
        for reach, outside in ((np.min, np.float32(np.inf)), (np.max, np.float32(-np.inf)))
    )
    outside = float(((image < low) | (image > high)).mean())
    if outside > STRAYED:
        _logger.warning(
            "%.0f %% of the values drawn for %s lie outside those of its real samples: the generator has not learnt "
            "the class; raise augment.gan.steps", 100 * outside, split.samples.classes[label],
        )  # fmt: skip
    # A channel that is never valid has no range, and none of its values counts.
    image = np.where(low <= high, np.clip(image, low, np.maximum(low, high)), np.float32(0.0))
    at = rng.integers(len(own.labels), size=count)
    return image, own.valid[at], own.season[at]


def check_sources(drawn: Synthetic, split: Split) -> None:
    """See that samples were made from training labels of this very fold alone.

    Raises:
        LeakError: one was not, or the samples hold other channels.
    """
    grid, (season, row, col) = split.tiles.grid, drawn.sources.T
    seasons, wrong = split.each_season(), 0
    tile = np.column_stack([season, row // grid.tile, col // grid.tile])
    for one in np.unique(tile, axis=0).tolist():
        window = cell_window(one[1], one[2], grid.tile, grid)
        own = (tile == one).all(axis=1)
        roles = seasons[one[0]].samples.roles(split.fold, window)
        wrong += int((roles[row[own] - window.row, col[own] - window.col] != Role.TRAIN).sum())
    if wrong or drawn.channels != split.channels:
        what = f"{wrong} of {len(drawn.sources)} labels" if wrong else "channels"
        raise LeakError(f"Synthetic samples were made from {what} that this training may not see; run `augment` again.")
