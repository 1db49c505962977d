"""Burn labels onto the grid, divide ground blocks into train, validation and test, and measure the training pixels."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from pydantic import Field, model_validator

from stages.errors import LabelError
from stages.formats.samples import DROPPED, UNLABELLED, Part, Role, Samples
from stages.formats.tiles import Tiles
from stages.geo import labels as sources_of_labels
from stages.geo.blocks import Blocks, smallest_sides
from stages.geo.burn import burn
from stages.geo.grid import Grid, Window
from stages.geo.headers import sidecars
from stages.geo.labels import EACH, NONE, LabelFile, label_key
from stages.progress import report
from stages.settings import STYLE_ONLY, MapClass, Settings, refuse_same_codes
from stages.training import splits, statistics
from stages.training.statistics import Moments

COSMETIC = STYLE_ONLY
#: Pixels of a task, and tasks under way between two words of progress.
TASK_PIXELS, TASKS = 512 * 512, 32
#: Share of training labels lost to the buffer above which the user is warned.
MUCH_BUFFER = 0.4

_logger = logging.getLogger(__name__)


class Shares(Settings):
    """How much of the labels each part gets."""

    train: float = Field(0.6, gt=0, lt=1, description="Share that trains")
    validation: float = Field(0.2, gt=0, lt=1, description="Share that chooses settings and calibrates")
    test: float = Field(0.2, gt=0, lt=1, description="Share that scores the map; with folds, every block is test once")

    @model_validator(mode="after")
    def _whole(self) -> Shares:
        total = self.train + self.validation + self.test
        if abs(total - 1) > 1e-6:
            raise ValueError(f"train, validation and test must sum to 1, not {total:g}")
        return self

    @property
    def parts(self) -> tuple[float, float, float]:
        """Train, validation and test."""
        return self.train, self.validation, self.test


class Config(Settings):
    """Where the labels are, what they mean and how they are divided."""

    classes: tuple[MapClass, ...] = Field(min_length=2, description="Classes of the map, in the order of their index")
    file: Path = Field(description="Polygons, points or a one-band raster of class values, in any CRS")
    field: str | None = Field(None, description="Column of the class value; needed for polygons and points")
    drop: tuple[str | int, ...] = Field((), description="Values not mapped: never learnt, errors in a second accuracy")
    ignore: tuple[str | int, ...] = Field((), description="Values that mean 'no label', beside the source's own nodata")
    purity: float = Field(0.6, ge=0, le=1, description="Least share of a pixel one class must cover for it to train")
    block: float = Field(2000.0, gt=0, description="Side of a ground block in metres, rounded to whole pixels")
    shares: Shares = Field(default_factory=Shares, description="Shares of train, validation and test")
    folds: int | None = Field(None, ge=3, le=50, description="Number of blocked folds; none for a single split")
    group: str = Field("auto", description="What is never divided: a column, 'none', or 'auto' for every polygon")
    buffer: float = Field(200.0, ge=0, description="Metres around held-out blocks in which training labels are dropped")
    seed: int = Field(0, ge=0, description="Seed of the assignment of blocks")
    test: Path | None = Field(None, description="Independent test labels: never trained on, scored apart")
    test_field: str | None = Field(None, description="Column of the class value in `test`; as `field` by default")

    @model_validator(mode="after")
    def _distinct(self) -> Config:
        names = [entry.name for entry in self.classes]
        values = [label_key(v) for v in (*(v for c in self.classes for v in c.labels), *self.drop, *self.ignore)]
        for what, items in (("class name", names), ("label value", values)):
            twice = [item for item, count in Counter(items).items() if count > 1]
            if twice:
                raise ValueError(
                    f"the {what} '{twice[0]}' stands twice; name it in one place of classes, drop and ignore"
                )
        refuse_same_codes(self.classes)
        return self

    @property
    def names(self) -> tuple[str, ...]:
        """Class names in the order of their index."""
        return tuple(entry.name for entry in self.classes)


@dataclass(frozen=True)
class Job:
    """What every task needs to know: addresses and settings, no pixels."""

    tiles: Tiles
    out: Path
    blocks: Blocks
    labels: LabelFile
    test: LabelFile | None
    config: Config

    @property
    def grid(self) -> Grid:
        """The area's grid."""
        return self.tiles.grid


