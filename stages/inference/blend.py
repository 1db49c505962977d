"""Lay overlapping windows over a grid and blend what they say into rows, exactly and in bounded memory.

Blending is done in whole numbers: a probability is a multiple of 1 / `SCALE`, and along each axis the weights of the
windows over a pixel are multiples of 1 / `UNITS` that sum to exactly 1. Sums of whole numbers do not depend on their
order, so no number of workers, and no order of windows, can change a bit of the map.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np

#: Weight of a pixel that one window alone covers, along one axis.
UNITS = 64
#: Fixed-point probability 1. SCALE * UNITS * UNITS stays below 2**32, so that uint32 cannot overflow.
SCALE = 2**20 - 1


def starts(length: int, side: int, overlap: int, stride: int) -> tuple[int, ...]:
    """First pixels of windows of ``side`` that cover ``length`` and overlap by at least ``overlap``.

    All starts are multiples of ``stride``, so that a network's pooling grid falls alike in every window. Only the
    last window may reach beyond the end, by less than a stride.
    """
    covered = _round_up(length, stride)
    if covered <= side:
        return (0,)
    step = max((side - overlap) // stride * stride, stride)
    return (*range(0, covered - side, step), covered - side)


def weights(begins: tuple[int, ...], side: int, overlap: int, length: int) -> list[np.ndarray]:
    """Weights of every window along one axis, uint32 (side,): over any pixel they sum to exactly `UNITS`.

    A window's say rises linearly over ``overlap`` pixels from its cut edges.
    """
    distance = np.minimum(np.arange(side), np.arange(side)[::-1]) + 0.5
    ramp = np.minimum(distance / max(overlap, 1), 1.0)
    total = np.zeros(max(length, begins[-1] + side))
    for begin in begins:
        total[begin : begin + side] += ramp
    below = np.zeros_like(total)
    found = []
    for begin in begins:
        here = slice(begin, begin + side)
        lower = np.rint(UNITS * below[here] / total[here])
        below[here] += ramp
        # Rounding the running share, not each share, keeps the sum exact: the last one is total / total.
        found.append((np.rint(UNITS * below[here] / total[here]) - lower).astype(np.uint32))
    return found


@dataclass(frozen=True)
class Band:
    """Consecutive rows of windows that one task owns, and the pixel rows that are finished by them."""

    first: int
    last: int
    top: int
    bottom: int


@dataclass(frozen=True)
class Layout:
    """Windows over a grid of ``height`` x ``width`` pixels, in rows and columns of windows.

    ``halo`` is what is read around a window (pixels); what is predicted there is thrown away.
    """

    height: int
    width: int
    side: int
    overlap: int
    stride: int
    halo: int

    @property
    def rows_high(self) -> int:
        """Height of a window: the side, or less on a grid that is lower."""
        return min(_round_up(self.side, self.stride), _round_up(self.height, self.stride))

    @property
    def cols_wide(self) -> int:
        """Width of a window: the side, or less on a grid that is narrower."""
        return min(_round_up(self.side, self.stride), _round_up(self.width, self.stride))

    @cached_property
    def rows(self) -> tuple[int, ...]:
        """First pixel row of every row of windows."""
        return starts(self.height, self.rows_high, self.overlap, self.stride)

    @cached_property
    def cols(self) -> tuple[int, ...]:
        """First pixel column of every column of windows."""
        return starts(self.width, self.cols_wide, self.overlap, self.stride)

    @cached_property
    def row_weights(self) -> list[np.ndarray]:
        """Weights down every row of windows."""
        return weights(self.rows, self.rows_high, self.overlap, self.height)

    @cached_property
    def col_weights(self) -> list[np.ndarray]:
        """Weights along every column of windows."""
        return weights(self.cols, self.cols_wide, self.overlap, self.width)

    def bands(self, rows: int) -> list[Band]:
        """Divide the rows of windows into bands of ``rows``; their pixel rows partition the grid."""
        firsts = range(0, len(self.rows), rows)
        lasts = [*firsts[1:], len(self.rows)]
        edges = [*(self.rows[first] for first in firsts), self.height]
        return [Band(*band) for band in zip(firsts, lasts, edges[:-1], edges[1:], strict=True)]

    def touching(self, band: Band) -> range:
        """Rows of windows that reach into a band: its own, and those before it that overlap its top."""
        first = next(i for i, row in enumerate(self.rows) if row + self.rows_high > band.top)
        return range(min(first, band.first), band.last)

    def final(self, row: int) -> int:
        """Pixel row from which on the windows after row ``row`` still have a say."""
        return self.rows[row + 1] if row + 1 < len(self.rows) else self.height


class Accumulator:
    """Weighted sums of the windows over the rows that are not finished: never more rows than a window has."""

    def __init__(self, classes: int, layout: Layout, band: Band) -> None:
        self.layout = layout
        self.top = band.top
        self.bottom = band.bottom
        self.sums = np.zeros((classes, layout.rows_high, layout.width), np.uint32)
        self.seen = np.zeros((layout.rows_high, layout.width), bool)

    def add(self, row: int, col: int, probabilities: np.ndarray, valid: np.ndarray) -> None:
        """Add what window (row, col) says: probabilities float32 (K, h, w) and valid bool (h, w)."""
        begin, left = self.layout.rows[row], self.layout.cols[col]
        skipped = max(self.top - begin, 0)
        high = min(begin + valid.shape[0], self.bottom) - begin
        wide = min(valid.shape[1], self.layout.width - left)
        if high <= skipped:
            return
        part = slice(skipped, high), slice(0, wide)
        share = np.outer(self.layout.row_weights[row], self.layout.col_weights[col])[part]
        here = slice(begin + skipped - self.top, begin + high - self.top), slice(left, left + wide)
        for sums, plane in zip(self.sums, probabilities, strict=True):
            sums[here] += np.rint(plane[part] * np.float32(SCALE)).astype(np.uint32) * share
        self.seen[here] |= valid[part]

    def finish(self, until: int) -> tuple[np.ndarray, np.ndarray]:
        """Take out the rows above ``until``: sums uint32 (K, rows, width) and seen bool (rows, width)."""
        count = max(min(until, self.bottom) - self.top, 0)
        sums, seen = self.sums[:, :count].copy(), self.seen[:count].copy()
        if count:
            for held in (*self.sums, self.seen):
                held[: len(held) - count] = held[count:]
                held[len(held) - count :] = 0
        self.top += count
        return sums, seen


def probabilities_of(sums: np.ndarray) -> np.ndarray:
    """Scale the sums of an accumulator back to probabilities: float64, the same shape."""
    scaled: np.ndarray = sums / float(SCALE * UNITS * UNITS)
    return scaled


def top_class(sums: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Index of the largest of (K, ...), the lowest on a tie, as uint8, and its value."""
    best, index = sums[0].copy(), np.zeros(sums.shape[1:], np.uint8)
    for k in range(1, len(sums)):
        index[sums[k] > best] = k
        np.maximum(best, sums[k], out=best)
    return index, best


def _round_up(length: int, stride: int) -> int:
    return -(-length // stride) * stride
