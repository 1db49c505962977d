"""Fill the gaps of pixels' time series: linear, by the Whittaker smoother or by Savitzky and Golay's filter.

Beyond a pixel's first and last observation every method holds a value: the nearest observation's, or the smoothed
series' at the nearest observation. Nothing is extrapolated.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

#: Pixels that are filled at once: their series and systems of equations stay in the processor's cache.
BLOCK = 8192


@dataclass(frozen=True)
class Filler:
    """How gaps are filled: ``method`` linear, whittaker or savgol, and the settings of the last two."""

    method: str
    smooth: float = 10.0
    window: int = 5
    order: int = 2


def fill(cube: np.ndarray, valid: np.ndarray, days: Sequence[float], filler: Filler) -> None:
    """Fill every step of the pixels that have any observation, in place.

    Whittaker and Savitzky-Golay replace observed values by the smoothed series too.

    Args:
        cube: float32 (step, band, pixel); undefined where not valid.
        valid: bool (step, pixel), the same for all bands; True afterwards where a step was filled.
        days: of every step, growing.
        filler: the method.
    """
    for start in range(0, valid.shape[1], BLOCK):
        # A copy, so that the series of a block lie together.
        part = np.ascontiguousarray(cube[..., start : start + BLOCK])
        known = valid[:, start : start + BLOCK]
        if filler.method == "linear" and known.all():
            continue
        linear(part, known, days)
        if filler.method == "whittaker":
            whittaker(part, known, days, filler.smooth)
        elif filler.method == "savgol":
            savgol(part, filler.window, filler.order)
        cube[..., start : start + BLOCK] = part
        known |= known.any(axis=0)


def linear(cube: np.ndarray, valid: np.ndarray, days: Sequence[float]) -> None:
    """Put every gap on the line between the observations before and after it, in days; shapes as in `fill`."""
    steps, bands, pixels = cube.shape
    index = np.arange(steps, dtype=np.int32)[:, None]
    before = np.maximum.accumulate(np.where(valid, index, np.int32(-1)), axis=0)
    after = np.minimum.accumulate(np.where(valid, index, np.int32(steps))[::-1], axis=0)[::-1]
    when, flat = np.asarray(days, np.float64), cube.reshape(-1)
    for step in range(steps):
        (gaps,) = np.nonzero(~valid[step] & ((before[step] >= 0) | (after[step] < steps)))
        if not len(gaps):
            continue
        first, last = before[step, gaps].astype(np.int64), after[step, gaps].astype(np.int64)
        # The nearest value is held at both ends: its neighbour on the far side is itself.
        first, last = np.where(first < 0, last, first), np.where(last == steps, first, last)
        span = when[last] - when[first]
        share = np.where(span > 0, (when[step] - when[first]) / np.where(span > 0, span, 1.0), 0.0).astype(np.float32)
        for band in range(bands):
            one = flat.take((first * bands + band) * pixels + gaps)
            other = flat.take((last * bands + band) * pixels + gaps)
            cube[step, band, gaps] = one + share * (other - one)


def whittaker(cube: np.ndarray, valid: np.ndarray, days: Sequence[float], smooth: float) -> None:
    """Replace series by their Whittaker smoothing with second differences (Eilers 2003), in place.

    The smoothed z minimises sum(w (y - z)^2) + smooth sum((second difference of z)^2), w being 1 where valid and 0
    elsewhere. Steps of unequal length have divided differences, in units of the mean step. A pixel's equations have
    five diagonals; they are factored (L D L') and solved for many pixels at once.

    Args:
        cube: float32 (step, band, pixel), without gaps.
        valid: bool (step, pixel), the observed steps.
        days: of every step, growing.
        smooth: lambda.
    """
    steps = len(cube)
    if steps < 3:
        return
    penalty = smooth * _squared(days)
    # Two observations determine a line; the gap-free series of one observation is constant and remains so.
    weight = np.where(valid.sum(axis=0) < 2, True, valid).astype(np.float64)
    diagonal, first, second = np.empty_like(weight), np.zeros_like(weight), np.zeros_like(weight)
    solved = np.empty(cube.shape)
    for i in range(steps):
        # Row i of L: `first` holds L[i + 1, i] and `second` L[i + 2, i].
        diagonal[i] = weight[i] + penalty[i, i]
        solved[i] = weight[i] * cube[i]
        if i >= 1:
            diagonal[i] -= diagonal[i - 1] * first[i - 1] ** 2
            solved[i] -= first[i - 1] * solved[i - 1]
        if i >= 2:
            diagonal[i] -= diagonal[i - 2] * second[i - 2] ** 2
            solved[i] -= second[i - 2] * solved[i - 2]
        if i + 1 < steps:
            first[i] = penalty[i + 1, i]
            if i >= 1:
                first[i] -= diagonal[i - 1] * first[i - 1] * second[i - 1]
            first[i] /= diagonal[i]
        if i + 2 < steps:
            second[i] = penalty[i + 2, i] / diagonal[i]
    for i in reversed(range(steps)):
        solved[i] /= diagonal[i]
        if i + 1 < steps:
            solved[i] -= first[i] * solved[i + 1]
        if i + 2 < steps:
            solved[i] -= second[i] * solved[i + 2]
    _hold_ends(solved, valid)
    cube[:] = solved


def _squared(days: Sequence[float]) -> np.ndarray:
    """Give D'D of the second differences of steps, float64 (step, step)."""
    when = np.asarray(days, np.float64)
    when = (when - when[0]) / np.diff(when).mean()
    differences = np.zeros((len(when) - 2, len(when)))
    for i in range(len(when) - 2):
        one, two = when[i + 1] - when[i], when[i + 2] - when[i + 1]
        differences[i, i : i + 3] = np.array([1 / one, -(1 / one + 1 / two), 1 / two]) * 2 / (one + two)
    return np.asarray(differences.T @ differences)


def _hold_ends(series: np.ndarray, valid: np.ndarray) -> None:
    """Hold what a series is at its first and last observation before and after them, in place."""
    began = np.logical_or.accumulate(valid, axis=0)
    lasts = np.logical_or.accumulate(valid[::-1], axis=0)[::-1]
    for i in range(1, len(series)):
        np.copyto(series[i], series[i - 1], where=began[i] & ~lasts[i])
    for i in reversed(range(len(series) - 1)):
        np.copyto(series[i], series[i + 1], where=~began[i] & lasts[i])


def savgol(cube: np.ndarray, window: int, order: int) -> None:
    """Replace gap-free series by their Savitzky-Golay smoothing (Savitzky and Golay 1964), in place.

    Steps count as equally long. Beyond both ends of the series the nearest value is held.

    Args:
        cube: float32 (step, band, pixel).
        window: steps of the window, odd.
        order: of the polynomial that is fitted in it.
    """
    from scipy.signal import savgol_coeffs

    weights = savgol_coeffs(window, order).astype(np.float32)
    half, last = window // 2, len(cube) - 1
    out = np.zeros_like(cube)
    for step in range(len(cube)):
        for i, weight in enumerate(weights):
            # The coefficients are those of a smoothing, which look alike from both sides.
            out[step] += weight * cube[min(max(step + i - half, 0), last)]
    cube[:] = out
