"""The `classes` artifact: class index, confidence and further layers as tiled GeoTIFFs, and what made them."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO
from uuid import uuid4

import numpy as np

from stages.geo.grid import Grid, Window

META = "classes.json"
PARTS = "parts"
#: Nodata of class and confidence. Classes are indices 0..K-1; confidence is the top probability in percent, 0..100.
NODATA = 255
#: Side of the blocks of all layers, in pixels.
BLOCK = 256


@dataclass(frozen=True)
class Layer:
    """One layer of a map: its file, its type, what marks a pixel without a value, and how many steps make up 1."""

    file: str
    dtype: str
    nodata: int | None
    steps: int
    #: One band a class instead of a single one.
    by_class: bool = False
    description: str = ""


LAYERS = {
    "classes": Layer("classes.tif", "uint8", NODATA, 1),
    "confidence": Layer("confidence.tif", "uint8", NODATA, 100),
    "probabilities": Layer(
        "probabilities.tif", "uint8", NODATA, 250, True, "probability of every class, 250 is 1 (8 bits)"
    ),
    "probabilities16": Layer(
        "probabilities.tif", "uint16", 65535, 65000, True, "probability of every class, 65000 is 1 (16 bits)"
    ),
    "entropy": Layer("entropy.tif", "uint8", NODATA, 100, False, "entropy in percent of that of equal probabilities"),
    "margin": Layer("margin.tif", "uint8", NODATA, 100, False, "lead of the class over the second, in percent"),
    "valid": Layer("valid.tif", "uint8", None, 1, False, "1 where a pixel was classified, 0 elsewhere"),
}
CLASSES, CONFIDENCE = LAYERS["classes"].file, LAYERS["confidence"].file
#: Layers of every map.
ALWAYS = ("classes", "confidence")

#: Where pixels lie on the grid, and their layers by name: (band, y, x) each.
Piece = tuple[Window, dict[str, np.ndarray]]
#: Gets the first row and the classes of every row of tiles that is joined, for counting.
Seen = Callable[[int, np.ndarray], None]


def part_path(folder: Path, window: Window) -> Path:
    """Where the layers of a block wait until the map is assembled."""
    return folder / PARTS / f"{window.row:09d}-{window.col:09d}-{window.height}-{window.width}"


def write_part(path: Path, window: Window, bands: dict[str, int], pieces: Iterable[Piece]) -> None:
    """Write the pieces of a block, row by row, to a file a layer in one folder, whole or not at all.

    Rows go to the files as soon as the next begin, so that no block need fit in memory.

    Args:
        path: from `part_path`.
        window: the block.
        bands: of every layer, by its name.
        pieces: in the order of their rows, pieces of the same rows in any; what no piece covers is nodata.
    """
    unfinished = path.with_name(f"{path.name}.{uuid4().hex}.unfinished")
    unfinished.mkdir(parents=True)
    with ExitStack() as stack:
        files = {name: stack.enter_context((unfinished / name).open("wb")) for name in bands}
        rows = _Rows(window, bands, files)
        for where, layers in pieces:
            rows.add(where, layers)
        rows.flush(window.row + window.height)
    try:
        unfinished.rename(path)
    except OSError:
        # Another worker, thought lost, was first; its part may be being read already, and is the same.
        if not path.is_dir():
            raise
        shutil.rmtree(unfinished)


class _Rows:
    """Rows of a block that pieces are still laid into: band within row, so that they can be appended to a file."""

    def __init__(self, window: Window, bands: dict[str, int], files: Mapping[str, BinaryIO]) -> None:
        self._window, self._bands, self._files = window, bands, files
        self._top, self._held = window.row, self._empty(0)

    def _empty(self, high: int) -> dict[str, np.ndarray]:
        return {
            name: np.full((high, count, self._window.width), LAYERS[name].nodata or 0, LAYERS[name].dtype)
            for name, count in self._bands.items()
        }

    @property
    def _end(self) -> int:
        return self._top + len(next(iter(self._held.values())))

    def add(self, where: Window, layers: dict[str, np.ndarray]) -> None:
        """Lay a piece into its rows, writing those before them."""
        if where.row >= self._end:
            self.flush(where.row)
            self._held = self._empty(where.height)
        left = where.col - self._window.col
        for name, values in layers.items():
            rows = slice(where.row - self._top, where.row - self._top + where.height)
            self._held[name][rows, :, left : left + where.width] = values.transpose(1, 0, 2)

    def flush(self, until: int) -> None:
        """Write all rows above ``until``; those that no piece covered are nodata."""
        missing = self._empty(until - self._end)
        for name, file in self._files.items():
            for rows in (self._held[name], missing[name]):
                file.write(rows.data if rows.size else b"")
        self._top, self._held = until, self._empty(0)


def assemble(
    folder: Path, grid: Grid, bands: dict[str, int], blocks: list[Window], *, seen: Seen,
    wait: Callable[[Path], None] | None = None,
) -> None:  # fmt: skip
    """Join the parts of all blocks into one file a layer, a row of tiles at a time.

    Args:
        folder: of the artifact.
        grid: of the map.
        bands: of every layer, by its name.
        blocks: a partition of the grid, row by row.
        seen: is told of every row of tiles.
        wait: is called with every part before it is read, and returns once it is there.
    """
    import rasterio

    # Rows of tiles are written once and whole: a larger cache would only grow with the height.
    with ExitStack() as stack:
        stack.enter_context(rasterio.Env(GDAL_CACHEMAX=16))
        targets = {}
        for name, count in bands.items():
            profile = layer_profile(grid.width, grid.height, grid.crs, grid.transform, name=name, bands=count)
            target = stack.enter_context(rasterio.open(folder / LAYERS[name].file, "w", **profile))
            if LAYERS[name].by_class:
                target.scales = (1.0 / LAYERS[name].steps,) * count
            targets[name] = target
        for top in range(0, grid.height, BLOCK):
            rows = Window(top, 0, min(BLOCK, grid.height - top), grid.width)
            parts = [(block, part_path(folder, block)) for block in blocks if _meet(block, rows)]
            for _, path in parts:
                if wait is not None:
                    wait(path)
            for name, target in targets.items():
                values = _joined(name, bands[name], rows, parts)
                target.write(values, window=((top, top + rows.height), (0, grid.width)))
                if name == "classes":
                    seen(top, values[0])


def layer_profile(
    width: int, height: int, crs: str, transform: Any, *, name: str = "classes", bands: int = 1
) -> dict[str, Any]:
    """Describe a layer as rasterio opens it for writing.

    Compression is the quickest there is: these files are read once, to make the delivered ones.
    """
    layer = LAYERS[name]
    return {
        "driver": "GTiff", "dtype": layer.dtype, "count": bands, "nodata": layer.nodata, "width": width,
        "height": height, "crs": crs, "transform": transform, "tiled": True, "blockxsize": BLOCK, "blockysize": BLOCK,
        "compress": "zstd", "zstd_level": 1, "interleave": "band", "BIGTIFF": "IF_SAFER",
    }  # fmt: skip


def _meet(block: Window, rows: Window) -> bool:
    return block.row < rows.row + rows.height and rows.row < block.row + block.height


def _joined(name: str, count: int, rows: Window, parts: list[tuple[Window, Path]]) -> np.ndarray:
    """Read the rows of one layer from all parts that hold some of them: (band, y, x)."""
    dtype = np.dtype(LAYERS[name].dtype)
    joined = np.empty((count, rows.height, rows.width), dtype)
    for block, path in parts:
        top, bottom = max(block.row, rows.row), min(block.row + block.height, rows.row + rows.height)
        row = count * block.width
        with (path / name).open("rb") as file:
            file.seek((top - block.row) * row * dtype.itemsize)
            values = np.fromfile(file, dtype, (bottom - top) * row)
        values = values.reshape(bottom - top, count, block.width).transpose(1, 0, 2)
        joined[:, top - rows.row : bottom - rows.row, block.col : block.col + block.width] = values
    return joined


def further_layers(folder: Path) -> Iterator[tuple[str, Layer]]:
    """Name the layers of a finished map beside class and confidence."""
    asked = read_meta(folder).get("layers", [])
    return ((name, LAYERS[name]) for name in asked if name not in ALWAYS)


def write_meta(folder: Path, meta: dict[str, Any]) -> None:
    """Write what made the layers: model, backend, windows, valid pixels, area of every class."""
    (folder / META).write_text(json.dumps(meta, indent=1))


def read_meta(folder: Path) -> dict[str, Any]:
    """Read what made the layers."""
    meta: dict[str, Any] = json.loads((folder / META).read_text())
    return meta
