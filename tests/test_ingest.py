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
from stages.geo.frame import Frame
from stages.geo.headers import iso_date, sidecars
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
