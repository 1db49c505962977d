"""Vary training chips: moved through albumentations, and values by random gain, offset and noise."""

from __future__ import annotations

import os
from typing import Any

import numpy as np
import torch
from torch import Tensor

from stages.formats.samples import UNLABELLED
from stages.training.recipes import Recipe


def mover(recipe: Recipe) -> Any:
    """Make what moves a chip at random as the recipe says, none where it stays as it is; applied by `move`."""
    if not (recipe.turn or recipe.rotate or recipe.zoom):
        return None
    # albumentations asks its publisher for a newer version on import unless told not to.
    os.environ["NO_ALBUMENTATIONS_UPDATE"] = "1"
    import albumentations
    import cv2

    steps: list[Any] = [albumentations.D4(p=1.0)] if recipe.turn else []
    if recipe.rotate or recipe.zoom:
        steps.append(albumentations.Affine(
            rotate=(-recipe.rotate, recipe.rotate), scale=(1.0 / (1.0 + recipe.zoom), 1.0 + recipe.zoom),
            keep_ratio=True, interpolation=cv2.INTER_LINEAR, mask_interpolation=cv2.INTER_NEAREST, fill=0,
            fill_mask=UNLABELLED, p=1.0,
        ))  # fmt: skip
    return albumentations.Compose(steps)


def move(
    transform: Any, image: np.ndarray, valid: np.ndarray, labels: np.ndarray, seed: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Move a chip (c, y, x), its validity and its labels (y, x) alike; the same seed moves the same way.

    Values between pixels are interpolated over the valid ones; a pixel is valid where at least half of it is.
    """
    transform.set_random_seed(seed)
    # albumentations reads a last axis as channels and clips no values where it only moves pixels.
    layers = np.concatenate([np.where(valid, image, np.float32(0.0)), valid[None].astype(np.float32)])
    moved = transform(image=np.ascontiguousarray(layers.transpose(1, 2, 0)), masks=[labels])
    values, (found,) = moved["image"].transpose(2, 0, 1), moved["masks"]
    share = values[-1]
    usable = share >= 0.5
    image = np.where(usable, values[:-1] / np.maximum(share, np.float32(0.5)), np.float32(0.0))
    return image, usable, np.where(usable, found, np.uint8(UNLABELLED))


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
