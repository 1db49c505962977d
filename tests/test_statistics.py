"""Streaming moments, pooled in any order, and the values kept for percentiles."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stages.training.statistics import entry, kept, kept_share, moments, pool


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
    by_row, total = pool(parts, rows=3), pool(parts)
    assert total.mean[0] == pytest.approx(values.mean(axis=0))
    assert total.std()[0] == pytest.approx(values.std(axis=0), abs=1e-9)
    for r in range(3):
        mine = values[row == r]
        assert by_row.count[r] == len(mine)
        if len(mine):
            assert by_row.mean[r] == pytest.approx(mine.mean(axis=0))
            assert by_row.std()[r] == pytest.approx(mine.std(axis=0), abs=1e-9)


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
    assert kept_share(40_000_000, 5) == pytest.approx(0.1)


def test_an_entry_holds_percentiles_and_leaves_absent_classes_empty() -> None:
    values = np.arange(101, dtype=np.float32)[:, None]
    inputs = pool([moments(values, np.zeros(101, dtype=int), 1)])
    found = entry(("red",), inputs, values, moments(values, np.zeros(101, dtype=int), 2))
    assert found["percentiles"]["2"] == [2.0]
    assert found["percentiles"]["98"] == [98.0]
    assert found["mean"] == [50.0]
    assert found["class_pixels"] == [101, 0]
    assert found["class_means"] == [[50.0], None]
