"""Tile regularises, masks and fills dated scenes, and counts what it did, on worlds with known values."""

from __future__ import annotations

import logging
import tracemalloc
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from stages import tile
from stages.errors import SceneError, SettingError
from stages.formats.tiles import Tiles
from stages.geo import plan as planning
from tests.rasters import CORNER, noise, raster
from tests.series_worlds import dated, source, tiled

CLEAR, CLOUD, NONE = 4, 9, 0
SIDE = 20


def whole(tiles: Tiles) -> tuple[np.ndarray, np.ndarray]:
    return tiles.read(tiles.grid.whole)


def scl(*clouds: tuple[int, int], value: int = CLOUD) -> np.ndarray:
    """Make a quality band that is clear but for some pixels."""
    band = np.full((SIDE, SIDE), CLEAR, np.uint8)
    for row, col in clouds:
        band[row, col] = value
    return band


def flat(level: float) -> np.ndarray:
    """Make a scene of one value, but for its corner, so that no band is constant."""
    values = np.full((SIDE, SIDE), level, np.float32)
    values[-1, -1] = 0
    return values


#: Two dates in January, one in February, none in March, two in April; pixel (0, 0) is cloudy on the first and the
#: third, pixel (0, 1) on all but the last.
LEVELS = {"2018-01-03": 10.0, "2018-01-20": 20.0, "2018-02-10": 30.0, "2018-04-02": 50.0, "2018-04-28": 90.0}
CLOUDS = {"2018-01-03": [(0, 0), (0, 1)], "2018-01-20": [(0, 1)], "2018-02-10": [(0, 0), (0, 1)],
          "2018-04-02": [(0, 1)], "2018-04-28": []}  # fmt: skip


def world(folder: Path, **settings: Any) -> Tiles:
    sources = dated(folder, {d: flat(v) for d, v in LEVELS.items()}, {d: scl(*c) for d, c in CLOUDS.items()})
    settings.setdefault("mask", {"dilate": 0})
    return tiled(folder, sources, quality="SCL", **settings)


def test_without_a_step_dates_stay_as_they_are(tmp_path: Path) -> None:
    tiles = world(tmp_path)
    cube, valid = whole(tiles)
    assert (tiles.dates, tiles.bands, tiles.step) == (tuple(LEVELS), ("b",), "")
    assert valid[:, 0, 0].tolist() == [False, True, False, True, True]
    assert valid[:, 5, 5].all()
    assert cube[:, 0, 0, 0].tolist() == [0, 20, 0, 50, 90]
    assert tiles.read_clear(tiles.grid.whole)[0][0, :3].tolist() == [3, 1, 5]


def test_monthly_medians_by_hand(tmp_path: Path) -> None:
    tiles = world(tmp_path, time={"step": "1 month"})
    assert (tiles.step, tiles.dates) == ("1 month", ("2018-01-01", "2018-02-01", "2018-03-01", "2018-04-01"))
    assert tiles.days == (15.5, 45.0, 74.5, 105.0)
    cube, valid = whole(tiles)
    assert cube[:, 0, 5, 5].tolist() == [15, 30, 0, 70]
    assert valid[:, 5, 5].tolist() == [True, True, False, True]
    assert cube[:, 0, 0, 0].tolist() == [20, 0, 0, 70]
    assert cube[:, 0, 0, 1].tolist() == [0, 0, 0, 90]
    clear, filled = tiles.read_clear(tiles.grid.whole)
    assert clear[0, :3].tolist() == [3, 1, 5]
    assert not filled.any()
    index = tiles.read_index()
    assert index["valid_2018-02-01"].tolist() == pytest.approx([398 / 400])
    assert index["valid_2018-03-01"].tolist() == [0]
    assert index["valid"].tolist() == pytest.approx([(399 + 398 + 0 + 400) / 1600])


