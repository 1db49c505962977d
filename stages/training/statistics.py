"""Mean, deviation and percentiles of many pixels, gathered window by window."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

LEVELS = (1, 2, 5, 25, 50, 75, 95, 98, 99)
#: Values kept in memory for percentiles; areas with fewer have exact ones.
KEPT_VALUES = 20_000_000


@dataclass(frozen=True)
class Moments:
    """Count (row,), mean and sum of squared deviations (row, channel) of the pixels of several rows, in float64."""

    count: np.ndarray
    mean: np.ndarray
    squares: np.ndarray

    def std(self) -> np.ndarray:
        """Give the population deviation (row, channel), 0 where a row has no pixel."""
        deviation: np.ndarray = np.sqrt(self.squares / np.maximum(self.count, 1)[:, None])
        return deviation


def moments(values: np.ndarray, row: np.ndarray, rows: int) -> Moments:
    """Moments of ``values`` (pixel, channel) by their ``row`` (pixel,) 0..rows-1."""
    values = values.astype(np.float64)
    count = np.bincount(row, minlength=rows)
    divisor = np.maximum(count, 1)[:, None]
    mean = _sums(values, row, rows) / divisor
    squares = _sums((values - mean[row]) ** 2, row, rows)
    return Moments(count, mean, squares)


def _sums(values: np.ndarray, row: np.ndarray, rows: int) -> np.ndarray:
    return np.stack([np.bincount(row, weights=column, minlength=rows) for column in values.T], axis=1)


def pool(parts: list[Moments], rows: int | None = None) -> Moments:
    """Moments of all pixels together, from those of disjoint groups of pixels (Chan et al. 1983).

    With ``rows`` the parts agree in their rows and are pooled row by row; without, everything becomes one row.
    """
    if rows is None:
        parts = [_one_row(part) for part in parts]
    count = np.stack([part.count for part in parts])
    mean = np.stack([part.mean for part in parts])
    total = count.sum(axis=0)
    pooled = (count[..., None] * mean).sum(axis=0) / np.maximum(total, 1)[:, None]
    squares = np.stack([part.squares for part in parts]).sum(axis=0)
    squares = squares + (count[..., None] * (mean - pooled) ** 2).sum(axis=0)
    return Moments(total, pooled, squares)


def _one_row(part: Moments) -> Moments:
    total = part.count.sum(keepdims=True)
    mean = (part.count[:, None] * part.mean).sum(axis=0, keepdims=True) / max(int(total[0]), 1)
    squares = part.squares.sum(axis=0, keepdims=True)
    return Moments(total, mean, squares + (part.count[:, None] * (part.mean - mean) ** 2).sum(axis=0, keepdims=True))


def kept_share(pixels: int, channels: int) -> float:
    """Share of the pixels whose values are kept for percentiles."""
    return min(1.0, KEPT_VALUES / max(1, pixels * channels))


def kept(row: np.ndarray, col: np.ndarray, share: float) -> np.ndarray:
    """Whether the pixel at each place of the grid is kept: bool; the same for the same place, scattered evenly."""
    mixed = row.astype(np.uint64) * np.uint64(0x9E3779B97F4A7C15) + col.astype(np.uint64) * np.uint64(
        0xC2B2AE3D27D4EB4F
    )
    mixed ^= mixed >> np.uint64(29)
    mixed = mixed * np.uint64(0xBF58476D1CE4E5B9)  # wraps around: a hash, not a number
    number = (mixed >> np.uint64(32)).astype(np.float64) / 2.0**32
    keep: np.ndarray = number < share
    return keep


def entry(channels: tuple[str, ...], inputs: Moments, values: np.ndarray, classes: Moments) -> dict[str, Any]:
    """Statistics of one fold as written: ``inputs`` has one row, ``values`` is (pixel, channel)."""
    levels = np.percentile(values, LEVELS, axis=0) if len(values) else np.zeros((len(LEVELS), len(channels)))
    present = classes.count > 0
    return {
        "channels": channels,
        "pixels": int(inputs.count[0]),
        "mean": inputs.mean[0].tolist(),
        "std": inputs.std()[0].tolist(),
        "percentiles": {str(level): row.tolist() for level, row in zip(LEVELS, levels, strict=True)},
        "class_pixels": classes.count.tolist(),
        "class_means": [row.tolist() if there else None for row, there in zip(classes.mean, present, strict=True)],
        "class_stds": [row.tolist() if there else None for row, there in zip(classes.std(), present, strict=True)],
    }
