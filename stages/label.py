"""Burn labels onto the grid, divide ground blocks into train, validation and test, and measure the training pixels."""

from __future__ import annotations

import logging
import math
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any, Literal

import numpy as np
from pydantic import Field, field_validator, model_validator

from stages.errors import LabelError
from stages.formats.samples import Samples
from stages.formats.tiles import Tiles
from stages.geo import labels as sources_of_labels
from stages.geo.blocks import Blocks
from stages.geo.grid import Grid, Window
from stages.geo.headers import sidecars
from stages.geo.labels import EACH, NO_LABEL, NONE, LabelFile, label_key
from stages.geo.periods import Period
from stages.progress import report
from stages.settings import STYLE_ONLY, MapClass, Settings, label_range, refuse_same_codes
from stages.training import splits
from stages.training.burnt import Burnt, Job, burn_window, counts_of, own_window, owners_of
from stages.training.chip_samples import has_places, read_chip_labels
from stages.training.measured import measure_window, statistics_of
from stages.training.piles import Piles
from stages.training.split_summary import DROPPED, check_classes, split_summary
from stages.training.table_samples import read_labels

COSMETIC = STYLE_ONLY
#: `label.folds` where every fold tests one season, and the least and most folds of blocks.
BY_YEAR, FOLDS = "by_year", (3, 50)
#: Pixels of a task, and tasks under way between two words of progress.
TASK_PIXELS, TASKS = 512 * 512, 32
#: Share of training labels lost to the buffer above which the user is warned.
MUCH_BUFFER = 0.4

_logger = logging.getLogger(__name__)


class Shares(Settings):
    """How much of the labels each part gets."""

    train: float = Field(0.6, gt=0, lt=1, description="Share that trains")
    validation: float = Field(0.2, gt=0, lt=1, description="Share that chooses settings and calibrates")
    test: float = Field(
        0.2,
        ge=0,
        lt=1,
        description="Share that scores the map; 0 beside an independent test set; with folds, every block is test once",
    )

    @model_validator(mode="after")
    def _whole(self) -> Shares:
        total = self.train + self.validation + self.test
        if abs(total - 1) > 1e-6:
            raise ValueError(f"train, validation and test must sum to 1, not {total:g}")
        return self

    @property
    def parts(self) -> tuple[float, ...]:
        """Train, validation and, unless it is 0, test."""
        return (self.train, self.validation, self.test) if self.test else (self.train, self.validation)


class Config(Settings):
    """Where the labels are, what they mean and how they are divided."""

    classes: tuple[MapClass, ...] = Field(min_length=2, description="Classes of the map, in the order of their index")
    file: Path | None = Field(
        None,
        description="Polygons, points (also CSV) or a one-band raster of class values, in any CRS; not of a "
        "table of series, which holds its own labels",
    )
    field: str | None = Field(None, description="Column of the class value; needed for polygons and points")
    start: str | None = Field(None, description="Column of the date from which a label is true; without, it always is")
    end: str | None = Field(None, description="Column of the last date on which a label is true")
    coordinates: tuple[str, str] | None = Field(
        None, description="Columns of longitude and latitude in a CSV table; found by their names by default"
    )
    drop: tuple[str | int, ...] = Field((), description="Values not mapped: never learnt, errors in a second accuracy")
    ignore: tuple[str | int, ...] = Field((), description="Values that mean 'no label', beside the source's own nodata")
    purity: float = Field(0.6, ge=0, le=1, description="Least share of a pixel one class must cover for it to train")
    block: float = Field(2000.0, gt=0, description="Side of a ground block in metres, rounded to whole pixels")
    split: Literal["blocks", "random"] = Field(
        "blocks",
        description="What is dealt out: ground blocks, or at random labels or groups, without a buffer; scores are "
        "then too good",
    )
    shares: Shares = Field(default_factory=Shares, description="Shares of train, validation and test")
    folds: int | str | None = Field(
        None, description="Number of folds of blocks, or by_year: one a season; none for a single split"
    )
    group: str = Field("auto", description="What is never divided: a column, 'none', or 'auto' for every polygon")
    buffer: float = Field(200.0, ge=0, description="Metres around held-out blocks in which training labels are dropped")
    seed: int = Field(0, ge=0, description="Seed of the assignment of blocks")
    test: Path | None = Field(None, description="Independent test labels: never trained on, scored apart")
    test_field: str | None = Field(None, description="Column of the class value in `test`; as `field` by default")

    @field_validator("folds")
    @classmethod
    def _known_folds(cls, folds: int | str | None) -> int | str | None:
        if folds not in (None, BY_YEAR) and not (isinstance(folds, int) and FOLDS[0] <= folds <= FOLDS[1]):
            raise ValueError(f"folds is a number from {FOLDS[0]} to {FOLDS[1]} or {BY_YEAR}, not {folds}")
        return folds

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
        _refuse_overlaps(values)
        refuse_same_codes(self.classes)
        return self

    @model_validator(mode="after")
    def _agree(self) -> Config:
        if (self.start is None) != (self.end is None):
            raise ValueError(
                "start and end belong together; name both columns, or one column as both where it holds days or years"
            )
        if self.split == "random" and self.folds == BY_YEAR:
            raise ValueError("split random and folds by_year contradict each other; leave one of them out")
        return self

    @property
    def margin(self) -> float:
        """Metres around held-out ground in which training labels are dropped: none where labels are dealt at random."""
        return 0.0 if self.split == "random" else self.buffer

    @property
    def names(self) -> tuple[str, ...]:
        """Class names in the order of their index."""
        return tuple(entry.name for entry in self.classes)


