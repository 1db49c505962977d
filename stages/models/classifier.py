"""The frame around every network: tile units in, logits out, with normalisation and prior correction inside."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional


class Normalise(nn.Module):
    """Centre and scale every channel, clip outliers, and hide what is invalid.

    ``steps`` names the step of every channel, whose validity hides it; without it all channels are of one step.
    ``length`` is how many steps there are, as the last ones may have no channel.
    """

    mean: Tensor
    deviation: Tensor
    steps: Tensor

    def __init__(
        self, mean: Sequence[float], deviation: Sequence[float], clip: float = 4.0,
        steps: Sequence[int] | None = None, length: int | None = None,
    ) -> None:  # fmt: skip
        super().__init__()
        self.clip = clip
        self.length = length or max(steps or [0]) + 1
        self.register_buffer("mean", torch.tensor(mean, dtype=torch.float32)[None, :, None, None])
        scale = torch.tensor(deviation, dtype=torch.float32).clamp(min=1e-6)
        self.register_buffer("deviation", scale[None, :, None, None])
        self.register_buffer("steps", torch.tensor(steps or [0] * len(mean), dtype=torch.int64), persistent=False)

    def forward(self, image: Tensor, valid: Tensor) -> Tensor:
        """(n, channels, y, x) and (n, steps, y, x) -> (n, channels, y, x), 0 where invalid."""
        scaled = ((image - self.mean) / self.deviation).clamp(-self.clip, self.clip)
        return scaled * self.shown(valid)

    def shown(self, valid: Tensor) -> Tensor:
        """Give every channel its validity: (n, steps, y, x) -> (n, channels, y, x), or as it is with one step."""
        return valid if valid.shape[1] == 1 else valid.index_select(1, self.steps)


def with_validity(scaled: Tensor, valid: Tensor) -> Tensor:
    """Append which pixels have any valid step: (n, channels, y, x) and (n, steps, y, x) -> (n, channels + 1, y, x)."""
    return torch.cat([scaled, valid.amax(dim=1, keepdim=True)], dim=1)


class Classifier(nn.Module):
    """`image`, `valid` and, for a series network, `days` in, `logits` out: normalise, answer, correct to the prior.

    A network either takes all channels with one validity, or, where its ``series`` is set, the channels of every step
    with the step's own validity and day.
    """

    correction: Tensor

    def __init__(self, normalise: Normalise, network: nn.Module, classes: int) -> None:
        super().__init__()
        self.normalise = normalise
        self.network = network
        self.takes_days = bool(getattr(network, "series", False))
        self.register_buffer("correction", torch.zeros(classes))

    def answer(self, scaled: Tensor, valid: Tensor, days: Tensor | None = None) -> Tensor:
        """Uncorrected logits of normalised channels."""
        inputs = (scaled, valid, days) if self.takes_days else (with_validity(scaled, valid),)
        logits: Tensor = self.network(*inputs)
        return logits

    def forward(self, image: Tensor, valid: Tensor, days: Tensor | None = None) -> Tensor:
        """Logits of every pixel.

        Args:
            image: (n, channels, y, x) in tile units, channels step by step.
            valid: (n, steps, y, x), 1 or 0.
            days: (n, steps) since 1 January of the first step's year.

        Returns:
            (n, classes, y, x).
        """
        logits = self.answer(self.normalise(image, valid), valid, days)
        return logits + self.correction[None, :, None, None]


class Committee(nn.Module):
    """Several classifiers trained from different seeds, their probabilities averaged (Lakshminarayanan et al. 2017)."""

    def __init__(self, members: Sequence[Classifier]) -> None:
        super().__init__()
        self.members = nn.ModuleList(members)
        self.takes_days = members[0].takes_days

    def forward(self, image: Tensor, valid: Tensor, days: Tensor | None = None) -> Tensor:
        """As `Classifier`: the logarithm of the mean probabilities."""
        likely = torch.stack([functional.softmax(member(image, valid, days), dim=1) for member in self.members])
        # A probability of 0 would make the logarithm infinite; 1e-7 is what float32 can tell from it.
        return likely.mean(dim=0).clamp(min=1e-7).log()
