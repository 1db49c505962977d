"""Labels with a time of their own: seasons they count for, folds by year, tables of points, ranges, random splits."""

from __future__ import annotations

import logging
import pickle
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import geopandas as gpd
import numpy as np
import pandas as pd
import pytest
import zarr
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError
from rasterio.warp import transform
from shapely.geometry import Point, Polygon, box

from stages.errors import LabelError, LeakError
from stages.formats.samples import STORE, UNLABELLED, Part, Role, Samples
from stages.formats.tiles import Tiles
from stages.geo.grid import Grid
from stages.geo.periods import Period, holds, read_periods
from stages.label import Config
from stages.settings import label_range
from stages.training.burnt import elected
from stages.training.splits import check_training_input
from tests.label_worlds import CLASSES, CRS, GRID, LabelWorld, verify

WHOLE = GRID.whole
#: The same ground as one tile: most of what is tested here does not ask how it is cut.
ONE_TILE = replace(GRID, tile=64)
#: Two seasons, the calendar years 2018 and 2019, of three steps of four months.
DATES = ("2018-01-01", "2018-05-01", "2018-09-01", "2019-01-01", "2019-05-01", "2019-09-01")
DATED = {"field": "class", "start": "start", "end": "end"}


@pytest.fixture
def world(tmp_path: Path) -> LabelWorld:
    """Two seasons; the first date is invalid on 4 x 6 pixels that the others see."""
    return LabelWorld.build(tmp_path, (slice(0, 4), slice(0, 6)), ONE_TILE, dates=DATES, seasons=2, step="4 months")


def three_years(root: Path, grid: Grid = ONE_TILE) -> LabelWorld:
    return LabelWorld.build(root, grid=grid, dates=("2017", "2018", "2019"), seasons=3)


def at(row: int, col: int) -> Point:
    return Point(GRID.left + 10 * col + 5, GRID.top - 10 * row - 5)


def field(row: int, col: int, height: int, width: int) -> Polygon:
    left, top = GRID.left + 10 * col, GRID.top - 10 * row
    return box(left, top - 10 * height, left + 10 * width, top)


def save(world: LabelWorld, name: str, shapes: list[Any], **columns: list[Any]) -> Path:
    """Write features in the format that the name says."""
    path = world.root / name
    table = gpd.GeoDataFrame(columns, geometry=shapes, crs=CRS)
    if path.suffix == ".parquet":
        table.to_parquet(path)
    elif path.suffix == ".csv":
        degrees = table.to_crs("EPSG:4326")
        pd.DataFrame({**columns, "Lon": degrees.geometry.x, "LATITUDE": degrees.geometry.y}).to_csv(path, index=False)
    else:
        table.to_file(path)
    return path


