"""Cut the grid into square ground blocks of whole pixels, and measure pixels in metres."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np

from stages.geo.grid import Grid, Window

#: A projection whose own metre is true to this share is taken at its word: 10 m pixels are then 10 m, not 9.998.
TRUE_METRE = 0.01


def smallest_sides(grid: Grid, window: Window) -> tuple[float, float]:
    """Least ground length of a pixel of a window in metres, (down, across): distances by it are never too long."""
    rows = {window.row, window.row + window.height // 2, window.row + window.height - 1}
    sides = [pixel_sides(grid, row) for row in rows]
    return min(down for down, _ in sides), min(across for _, across in sides)


@lru_cache(maxsize=4096)
def pixel_sides(grid: Grid, row: int | None = None) -> tuple[float, float]:
    """Ground length of a pixel in metres, (down, across), in the middle of a row, by default the middle one.

    The two differ in a geographic CRS. A local projection counts in its own units; one that distorts lengths
    (Web Mercator far from the equator) is measured on the ellipsoid.
    """
    from pyproj import CRS, Geod, Transformer

    crs = CRS.from_user_input(grid.crs)
    geod = crs.get_geod() or Geod(ellps="WGS84")
    to_lonlat = Transformer.from_crs(crs, crs.geodetic_crs or "EPSG:4326", always_xy=True)
    x = grid.left + (grid.width // 2) * grid.resolution
    y = grid.top - (grid.height // 2 if row is None else row) * grid.resolution
    xs, ys = [x, x, x + grid.resolution], [y, y - grid.resolution, y]
    lon, lat = to_lonlat.transform(xs, ys)
    down = geod.inv(lon[0], lat[0], lon[1], lat[1])[2]
    across = geod.inv(lon[0], lat[0], lon[2], lat[2])[2]
    if not crs.is_geographic:
        nominal = grid.resolution * crs.axis_info[0].unit_conversion_factor
        if abs(down / nominal - 1) < TRUE_METRE and abs(across / nominal - 1) < TRUE_METRE:
            return nominal, nominal
    return float(down), float(across)


@dataclass(frozen=True)
class Blocks:
    """Square blocks of ``side`` pixels from the grid's origin, numbered row by row; the last ones are cut."""

    side: int
    height: int
    width: int

    @classmethod
    def of_metres(cls, grid: Grid, metres: float) -> Blocks:
        """Blocks whose side is the whole number of pixels nearest to ``metres`` on the ground."""
        down, across = pixel_sides(grid)
        return cls(max(1, round(metres / (down * across) ** 0.5)), grid.height, grid.width)

    @property
    def columns(self) -> int:
        """Number of blocks in a row."""
        return -(-self.width // self.side)

    @property
    def count(self) -> int:
        """Number of blocks."""
        return -(-self.height // self.side) * self.columns

    def ids(self, window: Window) -> np.ndarray:
        """Block of every pixel of a window: int32 (y, x)."""
        rows = np.arange(window.row, window.row + window.height, dtype=np.int32) // self.side
        cols = np.arange(window.col, window.col + window.width, dtype=np.int32) // self.side
        found: np.ndarray = rows[:, None] * np.int32(self.columns) + cols[None, :]
        return found

    def outlines(self, grid: Grid) -> Any:
        """Outline of every block in the grid's CRS: array of shapely boxes (block,)."""
        from shapely import box

        rows, cols = np.divmod(np.arange(self.count), self.columns)
        left = grid.left + cols * self.side * grid.resolution
        top = grid.top - rows * self.side * grid.resolution
        right = grid.left + np.minimum((cols + 1) * self.side, self.width) * grid.resolution
        bottom = grid.top - np.minimum((rows + 1) * self.side, self.height) * grid.resolution
        return box(left, bottom, right, top)
