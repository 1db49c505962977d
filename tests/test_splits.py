"""Blocks divided by class shares, folds, roles and the buffer."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stages.formats.samples import DROPPED, UNLABELLED, Part, Role
from stages.geo.blocks import smallest_sides
from stages.geo.grid import Grid, Window
from stages.training.splits import assign_blocks, assign_roles, cross_split, halo, near, single_split

SHARES = (0.6, 0.2, 0.2)
U, D = UNLABELLED, DROPPED


def world(blocks: int, classes: int, seed: int) -> np.ndarray:
    rng = np.random.default_rng(seed)
    return rng.integers(0, 2000, (blocks, classes)) * (rng.random((blocks, classes)) < 0.5)


@settings(max_examples=40, deadline=None)
@given(st.integers(1, 30), st.integers(1, 4), st.integers(0, 5), st.sampled_from([SHARES, (0.5, 0.5), (0.2,) * 5]))
def test_every_block_gets_one_part_and_the_seed_decides(
    blocks: int, classes: int, seed: int, shares: tuple[float, ...]
) -> None:
    counts = world(blocks, classes, seed)
    parts = assign_blocks(counts, shares, seed)
    assert parts.shape == (blocks,)
    assert set(parts.tolist()) <= set(range(len(shares)))
    assert (parts[counts.sum(axis=1) == 0] == 0).all()
    assert (assign_blocks(counts, shares, seed) == parts).all()
    # A class in one block for each part at least is nowhere absent, where one class leaves the choice free.
    holders = (counts > 0).sum(axis=0)
    if classes == 1 and holders[0] >= len(shares):
        assert all(counts[parts == part].sum() > 0 for part in range(len(shares)))


def test_equal_blocks_are_divided_exactly() -> None:
    counts = np.full((20, 3), 50)
    assert np.bincount(assign_blocks(counts, SHARES, 0)).tolist() == [12, 4, 4]


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_shares_of_every_class_are_balanced(seed: int) -> None:
    counts = world(60, 6, seed)
    parts = assign_blocks(counts, SHARES, seed)
    shares = np.stack([counts[parts == part].sum(axis=0) for part in range(3)]) / counts.sum(axis=0)
    assert np.abs(shares - np.array(SHARES)[:, None]).max() < 0.03


def test_a_class_in_three_blocks_reaches_every_part_whatever_the_seed() -> None:
    counts = np.zeros((40, 2), dtype=int)
    counts[:, 0] = 100
    counts[[3, 4, 30], 1] = [90, 5, 5]
    for seed in range(8):
        assert sorted(assign_blocks(counts, SHARES, seed)[[3, 4, 30]].tolist()) == [0, 1, 2]


def test_seeds_give_other_assignments() -> None:
    counts = world(60, 6, 0)
    assert (assign_blocks(counts, SHARES, 0) != assign_blocks(counts, SHARES, 1)).any()


def test_many_blocks_are_divided_quickly_and_evenly() -> None:
    counts = world(5_000, 7, 3)
    parts = assign_blocks(counts, (0.2,) * 5, 0)
    shares = np.stack([counts[parts == part].sum(axis=0) for part in range(5)]) / counts.sum(axis=0)
    assert np.abs(shares - 0.2).max() < 0.002


def test_no_labels_leave_everything_in_the_first_part() -> None:
    assert assign_blocks(np.zeros((4, 2), dtype=int), SHARES, 0).tolist() == [0, 0, 0, 0]


def test_in_folds_every_labelled_block_is_test_once() -> None:
    counts = world(50, 5, 1)
    counts[7] = 0
    parts = cross_split(counts, 5, 0.25, 0)
    labelled = counts.sum(axis=1) > 0
    assert ((parts == Part.TEST).sum(axis=0) == labelled).all()
    assert (parts[:, 7] == Part.TRAIN).all()
    for fold in parts:
        held = counts[fold == Part.VALIDATION].sum() / counts[fold != Part.TEST].sum()
        assert held == pytest.approx(0.25, abs=0.03)


def test_a_single_split_is_one_fold_of_all_three_parts() -> None:
    parts = single_split(np.full((10, 2), 7), SHARES, 0)
    assert parts.shape == (1, 10)
    assert [int((parts == part).sum()) for part in (Part.TRAIN, Part.VALIDATION, Part.TEST)] == [6, 2, 2]


def test_near_measures_from_centre_to_centre() -> None:
    held = np.zeros((5, 5), dtype=bool)
    held[2, 2] = True
    ten = (10.0, 10.0)
    assert near(held, ten, 10.0).sum() == 1  # itself: the neighbours are 10 m away, which is not nearer than 10 m
    assert near(held, ten, 10.1).sum() == 5
    assert near(held, ten, 14.2).sum() == 9  # the diagonal is 14.14 m away
    assert near(held, ten, 20.0).sum() == 9
    assert near(held, (20.0, 10.0), 20.0).sum() == 3  # pixels twice as high as wide: only left and right
    assert not near(held, ten, 0.0).any()
    assert not near(~held & False, ten, 50.0).any()


def test_the_halo_holds_the_buffer() -> None:
    assert halo(Grid("EPSG:32633", 28.5, 500_000.0, 5_400_000.0, 489, 443, 256), 200.0) == 8
    assert halo(Grid("EPSG:32633", 10.0, 500_000.0, 5_400_000.0, 40, 40, 256), 0.0) == 0


def test_a_buffer_holds_wherever_a_tall_grid_of_degrees_narrows() -> None:
    # From 35 to 70 degrees north a pixel of 0.01 degrees shrinks from 912 to 381 m across.
    grid = Grid("EPSG:4326", 0.01, 10.0, 70.0, 40, 3500, 256)
    north, south = Window(0, 0, 20, 40), Window(3480, 0, 20, 40)
    assert smallest_sides(grid, north)[1] == pytest.approx(381.8, abs=1)
    assert smallest_sides(grid, south)[1] == pytest.approx(910, abs=4)
    assert halo(grid, 1000.0) == 3
    held = np.zeros((20, 40), bool)
    held[10, 10] = True
    # 1000 m are two pixels and a half in the north, and one in the south.
    for window, reach in ((north, 2), (south, 1)):
        close = near(held, smallest_sides(grid, window), 1000.0)[10]
        assert np.flatnonzero(close).tolist() == list(range(10 - reach, 11 + reach))


def test_roles_follow_part_purity_and_buffer() -> None:
    target = np.array([[0, 1, 0, U, D], [0, 1, 0, U, D], [0, 1, 0, U, D]], dtype=np.uint8)
    mixed = np.array([[0, 1, 1, 0, 0]] * 3, dtype=bool)
    close = np.array([[1, 0, 1, 1, 0]] * 3, dtype=bool)
    part = np.array([[Part.TRAIN] * 5, [Part.VALIDATION] * 5, [Part.TEST] * 5])
    role = assign_roles(target, mixed, part, close)
    assert role.tolist() == [
        [Role.BUFFER, Role.MIXED, Role.MIXED, Role.NONE, Role.NONE],
        [Role.VALIDATION, Role.VALIDATION, Role.VALIDATION, Role.NONE, Role.NONE],
        [Role.TEST, Role.TEST, Role.TEST, Role.NONE, Role.TEST],  # a dropped class is an error there, not a gap
    ]
    assert assign_roles(target, mixed & False, part, close & False)[0].tolist() == [1, 1, 1, 0, 0]
