"""Count how a map meets its reference, block by block and portion by portion, and sum it up as scores."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np

from stages.accuracy.bootstrap import FEW_BLOCKS, interval, resample
from stages.accuracy.calibration_error import bin_sums, classwise_error, top_label_error
from stages.accuracy.confusion import BY_CLASS, OVERALL, confusion_by_group

INNER, BOUNDARY = 0, 1


@dataclass(frozen=True)
class Answers:
    """Reference pixels and what a model says of them, all (n,) but for the probabilities.

    A reference of ``classes`` or more is a class that the map does not have: whatever is mapped there is wrong.
    """

    reference: np.ndarray
    predicted: np.ndarray
    probabilities: np.ndarray  # (n, K)
    block: np.ndarray
    boundary: np.ndarray  # bool: another reference class lies within the 3 x 3 neighbourhood
    hectares: np.ndarray


@dataclass(frozen=True)
class Tally:
    """Counts of some pixels; `merged` adds those of others.

    blocks    int64 (b,)           ground blocks, ascending
    matrices  int64 (b, 2, K, K)   confusion of inner and of boundary pixels of every block
    dropped   int64 (b,)           pixels of every block whose class the map does not have
    hectares  float64 (2, K)       reference and mapped area of every class
    bins      float64 (K+1, n, 3)  see `calibration_error.bin_sums`
    """

    blocks: np.ndarray
    matrices: np.ndarray
    dropped: np.ndarray
    hectares: np.ndarray
    bins: np.ndarray


def tally(answers: Answers, bins: int) -> Tally:
    """Count one portion of pixels."""
    classes = answers.probabilities.shape[1]
    known = answers.reference < classes
    blocks, place = np.unique(answers.block, return_inverse=True)
    group = place * 2 + answers.boundary
    matrices = confusion_by_group(answers.reference, answers.predicted, group, classes, 2 * len(blocks))
    hectares = [
        np.bincount(found[known], answers.hectares[known], classes) for found in (answers.reference, answers.predicted)
    ]
    return Tally(
        blocks=blocks.astype(np.int64),
        matrices=matrices.reshape(len(blocks), 2, classes, classes),
        dropped=np.bincount(place[~known], minlength=len(blocks)),
        hectares=np.stack(hectares),
        bins=bin_sums(answers.probabilities[known], answers.reference[known], bins),
    )


def merged(tallies: Iterable[Tally]) -> Tally:
    """Add tallies up, in the order given; a block may be in several of them."""
    all_of = list(tallies)
    blocks, place = np.unique(np.concatenate([one.blocks for one in all_of]), return_inverse=True)
    matrices = np.zeros((len(blocks), *all_of[0].matrices.shape[1:]), np.int64)
    dropped = np.zeros(len(blocks), np.int64)
    np.add.at(matrices, place, np.concatenate([one.matrices for one in all_of]))
    np.add.at(dropped, place, np.concatenate([one.dropped for one in all_of]))
    hectares, bins = sum(one.hectares for one in all_of), sum(one.bins for one in all_of)
    return Tally(blocks, matrices, dropped, np.asarray(hectares), np.asarray(bins))


def scores(found: Tally, names: tuple[str, ...], replicates: int, seed: int) -> dict[str, Any]:
    """Sum a tally up: every measure with its 95 % interval from resampling blocks; NaN where undefined."""
    drawn, drawn_dropped = (resample(counts, replicates, seed) for counts in (found.matrices, found.dropped))
    whole, drawn_whole = found.matrices.sum(axis=(0, 1)), drawn.sum(axis=1)
    with_dropped = [
        _share_right(whole, found.dropped.sum()),
        *interval(_share_right(drawn_whole, drawn_dropped)),
    ]
    return {
        **_overall(whole, drawn_whole),
        "ece": top_label_error(found.bins),
        "classwise_ece": classwise_error(found.bins),
        "overall_accuracy_with_dropped": _spread(*with_dropped),
        "classes": _by_class(whole, found.hectares, names),
        "intervals": _class_intervals(drawn_whole, names),
        "inner": _part(found.matrices[:, INNER], drawn[:, INNER]),
        "boundary": _part(found.matrices[:, BOUNDARY], drawn[:, BOUNDARY]),
        "confusion": whole.tolist(),
    }


def warning_of(blocks: int) -> str | None:
    """Say so where there are too few blocks for an interval to be trusted."""
    if blocks >= FEW_BLOCKS:
        return None
    return f"only {blocks} ground blocks were scored: below {FEW_BLOCKS}, the intervals are too narrow to be trusted"


def _part(per_block: np.ndarray, drawn: np.ndarray) -> dict[str, Any]:
    whole = per_block.sum(axis=0)
    return {"pixels": int(whole.sum()), **_overall(whole, drawn)}


def _overall(whole: np.ndarray, drawn: np.ndarray) -> dict[str, Any]:
    return {name: _spread(float(measure(whole)), *interval(measure(drawn))) for name, measure in OVERALL.items()}


def _spread(value: float, low: float, high: float) -> dict[str, float]:
    return {"value": float(value), "low": low, "high": high}


def _share_right(matrix: np.ndarray, dropped: np.ndarray) -> Any:
    """Overall accuracy where pixels of dropped classes count as errors."""
    right = np.trace(matrix, axis1=-2, axis2=-1)
    pixels = matrix.sum(axis=(-2, -1)) + dropped
    return np.where(pixels > 0, right / np.maximum(pixels, 1), np.nan)


def _by_class(whole: np.ndarray, hectares: np.ndarray, names: tuple[str, ...]) -> dict[str, dict[str, float]]:
    measures = {name: measure(whole) for name, measure in BY_CLASS.items()}
    reference, mapped = hectares
    return {
        name: {
            **{measure: float(values[k]) for measure, values in measures.items()},
            "pixels": int(whole[k].sum()),
            "mapped_ha": round(float(mapped[k]), 4),
            "reference_ha": round(float(reference[k]), 4),
            "ratio": float(mapped[k] / reference[k]) if reference[k] else float("nan"),
        }
        for k, name in enumerate(names)
    }


def _class_intervals(drawn: np.ndarray, names: tuple[str, ...]) -> dict[str, dict[str, list[float]]]:
    measures = {name: measure(drawn) for name, measure in BY_CLASS.items()}
    return {
        name: {measure: list(interval(values[:, k])) for measure, values in measures.items()}
        for k, name in enumerate(names)
    }