@pytest.mark.parametrize(("statistic", "april"), [("median", 70.0), ("mean", 70.0), ("best", 90.0)])
def test_gaps_are_filled_in_days_and_counted(tmp_path: Path, statistic: str, april: float) -> None:
    tiles = world(tmp_path, time={"step": "1 month", "fill": "linear", "statistic": statistic})
    cube, valid = whole(tiles)
    assert valid.all()
    # March is between mid-February, day 45, and mid-April, day 105.
    assert cube[2, 0, 5, 5] == pytest.approx(30 + (april - 30) * 29.5 / 60)
    assert cube[1, 0, 0, 0] == pytest.approx(20 + (april - 20) * 29.5 / 89.5)
    assert cube[:, 0, 0, 1].tolist() == [90.0] * 4
    clear, filled = tiles.read_clear(tiles.grid.whole)
    assert clear[0, :3].tolist() == [3, 1, 5]
    assert filled[0, :3].tolist() == [50, 75, 25]


def test_best_is_the_date_with_the_greatest_clear_share_of_the_whole_area(tmp_path: Path) -> None:
    """The second date is clearer on the first tile alone, the first one on the whole."""
    one, two = scl(), scl()
    one[:2, :2], two[16:, :] = CLOUD, CLOUD
    for side in (16, 32):
        folder = tmp_path / str(side)
        sources = dated(folder, {"2018-01-01": flat(10), "2018-01-02": flat(20)},
                        {"2018-01-01": one, "2018-01-02": two})  # fmt: skip
        tiles = tiled(folder, sources, quality="SCL", mask={"dilate": 0}, grid={"tile": side},
                      time={"step": "1 month", "statistic": "best"})  # fmt: skip
        cube, valid = whole(tiles)
        assert cube[0, 0, 5, 5] == 10
        assert cube[0, 0, 0, 0] == 20
        assert valid.all()


@pytest.mark.parametrize("fill", ["whittaker", "savgol"])
def test_a_series_is_the_same_however_it_is_cut(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fill: str) -> None:
    """Small and large tiles, and tiles cut in strips, give the same cube; clouds reach over their edges."""
    rng = np.random.default_rng(0)
    dates = [f"2018-{month:02}-{day:02}" for month in (1, 2, 4) for day in (3, 17)]
    series = {date: noise((2, 33, 36), seed) for seed, date in enumerate(dates)}
    quality = {date: np.where(rng.random((33, 36)) < 0.01, CLOUD, CLEAR) for date in dates}
    quality[dates[0]][:, :15] = NONE
    found = []
    for name, side, budget in (("large", 64, 10**9), ("small", 16, 10**9), ("strips", 16, 2000), ("rows", 64, 4000)):
        monkeypatch.setattr(planning, "BUDGET", budget)
        folder = tmp_path / name
        tiles = tiled(
            folder, dated(folder, series, quality, bands=("x", "y")), ("x", "y"), "SCL", mask={"dilate": 35},
            grid={"tile": side}, time={"step": "1 month", "fill": fill, "least": 2},
        )  # fmt: skip
        found.append((*whole(tiles), *tiles.read_clear(tiles.grid.whole)))
    for other in found[1:]:
        for one, two in zip(found[0], other, strict=True):
            assert (one == two).all()
    clear = found[0][2]
    # Something is masked, and not only under the clouds themselves.
    under = sum((band == CLEAR).astype(int) for band in quality.values())
    assert (clear <= under).all()
    assert clear.sum() < 0.9 * under.sum()


def test_what_is_outside_a_scene_does_not_grow(tmp_path: Path) -> None:
    quality = scl((10, 10))
    quality[:, :4] = NONE
    tiles = tiled(tmp_path, dated(tmp_path, {"2018": noise((SIDE, SIDE))}, {"2018": quality}), quality="SCL",
                  mask={"dilate": 25})  # fmt: skip
    rows, cols = np.mgrid[:SIDE, :SIDE]
    expected = (np.hypot(rows - 10, cols - 10) > 2.5) & (cols >= 4)
    assert (whole(tiles)[1][0] == expected).all()


