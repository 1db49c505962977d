"""Where a raster lies: CRS, transform and size; and the one grid that holds them all."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any

import numpy as np

from stages.errors import SceneError
from stages.geo.grid import Grid

#: Two rasters nearer to one another than this share of a pixel lie on the same grid.
SAME = 0.01
#: Points a side at which an outline is taken to another CRS: straight lines there are curves here.
STEPS = 17


@lru_cache(maxsize=256)
def parsed(crs: str) -> Any:
    """Read a CRS from its text, as rasterio's ``CRS``."""
    from rasterio.crs import CRS

    return CRS.from_user_input(crs)


@lru_cache(maxsize=256)
def same_crs(one: str, other: str) -> bool:
    """Tell whether two texts name the same CRS."""
    return one == other or bool(parsed(one) == parsed(other))


def is_geographic(crs: str) -> bool:
    """Tell whether a CRS counts in degrees of longitude and latitude."""
    return bool(parsed(crs).is_geographic)


@lru_cache(maxsize=256)
def _transformer(source: str, target: str) -> Any:
    from pyproj import Transformer

    return Transformer.from_crs(source, target, always_xy=True)


def transformed(source: str, target: str, xs: np.ndarray, ys: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Take points from one CRS to another, longitudes as they come out; infinite where the target has no place."""
    xs, ys = _transformer(source, target).transform(xs, ys)
    return xs, ys


def to_crs(source: str, target: str, xs: np.ndarray, ys: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Take points from one CRS to another; longitudes stay within half a turn of the first point's.

    Points that the target cannot hold become infinite.
    """
    if same_crs(source, target):
        return xs, ys
    xs, ys = transformed(source, target, xs, ys)
    if is_geographic(target) and np.isfinite(xs).any():
        first = xs[np.isfinite(xs)].ravel()[0]
        xs = np.where(np.isfinite(xs), first + (xs - first + 180.0) % 360.0 - 180.0, xs)
    return xs, ys


@dataclass(frozen=True)
class Frame:
    """The place of a raster: CRS, the six numbers of its affine transform, width and height in pixels."""

    crs: str
    transform: tuple[float, ...]
    width: int
    height: int

    @property
    def upright(self) -> bool:
        """Whether rows run west to east and columns north to south, unrotated."""
        a, b, _, d, e, _ = self.transform[:6]
        return b == 0 and d == 0 and a > 0 and e < 0

    def points(self) -> tuple[np.ndarray, np.ndarray]:
        """Lay a mesh of points over the raster, its corners and edges included, in its CRS: x and y (steps, steps)."""
        cols, rows = np.meshgrid(np.linspace(0, self.width, STEPS), np.linspace(0, self.height, STEPS))
        a, b, c, d, e, f = self.transform[:6]
        return a * cols + b * rows + c, d * cols + e * rows + f

    def ring(self, crs: str) -> list[tuple[float, float]]:
        """Draw the outline as a ring of points in another CRS."""
        xs, ys = to_crs(self.crs, crs, *self.points())
        around = [(0, i) for i in range(STEPS)] + [(i, STEPS - 1) for i in range(1, STEPS)]
        around += [(STEPS - 1, i) for i in range(STEPS - 2, -1, -1)] + [(i, 0) for i in range(STEPS - 2, -1, -1)]
        return [(float(xs[i]), float(ys[i])) for i in around]

    def bounds(self, crs: str) -> tuple[float, float, float, float]:
        """Left, bottom, right, top in a CRS.

        Raises:
            SceneError: the raster lies where that CRS has no coordinates.
        """
        xs, ys = to_crs(self.crs, crs, *self.points())
        if not (np.isfinite(xs).all() and np.isfinite(ys).all()):
            raise SceneError(
                f"a raster in {self.crs[:60]} cannot be placed in {crs[:60]}; set grid.crs to a CRS made for the area."
            )
        return float(xs.min()), float(ys.min()), float(xs.max()), float(ys.max())

    def shifted(self, x: float) -> Frame:
        """Give the same raster moved along x, in CRS units."""
        a, b, c, *rest = self.transform
        return replace(self, transform=(a, b, c + x, *rest))

    def axes(self, crs: str) -> tuple[float, float, float, float]:
        """Measure the middle pixel in units of a CRS: x and y along its row, x and y down its column."""
        a, b, c, d, e, f = self.transform[:6]
        if same_crs(self.crs, crs):
            return a, d, b, e
        cols, rows = self.width / 2 + np.array([0.0, 1.0, 0.0]), self.height / 2 + np.array([0.0, 0.0, 1.0])
        xs, ys = to_crs(self.crs, crs, a * cols + b * rows + c, d * cols + e * rows + f)
        return float(xs[1] - xs[0]), float(ys[1] - ys[0]), float(xs[2] - xs[0]), float(ys[2] - ys[0])

    def resolution(self, crs: str) -> float:
        """Side of the finer axis of its middle pixel in units of a CRS."""
        across_x, across_y, down_x, down_y = self.axes(crs)
        return min(math.hypot(across_x, across_y), math.hypot(down_x, down_y))

    def pixel_area(self, crs: str) -> float:
        """Area of its middle pixel in square units of a CRS."""
        across_x, across_y, down_x, down_y = self.axes(crs)
        return abs(across_x * down_y - across_y * down_x)

    def metres(self) -> float:
        """Side of its finer pixel axis in metres, near enough to rank rasters by."""
        crs = parsed(self.crs)
        unit = 111_320.0 if crs.is_geographic else float(crs.linear_units_factor[1])
        return self.resolution(self.crs) * unit

    def offset(self, grid: Grid) -> tuple[int, int] | None:
        """Row and column of its upper left pixel where its pixels are pixels of the grid, otherwise None."""
        a, _, left, _, e, top = self.transform[:6]
        size = grid.resolution
        if not (self.upright and same_crs(self.crs, grid.crs)):
            return None
        drift = max(abs(a - size) * self.width, abs(-e - size) * self.height) / size
        col, row = (left - grid.left) / size, (grid.top - top) / size
        if drift > SAME or abs(col - round(col)) > SAME or abs(row - round(row)) > SAME:
            return None
        return round(row), round(col)


def unwrap(frames: Sequence[Frame], crs: str) -> list[Frame]:
    """Bring rasters on both sides of the antimeridian together, where a grid in degrees would span the globe."""
    if not is_geographic(crs):
        return list(frames)
    spans = [frame.bounds(crs) for frame in frames]
    if max(s[2] for s in spans) - min(s[0] for s in spans) <= 180:
        return list(frames)
    turned = [(s[0] + 360, s[2] + 360) if s[0] < 0 else (s[0], s[2]) for s in spans]
    if max(t[1] for t in turned) - min(t[0] for t in turned) > 180:
        return list(frames)
    return [f.shifted(360.0) if s[0] < 0 and same_crs(f.crs, crs) else f for f, s in zip(frames, spans, strict=True)]


def tidy(resolution: float) -> float:
    """Round a resolution that came out of a change of CRS to two digits: 9.98 becomes 10."""
    return float(f"{resolution:.1e}")


def snapped(bounds: tuple[float, float, float, float], resolution: float) -> tuple[int, int, int, int]:
    """Express left, bottom, right and top as whole numbers of pixels, grown outwards but not for a rounding error."""
    left, bottom, right, top = (value / resolution for value in bounds)
    return math.floor(left + SAME), math.floor(bottom + SAME), math.ceil(right - SAME), math.ceil(top - SAME)


def snapped_grid(bounds: tuple[float, float, float, float], crs: str, resolution: float, tile: int) -> Grid:
    """Lay the smallest grid around bounds whose pixel edges are multiples of the resolution."""
    left, bottom, right, top = snapped(bounds, resolution)
    size = max(1, right - left), max(1, top - bottom)
    return Grid(crs, resolution, left * resolution, top * resolution, size[0], size[1], tile)


def native_grid(bounds: tuple[float, float, float, float], frame: Frame, tile: int) -> Grid:
    """Lay the smallest grid around bounds that continues the pixels of one raster.

    Raises:
        SceneError: that raster is rotated or its pixels are not square.
    """
    a, _, left, _, e, top = frame.transform[:6]
    if not frame.upright or abs(a + e) * max(frame.width, frame.height) > SAME * a:
        raise SceneError(
            f"grid.origin native needs square, unrotated pixels, but the finest scene's transform is "
            f"{frame.transform[:6]}; use grid.origin: snapped."
        )
    moved = bounds[0] - left, bounds[1] - top, bounds[2] - left, bounds[3] - top
    west, south, east, north = snapped(moved, a)
    return Grid(frame.crs, a, left + west * a, top + north * a, max(1, east - west), max(1, north - south), tile)
