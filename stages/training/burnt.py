"""Burn the labels of every season onto windows of the grid, and give each group to one ground block."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from stages.formats.samples import DROPPED, UNLABELLED, Role, Samples
from stages.formats.tiles import Tiles
from stages.geo.blocks import Blocks
from stages.geo.burn import Coverage, burn
from stages.geo.grid import Grid, Window
from stages.geo.labels import LabelFile
from stages.geo.periods import Period
from stages.training.chip_samples import ChipLabels
from stages.training.piles import Piles
from stages.training.table_samples import TableBlocks, TableLabels, TableSource


@dataclass(frozen=True)
class Job:
    """What every task needs to know: addresses and settings, no pixels.

    Category ``classes`` of the label files are dropped values; ``periods`` (season,) are given where labels have
    dates. ``table`` takes the place of label files where the area is a table of series or a collection of chips.
    """

    tiles: Tiles
    out: Path
    blocks: Blocks | Piles | TableBlocks
    labels: LabelFile
    test: LabelFile | None
    classes: int
    purity: float
    buffer: float
    periods: tuple[Period, ...] = ()
    table: TableLabels | ChipLabels | None = None

    @property
    def grid(self) -> Grid:
        """The area's grid."""
        return self.tiles.grid


@dataclass(frozen=True)
class Burnt:
    """What a window's labels came to: pixels by (group, block) of all seasons together, and what was noticed."""

    pairs: np.ndarray
    pixels: np.ndarray
    noticed: Counter[str]
    unknown: Counter[tuple[str, str]]


@dataclass(frozen=True)
class Owners:
    """Block that owns each group, both (group,)."""

    groups: np.ndarray
    owner: np.ndarray

    def of(self, group: np.ndarray) -> np.ndarray:
        """Owner of the group of every pixel, -1 where there is none: int32, shaped as ``group``."""
        found = np.full(group.shape, -1, dtype=np.int32)
        found[group >= 0] = self.owner[np.searchsorted(self.groups, group[group >= 0])]
        return found


@dataclass(frozen=True)
class Owned:
    """Labelled pixels of a window by number, (season, block, category) in one, and how many were left out."""

    numbers: np.ndarray
    pixels: np.ndarray
    divided: int


