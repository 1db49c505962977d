"""Sentinel-2 SAFE and Landsat Collection 2 folders are scenes as they were downloaded, scaled to reflectance."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from stages import ingest
from stages.errors import SceneError
from stages.formats.scenes import Scenes, Source, read_scenes
from stages.geo.frame import native_grid
from stages.geo.warp import Layers, warp
from tests.rasters import CORNER, landsat, noise, raster, sentinel


def ingested(folder: Path, **settings: Any) -> Scenes:
    out = folder / "out"
    out.mkdir(exist_ok=True)
    ingest.run(out, ingest.Config.model_validate(settings))
    return read_scenes(out)


def numbers(side: int, seed: int = 0) -> np.ndarray:
    return noise((side, side), seed=seed, dtype="uint16")


def by_band(table: Scenes) -> dict[str, Source]:
    return {source.bands[0]: source for source in table.sources}


IMAGES = {"B04_10m": numbers(12), "B04_20m": numbers(6), "B8A_20m": numbers(6), "B01_60m": numbers(2),
          "SCL_20m": numbers(6), "AOT_10m": numbers(12), "TCI_10m": numbers(12)}  # fmt: skip


# --- Sentinel-2 ------------------------------------------------------------------------------------------------------


def test_a_safe_folder_is_one_scene_of_its_finest_images(tmp_path: Path) -> None:
    path = sentinel(tmp_path, IMAGES, offsets={0: -500, 3: -1000, 8: -1200})
    table = ingested(
        tmp_path,
        scenes=[{"files": tmp_path / "S2*.SAFE"}],
        bands={"red": "B04", "nir": "B8A", "aerosol": "B1", "SCL": "SCL", "depth": "AOT"},
        quality="SCL",
    )
    assert (table.bands, table.quality, table.dates) == (("red", "nir", "aerosol", "depth"), "SCL", ("2022-06-14",))
    found = by_band(table)
    assert {band: Path(s.path).name[-11:] for band, s in found.items()} == {
        "red": "B04_10m.jp2", "nir": "B8A_20m.jp2", "aerosol": "B01_60m.jp2", "SCL": "SCL_20m.jp2",
        "depth": "AOT_10m.jp2",
    }  # fmt: skip
    assert {s.scene for s in table.sources} == {str(path)}
    assert {band: (s.scale, s.offset, s.nodata) for band, s in found.items()} == {
        "red": ((1e-4,), (-0.1,), (0.0,)),
        "nir": ((1e-4,), (-0.12,), (0.0,)),
        "aerosol": ((1e-4,), (-0.05,), (0.0,)),
        "SCL": ((1.0,), (0.0,), (0.0,)),
        "depth": ((1e-3,), (0.0,), (0.0,)),
    }


def test_reflectances_of_a_safe_folder(tmp_path: Path) -> None:
    empty = numbers(6)
    empty[2, 3] = 0
    sentinel(tmp_path, {"B8A_20m": empty}, offsets={8: -1000})
    (source,) = ingested(tmp_path, scenes=[{"files": tmp_path / "*.SAFE"}], bands={"nir": "B8A"}).sources
    grid = native_grid(source.frame.bounds(source.crs), source.frame, 16)
    layers = Layers(source.path, source.frame, source.indexes, source.nodata, source.scale, source.offset, "bilinear")
    patch = warp(layers, grid, grid.whole)
    np.testing.assert_allclose(patch.values[0], np.where(empty == 0, 0, (empty - 1000.0) / 10000), atol=1e-7)
    np.testing.assert_array_equal(patch.valid[0], empty != 0)


@pytest.mark.parametrize(
    ("made", "expected"),
    [
        ({"baseline": "03.01"}, (1e-4, 0.0)),
        ({"baseline": "05.10", "offsets": {3: -1000}}, (1e-4, -0.1)),
        ({"level": "1C", "baseline": "02.07"}, (1e-4, 0.0)),
        ({"level": "1C", "baseline": "04.00", "offsets": {3: -1000}}, (1e-4, -0.1)),
    ],
    ids=["older", "newer", "older L1C", "newer L1C"],
)
def test_the_offset_follows_the_processing_baseline(
    tmp_path: Path, made: dict[str, Any], expected: tuple[float, float]
) -> None:
    name = "B04" if made.get("level") == "1C" else "B04_10m"
    sentinel(tmp_path, {name: numbers(6)}, **made)
    (source,) = ingested(tmp_path, scenes=[{"files": tmp_path / "*.SAFE"}], bands={"red": "B04"}).sources
    assert (source.scale[0], source.offset[0]) == expected


def test_the_config_overrules_reflectances_and_no_classes(tmp_path: Path) -> None:
    sentinel(tmp_path, IMAGES, metadata=False)
    entry = {"files": tmp_path / "*.SAFE", "scale": 0.5, "offset": 3, "nodata": 9}
    found = by_band(ingested(tmp_path, scenes=[entry], bands={"red": "B04", "SCL": "SCL"}))
    assert (found["red"].scale, found["red"].offset, found["red"].nodata) == ((0.5,), (3.0,), (9.0,))
    assert (found["SCL"].scale, found["SCL"].offset, found["SCL"].nodata) == ((1.0,), (0.0,), (0.0,))
    # Without metadata the name tells the date.
    assert found["red"].date == "2022-06-14"


def test_two_tiles_of_a_date_are_two_scenes_beside_ordinary_files(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    for corner in (CORNER, (CORNER[0] + 120, CORNER[1])):
        sentinel(tmp_path / f"{corner[0]:.0f}", IMAGES, corner=corner, baseline="03.00")
    raster(tmp_path / "2019-03-01.tif", np.stack([numbers(4)] * 2))
    entries = [
        {"files": tmp_path / "*/S2A_MSIL2A_{date}T*.SAFE", "bands": {"red": "B04", "nir": "B8A"}},
        {"files": tmp_path / "{date}.tif", "bands": {"red": 1, "nir": 2}, "scale": 1e-4},
    ]
    with caplog.at_level("INFO"):
        table = ingested(tmp_path, scenes=entries)
    assert table.dates == ("2019-03-01", "2022-06-14")
    assert len({s.scene for s in table.sources if s.date == "2022-06-14"}) == 2
    assert "3 scenes of 2 dates" in caplog.text
    assert "1 date has more than one scene" in caplog.text


def test_sources_are_the_images_that_are_read_and_the_metadata(tmp_path: Path) -> None:
    safe = sentinel(tmp_path, IMAGES, offsets={3: -1000})
    folder = landsat(tmp_path, {"SR_B4": numbers(4), "SR_B5": numbers(4)}, metadata="")
    settings = {"scenes": [{"files": safe, "bands": {"red": "B4"}}, {"files": folder, "bands": {"red": "SR_B4"}}]}
    listed = ingest.sources(ingest.Config.model_validate(settings))
    (image,) = safe.rglob("*_B04_10m.jp2")
    ending = folder.name
    expected = {image, safe / "MTD_MSIL2A.xml", folder / f"{ending}_SR_B4.TIF", folder / f"{ending}_MTL.txt"}
    assert set(listed) == expected


@pytest.mark.parametrize(
    ("images", "made", "words"),
    [
        ({}, {}, r"holds no images in GRANULE"),
        ({"B04_10m": numbers(6)}, {"baseline": "03.00"}, r"has no image of band SCL; it holds B04;"),
        ({"B04_10m": numbers(6), "SCL_20m": numbers(3)}, {"metadata": False}, r"lacks its MTD_MSIL\*.xml"),
        ({"B04_10m": numbers(6), "SCL_20m": numbers(3)}, {}, r"no offset of band B04, which baseline 04.00 has"),
    ],
    ids=["images", "band", "metadata", "offset"],
)
def test_safe_folders_that_lack_something(
    tmp_path: Path, images: dict[str, np.ndarray], made: dict[str, Any], words: str
) -> None:
    folder = tmp_path / "S2A_X.SAFE"
    folder.mkdir()
    if images:
        folder.rmdir()
        sentinel(tmp_path, images, **made)
    with pytest.raises(SceneError, match=rf"\.SAFE.* {words}"):
        ingested(tmp_path, scenes=[{"files": tmp_path / "*.SAFE"}], bands={"red": "B04", "SCL": "SCL"})


def test_metadata_without_the_quantification(tmp_path: Path) -> None:
    path = sentinel(tmp_path, {"B04_10m": numbers(6)}, baseline="03.00")
    file = path / "MTD_MSIL2A.xml"
    file.write_text(file.read_text().replace("BOA_QUANTIFICATION_VALUE", "OTHER_VALUE"))
    with pytest.raises(SceneError, match=r"hold no QUANTIFICATION_VALUE"):
        ingested(tmp_path, scenes=[{"files": path}], bands={"red": "B04"})


# --- Landsat ---------------------------------------------------------------------------------------------------------


def test_a_landsat_folder_is_one_scene(tmp_path: Path) -> None:
    images = {"SR_B4": numbers(6), "ST_B10": numbers(6, 1), "QA_PIXEL": numbers(6, 2), "SR_B5": numbers(6, 3)}
    path = landsat(tmp_path, images, metadata='    DATE_ACQUIRED = 2018-06-16\n    SPACECRAFT_ID = "LANDSAT_8"')
    table = ingested(
        tmp_path,
        scenes=[{"files": tmp_path / "LC0*_L2SP_*"}],
        bands={"red": "SR_B4", "heat": "ST_B10", "QA": "QA_PIXEL"},
        quality="QA",
    )
    assert (table.bands, table.quality, table.dates) == (("red", "heat"), "QA", ("2018-06-16",))
    found = by_band(table)
    assert {s.scene for s in table.sources} == {str(path)}
    assert {band: (s.scale[0], s.offset[0], s.nodata[0]) for band, s in found.items()} == {
        "red": (0.0000275, -0.2, 0.0), "heat": (0.00341802, 149.0, 0.0), "QA": (1.0, 0.0, None)
    }  # fmt: skip
    assert Path(found["red"].path).name.endswith("_T1_SR_B4.TIF")


def test_the_name_of_a_landsat_folder_tells_the_date_and_the_config_overrules_the_scale(tmp_path: Path) -> None:
    landsat(tmp_path, {"SR_B4": numbers(6), "QA_PIXEL": numbers(6)})
    entry = {"files": tmp_path / "L*", "scale": 1, "offset": 0}
    found = by_band(ingested(tmp_path, scenes=[entry], bands={"red": "SR_B4", "flags": "QA_PIXEL"}))
    assert found["red"].date == "2018-06-15"
    assert (found["red"].scale, found["red"].offset) == ((1.0,), (0.0,))


@pytest.mark.parametrize(
    ("images", "level", "words"),
    [
        ({"B4": numbers(6)}, "L1TP", "is of Landsat's level L1TP, which is no surface reflectance"),
        ({"SR_B5": numbers(6)}, "L2SP", "has no image of band SR_B4; it holds SR_B5"),
        ({}, "L2SP", r"holds no images such as .*_SR_B4\.TIF"),
    ],
    ids=["level", "band", "images"],
)
def test_landsat_folders_that_lack_something(
    tmp_path: Path, images: dict[str, np.ndarray], level: str, words: str
) -> None:
    if not images:
        (tmp_path / "LC08_L2SP_199030_20180615_20200831_02_T1").mkdir()
    else:
        landsat(tmp_path, images, level=level)
    with pytest.raises(SceneError, match=rf"LC08_{level}\S* {words}"):
        ingested(tmp_path, scenes=[{"files": tmp_path / "LC08*"}], bands={"red": "SR_B4"})


def test_other_folders_are_no_scenes(tmp_path: Path) -> None:
    (tmp_path / "LC08_notes").mkdir()
    with pytest.raises(SceneError, match="no scene fits"):
        ingested(tmp_path, scenes=[{"files": tmp_path / "LC08*"}], bands={"red": "SR_B4"})
