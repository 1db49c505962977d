"""Draw batches of whole chips of a collection, every chip once before any comes again."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from stages.formats.samples import UNLABELLED
from stages.training.chips import Batch, Chips
from stages.training.ground import Ground, Place
from stages.training.recipes import Recipe


class WholeChips(Chips):
    """The batches of one epoch, each of the chips in its own cell, with its label at the middle pixel.

    In a share ``rare`` of the chips a class is drawn first, and any chip of it.
    """

    def __init__(self, ground: Ground, recipe: Recipe, seed: int, epoch: int) -> None:
        super().__init__(ground, recipe, seed, epoch)
        self._labelled = np.flatnonzero(ground.cells.any(axis=1))
        self._kind = ground.cells[self._labelled].argmax(axis=1)
        rng = np.random.default_rng((*self.seed, len(self._labelled)))
        rounds = -(-recipe.steps * recipe.batch // len(self._labelled))
        self._turn = np.concatenate([rng.permutation(len(self._labelled)) for _ in range(rounds)])

    def __getitem__(self, step: int) -> Batch:
        """Draw a batch; wherever the chip was moved to, its label stays in the middle."""
        image, valid, days, labels = super().__getitem__(step)
        of_chip = labels.where(labels != UNLABELLED, 0).amax(dim=(1, 2))
        there, middle = (labels != UNLABELLED).any(dim=2).any(dim=1), self.ground.side // 2
        labels.fill_(UNLABELLED)
        labels[:, middle, middle] = of_chip.where(there, UNLABELLED)
        return image, valid, days, labels

    def _places(self, rng: np.random.Generator, step: int) -> Iterator[Place]:
        for one in self._turn[step * self.recipe.batch :][: self.recipe.batch].tolist():
            chosen = one
            if rng.random() < self.recipe.rare:
                chosen = int(rng.choice(np.flatnonzero(self._kind == rng.choice(self._classes))))
            season, row, col = self.ground.places[self._labelled[chosen]].tolist()
            yield season, row * self.ground.side, col * self.ground.side


def drawn(ground: Ground, recipe: Recipe, seed: int, epoch: int) -> Chips:
    """Draw whole chips where the area is a collection of them, and chips around labelled pixels elsewhere."""
    kind = Chips if ground.split.tiles.cells is None else WholeChips
    return kind(ground, recipe, seed, epoch)
