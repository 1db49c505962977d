"""What describes a whole chip to a classifier of rows: means, deviations, texture and shares above levels."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

from stages.models.context import window_mean
from stages.models.reach import Sighted

#: Side in pixels of the cells for which a chip classifier answers; every pixel of a cell gets the same answer.
UNIT = 8
#: Ramps of normalised values: what share of a chip lies above each, and the width of a ramp.
LEVELS, RAMP = (-1.5, -0.75, 0.0, 0.75, 1.5), 0.5


def chip_mean(features: Tensor, weight: Tensor, side: int) -> Tensor:
    """Mean over the chip of ``side`` pixels around every cell, in as many whole cells as hold it, an odd number.

    Args:
        features: (n, features, y, x), a value a cell.
        weight: of every cell (n, 1, y, x), such as the share of its pixels that is valid.
        side: of a chip, in pixels.

    Returns:
        (n, features, y, x), 0 where nothing in the chip has a weight.
    """
    across = 2 * (-(-side // UNIT) // 2) + 1
    sums = window_mean(torch.cat([features * weight, weight], dim=1), across)
    return sums[:, :-1] / sums[:, -1:].clamp(min=0.5 / (UNIT * across) ** 2)


def to_pixels(cells: Tensor) -> Tensor:
    """Give every pixel what its cell has: (n, classes, y, x) -> (n, classes, UNIT * y, UNIT * x)."""
    return functional.interpolate(cells, scale_factor=float(UNIT), mode="nearest")


class ChipFeatures(Sighted):
    """Simple features of the chip around every pixel, for classifiers that read rows.

    Of each channel: mean and deviation over the chip, the mean of the deviations in small ``windows`` (its texture),
    and the shares of the chip above some levels (in the place of percentiles, whose gradient would be 0).
    Takes (n, channels + 1, y, x), the last channel being the validity, and gives (n, features, y, x).
    """

    def __init__(self, channels: int, side: int, windows: tuple[int, ...]) -> None:
        super().__init__(channels + 1)
        self.channels, self.side, self.windows = channels, side, tuple(windows)
        self.features = channels * (2 + len(self.windows) + len(LEVELS))

    def forward(self, image: Tensor) -> Tensor:
        """Features of every pixel, the same within a cell."""
        return to_pixels(self.of_cells(image))

    def of_cells(self, image: Tensor) -> Tensor:
        """Features of every cell: (n, channels + 1, y, x) -> (n, features, y / UNIT, x / UNIT)."""
        values, valid = image[:, :-1], image[:, -1:]
        found = [values, values.square()]
        found += [deviation(values, valid, window) for window in self.windows]
        found += [((values - level) / RAMP + 0.5).clamp(0.0, 1.0) for level in LEVELS]
        share = functional.avg_pool2d(valid, UNIT)
        inside = functional.avg_pool2d(torch.cat(found, dim=1) * valid, UNIT) / share.clamp(min=0.5 / UNIT**2)
        means = chip_mean(inside, share, self.side)
        mean, square, others = means.split([self.channels, self.channels, self.features - 2 * self.channels], dim=1)
        return torch.cat([mean, (square - mean.square()).clamp(min=1e-6).sqrt(), others], dim=1)


def deviation(values: Tensor, valid: Tensor, window: int) -> Tensor:
    """Deviation of every channel over the valid pixels of a window around each: (n, channels, y, x)."""
    sums = window_mean(torch.cat([values, values.square(), valid], dim=1), window)
    means = sums[:, :-1] / sums[:, -1:].clamp(min=0.5 / window**2)
    mean, square = means.chunk(2, dim=1)
    # Not 0, where a square root has no slope.
    return (square - mean.square()).clamp(min=1e-6).sqrt()
