"""Warping: positions from a few nodes, kernels laid once, and values that do not depend on what else is asked for."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from stages.geo import positions as placing
from stages.geo import warp as warping
from stages.geo.frame import Frame, transformed
from stages.geo.grid import Grid, Window
from stages.geo.lay import GridConfig, lay_grid
from stages.geo.positions import TOLERANCE, pixels_of, positions
from stages.geo.resample import kind_of, lay_kernel, resample, resample_bands, touched
from stages.geo.warp import Layers, warp
from tests.rasters import CORNER, UTM, noise, raster

SCENE = Frame(UTM, (10, 0, 399_960, 0, -10, 5_500_020), 2048, 2048)
METHODS = ["nearest", "bilinear", "cubic", "average"]


def exact(frame: Frame, grid: Grid, window: Window) -> tuple[np.ndarray, np.ndarray]:
    cols, rows = np.meshgrid(window.col + 0.5 + np.arange(window.width), window.row + 0.5 + np.arange(window.height))
    xs, ys = grid.left + cols * grid.resolution, grid.top - rows * grid.resolution
    return pixels_of(frame, *transformed(grid.crs, frame.crs, xs, ys))


@pytest.mark.parametrize(
    ("crs", "resolution"),
    [("EPSG:3035", 10.0), ("EPSG:4326", 1e-4), ("EPSG:32634", 10.0), ("EPSG:3857", 30.0), ("EPSG:3035", 2000.0)],
)
def test_positions_are_as_near_as_is_said(crs: str, resolution: float) -> None:
    grid, _ = lay_grid([SCENE], GridConfig(crs=crs, resolution=resolution))
    window = Window(grid.height // 3, grid.width // 3, min(100, grid.height // 2), min(70, grid.width // 2))
    for found, expected in zip(positions(SCENE, grid, window, False), exact(SCENE, grid, window), strict=True):
        assert np.abs(found - expected).max() <= TOLERANCE


def test_few_points_are_taken_through_the_crs(monkeypatch: pytest.MonkeyPatch) -> None:
    counted: list[int] = []
    monkeypatch.setattr(placing, "transformed", lambda *a: counted.append(a[2].size) or transformed(*a))
    grid, _ = lay_grid([SCENE], GridConfig(crs="EPSG:3035", resolution=10))
    positions(SCENE, grid, Window(256, 512, 256, 1024), False)
    assert sum(counted) < 0.02 * 256 * 1024


@pytest.mark.parametrize("corners", [False, True])
def test_a_position_is_the_same_in_every_window_and_grid(corners: bool) -> None:
    grid, _ = lay_grid([SCENE], GridConfig(crs="EPSG:3035", resolution=10))
    shifted = Grid(grid.crs, 10.0, grid.left + 370.0, grid.top - 1230.0, 500, 500, 64)
    large = positions(SCENE, grid, Window(90, 30, 150, 200), corners)
    small = positions(SCENE, grid, Window(130, 77, 20, 31), corners)
    other = positions(SCENE, shifted, Window(130 - 123, 77 - 37, 20, 31), corners)
    high, wide = small[0].shape
    for one, two, three in zip(large, small, other, strict=True):
        assert (one[40 : 40 + high, 47 : 47 + wide] == two).all()
        # Another area of this CRS and resolution has the same nodes; only its own origin is rounded.
        assert three == pytest.approx(two, abs=1e-8)


def test_cells_that_bend_are_computed_pixel_by_pixel() -> None:
    """Around the pole longitude jumps by a whole turn and changes ever faster."""
    globe = Frame("EPSG:4326", (0.1, 0, -180, 0, -0.1, 90), 3600, 1800)
    grid = Grid("EPSG:3995", 10_000.0, -1_000_000.0, 1_000_000.0, 200, 200, 64)
    window = Window(0, 0, 200, 200)
    for found, expected in zip(positions(globe, grid, window, False), exact(globe, grid, window), strict=True):
        assert np.abs(found - expected).max() <= TOLERANCE


def test_positions_without_coordinates_stay_so() -> None:
    frame = Frame("EPSG:32633", (1000, 0, 0, 0, -1000, 6_000_000), 1000, 1000)
    grid = Grid("+proj=ortho +lat_0=45 +lon_0=15 +R=6371000", 50_000.0, -7_000_000.0, 7_000_000.0, 280, 280, 64)
    rows, cols = positions(frame, grid, Window(0, 0, 280, 280), False)
    known = np.isfinite(exact(frame, grid, Window(0, 0, 280, 280))[0])
    assert 0 < known.sum() < known.size
    assert (np.isfinite(rows) == known).all()
    assert (np.isfinite(cols) == known).all()


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("step", [0.4, 1.0, 2.5, 3.0])
def test_rows_and_columns_by_themselves_give_what_pixels_give(method: str, step: float) -> None:
    rng = np.random.default_rng(0)
    values, valid = rng.normal(size=(17, 19)), rng.random((17, 19)) < 0.8
    first, more = (0.0, 1) if method == "average" else (0.5, 0)
    rows = (-1.3 + step * (first + np.arange(8 + more)))[:, None]
    cols = (0.2 + step * (first + np.arange(9 + more)))[None, :]
    everywhere = np.broadcast_arrays(rows, cols)
    found, expected = resample(values, valid, rows, cols, method), resample(values, valid, *everywhere, method)
    assert (found[1] == expected[1]).all()
    assert found[0] == pytest.approx(expected[0], abs=1e-9)
    assert (touched(~valid, rows, cols, method) == touched(~valid, *everywhere, method)).all()


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("apart", [False, True], ids=["askew", "upright"])
def test_a_hole_elsewhere_changes_no_bit(method: str, apart: bool) -> None:
    values = noise((2, 20, 20), dtype="uint16")
    more = int(method == "average")
    rows, cols = np.arange(16 + more)[:, None] + 1.83, np.arange(16 + more)[None, :] + 1.71
    if not apart:
        rows, cols = rows + 0.05 * cols, cols - 0.05 * rows
    laid = lay_kernel(rows, cols, (20, 20), method, kind_of(values.dtype))
    valid = np.ones(values.shape, bool)
    whole, _ = resample_bands(values, valid, laid)
    valid[0, 3, 4] = valid[1, 16, 2] = False
    holed, _ = resample_bands(values, valid, laid)
    if method == "average" and not apart:
        # Sums over boxes are differences of running sums, which round.
        assert holed[0, 8:] == pytest.approx(whole[0, 8:], rel=1e-12)
    else:
        assert (holed[0, 8:] == whole[0, 8:]).all()
        assert (holed[1, :8] == whole[1, :8]).all()
    assert (holed != whole).any()


@pytest.mark.parametrize(
    ("kind", "expected"),
    [("uint8", "float32"), ("int16", "float32"), ("uint16", "float32"), ("float32", "float32"), ("int32", "float64"),
     ("float64", "float64")],
)  # fmt: skip
def test_sums_hold_every_value_of_the_source(kind: str, expected: str) -> None:
    assert kind_of(np.dtype(kind)) == expected


def test_large_whole_numbers_keep_their_digits() -> None:
    values = noise((30, 30)).astype("int32") + 1_000_000_007
    edges = np.arange(0.0, 31.0, 3.0)
    found, _ = resample(values, np.ones((30, 30), bool), edges[:, None], edges[None, :], "average")
    assert found == pytest.approx(values.reshape(10, 3, 10, 3).mean(axis=(1, 3)), rel=1e-12)


def test_dates_on_the_same_pixels_share_a_kernel(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    laid: list[str] = []
    original = warping.lay_kernel
    monkeypatch.setattr(warping, "lay_kernel", lambda *a: laid.append(a[3]) or original(*a))
    frame = Frame(UTM, (10, 0, CORNER[0], 0, -10, CORNER[1]), 40, 40)
    grid, _ = lay_grid([frame], GridConfig(crs="EPSG:3035", resolution=10))
    for day in range(3):
        path = raster(tmp_path / f"{day}.tif", noise((2, 40, 40), day))
        warp(Layers(str(path), frame, (1, 2), (None,) * 2, (1.0,) * 2, (0.0,) * 2, "bilinear"), grid, grid.whole)
    assert laid == ["bilinear"]


def test_bilinear_is_what_gdal_makes_of_exact_positions(tmp_path: Path) -> None:
    import rasterio
    from rasterio.enums import Resampling
    from rasterio.warp import reproject

    values = noise((2, 80, 90))
    path = raster(tmp_path / "s.tif", values)
    frame = Frame(UTM, (10, 0, CORNER[0], 0, -10, CORNER[1]), 90, 80)
    grid, _ = lay_grid([frame], GridConfig(crs="EPSG:3035", resolution=10))
    layers = Layers(str(path), frame, (1, 2), (None,) * 2, (1.0,) * 2, (0.0,) * 2, "bilinear")
    patch = warp(layers, grid, grid.whole)
    with rasterio.open(path) as source:
        expected = np.full((2, *grid.shape), np.nan, np.float32)
        reproject(
            rasterio.band(source, [1, 2]), expected, dst_crs=grid.crs, dst_transform=grid.transform,
            resampling=Resampling.bilinear, tolerance=0.0, dst_nodata=np.nan,
        )  # fmt: skip
    both = patch.valid & np.isfinite(expected)
    assert both.sum() > 0.95 * patch.valid.sum()
    # Neighbours differ by hundreds: this is a ten-thousandth of a pixel.
    assert np.abs(patch.values[both] - expected[both]).max() < 0.1
