"""The `samples` artifact: every labelled pixel on the grid with its block, its class and its role in every fold."""

from __future__ import annotations

import hashlib
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
#: Its role is TEST in test blocks (an error in a second accuracy) and NONE elsewhere.
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
      group        int32 (y, x)        group of the labelled pixel, -1 where it stands for itself
      role         uint8 (fold, y, x)  `Role` of the pixel's label in every fold
      final        uint8 (y, x)        `Role` of the label in a model trained on all labels (after cross-validation)
    and per block and fold `parts` uint8 (fold, block), `Part` of every block.

    Without folds there is one fold, the split itself. Where a method takes a fold, None means the final model,
    which learns from every block; only the independent test set stays out of it.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = Path(folder)
        self._arrays: dict[str, Any] = {}
        self.summary: dict[str, Any] = json.loads((self.folder / SUMMARY).read_text())
        self.classes: tuple[str, ...] = tuple(self.summary["classes"])
        #: Number of folds; 1 where a single split was asked for.
        self.folds: int = self.summary["folds"]
        #: True where `label.folds` was set and scores are pooled out of fold.
        self.crossed: bool = self.summary["crossed"]
        self.parts: np.ndarray = np.asarray(self.summary["parts"], dtype=np.uint8)

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_arrays": {}}

    @property
    def split(self) -> str:
        """Name these very labels and their division into splits by a hash: what a model was not trained on."""
        return hashlib.sha256((self.folder / SUMMARY).read_bytes()).hexdigest()[:16]

    @staticmethod
    def layout(folder: Path, grid: Grid, folds: int) -> None:
        """Lay out the empty arrays, chunked as the tiles are."""
        import zarr

        group = zarr.open_group(folder / STORE, mode="w")
        side, shape = grid.tile, grid.shape
        for name in ("target", "independent"):
            group.create_array(name, shape=shape, chunks=(side, side), dtype="uint8", fill_value=UNLABELLED)
        for name in ("block", "group"):
            group.create_array(name, shape=shape, chunks=(side, side), dtype="int32", fill_value=-1)
        group.create_array("role", shape=(folds, *shape), chunks=(1, side, side), dtype="uint8", fill_value=0)
        group.create_array("final", shape=shape, chunks=(side, side), dtype="uint8", fill_value=0)

    @staticmethod
    def write(folder: Path, window: Window, **arrays: np.ndarray) -> None:
        """Write any of the arrays for one window."""
        import zarr

        for name, values in arrays.items():
            array: Any = zarr.open_array(folder / STORE / name, mode="r+")
            array[(..., *window.slices)] = values

    @staticmethod
    def write_summary(folder: Path, summary: dict[str, Any]) -> None:
        """Write the counts: needs classes, folds, crossed, parts; the rest is for people."""
        (folder / SUMMARY).write_text(json.dumps(summary, indent=1))

    @staticmethod
    def write_statistics(folder: Path, statistics: list[dict[str, Any]]) -> None:
        """Write one entry a fold and a last one for the final model.

        Keys: channels, pixels, mean, std, percentiles (by level, one value a channel), class_pixels and class_means
        (a row a class, None where it has no training pixel).
        """
        (folder / STATISTICS).write_text(json.dumps(statistics, indent=1))

    def statistics(self, fold: int | None) -> dict[str, Any]:
        """Mean, deviation and percentiles of every channel over the valid training pixels of a fold."""
        entries: list[dict[str, Any]] = json.loads((self.folder / STATISTICS).read_text())
        return entries[-1 if fold is None else fold]

    def read(self, name: str, window: Window) -> np.ndarray:
        """Read one of the arrays for a window."""
        values: np.ndarray = self._array(name)[(..., *window.slices)]
        return values

    def _array(self, name: str) -> Any:
        if name not in self._arrays:
            import zarr

            self._arrays[name] = zarr.open_array(self.folder / STORE / name, mode="r")
        return self._arrays[name]

    def part(self, fold: int, window: Window) -> np.ndarray:
        """`Part` of every pixel of a window in one fold, from its block: uint8 (y, x)."""
        block = self.read("block", window)
        parts = np.append(self.parts[fold], np.uint8(Part.NONE))
        found: np.ndarray = parts[block]
        return found

    def training_mask(self, fold: int | None, window: Window) -> np.ndarray:
        """Pixels that a training input of a fold may hold: bool (y, x); never one of the independent test set."""
        open_to_all = self.read("independent", window) == UNLABELLED
        mask: np.ndarray = open_to_all if fold is None else open_to_all & (self.part(fold, window) == Part.TRAIN)
        return mask

    def roles(self, fold: int | None, window: Window) -> np.ndarray:
        """`Role` of every label of a window in one fold: uint8 (y, x)."""
        if fold is None:
            return self.read("final", window)
        roles: np.ndarray = self._array("role")[(fold, *window.slices)]
        return roles

    def write_blocks(self, table: Any) -> None:
        """Write the blocks (geopandas): id, row, col, part_<fold>, pixels_<class> of every class, outline."""
        table.to_parquet(self.folder / BLOCKS)

    def read_blocks(self) -> Any:
        """Read the blocks as a ``GeoDataFrame``."""
        import geopandas as gpd

        return gpd.read_parquet(self.folder / BLOCKS)
