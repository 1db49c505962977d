"""Lay square chips side by side in the cells of a made-up grid, and find whose pixel is where."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from stages.geo.grid import Grid, Window

#: The side of a cell is a multiple of this many pixels, by which chip classifiers coarsen an image.
UNIT = 8
#: The made-up grid: equal-area, from the origin. A tile of it is about so many pixels wide.
CRS, TILE = "EPSG:6933", 512


@dataclass(frozen=True)
class Cells:
    """The cells of ``count`` chips of ``side`` pixels, row by row, a chip in the upper left of its cell.

    No stage reads more than one cell at once where neighbours would matter: what lies beside a chip is another one.
    """

    side: int
    count: int

    @property
    def size(self) -> int:
        """Side of a cell in pixels."""
        return -(-self.side // UNIT) * UNIT

    @property
    def tile(self) -> int:
        """Side of a tile in pixels: whole cells."""
        return max(1, TILE // self.size) * self.size

    @property
    def columns(self) -> int:
        """Cells beside one another: about as many as below one another, in whole tiles."""
        wide, root = self.tile // self.size, math.isqrt(self.count - 1) + 1
        return -(-root // wide) * wide

    @property
    def rows(self) -> int:
        """Cells below one another."""
        return -(-self.count // self.columns)

    def grid(self, resolution: float) -> Grid:
        """Make the grid that holds the cells."""
        return Grid(CRS, resolution, 0.0, 0.0, self.columns * self.size, self.rows * self.size, self.tile)

    def corners(self, numbers: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """First row and column of the cells of some chips, in pixels: int64 (chip,) each."""
        row, col = np.divmod(np.asarray(numbers, np.int64), self.columns)
        return row * self.size, col * self.size

    def middles(self) -> tuple[np.ndarray, np.ndarray]:
        """Row and column of the pixel that stands for each chip, the middle one of its cell: int64 (chip,) each."""
        row, col = self.corners(np.arange(self.count))
        return row + self.size // 2, col + self.size // 2

    def numbers(self, window: Window) -> np.ndarray:
        """Chip of every pixel of a window, -1 beyond the last cell: int64 (y, x)."""
        rows = np.arange(window.row, window.row + window.height) // self.size
        cols = np.arange(window.col, window.col + window.width) // self.size
        found = rows[:, None] * self.columns + cols[None]
        return np.where(found < self.count, found, -1)

    def marks(self, window: Window) -> np.ndarray:
        """Find the pixels of a window that stand for a chip: bool (y, x)."""
        middle = self.size // 2
        rows = np.arange(window.row, window.row + window.height) % self.size == middle
        cols = np.arange(window.col, window.col + window.width) % self.size == middle
        found: np.ndarray = (rows[:, None] & cols[None]) & (self.numbers(window) >= 0)
        return found

    def within(self, window: Window) -> np.ndarray:
        """List the chips whose cells lie in a window of whole cells, row by row: int64 (chip,)."""
        rows = np.arange(window.row // self.size, -(-(window.row + window.height) // self.size))
        cols = np.arange(window.col // self.size, -(-(window.col + window.width) // self.size))
        found = (rows[:, None] * self.columns + cols[None]).ravel()
        return found[found < self.count]
