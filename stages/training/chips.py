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

Batch = tuple[Tensor, Tensor, Tensor, Tensor]


class Chips(Dataset[Batch]):
    """The batches of one epoch: image (n, c, y, x), valid (n, step, y, x), days (n, step) and labels int64 (n, y, x).

    A labelled pixel is drawn (any with the same chance, or in a share ``rare`` of the chips a class first), and
    the chip is laid so that the pixel falls anywhere in its middle half. Sparse points and dense maps alike. A chip of
    one pixel is the pixel itself.
    """

    def __init__(self, ground: Ground, recipe: Recipe, seed: int, epoch: int) -> None:
        self.ground = ground
        self.recipe = recipe
        self.seed = (seed, epoch)
        self._mover = augmentation.mover(recipe)
        counts = ground.cells.astype(np.float64)
        self._cells = counts.sum(axis=1).cumsum()
        self._cells_of = counts.cumsum(axis=0)
        self._classes = np.flatnonzero(counts.sum(axis=0) > 0)
        single = recipe.chip == 1
        #: Cell, row and column of every labelled pixel, none where chips are larger.
        self._places = np.argwhere(ground.labels != UNLABELLED) if single else np.empty((0, 3), np.int64)
        self._order = _rounds(len(self._places), recipe.steps * recipe.batch, self.seed) if single else np.empty(0)

    def __len__(self) -> int:
        return self.recipe.steps

    def __getitem__(self, step: int) -> Batch:
        if not 0 <= step < len(self):
            raise IndexError(step)
        rng = np.random.default_rng((*self.seed, step))
        single = len(self._places) > 0
        images, valids, labels, seasons = self._pixels(rng, step) if single else self._chips(rng)
        return (
            torch.from_numpy(images),
            torch.from_numpy(valids.astype(np.float32)),
            torch.from_numpy(self.ground.days[seasons]),
            torch.from_numpy(labels.astype(np.int64)),
        )

    def _chips(self, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
        chips = [self._chip(rng) for _ in range(self.recipe.batch)]
        images, valids, labels, seasons = (np.stack(arrays) for arrays in zip(*chips, strict=True))
        return images, valids, labels, seasons

    def _chip(self, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray, np.ndarray, int]:
        season, row, col = self._pixel(rng)
        size = self.recipe.chip
        low, high = size // 4, size - size // 4
        down, right = (int(step) for step in rng.integers(low, high, size=2))
        image, valid, labels = self.ground.cut(season, row - down, col - right, size)
        if self._mover is not None:
            seed = int(rng.integers(2**31))
            chip = image, valid, labels
            image, valid, labels = augmentation.move(self._mover, chip, seed, self.ground.split.steps)
        return image, valid, labels, season

    def _pixels(self, rng: np.random.Generator, step: int) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
        """Draw single labelled pixels, all at once; in an epoch none comes again before all others came."""
        ground = self.ground
        slot, y, x = self._places[self._order[step * self.recipe.batch :][: self.recipe.batch]].T
        rare = rng.random(self.recipe.batch) < self.recipe.rare
        for place in np.flatnonzero(rare):
            of_class = int(rng.choice(self._classes))
            slot[place] = _draw(self._cells_of[:, of_class], rng)
            candidates = np.flatnonzero(ground.labels[slot[place]] == of_class)
            y[place], x[place] = divmod(int(rng.choice(candidates)), ground.side)
        image = ground.image[slot, :, y, x][:, :, None, None]
        valid, labels = ground.valid[slot, :, y, x][:, :, None, None], ground.labels[slot, y, x][:, None, None]
        return image, valid, labels, ground.places[slot, 0]

    def _pixel(self, rng: np.random.Generator) -> tuple[int, int, int]:
        """Season, row and column on the grid of one labelled pixel."""
        ground = self.ground
        if rng.random() < self.recipe.rare:
            wanted = int(rng.choice(self._classes))
            slot = _draw(self._cells_of[:, wanted], rng)
            candidates = np.flatnonzero(ground.labels[slot] == wanted)
        else:
            slot = _draw(self._cells, rng)
            candidates = np.flatnonzero(ground.labels[slot] != UNLABELLED)
        y, x = divmod(int(rng.choice(candidates)), ground.side)
        season, row, col = (int(place) for place in ground.places[slot])
        return season, row * ground.side + y, col * ground.side + x


def _rounds(count: int, wanted: int, seed: tuple[int, ...]) -> np.ndarray:
    """Put ``count`` places in random order, again and again until there are as many as wanted: int64 (wanted,)."""
    rng = np.random.default_rng(seed)
    if count > wanted:
        return rng.choice(count, size=wanted, replace=False)
    rounds = [rng.permutation(count) for _ in range(-(-wanted // max(count, 1)))]
    return np.concatenate(rounds)[:wanted]


def _draw(cumulated: np.ndarray, rng: np.random.Generator) -> int:
    """Draw an index with a chance proportional to its weight, from cumulated weights."""
    return int(np.searchsorted(cumulated, rng.random() * cumulated[-1], side="right"))
