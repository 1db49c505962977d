"""Draw batches of training chips around labelled pixels, the same ones for the same seed, epoch and step."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from stages.formats.samples import UNLABELLED
from stages.training import augmentation
from stages.training.ground import Ground
from stages.training.recipes import Recipe

Batch = tuple[Tensor, Tensor, Tensor]


class Chips(Dataset[Batch]):
    """The batches of one epoch: image (n, c, y, x), valid (n, 1, y, x) and labels int64 (n, y, x).

    A labelled pixel is drawn (any with the same chance, or in a share ``rare`` of the chips a class first), and
    the chip is laid so that the pixel falls anywhere in its middle half. Sparse points and dense maps alike.
    """

    def __init__(self, ground: Ground, recipe: Recipe, seed: int, epoch: int) -> None:
        self.ground = ground
        self.recipe = recipe
        self.seed = (seed, epoch)
        self._mover = augmentation.mover(recipe)
        counts = ground.counts[tuple(ground.places.T)].astype(np.float64)
        self._cells = counts.sum(axis=1).cumsum()
        self._cells_of = counts.cumsum(axis=0)
        self._classes = np.flatnonzero(counts.sum(axis=0) > 0)

    def __len__(self) -> int:
        return self.recipe.steps

    def __getitem__(self, step: int) -> Batch:
        if not 0 <= step < len(self):
            raise IndexError(step)
        rng = np.random.default_rng((*self.seed, step))
        chips = [self._chip(rng) for _ in range(self.recipe.batch)]
        images, valids, labels = (np.stack(arrays) for arrays in zip(*chips, strict=True))
        return (
            torch.from_numpy(images),
            torch.from_numpy(valids[:, None].astype(np.float32)),
            torch.from_numpy(labels.astype(np.int64)),
        )

    def _chip(self, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        row, col = self._pixel(rng)
        size = self.recipe.chip
        low, high = size // 4, size - size // 4
        down, right = (int(step) for step in rng.integers(low, high, size=2))
        image, valid, labels = self.ground.cut(row - down, col - right, size)
        if self._mover is not None:
            seed = int(rng.integers(2**31))
            image, valid, labels = augmentation.move(self._mover, image, valid, labels, seed)
        return image, valid, labels

    def _pixel(self, rng: np.random.Generator) -> tuple[int, int]:
        """Row and column on the grid of one labelled pixel."""
        ground = self.ground
        if rng.random() < self.recipe.rare:
            wanted = int(rng.choice(self._classes))
            slot = _draw(self._cells_of[:, wanted], rng)
            candidates = np.flatnonzero(ground.labels[slot] == wanted)
        else:
            slot = _draw(self._cells, rng)
            candidates = np.flatnonzero(ground.labels[slot] != UNLABELLED)
        y, x = divmod(int(rng.choice(candidates)), ground.side)
        return int(ground.places[slot, 0]) * ground.side + y, int(ground.places[slot, 1]) * ground.side + x


def _draw(cumulated: np.ndarray, rng: np.random.Generator) -> int:
    """Draw an index with a chance proportional to its weight, from cumulated weights."""
    return int(np.searchsorted(cumulated, rng.random() * cumulated[-1], side="right"))
