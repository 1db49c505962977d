"""Labels and blocks of an area that is a collection of chips: one label a chip, at its middle pixel."""

from __future__ import annotations

import logging
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from stages.formats.samples import UNLABELLED, Part
from stages.formats.series import read_table
from stages.formats.tiles import Tiles
from stages.geo.chip_cells import Cells
from stages.geo.grid import Window
from stages.geo.labels import LabelFile
from stages.training.table_samples import (
    BY_GROUND,
    EARTH,
    TableBlocks,
    TableSource,
    divide,
    on_globe,
    targets_of,
)

log = logging.getLogger(__name__)

#: Chips whose middles are nearer than this share of their side, along both axes, overlap; less than 1, so that chips
#: that only touch do not.
OVERLAP = 0.99


@dataclass(frozen=True, kw_only=True)
class ChipBlocks(TableBlocks):
    """Blocks of chips: ``block`` is int32 (chip,), and all pixels of a cell are of its chip's block."""

    cells: Cells

    def ids(self, window: Window) -> np.ndarray:
        """Block of every pixel of a window, -1 beyond the last chip: int32 (y, x)."""
        return _spread(self.block, self.cells.numbers(window), np.int32(-1))


@dataclass(frozen=True)
class ChipLabels:
    """What a collection of chips tells `label`; every array has an element a chip.

    ``target`` is uint8 as in `Samples`. ``division`` says how the blocks came about. ``places`` float64 (chip, 2) are
    longitude and latitude in degrees, None where chips are not divided by ground block. ``wide`` is a chip's side in
    metres; ``buffer`` is the distance in metres from held-out chips in which others do not train.
    """

    cells: Cells
    target: np.ndarray
    blocks: ChipBlocks
    division: str
    places: np.ndarray | None
    wide: float
    buffer: float
    _near: dict[bytes, np.ndarray] = field(default_factory=dict, compare=False)

    def labels(self, window: Window) -> TableSource:
        """Cut out the labels to train, validate and test with."""
        marked = np.where(self.cells.marks(window), self.cells.numbers(window), -1)
        target = _spread(self.target, marked, np.uint8(UNLABELLED))
        return TableSource(target, np.full(target.shape, -1, np.int32))

    def test(self, window: Window) -> None:  # noqa: ARG002
        """Cut out independent test labels: a collection has none."""
        return

    def near_window(self, parts: np.ndarray | None, window: Window) -> np.ndarray:
        """Find the pixels of chips that are too near to a held-out one: bool (y, x).

        ``parts`` is the `Part` of every block, None for the final model, which nothing is held out of.
        """
        key = b"" if parts is None else parts.tobytes()
        if key not in self._near:
            held = np.zeros(len(self.target), bool) if parts is None else _held(self.blocks.block, parts)
            self._near[key] = self.near(held)
        return _spread(self._near[key], self.cells.numbers(window), np.bool_(False))

    def near(self, held: np.ndarray) -> np.ndarray:
        """Find chips that overlap a held-out one or lie within the buffer of its middle: bool (chip,), as ``held``."""
        found = np.zeros(len(held), bool)
        if self.places is None or not held.any() or held.all():
            return found
        from scipy.spatial import cKDTree

        points, out, rest = on_globe(*self.places.T), np.flatnonzero(held), np.flatnonzero(~held)
        # Squares whose middles are farther apart than their diagonal do not overlap, however they lie.
        reach = max(self.buffer, self.wide * np.sqrt(2.0))
        pairs = cKDTree(points[out]).sparse_distance_matrix(cKDTree(points[rest]), reach, output_type="ndarray")
        one, other = out[pairs["i"]], rest[pairs["j"]]
        apart = np.radians(self.places[other] - self.places[one])
        apart[:, 0] = (apart[:, 0] + np.pi) % (2 * np.pi) - np.pi
        apart[:, 0] *= np.cos(np.radians(self.places[one, 1]))
        overlapping = (np.abs(apart) * EARTH < OVERLAP * self.wide).all(axis=1)
        found[other[overlapping | (pairs["v"] < self.buffer)]] = True
        return found


def _held(block: np.ndarray, parts: np.ndarray) -> np.ndarray:
    found: np.ndarray = np.isin(parts[block], (Part.VALIDATION, Part.TEST))
    return found


def _spread(values: np.ndarray, numbers: np.ndarray, fill: Any) -> np.ndarray:
    """Give every pixel its chip's value, ``fill`` where its number is -1."""
    found: np.ndarray = np.append(values, fill)[numbers]
    return found


def has_places(tiles: Tiles) -> bool:
    """Tell whether every chip of a collection has coordinates."""
    return bool(np.isfinite(read_table(tiles)[["longitude", "latitude"]].to_numpy(np.float64)).all())


def read_chip_labels(
    tiles: Tiles, values: LabelFile, classes: int, *, block: float, split: str, seed: int, buffer: float
) -> ChipLabels:
    """Read the labels of tiles that are a collection of chips, and make the blocks by which they are divided.

    Chips of the same content are always in one block. Arguments are those of `table_samples.read_labels`.

    Raises:
        LabelError: a label is unknown.
    """
    assert tiles.cells is not None, "these tiles hold no chips"
    table = read_table(tiles)
    number, bounds, division = divide(table, block, split, seed)
    number, copies = _together(number, table["series"].to_numpy())
    if copies:
        log.warning("%d chips are copies of others; copies are never divided", copies)
    return ChipLabels(
        tiles.cells,
        np.asarray(targets_of(table, values, classes), np.uint8),
        ChipBlocks(block=number.astype(np.int32), bounds=bounds, cells=tiles.cells),
        division,
        table[["longitude", "latitude"]].to_numpy(np.float64) if division == BY_GROUND else None,
        tiles.cells.side * tiles.grid.resolution,
        buffer,
    )


def _together(number: np.ndarray, series: np.ndarray) -> tuple[np.ndarray, int]:
    """Give chips of the same content the block of the first of them: int64 (chip,), and count the copies."""
    _, first, place = np.unique(series, return_index=True, return_inverse=True)
    return number[first][place.ravel()], len(series) - len(first)