def _refuse_overlaps(values: Sequence[str]) -> None:
    """See that no number belongs to two ranges of label values, or to a range and to itself.

    Raises:
        ValueError: one does.
    """
    spans = []
    for text in values:
        span = label_range(text)
        if span is None:
            try:
                number = math.floor(float(text))
            except (ValueError, OverflowError):
                continue
            span = number, number
        spans.append((*span, text))
    for (_, end, first), (start, _, second) in pairwise(sorted(spans)):
        if start <= end and ".." in first + second:
            raise ValueError(f"the label values '{first}' and '{second}' overlap; give every number to one class")


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
    config = _as_divided(Tiles(tiles), config)
    job = _prepare(Tiles(tiles), out, config)
    windows = [window for _, _, window in job.grid.tiles()]
    Samples.layout(out, job.grid, config.folds if isinstance(config.folds, int) else 1, job.tiles.seasons)
    burnt = _fan_out("labels burnt", partial(burn_window, job), windows)
    summary = _summary_of(job, config, burnt)
    owned = _fan_out("labels placed", partial(own_window, job, owners_of(burnt)), windows)
    counts = counts_of(owned, job)
    parts, tested = _divide(counts, config)
    Samples.set_folds(out, len(parts))
    summary |= {"divided": sum(tile.divided for tile in owned), "folds": len(parts), **tested}
    Samples.write_summary(out, {**summary, "parts": parts.tolist()})
    measured = [tile for found in _fan_out("labels divided", partial(measure_window, job), windows) for tile in found]
    roles = np.sum([tile.roles for tile in measured], axis=0)
    Samples.write_summary(out, summary | split_summary(config.names, roles, parts, counts))
    check_classes(config.names, roles, counts, config.folds is not None, tested=config.shares.test > 0)
    Samples.write_statistics(out, statistics_of(job, measured, parts))
    _write_blocks(job, config, parts, counts.sum(axis=0))
    _verify(Samples(out), job.grid, windows)
    _log(Samples(out).summary)


def _verify(samples: Samples, grid: Grid, windows: Sequence[Window]) -> None:
    splits.check_seasons(samples)
    splits.check_groups(_fan_out("splits verified", partial(splits.verify_window, samples, grid), windows))


def _as_divided(tiles: Tiles, config: Config) -> Config:
    """Divide chips at random where they have no coordinates to be divided by."""
    if tiles.cells is None or config.split == "random" or has_places(tiles):
        return config
    _logger.warning("the chips have no coordinates, so ground blocks cannot be cut")
    return config.model_copy(update={"split": "random"})


def _prepare(tiles: Tiles, out: Path, config: Config) -> Job:
    """Open the label sources and refuse what cannot be used."""
    if config.folds == BY_YEAR and tiles.seasons < 2:
        raise LabelError(
            "label.folds by_year tests a season with models of the others, but the scenes are one season; give scenes "
            "of at least two, cut by tile.time, or a number of folds."
        )
    if tiles.is_table:
        return _prepare_table(tiles, out, config)
    if config.file is None:
        raise LabelError("label.file is not set; name the polygons, points or raster of the area's labels.")
    blocks = Blocks.of_metres(tiles.grid, config.block) if config.split == "blocks" else Piles(config.seed)
    labels = _label_file(config.file, config.field, config, config.group, tiles.grid)
    test = None
    if config.test is not None:
        test = _label_file(config.test, config.test_field or config.field, config, NONE, tiles.grid)
    periods = _periods(tiles) if any(file and file.start for file in (labels, test)) else ()
    return Job(tiles, out, blocks, labels, test, len(config.classes), config.purity, config.margin, periods)


