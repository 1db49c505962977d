"""Lay overlapping windows over a grid and blend what they say, exactly and in bounded memory.

Blending is done in whole numbers: a probability is a multiple of 1 / `SCALE`, and along each axis the weights of the
windows over a pixel are multiples of 1 / `UNITS` that sum to exactly 1. Sums of whole numbers do not depend on their
order, so no number of workers, and no order of windows, can change a bit of the map.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Literal

import numpy as np

from stages.geo.grid import Window

#: Weight of a pixel that one window alone covers, along one axis.
UNITS = 64
#: Fixed-point probability 1. SCALE * UNITS * UNITS stays below 2**32, so that uint32 cannot overflow.
SCALE = 2**20 - 1

Shape = Literal["spline", "gaussian"]


def starts(length: int, side: int, overlap: int, stride: int) -> tuple[int, ...]:
    """First pixels of windows of ``side`` that cover ``length`` and overlap by at least ``overlap``.

    All starts are multiples of ``stride``, so that a network's pooling grid falls alike in every window. The last
    window may reach beyond the end, where it is cut.
    """
    step = max((side - overlap) // stride * stride, stride)
    # Not begun where all that is left is what the window before sees, too.
    return tuple(range(0, max(length - (side - step), 1), step))


def weights(begins: tuple[int, ...], side: int, overlap: int, length: int, shape: Shape = "spline") -> list[np.ndarray]:
    """Weights of every window along one axis, uint32 (side,): over any pixel they sum to exactly `UNITS`.

    A window's say rises over ``overlap`` pixels from its cut edges: by the cubic spline 3 t**2 - 2 t**3, or as a
    Gaussian whose deviation is a third of the overlap. It is nowhere 0, so that the outermost pixels have a weight.
    """
    distance = np.minimum(np.arange(side), np.arange(side)[::-1]) + 0.5
    t = np.minimum(distance / max(overlap, 1), 1.0)
    ramp = t * t * (3.0 - 2.0 * t) if shape == "spline" else np.exp(-4.5 * (1.0 - t) ** 2)
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
class Block:
    """Neighbouring rows and columns of windows that one task owns, and the pixels that are finished by them."""

    rows: range
    cols: range
    window: Window


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
    shape: Shape = "spline"

    @property
    def rows_high(self) -> int:
        """Height of a window: the side, or less on a grid that is lower."""
        return self._long(self.height)

    @property
    def cols_wide(self) -> int:
        """Width of a window: the side, or less on a grid that is narrower."""
        return self._long(self.width)

    def _long(self, length: int) -> int:
        side = self.side // self.stride * self.stride if self.overlap == 0 else _round_up(self.side, self.stride)
        return min(max(side, self.stride), _round_up(length, self.stride))

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
        return weights(self.rows, self.rows_high, self.overlap, self.height, self.shape)

    @cached_property
    def col_weights(self) -> list[np.ndarray]:
        """Weights along every column of windows."""
        return weights(self.cols, self.cols_wide, self.overlap, self.width, self.shape)

    def blocks(self, rows: int, cols: int) -> list[Block]:
        """Divide the windows into blocks of ``rows`` x ``cols``, row by row; their pixels partition the grid."""
        return [
            Block(down, across, Window(top, left, bottom - top, right - left))
            for down, top, bottom in _parts(self.rows, rows, self.height)
            for across, left, right in _parts(self.cols, cols, self.width)
        ]

    def touching(self, block: Block) -> tuple[range, range]:
        """Rows and columns of windows that reach into a block: its own, and those before it that overlap it."""
        top, left = block.window.row, block.window.col
        first_row = next(i for i, row in enumerate(self.rows) if row + self.rows_high > top)
        first_col = next(i for i, col in enumerate(self.cols) if col + self.cols_wide > left)
        return (
            range(min(first_row, block.rows.start), block.rows.stop),
            range(min(first_col, block.cols.start), block.cols.stop),
        )

    def final(self, row: int, col: int) -> tuple[int, int]:
        """Pixel row and column before which no window after (row, col) has a say."""
        down, across = row + 1, col + 1
        return (
            self.rows[down] if down < len(self.rows) else self.height,
            self.cols[across] if across < len(self.cols) else self.width,
        )


class Blender:
    """Weighted sums of the windows over one block: only those of pixels that a later window still has a say in.

    That is the overlap beside the last window and, as wide as the block, below the row of windows.
    """

    def __init__(self, classes: int, layout: Layout, block: Block) -> None:
        self._layout = layout
        self._area = block.window
        _, cols = layout.touching(block)
        self._first, self._last = cols.start, cols.stop - 1
        #: Rows of windows above which reach into the present one.
        self._high = 0
        self._beside: np.ndarray | None = None
        most = max((row + layout.rows_high - after for row, after in zip(layout.rows, layout.rows[1:], strict=False)),
                   default=0)  # fmt: skip
        shape = classes, max(most, 0), self._area.width
        self._above, self._below = np.zeros(shape, np.uint32), np.zeros(shape, np.uint32)

    def add(self, row: int, col: int, likely: np.ndarray | None) -> tuple[Window, np.ndarray] | None:
        """Add what a window says, the windows of a block row by row, and take out the pixels that are finished.

        Args:
            row: of windows.
            col: of windows.
            likely: probabilities float32 (class, y, x), 0 where invalid; None where the window says nothing.

        Returns:
            Where the finished pixels lie on the grid, and their probabilities float32 (class, y, x), 0 where no window
            says anything; None where nothing is to be said of any.
        """
        layout, area = self._layout, self._area
        begin, left = layout.rows[row], layout.cols[col]
        y0, y1 = max(begin, area.row), min(begin + layout.rows_high, area.row + area.height)
        x0, x1 = max(left, area.col), min(left + layout.cols_wide, area.col + area.width)
        down, across = layout.final(row, col)
        y2, x2 = min(max(down, y0), y1), min(max(across, x0), x1)
        if layout.overlap == 0:
            part = slice(y0 - begin, y1 - begin), slice(x0 - left, x1 - left)
            return None if likely is None else (Window(y0, x0, y1 - y0, x1 - x0), likely[:, *part])
        high, wide = y2 - y0, x2 - x0
        places = slice(x0 - area.col, x2 - area.col)
        above = self._above[:, : self._high, places]
        sums = None
        if likely is not None or self._beside is not None or above.any():
            sums = self._weighted(row, col, likely, Window(y0, x0, y1 - y0, x1 - x0))
            sums[:, : self._high, :wide] += above
            if self._beside is not None:
                sums[:, :high, : self._beside.shape[2]] += self._beside
            self._below[:, : y1 - y2, x0 - area.col : x1 - area.col] += sums[:, high:]
        self._beside = sums[:, :high, wide:].copy() if sums is not None and x2 < x1 and high else None
        if col == self._last:
            self._next_row(y1 - y2)
        if sums is None or not high or not wide:
            return None
        scale = np.float32(1.0 / (SCALE * UNITS * UNITS))
        return Window(y0, x0, high, wide), sums[:, :high, :wide].astype(np.float32) * scale

    def _weighted(self, row: int, col: int, likely: np.ndarray | None, part: Window) -> np.ndarray:
        """Weighted whole numbers of a window's part in the block: uint32 (class, y, x)."""
        layout = self._layout
        shape = len(self._above), part.height, part.width
        if likely is None:
            return np.zeros(shape, np.uint32)
        y, x = part.row - layout.rows[row], part.col - layout.cols[col]
        inside = slice(y, y + part.height), slice(x, x + part.width)
        share = np.outer(layout.row_weights[row][inside[0]], layout.col_weights[col][inside[1]])
        sums = np.empty(shape, np.uint32)
        for k, plane in enumerate(likely):
            scaled = plane[inside] * np.float32(SCALE)
            np.rint(scaled, out=scaled)
            np.copyto(sums[k], scaled, casting="unsafe")
            sums[k] *= share
        return sums

    def _next_row(self, high: int) -> None:
        self._above, self._below = self._below, self._above
        self._below[...] = 0
        self._high = high
        self._beside = None


def _parts(begins: tuple[int, ...], count: int, length: int) -> list[tuple[range, int, int]]:
    """Divide windows along one axis into runs of ``count``: the run, its first pixel and the first after it."""
    firsts = range(0, len(begins), count)
    ends = [*(begins[first] for first in firsts[1:]), length]
    return [
        (range(first, min(first + count, len(begins))), begins[first], end)
        for first, end in zip(firsts, ends, strict=True)
    ]


def _round_up(length: int, stride: int) -> int:
    return -(-length // stride) * stride
