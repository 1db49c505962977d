"""Say how good a map is by one number, so that the best of several can be chosen on validation."""

from __future__ import annotations

from collections.abc import Callable
from statistics import mean
from typing import Any, Literal

import numpy as np

from stages.accuracy.confusion import confusion, scores_of

Criterion = Literal["both_accuracies", "overall_accuracy", "balanced_accuracy", "macro_f1", "loss"]
DESCRIPTION = (
    "What best on validation means; both_accuracies is the mean of overall and balanced accuracy, so that neither "
    "large nor rare classes decide alone; loss is the calibrated one"
)


def merit(scores: dict[str, Any], criterion: Criterion) -> float:
    """How good scores are by a criterion; larger is better, undefined is worst."""
    keys = {"both_accuracies": ("overall_accuracy", "balanced_accuracy")}.get(criterion, (criterion,))
    values = [scores[key] for key in keys]
    if any(value is None or np.isnan(value) for value in values):
        return -np.inf
    return float(-mean(values) if criterion == "loss" else mean(values))


def measure_of(criterion: Criterion) -> Callable[[np.ndarray, np.ndarray], float]:
    """Make the function that says how good mapped class indices (pixels,) are, given the reference ones.

    Labels alone have no loss: what would be chosen by it is chosen by overall accuracy.
    """
    by: Criterion = "overall_accuracy" if criterion == "loss" else criterion

    def measure(reference: np.ndarray, mapped: np.ndarray) -> float:
        classes = int(max(reference.max(), mapped.max())) + 1
        return merit(scores_of(confusion(reference, mapped, classes)), by)

    return measure
