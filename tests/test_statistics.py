"""Streaming moments, pooled in any order, and the values kept for percentiles."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stages.training.statistics import entry, kept, kept_share, moments, pool, sums


def test_moments_of_a_few_numbers() -> None:
    found = moments(np.array([[1.0], [3.0], [10.0]], dtype=np.float32), np.array([0, 0, 2]), 3)
    assert found.count.tolist() == [2, 0, 1]
    assert found.mean.tolist() == [[2.0], [0.0], [10.0]]
    assert found.std().tolist() == [[1.0], [0.0], [0.0]]


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 2**32 - 1), st.integers(1, 60), st.integers(1, 5))
def test_pooled_moments_are_those_of_all_pixels(seed: int, pixels: int, pieces: int) -> None:
    rng = np.random.default_rng(seed)
    values = rng.normal(1000.0, 3.0, (pixels, 2))
    row = rng.integers(0, 3, pixels)
    piece = rng.integers(0, pieces, pixels)
    parts = [moments(values[piece == p], row[piece == p], 3) for p in range(pieces)]
    total = pool(parts)
    assert total.count.tolist() == [pixels]
    assert total.mean[0] == pytest.approx(values.mean(axis=0))
    assert total.std()[0] == pytest.approx(values.std(axis=0), abs=1e-9)
    assert sums(values, row, 3) == pytest.approx(np.stack([values[row == r].sum(axis=0) for r in range(3)]))


def test_kept_pixels_are_the_asked_share_and_depend_on_the_place_only() -> None:
    rows, cols = np.divmod(np.arange(250_000), 500)
    keep = kept(rows, cols, 0.1)
    assert keep.mean() == pytest.approx(0.1, abs=0.005)
    assert (kept(rows[::-1], cols[::-1], 0.1)[::-1] == keep).all()
    assert kept(rows, cols, 1.0).all()
    # No stripes: every row and column keeps its share.
    assert np.bincount(rows[keep]).std() < 10
    assert np.bincount(cols[keep]).std() < 10
    assert kept_share(216_000, 5) == 1.0
    assert kept_share(8_000_000, 5) == pytest.approx(0.1)


def test_percentiles_of_a_share_of_the_pixels_are_near_those_of_all() -> None:
    rows, cols = np.divmod(np.arange(1_000_000), 1000)
    values = np.random.default_rng(0).random((1_000_000, 1))
    inputs = pool([moments(values, np.zeros(len(values), dtype=int), 1)])
    found = entry(("red",), inputs, values[kept(rows, cols, 0.1)], np.zeros(0, int), np.zeros((0, 1)))
    assert {level: 100 * value for level, (value,) in found["percentiles"].items()} == pytest.approx(
        {"1": 1.0, "50": 50.0, "99": 99.0}, abs=0.5
    )


def test_an_entry_holds_percentiles_and_leaves_absent_classes_empty() -> None:
    values = np.arange(101, dtype=np.float32)[:, None]
    inputs = pool([moments(values, np.zeros(101, dtype=int), 1)])
    found = entry(("red",), inputs, values, np.array([4, 0]), np.array([[10.0], [0.0]]))
    assert found["percentiles"] == {"1": [1.0], "50": [50.0], "99": [99.0]}
    assert (found["pixels"], found["mean"]) == (101, [50.0])
    assert found["class_pixels"] == [4, 0]
    assert found["class_means"] == [[2.5], None]