class _Source:
    """A label file on a window: burnt once for all seasons where its labels have no dates."""

    def __init__(self, job: Job, file: LabelFile, window: Window) -> None:
        self.job, self.file, self.window = job, file, window
        self.burnt: Coverage | None = None
        self.noticed: Counter[str] = Counter()
        self.unknown: Counter[tuple[str, str]] = Counter()

    def targets(self, season: int, valid: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Target, share of its class in the pixel and group of every pixel of a season."""
        coverage = self._coverage(season)
        category, share = coverage.dominant()
        self.noticed["on_nodata"] += int(((category >= 0) & ~valid).sum())
        target = np.where(category == self.job.classes, DROPPED, category)
        target = np.where((category >= 0) & valid, target, UNLABELLED).astype(np.uint8)
        return target, share, np.where(target != UNLABELLED, coverage.group, -1).astype(np.int32)

    def _coverage(self, season: int) -> Coverage:
        dated = self.file.start is not None
        if self.burnt is None or dated:
            self.burnt = burn(self.file, self.job.grid, self.window, self.job.periods[season] if dated else None)
            self.noticed["conflicts"] += int(self.burnt.conflict.sum())
            for value, count in self.burnt.unknown.items():
                self.unknown[self.file.path, value] += count
        return self.burnt


def _sources(job: Job, window: Window) -> tuple[_Source | TableSource, _Source | TableSource | None]:
    """Open the labels and the independent test labels on a window."""
    if job.table is not None:
        return job.table.labels(window), job.table.test(window)
    return _Source(job, job.labels, window), None if job.test is None else _Source(job, job.test, window)


def burn_window(job: Job, window: Window) -> Burnt:
    """Burn the labels of one window and write targets, groups and purity; count pixels by group and block."""
    noticed: Counter[str] = Counter()
    labels, test = _sources(job, window)
    groups, blocks = [], []
    for tiles in job.tiles.each_season():
        valid = tiles.read_valid(window)
        target, share, group = labels.targets(tiles.season, valid)
        independent = np.full(target.shape, UNLABELLED, dtype=np.uint8)
        if test is not None:
            independent = test.targets(tiles.season, valid)[0]
            noticed["independent"] += int((independent != UNLABELLED).sum())
        # Purity waits in `final` until the roles are known.
        impure = np.where((target < DROPPED) & (share < job.purity - 1e-6), Role.MIXED, Role.NONE).astype(np.uint8)
        Samples.write(
            job.out, window, tiles.season, target=target, independent=independent, group=group, final=impure
        )  # fmt: skip
        noticed["mixed"] += int((impure == Role.MIXED).sum())
        noticed["labelled"] += int((target != UNLABELLED).sum())
        groups.append(group[group >= 0])
        blocks.append(job.blocks.ids(window)[group >= 0])
    noticed.update(labels.noticed)
    if test is not None:
        noticed.update({f"independent_{what}": count for what, count in test.noticed.items()})
    pairs, pixels = np.unique(
        np.stack([np.concatenate(groups), np.concatenate(blocks)], axis=1), axis=0, return_counts=True
    )
    return Burnt(pairs, pixels, noticed, labels.unknown + (test.unknown if test else Counter()))


def owners_of(burnt: Sequence[Burnt]) -> Owners:
    """Give every group to the block that holds most of its labelled pixels in all seasons (the first, in a tie)."""
    pairs, place = np.unique(np.concatenate([tile.pairs for tile in burnt]), axis=0, return_inverse=True)
    total = np.bincount(place.ravel(), np.concatenate([tile.pixels for tile in burnt]), minlength=len(pairs))
    order = np.lexsort((pairs[:, 1], -total, pairs[:, 0]))
    groups, first = np.unique(pairs[order, 0], return_index=True)
    return Owners(groups, pairs[order, 1][first])


def own_window(job: Job, owners: Owners, window: Window) -> Owned:
    """Write the block of every pixel of a window, the same in every season; count the labelled pixels.

    A labelled pixel goes to the block that owns its group. Where groups of several seasons lie upon one another and
    belong to different blocks, the pixel goes to the one that most seasons name (the earliest, in a tie), and loses
    its labels of the other seasons, so that neither a group nor the ground of a block is divided.
    """
    target, group = (Samples.read_back(job.out, name, window) for name in ("target", "group"))
    owner = owners.of(group)
    block = elected(owner, job.blocks.ids(window))
    if isinstance(job.blocks, Piles):
        block[(target == UNLABELLED).all(axis=0)] = job.blocks.count - 1
    lost = (owner >= 0) & (owner != block)
    target[lost], group[lost] = UNLABELLED, -1
    for season in range(job.tiles.seasons):
        Samples.write(job.out, window, season, block=block)
    if lost.any():
        final = np.where(lost, np.uint8(Role.NONE), Samples.read_back(job.out, "final", window))
        for season in range(job.tiles.seasons):
            Samples.write(job.out, window, season, target=target[season], group=group[season], final=final[season])
    season_of, y, x = np.nonzero(target != UNLABELLED)
    labels = target[season_of, y, x]
    category = np.where(labels == DROPPED, job.classes, labels)
    # One number a pixel: the sizes of blocks and categories are small.
    number = (season_of * job.blocks.count + block[y, x]) * (job.classes + 1) + category
    numbers, pixels = np.unique(number, return_counts=True)
    return Owned(numbers, pixels, int(lost.sum()))


def elected(owner: np.ndarray, otherwise: np.ndarray) -> np.ndarray:
    """Block that most seasons name as a pixel's (the earliest, in a tie), int32 (y, x).

    ``owner`` (season, y, x) is -1 where a season names none, and where no season does it is ``otherwise`` (y, x).
    """
    votes = np.where(owner >= 0, (owner[:, None] == owner).sum(axis=0), 0)
    first = votes.argmax(axis=0)[None]
    block: np.ndarray = np.where(votes.any(axis=0), np.take_along_axis(owner, first, axis=0)[0], otherwise)
    return block.astype(np.int32)


def counts_of(owned: Sequence[Owned], job: Job) -> np.ndarray:
    """Labelled pixels of all windows: int64 (season, block, category)."""
    shape = job.tiles.seasons, job.blocks.count, job.classes + 1
    counts = np.zeros(int(np.prod(shape)), dtype=np.int64)
    for tile in owned:
        counts[tile.numbers] += tile.pixels
    return counts.reshape(shape)
