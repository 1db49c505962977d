"""Make small dated scenes of known values, with a quality band and static layers where asked for, and tile them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from stages import tile
from stages.formats.scenes import Scenes, Source, write_scenes
from stages.formats.tiles import Tiles
from stages.geo.headers import read_header
from tests.rasters import raster


def source(
    path: Path, date: str, bands: Sequence[str], *, scale: float = 1.0, scene: str = "", static: bool = False
) -> Source:
    """Describe all bands of a raster file."""
    header = read_header(path)
    count, frame = len(bands), header.frame
    return Source(
        str(path), date, tuple(bands), tuple(range(1, count + 1)), header.nodata[:count], (scale,) * count,
        (0.0,) * count, header.dtype, frame.crs, frame.transform, frame.width, frame.height, path.name,
        scene or str(path), static=static,
    )  # fmt: skip


def dated(
    folder: Path, series: Mapping[str, np.ndarray], quality: Mapping[str, np.ndarray] | None = None, *,
    bands: Sequence[str] = ("b",), scale: float = 1.0, nodata: float | None = None, **place: Any,
) -> list[Source]:  # fmt: skip
    """Write a file a date with its bands (band, y, x), and one with its quality band (y, x), uint8."""
    found = []
    for date, values in series.items():
        path = raster(folder / f"{date}.tif", values, nodata=nodata, **place)
        found.append(source(path, date, bands, scale=scale, scene=date))
        if quality is not None:
            path = raster(folder / f"{date}_scl.tif", quality[date], dtype="uint8", **place)
            found.append(source(path, date, ("SCL",), scene=date))
    return found


def tiled(
    folder: Path, sources: Sequence[Source], bands: Sequence[str] = ("b",), quality: str = "",
    static: Sequence[str] = (), **settings: Any,
) -> Tiles:  # fmt: skip
    """Run tile on sources."""
    for name in ("scenes", "tiles"):
        (folder / name).mkdir(exist_ok=True, parents=True)
    write_scenes(folder / "scenes", Scenes(tuple(bands), tuple(sources), quality, tuple(static)))
    tile.run(folder / "scenes", folder / "tiles", tile.Config.model_validate(settings))
    return Tiles(folder / "tiles")
