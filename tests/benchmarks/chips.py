"""Measure how many chips with their masks the tile store's writer writes a second, against a loop of rasterio writes.

    python -m tests.benchmarks.chips [--quick]

Chips are 256 x 256 pixels of four bands in float32, cut from a scene in memory. The limit writes two files a chip, the
bands and the mask, as plain GeoTIFFs with rasterio's defaults, which do not compress.
"""

from __future__ import annotations

import tempfile
import time
from pathlib import Path

import numpy as np

from tests.benchmarks.inputs import TILE, field_of, grid_of
from tests.benchmarks.networks import NAMES
from tests.benchmarks.pairs import Work, main, side_of

SCENE = "scene.npy"


def prepare(folder: Path) -> None:
    side = side_of(folder, 4096, 2048)
    field = field_of(len(NAMES))
    np.save(folder / SCENE, np.tile(field, (1, side // field.shape[1], side // field.shape[2])))


def _scene(folder: Path) -> tuple[np.ndarray, np.ndarray]:
    """Read the scene and make its mask: float32 (band, y, x) and bool (y, x)."""
    image: np.ndarray = np.load(folder / SCENE)
    return image, image[0] > 1500


def ours(folder: Path) -> float:
    """Write chips as tiles of a store: chips a second."""
    from stages.formats.tiles import Tiles

    image, mask = _scene(folder)
    grid = grid_of(image.shape[1])
    with tempfile.TemporaryDirectory(dir=folder) as out:
        tiles = Tiles.create(Path(out), grid, NAMES, ("2020",), "digital numbers")
        begin = time.perf_counter()
        count = 0
        for _, _, window in grid.tiles():
            tiles.write(window, image[(None, slice(None), *window.slices)], mask[(None, *window.slices)])
            count += 1
        return count / (time.perf_counter() - begin)


def least(folder: Path) -> float:
    """Write chips as files: chips a second."""
    import rasterio
    from affine import Affine

    image, mask = _scene(folder)
    grid = grid_of(image.shape[1])
    form = {"driver": "GTiff", "width": TILE, "height": TILE, "crs": grid.crs}
    with tempfile.TemporaryDirectory(dir=folder) as out:
        begin = time.perf_counter()
        count = 0
        for row, col, window in grid.tiles():
            left, _, _, top = grid.bounds_of(window)
            place = Affine(grid.resolution, 0.0, left, 0.0, -grid.resolution, top)
            for name, values in (("image", image[:, *window.slices]), ("mask", mask[None, *window.slices].view("u1"))):
                profile = form | {"count": len(values), "dtype": values.dtype.name, "transform": place}
                with rasterio.open(Path(out) / f"{row}-{col}-{name}.tif", "w", **profile) as target:
                    target.write(values)
            count += 1
        return count / (time.perf_counter() - begin)


WORKS = (Work("chips of 256 x 256 x 4 with masks written to disk", "chips/s", 1.0, prepare, ours, least),)

if __name__ == "__main__":
    main(WORKS)
