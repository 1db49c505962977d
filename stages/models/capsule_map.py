"""Capsules for the patch around a pixel, evaluated for all pixels at once."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor, nn
from torch.nn import functional

from stages.models.capsule import squash
from stages.models.cnn import centre
from stages.models.layers import Convolution
from stages.models.reach import Sighted


class CapsuleMap(Sighted):
    """Label of a patch's middle pixel by dynamic routing among capsules (Sabour, Frosst and Hinton 2017).

    Convolutions without padding lead to ``types`` primary capsules at every pixel; those at ``window`` x ``window``
    places, ``spread`` pixels apart, vote on the classes of the pixel in their middle, and routing settles the votes
    pixel by pixel. All pixels share their weights, so the network slides over a scene.

    A logit is the logarithm of a class capsule's length times a learned factor: softmax then gives the lengths,
    raised to that power, as shares of their sum. In place of the paper's margin loss the pipeline's cross-entropy is
    descended on them, so that classes are weighted and calibrated as with all its networks; nothing is reconstructed.

    Takes (n, channels + 1, y, x), the last channel being the validity, and gives logits (n, classes, y, x).

    Raises:
        ValueError: an even window, which has no middle.
    """

    def __init__(
        self, channels: int, classes: int, *, width: int = 32, dilations: tuple[int, ...] = (1, 1, 2), types: int = 4,
        d: int = 8, window: int = 3, spread: int = 3, class_d: int = 8, rounds: int = 3, dropout: float = 0.1,
    ) -> None:  # fmt: skip
        super().__init__(channels + 1)
        if window % 2 == 0:
            raise ValueError(f"window is {window}, but must be odd, so that a pixel is in the middle.")
        self.types, self.d, self.classes, self.class_d, self.rounds = types, d, classes, class_d, rounds
        self.reaches = tuple(dilations)
        #: Where the places of the window lie in what the convolutions leave.
        self.places = [(row * spread, col * spread) for row in range(window) for col in range(window)]
        #: What convolutions and window together cut off every side.
        self.rim = sum(dilations) + spread * (window // 2)
        inputs = [channels + 1, *[width] * (len(dilations) - 1)]
        self.layers = nn.ModuleList(
            Convolution(n, width, 3, dilation=reach, padded=False) for n, reach in zip(inputs, dilations, strict=True)
        )
        self.drop = nn.Dropout2d(dropout)
        self.primary = nn.Conv2d(width, types * d, 1)
        #: What the primary capsules of a place make of their vectors for every class.
        self.votes = nn.ParameterList(
            nn.Parameter(torch.randn(types, classes * class_d, d) * 0.5 * d**-0.5) for _ in self.places
        )
        self.sharpness = nn.Parameter(torch.full((1,), 4.0))

    def forward(self, image: Tensor) -> Tensor:
        """Logits of every pixel; beyond the image's edge is taken as invalid."""
        return self.of_patches(functional.pad(image, [self.rim] * 4))

    def of_patches(self, image: Tensor) -> Tensor:
        """Logits of the pixels with a whole patch: (n, channels + 1, y, x) -> (n, classes, y - 2 rim, x - 2 rim)."""
        features, cut = image, 0
        for layer, reach in zip(self.layers, self.reaches, strict=True):
            cut += reach
            features = self.drop(layer(features, centre(image[:, -1:], cut)))
        square = self._routed(self._poses(features, centre(image[:, -1:], cut))).square().sum(dim=2)
        return 0.5 * self.sharpness * (square + 1e-6).log()

    def _poses(self, features: Tensor, valid: Tensor) -> Tensor:
        """Primary capsules (n, types * d, y, x); those of invalid pixels are 0, and vote for nothing."""
        poses: Tensor = self.primary(features)
        n, _, high, wide = poses.shape
        return squash(poses.reshape(n, self.types, self.d, high, wide), dim=2).flatten(1, 2) * valid

    def _routed(self, poses: Tensor) -> Tensor:
        """Class capsules (n, classes, class_d, y, x) of the places' votes.

        The votes are made anew in every round: of a whole scene they would fill the memory.
        """
        agreements: list[Tensor | float] = [0.0] * len(self.places)
        with torch.no_grad():
            for _ in range(self.rounds - 1):
                found = self._summed(poses, agreements)[:, None]
                agreements = [
                    agreement + (votes * found).sum(dim=3)
                    for agreement, votes in zip(agreements, self._votes(poses), strict=True)
                ]
        return self._summed(poses, agreements)

    def _summed(self, poses: Tensor, agreements: list[Tensor | float]) -> Tensor:
        """Class capsules after the inputs have been shared out by their agreements."""
        total: Tensor | float = 0.0
        for votes, agreement in zip(self._votes(poses), agreements, strict=True):
            share = agreement.softmax(dim=2)[:, :, :, None] if isinstance(agreement, Tensor) else 1.0 / self.classes
            total = total + (share * votes).sum(dim=1)
        assert isinstance(total, Tensor), "a window has at least one place"
        return squash(total, dim=2)

    def _votes(self, poses: Tensor) -> Iterator[Tensor]:
        """Make the votes of one place of the window after another: (n, types, classes, class_d, y, x) each."""
        reach = self.places[-1][0]
        high, wide = poses.shape[2] - reach, poses.shape[3] - reach
        for (row, col), vote in zip(self.places, self.votes, strict=True):
            seen = poses[:, :, row : row + high, col : col + wide].reshape(
                poses.shape[0], self.types, self.d, high * wide
            )
            yield (vote @ seen).reshape(poses.shape[0], self.types, self.classes, self.class_d, high, wide)
