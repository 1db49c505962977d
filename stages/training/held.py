"""The validation or test pixels of a fold with all the surroundings a model may read, in windows of one shape."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from stages.formats.samples import UNLABELLED, Part, Role
from stages.geo.chip_cells import Cells
from stages.geo.grid import Window
from stages.training.ground import Split, cell_window

#: A model that sees further than this is validated with this much of its surroundings.
FARTHEST = 64
#: Side of the cells of the grid that are read one by one, in pixels: a multiple of every network's stride.
SIDE = 64
#: Held-out pixels at most, about, and bytes of the windows around them at most.
PIXELS, BYTES = 1_000_000, 2 << 30
#: Chips of a collection that a network is shown at once.
TOGETHER = 32


@dataclass(frozen=True)
class Held:
    """Windows for prediction and the labels to compare with.

    ``image`` float32 (n, c, y, x), ``valid`` float32 (n, step, y, x), ``days`` float32 (n, step), ``labels`` uint8
    (n, y, x), `UNLABELLED` but at the held-out pixels, ``block`` int32 (n, y, x).
    """

    image: np.ndarray
    valid: np.ndarray
    days: np.ndarray
    labels: np.ndarray
    block: np.ndarray
    #: Windows that a network is best shown at once: many where they are small.
    together: int = 1

    @property
    def alone(self) -> bool:
        """True where the windows have no surroundings: whoever asks looks at single pixels only."""
        return bool(self.labels.shape[1] == SIDE) and self.together == 1

    @property
    def at(self) -> np.ndarray:
        """The held-out pixels: bool (n, y, x)."""
        marked: np.ndarray = self.labels != UNLABELLED
        return marked

    @property
    def reference(self) -> np.ndarray:
        """Labels of the held-out pixels (pixels,) in order of window, row and column."""
        found: np.ndarray = self.labels[self.at]
        return found


def gather(split: Split, role: Role, margin: int, stride: int = 1, limit: int = PIXELS) -> Held:
    """Read every pixel of one role (validation or test) with ``margin`` pixels around.

    Where there are more than about ``limit`` pixels, or scattered ones whose surroundings would fill the memory,
    cells of the grid are drawn, the same for the same labels. Of a collection of chips every window is a chip, and
    nothing lies around it.
    """
    if split.tiles.cells is not None:
        return _gather_chips(split, role, split.tiles.cells)
    # A multiple of the stride, so that pooling cuts the ground into the same squares as in a map.
    halo = -(-min(margin, FARTHEST) // stride) * stride
    size = SIDE + 2 * halo
    steps = split.tiles.steps
    each = size * size * 4 * (len(split.channels) + steps)
    seasons = split.each_season()
    cells = _cells(seasons, role, limit, max(1, BYTES // each))
    held = Held(
        np.zeros((len(cells), len(split.channels), size, size), np.float32),
        np.zeros((len(cells), steps, size, size), np.float32),
        np.zeros((len(cells), steps), np.float32),
        np.full((len(cells), size, size), UNLABELLED, np.uint8),
        np.full((len(cells), size, size), -1, np.int32),
    )
    for place, (season, row, col) in enumerate(cells):
        held.days[place] = seasons[season].tiles.days
        _fill(held, place, seasons[season], role, (row, col))
    return held


def _gather_chips(split: Split, role: Role, cells: Cells) -> Held:
    """Read the chips of one role, each by itself; of many that would fill the memory, some are drawn."""
    grid, middle = split.tiles.grid, cells.size // 2
    chosen, labels = [], []
    for _, _, window in grid.tiles():
        found = _labels(split, role, window, split.tiles.read_valid(window))
        y, x = np.nonzero(found != UNLABELLED)
        chosen += list(zip((window.row + y - middle).tolist(), (window.col + x - middle).tolist(), strict=True))
        labels += found[y, x].tolist()
    most = max(1, BYTES // (cells.size**2 * 4 * (len(split.channels) + split.tiles.steps)))
    kept = np.sort(np.random.default_rng(0).permutation(len(chosen))[:most])
    count, size = len(kept), cells.size
    held = Held(
        np.zeros((count, len(split.channels), size, size), np.float32),
        np.zeros((count, split.tiles.steps, size, size), np.float32),
        np.tile(np.array(split.tiles.days, np.float32), (count, 1)),
        np.full((count, size, size), UNLABELLED, np.uint8),
        np.full((count, size, size), -1, np.int32),
        together=TOGETHER,
    )
    for place, one in enumerate(kept.tolist()):
        window = Window(chosen[one][0], chosen[one][1], size, size)
        held.image[place], held.valid[place] = split.read(window)
        held.labels[place, middle, middle] = labels[one]
        held.block[place] = split.samples.read("block", window)
    return held


def _fill(held: Held, place: int, split: Split, role: Role, cell: tuple[int, int]) -> None:
    """Read one cell with its surroundings into its place; what lies beyond the grid stays invalid."""
    halo = (held.labels.shape[1] - SIDE) // 2
    inner = cell_window(*cell, SIDE, split.tiles.grid)
    outer = inner.padded(halo, split.tiles.grid)
    top, left = outer.row - inner.row + halo, outer.col - inner.col + halo
    there = slice(top, top + outer.height), slice(left, left + outer.width)
    image, valid = split.read(outer)
    held.image[(place, slice(None), *there)] = image
    held.valid[(place, slice(None), *there)] = valid
    own = slice(halo, halo + inner.height), slice(halo, halo + inner.width)
    held.labels[(place, *own)] = _labels(split, role, inner, np.asarray(valid.any(axis=0))[inner.within(outer)])
    held.block[(place, *own)] = split.samples.read("block", inner)


def _labels(split: Split, role: Role, window: Window, valid: np.ndarray) -> np.ndarray:
    assert split.fold is not None, "all folds together hold nothing out"
    target = split.samples.read("target", window)
    roles = split.samples.roles(split.fold, window)
    kept = (roles == role) & valid & (target < split.classes)
    labels: np.ndarray = np.where(kept, target, np.uint8(UNLABELLED))
    return labels


def _cells(seasons: list[Split], role: Role, limit: int, most: int) -> list[tuple[int, int, int]]:
    """Season, row and column of the cells with pixels of the role, drawn where they exceed ``limit`` or ``most``."""
    counts = np.stack([_counts(split, role) for split in seasons])
    order = [(int(season), int(row), int(col)) for season, row, col in np.argwhere(counts)]
    if counts.sum() > limit or len(order) > most:
        order = [order[i] for i in np.random.default_rng(0).permutation(len(order))]
    before = np.cumsum([0, *(counts[cell] for cell in order)])
    return [cell for cell, pixels in zip(order[:most], before[:-1], strict=False) if pixels < limit]


def _counts(split: Split, role: Role) -> np.ndarray:
    """Held-out pixels in every cell: int64 (rows, cols), read tile by tile."""
    part = {Role.VALIDATION: Part.VALIDATION, Role.TEST: Part.TEST}[role]
    assert split.fold is not None, "all folds together hold nothing out"
    grid = split.tiles.grid
    counts = np.zeros((-(-grid.height // SIDE), -(-grid.width // SIDE)), dtype=np.int64)
    for _, _, window in grid.tiles():
        if (split.samples.part(split.fold, window) == part).any():
            y, x = np.nonzero(_labels(split, role, window, split.tiles.read_valid(window)) != UNLABELLED)
            np.add.at(counts, ((window.row + y) // SIDE, (window.col + x) // SIDE), 1)
    return counts