def alternating(world: LabelWorld, name: str = "labels.gpkg") -> Path:
    """Points on every second pixel of every second row: forest and water change places with the year."""
    places = [(row, col) for row in range(0, 40, 2) for col in range(0, 48, 2)]
    values, starts, ends, shapes = [], [], [], []
    for year in (2018, 2019):
        for row, col in places:
            values.append(1 + (row // 2 + col // 2 + year) % 2)
            starts.append(f"{year}-01-01")
            ends.append(f"{year}-12-31")
            shapes.append(at(row, col))
    return save(world, name, shapes, **{"class": values, "start": starts, "end": ends})


# --- periods ----------------------------------------------------------------------------------------------------------


def day(text: str) -> int:
    return Period.of_date(text).first


@pytest.mark.parametrize(
    ("text", "first", "last"),
    [("2018-05-03", "2018-05-03", "2018-05-03"), ("2018-05-03T11:20:00Z", "2018-05-03", "2018-05-03"),
     ("2018-05-03 11:20:00", "2018-05-03", "2018-05-03"), ("20180503", "2018-05-03", "2018-05-03"),
     ("2018-02", "2018-02-01", "2018-02-28"), ("2018-12", "2018-12-01", "2018-12-31"),
     ("2018", "2018-01-01", "2018-12-31"), ("2018.0", "2018-01-01", "2018-12-31")],
)  # fmt: skip
def test_a_date_is_the_time_it_names(text: str, first: str, last: str) -> None:
    assert Period.of_date(text) == Period(day(first), day(last) + 1)
    assert str(Period.of_date(text)) == f"{first} to {last}"


@pytest.mark.parametrize(
    ("dates", "step", "last"),
    [(("2018-01-01", "2018-02-01"), "1 month", "2018-02-28"), (("2018-01-01", "2018-01-17"), "16 days", "2018-02-01"),
     (("2018-11-01", "2018-12-01"), "month", "2018-12-31"), (("2018-03-01",), "2 weeks", "2018-03-14"),
     (("2018-01-01", "2018-01-11", "2018-01-31", "2018-02-10"), "", "2018-02-19"),
     (("2018-05",), "", "2018-05-31"), (("2018",), "", "2018-12-31"), (("2018-05-03",), "", "2018-05-03")],
)  # fmt: skip
def test_a_season_ends_with_its_last_step(dates: tuple[str, ...], step: str, last: str) -> None:
    assert Period.of_steps(dates, step) == Period(day(dates[0]), day(last) + 1)


def test_a_label_counts_for_half_a_season_or_with_half_of_its_life() -> None:
    season = Period(100, 200)
    first, after = np.array([[100, 150], [100, 149], [0, 1000], [120, 121], [80, 120], [80, 119], [90, 100]]).T
    assert holds(first, after, season).tolist() == [True, True, True, True, True, False, False]
    assert holds(np.array([140]), np.array([240]), season).tolist() == [True]  # covers 60 of 100 days
    assert holds(np.array([151]), np.array([251]), season).tolist() == [False]


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 300), st.integers(1, 200), st.integers(0, 300), st.integers(1, 200))
def test_counting_for_a_season_is_mutual(start: int, length: int, begin: int, size: int) -> None:
    one, other = Period(start, start + length), Period(begin, begin + size)
    pairs = ((one, other), (other, one))
    found = [bool(holds(np.array([a.first]), np.array([a.after]), b)[0]) for a, b in pairs]
    assert found[0] == found[1]


def test_dates_come_as_text_numbers_and_timestamps() -> None:
    stamps = pd.Series(pd.to_datetime(["2018-03-01", "2019-03-01"]))
    first, after = read_periods(stamps, [2018, 2019], "x")
    assert first.tolist() == [day("2018-03-01"), day("2019-03-01")]
    assert after.tolist() == [day("2019-01-01"), day("2020-01-01")]


