"""A multilayer perceptron on single pixels: every pixel is classified by its own spectrum."""

from __future__ import annotations

from itertools import pairwise

from torch import Tensor, nn

from stages.models.layers import Convolution
from stages.models.reach import Sighted


class MLP(Sighted):
    """Hidden layers applied to every pixel alike, as 1 x 1 convolutions (Rumelhart, Hinton and Williams 1986).

    Takes (n, channels + 1, y, x), the last channel being the validity, and gives logits (n, classes, y, x).
    """

    def __init__(self, channels: int, classes: int, width: int = 64, dropout: float = 0.1, layers: int = 2) -> None:
        super().__init__(channels + 1)
        inputs = [channels + 1, *[width] * layers]
        self.hidden = nn.ModuleList(Convolution(a, b, 1) for a, b in pairwise(inputs))
        self.drop = nn.Dropout(dropout)
        self.head = nn.Conv2d(width, classes, 1)

    def forward(self, image: Tensor) -> Tensor:
        """Logits of every pixel."""
        valid, features = image[:, -1:], image
        for layer in self.hidden:
            features = self.drop(layer(features, valid))
        logits: Tensor = self.head(features)
        return logits
