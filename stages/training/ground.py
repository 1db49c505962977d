"""Lay the training ground out once: hidden but for the training blocks, cell by cell, cheap to cut chips from."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from stages.errors import LabelError, LeakError, SettingError
from stages.formats.samples import UNLABELLED, Role, Samples
from stages.formats.tiles import Tiles
from stages.geo.grid import Grid, Window
from stages.training.splits import check_training_input

if TYPE_CHECKING:
    from stages.models.classifier import Normalise
    from stages.training.recipes import Lags

#: Side of the cells in which the ground is laid out, in pixels.
CELL = 64
#: Above this many bytes the ground lies in a memory-mapped file instead of memory.
IN_MEMORY = 1 << 30
#: Cells at most in which the spread of differences along time is measured.
MEASURED = 16


@dataclass(frozen=True)
class Split:
    """Which labels may train: those of one fold, or of all folds together (``fold`` None, the final refit)."""

    tiles: Tiles
    samples: Samples
    channels: tuple[str, ...]
    fold: int | None

    @property
    def classes(self) -> int:
        """Number of classes."""
        return len(self.samples.classes)

    def each_season(self) -> list[Split]:
        """Open the split once a season, the earliest first."""
        seasons = range(self.tiles.seasons)
        return [replace(self, tiles=self.tiles.of(k), samples=self.samples.of(k)) for k in seasons]

    @property
    def picked(self) -> list[int]:
        """Places of the chosen channels among the tiles'."""
        return [self.tiles.channels.index(name) for name in self.channels]

    @property
    def steps(self) -> list[int]:
        """Step of the season that every chosen channel is of."""
        return [place // len(self.tiles.bands) for place in self.picked]

    @property
    def bands(self) -> int:
        """Number of bands of every step, for networks that go from step to step.

        Raises:
            SettingError: the chosen channels are not the same bands at every step.
        """
        bands = len(self.channels) // self.tiles.steps
        if self.picked != list(range(len(self.tiles.channels))):
            raise SettingError(
                f"networks for series read all bands of every step, but {len(self.channels)} of "
                f"{len(self.tiles.channels)} channels are selected; set select.method to none."
            )
        return bands

    def moments(self) -> tuple[list[float], list[float]]:
        """Mean and deviation of every chosen channel over the valid training pixels."""
        statistics = self.samples.statistics(self.fold)
        return tuple([statistics[name][i] for i in self.picked] for name in ("mean", "std"))  # type: ignore[return-value]

    def normalise(self, clip: float, by_band: bool = False) -> Normalise:
        """Make what centres and scales the chosen channels, each by itself, or with ``by_band`` alike at every step.

        Alike, so that what differs between steps is left to see.
        """
        from stages.models.classifier import Normalise

        mean, deviation = self.moments()
        if by_band:
            statistics = self.samples.statistics(self.fold)
            count = np.array([statistics["count"][i] for i in self.picked], np.float64).reshape(-1, self.bands)
            means, squares = (np.array(values).reshape(-1, self.bands) for values in (mean, np.square(deviation)))
            total = np.maximum(count.sum(axis=0), 1.0)
            pooled = (count * means).sum(axis=0) / total
            spread = np.sqrt((count * (squares + (means - pooled) ** 2)).sum(axis=0) / total)
            mean, deviation = (np.tile(values, len(count)).tolist() for values in (pooled, spread))
        return Normalise(mean, deviation, clip, self.steps)

    def values(self) -> tuple[tuple[float, ...], ...]:
        """1st, 50th and 99th percentile of every chosen channel over the valid training pixels."""
        levels = self.samples.statistics(self.fold)["percentiles"]
        return tuple(tuple(levels[level][i] for level in ("1", "50", "99")) for i in self.picked)

    def read(self, window: Window) -> tuple[np.ndarray, np.ndarray]:
        """Read an image for prediction, any pixel: float32 (channel, y, x) and bool (step, y, x)."""
        image, valid = self.tiles.read_channels(window)
        return image[self.picked], valid

    def read_training(self, window: Window) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Read what a training may see of a window: image (channel, y, x), valid (step, y, x) and labels (y, x).

        Labels are uint8, `UNLABELLED` where the training must not look.

        Raises:
            LeakError: a held-out pixel or label would be among them.
        """
        image, valid = self.read(window)
        labels = self.samples.read("target", window)
        seen = self.samples.training_mask(self.fold, window)
        may = self.samples.roles(self.fold, window) == Role.TRAIN
        if (may & ~seen).any():
            raise LeakError(f"{int((may & ~seen).sum())} training labels lie in held-out blocks; run `label` again.")
        valid = valid & seen
        pixel = valid.any(axis=0)
        labels = np.where(may & pixel & (labels < self.classes), labels, np.uint8(UNLABELLED))
        check_training_input(pixel, labels, self.samples, self.fold, window)
        return np.where(valid[self.steps], image, np.float32(0.0)), valid, labels


class Ground:
    """Square cells of the training ground, season by season: those that hold training labels, and their neighbours.

    Cells are stored one after another: ``image`` float32 (cell, channel, side, side), ``valid`` bool (cell, step, side,
    side) and ``labels`` uint8 (cell, side, side). ``places`` (cell, 3) are their season, row and column, ``cells``
    (cell, class) their labelled pixels, and ``days`` float32 (season, step) the days of the steps.
    """

    def __init__(self, split: Split, side: int, folder: Path) -> None:
        self.side = side
        self.split = split
        self.seasons = split.each_season()
        self.days = np.array([one.tiles.days for one in self.seasons], np.float32)
        counts = np.stack([_count(one, side) for one in self.seasons])
        self.places = np.concatenate([
            np.insert(_wanted(counts[season].sum(axis=2) > 0), 0, season, axis=1) for season in range(len(counts))
        ])  # fmt: skip
        self.cells = counts[tuple(self.places.T)]
        self.slot: np.ndarray = np.full(counts.shape[:3], -1, dtype=np.int64)
        self.slot[tuple(self.places.T)] = np.arange(len(self.places))
        self._lay_out(folder)

    def _lay_out(self, folder: Path) -> None:
        cells, channels, side = len(self.places), len(self.split.channels), self.side
        shape = (cells, channels, side, side)
        if cells * channels * side * side * 4 > IN_MEMORY:
            folder.mkdir(parents=True, exist_ok=True)
            self.image: np.ndarray = np.lib.format.open_memmap(folder / "image.npy", "w+", np.float32, shape)
        else:
            self.image = np.zeros(shape, dtype=np.float32)
        self.valid = np.zeros((cells, self.days.shape[1], side, side), dtype=bool)
        self.labels = np.full((cells, side, side), UNLABELLED, dtype=np.uint8)
        for slot, (season, row, col) in enumerate(self.places):
            window = cell_window(row, col, side, self.split.tiles.grid)
            image, valid, labels = self.seasons[season].read_training(window)
            inside = (slice(window.height), slice(window.width))
            self.image[(slot, slice(None), *inside)] = image
            self.valid[(slot, slice(None), *inside)] = valid
            self.labels[(slot, *inside)] = labels

    def normalise(self, clip: float, differences: Lags = (), by_band: bool = False) -> Normalise:
        """Make what centres and scales the channels, and appends their differences along time where there are any.

        Raises:
            SettingError: a difference reaches further than the series, or the channels are no bands of every step.
        """
        # Channels that are subtracted from one another must be on the same scale.
        plain = self.split.normalise(clip, by_band or bool(differences))
        if not differences:
            return plain
        import torch

        from stages.models.differences import Differenced

        steps = self.split.tiles.steps
        for chain in differences:
            if sum(chain) >= steps:
                raise SettingError(
                    f"differences {list(chain)} reach {sum(chain)} steps back, but the series has {steps}; choose "
                    "shorter lags, or leave differences out."
                )
        found = Differenced(plain, self.split.bands, differences)
        cells = np.flatnonzero(self.cells.any(axis=1))[:MEASURED]
        image, valid = (torch.from_numpy(np.ascontiguousarray(of[cells])) for of in (self.image, self.valid))
        found.fit(plain(image, valid.float()), valid.float())
        return found

    def pixels(self) -> np.ndarray:
        """Labelled pixels of every class (class,)."""
        total: np.ndarray = self.cells.sum(axis=0)
        return total

    def cut(self, season: int, row: int, col: int, size: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Cut any square of a season's ground, hidden beyond it.

        Returns:
            image (channel, size, size), valid (step, size, size) and labels (size, size).
        """
        image = np.zeros((len(self.split.channels), size, size), dtype=np.float32)
        valid = np.zeros((self.days.shape[1], size, size), dtype=bool)
        labels = np.full((size, size), UNLABELLED, dtype=np.uint8)
        side = self.side
        for cell_row in range(row // side, (row + size - 1) // side + 1):
            for cell_col in range(col // side, (col + size - 1) // side + 1):
                slot = self._slot(season, cell_row, cell_col)
                if slot < 0:
                    continue
                (into_y, from_y), (into_x, from_x) = (
                    _shared(row, cell_row, size, side),
                    _shared(col, cell_col, size, side),
                )
                image[:, into_y, into_x] = self.image[slot, :, from_y, from_x]
                valid[:, into_y, into_x] = self.valid[slot, :, from_y, from_x]
                labels[into_y, into_x] = self.labels[slot, from_y, from_x]
        return image, valid, labels

    def _slot(self, season: int, row: int, col: int) -> int:
        inside = 0 <= row < self.slot.shape[1] and 0 <= col < self.slot.shape[2]
        return int(self.slot[season, row, col]) if inside else -1


def lay_out(split: Split, folder: Path) -> Ground:
    """Lay out the training ground, and refuse one that no classifier can learn from.

    Raises:
        LabelError: fewer than two classes have training pixels.
    """
    ground = Ground(split, CELL, folder)
    there = [name for name, pixels in zip(split.samples.classes, ground.pixels(), strict=True) if pixels]
    if len(there) < 2:
        raise LabelError(
            f"Training pixels of {len(there)} classes ({', '.join(there) or 'none'}); at least two are needed: add "
            "labels, or lower label.block, label.buffer or label.purity."
        )
    return ground


def cell_window(row: int, col: int, side: int, grid: Grid) -> Window:
    """Give the pixels of one cell; the last ones are cut at the grid's edge."""
    top, left = int(row) * side, int(col) * side
    return Window(top, left, min(side, grid.height - top), min(side, grid.width - left))


def _count(split: Split, side: int) -> np.ndarray:
    """Training labels of every class in every cell: int64 (rows, cols, class), read tile by tile."""
    grid = split.tiles.grid
    counts = np.zeros((-(-grid.height // side), -(-grid.width // side), split.classes), dtype=np.int64)
    for _, _, window in grid.tiles():
        _, _, labels = split.read_training(window)
        y, x = np.nonzero(labels < split.classes)
        np.add.at(counts, ((window.row + y) // side, (window.col + x) // side, labels[y, x]), 1)
    return counts


def _wanted(labelled: np.ndarray) -> np.ndarray:
    """Rows and columns (cells, 2) of every cell with labels and of its eight neighbours."""
    padded = np.pad(labelled, 1)
    rows, cols = labelled.shape
    near = np.zeros_like(labelled)
    for down in range(3):
        for right in range(3):
            near |= padded[down : down + rows, right : right + cols]
    return np.argwhere(near)


def _shared(start: int, cell: int, size: int, side: int) -> tuple[slice, slice]:
    """Find the pixels that a chip at ``start`` shares with a cell, as slices of the chip and of the cell (one axis)."""
    first, last = max(start, cell * side), min(start + size, (cell + 1) * side)
    return slice(first - start, last - start), slice(first - cell * side, last - cell * side)
