"""NetCDF files and Zarr folders are scenes: their dates, grid, numbers and what is wrong with them."""

from __future__ import annotations

import shutil
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pipeline.init import write_config
from stages import ingest
from stages.errors import SceneError
from stages.formats.scenes import Scenes, Source, read_scenes
from stages.geo import cubes
from stages.geo.cubes import Blocks, read_cube, read_layers
from stages.geo.frame import native_grid, same_crs
from stages.geo.grid import Grid, Window
from stages.geo.warp import Layers, warp, warp_clear
from tests.rasters import CORNER, UTM, cube, noise, raster

DAYS = np.array(["2020-01-03", "2020-02-01", "2020-03-07"], dtype="datetime64[ns]")
ISO = ("2020-01-03", "2020-02-01", "2020-03-07")
BOTH = pytest.mark.parametrize("name", ["c.nc", "c.zarr"])


def ingested(folder: Path, **settings: Any) -> Scenes:
    out = folder / "out"
    out.mkdir(exist_ok=True)
    ingest.run(out, ingest.Config.model_validate(settings))
    return read_scenes(out)


def values(seed: int = 0, shape: tuple[int, ...] = (3, 6, 8)) -> np.ndarray:
    return noise(shape, seed=seed, dtype="uint16")


def grid_of(source: Source) -> Grid:
    return native_grid(source.frame.bounds(source.crs), source.frame, 256)


def layers(source: Source, method: str = "bilinear") -> Layers:
    return Layers(
        source.path, source.frame, source.indexes, source.nodata, source.scale, source.offset, method, source.variables
    )


# --- what is there ---------------------------------------------------------------------------------------------------


@BOTH
def test_a_cube_is_a_scene_a_date(tmp_path: Path, name: str) -> None:
    red, nir = values(), values(1)
    path = cube(tmp_path / name, {"B4": red, "B8": nir}, DAYS, attrs={"_FillValue": np.uint16(7)})
    table = ingested(tmp_path, scenes=[{"files": path, "scale": 1e-4}], bands={"nir": "B8", "red": "B4"})
    assert table.dates == ISO
    assert table.bands == ("nir", "red")
    assert [(s.indexes, s.variables, s.nodata) for s in table.sources] == [
        ((step, step), ("B8", "B4"), (7.0, 7.0)) for step in (1, 2, 3)
    ]
    first = table.sources[0]
    assert first.transform == (10.0, 0.0, CORNER[0], 0.0, -10.0, CORNER[1])
    assert (first.width, first.height, first.dtype) == (8, 6, "uint16")
    assert same_crs(first.crs, UTM)
    assert len({s.identity for s in table.sources}) == 1
    for i, source in enumerate(table.sources):
        patch = warp(layers(source), grid_of(source), Window(0, 0, 6, 8))
        expected = np.stack([nir[i], red[i]])
        np.testing.assert_array_equal(patch.valid, expected != 7)
        np.testing.assert_allclose(patch.values, np.where(expected == 7, 0, expected * 1e-4), rtol=1e-6)


@BOTH
@pytest.mark.parametrize(("upwards", "westwards"), [(True, False), (False, True), (True, True)])
def test_axes_may_run_backwards(tmp_path: Path, name: str, upwards: bool, westwards: bool) -> None:
    path = cube(tmp_path / name, {"b": values()}, DAYS, upwards=upwards, westwards=westwards)
    source = ingested(tmp_path, scenes=[{"files": path}], bands={"b": "b"}).sources[1]
    assert source.transform == (10.0, 0.0, CORNER[0], 0.0, -10.0, CORNER[1])
    # A part that lies in the middle of neither axis.
    patch = warp(layers(source), grid_of(source), Window(1, 2, 3, 5))
    np.testing.assert_array_equal(patch.values[0], values()[1, 1:4, 2:7])


