"""Vary training chips: moved through albumentations, values by random gain, offset and noise, series along time."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from stages.formats.samples import UNLABELLED
from stages.models.views import VIEWS, seen
from stages.training.recipes import DatedRecipe, Recipe

#: Image (c, y, x), valid (step, y, x) and labels (y, x).
Chip = tuple[np.ndarray, np.ndarray, np.ndarray]


def moves(recipe: Recipe) -> bool:
    """Whether a recipe moves the pixels of its chips."""
    return recipe.turn or recipe.rotate > 0 or recipe.zoom > 0


def mover(recipe: Recipe) -> Any:
    """Make what moves a chip at random as the recipe says, none where it stays as it is; applied by `move`."""
    if not moves(recipe):
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


def move(transform: Any, chip: Chip, seed: int, steps: Sequence[int] = (0,)) -> Chip:
    """Move a chip's image (c, y, x), validity (step, y, x) and labels (y, x) alike; the same seed moves the same way.

    ``steps`` is the step of every channel, or of all of them. Values between pixels are interpolated over the valid
    ones; a pixel is valid where at least half of it is.
    """
    image, valid, labels = chip
    transform.set_random_seed(seed)
    of_channel = np.broadcast_to(np.asarray(steps), len(image))
    if [type(step).__name__ for step in transform.transforms] == ["D4"]:
        shown = valid if valid.shape[0] == 1 else valid[of_channel]
        hidden = np.where(shown, image, np.float32(0.0)), valid, np.where(valid.any(axis=0), labels, UNLABELLED)
        view = _drawn(transform)
        return seen(hidden[0], *view), seen(hidden[1], *view), seen(hidden[2], *view)
    # albumentations reads a last axis as channels and clips no values where it only moves pixels.
    layers = np.concatenate([np.where(valid[of_channel], image, np.float32(0.0)), valid.astype(np.float32)])
    moved = transform(image=np.ascontiguousarray(layers.transpose(1, 2, 0)), masks=[labels])
    values, (found,) = moved["image"].transpose(2, 0, 1), moved["masks"]
    share = values[len(image) :]
    usable = share >= 0.5
    image = values[: len(image)] / np.maximum(share, np.float32(0.5))[of_channel]
    image = np.where(usable[of_channel], image, np.float32(0.0))
    return image, usable, np.where(usable.any(axis=0), found, np.uint8(UNLABELLED))


def _drawn(turn: Any) -> tuple[int, bool]:
    """Let albumentations draw a turn and find out which of the `VIEWS` it is.

    A chip that is turned here costs a third of one that goes through albumentations as a pile of channels.
    """
    corners = np.arange(4, dtype=np.float32).reshape(2, 2)
    found = turn(image=corners[..., None])["image"][..., 0]
    return next(view for view in VIEWS if np.array_equal(seen(corners, *view), found))


class Channels(NamedTuple):
    """What the channels of a series are: step and band of each (c,), and deviation in tile units (1, c, 1, 1)."""

    steps: Tensor
    bands: Tensor
    deviation: Tensor

    def beside(self, steps: int) -> tuple[Tensor, Tensor]:
        """Find the channel of the same band so many steps later: its place, and whether there is one, both (c,)."""
        same = (self.bands[:, None] == self.bands[None]) & (self.steps[:, None] + steps == self.steps[None])
        return same.to(torch.int64).argmax(dim=1), same.any(dim=1)


def vary_series(
    series: tuple[Tensor, Tensor, Tensor], recipe: DatedRecipe, channels: Channels, draw: torch.Generator
) -> tuple[Tensor, Tensor]:
    """Vary series as other years and other weather would: values earlier or later, brighter or darker, dates missing.

    Args:
        series: image (n, c, y, x) in tile units, before normalisation, valid (n, step, y, x) and days (n, step).
        recipe: how much of each; all is alike at all dates of a chip, but for the dropped ones, never all of them.
        channels: by whose deviation the offset is measured.
        draw: where chance comes from.

    Returns:
        The image and its validity, varied; a dropped date is invalid in the whole chip.
    """
    image, valid, days = series
    count, steps = days.shape
    if recipe.jitter > 0:
        apart = recipe.jitter * (2.0 * torch.rand((count, 1), generator=draw) - 1.0)
        image = moved(image, valid, days, apart.to(days), channels)
    if recipe.drop > 0:
        kept = torch.rand((count, steps), generator=draw) >= recipe.drop * torch.rand((count, 1), generator=draw) * 2
        kept |= torch.arange(steps)[None] == torch.randint(steps, (count, 1), generator=draw)
        valid = valid * kept[:, :, None, None].to(valid)
    bands = channels.bands.cpu()
    shape = (count, int(bands.max()) + 1)
    if recipe.gain > 0:
        factor = 1.0 + recipe.gain * torch.randn(shape, generator=draw)[:, bands, None, None]
        image = image * factor.to(image)
    if recipe.offset > 0:
        summand = recipe.offset * torch.randn(shape, generator=draw)[:, bands, None, None]
        image = image + summand.to(image) * channels.deviation
    return image, valid


def moved(image: Tensor, valid: Tensor, days: Tensor, apart: Tensor, channels: Channels) -> Tensor:
    """Read every series (n, c, y, x) a number of days later, ``apart`` (n, 1), negative for earlier.

    A value lies on the line between its date and the next one, at most that of the next; it stays where either is
    missing.
    """
    for direction in (1, -1):
        place, there = channels.beside(direction)
        neighbour, usable = image[:, place], there[:, None, None] & (valid[:, channels.steps[place]] > 0)
        usable = usable & (valid[:, channels.steps] > 0)
        gap = (days[:, channels.steps[place]] - days[:, channels.steps]).abs().clamp(min=1e-3)
        share = (direction * apart).clamp(min=0.0) / gap
        weight = share.clamp(max=1.0)[:, :, None, None] * usable
        image = torch.where(weight > 0, image + weight * (neighbour - image), image)
    return image


def vary(image: Tensor, valid: Tensor, recipe: Recipe, draw: torch.Generator) -> Tensor:
    """Gain, offset and noise on normalised channels (n, c, y, x), valid alike; what is invalid stays 0."""
    count, channels = image.shape[:2]
    # A series has had its gain and offset before normalisation.
    if recipe.gain > 0 and not isinstance(recipe, DatedRecipe):
        image = image * (1.0 + recipe.gain * torch.randn((count, channels, 1, 1), generator=draw).to(image))
    if recipe.offset > 0 and not isinstance(recipe, DatedRecipe):
        image = image + recipe.offset * torch.randn((count, channels, 1, 1), generator=draw).to(image)
    if recipe.noise > 0:
        image = image + recipe.noise * torch.randn(image.shape, generator=draw).to(image)
    return image * valid


def hide(valid: Tensor, share: float, draw: torch.Generator) -> Tensor:
    """Hide a rectangle of an eighth to a half of the side in a ``share`` of the chips: validity (n, step, y, x)."""
    valid = valid.clone()
    count, _, height, width = valid.shape
    for chip in torch.nonzero(torch.rand(count, generator=draw) < share).flatten().tolist():
        high, wide = (int(torch.randint(s // 8, s // 2 + 1, (1,), generator=draw)) for s in (height, width))
        top = int(torch.randint(0, height - high + 1, (1,), generator=draw))
        left = int(torch.randint(0, width - wide + 1, (1,), generator=draw))
        valid[chip, :, top : top + high, left : left + wide] = 0.0
    return valid
