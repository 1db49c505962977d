"""Label the training ground that bears no label by what a trained network is sure of: pseudo-labels (Lee 2013).

Only ground that a training may see is labelled: pixels of the training blocks, of no other label, and as far from
what is held out as labels must be. The cells of the training ground are looked at, those with labels and their
neighbours, so that memory does not grow with the scene.

How sure a network is depends on a pixel's values alone, and choosing pixels by their values leaves the chances of the
classes at given values as they are. So the guesses count in the class shares that a model is corrected to: a correction
to the shares of the labels would take every class to be chosen alike from all of its pixels.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import nn
from torch.nn import functional

from stages.errors import LeakError, SettingError
from stages.formats.samples import UNLABELLED, Role, Samples
from stages.geo.blocks import smallest_sides
from stages.geo.grid import Window
from stages.training.ground import Ground, Split, cell_window
from stages.training.splits import halo, held_out, near, parts_of

#: Surroundings of a cell that a network is shown at most, as in `stages.training.held`.
FARTHEST = 64
_logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class GuessedSplit(Split):
    """A split whose training labels are joined by guesses: a file of class index + 1, uint8 (season, y, x), 0 none."""

    file: Path = Path()

    def read_training(self, window: Window) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """As of `Split`, the guesses among the labels.

        Raises:
            LeakError: a guess lies where the training must not look.
        """
        image, valid, labels = super().read_training(window)
        guesses = np.load(self.file, mmap_mode="r")[(self.tiles.season, *window.slices)]
        if ((guesses > 0) & (~valid.any(axis=0) | (labels != UNLABELLED))).any():
            raise LeakError("Pseudo-labels lie on held-out ground or on labels; remove the unfinished work of `train`.")
        return image, valid, np.where(guesses > 0, guesses - np.uint8(1), labels)


def guessed(ground: Ground, network: nn.Module, threshold: float, folder: Path) -> Ground:
    """Lay the training ground out anew, with the network's labels where its probability is at least ``threshold``.

    Args:
        ground: as labelled.
        network: logits (n, class, y, x) of image, valid and days in tile units, in evaluation mode.
        threshold: least probability of the class that is named.
        folder: where the guesses are written.

    Raises:
        SettingError: the area is a table of series or a collection of chips, where there is no ground without a label.
    """
    split = ground.split
    if split.tiles.is_table or split.tiles.cells:
        kind = "a table of series" if split.tiles.is_table else "a collection of chips"
        raise SettingError(
            f"pseudo labels the ground between the labels, but the area is {kind}, which has none; set pseudo to 0."
        )
    folder.mkdir(parents=True, exist_ok=True)
    file = folder / "guesses.npy"
    # Sparse on the disk: nothing is written where nothing is guessed.
    guesses = np.lib.format.open_memmap(file, "w+", np.uint8, (split.tiles.seasons, *split.tiles.grid.shape))
    may, counts = 0, np.zeros(split.classes, np.int64)
    for season, row, col in ground.places.tolist():
        one, window = ground.seasons[season], cell_window(row, col, ground.side, split.tiles.grid)
        open_to_guess = unlabelled(one.samples, one.fold, window, split)
        if not open_to_guess.any():
            continue
        likely, valid = _answer(ground, network, (season, window.row, window.col))
        high, wide = open_to_guess.shape
        chance, kind = likely[:, :high, :wide].max(axis=0), likely[:, :high, :wide].argmax(axis=0)
        open_to_guess &= valid[:high, :wide]
        sure = open_to_guess & (chance >= threshold)
        guesses[(season, *window.slices)][sure] = kind[sure].astype(np.uint8) + 1
        may += int(open_to_guess.sum())
        counts += np.bincount(kind[sure], minlength=split.classes)
    guesses.flush()
    told = ", ".join(f"{name} {n}" for name, n in zip(split.samples.classes, counts, strict=True))
    _logger.info(
        "pseudo-labels: %d of %d unlabelled pixels at a confidence of %g (%s), beside %d labels", counts.sum(), may,
        threshold, told, ground.pixels().sum(),
    )  # fmt: skip
    made = GuessedSplit(split.tiles, split.samples, split.channels, split.fold, file)
    return Ground(made, ground.side, folder).mixed(ground.synthetic).mixed(ground.synthetic)


def unlabelled(samples: Samples, fold: int | None, window: Window, split: Split) -> np.ndarray:
    """Pixels that a guess may label: of the training blocks, without any label, far enough from held-out ground.

    Returns:
        bool (y, x).
    """
    grid, buffer = split.tiles.grid, float(samples.summary["buffer"])
    outer = window.padded(halo(grid, buffer), grid)
    held = held_out(samples.apart(outer), samples.read("block", outer), parts_of(samples, fold))
    close = near(held, smallest_sides(grid, outer), buffer)[window.within(outer)]
    free = (samples.read("target", window) == UNLABELLED) & (samples.roles(fold, window) == Role.NONE)
    found: np.ndarray = free & samples.training_mask(fold, window) & ~close
    return found


def _answer(ground: Ground, network: nn.Module, place: tuple[int, int, int]) -> tuple[np.ndarray, np.ndarray]:
    """Probabilities (class, side, side) of one cell seen as a training sees it, and where it is valid."""
    season, row, col = place
    members = getattr(network, "members", [network])
    margin, stride = int(members[0].network.margin), int(members[0].network.stride)
    around = -(-min(margin, FARTHEST) // stride) * stride
    image, valid, _ = ground.cut(season, row - around, col - around, ground.side + 2 * around)
    device = next(network.buffers()).device
    shown = [torch.from_numpy(array)[None].to(device).float() for array in (image, valid, ground.days[season])]
    with torch.no_grad():
        likely = functional.softmax(network(*shown)[0].float(), dim=0).cpu().numpy()
    inner = slice(around, around + ground.side)
    return likely[:, inner, inner], np.asarray(valid.any(axis=0))[inner, inner]
