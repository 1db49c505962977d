"""A support vector machine with a radial kernel as matrix products, so that it runs wherever a network does."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from stages.models.chip_features import ChipFeatures
from stages.models.context import Context


class KernelMachine(nn.Module):
    """One-against-one machines on a Gaussian kernel (Cortes and Vapnik 1995), combined into one value a class.

    Every pair of classes has its own decision value; a class's value is the number of pairs it wins, plus a
    bounded share of its summed margins that orders classes of equal votes. ``weights`` is (vectors, pairs); a
    pair's column of ``wins`` (pairs, classes) is +1 at the class that wins where its decision value is positive and
    -1 at the other. ``absent`` (classes,) is added at last: 0, or far below it for a class no training pixel shows.
    """

    vectors: Tensor
    weights: Tensor
    bias: Tensor
    centre: Tensor
    spread: Tensor
    wins: Tensor
    absent: Tensor
    gain: Tensor

    def __init__(
        self, context: Context | ChipFeatures, classes: int, vectors: int, pairs: int, gamma: float = 1.0
    ) -> None:
        super().__init__()
        self.context = context
        self.classes = classes
        self.gamma = gamma
        #: Kernel values held at once are pixels * chunk.
        self.chunk = 256
        for name, shape in {
            "vectors": (vectors, context.features), "weights": (vectors, pairs), "bias": (pairs,),
            "centre": (context.features,), "spread": (context.features,), "wins": (pairs, classes),
            "absent": (classes,), "gain": (1,),
        }.items():  # fmt: skip
            self.register_buffer(name, torch.zeros(shape))

    @property
    def margin(self) -> int:
        """Pixels around a pixel that its values depend on: those of its features."""
        return self.context.margin

    @property
    def stride(self) -> int:
        """Pixels by whose multiples an image may be moved: as of its features."""
        return self.context.stride

    def forward(self, image: Tensor) -> Tensor:
        """(n, channels + 1, y, x) -> (n, classes, y, x)."""
        features = self.context(image).permute(0, 2, 3, 1)
        rows = features.reshape(-1, self.context.features)
        values = self.of_rows(rows)
        return values.reshape(image.shape[0], image.shape[2], image.shape[3], self.classes).permute(0, 3, 1, 2)

    def of_rows(self, rows: Tensor) -> Tensor:
        """(rows, features) -> (rows, classes)."""
        rows = (rows - self.centre) / self.spread
        length = rows.square().sum(dim=1, keepdim=True)
        decision = self.bias[None, :]
        for vectors, weights in zip(self.vectors.split(self.chunk), self.weights.split(self.chunk), strict=True):
            distance = length - 2.0 * rows @ vectors.T + vectors.square().sum(dim=1)[None, :]
            decision = decision + torch.exp(-self.gamma * distance.clamp(min=0.0)) @ weights
        # A pair's column of `wins` is +1 at its first class and -1 at its second.
        margins = decision @ self.wins
        first = (decision > 0).to(decision.dtype)
        votes = first @ self.wins.clamp(min=0.0) + (1.0 - first) @ (-self.wins).clamp(min=0.0)
        values = votes + margins / (3.0 * (margins.abs() + 1.0))
        return self.gain * values + self.absent
