"""Hand-made context: mean and deviation of every channel in square windows around each pixel."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from stages.models.reach import Sighted


def window_mean(features: Tensor, side: int) -> Tensor:
    """Sum over a ``side`` x ``side`` window divided by its size, 0 beyond the edge; separable, so side + side adds."""
    reach = side // 2
    rows = functional.avg_pool2d(features, (side, 1), stride=1, padding=(reach, 0))
    return functional.avg_pool2d(rows, (1, side), stride=1, padding=(0, reach))


class Context(Sighted):
    """Each channel, then its mean and deviation over the valid pixels of every window.

    Takes (n, channels + 1, y, x), the last channel being the validity, and gives (n, features, y, x) with
    features = channels * (1 + 2 * len(windows)).
    """

    def __init__(self, channels: int, windows: tuple[int, ...]) -> None:
        super().__init__(channels + 1)
        self.channels, self.windows = channels, tuple(windows)
        self.features = channels * (1 + 2 * len(windows))

    def forward(self, image: Tensor) -> Tensor:
        """Features of every pixel."""
        values, valid = image[:, :-1], image[:, -1:]
        found = [values]
        moments = torch.cat([values, values.square(), valid], dim=1)
        count = values.shape[1]
        for side in self.windows:
            means = window_mean(moments, side)
            means = means[:, :-1] / means[:, -1:].clamp(min=0.5 / side**2)
            mean, square = means[:, :count], means[:, count:]
            found += [mean, (square - mean.square()).clamp(min=0.0).sqrt()]
        return torch.cat(found, dim=1)


class Rows(nn.Module):
    """Context, or other features of every pixel, as a table: (n, channels + 1, y, x) -> (n * y * x, features)."""

    def __init__(self, context: Any) -> None:
        super().__init__()
        self.context = context

    def forward(self, image: Tensor) -> Tensor:
        """Pixels in order of image, row and column."""
        rows: Tensor = self.context(image).permute(0, 2, 3, 1).reshape(-1, self.context.features)
        return rows
