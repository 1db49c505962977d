"""Lay synthetic samples side by side in the chips of a batch, so that a network learns from them as from any chip."""

from __future__ import annotations

import numpy as np

from stages.formats.samples import UNLABELLED
from stages.formats.synthetic import Synthetic

#: Image (n, channel, y, x), valid (n, step, y, x), labels (n, y, x) and season (n,) of a batch.
Room = tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]


class Mosaic:
    """Chips that are squares of samples, each labelled at its middle pixel, from where a network sees it alone.

    All samples of a chip are of one season. A chip is a mosaic by chance, as often as makes the labels of samples as
    frequent among those of real chips as there are samples among the labelled pixels, but in at most a share
    ``synthetic.share`` of the chips.
    """

    def __init__(self, synthetic: Synthetic, chip: int, labelled: int, density: float) -> None:
        """Prepare mosaics of ``chip`` pixels a side.

        Args:
            synthetic: samples no wider than a chip.
            chip: side of the chips in pixels.
            labelled: real labelled pixels of the training ground.
            density: share of the pixels of a real chip that have a label.
        """
        assert synthetic.side <= chip, f"a sample of {synthetic.side} pixels is wider than a chip of {chip}"
        self.synthetic = synthetic
        self.across = chip // synthetic.side
        samples, real = len(synthetic) * chip**2 * density, labelled * self.across**2
        self.chance = min(synthetic.share, samples / (samples + real))
        self._of_season = {
            int(season): np.flatnonzero(synthetic.season == season) for season in np.unique(synthetic.season)
        }

    def lay(self, rng: np.random.Generator, room: Room) -> None:
        """Put mosaics in the place of some chips of a batch."""
        for at in np.flatnonzero(rng.random(len(room[0])) < self.chance):
            season = int(self.synthetic.season[rng.integers(len(self.synthetic))])
            picked = rng.choice(self._of_season[season], self.across**2)
            self._lay(picked, tuple(array[at] for array in room[:3]))
            room[3][at] = season

    def _lay(self, picked: np.ndarray, chip: tuple[np.ndarray, ...]) -> None:
        """Write one mosaic over image (channel, y, x), valid (step, y, x) and labels (y, x)."""
        side, rim, wide = self.synthetic.side, self.synthetic.side // 2, self.across * self.synthetic.side
        image, valid, labels = chip
        for target, values in ((image, self.synthetic.image[picked]), (valid, self.synthetic.valid[picked])):
            target[:] = 0
            grid = values.reshape(self.across, self.across, -1, side, side)
            target[:, :wide, :wide] = grid.transpose(2, 0, 3, 1, 4).reshape(-1, wide, wide)
        labels[:] = UNLABELLED
        middle = slice(rim, wide, side)
        named = self.synthetic.labels[picked].reshape(self.across, self.across)
        labels[middle, middle] = np.where(valid[:, middle, middle].any(axis=0), named, np.uint8(UNLABELLED))
