"""Warp every scene onto the area's grid, mask it, regularise the series in time, and cut it into tiles."""

from __future__ import annotations

import hashlib
import json
import logging
import shutil
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal
from uuid import uuid4

import numpy as np
from pydantic import Field, field_validator

from stages.errors import SceneError, SettingError
from stages.formats.bands import FILE as BANDS
from stages.formats.bands import Season, read_season
from stages.formats.chip_collection import (
    Collection,
    create_tiles,
    is_collection,
    read_collection,
    write_chip_table,
)
from stages.formats.scenes import Scenes, Source, read_scenes
from stages.formats.series import Series, is_series, lay_out, read_series
from stages.formats.tiles import META, Tiles
from stages.geo.chip_files import read_chip, reading
from stages.geo.clear import MaskConfig, Reach, rule_of
from stages.geo.grid import Grid, Window
from stages.geo.headers import iso_date
from stages.geo.indices import Index, compute, find_indices
from stages.geo.lay import GridConfig, lay_grid
from stages.geo.mosaic import Mask, Piece, Scene, place_anywhere, place_piece
from stages.geo.plan import Plan, span, strips
from stages.geo.series import count_clear, make_series
from stages.geo.steps import Steps, TimeConfig, lay_steps
from stages.geo.tally import Tally, judge, listed
from stages.geo.warp import OPENED, Layers
from stages.progress import report
from stages.settings import Settings

log = logging.getLogger(__name__)

#: A tile that a killed run has written is not written again.
RESUMES = True
#: One small file for every finished group of tiles, there while the stage is at work only.
DONE = ".done"
#: Settings that place scenes, in grid and time; a table of series has neither.
OF_SCENES = ("grid", "resampling", "dates", "mask", "time", "features")
#: Tasks handed out at once.
WAVE = 32
#: Rows of tiles for which a file stays open, and blocks of it decoded: neighbouring rows need the same ones.
ROWS = 4
#: Bytes of decoded blocks that GDAL may keep.
CACHE = 256 * 1024 * 1024


class Config(Settings):
    """The grid, how values get onto it, and the axis of time."""

    grid: GridConfig = Field(default_factory=GridConfig, description="The pixel grid of the area")
    resampling: Literal["auto", "nearest", "bilinear", "cubic", "average"] = Field(
        "auto", description="auto: average where a scene is finer than the grid, bilinear otherwise"
    )
    dates: Literal["all", "latest"] | tuple[str, ...] = Field(
        "all",
        description="Dates of the cube: all (each is an input of the model), latest (the newest one alone, so that a "
        "model trained on one date maps each new one) or a list of them",
    )
    mask: MaskConfig | None = Field(
        None, description="What the quality band calls clear; none: guessed from its name where ingest.quality is set"
    )
    time: TimeConfig = Field(
        default_factory=lambda: TimeConfig.model_validate({}), description="Steps of the series and how gaps are filled"
    )
    indices: tuple[str, ...] = Field((), description="Spectral indices by name, added as bands: NDVI, NDWI, EVI, ...")
    index_bands: dict[str, str] = Field(
        default_factory=dict,
        description="Letter of the indices' formulas -> band, such as {N: B8, R: B4}; without one, bands are found by "
        "their common names (blue, green, red, nir, swir16, ...)",
    )
    features: Path | None = Field(
        None,
        description="bands.json of an earlier selection, of this or another area: only the bands that it chose are "
        "read, and where gaps are not filled only the scenes of the steps that it chose; for maps with its model",
    )
    allow_dn: bool = Field(False, description="Compute indices of digital numbers, without scale and offset, too")

    @field_validator("dates", mode="before")
    @classmethod
    def _iso(cls, dates: Any) -> Any:
        if not isinstance(dates, list | tuple):
            return dates
        if not dates:
            raise ValueError("an empty list of dates makes no cube; name one, or take all or latest")
        return tuple(iso_date(date) for date in dates)


def sources(config: Config) -> list[Path]:
    """List the file of the features that are to be read, where there is one.

    Raises:
        ArtifactError: it says of no features that they were chosen.
    """
    if config.features is None:
        return []
    read_season(config.features)
    return [config.features / BANDS if config.features.is_dir() else config.features]


