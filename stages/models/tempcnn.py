"""A temporal convolutional network: filters that slide along the series of a pixel."""

from __future__ import annotations

from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn import functional

from stages.models.layers import ValidBatchNorm
from stages.models.reach import Sighted
from stages.models.series import Columns, as_image, columns, dated


class TempCNN(Sighted):
    """Three convolutions in time, a dense layer and the classes (Pelletier, Webb and Petitjean 2019).

    As in the paper every layer is normalised over the batch, rectified and thinned by dropout, and nothing is
    pooled, so that it matters when something happens. The paper's series have no gaps: here a missing step is 0
    with its validity as one more band, and pixels without any valid step are not counted in the normalisation.
    All pixels are columns of one picture that is as high as the series is long, which one convolution goes over.

    Takes (n, steps * bands, y, x), validity (n, steps, y, x) and days (n, steps); gives logits (n, classes, y, x).
    Steps are taken to be regular; ``calendar`` appends the sine and cosine of the day of the year where they are not.
    """

    series = True

    def __init__(
        self, bands: int, steps: int, classes: int, *, filters: int = 64, kernel: int = 5, layers: int = 3,
        dense: int = 256, dropout: float = 0.5, calendar: bool = False,
    ) -> None:  # fmt: skip
        super().__init__(steps * bands, steps)
        self.bands, self.steps, self.calendar = bands, steps, calendar
        inputs = [bands + 1 + 2 * calendar, *[filters] * layers]
        self.convolve = nn.ModuleList(
            nn.Conv2d(a, b, (kernel, 1), padding=(kernel // 2, 0), bias=False) for a, b in pairwise(inputs)
        )
        self.normalise = nn.ModuleList(ValidBatchNorm(filters) for _ in range(layers))
        self.dense = nn.Conv2d(filters, dense, (steps, 1), bias=False)
        self.normalise_dense = ValidBatchNorm(dense)
        self.drop = nn.Dropout(dropout)
        self.head = nn.Conv2d(dense, classes, 1)

    def forward(self, image: Tensor, valid: Tensor, days: Tensor) -> Tensor:
        """Logits of every pixel."""
        return as_image(self.of_columns(columns(image, valid, days, self.steps, self.bands)), image)

    def of_columns(self, seen: Columns) -> Tensor:
        """Logits (classes, pixels) of columns."""
        series = torch.cat([dated(seen) if self.calendar else seen.series, seen.valid], dim=1)
        features = series.flatten(2).permute(1, 0, 2)[None]
        ever = seen.valid.flatten(2).amax(dim=0)[None, None]
        counted = ever.expand(-1, -1, self.steps, -1)
        for convolve, normalise in zip(self.convolve, self.normalise, strict=True):
            features = self.drop(functional.relu(normalise(convolve(features), counted)))
        features = self.drop(functional.relu(self.normalise_dense(self.dense(features), ever)))
        logits: Tensor = self.head(features)
        return logits.flatten(0, 2)
