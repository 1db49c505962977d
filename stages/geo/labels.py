"""Read label sources: polygons, points or a raster, whatever their CRS, and say what is wrong with them."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np

from stages.errors import LabelError
from stages.geo.frame import is_geographic
from stages.geo.grid import Grid
from stages.geo.headers import reason, without_place
from stages.geo.periods import Period, holds, read_periods
from stages.geo.point_table import read_points

#: A table of points, with longitudes and latitudes.
TABLE = ".csv"
#: Files read as vectors; every other file is tried as a raster.
VECTORS = (".shp", ".gpkg", ".geojson", ".json", ".parquet", ".fgb", ".gml", ".kml", ".sqlite", ".zip", ".tab", TABLE)
#: Corners into which a long edge is cut where it is taken to degrees, so that no step is half a turn long.
CORNERS = 64
#: Group of features that stand for themselves.
EACH, NONE = "each", "none"
#: Categories of a value that belongs to no class, and of one that means "no label".
UNKNOWN, NO_LABEL = -1, -2


@dataclass(frozen=True)
class LabelFile:
    """A label source and how its values are read: ``keys`` maps a value, as text, to a category 0..n-1.

    ``ranges`` are (low, high, category) of whole numbers, both included: a number belongs to the range that holds it
    rounded down. ``ignore`` holds values that mean "no label", as ranges of category `NO_LABEL` do. ``group`` is a
    column, `EACH` (every polygon is a group) or `NONE`. ``start`` and ``end`` are columns of the dates between which
    a label is true, ``coordinates`` those of longitude and latitude in a CSV table, where they are not found by name.
    ``stamp`` is size and time of the file, so that a process that keeps features in memory notices a changed file.
    """

    path: str
    keys: tuple[tuple[str, int], ...]
    ignore: tuple[str, ...] = ()
    field: str | None = None
    group: str = NONE
    stamp: tuple[int, int] = (0, 0)
    ranges: tuple[tuple[int, int, int], ...] = ()
    start: str | None = None
    end: str | None = None
    coordinates: tuple[str, str] | None = None

    @property
    def is_vector(self) -> bool:
        """True for polygons and points."""
        return Path(self.path).suffix.lower() in VECTORS

    @property
    def categories(self) -> int:
        """Number of categories."""
        return 1 + max((*(category for _, category in self.keys), *(category for _, _, category in self.ranges)))

    def categories_of(self, values: Iterable[Any]) -> np.ndarray:
        """Find the category of every value, `UNKNOWN` or `NO_LABEL` where it has none: int16 (value,)."""
        known = dict.fromkeys(("", *self.ignore), NO_LABEL) | dict(self.keys)
        keys = [label_key(value) for value in values]
        return np.array([known[key] if key in known else self._in_range(key) for key in keys], dtype=np.int16)

    def _in_range(self, key: str) -> int:
        try:
            number = math.floor(float(key))
        except (ValueError, OverflowError):
            return UNKNOWN
        return next((category for low, high, category in self.ranges if low <= number <= high), UNKNOWN)


@dataclass(frozen=True)
class Features:
    """Polygons or points in the grid's CRS, with category and group of each, and what was noticed while reading.

    ``category`` is `UNKNOWN` for a feature whose value belongs to no class; features whose value means "no label", or
    that have none, are left out (``without_value``). ``group`` is -1 where there are no groups. ``first`` and
    ``after`` are the day from which a label is true and the one after the last, as of `Period`; None without dates.
    """

    points: bool
    geometry: Any
    category: np.ndarray
    group: np.ndarray
    value: tuple[str, ...]
    tree: Any
    repaired: int
    without_value: int
    first: np.ndarray | None = None
    after: np.ndarray | None = None

    def count_for(self, season: Period | None) -> np.ndarray:
        """Which features count as labels of a season; undated ones, or without a season, all: bool (feature,)."""
        if season is None or self.first is None or self.after is None:
            return np.ones(len(self.category), dtype=bool)
        return holds(self.first, self.after, season)


def label_key(value: Any) -> str:
    """Text by which a label value is matched: 1, 1.0, "1" and " 1 " are the same label.

    Empty text, None and NaN give "".
    """
    if value is None:
        return ""
    text = str(value).strip()
    try:
        number = float(text)
    except ValueError:
        return "" if text in ("None", "<NA>") else text
    if math.isnan(number):
        return ""
    return str(int(number)) if math.isfinite(number) and number == int(number) else repr(number)


def check_file(path: Path) -> tuple[int, int]:
    """Size and modification time of a label file that is there and not empty.

    Raises:
        LabelError: the file is missing, a folder or empty.
    """
    if not path.is_file():
        raise LabelError(f"The label file {path} does not exist; give the path of a vector file or a label raster.")
    stat = path.stat()
    if stat.st_size == 0:
        raise LabelError(f"The label file {path} is empty (0 bytes); give a vector file or a label raster.")
    return stat.st_size, stat.st_mtime_ns


def check_raster(path: Path) -> bool:
    """See that a label raster opens, has one band and says where it lies; tell whether it declares a nodata value.

    Raises:
        LabelError: it does not.
    """
    import warnings

    import rasterio
    from rasterio.errors import NotGeoreferencedWarning, RasterioIOError

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", NotGeoreferencedWarning)
            with rasterio.open(path) as source:
                bands, crs, nodata, lost = source.count, source.crs, source.nodata, without_place(source)
    except RasterioIOError as fault:
        raise LabelError(
            f"The labels {path} can be read neither as a raster nor as a vector file; "
            "give a GeoTIFF, GeoPackage, shapefile, GeoJSON or GeoParquet."
        ) from fault
    if lost:
        raise LabelError(f"The label raster {path} {lost}.")
    if crs is None:
        raise LabelError(f"The label raster {path} has no CRS; write one into the file (gdal_edit.py -a_srs EPSG:n).")
    if bands != 1:
        raise LabelError(f"The label raster {path} has {bands} bands; give a raster with one band of class values.")
    return nodata is not None


def vector_columns(path: Path, coordinates: tuple[str, str] | None = None) -> tuple[bool, list[str]]:
    """Whether the features are polygons, and the names of their columns.

    Raises:
        LabelError: the file cannot be read as a vector file.
    """
    table = _read_table(str(path), check_file(path), coordinates)
    return "Polygon" in "".join(table.geom_type.dropna().unique()), _columns(table)


@lru_cache(maxsize=4)
def read_features(file: LabelFile, crs: str) -> Features:
    """Read every feature in a CRS, invalid ones repaired; kept in memory, with a spatial index.

    Raises:
        LabelError: unreadable, without CRS, without a named column, with dates that say nothing, or neither polygons
            nor points.
    """
    import shapely

    table = _read_table(file.path, file.stamp, file.coordinates)
    path = file.path
    if table.crs is None:
        raise LabelError(f"The labels {path} have no CRS; write one into the file (a .prj beside a shapefile).")
    field = _checked_column(table, file.field, path, "label.field")
    table = table[~(table.geometry.isna() | table.geometry.is_empty)]
    category = file.categories_of(table[field])
    labelled = category != NO_LABEL
    without_value = int((~labelled).sum())
    table, category = table[labelled], category[labelled]
    broken = ~table.geometry.is_valid.to_numpy(dtype=bool)
    shapes = table.geometry.to_numpy().copy()
    shapes[broken] = shapely.make_valid(shapes[broken], method="structure", keep_collapsed=False)
    points = _are_points(shapes, path)
    shapes = _project(shapes, table.crs, crs)
    values = tuple(label_key(value) for value in table[field])
    return Features(
        points, shapes, category, _groups(table, file, path), values, shapely.STRtree(shapes), int(broken.sum()),
        without_value, *_dates(table, file, path),
    )  # fmt: skip


@lru_cache(maxsize=4)
def features_on(file: LabelFile, grid: Grid) -> Features:
    """Read every feature where the grid looks for it: on a grid in degrees, whole turns of longitude are no distance.

    Raises:
        LabelError: see `read_features`.
    """
    import shapely

    features = read_features(file, grid.crs)
    if not is_geographic(grid.crs):
        return features
    placed = _turned(features.geometry, grid)
    if placed is features.geometry:
        return features
    return replace(features, geometry=placed, tree=shapely.STRtree(placed))


def _turned(shapes: np.ndarray, grid: Grid) -> np.ndarray:
    """Bring the parts of shapes that lie on the grid but for whole turns to it; the same array where none does."""
    import shapely
    from shapely.affinity import translate

    bounds = shapely.bounds(shapes)
    left, _, right, _ = grid.bounds
    ground = shapely.box(left, -90, right, 90)
    turned = shapes
    for turn in (-360.0, 360.0):
        for index in np.flatnonzero((bounds[:, 0] + turn < right) & (bounds[:, 2] + turn > left)):
            moved = [translate(part, turn) for part in shapely.get_parts(shapes[index])]
            moved = [part for part in moved if shapely.intersects(part, ground)]
            if not moved:
                continue
            turned = shapes.copy() if turned is shapes else turned
            # What already lies on the grid stays; the halves of a shape that was cut at the antimeridian become one.
            there = [part for part in shapely.get_parts(turned[index]) if shapely.intersects(part, ground)]
            turned[index] = shapely.union_all([*there, *moved])
    return turned


def check_overlap(file: LabelFile, grid: Grid) -> None:
    """See that features lie on the grid and that the values of those are known.

    Raises:
        LabelError: they are not, or the file cannot be read.
    """
    import shapely

    features = features_on(file, grid)
    on_grid = features.tree.query(shapely.box(*grid.bounds), predicate="intersects")
    if not len(on_grid):
        found = shapely.total_bounds(features.geometry)
        raise LabelError(
            f"The labels {file.path} do not overlap the scenes: they lie at {_extent(found)}, the grid at "
            f"{_extent(grid.bounds)} in {_name(grid.crs)}; give labels of this area or correct their CRS."
        )
    unknown = Counter(features.value[index] for index in on_grid if features.category[index] < 0)
    if unknown:
        refuse_unknown(Path(file.path), unknown)


def refuse_unknown(path: Path, unknown: Mapping[str, int]) -> None:
    """Refuse label values that belong to no class.

    Raises:
        LabelError: always.
    """
    first = sorted(unknown, key=lambda value: (-unknown[value], value))
    names = ", ".join(f"'{value}'" for value in first[:8]) + (", ..." if len(first) > 8 else "")
    raise LabelError(
        f"The labels {path} hold the unknown class {names}; list it under a class's labels, "
        "in label.drop (not mapped) or in label.ignore (no label)."
    )


def _extent(bounds: Any) -> str:
    left, bottom, right, top = (float(value) for value in bounds)
    return f"{left:.6g}..{right:.6g}, {bottom:.6g}..{top:.6g}"


def _name(crs: str) -> str:
    from pyproj import CRS

    return str(CRS.from_user_input(crs).name)


def check_seasons(file: LabelFile, grid: Grid, seasons: Sequence[Period]) -> int:
    """See that dated labels count for any season; give the number of features on the grid that count for none.

    Raises:
        LabelError: none of them does.
    """
    import shapely

    features = features_on(file, grid)
    if features.first is None or features.after is None:
        return 0
    on_grid = features.tree.query(shapely.box(*grid.bounds), predicate="intersects")
    used = np.any([features.count_for(season)[on_grid] for season in seasons], axis=0)
    if not used.any():
        labels = Period(int(features.first[on_grid].min()), int(features.after[on_grid].max()))
        scenes = Period(min(one.first for one in seasons), max(one.after for one in seasons))
        raise LabelError(
            f"The labels {file.path} are true from {labels}, and none of them for half of a season of the scenes, "
            f"{scenes}; give labels of that time, or scenes of the labels'."
        )
    return int((~used).sum())


def _dates(table: Any, file: LabelFile, path: str) -> tuple[np.ndarray | None, np.ndarray | None]:
    if file.start is None or file.end is None:
        return None, None
    start = _checked_column(table, file.start, path, "label.start")
    end = _checked_column(table, file.end, path, "label.end")
    return read_periods(table[start], table[end], path)


@lru_cache(maxsize=2)
def _read_table(path: str, stamp: tuple[int, int], coordinates: tuple[str, str] | None) -> Any:  # noqa: ARG001
    # The stamp belongs to the cache's key.
    import geopandas as gpd
    from pyogrio.errors import DataLayerError, DataSourceError

    kind = Path(path).suffix.lower()
    try:
        if kind == TABLE:
            table = read_points(path, coordinates)
        else:
            table = gpd.read_parquet(path) if kind == ".parquet" else gpd.read_file(path)
    except (DataSourceError, DataLayerError, OSError, ValueError, UnicodeDecodeError) as fault:
        raise LabelError(
            f"The labels {path} cannot be read as a vector file ({reason(fault)}); "
            "give a GeoPackage, shapefile, GeoJSON, GeoParquet, CSV table or a label raster."
        ) from fault
    if not isinstance(table, gpd.GeoDataFrame) or len(table) == 0:
        raise LabelError(f"The labels {path} hold no feature with a geometry; give polygons, points or a label raster.")
    return table


def _columns(table: Any) -> list[str]:
    return [str(name) for name in table.columns if name != table.geometry.name]


def _checked_column(table: Any, column: str | None, path: str, setting: str) -> str:
    there = _columns(table)
    if column is None:
        raise LabelError(f"The labels {path} need {setting}, the column of the class; the file has {', '.join(there)}.")
    if column not in there:
        raise LabelError(
            f"The labels {path} have no column '{column}' ({setting}); the file has {', '.join(there) or 'none'}."
        )
    return column


def _are_points(shapes: np.ndarray, path: str) -> bool:
    """Tell points (True) from polygons (False), the members of collections looked at one by one.

    Raises:
        LabelError: anything else, or both.
    """
    import shapely

    dimension = np.unique(shapely.get_dimensions(shapely.get_parts(shapes)))
    if dimension.tolist() == [0]:
        return True
    if dimension.tolist() != [2]:
        kinds = {0: "points", 1: "lines", 2: "polygons"}
        found = " and ".join(kinds[int(d)] for d in dimension if int(d) in kinds) or "no shapes"
        raise LabelError(f"The labels {path} hold {found}; give either polygons or points in one file.")
    return False


def _project(shapes: np.ndarray, source: Any, target: str) -> np.ndarray:
    """Take shapes to another CRS; what the CRS cannot hold becomes empty."""
    import geopandas as gpd
    import shapely

    original = gpd.GeoSeries(shapes, crs=source)
    projected: np.ndarray = original.to_crs(target).to_numpy().copy()
    bounds = shapely.bounds(projected)
    lost = ~np.isfinite(bounds).all(axis=1)
    if is_geographic(target) and original.crs != target:
        wide = ~lost & (np.where(lost, 0.0, bounds[:, 2] - bounds[:, 0]) > 180) & (shapely.get_dimensions(shapes) == 2)
        longest = np.ptp(shapely.bounds(shapes[wide]).reshape(-1, 2, 2), axis=1).max(axis=1, initial=0.0)
        dense = gpd.GeoSeries(shapely.segmentize(shapes[wide], longest / CORNERS), crs=source)
        projected[wide] = [_mended(shape) for shape in dense.to_crs(target)]
    projected[lost] = shapely.Point()
    return projected


def _mended(shape: Any) -> Any:
    """Join a polygon in degrees whose corners a change of CRS left on both sides of the antimeridian."""
    import shapely

    def whole(ring: Any, near: float) -> np.ndarray:
        points: np.ndarray = shapely.get_coordinates(ring)
        points[:, 0] = np.unwrap(points[:, 0], period=360.0)
        points[:, 0] += 360.0 * np.round((near - points[:, 0].mean()) / 360.0)
        return points

    parts = []
    for part in shapely.get_parts(shapely.get_parts(shape)):
        outside = whole(part.exterior, 0.0)
        parts.append(shapely.Polygon(outside, [whole(hole, outside[:, 0].mean()) for hole in part.interiors]))
    return shapely.MultiPolygon(parts)


def _groups(table: Any, file: LabelFile, path: str) -> np.ndarray:
    """Give the group of every feature: int32, -1 without groups."""
    import pandas as pd

    if file.group == NONE:
        return np.full(len(table), -1, dtype=np.int32)
    if file.group == EACH:
        return np.arange(len(table), dtype=np.int32)
    column = _checked_column(table, file.group, path, "label.group")
    texts = pd.Series([label_key(value) for value in table[column]])
    numbers, _ = pd.factorize(texts.mask(texts == ""), sort=True)
    return np.asarray(numbers, dtype=np.int32)
