"""Labels, groups and blocks of an area that is a table of series, laid out on its made-up grid."""

from __future__ import annotations

import logging
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from stages.errors import LabelError
from stages.formats.samples import DROPPED, UNLABELLED
from stages.formats.series import TEST, read_table
from stages.formats.tiles import Tiles
from stages.geo.grid import Grid, Window
from stages.geo.labels import NO_LABEL, UNKNOWN, LabelFile, refuse_unknown

log = logging.getLogger(__name__)

#: Radius of the sphere on which samples are placed and told apart, in metres.
EARTH = 6_371_000.0
#: Random blocks at most: enough to share out any class evenly.
RANDOM_BLOCKS = 2048
#: How samples may be divided, as summaries and reports call it.
BY_GROUND, BY_GROUP, AT_RANDOM = "by ground block", "by group", "at random"


@dataclass(frozen=True)
class TableBlocks:
    """Blocks of samples in the place of ground blocks: the block of every pixel, and where each block lies.

    ``block`` int32 (y, x) is -1 beyond the last sample; ``bounds`` float64 (block, 4) are left, bottom, right and top
    in degrees, NaN for blocks that lie nowhere; ``side`` is 1 (a block is no square of pixels).
    """

    block: np.ndarray
    bounds: np.ndarray
    side: int = 1

    @property
    def count(self) -> int:
        """Number of blocks."""
        return len(self.bounds)

    @property
    def columns(self) -> int:
        """Number of blocks in a row: all of them."""
        return self.count

    def ids(self, window: Window) -> np.ndarray:
        """Block of every pixel of a window: int32 (y, x)."""
        found: np.ndarray = self.block[window.slices].copy()
        return found

    def outlines(self, grid: Grid) -> Any:
        """Outline of every block in the grid's CRS, empty where it lies nowhere: shapely (block,)."""
        import shapely
        from pyproj import Transformer

        # The made-up grid is cylindrical: what is a box in degrees is a box on it.
        project = Transformer.from_crs("EPSG:4326", grid.crs, always_xy=True).transform
        left, bottom, right, top = self.bounds.T
        outlines = np.full(self.count, shapely.Polygon(), dtype=object)
        there = np.isfinite(self.bounds).all(axis=1)
        low, high = project(left[there], bottom[there]), project(right[there], top[there])
        outlines[there] = shapely.box(*low, *high)
        return outlines


