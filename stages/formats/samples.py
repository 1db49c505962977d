"""The `samples` artifact: every labelled pixel on the grid with its block, its class and its role in every fold."""

from __future__ import annotations

import json
from enum import IntEnum
from pathlib import Path
from typing import Any

import numpy as np

from stages.geo.grid import Grid, Window

STORE = "samples.zarr"
SUMMARY = "samples.json"
STATISTICS = "statistics.json"
BLOCKS = "blocks.parquet"

#: Target of a pixel without a label.
UNLABELLED = 255
#: Target of a pixel whose class the config drops: no model may learn it, and a map can never be right there.
DROPPED = 254


class Role(IntEnum):
    """What a labelled pixel may be used for in one fold."""

    NONE = 0
    TRAIN = 1
    VALIDATION = 2
    TEST = 3
    #: A training label too near to a held-out block.
    BUFFER = 4
    #: A training label on a pixel of more than one class.
    MIXED = 5
    #: A pixel of the independent test set (`label.test`): scored apart, never trained on.
    INDEPENDENT = 6


class Part(IntEnum):
    """Which part of a fold a ground block belongs to; pixels outside every block have part NONE."""

    NONE = 0
    TRAIN = 1
    VALIDATION = 2
    TEST = 3


class Samples:
    """Labels on the grid, opened for reading or writing.

    Arrays on the grid, read by window:
      target       uint8 (y, x)        class index 0..K-1, `DROPPED` or `UNLABELLED`
      independent  uint8 (y, x)        the same for the independent test set (`UNLABELLED` where there is none)
      block        int32 (y, x)        ground block of the pixel (a group lies whole in one block), -1 outside
      role         uint8 (fold, y, x)  `Role` of the pixel's label in every fold
    and per block and fold `parts` uint8 (fold, block), `Part` of every block.

    Without folds there is one fold, the split itself.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = Path(folder)
        self._arrays: Any = None
        self.summary: dict[str, Any] = json.loads((self.folder / SUMMARY).read_text())
        self.classes: tuple[str, ...] = tuple(self.summary["classes"])
        #: Number of folds; 1 where a single split was asked for.
        self.folds: int = self.summary["folds"]
        #: True where `label.folds` was set and scores are pooled out of fold.
        self.crossed: bool = self.summary["crossed"]
        self.parts: np.ndarray = np.asarray(self.summary["parts"], dtype=np.uint8)

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_arrays": None}

    @staticmethod
    def layout(folder: Path, grid: Grid, folds: int) -> None:
        """Lay out the empty arrays, chunked as the tiles are."""
        import zarr

        group = zarr.open_group(folder / STORE, mode="w")
        side, shape = grid.tile, grid.shape
        for name in ("target", "independent"):
            group.create_array(name, shape=shape, chunks=(side, side), dtype="uint8", fill_value=UNLABELLED)
        group.create_array("block", shape=shape, chunks=(side, side), dtype="int32", fill_value=-1)
        group.create_array("role", shape=(folds, *shape), chunks=(1, side, side), dtype="uint8", fill_value=0)

    @staticmethod
    def write(folder: Path, window: Window, **arrays: np.ndarray) -> None:
        """Write any of target, independent, block and role for one window."""
        import zarr

        group: Any = zarr.open_group(folder / STORE, mode="r+")
        for name, values in arrays.items():
            group[name][(..., *window.slices)] = values

    @staticmethod
    def write_summary(folder: Path, summary: dict[str, Any]) -> None:
        """Write the counts: needs classes, folds, crossed, parts; the rest is for people."""
        (folder / SUMMARY).write_text(json.dumps(summary, indent=1))

    @staticmethod
    def write_statistics(folder: Path, statistics: list[dict[str, Any]]) -> None:
        """Write one entry a fold: channels, mean, std, percentiles, class_pixels, class_means, class_stds."""
        (folder / STATISTICS).write_text(json.dumps(statistics, indent=1))

    def statistics(self, fold: int) -> dict[str, Any]:
        """Mean, deviation and percentiles of every channel over the valid training pixels of a fold."""
        entries: list[dict[str, Any]] = json.loads((self.folder / STATISTICS).read_text())
        return entries[fold]

    def read(self, name: str, window: Window) -> np.ndarray:
        """Read one of target, independent, block or role (fold, y, x) for a window."""
        if self._arrays is None:
            import zarr

            self._arrays = zarr.open_group(self.folder / STORE, mode="r")
        values: np.ndarray = self._arrays[name][(..., *window.slices)]
        return values

    def part(self, fold: int, window: Window) -> np.ndarray:
        """`Part` of every pixel of a window in one fold, from its block: uint8 (y, x)."""
        block = self.read("block", window)
        parts = np.append(self.parts[fold], np.uint8(Part.NONE))
        found: np.ndarray = parts[block]
        return found

    def training_mask(self, fold: int, window: Window) -> np.ndarray:
        """Pixels that a training input of a fold may hold: bool (y, x)."""
        mask: np.ndarray = self.part(fold, window) == Part.TRAIN
        return mask

    def write_blocks(self, table: Any) -> None:
        """Write the blocks (geopandas): id, row, col, part_<fold>, pixels of every class, outline."""
        table.to_parquet(self.folder / BLOCKS)

    def read_blocks(self) -> Any:
        """Read the blocks as a ``GeoDataFrame``."""
        import geopandas as gpd

        return gpd.read_parquet(self.folder / BLOCKS)