@dataclass(frozen=True)
class Burnt:
    """What a window's labels came to: pixels by (group, block, category) and what was noticed."""

    keys: np.ndarray
    pixels: np.ndarray
    noticed: Counter[str]
    unknown: Counter[tuple[str, str]]


@dataclass(frozen=True)
class Ownership:
    """Blocks after groups were brought together: owner of each group, labelled pixels (block, category)."""

    groups: np.ndarray
    owner: np.ndarray
    counts: np.ndarray


@dataclass(frozen=True)
class Measured:
    """Roles and training statistics of a window.

    ``roles`` counts pixels (fold + 1, role, class + 1), ``by_class`` sums the values of training labels
    (fold + 1, class, channel); a row of ``by_block`` is the block in ``block``; ``values`` (pixel, channel) are kept.
    """

    roles: np.ndarray
    block: np.ndarray
    by_block: Moments
    by_class: np.ndarray
    values: np.ndarray
    value_block: np.ndarray


def sources(config: Config) -> list[Path]:
    """List the label files and what belongs to them.

    Raises:
        LabelError: one is missing or empty.
    """
    files = [path for path in (config.file, config.test) if path is not None]
    for path in files:
        sources_of_labels.check_file(path)
    return [found for path in files for found in (path, *sidecars(path))]


def run(tiles: Path, out: Path, config: Config) -> None:
    """Write the samples of an area.

    Raises:
        LabelError: the labels cannot be read, placed or divided.
        LeakError: the finished samples would leak (a bug).
    """
    job = _prepare(Tiles(tiles), out, config)
    windows = [window for _, _, window in job.grid.tiles()]
    Samples.layout(out, job.grid, config.folds or 1)
    burnt = _fan_out("labels burnt", partial(burn_window, job), windows)
    summary = _summary_of(job, burnt)
    ownership = own_blocks(burnt, job.blocks.count, len(config.classes) + 1)
    parts = _divide(ownership.counts, config)
    Samples.write_summary(out, {**summary, "parts": parts.tolist()})
    for window, tile in zip(windows, burnt, strict=True):
        own_window(job, ownership, window, tile)
    measured = _fan_out("labels divided", partial(measure_window, job), windows)
    roles = np.sum([tile.roles for tile in measured], axis=0)
    Samples.write_summary(out, summary | _split_summary(roles, parts, ownership.counts, config))
    _check_classes(roles, parts, ownership.counts, config)
    Samples.write_statistics(out, _statistics(job, measured, parts))
    _write_blocks(job, parts, ownership.counts)
    splits.check_groups(_fan_out("splits verified", partial(splits.verify_window, Samples(out), job.grid), windows))
    _log(Samples(out).summary)


def _prepare(tiles: Tiles, out: Path, config: Config) -> Job:
    """Open the label sources and refuse what cannot be used."""
    blocks = Blocks.of_metres(tiles.grid, config.block)
    labels = _label_file(config.file, config.field, config, config.group, tiles.grid)
    test = None
    if config.test is not None:
        test = _label_file(config.test, config.test_field or config.field, config, NONE, tiles.grid)
    return Job(tiles, out, blocks, labels, test, config)


def _label_file(path: Path, field: str | None, config: Config, group: str, grid: Grid) -> LabelFile:
    stamp = sources_of_labels.check_file(path)
    keys = [(label_key(value), index) for index, entry in enumerate(config.classes) for value in entry.labels]
    keys += [(label_key(value), len(config.classes)) for value in config.drop]
    ignore = tuple(label_key(value) for value in config.ignore)
    file = LabelFile(str(path), tuple(keys), ignore, field, NONE, stamp)
    if not file.is_vector:
        if not sources_of_labels.check_raster(path) and "0" not in dict(keys):
            file = replace(file, ignore=(*ignore, "0"))  # a raster without nodata uses 0 for "no label"
        if group not in ("auto", NONE):
            raise LabelError(
                f"The labels {path} are a raster without columns; set label.group to 'none', not '{group}'."
            )
        return file
    if group == "auto":
        polygons, _ = sources_of_labels.vector_columns(path)
        group = EACH if polygons else NONE
    file = replace(file, group=group)
    sources_of_labels.check_overlap(file, grid)
    return file


