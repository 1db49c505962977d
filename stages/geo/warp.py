"""Read just the source pixels that a window of the grid needs, and bring them onto it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np

from stages.errors import SceneError
from stages.geo.frame import Frame, is_geographic, to_crs
from stages.geo.grid import Grid, Window
from stages.geo.headers import reason
from stages.geo.resample import resample, touched

#: Source values (bands times pixels) read at once; a window that needs more is cut in halves.
MAX_VALUES = 16_000_000
#: Source pixels around the outermost positions that any kernel reaches.
REACH = 3


@dataclass(frozen=True)
class Layers:
    """The bands of one raster file that are wanted; the tuples run in parallel with ``indexes`` (1-based).

    ``frame`` is where the file is taken to lie: its own place, or that place moved by a turn of longitude.
    ``method`` is one of nearest, bilinear, cubic and average.
    """

    path: str
    frame: Frame
    indexes: tuple[int, ...]
    nodata: tuple[float | None, ...]
    scale: tuple[float, ...]
    offset: tuple[float, ...]
    method: str


@dataclass
class Patch:
    """One file's bands on a window of the grid.

    values float32 (band, y, x), scaled, 0 where invalid; valid bool (band, y, x). About the source pixels that were
    read, before scaling: ``low`` and ``high`` (band,), infinite where none is valid, and ``broken`` (band,), the
    number of NaN and infinite ones on this window that are not the file's nodata.
    """

    values: np.ndarray
    valid: np.ndarray
    low: np.ndarray
    high: np.ndarray
    broken: np.ndarray

    @classmethod
    def empty(cls, bands: int, shape: tuple[int, int]) -> Patch:
        """Make a patch without a valid pixel."""
        return cls(
            np.zeros((bands, *shape), np.float32),
            np.zeros((bands, *shape), bool),
            np.full(bands, np.inf),
            np.full(bands, -np.inf),
            np.zeros(bands, np.int64),
        )


@dataclass(frozen=True)
class Pixels:
    """Pixels as they lie in a file: values, valid and broken (band, y, x); masked (y, x) or None without a mask."""

    values: np.ndarray
    valid: np.ndarray
    broken: np.ndarray
    masked: np.ndarray | None


def warp(layers: Layers, grid: Grid, window: Window) -> Patch:
    """Bring a file's bands onto a window of the grid.

    Where the file's pixels are pixels of the grid its values are copied; otherwise they are resampled from their
    exact positions, so a pixel's value does not depend on how the grid is cut. NaN and infinite values are nodata.
    A pixel of the file's own mask or alpha band takes every target pixel that touches it (any-invalid).

    Raises:
        SceneError: the file is gone, or pixels of it cannot be read.
    """
    from rasterio.errors import RasterioError

    patch = Patch.empty(len(layers.indexes), (window.height, window.width))
    try:
        with _open(layers.path) as dataset:
            for part in _parts(layers, grid, window):
                _fill(patch, part.within(window), _warp_part(dataset, layers, grid, part))
    except RasterioError as fault:
        raise SceneError(
            f"{layers.path} is damaged: some of its pixels cannot be read ({reason(fault)}); download or copy it again."
        ) from fault
    factor = np.asarray(layers.scale)[:, None, None], np.asarray(layers.offset)[:, None, None]
    if any(scale != 1 for scale in layers.scale) or any(layers.offset):
        patch.values = np.where(patch.valid, patch.values * factor[0] + factor[1], 0.0).astype(np.float32)
    return patch


def read_valid(dataset: Any, indexes: tuple[int, ...], nodata: tuple[float | None, ...], window: Window) -> Pixels:
    """Read bands of an open file: what is valid, what is masked and what is broken."""
    from rasterio.windows import Window as Read

    area = Read(window.col, window.row, window.width, window.height)
    values = dataset.read(list(indexes), window=area)
    valid = np.stack([is_data(band, empty) for band, empty in zip(values, nodata, strict=True)])
    broken = np.zeros_like(valid)
    if values.dtype.kind == "f":
        # What float32, the type of the tiles, cannot hold is as good as infinite.
        broken = valid & ~(np.abs(values) <= np.finfo(np.float32).max)
        valid &= ~broken
    masked = _masked(dataset, indexes, area)
    if masked is not None:
        broken &= ~masked
        valid &= ~masked
    return Pixels(values, valid, broken, masked)


def _masked(dataset: Any, indexes: tuple[int, ...], area: Any) -> np.ndarray | None:
    """Read what the file masks beside its nodata, None where it has neither a mask nor an alpha band: bool (y, x).

    Where a header declares nodata, GDAL's own mask of a band is that alone: an alpha band is looked at here. A file
    that masks every band by itself loses the pixels that any of them masks, as all bands of a pixel are needed.
    """
    from rasterio.enums import ColorInterp, MaskFlags

    flags = dataset.mask_flag_enums
    masks = [i for i in indexes if not flags[i - 1]]
    if not masks:
        masks = [i for i in indexes if MaskFlags.per_dataset in flags[i - 1]][:1]
    alpha = [i for i, kind in enumerate(dataset.colorinterp, 1) if kind == ColorInterp.alpha]
    if not masks and not alpha:
        return None
    layers = [dataset.read_masks(i, window=area) for i in masks] + [dataset.read(i, window=area) for i in alpha]
    return np.asarray((np.stack(layers) == 0).any(axis=0))


def is_data(values: np.ndarray, nodata: float | None) -> np.ndarray:
    """Tell which values of a band are not its nodata, compared in the band's own type: bool, same shape."""
    if nodata is None:
        return np.ones(values.shape, bool)
    if np.isnan(nodata):
        return np.asarray(~np.isnan(values))
    if values.dtype.kind == "f":
        # A header may hold a number that this float type rounds, such as -3.4e38: compare after rounding it too.
        with np.errstate(over="ignore"):
            return np.asarray(values != np.asarray(nodata).astype(values.dtype))
    limits = np.iinfo(values.dtype)
    if np.isinf(nodata) or nodata != int(nodata) or not limits.min <= nodata <= limits.max:
        return np.ones(values.shape, bool)
    return np.asarray(values != values.dtype.type(int(nodata)))


