"""A convolutional network on the patch around a pixel, evaluated for all pixels at once."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from stages.models.layers import Convolution
from stages.models.reach import Sighted


def centre(features: Tensor, pixels: int) -> Tensor:
    """Cut ``pixels`` off every side."""
    return features[..., pixels : features.shape[-2] - pixels, pixels : features.shape[-1] - pixels]


class PatchCNN(Sighted):
    """Label of a patch's middle pixel from convolutions without padding (LeCun et al. 1998).

    Dilated convolutions widen the patch without pooling (Yu and Koltun 2016), so the network can slide over a
    whole scene as one fully convolutional pass (Long, Shelhamer and Darrell 2015), and its result at a pixel is
    exactly that of the patch of 2 * margin + 1 pixels around it. The centre of every layer's features reaches
    the classifier, so what is learned of near and of far surroundings stays side by side.

    Takes (n, channels + 1, y, x), the last channel being the validity, and gives logits (n, classes, y, x).
    """

    def __init__(
        self, channels: int, classes: int, width: int = 32, dilations: tuple[int, ...] = (1, 1, 1, 2, 2),
        dropout: float = 0.1,
    ) -> None:  # fmt: skip
        super().__init__(channels + 1)
        #: A 3 x 3 convolution reaches as far as its dilation.
        self.reaches = tuple(dilations)
        #: What all layers together cut off every side.
        self.rim = sum(dilations)
        inputs = [channels + 1, *[width] * (len(dilations) - 1)]
        self.pixel = Convolution(channels + 1, width, 1)
        self.layers = nn.ModuleList(
            Convolution(n, width, 3, dilation=d, padded=False) for n, d in zip(inputs, dilations, strict=True)
        )
        self.drop = nn.Dropout2d(dropout)
        self.mix = Convolution(width * (len(dilations) + 1), 2 * width, 1)
        self.head = nn.Conv2d(2 * width, classes, 1)

    def forward(self, image: Tensor) -> Tensor:
        """Logits of every pixel; beyond the image's edge is taken as invalid."""
        image = functional.pad(image, [self.rim] * 4)
        return self.of_patches(image)

    def of_patches(self, image: Tensor) -> Tensor:
        """Logits of the pixels with a whole patch: (n, channels + 1, y, x) -> (n, classes, y - 2 rim, x - 2 rim)."""
        features, left = image, self.rim
        seen = [self.pixel(centre(image, left), centre(image[:, -1:], left))]
        for layer, reach in zip(self.layers, self.reaches, strict=True):
            left -= reach
            valid = centre(image[:, -1:], self.rim - left)
            features = self.drop(layer(features, valid))
            seen.append(centre(features, left))
        valid = centre(image[:, -1:], self.rim)
        logits: Tensor = self.head(self.drop(self.mix(torch.cat(seen, dim=1), valid)))
        return logits
