"""Read NetCDF files and Zarr folders whose variables are bands on a grid, most of them along a time axis."""

from __future__ import annotations

import hashlib
import os
import threading
import warnings
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from stages.errors import SceneError
from stages.geo.frame import Frame, parsed
from stages.geo.grid import Window
from stages.geo.headers import iso_date, reason, short_name
from stages.geo.identity import content_identity

NETCDF, ZARR = (".nc", ".nc4"), ".zarr"
#: What the axes are called; attributes tell where the names do not.
TIMES, ROWS, COLUMNS = (
    ("time", "t", "date", "datetime"), ("y", "lat", "latitude", "northing"), ("x", "lon", "longitude", "easting")
)  # fmt: skip
DEGREES = "lon", "longitude"
#: Attributes that hold a CRS, the surest first.
CRS_KEYS = "crs_wkt", "spatial_ref", "proj:code", "proj:wkt2", "proj:epsg", "crs", "epsg"
#: Pixel centres may be this share of a pixel off their even spacing: 32-bit coordinates are rounded.
UNEVEN = 0.1
#: Bytes of pixels that a process keeps, so that all dates of a window are read at once.
CAPACITY = 256 * 1024 * 1024
#: Bytes of one read: several threads with several files each share what is kept.
BLOCK = max(8 * 1024 * 1024, CAPACITY // (4 * (os.cpu_count() or 1)))
#: Files kept open.
MAX_OPEN = 8
#: What the libraries below raise at a damaged file.
DAMAGE = (OSError, ValueError, KeyError, RuntimeError, TypeError)
#: Files of a Zarr folder that change when it is written anew.
META = "zarr.json", ".zmetadata", ".zgroup"


@dataclass(frozen=True)
class Variable:
    """One variable as its attributes describe it."""

    name: str
    dtype: str
    nodata: float | None
    scale: float
    offset: float


@dataclass(frozen=True)
class Cube:
    """What a file says of some of its variables, which lie on one grid.

    ``dates`` holds one ISO 8601 date a step of the time axis, and "" alone where there is no such axis. ``frame`` is
    upright: rows run from north to south and columns from west to east, whatever the order in the file.
    """

    path: Path
    frame: Frame
    dates: tuple[str, ...]
    variables: tuple[Variable, ...]

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the variables."""
        return tuple(variable.name for variable in self.variables)


@dataclass(frozen=True)
class Axes:
    """Dimensions of a variable: time is "" where it has none."""

    time: str
    y: str
    x: str


def is_cube(path: Path) -> bool:
    """Tell by its name whether a path is a NetCDF file or a Zarr folder."""
    return path.suffix.lower() in NETCDF or (path.suffix.lower() == ZARR and path.is_dir())


def cube_files(path: Path) -> list[Path]:
    """List the files that a cube is made of."""
    return sorted(file for file in path.rglob("*") if file.is_file()) if path.is_dir() else [path]


def cube_identity(path: Path) -> str:
    """Hash what a cube holds: for a Zarr folder, the names and contents of all its files.

    Raises:
        OSError: a file cannot be read.
    """
    if path.is_file():
        return content_identity(path)
    digest = hashlib.sha256()
    for file in cube_files(path):
        digest.update(f"{file.relative_to(path).as_posix()} {content_identity(file)}\n".encode())
    return digest.hexdigest()


# --- the header ------------------------------------------------------------------------------------------------------


def read_cube(path: Path, names: Sequence[str] = ()) -> Cube:
    """Read what a file says of some variables, by default of all that lie on a grid; no pixel is read.

    Raises:
        SceneError: the file is missing or damaged, lacks a variable or its grid, CRS or dates, or the variables lie on
            different grids.
    """
    if not path.exists():
        raise SceneError(f"{path} does not exist; give the path of a scene.")
    if path.is_file() and not path.stat().st_size:
        raise SceneError(f"{path} is empty (0 bytes); download or copy it again.")
    with _open(path) as data:
        return _read_header(path, data, tuple(names))


def _read_header(path: Path, data: Any, names: tuple[str, ...]) -> Cube:
    there = [str(name) for name in data.variables if _axes_of(data, str(name))]
    if path.is_dir():
        # A folder lists its variables in any order.
        there.sort()
    if absent := [name for name in names if name not in data.variables]:
        raise SceneError(
            f"{path} has no variable {absent[0]}; it holds {', '.join(there) or 'none on a grid'}; "
            "correct the bands of ingest."
        )
    chosen = names or tuple(there)
    if not chosen:
        raise SceneError(f"{path} holds no variable on a grid of y and x; give a file with one.")
    axes = {name: _checked_axes(path, data, name) for name in chosen}
    first = chosen[0]
    for name in chosen[1:]:
        if axes[name] != axes[first] or data[name].shape != data[first].shape:
            raise SceneError(
                f"{path} holds {first} of {_size(data, first)} and {name} of {_size(data, name)}; name the bands of "
                "each size in an entry of ingest.scenes of its own, with the same file."
            )
    at = axes[first]
    return Cube(
        path=path,
        frame=_frame(path, data, first, at),
        dates=_dates(path, data[at.time].variable if at.time in data.variables else None, at.time),
        variables=tuple(_variable(path, data, name) for name in chosen),
    )


def _open(path: Path) -> Any:
    """Open with xarray, nothing decoded.

    Raises:
        SceneError: it is no such file, or damaged.
    """
    import xarray as xr

    settings: dict[str, Any] = {"engine": "h5netcdf"}
    if path.is_dir():
        settings = {"engine": "zarr", "consolidated": False}
    try:
        with warnings.catch_warnings():
            # Notes on features of the format that are not read here.
            warnings.simplefilter("ignore")
            return xr.open_dataset(path, decode_cf=False, chunks=None, **settings)
    except DAMAGE as fault:
        raise SceneError(f"{path} {_unreadable(path)} ({reason(fault)}).") from fault


def _unreadable(path: Path) -> str:
    """Say why a file does not open, by its first bytes."""
    if path.is_dir():
        return "is not a Zarr group that can be read; give the folder that holds its zarr.json or .zgroup"
    with path.open("rb") as file:
        start = file.read(4)
    if start == b"\x89HDF":
        return "is truncated or damaged; download or copy it again"
    if start[:3] == b"CDF":
        return "is a NetCDF-3 file; make it NetCDF-4 (nccopy -k nc4 FILE NEW_FILE)"
    return "is not a NetCDF-4 file; give one, or a raster"


def _kind(data: Any, dimension: str) -> str:
    """Tell which axis a dimension is: time, y, x or "" for another."""
    attrs = data[dimension].attrs if dimension in data.variables else {}
    name, standard = dimension.lower(), str(attrs.get("standard_name", ""))
    if name in TIMES or standard == "time" or attrs.get("axis") == "T":
        return "time"
    if name in ROWS or standard in ("projection_y_coordinate", "latitude") or attrs.get("axis") == "Y":
        return "y"
    if name in COLUMNS or standard in ("projection_x_coordinate", "longitude") or attrs.get("axis") == "X":
        return "x"
    return ""


def _axes_of(data: Any, name: str) -> Axes | None:
    """Find the axes of a variable; None where it does not lie on a grid. Other dimensions must be of length one."""
    variable = data[name]
    kinds: dict[str, str] = {}
    for dimension, length in zip(variable.dims, variable.shape, strict=True):
        kind = _kind(data, str(dimension))
        if kind in kinds or (not kind and length != 1):
            return None
        kinds[kind or f"other {dimension}"] = str(dimension)
    if "y" not in kinds or "x" not in kinds or name in kinds.values():
        return None
    return Axes(kinds.get("time", ""), kinds["y"], kinds["x"])


def _checked_axes(path: Path, data: Any, name: str) -> Axes:
    """Find the axes of a variable, and see that it holds numbers.

    Raises:
        SceneError: it has other axes, or holds no real numbers.
    """
    axes = _axes_of(data, name)
    if axes is None:
        raise SceneError(
            f"{path}: variable {name} has the dimensions {', '.join(map(str, data[name].dims)) or '(none)'}; "
            "expected time, y and x, or y and x; give each other dimension's layers a variable of their own."
        )
    if data[name].dtype.kind not in "biuf":
        raise SceneError(f"{path}: variable {name} holds {data[name].dtype}; give real numbers.")
    return axes


def _size(data: Any, name: str) -> str:
    return " x ".join(f"{length} {dimension}" for dimension, length in data[name].sizes.items())


def _variable(path: Path, data: Any, name: str) -> Variable:
    """Describe one variable by its attributes.

    Raises:
        SceneError: one of them is no number.
    """
    attrs = data[name].attrs
    try:
        empty = next((float(np.ravel(attrs[key])[0]) for key in ("_FillValue", "missing_value") if key in attrs), None)
        scale, offset = (float(np.ravel(attrs.get(k, v))[0]) for k, v in (("scale_factor", 1), ("add_offset", 0)))
    except (ValueError, TypeError, IndexError) as fault:
        raise SceneError(
            f"{path}: an attribute of variable {name} is no number ({reason(fault)}); correct its _FillValue, "
            "scale_factor or add_offset."
        ) from fault
    return Variable(name, str(data[name].dtype), empty, scale, offset)


def _frame(path: Path, data: Any, name: str, axes: Axes) -> Frame:
    """Give the place of a variable, upright.

    Raises:
        SceneError: it has no CRS, or its coordinates are missing or unevenly spaced.
    """
    (left, dx), (top, dy) = (_spaced(path, data, axis) for axis in (axes.x, axes.y))
    width, height = data.sizes[axes.x], data.sizes[axes.y]
    left, top = min(left, left + dx * (width - 1)), max(top, top + dy * (height - 1))
    dx, dy = abs(dx), abs(dy)
    return Frame(_crs(path, data, name, axes), (dx, 0.0, left - dx / 2, 0.0, -dy, top + dy / 2), width, height)


def _spaced(path: Path, data: Any, axis: str) -> tuple[float, float]:
    """Measure an axis: its first pixel centre and the step from one to the next, which may be negative.

    Raises:
        SceneError: it has no coordinates, one only, or uneven ones.
    """
    if axis not in data.variables:
        raise SceneError(f"{path} has no coordinates along {axis}; write the pixel centres into a variable {axis}.")
    centres = np.asarray(data[axis].values, dtype=np.float64)
    if len(centres) < 2:
        raise SceneError(
            f"{path} has {len(centres)} pixel along {axis}, so that its size is unknown; give two or more."
        )
    # Ten digits: the division leaves no more of 32-bit coordinates, and a pixel of 10 m stays one of 10 m.
    step = float(f"{(centres[-1] - centres[0]) / (len(centres) - 1):.10g}")
    drift = np.abs(centres - (centres[0] + step * np.arange(len(centres))))
    if not step or not (drift <= UNEVEN * abs(step)).all():
        raise SceneError(
            f"{path}: the coordinates along {axis} are not evenly spaced; "
            "regrid the file, or write it as a raster with a CRS of its own."
        )
    return float(centres[0]), step


def _crs(path: Path, data: Any, name: str, axes: Axes) -> str:
    """Find the CRS from the grid mapping, then from what else is customary.

    Raises:
        SceneError: there is none, or nobody knows it.
    """
    from pyproj import CRS
    from pyproj.exceptions import CRSError
    from rasterio.errors import CRSError as UnknownCRSError

    mapping = str(data[name].attrs.get("grid_mapping", "")).split(":")[0].strip()
    holders: list[Mapping[Any, Any]] = [data[n].attrs for n in (mapping, "spatial_ref", "crs") if n in data.variables]
    holders += [data[name].attrs, data.attrs]
    try:
        for attrs in holders:
            for key in CRS_KEYS:
                if attrs.get(key):
                    value = attrs[key]
                    return short_name(parsed(f"EPSG:{value}" if str(value).isdigit() else str(value)))
            if "grid_mapping_name" in attrs:
                return short_name(parsed(CRS.from_cf(dict(attrs)).to_wkt()))
    except (CRSError, UnknownCRSError, KeyError) as fault:
        raise SceneError(
            f"{path} names a CRS that nobody knows ({reason(fault)}); correct its grid mapping."
        ) from fault
    if axes.x.lower() in DEGREES:
        return "EPSG:4326"
    raise SceneError(
        f"{path} has no CRS; write it as crs_wkt into the variable that the attribute grid_mapping of {name} names."
    )


def _dates(path: Path, times: Any, axis: str) -> tuple[str, ...]:
    """Read the dates of the time axis: CF times, times of their own type, or dates as text or as numbers.

    Raises:
        SceneError: one of them is no date.
    """
    import xarray as xr

    if not axis:
        return ("",)
    if times is None:
        raise SceneError(f"{path} has a dimension {axis} without coordinates; write the dates into a variable {axis}.")
    units = str(times.attrs.get("units", ""))
    try:
        if " since " in units:
            with warnings.catch_warnings():
                # Dates of other calendars come as objects, which serve as well.
                warnings.simplefilter("ignore")
                times = xr.conventions.decode_cf_variable(axis, times)
        return tuple(_date(value) for value in np.ravel(times.values))
    except DAMAGE + (OverflowError, ImportError) as fault:  # noqa: RUF005
        said = f" ({units})" if units else ""
        raise SceneError(
            f"{path}: the times along {axis}{said} cannot be read as dates: {reason(fault)}; "
            "write them with units such as 'days since 2018-01-01'."
        ) from fault


def _date(value: Any) -> str:
    """Bring one time to ISO 8601.

    Raises:
        ValueError: it is none.
    """
    if isinstance(value, np.datetime64):
        if np.isnat(value):
            raise ValueError("a time is missing")
        return str(np.datetime_as_string(value, unit="D"))
    if isinstance(value, np.integer | np.floating):
        return iso_date(f"{value:.0f}" if float(value).is_integer() else str(value))
    if hasattr(value, "isoformat"):
        return iso_date(value.isoformat()[:10])
    text = value.decode() if isinstance(value, bytes) else str(value)
    return iso_date(text.split("T")[0])


# --- pixels ----------------------------------------------------------------------------------------------------------


def read_layers(path: str, names: Sequence[str], indexes: Sequence[int], window: Window) -> list[np.ndarray]:
    """Read some layers of an upright window of the file's pixels: one array (y, x) a variable, not to be written to.

    ``indexes`` are positions along time, from 1. Layers of other dates are read along and kept for a while, so that
    the dates of a window, asked for one after the other, are read from the disk together.

    Raises:
        SceneError: the file is gone or damaged.
    """
    try:
        return _kept_layers(path, names, indexes, window)
    except (*DAMAGE, IndexError) as fault:
        raise SceneError(
            f"{path} is damaged: some of its pixels cannot be read ({reason(fault)}); download or copy it again."
        ) from fault


def _kept_layers(path: str, names: Sequence[str], indexes: Sequence[int], window: Window) -> list[np.ndarray]:
    """Read layers from what is kept, or read them in."""
    stamp = _stamp(Path(path))
    data = OPENED.get(path, stamp)
    pixels = window.height * window.width
    room = BLOCK // max(1, sum(pixels * data[name].dtype.itemsize for name in names))
    layers = []
    for name, index in zip(names, indexes, strict=True):
        length = _span(data[name], room, pixels)
        start = (index - 1) // length * length
        times = slice(start, start + length)
        block = BLOCKS.get((path, stamp, name, start, length, window), partial(_read_block, data, name, times, window))
        layers.append(block[index - 1 - start])
    return layers


def _span(variable: Any, room: int, pixels: int) -> int:
    """Choose how many dates are read at once: as many as there is room for, and whole chunks along time."""
    chunks = variable.encoding.get("preferred_chunks") or {}
    chunk = next((int(size) for axis, size in chunks.items() if str(axis).lower() in TIMES), 1)
    if chunk * pixels * variable.dtype.itemsize > CAPACITY:
        chunk = 1
    return max(chunk, room // chunk * chunk, 1)


def _read_block(data: Any, name: str, times: slice, window: Window) -> np.ndarray:
    """Read one variable at some dates in a window that counts from the north and the west: (time, y, x)."""
    axes = _axes_of(data, name)
    assert axes is not None
    ranges: dict[str, slice] = {}
    flips: list[slice] = [slice(None)]
    for axis, first, count, falling in ((axes.y, window.row, window.height, True),
                                        (axes.x, window.col, window.width, False)):  # fmt: skip
        ends = data[axis].values[[0, -1]]
        backwards = (ends[1] < ends[0]) != falling
        begin = data.sizes[axis] - first - count if backwards else first
        ranges[axis] = slice(begin, begin + count)
        flips.append(slice(None, None, -1 if backwards else 1))
    if axes.time:
        ranges[axes.time] = times
    found = data[name].isel(ranges).transpose(..., *([axes.time] if axes.time else []), axes.y, axes.x).values
    block = np.ascontiguousarray(found.reshape(-1, *found.shape[-2:])[tuple(flips)])
    if block.dtype.kind == "b":
        block = block.view(np.uint8)
    # Everyone who asks gets the same array.
    block.flags.writeable = False
    return block


def _stamp(path: Path) -> tuple[int, ...]:
    """Tell one state of a file from another: its times of change and its size; of a Zarr folder those of its headers.

    Raises:
        SceneError: it is gone.
    """
    files = [path, *(path / name for name in META)] if path.suffix.lower() == ZARR else [path]
    stamp: list[int] = []
    for file in files:
        try:
            state = file.stat()
        except OSError as fault:
            if file == path:
                raise SceneError(f"{path} is gone; put it back, or make ingest again.") from fault
            continue
        stamp += [state.st_mtime_ns, state.st_size, state.st_ino]
    return tuple(stamp)


class Opened:
    """The cubes that a process has open, the last used at the end; one that has changed is opened again."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.datasets: OrderedDict[str, tuple[tuple[int, ...], Any]] = OrderedDict()

    def get(self, path: str, stamp: tuple[int, ...]) -> Any:
        """Give an open dataset. It is never closed here, as another thread may read from it; the last one's end does.

        Raises:
            SceneError: it cannot be opened.
        """
        with self.lock:
            known, data = self.datasets.get(path, (None, None))
            if data is None or known != stamp:
                data = _open(Path(path))
                self.datasets[path] = stamp, data
            self.datasets.move_to_end(path)
            while len(self.datasets) > MAX_OPEN:
                self.datasets.popitem(last=False)
            return data


@dataclass
class Slot:
    """The place of one block: filled by the first thread that asks for it, while the others wait."""

    lock: threading.Lock = field(default_factory=threading.Lock)
    block: np.ndarray | None = None


class Blocks:
    """The blocks of pixels that a process keeps, up to so many bytes; what was used longest ago goes first."""

    def __init__(self, capacity: int) -> None:
        self.capacity = capacity
        self.size = 0
        self.lock = threading.Lock()
        self.slots: OrderedDict[Any, Slot] = OrderedDict()

    def get(self, key: Any, read: Callable[[], np.ndarray]) -> np.ndarray:
        """Give a block, which is read once for all threads that ask for it."""
        with self.lock:
            slot = self.slots.setdefault(key, Slot())
            self.slots.move_to_end(key)
        with slot.lock:
            if slot.block is None:
                slot.block = read()
                self._keep(key, slot)
            return slot.block

    def _keep(self, key: Any, slot: Slot) -> None:
        """Count a new block, and let go of old ones until there is room for it; one that is too large goes itself."""
        assert slot.block is not None
        with self.lock:
            if self.slots.get(key) is not slot:
                return
            self.size += slot.block.nbytes
            for old in list(self.slots):
                if self.size <= self.capacity:
                    break
                there = self.slots[old].block
                if there is not None:
                    del self.slots[old]
                    self.size -= there.nbytes


OPENED = Opened()
BLOCKS = Blocks(CAPACITY)
