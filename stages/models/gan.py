"""A generative adversarial network whose samples have a class: vectors, series or chips (Goodfellow et al. 2014).

One generator and one discriminator serve all three; only the layers between two sizes differ. A sample is a vector
(features,), a series (steps, bands) or a chip (channels, y, x).
"""

from __future__ import annotations

from itertools import pairwise
from math import prod
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.utils.parametrizations import spectral_norm

from stages.models.sides import NORMS, double, halve, keep, layout, widths

Conditioning = Literal["projection", "concatenation"]


class ConditionalNorm(nn.Module):
    """Batch normalisation whose gain and shift are those of the class (Dumoulin, Shlens and Kudlur 2017).

    Vectors are given gain and shift alone: where a sample is a few numbers, those of the rest of its batch blur it.
    """

    def __init__(self, channels: int, classes: int, sides: int) -> None:
        super().__init__()
        self.normalise = NORMS[sides](channels, affine=False) if sides else nn.Identity()
        self.gain = nn.Embedding(classes, channels)
        self.shift = nn.Embedding(classes, channels)
        nn.init.ones_(self.gain.weight)
        nn.init.zeros_(self.shift.weight)

    def forward(self, features: Tensor, labels: Tensor) -> Tensor:
        """(n, channels, *sides) and (n,) -> (n, channels, *sides)."""
        every = (..., *[None] * (features.ndim - 2))
        normal: Tensor = self.normalise(features) * self.gain(labels)[every] + self.shift(labels)[every]
        return normal


class Generator(nn.Module):
    """Noise and a class in, a sample out (Radford, Metz and Chintala 2016; Mirza and Osindero 2014).

    The class is told twice: beside the noise, and in every normalisation. What comes out is in the network's own
    units; ``centre`` and ``scale`` lead back to those of the data.
    """

    centre: Tensor
    scale: Tensor

    def __init__(
        self, shape: tuple[int, ...], classes: int, latent: int = 64, width: int = 64, bounded: bool = False
    ) -> None:
        super().__init__()
        channels, sides = layout(shape)
        wide = widths(width, sides)[::-1]
        self.shape, self.latent, self.classes, self.bounded = tuple(shape), latent, classes, bounded
        self.start = [-(-side // 2 ** (len(wide) - 1)) for side in sides]
        self.embed = nn.Embedding(classes, latent)
        self.first = nn.Linear(2 * latent, wide[0] * prod(self.start))
        self.norms = nn.ModuleList(ConditionalNorm(channels, classes, len(sides)) for channels in wide)
        self.layers = nn.ModuleList(double(len(sides), a, b) for a, b in pairwise(wide))
        self.layers.append(keep(len(sides), wide[-1], channels))
        self.register_buffer("centre", torch.zeros(channels, *[1] * len(sides)))
        self.register_buffer("scale", torch.ones(channels, *[1] * len(sides)))

    def forward(self, noise: Tensor, labels: Tensor) -> Tensor:
        """(n, latent) and int64 (n,) -> (n, channels, *sides) in the network's units, within -1 and 1 if bounded."""
        features = self.first(torch.cat([noise, self.embed(labels)], dim=1)).unflatten(1, (-1, *self.start))
        for norm, layer in zip(self.norms, self.layers, strict=True):
            features = layer(functional.relu(norm(features, labels)))
        # Sides that are no multiple of the coarsest pixel are made a little too long.
        for axis, side in enumerate(layout(self.shape)[1], start=2):
            features = features.narrow(axis, 0, side)
        return torch.tanh(features) if self.bounded else features

    def scaled(self, samples: Tensor) -> Tensor:
        """Bring samples (n, *shape) to the network's axes and units: (n, channels, *sides)."""
        axes = samples.transpose(1, 2) if len(self.shape) == 2 else samples
        return (axes - self.centre) / self.scale

    def unscaled(self, features: Tensor) -> Tensor:
        """Undo `scaled`."""
        samples = features * self.scale + self.centre
        return samples.transpose(1, 2) if len(self.shape) == 2 else samples


class Discriminator(nn.Module):
    """Sample and class in, a score out: high for real ones of that class, low for drawn ones.

    The class enters as a projection of the last features (Miyato and Koyama 2018), or as one-hot channels beside the
    sample (Mirza and Osindero 2014). Spectral normalisation keeps the score from rising faster than the sample
    changes (Miyato et al. 2018).
    """

    def __init__(
        self, shape: tuple[int, ...], classes: int, width: int = 64, conditioning: Conditioning = "projection",
        spectral: bool = True,
    ) -> None:  # fmt: skip
        super().__init__()
        limit: Any = spectral_norm if spectral else lambda layer: layer
        channels, sides = layout(shape)
        self.classes, self.projects = classes, conditioning == "projection"
        wide = widths(width, sides)
        inputs = [channels if self.projects else channels + classes, *wide[1:]]
        self.layers = nn.ModuleList(limit(halve(len(sides), a, b)) for a, b in pairwise(inputs))
        ends = [side >> (len(wide) - 1) for side in sides]
        self.mix = limit(nn.Linear(inputs[-1] * prod(ends), wide[-1]))
        self.score = limit(nn.Linear(wide[-1], 1))
        self.of_class = limit(nn.Embedding(classes, wide[-1])) if self.projects else None

    def forward(self, features: Tensor, labels: Tensor) -> Tensor:
        """(n, channels, *sides) in the generator's units and int64 (n,) -> scores (n,)."""
        if self.of_class is None:
            told = functional.one_hot(labels, self.classes).to(features)[(..., *[None] * (features.ndim - 2))]
            features = torch.cat([features, told.expand(-1, -1, *features.shape[2:])], dim=1)
        for layer in self.layers:
            features = functional.leaky_relu(layer(features), 0.2)
        features = functional.leaky_relu(self.mix(features.flatten(1)), 0.2)
        score: Tensor = self.score(features)[:, 0]
        return score if self.of_class is None else score + (features * self.of_class(labels)).sum(dim=1)
