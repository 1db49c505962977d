"""A lightweight temporal attention encoder: which steps matter is learned, and asked once."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional

from stages.models.layers import ValidBatchNorm
from stages.models.reach import Sighted
from stages.models.series import CERTAIN, Columns, as_image, columns

#: Longest period of the positional encoding, in days over 2 pi, as in the paper.
PERIOD = 1000.0


class Dense(nn.Module):
    """Linear layer on every step, normalisation over the valid ones, rectification: (1, inputs, steps, pixels)."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.mix = nn.Conv2d(inputs, outputs, 1, bias=False)
        self.normalise = ValidBatchNorm(outputs)

    def forward(self, features: Tensor, valid: Tensor) -> Tensor:
        """Give (1, outputs, steps, pixels)."""
        return functional.relu(self.normalise(self.mix(features), valid))


class LTAE(Sighted):
    """Attention over time with one learned query a head (Garnot and Landrieu 2020).

    A pixel's bands at every step are embedded (the paper's spectral encoder, here of one pixel) and marked with
    their day by sines and cosines. Every head attends to the steps by keys of ``d_k`` features and a master query
    that is a parameter, and sums up its own ``d_model / n_head`` of the features. Missing steps get no attention.

    Takes (n, steps * bands, y, x), validity (n, steps, y, x) and days (n, steps); gives logits (n, classes, y, x).

    Raises:
        ValueError: the heads cannot share the features equally.
    """

    frequencies: Tensor
    series = True

    def __init__(
        self, bands: int, steps: int, classes: int, *, n_head: int = 16, d_k: int = 8, d_model: int = 128,
        embedding: int = 64, decoder: int = 64, dropout: float = 0.2,
    ) -> None:  # fmt: skip
        super().__init__(steps * bands, steps)
        if d_model % (2 * n_head):
            raise ValueError(
                f"d_model is {d_model}, but must be a multiple of {2 * n_head}, twice the number of heads."
            )
        self.bands, self.steps, self.heads, self.d_k = bands, steps, n_head, d_k
        self.embed = nn.ModuleList([Dense(bands, embedding), Dense(embedding, d_model)])
        self.query = nn.Parameter(torch.randn(n_head, 1, d_k) * math.sqrt(2.0 / d_k))
        self.key = nn.Parameter(torch.randn(n_head, d_k, d_model) * math.sqrt(2.0 / d_model))
        self.decode = nn.ModuleList([Dense(d_model, d_model), Dense(d_model, decoder)])
        self.drop = nn.Dropout(dropout)
        self.head = nn.Conv2d(decoder, classes, 1)
        # Every head sees all frequencies: the encoding of its group of features is the same as that of the others.
        pairs = d_model // n_head // 2
        frequencies = PERIOD ** -(torch.arange(pairs) / pairs)
        self.register_buffer("frequencies", frequencies[:, None, None, None], persistent=False)

    def forward(self, image: Tensor, valid: Tensor, days: Tensor) -> Tensor:
        """Logits of every pixel; one without any valid step gets those of the encoding of the days alone."""
        return as_image(self.of_columns(columns(image, valid, days, self.steps, self.bands)), image)

    def of_columns(self, seen: Columns) -> Tensor:
        """Logits (classes, pixels) of columns."""
        features = seen.series.flatten(2).permute(1, 0, 2)[None]
        valid = seen.valid.flatten(2).permute(1, 0, 2)[None]
        for dense in self.embed:
            features = dense(features, valid)
        pooled = self.attend(features[0], seen)
        ever = valid.amax(dim=2, keepdim=True)
        for dense in self.decode:
            pooled = self.drop(dense(pooled, ever))
        logits: Tensor = self.head(pooled)
        return logits.flatten(0, 2)

    def attend(self, features: Tensor, seen: Columns) -> Tensor:
        """Mean of the steps in every head: (d_model, steps, pixels) -> (1, d_model, 1, pixels)."""
        n = seen.days.shape[2]
        features = features.reshape(features.shape[0], self.steps, n, -1) + self.encoding(seen.days)
        # Keys are linear in the features and the query is a parameter: their product is one linear map a head.
        asked = (self.query @ self.key)[:, 0] / math.sqrt(self.d_k)
        score = (asked @ features.flatten(1)).reshape(self.heads, self.steps, -1)
        weight = functional.softmax(score - CERTAIN * (1.0 - seen.valid.flatten(1)), dim=1)
        groups = features.reshape(self.heads, -1, *score.shape[1:])
        return (weight[:, None] * groups).sum(dim=2).flatten(0, 1)[None, :, None]

    def encoding(self, days: Tensor) -> Tensor:
        """Sines and cosines of the days, for every head the same: (steps, 1, n, 1) -> (d_model, steps, n, 1)."""
        angle = days[:, 0][None] * self.frequencies
        return torch.stack([angle.sin(), angle.cos()], dim=1).flatten(0, 1).repeat(self.heads, 1, 1, 1)
