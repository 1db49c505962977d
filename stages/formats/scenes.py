"""The `scenes` artifact: a GeoParquet table with one row a source file, headers only."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path

FILE = "scenes.parquet"


@dataclass(frozen=True)
class Source:
    """One raster file of a scene, as its header describes it.

    ``bands`` and ``indexes`` run in parallel with ``nodata``, ``scale`` and ``offset``: entry i describes band
    ``indexes[i]`` (1-based) of the file. ``date`` is ISO 8601 (year, year-month or full) or "" where unknown.
    ``identity`` is a hash of the content, so a moved or touched file stays the same source.
    """

    path: str
    date: str
    bands: tuple[str, ...]
    indexes: tuple[int, ...]
    nodata: tuple[float | None, ...]
    scale: tuple[float, ...]
    offset: tuple[float, ...]
    dtype: str
    crs: str
    transform: tuple[float, ...]
    width: int
    height: int
    identity: str


@dataclass(frozen=True)
class Scenes:
    """All sources of an area: the bands in the area's order and every file."""

    bands: tuple[str, ...]
    sources: tuple[Source, ...]

    @property
    def dates(self) -> tuple[str, ...]:
        """Every date once, in order of time."""
        return tuple(sorted({source.date for source in self.sources}))


def write_scenes(folder: Path, scenes: Scenes) -> None:
    """Write the table with footprints in longitude and latitude as its geometry."""
    import geopandas as gpd
    from rasterio.transform import Affine, array_bounds
    from rasterio.warp import transform_geom
    from shapely.geometry import box, shape

    rows, footprints = [], []
    for source in scenes.sources:
        row = asdict(source)
        row["header"] = json.dumps(row)
        west, south, east, north = array_bounds(source.height, source.width, Affine(*source.transform[:6]))
        outline = box(west, south, east, north).segmentize(max(east - west, north - south) / 16)
        footprints.append(shape(transform_geom(source.crs, "EPSG:4326", outline.__geo_interface__)))
        rows.append({"path": row["path"], "date": row["date"], "bands": ",".join(source.bands),
                     "crs": row["crs"], "dtype": row["dtype"], "width": row["width"], "height": row["height"],
                     "nodata": json.dumps(source.nodata), "scale": json.dumps(source.scale),
                     "offset": json.dumps(source.offset), "identity": row["identity"],
                     "area_bands": ",".join(scenes.bands), "header": row["header"]})  # fmt: skip
    table = gpd.GeoDataFrame(rows, geometry=footprints, crs="EPSG:4326")
    table.to_parquet(folder / FILE)


def read_scenes(folder: Path) -> Scenes:
    """Read the table back, equal to what was written."""
    import pandas as pd

    table = pd.read_parquet(folder / FILE, columns=["area_bands", "header"])
    sources = []
    for text in table["header"]:
        row = {k: tuple(v) if isinstance(v, list) else v for k, v in json.loads(text).items()}
        sources.append(Source(**row))
    return Scenes(bands=tuple(table["area_bands"].iloc[0].split(",")), sources=tuple(sources))
