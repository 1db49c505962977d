"""Lay the training ground out once: hidden but for the training blocks, cell by cell, cheap to cut chips from."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from stages.errors import LabelError, LeakError
from stages.formats.samples import UNLABELLED, Role, Samples
from stages.formats.tiles import Tiles
from stages.geo.grid import Grid, Window
from stages.training.splits import check_training_input

#: Side of the cells in which the ground is laid out, in pixels.
CELL = 64
#: Above this many bytes the ground lies in a memory-mapped file instead of memory.
IN_MEMORY = 1 << 30


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

    @property
    def picked(self) -> list[int]:
        """Places of the chosen channels among the tiles'."""
        return [self.tiles.channels.index(name) for name in self.channels]

    def moments(self) -> tuple[list[float], list[float]]:
        """Mean and deviation of every chosen channel over the valid training pixels."""
        statistics = self.samples.statistics(self.fold)
        return tuple([statistics[name][i] for i in self.picked] for name in ("mean", "std"))  # type: ignore[return-value]

    def values(self) -> tuple[tuple[float, ...], ...]:
        """1st, 50th and 99th percentile of every chosen channel over the valid training pixels."""
        levels = self.samples.statistics(self.fold)["percentiles"]
        return tuple(tuple(levels[level][i] for level in ("1", "50", "99")) for i in self.picked)

    def read(self, window: Window) -> tuple[np.ndarray, np.ndarray]:
        """Read an image for prediction, any pixel: float32 (channel, y, x) and bool (y, x)."""
        image, valid = self.tiles.read_channels(window)
        return image[self.picked], valid

    def read_training(self, window: Window) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Read what a training may see of a window: image, valid and labels (uint8, `UNLABELLED` elsewhere).

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
        labels = np.where(may & valid & (labels < self.classes), labels, np.uint8(UNLABELLED))
        check_training_input(valid, labels, self.samples, self.fold, window)
        return np.where(valid, image, np.float32(0.0)), valid, labels


class Ground:
    """Square cells of the training ground: those that hold training labels, and their neighbours.

    Cells are stored one after another: ``image`` float32 (cell, channel, side, side), ``valid`` bool and
    ``labels`` uint8 (cell, side, side). ``counts`` (cell, class) are the labelled pixels of every cell.
    """

    def __init__(self, split: Split, side: int, folder: Path) -> None:
        self.side = side
        self.split = split
        self.counts = _count(split, side)
        self.places = _wanted(self.counts.sum(axis=2) > 0)
        self.slot: np.ndarray = np.full(self.counts.shape[:2], -1, dtype=np.int64)
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
        self.valid = np.zeros((cells, side, side), dtype=bool)
        self.labels = np.full((cells, side, side), UNLABELLED, dtype=np.uint8)
        for slot, (row, col) in enumerate(self.places):
            window = cell_window(row, col, side, self.split.tiles.grid)
            image, valid, labels = self.split.read_training(window)
            inside = (slice(window.height), slice(window.width))
            self.image[(slot, slice(None), *inside)] = image
            self.valid[(slot, *inside)] = valid
            self.labels[(slot, *inside)] = labels

    def pixels(self) -> np.ndarray:
        """Labelled pixels of every class (class,)."""
        total: np.ndarray = self.counts.sum(axis=(0, 1))
        return total

    def cut(self, row: int, col: int, size: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Cut any square of the ground, hidden beyond it: image (c, size, size), valid and labels (size, size)."""
        image = np.zeros((len(self.split.channels), size, size), dtype=np.float32)
        valid = np.zeros((size, size), dtype=bool)
        labels = np.full((size, size), UNLABELLED, dtype=np.uint8)
        side = self.side
        for cell_row in range(row // side, (row + size - 1) // side + 1):
            for cell_col in range(col // side, (col + size - 1) // side + 1):
                slot = self._slot(cell_row, cell_col)
                if slot < 0:
                    continue
                (into_y, from_y), (into_x, from_x) = (
                    _shared(row, cell_row, size, side),
                    _shared(col, cell_col, size, side),
                )
                image[:, into_y, into_x] = self.image[slot, :, from_y, from_x]
                valid[into_y, into_x] = self.valid[slot, from_y, from_x]
                labels[into_y, into_x] = self.labels[slot, from_y, from_x]
        return image, valid, labels

    def _slot(self, row: int, col: int) -> int:
        inside = 0 <= row < self.slot.shape[0] and 0 <= col < self.slot.shape[1]
        return int(self.slot[row, col]) if inside else -1


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
