"""A tile store of random values and a label raster of stripes, for tests of the label stage."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import rasterio

from stages.formats.samples import UNLABELLED, Role, Samples
from stages.formats.tiles import Tiles
from stages.geo.grid import Grid, Window
from stages.label import Config, run
from stages.training.splits import check_groups, check_seasons, verify_window

CRS = "EPSG:32633"
GRID = Grid(CRS, 10.0, 500_000.0, 5_400_000.0, 48, 40, 16)
CLASSES = [
    {"name": "water", "labels": [1], "code": 1, "color": "#0000ff"},
    {"name": "forest", "labels": [2], "code": 2, "color": "#00ff00"},
]


@dataclass(frozen=True)
class LabelWorld:
    """A folder with a tile store; stripes of two classes, 2 pixels wide, cover the grid."""

    root: Path
    grid: Grid = GRID

    @classmethod
    def build(
        cls, root: Path, invalid: tuple[slice, slice] | None = None, grid: Grid = GRID, *,
        dates: tuple[str, ...] = ("2020",), seasons: int = 1, step: str = "",
    ) -> LabelWorld:  # fmt: skip
        """Write the tile store, with pixels invalid on the first date where asked."""
        folder = root / "tiles"
        folder.mkdir(parents=True)
        tiles = Tiles.create(folder, grid, ("red", "nir"), dates, "digital numbers", seasons=seasons, step=step)
        cube = np.random.default_rng(0).normal(100, 5, (len(dates), 2, *grid.shape)).astype(np.float32)
        valid = np.ones((len(dates), *grid.shape), dtype=bool)
        if invalid is not None:
            valid[(0, *invalid)] = False
        for _, _, window in grid.tiles():
            tiles.write(window, cube[(..., *window.slices)], valid[(..., *window.slices)])
        return cls(root, grid)

    @property
    def truth(self) -> np.ndarray:
        """Label value 1 or 2 of every pixel."""
        rows, _ = np.indices(self.grid.shape)
        return (1 + rows // 2 % 2).astype(np.uint8)

    def raster(self, values: np.ndarray, name: str = "labels.tif", **profile: Any) -> Path:
        """Write a label raster on the grid, nodata 0 unless told."""
        options = {"driver": "GTiff", "count": 1, "dtype": values.dtype, "crs": self.grid.crs, "nodata": 0, **profile}
        transform = self.grid.transform
        path = self.root / name
        height, width = values.shape
        with rasterio.open(path, "w", height=height, width=width, transform=transform, **options) as file:
            file.write(values, 1)
        return path

    def label(self, file: Path, name: str = "samples", **settings: Any) -> Samples:
        """Run the label stage with blocks of 8 pixels and a buffer of 15 m, unless told."""
        out = self.root / name
        out.mkdir()
        values = {"classes": CLASSES, "file": file, "block": 80, "buffer": 15, **settings}
        run(self.root / "tiles", out, Config(**values))
        return Samples(out)


def verify(samples: Samples, grid: Grid = GRID) -> None:
    """Check all windows for leaks, as the stage does before it ends."""
    check_seasons(samples)
    check_groups([verify_window(samples, grid, window) for _, _, window in grid.tiles()])


def loss_targets(samples: Samples, fold: int | None, window: Window) -> np.ndarray:
    """Class index where a training loss may look, `UNLABELLED` elsewhere."""
    training = samples.roles(fold, window) == Role.TRAIN
    targets: np.ndarray = np.where(training, samples.read("target", window), np.uint8(UNLABELLED))
    return targets
