"""A multilayer perceptron on single pixels: every pixel is classified by its own spectrum."""

from __future__ import annotations

from torch import Tensor, nn

from stages.models.layers import Convolution


class MLP(nn.Module):
    """Two hidden layers applied to every pixel alike, as 1 x 1 convolutions (Rumelhart, Hinton and Williams 1986).

    Takes (n, channels + 1, y, x), the last channel being the validity, and gives logits (n, classes, y, x).
    """

    margin = 0
    stride = 1

    def __init__(self, channels: int, classes: int, width: int = 64, dropout: float = 0.1) -> None:
        super().__init__()
        self.first = Convolution(channels + 1, width, 1)
        self.second = Convolution(width, width, 1)
        self.drop = nn.Dropout(dropout)
        self.head = nn.Conv2d(width, classes, 1)

    def forward(self, image: Tensor) -> Tensor:
        """Logits of every pixel."""
        valid = image[:, -1:]
        hidden = self.drop(self.first(image, valid))
        logits: Tensor = self.head(self.drop(self.second(hidden, valid)))
        return logits
