"""Tile brings scenes onto one grid: exact where it can be, renormalised where it cannot."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pydantic import ValidationError

from stages import ingest, tile
from stages.errors import SceneError
from stages.formats.tiles import Tiles
from stages.geo import warp as warping
from stages.geo.frame import Frame
from stages.geo.grid import Grid, Window
from stages.geo.plan import Plan
from stages.geo.warp import Layers, is_data, warp
from tests.rasters import CORNER, UTM, noise, raster, spoil_block


def cut(folder: Path, scenes: Sequence[dict[str, Any]], bands: dict[str, Any] | None = None, **settings: Any) -> Tiles:
    """Run ingest and tile on raster files."""
    for name in ("scenes", "tiles"):
        (folder / name).mkdir(exist_ok=True)
    ingest.run(folder / "scenes", ingest.Config.model_validate({"scenes": scenes, "bands": bands or {"b": 1}}))
    tile.run(folder / "scenes", folder / "tiles", tile.Config.model_validate(settings))
    return Tiles(folder / "tiles")


def whole(tiles: Tiles) -> tuple[np.ndarray, np.ndarray]:
    return tiles.read(tiles.grid.whole)


@pytest.mark.parametrize("origin", ["snapped", "native"])
@pytest.mark.parametrize("shape", [(5, 7), (16, 16), (40, 33)], ids=["small", "one tile", "cut tiles"])
def test_a_scene_on_the_grid_is_copied(tmp_path: Path, origin: str, shape: tuple[int, int]) -> None:
    values = noise((2, *shape))
    raster(tmp_path / "s.tif", values)
    tiles = cut(tmp_path, [{"files": tmp_path / "s.tif"}], {"x": 1, "y": 2}, grid={"tile": 16, "origin": origin})
    assert (tiles.grid.width, tiles.grid.height, tiles.grid.left, tiles.grid.top) == (*shape[::-1], *CORNER)
    cube, valid = whole(tiles)
    assert (cube[0] == values).all()
    assert valid.all()
    assert tiles.scaling == "digital numbers"


def test_a_native_grid_copies_what_a_snapped_one_resamples(tmp_path: Path) -> None:
    values = noise((20, 20))
    raster(tmp_path / "s.tif", values, corner=(500_004.0, 5_400_003.0))
    (tmp_path / "n").mkdir()
    native = cut(tmp_path / "n", [{"files": tmp_path / "s.tif"}], grid={"origin": "native"})
    assert (whole(native)[0][0, 0] == values).all()
    snapped = cut(tmp_path, [{"files": tmp_path / "s.tif"}])
    assert (snapped.grid.left, snapped.grid.top, snapped.grid.width) == (500_000.0, 5_400_010.0, 21)
    # The grid's pixels lie 4 m left of and 7 m above the scene's: by bilinear weights 0.6 and 0.4, 0.3 and 0.7.
    cube, valid = whole(snapped)
    assert valid[0, 5, 5]
    expected = np.array([[0.7], [0.3]]) * [0.4, 0.6] * values[4:6, 4:6]
    assert cube[0, 0, 5, 5] == pytest.approx(expected.sum(), rel=1e-6)


@pytest.mark.parametrize(
    ("dtype", "nodata"),
    [("uint8", 0), ("int16", -32768), ("uint16", 65535), ("float32", -99999), ("float32", -3.4028234663852886e38),
     ("float64", float("nan")), ("float32", 1e-7)],
)  # fmt: skip
def test_nodata_of_any_type_is_exact(tmp_path: Path, dtype: str, nodata: float) -> None:
    values = noise((20, 20)).clip(1, 250).astype(dtype)
    values[3:5, 4] = nodata
    raster(tmp_path / "s.tif", values, nodata=nodata)
    cube, valid = whole(cut(tmp_path, [{"files": tmp_path / "s.tif"}], grid={"tile": 16}))
    assert sorted(zip(*np.nonzero(~valid[0]), strict=True)) == [(3, 4), (4, 4)]
    assert (cube[0, 0][valid[0]] == values[valid[0]]).all()
    assert (cube[0, 0][~valid[0]] == 0).all()


def test_nodata_that_an_integer_cannot_hold_is_in_no_pixel() -> None:
    for nodata in (-9999.0, 0.5, float("inf")):
        assert is_data(np.arange(4, dtype=np.uint8), nodata).all()


def test_nan_and_infinity_are_nodata_and_counted_once(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    values = noise((2, 40, 40))
    values[0, 15, 15], values[0, 16, 3], values[1, 0, 0] = np.nan, np.inf, -np.inf
    raster(tmp_path / "s.tif", values, corner=(500_004.0, 5_400_000.0))
    with caplog.at_level(logging.WARNING):
        cube, _ = whole(cut(tmp_path, [{"files": tmp_path / "s.tif"}], {"x": 1, "y": 2}, grid={"tile": 16}))
    assert np.isfinite(cube).all()
    assert [record.args for record in caplog.records] == [
        ("x", str(tmp_path / "s.tif"), 2), ("y", str(tmp_path / "s.tif"), 1)
    ]  # fmt: skip


def test_a_files_own_mask_takes_every_pixel_that_it_touches(tmp_path: Path) -> None:
    mask = np.ones((20, 20), bool)
    mask[6, 6] = False
    raster(tmp_path / "s.tif", noise((20, 20)), mask=mask)
    (tmp_path / "c").mkdir()
    _, valid = whole(cut(tmp_path, [{"files": tmp_path / "s.tif"}]))
    assert (valid[0] == mask).all()
    _, valid = whole(cut(tmp_path / "c", [{"files": tmp_path / "s.tif"}], grid={"resolution": 40}))
    # One masked pixel of sixteen: nodata would leave the coarse pixel valid, a mask does not.
    assert np.argwhere(~valid[0]).tolist() == [[1, 1]]


@pytest.mark.parametrize("nodata", [None, 0])
def test_alpha_counts_beside_nodata(tmp_path: Path, nodata: int | None) -> None:
    values = noise((4, 64, 128)).clip(1, 250)
    values[3], values[0, 7, 60] = 255, 0
    values[3, :, :20] = 0
    raster(tmp_path / "s.tif", values, dtype="uint8", nodata=nodata, photometric="RGB", alpha="yes")
    _, valid = whole(cut(tmp_path, [{"files": tmp_path / "s.tif"}], {"r": 1, "g": 2, "b": 3}))
    expected = np.broadcast_to(np.arange(128) >= 20, (64, 128)).copy()
    expected[7, 60] = nodata is None
    assert (valid[0] == expected).all()


@pytest.mark.parametrize("inside", [True, False], ids=["in the file", "beside it"])
def test_a_files_own_mask_counts_beside_nodata(tmp_path: Path, inside: bool) -> None:
    import rasterio

    values = noise((20, 20))
    values[0, 0] = -1
    path = raster(tmp_path / "s.tif", values, nodata=-1)
    mask = np.ones((20, 20), bool)
    mask[6, 6] = False
    with rasterio.Env(GDAL_TIFF_INTERNAL_MASK=inside), rasterio.open(path, "r+") as file:
        file.write_mask(mask)
    assert (tmp_path / "s.tif.msk").exists() is not inside
    _, valid = whole(cut(tmp_path, [{"files": path}]))
    assert np.argwhere(~valid[0]).tolist() == [[0, 0], [6, 6]]


def test_a_mask_for_every_band_takes_what_any_of_them_masks(tmp_path: Path) -> None:
    raster(tmp_path / "s.tif", noise((2, 20, 20)))
    for band in (1, 2):
        mask = np.full((20, 20), 255, "uint8")
        mask[band, band] = 0
        raster(tmp_path / f"m{band}.tif", mask)
    part = (
        '<SimpleSource><SourceFilename relativeToVRT="1">{}</SourceFilename><SourceBand>{}</SourceBand></SimpleSource>'
    )
    bands = "".join(
        f'<VRTRasterBand dataType="Float32" band="{band}">{part.format("s.tif", band)}<MaskBand>'
        f'<VRTRasterBand dataType="Byte">{part.format(f"m{band}.tif", 1)}</VRTRasterBand></MaskBand></VRTRasterBand>'
        for band in (1, 2)
    )
    (tmp_path / "s.vrt").write_text(
        f'<VRTDataset rasterXSize="20" rasterYSize="20"><SRS>{UTM}</SRS>'
        f"<GeoTransform>{CORNER[0]}, 10, 0, {CORNER[1]}, 0, -10</GeoTransform>{bands}</VRTDataset>"
    )
    _, valid = whole(cut(tmp_path, [{"files": tmp_path / "s.vrt"}], {"x": 1, "y": 2}))
    assert np.argwhere(~valid[0]).tolist() == [[1, 1], [2, 2]]


def test_coarsening_averages_what_is_valid(tmp_path: Path) -> None:
    values = np.arange(64, dtype="float32").reshape(8, 8)
    values[0, 0] = values[4, 4] = values[4, 5] = values[5, 4] = -1
    raster(tmp_path / "s.tif", values, nodata=-1)
    cube, valid = whole(cut(tmp_path, [{"files": tmp_path / "s.tif"}], grid={"resolution": 20}))
    assert cube[0, 0, 0, 0] == pytest.approx((1 + 8 + 9) / 3)
    assert cube[0, 0, 3, 3] == pytest.approx((54 + 55 + 62 + 63) / 4)
    assert np.argwhere(~valid[0]).tolist() == [[2, 2]]


def test_scale_and_offset_of_header_and_config(tmp_path: Path) -> None:
    values = noise((20, 20), dtype="uint16")
    values[0, 0] = 0
    raster(tmp_path / "s.tif", values, nodata=0, scale=0.5, offset=-10)
    tiles = cut(tmp_path, [{"files": tmp_path / "s.tif"}])
    assert tiles.scaling == "scaled"
    assert whole(tiles)[0][0, 0][0, :3].tolist() == [0.0, values[0, 1] / 2 - 10, values[0, 2] / 2 - 10]
    (tmp_path / "c").mkdir()
    tiles = cut(tmp_path / "c", [{"files": tmp_path / "s.tif", "scale": 1, "offset": 0}])
    assert tiles.scaling == "digital numbers"
    assert (whole(tiles)[0][0, 0] == values).all()


def test_scenes_of_a_date_are_mosaicked_and_dates_stacked(tmp_path: Path) -> None:
    one, two, late = noise((2, 20, 20), 1), noise((2, 20, 20), 2), noise((2, 20, 20), 3)
    one[0, :, 12:] = -1
    raster(tmp_path / "2020_a.tif", one, nodata=-1)
    raster(tmp_path / "2020_b.tif", two, corner=(CORNER[0] + 100, CORNER[1]), nodata=-1)
    raster(tmp_path / "2021_a.tif", late, nodata=-1)
    tiles = cut(tmp_path, [{"files": tmp_path / "{date}_*.tif"}], {"x": 1, "y": 2}, grid={"tile": 16})
    assert (tiles.dates, tiles.grid.width) == (("2020", "2021"), 30)
    cube, valid = whole(tiles)
    assert valid[0].all()
    assert valid[1].sum() == 400
    # Both bands of a pixel come from one scene, though the second band of the first one was valid there.
    assert (cube[0, :, :, :12] == one[:, :, :12]).all()
    assert (cube[0, :, :, 12:] == two[:, :, 2:]).all()
    assert (cube[1, :, :, :20] == late).all()
    index = tiles.read_index()
    assert index[["row", "col", "height", "width"]].to_numpy().tolist() == [
        [0, 0, 16, 16], [0, 1, 16, 14], [1, 0, 4, 16], [1, 1, 4, 14]
    ]  # fmt: skip
    assert index["valid_2021"].tolist() == pytest.approx([1, 4 / 14, 1, 4 / 14])
    assert index["valid"].tolist() == pytest.approx([1, 9 / 14, 1, 9 / 14])


@pytest.mark.parametrize(
    ("dates", "there"), [("all", ["2020", "2021"]), ("latest", ["2021"]), (["2020"], ["2020"]), ([2021], ["2021"])]
)
def test_dates_are_picked(tmp_path: Path, dates: Any, there: list[str]) -> None:
    years = {"2020": noise((20, 20), 1), "2021": noise((20, 20), 2)}
    for year, values in years.items():
        raster(tmp_path / f"{year}.tif", values)
    tiles = cut(tmp_path, [{"files": tmp_path / "{date}.tif"}], dates=dates)
    assert list(tiles.dates) == there
    assert tiles.channels == (("b",) if len(there) == 1 else ("b@2020", "b@2021"))
    for found, year in zip(whole(tiles)[0], there, strict=True):
        assert (found[0] == years[year]).all()


def test_scenes_without_a_date_are_one_date_before_all_others(tmp_path: Path) -> None:
    for name, seed in (("a", 1), ("b", 2), ("2020", 3)):
        raster(tmp_path / f"{name}.tif", noise((20, 20), seed))
    undated, dated = {"files": tmp_path / "?.tif"}, {"files": tmp_path / "{date}.tif"}
    assert cut(tmp_path, [undated], dates="latest").dates == ("",)
    tiles = cut(tmp_path, [undated, dated], dates="latest")
    assert (tiles.dates, tiles.channels) == (("2020",), ("b",))
    assert (whole(tiles)[0][0, 0] == noise((20, 20), 3)).all()
    with pytest.raises(SceneError, match="names 2021, but the scenes are of undated, 2020"):
        cut(tmp_path, [undated, dated], dates=["2021"])


@pytest.mark.parametrize(
    ("dates", "error"), [(["2019"], SceneError), ([], ValidationError), (["soon"], ValidationError)]
)
def test_dates_that_there_are_none_of(tmp_path: Path, dates: Any, error: type[Exception]) -> None:
    raster(tmp_path / "2020.tif", noise((20, 20)))
    with pytest.raises(error) as caught:
        cut(tmp_path, [{"files": tmp_path / "{date}.tif"}], dates=dates)
    if error is SceneError:
        assert str(caught.value).startswith("tile.dates names 2019, but the scenes are of 2020;")


def test_bands_of_10_and_20_metres_share_the_finer_grid(tmp_path: Path) -> None:
    raster(tmp_path / "s_fine.tif", noise((16, 16)))
    raster(tmp_path / "s_coarse.tif", lambda x, y: (x - CORNER[0]) + 2 * (CORNER[1] - y), shape=(8, 8), resolution=20)
    tiles = cut(tmp_path, [{"files": tmp_path / "s_{band}.tif"}], {"f": "fine", "c": "coarse"})
    assert (tiles.grid.resolution, tiles.grid.width) == (10.0, 16)
    cube, valid = whole(tiles)
    # A plane is interpolated exactly, but for the outermost half pixel, where the kernel has nothing to lean on.
    rows, cols = np.mgrid[1:15, 1:15] * 10 + 5
    assert cube[0, 1, 1:15, 1:15] == pytest.approx(cols + 2 * rows, rel=1e-6)
    assert valid.all()


@pytest.mark.parametrize("method", ["nearest", "bilinear", "cubic", "average"])
def test_another_crs_keeps_places_and_values(tmp_path: Path, method: str) -> None:
    """A field that depends on the place, written in one CRS, has the same values at the same places in another."""
    xs, ys = np.array([CORNER[0] + 300.0]), np.array([CORNER[1] - 300.0])
    from stages.geo.frame import to_crs

    lon, lat = to_crs(UTM, "EPSG:4326", xs, ys)
    raster(
        tmp_path / "s.tif", lambda x, y: 1e5 * (x - lon) + 2e5 * (y - lat), crs="EPSG:4326", dtype="float64",
        corner=(lon.item() - 0.01, lat.item() + 0.01), resolution=0.0001, shape=(200, 200),
    )  # fmt: skip
    bounds = [CORNER[0], CORNER[1] - 600, CORNER[0] + 600, CORNER[1]]
    tiles = cut(
        tmp_path, [{"files": tmp_path / "s.tif"}], resampling=method,
        grid={"crs": UTM, "resolution": 20, "bounds": bounds, "tile": 16},
    )  # fmt: skip
    cube, valid = whole(tiles)
    cols, rows = np.meshgrid(CORNER[0] + 20 * np.arange(30) + 10.0, CORNER[1] - 20 * np.arange(30) - 10.0)
    x, y = to_crs(UTM, "EPSG:4326", cols, rows)
    assert valid.all()
    # A source pixel is 10 and 20 wide in these values: nearest is right to half of both, the mean of pixels that are
    # flat each to a tenth, and interpolation restores the plane.
    tolerance = {"nearest": 15.001, "average": 1.5}.get(method, 0.05)
    assert np.abs(cube[0, 0] - (1e5 * (x - lon) + 2e5 * (y - lat))).max() < tolerance


def test_a_value_does_not_depend_on_how_the_grid_is_cut(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    raster(tmp_path / "s.tif", noise((60, 60)), rotation=20)
    cubes = []
    for side, limit in ((16, 16_000_000), (64, 16_000_000), (64, 300)):
        (tmp_path / f"{side}-{limit}").mkdir()
        monkeypatch.setattr(warping, "MAX_VALUES", limit)
        grid = {"resolution": 15, "tile": side}
        cubes.append(whole(cut(tmp_path / f"{side}-{limit}", [{"files": tmp_path / "s.tif"}], grid=grid)))
    for cube, valid in cubes[1:]:
        assert (valid == cubes[0][1]).all()
        assert cube == pytest.approx(cubes[0][0], rel=1e-6)


def test_a_rotated_scene_lies_where_its_transform_says(tmp_path: Path) -> None:
    raster(tmp_path / "s.tif", lambda x, y: (x - CORNER[0]) + 3 * (y - CORNER[1]), shape=(40, 40), rotation=30)
    tiles = cut(tmp_path, [{"files": tmp_path / "s.tif"}], grid={"resolution": 10})
    cube, valid = whole(tiles)
    rows, cols = np.nonzero(valid[0])
    expected = (tiles.grid.left - CORNER[0] + 10 * cols + 5) + 3 * (tiles.grid.top - CORNER[1] - 10 * rows - 5)
    # The turned square holds 1,600 pixels' worth of ground.
    assert len(rows) == pytest.approx(1600, rel=0.02)
    inner = np.abs(cube[0, 0][valid[0]] - expected) < 0.01
    assert inner.mean() > 0.9


def test_only_the_source_pixels_of_a_window_are_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = raster(tmp_path / "s.tif", noise((100, 100)))
    read: list[Window] = []
    original = warping._read
    monkeypatch.setattr(warping, "_read", lambda *a: read.append(a[1]) or original(*a))
    frame = Frame(UTM, (10, 0, CORNER[0], 0, -10, CORNER[1]), 100, 100)
    layers = Layers(str(path), frame, (1,), (None,), (1.0,), (0.0,), "average")
    warp(layers, Grid(UTM, 10.0, *CORNER, 100, 100, 16), Window(20, 30, 16, 16))
    warp(layers, Grid(UTM, 20.0, *CORNER, 50, 50, 16), Window(10, 10, 16, 16))
    assert read == [Window(20, 30, 16, 16), Window(20, 20, 32, 32)]


def test_a_killed_run_goes_on_where_it_stopped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    raster(tmp_path / "s.tif", noise((40, 40)))
    original, seen = tile._cut, []

    def dies(tiles: Tiles, plan: Plan, group: Any) -> dict[str, Any]:
        if group[0][0] == 2:
            raise KeyboardInterrupt
        return original(tiles, plan, group)

    def counts(tiles: Tiles, plan: Plan, group: Any) -> dict[str, Any]:
        seen.extend((row, col) for row, col, _ in group)
        return original(tiles, plan, group)

    import dask

    with dask.config.set(scheduler="synchronous"):
        monkeypatch.setattr(tile, "_cut", dies)
        with pytest.raises(KeyboardInterrupt):
            cut(tmp_path, [{"files": tmp_path / "s.tif"}], grid={"tile": 16})
        assert (tmp_path / "tiles" / tile.DONE).is_dir()
        monkeypatch.setattr(tile, "_cut", counts)
        tiles = cut(tmp_path, [{"files": tmp_path / "s.tif"}], grid={"tile": 16})
    assert (2, 1) in seen
    assert 1 <= len(seen) < 9
    assert len(tiles.read_index()) == 9
    assert whole(tiles)[1].all()
    assert not (tmp_path / "tiles" / tile.DONE).exists()


# --- places ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("left", "crossing"), [(179.9, True), (10.0, False)])
def test_a_geographic_scene_across_the_antimeridian(tmp_path: Path, left: float, crossing: bool) -> None:
    values = noise((20, 40))
    raster(tmp_path / "s.tif", values, crs="EPSG:4326", corner=(left, 5.0), resolution=0.01)
    tiles = cut(tmp_path, [{"files": tmp_path / "s.tif"}])
    assert (tiles.grid.bounds[2] > 180) is crossing
    assert (whole(tiles)[0][0, 0] == values).all()
    # A hundredth of a degree at 5 degrees north: 1.106 km by 1.109 km.
    assert tiles.grid.pixel_hectares(0, 20).sum() * 40 == pytest.approx(20 * 40 * 110.575 * 1.1091, rel=2e-3)


def test_two_scenes_meet_at_the_antimeridian(tmp_path: Path) -> None:
    west, east = noise((10, 10), 1), noise((10, 10), 2)
    raster(tmp_path / "a.tif", west, crs="EPSG:4326", corner=(179.0, 1.0), resolution=0.1)
    raster(tmp_path / "b.tif", east, crs="EPSG:4326", corner=(-180.0, 1.0), resolution=0.1)
    tiles = cut(tmp_path, [{"files": tmp_path / "?.tif", "date": "2020"}])
    assert (tiles.grid.width, tiles.grid.height) == (20, 10)
    assert (whole(tiles)[0][0, 0] == np.hstack([west, east])).all()


def test_utm_zones_60_and_1_meet(tmp_path: Path) -> None:
    for name, crs, left in (("a", "EPSG:32660", 800_000), ("b", "EPSG:32601", 150_000)):
        place = {"crs": crs, "corner": (left, 100_000), "resolution": 1000, "shape": (50, 50)}
        raster(tmp_path / f"{name}.tif", lambda x, y: x + y, **place)
    tiles = cut(tmp_path, [{"files": tmp_path / "?.tif", "date": "2020"}])
    # Side by side, not the circumference of the globe apart. At the equator zone 60 ends at 833,979 m and zone 1 begins
    # at 166,021 m: the two overlap by 32 km.
    assert tiles.grid.crs == "EPSG:32660"
    assert tiles.grid.width < 150
    assert whole(tiles)[1].sum() == pytest.approx(5000 - 32 * 50, rel=0.01)


# --- refused ---------------------------------------------------------------------------------------------------------


def test_a_scene_that_does_not_overlap_the_grid(tmp_path: Path) -> None:
    raster(tmp_path / "s.tif", noise((8, 8)))
    with pytest.raises(SceneError, match=r"s\.tif does not overlap the grid"):
        cut(tmp_path, [{"files": tmp_path / "s.tif"}], grid={"bounds": [0, 0, 100, 100]})


@pytest.mark.parametrize(("level", "words"), [(7.0, "constant"), (-1.0, "all nodata")])
def test_a_band_that_tells_nothing(tmp_path: Path, level: float, words: str) -> None:
    values = noise((2, 40, 40))
    values[1] = level
    raster(tmp_path / "s.tif", values, nodata=-1)
    with pytest.raises(SceneError, match=rf"band y of .*s\.tif is {words}"):
        cut(tmp_path, [{"files": tmp_path / "s.tif"}], {"x": 1, "y": 2}, grid={"tile": 16})


def test_a_block_that_cannot_be_unpacked(tmp_path: Path) -> None:
    path = raster(tmp_path / "s.tif", noise((64, 64)), tiled=True, blockxsize=32, blockysize=32, compress="deflate")
    spoil_block(path)
    with pytest.raises(SceneError, match=r"s\.tif is damaged: some of its pixels cannot be read \(.*[Dd]ecod.*\);"):
        cut(tmp_path, [{"files": path}])


def test_bands_that_show_different_ground(tmp_path: Path) -> None:
    raster(tmp_path / "s_x.tif", noise((8, 8)))
    raster(tmp_path / "s_y.tif", noise((8, 8)), corner=(CORNER[0] + 200, CORNER[1]))
    with pytest.raises(SceneError, match=r"no pixel of .* is valid in all bands"):
        cut(tmp_path, [{"files": tmp_path / "s_{band}.tif"}], {"x": "x", "y": "y"})


def test_scenes_on_two_continents(tmp_path: Path) -> None:
    raster(tmp_path / "a.tif", noise((8, 8)))
    raster(tmp_path / "b.tif", noise((8, 8)), corner=(CORNER[0] + 150_000, CORNER[1] - 2_000_000))
    with pytest.raises(SceneError, match="so far apart"):
        cut(tmp_path, [{"files": tmp_path / "?.tif", "date": "2020"}])


def test_a_native_grid_of_another_resolution(tmp_path: Path) -> None:
    raster(tmp_path / "s.tif", noise((8, 8)))
    with pytest.raises(SceneError, match="leave both at auto"):
        cut(tmp_path, [{"files": tmp_path / "s.tif"}], grid={"origin": "native", "resolution": 30})


def test_a_crs_that_nobody_knows(tmp_path: Path) -> None:
    raster(tmp_path / "s.tif", noise((8, 8)))
    with pytest.raises(SceneError, match="'EPSG:99', which is no known CRS"):
        cut(tmp_path, [{"files": tmp_path / "s.tif"}], grid={"crs": "EPSG:99"})


@pytest.mark.parametrize("grid", [{"resolution": 0}, {"resolution": "fine"}, {"tile": 100}, {"bounds": [1, 0, 0, 1]}])
def test_settings_out_of_range(grid: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        tile.Config.model_validate({"grid": grid})
