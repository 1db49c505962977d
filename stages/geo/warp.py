"""Read just the source pixels that a window of the grid needs, and bring them onto it."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np

from stages.errors import SceneError
from stages.geo.cubes import read_layers
from stages.geo.frame import Frame, is_geographic, to_crs
from stages.geo.grid import Grid, Window
from stages.geo.headers import reason
from stages.geo.resample import resample, touched

#: Source values (bands times pixels) read at once; a window that needs more is cut in halves.
MAX_VALUES = 16_000_000
#: Source pixels around the outermost positions that any kernel reaches.
REACH = 3
#: Raster files that a thread keeps open: all dates of a stacked file are read from one opening.
MAX_OPEN = 16


@dataclass(frozen=True)
class Layers:
    """The bands of one raster file that are wanted; the tuples run in parallel with ``indexes`` (1-based).

    With ``variables``, the file is a NetCDF file or a Zarr folder: a band is a variable, its index the place in time.
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
    variables: tuple[str, ...] = ()


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
    patch = Patch.empty(len(layers.indexes), (window.height, window.width))
    for part, needed in _parts(layers, grid, window):
        _fill(patch, part.within(window), _warp_part(_read(layers, needed), layers, grid, part, needed))
    factor = np.asarray(layers.scale)[:, None, None], np.asarray(layers.offset)[:, None, None]
    if any(scale != 1 for scale in layers.scale) or any(layers.offset):
        patch.values = np.where(patch.valid, patch.values * factor[0] + factor[1], 0.0).astype(np.float32)
    return patch


def warp_clear(
    layers: Layers, grid: Grid, window: Window, clear: Callable[[np.ndarray], np.ndarray]
) -> tuple[np.ndarray, np.ndarray]:
    """Bring a quality band onto a window of the grid: what is clear, and where that is known.

    ``layers`` is that one band; ``clear`` tells of its values, as they are in the file, which are clear (bool, same
    shape). Returns two bool arrays (y, x). A pixel is known where the file has data for it, by the rule for values;
    it is clear where it is known and every pixel of the file that it touches is clear.

    Raises:
        SceneError: the file is gone, or pixels of it cannot be read.
    """
    shape = (window.height, window.width)
    seen, known = np.zeros(shape, bool), np.zeros(shape, bool)
    for part, needed in _parts(layers, grid, window):
        source = _read(layers, needed)
        data = source.valid[0]
        unclear = ~(data & clear(source.values[0]))
        aligned = layers.frame.offset(grid)
        if aligned is not None:
            place = _place(needed, aligned).within(window)
            seen[place], known[place] = ~unclear, data
            continue
        place, rows, cols = part.within(window), *_positions_in(layers, grid, part, needed)
        _, known[place] = resample(np.zeros(data.shape), data, rows, cols, layers.method)
        seen[place] = known[place] & ~touched(unclear, rows, cols, layers.method)
    return seen, known


def _read(layers: Layers, window: Window) -> Pixels:
    """Read bands of a file on a window of its own pixels.

    Raises:
        SceneError: the file is gone or damaged.
    """
    if layers.variables:
        return judged(read_layers(layers.path, layers.variables, layers.indexes, window), layers.nodata, None)
    from rasterio.errors import RasterioError
    from rasterio.windows import Window as Read

    area = Read(window.col, window.row, window.width, window.height)
    try:
        dataset = OPENED.get(layers.path)
        return judged(
            dataset.read(list(layers.indexes), window=area), layers.nodata, _masked(dataset, layers.indexes, area)
        )
    except RasterioError as fault:
        OPENED.drop(layers.path)
        raise SceneError(
            f"{layers.path} is damaged: some of its pixels cannot be read ({reason(fault)}); download or copy it again."
        ) from fault


def judged(bands: Sequence[np.ndarray], nodata: Sequence[float | None], masked: np.ndarray | None) -> Pixels:
    """Tell which values of bands (y, x) are valid, which are masked and which are broken."""
    valid = np.stack([is_data(band, empty) for band, empty in zip(bands, nodata, strict=True)])
    values, broken = np.stack(bands), np.zeros_like(valid)
    if values.dtype.kind == "f":
        # What float32, the type of the tiles, cannot hold is as good as infinite.
        broken = valid & ~(np.abs(values) <= np.finfo(np.float32).max)
        valid &= ~broken
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


class Opened(threading.local):
    """The raster files that a thread has open, the last used at the end; rasterio's datasets belong to one thread."""

    def __init__(self) -> None:
        self.datasets: OrderedDict[str, tuple[tuple[int, int, int], Any]] = OrderedDict()
        self.row = -1

    def keep_for(self, row: int) -> None:
        """Begin with some tiles of a row: what was opened for another row is closed.

        GDAL keeps the decoded blocks of an open file. They are of use along a row of tiles, as a striped file's blocks
        reach all over it, but kept any longer they would grow with the height of the area.
        """
        if row != self.row:
            for path in list(self.datasets):
                self.drop(path)
        self.row = row

    def get(self, path: str) -> Any:
        """Open a file, or take it as it is open where it has not changed since.

        Raises:
            RasterioError: it cannot be opened.
        """
        import rasterio

        try:
            state = Path(path).stat()
            stamp = state.st_mtime_ns, state.st_size, state.st_ino
        except OSError:
            # rasterio says what is wrong, or knows an address that is no path.
            stamp = (-1, -1, -1)
        known, dataset = self.datasets.get(path, (None, None))
        # What a VRT is made of may change while the VRT does not.
        if dataset is None or known != stamp or stamp[0] < 0 or Path(path).suffix.lower() == ".vrt":
            self.drop(path)
            dataset = rasterio.open(path)
            self.datasets[path] = stamp, dataset
        self.datasets.move_to_end(path)
        if len(self.datasets) > MAX_OPEN:
            self.drop(next(iter(self.datasets)))
        return dataset

    def drop(self, path: str) -> None:
        """Close a file that may be open."""
        if path in self.datasets:
            self.datasets.pop(path)[1].close()


OPENED = Opened()


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


def _positions_in(layers: Layers, grid: Grid, window: Window, needed: Window) -> tuple[np.ndarray, np.ndarray]:
    """Rows and columns of a window's pixels, as its kernel takes them, in a part of the source."""
    rows, cols = _positions(layers.frame, grid, window, layers.method == "average")
    return rows - needed.row, cols - needed.col


def _place(needed: Window, aligned: tuple[int, int]) -> Window:
    """Find where a part of a source lies on the grid whose pixels it shares."""
    return Window(needed.row + aligned[0], needed.col + aligned[1], needed.height, needed.width)


def _parts(layers: Layers, grid: Grid, window: Window) -> Iterator[tuple[Window, Window]]:
    """Cut a window in halves until what it needs of the source fits in memory; skip what the source cannot reach.

    Yields every part with the source pixels that it needs.
    """
    needed = _needed(layers, grid, window)
    if needed is None:
        return
    if needed.height * needed.width * len(layers.indexes) <= MAX_VALUES or window.height * window.width == 1:
        yield window, needed
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


def _warp_part(source: Pixels, layers: Layers, grid: Grid, window: Window, needed: Window) -> Patch:
    """Bring what was read for one window onto it, unscaled."""
    patch = Patch.empty(len(layers.indexes), (window.height, window.width))
    aligned = layers.frame.offset(grid)
    if aligned is not None:
        place = _place(needed, aligned).within(window)
        patch.values[(..., *place)] = np.where(source.valid, source.values, 0)
        patch.valid[(..., *place)] = source.valid
    else:
        rows, cols = _positions_in(layers, grid, window, needed)
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
