"""The grid: snapped origins, tiles that cover it once, and the places of rasters on it."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stages.errors import SceneError
from stages.geo.frame import Frame, native_grid, snapped_grid, tidy, to_crs, unwrap
from stages.geo.grid import Grid, Window

resolutions = st.sampled_from([0.5, 10.0, 28.5, 30.0, 1 / 3600, 0.0001])


def frame(  # noqa: PLR0917  the six numbers that every test here is about
    left: float, top: float, size: float, width: int = 20, height: int = 10, crs: str = "EPSG:32633"
) -> Frame:
    return Frame(crs, (size, 0, left, 0, -size, top), width, height)


@settings(deadline=None, max_examples=30)
@given(st.integers(1, 100), st.integers(1, 100), st.integers(3, 60))
def test_tiles_cover_every_pixel_once(width: int, height: int, tile: int) -> None:
    grid, seen = Grid("EPSG:32633", 10.0, 0.0, 0.0, width, height, tile), np.zeros((height, width), int)
    for row, col, window in grid.tiles():
        assert (window.row, window.col) == (row * tile, col * tile)
        seen[window.slices] += 1
    assert (seen == 1).all()


@settings(deadline=None, max_examples=50)
@given(resolutions, st.tuples(*[st.integers(-(10**6), 10**6)] * 4), st.integers(1, 500), st.integers(1, 500))
def test_grids_of_one_resolution_tile_seamlessly(
    size: float, corners: tuple[int, int, int, int], width: int, height: int
) -> None:
    """However two scenes lie, the pixels of their grids are the same pixels: offsets are whole numbers."""
    left, top, across, down = corners
    first = snapped_grid((left / 7, top / 7, left / 7 + width * size, top / 7 + height * size), "EPSG:32633", size, 64)
    other = snapped_grid((across / 3, down / 3, across / 3 + size, down / 3 + size), "EPSG:32633", size, 64)
    for a, b in ((first.left, other.left), (first.top, other.top)):
        assert (a - b) / size == pytest.approx(round((a - b) / size), abs=1e-4)


@given(
    resolutions, st.integers(-(10**5), 10**5), st.integers(-(10**5), 10**5), st.integers(1, 400), st.integers(1, 400)
)
def test_a_scene_on_snapped_pixels_is_its_own_grid(size: float, left: int, top: int, width: int, height: int) -> None:
    scene = frame(left * size, top * size, size, width, height)
    grid = snapped_grid(scene.bounds("EPSG:32633"), "EPSG:32633", size, 64)
    assert (grid.width, grid.height) == (width, height)
    assert scene.offset(grid) == (0, 0)


@settings(deadline=None, max_examples=50)
@given(st.floats(-1000, 1000), st.floats(-1000, 1000), st.floats(0.1, 500), st.floats(0.1, 500))
def test_a_snapped_grid_holds_its_bounds(left: float, bottom: float, width: float, height: float) -> None:
    grid = snapped_grid((left, bottom, left + width, bottom + height), "EPSG:32633", 10.0, 64)
    slack = 0.01 * 10 + 1e-9
    assert grid.bounds[0] <= left + slack
    assert grid.bounds[1] <= bottom + slack
    assert grid.bounds[2] >= left + width - slack
    assert grid.bounds[3] >= bottom + height - slack


def test_a_native_grid_continues_the_pixels_of_its_scene() -> None:
    scene = frame(503.0, 1007.0, 10.0)
    grid = native_grid((503.0 - 25, 907.0, 703.0, 1007.0 + 1), scene, 64)
    assert (grid.left, grid.top, grid.width, grid.height) == (473.0, 1017.0, 23, 11)
    assert scene.offset(grid) == (1, 3)


@pytest.mark.parametrize("transform", [(10, 0, 0, 0, -20, 0), (10, 1, 0, 1, -10, 0)], ids=["not square", "rotated"])
def test_a_native_grid_needs_square_upright_pixels(transform: tuple[float, ...]) -> None:
    with pytest.raises(SceneError, match="square, unrotated"):
        native_grid((0, 0, 10, 10), Frame("EPSG:32633", transform, 5, 5), 64)


@pytest.mark.parametrize(
    ("scene", "expected"),
    [(frame(100, 200, 10), (0, 0)), (frame(130, 190, 10), (1, 3)), (frame(90, 220, 10), (-2, -1)),
     (frame(100.05, 200, 10), (0, 0)), (frame(105, 200, 10), None), (frame(100, 200, 20), None),
     (frame(100, 200, 10.01), None), (frame(100, 200, 10, crs="EPSG:32632"), None),
     (Frame("EPSG:32633", (10, 0.1, 100, 0.1, -10, 200), 5, 5), None)],
)  # fmt: skip
def test_where_a_raster_lies_on_the_grid(scene: Frame, expected: tuple[int, int] | None) -> None:
    assert scene.offset(Grid("EPSG:32633", 10.0, 100.0, 200.0, 50, 50, 64)) == expected


def test_scenes_on_both_sides_of_the_antimeridian_come_together() -> None:
    west = frame(178.0, 1.0, 0.1, crs="EPSG:4326")
    east = frame(-180.0, 1.0, 0.1, crs="EPSG:4326")
    assert [f.bounds("EPSG:4326")[0] for f in unwrap([west, east], "EPSG:4326")] == [178.0, 180.0]
    # A raster of the whole globe stays as it is.
    globe = frame(-180.0, 90.0, 1.0, 360, 180, "EPSG:4326")
    assert unwrap([globe], "EPSG:4326") == [globe]


def test_bounds_across_the_antimeridian_do_not_span_the_globe() -> None:
    scene = frame(720_000, 1_160_000, 1000, 110, 110, "EPSG:32660")
    left, _, right, _ = scene.bounds("EPSG:4326")
    assert 178.9 < left < 180 < right < 180.3


def test_a_crs_that_cannot_hold_a_raster() -> None:
    with pytest.raises(SceneError, match="cannot be placed"):
        frame(-180, 90, 1, 360, 180, "EPSG:4326").bounds("+proj=ortho +lat_0=45")


def test_points_go_there_and_back() -> None:
    xs, ys = np.array([500_000.0, 600_000.0]), np.array([5_400_000.0, 5_300_000.0])
    back = to_crs("EPSG:4326", "EPSG:32633", *to_crs("EPSG:32633", "EPSG:4326", xs, ys))
    assert back[0] == pytest.approx(xs, abs=1e-3)
    assert back[1] == pytest.approx(ys, abs=1e-3)


@pytest.mark.parametrize(("found", "expected"), [(9.98, 10.0), (28.47, 28.0), (0.000271, 0.00027), (101.3, 100.0)])
def test_resolutions_out_of_a_change_of_crs_are_rounded(found: float, expected: float) -> None:
    assert tidy(found) == expected


def test_windows() -> None:
    grid = Grid("EPSG:32633", 10.0, 100.0, 200.0, 30, 20, 16)
    inner = Window(16, 16, 4, 14)
    assert inner.padded(3, grid) == Window(13, 13, 7, 17)
    assert inner.within(inner.padded(3, grid)) == (slice(3, 7), slice(3, 17))
    assert grid.bounds_of(inner) == (260.0, 0.0, 400.0, 40.0)


@pytest.mark.parametrize(
    ("crs", "left", "top", "size", "expected"),
    [("EPSG:6933", 1_000_000, 5_000_000, 100.0, 1.0), ("EPSG:32633", 500_000, 5_400_000, 100.0, 1.0008),
     ("EPSG:4326", 10.0, 0.005, 0.01, 111.3195 * 110.574 / 100), ("EPSG:3857", 0, 8_399_738, 100.0, 0.25)],
)  # fmt: skip
def test_hectares_of_a_pixel(crs: str, left: float, top: float, size: float, expected: float) -> None:
    """Equal-area: exact; UTM: 0.9996 squared amid it; degrees at the equator; Mercator at 60 degrees: a quarter."""
    grid = Grid(crs, size, left, top, 1, 1, 16)
    assert grid.pixel_hectares(0, 1).item() == pytest.approx(expected, rel=5e-3 if crs == "EPSG:3857" else 1e-4)
