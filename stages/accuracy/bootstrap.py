"""Confidence intervals by resampling ground blocks, because neighbouring pixels are not independent samples.

Blocks are drawn with replacement and their confusion matrices pooled (the percentile bootstrap of Efron and
Tibshirani 1993, chapter 13, with the ground block as the sampling unit).
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

REPLICATES = 2000
#: Below this many blocks a percentile interval is too narrow to be trusted.
FEW_BLOCKS = 30

Statistic = Callable[[np.ndarray], float | np.ndarray]


def resample(per_block: np.ndarray, replicates: int = REPLICATES, seed: int = 0) -> np.ndarray:
    """Pool the matrices of B blocks drawn with replacement, ``replicates`` times: (B, ..., K, K) to (R, ..., K, K).

    The draws depend on the number of blocks and the seed only, so that two models scored on the same blocks are
    resampled alike.
    """
    blocks = len(per_block)
    if blocks == 0:
        return np.zeros((replicates, *per_block.shape[1:]))
    draws = np.random.default_rng(seed).multinomial(blocks, np.full(blocks, 1.0 / blocks), size=replicates)
    # Counts below 2**53 are exact in float64, and the product runs in BLAS.
    pooled: np.ndarray = np.tensordot(draws.astype(np.float64), per_block.astype(np.float64), axes=1)
    return pooled


def interval(values: np.ndarray) -> tuple[float, float]:
    """Give the central 95 % of bootstrap values (R,), without the replicates where the statistic is undefined (NaN)."""
    known = values[~np.isnan(values)]
    if known.size == 0:
        return float("nan"), float("nan")
    low, high = np.percentile(known, (2.5, 97.5))
    return float(low), float(high)


def block_bootstrap(
    per_block: np.ndarray, statistic: Statistic, replicates: int = REPLICATES, seed: int = 0
) -> tuple[float, float]:
    """95 % interval of a statistic of the pooled matrix.

    Args:
        per_block: confusion matrix of every block (B, K, K), or several of them a block (B, ..., K, K), such as one
            for each of several assignments of blocks to folds: the statistic then gets all of a replicate (..., K, K).
        statistic: a number from one pooled matrix.
        replicates: how often the blocks are redrawn.
        seed: of the draws.
    """
    return interval(_values(resample(per_block, replicates, seed), statistic))


def paired_block_bootstrap(
    a: np.ndarray, b: np.ndarray, statistic: Statistic, replicates: int = REPLICATES, seed: int = 0
) -> tuple[float, float, float]:
    """Difference statistic(a) - statistic(b) of two models on the same blocks, and its 95 % interval.

    Both are pooled over the same draws of blocks: entry i of ``a`` and of ``b`` must be the same ground block.

    Raises:
        ValueError: the two were not scored on equally many blocks.
    """
    if len(a) != len(b):
        raise ValueError(f"a has {len(a)} blocks, b has {len(b)}: paired scores need the same blocks")
    drawn = _values(resample(a, replicates, seed), statistic) - _values(resample(b, replicates, seed), statistic)
    difference = float(statistic(a.sum(axis=0))) - float(statistic(b.sum(axis=0)))
    return (difference, *interval(drawn))


def _values(pooled: np.ndarray, statistic: Statistic) -> np.ndarray:
    return np.array([float(statistic(matrix)) for matrix in pooled])
