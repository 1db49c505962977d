"""Foresee what `tile` and `classify` will take of an area, from trials that cut a few tiles and map a few windows."""

from __future__ import annotations

import os
import tempfile
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from pipeline.cluster import PROCESSES, AnyCluster, Local, Threads
from pipeline.config import Area
from pipeline.runner import MODEL, Step, survey
from pipeline.slurm import Slurm
from stages.errors import ArtifactError, ModelError, SettingError

if TYPE_CHECKING:
    from stages import classify
    from stages.formats.tiles import Tiles
    from stages.formats.weights import ModelCard
    from stages.geo.grid import Grid
    from stages.geo.plan import Plan
    from stages.inference.blend import Layout
    from stages.inference.stream import Stream

#: A model is tried out on one block of a grid of so many rows and columns of windows, which has neighbours all around.
TRIED, MIDDLE = 4, 2
#: A trial is repeated, as the first opens files and takes memory that a run then keeps.
TURNS = 3


@dataclass(frozen=True)
class Foreseen:
    """What one stage will take: pieces of work, bytes on the disk, bytes of memory a process, and seconds.

    ``pieces`` are tiles of `tile` and windows of `classify`. None stands for what is not known; ``arithmetic`` says in
    lines how the rest was found.
    """

    stage: str
    pieces: int | None
    disk: float | None
    memory: float | None
    seconds: float | None
    arithmetic: tuple[str, ...]


@dataclass(frozen=True)
class Ground:
    """What will be cut and mapped: the grid, and what a pixel of the cube consists of.

    ``tiles`` is the finished store where it is of the present scenes and settings, ``plan`` what `tile` would do where
    it is to be tried out.
    """

    grid: Grid
    bands: tuple[str, ...]
    dates: int
    seasons: int
    tiles: Tiles | None
    plan: Plan | None

    @property
    def pixel(self) -> int:
        """Bytes of a pixel in the store before compression: values and validity of every date, counts of a season."""
        return self.dates * (4 * len(self.bands) + 1) + 3 * self.seasons


def foresee(area: Area, side: int | None = None) -> tuple[str, list[Foreseen]]:
    """Foresee an area or, with ``side``, a square grid of so many pixels a side as if made of the area's scenes.

    Nothing of the area is changed; what is tried out is written to a temporary folder.

    Returns:
        What is planned, in a line, and what `tile` and `classify` will take.

    Raises:
        ArtifactError: the scenes were never ingested.
        SettingError: the area has nothing to map, or the memory budget does not hold one call.
        ModelError: the given model does not fit the area.
    """
    if "classify" in area.skipped:
        raise SettingError(f"Area {area.name} has nothing to map ({area.skipped['classify']}); plan one with scenes.")
    if side is not None and side < 1:
        raise SettingError(f"--side is {side}; give the side of a square grid in pixels, such as 100000.")
    steps = {step.stage.writes: step for step in survey(area)}
    ground = _ground(area, steps, trial=side is not None)
    grid = ground.grid if side is None else replace(ground.grid, width=side, height=side)
    title = (
        f"{area.title}: {grid.width:,} x {grid.height:,} pixels of {grid.resolution:g}, {_count(ground.dates, 'date')} "
        f"of {_count(len(ground.bands), 'band')}, from the {'tiles' if ground.tiles else 'headers of the scenes'}"
        f"{'' if side is None else f'; a grid of {side:,} a side is planned on paper'}"
    )
    return title, [_tile(area, steps["tiles"], ground, grid), _classify(area, steps, ground, grid)]


def lines(title: str, found: Sequence[Foreseen]) -> list[str]:
    """Write down what was foreseen: a line a stage, and below it the arithmetic."""
    told = [title]
    for one in found:
        parts = (
            "" if one.pieces is None else _count(one.pieces, "tile" if one.stage == "tile" else "window"),
            "" if one.disk is None else f"{_size(one.disk)} on the disk",
            "" if one.memory is None else f"{_size(one.memory)} of memory",
            "" if one.seconds is None else _time(one.seconds),
        )
        told += [f"  {one.stage:<9} {', '.join(filter(None, parts))}".rstrip()]
        told += [f"  {'':<9}   {text}" for text in one.arithmetic]
    return told