class TableSource:
    """Labels of a table on a window, in the place of a burnt label file."""

    def __init__(self, target: np.ndarray, group: np.ndarray) -> None:
        self.target, self.group = target, group
        self.noticed: Counter[str] = Counter()
        self.unknown: Counter[tuple[str, str]] = Counter()

    def targets(self, season: int, valid: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:  # noqa: ARG002
        """Give target, share of its class in the pixel (all of it) and group of every pixel of the one season."""
        target = np.where(valid, self.target, np.uint8(UNLABELLED))
        return target, np.ones(target.shape), np.where(target != UNLABELLED, self.group, np.int32(-1))


@dataclass(frozen=True)
class TableLabels:
    """What a table of series tells `label`, on its made-up grid, all (y, x).

    ``target`` and ``independent`` are uint8 as in `Samples`, ``group`` is int32, -1 where a sample stands for itself.
    ``division`` says how the blocks came about. ``places`` float64 (y, x, 3) are the samples on the globe in metres
    from its centre, NaN where unknown; None where the samples are not divided by ground block. ``buffer`` is the
    distance in metres around held-out samples in which others do not train.
    """

    target: np.ndarray
    independent: np.ndarray
    group: np.ndarray
    blocks: TableBlocks
    division: str
    places: np.ndarray | None
    buffer: float

    def labels(self, window: Window) -> TableSource:
        """Cut out the labels to train, validate and test with."""
        return TableSource(self.target[window.slices], self.group[window.slices])

    def test(self, window: Window) -> TableSource | None:
        """Cut out the labels of the independent test samples, None where the table has none at all."""
        if (self.independent == UNLABELLED).all():
            return None
        return TableSource(self.independent[window.slices], np.full_like(self.group[window.slices], -1))

    def near(self, held: np.ndarray) -> np.ndarray:
        """Find samples within the buffer of a held one: bool (y, x), as ``held``; held ones are near themselves.

        Nothing is near without coordinates or where the split is random.
        """
        found = np.zeros(held.shape, dtype=bool)
        if self.places is None or self.buffer <= 0:
            return found
        from scipy.spatial import cKDTree

        placed = np.isfinite(self.places).all(axis=2)
        if (held & placed).any():
            # Through the globe, not around it; at the size of a buffer both are the same.
            distance, _ = cKDTree(self.places[held & placed]).query(self.places[placed])
            found[placed] = distance < self.buffer
        return found


def read_labels(
    tiles: Tiles, values: LabelFile, classes: int, *, block: float, split: str, seed: int, buffer: float
) -> TableLabels:
    """Read the labels of tiles that are a table, and make the blocks by which its samples are divided.

    Args:
        tiles: the laid out table.
        values: says what label values mean.
        classes: their number; as a category, that of dropped values.
        block: side of a ground block in metres.
        split: "blocks" or "random".
        seed: of a random division.
        buffer: metres around held-out samples in which others do not train; without coordinates there is none.

    Raises:
        LabelError: a label is unknown, or nothing tells how to divide the samples and random was not asked for.
    """
    table = read_table(tiles)
    target = targets_of(table, values, classes)
    number, bounds, division = divide(table, block, split, seed)
    place = table["row"].to_numpy(), table["col"].to_numpy()
    test = (table["part"] == TEST).to_numpy()
    group = np.full(len(table), -1, np.int32) if division == BY_GROUP else _groups(table)
    shape = tiles.grid.shape
    places = None
    if division == BY_GROUND:
        places = np.full((*shape, 3), np.nan)
        places[place] = on_globe(table["longitude"].to_numpy(), table["latitude"].to_numpy())
    return TableLabels(
        target=_scattered(np.where(test, UNLABELLED, target), place, shape, np.uint8(UNLABELLED)),
        independent=_scattered(np.where(test, target, UNLABELLED), place, shape, np.uint8(UNLABELLED)),
        group=_scattered(np.where(test | (target == UNLABELLED), -1, group), place, shape, np.int32(-1)),
        blocks=TableBlocks(_scattered(number, place, shape, np.int32(-1)), bounds),
        division=division,
        places=places,
        buffer=buffer,
    )


def targets_of(table: Any, values: LabelFile, classes: int) -> np.ndarray:
    """Find the target of every sample: int64 (sample,), `DROPPED` or `UNLABELLED` where it has no class.

    Raises:
        LabelError: labels that no class names.
    """
    labels, place = np.unique(table["label"].to_numpy().astype(str), return_inverse=True)
    category = values.categories_of(labels.tolist())[place.ravel()]
    unknown = category == UNKNOWN
    if unknown.any():
        files = table["file"].to_numpy()
        first = files[unknown][0]
        refuse_unknown(Path(first), Counter(table["label"].to_numpy()[unknown & (files == first)].tolist()))
    return np.select([category == NO_LABEL, category == classes], [UNLABELLED, DROPPED], category)


def _scattered(values: np.ndarray, place: tuple[np.ndarray, np.ndarray], shape: tuple[int, int], fill: Any) -> Any:
    found = np.full(shape, fill)
    found[place] = values
    return found


def _groups(table: Any) -> np.ndarray:
    """Give every group a number: int32 (sample,), -1 for a sample without one."""
    import pandas as pd

    numbers, _ = pd.factorize(table["group"].mask(table["group"] == ""), sort=True)
    return np.asarray(numbers, dtype=np.int32)


def divide(table: Any, block: float, split: str, seed: int) -> tuple[np.ndarray, np.ndarray, str]:
    """Give every sample its block: int32 (sample,), the bounds of the blocks (block, 4) in degrees, and by what.

    Ground blocks of ``block`` metres where all samples that may train have coordinates, the group column otherwise
    (a sample without a group is a block of its own). At random, only where ``split`` says so, copies of a series and
    the samples of a group stay together. Test samples without coordinates or group get random blocks after the
    others, for the spread of scores.

    Raises:
        LabelError: there are neither coordinates nor groups, and random was not asked for.
    """
    training = (table["part"] != TEST).to_numpy()
    placed = np.isfinite(table[["longitude", "latitude"]].to_numpy(np.float64)).all(axis=1)
    grouped = (table["group"] != "").to_numpy()
    if split == "random":
        return _joined(_at_random(_kin(table["series"].to_numpy(), _groups(table)), seed), None, AT_RANDOM)
    if placed[training].all():
        number, bounds = ground_blocks(table["longitude"].to_numpy(), table["latitude"].to_numpy(), block, placed)
        division = BY_GROUND
    elif grouped[training].any():
        number, bounds, division = _by_group(table, grouped | training), None, BY_GROUP
        log.info("the samples have no coordinates: they are divided by group, without label.buffer between them")
    else:
        raise LabelError(
            f"The samples of {table['file'].iloc[0]} have neither coordinates nor groups to be divided "
            "by; name ingest.table.longitude and latitude or ingest.table.group, or set label.split to random, which "
            "the report then says."
        )
    rest = number < 0
    if rest.any():
        number = number.copy()
        number[rest] = number.max() + 1 + _at_random(table["series"].to_numpy()[rest], seed)
    return _joined(number, bounds, division)


def _joined(number: np.ndarray, bounds: np.ndarray | None, division: str) -> tuple[np.ndarray, np.ndarray, str]:
    """Bounds for all blocks, NaN for those that lie nowhere."""
    every = np.full((int(number.max()) + 1, 4), np.nan)
    if bounds is not None:
        every[: len(bounds)] = bounds
    return number.astype(np.int32), every, division


def ground_blocks(
    longitude: np.ndarray, latitude: np.ndarray, side: float, placed: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Cut the ground into square blocks of ``side`` metres: int64 (sample,), -1 where not ``placed``, and bounds.

    Rows of blocks run around the globe; in each, blocks are as many degrees wide as ``side`` is at its middle.
    Bounds are left, bottom, right and top in degrees: float64 (block, 4).
    """
    degrees = 360.0 / (2 * np.pi * EARTH)
    high = side * degrees
    row = np.floor(latitude[placed] / high)
    # A row that holds a pole is one block.
    middle = np.clip((row + 0.5) * high, -90, 90)
    wide = np.minimum(high / np.maximum(np.cos(np.radians(middle)), 1e-9), 360.0)
    col = np.floor(((longitude[placed] + 180.0) % 360.0) / wide)
    _, first, place = np.unique(np.stack([row, col], axis=1), axis=0, return_index=True, return_inverse=True)
    left, bottom = col[first] * wide[first] - 180.0, row[first] * high
    bounds = np.stack([
        left, np.maximum(bottom, -90.0), np.minimum(left + wide[first], 180.0), np.minimum(bottom + high, 90.0)
    ], axis=1)  # fmt: skip
    number = np.full(len(longitude), -1, dtype=np.int64)
    number[placed] = place.ravel()
    return number, bounds


def _by_group(table: Any, known: np.ndarray) -> np.ndarray:
    """Make every group a block: int64 (sample,); who has none is a block alone, -1 if not ``known``."""
    import pandas as pd

    alone = pd.Series([f"\0{number}" for number in range(len(table))], index=table.index)
    names = table["group"].where(table["group"] != "", alone)
    numbers, _ = pd.factorize(names.where(known, None), sort=True)
    return np.asarray(numbers, dtype=np.int64)


def _kin(series: np.ndarray, group: np.ndarray) -> np.ndarray:
    """Give samples of one series or one group, and so on from these, one number: int64 (sample,)."""
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import connected_components

    grouped = group >= 0
    first = int(series.max()) + 1
    nodes = first + int(group.max()) + 1
    edges = np.ones(int(grouped.sum())), (series[grouped], first + group[grouped])
    _, number = connected_components(coo_array(edges, shape=(nodes, nodes)), directed=False)
    return np.asarray(number[series], dtype=np.int64)


def _at_random(number: np.ndarray, seed: int) -> np.ndarray:
    """Deal distinct numbers to random blocks, as many to each: int64 (sample,), the same for the same number."""
    distinct, place = np.unique(number, return_inverse=True)
    block = np.random.default_rng(seed).permutation(len(distinct)) % min(len(distinct), RANDOM_BLOCKS)
    return np.asarray(block[place.ravel()], dtype=np.int64)


def on_globe(longitude: np.ndarray, latitude: np.ndarray) -> np.ndarray:
    """Place degrees on a sphere, in metres from its centre: float64 (sample, 3)."""
    lon, lat = np.radians(longitude), np.radians(latitude)
    return EARTH * np.stack([np.cos(lat) * np.cos(lon), np.cos(lat) * np.sin(lon), np.sin(lat)], axis=1)
