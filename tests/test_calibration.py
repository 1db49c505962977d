"""Prior correction and temperature on numbers that can be worked out by hand."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stages.training import calibration

PIXELS = np.array([80.0, 16.0, 4.0])


@pytest.mark.parametrize(("kind", "ratio"), [("none", 1.0), ("sqrt", 20**0.5), ("balanced", 20.0)])
def test_weights_have_mean_one_and_the_stated_ratio(kind: str, ratio: float) -> None:
    weights = calibration.class_weights(kind, PIXELS)
    assert (weights * PIXELS).sum() / PIXELS.sum() == pytest.approx(1.0)
    assert weights[2] / weights[0] == pytest.approx(ratio)


def test_a_class_without_pixels_has_no_weight_and_is_never_mapped() -> None:
    pixels = np.array([10.0, 0.0, 10.0])
    assert calibration.class_weights("balanced", pixels).tolist() == [1.0, 0.0, 1.0]
    assert calibration.prior_correction(pixels, np.array([3.0, 0.0, 3.0])).tolist() == [0.0, calibration.NEVER, 0.0]


@settings(max_examples=30, deadline=None)
@given(st.lists(st.floats(0.5, 100), min_size=3, max_size=3), st.lists(st.floats(0.05, 1), min_size=3, max_size=3))
def test_correction_gives_the_posterior_of_the_training_prior(shown: list[float], likelihood: list[float]) -> None:
    # What a model learns under the shares shown, moved back, is Bayes' rule with the true shares.
    learned = np.log(np.array(likelihood) * shown)
    moved = learned + calibration.prior_correction(PIXELS, np.array(shown))
    found = calibration.probabilities(moved[None, None], 1.0)[0]
    expected = np.array(likelihood) * PIXELS
    np.testing.assert_allclose(found, expected / expected.sum(), rtol=1e-9)


def test_equal_shares_need_no_correction() -> None:
    np.testing.assert_allclose(calibration.prior_correction(PIXELS, 7 * PIXELS), 0.0, atol=1e-12)


@pytest.mark.parametrize("temperature", [0.5, 1.0, 3.0])
def test_a_known_temperature_is_found_again(temperature: float) -> None:
    rng = np.random.default_rng(0)
    true = rng.normal(0, 2, (20_000, 3))
    chances = calibration.probabilities(true[None], 1.0)
    labels = (rng.random((len(true), 1)) > chances.cumsum(axis=1)).sum(axis=1)
    found = calibration.fit_temperature(temperature * true[None], labels)
    assert found == pytest.approx(temperature, rel=0.05)


def test_views_are_averaged_as_probabilities() -> None:
    logits = np.log(np.array([[[0.8, 0.2]], [[0.4, 0.6]]]))
    np.testing.assert_allclose(calibration.probabilities(logits, 1.0), [[0.6, 0.4]])
    assert calibration.loss(logits, np.array([0]), 1.0) == pytest.approx(-np.log(0.6))


def test_without_pixels_the_temperature_is_one() -> None:
    assert calibration.fit_temperature(np.zeros((1, 0, 3)), np.zeros(0, int)) == 1.0
