"""The frame around networks for series: an image of many dates becomes columns of steps and features, and back."""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor, nn

#: Added to what decides a gate or an attention where a step is missing: its sigmoid is 1, and its exponential 0.
CERTAIN = 1e3


class Columns(NamedTuple):
    """Series side by side, a pixel a column; the axes are (step, feature, image, place in the image).

    This is the order in which an image of many dates lies in memory, so nothing is moved on the way in, and a
    step's features are the rows of one matrix that all pixels share.
    """

    #: (steps, bands, n, places), 0 where a step is missing
    series: Tensor
    #: (steps, 1, n, places), 1 or 0
    valid: Tensor
    #: (steps, 1, n, 1), days since 1 January of the first step's year
    days: Tensor


def columns(image: Tensor, valid: Tensor, days: Tensor, steps: int, bands: int) -> Columns:
    """(n, steps * bands, y, x), (n, steps, y, x) and (n, steps) -> columns; values of missing steps are set to 0."""
    n = image.shape[0]
    series = image.reshape(n, steps, bands, -1).permute(1, 2, 0, 3)
    seen = valid.reshape(n, steps, 1, -1).permute(1, 2, 0, 3)
    return Columns(series * seen, seen, days.permute(1, 0)[:, None, :, None])


def season(days: Tensor) -> Tensor:
    """Put days on the circle of the year: (steps, 1, n, 1) -> sine and cosine (steps, 2, n, 1)."""
    angle = days * (2.0 * math.pi / 365.25)
    return torch.cat([angle.sin(), angle.cos()], dim=1)


def dated(seen: Columns) -> Tensor:
    """Append the season to every step of every pixel: (steps, bands + 2, n, places)."""
    places = seen.series.shape[3]
    return torch.cat([seen.series, season(seen.days).expand(-1, -1, -1, places)], dim=1)


def linear(layer: nn.Linear, features: Tensor) -> Tensor:
    """Apply a linear layer to columns: (..., inputs, pixels) -> (..., outputs, pixels)."""
    return layer.weight @ features + layer.bias[:, None]


def as_image(logits: Tensor, image: Tensor) -> Tensor:
    """Lay columns out as the pixels they come from: (classes, n * y * x) -> (n, classes, y, x)."""
    n, _, height, width = image.shape
    return logits.reshape(-1, n, height, width).permute(1, 0, 2, 3)


def of_series(network: nn.Module, series: Tensor, valid: Tensor, days: Tensor) -> Tensor:
    """Logits (pixels, classes) of (pixels, steps, bands), (pixels, steps) and (pixels, steps): every pixel an image."""
    image = series.flatten(1)[:, :, None, None]
    logits: Tensor = network(image, valid[:, :, None, None], days)
    return logits[:, :, 0, 0]
