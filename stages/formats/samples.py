"""The `samples` artifact: every labelled pixel on the grid with its block, its class and its role in every fold."""

from __future__ import annotations

import copy
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
    """Labels on the grid, opened for reading or writing at one season, by default the last, as `Tiles` are.

    Arrays on the grid, read by window:
      target       uint8 (season, y, x)        class index 0..K-1, `DROPPED` or `UNLABELLED`
      independent  uint8 (season, y, x)        the same for the independent test set (`UNLABELLED` where there is none)
      block        int32 (season, y, x)        ground block of the pixel (a group lies whole in one block), -1 outside;
                                               the same in every season
      group        int32 (season, y, x)        group of the labelled pixel, -1 where it stands for itself
      role         uint8 (fold, season, y, x)  `Role` of the pixel's label in every fold
      final        uint8 (season, y, x)        `Role` of the label in a model trained on all labels
    and `Part` of every block in every fold and season, (fold, season, block) in the summary. What is read is of the
    opened season, without that axis.

    Without folds there is one fold, the split itself. Where a method takes a fold, None means the final model,
    which learns from every block; only the independent test set stays out of it.
    """

    def __init__(self, folder: Path, season: int = -1) -> None:
        self.folder = Path(folder)
        self._arrays: dict[str, Any] = {}
        self.summary: dict[str, Any] = json.loads((self.folder / SUMMARY).read_text())
        self.classes: tuple[str, ...] = tuple(self.summary["classes"])
        #: Number of folds; 1 where a single split was asked for.
        self.folds: int = self.summary["folds"]
        #: True where `label.folds` was set and scores are pooled out of fold.
        self.crossed: bool = self.summary["crossed"]
        parts = np.asarray(self.summary["parts"], dtype=np.uint8)
        #: `Part` of every block in every fold and season: (fold, season, block); one season may go without its axis.
        self.all_parts: np.ndarray = parts.reshape(len(parts), -1, parts.shape[-1])
        self.seasons: int = self.all_parts.shape[1]
        self.season: int = season % self.seasons

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_arrays": {}}

    def of(self, season: int) -> Samples:
        """Open the same labels at another season, counted from the earliest."""
        other = copy.copy(self)
        other.season = season % self.seasons
        return other

    def each_season(self) -> list[Samples]:
        """Open the labels once a season, the earliest first."""
        return [self.of(season) for season in range(self.seasons)]

    @property
    def season_name(self) -> str:
        """What the opened season is called: its year or years, or its first date."""
        names = self.summary.get("season_names")
        return str(names[self.season] if names else self.season)

    @property
    def parts(self) -> np.ndarray:
        """`Part` of every block in the opened season: uint8 (fold, block)."""
        parts: np.ndarray = self.all_parts[:, self.season]
        return parts

    @property
    def refitted(self) -> bool:
        """Whether the map's model learns from all labels: with folds, and where the split leaves no test part."""
        return self.crossed or not bool((self.all_parts == Part.TEST).any())

    @property
    def by_year(self) -> bool:
        """Whether every fold tests a season of its own, on ground that other seasons may train on."""
        return "fold_seasons" in self.summary

    @property
    def split_by(self) -> str:
        """What was dealt to train, validation and test: ground "blocks", or labels at "random"."""
        return str(self.summary.get("split_by", "blocks"))

    @property
    def split(self) -> str:
        """Name these very labels and their division into splits by a hash: what a model was not trained on."""
        return hashlib.sha256((self.folder / SUMMARY).read_bytes()).hexdigest()[:16]

    @staticmethod
    def layout(folder: Path, grid: Grid, folds: int, seasons: int = 1) -> None:
        """Lay out the empty arrays, chunked as the tiles are."""
        import zarr

        group = zarr.open_group(folder / STORE, mode="w")
        side, shape = grid.tile, (seasons, *grid.shape)
        for name in ("target", "independent"):
            group.create_array(name, shape=shape, chunks=(1, side, side), dtype="uint8", fill_value=UNLABELLED)
        for name in ("block", "group"):
            group.create_array(name, shape=shape, chunks=(1, side, side), dtype="int32", fill_value=-1)
        group.create_array("role", shape=(folds, *shape), chunks=(1, 1, side, side), dtype="uint8", fill_value=0)
        group.create_array("final", shape=shape, chunks=(1, side, side), dtype="uint8", fill_value=0)

    @staticmethod
    def set_folds(folder: Path, folds: int) -> None:
        """Change the number of folds, before any role is written."""
        import zarr

        role: Any = zarr.open_array(folder / STORE / "role", mode="r+")
        role.resize((folds, *role.shape[1:]))

    @staticmethod
    def write(folder: Path, window: Window, season: int = 0, **arrays: np.ndarray) -> None:
        """Write any of the arrays for one window of one season: (y, x), `role` (fold, y, x)."""
        import zarr

        for name, values in arrays.items():
            array: Any = zarr.open_array(folder / STORE / name, mode="r+")
            array[(..., season, *window.slices)] = values

    @staticmethod
    def read_back(folder: Path, name: str, window: Window) -> np.ndarray:
        """Read what was written of one of the arrays before there is a summary: (season, y, x)."""
        import zarr

        array: Any = zarr.open_array(folder / STORE / name, mode="r")
        values: np.ndarray = array[(..., slice(None), *window.slices)]
        return values

    @staticmethod
    def write_summary(folder: Path, summary: dict[str, Any]) -> None:
        """Write the counts: needs classes, folds, crossed, parts (fold, season, block); the rest is for people.

        ``fold_seasons`` is the season that each fold tests, with `label.folds: by_year` alone; ``split_by`` and
        ``season_names`` are as the properties here.
        """
        (folder / SUMMARY).write_text(json.dumps(summary, indent=1))

    @staticmethod
    def write_statistics(folder: Path, statistics: list[dict[str, Any]]) -> None:
        """Write one entry a fold and a last one for the final model, all seasons pooled.

        Keys: channels, pixels; count (of valid pixels), mean, std and percentiles (by level), one value a channel;
        class_pixels, class_means and class_stds (a row a class, None where it has no training pixel; in a row None
        where a channel is valid at none of them).
        """
        (folder / STATISTICS).write_text(json.dumps(statistics, indent=1))

    def statistics(self, fold: int | None) -> dict[str, Any]:
        """Count, mean, deviation and percentiles of every channel over the valid training pixels of a fold."""
        entries: list[dict[str, Any]] = json.loads((self.folder / STATISTICS).read_text())
        return entries[-1 if fold is None else fold]

    def read(self, name: str, window: Window) -> np.ndarray:
        """Read one of the arrays for a window: (y, x), `role` (fold, y, x)."""
        values: np.ndarray = self._array(name)[(..., self.season, *window.slices)]
        return values

    def read_seasons(self, name: str, window: Window) -> np.ndarray:
        """Read one of the arrays for a window in every season: (season, y, x), `role` (fold, season, y, x)."""
        values: np.ndarray = self._array(name)[(..., slice(None), *window.slices)]
        return values

    def _array(self, name: str) -> Any:
        if name not in self._arrays:
            import zarr

            self._arrays[name] = zarr.open_array(self.folder / STORE / name, mode="r")
        return self._arrays[name]

    def apart(self, window: Window) -> np.ndarray:
        """Pixels of the independent test set, in whatever season they are labelled: bool (y, x)."""
        return np.asarray((self.read_seasons("independent", window) != UNLABELLED).any(axis=0))

    def part(self, fold: int, window: Window) -> np.ndarray:
        """`Part` of every pixel of a window in one fold, from its block: uint8 (y, x)."""
        block = self.read("block", window)
        parts = np.append(self.parts[fold], np.uint8(Part.NONE))
        found: np.ndarray = parts[block]
        return found

    def training_mask(self, fold: int | None, window: Window) -> np.ndarray:
        """Pixels that a training input of a fold may hold: bool (y, x); never one of the independent test set."""
        open_to_all = ~self.apart(window)
        mask: np.ndarray = open_to_all if fold is None else open_to_all & (self.part(fold, window) == Part.TRAIN)
        return mask

    def roles(self, fold: int | None, window: Window) -> np.ndarray:
        """`Role` of every label of a window in one fold: uint8 (y, x)."""
        if fold is None:
            return self.read("final", window)
        roles: np.ndarray = self._array("role")[(fold, self.season, *window.slices)]
        return roles

    def write_blocks(self, table: Any) -> None:
        """Write the blocks (geopandas): id, row, col, part_<fold>, pixels_<class> of every class, outline.

        Where folds test seasons, part_<fold>_<season>.
        """
        table.to_parquet(self.folder / BLOCKS)

    def read_blocks(self) -> Any:
        """Read the blocks as a ``GeoDataFrame``."""
        import geopandas as gpd

        return gpd.read_parquet(self.folder / BLOCKS)
