"""Make the series of a window: read its dates, reduce them to steps, fill gaps, add indices and static layers."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from stages.geo.composite import reduce
from stages.geo.gaps import Filler, fill
from stages.geo.grid import Window
from stages.geo.indices import compute
from stages.geo.mosaic import is_clear, merge_pieces, read_date
from stages.geo.plan import Plan, span, strips
from stages.geo.tally import Tally
from stages.geo.warp import Patch


def count_clear(plan: Plan, group: Sequence[tuple[int, int, Window]]) -> np.ndarray:
    """Count the clear pixels of every date on some tiles."""
    counts = np.zeros(len(plan.dates), np.int64)
    for window in strips(plan, span(group)):
        for i, scenes in enumerate(plan.scenes):
            if plan.mask is None:
                clear = read_date(scenes, len(plan.bands), plan.grid, window, None)[1]
            else:
                clear = np.logical_or.reduce([is_clear(scene, plan.grid, window, plan.mask) for scene in scenes])
            counts[i] += int(clear.sum())
    return counts


@dataclass
class Series:
    """A window's series: cube float32 (step, band, y, x), valid bool (step, y, x), and a season how it came about.

    ``clear`` uint16 (season, y, x) observations; ``filled`` uint8 (season, y, x) steps in per cent, None unless
    gaps are filled.
    """

    cube: np.ndarray
    valid: np.ndarray
    clear: np.ndarray
    filled: np.ndarray | None


def make_series(plan: Plan, window: Window, tally: Tally) -> Series:
    """Read the dates of every step on a window, reduce them, fill the gaps, and add indices and static layers.

    Gaps are filled within the whole series, over the borders of seasons. Indices are computed last, from the bands
    as they are stored, so that the two agree: the index of a median is not the median of the index, and a filled or
    smoothed index would contradict its bands.
    """
    steps, bands, shape = plan.steps, len(plan.bands), (window.height, window.width)
    cube = np.zeros((len(steps.names), len(plan.channels), *shape), np.float32)
    valid = np.zeros((len(steps.names), *shape), bool)
    counts = np.zeros((len(steps.names), *shape), np.uint16)
    static = _read_static(plan, window, tally)
    ground = np.asarray(static.valid.all(axis=0)) if plan.static else None
    for step, dates in enumerate(steps.dates):
        if dates:
            # The clearest date first, the earlier of two that are alike.
            order = sorted(dates, key=lambda i: -plan.shares[i]) if plan.shares else dates
            observed = _observe(plan, order, window, ground, tally)
            counts[step] = reduce(observed, len(dates), plan.time.statistic, cube[step, :bands], valid[step])
    clear = counts.reshape(steps.seasons, -1, *shape).sum(axis=1).astype(np.uint16)
    gaps = ~valid
    if plan.time.fill != "none":
        filler = Filler(plan.time.fill, plan.time.smooth, plan.time.window, plan.time.order)
        fill(cube.reshape(*cube.shape[:2], -1)[:, :bands], valid.reshape(len(valid), -1), steps.axis, filler)
    enough = clear >= plan.time.least
    tally.scarce += (~enough).sum(axis=(1, 2))
    valid.reshape(steps.seasons, -1, *shape)[:] &= enough[:, None]
    filled = None
    if plan.time.fill != "none":
        share = (gaps & valid).reshape(steps.seasons, -1, *shape).mean(axis=1)
        filled = np.rint(100 * share).astype(np.uint8)
    for layer in cube:
        compute(plan.indices, layer[:bands], layer[bands : bands + len(plan.indices)])
        layer[bands + len(plan.indices) :] = static.values
    return Series(cube, valid, clear, filled)


def _read_static(plan: Plan, window: Window, tally: Tally) -> Patch:
    """Read the static layers on a window."""
    patch, place = merge_pieces(plan.layers, len(plan.static), plan.grid, window), slice(len(plan.bands), None)
    tally.low[place], tally.high[place] = (
        np.minimum(tally.low[place], patch.low), np.maximum(tally.high[place], patch.high),
    )  # fmt: skip
    return patch


def _observe(
    plan: Plan, dates: Sequence[int], window: Window, ground: np.ndarray | None, tally: Tally
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Read some dates one after the other: values (band, y, x) and valid (y, x)."""
    own = slice(0, len(plan.bands))
    for date in dates:
        patch, valid = read_date(plan.scenes[date], len(plan.bands), plan.grid, window, plan.mask)
        if ground is not None:
            valid &= ground
        tally.low[own], tally.high[own] = np.minimum(tally.low[own], patch.low), np.maximum(tally.high[own], patch.high)
        tally.broken[date, own] += patch.broken
        tally.seen[date] |= valid.any()
        yield patch.values, valid
