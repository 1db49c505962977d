"""Confusion matrices and the agreement measures that are read from them.

Rows are the reference, columns the map. Every measure takes one matrix (K, K) or a stack of them (..., K, K) and
reduces the last two axes. A measure without a denominator (a class that is nowhere) is NaN, never 0 or 1.
"""

from __future__ import annotations

from typing import Any

import numpy as np


def confusion(reference: np.ndarray, predicted: np.ndarray, classes: int) -> np.ndarray:
    """Count pairs of class indices: int64 (K, K), rows = reference, columns = mapped.

    Pixels whose reference or prediction is not one of 0..classes-1 (nodata, unlabelled, dropped) are left out.
    """
    counts: np.ndarray = confusion_by_group(reference, predicted, np.zeros(np.shape(reference), int), classes, 1)[0]
    return counts


def confusion_by_group(
    reference: np.ndarray, predicted: np.ndarray, group: np.ndarray, classes: int, groups: int
) -> np.ndarray:
    """Count pairs of class indices apart for every group 0..groups-1: int64 (groups, K, K)."""
    known = (reference < classes) & (predicted < classes)
    cell = group[known].astype(np.int64) * classes + reference[known]
    cell = cell * classes + predicted[known]
    return np.bincount(cell, minlength=groups * classes * classes).reshape(groups, classes, classes)


def overall_accuracy(matrix: np.ndarray) -> np.ndarray:
    """Share of the pixels on the diagonal."""
    return _ratio(_diagonal(matrix).sum(-1), matrix.sum((-2, -1)))


def recall(matrix: np.ndarray) -> np.ndarray:
    """Share of every reference class that is mapped as itself (producer's accuracy): (..., K)."""
    return _ratio(_diagonal(matrix), matrix.sum(-1))


def precision(matrix: np.ndarray) -> np.ndarray:
    """Share of every mapped class that is itself in the reference (user's accuracy): (..., K)."""
    return _ratio(_diagonal(matrix), matrix.sum(-2))


def f1(matrix: np.ndarray) -> np.ndarray:
    """Harmonic mean of precision and recall, as 2 TP / (2 TP + FP + FN): (..., K)."""
    return _ratio(2 * _diagonal(matrix), matrix.sum(-1) + matrix.sum(-2))


def iou(matrix: np.ndarray) -> np.ndarray:
    """Intersection over union of every class, TP / (TP + FP + FN): (..., K)."""
    return _ratio(_diagonal(matrix), matrix.sum(-1) + matrix.sum(-2) - _diagonal(matrix))


def balanced_accuracy(matrix: np.ndarray) -> np.ndarray:
    """Mean recall of the classes that have reference pixels."""
    return _mean_of_known(recall(matrix))


def macro_f1(matrix: np.ndarray) -> np.ndarray:
    """Mean F1 of the classes that are in the reference or in the map."""
    return _mean_of_known(f1(matrix))


def kappa(matrix: np.ndarray) -> np.ndarray:
    """Agreement beyond chance, (po - pe) / (1 - pe) (Cohen 1960)."""
    total = matrix.sum((-2, -1))
    observed = _ratio(_diagonal(matrix).sum(-1), total)
    chance = _ratio((matrix.sum(-1) * matrix.sum(-2)).sum(-1), total.astype(np.float64) ** 2)
    return _ratio(observed - chance, 1.0 - chance)


#: Measures of a whole matrix.
OVERALL = {
    "overall_accuracy": overall_accuracy,
    "balanced_accuracy": balanced_accuracy,
    "macro_f1": macro_f1,
    "kappa": kappa,
}
#: Measures of every class of a matrix.
BY_CLASS = {"precision": precision, "recall": recall, "f1": f1, "iou": iou}


def scores_of(matrix: np.ndarray) -> dict[str, Any]:
    """Every measure of one matrix: floats of `OVERALL`, and lists of K floats of `BY_CLASS`; NaN where undefined."""
    scores: dict[str, Any] = {name: float(measure(matrix)) for name, measure in OVERALL.items()}
    return scores | {name: measure(matrix).tolist() for name, measure in BY_CLASS.items()}


def _diagonal(matrix: np.ndarray) -> np.ndarray:
    return np.diagonal(matrix, axis1=-2, axis2=-1)


def _ratio(part: np.ndarray, whole: np.ndarray) -> np.ndarray:
    """Divide, with NaN where there is nothing to divide by."""
    part, whole = np.broadcast_arrays(np.asarray(part, np.float64), np.asarray(whole, np.float64))
    quotient: np.ndarray = np.divide(part, whole, out=np.full(part.shape, np.nan), where=whole != 0)
    return quotient


def _mean_of_known(values: np.ndarray) -> np.ndarray:
    """Mean over the last axis of the entries that are not NaN."""
    known = ~np.isnan(values)
    return _ratio(np.where(known, values, 0.0).sum(-1), known.sum(-1))
