"""Classifiers of whole chips, slid over a scene: what they say at a pixel is the class of the chip around it."""

from __future__ import annotations

from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn import functional

from stages.models.capsule_map import CapsuleMap
from stages.models.chip_features import UNIT, ChipFeatures, chip_mean, to_pixels
from stages.models.layers import Convolution
from stages.models.reach import Sighted


class ChipMLP(Sighted):
    """A multilayer perceptron on the simple features of a chip (Rumelhart, Hinton and Williams 1986)."""

    def __init__(
        self, channels: int, classes: int, side: int, *, windows: tuple[int, ...] = (3, 7), width: int = 128,
        layers: int = 2, dropout: float = 0.2,
    ) -> None:  # fmt: skip
        super().__init__(channels + 1)
        self.describe = ChipFeatures(channels, side, tuple(windows))
        widths = [self.describe.features, *[width] * layers]
        stages: list[nn.Module] = []
        for inputs, outputs in pairwise(widths):
            stages += [nn.Conv2d(inputs, outputs, 1), nn.ReLU(), nn.Dropout(dropout)]
        self.head = nn.Sequential(*stages, nn.Conv2d(widths[-1], classes, 1))

    def forward(self, image: Tensor) -> Tensor:
        """Logits (n, classes, y, x) of the chip around every pixel of (n, channels + 1, y, x)."""
        return to_pixels(self.head(self.describe.of_cells(image)))


class Halvings(nn.Module):
    """Convolutions between three halvings of the side, from pixels to features of cells.

    Every 2 x 2 pixels are one place with all their channels from the start, so no convolution is as large as the
    image. What is invalid stays 0 at every depth.
    """

    def __init__(self, channels: int, width: int) -> None:
        super().__init__()
        self.fine = nn.ModuleList([Convolution(4 * (channels + 1), width, 3), Convolution(width, width, 3)])
        self.middle = nn.ModuleList([Convolution(width, 2 * width, 3), Convolution(2 * width, 2 * width, 3)])
        self.coarse = nn.ModuleList([Convolution(2 * width, 4 * width, 3)])
        self.features = 4 * width

    def forward(self, image: Tensor) -> tuple[Tensor, Tensor]:
        """(n, channels + 1, y, x) -> features (n, 4 * width, y / 8, x / 8) and whether a cell has any valid pixel."""
        features, valid = functional.pixel_unshuffle(image, 2), functional.max_pool2d(image[:, -1:], 2)
        for depth, layers in enumerate((self.fine, self.middle, self.coarse)):
            if depth:
                features, valid = functional.max_pool2d(features, 2), functional.max_pool2d(valid, 2)
            for layer in layers:
                features = layer(features, valid)
        return features, valid


class ChipCNN(Sighted):
    """A convolutional network whose features are averaged over the chip (Lin, Chen and Yan 2014) and then classified.

    Fully convolutional (Long, Shelhamer and Darrell 2015): over a scene the average slides along with everything else.
    Takes (n, channels + 1, y, x), the last channel being the validity, and gives logits (n, classes, y, x).
    """

    def __init__(
        self, channels: int, classes: int, side: int, *, width: int = 32, dense: int = 128, dropout: float = 0.2
    ) -> None:
        super().__init__(channels + 1)
        self.side = side
        self.body = Halvings(channels, width)
        self.head = nn.Sequential(
            nn.Dropout(dropout), nn.Conv2d(self.body.features, dense, 1), nn.ReLU(),
            nn.Dropout(dropout), nn.Conv2d(dense, classes, 1),
        )  # fmt: skip

    def forward(self, image: Tensor) -> Tensor:
        """Logits of the chip around every pixel."""
        features, _ = self.body(image)
        share = functional.avg_pool2d(image[:, -1:], UNIT)
        return to_pixels(self.head(chip_mean(features, share, self.side)))


class ChipCapsules(Sighted):
    """Capsules that vote on the class around every cell (Sabour, Frosst and Hinton 2017), their logits averaged.

    The average of logarithms of lengths over a chip is that of a product: every place of the chip has its say.
    """

    def __init__(
        self, channels: int, classes: int, side: int, *, width: int = 16, types: int = 4, d: int = 8, rounds: int = 3,
        dropout: float = 0.1,
    ) -> None:  # fmt: skip
        super().__init__(channels + 1)
        self.side = side
        self.body = Halvings(channels, width)
        self.capsules = CapsuleMap(
            self.body.features, classes, width=2 * width, dilations=(1,), types=types, d=d, window=3, spread=1,
            rounds=rounds, dropout=dropout,
        )  # fmt: skip

    def forward(self, image: Tensor) -> Tensor:
        """Logits (n, classes, y, x) of the chip around every pixel of (n, channels + 1, y, x)."""
        features, valid = self.body(image)
        share = functional.avg_pool2d(image[:, -1:], UNIT)
        said = self.capsules(torch.cat([features, valid], dim=1))
        return to_pixels(chip_mean(said, share, self.side))