def _open(path: str) -> Any:
    import rasterio

    return rasterio.open(path)


@lru_cache(maxsize=16)
def _positions(frame: Frame, grid: Grid, window: Window, corners: bool) -> tuple[np.ndarray, np.ndarray]:
    """Rows and columns in the source of a window's pixel centres (y, x), or of their corners (y + 1, x + 1)."""
    start, more = (0.0, 1) if corners else (0.5, 0)
    cols, rows = np.meshgrid(
        window.col + start + np.arange(window.width + more), window.row + start + np.arange(window.height + more)
    )
    xs, ys = grid.left + cols * grid.resolution, grid.top - rows * grid.resolution
    xs, ys = to_crs(grid.crs, frame.crs, xs, ys)
    return _pixels_of(frame, xs, ys)


def _pixels_of(frame: Frame, xs: np.ndarray, ys: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Rows and columns of a raster at coordinates of its CRS, which may be turns of longitude away."""
    a, b, c, d, e, f = frame.transform[:6]
    if is_geographic(frame.crs):
        centre = a * frame.width / 2 + b * frame.height / 2 + c
        # Just short of half a turn, so that the far edge of a raster of the whole globe stays on its side.
        xs = xs - 360.0 * np.round((xs - centre) / 360.0 * (1 - 1e-9))
    # Taken from the raster's corner, so that large coordinates leave no rounding behind.
    xs, ys = xs - c, ys - f
    return (a * ys - d * xs) / (a * e - b * d), (e * xs - b * ys) / (a * e - b * d)


def _parts(layers: Layers, grid: Grid, window: Window) -> Iterator[Window]:
    """Cut a window in halves until what it needs of the source fits in memory; skip what the source cannot reach."""
    needed = _needed(layers, grid, window)
    if needed is None:
        return
    if needed.height * needed.width * len(layers.indexes) <= MAX_VALUES or window.height * window.width == 1:
        yield window
        return
    high, wide = window.height, window.width
    if high >= wide:
        halves = (Window(window.row, window.col, high // 2, wide),
                  Window(window.row + high // 2, window.col, high - high // 2, wide))  # fmt: skip
    else:
        halves = (Window(window.row, window.col, high, wide // 2),
                  Window(window.row, window.col + wide // 2, high, wide - wide // 2))  # fmt: skip
    for half in halves:
        yield from _parts(layers, grid, half)


def _needed(layers: Layers, grid: Grid, window: Window) -> Window | None:
    """Find the source pixels that a window needs, None where the source does not reach it."""
    frame = layers.frame
    aligned = frame.offset(grid)
    if aligned is not None:
        top, left = window.row - aligned[0], window.col - aligned[1]
        bottom, right = top + window.height, left + window.width
    else:
        rows, cols = _positions(frame, grid, window, True)
        known = np.isfinite(rows) & np.isfinite(cols)
        if not known.any():
            return None
        top, left = int(np.floor(rows[known].min())) - REACH, int(np.floor(cols[known].min())) - REACH
        bottom, right = int(np.ceil(rows[known].max())) + REACH, int(np.ceil(cols[known].max())) + REACH
    top, left, bottom, right = max(0, top), max(0, left), min(frame.height, bottom), min(frame.width, right)
    return Window(top, left, bottom - top, right - left) if bottom > top and right > left else None


def _warp_part(dataset: Any, layers: Layers, grid: Grid, window: Window) -> Patch:
    """Read and resample the bands for one window, unscaled."""
    patch = Patch.empty(len(layers.indexes), (window.height, window.width))
    needed = _needed(layers, grid, window)
    assert needed is not None
    source = read_valid(dataset, layers.indexes, layers.nodata, needed)
    aligned = layers.frame.offset(grid)
    if aligned is not None:
        place = Window(needed.row + aligned[0], needed.col + aligned[1], needed.height, needed.width).within(window)
        patch.values[(..., *place)] = np.where(source.valid, source.values, 0)
        patch.valid[(..., *place)] = source.valid
    else:
        rows, cols = _positions(layers.frame, grid, window, layers.method == "average")
        rows, cols = rows - needed.row, cols - needed.col
        for i, (values, valid) in enumerate(zip(source.values, source.valid, strict=True)):
            found = resample(values, valid, rows, cols, layers.method)
            patch.values[i], patch.valid[i] = found
        if source.masked is not None:
            patch.valid &= ~touched(source.masked, rows, cols, layers.method)
            patch.values[~patch.valid] = 0
    for i, valid in enumerate(source.valid):
        if valid.any():
            patch.low[i], patch.high[i] = source.values[i][valid].min(), source.values[i][valid].max()
        if source.broken[i].any():
            patch.broken[i] = _count_on(source.broken[i], needed, layers.frame, grid, window)
    return patch


def _count_on(found: np.ndarray, place: Window, frame: Frame, grid: Grid, window: Window) -> int:
    """Count the source pixels whose centre lies on a window of the grid, so that every one is counted once."""
    row, col = np.nonzero(found)
    a, b, c, d, e, f = frame.transform[:6]
    rows, cols = row + place.row + 0.5, col + place.col + 0.5
    xs, ys = to_crs(frame.crs, grid.crs, a * cols + b * rows + c, d * cols + e * rows + f)
    x, y = np.floor((xs - grid.left) / grid.resolution), np.floor((grid.top - ys) / grid.resolution)
    inside = (y >= window.row) & (y < window.row + window.height)
    inside &= (x >= window.col) & (x < window.col + window.width)
    return int(inside.sum())


def _fill(patch: Patch, place: tuple[slice, slice], part: Patch) -> None:
    """Put a part into its place and carry its counts along."""
    patch.values[(..., *place)], patch.valid[(..., *place)] = part.values, part.valid
    patch.low, patch.high = np.minimum(patch.low, part.low), np.maximum(patch.high, part.high)
    patch.broken = patch.broken + part.broken
