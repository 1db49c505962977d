"""Labelled pixels of a sample area as arrays, for the lectures that need a real map."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from pipeline.config import Area

#: Sides in pixels of the windows whose means and deviations make context.
WINDOWS = (3, 7, 15)
#: Folds of every cross-validation of the course.
FOLDS = 5


@dataclass(frozen=True)
class Labelled:
    """The labelled valid pixels of an area.

    ``values`` float32 (pixel, feature), one feature a channel; ``context`` float32 (pixel, feature), with means and
    deviations in windows; ``labels`` int64 (pixel,); ``block`` int64 (pixel,), its ground block; ``place`` int64
    (pixel, 2), row and column; ``target`` int64 (y, x), -1 without a label; ``image`` float32 (channel, y, x);
    ``valid`` bool (y, x).
    """

    values: np.ndarray
    context: np.ndarray
    labels: np.ndarray
    block: np.ndarray
    place: np.ndarray
    target: np.ndarray
    image: np.ndarray
    valid: np.ndarray
    classes: tuple[str, ...]
    channels: tuple[str, ...]
    bands: tuple[str, ...]
    steps: tuple[str, ...]

    def some(self, count: int, seed: int) -> Labelled:
        """Draw at most so many of the pixels at random."""
        if count >= len(self.labels):
            return self
        picked = np.sort(np.random.default_rng(seed).choice(len(self.labels), count, replace=False))
        drawn = {name: getattr(self, name)[picked] for name in ("values", "context", "labels", "block", "place")}
        return replace(self, **drawn)

    def folds(self, by: str, seed: int) -> np.ndarray:
        """Deal the pixels to `FOLDS` folds, by ``block`` (blocks stay whole) or at ``random``: int64 (pixel,)."""
        rng = np.random.default_rng(seed)
        if by == "random":
            return rng.permutation(len(self.labels)) % FOLDS
        blocks, number = np.unique(self.block, return_inverse=True)
        dealt: np.ndarray = (rng.permutation(len(blocks)) % FOLDS)[number.ravel()]
        return dealt


def bring_up(root: Path, area: str, stage: str = "all") -> Area:
    """Fetch a sample area and bring a stage of it, or all, up to date, as `terrastage run` does."""
    from pipeline.config import load_area
    from pipeline.fetch import fetch
    from pipeline.lock import held
    from pipeline.runner import run

    opened = load_area(root, area)
    with held(opened.data / ".lock", f"area {area}", "terrastage course", True):
        if opened.settings.sample:
            fetch(opened.settings.sample, opened.root)
        run(opened, stage)
    return opened


def labelled(root: Path, area: str) -> Labelled:
    """Bring a sample area up to its labels, as `terrastage run label` does, and read them.

    Args:
        root: folder of configs/ and data/.
        area: name of the area.
    """
    from stages.formats.samples import UNLABELLED, Samples
    from stages.formats.tiles import Tiles

    data = bring_up(root, area, "label").data
    tiles, samples = Tiles(data / "tiles"), Samples(data / "samples")
    whole = tiles.grid.whole
    image, by_step = tiles.read_channels(whole)
    valid: np.ndarray = np.asarray(by_step.all(axis=0))
    target = samples.read("target", whole)
    seen = valid & (target != UNLABELLED) & (target < len(samples.classes))
    return Labelled(
        image[:, seen].T.copy(), context_of(image, valid)[:, seen].T.copy(), target[seen].astype(np.int64),
        samples.read("block", whole)[seen].astype(np.int64), np.argwhere(seen),
        np.where(seen, target.astype(np.int64), -1), image, valid, samples.classes, tiles.channels,
        tiles.bands, tiles.dates,
    )  # fmt: skip


def context_of(image: np.ndarray, valid: np.ndarray) -> np.ndarray:
    """Append the mean and deviation of every channel in windows: float32 (channel, y, x) -> (feature, y, x)."""
    import torch

    from stages.models.context import Context

    whole = torch.from_numpy(np.concatenate([np.where(valid, image, 0), valid[None]]).astype(np.float32))[None]
    found: np.ndarray = Context(len(image), WINDOWS)(whole)[0].numpy()
    return found