def burn_window(job: Job, window: Window) -> Burnt:
    """Burn the labels of one window and write targets, groups and purity; count pixels by group, block and class."""
    valid = job.tiles.read_channels(window)[1]
    noticed: Counter[str] = Counter()
    unknown: Counter[tuple[str, str]] = Counter()
    target, share, group = _targets(job, job.labels, window, valid, (noticed, unknown))
    independent = np.full(target.shape, UNLABELLED, dtype=np.uint8)
    if job.test is not None:
        apart = Counter[str]()
        independent = _targets(job, job.test, window, valid, (apart, unknown))[0]
        noticed["independent"] = int((independent != UNLABELLED).sum())
        noticed.update({f"independent_{what}": count for what, count in apart.items()})
    # Purity waits in `final` until the roles are known.
    impure = np.where((target < DROPPED) & (share < job.config.purity - 1e-6), Role.MIXED, Role.NONE)
    Samples.write(job.out, window, target=target, independent=independent, group=group, final=impure.astype(np.uint8))
    noticed["mixed"] = int((impure == Role.MIXED).sum())
    labelled = target != UNLABELLED
    category = np.where(target == DROPPED, len(job.config.classes), target)
    keys = np.stack([a[labelled] for a in (group, job.blocks.ids(window), category)], axis=1).astype(np.int64)
    keys, pixels = np.unique(keys, axis=0, return_counts=True)
    return Burnt(keys, pixels, noticed, unknown)


