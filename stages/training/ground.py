"""Lay the training ground out once: hidden but for the training blocks, in rectangles that are cheap to cut from."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cache, cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from stages.errors import LabelError, LeakError, SettingError
from stages.formats.samples import UNLABELLED, Role, Samples
from stages.formats.synthetic import Synthetic
from stages.formats.tiles import Tiles
from stages.geo.grid import Grid, Window
from stages.training.splits import check_training_input

if TYPE_CHECKING:
    from stages.models.classifier import Normalise
    from stages.training.recipes import Lags

#: Season, row and column of the upper left pixel of a square.
Place = tuple[int, int, int]
#: Image (..., channel, y, x), valid (..., step, y, x) and labels (..., y, x).
Layers = tuple[np.ndarray, np.ndarray, np.ndarray]
#: Side of the cells of which the ground is made, in pixels.
CELL = 64
#: Least share of a rectangle that must be wanted; more makes more rectangles, which more chips lie across.
FILLED = 0.75
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
        bands, every = len(self.channels) // self.tiles.steps, len(self.tiles.bands)
        of_first = [place for place in self.picked if place < every]
        if self.picked != [step * every + band for step in range(self.tiles.steps) for band in of_first]:
            raise SettingError(
                f"Networks for series, and differences, go from step to step and need the same bands at each, but "
                f"{len(self.channels)} single features of {len(self.tiles.channels)} are selected; choose whole bands "
                "(select.unit: band), or take models that read any features, such as rf, svm, mlp and cnn."
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
        return Normalise(mean, deviation, clip, self.steps, self.tiles.steps)

    def values(self) -> tuple[tuple[float, ...], ...]:
        """1st, 50th and 99th percentile of every chosen channel over the valid training pixels."""
        levels = self.samples.statistics(self.fold)["percentiles"]
        return tuple(tuple(levels[level][i] for level in ("1", "50", "99")) for i in self.picked)

    def read(self, window: Window) -> tuple[np.ndarray, np.ndarray]:
        """Read an image for prediction, any pixel: float32 (channel, y, x) and bool (step, y, x)."""
        return self.tiles.read_picked(window, self.picked)

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
    """The training ground, season by season: the square cells that hold training labels, and their neighbours.

    Cells lie together in rectangles, so that nearly every chip is one slice; what is no such cell is hidden there too.
    ``labels`` uint8 (cell, side, side) are those of the cells one after another, ``places`` (cell, 3) their season,
    row and column, ``cells`` (cell, class) their labelled pixels, and ``days`` float32 (season, step) the steps' days.
    """

    def __init__(self, split: Split, side: int, folder: Path) -> None:
        self.side = side
        self.split = split
        #: Samples that a training mixes in, see `mixed`.
        self.synthetic: Synthetic | None = None
        self.seasons = split.each_season()
        self.days = np.array([one.tiles.days for one in self.seasons], np.float32)
        counts = np.stack([_count(one, side) for one in self.seasons])
        wanted = np.stack([_wanted(labelled) for labelled in counts.sum(axis=3) > 0])
        self.places = np.argwhere(wanted)
        self.cells = counts[tuple(self.places.T)]
        #: Season, first row and column, height and width of every rectangle, and how many pixels lie before it.
        self._pieces = _pieces(wanted, side)
        self._rectangles: list[list[int]] = self._pieces.tolist()
        #: Rectangle of every cell of the grid, -1 where there is none: (season, row, col).
        self._home: np.ndarray = np.full(wanted.shape, -1, dtype=np.int32)
        for index, (season, row, col, height, width) in enumerate((self._pieces[:, :5] // [1, *[side] * 4]).tolist()):
            self._home[season, row : row + height, col : col + width] = index
        self._lay_out(wanted, folder)

    def _lay_out(self, wanted: np.ndarray, folder: Path) -> None:
        pixels = int((self._pieces[:, 3] * self._pieces[:, 4]).sum())
        count = pixels * len(self.split.channels)
        if count * 4 > IN_MEMORY:
            folder.mkdir(parents=True, exist_ok=True)
            self._image: np.ndarray = np.lib.format.open_memmap(folder / "image.npy", "w+", np.float32, (count,))
        else:
            self._image = np.zeros(count, dtype=np.float32)
        self._valid = np.zeros(pixels * self.days.shape[1], dtype=bool)
        self._labels = np.full(pixels, UNLABELLED, dtype=np.uint8)
        grid = self.split.tiles.grid
        for season, split in enumerate(self.seasons):
            for _, _, window in grid.tiles():
                shown = _pixels_of(wanted[season], self.side, window)
                if shown.any():
                    self._write(season, window, split.read_training(window), shown)
        self.labels = np.empty((len(self.places), self.side, self.side), dtype=np.uint8)
        for slot, (season, row, col) in enumerate(self.places.tolist()):
            top, left, *_, labels = self._piece(int(self._home[season, row, col]))
            y, x = row * self.side - top, col * self.side - left
            self.labels[slot] = labels[y : y + self.side, x : x + self.side]

    def _write(
        self, season: int, window: Window, read: tuple[np.ndarray, np.ndarray, np.ndarray], shown: np.ndarray
    ) -> None:
        """Write a window into the rectangles that it touches, where it is ``shown`` (y, x)."""
        image, valid, labels = read
        image, valid = np.where(shown, image, np.float32(0.0)), valid & shown
        for index in self._touched(season, window.row, window.col, window.height, window.width):
            row, col, *arrays = self._piece(index)
            height, width = arrays[2].shape
            (into_y, from_y), (into_x, from_x) = (
                _shared(row, height, window.row, window.height),
                _shared(col, width, window.col, window.width),
            )
            for target, values in zip(arrays, (image, valid, labels), strict=True):
                target[..., into_y, into_x] = values[..., from_y, from_x]

    def _touched(self, season: int, row: int, col: int, height: int, width: int) -> list[int]:
        """Rectangles that hold a pixel of a box, which may reach beyond the grid."""
        side = self.side
        rows = slice(max(row, 0) // side, max((row + height - 1) // side + 1, 0))
        cols = slice(max(col, 0) // side, max((col + width - 1) // side + 1, 0))
        return [index for index in np.unique(self._home[season, rows, cols]).tolist() if index >= 0]

    def _piece(self, index: int) -> tuple[int, int, np.ndarray, np.ndarray, np.ndarray]:
        """First row and column of a rectangle, its image (channel, y, x), valid (step, y, x) and labels (y, x)."""
        _, row, col, height, width, first = self._rectangles[index]
        channels, steps, last = len(self.split.channels), self.days.shape[1], first + height * width
        image = self._image[first * channels : last * channels].reshape(channels, height, width)
        valid = self._valid[first * steps : last * steps].reshape(steps, height, width)
        return row, col, image, valid, self._labels[first:last].reshape(height, width)

    def normalise(self, clip: float, differences: Lags = (), by_band: bool = False) -> Normalise:
        """Make what centres and scales the channels, and appends their differences along time where there are any.

        Raises:
            SettingError: a difference reaches further than the series, or the channels are no bands of every step.
        """
        # Channels that are subtracted from one another must be on the same scale.
        plain = self.split.normalise(clip, by_band or bool(differences))
        if not differences:
            return plain
        from stages.models.differences import Differenced

        steps = self.split.tiles.steps
        for chain in differences:
            if sum(chain) >= steps:
                raise SettingError(
                    f"differences {list(chain)} reach {sum(chain)} steps back, but the series has {steps}; choose "
                    "shorter lags, or leave differences out."
                )
        found = Differenced(plain, self.split.bands, differences)
        image, valid = (torch.from_numpy(of) for of in self._laid(np.flatnonzero(self.cells.any(axis=1))[:MEASURED]))
        found.fit(plain(image, valid.float()), valid.float())
        return found

    def mixed(self, synthetic: Synthetic | None) -> Ground:
        """Give the same ground, of which a training is shown these samples, too; with None its own pixels alone."""
        other = copy.copy(self)
        other.synthetic = synthetic
        return other

    def shown(self) -> np.ndarray:
        """Labelled pixels of every class, synthetic samples among them: what a model learns the shares of (class,)."""
        total: np.ndarray = self.cells.sum(axis=0)
        return total if self.synthetic is None else total + self.synthetic.counts(len(total))

    def pixels(self) -> np.ndarray:
        """Labelled pixels of every class, a map's prior (class,); synthetic samples only where they count in it."""
        total: np.ndarray = self.cells.sum(axis=0)
        return self.shown() if self.synthetic is not None and self.synthetic.prior == "drawn" else total

    def _laid(self, slots: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Lay some cells out one after another: image (n, channel, side, side) and valid (n, step, side, side)."""
        squares = [(season, row * self.side, col * self.side) for season, row, col in self.places[slots].tolist()]
        image, valid, _ = self._squares(squares, self.side)
        return image, valid

    @property
    def image(self) -> np.ndarray:
        """Image of every cell, laid out anew: float32 (cell, channel, side, side)."""
        return self._laid(np.arange(len(self.places)))[0]

    @cached_property
    def spots(self) -> np.ndarray:
        """Labelled pixels of the cells one after another, counted row by row within each: unsigned (pixel,)."""
        spots: np.ndarray = np.flatnonzero(self.labels != UNLABELLED) % self.side**2
        return spots.astype(np.min_scalar_type(self.side**2 - 1))

    def cut(self, season: int, row: int, col: int, size: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Cut any square of a season's ground, hidden beyond it.

        Returns:
            image (channel, size, size), valid (step, size, size) and labels (size, size).
        """
        image, valid, labels = self._squares([(season, row, col)], size)
        return image[0], valid[0], labels[0]

    def _squares(self, places: Sequence[Place], size: int) -> Layers:
        image = np.empty((len(places), len(self.split.channels), size, size), dtype=np.float32)
        valid = np.empty((len(places), self.days.shape[1], size, size), dtype=bool)
        labels = np.empty((len(places), size, size), dtype=np.uint8)
        self.cut_into(places, (image, valid, labels))
        return image, valid, labels

    def cut_into(self, places: Sequence[Place], squares: Layers) -> None:
        """Cut squares as `cut` does into arrays that are already there: image (n, channel, y, x) and so on."""
        size = squares[2].shape[-1]
        kinds = [
            (torch.from_numpy(array).unbind(), torch.from_numpy(flat), array.shape[1])
            for array, flat in zip(
                (*squares[:2], squares[2][:, None]), (self._image, self._valid, self._labels), strict=True
            )
        ]
        into: list[Tensor] = []
        source: list[Tensor] = []
        for at, (season, row, col) in enumerate(places):
            home = self._home_of(season, row, col, size)
            if home >= 0:
                _, top, left, height, width, first = self._rectangles[home]
                start, strides = (row - top) * width + col - left, (height * width, width, 1)
                for target, flat, layers in kinds:
                    source.append(flat.as_strided((layers, size, size), strides, first * layers + start))
                    into.append(target[at])
                continue
            indices = self._touched(season, row, col, size, size)
            if len(indices) != 1:
                _hide(squares, at, slice(0, 0), slice(0, 0))
            for index in indices:
                _, top, left, height, width, first = self._rectangles[index]
                (into_y, from_y), (into_x, from_x) = _shared(row, size, top, height), _shared(col, size, left, width)
                if len(indices) == 1:
                    _hide(squares, at, into_y, into_x)
                box = into_y.stop - into_y.start, into_x.stop - into_x.start
                start, strides = from_y.start * width + from_x.start, (height * width, width, 1)
                for target, flat, layers in kinds:
                    source.append(flat.as_strided((layers, *box), strides, first * layers + start))
                    into.append(target[at][:, into_y, into_x])
        if into:
            # In one call other threads may go on; one at a time would make them wait. Torch would divide every single
            # copy among its threads, and wait for each where a processor is busy.
            with _processors().limit(limits=1, user_api="openmp"):
                torch._foreach_copy_(into, source)

    def _home_of(self, season: int, row: int, col: int, size: int) -> int:
        """Find the rectangle that a square lies in as a whole, -1 where there is none."""
        side = self.side
        _, rows, cols = self._home.shape
        bottom, right = (row + size - 1) // side, (col + size - 1) // side
        if row < 0 or col < 0 or bottom >= rows or right >= cols:
            return -1
        # Rectangles hold what lies between two of their cells.
        home = int(self._home[season, row // side, col // side])
        return home if home == self._home[season, bottom, right] else -1

    def pick(self, slot: np.ndarray, y: np.ndarray, x: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Pick single pixels by cell, row and column in it: image (n, channel), valid (n, step) and labels (n,)."""
        season, row, col = self.places[slot].T
        _, top, left, height, width, first = self._pieces[self._home[season, row, col]].T
        place, size = (row * self.side + y - top) * width + col * self.side + x - left, height * width
        image, valid = (
            flat[(first * layers + place)[:, None] + size[:, None] * np.arange(layers)]
            for flat, layers in ((self._image, len(self.split.channels)), (self._valid, self.days.shape[1]))
        )
        return image, valid, self._labels[first + place]


def lay_out(split: Split, folder: Path) -> Ground:
    """Lay out the training ground, and refuse one that no classifier can learn from.

    Raises:
        LabelError: fewer than two classes have training pixels.
    """
    cells = split.tiles.cells
    ground = Ground(split, cells.size if cells else CELL, folder)
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
    """Mark every cell with labels and its eight neighbours: bool (rows, cols)."""
    padded = np.pad(labelled, 1)
    rows, cols = labelled.shape
    near = np.zeros_like(labelled)
    for down in range(3):
        for right in range(3):
            near |= padded[down : down + rows, right : right + cols]
    return near


def _pieces(wanted: np.ndarray, side: int) -> np.ndarray:
    """Put the wanted cells (season, rows, cols) into rectangles that do not overlap.

    Returns:
        int64 (piece, 6): season, first row, first column, height and width in pixels, and pixels of all pieces before.
    """
    boxes = [(season, *box) for season, cells in enumerate(wanted) for box in _boxes(cells)]
    found = np.array(boxes, dtype=np.int64).reshape(-1, 5)
    found[:, 1:] *= side
    sizes = found[:, 3] * found[:, 4]
    return np.column_stack([found, sizes.cumsum() - sizes])


def _boxes(wanted: np.ndarray) -> list[tuple[int, int, int, int]]:
    """Cover cells (rows, cols) by boxes (row, col, height, width) of which at least `FILLED` is wanted."""
    boxes, waiting = [], [(0, 0, *wanted.shape)]
    while waiting:
        row, col, height, width = waiting.pop()
        cells = wanted[row : row + height, col : col + width]
        rows, cols = (np.flatnonzero(cells.any(axis=axis)) for axis in (1, 0))
        if not len(rows):
            continue
        cells = cells[rows[0] : rows[-1] + 1, cols[0] : cols[-1] + 1]
        row, col, (height, width) = row + int(rows[0]), col + int(cols[0]), cells.shape
        if cells.mean() >= FILLED:
            boxes.append((row, col, height, width))
        elif height >= width:
            cut = _cut(cells.sum(axis=1))
            waiting += [(row, col, cut, width), (row + cut, col, height - cut, width)]
        else:
            cut = _cut(cells.sum(axis=0))
            waiting += [(row, col, height, cut), (row, col + cut, height, width - cut)]
    return boxes


def _cut(filled: np.ndarray) -> int:
    """Find where to cut lines in two: beside the emptiest one, near the middle where several are."""
    at = np.arange(1, len(filled))
    emptiest = np.minimum(filled[:-1], filled[1:])
    return int(at[np.lexsort((np.abs(2 * at - len(filled)), emptiest))[0]])


def _pixels_of(cells: np.ndarray, side: int, window: Window) -> np.ndarray:
    """Mark the pixels of a window that lie in marked cells: bool (y, x)."""
    rows = np.arange(window.row, window.row + window.height) // side
    cols = np.arange(window.col, window.col + window.width) // side
    marked: np.ndarray = cells[np.ix_(rows, cols)]
    return marked


@cache
def _processors() -> Any:
    """Give what says with how many threads the calling one computes."""
    from threadpoolctl import ThreadpoolController  # type: ignore[import-untyped]

    return ThreadpoolController()


def _hide(squares: Layers, at: int, rows: slice, cols: slice) -> None:
    """Hide all of one of several squares but some of its rows and columns."""
    for array, hidden in zip(squares, (0.0, False, UNLABELLED), strict=True):
        for box in (
            (slice(0, rows.start), slice(None)), (slice(rows.stop, None), slice(None)),
            (rows, slice(0, cols.start)), (rows, slice(cols.stop, None)),
        ):  # fmt: skip
            array[(at, ..., *box)] = hidden


def _shared(start: int, size: int, other: int, other_size: int) -> tuple[slice, slice]:
    """Find what two stretches of pixels share, as slices of the one and of the other (one axis)."""
    first, last = max(start, other), min(start + size, other + other_size)
    return slice(first - start, last - start), slice(first - other, last - other)
