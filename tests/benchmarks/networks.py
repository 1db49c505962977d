"""Build the networks that are raced: the project's own in its frame, and the same plainly, which is the limit.

A plain network has the same weights, and neither validity nor layers of our own; its ``frame`` normalises, and it takes
what that gives, for the limit's batches are normalised beforehand. This module needs torch only, so that the peers'
environment builds the same networks.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from stages.models.classifier import Classifier, Normalise
from stages.models.cnn import PatchCNN
from stages.models.layers import Convolution, ValidBatchNorm
from stages.models.unet import UNet

NAMES, CLASSES = ("red", "nir", "swir1", "blue"), 7
#: Layers of the patch network, and pixels that it sees around each.
MARGIN = 4


def unet() -> Classifier:
    """Build the U-Net that `train` builds by default: 440,000 parameters."""
    torch.manual_seed(0)
    return _framed(UNet(len(NAMES), CLASSES))


def pixel() -> Classifier:
    """Build a network that is one 1 x 1 convolution."""
    torch.manual_seed(0)
    return _framed(nn.Conv2d(len(NAMES) + 1, CLASSES, 1))


def patch() -> Classifier:
    """Build the patch network of `train`, with four layers instead of five so that its patch is 9 x 9."""
    torch.manual_seed(0)
    return _framed(PatchCNN(len(NAMES), CLASSES, dilations=(1,) * MARGIN))


def _framed(network: nn.Module) -> Classifier:
    """Put a network into its frame, with statistics of batch normalisation such as training leaves behind."""
    count = len(NAMES)
    classifier = Classifier(Normalise([2000.0] * count, [900.0] * count), network, CLASSES).eval()
    draw = torch.Generator().manual_seed(1)
    for layer in classifier.modules():
        if isinstance(layer, ValidBatchNorm):
            layer.mean.normal_(0, 0.1, generator=draw)
            layer.variance.uniform_(0.2, 0.5, generator=draw)
    return classifier


class Frame(nn.Module):
    """Normalise (n, channels, y, x) in tile units, as the classifier does, and append that all is valid."""

    def __init__(self, ours: Classifier) -> None:
        super().__init__()
        self.normalise = ours.normalise

    def forward(self, image: Tensor) -> Tensor:
        frame = self.normalise
        scaled = ((image - frame.mean) / frame.deviation).clamp(-frame.clip, frame.clip)
        return torch.cat([scaled, torch.ones_like(scaled[:, :1])], 1)


def _layers(ours: Convolution) -> list[nn.Module]:
    norm = nn.BatchNorm2d(ours.convolve.out_channels)
    state = {"weight": ours.normalise.gain, "bias": ours.normalise.shift, "running_mean": ours.normalise.mean,
             "running_var": ours.normalise.variance}  # fmt: skip
    norm.load_state_dict(state, strict=False)
    return [ours.convolve, norm, nn.ReLU(inplace=True)]


def _sequence(ours: Any) -> nn.Module:
    return nn.Sequential(*(layer for one in ours for layer in _layers(one)))


class PlainUNet(nn.Module):
    """(n, channels + 1, y, x) -> logits of every pixel."""

    def __init__(self, ours: Classifier) -> None:
        super().__init__()
        network: Any = ours.network
        self.frame = Frame(ours)
        self.down = nn.ModuleList(_sequence(block.layers) for block in network.contract)
        self.up = nn.ModuleList(_sequence(block.layers) for block in network.expand)
        self.head = network.head

    def forward(self, image: Tensor) -> Tensor:
        """Logits of every pixel."""
        features, skips = image, []
        for level, block in enumerate(self.down):
            features = block(functional.avg_pool2d(features, 2) if level else features)
            skips.append(features)
        for level in reversed(range(len(self.up))):
            wide = functional.interpolate(features, scale_factor=2.0, mode="nearest")
            features = self.up[level](torch.cat([wide, skips[level]], 1))
        logits: Tensor = self.head(features)
        return logits


class PlainPatch(nn.Module):
    """(n, channels + 1, y + 2 margin, x + 2 margin) -> logits (n, classes, y, x): all patches in one pass."""

    def __init__(self, ours: Classifier) -> None:
        super().__init__()
        network: Any = ours.network
        self.frame = Frame(ours)
        self.margin = int(network.margin)
        self.pixel = nn.Sequential(*_layers(network.pixel))
        self.deep = nn.ModuleList(nn.Sequential(*_layers(layer)) for layer in network.layers)
        self.mix = nn.Sequential(*_layers(network.mix))
        self.reaches = tuple(network.reaches)
        self.head = network.head

    def forward(self, image: Tensor) -> Tensor:
        """Logits of the pixels that have a whole patch."""
        features, left = image, self.margin
        seen = [self.pixel(_centre(features, left))]
        for layer, reach in zip(self.deep, self.reaches, strict=True):
            features, left = layer(features), left - reach
            seen.append(_centre(features, left))
        logits: Tensor = self.head(self.mix(torch.cat(seen, 1)))
        return logits


def _centre(features: Tensor, pixels: int) -> Tensor:
    return features[..., pixels : features.shape[-2] - pixels, pixels : features.shape[-1] - pixels]


class PlainPixel(nn.Module):
    """(n, channels + 1, y, x) -> logits of a linear network on single pixels."""

    def __init__(self, ours: Classifier) -> None:
        super().__init__()
        self.frame = Frame(ours)
        self.head: Any = ours.network

    def forward(self, image: Tensor) -> Tensor:
        """Logits of every pixel."""
        logits: Tensor = self.head(image)
        return logits
