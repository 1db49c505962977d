"""Gaps are filled as the formulas say, and nothing is extrapolated beyond the observations."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stages.geo import gaps
from stages.geo.gaps import Filler, fill


def filled(values, valid, days, method, **options):
    """Fill series (step, pixel) as two bands, the second ten times the first."""
    valid = np.array(valid, bool)
    # What is not valid may hold anything.
    values = np.where(valid, values, 1e6).astype(np.float32)
    cube = np.stack([values, 10 * values], axis=1)
    fill(cube, valid, days, Filler(method, **options))
    assert cube[:, 1] == pytest.approx(10 * cube[:, 0], rel=1e-4, abs=1e-3)
    return cube[:, 0], valid


def test_linear_by_hand_holds_the_ends_and_counts_days():
    days = [0.0, 10.0, 40.0, 50.0, 70.0]
    values = np.array([[0, 0, 5], [1, 0, 0], [0, 0, 0], [5, 0, 0], [0, 0, 9]], float)
    valid = np.array([[0, 0, 1], [1, 0, 0], [0, 0, 0], [1, 0, 0], [0, 0, 1]], bool)
    found, known = filled(values, valid, days, "linear")
    assert found[:, 0].tolist() == [1.0, 1.0, 4.0, 5.0, 5.0]
    assert found[:, 2] == pytest.approx([5.0, 5 + 4 / 7, 5 + 16 / 7, 5 + 20 / 7, 9.0])
    # A pixel without any observation stays without data.
    assert known.all(axis=0).tolist() == [True, False, True]
    assert not known[:, 1].any()


def test_one_observation_is_held_everywhere():
    for method in ("linear", "whittaker", "savgol"):
        found, known = filled(np.array([[0.0], [0], [7], [0], [0]]), [[0], [0], [1], [0], [0]], range(5), method)
        assert known.all()
        assert found[:, 0] == pytest.approx(7.0)


def dense_whittaker(y, w, days, smooth):
    when = (np.asarray(days, float) - days[0]) / np.diff(days).mean()
    rows = []
    for i in range(len(y) - 2):
        a, b, c = when[i : i + 3]
        row = np.zeros(len(y))
        # Twice the second divided difference: for steps of 1 it is 1, -2, 1.
        row[i], row[i + 1], row[i + 2] = 2 / ((a - b) * (a - c)), 2 / ((b - a) * (b - c)), 2 / ((c - a) * (c - b))
        rows.append(row)
    d = np.array(rows)
    z = np.linalg.solve(np.diag(w) + smooth * d.T @ d, w * y)
    first, last = np.flatnonzero(w)[[0, -1]]
    z[:first], z[last + 1 :] = z[first], z[last]
    return z


@settings(max_examples=40, deadline=None)
@given(st.integers(3, 20), st.integers(0, 10_000), st.sampled_from([0.1, 10.0, 1000.0]), st.booleans())
def test_whittaker_is_the_dense_solution(steps, seed, smooth, even):
    rng = np.random.default_rng(seed)
    values, valid = rng.random((steps, 5)), rng.random((steps, 5)) < 0.6
    valid[rng.choice(steps, 2, replace=False)] = True
    days = np.arange(steps) * 16.0 if even else np.cumsum(rng.integers(1, 30, steps)).astype(float)
    found, known = filled(values, valid, days, "whittaker", smooth=smooth)
    assert known.all()
    for pixel in range(5):
        expected = dense_whittaker(values[:, pixel], valid[:, pixel].astype(float), days, smooth)
        assert found[:, pixel] == pytest.approx(expected, rel=1e-4, abs=1e-4)


def test_whittaker_keeps_a_line_and_holds_its_ends():
    line = 3 + 2 * np.arange(8.0)[:, None]
    valid = np.ones((8, 1), bool)
    valid[[0, 3, 7]] = False
    found, _ = filled(line, valid, range(8), "whittaker", smooth=100.0)
    assert found[:, 0] == pytest.approx([5, 5, 7, 9, 11, 13, 15, 15], rel=1e-5)


def test_savitzky_golay_is_scipys_on_the_linearly_filled_series():
    from scipy.signal import savgol_filter

    rng = np.random.default_rng(0)
    values, valid = rng.random((12, 6)), rng.random((12, 6)) < 0.7
    valid[5] = True
    lines, _ = filled(values, valid, range(12), "linear")
    found, _ = filled(values, valid, range(12), "savgol", window=5, order=2)
    assert found == pytest.approx(savgol_filter(lines, 5, 2, axis=0, mode="nearest"), rel=1e-5)


def test_a_parabola_is_kept_by_savitzky_golay_away_from_the_ends():
    found, _ = filled((np.arange(9.0) ** 2)[:, None], np.ones((9, 1), bool), range(9), "savgol", window=5, order=2)
    assert found[2:7, 0] == pytest.approx(np.arange(2.0, 7.0) ** 2, rel=1e-5)


@pytest.mark.parametrize("method", ["linear", "whittaker", "savgol"])
def test_the_size_of_blocks_does_not_matter(monkeypatch, method):
    rng = np.random.default_rng(1)
    values, valid = rng.random((9, 50)), rng.random((9, 50)) < 0.5
    whole, known = filled(values, valid, range(9), method)
    assert (known == valid.any(axis=0)).all()
    monkeypatch.setattr(gaps, "BLOCK", 7)
    again, _ = filled(values, valid, range(9), method)
    assert (again == whole)[:, valid.any(axis=0)].all()


def test_a_series_of_one_or_two_steps():
    for steps in (1, 2):
        for method in ("linear", "whittaker", "savgol"):
            valid = np.zeros((steps, 1), bool)
            valid[0] = True
            found, known = filled(np.full((steps, 1), 4.0), valid, range(steps), method)
            assert known.all()
            assert found == pytest.approx(4.0)
