"""The frame around every network: tile units in, logits out, with normalisation and prior correction inside."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional


class Normalise(nn.Module):
    """Centre and scale every channel, clip outliers, hide what is invalid, and append the validity."""

    mean: Tensor
    deviation: Tensor

    def __init__(self, mean: Sequence[float], deviation: Sequence[float], clip: float = 4.0) -> None:
        super().__init__()
        self.clip = clip
        self.register_buffer("mean", torch.tensor(mean, dtype=torch.float32)[None, :, None, None])
        scale = torch.tensor(deviation, dtype=torch.float32).clamp(min=1e-6)
        self.register_buffer("deviation", scale[None, :, None, None])

    def forward(self, image: Tensor, valid: Tensor) -> Tensor:
        """(n, channels, y, x) and (n, 1, y, x) -> (n, channels + 1, y, x)."""
        scaled = ((image - self.mean) / self.deviation).clamp(-self.clip, self.clip)
        return torch.cat([scaled * valid, valid], dim=1)


class Classifier(nn.Module):
    """`image` and `valid` in, `logits` out: normalise, apply the network, correct to the training prior."""

    correction: Tensor

    def __init__(self, normalise: Normalise, network: nn.Module, classes: int) -> None:
        super().__init__()
        self.normalise = normalise
        self.network = network
        self.register_buffer("correction", torch.zeros(classes))

    def forward(self, image: Tensor, valid: Tensor) -> Tensor:
        """(n, channels, y, x) in tile units and (n, 1, y, x) -> logits (n, classes, y, x)."""
        logits: Tensor = self.network(self.normalise(image, valid))
        return logits + self.correction[None, :, None, None]


class Committee(nn.Module):
    """Several classifiers trained from different seeds, their probabilities averaged (Lakshminarayanan et al. 2017)."""

    def __init__(self, members: Sequence[Classifier]) -> None:
        super().__init__()
        self.members = nn.ModuleList(members)

    def forward(self, image: Tensor, valid: Tensor) -> Tensor:
        """(n, channels, y, x) in tile units and (n, 1, y, x) -> logarithm of the mean probabilities."""
        likely = torch.stack([functional.softmax(member(image, valid), dim=1) for member in self.members])
        # A probability of 0 would make the logarithm infinite; 1e-7 is what float32 can tell from it.
        return likely.mean(dim=0).clamp(min=1e-7).log()
