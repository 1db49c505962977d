"""Tables of series on small worlds: every layout, every mistake, their layout as tiles, and how samples are divided."""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from pydantic import ValidationError
from pyproj import Geod

from stages.errors import LabelError, SceneError
from stages.formats.samples import DROPPED, UNLABELLED
from stages.formats.series import Series, copied, is_series, lay_out, read_series, read_table, write_series
from stages.formats.series_file import SeriesFile, load_series
from stages.formats.tiles import Tiles
from stages.geo.grid import Window
from stages.geo.labels import LabelFile
from stages.training.table_samples import (
    AT_RANDOM,
    BY_GROUND,
    BY_GROUP,
    TableLabels,
    divide,
    ground_blocks,
    on_globe,
    read_labels,
)

DATES = ("2018-03-01", "2018-06-01", "2018-09-01")
LONG = """id,when,class,ndvi,nir
a,2018-06-01,wheat,0.2,2
a,2018-03-01,wheat,0.1,1
a,2018-09-01,wheat,0.3,3
b,2018-03-01,maize,0.4,4
b,2018-06-01,maize,0.5,5
b,2018-09-01,maize,0.6,6
"""
WIDE = """class,ndvi_20180601,ndvi_20180301,nir_20180301,nir_20180601
wheat,0.2,0.1,1,2
maize,0.5,0.4,4,5
"""


def long(path: Path, text: str = LONG, **settings: object) -> SeriesFile:
    path.write_text(text)
    values = {"file": path, "layout": "long", "sample": "id", "date": "when", "label": "class", **settings}
    return SeriesFile.model_validate(values)


def wide(path: Path, text: str = WIDE, **settings: object) -> SeriesFile:
    path.write_text(text)
    values = {"file": path, "layout": "wide", "label": "class", "columns": "{band}_{date}", **settings}
    return SeriesFile.model_validate(values)


@pytest.fixture
def csv(tmp_path: Path) -> Path:
    return tmp_path / "series.csv"


# --- layouts ---------------------------------------------------------------------------------------------------------


def test_a_long_table_is_sorted_by_sample_and_date(csv: Path) -> None:
    series = load_series(long(csv))
    assert (series.bands, series.dates, series.scaling) == (("ndvi", "nir"), DATES, "digital numbers")
    assert series.days == (59, 151, 243)
    assert series.samples["sample"].tolist() == ["a", "b"]
    assert series.samples["label"].tolist() == ["wheat", "maize"]
    assert series.values.dtype == np.float32
    expected = np.array([[[0.1, 1], [0.2, 2], [0.3, 3]], [[0.4, 4], [0.5, 5], [0.6, 6]]], np.float32)
    np.testing.assert_array_equal(series.values, expected)


def test_a_wide_table_is_the_same_whatever_the_order_of_its_columns(csv: Path) -> None:
    series = load_series(wide(csv))
    assert (series.bands, series.dates) == (("ndvi", "nir"), DATES[:2])
    np.testing.assert_array_equal(series.values, np.array([[[0.1, 1], [0.2, 2]], [[0.4, 4], [0.5, 5]]], np.float32))
    assert series.samples["sample"].tolist() == ["1", "2"]


def test_bands_are_picked_renamed_and_put_in_order(csv: Path) -> None:
    series = load_series(wide(csv, bands={"B08": "nir", "vegetation": "ndvi"}))
    assert series.bands == ("B08", "vegetation")
    np.testing.assert_array_equal(series.values[1], np.array([[4, 0.4], [5, 0.5]], np.float32))
    assert load_series(long(csv, bands=["nir"])).values[1].tolist() == [[4], [5], [6]]


def test_one_band_name_may_begin_another(csv: Path) -> None:
    text = "class,B1_1,B11_1,B1_2,B11_2\nx,1,2,3,4\n"
    series = load_series(wide(csv, text, columns="{band}_{step}", bands=["B11", "B1"]))
    assert series.values[0].tolist() == [[2, 1], [4, 3]]


def test_steps_are_sorted_as_numbers(csv: Path) -> None:
    names = [f"v{step}" for step in range(1, 13)]
    series = load_series(wide(csv, ",".join(["class", *sorted(names)]) + "\nx," + ",".join(
        name[1:] for name in sorted(names)) + "\n", columns="v{step}"))  # fmt: skip
    assert series.values[0, :, 0].tolist() == list(range(1, 13))
    assert (series.bands, len(set(series.dates)), list(series.dates)) == (("value",), 12, sorted(series.dates))


