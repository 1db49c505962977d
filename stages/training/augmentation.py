"""Vary training chips: turns and mirrorings through albumentations, and values by random gain, offset and noise."""

from __future__ import annotations

import os
from typing import Any

import numpy as np
import torch
from torch import Tensor

from stages.training.recipes import Recipe


def turner() -> Any:
    """One of the eight turns and mirrorings of the square, drawn by `turn`."""
    # albumentations asks its publisher for a newer version on import unless told not to.
    os.environ["NO_ALBUMENTATIONS_UPDATE"] = "1"
    import albumentations

    return albumentations.Compose([albumentations.D4(p=1.0)])


def turn(transform: Any, image: np.ndarray, masks: list[np.ndarray], seed: int) -> tuple[np.ndarray, list[np.ndarray]]:
    """Turn a chip (c, y, x) and its masks (y, x) alike; the same seed turns the same way."""
    transform.set_random_seed(seed)
    # albumentations reads a last axis as channels and clips no values where it only moves pixels.
    turned = transform(image=np.ascontiguousarray(image.transpose(1, 2, 0)), masks=masks)
    return turned["image"].transpose(2, 0, 1), list(turned["masks"])


def vary(image: Tensor, valid: Tensor, recipe: Recipe, draw: torch.Generator) -> Tensor:
    """Gain, offset and noise on normalised channels (n, c, y, x); what is invalid stays 0."""
    count, channels = image.shape[:2]
    if recipe.gain > 0:
        image = image * (1.0 + recipe.gain * torch.randn((count, channels, 1, 1), generator=draw).to(image))
    if recipe.offset > 0:
        image = image + recipe.offset * torch.randn((count, channels, 1, 1), generator=draw).to(image)
    if recipe.noise > 0:
        image = image + recipe.noise * torch.randn(image.shape, generator=draw).to(image)
    return image * valid


def hide(valid: Tensor, share: float, draw: torch.Generator) -> Tensor:
    """Hide a rectangle of an eighth to a half of the side in a ``share`` of the chips: validity (n, 1, y, x)."""
    valid = valid.clone()
    count, _, height, width = valid.shape
    for chip in torch.nonzero(torch.rand(count, generator=draw) < share).flatten().tolist():
        high, wide = (int(torch.randint(s // 8, s // 2 + 1, (1,), generator=draw)) for s in (height, width))
        top = int(torch.randint(0, height - high + 1, (1,), generator=draw))
        left = int(torch.randint(0, width - wide + 1, (1,), generator=draw))
        valid[chip, :, top : top + high, left : left + wide] = 0.0
    return valid
