"""Cut an area's scene into labelled chips: `python -m pipeline.cut_chips carolina data/raw/carolina-chips`."""

from __future__ import annotations

import argparse
import logging
from collections import Counter
from pathlib import Path

import numpy as np

from stages.formats.samples import Samples
from stages.formats.tiles import Tiles
from stages.geo.grid import Grid, Window

log = logging.getLogger(__name__)


def cut(tiles: Tiles, samples: Samples, out: Path, side: int, least: float) -> Counter[str]:
    """Cut squares of ``side`` pixels side by side and write each as a GeoTIFF into the folder of its class.

    A chip's class is that of most of its labelled pixels. Chips are left out where less than the share ``least`` of
    the pixels is valid, or has a label, or is of that class. Bands are those of the last date; invalid pixels are NaN.

    Returns:
        How many chips of every class were written.
    """
    grid, counts = tiles.grid, Counter[str]()
    for row in range(0, grid.height - side + 1, side):
        for col in range(0, grid.width - side + 1, side):
            window = Window(row, col, side, side)
            image, valid = tiles.read_step(window, tiles.steps - 1)
            name = _class_of(samples, window, least)
            if name and valid.mean() >= least:
                place = out / name
                place.mkdir(parents=True, exist_ok=True)
                _write(
                    place / f"{row:05d}_{col:05d}.tif",
                    np.where(valid, image, np.float32(np.nan)),
                    (grid, window),
                    tiles.bands,
                )
                counts[name] += 1
    return counts


def _class_of(samples: Samples, window: Window, least: float) -> str:
    """Name the class of most pixels of a window, "" where they are too few."""
    target = samples.read("target", window)
    pixels = np.bincount(target[target < len(samples.classes)], minlength=len(samples.classes))
    return samples.classes[int(pixels.argmax())] if pixels.max() >= least * target.size else ""


def _write(path: Path, image: np.ndarray, place: tuple[Grid, Window], bands: tuple[str, ...]) -> None:
    """Write a chip (band, y, x) with its place and the names of its bands."""
    import rasterio
    from affine import Affine

    grid, window = place
    left, _, _, top = grid.bounds_of(window)
    transform = Affine(grid.resolution, 0.0, left, 0.0, -grid.resolution, top)
    with rasterio.open(
        path, "w", driver="GTiff", count=len(image), height=window.height, width=window.width, dtype="float32",
        crs=grid.crs, transform=transform, nodata=np.nan,
    ) as file:  # fmt: skip
        file.write(image)
        for number, name in enumerate(bands, 1):
            file.set_band_description(number, name)


def main() -> None:
    """Cut the chips of the area named on the command line."""
    asked = argparse.ArgumentParser(description=__doc__)
    asked.add_argument("area", help="an area whose stages tile and label have been run")
    asked.add_argument("out", type=Path, help="a new folder for the chips")
    asked.add_argument("--root", type=Path, default=Path.cwd())
    asked.add_argument("--side", type=int, default=16, help="of a chip in pixels (default: %(default)s)")
    asked.add_argument("--least", type=float, default=0.5, help="share of a chip that its class must cover")
    options = asked.parse_args()
    if options.out.exists():
        asked.error(f"{options.out} is already there; delete it or choose another folder.")
    data = options.root / "data" / options.area
    for name in ("tiles", "samples"):
        if not (data / name).is_dir():
            asked.error(f"{data / name} is not there; run terrastage run label --area {options.area} first.")
    counts = cut(Tiles(data / "tiles"), Samples(data / "samples"), options.out, options.side, options.least)
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    text = f"{counts.total()} chips in {options.out}: " + ", ".join(f"{name} {n}" for name, n in sorted(counts.items()))
    log.info(text)


if __name__ == "__main__":
    main()
