"""Resampling on arrays small enough to reason about."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stages.geo.resample import average, boxes, resample, touched

METHODS = ["nearest", "bilinear", "cubic", "average"]


def positions(size: tuple[int, int], start: tuple[float, float], step: float, corners: bool) -> tuple[np.ndarray, ...]:
    """Rows and columns of a target grid whose upper left corner is at ``start`` and whose pixels are ``step`` wide."""
    first, more = (0.0, 1) if corners else (0.5, 0)
    rows = start[0] + step * (first + np.arange(size[0] + more))
    cols = start[1] + step * (first + np.arange(size[1] + more))
    return tuple(np.meshgrid(rows, cols, indexing="ij"))


@pytest.mark.parametrize("method", METHODS)
@settings(max_examples=30, deadline=None)
@given(
    level=st.floats(-1e6, 1e6), step=st.floats(0.3, 4.0), corner=st.tuples(st.floats(-1, 3), st.floats(-1, 3)),
    holes=st.integers(0, 2**32 - 1),
)  # fmt: skip
def test_a_constant_stays_that_constant(
    method: str, level: float, step: float, corner: tuple[float, float], holes: int
) -> None:
    valid = np.random.default_rng(holes).random((9, 11)) < 0.8
    values = np.where(valid, level, 1e30)
    rows, cols = positions((5, 4), corner, step, method == "average")
    found, weight = resample(values, valid, rows, cols, method)
    assert found[weight] == pytest.approx(level, rel=1e-9, abs=1e-9)
    assert (found[~weight] == 0).all()


@settings(max_examples=30, deadline=None)
@given(st.integers(1, 6), st.integers(1, 6), st.integers(0, 1000))
def test_average_conserves_the_mean(rows_out: int, cols_out: int, seed: int) -> None:
    values = np.random.default_rng(seed).normal(size=(12, 12))
    # The target's pixels divide the source without rest, though not into whole pixels.
    rows, cols = np.meshgrid(np.linspace(0, 12, rows_out + 1), np.linspace(0, 12, cols_out + 1), indexing="ij")
    assert average(values[None], rows, cols).mean() == pytest.approx(values.mean(), abs=1e-12)


@pytest.mark.parametrize("method", METHODS)
def test_the_same_grid_gives_the_same_values(method: str) -> None:
    values = np.random.default_rng(0).normal(size=(5, 6))
    found, valid = resample(values, np.ones((5, 6), bool), *positions((5, 6), (0, 0), 1.0, method == "average"), method)
    assert valid.all()
    assert found == pytest.approx(values, abs=1e-12)


@pytest.mark.parametrize("method", ["bilinear", "cubic"])
def test_a_plane_is_interpolated_exactly(method: str) -> None:
    rows, cols = np.meshgrid(np.arange(8) + 0.5, np.arange(8) + 0.5, indexing="ij")
    at = positions((4, 4), (2.3, 2.1), 0.7, False)
    found, _ = resample(3 * rows - 2 * cols, np.ones((8, 8), bool), *at, method)
    assert found == pytest.approx(3 * at[0] - 2 * at[1], abs=1e-12)


@pytest.mark.parametrize("method", METHODS)
def test_nodata_never_bleeds_into_values(method: str) -> None:
    valid = np.ones((8, 8), bool)
    valid[2:5, 3:5] = False
    values = np.where(valid, 7.0, -99999.0)
    values[0, 0] = 9.0
    found, weight = resample(values, valid, *positions((7, 7), (0.4, 0.4), 0.9, method == "average"), method)
    assert found[weight].min() >= 6.7  # the cubic kernel undershoots a little beside the 9
    assert (method == "cubic") or found[weight].min() >= 7 - 1e-9
    assert found.max() <= 9.2


def test_average_by_hand() -> None:
    values = np.array([[1.0, 2, 3, 4], [5, 6, 7, 8], [9, 10, 11, 12], [13, 14, 15, 16]])
    valid = np.ones((4, 4), bool)
    valid[0, 0] = valid[3, 2] = valid[3, 3] = valid[2, 3] = False
    found, weight = resample(values, valid, *positions((2, 2), (0, 0), 2.0, True), "average")
    # Upper left: 2, 5 and 6 of four; lower right: only the 11, a quarter of the weight.
    assert found == pytest.approx(np.array([[13 / 3, 5.5], [11.5, 0.0]]))
    assert weight.tolist() == [[True, True], [True, False]]


def test_parts_of_pixels_weigh_by_their_share() -> None:
    values = np.array([[0.0, 10.0, 20.0]])
    rows, cols = np.meshgrid([0.0, 1.0], [0.5, 2.0], indexing="ij")
    # Half of the 0 and all of the 10.
    assert average(values[None], rows, cols)[0, 0, 0] == pytest.approx((0.5 * 0 + 1 * 10) / 1.5)


def test_a_pixel_is_valid_where_half_of_its_weight_is() -> None:
    valid = np.array([[True, False]])
    for share, expected in ((0.5, True), (0.51, False)):
        rows, cols = np.meshgrid([0.0, 1.0], [0.0, 1.0 / (1 - share)], indexing="ij")
        assert resample(np.ones((1, 2)), valid, rows, cols, "average")[1].item() is expected


def test_any_invalid_takes_every_pixel_that_touches_the_mask() -> None:
    mask = np.zeros((4, 4), bool)
    mask[1, 1] = True
    assert touched(mask, *positions((2, 2), (0, 0), 2.0, True), "average").tolist() == [[True, False], [False, False]]
    # Half a pixel aside, the bilinear kernel of nine centres around the masked pixel would miss it, of four not.
    assert touched(mask, *positions((3, 3), (0.5, 0.5), 1.0, False), "bilinear").sum() == 4
    assert touched(mask, *positions((4, 4), (0, 0), 1.0, False), "nearest").sum() == 1


def test_a_pixel_that_lies_askew_keeps_its_area() -> None:
    angle = np.deg2rad(30)
    corners = np.array([[0, 0], [0, 2], [2, 0], [2, 2]]) @ np.array([
        [np.cos(angle), np.sin(angle)], [-np.sin(angle), np.cos(angle)]
    ])  # fmt: skip
    top, bottom, left, right = boxes(corners[:, 0].reshape(2, 2), corners[:, 1].reshape(2, 2))
    assert ((bottom - top) * (right - left)).item() == pytest.approx(4.0)


def test_positions_without_coordinates_are_invalid() -> None:
    rows, cols = np.array([[0.5, np.inf]]), np.array([[0.5, np.nan]])
    assert resample(np.ones((3, 3)), np.ones((3, 3), bool), rows, cols, "bilinear")[1].tolist() == [[True, False]]
