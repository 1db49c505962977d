"""Find the rare classes of the training labels, and how much of each there is: patches and blocks, not pixels alone."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from stages.errors import LabelError
from stages.formats.samples import Role, Samples
from stages.formats.tiles import Tiles
from stages.training.ground import Ground


@dataclass(frozen=True)
class Stock:
    """What the training labels hold of one class.

    Neighbouring pixels are nearly copies of one another, so what a class can teach is counted in connected ``patches``
    and in the ground ``blocks`` they lie in.
    """

    name: str
    pixels: int
    patches: int
    blocks: int


def rare_classes(pixels: np.ndarray, below: float) -> list[int]:
    """List the classes with labels whose share of all of them is below ``below``, the rarest first; (class,)."""
    shares = pixels / max(pixels.sum(), 1)
    return [int(label) for label in np.argsort(shares, kind="stable") if 0 < shares[label] < below]


def stocks_of(tiles: Tiles, samples: Samples, fold: int | None, classes: Sequence[int]) -> list[Stock]:
    """Count what the training labels of a fold hold of some classes; each sample of a table is a patch of its own."""
    places: dict[int, list[np.ndarray]] = {label: [np.empty((0, 3), np.int64)] for label in classes}
    blocks: dict[int, set[int]] = {label: set() for label in classes}
    for one in samples.each_season():
        for _, _, window in tiles.grid.tiles():
            target = np.where(one.roles(fold, window) == Role.TRAIN, one.read("target", window), len(samples.classes))
            if not np.isin(target, classes).any():
                continue
            block = one.read("block", window)
            for label in classes:
                row, col = np.nonzero(target == label)
                season = np.full(len(row), one.season)
                places[label].append(np.stack([season, row + window.row, col + window.col], axis=1))
                blocks[label].update(block[row, col].tolist())
    found = []
    for label in classes:
        pixels = np.concatenate(places[label])
        patches = len(pixels) if tiles.is_table else connected(pixels)
        found.append(Stock(samples.classes[label], len(pixels), patches, len(blocks[label])))
    return found


def connected(places: np.ndarray) -> int:
    """Count the groups of pixels that touch at a side or a corner; season, row and column (n, 3)."""
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import connected_components

    if not len(places):
        return 0
    season, row, col = (part - part.min() for part in places.astype(np.int64).T)
    # Numbers row by row, with a free column and row between what does not touch.
    wide, high = int(col.max()) + 2, int(row.max()) + 2
    number = np.sort((season * high + row) * wide + col)
    first, second = [], []
    for step in (1, wide - 1, wide, wide + 1):
        at = np.minimum(np.searchsorted(number, number + step), len(number) - 1)
        touching = number[at] == number + step
        first.append(np.flatnonzero(touching))
        second.append(at[touching])
    edges = np.concatenate(first), np.concatenate(second)
    graph = coo_array((np.ones(len(edges[0]), bool), edges), shape=(len(number), len(number)))
    return int(connected_components(graph, directed=False)[0])


def refuse_too_rare(stocks: Sequence[Stock], patches: int, blocks: int) -> None:
    """See that a generator has enough of every class to learn from.

    Raises:
        LabelError: a class has fewer patches or blocks.
    """
    for stock in stocks:
        if stock.patches < patches or stock.blocks < blocks:
            raise LabelError(
                f"Class {stock.name} has {stock.patches} patches in {stock.blocks} training blocks ({stock.pixels} "
                f"pixels), too few for augment.method gan, which needs at least {patches} patches in {blocks} blocks; "
                "label more of it, merge it with another class, name other classes in augment.rare, or take method "
                "oversample."
            )


def draw_pixels(ground: Ground, label: int, most: int, rng: np.random.Generator) -> np.ndarray:
    """Draw at most ``most`` training pixels of a class, without repetition: season, row and column, int64 (n, 3)."""
    counts = ground.cells[:, label]
    taken = rng.multivariate_hypergeometric(counts, min(most, int(counts.sum())), method="marginals")
    found = [np.empty((0, 3), np.int64)]
    for slot in np.flatnonzero(taken):
        inside = rng.choice(np.flatnonzero(ground.labels[slot] == label), size=taken[slot], replace=False)
        season, row, col = ground.places[slot]
        y, x = np.divmod(np.sort(inside), ground.side)
        found.append(np.stack([np.full(len(y), season), row * ground.side + y, col * ground.side + x], axis=1))
    return np.concatenate(found)
