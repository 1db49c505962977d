"""Calibration errors by hand."""

from __future__ import annotations

import numpy as np
import pytest

from stages.accuracy.calibration_error import bin_sums, classwise_error, top_label_error


def _two(first: list[float]) -> np.ndarray:
    """Probabilities of two classes from those of the first."""
    column = np.array(first)
    return np.stack([column, 1 - column], axis=1)


def test_top_label_error_by_hand() -> None:
    # Bins of width 0.2. Top probabilities 0.9 (right), 0.9 (wrong), 0.7 (right), 0.65 (right):
    # bin (0.8, 1]: mean 0.9, half right, gap 0.4 of 2 pixels; bin (0.6, 0.8]: mean 0.675, all right, gap 0.325 of 2.
    sums = bin_sums(_two([0.9, 0.1, 0.7, 0.65]), np.array([0, 0, 0, 0]), bins=5)
    assert top_label_error(sums) == pytest.approx((2 * 0.4 + 2 * 0.325) / 4)


def test_classwise_error_by_hand() -> None:
    # Class 0, bins of width 0.5: (0, 0.5]: 0.2 and 0.4, one of two is class 0: gap |1 - 0.6| = 0.4 in sum;
    # (0.5, 1]: 0.9 and 0.7, both class 0: gap 0.4 in sum. Error 0.8 / 4 = 0.2; class 1 mirrors it.
    sums = bin_sums(_two([0.2, 0.4, 0.9, 0.7]), np.array([0, 1, 0, 0]), bins=2)
    assert classwise_error(sums) == pytest.approx(0.2)


def test_probability_that_comes_true_is_calibrated() -> None:
    probabilities = _two([0.75] * 4 + [0.25] * 4)
    reference = np.array([0, 0, 0, 1, 0, 1, 1, 1])
    sums = bin_sums(probabilities, reference)
    assert top_label_error(sums) == pytest.approx(0.0, abs=1e-12)
    assert classwise_error(sums) == pytest.approx(0.0, abs=1e-12)


def test_certain_and_wrong_is_the_worst() -> None:
    sums = bin_sums(_two([1.0, 1.0, 0.0]), np.array([1, 1, 0]))
    assert top_label_error(sums) == 1.0
    assert classwise_error(sums) == 1.0


def test_portions_add_up() -> None:
    rng = np.random.default_rng(0)
    probabilities, reference = rng.dirichlet(np.ones(4), 500), rng.integers(0, 4, 500)
    whole = bin_sums(probabilities, reference)
    portions = bin_sums(probabilities[:123], reference[:123]) + bin_sums(probabilities[123:], reference[123:])
    np.testing.assert_allclose(portions, whole)
    assert whole.shape == (5, 15, 3)
    assert (whole[:, :, 0].sum(axis=1) == 500).all()


def test_no_pixel_has_no_error() -> None:
    assert np.isnan(top_label_error(bin_sums(np.empty((0, 3)), np.empty(0, int))))