def test_a_cloud_beyond_the_grid_counts(tmp_path: Path) -> None:
    sources = dated(tmp_path, {"2018": noise((SIDE, SIDE))}, {"2018": scl((0, 0))})
    left, top = CORNER
    tiles = tiled(tmp_path, sources, quality="SCL", mask={"dilate": 20},
                  grid={"bounds": [left + 10, top - 200, left + 200, top - 10]})  # fmt: skip
    # The cloud lies one pixel above and left of the grid.
    assert np.argwhere(~whole(tiles)[1][0]).tolist() == [[0, 0]]


def test_seasons_hold_as_many_steps_each_and_gaps_are_filled_across_them(tmp_path: Path) -> None:
    levels = {"2016-09-10": 10.0, "2017-03-10": 20.0, "2017-10-10": 40.0, "2018-06-10": 60.0}
    quality = {date: scl((0, 0) if date < "2017-09" else (0, 1)) for date in levels}
    tiles = tiled(
        tmp_path, dated(tmp_path, {d: flat(v) for d, v in levels.items()}, quality), quality="SCL",
        mask={"dilate": 0}, time={"step": "3 months", "season": "1 year", "from": "2016-09-01", "fill": "linear"},
    )  # fmt: skip
    assert (tiles.seasons, tiles.steps, tiles.season) == (2, 4, 1)
    assert tiles.dates == ("2017-09-01", "2017-12-01", "2018-03-01", "2018-06-01")
    assert tiles.of(0).dates == ("2016-09-01", "2016-12-01", "2017-03-01", "2017-06-01")
    # 1 September is day 244 of a year that is no leap year; 91 days of autumn, 90 of winter, 92 of spring.
    assert tiles.days == pytest.approx((243 + 45.5, 334 + 45, 424 + 46, 516 + 46))
    first, last = whole(tiles.of(0))[0][:, 0, 5, 5], whole(tiles)[0][:, 0, 5, 5]
    assert (first[0], first[2], last[0], last[3]) == (10, 20, 40, 60)
    # June to August 2017 lies in the middle between spring, 92 days, and autumn, 91 days, of the next season.
    assert first[3] == pytest.approx(20 + 20 * 92 / (92 + 91.5), rel=1e-6)
    # No clear observation in a season: no map of it, though another season has some.
    assert not whole(tiles.of(0))[1][:, 0, 0].any()
    assert whole(tiles)[1][:, 0, 0].all()
    assert not whole(tiles)[1][:, 0, 1].any()
    clear, filled = tiles.of(0).read_clear(tiles.grid.whole)
    assert clear[0, :3].tolist() == [0, 2, 2]
    assert filled[0, :3].tolist() == [0, 50, 50]


def test_pixels_with_few_observations_are_left_out_and_counted(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.INFO):
        tiles = world(tmp_path, time={"step": "1 month", "fill": "linear", "least": 2})
    _, valid = whole(tiles)
    assert np.argwhere(~valid.any(axis=0)).tolist() == [[0, 1]]
    assert "1 pixels have fewer than 2 clear observations from 2018-01-01 on and stay without data" in caplog.messages
    assert "1 of 4 steps have no scene" in caplog.messages
    assert tiles.read_clear(tiles.grid.whole)[1][0, 1] == 0


