"""Give every label its role in every fold and season, and measure the pixels that train."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from stages.formats.samples import DROPPED, Part, Role, Samples
from stages.formats.tiles import Tiles
from stages.geo.blocks import smallest_sides
from stages.geo.grid import Window
from stages.training import splits, statistics
from stages.training.burnt import Job
from stages.training.chip_samples import ChipLabels
from stages.training.statistics import Moments
from stages.training.table_samples import TableLabels


@dataclass(frozen=True)
class Measured:
    """Roles and training statistics of a window in one season.

    ``roles`` counts pixels (fold + 1, role, class + 1). A row of ``by_block`` is the ground block in ``block``, with
    its ``pixels``; a row of ``by_class`` are the training labels of a class in a fold, (fold + 1) * class. ``values``
    (pixel, channel) are kept, NaN where invalid, with their ``value_block``. Blocks are counted on from season to
    season, so that a number says both.
    """

    roles: np.ndarray
    block: np.ndarray
    pixels: np.ndarray
    by_block: Moments
    by_class: Moments
    values: np.ndarray
    value_block: np.ndarray


def measure_window(job: Job, window: Window) -> list[Measured]:
    """Write the role of every label of a window in every fold and season; measure its pixels, season by season."""
    samples = Samples(job.out)
    outer = window.padded(splits.halo(job.grid, job.buffer), job.grid)
    inner, sides = window.within(outer), smallest_sides(job.grid, outer)
    apart, block = samples.apart(outer), samples.read("block", outer)
    near: dict[bytes, np.ndarray] = {}  # most folds hold the same ground out in every season
    measured = []
    for one, tiles in zip(samples.each_season(), job.tiles.each_season(), strict=True):
        target, mixed = one.read("target", window), one.read("final", window) == Role.MIXED
        roles = []
        for fold in (*range(samples.folds), None):
            parts = splits.parts_of(one, fold)
            key = b"" if parts is None else parts.tobytes()
            if key not in near:
                if isinstance(job.table, ChipLabels):
                    near[key] = job.table.near_window(parts, window)
                elif job.table is not None:
                    near[key] = _near_in_table(job.table, one, parts)[window.slices]
                else:
                    near[key] = splits.near(splits.held_out(apart, block, parts), sides, job.buffer)[inner]
            part = np.full(target.shape, Part.TRAIN) if parts is None else parts[block[inner]]
            role = splits.assign_roles(target, mixed, part, near[key])
            roles.append(np.where(apart[inner], np.uint8(Role.INDEPENDENT), role))
        Samples.write(job.out, window, one.season, role=np.stack(roles[:-1]), final=roles[-1])
        measured.append(_measure(job, one, tiles, window, np.stack(roles)))
    return measured


def _near_in_table(table: TableLabels, samples: Samples, parts: np.ndarray | None) -> np.ndarray:
    """Find the samples of a table that are too near to a held-out one: bool (y, x) of the whole made-up grid."""
    whole = Window(0, 0, *table.target.shape)
    return table.near(splits.held_out(samples.apart(whole), samples.read("block", whole), parts))


def _measure(job: Job, samples: Samples, tiles: Tiles, window: Window, roles: np.ndarray) -> Measured:
    image, valid = tiles.read_channels(window)
    target = samples.read("target", window)
    seen = valid.any(axis=0) & samples.training_mask(None, window)
    block, row = np.unique(samples.read("block", window)[seen], return_inverse=True)
    row = row.ravel()
    by_block = _by_row(image, valid, seen, row, len(block))
    rows, cols = np.nonzero(seen)
    share = statistics.kept_share(job.grid.height * job.grid.width * samples.seasons, len(image))
    some = statistics.kept(rows + window.row, cols + window.col, share)
    values = image[:, rows[some], cols[some]].T
    if not valid.all():
        known = np.repeat(valid[:, rows[some], cols[some]], len(tiles.bands), axis=0).T
        values = np.where(known, values, np.float32(np.nan))
    counted = np.where(target == DROPPED, job.classes, np.minimum(target, job.classes + 1))
    kinds = job.classes + 2
    table = [np.bincount(role.ravel() * kinds + counted.ravel(), minlength=7 * kinds) for role in roles]
    first = samples.season * job.blocks.count
    return Measured(
        np.reshape(table, (len(roles), 7, kinds))[..., :-1], first + block, np.bincount(row, minlength=len(block)),
        by_block, _by_class(image, valid, target, roles == Role.TRAIN, job.classes), values, first + block[row[some]],
    )  # fmt: skip


def _by_row(image: np.ndarray, valid: np.ndarray, seen: np.ndarray, row: np.ndarray, rows: int) -> Moments:
    """Moments of the seen pixels (in order) by their row, step by step over those valid at each."""
    bands, found = len(image) // len(valid), []
    for step, known in enumerate(valid):
        values = image[step * bands : (step + 1) * bands, seen & known].T
        found.append(statistics.moments(values, row[known[seen]], rows))
    return statistics.side_by_side(found)


def _by_class(image: np.ndarray, valid: np.ndarray, target: np.ndarray, training: np.ndarray, classes: int) -> Moments:
    """Moments of the training labels' pixels of every class in every fold: row fold * classes + class.

    ``training`` bool (fold, y, x). Pixels that train in the same folds are measured together, once.
    """
    some = np.asarray(training.any(axis=0))
    bit = np.int64(1) << np.arange(len(training), dtype=np.int64)
    trains_in = (bit[:, None] * training[:, some]).sum(axis=0)  # the folds of each pixel as one number
    kinds, row = np.unique(trains_in * classes + target[some], return_inverse=True)
    measured = _by_row(image, valid, some, row.ravel(), len(kinds))
    fold, kind = np.nonzero((kinds // classes) & bit[:, None])
    return statistics.pool_by(measured.rows(kind), fold * classes + kinds[kind] % classes, len(training) * classes)


def statistics_of(job: Job, measured: Sequence[Measured], parts: np.ndarray) -> list[dict[str, Any]]:
    """Statistics of every fold's training pixels and, last, of the final model's, of all seasons together.

    ``parts`` is `Part` (fold, season, block).
    """
    flat = parts.reshape(len(parts), -1)
    everywhere = np.full((1, flat.shape[1]), Part.TRAIN, dtype=parts.dtype)
    values = np.concatenate([tile.values for tile in measured])
    value_block = np.concatenate([tile.value_block for tile in measured])
    block = np.concatenate([tile.block for tile in measured])
    pixels = np.concatenate([tile.pixels for tile in measured])
    by_block = statistics.one_upon_another([tile.by_block for tile in measured])
    class_pixels = np.sum([tile.roles[:, Role.TRAIN, :-1] for tile in measured], axis=0)
    rows = class_pixels.size
    number = np.tile(np.arange(rows), len(measured))
    by_class = statistics.pool_by(
        statistics.one_upon_another([tile.by_class for tile in measured]), number, rows
    )  # fmt: skip
    entries = []
    for fold, part in enumerate(np.concatenate([flat, everywhere])):
        training = part == Part.TRAIN
        inputs = statistics.pool(by_block.rows(training[block]))
        classes = by_class.rows(fold * job.classes + np.arange(job.classes))
        entries.append({
            "pixels": int(pixels[training[block]].sum()),
            **statistics.entry(
                job.tiles.channels, inputs, values[training[value_block]], class_pixels[fold], classes
            ),
        })  # fmt: skip
    return entries
