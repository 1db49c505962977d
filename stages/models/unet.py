"""A U-Net: what lies around a pixel, at every scale up to its coarsest, and where exactly the pixel is."""

from __future__ import annotations

from itertools import pairwise

import torch
from torch import Tensor, nn

from stages.models.layers import Convolution, double, halve, mask_pyramid
from stages.models.reach import Sighted


class Block(nn.Module):
    """A few 3 x 3 convolutions of one width, then features dropped at random."""

    def __init__(self, inputs: int, outputs: int, convolutions: int, dropout: float) -> None:
        super().__init__()
        widths = [inputs, *[outputs] * convolutions]
        self.layers = nn.ModuleList(Convolution(a, b, 3) for a, b in pairwise(widths))
        self.drop = nn.Dropout2d(dropout)

    def forward(self, features: Tensor, valid: Tensor) -> Tensor:
        """(n, inputs, y, x) -> (n, outputs, y, x)."""
        for layer in self.layers:
            features = layer(features, valid)
        kept: Tensor = self.drop(features)
        return kept


class UNet(Sighted):
    """Contracting path, expanding path and skip connections between them (Ronneberger, Fischer and Brox 2015).

    Unlike the paper's, every layer keeps the size of its input and treats ground beyond the edge as invalid
    pixels: features are 0 there at every depth, so a map does not depend on where it was cut.

    Takes (n, channels + 1, y, x), the last channel being the validity and sides multiples of the stride, and
    gives logits (n, classes, y, x).
    """

    def __init__(
        self, channels: int, classes: int, width: int = 16, depth: int = 3, dropout: float = 0.1,
    ) -> None:  # fmt: skip
        super().__init__(channels + 1)
        widths = [width * 2**level for level in range(depth + 1)]
        self.depth = depth
        self.contract = nn.ModuleList(
            Block(channels + 1 if level == 0 else widths[level - 1], widths[level], 2, dropout)
            for level in range(depth + 1)
        )
        self.expand = nn.ModuleList(
            Block(widths[level] + widths[level + 1], widths[level], 1, dropout) for level in range(depth)
        )
        self.head = nn.Conv2d(width, classes, 1)

    def forward(self, image: Tensor) -> Tensor:
        """Logits of every pixel."""
        masks = mask_pyramid(image[:, -1:], self.depth)
        features, skips = image, []
        for level, block in enumerate(self.contract):
            if level:
                features = halve(features, masks[level - 1])
            features = block(features, masks[level])
            skips.append(features)
        for level in reversed(range(self.depth)):
            features = torch.cat([double(features), skips[level]], dim=1)
            features = self.expand[level](features, masks[level])
        logits: Tensor = self.head(features)
        return logits
