"""Streaming moments, pooled in any order, and the values kept for percentiles."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stages.training.statistics import (
    entry,
    kept,
    kept_share,
    moments,
    one_upon_another,
    pool,
    pool_by,
    scatter,
    side_by_side,
    sums,
)


def test_moments_of_a_few_numbers() -> None:
    found = moments(np.array([[1.0], [3.0], [10.0]], dtype=np.float32), np.array([0, 0, 2]), 3)
    assert found.count.tolist() == [[2], [0], [1]]
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
    total = pool(one_upon_another(parts))
    assert total.count.tolist() == [[pixels, pixels]]
    assert total.mean[0] == pytest.approx(values.mean(axis=0))
    assert total.std()[0] == pytest.approx(values.std(axis=0), abs=1e-9)
    by_row = pool_by(one_upon_another(parts), np.tile(np.arange(3), pieces), 3)
    assert by_row.count.tolist() == np.repeat(np.bincount(row, minlength=3)[:, None], 2, axis=1).tolist()
    for r in np.unique(row):
        assert by_row.mean[r] == pytest.approx(values[row == r].mean(axis=0))
        assert by_row.std()[r] == pytest.approx(values[row == r].std(axis=0), abs=1e-9)
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
    inputs = moments(values, np.zeros(len(values), dtype=int), 1)
    found = entry(("red",), inputs, values[kept(rows, cols, 0.1)], np.zeros(0, int), moments(values[:0], rows[:0], 0))
    assert {level: 100 * value for level, (value,) in found["percentiles"].items()} == pytest.approx(
        {"1": 1.0, "50": 50.0, "99": 99.0}, abs=0.5
    )


def test_an_entry_holds_percentiles_and_leaves_absent_classes_empty() -> None:
    values = np.arange(101, dtype=np.float32)[:, None]
    inputs = moments(values, np.zeros(101, dtype=int), 1)
    classes = moments(np.array([[1.0], [4.0]]), np.array([0, 0]), 2)
    found = entry(("red",), inputs, values, np.array([2, 0]), classes)
    assert found["percentiles"] == {"1": [1.0], "50": [50.0], "99": [99.0]}
    assert (found["count"], found["mean"]) == ([101], [50.0])
    assert found["class_pixels"] == [2, 0]
    assert (found["class_means"], found["class_stds"]) == ([[2.5], None], [[1.5], None])


def test_channels_that_are_valid_at_other_pixels_are_counted_apart() -> None:
    steps = [moments(np.array([[1.0], [3.0]]), np.array([0, 0]), 1), moments(np.array([[8.0]]), np.array([0]), 1),
             moments(np.zeros((0, 1)), np.zeros(0, int), 1)]  # fmt: skip
    values = np.array([[1.0, np.nan, np.nan], [3.0, 8.0, np.nan]], dtype=np.float32)
    inputs = side_by_side(steps)
    found = entry(("a", "b", "c"), inputs, values, np.array([2]), inputs)
    assert (found["count"], found["mean"], found["std"]) == ([2, 1, 0], [2.0, 8.0, 0.0], [1.0, 0.0, 0.0])
    assert found["percentiles"]["50"] == [2.0, 8.0, 0.0]
    assert found["class_means"] == [[2.0, 8.0, None]]


def test_places_are_scattered_anew_by_every_seed() -> None:
    rows, cols = np.divmod(np.arange(10_000), 100)
    one, other = scatter(rows, cols, 1), scatter(rows, cols, 2)
    assert one.mean() == pytest.approx(0.5, abs=0.02)
    assert abs(np.corrcoef(one, other)[0, 1]) < 0.05
