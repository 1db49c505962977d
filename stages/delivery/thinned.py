"""Read the artifacts at the size of a picture, so that a report of a large area needs no large memory."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np

from stages.formats.samples import Part, Samples
from stages.formats.tiles import Tiles
from stages.geo.grid import Grid, Window


def layer(path: Path, side: int) -> np.ndarray:
    """Read one layer of the map with its longer side at most ``side`` pixels, nearest neighbour: uint8 (y, x)."""
    import rasterio
    from rasterio.enums import Resampling

    with rasterio.open(path) as dataset:
        shrink = max(1.0, max(dataset.shape) / side)
        shape = tuple(max(1, round(length / shrink)) for length in dataset.shape)
        pixels: np.ndarray = dataset.read(1, out_shape=shape, resampling=Resampling.nearest)
    return pixels


def quicklook(tiles: Tiles, side: int, step: int = 0) -> tuple[np.ndarray, tuple[str, ...]]:
    """Read one date in natural colours where the bands have those names, else the first bands.

    Returns:
        uint8 (y, x, 3), white where invalid, stretched between the 2nd and 98th percentile of every band; and the
        names of the bands shown as red, green and blue.
    """
    bands = natural_bands(tiles.bands)
    index = [tiles.bands.index(band) for band in bands]

    def read(window: Window) -> np.ndarray:
        image, valid = tiles.read_step(window, step)
        return np.where(valid, image[index], np.float32(np.nan))

    values = thin(read, tiles.grid, side)
    return np.stack([_stretched(band) for band in values], axis=-1), bands


def clearest(tiles: Tiles) -> int:
    """Find the date with the most valid pixels; of equal ones, as after filling gaps, that in the middle."""
    if tiles.steps == 1:
        return 0
    index = tiles.read_index()
    pixels = index["height"] * index["width"]
    shares = [float((index[f"valid_{date}"] * pixels).sum()) for date in tiles.dates]
    best = np.flatnonzero(np.asarray(shares) == max(shares))
    return int(best[len(best) // 2])


def observed(tiles: Tiles, side: int) -> tuple[np.ndarray, np.ndarray]:
    """Read clear observations, uint16 (y, x), and the share of filled steps in percent, uint8 (y, x)."""

    def read(window: Window) -> np.ndarray:
        return np.stack([values.astype(np.uint16) for values in tiles.read_clear(window)])

    clear, filled = thin(read, tiles.grid, side)
    return clear, filled.astype(np.uint8)


def natural_bands(bands: tuple[str, ...]) -> tuple[str, str, str]:
    """Choose which bands to show as red, green and blue."""
    by_name = {band.lower(): band for band in bands}
    if {"red", "green", "blue"} <= by_name.keys():
        return by_name["red"], by_name["green"], by_name["blue"]
    for sentinel in (("b04", "b03", "b02"), ("b4", "b3", "b2")):
        if set(sentinel) <= by_name.keys():
            red, green, blue = (by_name[name] for name in sentinel)
            return red, green, blue
    return (bands[0], bands[1], bands[2]) if len(bands) >= 3 else (bands[0],) * 3


def parts(samples: Samples, grid: Grid, side: int) -> np.ndarray:
    """Read `Part` of every pixel; with folds the fold in which it is tested, counted from 1: uint8 (y, x)."""

    def read(window: Window) -> np.ndarray:
        if not samples.crossed:
            return samples.part(0, window)
        tested = np.stack([samples.part(fold, window) == Part.TEST for fold in range(samples.folds)])
        return np.where(tested.any(axis=0), tested.argmax(axis=0) + 1, 0).astype(np.uint8)

    return thin(read, grid, side)


def thin(read: Callable[[Window], np.ndarray], grid: Grid, side: int) -> np.ndarray:
    """Read every n-th pixel of a grid, tile by tile; n so that the longer side has at most ``side`` pixels."""
    step = max(1, -(-max(grid.shape) // side))
    shape = tuple(-(-length // step) for length in grid.shape)
    picture: np.ndarray | None = None
    for _, _, window in grid.tiles():
        row, col = -window.row % step, -window.col % step
        piece = read(window)[..., row::step, col::step]
        if picture is None:
            picture = np.zeros((*piece.shape[:-2], *shape), piece.dtype)
        top, left = (window.row + row) // step, (window.col + col) // step
        picture[..., top : top + piece.shape[-2], left : left + piece.shape[-1]] = piece
    assert picture is not None, "a grid has at least one tile"
    return picture


def _stretched(values: np.ndarray) -> np.ndarray:
    """Bring values to 0..255 between their 2nd and 98th percentile; white where there is none (NaN)."""
    known = values[np.isfinite(values)]
    if not known.size:
        return np.full(values.shape, 255, np.uint8)
    low, high = np.percentile(known, [2, 98])
    # The power brings out the dark ground, as a screen does with a photograph.
    shares = np.clip((np.nan_to_num(values) - low) / max(high - low, 1e-12), 0.0, 1.0) ** 0.75
    stretched: np.ndarray = np.where(np.isfinite(values), shares * 255.0, 255.0).round().astype(np.uint8)
    return stretched