def test_a_cube_is_resampled_as_the_same_raster_is(tmp_path: Path) -> None:
    path = cube(tmp_path / "c.nc", {"b": values()}, DAYS, attrs={"_FillValue": np.uint16(values()[1, 2, 2])})
    same = raster(tmp_path / "2020-02-01.tif", values()[1], nodata=float(values()[1, 2, 2]))
    (one,) = [s for s in ingested(tmp_path, scenes=[{"files": path}], bands={"b": "b"}).sources if s.date == ISO[1]]
    (other,) = ingested(tmp_path, scenes=[{"files": same}], bands={"b": 1}).sources
    for resolution, method in ((25.0, "average"), (6.0, "bilinear"), (6.0, "cubic")):
        grid = Grid(UTM, resolution, CORNER[0] - 7, CORNER[1] + 3, 12, 9, 16)
        found, expected = warp(layers(one, method), grid, grid.whole), warp(layers(other, method), grid, grid.whole)
        np.testing.assert_array_equal(found.values, expected.values)
        np.testing.assert_array_equal(found.valid, expected.valid)
        assert 0 < found.valid.mean() < 1


def test_scale_and_offset_come_from_the_attributes_unless_the_config_says_otherwise(tmp_path: Path) -> None:
    said = {"scale_factor": 0.5, "add_offset": -3.0, "missing_value": np.uint16(9)}
    path = cube(tmp_path / "c.nc", {"b": values()}, DAYS, attrs=said)
    source = ingested(tmp_path, scenes=[{"files": path}], bands={"b": "b"}).sources[0]
    assert (source.scale, source.offset, source.nodata) == ((0.5,), (-3.0,), (9.0,))
    entry = {"files": path, "scale": 2, "offset": 1, "nodata": 4}
    source = ingested(tmp_path, scenes=[entry], bands={"b": "b"}).sources[0]
    assert (source.scale, source.offset, source.nodata) == ((2.0,), (1.0,), (4.0,))


def test_nan_is_no_data(tmp_path: Path) -> None:
    wanted = values().astype(np.float32)
    wanted[0, 2, 3] = np.nan
    path = cube(tmp_path / "c.nc", {"b": wanted}, DAYS)
    source = ingested(tmp_path, scenes=[{"files": path}], bands={"b": "b"}).sources[0]
    patch = warp(layers(source), grid_of(source), Window(0, 0, 6, 8))
    assert np.argwhere(~patch.valid).tolist() == [[0, 2, 3]]


@pytest.mark.parametrize(
    ("times", "units", "expected"),
    [
        ([0, 29, 64], "days since 2020-01-03", ISO),
        ([0.25, 29.5, 64.75], "days since 2020-01-03", ISO),
        ([20200103, 20200201, 20200307], "", ISO),
        ([202001, 202002, 202003], "", ("2020-01", "2020-02", "2020-03")),
        (["2020-01-03", "2020-02-01", "20200307T101500"], "", ISO),
    ],
    ids=["days", "hours of a day", "numbers of dates", "months", "text"],
)
def test_times_of_any_form(tmp_path: Path, times: list[Any], units: str, expected: tuple[str, ...]) -> None:
    path = cube(tmp_path / "c.nc", {"b": values()}, times, units=units)
    assert read_cube(path).dates == expected


def test_a_file_without_time_takes_its_date_from_its_name_or_the_config(tmp_path: Path) -> None:
    for i, date in enumerate(ISO):
        cube(tmp_path / f"s_{date}.nc", {"b": values()[i]})
    table = ingested(tmp_path, scenes=[{"files": tmp_path / "s_{date}.nc"}], bands={"b": "b"})
    assert [(s.date, s.indexes) for s in table.sources] == [(date, (1,)) for date in ISO]
    patch = warp(layers(table.sources[2]), grid_of(table.sources[2]), Window(0, 0, 6, 8))
    np.testing.assert_array_equal(patch.values[0], values()[2])
    one = tmp_path / f"s_{ISO[0]}.nc"
    assert ingested(tmp_path, scenes=[{"files": one, "date": 2019}], bands={"b": "b"}).dates == ("2019",)
    assert ingested(tmp_path, scenes=[{"files": one}], bands={"b": "b"}).dates == ("",)