def _ground(area: Area, steps: dict[str, Step], trial: bool) -> Ground:
    """Find the grid in the tiles where they are of the present scenes and settings, else lay it; no pixel is read."""
    from stages import tile
    from stages.formats.scenes import read_scenes
    from stages.formats.tiles import Tiles

    made, scenes = steps["tiles"], steps["scenes"]
    tiles = None
    if made.manifest is not None and (made.state == "fresh" or _alike(made, scenes)):
        tiles = Tiles(area.data / "tiles")
    # The last run of a small area says more of how a run starts than of a scene as large as that on paper.
    if tiles is not None and not (trial and scenes.state == "fresh"):
        return Ground(tiles.grid, tiles.bands, tiles.steps * tiles.seasons, tiles.seasons, tiles, None)
    if scenes.fault is not None:
        raise scenes.fault
    if scenes.state != "fresh":
        raise ArtifactError(
            f"The scenes of area {area.name} are {scenes.state} ({scenes.why[0]}), so nothing can be planned; run "
            f"`make ingest AREA={area.name}`, which copies no pixel."
        )
    config: Any = area.configs["tile"]
    plan = tile.make_plan(tile.pick_dates(read_scenes(area.data / "scenes"), config.dates), config)
    return Ground(plan.grid, plan.channels, len(plan.steps.names), plan.steps.seasons, tiles, plan)


def _alike(made: Step, scenes: Step) -> bool:
    """Whether tiles were cut from the scenes that stand, with the present settings; by what code does not matter."""
    assert made.manifest is not None
    if made.fingerprint is None or scenes.manifest is None:
        return False
    return made.manifest.inputs == {"scenes": scenes.manifest.key} and made.manifest.config == made.fingerprint.config


# --- tile ------------------------------------------------------------------------------------------------------------


