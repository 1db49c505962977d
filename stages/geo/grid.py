"""The one pixel grid of an area and the tiles that are addresses on it."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from affine import Affine


@dataclass(frozen=True, order=True)
class Window:
    """A rectangle of pixels: first row and column, height and width."""

    row: int
    col: int
    height: int
    width: int

    @property
    def slices(self) -> tuple[slice, slice]:
        """Rows and columns as slices into an array of the whole grid."""
        return slice(self.row, self.row + self.height), slice(self.col, self.col + self.width)

    def padded(self, pixels: int, grid: Grid) -> Window:
        """Grow by ``pixels`` on every side, clipped to the grid."""
        top, left = max(0, self.row - pixels), max(0, self.col - pixels)
        bottom = min(grid.height, self.row + self.height + pixels)
        right = min(grid.width, self.col + self.width + pixels)
        return Window(top, left, bottom - top, right - left)

    def within(self, outer: Window) -> tuple[slice, slice]:
        """Rows and columns of this window as slices into an array of ``outer``."""
        row, col = self.row - outer.row, self.col - outer.col
        return slice(row, row + self.height), slice(col, col + self.width)


@dataclass(frozen=True)
class Grid:
    """CRS, square resolution (CRS units), upper left corner, size in pixels and side of a tile in pixels."""

    crs: str
    resolution: float
    left: float
    top: float
    width: int
    height: int
    tile: int

    @cached_property
    def transform(self) -> Affine:
        """Affine transform from (column, row) to CRS coordinates."""
        from affine import Affine

        return Affine(self.resolution, 0.0, self.left, 0.0, -self.resolution, self.top)

    @property
    def shape(self) -> tuple[int, int]:
        """Height and width in pixels."""
        return self.height, self.width

    @property
    def whole(self) -> Window:
        """The window of every pixel."""
        return Window(0, 0, self.height, self.width)

    @property
    def bounds(self) -> tuple[float, float, float, float]:
        """Left, bottom, right, top in CRS units."""
        right = self.left + self.width * self.resolution
        return self.left, self.top - self.height * self.resolution, right, self.top

    def bounds_of(self, window: Window) -> tuple[float, float, float, float]:
        """Left, bottom, right, top of a window in CRS units."""
        left, top = self.left + window.col * self.resolution, self.top - window.row * self.resolution
        return left, top - window.height * self.resolution, left + window.width * self.resolution, top

    def tiles(self) -> Iterator[tuple[int, int, Window]]:
        """Every tile as (row, column, window), row by row; the last ones are cut at the grid's edge."""
        for row in range(-(-self.height // self.tile)):
            for col in range(-(-self.width // self.tile)):
                top, left = row * self.tile, col * self.tile
                size = min(self.tile, self.height - top), min(self.tile, self.width - left)
                yield row, col, Window(top, left, *size)

    def pixel_metres(self) -> float:
        """Ground length of a pixel's side in metres, at the middle of the grid."""
        return math.sqrt(self.pixel_hectares(self.height // 2, self.height // 2 + 1)[0] * 10_000.0)

    def pixel_hectares(self, first: int, last: int) -> Any:
        """Measure the true ground area of one pixel of every row ``first..last-1``, in hectares, as float64 (rows,).

        Geographic and equal-area or local projected grids alike: the corners of each row's middle pixel are
        taken to longitude and latitude and measured on the ellipsoid, so a distorting CRS cannot falsify areas.
        """
        import numpy as np
        from pyproj import CRS, Geod, Transformer

        crs = CRS.from_user_input(self.crs)
        geod = crs.get_geod() or Geod(ellps="WGS84")
        to_lonlat = Transformer.from_crs(crs, crs.geodetic_crs or "EPSG:4326", always_xy=True)
        middle = self.left + (self.width // 2) * self.resolution
        # Areas vary smoothly from row to row: measure at most 64 rows and interpolate between them.
        rows = np.unique(np.linspace(first, last - 1, min(64, last - first)).round().astype(int))
        areas = []
        for row in rows:
            top = self.top - row * self.resolution
            xs = np.array([middle, middle + self.resolution, middle + self.resolution, middle])
            ys = np.array([top, top, top - self.resolution, top - self.resolution])
            lon, lat = to_lonlat.transform(xs, ys)
            areas.append(abs(geod.polygon_area_perimeter(lon, lat)[0]) / 10_000.0)
        return np.interp(np.arange(first, last), rows, np.asarray(areas))