# --- dated labels -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["labels.gpkg", "labels.geojson", "labels.shp", "labels.parquet", "labels.csv"])
def test_a_place_may_be_one_class_in_one_year_and_another_in_the_next(world: LabelWorld, name: str) -> None:
    samples = world.label(alternating(world, name), **DATED)
    assert (samples.seasons, samples.season, samples.parts.shape) == (2, 1, (1, 30))
    first, second = (one.read("target", WHOLE) for one in samples.each_season())
    rows, cols = np.mgrid[0:40:2, 0:48:2]
    assert (first[::2, ::2] == (rows // 2 + cols // 2) % 2).all()
    assert (second[::2, ::2] == 1 - first[::2, ::2]).all()
    assert (first != UNLABELLED).sum() == (second != UNLABELLED).sum() == 480
    assert (samples.summary["labelled"], samples.summary["season_pixels"]) == (960, [480, 480])
    assert samples.summary["season_names"] == ["2018", "2019"]
    verify(samples, ONE_TILE)


def test_ground_is_in_the_same_part_in_every_season(world: LabelWorld) -> None:
    samples = world.label(alternating(world), folds=3, **DATED)
    assert samples.all_parts.shape == (3, 2, 30)
    one, two = samples.each_season()
    assert (one.parts == two.parts).all()
    assert (one.read("block", WHOLE) == two.read("block", WHOLE)).all()
    for fold in range(3):
        assert ((one.roles(fold, WHOLE) == Role.TEST) == (two.roles(fold, WHOLE) == Role.TEST)).all()
    assert (pickle.loads(pickle.dumps(one)).read("target", WHOLE) == one.read("target", WHOLE)).all()  # noqa: S301


def test_labels_without_dates_count_for_every_season_where_the_scenes_are_valid(world: LabelWorld) -> None:
    samples = world.label(world.raster(world.truth))
    for one in samples.each_season():
        assert (one.read("target", WHOLE) == world.truth - 1).all()  # two dates of three see the hole
    assert samples.summary["labelled"] == 2 * 1920
    assert samples.summary["on_nodata"] == 0


def test_a_range_outside_the_scenes_is_counted_and_one_that_overlaps_by_half_is_used(
    world: LabelWorld, caplog: pytest.LogCaptureFixture
) -> None:
    places = [(row, col) for row in range(0, 40, 2) for col in range(0, 48, 2)]
    kinds = [1 + (row // 2 + col // 2) % 2 for row, col in places]
    dates = [("2018-06-20", "2019-06-20")] * len(places)
    dates[0], dates[1], dates[2] = ("2015", "2015"), ("2018-10-01", "2019-09-30"), ("2018-05-03", "2018-05-03")
    path = save(world, "labels.gpkg", [at(*place) for place in places],
                **{"class": kinds, "start": [d[0] for d in dates], "end": [d[1] for d in dates]})  # fmt: skip
    with caplog.at_level(logging.WARNING):
        samples = world.label(path, **DATED)
    assert samples.summary["outside"] == 1
    assert "1 dated labels count for no season of the scenes" in caplog.text
    first, second = (one.read("target", WHOLE)[0, [0, 2, 4, 6]] != UNLABELLED for one in samples.each_season())
    assert first.tolist() == [False, False, True, True]
    assert second.tolist() == [False, True, False, False]


def test_dates_that_say_nothing_are_refused(world: LabelWorld) -> None:
    def label(starts: list[Any], ends: list[Any], **more: Any) -> None:
        name = f"labels{len(list(world.root.iterdir()))}"
        path = save(world, f"{name}.gpkg", [at(1, 1), at(1, 9)], **{"class": [1, 2], "start": starts, "end": ends})
        world.label(path, name, **{**DATED, **more})

    with pytest.raises(LabelError, match=r"true from 2011-01-01 to 2012-12-31, .* scenes, 2018-01-01 to 2019-12-31;"):
        label(["2011", "2012"], ["2011", "2012"])
    with pytest.raises(LabelError, match="true from 2018-09-01 to 2018-03-01; a label cannot end before it starts"):
        label(["2018", "2018-09-01"], ["2018", "2018-03-01"])
    for wrong in ("last May", "2018-13", "2018-02-30", ""):
        with pytest.raises(LabelError, match=rf"the date '{wrong}' in the column of label.start, which cannot be read"):
            label(["2018", wrong], ["2018", "2018"])
    with pytest.raises(LabelError, match=r"no column 'until' \(label.end\); the file has class, start, end"):
        label(["2018"] * 2, ["2018"] * 2, end="until")
    with pytest.raises(LabelError, match=r"raster without columns; leave label\.start and label.end out"):
        world.label(world.raster(world.truth), "raster", start="start", end="end")
    with pytest.raises(ValidationError, match="start and end belong together"):
        Config(classes=CLASSES, file=world.root, start="start")


def test_dated_labels_of_scenes_without_dates_are_refused(tmp_path: Path) -> None:
    world = LabelWorld.build(tmp_path, dates=("",))
    with pytest.raises(LabelError, match=r"labels have dates .* but the scenes have none"):
        world.label(alternating(world), **DATED)


def test_a_group_owns_one_block_over_all_seasons(tmp_path: Path) -> None:
    """A field of 3 x 5 pixels on blocks 0 and 1, most of it on 0 by itself but on 1 with that of the next year."""
    world = LabelWorld.build(tmp_path, dates=DATES, seasons=2, step="4 months")
    shapes = [field(2, 4, 3, 7), field(2, 6, 3, 10), *(field(row, col, 2, 4) for row in range(8, 40, 4)
              for col in range(0, 48, 4)), field(2, 4, 2, 1)]  # fmt: skip
    count = len(shapes)
    path = save(world, "labels.gpkg", shapes, **{
        "class": [1, 1, *(1 + i % 2 for i in range(count - 3)), 1],
        "farm": ["a", "a", *map(str, range(count - 3)), "b"],
        "start": [2018, 2019, *[2018] * (count - 3), 2019], "end": [2018, 2019, *[2019] * (count - 3), 2019],
    })  # fmt: skip
    samples = world.label(path, group="farm", folds=3, **DATED)
    one, two = samples.each_season()
    # Field a: 12 + 6 pixels on block 0, 9 + 24 on block 1.
    assert set(one.read("block", WHOLE)[2:5, 4:11].ravel().tolist()) == {1}
    assert set(two.read("block", WHOLE)[2:5, 6:16].ravel().tolist()) == {1}
    # Field b lies in 2019 where field a was in 2018, and alone would belong to block 0: it goes with the ground.
    assert (two.read("target", WHOLE)[2:4, 4] == UNLABELLED).all()
    assert (one.read("target", WHOLE)[2:4, 4] == 0).all()
    assert samples.summary["divided"] == 2
    verify(samples, ONE_TILE)


def test_the_block_that_most_seasons_name_is_elected() -> None:
    owner = np.array([[[3, 3, -1, 5]], [[4, -1, -1, 6]], [[4, 7, -1, 5]]])
    assert elected(owner, np.array([[0, 0, 9, 0]], np.int32)).tolist() == [[4, 3, 9, 5]]


def test_the_independent_set_of_one_season_is_kept_out_of_all(world: LabelWorld) -> None:
    apart = save(world, "apart.gpkg", [at(10, 10)], **{"class": [1], "start": [2018], "end": [2018]})
    samples = world.label(alternating(world), test=apart, folds=3, **DATED)
    for one, label in zip(samples.each_season(), (0, UNLABELLED), strict=True):
        assert one.read("independent", WHOLE)[10, 10] == label
        for fold in (0, 1, 2, None):
            assert one.roles(fold, WHOLE)[10, 10] == Role.INDEPENDENT
            assert not one.training_mask(fold, WHOLE)[10, 10]
    assert samples.summary["independent"] == 1
    verify(samples, ONE_TILE)


# --- statistics -------------------------------------------------------------------------------------------------------


def test_statistics_count_every_channel_over_its_own_valid_pixels_of_all_seasons(world: LabelWorld) -> None:
    samples = world.label(world.raster(world.truth), folds=3)
    for fold in (0, 2, None):
        values: list[list[np.ndarray]] = [[] for _ in range(6)]
        forest: list[list[np.ndarray]] = [[] for _ in range(6)]
        pixels = 0
        for one, tiles in zip(samples.each_season(), Tiles(world.root / "tiles").each_season(), strict=True):
            image, valid = tiles.read_channels(WHOLE)
            mask = one.training_mask(fold, WHOLE)
            pixels += int(mask.sum())
            trains = (one.roles(fold, WHOLE) == Role.TRAIN) & (one.read("target", WHOLE) == 1)
            for channel in range(6):
                values[channel].append(image[channel][mask & valid[channel // 2]].astype(np.float64))
                forest[channel].append(image[channel][trains & valid[channel // 2]].astype(np.float64))
        found = samples.statistics(fold)
        known, of_class = [np.concatenate(v) for v in values], [np.concatenate(v) for v in forest]
        assert found["pixels"] == pixels
        assert found["count"] == [len(v) for v in known]
        assert found["mean"] == pytest.approx([v.mean() for v in known])
        assert found["std"] == pytest.approx([v.std() for v in known])
        assert found["percentiles"]["99"] == pytest.approx([np.percentile(v, 99) for v in known], rel=1e-6)
        assert found["class_means"][1] == pytest.approx([v.mean() for v in of_class])
        assert found["class_stds"][1] == pytest.approx([v.std() for v in of_class])
        assert found["class_pixels"][1] == sum(
            int(((one.roles(fold, WHOLE) == Role.TRAIN) & (one.read("target", WHOLE) == 1)).sum())
            for one in samples.each_season()
        )
    # The hole of the first date is missed there alone.
    assert samples.statistics(None)["count"] == [2 * 1920 - 24] * 2 + [2 * 1920] * 4


# --- folds by year ----------------------------------------------------------------------------------------------------


def test_by_year_every_fold_tests_one_season_and_validates_on_the_same_ground_of_the_others(tmp_path: Path) -> None:
    world = three_years(tmp_path, GRID)
    samples = world.label(world.raster(world.truth), folds="by_year")
    assert (samples.folds, samples.crossed, samples.by_year) == (3, True, True)
    assert samples.summary["fold_seasons"] == [0, 1, 2]
    for fold in range(3):
        held = {season: samples.all_parts[fold, season] == Part.VALIDATION for season in range(3) if season != fold}
        one, other = held.values()
        assert (one == other).all()
        assert one.sum() in (7, 8)  # a quarter of 30
        assert (samples.all_parts[fold, fold] == Part.TEST).all()
        assert (samples.of(fold).roles(fold, WHOLE) == Role.TEST).all()
        assert not samples.of(fold).training_mask(fold, WHOLE).any()
        roles = samples.of((fold + 1) % 3).roles(fold, WHOLE)
        assert (roles == Role.VALIDATION).sum() == 64 * one.sum()
        assert samples.statistics(fold)["pixels"] == 2 * 64 * (30 - one.sum())
    for season in samples.each_season():
        assert (season.roles(None, WHOLE) == Role.TRAIN).all()
    assert "part_2_2019" in samples.read_blocks()
    verify(samples)


def test_by_year_has_no_fold_for_a_season_without_labels_and_refuses_too_few(world: LabelWorld, tmp_path: Path) -> None:
    three = three_years(tmp_path / "three")
    samples = three.label(alternating(three), folds="by_year", **DATED)
    assert samples.summary["fold_seasons"] == [1, 2]
    assert samples.roles(0, WHOLE).shape == GRID.shape
    verify(samples, ONE_TILE)
    one = LabelWorld.build(tmp_path / "one")
    with pytest.raises(LabelError, match="the scenes are one season; give scenes of at least two"):
        one.label(one.raster(one.truth), folds="by_year")
    path = alternating(world)
    features = gpd.read_file(path)
    features[features["start"] == "2018-01-01"].to_file(path)
    with pytest.raises(LabelError, match=r"stand in 1 seasons and 30 ground blocks, but label\.folds by_year needs"):
        world.label(path, "a", folds="by_year", **DATED)


# --- leaks between seasons --------------------------------------------------------------------------------------------


@pytest.fixture
def leaky(world: LabelWorld) -> Callable[[str, tuple[int, ...], int], Samples]:
    """Sound samples of two seasons in which one stored value is changed."""
    samples = world.label(world.raster(world.truth), folds=3)
    verify(samples, ONE_TILE)

    def plant(name: str, place: tuple[int, ...], value: int) -> Samples:
        zarr.open_array(samples.folder / STORE / name, mode="r+")[place] = value
        return Samples(samples.folder)

    return plant


@pytest.mark.parametrize("season", [0, 1])
def test_a_leak_in_any_season_is_seen(
    world: LabelWorld, leaky: Callable[[str, tuple[int, ...], int], Samples], season: int
) -> None:
    row, col = np.argwhere(Samples(world.root / "samples").of(season).roles(1, WHOLE) == Role.TEST)[0].tolist()
    with pytest.raises(LeakError, match="1 training labels of fold 1 lie in held-out blocks"):
        verify(leaky("role", (1, season, row, col), Role.TRAIN), ONE_TILE)


def test_ground_that_changes_its_block_or_part_with_the_season_is_seen(
    world: LabelWorld, leaky: Callable[[str, tuple[int, ...], int], Samples]
) -> None:
    with pytest.raises(LeakError, match="1 pixels belong to other ground blocks in other seasons"):
        verify(leaky("block", (0, 3, 3), 7), ONE_TILE)
    samples = Samples(world.root / "samples")
    held = int(np.flatnonzero(samples.all_parts[2, 0] == Part.TEST)[0])
    samples.all_parts[2, 0, held] = Part.TRAIN
    with pytest.raises(LeakError, match="1 ground blocks train in one season and are held out in another in fold 2"):
        verify(samples, ONE_TILE)


def test_a_validation_block_that_trains_in_another_season_is_seen_by_year_too(tmp_path: Path) -> None:
    world = three_years(tmp_path)
    samples = world.label(world.raster(world.truth), folds="by_year")
    held = int(np.flatnonzero(samples.all_parts[0, 1] == Part.VALIDATION)[0])
    samples.all_parts[0, 2, held] = Part.TRAIN
    with pytest.raises(LeakError, match="1 ground blocks train in one season"):
        verify(samples, ONE_TILE)
    fresh = Samples(samples.folder).of(0)
    everything = np.ones(GRID.shape, bool)
    with pytest.raises(LeakError, match="1920 pixels of held-out blocks"):
        check_training_input(everything, np.full(GRID.shape, UNLABELLED, np.uint8), fresh, 0, WHOLE)


# --- splits at random -------------------------------------------------------------------------------------------------


def test_a_random_split_ignores_ground_and_says_so(world: LabelWorld, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        samples = world.label(alternating(world), split="random", buffer=500, **DATED)
    assert samples.split_by == "random"
    assert "divided at random" in caplog.text
    roles = samples.roles(0, WHOLE)
    labelled = roles != Role.NONE
    assert labelled.sum() == 480  # no buffer
    shares = [(roles == role).sum() / 480 for role in (Role.TRAIN, Role.VALIDATION, Role.TEST)]
    assert shares == pytest.approx([0.6, 0.2, 0.2], abs=0.02)
    # Of two samples beside one another, the second is in the test as often as any.
    test = (roles == Role.TEST)[::2, ::2]
    assert (test[:, 1:] & test[:, :-1]).sum() / test[:, :-1].sum() == pytest.approx(0.2, abs=0.1)
    assert (samples.of(0).roles(0, WHOLE) == roles).all()
    # Ground without labels holds nothing out.
    assert samples.training_mask(0, WHOLE)[~labelled].all()
    verify(samples, ONE_TILE)
    other = world.label(alternating(world), "other", split="random", seed=1, **DATED)
    assert (other.roles(0, WHOLE) != roles).any()


def test_a_random_split_keeps_groups_whole_and_knows_folds(world: LabelWorld) -> None:
    shapes = [field(row, col, 2, 3) for row in range(0, 40, 4) for col in range(0, 48, 4)]
    path = save(world, "labels.gpkg", shapes, **{"class": [1 + i % 2 for i in range(120)]})
    samples = world.label(path, field="class", split="random", folds=4)
    group, fold_of = samples.read("group", WHOLE), np.full(GRID.shape, -1)
    for fold in range(4):
        fold_of[samples.roles(fold, WHOLE) == Role.TEST] = fold
    for number in range(120):
        assert len(np.unique(fold_of[group == number])) == 1
    assert np.bincount(fold_of[group >= 0]).tolist() == pytest.approx([180] * 4, abs=30)
    with pytest.raises(ValidationError, match="split random and folds by_year contradict"):
        Config(classes=CLASSES, file=path, split="random", folds="by_year")


# --- tables of points -------------------------------------------------------------------------------------------------


def table(world: LabelWorld, **columns: Any) -> Path:
    """Write a CSV of four points on the diagonal, columns added or replaced."""
    lon, lat = transform(CRS, "EPSG:4326", [at(i, i).x for i in (1, 5, 9, 13)], [at(i, i).y for i in (1, 5, 9, 13)])
    path = world.root / f"points{len(list(world.root.iterdir()))}.csv"
    pd.DataFrame({"class": [1, 2, 1, 2], "lon": lon, "lat": lat, **columns}).to_csv(path, index=False)
    return path


@pytest.mark.parametrize("names", [("lon", "lat"), ("Longitude", "LATITUDE"), ("X", "y"), ("east", "north")])
@pytest.mark.parametrize("separator", [",", ";"])
def test_points_of_a_table_are_found_by_their_columns(
    world: LabelWorld, names: tuple[str, str], separator: str
) -> None:
    path = table(world)
    pd.read_csv(path).rename(columns={"lon": names[0], "lat": names[1]}).to_csv(path, index=False, sep=separator)
    told = {"coordinates": names} if names[0] == "east" else {}
    samples = world.label(path, field="class", folds=3, block=20, buffer=0, **told)
    assert [int(samples.read("target", WHOLE)[i, i]) for i in (1, 5, 9, 13)] == [0, 1, 0, 1]
    assert (samples.summary["labelled"], samples.summary["group"]) == (8, "none")


def test_a_table_without_degrees_is_refused(world: LabelWorld) -> None:
    with pytest.raises(LabelError, match="have 'north' in column 'lat' of row 2, where a number of degrees belongs"):
        world.label(table(world, lat=[50, "north", 50, 50]), "a", field="class")
    with pytest.raises(LabelError, match="have '' in column 'lon' of row 4"):
        world.label(table(world, lon=[15, 15, 15, None]), "b", field="class")
    with pytest.raises(LabelError, match=r"have 5399985.0 in column 'lat' of row 1, which is no number of degrees"):
        world.label(table(world, lat=[5399985.0] * 4), "c", field="class")
    path = table(world)
    pd.read_csv(path).rename(columns={"lon": "east"}).to_csv(path, index=False)
    with pytest.raises(LabelError, match=r"usual names; the file has class, east, lat: name the two in label.coord"):
        world.label(path, "d", field="class")
    with pytest.raises(LabelError, match=r"no column 'e' \(label.coordinates\); the file has class, east, lat"):
        world.label(path, "e", field="class", coordinates=("e", "lat"))
    with pytest.raises(LabelError, match=r"need label.field, the column of the class; the file has class, lon, lat"):
        world.label(table(world), "f")


# --- ranges of values -------------------------------------------------------------------------------------------------

DENSITY = [
    {"name": "open", "labels": ["0..49"], "code": 1, "color": "#000000"},
    {"name": "wood", "labels": ["50..79"], "code": 2, "color": "#000001"},
    {"name": "forest", "labels": ["80..100"], "code": 3, "color": "#000002"},
]


@pytest.mark.parametrize("kind", ["uint8", "float32"])
def test_classes_are_ranges_of_a_raster_of_numbers(world: LabelWorld, kind: str) -> None:
    values = np.random.default_rng(0).integers(0, 101, GRID.shape).astype(kind)
    values[0, :4] = (0, 49, 50, 100)
    values[7, 7] = 255
    if kind == "float32":
        values[1, :3] = (49.9, 79.99, 100.7)  # rounded down
    samples = world.label(world.raster(values, nodata=255), classes=DENSITY, purity=0)
    target = samples.read("target", WHOLE)
    expected = np.digitize(np.floor(values), (50, 80))
    expected[values == 255] = UNLABELLED
    assert (target == expected).all()


def test_ranges_are_known_to_points_and_to_what_is_ignored_or_dropped(world: LabelWorld) -> None:
    places = [(row, col) for row in range(0, 40, 2) for col in range(0, 48, 2)]
    numbers = np.random.default_rng(0).integers(0, 104, len(places)) + 0.5
    path = save(world, "labels.gpkg", [at(*place) for place in places], **{"density": numbers})
    samples = world.label(path, field="density", classes=DENSITY[:2], drop=["80..100"], ignore=["101..254"])
    summary = samples.summary
    assert summary["without_value"] == (numbers > 101).sum()
    assert summary["class_pixels"] == {
        "open": 2 * (numbers < 50).sum(), "wood": 2 * ((numbers > 50) & (numbers < 80)).sum(),
        "(dropped)": 2 * ((numbers > 80) & (numbers < 101)).sum(),
    }  # fmt: skip
    with pytest.raises(LabelError, match=r"unknown class '10[1-3]\.5'"):
        world.label(path, "b", field="density", classes=DENSITY)


def test_ranges_that_overlap_or_count_down_are_refused(tmp_path: Path) -> None:
    assert [label_range(text) for text in ("-5..-1", " 0 .. 9 ", "7", "a..b", "1-3", 4)] == [
        (-5, -1), (0, 9), None, None, None, None
    ]  # fmt: skip

    def config(*labels: list[Any], **more: Any) -> None:
        Config(classes=[{**entry, "labels": values} for entry, values in zip(DENSITY, labels, strict=False)],
               file=tmp_path, **more)  # fmt: skip

    config(["0..49"], ["50..79"], [80, 81], drop=["82..90"])
    for labels, more, named in (
        ((["0..50"], ["50..79"]), {}, "'0..50' and '50..79'"),
        ((["0..50"], [7]), {}, "'0..50' and '7'"),
        ((["0..50"], [51]), {"ignore": ["40..45"]}, "'0..50' and '40..45'"),
        ((["0..9"], ["9.5"]), {}, "'0..9' and '9.5'"),
    ):
        with pytest.raises(ValidationError, match=f"the label values {named} overlap"):
            config(*labels, **more)
    with pytest.raises(ValidationError, match=r"'49\.\.0' counts down"):
        config(["49..0"], [50])
    with pytest.raises(ValidationError, match=r"'0\.\.4\.5' has ends that are no whole numbers"):
        config(["0..4.5"], [50])
