"""Measure how fast `tile` brings a scene onto a grid, against GDAL's warper, and two workers against one.

    python -m tests.benchmarks.tile [--quick]

Scene and threads are the same, and so are the pixels: float32 in tiles of 256. GDAL writes them as a GeoTIFF, with
Zstandard at its fastest, as it has no LZ4 for one. Not packing at all is as fast where it warps, and twice as fast
where it copies. A copy is read and written window by window, which is faster than its warper on the same grid.
"""

from __future__ import annotations

import shutil
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from stages.geo.grid import Grid
from tests.benchmarks.pairs import Work, main, side_of

THREADS, TILE = 2, 256
SCENE, BANDS = "scene.tif", ("blue", "green", "red", "nir")
#: What `grid` asks for, and what GDAL calls the kernel that `tile` then chooses.
CASES: dict[str, tuple[dict[str, Any], str]] = {
    "warp": ({"crs": "EPSG:3035", "resolution": 10}, "bilinear"),
    "coarse": ({"resolution": 30}, "average"),
    "copy": ({}, "nearest"),
}
#: How GDAL writes: each band by itself, as its warper goes band by band.
PROFILE = {"driver": "GTiff", "dtype": "float32", "tiled": True, "blockxsize": TILE, "blockysize": TILE,
           "compress": "zstd", "zstd_level": 1, "interleave": "band", "num_threads": THREADS}  # fmt: skip


def prepare(folder: Path) -> None:
    """Write a scene of digital numbers, tiled and packed as scenes are, and the table that names it."""
    from scipy.ndimage import gaussian_filter

    from stages import ingest
    from tests.rasters import raster

    side = side_of(folder, 4096, 1024)
    rng = np.random.default_rng(0)
    ground = np.kron(gaussian_filter(rng.normal(0, 30, (side // 4, side // 4)), 6), np.ones((4, 4)))
    values = np.stack([2500 + 300 * (band + 1) * ground + rng.normal(0, 40, ground.shape) for band in range(4)])
    settings = {"tiled": True, "blockxsize": TILE, "blockysize": TILE, "compress": "deflate", "predictor": 2}
    raster(folder / SCENE, values.clip(1, 10_000), dtype="uint16", nodata=0, corner=(399_960, 5_500_020), **settings)
    (folder / "scenes").mkdir()
    bands = {name: place for place, name in enumerate(BANDS, 1)}
    config = {"scenes": [{"files": folder / SCENE}], "bands": bands}
    ingest.run(folder / "scenes", ingest.Config.model_validate(config))


def _seconds(folder: Path, case: str) -> float:
    """Run the stage on the scheduler that is set, and throw its tiles away: seconds."""
    import pyarrow.parquet  # noqa: F401  (loaded before the clock starts, as what GDAL needs is)

    from stages import tile

    out = Path(tempfile.mkdtemp(dir=folder))
    config = tile.Config.model_validate({"grid": CASES[case][0]})
    begin = time.perf_counter()
    tile.run(folder / "scenes", out, config)
    spent = time.perf_counter() - begin
    shutil.rmtree(out)
    return spent


def ours(case: str, folder: Path) -> float:
    import dask

    with dask.config.set(scheduler="threads", num_workers=THREADS):
        return _seconds(folder, case)


def gdal(case: str, folder: Path) -> float:
    """Let GDAL write the same pixels: seconds."""
    import rasterio
    from rasterio.enums import Resampling
    from rasterio.warp import reproject

    grid = _grid(folder, case)
    form = {"count": len(BANDS), "height": grid.height, "width": grid.width, "crs": grid.crs,
            "transform": grid.transform, **PROFILE}  # fmt: skip
    out = folder / "limit.tif"
    begin = time.perf_counter()
    with (
        rasterio.Env(GDAL_CACHEMAX=512 * 2**20),
        rasterio.open(folder / SCENE) as source,
        rasterio.open(out, "w", **form) as target,
    ):
        if case == "copy":
            for row in range(0, grid.height, TILE):
                place = ((row, min(row + TILE, grid.height)), (0, grid.width))
                target.write(source.read(window=place).astype(np.float32), window=place)
        else:
            places = list(range(1, len(BANDS) + 1))
            reproject(
                rasterio.band(source, places), rasterio.band(target, places), resampling=Resampling[CASES[case][1]],
                num_threads=THREADS, warp_mem_limit=256, dst_nodata=0,
            )  # fmt: skip
    spent = time.perf_counter() - begin
    out.unlink()
    return spent


def _grid(folder: Path, case: str) -> Grid:
    from stages import tile
    from stages.formats.scenes import read_scenes
    from stages.geo.lay import lay_grid

    frames = [source.frame for source in read_scenes(folder / "scenes").sources]
    return lay_grid(frames, tile.Config.model_validate({"grid": CASES[case][0]}).grid)[0]


def rate(cluster: str, workers: int, folder: Path) -> float:
    """Warp with so many workers, that are there before the clock starts: pixels of the grid a second."""
    from pipeline.cluster import Local, Threads, opened

    grid = _grid(folder, "warp")
    with opened(Threads(workers=workers) if cluster == "threads" else Local(kind="local", workers=workers)):
        if cluster == "processes":
            from distributed import get_client

            get_client().run(_load)
        return grid.width * grid.height / _seconds(folder, "warp")


def _load() -> None:
    """Load in a worker what its first tile would wait for."""
    import numcodecs  # noqa: F401
    import rasterio  # noqa: F401
    import zarr  # noqa: F401

    import stages.tile  # noqa: F401


def _against_gdal(name: str, case: str) -> Work:
    return Work(name, "s", 1.25, prepare, partial(ours, case), partial(gdal, case))


def _against_one(cluster: str) -> Work:
    two: Callable[[Path], float] = partial(rate, cluster, 2)
    return Work(f"tile, two {cluster} against one", "px/s", 1.7, prepare, two, partial(rate, cluster, 1))


WORKS = (
    _against_gdal("tile, 4096 x 4096 x 4 into another CRS", "warp"),
    _against_gdal("tile, 10 m averaged to 30 m", "coarse"),
    _against_gdal("tile, copied", "copy"),
    _against_one("threads"),
    _against_one("processes"),
)

if __name__ == "__main__":
    main(WORKS)
