"""Ingest finds the scenes, reads their headers and refuses what it cannot use."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from affine import Affine
from rasterio.control import GroundControlPoint
from rasterio.rpc import RPC

from stages import ingest
from stages.errors import SceneError
from stages.formats.scenes import FILE, Scenes, footprint, read_scenes
from stages.geo.frame import Frame, native_grid
from stages.geo.headers import dated_name, iso_date, sidecars
from stages.geo.warp import MAX_OPEN, OPENED, Layers, warp
from tests.rasters import UTM, noise, raster


def ingested(folder: Path, **settings: Any) -> Scenes:
    out = folder / "out"
    out.mkdir(exist_ok=True)
    ingest.run(out, ingest.Config.model_validate(settings))
    return read_scenes(out)


def test_one_file_with_all_bands(tmp_path: Path) -> None:
    path = raster(
        tmp_path / "scene_2024-06-01.tif", noise((3, 8, 9)), nodata=-1, scale=0.5, offset=2, names=["a", "b", "c"]
    )
    table = ingested(tmp_path, scenes=[{"files": tmp_path / "scene_{date}.tif"}], bands={"nir": 3, "red": 1})
    (source,) = table.sources
    assert table.bands == source.bands == ("nir", "red")
    assert (source.path, source.date, source.indexes) == (str(path), "2024-06-01", (3, 1))
    assert (source.nodata, source.scale, source.offset) == ((-1.0, -1.0), (0.5, 0.5), (2.0, 2.0))
    assert (source.dtype, source.crs, source.width, source.height) == ("float32", "EPSG:32633", 9, 8)


def test_one_file_a_band_of_several_dates(tmp_path: Path) -> None:
    for date in ("20240102", "20240203"):
        for band in ("B1", "B11", "B2"):
            raster(tmp_path / f"T33_{date}T100_{band}_{'20m' if band == 'B11' else '10m'}.tif", noise((8, 8)))
    table = ingested(
        tmp_path,
        scenes=[{"files": tmp_path / "T33_{date}T*_{band}_*.tif", "nodata": 0, "scale": 1e-4, "offset": -0.1}],
        bands={"one": "B1", "eleven": "B11"},
    )
    assert table.dates == ("2024-01-02", "2024-02-03")
    assert [(s.date, s.bands, Path(s.path).name) for s in table.sources] == [
        ("2024-01-02", ("eleven",), "T33_20240102T100_B11_20m.tif"),
        ("2024-01-02", ("one",), "T33_20240102T100_B1_10m.tif"),
        ("2024-02-03", ("eleven",), "T33_20240203T100_B11_20m.tif"),
        ("2024-02-03", ("one",), "T33_20240203T100_B1_10m.tif"),
    ]
    assert len({s.scene for s in table.sources}) == 2
    assert {(s.nodata, s.scale, s.offset) for s in table.sources} == {((0.0,), (1e-4,), (-0.1,))}


def test_a_folder_a_resolution_is_one_scene(tmp_path: Path) -> None:
    for name in ("R10m/S_B02", "R20m/S_B11", "R20m/S_B02"):
        raster(tmp_path / f"x/{name}.tif", noise((8, 8)))
    files = tmp_path / "x/*/S_{band}.tif"
    table = ingested(tmp_path, scenes=[{"files": files, "date": 2024}], bands={"b": "B02", "s": "B11"})
    # The folder of 20 m is a whole scene by itself; the single band of the other folder is no scene.
    assert sorted(Path(s.path).parent.name for s in table.sources) == ["R20m", "R20m"]
    (tmp_path / "x/R20m/S_B02.tif").unlink()
    table = ingested(tmp_path, scenes=[{"files": files, "date": 2024}], bands={"b": "B02", "s": "B11"})
    assert sorted(Path(s.path).parent.name for s in table.sources) == ["R10m", "R20m"]
    assert {(s.scene, s.date) for s in table.sources} == {("scene of 2024", "2024")}


def test_the_date_comes_from_the_name_then_the_config_then_the_header(tmp_path: Path) -> None:
    raster(tmp_path / "a_2021153.tif", noise((4, 4)), tags={"TIFFTAG_DATETIME": "2019:03:04 10:00:00"})
    name, header = tmp_path / "a_{date}.tif", tmp_path / "a_*.tif"
    for entry, expected in (
        ({"files": name, "date": "2020"}, "2021-06-02"),
        ({"files": header, "date": "2020-05"}, "2020-05"),
        ({"files": header}, "2019-03-04"),
    ):
        assert ingested(tmp_path, scenes=[entry], bands={"b": 1}).dates == (expected,)


@pytest.mark.parametrize(
    ("text", "expected"),
    [("20240229", "2024-02-29"), ("2024-02-29", "2024-02-29"), ("2024_02_29", "2024-02-29"), ("2024060", "2024-02-29"),
     ("202402", "2024-02"), ("2024-02", "2024-02"), ("2024", "2024")],
)  # fmt: skip
def test_dates_of_any_form(text: str, expected: str) -> None:
    assert iso_date(text) == expected


@pytest.mark.parametrize("text", ["20230229", "202413", "2024000", "2024-1-1", "spring"])
def test_what_is_no_date(text: str) -> None:
    with pytest.raises(ValueError):
        iso_date(text)


def test_bands_with_digits_are_not_found_in_longer_numbers(tmp_path: Path) -> None:
    raster(tmp_path / "x_B11_a.tif", noise((4, 4)))
    raster(tmp_path / "x_B2_a.tif", noise((4, 4)))
    with pytest.raises(SceneError, match=r"B1_.*band one"):
        ingested(tmp_path, scenes=[{"files": tmp_path / "*{band}_*.tif"}], bands={"one": "B1", "two": "B2"})


def test_identity_follows_the_content_and_not_the_name(tmp_path: Path) -> None:
    for name in ("a", "b"):
        raster(tmp_path / f"{name}.tif", noise((4, 4)))
    raster(tmp_path / "c.tif", noise((4, 4), seed=1))
    found = [ingested(tmp_path, scenes=[{"files": tmp_path / f}], bands={"b": 1}) for f in ("a.tif", "b.tif", "c.tif")]
    one, same, other = (table.sources[0].identity for table in found)
    assert one == same != other


def test_sources_hold_the_files_and_those_beside_them(tmp_path: Path) -> None:
    raster(tmp_path / "a.tif", noise((4, 4)))
    beside = tmp_path / "a.tif.aux.xml"
    beside.write_text("<PAMDataset/>")
    (tmp_path / "b.vrt").write_text('<VRTDataset><SourceFilename relativeToVRT="1">a.tif</SourceFilename></VRTDataset>')
    config = ingest.Config.model_validate({"scenes": [{"files": tmp_path / "b.vrt"}], "bands": {"b": 1}})
    assert ingest.sources(config) == [tmp_path / "a.tif", beside, tmp_path / "b.vrt"]
    config = ingest.Config.model_validate({"scenes": [{"files": tmp_path / "a.tif"}], "bands": {"b": 1}})
    assert ingest.sources(config) == [tmp_path / "a.tif", beside]


def test_sources_of_a_vrt_are_followed_to_the_files(tmp_path: Path) -> None:
    """A warped VRT of a mosaic of two files, one named from the root, with a mask beside the other."""
    import rasterio
    from rasterio import shutil as rio
    from rasterio.vrt import WarpedVRT

    for name in ("a & b.tif", "c.tif"):
        raster(tmp_path / "raw" / name, noise((4, 4)))
    mask = tmp_path / "raw" / "c.tif.msk"
    mask.write_bytes(b"")
    (tmp_path / "mosaic.vrt").write_text(
        '<VRTDataset><SourceFilename relativeToVRT="1">raw/a &amp; b.tif</SourceFilename>'
        f'<SourceFilename relativeToVRT="0">{tmp_path}/raw/c.tif</SourceFilename>'
        '<SourceDataset relativeToVRT="1">warped.vrt</SourceDataset></VRTDataset>'
    )
    (tmp_path / "warped.vrt").write_text(
        '<VRTDataset subClass="VRTWarpedDataset"><GDALWarpOptions>'
        '<SourceDataset relativeToVRT="1">mosaic.vrt</SourceDataset></GDALWarpOptions></VRTDataset>'
    )
    names = ["raw/a & b.tif", "raw/c.tif", "raw/c.tif.msk"]
    assert sidecars(tmp_path / "warped.vrt") == [tmp_path / name for name in ["mosaic.vrt", *names]]
    with rasterio.open(tmp_path / "raw" / "c.tif") as file, WarpedVRT(file, crs="EPSG:4326") as warped:
        rio.copy(warped, tmp_path / "made.vrt", driver="VRT")
    assert tmp_path / "raw" / "c.tif" in sidecars(tmp_path / "made.vrt")


def test_brackets_in_a_path_mean_themselves(tmp_path: Path) -> None:
    raster(tmp_path / "a[1]" / "s.tif", noise((4, 4)))
    assert len(ingested(tmp_path, scenes=[{"files": tmp_path / "a[1]" / "*.tif"}], bands={"b": 1}).sources) == 1


# --- several dates in one file, quality and static layers ------------------------------------------------------------

DATES = ("2018-06-15", "2018-05-01", "2018-07-30")


def stack(folder: Path, names: list[str] | None = None, count: int = 6) -> Path:
    """Six bands of constant value: band i holds i."""
    values = np.stack([np.full((4, 4), i + 1.0, np.float32) for i in range(count)])
    return raster(folder / "stack.tif", values, names=names or [])


@pytest.mark.parametrize(
    ("layout", "expected"),
    [
        ({}, {"2018-05-01": (4, 3), "2018-06-15": (2, 1), "2018-07-30": (6, 5)}),
        ({"order": "band-date"}, {"2018-05-01": (5, 2), "2018-06-15": (4, 1), "2018-07-30": (6, 3)}),
    ],
    ids=["date by date", "band by band"],
)
@pytest.mark.parametrize("bands", [{"nir": 2, "red": 1}, {"nir": "B8", "red": "B4"}], ids=["positions", "names"])
def test_a_stack_laid_out_by_the_config(
    tmp_path: Path, layout: dict[str, Any], expected: dict[str, tuple[int, ...]], bands: dict[str, Any]
) -> None:
    entry = {"files": stack(tmp_path), "stack": {"dates": DATES, "bands": ["B4", "B8"], **layout}, "scale": 0.5}
    table = ingested(tmp_path, scenes=[entry], bands=bands)
    assert {s.date: s.indexes for s in table.sources} == expected
    assert [s.date for s in table.sources] == sorted(DATES)
    assert {(s.bands, s.scale, s.identity) for s in table.sources} == {
        (("nir", "red"), (0.5, 0.5), table.sources[0].identity)
    }


@pytest.mark.parametrize(
    "names",
    [["B4_20180615", "B8_20180615", "B4_20180501", "B8_20180501", "B8_20180730", "B4_20180730"],
     ["2018-06-15 B4", "2018-06-15 B8", "2018-05-01 B4", "2018-05-01 B8", "2018-07-30 B8", "2018-07-30 B4"],
     [f"{date}T105031_T31TCJ_{band}" for date, band in
      (("20180615", "B4"), ("20180615", "B8"), ("20180501", "B4"), ("20180501", "B8"), ("20180730", "B8"),
       ("20180730", "B4"))]],
)  # fmt: skip
def test_a_stack_laid_out_by_its_descriptions(tmp_path: Path, names: list[str]) -> None:
    table = ingested(tmp_path, scenes=[{"files": stack(tmp_path, names)}], bands={"nir": "B8", "red": "B4"})
    assert {s.date: s.indexes for s in table.sources} == {
        "2018-05-01": (4, 3), "2018-06-15": (2, 1), "2018-07-30": (5, 6)
    }  # fmt: skip
    # Numbers are places in the file, whatever the descriptions say.
    table = ingested(tmp_path, scenes=[{"files": tmp_path / "stack.tif", "date": 2018}], bands={"nir": 5})
    assert [(s.date, s.indexes) for s in table.sources] == [("2018", (5,))]


@pytest.mark.parametrize(
    ("text", "expected"),
    [("B4_20180615", ("2018-06-15", "B4")), ("2018-06-15 red", ("2018-06-15", "red")), ("red (2018)", ("2018", "red")),
     ("B12_201806", ("2018-06", "B12")), ("20180615T105031_B8A", ("2018-06-15", "B8A")), ("B4", None), ("b_1234", None),
     ("red 2018-13-45", None)],
)  # fmt: skip
def test_descriptions_with_a_date(text: str, expected: tuple[str, str] | None) -> None:
    assert dated_name(text) == expected


@pytest.mark.parametrize(
    ("names", "layout", "bands", "words"),
    [
        ([], {"dates": DATES[:2] * 2}, {"a": 1}, r"has 6 bands, but its stack is declared as 4 dates with equally"),
        ([], {"dates": DATES, "bands": ["x"]}, {"a": 1}, r"has 6 bands, but its stack is declared as 3 dates with 1 b"),
        ([], {"dates": DATES}, {"a": 3}, r"band a of .*stack\.tif is declared as 3, .* has the bands 1 to 2;"),
        ([], {"dates": DATES, "bands": ["x", "y"]}, {"a": "z"}, r"declared as z, .* the bands 1 to 2 \(x, y\)"),
        (["x_2018", "x", "x_2019", "x_2020", "x_2021", "x_2022"], None, {"a": "x"},
         r"band 2 of .*stack\.tif is described as 'x', which holds no date"),
        ([f"x_{year}" for year in range(2015, 2021)], None, {"a": "y"}, "describes no band as y"),
    ],
    ids=["dates", "bands", "position", "name", "no date", "no band"],
)  # fmt: skip
def test_stacks_that_are_not_what_they_are_declared_as(
    tmp_path: Path, names: list[str], layout: dict[str, Any] | None, bands: dict[str, Any], words: str
) -> None:
    entry = {"files": stack(tmp_path, names), **({"stack": layout} if layout else {})}
    with pytest.raises(SceneError, match=words):
        ingested(tmp_path, scenes=[entry], bands=bands)


def test_a_band_that_one_date_of_a_stack_lacks(tmp_path: Path) -> None:
    names = ["a_2018", "b_2018", "a_2019", "b_2019", "a_2020", "c_2020"]
    with pytest.raises(SceneError, match=r"stack\.tif and the other files of 2020 lack the bands two"):
        ingested(tmp_path, scenes=[{"files": stack(tmp_path, names)}], bands={"one": "a", "two": "b"})


def test_dates_of_a_stack_must_be_dates_and_given_once() -> None:
    with pytest.raises(ValueError, match="spring is not a date"):
        ingest.Config.model_validate({"scenes": [{"files": "s.tif", "stack": {"dates": ["spring"]}}]})
    for more in ({"date": "2018"}, {"files": "s_{date}.tif"}, {"files": "s_{band}.tif"}):
        with pytest.raises(ValueError, match="stack gives the dates and bands"):
            ingest.Config.model_validate({"scenes": [{"files": "s.tif", "stack": {"dates": ["2018"]}, **more}]})


def test_entries_may_hold_some_of_the_bands_each(tmp_path: Path) -> None:
    for date in ("2020-01-01", "2021-01-01"):
        raster(tmp_path / f"fine_{date}.tif", noise((2, 8, 8)))
        raster(tmp_path / f"coarse_{date}.tif", noise((2, 4, 4)), resolution=20)
    entries = [
        {"files": tmp_path / "coarse_{date}.tif", "bands": {"s": 1, "r": 2}},
        {"files": tmp_path / "fine_{date}.tif"},
    ]
    table = ingested(tmp_path, scenes=entries, bands={"r": 1, "n": 2})
    # Those of ingest.bands come first, then in the order of the entries.
    assert table.bands == ("r", "n", "s")
    assert {(s.date, s.scene) for s in table.sources} == {(d, f"scene of {d}") for d in table.dates}
    assert [s.bands for s in table.sources] == [("s", "r"), ("r", "n")] * 2
    (tmp_path / "fine_2021-01-01.tif").unlink()
    with pytest.raises(SceneError, match=r"coarse_2021-01-01.tif and the other files of 2021-01-01 lack the bands n;"):
        ingested(tmp_path, scenes=entries, bands={"r": 1, "n": 2})


def test_the_quality_band_is_in_every_scene_but_no_channel(tmp_path: Path) -> None:
    for date in ("2020-01-01", "2021-01-01"):
        raster(tmp_path / f"s_{date}.tif", noise((2, 4, 4)))
        raster(tmp_path / f"mask_{date}.tif", np.ones((4, 4), np.uint8))
    entries = [
        {"files": tmp_path / "s_{date}.tif", "bands": {"r": 1, "n": 2}, "scale": 0.1, "nodata": 0},
        {"files": tmp_path / "mask_{date}.tif", "bands": {"clear": 1}, "scale": 5, "nodata": 255},
    ]
    table = ingested(tmp_path, scenes=entries, quality="clear")
    assert (table.bands, table.quality) == (("r", "n"), "clear")
    masks = [s for s in table.sources if "clear" in s.bands]
    assert [(s.date, s.scale, s.nodata) for s in masks] == [(d, (1.0,), (255.0,)) for d in table.dates]
    (tmp_path / "mask_2021-01-01.tif").unlink()
    with pytest.raises(SceneError, match=r"s_2021-01-01.tif and .* of 2021-01-01 lack the quality band clear, which"):
        ingested(tmp_path, scenes=entries, quality="clear")


def test_the_quality_band_of_one_file_keeps_its_own_numbers(tmp_path: Path) -> None:
    raster(tmp_path / "s_2020.tif", noise((2, 4, 4)), scale=0.5, nodata=7)
    entry = {"files": tmp_path / "s_{date}.tif", "nodata": 0}
    (source,) = ingested(tmp_path, scenes=[entry], bands={"q": 2, "r": 1}, quality="q").sources
    assert (source.bands, source.scale, source.nodata) == (("q", "r"), (1.0, 0.5), (7.0, 0.0))


def test_a_quality_band_that_is_none(tmp_path: Path) -> None:
    raster(tmp_path / "s.tif", noise((4, 4)))
    entry = {"files": tmp_path / "s.tif"}
    with pytest.raises(SceneError, match=r"ingest\.quality names SCL, but the bands are b;"):
        ingested(tmp_path, scenes=[entry], bands={"b": 1}, quality="SCL")
    with pytest.raises(SceneError, match="b is the only band and says only what is clear"):
        ingested(tmp_path, scenes=[entry], bands={"b": 1}, quality="b")


def test_static_layers_have_no_date(tmp_path: Path) -> None:
    raster(tmp_path / "s_2020.tif", noise((4, 4)))
    raster(tmp_path / "dem.tif", noise((2, 4, 4)), tags={"TIFFTAG_DATETIME": "2019:03:04 10:00:00"})
    static = [{"files": tmp_path / "dem.tif", "bands": {"height": 1, "slope": 2}, "offset": 100}]
    scenes = [{"files": tmp_path / "s_{date}.tif"}]
    table = ingested(tmp_path, scenes=scenes, bands={"b": 1}, static=static)
    assert (table.bands, table.static, table.dates) == (("b",), ("height", "slope"), ("2020",))
    assert [(s.static, s.date, s.bands, s.offset) for s in table.sources] == [
        (False, "2020", ("b",), (0.0,)), (True, "", ("height", "slope"), (100.0, 100.0))
    ]  # fmt: skip
    settings = {"scenes": scenes, "bands": {"b": 1}, "static": static}
    assert tmp_path / "dem.tif" in ingest.sources(ingest.Config.model_validate(settings))
    for wrong, words in (
        ({"bands": {"b": 1}}, r"b of .*dem.tif is static and a band of the scenes"),
        ({"bands": {}}, r"no bands are named for .*dem.tif of ingest.static"),
    ):
        with pytest.raises(SceneError, match=words):
            ingested(tmp_path, scenes=scenes, bands={"b": 1}, static=[{**static[0], **wrong}])
    for wrong in ({"date": "2020"}, {"files": "dem_{date}.tif"}, {"stack": {"dates": ["2020"]}}):
        with pytest.raises(ValueError, match="static layers have no date"):
            ingest.Config.model_validate({**settings, "static": [{**static[0], **wrong}]})


def test_scenes_of_one_date_are_counted(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    for name in ("a_20200301", "b_20200301", "a_20200101", "b_20200101", "a_20191231"):
        raster(tmp_path / f"{name}.tif", noise((4, 4)))
    with caplog.at_level("INFO"):
        table = ingested(tmp_path, scenes=[{"files": tmp_path / "*_{date}.tif"}], bands={"b": 1})
    assert [s.date for s in table.sources] == ["2019-12-31", *["2020-01-01"] * 2, *["2020-03-01"] * 2]
    assert len({s.scene for s in table.sources}) == 5
    assert "5 scenes of 3 dates in 5 files" in caplog.text
    assert "2 dates have more than one scene; they are mosaicked" in caplog.text


def test_one_date_of_one_scene_is_not_called_a_mosaic(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    raster(tmp_path / "a_20200301.tif", noise((4, 4)))
    with caplog.at_level("INFO"):
        ingested(tmp_path, scenes=[{"files": tmp_path / "*_{date}.tif"}], bands={"b": 1})
    assert "mosaicked" not in caplog.text


@pytest.mark.parametrize(("name", "said"), [("20231345", "20231345"), ("20203", "20203"), ("3jan", "3jan")])
def test_a_date_that_cannot_be_read(tmp_path: Path, name: str, said: str) -> None:
    for each in ("20200101", name):
        raster(tmp_path / f"s_{each}.tif", noise((4, 4)))
    with pytest.raises(SceneError, match=rf"s_{name}\.tif has no valid date: .*{said}"):
        ingested(tmp_path, scenes=[{"files": tmp_path / "s_{date}.tif"}], bands={"b": 1})


def test_words_in_the_place_of_a_date_are_other_files(tmp_path: Path) -> None:
    for each in ("20200101", "mean", "20200101_mask"):
        raster(tmp_path / f"s_{each}.tif", noise((4, 4)))
    table = ingested(tmp_path, scenes=[{"files": tmp_path / "s_{date}.tif"}], bands={"b": 1})
    assert [Path(s.path).name for s in table.sources] == ["s_20200101.tif"]


def test_a_stacked_file_is_opened_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import rasterio

    path = stack(tmp_path)
    entry = {"files": path, "stack": {"dates": DATES}}
    table = ingested(tmp_path, scenes=[entry], bands={"b": 2})
    opened: list[str] = []
    plain = rasterio.open
    monkeypatch.setattr(rasterio, "open", lambda *given, **more: opened.append(given[0]) or plain(*given, **more))
    grid = native_grid(table.sources[0].frame.bounds(UTM), table.sources[0].frame, 16)

    def means() -> list[float]:
        return [
            float(warp(Layers(s.path, s.frame, s.indexes, s.nodata, s.scale, s.offset, "bilinear"), grid, grid.whole)
                  .values.mean())
            for s in table.sources
        ]  # fmt: skip

    assert means() == [4.0, 2.0, 6.0]
    assert opened == [str(path)]
    # A file that has changed is opened again.
    raster(path, np.stack([np.full((4, 4), 10.0 * i, np.float32) for i in range(1, 7)]))
    opened.clear()
    assert means() == [40.0, 20.0, 60.0]
    assert opened == [str(path)]
    # No more files stay open than are allowed.
    for i in range(MAX_OPEN + 3):
        OPENED.get(str(raster(tmp_path / f"{i}.tif", noise((4, 4)))))
    assert len(OPENED.datasets) == MAX_OPEN
    path.unlink()
    with pytest.raises(SceneError, match=r"stack\.tif is damaged"):
        means()


# --- refused ---------------------------------------------------------------------------------------------------------


def cut_in_half(path: Path) -> None:
    content = path.read_bytes()
    path.write_bytes(content[: len(content) // 2])


def cut_the_last_byte(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-1])


def cut_the_header(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:9])


POINTS = [GroundControlPoint(row, col, 5e5 + 10 * col, 5.4e6 - 10 * row) for row in (0, 8) for col in (0, 8)]
RATIONAL = RPC(
    0.0, 100.0, 45.0, 1.0, *[[1.0] + [0.0] * 19] * 2, 4.0, 4.0, 10.0, 1.0, *[[1.0] + [0.0] * 19] * 2, 4.0, 4.0
)
SPOILT: list[tuple[Callable[[Path], None], str]] = [
    (lambda path: path.unlink(), "no scene fits"),
    (lambda path: path.write_bytes(b""), "s.tif is empty"),
    (cut_in_half, "s.tif is truncated"),
    (cut_the_last_byte, "s.tif is truncated"),
    (cut_the_header, "s.tif is truncated or damaged"),
    (lambda path: path.write_text("A letter."), "s.tif is not a raster"),
    (lambda path: raster(path, noise((2, 8, 8)), crs=None), "s.tif has no CRS"),
    (lambda path: raster(path, noise((1, 8, 8))), "s.tif has 1 bands, but band two is declared as number 2"),
    (lambda path: raster(path, noise((2, 8, 8)), dtype="complex64"), "s.tif holds complex numbers"),
]


@pytest.mark.parametrize(("spoil", "words"), SPOILT, ids=[words for _, words in SPOILT])
@pytest.mark.parametrize("layout", [{}, {"tiled": True, "blockxsize": 16, "blockysize": 16, "compress": "deflate"}])
def test_files_that_cannot_be_used(
    tmp_path: Path, spoil: Callable[[Path], None], words: str, layout: dict[str, Any]
) -> None:
    path = raster(tmp_path / "s.tif", noise((2, 40, 50)), **layout)
    spoil(path)
    with pytest.raises(SceneError, match=words):
        ingested(tmp_path, scenes=[{"files": path}], bands={"one": 1, "two": 2})


@pytest.mark.parametrize(
    ("place", "words"),
    [
        ({"crs": UTM, "transform": Affine.identity()}, "has a CRS, but its header does not say where in it"),
        ({"crs": UTM, "gcps": POINTS}, "is placed by ground control points only; warp it to a map grid first"),
        ({"rpcs": RATIONAL}, "is placed by rational polynomials"),
        ({}, "has no CRS"),
    ],
    ids=["CRS alone", "ground control points", "rational polynomials", "nothing"],
)
def test_a_raster_that_nobody_can_place(tmp_path: Path, place: dict[str, Any], words: str) -> None:
    import rasterio
    from rasterio.errors import NotGeoreferencedWarning

    shape = {"driver": "GTiff", "width": 8, "height": 8, "count": 1, "dtype": "float32"}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", NotGeoreferencedWarning)
        with rasterio.open(tmp_path / "s.tif", "w", **shape, **place) as file:
            file.write(noise((1, 8, 8)))
    with pytest.raises(SceneError, match=rf"s\.tif {words}"):
        ingested(tmp_path, scenes=[{"files": tmp_path / "s.tif"}], bands={"b": 1})


def test_a_truncated_raster_of_another_format(tmp_path: Path) -> None:
    path = raster(tmp_path / "s.img", noise((60, 60)), driver="HFA")
    cut_in_half(path)
    with pytest.raises(SceneError, match=r"s\.img"):
        ingested(tmp_path, scenes=[{"files": path}], bands={"b": 1})


def test_a_vrt_without_its_source(tmp_path: Path) -> None:
    raster(tmp_path / "a.tif", noise((4, 4)))
    (tmp_path / "b.vrt").write_text(
        '<VRTDataset rasterXSize="4" rasterYSize="4"><SRS>EPSG:32633</SRS>'
        "<GeoTransform>0, 1, 0, 0, 0, -1</GeoTransform>"
        '<VRTRasterBand dataType="Float32" band="1"><SimpleSource>'
        '<SourceFilename relativeToVRT="1">a.tif</SourceFilename><SourceBand>1</SourceBand>'
        "</SimpleSource></VRTRasterBand></VRTDataset>"
    )
    assert len(ingested(tmp_path, scenes=[{"files": tmp_path / "b.vrt"}], bands={"b": 1}).sources) == 1
    (tmp_path / "a.tif").unlink()
    with pytest.raises(SceneError, match=r"b\.vrt"):
        ingested(tmp_path, scenes=[{"files": tmp_path / "b.vrt"}], bands={"b": 1})


def test_a_missing_band_of_one_date(tmp_path: Path) -> None:
    for name in ("2020_a", "2020_b", "2021_a"):
        raster(tmp_path / f"{name}.tif", noise((4, 4)))
    with pytest.raises(SceneError, match=r"2021_a.tif and the other files of 2021 lack the bands two"):
        ingested(tmp_path, scenes=[{"files": tmp_path / "{date}_{band}.tif"}], bands={"one": "a", "two": "b"})


def test_files_of_two_kinds(tmp_path: Path) -> None:
    raster(tmp_path / "s_1.tif", noise((3, 4, 4)), names=["red", "nir", "swir"])
    raster(tmp_path / "s_2.tif", noise((3, 4, 4)), names=["nir", "red", "swir"])
    with pytest.raises(SceneError, match=r"s_2.tif has the bands nir, red, swir but s_1.tif has red, nir, swir"):
        ingested(tmp_path, scenes=[{"files": tmp_path / "s_*.tif"}], bands={"r": 1})
    raster(tmp_path / "s_2.tif", noise((2, 4, 4)))
    with pytest.raises(SceneError, match=r"s_2.tif has 2 bands but s_1.tif has 3"):
        ingested(tmp_path, scenes=[{"files": tmp_path / "s_*.tif"}], bands={"r": 1})


def test_several_bands_where_the_name_stands_for_one(tmp_path: Path) -> None:
    raster(tmp_path / "s_nir.tif", noise((2, 4, 4)))
    with pytest.raises(SceneError, match="has 2 bands where one is expected"):
        ingested(tmp_path, scenes=[{"files": tmp_path / "s_{band}.tif"}], bands={"n": "nir"})


def test_a_token_without_a_place_for_it(tmp_path: Path) -> None:
    raster(tmp_path / "s.tif", noise((2, 4, 4)))
    with pytest.raises(SceneError, match="declared as B8, which is no number"):
        ingested(tmp_path, scenes=[{"files": tmp_path / "s.tif"}], bands={"n": "B8"})


# --- footprints ------------------------------------------------------------------------------------------------------


def test_the_footprint_of_a_utm_scene(tmp_path: Path) -> None:
    import geopandas as gpd

    raster(tmp_path / "s.tif", np.zeros((100, 100)), resolution=1000)
    ingested(tmp_path, scenes=[{"files": tmp_path / "s.tif"}], bands={"b": 1})
    table = gpd.read_parquet(tmp_path / "out" / FILE)
    assert table.crs.to_epsg() == 4326
    # UTM is conformal with a scale of 0.9996 at its middle: 10,000 km2 within a tenth of a per cent.
    assert table.to_crs("EPSG:6933").area.item() == pytest.approx(1e10, rel=2e-3)


@pytest.mark.parametrize(
    "frame",
    [Frame("EPSG:4326", (0.01, 0, 179.5, 0, -0.01, 10.5), 100, 100),
     Frame("EPSG:32660", (1000, 0, 720_000, 0, -1000, 1_160_000), 110, 110)],
    ids=["degrees", "UTM"],
)  # fmt: skip
def test_a_footprint_across_the_antimeridian_is_cut_in_two(frame: Frame) -> None:
    parts = sorted(part.bounds for part in footprint(frame).geoms)
    assert len(parts) == 2
    assert parts[0][0] == -180
    assert parts[0][2] < -179.4
    assert parts[1][0] > 178.9
    assert parts[1][2] == 180
