"""Measure how fast `tile` turns dated scenes with a quality band into monthly medians, against reading them once.

Run it as `python -m tests.benchmarks.tile_series`; `--side 512` makes a quick one. The limit reads every band of the
same files once with rasterio, in blocks of rows, and keeps nothing. Both have two threads at hand.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from datetime import date, timedelta
from pathlib import Path

import numpy as np

from tests.processes import alone, peak_mb

BANDS, DATES, ROWS = ("blue", "green", "red", "nir"), 24, 256
#: Share of a scene that is cloud.
CLOUDS = 0.3


def main() -> None:
    """Print seconds, ratio and peak memory at both numbers of dates."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--side", type=int, default=1024, help="side of a scene in pixels")
    side = parser.parse_args().side
    with tempfile.TemporaryDirectory() as root:
        folder = Path(root)
        alone(_write_scenes, folder, side)
        limit = min(alone(_read_once, folder) for _ in range(2))
        seconds, peak = alone(_ours, folder, DATES)
        _, low_peak = alone(_ours, folder, DATES // 2)
        size = sum(path.stat().st_size for path in folder.glob("*.tif")) / 1e6
    print(f"{DATES} dates x ({len(BANDS)} bands + quality) x {side} x {side} uint16, deflate, {size:.0f} MB: masked, "
          "grown by 100 m, 12 monthly medians, gaps linear")  # fmt: skip
    print(f"{'ours':>10}{'limit':>10}{'ratio':>8}{'peak':>10}{'peak at half':>14}")
    print(f"{seconds:>8.1f} s{limit:>8.1f} s{seconds / limit:>8.2f}{peak:>7.0f} MB{low_peak:>11.0f} MB")


def _write_scenes(folder: Path, side: int) -> None:
    """Write a file a date and its quality band, with blobs of cloud, and the table of the scenes."""
    from scipy.ndimage import gaussian_filter

    from stages.formats.scenes import Scenes, write_scenes
    from tests.rasters import raster
    from tests.series_worlds import source

    rng = np.random.default_rng(0)
    ground = gaussian_filter(rng.normal(0, 1, (side, side)), 8)
    blobs = gaussian_filter(rng.normal(0, 1, (side, side)), 40)
    tiled = {"tiled": True, "blockxsize": 256, "blockysize": 256, "compress": "deflate"}
    sources = []
    for i in range(DATES):
        day = str(date(2018, 1, 8) + timedelta(days=15 * i))
        cloud = np.roll(blobs, (97 * i, 193 * i), (0, 1))
        cloud = cloud > np.quantile(cloud, 1 - CLOUDS)
        bands = [2000 + 3000 * (b + 1) * ground + 8000 * cloud + rng.normal(0, 30, (side, side)) for b in range(4)]
        values = np.stack(bands).clip(1, 20_000)
        path = raster(folder / f"{day}.tif", values, dtype="uint16", nodata=0, **tiled)
        quality = raster(folder / f"{day}_scl.tif", np.where(cloud, 9, 4), dtype="uint8", **tiled)
        sources += [source(path, day, BANDS, scale=1e-4, scene=day), source(quality, day, ("SCL",), scene=day)]
    for count in (DATES, DATES // 2):
        (folder / f"scenes{count}").mkdir()
        kept = sorted({one.date for one in sources})[:: DATES // count]
        write_scenes(folder / f"scenes{count}",
                     Scenes(BANDS, tuple(one for one in sources if one.date in kept), "SCL"))  # fmt: skip


def _read_once(folder: Path) -> float:
    """Read every band of every file once."""
    import rasterio
    from rasterio.windows import Window

    def read(path: Path) -> None:
        with rasterio.open(path) as dataset:
            for row in range(0, dataset.height, ROWS):
                dataset.read(window=Window(0, row, dataset.width, min(ROWS, dataset.height - row)))

    begin = time.perf_counter()
    with ThreadPoolExecutor(2) as pool:
        list(pool.map(read, sorted(folder.glob("*.tif"))))
    return time.perf_counter() - begin


def _ours(folder: Path, count: int) -> tuple[float, float]:
    """Tile the scenes: seconds without the libraries' first import, and peak memory in MB."""
    import dask
    import pandas  # noqa: F401
    import zarr  # noqa: F401

    from stages import tile

    out = folder / f"tiles{count}"
    out.mkdir()
    config = tile.Config.model_validate({"time": {"step": "1 month", "fill": "linear", "from": "2018", "to": "2018"}})
    begin = time.perf_counter()
    with dask.config.set(scheduler="threads", num_workers=2):
        tile.run(folder / f"scenes{count}", out, config)
    return time.perf_counter() - begin, peak_mb()


if __name__ == "__main__":
    main()
