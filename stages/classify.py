"""Map the whole area with the chosen model, in one streaming pass whose memory does not grow with the area's height."""

from __future__ import annotations

import logging
import shutil
from pathlib import Path

import numpy as np

from stages import progress
from stages.formats import maps
from stages.formats.tiles import Tiles
from stages.formats.weights import chosen_folder, read_card
from stages.geo.grid import Grid
from stages.inference.blend import SCALE, UNITS, Band, top_class
from stages.inference.predictor import BACKEND, check_values
from stages.inference.stream import Finished, Stream, Streaming, bands_of, finished_rows, stream_of

_logger = logging.getLogger(__name__)

#: A band that a killed run has finished is kept.
RESUMES = True
#: Says who computes what, and cannot change a byte of the map.
RUN_SETTINGS = ("rows",)


class Config(Streaming):
    """How the area is cut into windows."""


def run(tiles: Path, model: Path, out: Path, config: Config) -> None:
    """Write the class and the confidence of every valid pixel, and what made them.

    Raises:
        ModelError: the model folder is incomplete or does not fit the tiles.
    """
    import dask

    store, folder = Tiles(tiles), chosen_folder(model)
    card = read_card(folder)
    stream = stream_of(store, folder, config)
    check_values(card, store)
    (out / maps.PARTS).mkdir(exist_ok=True)
    bands = bands_of(stream.layout, config)
    parts = [maps.part_path(out, band.top, band.bottom) for band in bands]
    missing = [(band, path) for band, path in zip(bands, parts, strict=True) if not path.exists()]
    progress.report("classify", len(parts) - len(missing), len(parts))
    dask.compute(*(dask.delayed(map_band)(stream, band, path, len(parts)) for band, path in missing))

    counted = _Counts(store.grid, len(card.classes))
    maps.assemble(out, store.grid, parts, counted.add)
    classes = {
        name: {"pixels": int(pixels), "hectares": round(float(hectares), 4)}
        for name, pixels, hectares in zip(card.class_names, counted.pixels, counted.hectares, strict=True)
    }
    maps.write_meta(out, {
        "model": card.name, "fingerprint": card.fingerprint, "backend": BACKEND,
        "windows": len(stream.layout.rows) * len(stream.layout.cols), "valid_pixels": int(counted.pixels.sum()),
        "classes": classes,
    })  # fmt: skip
    shutil.rmtree(out / maps.PARTS)
    _logger.info("classify: %s mapped %s pixels", card.name, f"{int(counted.pixels.sum()):,}")


def map_band(stream: Stream, band: Band, path: Path, total: int) -> None:
    """Map the rows of one band into a part file."""
    pieces = (_piece(rows, band.top) for rows in finished_rows(stream, band))
    maps.write_part(path, (band.bottom - band.top, stream.layout.width), pieces)
    progress.report("classify", len(list(path.parent.glob("*.npy"))), total)


def layers_of(sums: np.ndarray, seen: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Class index and confidence in whole percent from blended sums (K, ...): uint8, nodata where not seen."""
    classes, best = top_class(sums)
    confidence = np.rint(best * (100.0 / (SCALE * UNITS * UNITS))).astype(np.uint8)
    nodata = np.uint8(maps.NODATA)
    return np.where(seen, classes, nodata), np.where(seen, confidence, nodata)


def _piece(rows: Finished, top: int) -> tuple[int, np.ndarray, np.ndarray]:
    first, sums, seen = rows
    return first - top, *layers_of(sums, seen)


class _Counts:
    """Pixels and hectares of every class, counted while the layers are written."""

    def __init__(self, grid: Grid, classes: int) -> None:
        self.grid = grid
        self.pixels = np.zeros(classes, np.int64)
        self.hectares = np.zeros(classes)

    def add(self, top: int, rows: np.ndarray) -> None:
        """Count rows of class indices that begin at row ``top`` of the grid."""
        by_row = np.stack([(rows == k).sum(axis=1) for k in range(len(self.pixels))])
        self.pixels += by_row.sum(axis=1)
        self.hectares += by_row @ self.grid.pixel_hectares(top, top + len(rows))
