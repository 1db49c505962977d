"""The `classes` artifact: class index and confidence of every pixel as plain tiled GeoTIFFs, and what made them."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from stages.geo.grid import Grid

CLASSES = "classes.tif"
CONFIDENCE = "confidence.tif"
META = "classes.json"
PARTS = "parts"
#: Nodata of both layers. Classes are indices 0..K-1; confidence is the top probability in percent, 0..100.
NODATA = 255
#: Side of the blocks of both layers, in pixels.
BLOCK = 256


def layer_profile(width: int, height: int, crs: str, transform: Any) -> dict[str, Any]:
    """Describe either layer as rasterio opens it for writing."""
    return {
        "driver": "GTiff", "dtype": "uint8", "count": 1, "nodata": NODATA, "width": width, "height": height,
        "crs": crs, "transform": transform, "tiled": True, "blockxsize": BLOCK, "blockysize": BLOCK,
        "compress": "deflate", "BIGTIFF": "IF_SAFER",
    }  # fmt: skip


def part_path(folder: Path, top: int, bottom: int) -> Path:
    """Where the rows ``top..bottom-1`` of both layers wait until the layers are assembled."""
    return folder / PARTS / f"{top:09d}-{bottom:09d}.npy"


def write_part(path: Path, shape: tuple[int, int], pieces: Iterator[tuple[int, np.ndarray, np.ndarray]]) -> None:
    """Write pieces of rows (first row within the part, classes, confidence) to one file, whole or not at all.

    Args:
        path: from `part_path`.
        shape: rows and columns of the part.
        pieces: uint8 (rows, width) each; what no piece covers is nodata.
    """
    import os

    unfinished = path.with_name(f"{path.stem}.{os.getpid()}.unfinished")
    part = np.lib.format.open_memmap(unfinished, mode="w+", dtype=np.uint8, shape=(2, *shape))
    part[:] = NODATA
    for row, classes, confidence in pieces:
        part[0, row : row + len(classes)] = classes
        part[1, row : row + len(classes)] = confidence
    part.flush()
    del part
    unfinished.replace(path)


def assemble(folder: Path, grid: Grid, parts: list[Path], seen: Callable[[int, np.ndarray], None]) -> None:
    """Join parts, from top to bottom, into both layers, a row of blocks at a time.

    ``seen`` gets the first row and the classes of every piece, for counting.
    """
    import rasterio

    profile = layer_profile(grid.width, grid.height, grid.crs, grid.transform)
    for layer, name in enumerate((CLASSES, CONFIDENCE)):
        # Rows of blocks are written once and whole: a larger cache would only grow with the height.
        with rasterio.Env(GDAL_CACHEMAX=64), rasterio.open(folder / name, "w", **profile) as target:
            for top, rows in _block_rows(parts, layer, grid.width):
                target.write(rows, 1, window=((top, top + len(rows)), (0, grid.width)))
                if layer == 0:
                    seen(top, rows)


def _block_rows(parts: list[Path], layer: int, width: int) -> Iterator[tuple[int, np.ndarray]]:
    """Cut the parts of one layer anew into rows of blocks, because no part need end where a block does."""
    top, held = 0, np.empty((0, width), np.uint8)
    for path in parts:
        part = np.load(path, mmap_mode="r")[layer]
        for first in range(0, len(part), BLOCK):
            held = np.concatenate([held, part[first : first + BLOCK]])
            while len(held) >= BLOCK:
                yield top, held[:BLOCK]
                top, held = top + BLOCK, held[BLOCK:]
    if len(held):
        yield top, held


def write_meta(folder: Path, meta: dict[str, Any]) -> None:
    """Write what made the layers: model, backend, windows, valid pixels, area of every class."""
    (folder / META).write_text(json.dumps(meta, indent=1))


def read_meta(folder: Path) -> dict[str, Any]:
    """Read what made the layers."""
    meta: dict[str, Any] = json.loads((folder / META).read_text())
    return meta
