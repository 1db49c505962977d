"""Expected calibration error: how far stated probabilities are from the shares that come true.

Top-label error: Guo et al., On Calibration of Modern Neural Networks, ICML 2017. Classwise error: Kull et al.,
Beyond temperature scaling, NeurIPS 2019. Both from equal-width bins, summed up so that pixels can come in portions.
"""

from __future__ import annotations

import numpy as np

BINS = 15


def bin_sums(probabilities: np.ndarray, reference: np.ndarray, bins: int = BINS) -> np.ndarray:
    """Sum up what both errors need: portions of pixels may be added to one another.

    Args:
        probabilities: (n, K), summing to 1 over the classes.
        reference: class index of every pixel (n,).
        bins: number of equal-width bins over 0..1; a bin holds its upper edge.

    Returns:
        float64 (K + 1, bins, 3): pixels, sum of probabilities and hits in every bin, of every class and, last, of
        the top label.
    """
    pixels, classes = probabilities.shape
    top = probabilities.argmax(axis=1)
    sums = [_one(probabilities[:, k], reference == k, bins) for k in range(classes)]
    sums.append(_one(probabilities[np.arange(pixels), top], reference == top, bins))
    return np.stack(sums)


def top_label_error(sums: np.ndarray) -> float:
    """Give the error of the top label: |share right - mean confidence|, averaged over the pixels' bins."""
    return _error(sums[-1])


def classwise_error(sums: np.ndarray) -> float:
    """Classwise expected calibration error: the mean over the classes of each class's own error."""
    return float(np.mean([_error(one) for one in sums[:-1]]))


def _one(probability: np.ndarray, hit: np.ndarray, bins: int) -> np.ndarray:
    place = np.clip(np.ceil(probability * bins).astype(np.int64) - 1, 0, bins - 1)
    columns = (None, probability, hit)
    return np.stack([np.bincount(place, weights, bins).astype(np.float64) for weights in columns], axis=1)


def _error(sums: np.ndarray) -> float:
    """Weighted mean gap of one row of bins (bins, 3); NaN without pixels."""
    pixels, stated, right = sums.T
    return float(np.abs(right - stated).sum() / pixels.sum()) if pixels.sum() else float("nan")