def _prepare_table(tiles: Tiles, out: Path, config: Config) -> Job:
    """Take the labels from the table of series, or the collection of chips, that the tiles are.

    Raises:
        LabelError: label files are named beside it, or its labels cannot be read or divided.
    """
    if tiles.cells is not None and (config.file is not None or config.test is not None):
        raise LabelError(
            "The area is a collection of chips, which have their labels; leave label.file and label.test out and name "
            "the column of the labels in ingest.chips.label, or the folders after the classes."
        )
    if config.file is not None or config.test is not None:
        raise LabelError(
            "The area is a table of series, which holds its labels; leave label.file and label.test out and name their "
            "column in ingest.table.label, and test samples in ingest.table.test or part."
        )
    values, classes = _values(config), len(config.classes)
    table = (read_labels if tiles.cells is None else read_chip_labels)(
        tiles, values, classes, block=config.block, split=config.split, seed=config.seed, buffer=config.margin
    )
    return Job(tiles, out, table.blocks, values, None, classes, 0.0, 0.0, table=table)


def _periods(tiles: Tiles) -> tuple[Period, ...]:
    """Find when each season is.

    Raises:
        LabelError: the scenes have no dates.
    """
    try:
        return tuple(Period.of_steps(season.dates, season.step) for season in tiles.each_season())
    except ValueError as fault:
        raise LabelError(
            "The labels have dates (label.start and label.end), but the scenes have none; give the scenes' dates "
            "(ingest), or leave label.start and label.end out."
        ) from fault


def _label_file(path: Path, field: str | None, config: Config, group: str, grid: Grid) -> LabelFile:
    file = replace(_values(config), path=str(path), field=field, stamp=sources_of_labels.check_file(path))
    if not file.is_vector:
        if not sources_of_labels.check_raster(path) and file.categories_of(["0"])[0] < 0:
            file = replace(file, ignore=(*file.ignore, "0"))  # a raster without nodata uses 0 for "no label"
        if group not in ("auto", NONE):
            raise LabelError(
                f"The labels {path} are a raster without columns; set label.group to 'none', not '{group}'."
            )
        if config.start and path == config.file:
            raise LabelError(
                f"The labels {path} are a raster without columns; leave label.start and label.end out, or give "
                "polygons or points."
            )
        return file
    file = replace(file, start=config.start, end=config.end, coordinates=config.coordinates)
    if group == "auto":
        polygons, _ = sources_of_labels.vector_columns(path, config.coordinates)
        group = EACH if polygons else NONE
    file = replace(file, group=group)
    sources_of_labels.check_overlap(file, grid)
    return file


def _values(config: Config) -> LabelFile:
    """Say what the values of a label source mean, of one that is yet to be named."""
    kinds = [(value, index) for index, entry in enumerate(config.classes) for value in entry.labels]
    kinds += [(value, len(config.classes)) for value in config.drop] + [(value, NO_LABEL) for value in config.ignore]
    keys = [(label_key(value), kind) for value, kind in kinds if label_range(value) is None]
    ranges = [(*span, kind) for value, kind in kinds if (span := label_range(value))]
    return LabelFile(
        "", tuple(pair for pair in keys if pair[1] != NO_LABEL), tuple(key for key, kind in keys if kind == NO_LABEL),
        ranges=tuple(ranges),
    )  # fmt: skip


def _divide(counts: np.ndarray, config: Config) -> tuple[np.ndarray, dict[str, Any]]:
    """`Part` of every block, uint8 (fold, season, block), and by_year what else the summary says of the folds.

    ``counts`` are labelled pixels (season, block, category).
    """
    in_all = counts.sum(axis=0)
    if config.folds is None:
        return _in_every_season(splits.single_split(in_all, config.shares.parts, config.seed), counts), {}
    validation = config.shares.validation / (config.shares.train + config.shares.validation)
    labelled = int((in_all.sum(axis=1) > 0).sum())
    if isinstance(config.folds, int):
        if labelled < config.folds:
            raise LabelError(
                f"The labels stand in {labelled} ground blocks, fewer than the {config.folds} folds of label.folds; "
                "make label.block smaller or ask for fewer folds."
            )
        return _in_every_season(splits.cross_split(in_all, config.folds, validation, config.seed), counts), {}
    seasons = int((counts.sum(axis=(1, 2)) > 0).sum())
    if seasons < 2 or labelled < 2:
        raise LabelError(
            f"The labels stand in {seasons} seasons and {labelled} ground blocks, but label.folds by_year needs at "
            "least two of each, to test one season and to train and validate on different ground of the others."
        )
    parts, tested = splits.year_split(counts, validation, config.seed)
    return parts, {"fold_seasons": tested}


def _in_every_season(parts: np.ndarray, counts: np.ndarray) -> np.ndarray:
    return np.repeat(parts[:, None], len(counts), axis=1)


