"""Small labelled worlds for tests of the training: tiles and samples in a folder, ready for `train`."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from stages import augment, label, select, train
from stages.formats.samples import Samples
from stages.formats.tiles import Tiles
from stages.geo.grid import Grid
from stages.settings import MapClass
from stages.training.fitted import Task
from stages.training.ground import Ground, Split
from stages.training.recipes import Recipe
from tests.worlds import CRS, ORIGIN, RESOLUTION, write_raster


@dataclass(frozen=True)
class Laid:
    """Where the artifacts of a world lie, and its classes."""

    root: Path
    classes: tuple[MapClass, ...]

    def split(self, fold: int | None = 0) -> Split:
        """The pixels and labels of one fold."""
        tiles = Tiles(self.root / "tiles")
        return Split(tiles, Samples(self.root / "samples"), tiles.channels, fold)

    def ground(self, fold: int | None = 0, side: int = 32) -> Ground:
        """The training ground of one fold."""
        return Ground(self.split(fold), side, self.root / "ground")

    def task(self, name: str, **changes: object) -> Task:
        """A task that measures overall accuracy."""
        values = {"name": name, "seed": 0, "measure": lambda reference, mapped: float((reference == mapped).mean()),
                  "folder": self.root / "checkpoints", **changes}  # fmt: skip
        return Task(**values)  # type: ignore[arg-type]

    def train(self, out: Path, config: train.Config) -> Path:
        """Run the stage."""
        out.mkdir(exist_ok=True)
        train.run(self.root / "tiles", self.root / "samples", self.root / "bands", self.root / "synthetic", out, config)
        return out


def lay(
    root: Path, bands: np.ndarray, truth: np.ndarray, dates: tuple[str, ...] = ("2024",), **settings: object
) -> Laid:
    """Make tiles and samples of bands (band, y, x) and labels (y, x), 255 = unlabelled; blocks of 16 pixels.

    With several ``dates``, bands are (time, band, y, x).
    """
    cube = bands if bands.ndim == 4 else bands[None]
    for name in ("tiles", "samples", "bands", "synthetic"):
        (root / name).mkdir(parents=True)
    grid = Grid(CRS, RESOLUTION, *ORIGIN, truth.shape[1], truth.shape[0], 64)
    names = tuple(f"b{i}" for i in range(cube.shape[1]))
    tiles = Tiles.create(root / "tiles", grid, names, dates, "digital numbers")
    for _, _, window in grid.tiles():
        image = cube[(..., *window.slices)].astype(np.float32)
        tiles.write(window, image, np.isfinite(image).all(axis=1))
    write_raster(root / "labels.tif", truth, nodata=255)
    there = np.unique(truth[truth != 255]).tolist()
    classes = tuple(MapClass(name=f"class {i}", labels=(i,), code=i + 1, color="#123456") for i in there)
    values = {"classes": classes, "file": root / "labels.tif", "block": 160.0, "buffer": 0.0, **settings}
    label.run(root / "tiles", root / "samples", label.Config(**values))  # type: ignore[arg-type]
    select.run(root / "tiles", root / "samples", root / "bands", select.Config())
    augment.run(root / "tiles", root / "samples", root / "bands", root / "synthetic", augment.Config())
    return Laid(root, classes)


def quick(recipe: Recipe, **changes: object) -> Recipe:
    """A recipe for seconds: few steps, small chips."""
    return recipe.model_copy(update={"epochs": 2, "steps": 3, "chip": 16, "batch": 2, "members": 1, **changes})
