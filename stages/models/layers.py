"""Layers that know which pixels are valid, so that a scene's edge and a hole in it are the same thing to a network."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, distributed, nn
from torch.nn import functional


def mask_pyramid(valid: Tensor, depth: int) -> list[Tensor]:
    """Halve the validity again and again: a coarse pixel is valid where any of its fine ones is; (n, 1, y, x) each."""
    masks = [valid]
    for _ in range(depth):
        masks.append(functional.max_pool2d(masks[-1], 2))
    return masks


def halve(features: Tensor, valid: Tensor) -> Tensor:
    """Average the valid pixels of every 2 x 2 square: (n, c, y, x) -> (n, c, y/2, x/2)."""
    return functional.avg_pool2d(features * valid, 2) / functional.avg_pool2d(valid, 2).clamp(min=0.25)


def double(features: Tensor) -> Tensor:
    """Repeat every pixel in a 2 x 2 square: the inverse of `halve` on constant squares."""
    return functional.interpolate(features, scale_factor=2.0, mode="nearest")


class _Summed(torch.autograd.Function):
    """Sum over the processes of a training; each one's share of the gradient is the sum of all gradients of the sum."""

    @staticmethod
    def forward(_: Any, values: Tensor) -> Tensor:
        total = values.clone()
        distributed.all_reduce(total)
        return total

    @staticmethod
    def backward(_: Any, gradient: Tensor) -> Tensor:
        total = gradient.clone(memory_format=torch.contiguous_format)
        distributed.all_reduce(total)
        return total


def summed(values: Tensor) -> Tensor:
    """Sum over all processes that train the same network, or give the values themselves where there is one."""
    several = distributed.is_available() and distributed.is_initialized() and distributed.get_world_size() > 1
    total: Tensor = _Summed.apply(values) if several else values
    return total


class ValidBatchNorm(nn.Module):
    """Batch normalisation whose statistics are of the valid pixels only (after Ioffe and Szegedy 2015).

    Of several processes that share a batch, each normalises by the statistics of the whole.

    A training chip at the rim of the training blocks may be mostly hidden; with the ordinary layer the hidden
    zeros would enter mean and deviation, and a map, where nothing is hidden, would be read on another scale.
    """

    mean: Tensor
    variance: Tensor

    def __init__(self, channels: int, momentum: float = 0.05) -> None:
        super().__init__()
        self.gain = nn.Parameter(torch.ones(channels))
        self.shift = nn.Parameter(torch.zeros(channels))
        self.momentum = momentum
        self.register_buffer("mean", torch.zeros(channels))
        self.register_buffer("variance", torch.ones(channels))

    def forward(self, features: Tensor, valid: Tensor) -> Tensor:
        """Normalise (n, c, y, x) by the batch in training and by the running statistics afterwards."""
        mean, variance = self._batch(features, valid) if self.training else (self.mean, self.variance)
        gain = self.gain * torch.rsqrt(variance + 1e-5)
        return features * gain[None, :, None, None] + (self.shift - mean * gain)[None, :, None, None]

    def _batch(self, features: Tensor, valid: Tensor) -> tuple[Tensor, Tensor]:
        count = summed(valid.sum()).clamp(min=1.0)
        mean = summed((features * valid).sum((0, 2, 3))) / count
        variance = summed(((features - mean[None, :, None, None]).square() * valid).sum((0, 2, 3))) / count
        with torch.no_grad():
            self.mean.lerp_(mean, self.momentum)
            self.variance.lerp_(variance, self.momentum)
        return mean, variance


class Convolution(nn.Module):
    """Convolution, normalisation over valid pixels, rectification; what is invalid stays 0."""

    def __init__(self, inputs: int, outputs: int, side: int, dilation: int = 1, padded: bool = True) -> None:
        super().__init__()
        reach = dilation * (side // 2)
        self.convolve = nn.Conv2d(inputs, outputs, side, padding=reach if padded else 0, dilation=dilation, bias=False)
        self.normalise = ValidBatchNorm(outputs)

    def forward(self, features: Tensor, valid: Tensor) -> Tensor:
        """(n, inputs, y, x) -> (n, outputs, y, x), or smaller by the reach on every side where not padded."""
        return functional.relu(self.normalise(self.convolve(features), valid)) * valid
