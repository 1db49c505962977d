"""Take values from one pixel grid to another: array functions, renormalised by the weight of what is valid.

Positions are in source pixels counted from the upper left corner, so the centre of the first pixel is at 0.5.
Whatever lies outside the array weighs nothing. A result's weight is the share of its kernel that was valid.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

#: A pixel is valid where at least this share of its kernel's weight is.
ENOUGH = 0.5
#: Rounding left over in a sum of weights.
NOISE = 1e-6

#: One-dimensional kernel: positions to the first tap (int) and the weights of every tap (taps, ...).
Kernel = Callable[[np.ndarray], tuple[np.ndarray, np.ndarray]]


def nearest(at: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Take the pixel that holds the position."""
    # A position on an edge, but for rounding, belongs to the pixel after it: neighbouring tiles agree on it.
    return np.floor(at + NOISE).astype(np.int64), np.ones((1, *at.shape))


def bilinear(at: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Take the two nearest pixel centres, by distance."""
    first = np.floor(at - 0.5)
    t = at - 0.5 - first
    return first.astype(np.int64), np.stack([1 - t, t])


def cubic(at: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Take four pixel centres by cubic convolution with a = -0.5 (Keys 1981)."""
    first = np.floor(at - 0.5)
    t = at - 0.5 - first
    weights = [
        ((-0.5 * t + 1.0) * t - 0.5) * t,
        (1.5 * t - 2.5) * t * t + 1.0,
        ((-1.5 * t + 2.0) * t + 0.5) * t,
        (0.5 * t - 0.5) * t * t,
    ]
    return first.astype(np.int64) - 1, np.stack(weights)


KERNELS: dict[str, Kernel] = {"nearest": nearest, "bilinear": bilinear, "cubic": cubic}


def sample(planes: np.ndarray, rows: np.ndarray, cols: np.ndarray, kernel: str) -> np.ndarray:
    """Weigh the pixels around every position: planes (n, h, w), positions (y, x) -> sums (n, y, x)."""
    height, width = planes.shape[1:]
    top, down = KERNELS[kernel](rows)
    left, across = KERNELS[kernel](cols)
    sums = np.zeros((len(planes), *rows.shape))
    for i, row_weight in enumerate(down):
        row = top + i
        row_weight = np.where((row >= 0) & (row < height), row_weight, 0.0)  # noqa: PLW2901
        row = row.clip(0, height - 1)
        for j, col_weight in enumerate(across):
            col = left + j
            weight = row_weight * np.where((col >= 0) & (col < width), col_weight, 0.0)
            sums += weight * planes[:, row, col.clip(0, width - 1)]
    return sums


def boxes(rows: np.ndarray, cols: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Top, bottom, left and right in source pixels of every target pixel, from its corners (y + 1, x + 1).

    A pixel that lies askew becomes the upright box of the same centre, proportions and area.
    """
    corners = (
        (slice(None, -1), slice(None, -1)),
        (slice(None, -1), slice(1, None)),
        (slice(1, None), slice(1, None)),
        (
            slice(1, None),
            slice(None, -1),
        ),
    )
    y, x = np.stack([rows[c] for c in corners]), np.stack([cols[c] for c in corners])
    area = 0.5 * np.abs((x[2] - x[0]) * (y[3] - y[1]) - (x[3] - x[1]) * (y[2] - y[0]))
    height, width = np.ptp(y, axis=0), np.ptp(x, axis=0)
    shrink = 0.5 * np.sqrt(area / np.maximum(height * width, np.finfo(float).tiny))
    middle_y, middle_x = (y.max(axis=0) + y.min(axis=0)) / 2, (x.max(axis=0) + x.min(axis=0)) / 2
    half_y, half_x = height * shrink, width * shrink
    return middle_y - half_y, middle_y + half_y, middle_x - half_x, middle_x + half_x


def average(planes: np.ndarray, rows: np.ndarray, cols: np.ndarray) -> np.ndarray:
    """Average over every target pixel's ground, parts of pixels by their share: planes (n, h, w) -> (n, y, x).

    ``rows`` and ``cols`` are the positions of the target pixels' corners (y + 1, x + 1). The sum over any box is
    four looks into the running sum of the image (Crow 1984), interpolated between pixel edges.
    """
    top, bottom, left, right = boxes(rows, cols)
    sums = np.zeros((len(planes), planes.shape[1] + 1, planes.shape[2] + 1))
    np.cumsum(np.cumsum(planes, axis=1, dtype=np.float64), axis=2, out=sums[:, 1:, 1:])
    total = _upto(sums, bottom, right) - _upto(sums, top, right) - _upto(sums, bottom, left) + _upto(sums, top, left)
    return np.asarray(total / ((bottom - top) * (right - left)))


def _upto(sums: np.ndarray, rows: np.ndarray, cols: np.ndarray) -> np.ndarray:
    """Sum of everything above and left of a position, which may lie inside a pixel."""
    height, width = sums.shape[1] - 1, sums.shape[2] - 1
    rows, cols = rows.clip(0, height), cols.clip(0, width)
    row, col = np.minimum(rows.astype(np.int64), height - 1), np.minimum(cols.astype(np.int64), width - 1)
    down, across = rows - row, cols - col
    upper = sums[:, row, col] * (1 - across) + sums[:, row, col + 1] * across
    lower = sums[:, row + 1, col] * (1 - across) + sums[:, row + 1, col + 1] * across
    return np.asarray(upper * (1 - down) + lower * down)


def resample(
    values: np.ndarray, valid: np.ndarray, rows: np.ndarray, cols: np.ndarray, method: str
) -> tuple[np.ndarray, np.ndarray]:
    """Resample one band: values and valid (h, w) at positions -> float64 values, 0 where invalid, and bool (y, x).

    Positions are pixel centres (y, x), for ``average`` pixel corners (y + 1, x + 1). Invalid values weigh nothing,
    the others are renormalised, and a target pixel is valid where half of its kernel's weight was.
    """
    # Values are taken relative to their middle, so that a long running sum keeps its digits.
    middle = float(values[valid].mean()) if valid.any() else 0.0
    planes = np.stack([np.where(valid, values - middle, 0.0), valid.astype(np.float64)])
    sums, weight = _apply(planes, rows, cols, method)
    found = weight >= ENOUGH - NOISE
    return np.where(found, sums / np.where(found, weight, 1.0) + middle, 0.0), found


def touched(mask: np.ndarray, rows: np.ndarray, cols: np.ndarray, method: str) -> np.ndarray:
    """Any-invalid: target pixels whose kernel touches a masked pixel; mask bool (h, w) -> bool (y, x)."""
    # The negative lobes of the cubic kernel could cancel: its inner two taps are the ones that matter.
    share = _apply(mask[None].astype(np.float64), rows, cols, "bilinear" if method == "cubic" else method)
    return np.asarray(share[0] > NOISE)


def _apply(planes: np.ndarray, rows: np.ndarray, cols: np.ndarray, method: str) -> np.ndarray:
    """Run one method of the table over planes."""
    known = np.isfinite(rows) & np.isfinite(cols)
    # A position that no CRS can give lies far outside, where everything weighs nothing.
    rows, cols = np.where(known, rows, -1e6), np.where(known, cols, -1e6)
    return average(planes, rows, cols) if method == "average" else sample(planes, rows, cols, method)
