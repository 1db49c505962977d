"""Count how often the ground was seen: clear observations and filled steps of every pixel, as layers and as figures."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from stages.delivery.numbers import count, percent, whole_percent
from stages.formats import maps
from stages.formats.tiles import Tiles
from stages.geo.cog import SIDE, raster_window
from stages.geo.grid import Grid

CLEAR = "clear.tif"
FILLED = "filled.tif"
#: Nodata of the filled share: a pixel that was never clear has nothing to fill from.
NODATA = 255


@dataclass(frozen=True)
class Observed:
    """How often the pixels of an area were seen.

    ``clear[n]`` pixels had n clear observations, int64 (n,); ``filled[p]`` of those seen at all have p percent of
    their steps filled, int64 (101,). ``lost`` pixels were never clear and are nodata in the map, ``other`` are nodata
    in the map though they were seen. ``step`` is the length of a step, "" where the dates are kept.
    """

    clear: np.ndarray
    filled: np.ndarray
    lost: int
    other: int
    step: str = ""

    @property
    def seen(self) -> int:
        """Pixels with at least one clear observation."""
        return int(self.clear[1:].sum())

    @property
    def any_filled(self) -> bool:
        """Whether any step of any pixel was filled."""
        return bool(self.filled[1:].any())

    def sentences(self) -> tuple[str, ...]:
        """Say in words how many observations the pixels had, how much was filled and what was lost."""
        return tuple(filter(None, (self._counts(), self._filling(), self._losses())))

    def _counts(self) -> str:
        if not self.seen:
            return "No pixel was ever clear."
        least, median, most = spread_of(self.clear, first=1)
        made = f" Steps of {self.step} are made of them." if self.step else ""
        if least == most:
            many = "1 clear observation" if least == 1 else f"{count(least)} clear observations"
            return f"Every pixel that was seen at all had {many}.{made}"
        return (
            f"The {count(self.seen)} pixels that were seen at all had {count(least)} to {count(most)} clear "
            f"observations, {median:g} in the median.{made}"
        )

    def _filling(self) -> str:
        if not self.any_filled:
            return ""
        least, median, most = spread_of(self.filled)
        mean = float(self.filled @ np.arange(101)) / 100 / max(int(self.filled.sum()), 1)
        return (
            f"Where a pixel was not clear, its value was filled in from other dates: {percent(mean)} of all values, "
            f"{least} to {whole_percent(most)} of the steps of a pixel and {whole_percent(median)} in the median."
        )

    def _losses(self) -> str:
        said = ""
        if self.lost:
            share = self.lost / int(self.clear.sum())
            one = self.lost == 1
            said = (
                f"{count(self.lost)} {'pixel' if one else 'pixels'} ({percent(share)} of the grid) {_was(one)} never "
                f"clear and {'is' if one else 'are'} nodata in the map."
            )
        if self.other:
            one = self.other == 1
            said += (
                f" {count(self.other)} {'pixel' if one else 'pixels'} {_was(one)} seen at times and "
                f"{'is' if one else 'are'} nodata all the same."
            )
        return said.strip()


def spread_of(counts: np.ndarray, first: int = 0) -> tuple[int, float, int]:
    """Find least, median and most of values of which ``counts[v]`` are v, those below ``first`` left out."""
    present = np.flatnonzero(counts[first:]) + first
    running = np.cumsum(counts[present])
    middle = [int(present[np.searchsorted(running, rank, side="right")]) for rank in _middle_ranks(int(running[-1]))]
    return int(present[0]), sum(middle) / 2, int(present[-1])


def observe(tiles: Tiles, classes: Path, out: Path, tags: Mapping[str, str]) -> Observed:
    """Write the layers of clear observations and, where anything was filled, of the filled share; count on the way.

    Reads tile by tile and holds one tile.

    Args:
        tiles: the area's cube.
        classes: the folder of the map's class indices.
        out: where the layers go: `clear.tif` uint16, 0 where never clear, and `filled.tif` uint8 in percent.
        tags: provenance.
    """
    import rasterio

    clear_pixels, filled_pixels, losses = np.zeros(1 << 16, np.int64), np.zeros(256, np.int64), np.zeros(2, np.int64)
    plain = {name: (out / name).with_suffix(".plain.tif") for name in (CLEAR, FILLED)}
    with rasterio.Env(GDAL_PAM_ENABLED="NO", GDAL_TIFF_INTERNAL_MASK="NO"):
        with ExitStack() as stack:
            indices = stack.enter_context(rasterio.open(classes / maps.CLASSES))
            layers = {
                CLEAR: stack.enter_context(rasterio.open(plain[CLEAR], "w", **_profile(tiles.grid, "uint16"))),
                FILLED: stack.enter_context(rasterio.open(plain[FILLED], "w", **_profile(tiles.grid, "uint8"))),
            }
            _describe(layers[CLEAR], "clear observations", tags)
            _describe(layers[FILLED], "filled steps in percent", tags)
            for _, _, window in tiles.grid.tiles():
                place = raster_window(window)
                clear, filled = tiles.read_clear(window)
                filled = np.where(clear > 0, filled, np.uint8(NODATA))
                layers[CLEAR].write(clear, 1, window=place)
                layers[FILLED].write(filled, 1, window=place)
                clear_pixels += np.bincount(clear.ravel(), minlength=1 << 16)
                filled_pixels += np.bincount(filled.ravel(), minlength=256)
                empty = indices.read(1, window=place) == maps.NODATA
                losses += [int((empty & (clear == 0)).sum()), int((empty & (clear > 0)).sum())]
        found = Observed(
            np.trim_zeros(clear_pixels, "b"), filled_pixels[:101], int(losses[0]), int(losses[1]), tiles.step
        )
        _finish(plain[CLEAR], out / CLEAR)
        if found.any_filled:
            _finish(plain[FILLED], out / FILLED)
    for path in plain.values():
        path.unlink()
    return found


def _profile(grid: Grid, kind: str) -> dict[str, Any]:
    profile = {
        "driver": "GTiff", "dtype": kind, "count": 1, "width": grid.width, "height": grid.height, "crs": grid.crs,
        "transform": grid.transform, "tiled": True, "blockxsize": SIDE, "blockysize": SIDE, "compress": "DEFLATE",
        "zlevel": 1, "bigtiff": "IF_SAFER",
    }  # fmt: skip
    # A count has no nodata: 0 says what there is to say.
    return {**profile, "nodata": NODATA} if kind == "uint8" else profile


def _describe(layer: Any, description: str, tags: Mapping[str, str]) -> None:
    layer.set_band_description(1, description)
    layer.update_tags(**tags)


def _finish(plain: Path, target: Path) -> None:
    """Lay a plain raster out as a Cloud-Optimized GeoTIFF."""
    from rasterio.shutil import copy

    copy(
        plain, target, driver="COG", compress="DEFLATE", level=9, blocksize=SIDE, num_threads=1,
        overview_resampling="average", statistics="YES", bigtiff="IF_SAFER",
    )  # fmt: skip


def _middle_ranks(number: int) -> tuple[int, int]:
    """Ranks, from 0, of the two values whose mean is the median; the same twice of an odd number."""
    return (number - 1) // 2, number // 2


def _was(one: bool) -> str:
    return "was" if one else "were"
