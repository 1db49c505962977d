"""Measure what the tile store costs: reads of windows from it, from its alternatives, and from plain memory.

    python -m tests.benchmarks.store [--size 2048] [--seconds 2]

Prints windows a second. The limit is an array in memory; a ratio is a store's rate as a share of that limit.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

BANDS, SIDE = 5, 256

#: Give the window (band, y, x) whose upper left corner is at a row and a column.
Reader = Callable[[int, int], np.ndarray]


def scene(size: int) -> np.ndarray:
    """Make a cube that compresses as scenes do: digital numbers with smooth fields and noise, float32 (band, y, x)."""
    rng = np.random.default_rng(0)
    ramp = np.linspace(0, 12, size)
    smooth = 60 * np.sin(ramp)[:, None] * np.cos(ramp)[None]
    cube = np.stack([500 + smooth * (band + 1) + rng.normal(0, 8, (size, size)) for band in range(BANDS)])
    return np.asarray(cube.round().astype(np.float32))


def places(order: str, size: int, seed: int = 1) -> Iterator[tuple[int, int]]:
    """Go on giving corners of windows: in rows of tiles, at random tiles, or anywhere."""
    rng, last = np.random.default_rng(seed), size - SIDE
    while True:
        if order == "rows":
            yield from ((row, col) for row in range(0, size, SIDE) for col in range(0, size, SIDE))
        elif order == "random":
            row, col = rng.integers(0, size // SIDE, 2) * SIDE
            yield int(row), int(col)
        else:
            row, col = rng.integers(0, last + 1, 2)
            yield int(row), int(col)


def stores(folder: Path, cube: np.ndarray) -> dict[str, Reader]:
    """Write the cube in every way and give a reader of each."""
    return {
        "array in memory": lambda row, col: cube[:, row : row + SIDE, col : col + SIDE].copy(),
        "memory-mapped .npy": _mapped(folder / "cube.npy", cube),
        "tile store (lz4)": _tile_store(folder, cube),
        "Zarr, zstd": _zarr(folder / "zstd.zarr", cube, "zstd"),
        "Zarr, uncompressed": _zarr(folder / "plain.zarr", cube, None),
        "GeoTIFF, zstd": _geotiff(folder / "cube.tif", cube),
    }


def _mapped(path: Path, cube: np.ndarray) -> Reader:
    np.save(path, cube)
    array = np.load(path, mmap_mode="r")
    return lambda row, col: np.array(array[:, row : row + SIDE, col : col + SIDE])


def _tile_store(folder: Path, cube: np.ndarray) -> Reader:
    from stages.formats.tiles import Tiles
    from stages.geo.grid import Grid, Window

    grid = Grid("EPSG:32633", 10.0, 0.0, 0.0, cube.shape[2], cube.shape[1], SIDE)
    tiles = Tiles.create(folder, grid, tuple(f"b{i}" for i in range(BANDS)), ("",), "digital numbers")
    for _, _, window in grid.tiles():
        tiles.write(window, cube[(None, ..., *window.slices)], np.ones((1, window.height, window.width), bool))
    return lambda row, col: tiles.read(Window(row, col, SIDE, SIDE))[0]


def _zarr(path: Path, cube: np.ndarray, compressor: str | None) -> Reader:
    import zarr
    from zarr.codecs import ZstdCodec

    codecs = (ZstdCodec(level=3),) if compressor else None
    chunks = (BANDS, SIDE, SIDE)
    array: Any = zarr.create_array(path, shape=cube.shape, chunks=chunks, dtype="float32", compressors=codecs)
    array[:] = cube
    return lambda row, col: np.asarray(array[:, row : row + SIDE, col : col + SIDE])


def _geotiff(path: Path, cube: np.ndarray) -> Reader:
    import rasterio
    from rasterio.windows import Window

    profile = {
        "driver": "GTiff", "dtype": "float32", "count": BANDS, "height": cube.shape[1], "width": cube.shape[2],
        "crs": "EPSG:32633", "tiled": True, "blockxsize": SIDE, "blockysize": SIDE, "compress": "zstd",
        "transform": rasterio.transform.from_origin(0, 0, 10, 10),
    }  # fmt: skip
    with rasterio.open(path, "w", **profile) as target:
        target.write(cube)
    dataset = rasterio.open(path)
    return lambda row, col: np.asarray(dataset.read(window=Window(col, row, SIDE, SIDE)))


def rate(read: Reader, order: str, size: int, seconds: float) -> float:
    """Count the windows that are read in a second."""
    corners = places(order, size)
    read(*next(corners))
    start, done = time.perf_counter(), 0
    while (spent := time.perf_counter() - start) < seconds:
        read(*next(corners))
        done += 1
    return done / spent


def main() -> None:
    """Print the table: a line a store, rates by order of reading, and the ratio to the limit."""
    import rasterio

    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--size", type=int, default=2048, help="height and width of the cube in pixels")
    parser.add_argument("--seconds", type=float, default=2.0, help="time for every figure")
    asked = parser.parse_args()
    cube, orders = scene(asked.size), ("rows", "random", "anywhere")
    # GDAL may keep one row of tiles: reads of a store as large as memory are not to be measured in its cache.
    with tempfile.TemporaryDirectory() as folder, rasterio.Env(GDAL_CACHEMAX=16 * 1024 * 1024):
        readers = stores(Path(folder), cube)
        rates = {
            name: [rate(read, order, asked.size, asked.seconds) for order in orders] for name, read in readers.items()
        }
        sizes = {"Zarr, zstd": "zstd.zarr", "tile store (lz4)": "cube.zarr", "GeoTIFF, zstd": "cube.tif"}
        disk = {name: _megabytes(Path(folder) / place) for name, place in sizes.items()}
    limit = rates["array in memory"]
    print(
        f"{SIDE} x {SIDE} x {BANDS} float32 windows a second of {asked.size} x {asked.size} pixels (share of the limit)"
    )
    print(f"{'':<20}" + "".join(f"{order:>16}" for order in orders) + f"{'MB on disk':>12}")
    for name, found in rates.items():
        cells = "".join(f"{r:>8.0f} ({r / top:>4.0%})" for r, top in zip(found, limit, strict=True))
        print(f"{name:<20}{cells}{disk.get(name, cube.nbytes / 1e6):>12.0f}")


def _megabytes(path: Path) -> float:
    files = [path] if path.is_file() else [file for file in path.rglob("*") if file.is_file()]
    return sum(file.stat().st_size for file in files) / 1e6


if __name__ == "__main__":
    main()