def test_a_table_without_names_has_numbered_columns(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = tmp_path / "Crop_TRAIN.tsv"
    entry = wide(path, "3\t0.5\t0.6\t0.7\n1\t1.5\t1.6\t1.7\n", header=False, label=0, columns=None, bands=["ndvi"])
    series = load_series(entry)
    assert (series.bands, series.samples["label"].tolist()) == (("ndvi",), ["3", "1"])
    np.testing.assert_array_equal(series.values[:, :, 0], np.array([[0.5, 0.6, 0.7], [1.5, 1.6, 1.7]], np.float32))
    assert series.days == (0, 121, 243)
    assert "spread evenly over a year" in caplog.text
    named = load_series(entry.model_copy(update={"dates": DATES}))
    assert (named.dates, named.days) == (DATES, (59, 151, 243))


@pytest.mark.parametrize("kind", ["semicolon", "parquet", "byte order mark", "categories"])
def test_the_kind_of_file_does_not_matter(csv: Path, tmp_path: Path, kind: str) -> None:
    expected = load_series(long(csv))
    if kind == "semicolon":
        entry = long(csv, LONG.replace(",", ";"), separator=";")
    elif kind == "byte order mark":
        csv.write_text("\ufeff" + LONG, encoding="utf-8")
        entry = long(tmp_path / "other.csv").model_copy(update={"file": csv})
    else:
        table = pd.read_csv(csv, parse_dates=["when"])
        table["class"] = table["class"].astype("category" if kind == "categories" else "str")
        table.to_parquet(tmp_path / "series.parquet")
        entry = long(csv).model_copy(update={"file": tmp_path / "series.parquet"})
    series = load_series(entry)
    np.testing.assert_array_equal(series.values, expected.values)
    assert (series.dates, series.days, series.bands) == (expected.dates, expected.days, expected.bands)
    assert series.samples["label"].tolist() == ["wheat", "maize"]


def test_values_are_scaled_and_nodata_is_missing(csv: Path) -> None:
    series = load_series(long(csv, LONG.replace("0.2,2", "0.2,-9999"), nodata=-9999, scale=10, offset=1))
    np.testing.assert_allclose(series.values[0], [[2, 11], [3, np.nan], [4, 31]], rtol=1e-6)
    assert series.scaling == "scaled"
    assert load_series(long(csv, scaled=True)).scaling == "scaled"
    assert load_series(long(csv, scale=1, scaled=False)).scaling == "digital numbers"


def test_samples_of_several_years_go_by_the_day_of_their_own_year(csv: Path, caplog: pytest.LogCaptureFixture) -> None:
    rows = [(name, date, 1) for name, dates in {
        "a": ("2018-11-01", "2019-02-01"), "b": ("2019-11-03", "2020-02-03"), "c": ("2020-11-05", "2021-02-20"),
    }.items() for date in dates]  # fmt: skip
    pd.DataFrame(rows, columns=["id", "when", "v"]).assign(**{"class": "x"}).to_csv(csv, index=False)
    series = load_series(long(csv, csv.read_text()))
    assert series.dates == ("2018-11-01", "2019-02-01")
    # Days since 1 January of 2018, 2019 and 2020, a leap year: 304, 306, 309 and 396, 398, 416.
    assert series.days == (306, 398)
    assert "at most 18 days away" in caplog.text
    assert caplog.records[-1].levelno == logging.WARNING


def test_a_repeated_date_is_averaged_over_what_is_known(csv: Path, caplog: pytest.LogCaptureFixture) -> None:
    series = load_series(long(csv, LONG + "a,20180301,wheat,0.3,\n"))
    np.testing.assert_allclose(series.values[0, 0], [0.2, 1], rtol=1e-6)
    assert series.values.shape == (2, 3, 2)
    assert "1 rows repeat a date" in caplog.text


def test_missing_values_make_a_step_unobserved_and_are_counted(csv: Path, caplog: pytest.LogCaptureFixture) -> None:
    text = LONG.replace("0.2,2", ",2").replace("0.6,6", "NA,inf")
    series = load_series(long(csv, text + "c,2018-03-01,wheat,,1\nc,2018-06-01,wheat,1,\nc,2018-09-01,wheat,nan,\n"
                                         + "".join(f"d,{date},,,1\n" for date in DATES)))  # fmt: skip
    assert series.samples["sample"].tolist() == ["a", "b"]
    assert np.isnan(series.values).sum(axis=(1, 2)).tolist() == [1, 2]
    assert "1 samples have no label" in caplog.text
    assert "1 samples have no step with all values" in caplog.text
    assert "2 of 6 steps of 2 samples lack a value" in caplog.text


def test_a_test_table_and_a_part_column_say_the_same(csv: Path, tmp_path: Path) -> None:
    other = tmp_path / "test.csv"
    long(other, LONG.replace("b,", "z,").replace("0.4,4", "0.7,7"))
    series = load_series(long(csv, test=other))
    assert series.samples["part"].tolist() == ["", "", "test", "test"]
    assert series.samples["file"].tolist() == [str(csv)] * 2 + [str(other)] * 2
    assert series.values[3, 0].tolist() == [np.float32(0.7), 7]
    rows = LONG.splitlines()
    text = "\n".join([rows[0] + ",set", *(f"{row},{'TEST' if row[0] == 'b' else 'train'}" for row in rows[1:])])
    assert load_series(long(csv, text, part="set")).samples["part"].tolist() == ["", "test"]


# --- mistakes --------------------------------------------------------------------------------------------------------

LONG_MISTAKES = {
    "a date": (LONG.replace("a,2018-09-01", "a,2018-13-01"), {},
               "row 3 of .* has no valid date in column 'when'.*2018-13-01"),
    "no date": (LONG.replace("a,2018-09-01", "a,"), {}, "row 3 of .* has no valid date"),
    "text": (LONG.replace("0.5,5", "0.5,five"), {},
             "row 5 of .* has the text 'five' in column 'nir'.*a number is expected"),
    "ragged": (LONG + "c,2018-03-01,maize,1,1\n", {}, "unequal length: sample 'c' has 1 dates, sample 'a' has 3"),
    "lines": (LONG + "c,2018-03-01,maize,1\n", {}, "row 7 of .* has 4 values, the first row 5 "),
    "a column": (LONG, {"label": "crop"}, "no column 'crop' .ingest.table.label.; it has id, when, class, ndvi, nir"),
    "a band": (LONG, {"bands": ["red"]}, "no column 'red' .ingest.table.bands."),
    "two labels": (LONG.replace("2018-09-01,maize", "2018-09-01,wheat"), {},
                   "sample 'b' .* several values in column 'class'.*maize in row 4 and wheat in row 6"),
    "no name": (LONG.replace("b,2018-06", ",2018-06"), {}, "row 5 of .* has no sample in column 'id'"),
    "two columns": (LONG.replace("ndvi", "nir"), {}, "several columns called 'nir'"),
    "no labels": (LONG.replace("wheat", "").replace("maize", ""), {}, "of 2, 2 have no label and 0 have no step"),
    "no rows": ("id,when,class,ndvi\n", {}, "has no rows"),
    "nothing": ("", {}, "has 0 columns"),
    "separator": (LONG.replace(",", ";"), {}, "has 1 columns.*separator"),
    "no values": ("id,when,class\na,2018,x\n", {}, "no column of values"),
    "part": (LONG, {"part": "ndvi", "bands": ["nir"]}, "row 1 of .* has '0.2' in column 'ndvi'.*train or test"),
}  # fmt: skip
WIDE_MISTAKES = {
    "pattern": (WIDE, {"columns": "{band}-{date}"}, "no column .* fits ingest.table.columns {band}-{date}"),
    "a hole": (WIDE.replace("nir_20180601", "other"), {}, "no column for nir at 2018-06-01"),
    "an unknown band": (WIDE, {"bands": ["ndvi", "red"]}, "no column for red at 2018-03-01"),
    "twice": (WIDE.replace("nir_20180601", "nir_2018-03-01"), {}, "both hold nir at 2018-03-01"),
    "a date": (WIDE.replace("nir_20180601", "nir_20181301"), {}, "column 'nir_20181301' .* no valid date"),
    "text": (WIDE.replace("0.5", "high"), {}, "row 2 of .* has the text 'high' in column 'ndvi_20180601'"),
    "a sample twice": ("s," + WIDE.replace("wheat", "s1,wheat").replace("maize", "s1,maize"), {"sample": "s"},
                       "sample 's1' .* rows 1 and 2"),
    "dates": ("class,1,2\nx,1,2\n", {"columns": None, "dates": DATES}, "has 2 steps, but ingest.table.dates names 3"),
    "short": ("class,1,2\nx,1,2\ny,1\n", {"columns": None}, "row 2 of .* has 2 values, the first row 3 "),
    "encoding": ("class,1,2\nx,1,\udce9\n", {"columns": None}, "cannot be read as a table"),
}  # fmt: skip


@pytest.mark.parametrize(("text", "settings", "sentence"), LONG_MISTAKES.values(), ids=LONG_MISTAKES)
def test_mistakes_in_long_tables(csv: Path, text: str, settings: dict[str, object], sentence: str) -> None:
    with pytest.raises(SceneError, match=sentence):
        load_series(long(csv, text, **settings))


@pytest.mark.parametrize(("text", "settings", "sentence"), WIDE_MISTAKES.values(), ids=WIDE_MISTAKES)
def test_mistakes_in_wide_tables(csv: Path, text: str, settings: dict[str, object], sentence: str) -> None:
    entry = wide(csv, "", **settings)
    csv.write_bytes(text.encode("utf-8", "surrogateescape"))
    with pytest.raises(SceneError, match=sentence):
        load_series(entry)


def test_files_that_are_no_table(csv: Path, tmp_path: Path) -> None:
    entry = long(csv)
    with pytest.raises(SceneError, match="does not exist"):
        load_series(entry.model_copy(update={"file": tmp_path / "none.csv"}))
    (tmp_path / "x.parquet").write_text("nothing")
    with pytest.raises(SceneError, match="cannot be read as Parquet"):
        load_series(entry.model_copy(update={"file": tmp_path / "x.parquet"}))
    pd.DataFrame({"id": ["a"], "when": ["2018"], "class": ["x"], "v": [[1.0]]}).to_parquet(tmp_path / "x.parquet")
    with pytest.raises(SceneError, match=r"column 'v' of .* no text or number"):
        load_series(entry.model_copy(update={"file": tmp_path / "x.parquet"}))


@pytest.mark.parametrize(("change", "sentence"), [
    (lambda text: text.replace("ndvi", "evi"), "bands of .* are evi, nir, those of .* ndvi, nir"),
    (lambda text: "\n".join(row for row in text.splitlines() if "2018-06" not in row), "have 2 steps, those of .* 3"),
])  # fmt: skip
def test_a_test_table_of_another_kind(csv: Path, tmp_path: Path, change: Callable[[str], str], sentence: str) -> None:
    other = tmp_path / "test.csv"
    other.write_text(change(LONG))
    with pytest.raises(SceneError, match=sentence):
        load_series(long(csv, test=other))


@pytest.mark.parametrize(("x", "y", "sentence"), [
    ("", "45", "1 samples of .* have no longitude or latitude, the first is 'b'"),
    ("500000", "45", "sample 'b' lies at longitude 500000, latitude 45"),
    ("20", "-91", "latitude -91, which are no degrees"),
])  # fmt: skip
def test_coordinates_are_degrees(csv: Path, x: str, y: str, sentence: str) -> None:
    text = f"id,class,x,y,v_1,v_2\na,1,20,45,1,2\nb,1,{x},{y},1,2\n"
    entry = wide(csv, text, sample="id", columns="v_{step}", longitude="x", latitude="y")
    with pytest.raises(SceneError, match=sentence):
        load_series(entry)


@pytest.mark.parametrize(("settings", "sentence"), [
    ({"layout": "long", "sample": "id"}, "needs sample and date"),
    ({"layout": "long", "sample": "id", "date": "when", "columns": "{date}"}, "leave them out of a long one"),
    ({"layout": "wide", "date": "when"}, "date is a column of a long table"),
    ({"layout": "wide", "columns": "{band}"}, "must hold {date} or {step}"),
    ({"layout": "wide", "bands": ["a", "b"]}, "need columns with {band}"),
    ({"layout": "wide", "columns": "{date}", "bands": ["a", "b"]}, "need columns with {band}"),
    ({"layout": "wide", "longitude": "x"}, "go together"),
    ({"layout": "wide", "part": "set", "test": "x.csv"}, "give one of the two"),
    ({"layout": "wide", "dates": ["2018-02", "2018-01"]}, "in order of time"),
    ({"layout": "wide", "dates": ["someday"]}, "is not a date"),
    ({"layout": "wide", "sample": "label"}, "column label is named for 2 things"),
])  # fmt: skip
def test_settings_that_contradict_each_other(settings: dict[str, object], sentence: str) -> None:
    with pytest.raises(ValidationError, match=sentence):
        SeriesFile.model_validate({"file": "x.csv", **settings})


def test_the_order_of_bands_counts_in_the_settings(csv: Path) -> None:
    one, other = (
        long(csv, bands=bands).model_dump(mode="json")["bands"] for bands in (["ndvi", "nir"], ["nir", "ndvi"])
    )
    assert one == [["ndvi", "ndvi"], ["nir", "nir"]]
    assert one != other


# --- as an artifact and as tiles -------------------------------------------------------------------------------------


def make(samples: int, labels: list[str] | None = None, **columns: object) -> Series:
    """Series of 3 steps and 2 bands that no two samples share, labelled 1 and 2 in turn."""
    values = np.arange(samples * 6, dtype=np.float32).reshape(samples, 3, 2)
    about = {"sample": [str(i) for i in range(samples)], "label": labels or [str(1 + i % 2) for i in range(samples)],
             "longitude": np.nan, "latitude": np.nan, "group": "", "part": "", "file": "t.csv", **columns}  # fmt: skip
    return Series(("ndvi", "nir"), DATES, (59.0, 151.0, 243.0), "scaled", 10.0, values, pd.DataFrame(about))


def laid(folder: Path, series: Series) -> Tiles:
    folder.mkdir(exist_ok=True)
    return lay_out(folder, series)


def test_series_are_written_and_read_back(tmp_path: Path) -> None:
    series = make(5, longitude=[1.5, 2, 3, 4, 5])
    series.values[2, 1, 0] = np.nan
    assert not is_series(tmp_path)
    write_series(tmp_path, series)
    assert is_series(tmp_path)
    back = read_series(tmp_path)
    assert (back.bands, back.dates, back.days) == (series.bands, series.dates, series.days)
    assert (back.scaling, back.pixel) == ("scaled", 10.0)
    np.testing.assert_array_equal(back.values, series.values)
    pd.testing.assert_frame_equal(back.samples, series.samples, check_dtype=False)
    assert pd.read_parquet(tmp_path / "series.parquet")["nir@2018-06-01"].tolist() == [3, 9, 15, 21, 27]


def test_every_sample_is_a_pixel(tmp_path: Path) -> None:
    series = make(70_000)
    series.values[300, 1, 0] = np.nan
    tiles = laid(tmp_path / "tiles", series)
    assert tiles.is_table
    assert (tiles.bands, tiles.dates, tiles.days, tiles.scaling) == (series.bands, DATES, series.days, "scaled")
    assert (tiles.grid.shape, tiles.grid.pixel_metres()) == ((274, 256), pytest.approx(10, rel=1e-3))
    table = read_table(tiles)
    assert table.loc[300, ["row", "col"]].tolist() == [1, 44]
    image, valid = tiles.read_channels(tiles.grid.whole)
    image, valid = image.reshape(6, -1).T, valid.reshape(3, -1).T
    assert valid[:300].all()
    assert valid[300].tolist() == [True, False, True]
    np.testing.assert_array_equal(image[:300], series.values[:300].reshape(300, 6))
    np.testing.assert_array_equal(image[69_999], series.values[-1].ravel())
    assert image[300, 2:4].tolist() == [0, 0]
    assert not valid[70_000:].any()
    index = tiles.read_index()
    assert index[["row", "top_row", "height"]].values.tolist() == [[0, 0, 256], [1, 256, 18]]
    assert index["valid_2018-06-01"][0] == pytest.approx(1 - 1 / 65536)


def test_copies_of_training_series_are_known(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    series = make(6, part=["", "", "", "test", "test", "test"])
    series.values[1] = series.values[0]  # copies in the training part are not test copies
    series.values[3] = series.values[2]
    series.values[4] = series.values[2]
    series.values[[2, 4], 0, 0] = np.nan
    series.values[3, 0, 0] = 0.0  # nothing is not zero: no copy
    tiles = laid(tmp_path / "tiles", series)
    table = read_table(tiles)
    assert table["copy"].tolist() == [False] * 4 + [True, False]
    assert table["series"].tolist() == [0, 0, 1, 2, 1, 3]
    assert copied(tiles, Window(0, 2, 1, 4)).tolist() == [[False, False, True, False]]
    assert "1 of the 3 test series are copies" in caplog.text


def test_positive_and_negative_zero_are_the_same_value(tmp_path: Path) -> None:
    series = make(2)
    series.values[0], series.values[1] = 0.0, -0.0
    assert read_table(laid(tmp_path / "tiles", series))["series"].tolist() == [0, 0]


# --- labels and blocks -----------------------------------------------------------------------------------------------

VALUES = LabelFile("", (("1", 0), ("2", 1), ("9", 2)), ignore=("0",))


def labels_of(folder: Path, series: Series, split: str = "random", **settings: float) -> TableLabels:
    values = {"block": 1000.0, "buffer": 0.0, **settings}
    return read_labels(laid(folder, series), VALUES, 2, split=split, seed=3, **values)  # type: ignore[arg-type]


def test_targets_stand_where_the_samples_are(tmp_path: Path) -> None:
    found = labels_of(tmp_path / "t", make(5, ["1", "2", "9", "0", "2"], part=["", "", "", "", "test"]))
    assert found.target[0, :6].tolist() == [0, 1, DROPPED, UNLABELLED, UNLABELLED, UNLABELLED]
    assert found.independent[0, :6].tolist() == [UNLABELLED] * 4 + [1, UNLABELLED]
    window = Window(0, 1, 1, 4)
    valid = np.array([[True, False, True, True]])
    target, share, _ = found.labels(window).targets(0, valid)
    assert target.tolist() == [[1, UNLABELLED, UNLABELLED, UNLABELLED]]
    assert (share == 1).all()
    apart = found.test(window)
    assert apart is not None
    assert apart.targets(0, valid)[0].tolist() == [[UNLABELLED] * 3 + [1]]
    assert labels_of(tmp_path / "u", make(4)).test(window) is None


def test_unknown_labels_are_listed(tmp_path: Path) -> None:
    with pytest.raises(LabelError, match=r"t.csv hold the unknown class 'soy', '7'; list it"):
        labels_of(tmp_path, make(4, ["soy", "1", "soy", "7"]))


@pytest.mark.parametrize("latitude", [0.0, 45.0, 67.0, -80.0])
def test_ground_blocks_are_square_on_the_ground(latitude: float) -> None:
    rng = np.random.default_rng(0)
    lon, lat = 20 + rng.random(400) * 0.5, latitude + rng.random(400) * 0.1
    number, bounds = ground_blocks(lon, lat, 2000.0, np.ones(400, bool))
    left, bottom, right, top = bounds.T
    assert ((bounds[number, 0] <= lon) & (lon <= bounds[number, 2])).all()
    assert ((bounds[number, 1] <= lat) & (lat <= bounds[number, 3])).all()
    middle = (bottom + top) / 2
    across, down = (Geod(ellps="sphere").inv(left, a, right, b)[2] for a, b in ((middle, middle), (bottom, top)))
    np.testing.assert_allclose(across, 2000, rtol=0.01)
    geod = Geod(ellps="sphere")
    np.testing.assert_allclose(geod.inv(left, bottom, left, top)[2], 2000, rtol=0.01)
    assert down is not None
    boxes = np.unique(bounds.round(9), axis=0)
    assert len(boxes) == len(bounds) == number.max() + 1


def test_longitudes_are_the_same_by_whole_turns_and_poles_are_one_block() -> None:
    number, bounds = ground_blocks(np.array([-10.0, 350.0, 0.0, 90.0, 7.0]), np.array([5, 5, 90, 90, 5.0]), 50_000.0,
                                   np.array([True, True, True, True, False]))  # fmt: skip
    assert number.tolist() == [0, 0, 1, 1, -1]
    assert bounds[1, [0, 2, 3]].tolist() == [-180, 180, 90]


def test_samples_with_coordinates_are_divided_by_ground_block(tmp_path: Path) -> None:
    lon = [10.0, 10.001, 11.0, 11.001, np.nan]
    series = make(5, longitude=lon, latitude=[50, 50, 50, 50, np.nan], group=["a", "a", "a", "b", ""],
                  part=["", "", "", "", "test"])  # fmt: skip
    found = labels_of(tmp_path, series, "blocks", buffer=100.0)
    assert found.division == BY_GROUND
    block = found.blocks.ids(Window(0, 0, 1, 6))[0].tolist()
    assert block[0] == block[1] != block[2] == block[3]
    assert block[4] == 2  # the test sample of an unknown place has a block of its own
    assert block[5] == -1
    assert found.blocks.count == found.blocks.columns == 3
    # A group reaches from one ground block into another: `label` gives it whole to one of them.
    assert found.group[0, :6].tolist() == [0, 0, 0, 1, -1, -1]
    outlines = found.blocks.outlines(Tiles(tmp_path).grid)
    assert outlines[2].is_empty
    assert outlines[0].area == pytest.approx(1e6, rel=0.02)  # the made-up grid keeps areas


def test_a_buffer_is_measured_on_the_ground(tmp_path: Path) -> None:
    # 0.01 degrees of longitude at 60 degrees north are 556 m.
    series = make(4, longitude=[10.0, 10.01, 10.02, np.nan], latitude=[60, 60, 60, np.nan], part=["", "", "", "test"])
    found = labels_of(tmp_path, series, "blocks", buffer=600.0)
    held = np.zeros((1, 256), bool)
    held[0, 0] = True
    assert found.near(held)[0, :5].tolist() == [True, True, False, False, False]
    held[0, 0], held[0, 3] = False, True  # a held sample of an unknown place is near nothing
    assert not found.near(held).any()
    close = labels_of(tmp_path, series, "blocks", buffer=500.0)
    held[0, 0] = True
    assert close.near(held)[0, :5].tolist() == [True, False, False, False, False]
    assert not labels_of(tmp_path, series, "random", buffer=1e6).near(held).any()


def test_places_on_the_globe_are_as_far_apart_as_on_the_ground() -> None:
    a, b = on_globe(np.array([20.0, 20.01]), np.array([45.0, 45.01]))
    assert np.linalg.norm(a - b) == pytest.approx(Geod(ellps="sphere").inv(20, 45, 20.01, 45.01)[2], rel=1e-3)


def test_samples_without_coordinates_are_divided_by_group(tmp_path: Path) -> None:
    groups = ["a", "b", "a", "", "", "b"]
    found = labels_of(tmp_path, make(6, group=groups, part=[""] * 5 + ["test"]), "blocks", buffer=100.0)
    assert found.division == BY_GROUP
    block = found.blocks.ids(Window(0, 0, 1, 6))[0].tolist()
    assert block[0] == block[2]
    assert block[1] == block[5]
    assert len(set(block)) == 4  # one without a group stands for itself
    assert not found.near(np.ones((1, 256), bool)).any()


def test_samples_that_nothing_divides_are_refused_unless_random_is_asked_for(tmp_path: Path) -> None:
    series = make(6)
    with pytest.raises(LabelError, match=r"neither coordinates nor groups .* label.split to random"):
        labels_of(tmp_path, series, "blocks")
    assert labels_of(tmp_path, series).division == AT_RANDOM


def test_copies_and_groups_stay_together_at_random(tmp_path: Path) -> None:
    group = [""] * 5000
    group[7] = group[4000] = "x"
    series = make(5000, group=group)
    series.values[2500] = series.values[7]  # through sample 7, a copy and a group are one
    table = read_table(laid(tmp_path, series))
    block, bounds, _ = divide(table, 1000.0, "random", 0)
    assert block[7] == block[4000] == block[2500]
    sizes = np.bincount(block)
    assert (len(bounds), sizes.sum()) == (2048, 5000)
    assert sizes.min() >= 2
    assert sizes.max() <= 5
    assert (divide(table, 1000.0, "random", 0)[0] == block).all()
    assert (divide(table, 1000.0, "random", 1)[0] != block).any()
