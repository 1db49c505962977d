"""The `scenes` artifact: a GeoParquet table with one row a source file, headers only."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

from stages.geo.frame import Frame

FILE = "scenes.parquet"


@dataclass(frozen=True)
class Source:
    """One raster file of a scene, as its header describes it.

    ``bands`` and ``indexes`` run in parallel with ``nodata``, ``scale`` and ``offset``: entry i describes band
    ``indexes[i]`` (1-based) of the file. ``date`` is ISO 8601 (year, year-month or full) or "" where unknown.
    ``identity`` is a hash of the content, so a moved or touched file stays the same source. Sources with the same
    ``scene`` are parts of one scene: its bands, each in a file of its own. A file of several dates is a source a date.

    ``variables`` names the variable of every band of a NetCDF file or Zarr folder; ``indexes`` is then the position
    along its time axis (1-based), the same for every band. It is empty for files that rasterio reads.
    ``static`` marks undated layers, such as an elevation, that join every date.
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
    scene: str = ""
    variables: tuple[str, ...] = ()
    static: bool = False

    @property
    def frame(self) -> Frame:
        """Where the file lies."""
        return Frame(self.crs, self.transform, self.width, self.height)


@dataclass(frozen=True)
class Scenes:
    """All sources of an area: the bands of every date in the area's order, and every file.

    ``quality`` names the band that says which pixels are clear, "" without one: every dated scene has it, but it is
    none of ``bands``. ``static`` names the bands of the undated layers, none of ``bands`` either.
    """

    bands: tuple[str, ...]
    sources: tuple[Source, ...]
    quality: str = ""
    static: tuple[str, ...] = ()

    @property
    def dates(self) -> tuple[str, ...]:
        """Every date of a scene once, in order of time."""
        return tuple(sorted({source.date for source in self.sources if not source.static}))


def write_scenes(folder: Path, scenes: Scenes) -> None:
    """Write the table with footprints in longitude and latitude as its geometry."""
    import geopandas as gpd

    rows = []
    for source in scenes.sources:
        row = asdict(source)
        rows.append({"path": row["path"], "date": row["date"], "bands": ",".join(source.bands),
                     "crs": row["crs"], "dtype": row["dtype"], "width": row["width"], "height": row["height"],
                     "nodata": json.dumps(source.nodata), "scale": json.dumps(source.scale),
                     "offset": json.dumps(source.offset), "identity": row["identity"],
                     "static": source.static, "area_bands": ",".join(scenes.bands), "quality": scenes.quality,
                     "static_bands": ",".join(scenes.static), "header": json.dumps(row)})  # fmt: skip
    outlines = [footprint(source.frame) for source in scenes.sources]
    gpd.GeoDataFrame(rows, geometry=outlines, crs="EPSG:4326").to_parquet(folder / FILE)


@lru_cache(maxsize=256)
def footprint(frame: Frame) -> Any:
    """Draw a raster's outline in longitude and latitude (shapely), cut in two where it crosses the antimeridian."""
    from shapely import Polygon, box, union_all
    from shapely.affinity import translate

    outline = Polygon(frame.ring("EPSG:4326"))
    turns = [translate(outline, 360.0 * turn).intersection(box(-180, -90, 180, 90)) for turn in (-1, 0, 1)]
    return union_all([part for part in turns if part.area > 0])


def read_scenes(folder: Path) -> Scenes:
    """Read the table back, equal to what was written."""
    import pandas as pd

    table = pd.read_parquet(folder / FILE, columns=["area_bands", "quality", "static_bands", "header"])
    sources = []
    for text in table["header"]:
        row: dict[str, Any] = {k: tuple(v) if isinstance(v, list) else v for k, v in json.loads(text).items()}
        sources.append(Source(**row))
    first = table.iloc[0]
    static = tuple(first["static_bands"].split(",")) if first["static_bands"] else ()
    return Scenes(tuple(first["area_bands"].split(",")), tuple(sources), str(first["quality"]), static)
