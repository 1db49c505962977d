"""Deal pixels into piles at random, which take the place of ground blocks where a split at random is asked for."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from stages.geo.grid import Grid, Window
from stages.training.statistics import scatter

#: So many that a pile of a small collection holds a sample or two, and few enough to be divided in a moment.
PILES = 1000


@dataclass(frozen=True)
class Piles:
    """`PILES` piles of scattered pixels, and a last one for pixels without a label; used as `Blocks` are."""

    seed: int
    side: int = 1
    columns: int = 1

    @property
    def count(self) -> int:
        """Number of piles, the last included."""
        return PILES + 1

    def ids(self, window: Window) -> np.ndarray:
        """Pile of every pixel of a window: int32 (y, x), by its place and the seed alone."""
        rows = np.arange(window.row, window.row + window.height)
        cols = np.arange(window.col, window.col + window.width)
        row, col = np.meshgrid(rows, cols, indexing="ij")
        return (scatter(row, col, self.seed + 1) * PILES).astype(np.int32)

    def outlines(self, grid: Grid) -> Any:  # noqa: ARG002  as `Blocks.outlines`
        """Give an empty outline to every pile."""
        from shapely import Polygon

        return np.array([Polygon()] * self.count, dtype=object)