def test_a_pixel_that_is_never_clear_is_nodata_and_counted(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    series = {date: flat(level) for date, level in LEVELS.items()}
    with caplog.at_level(logging.INFO):
        tiles = tiled(tmp_path, dated(tmp_path, series, dict.fromkeys(series, scl((3, 4)))), quality="SCL",
                      mask={"clear": [4], "dilate": 0})  # fmt: skip
    assert np.argwhere(~tiles.read_valid(tiles.grid.whole)).tolist() == [[3, 4]]
    assert any(message.startswith("1 pixels have fewer than 1 clear") for message in caplog.messages)


def test_dates_of_a_series_that_are_all_cloud_are_left_out(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    series = {date: flat(level) for date, level in LEVELS.items()}
    series["2018-02-10"][:] = 7
    quality = {d: np.full((SIDE, SIDE), CLOUD if d in ("2018-01-03", "2018-02-10") else CLEAR) for d in series}
    sources = dated(tmp_path, series, quality)
    tiles = tiled(tmp_path, sources, quality="SCL")
    assert tiles.dates == ("2018-01-20", "2018-04-02", "2018-04-28")
    assert whole(tiles)[0][:, 0, 5, 5].tolist() == [20, 50, 90]
    assert "2 of 5 dates are all cloud and left out: 2018-01-03, 2018-02-10" in caplog.messages
    tiles = tiled(tmp_path / "month", sources, quality="SCL", time={"step": "1 month"})
    assert whole(tiles)[0][:, 0, 5, 5].tolist() == [20, 0, 0, 70]
    assert "2 of 5 dates have no valid pixel and add nothing: 2018-01-03, 2018-02-10" in caplog.messages


def test_a_band_that_is_constant_on_one_date_of_a_series_tells_something(tmp_path: Path) -> None:
    series = {"2018-01-01": np.full((SIDE, SIDE), 5.0), "2018-01-02": np.full((SIDE, SIDE), 6.0)}
    assert whole(tiled(tmp_path, dated(tmp_path, series)))[1].all()
    series["2018-01-02"][:] = 5
    with pytest.raises(SceneError, match=r"band b of .*2018-01-01\.tif and the other 1 dates is constant \(5 everywh"):
        tiled(tmp_path / "same", dated(tmp_path / "same", series))


def test_one_date_makes_one_step(tmp_path: Path) -> None:
    tiles = tiled(tmp_path, dated(tmp_path, {"2018-05-09": flat(3)}), time={"step": "16 days", "fill": "whittaker"})
    assert (tiles.dates, tiles.channels, tiles.days) == (("2018-05-09",), ("b",), (136.0,))
    assert whole(tiles)[1].all()


def test_tiles_of_picked_dates_are_regularised(tmp_path: Path) -> None:
    tiles = world(tmp_path, dates=["2018-01-20", "2018-04-02"], time={"step": "1 month"})
    assert whole(tiles)[0][:, 0, 5, 5].tolist() == [20, 0, 0, 50]


def test_scenes_of_a_date_keep_their_own_masks(tmp_path: Path) -> None:
    sources = dated(tmp_path / "a", {"2018-01-01": flat(1)}, {"2018-01-01": scl((2, 2))})
    more = dated(tmp_path / "b", {"2018-01-01": flat(2)}, {"2018-01-01": scl((2, 2), (9, 9))})
    from dataclasses import replace

    sources += [replace(one, scene="2018-01-01 b") for one in more]
    cube, valid = whole(tiled(tmp_path, sources, quality="SCL", mask={"dilate": 10}))
    # Both scenes are cloudy at one place; nothing of the second one is needed elsewhere.
    assert np.argwhere(~valid[0]).tolist() == [[1, 2], [2, 1], [2, 2], [2, 3], [3, 2]]
    assert (cube[0, 0][valid[0]][:-1] == 1).all()


# --- static layers and indices ---------------------------------------------------------------------------------------


def test_static_layers_join_every_step_and_must_be_valid(tmp_path: Path) -> None:
    height = noise((SIDE, SIDE), 9)
    height[4, 4] = -1
    sources = dated(tmp_path, {d: flat(v) for d, v in LEVELS.items()})
    sources.append(source(raster(tmp_path / "dem.tif", height, nodata=-1), "", ("dem",), static=True))
    # A layer far wider than the scenes does not widen the grid, nor does its finer pixel refine it.
    wide = raster(tmp_path / "slope.tif", lambda x, y: x - CORNER[0] + 0 * y, shape=(400, 400), resolution=5,
                  corner=(CORNER[0] - 500, CORNER[1] + 500))  # fmt: skip
    sources.append(source(wide, "", ("slope",), static=True))
    tiles = tiled(tmp_path, sources, static=("dem", "slope"), time={"step": "1 month", "fill": "linear"})
    assert tiles.bands == ("b", "dem", "slope")
    assert (tiles.grid.width, tiles.grid.resolution) == (SIDE, 10)
    cube, valid = whole(tiles)
    assert np.argwhere(~valid.all(axis=0)).tolist() == [[4, 4]]
    assert not valid[:, 4, 4].any()
    for step in range(4):
        assert (cube[step, 1][valid[0]] == height[valid[0]]).all()
        assert cube[step, 2, 5] == pytest.approx(10 * np.arange(SIDE) + 5)
    assert tiles.scaling == "digital numbers"


def test_indices_are_those_of_the_bands_that_are_stored(tmp_path: Path) -> None:
    series = {"2018-01-03": [1000, 2000], "2018-01-20": [1000, 9000], "2018-01-25": [2000, 3000]}
    scenes = {d: np.broadcast_to(np.reshape(v, (2, 1, 1)), (2, SIDE, SIDE)).astype("uint16") for d, v in series.items()}
    sources = dated(tmp_path, scenes, bands=("red", "nir"), scale=1e-4)
    tiles = tiled(tmp_path, sources, ("red", "nir"), time={"step": "1 month"}, indices=["NDVI", "SAVI"])
    assert tiles.bands == ("red", "nir", "NDVI", "SAVI")
    cube, _ = whole(tiles)
    # Medians 0.1 and 0.3: 0.5, where the median of the three indices were 1/3.
    assert cube[0, :, 5, 5] == pytest.approx([0.1, 0.3, 0.5, 2 * 0.2 / 1.4], rel=1e-5)


def test_an_index_of_digital_numbers_is_refused_unless_allowed(tmp_path: Path) -> None:
    sources = dated(tmp_path, {"2018": noise((2, SIDE, SIDE))}, bands=("red", "nir"))
    with pytest.raises(SettingError, match=r"NDVI is an index of reflectances, but band red of .*allow_dn: true"):
        tiled(tmp_path, sources, ("red", "nir"), indices=["NDVI"])
    cube, _ = whole(tiled(tmp_path, sources, ("red", "nir"), indices=["NDVI"], allow_dn=True))
    assert cube[0, 2] == pytest.approx((cube[0, 1] - cube[0, 0]) / (cube[0, 1] + cube[0, 0]), rel=1e-5)


# --- the grid --------------------------------------------------------------------------------------------------------


def test_a_native_grid_of_the_coarser_scene(tmp_path: Path) -> None:
    fine, coarse = noise((16, 16), 1), noise((8, 8), 2)
    place = CORNER[0] + 5, CORNER[1] - 5
    sources = [
        source(raster(tmp_path / "f.tif", fine, corner=place), "2018", ("f",), scene="s"),
        source(raster(tmp_path / "g.tif", coarse, resolution=20, corner=place), "2018", ("c",), scene="s"),
    ]
    tiles = tiled(tmp_path, sources, ("f", "c"), grid={"origin": "native", "resolution": 20})
    assert (tiles.grid.left, tiles.grid.top, tiles.grid.width) == (*place, 8)
    cube, _ = whole(tiles)
    assert (cube[0, 1] == coarse).all()
    assert cube[0, 0] == pytest.approx(fine.reshape(8, 2, 8, 2).mean(axis=(1, 3)), rel=1e-6)


def test_dates_beyond_the_bounds_are_left_out_and_counted(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    levels = {"2018-01-03": 10.0, "2018-02-10": 30.0, "2018-03-02": 50.0}
    sources = []
    for date, level in levels.items():
        away = 5000 if date == "2018-02-10" else 0
        sources += dated(tmp_path, {date: flat(level)}, {date: scl()}, corner=(CORNER[0] + away, CORNER[1]))
    left, top = CORNER
    bounds = {"grid": {"bounds": [left, top - 10 * SIDE, left + 10 * SIDE, top]}}
    tiles = tiled(tmp_path, sources, quality="SCL", mask={"dilate": 0}, **bounds)
    assert tiles.dates == ("2018-01-03", "2018-03-02")
    assert whole(tiles)[0][:, 0, 5, 5].tolist() == [10, 50]
    assert "1 of 3 dates do not overlap the grid and are left out: 2018-02-10" in caplog.messages
    assert not any("scenes do not overlap" in message for message in caplog.messages)
    tiles = tiled(tmp_path / "month", sources, quality="SCL", mask={"dilate": 0}, time={"step": "1 month"}, **bounds)
    assert whole(tiles)[0][:, 0, 5, 5].tolist() == [10, 0, 50]
    away = {"grid": {"bounds": [left + 1000, top - 10 * SIDE, left + 1200, top]}}
    with pytest.raises(SceneError, match=r"2018-01-03\.tif and 5 other files do not overlap the grid"):
        tiled(tmp_path / "none", sources, quality="SCL", mask={"dilate": 0}, **away)


# --- refused ---------------------------------------------------------------------------------------------------------


def test_a_mask_without_a_quality_band(tmp_path: Path) -> None:
    with pytest.raises(SettingError, match=r"tile\.mask needs a quality band"):
        tiled(tmp_path, dated(tmp_path, {"2018": noise((8, 8))}), mask={"preset": "landsat-c2"})


def test_a_quality_band_that_is_missing_for_one_date(tmp_path: Path) -> None:
    sources = dated(
        tmp_path, {"2018": noise((SIDE, SIDE)), "2019": noise((SIDE, SIDE))}, {"2018": scl(), "2019": scl()}
    )
    with pytest.raises(SceneError, match=r"2019\.tif of 2019 has no quality band SCL on the grid"):
        tiled(tmp_path, [one for one in sources if not one.path.endswith("2019_scl.tif")], quality="SCL")


@pytest.mark.parametrize("dates", [["2018"], ["2018", "2019"]])
def test_nothing_is_clear(tmp_path: Path, dates: list[str]) -> None:
    series = {date: noise((SIDE, SIDE)) for date in dates}
    sources = dated(tmp_path, series, dict.fromkeys(dates, np.full((SIDE, SIDE), CLOUD)))
    with pytest.raises(SceneError, match=r"no pixel of .*2018\.tif and the other files is valid .* clear by the mask"):
        tiled(tmp_path, sources, quality="SCL")


def test_filling_without_dates(tmp_path: Path) -> None:
    sources = dated(tmp_path, {"2018": noise((8, 8))})
    sources.append(source(raster(tmp_path / "u.tif", noise((8, 8), 1)), "", ("b",)))
    with pytest.raises(SettingError, match=r"tile\.time\.fill needs the date of every scene"):
        tiled(tmp_path, sources, time={"fill": "linear"})


# --- memory ----------------------------------------------------------------------------------------------------------


def test_memory_does_not_grow_with_the_number_of_dates(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Four times the dates in the same two steps need the same memory: a few rows at a time."""
    import dask

    side, peaks = 96, []
    monkeypatch.setattr(planning, "BUDGET", 100_000)
    for count in (20, 80):
        folder = tmp_path / str(count)
        days = [f"2018-{1 + day // 40:02}-{1 + day % 28:02}" for day in range(0, 80, 80 // count)]
        path = raster(folder / "s.tif", noise((4, side, side)))
        sources = [source(path, date, ("a", "b", "c", "d"), scene=str(i)) for i, date in enumerate(days)]
        assert len({one.date for one in sources}) >= 0.7 * count
        with dask.config.set(scheduler="synchronous"):
            tracemalloc.start()
            tiled(folder, sources, ("a", "b", "c", "d"), grid={"tile": side}, time={"step": "1 month"})
            peaks.append(tracemalloc.get_traced_memory()[1])
            tracemalloc.stop()
    # All dates together would be 12 MB of float32 here.
    assert peaks[1] < 1.3 * peaks[0]
    assert peaks[1] < 5_000_000


def test_the_settings_of_time_have_their_names_in_yaml() -> None:
    config = tile.Config.model_validate({"time": {"step": "1 month", "from": "2018", "to": "2018-12"}})
    assert (config.time.start, config.time.end) == ("2018", "2018-12")