def _summary_of(job: Job, config: Config, burnt: Sequence[Burnt]) -> dict[str, Any]:
    """Sum up what was met while burning; refuse unknown values and labels that lie nowhere on valid pixels."""
    noticed, unknown = Counter[str](), Counter[tuple[str, str]]()
    for tile in burnt:
        noticed.update(tile.noticed)
        unknown.update(tile.unknown)
    for file, prefix in ((job.labels, ""), (job.test, "independent_")):
        if file is not None and file.is_vector:
            features = sources_of_labels.read_features(file, job.grid.crs)
            noticed["repaired"] += features.repaired
            noticed["without_value"] += features.without_value
            noticed[f"{prefix}outside"] = sources_of_labels.check_seasons(file, job.grid, job.periods)
    for path in sorted({path for path, _ in unknown}):
        values = {value: count for (where, value), count in unknown.items() if where == path}
        sources_of_labels.refuse_unknown(Path(path), values)
    if not noticed["labelled"] and noticed["conflicts"]:
        raise LabelError(
            f"The labels {config.file} leave nothing to learn from: {noticed['conflicts']} pixels lie under labels of "
            f"several classes, {noticed['on_nodata']} on nodata; correct the labels, or, where places change with the "
            "years, name label.start and label.end and set tile.time.season."
        )
    if not noticed["labelled"]:
        raise LabelError(
            f"The labels {config.file} do not lie on any valid pixel of the scenes"
            f" ({noticed['on_nodata']} pixels lie on nodata); check that both cover the same ground."
        )
    if config.test is not None and not noticed["independent"]:
        raise LabelError(
            f"The independent test labels {config.test} do not lie on any valid pixel of the scenes"
            f" ({noticed['independent_on_nodata']} pixels lie on nodata); correct label.test or leave it out."
        )
    if not config.shares.test and not noticed["independent"] and config.folds is None:
        raise LabelError(
            "label.shares.test is 0, but there is no independent test set to score the map with; give one, or a share."
        )
    counted = ("labelled", "conflicts", "mixed", "on_nodata", "outside", "independent", "independent_conflicts",
               "independent_on_nodata", "independent_outside", "repaired", "without_value")  # fmt: skip
    return {
        "classes": config.names, "crossed": config.folds is not None, "buffer": job.buffer,
        "block_pixels": job.blocks.side, "split_by": config.split, "season_names": season_names(job.tiles),
        **{name: noticed[name] for name in counted},
        "dropped_classes": [str(value) for value in config.drop],
        "group": {EACH: "polygon", NONE: "none"}.get(job.labels.group, job.labels.group),
        **({"division": job.table.division} if job.table else {}),
    }  # fmt: skip


def season_names(tiles: Tiles) -> list[str]:
    """Name every season by its year or years, or by its first date where several have the same."""
    spans = [season.span for season in tiles.each_season()]
    names = [first[:4] if first[:4] == last[:4] else f"{first[:4]}/{last[:4]}" for first, last in spans]
    return names if len(set(names)) == len(names) else [first for first, _ in spans]


def _write_blocks(job: Job, config: Config, parts: np.ndarray, counts: np.ndarray) -> None:
    """Write the table of blocks, with their outlines, for whoever wants to see the split in a GIS."""
    import geopandas as gpd

    row, col = np.divmod(np.arange(job.blocks.count), job.blocks.columns)
    table: dict[str, Any] = {"id": np.arange(job.blocks.count), "row": row, "col": col}
    for fold, seasons in enumerate(parts):
        if config.folds == BY_YEAR:
            names = season_names(job.tiles)
            table |= {f"part_{fold}_{name}": part for name, part in zip(names, seasons, strict=True)}
        else:
            table[f"part_{fold}"] = seasons[0]
    table |= {f"pixels_{name}": counts[:, index] for index, name in enumerate((*config.names, DROPPED))}
    outlines = gpd.GeoDataFrame(table, geometry=job.blocks.outlines(job.grid), crs=job.grid.crs)
    Samples(job.out).write_blocks(outlines)


def _log(summary: dict[str, Any]) -> None:
    for key, text in (
        ("repaired", "%d invalid label geometries were repaired"),
        ("without_value", "%d label features have no class value and were left out"),
        ("conflicts", "%d pixels lie under labels of several classes and were left out"),
        ("on_nodata", "%d labelled pixels lie on nodata of the scenes and were left out"),
        ("outside", "%d dated labels count for no season of the scenes and were left out"),
        ("divided", "%d labelled pixels belong to other ground with the labels of another season and were left out"),
        ("independent_outside", "%d dated independent test labels count for no season of the scenes and were left out"),
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
    if summary["split_by"] == "random":
        _logger.warning("labels are divided at random (label.split): scores will be too good, as neighbours are alike")
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