def run(scenes: Path, out: Path, config: Config) -> None:
    """Write the tile store and its index into ``out``; go on where a killed run with the same settings stopped.

    Raises:
        SceneError: a scene does not reach the grid, or a band is constant or all nodata there.
        SettingError: a mask or an index asks for a band that is not there.
    """
    if is_series(scenes):
        lay_out(out, _with_indices(read_series(scenes), config))
        return
    if is_collection(scenes):
        lay_chips(out, read_collection(scenes), config)
        return
    table = pick_dates(read_scenes(scenes), config.dates)
    plan = look_ahead(make_plan(table, config))
    tiles = _open_store(out, plan, table)
    parts = _in_waves(plan, plan.groups(), lambda shared, group: (cut_group, tiles, shared, group), "tiles")
    rows = [row for part in parts for row in part["index"]]
    judge(plan, parts)
    tiles.write_index(rows)
    shutil.rmtree(out / DONE)
    share = sum(row["valid"] * row["height"] * row["width"] for row in rows)
    log.info(
        "%d tiles of a grid of %d x %d pixels of %g (%s), %d %s, %.0f %% of the pixels valid",
        len(rows), plan.grid.width, plan.grid.height, plan.grid.resolution, plan.grid.crs[:40], len(plan.steps.names),
        "dates" if config.time.step == "none" else f"steps of {config.time.step} from {len(plan.dates)} dates",
        100 * share / (plan.grid.width * plan.grid.height),
    )  # fmt: skip


def _with_indices(series: Series, config: Config) -> Series:
    """Add spectral indices to a table of series as bands, as they are added to scenes.

    Raises:
        SettingError: an index cannot be computed, or a setting would place scenes.
    """
    _refuse_placing(config, "table of series whose steps")
    advice = "table.scale and offset (or scaled: true)"
    indices = _found_indices(config, series.bands, series.scaling, "table holds", advice)
    values = np.empty((len(indices), *series.values.shape[:2]), np.float32)
    compute(indices, np.moveaxis(series.values, 2, 0), values)
    return replace(
        series, bands=(*series.bands, *config.indices),
        values=np.concatenate([series.values, np.moveaxis(values, 0, 2)], axis=2),
    )  # fmt: skip


def _refuse_placing(config: Config, what: str) -> None:
    """Refuse settings that would place scenes where there are none.

    Raises:
        SettingError: there is one.
    """
    for name in OF_SCENES:
        if getattr(config, name) != getattr(Config(), name):
            setting = name if name == "grid" else f"tile.{name}"
            raise SettingError(f"{setting} places scenes, but the area is a {what} are used as they are; leave it out.")


def _found_indices(config: Config, bands: tuple[str, ...], scaling: str, holds: str, advice: str) -> tuple[Index, ...]:
    """Find the spectral indices of bands that come from no scene.

    Raises:
        SettingError: one cannot be computed, or the values are digital numbers.
    """
    indices = find_indices(config.indices, bands, config.index_bands)
    if indices and scaling != "scaled" and not config.allow_dn:
        raise SettingError(
            f"{indices[0].name} is an index of reflectances, but the {holds} digital numbers; set ingest.{advice}, or "
            "tile.allow_dn: true."
        )
    return tuple(indices)


def lay_chips(out: Path, collection: Collection, config: Config) -> Tiles:
    """Lay a collection of chips out as tiles, a chip a cell of a made-up grid, with their table and index.

    Raises:
        SceneError: the pixels of a chip cannot be read.
        SettingError: an index cannot be computed, or a setting would place scenes.
    """
    import dask

    _refuse_placing(config, "collection of chips whose pixels")
    indices = _found_indices(config, collection.bands, collection.scaling, "chips hold", "chips.scale and offset")
    tiles = create_tiles(out, collection, config.indices)
    places, contents, empty = list(tiles.grid.tiles()), [""] * len(collection.chips), 0
    shared, rows = dask.delayed(collection, traverse=False), []
    for start in range(0, len(places), WAVE):
        wave = places[start : start + WAVE]
        tasks = [dask.delayed(cut_chips, traverse=False)(tiles, shared, indices, place) for place in wave]
        for row, hashes in dask.compute(*tasks):
            rows.append(row)
            for number, text in hashes.items():
                contents[number] = text
                empty += not text
        report("tiles", start + len(wave), len(places))
    tiles.write_index(rows)
    write_chip_table(tiles, collection, contents)
    if empty:
        log.warning("%d chips hold no valid pixel and are left out", empty)
    log.info("%d chips of %d x %d pixels and %d bands laid out as %d x %d pixels", len(collection.chips),
             collection.side, collection.side, len(tiles.bands), tiles.grid.height, tiles.grid.width)  # fmt: skip
    return tiles


