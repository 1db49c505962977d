"""An autoencoder of vectors, series or chips: a code from which the sample can be told again.

Dense for vectors (Hinton and Salakhutdinov 2006), convolutional for series and chips (Masci et al. 2011).
"""

from __future__ import annotations

from itertools import pairwise
from math import prod

from torch import Tensor, nn
from torch.nn import functional

from stages.models.sides import NORMS, double, halve, keep, layout, widths


class Encoder(nn.Module):
    """Sample in, code out: (n, *shape) -> (n, code)."""

    def __init__(self, shape: tuple[int, ...], code: int = 32, width: int = 32) -> None:
        super().__init__()
        channels, sides = layout(shape)
        wide = widths(width, sides)
        self.shape = tuple(shape)
        self.layers = nn.ModuleList([keep(len(sides), channels, wide[0])])
        self.layers.extend(halve(len(sides), a, b) for a, b in pairwise(wide))
        self.norms = nn.ModuleList(NORMS[len(sides)](outputs) for outputs in [wide[0], *wide[1:]])
        self.code = nn.Linear(wide[-1] * prod(side >> (len(wide) - 1) for side in sides), code)

    def forward(self, samples: Tensor) -> Tensor:
        """Give the codes."""
        features = samples.transpose(1, 2) if len(self.shape) == 2 else samples
        for layer, norm in zip(self.layers, self.norms, strict=True):
            features = functional.relu(norm(layer(features)))
        code: Tensor = self.code(features.flatten(1))
        return code


class Decoder(nn.Module):
    """Code in, sample out: (n, code) -> (n, *shape)."""

    def __init__(self, shape: tuple[int, ...], code: int = 32, width: int = 32) -> None:
        super().__init__()
        channels, sides = layout(shape)
        wide = widths(width, sides)[::-1]
        self.shape = tuple(shape)
        self.start = [-(-side // 2 ** (len(wide) - 1)) for side in sides]
        self.first = nn.Linear(code, wide[0] * prod(self.start))
        self.norms = nn.ModuleList(NORMS[len(sides)](outputs) for outputs in wide)
        self.layers = nn.ModuleList(double(len(sides), a, b) for a, b in pairwise(wide))
        self.layers.append(keep(len(sides), wide[-1], channels))

    def forward(self, code: Tensor) -> Tensor:
        """Give the samples."""
        features: Tensor = self.first(code).unflatten(1, (-1, *self.start))
        for norm, layer in zip(self.norms, self.layers, strict=True):
            features = layer(functional.relu(norm(features)))
        # Sides that are no multiple of the coarsest pixel are made a little too long.
        for axis, side in enumerate(layout(self.shape)[1], start=2):
            features = features.narrow(axis, 0, side)
        return features.transpose(1, 2) if len(self.shape) == 2 else features


class Autoencoder(nn.Module):
    """Encoder and decoder; trained without a label, the encoder is where a classifier can start from.

    Samples are expected centred and scaled, as squared errors of all values count alike.
    """

    def __init__(self, shape: tuple[int, ...], code: int = 32, width: int = 32) -> None:
        super().__init__()
        self.encoder = Encoder(shape, code, width)
        self.decoder = Decoder(shape, code, width)

    def forward(self, samples: Tensor) -> Tensor:
        """Give every sample as its code tells it: (n, *shape) -> (n, *shape)."""
        told: Tensor = self.decoder(self.encoder(samples))
        return told


class EncoderClassifier(nn.Module):
    """An encoder with a linear readout of its code: (n, *shape) -> logits (n, classes)."""

    def __init__(self, encoder: Encoder, classes: int) -> None:
        super().__init__()
        self.encoder = encoder
        self.head = nn.Linear(encoder.code.out_features, classes)

    def forward(self, samples: Tensor) -> Tensor:
        """Give the logits."""
        logits: Tensor = self.head(functional.relu(self.encoder(samples)))
        return logits