def test_dates_out_of_order_are_sorted_and_twice_the_same_date_is_two_scenes(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    times = np.array(["2020-05-01T10", "2020-01-01", "2020-05-01T12"], dtype="datetime64[ns]")
    for name in ("a", "b"):
        cube(tmp_path / f"{name}.nc", {name: values()}, times)
    entries = [{"files": tmp_path / f"{name}.nc", "bands": {name: name}} for name in ("a", "b")]
    with caplog.at_level("INFO"):
        table = ingested(tmp_path, scenes=entries)
    assert [(s.date, s.bands, s.indexes) for s in table.sources] == [
        ("2020-01-01", ("a",), (2,)), ("2020-01-01", ("b",), (2,)), ("2020-05-01", ("a",), (1,)),
        ("2020-05-01", ("a",), (3,)), ("2020-05-01", ("b",), (1,)), ("2020-05-01", ("b",), (3,)),
    ]  # fmt: skip
    assert {(s.scene, s.indexes[0]) for s in table.sources if s.date == "2020-05-01"} == {
        ("scene of 2020-05-01", 1), ("scene 2 of 2020-05-01", 3)
    }  # fmt: skip
    assert "3 scenes of 2 dates" in caplog.text
    assert "1 date has more than one scene; they are mosaicked" in caplog.text


def test_variables_of_two_sizes_are_entries_of_one_area(tmp_path: Path) -> None:
    cube(tmp_path / "10.nc", {"B2": values(shape=(3, 12, 16))}, DAYS)
    cube(tmp_path / "20.nc", {"B11": values(), "SCL": values(1)}, DAYS, resolution=20)
    entries = [
        {"files": tmp_path / "10.nc", "bands": {"B2": "B2"}, "scale": 1e-4, "nodata": 0},
        {"files": tmp_path / "20.nc", "bands": {"B11": "B11", "SCL": "SCL"}, "scale": 1e-4, "nodata": 0},
    ]
    table = ingested(tmp_path, scenes=entries, quality="SCL")
    assert (table.bands, table.quality) == (("B2", "B11"), "SCL")
    assert len({s.scene for s in table.sources}) == 3
    (coarse,) = [s for s in table.sources if s.date == ISO[0] and "SCL" in s.bands]
    # The classes of the quality band are neither scaled nor is one of them the others' nodata.
    assert (coarse.scale, coarse.nodata) == ((1e-4, 1.0), (0.0, None))


def test_degrees_need_no_grid_mapping(tmp_path: Path) -> None:
    path = cube(tmp_path / "c.nc", {"b": values()}, DAYS, names=("time", "lat", "lon"), crs=None, resolution=1e-3)
    assert read_cube(path, ("b",)).frame.crs == "EPSG:4326"


def test_identity_and_sources_of_a_zarr_folder_follow_its_content(tmp_path: Path) -> None:
    for name, seed in (("a", 0), ("b", 0), ("c", 1)):
        cube(tmp_path / f"{name}.zarr", {"v": values(seed)}, DAYS)
    files = tmp_path / "*.zarr"
    found = ingested(tmp_path, scenes=[{"files": files}], bands={"v": "v"})
    one, same, other = (next(s.identity for s in found.sources if s.path.endswith(f"{n}.zarr")) for n in "abc")
    assert one == same != other
    listed = ingest.sources(ingest.Config.model_validate({"scenes": [{"files": files}], "bands": {"v": "v"}}))
    assert set(listed) == {file for file in tmp_path.rglob("*") if file.is_file() and file.parent.name != "out"}
    assert tmp_path / "b.zarr" / "zarr.json" in listed


@BOTH
def test_init_proposes_every_variable_as_a_band(tmp_path: Path, name: str) -> None:
    import yaml

    cube(tmp_path / "data" / name, {"B4": values(), "B8": values(1)}, DAYS)
    notes = write_config(tmp_path, "place", f"data/{name}", None, None)
    assert notes[0] == "Found 3 scenes in 1 files, 2020-01-03 to 2020-03-07: 2 bands (B4, B8)."
    section = yaml.safe_load((tmp_path / "configs" / "place.yaml").read_text())["ingest"]
    assert section == {"scenes": [{"files": f"data/{name}"}], "bands": {"B4": "B4", "B8": "B8"}}
    cube(tmp_path / "data" / f"d{name}", {"B4": values()}, DAYS)
    with pytest.raises(SceneError, match=r"holds B4 but .* holds B4, B8; give --scenes a pattern for one kind"):
        write_config(tmp_path, "other", f"data/*{name}", None, None)


# --- pixels are read once --------------------------------------------------------------------------------------------


@BOTH
def test_all_dates_of_a_window_are_read_together(tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    path = cube(tmp_path / name, {"a": values(), "b": values(1)}, DAYS)
    reads = []
    plain = cubes._read_block
    monkeypatch.setattr(cubes, "_read_block", lambda *given: reads.append(given[1]) or plain(*given))
    window = Window(1, 1, 4, 4)
    for step in (1, 2, 3):
        a, b = read_layers(str(path), ("a", "b"), (step, step), window)
        np.testing.assert_array_equal(a, values()[step - 1, 1:5, 1:5])
        np.testing.assert_array_equal(b, values(1)[step - 1, 1:5, 1:5])
    assert reads == ["a", "b"]
    with pytest.raises(ValueError, match="read-only"):
        a[0, 0] = 1


@BOTH
def test_a_small_room_is_used_date_by_date(tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whole chunks along time are read, and no more of them than there is room for."""
    path = cube(tmp_path / name, {"a": values(shape=(7, 6, 8))}, np.arange(7) * 5, units="days since 2020-01-01",
                chunks=(2, 6, 8))  # fmt: skip
    times = []
    plain = cubes._read_block
    monkeypatch.setattr(cubes, "BLOCK", 5 * 6 * 8 * 2)
    monkeypatch.setattr(cubes, "BLOCKS", Blocks(10_000))
    monkeypatch.setattr(cubes, "_read_block", lambda *given: times.append(given[2]) or plain(*given))
    for step in range(1, 8):
        (a,) = read_layers(str(path), ("a",), (step,), Window(0, 0, 6, 8))
        np.testing.assert_array_equal(a, values(shape=(7, 6, 8))[step - 1])
    assert times == [slice(0, 4), slice(4, 8)]


def test_a_changed_file_is_read_again(tmp_path: Path) -> None:
    for name in ("c.nc", "c.zarr"):
        window = Window(0, 0, 6, 8)
        for seed in (0, 1):
            made = cube(tmp_path / f"{seed}{name}", {"a": values(seed)}, DAYS)
            shutil.rmtree(tmp_path / name, ignore_errors=True)
            path = made.replace(tmp_path / name)
            np.testing.assert_array_equal(read_layers(str(path), ("a",), (2,), window)[0], values(seed)[1])


def test_what_is_kept_stays_within_its_bounds() -> None:
    kept = Blocks(capacity=250)
    reads: list[int] = []

    def block(number: int) -> np.ndarray:
        return kept.get(number, lambda: reads.append(number) or np.full(100, number, np.uint8))

    for number in (1, 2, 1, 3, 1, 2):
        assert (block(number) == number).all()
        assert kept.size == 100 * len(kept.slots) <= 250
    # The second was used longest ago when the third came.
    assert reads == [1, 2, 3, 2]
    assert kept.get("large", lambda: np.zeros(1000, np.uint8)).size == 1000
    assert kept.size == 0


def test_threads_wait_for_one_read() -> None:
    kept, reads = Blocks(capacity=10_000), []

    def read() -> np.ndarray:
        reads.append(1)
        return np.arange(10)

    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(lambda _: kept.get("key", read), range(50)))
    assert len(reads) == 1
    assert all(each is found[0] for each in found)


def test_a_read_that_fails_is_tried_again() -> None:
    kept = Blocks(capacity=10_000)

    def fail() -> np.ndarray:
        raise OSError("no")

    for _ in range(2):
        with pytest.raises(OSError):
            kept.get("key", fail)
    assert kept.get("key", lambda: np.arange(3)).tolist() == [0, 1, 2]


# --- what is clear ---------------------------------------------------------------------------------------------------


def test_clear_is_what_every_pixel_below_is(tmp_path: Path) -> None:
    """Classes on a grid of the same pixels, on one of half as many and on one that lies askew of both."""
    classes = np.full((1, 4, 6), 4, np.uint8)
    classes[0, 0, 0], classes[0, 3, 5] = 9, 0
    path = cube(tmp_path / "c.nc", {"q": classes}, DAYS[:1], attrs={"_FillValue": np.uint8(0)})
    (source,) = ingested(tmp_path, scenes=[{"files": path, "scale": 0.1}], bands={"q": "q", "b": "q"}).sources
    one = Layers(source.path, source.frame, (1,), (0.0,), (1.0,), (0.0,), "average", ("q",))

    def is_clear(found: np.ndarray) -> np.ndarray:
        return np.isin(found, (4, 5, 6))

    clear, known = warp_clear(one, grid_of(source), Window(0, 0, 4, 6), is_clear)
    np.testing.assert_array_equal(clear, classes[0] == 4)
    np.testing.assert_array_equal(known, classes[0] != 0)
    # Beyond the file nothing is known.
    clear, known = warp_clear(one, grid_of(source), Window(-1, 4, 3, 4), is_clear)
    assert known.tolist() == [[False] * 4, [True, True, False, False], [True, True, False, False]]
    np.testing.assert_array_equal(clear, known)
    coarse = Grid(UTM, 20.0, *CORNER, 3, 2, 16)
    clear, known = warp_clear(one, coarse, coarse.whole, is_clear)
    assert clear.tolist() == [[False, True, True], [True, True, False]]
    assert known.all()
    moved = Grid(UTM, 10.0, CORNER[0] + 4, CORNER[1] - 4, 5, 3, 16)
    clear, known = warp_clear(one, moved, moved.whole, is_clear)
    assert not clear[0, 0]
    assert not clear[2, 4]
    assert clear.sum() == 13
    assert known.all()


def test_clear_of_a_raster_with_a_mask_of_its_own(tmp_path: Path) -> None:
    mask = np.ones((4, 4), bool)
    mask[1, 2] = False
    path = raster(tmp_path / "q.tif", np.full((4, 4), 1, np.uint8), mask=mask)
    (source,) = ingested(tmp_path, scenes=[{"files": path}], bands={"q": 1}).sources
    clear, known = warp_clear(layers(source), grid_of(source), Window(0, 0, 4, 4), lambda found: found == 1)
    np.testing.assert_array_equal(clear, mask)
    np.testing.assert_array_equal(known, mask)


# --- refused ---------------------------------------------------------------------------------------------------------


@BOTH
@pytest.mark.parametrize(
    ("settings", "bands", "words"),
    [
        ({}, {"b": "B9"}, r"has no variable B9; it holds a"),
        ({"crs": None}, {"b": "a"}, "has no CRS"),
        ({"times": [0, 1, 2]}, {"b": "a"}, "the times along time cannot be read as dates: 0 is not a date"),
        ({"times": [0, 1, 2], "units": "days since spring"}, {"b": "a"}, r"\(days since spring\) cannot be read"),
        ({"times": np.array([*DAYS[:2], "NaT"], "datetime64[ns]")}, {"b": "a"},
         "a time is missing"),
    ],
    ids=["variable", "CRS", "times without units", "units", "missing time"],
)  # fmt: skip
def test_cubes_that_cannot_be_used(
    tmp_path: Path, name: str, settings: dict[str, Any], bands: dict[str, str], words: str
) -> None:
    path = cube(tmp_path / name, {"a": values()}, **{"times": DAYS, **settings})
    with pytest.raises(SceneError, match=rf"{name}.*{words}"):
        ingested(tmp_path, scenes=[{"files": path}], bands=bands)


def spoilt(path: Path, change: Any) -> Path:
    """Write a cube anew after a change of its dataset."""
    import xarray as xr

    cube(path, {"a": values(), "b": values(1)}, DAYS)
    with xr.open_dataset(path, engine="h5netcdf", decode_cf=False) as data:
        changed = change(data.load())
    changed.to_netcdf(path, engine="h5netcdf")
    return path


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda d: d.assign_coords(y=d.y.values + np.eye(6)[3] * 2), "the coordinates along y are not evenly spaced"),
        (lambda d: d.drop_vars("x"), "has no coordinates along x"),
        (lambda d: d.drop_vars("time"), "has a dimension time without coordinates"),
        (lambda d: d.isel(x=[0]), "has 1 pixel along x"),
        (lambda d: d.assign(b=d.b[:2].rename(time="day").drop_vars("day")), "variable b has the dimensions day, y, x"),
        (lambda d: d.assign(b=d.b[0].drop_vars("time")), "holds a of 3 time x 6 y x 8 x and b of 6 y x 8 x"),
        (lambda d: d.assign(b=d.b.astype(str)), r"variable b holds .*; give real numbers"),
        (lambda d: d.assign(spatial_ref=d.spatial_ref.assign_attrs(crs_wkt="EPSG:1")), "a CRS that nobody knows"),
        (lambda d: d.assign(a=d.a.assign_attrs(scale_factor="ten")), "an attribute of variable a is no number"),
    ],
    ids=["spacing", "no x", "no dates", "one column", "axes", "shapes", "text", "CRS", "scale"],
)  # fmt: skip
def test_one_sentence_for_each_fault(tmp_path: Path, change: Any, words: str) -> None:
    path = spoilt(tmp_path / "c.nc", change)
    with pytest.raises(SceneError, match=rf"c\.nc.*{words}"):
        ingested(tmp_path, scenes=[{"files": path}], bands={"one": "a", "two": "b"})


def test_files_that_are_none(tmp_path: Path) -> None:
    whole = cube(tmp_path / "c.nc", {"a": values(shape=(3, 60, 80))}, DAYS).read_bytes()
    for content, words in (
        (b"", "is empty"),
        (b"A letter.", "is not a NetCDF-4 file"),
        (b"CDF\x01" + bytes(40), "is a NetCDF-3 file"),
        (whole[: len(whole) // 2], "is truncated or damaged"),
    ):
        (tmp_path / "c.nc").write_bytes(content)
        with pytest.raises(SceneError, match=rf"c\.nc {words}"):
            ingested(tmp_path, scenes=[{"files": tmp_path / "c.nc"}], bands={"a": "a"})
    (tmp_path / "e.zarr").mkdir()
    with pytest.raises(SceneError, match=r"e\.zarr is not a Zarr group"):
        ingested(tmp_path, scenes=[{"files": tmp_path / "e.zarr"}], bands={"a": "a"})


def test_a_file_that_goes_or_breaks_after_ingest(tmp_path: Path) -> None:
    path = cube(tmp_path / "c.zarr", {"a": values()}, DAYS)
    source = ingested(tmp_path, scenes=[{"files": path}], bands={"a": "a"}).sources[0]
    for file in (path / "a" / "c").rglob("*"):
        if file.is_file():
            file.write_bytes(b"\x00\x01")
    with pytest.raises(SceneError, match=r"c\.zarr is damaged: some of its pixels cannot be read"):
        warp(layers(source), grid_of(source), Window(0, 0, 6, 8))
    path.rename(tmp_path / "away.zarr")
    with pytest.raises(SceneError, match=r"c\.zarr is gone"):
        warp(layers(source), grid_of(source), Window(0, 0, 6, 8))


def test_a_name_that_stands_for_one_band_of_several(tmp_path: Path) -> None:
    cube(tmp_path / "s_a.nc", {"a": values()}, DAYS)
    cube(tmp_path / "s_b.nc", {"v": values(1)}, DAYS)
    settings: dict[str, Any] = {"scenes": [{"files": tmp_path / "s_{band}.nc"}], "bands": {"one": "a", "two": "b"}}
    table = ingested(tmp_path, **settings)
    assert {(s.bands, s.variables) for s in table.sources} == {(("one",), ("a",)), (("two",), ("v",))}
    cube(tmp_path / "s_b.nc", {"v": values(1), "w": values()}, DAYS)
    with pytest.raises(SceneError, match=r"s_b\.nc holds the variables v, w where one is expected"):
        ingested(tmp_path, **settings)
