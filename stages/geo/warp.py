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
from stages.geo.frame import Frame, to_crs
from stages.geo.grid import Grid, Window
from stages.geo.headers import reason
from stages.geo.positions import positions
from stages.geo.resample import (
    ENOUGH,
    NOISE,
    Laid,
    kind_of,
    lay_kernel,
    resample_bands,
    shares,
    touching,
    touching_method,
)

#: Source values (bands times pixels) read at once; a window that needs more is cut in halves.
MAX_VALUES = 16_000_000
#: Source pixels around the outermost positions that a kernel reaches.
REACH = {"nearest": 1, "bilinear": 1, "cubic": 2, "average": 0}
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
    patch: Patch | None = None
    for part, needed in _parts(layers, grid, window):
        found = _warp_part(_read(layers, needed), layers, grid, part, needed)
        if part == window:
            patch = found
        else:
            patch = patch or Patch.empty(len(layers.indexes), (window.height, window.width))
            _fill(patch, part.within(window), found)
    patch = patch or Patch.empty(len(layers.indexes), (window.height, window.width))
    for values, valid, scale, offset in zip(patch.values, patch.valid, layers.scale, layers.offset, strict=True):
        if scale != 1 or offset != 0:
            np.copyto(values, values * np.float64(scale) + offset, where=valid, casting="same_kind")
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
        place = part.within(window)
        known[place] = shares(data[None], _laid(layers, grid, part, needed, "float32"))[0] >= ENOUGH - NOISE
        seen[place] = known[place] & ~_touched(unclear, layers, grid, part, needed)
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
    values = bands if isinstance(bands, np.ndarray) else np.stack(bands)
    valid = np.empty(values.shape, bool)
    for one, band, empty in zip(valid, values, nodata, strict=True):
        one[:] = is_data(band, empty)
    broken = np.zeros_like(valid)
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
        """Begin with some tiles of a band of rows: what was opened for another band is closed.

        GDAL keeps the decoded blocks of an open file. They are of use along and between neighbouring rows of tiles, as
        blocks reach over several, but kept any longer they would grow with the height of the area.
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


@lru_cache(maxsize=4)
def _positions(frame: Frame, grid: Grid, window: Window, corners: bool) -> tuple[np.ndarray, np.ndarray]:
    """Remember the positions of a window: its kernel is laid at them as soon as it is known what must be read."""
    return positions(frame, grid, window, corners)


@lru_cache(maxsize=8)
def _laid_at(frame: Frame, grid: Grid, places: tuple[Window, Window], method: str, kind: str) -> Laid:
    """Lay the kernel of a window on a part of the source, once for all files and dates that lie there."""
    window, needed = places
    rows, cols = _positions(frame, grid, window, method == "average")
    return lay_kernel(rows - needed.row, cols - needed.col, (needed.height, needed.width), method, kind)


def _laid(layers: Layers, grid: Grid, window: Window, needed: Window, kind: str) -> Laid:
    """Lay the kernel of a window on what was read of the source."""
    return _laid_at(layers.frame, grid, (window, needed), layers.method, kind)


def _touched(masked: np.ndarray, layers: Layers, grid: Grid, window: Window, needed: Window) -> np.ndarray:
    """Tell which pixels of a window look at a masked one: masked bool (h, w) -> bool (y, x)."""
    if not masked.any():
        return np.zeros((window.height, window.width), bool)
    method = touching_method(layers.method)
    return touching(masked, _laid_at(layers.frame, grid, (window, needed), method, "float32"))


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
    if aligned is None:
        return _reached(frame, grid, window, layers.method)
    top, left = window.row - aligned[0], window.col - aligned[1]
    return _clipped(frame, top, left, top + window.height, left + window.width)


@lru_cache(maxsize=256)
def _reached(frame: Frame, grid: Grid, window: Window, method: str) -> Window | None:
    """Find the source pixels that a kernel looks at on a window, None where there are none."""
    sides = []
    for at in _positions(frame, grid, window, method == "average"):
        known = at if np.isfinite(at).all() else at[np.isfinite(at)]
        if not known.size:
            return None
        # Edges that lie on one another but for rounding do not make one more row of blocks to be unpacked.
        first, last = np.floor(known.min() + NOISE), np.ceil(known.max() - NOISE)
        sides.append((int(first) - REACH[method], int(last) + REACH[method]))
    (top, bottom), (left, right) = sides
    return _clipped(frame, top, left, bottom, right)


def _clipped(frame: Frame, top: int, left: int, bottom: int, right: int) -> Window | None:
    """Clip rows and columns to a raster, None where nothing is left."""
    top, left, bottom, right = max(0, top), max(0, left), min(frame.height, bottom), min(frame.width, right)
    return Window(top, left, bottom - top, right - left) if bottom > top and right > left else None


def _warp_part(source: Pixels, layers: Layers, grid: Grid, window: Window, needed: Window) -> Patch:
    """Bring what was read for one window onto it, unscaled."""
    aligned = layers.frame.offset(grid)
    patch = Patch.empty(len(layers.indexes), (window.height, window.width))
    if aligned is not None:
        place = _place(needed, aligned).within(window)
        every = bool(source.valid.all())
        np.copyto(patch.values[(..., *place)], source.values, where=every or source.valid, casting="unsafe")
        patch.valid[(..., *place)] = source.valid
    else:
        laid = _laid(layers, grid, window, needed, kind_of(source.values.dtype))
        values, patch.valid = resample_bands(source.values, source.valid, laid)
        patch.values = values.astype(np.float32, copy=False)
        if source.masked is not None and (touched := _touched(source.masked, layers, grid, window, needed)).any():
            patch.valid = patch.valid & ~touched
            patch.values[~patch.valid] = 0
    for i, valid in enumerate(source.valid):
        patch.low[i], patch.high[i] = _range(source.values[i], valid)
        if source.broken[i].any():
            patch.broken[i] = _count_on(source.broken[i], needed, layers.frame, grid, window)
    return patch


def _range(values: np.ndarray, valid: np.ndarray) -> tuple[float, float]:
    """Find the least and the greatest valid value; infinite, the wrong way round, where there is none."""
    if valid.all():
        return float(values.min()), float(values.max())
    if not valid.any():
        return np.inf, -np.inf
    # Not by picking out the valid ones, which takes ten times as long: any of them takes the place of all others.
    kept = np.where(valid, values, values[np.unravel_index(valid.argmax(), valid.shape)])
    return float(kept.min()), float(kept.max())


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