def _targets(
    job: Job,
    file: LabelFile,
    window: Window,
    valid: np.ndarray,
    counters: tuple[Counter[str], Counter[tuple[str, str]]],
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Target, share of its class in the pixel and group of every pixel; count into (noticed, unknown)."""
    noticed, unknown = counters
    coverage = burn(file, job.grid, window)
    category, share = coverage.dominant()
    noticed["conflicts"] += int(coverage.conflict.sum())
    noticed["on_nodata"] += int(((category >= 0) & ~valid).sum())
    for value, count in coverage.unknown.items():
        unknown[file.path, value] += count
    target = np.where(category == len(job.config.classes), DROPPED, category)
    target = np.where((category >= 0) & valid, target, UNLABELLED).astype(np.uint8)
    return target, share, np.where(target != UNLABELLED, coverage.group, -1).astype(np.int32)


def own_blocks(burnt: Sequence[Burnt], blocks: int, categories: int) -> Ownership:
    """Give every group to the block that holds most of its labelled pixels (the first, in a tie)."""
    keys = np.concatenate([tile.keys for tile in burnt])
    pixels = np.concatenate([tile.pixels for tile in burnt])
    group, block, category = keys.T
    grouped = group >= 0
    pairs, place = np.unique(keys[grouped][:, :2], axis=0, return_inverse=True)
    total = np.bincount(place.ravel(), weights=pixels[grouped], minlength=len(pairs))
    order = np.lexsort((pairs[:, 1], -total, pairs[:, 0]))
    groups, first = np.unique(pairs[order, 0], return_index=True)
    owner = pairs[order, 1][first]
    block = block.copy()
    block[grouped] = owner[np.searchsorted(groups, group[grouped])]
    counts = np.zeros((blocks, categories), dtype=np.int64)
    np.add.at(counts, (block, category), pixels)
    return Ownership(groups, owner, counts)


def own_window(job: Job, ownership: Ownership, window: Window, tile: Burnt) -> None:
    """Write the block of every pixel of a window; labelled pixels of a group go to the block that owns it."""
    block = job.blocks.ids(window)
    if (tile.keys[:, 0] >= 0).any():
        group = Samples(job.out).read("group", window)
        owner = ownership.owner[np.searchsorted(ownership.groups, group[group >= 0])]
        block[group >= 0] = owner
    Samples.write(job.out, window, block=block)


def _divide(counts: np.ndarray, config: Config) -> np.ndarray:
    """`Part` of every block: uint8 (fold, block)."""
    if config.folds is None:
        return splits.single_split(counts, config.shares.parts, config.seed)
    labelled = int((counts.sum(axis=1) > 0).sum())
    if labelled < config.folds:
        raise LabelError(
            f"The labels stand in {labelled} ground blocks, fewer than the {config.folds} folds of label.folds; "
            "make label.block smaller or ask for fewer folds."
        )
    validation = config.shares.validation / (config.shares.train + config.shares.validation)
    return splits.cross_split(counts, config.folds, validation, config.seed)


def measure_window(job: Job, window: Window) -> Measured:
    """Write the role of every label of a window in every fold; measure its pixels."""
    samples = Samples(job.out)
    outer = window.padded(splits.halo(job.grid, job.config.buffer), job.grid)
    inner, sides = window.within(outer), smallest_sides(job.grid, outer)
    independent, block = samples.read("independent", outer), samples.read("block", outer)
    target, mixed = samples.read("target", window), samples.read("final", window) == Role.MIXED
    apart = independent[inner] != UNLABELLED
    roles = []
    for fold in (*range(samples.folds), None):
        parts = splits.parts_of(samples, fold)
        close = splits.near(splits.held_out(independent, block, parts), sides, job.config.buffer)[inner]
        part = np.full(target.shape, Part.TRAIN) if parts is None else parts[block[inner]]
        roles.append(np.where(apart, np.uint8(Role.INDEPENDENT), splits.assign_roles(target, mixed, part, close)))
    Samples.write(job.out, window, role=np.stack(roles[:-1]), final=roles[-1])
    return _measure(job, samples, window, np.stack(roles))


def _measure(job: Job, samples: Samples, window: Window, roles: np.ndarray) -> Measured:
    """Moments by block and by training class, and some values for percentiles."""
    image, valid = job.tiles.read_channels(window)
    target, classes = samples.read("target", window), len(job.config.classes)
    open_to_all = valid & samples.training_mask(None, window)
    pixels = np.moveaxis(image, 0, -1)
    block, row = np.unique(samples.read("block", window)[open_to_all], return_inverse=True)
    by_block = statistics.moments(pixels[open_to_all], row.ravel(), len(block))
    by_class = []
    for role in roles:
        training = role == Role.TRAIN
        by_class.append(statistics.sums(pixels[training], target[training], classes))
    counted = np.where(target == DROPPED, classes, np.minimum(target, classes + 1))
    table = [np.bincount(role.ravel() * (classes + 2) + counted.ravel(), minlength=7 * (classes + 2)) for role in roles]
    rows, cols = np.nonzero(open_to_all)
    share = statistics.kept_share(job.grid.height * job.grid.width, len(image))
    some = statistics.kept(rows + window.row, cols + window.col, share)
    return Measured(
        np.reshape(table, (len(roles), 7, classes + 2))[..., :-1], block, by_block, np.stack(by_class),
        pixels[open_to_all][some], block[row.ravel()[some]],
    )  # fmt: skip


def _statistics(job: Job, measured: Sequence[Measured], parts: np.ndarray) -> list[dict[str, Any]]:
    """Statistics of every fold's training pixels and, last, of the final model's."""
    final = np.full((1, parts.shape[1]), Part.TRAIN, dtype=parts.dtype)
    values = np.concatenate([tile.values for tile in measured])
    value_block = np.concatenate([tile.value_block for tile in measured])
    pixels = np.sum([tile.roles[:, Role.TRAIN, :-1] for tile in measured], axis=0)
    totals = np.sum([tile.by_class for tile in measured], axis=0)
    entries = []
    for fold, part in enumerate(np.concatenate([parts, final])):
        training = part == Part.TRAIN
        inputs = statistics.pool([_rows(tile.by_block, training[tile.block]) for tile in measured])
        some = values[training[value_block]]
        entries.append(statistics.entry(job.tiles.channels, inputs, some, pixels[fold], totals[fold]))
    return entries


def _rows(found: Moments, keep: np.ndarray) -> Moments:
    return Moments(found.count[keep], found.mean[keep], found.squares[keep])


def _summary_of(job: Job, burnt: Sequence[Burnt]) -> dict[str, Any]:
    """Sum up what was met while burning; refuse unknown values and labels that lie nowhere on valid pixels."""
    noticed, unknown = Counter[str](), Counter[tuple[str, str]]()
    for tile in burnt:
        noticed.update(tile.noticed)
        unknown.update(tile.unknown)
    config, repaired, without = job.config, 0, 0
    for file in (job.labels, job.test):
        if file is not None and file.is_vector:
            features = sources_of_labels.read_features(file, job.grid.crs)
            repaired, without = repaired + features.repaired, without + features.without_value
    for path in sorted({path for path, _ in unknown}):
        values = {value: count for (where, value), count in unknown.items() if where == path}
        sources_of_labels.refuse_unknown(Path(path), values)
    labelled = int(sum(tile.pixels.sum() for tile in burnt))
    if not labelled:
        raise LabelError(
            f"The labels {config.file} do not lie on any valid pixel of the scenes"
            f" ({noticed['on_nodata']} pixels lie on nodata); check that both cover the same ground."
        )
    if config.test is not None and not noticed["independent"]:
        raise LabelError(
            f"The independent test labels {config.test} do not lie on any valid pixel of the scenes"
            f" ({noticed['independent_on_nodata']} pixels lie on nodata); correct label.test or leave it out."
        )
    return {
        "classes": config.names, "folds": config.folds or 1, "crossed": config.folds is not None,
        "buffer": config.buffer, "block_pixels": job.blocks.side, "labelled": labelled,
        "conflicts": noticed["conflicts"], "mixed": noticed["mixed"], "on_nodata": noticed["on_nodata"],
        "independent": noticed["independent"], "independent_conflicts": noticed["independent_conflicts"],
        "independent_on_nodata": noticed["independent_on_nodata"], "repaired": repaired, "without_value": without,
        "dropped_classes": [str(value) for value in config.drop],
        "group": {EACH: "polygon", NONE: "none"}.get(job.labels.group, job.labels.group),
    }  # fmt: skip


def _split_summary(roles: np.ndarray, parts: np.ndarray, counts: np.ndarray, config: Config) -> dict[str, Any]:
    """Pixels by role and class, blocks by part, and what the buffer costs; ``roles`` (fold + 1, role, class + 1)."""
    names = (*config.names, "(dropped)")
    labelled = counts.sum(axis=1) > 0
    roles_of = [Role.TRAIN, Role.VALIDATION, Role.TEST, Role.BUFFER, Role.MIXED, Role.INDEPENDENT]
    pixels = [
        {role.name.lower(): dict(zip(names, fold[role].tolist(), strict=True)) for role in roles_of} for fold in roles
    ]
    blocks = [
        {part.name.lower(): int((labelled & (fold == part)).sum()) for part in Part if part != Part.NONE}
        for fold in parts
    ]
    buffered, trained = roles[:-1, Role.BUFFER].sum(), roles[:-1, Role.TRAIN].sum()
    return {
        "parts": parts.tolist(), "pixels": pixels[:-1], "final_pixels": pixels[-1], "blocks": blocks,
        "labelled_blocks": int(labelled.sum()), "buffer_share": float(buffered / max(1, buffered + trained)),
        "class_pixels": dict(zip(names, counts.sum(axis=0).tolist(), strict=True)),
        "class_blocks": dict(zip(names, (counts > 0).sum(axis=0).tolist(), strict=True)),
    }  # fmt: skip


def _check_classes(roles: np.ndarray, parts: np.ndarray, counts: np.ndarray, config: Config) -> None:
    """Refuse a class that cannot be learnt or scored; with folds, warn where one fold lacks it.

    Raises:
        LabelError: a class has no sample at all or, in a single split, none in one of the parts.
    """
    advice = "merge it with another class, drop it (label.drop) or make label.block smaller"
    for index, name in enumerate(config.names):
        holders = int((counts[:, index] > 0).sum())
        if not holders:
            raise LabelError(f"Class '{name}' has no labelled pixel on the scenes; correct its labels or remove it.")
        for fold in range(len(parts)):
            for role in (Role.TRAIN, Role.VALIDATION, Role.TEST):
                if roles[fold, role, index] or (config.folds and role != Role.TRAIN):
                    continue
                lost = int(roles[fold, Role.BUFFER, index] + roles[fold, Role.MIXED, index])
                reason = (
                    f"; {lost} of its pixels are lost to label.buffer and label.purity"
                    if role == Role.TRAIN and lost
                    else ""
                )
                text = f"Class '{name}' has no {role.name.lower()} sample (ground blocks with it: {holders}{reason})"
                if not config.folds:
                    raise LabelError(f"{text}; {advice}.")
                _logger.warning("%s in fold %d; its model cannot know the class", text, fold)
        if config.folds and not roles[:-1, Role.TRAIN, index].any():
            raise LabelError(
                f"Class '{name}' has no training sample in any fold (ground blocks with it: {holders}); {advice}."
            )


def _write_blocks(job: Job, parts: np.ndarray, counts: np.ndarray) -> None:
    """Write the table of blocks, with their outlines, for whoever wants to see the split in a GIS."""
    import geopandas as gpd

    row, col = np.divmod(np.arange(job.blocks.count), job.blocks.columns)
    table: dict[str, Any] = {"id": np.arange(job.blocks.count), "row": row, "col": col}
    table |= {f"part_{fold}": part for fold, part in enumerate(parts)}
    table |= {f"pixels_{name}": counts[:, index] for index, name in enumerate((*job.config.names, "(dropped)"))}
    outlines = gpd.GeoDataFrame(table, geometry=job.blocks.outlines(job.grid), crs=job.grid.crs)
    Samples(job.out).write_blocks(outlines)


def _log(summary: dict[str, Any]) -> None:
    for key, text in (
        ("repaired", "%d invalid label geometries were repaired"),
        ("without_value", "%d label features have no class value and were left out"),
        ("conflicts", "%d pixels lie under labels of several classes and were left out"),
        ("on_nodata", "%d labelled pixels lie on nodata of the scenes and were left out"),
        ("independent_conflicts", "%d pixels lie under independent test labels of several classes and were left out"),
        ("independent_on_nodata", "%d pixels of the independent test labels lie on nodata and were left out"),
    ):
        if summary[key]:
            _logger.warning(text, summary[key])
    if summary["buffer_share"] > MUCH_BUFFER:
        _logger.warning(
            "label.buffer drops %.0f %% of the training labels; larger blocks or a smaller buffer would keep more",
            100 * summary["buffer_share"],
        )
    _logger.info(
        "%d labelled pixels of %d classes in %d blocks, %d %s, %.0f %% of the training labels in the buffer",
        summary["labelled"], len(summary["classes"]), summary["labelled_blocks"], summary["folds"],
        "folds" if summary["crossed"] else "split", 100 * summary["buffer_share"],
    )  # fmt: skip


def _fan_out(what: str, work: Callable[[Window], Any], windows: Sequence[Window]) -> list[Any]:
    """Do the work of every window on whatever Dask scheduler is current; results in the order of the windows."""
    import dask

    size = max(1, TASK_PIXELS // max(1, windows[0].height * windows[0].width))
    batches = [windows[start : start + size] for start in range(0, len(windows), size)]
    found: list[Any] = []
    for start in range(0, len(batches), TASKS):
        tasks = [dask.delayed(_each, pure=False)(work, batch) for batch in batches[start : start + TASKS]]
        for results in dask.compute(*tasks):
            found.extend(results)
        report(what, len(found), len(windows))
    return found


def _each(work: Callable[[Window], Any], windows: Sequence[Window]) -> list[Any]:
    return [work(window) for window in windows]
