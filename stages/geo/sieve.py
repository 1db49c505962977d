"""Merge patches smaller than a true ground area into their largest neighbour."""

from __future__ import annotations

import numpy as np


def sieve(classes: np.ndarray, row_hectares: np.ndarray, minimum: float, nodata: int = 255) -> np.ndarray:
    """Give every patch below ``minimum`` hectares the class of its largest neighbour.

    A patch is a 4-connected set of pixels of one class. Nodata is no neighbour and never changes, so a small patch
    with nothing but nodata around it stays. Merging repeats until no patch below the minimum has a neighbour. In one
    round every small patch points to the largest of its neighbours (of two equal ones the first in reading order)
    if that one is larger than itself, and takes the class at the end of its chain: the result depends on no order.

    Args:
        classes: uint8 (y, x).
        row_hectares: true area of one pixel of every row, float64 (y,), hectares.
        minimum: hectares; 0 changes nothing.
        nodata: value of pixels outside the map.
    """
    sieved = classes.copy()
    while minimum > 0:
        patches, kinds = label_patches(sieved, nodata)
        areas = np.bincount(patches.ravel(), np.repeat(row_hectares, classes.shape[1]), minlength=len(kinds))
        target = _targets(_borders(patches), areas, minimum)
        if (target == np.arange(len(kinds))).all():
            break
        sieved = kinds[target][patches]
    return sieved


def label_patches(classes: np.ndarray, nodata: int = 255) -> tuple[np.ndarray, np.ndarray]:
    """Give every 4-connected patch of one class a number.

    Returns:
        the number of every pixel's patch, int32 (y, x), 0 on nodata; and the class of every number.
    """
    from scipy.ndimage import label

    patches = np.zeros(classes.shape, np.int32)
    kinds = [np.array([nodata], classes.dtype)]
    total = 0
    for kind in np.unique(classes[classes != nodata]):
        here = classes == kind
        numbered, count = label(here)
        patches[here] = numbered[here] + total
        kinds.append(np.full(count, kind, classes.dtype))
        total += count
    return patches, np.concatenate(kinds)


def _borders(patches: np.ndarray) -> np.ndarray:
    """Find every pair of different patches that share a pixel edge, both ways round, nodata left out: (pairs, 2)."""
    pairs = []
    for first, second in ((patches[:, :-1], patches[:, 1:]), (patches[:-1], patches[1:])):
        touching = (first != second) & (first > 0) & (second > 0)
        pairs.append(np.stack([first[touching], second[touching]], axis=1))
    one_way = np.unique(np.concatenate(pairs), axis=0)
    return np.concatenate([one_way, one_way[:, ::-1]])


def _targets(borders: np.ndarray, areas: np.ndarray, minimum: float) -> np.ndarray:
    """Find the patch that every patch merges into; itself where it stays."""
    number = np.arange(len(areas))
    # Rank by area, the earlier patch first among equals: a strict order, so that chains cannot close to a circle.
    rank = np.empty(len(areas), np.int64)
    rank[np.lexsort((-number, areas))] = number
    small = borders[(areas[borders[:, 0]] < minimum) & (rank[borders[:, 1]] > rank[borders[:, 0]])]
    best = np.full(len(areas), -1, np.int64)
    np.maximum.at(best, small[:, 0], rank[small[:, 1]])
    by_rank = np.empty(len(areas), np.int64)
    by_rank[rank] = number
    target = np.where(best >= 0, by_rank[best], number)
    while True:
        further = target[target]
        if (further == target).all():
            return target
        target = further
