"""A spectral-spatial network: three-dimensional convolutions over a patch and its spectrum."""

from __future__ import annotations

from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn import functional

from stages.models.cnn import centre
from stages.models.layers import Convolution
from stages.models.reach import Sighted


class SpectralConvolution(nn.Module):
    """Convolution over three neighbouring bands and, with a ``dilation``, 3 x 3 pixels; every second band is kept.

    The three bands are laid side by side as inputs of a convolution on the ground: the same sums as those of a
    three-dimensional one, in the operation that every runtime is fastest at.
    """

    def __init__(self, inputs: int, features: int, dilation: int = 0) -> None:
        super().__init__()
        side = 3 if dilation else 1
        self.across = Convolution(3 * inputs, features, side, dilation=max(dilation, 1), padded=False)

    def forward(self, cube: Tensor, valid: Tensor) -> Tensor:
        """(n, bands, inputs, y, x) -> (n, bands / 2 rounded up, features, y, x), smaller by the dilation a side.

        ``valid`` (n, 1, y, x) is that of the result's pixels.
        """
        n, bands = cube.shape[:2]
        kept, beyond = (bands + 1) // 2, torch.zeros_like(cube[:, :1])
        padded = torch.cat([beyond, cube, beyond], dim=1)
        beside = torch.cat([padded[:, tap : tap + 2 * kept - 1 : 2] for tap in range(3)], dim=2)
        of_band = valid[:, None].expand(-1, kept, -1, -1, -1).flatten(0, 1)
        found: Tensor = self.across(beside.flatten(0, 1), of_band)
        return found.reshape(n, kept, *found.shape[1:])


class SpectralCNN(Sighted):
    """Spectral-spatial classifier of a patch's middle pixel, for up to hundreds of bands (after Hamida et al. 2018).

    As in the paper, convolutions of 3 x 3 x 3 without padding on the ground are followed by such along the spectrum
    only, which is halved again and again in place of pooling, and what is left of it is classified. Here the halving
    is the stride of the convolutions themselves, every layer is normalised over the valid pixels, and all pixels are
    evaluated at once. One ``dilation`` a layer widens the patch; (1, 1) is the paper's of 5 x 5 pixels.

    Takes (n, channels + 1, y, x), the last channel being the validity, and gives logits (n, classes, y, x).
    """

    def __init__(
        self, channels: int, classes: int, *, width: int = 12, dilations: tuple[int, ...] = (1, 1), spectral: int = 2,
        dropout: float = 0.1,
    ) -> None:  # fmt: skip
        super().__init__(channels + 1)
        #: What all layers together cut off every side.
        self.rim = sum(dilations)
        self.dilations = (*dilations, *[0] * spectral)
        widths = [2, width, *[2 * width] * (len(self.dilations) - 1)]
        self.layers = nn.ModuleList(
            SpectralConvolution(a, b, reach) for (a, b), reach in zip(pairwise(widths), self.dilations, strict=True)
        )
        left = channels
        for _ in self.dilations:
            left = (left + 1) // 2
        self.drop = nn.Dropout2d(dropout)
        self.head = nn.Conv2d(left * widths[-1], classes, 1)

    def forward(self, image: Tensor) -> Tensor:
        """Logits of every pixel; beyond the image's edge is taken as invalid."""
        return self.of_patches(functional.pad(image, [self.rim] * 4))

    def of_patches(self, image: Tensor) -> Tensor:
        """Logits of the pixels with a whole patch: (n, channels + 1, y, x) -> (n, classes, y - 2 rim, x - 2 rim)."""
        bands, valid, cut = image[:, :-1], image[:, -1:], 0
        cube = torch.stack([bands, valid.expand_as(bands)], dim=2)
        for layer, reach in zip(self.layers, self.dilations, strict=True):
            cut += reach
            cube = layer(cube, centre(valid, cut))
        logits: Tensor = self.head(self.drop(cube.flatten(1, 2)))
        return logits
