"""Lay the area's one grid around its scenes."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Annotated, Literal

from pydantic import Field, model_validator

from stages.errors import SceneError
from stages.geo.frame import Frame, native_grid, same_crs, snapped_grid, tidy, unwrap
from stages.geo.grid import Grid
from stages.settings import Settings

#: A grid beyond this many pixels must hold scenes on at least this share of it.
MAX_PIXELS, MIN_SHARE = 100_000_000, 0.001


class GridConfig(Settings):
    """The pixel grid of the area."""

    crs: str = Field("auto", description="CRS, such as EPSG:32633; auto: that of the finest scene")
    resolution: Annotated[float, Field(gt=0)] | Literal["auto"] = Field(
        "auto", description="Side of a pixel in units of the CRS; auto: that of the finest scene"
    )
    origin: Literal["snapped", "native"] = Field(
        "snapped",
        description="snapped: pixel edges at multiples of the resolution; native: those of the first scene that has "
        "this resolution",
    )
    tile: int = Field(256, ge=16, le=4096, multiple_of=16, description="Side of a tile in pixels")
    bounds: tuple[float, float, float, float] | None = Field(
        None, description="Left, bottom, right and top in units of the CRS; none: everything the scenes cover"
    )

    @model_validator(mode="after")
    def _ordered(self) -> GridConfig:
        if self.bounds and not (self.bounds[0] < self.bounds[2] and self.bounds[1] < self.bounds[3]):
            raise ValueError(f"bounds must be left, bottom, right, top, but are {list(self.bounds)}")
        return self


def lay_grid(frames: Sequence[Frame], config: GridConfig) -> tuple[Grid, list[Frame]]:
    """Lay the smallest grid around all rasters, or around the bounds asked for.

    Returns the grid and the rasters' places, those on the far side of the antimeridian turned to the near one.

    Raises:
        SceneError: the CRS is unknown, or the settings contradict the scenes' own pixels.
    """
    finest = min(frames, key=Frame.metres)
    crs = finest.crs if config.crs == "auto" else _known_crs(config.crs)
    placed = unwrap(frames, crs)
    bounds = config.bounds or _around([frame.bounds(crs) for frame in placed])
    if config.resolution != "auto":
        resolution = config.resolution
    else:
        own = finest.resolution(crs)
        resolution = own if same_crs(finest.crs, crs) else tidy(own)
    if config.origin == "native":
        grid = native_grid(bounds, _of_resolution(placed, finest, crs, resolution), config.tile)
    else:
        grid = snapped_grid(bounds, crs, resolution, config.tile)
    _refuse_scattered(grid, [frame.bounds(crs) for frame in placed])
    return grid, placed


def _of_resolution(placed: Sequence[Frame], finest: Frame, crs: str, resolution: float) -> Frame:
    """Find the first raster whose own pixels have the resolution asked for.

    Raises:
        SceneError: none has.
    """
    for frame in placed:
        if same_crs(frame.crs, crs) and math.isclose(frame.resolution(crs), resolution, rel_tol=1e-9):
            return frame
    raise SceneError(
        f"grid.origin native keeps the pixels of a scene, the finest being ({finest.crs[:40]}, "
        f"{finest.resolution(finest.crs):g}), but grid asks for {crs[:40]}, {resolution:g}, which no scene has; leave "
        "both at auto."
    )


def _known_crs(text: str) -> str:
    """Give the short name of a CRS.

    Raises:
        SceneError: nobody knows it, or its units are no lengths or degrees.
    """
    from pyproj import CRS
    from pyproj.exceptions import CRSError

    try:
        crs = CRS.from_user_input(text)
    except CRSError as fault:
        raise SceneError(f"grid.crs is {text!r}, which is no known CRS; give one such as EPSG:32633.") from fault
    code = crs.to_epsg()
    return f"EPSG:{code}" if code else str(crs.to_wkt())


def _around(boxes: Sequence[tuple[float, float, float, float]]) -> tuple[float, float, float, float]:
    """Left, bottom, right and top around all of them."""
    return (min(b[0] for b in boxes), min(b[1] for b in boxes), max(b[2] for b in boxes), max(b[3] for b in boxes))


def _refuse_scattered(grid: Grid, boxes: Sequence[tuple[float, float, float, float]]) -> None:
    """Refuse a huge grid that the scenes hardly cover: one of them is somewhere else.

    Raises:
        SceneError: they are.
    """
    pixels = grid.width * grid.height
    covered = sum((b[2] - b[0]) * (b[3] - b[1]) for b in boxes) / grid.resolution**2
    if pixels > MAX_PIXELS and covered < MIN_SHARE * pixels:
        raise SceneError(
            f"the scenes lie so far apart that they cover {covered / pixels:.2%} of their grid of {grid.width} x "
            f"{grid.height} pixels; map them as separate areas, or set grid.bounds."
        )
