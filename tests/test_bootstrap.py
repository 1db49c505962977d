"""Intervals from resampling blocks."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stages.accuracy.bootstrap import block_bootstrap, interval, paired_block_bootstrap, resample
from stages.accuracy.confusion import OVERALL, kappa, overall_accuracy


def _blocks(count: int, seed: int = 0, size: int = 50) -> np.ndarray:
    """Draw blocks of ``size`` pixels of two classes whose accuracy differs from block to block."""
    rng = np.random.default_rng(seed)
    right = rng.binomial(size, rng.beta(8, 4, count))
    matrices = np.zeros((count, 2, 2), np.int64)
    matrices[:, 0, 0], matrices[:, 0, 1] = right // 2, (size - right) // 2
    matrices[:, 1, 1], matrices[:, 1, 0] = right - right // 2, size - right - (size - right) // 2
    return matrices


def test_two_blocks_by_hand() -> None:
    # One block all right, one all wrong: a draw has 0, 1 or 2 right ones with chances 1/4, 1/2 and 1/4.
    blocks = np.array([[[10, 0], [0, 0]], [[0, 10], [0, 0]]])
    drawn = overall_accuracy(resample(blocks, 20_000, seed=1))
    assert set(drawn) == {0.0, 0.5, 1.0}
    assert np.mean(drawn == 0.5) == pytest.approx(0.5, abs=0.02)
    assert block_bootstrap(blocks, overall_accuracy) == (0.0, 1.0)


def test_every_replicate_draws_as_many_blocks_as_there_are() -> None:
    ones = np.ones((7, 1, 1), np.int64)
    assert (resample(ones, 500) == 7).all()


def test_the_interval_is_that_of_the_mean_for_equal_blocks() -> None:
    # With equal block sizes, accuracy is the mean over blocks: +-1.96 standard errors (normal approximation).
    blocks = _blocks(400)
    each = overall_accuracy(blocks)
    error = 1.96 * each.std() / np.sqrt(len(each))
    low, high = block_bootstrap(blocks, overall_accuracy)
    assert low == pytest.approx(each.mean() - error, abs=0.1 * error)
    assert high == pytest.approx(each.mean() + error, abs=0.1 * error)


def test_fewer_blocks_give_a_wider_interval() -> None:
    widths = []
    for count in (10, 40, 160):
        low, high = block_bootstrap(_blocks(count), overall_accuracy)
        widths.append(high - low)
    assert widths[0] > 1.5 * widths[1] > 1.5 * 1.5 * widths[2]


@settings(max_examples=20, deadline=None)
@given(st.integers(1, 40), st.integers(0, 5), st.sampled_from(sorted(OVERALL)))
def test_a_model_does_not_differ_from_itself(count: int, seed: int, name: str) -> None:
    blocks = _blocks(count, seed)
    assert paired_block_bootstrap(blocks, blocks.copy(), OVERALL[name], 200, seed) == (0.0, 0.0, 0.0)


def test_paired_draws_are_surer_than_separate_ones() -> None:
    a = _blocks(60)
    b = a.copy()
    b[:, 0, 0] -= 1  # one more error in every block
    b[:, 0, 1] += 1
    difference, low, high = paired_block_bootstrap(a, b, overall_accuracy)
    assert difference == pytest.approx(1 / 50)
    # The difference is the same in all blocks, so it is certain, though accuracy itself is not.
    assert (low, high) == pytest.approx((1 / 50, 1 / 50))
    alone = block_bootstrap(a, overall_accuracy)
    assert alone[1] - alone[0] > 0.05
    swapped = paired_block_bootstrap(b, a, overall_accuracy)
    assert swapped == pytest.approx((-difference, -high, -low))


def test_several_matrices_a_block_are_drawn_together() -> None:
    first, second = _blocks(30, 1), _blocks(30, 2)
    both = np.stack([first, second], axis=1)

    def mean(matrices: np.ndarray) -> float:
        return float(overall_accuracy(matrices).mean())

    low, high = block_bootstrap(both, mean, replicates=300)
    drawn = (overall_accuracy(resample(first, 300)) + overall_accuracy(resample(second, 300))) / 2
    assert (low, high) == interval(drawn)


def test_the_same_seed_gives_the_same_interval() -> None:
    assert block_bootstrap(_blocks(30), kappa, seed=3) == block_bootstrap(_blocks(30), kappa, seed=3)
    assert block_bootstrap(_blocks(30), kappa, seed=3) != block_bootstrap(_blocks(30), kappa, seed=4)


def test_nothing_to_draw_from_is_undefined() -> None:
    assert np.isnan(block_bootstrap(np.zeros((0, 2, 2)), overall_accuracy)).all()
    assert np.isnan(block_bootstrap(np.zeros((5, 2, 2)), overall_accuracy)).all()


def test_different_blocks_cannot_be_paired() -> None:
    with pytest.raises(ValueError, match="same blocks"):
        paired_block_bootstrap(_blocks(3), _blocks(4), overall_accuracy)
