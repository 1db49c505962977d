"""Warp every scene onto the area's grid, mask and mosaic it, and cut it into tiles."""

from __future__ import annotations

import json
import logging
import shutil
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
from pydantic import Field, field_validator, model_validator

from stages.errors import SceneError
from stages.formats.scenes import Scenes, Source, read_scenes
from stages.formats.tiles import META, Tiles
from stages.geo.frame import Frame, native_grid, same_crs, snapped_grid, tidy, unwrap
from stages.geo.grid import Grid, Window
from stages.geo.headers import iso_date
from stages.geo.warp import Layers, Patch, warp
from stages.progress import report
from stages.settings import Settings

log = logging.getLogger(__name__)

#: A tile that a killed run has written is not written again.
RESUMES = True
#: One small file for every finished tile, there while the stage is at work only.
DONE = ".done"
#: Neighbouring tiles that one task cuts, and tasks handed out at once.
GROUP, WAVE = 4, 32
#: A grid beyond this many pixels must hold scenes on at least this share of it.
MAX_PIXELS, MIN_SHARE = 100_000_000, 0.001
#: Bytes of decoded blocks that GDAL may keep.
CACHE = 256 * 1024 * 1024


class GridConfig(Settings):
    """The pixel grid of the area."""

    crs: str = Field("auto", description="CRS, such as EPSG:32633; auto: that of the finest scene")
    resolution: Annotated[float, Field(gt=0)] | Literal["auto"] = Field(
        "auto", description="Side of a pixel in units of the CRS; auto: that of the finest scene"
    )
    origin: Literal["snapped", "native"] = Field(
        "snapped", description="snapped: pixel edges at multiples of the resolution; native: those of the finest scene"
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


class Config(Settings):
    """The grid and how values get onto it."""

    grid: GridConfig = Field(default_factory=GridConfig, description="The pixel grid of the area")
    resampling: Literal["auto", "nearest", "bilinear", "cubic", "average"] = Field(
        "auto", description="auto: average where a scene is finer than the grid, bilinear otherwise"
    )
    dates: Literal["all", "latest"] | tuple[str, ...] = Field(
        "all",
        description="Dates of the cube: all (each is an input of the model), latest (the newest one alone, so that a "
        "model trained on one date maps each new one) or a list of them",
    )

    @field_validator("dates", mode="before")
    @classmethod
    def _iso(cls, dates: Any) -> Any:
        if not isinstance(dates, list | tuple):
            return dates
        if not dates:
            raise ValueError("an empty list of dates makes no cube; name one, or take all or latest")
        return tuple(iso_date(date) for date in dates)


@dataclass(frozen=True)
class Piece:
    """One file of a scene: which of the area's bands it holds, and the pixels of the grid it may reach."""

    layers: Layers
    bands: tuple[int, ...]
    reach: Window

    def touches(self, window: Window) -> bool:
        """Tell whether the file may hold something for a window."""
        rows = self.reach.row < window.row + window.height and window.row < self.reach.row + self.reach.height
        return rows and self.reach.col < window.col + window.width and window.col < self.reach.col + self.reach.width


@dataclass(frozen=True)
class Plan:
    """The grid, and for every date its scenes in order, each with its pieces, the finest first."""

    grid: Grid
    bands: tuple[str, ...]
    dates: tuple[str, ...]
    scenes: tuple[tuple[tuple[Piece, ...], ...], ...]


def run(scenes: Path, out: Path, config: Config) -> None:
    """Write the tile store and its index into ``out``; go on where a killed run with the same settings stopped.

    Raises:
        SceneError: a scene does not reach the grid, or a band is constant or all nodata there.
    """
    table = pick_dates(read_scenes(scenes), config.dates)
    plan = make_plan(table, config)
    tiles = _open_store(out, plan, table)
    rows = _cut_all(tiles, plan)
    _judge(plan, rows)
    tiles.write_index([row["index"] for row in rows])
    shutil.rmtree(out / DONE)
    share = sum(row["index"]["valid"] * row["index"]["height"] * row["index"]["width"] for row in rows)
    log.info(
        "%d tiles of a grid of %d x %d pixels of %g (%s), %d dates, %.0f %% of the pixels valid",
        len(rows), plan.grid.width, plan.grid.height, plan.grid.resolution, plan.grid.crs[:40], len(plan.dates),
        100 * share / (plan.grid.width * plan.grid.height),
    )  # fmt: skip


def pick_dates(table: Scenes, dates: str | tuple[str, ...]) -> Scenes:
    """Keep the scenes of the dates asked for; scenes without a date count as one date, the earliest.

    Raises:
        SceneError: there is no scene of a date.
    """
    if dates == "all":
        return table
    wanted = table.dates[-1:] if dates == "latest" else dates
    for date in wanted:
        if date not in table.dates:
            there = ", ".join(date or "undated" for date in table.dates)
            raise SceneError(
                f"tile.dates names {date}, but the scenes are of {there}; name some of these, or take all."
            )
    return replace(table, sources=tuple(source for source in table.sources if source.date in wanted))


def make_plan(table: Scenes, config: Config) -> Plan:
    """Lay the grid and decide which files are read for which date, in which order and by which kernel.

    Raises:
        SceneError: no grid can be laid, or a date has no scene on it.
    """
    grid, sources = make_grid(table.sources, config.grid)
    pieces: dict[tuple[str, str], list[tuple[float, str, Piece]]] = {}
    for source in sources:
        if piece := _piece(table.bands, source, grid, config.resampling):
            ranked = (source.frame.metres(), source.path, piece)
            pieces.setdefault((source.date, source.scene), []).append(ranked)
    # By resolution and path: where two files hold the same band, the finer one is read first.
    ordered = {
        key: tuple(piece for _, _, piece in sorted(found, key=lambda entry: entry[:2])) for key, found in pieces.items()
    }
    scenes = []
    for date in table.dates:
        keys = sorted((key for key in ordered if key[0] == date), key=lambda key: key[1])
        if not keys:
            first = next(source for source in table.sources if source.date == date)
            raise SceneError(
                f"{first.path} does not overlap the grid {tuple(round(b, 6) for b in grid.bounds)} in {grid.crs[:40]}; "
                "correct grid.bounds or take the scene out."
            )
        scenes.append(tuple(ordered[key] for key in keys))
    if outside := len({(s.date, s.scene) for s in sources}) - len(ordered):
        log.warning("%d scenes do not overlap the grid and are left out", outside)
    return Plan(grid, table.bands, table.dates, tuple(scenes))


def make_grid(sources: Sequence[Source], config: GridConfig) -> tuple[Grid, list[Source]]:
    """Lay the smallest grid around all sources, or around the bounds asked for.

    Returns the grid and the sources, those on the far side of the antimeridian turned to the near one.

    Raises:
        SceneError: the CRS is unknown, or the settings contradict the finest scene's own pixels.
    """
    finest = min(sources, key=lambda source: (source.frame.metres(), source.path)).frame
    crs = finest.crs if config.crs == "auto" else _known_crs(config.crs)
    frames = unwrap([source.frame for source in sources], crs)
    placed = [replace(source, transform=frame.transform) for source, frame in zip(sources, frames, strict=True)]
    bounds = config.bounds or _around([frame.bounds(crs) for frame in frames])
    if config.resolution != "auto":
        resolution = config.resolution
    else:
        own = finest.resolution(crs)
        resolution = own if same_crs(finest.crs, crs) else tidy(own)
    if config.origin == "native":
        if not same_crs(finest.crs, crs) or resolution != finest.resolution(crs):
            raise SceneError(
                f"grid.origin native keeps the pixels of the finest scene ({finest.crs[:40]}, "
                f"{finest.resolution(finest.crs):g}), but grid asks for {crs[:40]}, {resolution:g}; leave both at auto."
            )
        grid = native_grid(bounds, frames[[source.frame for source in sources].index(finest)], config.tile)
    else:
        grid = snapped_grid(bounds, crs, resolution, config.tile)
    _refuse_scattered(grid, [frame.bounds(crs) for frame in frames])
    return grid, placed


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


def _piece(bands: tuple[str, ...], source: Source, grid: Grid, resampling: str) -> Piece | None:
    """Place one source on the grid, None where it does not reach it."""
    frame = source.frame
    left, bottom, right, top = frame.bounds(grid.crs)
    # Curved edges between the points of the outline may bulge: two pixels and a little more are spared for them.
    spare = 2 + 0.01 * max(right - left, top - bottom) / grid.resolution
    if frame.offset(grid) is not None:
        spare = 0.0
    first = int((grid.top - top) / grid.resolution - spare), int((left - grid.left) / grid.resolution - spare)
    last = (grid.top - bottom) / grid.resolution + spare, (right - grid.left) / grid.resolution + spare
    reach = Window(*first, int(np.ceil(last[0])) - first[0], int(np.ceil(last[1])) - first[1])
    layers = Layers(
        source.path, frame, source.indexes, source.nodata, source.scale, source.offset, _method(frame, grid, resampling)
    )
    piece = Piece(layers, tuple(bands.index(band) for band in source.bands), reach)
    overlaps = left < grid.bounds[2] and right > grid.bounds[0] and bottom < grid.bounds[3] and top > grid.bounds[1]
    return piece if overlaps else None


def _method(frame: Frame, grid: Grid, resampling: str) -> str:
    """Choose the kernel of one source: average where its pixels are finer than the grid's, bilinear otherwise."""
    if resampling != "auto":
        return resampling
    # A few per cent of difference come from the projection alone.
    return "average" if frame.resolution(grid.crs) < 0.95 * grid.resolution else "bilinear"


def _open_store(out: Path, plan: Plan, table: Scenes) -> Tiles:
    """Open the store that a killed run has begun, or lay out an empty one."""
    if (out / DONE).is_dir() and (out / META).is_file():
        return Tiles(out)
    scaled = any(scale != 1 for s in table.sources for scale in s.scale) or any(any(s.offset) for s in table.sources)
    tiles = Tiles.create(out, plan.grid, plan.bands, plan.dates, "scaled" if scaled else "digital numbers")
    (out / DONE).mkdir()
    return tiles


def _cut_all(tiles: Tiles, plan: Plan) -> list[dict[str, Any]]:
    """Cut all tiles, some waves of tasks one after the other; every task writes its own tiles."""
    import dask

    todo = list(plan.grid.tiles())
    groups = [todo[i : i + GROUP] for i in range(0, len(todo), GROUP)]
    shared = dask.delayed(plan, traverse=False)
    rows: list[dict[str, Any]] = []
    for start in range(0, len(groups), WAVE):
        tasks = [dask.delayed(cut_group)(tiles, shared, group) for group in groups[start : start + WAVE]]
        rows += [row for found in dask.compute(*tasks) for row in found]
        report("tiles", len(rows), len(todo))
    return rows


def cut_group(tiles: Tiles, plan: Plan, group: Sequence[tuple[int, int, Window]]) -> list[dict[str, Any]]:
    """Cut some tiles that are not done yet, write them, and tell what was found in each."""
    import rasterio

    rows = []
    with rasterio.Env(GDAL_CACHEMAX=CACHE):
        for row, col, window in group:
            done = tiles.folder / DONE / f"{row}-{col}.json"
            if done.is_file():
                rows.append(json.loads(done.read_text()))
                continue
            found = _cut(tiles, plan, row, col, window)
            # Written aside and moved: a mark that is there is whole.
            aside = done.with_suffix(".new")
            aside.write_text(json.dumps(found))
            aside.replace(done)
            rows.append(found)
    return rows


def _cut(tiles: Tiles, plan: Plan, row: int, col: int, window: Window) -> dict[str, Any]:
    """Cut and write one tile; returns its row of the index and, a date, what its bands hold."""
    shape = (window.height, window.width)
    cube = np.zeros((len(plan.dates), len(plan.bands), *shape), np.float32)
    valid = np.zeros((len(plan.dates), *shape), bool)
    found = []
    for date, scenes in enumerate(plan.scenes):
        total = Patch.empty(len(plan.bands), shape)
        for pieces in scenes:
            patch = merge_pieces(plan, pieces, window)
            take = patch.valid.all(axis=0) & ~valid[date]
            cube[date][:, take] = patch.values[:, take]
            valid[date] |= take
            total.low, total.high = np.minimum(total.low, patch.low), np.maximum(total.high, patch.high)
            total.broken = total.broken + patch.broken
        found.append({"low": total.low.tolist(), "high": total.high.tolist(), "broken": total.broken.tolist()})
    if valid.any():
        tiles.write(window, cube, valid)
    left, bottom, right, top = tiles.grid.bounds_of(window)
    shares = {f"valid_{date or 'undated'}": float(valid[i].mean()) for i, date in enumerate(plan.dates)}
    index = {
        "row": row, "col": col, "top_row": window.row, "left_col": window.col, "height": window.height,
        "width": window.width, "left": left, "bottom": bottom, "right": right, "top": top,
        "valid": float(valid.mean()), **shares,
    }  # fmt: skip
    return {"index": index, "dates": found}


def merge_pieces(plan: Plan, pieces: Sequence[Piece], window: Window) -> Patch:
    """Bring the files of one scene onto a window, every band from the finest file that has it there."""
    scene = Patch.empty(len(plan.bands), (window.height, window.width))
    for piece in pieces:
        bands = list(piece.bands)
        if not piece.touches(window) or scene.valid[bands].all():
            continue
        patch = warp(piece.layers, plan.grid, window)
        new = patch.valid & ~scene.valid[bands]
        scene.values[bands] = np.where(new, patch.values, scene.values[bands])
        scene.valid[bands] |= new
        scene.low[bands] = np.minimum(scene.low[bands], patch.low)
        scene.high[bands] = np.maximum(scene.high[bands], patch.high)
        scene.broken[bands] += patch.broken
    return scene


def _judge(plan: Plan, rows: Sequence[dict[str, Any]]) -> None:
    """Refuse a band that tells nothing, and tell how many values were broken.

    Raises:
        SceneError: a band of a date is constant or all nodata, or no pixel has all bands.
    """
    for i, date in enumerate(plan.dates):
        low = np.min([row["dates"][i]["low"] for row in rows], axis=0)
        high = np.max([row["dates"][i]["high"] for row in rows], axis=0)
        broken = np.sum([row["dates"][i]["broken"] for row in rows], axis=0)
        for b, band in enumerate(plan.bands):
            path = next(p.layers.path for scene in plan.scenes[i] for p in scene if b in p.bands)
            if low[b] > high[b]:
                raise SceneError(f"band {band} of {path} is all nodata on the grid; take the scene or the band out.")
            if low[b] == high[b]:
                raise SceneError(
                    f"band {band} of {path} is constant ({low[b]:g} everywhere on the grid); "
                    "take the scene or the band out."
                )
            if broken[b]:
                log.warning("band %s of %s: %d values are NaN or infinite, taken as nodata", band, path, broken[b])
        if not any(row["index"][f"valid_{date or 'undated'}"] for row in rows):
            raise SceneError(
                f"no pixel of {path} and the other files of {date or 'its date'} is valid in all bands "
                f"({', '.join(plan.bands)}); see that the files cover the same ground."
            )
