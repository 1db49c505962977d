"""Differences along time as further channels of a series: how fast values change, not only what they are."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional

from stages.models.classifier import Normalise

#: Lags in steps, taken one after another: (4,) is x(t) - x(t - 4), and (1, 1) the second difference.
Chain = Sequence[int]


def difference(series: Tensor, valid: Tensor, chain: Chain) -> tuple[Tensor, Tensor]:
    """Take the differences of one chain of lags, 0 where a step that they are made of is missing.

    Args:
        series: (n, steps, bands, y, x).
        valid: (n, steps, 1, y, x), 1 or 0.
        chain: lags, together shorter than the series.

    Returns:
        The two for the last ``steps - sum(chain)`` steps.
    """
    for lag in chain:
        valid = valid[:, lag:] * valid[:, :-lag]
        series = (series[:, lag:] - series[:, :-lag]) * valid
    return series, valid


class Differenced(Normalise):
    """Normalised channels and, step by step after the bands, their differences, each on the scale of its ``spread``.

    Takes channels that are the same ``bands`` at every step. A difference stands at the later of its steps, and is 0
    where the series has not begun so early.
    """

    spread: Tensor

    def __init__(self, plain: Normalise, bands: int, chains: Sequence[Chain]) -> None:
        super().__init__(plain.mean.flatten().tolist(), plain.deviation.flatten().tolist(), plain.clip)
        self.steps, self.length = plain.steps, plain.length
        self.bands, self.chains = bands, [tuple(chain) for chain in chains]
        self.register_buffer("spread", torch.ones(len(chains), bands))

    def forward(self, image: Tensor, valid: Tensor) -> Tensor:
        """(n, steps * bands, y, x) and (n, steps, y, x) -> (n, steps * bands * (1 + chains), y, x)."""
        return self.append(self.scaled(image, valid), valid)

    def scaled(self, image: Tensor, valid: Tensor) -> Tensor:
        """Give the normalised channels alone."""
        return super().forward(image, valid)

    def append(self, scaled: Tensor, valid: Tensor) -> Tensor:
        """Append the differences to normalised channels (n, steps * bands, y, x)."""
        n, channels, height, width = scaled.shape
        series = scaled.reshape(n, channels // self.bands, self.bands, height, width)
        found = [series]
        for chain, spread in zip(self.chains, self.spread, strict=True):
            values, _ = difference(series, valid[:, :, None], chain)
            found.append(functional.pad(values / spread[:, None, None], (0, 0, 0, 0, 0, 0, sum(chain), 0)))
        return torch.cat(found, dim=2).flatten(1, 2)

    def fit(self, scaled: Tensor, valid: Tensor) -> None:
        """Set the spread to the deviation of the valid differences of some normalised channels."""
        n, channels, height, width = scaled.shape
        series = scaled.reshape(n, channels // self.bands, self.bands, height, width)
        for chain, spread in zip(self.chains, self.spread, strict=True):
            values, there = difference(series, valid[:, :, None], chain)
            count = there.sum().clamp(min=1.0)
            mean = values.sum((0, 1, 3, 4)) / count
            squares = ((values - mean[:, None, None]) * there).square().sum((0, 1, 3, 4))
            spread.copy_((squares / count).sqrt().clamp(min=1e-3))
