"""A convolutional LSTM: a memory for every pixel that also sees those of its neighbours, step by step."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from stages.models.reach import Sighted
from stages.models.series import CERTAIN


class Sweep(nn.Module):
    """One convolutional cell led over the steps, forwards or backwards (Shi et al. 2015, without peepholes).

    A missing step closes a pixel's input gate and opens its forget gate. A pixel that is never valid thus keeps
    memory and output 0, as has the ground beyond the edge: a hole in a scene and its edge look alike.
    """

    def __init__(self, inputs: int, hidden: int, kernel: int, forget_bias: float, backward: bool) -> None:
        super().__init__()
        self.hidden, self.backward = hidden, backward
        self.gates = nn.Conv2d(inputs + hidden, 4 * hidden, kernel, padding=kernel // 2)
        with torch.no_grad():
            self.gates.bias[hidden : 2 * hidden] = forget_bias  # type: ignore[index]

    def forward(self, series: Tensor, valid: Tensor) -> Tensor:
        """(n, steps, inputs, y, x) and (n, steps, 1, y, x) -> the last output (n, hidden, y, x)."""
        h = series.new_zeros(series.shape[0], self.hidden, series.shape[3], series.shape[4])
        c = h
        order = range(series.shape[1])
        for step in reversed(order) if self.backward else order:
            seen, missing = valid[:, step], CERTAIN * (1.0 - valid[:, step])
            i, f, g, o = self.gates(torch.cat([series[:, step], h], dim=1)).chunk(4, dim=1)
            c = (f + missing).sigmoid() * c + (i - missing).sigmoid() * g.tanh()
            h = seen * (o.sigmoid() * c.tanh()) + (1.0 - seen) * h
        return h


class ConvLSTM(Sighted):
    """A convolutional LSTM over dated images, read after the last step (Shi et al. 2015).

    The input of a step is its bands, its validity and the sine and cosine of its day of the year, all of them 0
    where it is missing. With ``bidirectional`` a second cell goes from the last step to the first.

    Takes (n, steps * bands, y, x), validity (n, steps, y, x) and days (n, steps); gives logits (n, classes, y, x).

    Raises:
        ValueError: an even kernel, which has no middle.
    """

    series = True

    def __init__(
        self, bands: int, steps: int, classes: int, *, hidden: int = 32, kernel: int = 3,
        bidirectional: bool = False, dropout: float = 0.1, forget_bias: float = 1.0,
    ) -> None:  # fmt: skip
        super().__init__(steps * bands, steps)
        if kernel % 2 == 0:
            raise ValueError(f"kernel is {kernel}, but must be odd, so that a pixel is in the middle.")
        self.bands, self.steps = bands, steps
        ways = (False, True) if bidirectional else (False,)
        self.sweeps = nn.ModuleList(Sweep(bands + 3, hidden, kernel, forget_bias, back) for back in ways)
        self.drop = nn.Dropout2d(dropout)
        self.head = nn.Conv2d(hidden * len(ways), classes, 1)

    def forward(self, image: Tensor, valid: Tensor, days: Tensor) -> Tensor:
        """Logits of every pixel; beyond the image's edge is taken as invalid."""
        n, _, height, width = image.shape
        bands = image.reshape(n, self.steps, self.bands, height, width)
        seen = valid[:, :, None]
        angle = (days * (2.0 * math.pi / 365.25))[:, :, None, None, None]
        season = torch.cat([angle.sin(), angle.cos(), torch.ones_like(angle)], dim=2)
        series = torch.cat([bands * seen, season * seen], dim=2)
        outputs = torch.cat([sweep(series, seen) for sweep in self.sweeps], dim=1)
        logits: Tensor = self.head(self.drop(outputs))
        return logits