def cut_chips(
    tiles: Tiles, collection: Collection, indices: Sequence[Index], place: tuple[int, int, Window]
) -> tuple[dict[str, Any], dict[int, str]]:
    """Read and write the chips of one tile; returns its row of the index, and a hash of every chip's content.

    The hash is "" where no pixel of a chip is valid.
    """
    window, cells, paths = place[2], collection.cells, collection.chips["sample"].to_numpy()
    cube = np.zeros((1, len(tiles.bands), window.height, window.width), np.float32)
    valid = np.zeros((1, window.height, window.width), bool)
    hashes = {}
    with reading():
        for number in cells.within(window).tolist():
            image, seen = _chip(paths[number], collection, indices)
            hashes[number] = hashlib.blake2b(image.tobytes() + seen.tobytes()).hexdigest() if seen.any() else ""
            (top,), (left,) = cells.corners(np.array([number]))
            box = (slice(top - window.row, top - window.row + cells.side),
                   slice(left - window.col, left - window.col + cells.side))  # fmt: skip
            cube[(0, slice(None), *box)], valid[(0, *box)] = image, seen
            _stand_in(cube[0], valid[0], (top - window.row + cells.size // 2, left - window.col + cells.size // 2), box)
    tiles.write(window, cube, valid)
    return _row_of(tiles.grid, place, {"": float(valid.mean())}), hashes


def _chip(path: str, collection: Collection, indices: Sequence[Index]) -> tuple[np.ndarray, np.ndarray]:
    """Read a chip, scale it and add its indices: float32 (band, y, x), 0 where invalid, and bool (y, x)."""
    image, valid = read_chip(path, collection.indexes, collection.nodata)
    values = image * np.float32(collection.scale) + np.float32(collection.offset)
    if indices:
        found = np.empty((len(indices), *valid.shape), np.float32)
        compute(indices, values, found)
        values = np.concatenate([values, found])
        valid &= np.isfinite(found).all(axis=0)
    return np.where(valid, values, np.float32(0.0)), valid


def _stand_in(cube: np.ndarray, valid: np.ndarray, middle: tuple[int, int], box: tuple[slice, slice]) -> None:
    """Give the middle pixel, which carries the label, the chip's mean where it is nodata itself; in place."""
    if not valid[middle] and valid[box].any():
        cube[:, *middle] = cube[:, *box][:, valid[box]].mean(axis=1)
        valid[middle] = True


def _row_of(grid: Grid, place: tuple[int, int, Window], shares: dict[str, float]) -> dict[str, Any]:
    """Make a tile's row of the index; ``shares`` are the valid shares of its steps by name."""
    row, col, window = place
    left, bottom, right, top = grid.bounds_of(window)
    return {
        "row": row, "col": col, "top_row": window.row, "left_col": window.col, "height": window.height,
        "width": window.width, "left": left, "bottom": bottom, "right": right, "top": top,
        "valid": float(np.mean(list(shares.values()))),
        **{f"valid_{name or 'undated'}": share for name, share in shares.items()},
    }  # fmt: skip


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
            raise SceneError(
                f"tile.dates names {date}, but the scenes are of {listed(table.dates)}; name some of these, or take "
                "all."
            )
    return replace(table, sources=tuple(source for source in table.sources if source.static or source.date in wanted))


def make_plan(table: Scenes, config: Config) -> Plan:
    """Lay the grid and the steps, and decide which files are read for which date, in which order, by which kernel.

    Dates without a scene on the grid are left out.

    Raises:
        SceneError: no grid can be laid, no scene lies on it, or a scene lacks its quality band.
        SettingError: a mask or an index asks for a band that is not there.
    """
    chosen = read_season(config.features) if config.features else None
    if chosen:
        table, config = only_bands(table, config, {feature.band for feature in chosen.features})
    rule = rule_of(config.mask, table.quality)
    indices = find_indices(config.indices, table.bands, config.index_bands)
    _refuse_numbers(table, indices, config.allow_dn)
    steps = lay_steps(table.dates, config.time)
    if chosen:
        steps = only_steps(steps, config.time, chosen)
    if config.time.fill != "none" and "" in steps.names:
        raise SettingError("tile.time.fill needs the date of every scene; set ingest.scenes[].date.")
    used = sorted({date for dates in steps.dates for date in dates})
    inside = {date for i, date in enumerate(table.dates) if i in used}
    table = replace(table, sources=tuple(s for s in table.sources if s.static or s.date in inside))
    steps = replace(steps, dates=tuple(tuple(used.index(date) for date in dates) for dates in steps.dates))
    dated = sorted((source for source in table.sources if not source.static), key=lambda source: source.path)
    grid, frames = lay_grid([source.frame for source in dated], config.grid)
    placed = [replace(source, transform=frame.transform) for source, frame in zip(dated, frames, strict=True)]
    scenes = _place_dates(table, placed, grid, config.resampling)
    if missed := [date for date, found in zip(table.dates, scenes, strict=True) if not found]:
        log.warning(
            "%d of %d dates do not overlap the grid and are left out: %s", len(missed), len(scenes), listed(missed)
        )
        left = tuple(source for source in table.sources if source.static or source.date not in missed)
        return make_plan(replace(table, sources=left), config)
    mask = Mask(rule, Reach.of(config.mask.dilate if config.mask else MaskConfig().dilate, grid)) if rule else None
    return Plan(
        grid, table.bands, table.dates, scenes, steps, config.time, mask, indices, table.static,
        _place_static(table, grid, config.resampling),
    )  # fmt: skip


def only_bands(table: Scenes, config: Config, wanted: set[str]) -> tuple[Scenes, Config]:
    """Keep the bands that are wanted or that wanted indices need, and the quality band.

    Raises:
        SettingError: a wanted band is neither in the scenes nor among the indices.
    """
    known = (*table.bands, *table.static, *config.indices)
    if missing := sorted(wanted - set(known)):
        raise SettingError(
            f"tile.features chose {', '.join(missing)}, but the scenes and indices are {', '.join(known)}; give scenes "
            "of the same bands, or leave tile.features out."
        )
    indices = find_indices([name for name in config.indices if name in wanted], table.bands, config.index_bands)
    needed = wanted | {table.bands[place] for index in indices for _, place in index.bands}
    sources = []
    for source in table.sources:
        kept = [i for i, band in enumerate(source.bands) if band in needed or band == table.quality]
        lists = ("bands", "indexes", "nodata", "scale", "offset", "variables")
        if kept:
            picked: dict[str, Any] = {
                name: tuple(getattr(source, name)[i] for i in kept) for name in lists if getattr(source, name)
            }
            sources.append(replace(source, **picked))
    bands, static = (tuple(band for band in names if band in needed) for names in (table.bands, table.static))
    letters = {letter: band for letter, band in config.index_bands.items() if band in needed}
    fewer = {"indices": tuple(index.name for index in indices), "index_bands": letters}
    return replace(table, bands=bands, sources=tuple(sources), static=static), config.model_copy(update=fewer)


def only_steps(steps: Steps, time: TimeConfig, chosen: Season) -> Steps:
    """Leave the steps of every season empty of which no feature was chosen.

    Where gaps are filled a step is also made of its neighbours, and acquisition dates are no steps of a season: there
    all dates are read.

    Raises:
        SettingError: the seasons have another number of steps than those that were chosen from.
    """
    length = len(steps.names) // steps.seasons
    if length != chosen.steps:
        raise SettingError(
            f"tile.features chose from seasons of {chosen.steps} steps, but tile.time lays {length}; set tile.time as "
            "it was then, or leave tile.features out."
        )
    if time.fill != "none" or time.step == "none":
        return steps
    read = {feature.step for feature in chosen.features}
    return replace(steps, dates=tuple(dates if i % length in read else () for i, dates in enumerate(steps.dates)))


def _refuse_numbers(table: Scenes, indices: Sequence[Index], allowed: bool) -> None:
    """Refuse indices of digital numbers: most are no ratios, and an offset falsifies even those that are.

    Raises:
        SettingError: a band of an index has neither scale nor offset.
    """
    needed = {table.bands[place]: index.name for index in indices for _, place in index.bands}
    for source in () if allowed else table.sources:
        for band, scale, offset in zip(source.bands, source.scale, source.offset, strict=True):
            if band in needed and not source.static and scale == 1 and offset == 0:
                raise SettingError(
                    f"{needed[band]} is an index of reflectances, but band {band} of {source.path} holds digital "
                    "numbers; set ingest.scenes[].scale and offset, or tile.allow_dn: true."
                )


def _layers(source: Source, picked: Sequence[int]) -> Layers:
    """Describe some bands of a source for reading; the kernel is chosen once they lie on the grid."""
    indexes, nodata = tuple(source.indexes[i] for i in picked), tuple(source.nodata[i] for i in picked)
    scale, offset = tuple(source.scale[i] for i in picked), tuple(source.offset[i] for i in picked)
    variables = tuple(source.variables[i] for i in picked) if source.variables else ()
    return Layers(source.path, source.frame, indexes, nodata, scale, offset, "auto", variables)


def _place_dates(
    table: Scenes, sources: Sequence[Source], grid: Grid, resampling: str
) -> tuple[tuple[Scene, ...], ...]:
    """Place the files of every date on the grid, scene by scene; a date without a scene there has none.

    Raises:
        SceneError: no date has a scene there, or a scene lacks its quality band.
    """
    pieces: dict[tuple[str, str], list[Piece]] = {}
    quality: dict[tuple[str, str], list[Piece]] = {}
    # By resolution and path: where two files hold the same band, the finer one is read first.
    for source in sorted(sources, key=lambda source: (source.frame.metres(), source.path)):
        key = source.date, source.scene
        held = [i for i, band in enumerate(source.bands) if band != table.quality]
        bands = tuple(table.bands.index(source.bands[i]) for i in held)
        if held and (piece := place_piece(_layers(source, held), bands, grid, resampling)):
            pieces.setdefault(key, []).append(piece)
        rest = [i for i, band in enumerate(source.bands) if band == table.quality]
        if rest and (piece := place_piece(_layers(source, rest), (), grid, "auto")):
            quality.setdefault(key, []).append(piece)
    if not pieces:
        paths = sorted({source.path for source in sources})
        more = f" and {len(paths) - 1} other files do" if len(paths) > 1 else " does"
        raise SceneError(
            f"{paths[0]}{more} not overlap the grid {tuple(round(b, 6) for b in grid.bounds)} in {grid.crs[:40]}; "
            "correct grid.bounds or take the scene out."
        )
    dates = []
    for date in table.dates:
        keys = sorted((key for key in pieces if key[0] == date), key=lambda key: key[1])
        for key in keys if table.quality else ():
            if key not in quality:
                raise SceneError(
                    f"{pieces[key][0].layers.path} of {date or 'no date'} has no quality band {table.quality} on the "
                    "grid; add its file or take the scene out."
                )
        dates.append(tuple(Scene(tuple(pieces[key]), tuple(quality.get(key, ()))) for key in keys))
    outside = {(source.date, source.scene) for source in sources} - set(pieces)
    # Where whole dates are missing, they are told of and taken out first.
    if outside and all(dates):
        log.warning("%d scenes do not overlap the grid and are left out", len(outside))
    return tuple(dates)


def _place_static(table: Scenes, grid: Grid, resampling: str) -> tuple[Piece, ...]:
    """Place the undated layers on the grid.

    Raises:
        SceneError: one has nothing there.
    """
    found: list[Piece] = []
    sources = [source for source in table.sources if source.static]
    for source in sorted(sources, key=lambda source: (source.frame.metres(), source.path)):
        bands = tuple(table.static.index(band) for band in source.bands)
        found += place_anywhere(_layers(source, range(len(bands))), bands, grid, resampling)
    for band, name in enumerate(table.static):
        if not any(band in piece.bands for piece in found):
            raise SceneError(f"no file of the static layer {name} overlaps the grid; correct ingest.static.")
    return tuple(found)


def look_ahead(plan: Plan) -> Plan:
    """Find the clear share of every date where it counts, and leave out dates of a series that are all cloud.

    This reads the quality bands once more, or all bands where there is none.
    """
    best = plan.time.statistic == "best" and plan.steps.most > 1
    sparse = plan.mask is not None and plan.time.step == "none" and len(plan.dates) > 1
    if not best and not sparse:
        return plan
    counts = _in_waves(plan, plan.groups(), lambda shared, group: (look_at_group, shared, group), "clear shares")
    shares = np.sum(counts, axis=0) / (plan.grid.width * plan.grid.height)
    if best:
        plan = replace(plan, shares=tuple(shares.tolist()))
    if sparse and shares.any() and not shares.all():
        kept, steps = np.flatnonzero(shares), plan.steps
        gone = [date for date, share in zip(plan.dates, shares, strict=True) if not share]
        log.warning("%d of %d dates are all cloud and left out: %s", len(gone), len(plan.dates), listed(gone))
        plan = replace(
            plan, dates=tuple(plan.dates[i] for i in kept), scenes=tuple(plan.scenes[i] for i in kept),
            steps=replace(steps, names=tuple(steps.names[i] for i in kept),
                          dates=tuple((i,) for i in range(len(kept)))),
        )  # fmt: skip
    return plan


def look_at_group(plan: Plan, group: Sequence[tuple[int, int, Window]]) -> np.ndarray:
    """Count the clear pixels of every date on some tiles."""
    with _reading(group):
        return count_clear(plan, group)


def _reading(group: Sequence[tuple[int, int, Window]]) -> Any:
    """Prepare for reading what some tiles of a row need."""
    import rasterio

    OPENED.keep_for(group[0][0] // ROWS)
    return rasterio.Env(GDAL_CACHEMAX=CACHE)


def _open_store(out: Path, plan: Plan, table: Scenes) -> Tiles:
    """Open the store that a killed run has begun, or lay out an empty one."""
    if (out / DONE).is_dir() and (out / META).is_file():
        return Tiles(out)
    dated = [source for source in table.sources if not source.static]
    scaled = any(
        scale != 1 or offset != 0
        for source in dated
        for band, scale, offset in zip(source.bands, source.scale, source.offset, strict=True)
        if band != table.quality
    )
    tiles = Tiles.create(
        out, plan.grid, plan.channels, plan.steps.names, "scaled" if scaled else "digital numbers",
        seasons=plan.steps.seasons, days=plan.steps.days, step="" if plan.time.step == "none" else plan.time.step,
    )  # fmt: skip
    (out / DONE).mkdir()
    return tiles


def _in_waves(plan: Plan, groups: Sequence[Any], task: Any, what: str) -> list[Any]:
    """Do something for every group of tiles, some waves of tasks one after the other, from the top of the grid down."""
    import dask

    shared = dask.delayed(plan, traverse=False)
    found: list[Any] = []
    for start in range(0, len(groups), WAVE):
        calls = [task(shared, group) for group in groups[start : start + WAVE]]
        # Dask takes tasks that are alike by their names, the last first; otherwise they would come in any order.
        names = [f"{what}-{WAVE - i:03}-{uuid4().hex}" for i in range(len(calls))]
        found += dask.compute(*[
            dask.delayed(call[0])(*call[1:], dask_key_name=name) for call, name in zip(calls, names, strict=True)
        ])  # fmt: skip
        report(what, sum(len(group) for group in groups[: start + WAVE]), sum(len(group) for group in groups))
    return found


def cut_group(tiles: Tiles, plan: Plan, group: Sequence[tuple[int, int, Window]]) -> dict[str, Any]:
    """Cut and write some neighbouring tiles unless that is done, and tell what was found in them."""
    mark = tiles.folder / DONE / f"{group[0][0]}-{group[0][1]}.json"
    if mark.is_file():
        return dict(json.loads(mark.read_text()))
    with _reading(group):
        found = _cut(tiles, plan, group)
    # Written aside and moved: a mark that is there is whole.
    aside = mark.with_suffix(".new")
    aside.write_text(json.dumps(found))
    aside.replace(mark)
    return found


def _cut(tiles: Tiles, plan: Plan, group: Sequence[tuple[int, int, Window]]) -> dict[str, Any]:
    """Cut and write a group of tiles; returns their rows of the index and what the bands hold."""
    tally = Tally.empty(plan)
    counts = np.zeros((len(group), len(plan.steps.names)), np.int64)
    for window in strips(plan, span(group)):
        series = make_series(plan, window, tally)
        if series.valid.any():
            tiles.write(window, series.cube, series.valid, series.clear, series.filled)
        for i, (_, _, tile) in enumerate(group):
            start = tile.col - window.col
            counts[i] += series.valid[..., start : start + tile.width].sum(axis=(1, 2))
    index = []
    for place, count in zip(group, counts, strict=True):
        shares = (count / (place[2].height * place[2].width)).tolist()
        index.append(_row_of(tiles.grid, place, dict(zip(plan.steps.names, shares, strict=True))))
    return {"index": index, **tally.plain()}
