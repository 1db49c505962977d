"""Statistics of a step count clear observations alone, and agree with numpy's slower ones."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stages.geo import composite
from stages.geo.composite import median, network, reduce


def observations(dates: int, bands: int, shape: tuple[int, int], seed: int, share: float = 0.6):
    rng = np.random.default_rng(seed)
    return rng.normal(0, 100, (dates, bands, *shape)).astype(np.float32), rng.random((dates, *shape)) < share


def reduced(values, valid, statistic):
    out, found = np.full(values.shape[1:], np.nan, np.float32), np.ones(valid.shape[1:], bool)
    seen = reduce(zip(values, valid, strict=True), len(values), statistic, out, found)
    assert (seen == valid.sum(axis=0)).all()
    assert (found == valid.any(axis=0)).all()
    return out, found


@pytest.mark.parametrize("count", range(1, 41))
def test_the_network_sorts_any_number_of_values(count):
    values = np.random.default_rng(count).permutation(count)
    for i, j in network(count):
        assert i < j
        if values[i] > values[j]:
            values[[i, j]] = values[[j, i]]
    assert all(a < b for a, b in pairwise(values))


@settings(max_examples=40, deadline=None)
@given(st.integers(1, 13), st.integers(1, 3), st.integers(0, 10_000), st.sampled_from([0.1, 0.5, 0.9, 1.0]))
def test_median_and_mean_are_numpys_of_the_valid_ones(dates, bands, seed, share):
    values, valid = observations(dates, bands, (5, 9), seed, share)
    known = np.where(valid[:, None], values, np.nan)
    for statistic, numpys in (("median", np.nanmedian), ("mean", np.nanmean)):
        out, found = reduced(values, valid, statistic)
        expected = numpys(known[..., found], axis=0)
        assert out[:, found] == pytest.approx(expected, rel=1e-6, abs=1e-4)


def test_the_median_does_not_depend_on_the_blocks_it_is_taken_in(monkeypatch):
    values, valid = observations(7, 3, (20, 31), 0)
    whole, found = reduced(values, valid, "median")
    monkeypatch.setattr(composite, "BLOCK", 17)
    assert (reduced(values, valid, "median")[0][:, found] == whole[:, found]).all()


def test_a_median_by_hand():
    stack = np.array([[4.0, 9.0, 1.0], [np.inf, 1.0, np.inf], [2.0, 5.0, np.inf], [np.inf, 3.0, np.inf]], np.float32)
    out = np.empty((1, 1, 3), np.float32)
    median(stack.reshape(4, 1, 1, 3), np.array([[2, 4, 1]]), out)
    assert out.tolist() == [[[3.0, 4.0, 1.0]]]


def test_no_observation_is_a_zero_for_the_median():
    out = np.full((1, 1, 2), 7.0, np.float32)
    median(np.array([np.inf, 5.0], np.float32).reshape(1, 1, 1, 2), np.array([[0, 1]]), out)
    assert out.tolist() == [[[0.0, 5.0]]]


def test_best_takes_all_bands_of_the_first_date_that_is_clear():
    values, valid = observations(4, 2, (6, 6), 3)
    out, found = reduced(values, valid, "best")
    first = valid.argmax(axis=0)
    rows, cols = np.nonzero(found)
    assert (out[:, rows, cols] == values[first[rows, cols], :, rows, cols].T).all()
