"""Agreement measures against a published matrix and by hand."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from stages.accuracy.confusion import (
    OVERALL,
    confusion,
    confusion_by_group,
    kappa,
    overall_accuracy,
    precision,
    recall,
    scores_of,
)

# Congalton, Remote Sensing of Environment 37 (1991), table 1: deciduous, conifer, agriculture, shrub. There the rows
# are the map, so it is turned over. Printed beside it: overall 321/434 = 74 %, producer's accuracies 87, 79, 74, 64 %,
# user's accuracies 57, 81, 74, 87 %.
CONGALTON = np.array([[65, 4, 22, 24], [6, 81, 5, 8], [0, 11, 85, 19], [4, 7, 3, 90]]).T


def test_published_matrix() -> None:
    assert overall_accuracy(CONGALTON) == pytest.approx(321 / 434)
    np.testing.assert_allclose(np.round(recall(CONGALTON), 2), [0.87, 0.79, 0.74, 0.64])
    np.testing.assert_allclose(np.round(precision(CONGALTON), 2), [0.57, 0.81, 0.74, 0.87])
    # Chance agreement: (115 * 75 + 100 * 103 + 115 * 115 + 104 * 141) / 434**2 = 46814 / 188356 = 0.248540;
    # kappa = (0.739631 - 0.248540) / (1 - 0.248540) = 0.653516.
    assert kappa(CONGALTON) == pytest.approx(0.653516, abs=1e-6)


def test_measures_by_hand() -> None:
    scores = scores_of(np.array([[3, 1], [2, 4]]))
    assert scores["overall_accuracy"] == pytest.approx(0.7)
    assert scores["balanced_accuracy"] == pytest.approx((3 / 4 + 4 / 6) / 2)
    assert scores["precision"] == pytest.approx([3 / 5, 4 / 5])
    assert scores["f1"] == pytest.approx([6 / 9, 8 / 11])
    assert scores["iou"] == pytest.approx([3 / 6, 4 / 7])
    assert scores["macro_f1"] == pytest.approx((6 / 9 + 8 / 11) / 2)
    # po = 0.7, pe = (4 * 5 + 6 * 5) / 100 = 0.5
    assert scores["kappa"] == pytest.approx(0.4)


def test_classes_without_pixels_do_not_count() -> None:
    scores = scores_of(np.array([[3, 1, 0], [0, 0, 0], [0, 0, 0]]))
    assert scores["balanced_accuracy"] == pytest.approx(0.75)
    assert scores["recall"] == pytest.approx([0.75, np.nan, np.nan], nan_ok=True)
    assert scores["precision"] == pytest.approx([1.0, 0.0, np.nan], nan_ok=True)
    # Mapped but not in the reference: F1 is 0 and counts; nowhere at all: it does not.
    assert scores["macro_f1"] == pytest.approx((6 / 7 + 0) / 2)
    assert all(np.isnan(scores_of(np.zeros((2, 2), int))[name]) for name in OVERALL)


def test_rows_are_the_reference() -> None:
    counts = confusion(np.array([0, 0, 1, 255, 254, 1]), np.array([1, 1, 1, 0, 0, 255]), 2)
    assert counts.dtype == np.int64
    np.testing.assert_array_equal(counts, [[0, 2], [0, 1]])


labels = arrays(np.uint8, st.shared(st.integers(1, 60), key="n"), elements=st.sampled_from([0, 1, 2, 254, 255]))


@given(labels, labels, arrays(np.int32, st.shared(st.integers(1, 60), key="n"), elements=st.integers(0, 3)))
def test_groups_add_up_to_the_whole(reference: np.ndarray, predicted: np.ndarray, group: np.ndarray) -> None:
    apart = confusion_by_group(reference, predicted, group, 3, 4)
    whole = confusion(reference, predicted, 3)
    np.testing.assert_array_equal(apart.sum(axis=0), whole)
    np.testing.assert_array_equal(whole, confusion(predicted, reference, 3).T)
    np.testing.assert_array_equal(apart[2], confusion(reference[group == 2], predicted[group == 2], 3))


@given(arrays(np.int64, (4, 3, 3), elements=st.integers(0, 50)))
def test_a_stack_is_measured_like_its_matrices(stack: np.ndarray) -> None:
    for measure in OVERALL.values():
        np.testing.assert_array_equal(measure(stack), [measure(matrix) for matrix in stack])


@given(arrays(np.int64, (3, 3), elements=st.integers(0, 50)), st.permutations(range(3)))
def test_the_order_of_classes_does_not_matter(matrix: np.ndarray, order: list[int]) -> None:
    for measure in OVERALL.values():
        assert float(measure(matrix)) == pytest.approx(float(measure(matrix[order][:, order])), nan_ok=True)
