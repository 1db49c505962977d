"""The `scenes` artifact: a GeoParquet table with one row a source file, headers only."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
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
    ``scene`` are parts of one scene: its bands, each in a file of its own.
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

    @property
    def frame(self) -> Frame:
        """Where the file lies."""
        return Frame(self.crs, self.transform, self.width, self.height)


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

    rows = []
    for source in scenes.sources:
        row = asdict(source)
        rows.append({"path": row["path"], "date": row["date"], "bands": ",".join(source.bands),
                     "crs": row["crs"], "dtype": row["dtype"], "width": row["width"], "height": row["height"],
                     "nodata": json.dumps(source.nodata), "scale": json.dumps(source.scale),
                     "offset": json.dumps(source.offset), "identity": row["identity"],
                     "area_bands": ",".join(scenes.bands), "header": json.dumps(row)})  # fmt: skip
    outlines = [footprint(source.frame) for source in scenes.sources]
    gpd.GeoDataFrame(rows, geometry=outlines, crs="EPSG:4326").to_parquet(folder / FILE)


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

    table = pd.read_parquet(folder / FILE, columns=["area_bands", "header"])
    sources = []
    for text in table["header"]:
        row: dict[str, Any] = {k: tuple(v) if isinstance(v, list) else v for k, v in json.loads(text).items()}
        sources.append(Source(**row))
    return Scenes(bands=tuple(table["area_bands"].iloc[0].split(",")), sources=tuple(sources))