def _tile(area: Area, made: Step, ground: Ground, grid: Grid) -> Foreseen:
    """Foresee the store: its size by arithmetic, time and compression from the last run, or else from a trial."""
    slots = _slots(area.settings.cluster)
    rows, cols, pixels = -(-grid.height // grid.tile), -(-grid.width // grid.tile), grid.height * grid.width
    raw = float(pixels * ground.pixel)
    told = [
        f"tiles = {rows:,} rows x {cols:,} columns of {grid.tile} x {grid.tile} pixels = {rows * cols:,}",
        f"disk = {pixels:,} pixels x ({_count(ground.dates, 'date')} x ({_count(len(ground.bands), 'band')} x 4 bytes "
        f"+ 1) + {_count(ground.seasons, 'season')} x 3) = {_size(raw)} before compression",
    ]
    if ground.plan is None:
        assert made.manifest is not None
        done = ground.grid.height * ground.grid.width
        share = made.manifest.outputs[_store()]["bytes"] / (done * ground.pixel)
        per_pixel, source = (
            made.manifest.seconds / done,
            f"the last run cut {done:,} pixels in {made.manifest.seconds} s",
        )
        memory: float | None = made.manifest.peak_memory_mb * 1024**2
        seconds = per_pixel * pixels
        told.append(f"time = {source}; x {pixels / done:,.1f} = {_time(seconds)}")
    else:
        spent, done, share, memory = _cut_some(ground.plan, ground.pixel)
        seconds = pixels / done * spent / slots
        told.append(
            f"time = {pixels:,} pixels / {done:,} of a trial x {spent:.3f} s that it took / {slots} at once = "
            f"{_time(seconds)}"
        )
    found = "the last run" if ground.plan is None else "the trial"
    told.append(f"disk after compression = {_size(raw)} x {share:.2f} as in {found} = {_size(raw * share)}")
    return Foreseen("tile", rows * cols, raw * share, memory, seconds, tuple(told))


def _cut_some(plan: Plan, pixel: int) -> tuple[float, int, float, float]:
    """Cut the tiles in the middle of the grid: seconds, pixels, share after compression, peak memory in bytes."""
    from stages import tile
    from stages.formats.tiles import STORE, Tiles
    from stages.geo.plan import span
    from stages.inference.planner import tried

    if plan.time.statistic == "best":
        # What `tile` would count first; any shares take as long.
        plan = replace(plan, shares=(1.0,) * len(plan.dates))
    groups = plan.groups()
    group = groups[len(groups) // 2]
    with tempfile.TemporaryDirectory(prefix="terrastage-") as scratch:
        trials = []
        for turn in range(TURNS):
            folder = Path(scratch) / str(turn)
            (folder / tile.DONE).mkdir(parents=True)
            tiles = Tiles.create(
                folder, plan.grid, plan.channels, plan.steps.names, "", seasons=plan.steps.seasons, days=plan.steps.days
            )
            trials.append(tried(partial(tile.cut_group, tiles, plan, group)))
        written = sum(file.stat().st_size for file in (folder / STORE).rglob("*") if file.is_file())
    window = span(group)
    done = window.height * window.width
    memory = max(trial.held + trial.taken for trial in trials)
    return min(trial.seconds for trial in trials), done, written / (done * pixel), memory


def _store() -> str:
    from stages.formats.tiles import STORE

    return STORE


# --- classify --------------------------------------------------------------------------------------------------------


def _classify(area: Area, steps: dict[str, Step], ground: Ground, grid: Grid) -> Foreseen:
    """Foresee the map: windows by arithmetic, memory and time from a trial of the model."""
    from stages.formats.weights import chosen_folder, read_card

    given = area.settings.given.model
    if given is None and steps[MODEL].manifest is None:
        return Foreseen("classify", None, None, None, None, (
            f"there is no model yet; run `make train AREA={area.name}` or set given.model to plan the map",
        ))  # fmt: skip
    folder = chosen_folder(given or area.data / MODEL)
    card = read_card(folder)
    try:
        return _mapped(area, folder, card, ground, grid)
    except ModelError as fault:
        if given is not None:
            raise
        return Foreseen("classify", None, None, None, None, (f"the model that stands does not fit: {fault}",))


def _mapped(area: Area, folder: Path, card: ModelCard, ground: Ground, grid: Grid) -> Foreseen:
    from stages.classify import bands_of
    from stages.formats.maps import LAYERS
    from stages.inference.planner import bytes_of, fitted, windows_of
    from stages.inference.stream import blocks_of, layout_of

    config: Any = area.configs["classify"]
    processes, threads = _workers(area.settings.cluster)
    layout = layout_of(card, grid.shape, config)
    blocks = blocks_of(layout, config, processes * threads)
    windows, rows, cols = windows_of(layout, blocks), len(layout.rows), len(layout.cols)
    bands = bands_of(config, card)
    pixel = sum(count * np.dtype(LAYERS[name].dtype).itemsize for name, count in bands.items())
    disk, budget = float(grid.height * grid.width * pixel), bytes_of(config.memory)
    with tempfile.TemporaryDirectory(prefix="terrastage-") as scratch:
        stream, cost = _probed(config, folder, card, ground, Path(scratch))
        cost = cost.of(layout)
        batch = None if config.batch == "auto" else config.batch
        plan = fitted(cost, layout, budget, threads, stream.engine, batch=batch)
        ready = replace(
            stream, batch=plan.batch, at_once=plan.at_once * processes,
            most=plan.most if plan.most < cost.pixels else None,
        )  # fmt: skip
        spent, done = _map_some(ready, Path(scratch), bands, processes * threads)
    slots = min(processes * threads, len(blocks))
    share = layout.rows_high * layout.cols_wide / (stream.layout.rows_high * stream.layout.cols_wide)
    each = spent / done * share
    seconds = windows * each / slots
    shared = "" if windows == rows * cols else f", {windows:,} with those that neighbouring blocks both predict"
    parts = "" if plan.most >= cost.pixels else f", each cut into parts of {plan.most:,} pixels at most"
    told = (
        f"windows = {rows:,} rows x {cols:,} columns of {layout.rows_high} x {layout.cols_wide} pixels, which "
        f"overlap by {layout.overlap} and are read with {layout.halo} around = {rows * cols:,}{shared}",
        f"memory = {_size(cost.held)} held + {plan.at_once} x {_size(plan.call)} a call + {_size(plan.beside)} read "
        f"ahead, blended and unwritten = {_size(plan.memory)}, in a budget of {config.memory} "
        f"({plan.at_once} of {_count(threads, 'thread')} call at once{parts})",
        f"time = {windows:,} windows x {each:.3f} s a window of {card.name} ({done} were tried, {processes * threads} "
        f"at once) / {slots} at once = {_time(seconds)}",
        f"disk = {grid.height * grid.width:,} pixels x {pixel} bytes ({', '.join(bands)}) = {_size(disk)} before "
        "compression, and as much again for the parts while the map is made",
    )
    return Foreseen("classify", windows, disk, plan.memory, seconds, told)


def _probed(
    config: classify.Config, folder: Path, card: ModelCard, ground: Ground, scratch: Path
) -> tuple[Stream, Any]:
    """Lay a few windows of pixels of the area, made up where it has no tiles, and try one call of the model on them."""
    from stages.classify import QUANTISED
    from stages.inference.checked import prepare
    from stages.inference.planner import probe
    from stages.inference.stream import layout_of, stream_of

    endless = layout_of(card, (1 << 17, 1 << 17), config)
    step = endless.rows[1] - endless.rows[0]
    tiles = _some_tiles(ground, card, scratch / "tiles", (TRIED - 1) * step + endless.rows_high, endless)
    stream, _ = prepare(stream_of(tiles, folder, config, placing=config), scratch / QUANTISED)
    cost = probe(stream)
    assert cost is not None
    return stream, cost


def _some_tiles(ground: Ground, card: ModelCard, folder: Path, side: int, layout: Layout) -> Tiles:
    """Write a square store of the area's bands and dates, filled around the block that is tried."""
    from stages.formats.tiles import Tiles

    folder.mkdir()
    grid = replace(ground.grid, width=side, height=side)
    old, days = ground.tiles, None
    if old is not None:
        names, days, scaling, step = old.dates, old.days, old.scaling, old.step
    else:
        assert ground.plan is not None
        steps, first = ground.plan.steps, ground.dates - ground.dates // ground.seasons
        names, scaling = steps.names[first:], card.scaling
        days = steps.days[first:] if steps.days else None
        step = "" if ground.plan.time.step == "none" else ground.plan.time.step
    made = Tiles.create(folder, grid, ground.bands, names, scaling, days=days, step=step)
    first = max(layout.rows[MIDDLE - 1] - layout.halo, 0)
    last = layout.rows[MIDDLE] + layout.rows_high + layout.halo
    for _, _, window in grid.tiles():
        if min(window.row + window.height, window.col + window.width) > first and max(window.row, window.col) < last:
            made.write(window, *_pixels(ground, card, len(names), (window.height, window.width)))
    return Tiles(folder)


def _pixels(ground: Ground, card: ModelCard, steps: int, shape: tuple[int, int]) -> tuple[np.ndarray, np.ndarray]:
    """Give pixels to fill a tile with: those in the middle of the area, repeated, or such as the model learnt from."""
    if ground.tiles is not None:
        from stages.geo.grid import Window

        grid = ground.grid
        high, wide = min(shape[0], grid.height), min(shape[1], grid.width)
        cube, valid = ground.tiles.read(Window((grid.height - high) // 2, (grid.width - wide) // 2, high, wide))
        if valid.any():
            rows, cols = np.arange(shape[0]) % high, np.arange(shape[1]) % wide
            return cube[:, :, rows][..., cols], valid[:, rows][..., cols]
    draw = np.random.default_rng(0)
    low, high_value = (1.0, 2.0) if not card.values else (card.values[0][0], card.values[0][2])
    cube = draw.uniform(low, max(high_value, low + 1e-6), (steps, len(ground.bands), *shape))
    return cube.astype(np.float32), np.ones((steps, *shape), bool)


def _map_some(stream: Stream, scratch: Path, bands: dict[str, int], at_once: int) -> tuple[float, int]:
    """Map the block in the middle, as often at once as a run would map blocks: seconds, and windows a block."""
    from stages.classify import map_block
    from stages.formats.maps import PARTS
    from stages.inference.planner import windows_of

    cols = len(stream.layout.cols)
    block = stream.layout.blocks(1, 1)[MIDDLE * cols + MIDDLE]
    spent = []
    for turn in range(TURNS):
        folder = scratch / f"{PARTS}-{turn}"
        folder.mkdir()
        paths = [folder / str(number) for number in range(at_once)]
        begin = time.perf_counter()
        with ThreadPoolExecutor(at_once) as pool:
            list(pool.map(lambda path: map_block(stream, block, path, bands, at_once), paths))
        spent.append(time.perf_counter() - begin)
    return min(spent), windows_of(stream.layout, [block])


# --- words -----------------------------------------------------------------------------------------------------------


def _workers(cluster: AnyCluster) -> tuple[int, int]:
    """Count the processes that a cluster has, and the threads of each; one like this where nobody can tell."""
    cores = os.cpu_count() or 1
    if isinstance(cluster, Threads):
        return 1, cluster.workers or cores
    if isinstance(cluster, Local):
        return cluster.workers or PROCESSES, cluster.threads
    if isinstance(cluster, Slurm):
        return cluster.workers, cluster.threads or cluster.cores
    return 1, cores


def _slots(cluster: AnyCluster) -> int:
    processes, threads = _workers(cluster)
    return processes * threads


def _count(number: int, noun: str) -> str:
    return f"{number:,} {noun}{'' if number == 1 else 's'}"


def _size(amount: float) -> str:
    for unit, name in ((1e12, "TB"), (1e9, "GB"), (1e6, "MB")):
        if amount >= unit:
            return f"{amount / unit:.3g} {name}" if amount < 1000 * unit else f"{amount / unit:,.0f} {name}"
    return f"{amount / 1e6:.3f} MB"


def _time(seconds: float) -> str:
    if seconds >= 7200:
        return f"{seconds / 60:,.0f} minutes ({seconds / 3600:.1f} hours)"
    return f"{seconds / 60:.1f} minutes" if seconds >= 60 else f"{seconds:.1f} s ({seconds / 60:.2f} minutes)"
