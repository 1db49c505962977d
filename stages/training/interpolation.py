"""Synthetic minority oversampling: points between a sample and one of its nearest neighbours (Chawla et al. 2002)."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np


class Between(NamedTuple):
    """Which two rows each point lies between, int64 (n,) both, and how far from the first: float32 (n,) in 0..1."""

    first: np.ndarray
    second: np.ndarray
    share: np.ndarray

    def of(self, values: np.ndarray) -> np.ndarray:
        """Interpolate values (rows, ...) at every point: (n, ...)."""
        share = self.share.reshape(-1, *[1] * (values.ndim - 1))
        found: np.ndarray = values[self.first] + share * (values[self.second] - values[self.first])
        return found


def between_neighbours(rows: np.ndarray, count: int, neighbours: int, rng: np.random.Generator) -> Between:
    """Draw ``count`` points on the lines between rows of one class and their nearest neighbours.

    Every row is taken equally often, to within one, as in the paper; its neighbour and the place on the line are
    drawn evenly. Distances are taken over features in units of their deviation.

    Args:
        rows: samples of one class (n, features), at least two.
        count: points to draw.
        neighbours: how many neighbours a row has; fewer where there are fewer rows.
        rng: where chance comes from.
    """
    from sklearn.neighbors import NearestNeighbors

    assert len(rows) > 1, "between one sample and itself there is nothing to draw"
    spread = rows.std(axis=0)
    scaled = rows / np.where(spread > 0, spread, 1.0)
    nearest = NearestNeighbors(n_neighbors=min(neighbours, len(rows) - 1)).fit(scaled).kneighbors(return_distance=False)
    rounds = [rng.permutation(len(rows)) for _ in range(-(-count // len(rows)))]
    first = np.concatenate([np.empty(0, np.int64), *rounds])[:count]
    second = nearest[first, rng.integers(nearest.shape[1], size=count)]
    return Between(first, second, rng.random(count, dtype=np.float32))
