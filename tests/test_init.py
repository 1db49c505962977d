"""`terrastage init` writes a config that loads unchanged, and tells what is wrong with the files."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from shapely import Point

from pipeline.init import write_config
from pipeline.naming import find_layout
from pipeline.palette import colors_for, distance
from stages import ingest, tile
from stages.errors import LabelError, SceneError, SettingError, TerrastageError
from tests.rasters import CORNER, noise, raster, square, vectors

KINDS = np.kron(np.arange(64).reshape(8, 8) % 3 + 1, np.ones((10, 10))).astype("uint8")


def loaded(root: Path, name: str = "mine") -> dict[str, Any]:
    """Read the config and hold its sections to the stages' own settings."""
    config: dict[str, Any] = yaml.safe_load((root / "configs" / f"{name}.yaml").read_text())
    for entry in config["ingest"]["scenes"]:
        entry["files"] = root / entry["files"]
    ingest.Config.model_validate(config["ingest"])
    tile.Config.model_validate({"grid": config["grid"]})
    return config


def one_file(root: Path) -> str:
    raster(root / "scenes/s_20240601.tif", noise((3, 80, 80)), nodata=0, names=["red", "nir", "swir 1"])
    return "scenes/s_20240601.tif"


def test_one_file_of_several_bands_and_a_label_raster(tmp_path: Path) -> None:
    raster(tmp_path / "labels.tif", KINDS, nodata=0)
    notes = write_config(tmp_path, "mine", one_file(tmp_path), Path("labels.tif"), None)
    config = loaded(tmp_path)
    assert config["ingest"]["scenes"] == [{"files": tmp_path / "scenes/s_{date}.tif"}]
    assert config["ingest"]["bands"] == {"red": 1, "nir": 2, "swir_1": 3}
    assert config["grid"] == {"crs": "EPSG:32633", "resolution": 10.0, "origin": "snapped", "tile": 256}
    assert [(c["name"], c["labels"], c["code"]) for c in config["classes"]] == [
        ("class 1", [1], 1), ("class 2", [2], 2), ("class 3", [3], 3)
    ]  # fmt: skip
    # 80 x 80 pixels: blocks of 8 pixels are 100, four pixels are 0.04 hectares.
    assert config["label"] == {
        "file": "labels.tif",
        "block": pytest.approx(80, rel=1e-3),
        "buffer": pytest.approx(10, rel=1e-2),
    }
    assert config["export"]["min_area"] == pytest.approx(0.04, rel=2e-3)
    assert config["train"]["models"] == ["rf", "svm", "mlp", "cnn", "unet"]
    assert notes[-1] == "Wrote configs/mine.yaml; next: make run AREA=mine"
    assert not [note for note in notes if note.startswith("Check")]
    assert "2200 label pixels" in (tmp_path / "configs/mine.yaml").read_text()


def test_the_config_loads_as_it_is(tmp_path: Path) -> None:
    from pipeline.config import load_area

    raster(tmp_path / "labels.tif", KINDS, nodata=0)
    write_config(tmp_path, "mine", one_file(tmp_path), Path("labels.tif"), None)
    try:
        import stages.export
        import stages.label
        import stages.train  # noqa: F401
    except ImportError:
        pytest.skip("not all stages are there")
    assert load_area(tmp_path, "mine").title == "Mine"


@pytest.mark.parametrize("pattern", ["s2/T33UXP_*.tif", "s2", "s2/*_{date}T*_{band}_*.tif"])
def test_one_file_a_band_of_10_and_20_metres(tmp_path: Path, pattern: str) -> None:
    for date in ("20180401T100031", "20180411T100029"):
        for band, size in (("B02", 10), ("B8A", 20), ("B11", 20)):
            name = f"s2/T33UXP_{date}_{band}_{size}m.tif"
            raster(tmp_path / name, noise((800 // size, 800 // size)), resolution=size)
    raster(tmp_path / "labels.tif", KINDS)
    notes = write_config(tmp_path, "mine", pattern, Path("labels.tif"), None)
    config = loaded(tmp_path)
    wanted = "s2/*_{date}T*_{band}_*.tif" if "{" in pattern else "s2/T33UXP_{date}*_{band}_*.tif"
    assert config["ingest"]["scenes"][0]["files"] in (
        tmp_path / wanted,
        tmp_path / wanted.replace("{date}*", "{date}T*"),
    )
    assert config["ingest"]["bands"] == {"B02": "B02", "B8A": "B8A", "B11": "B11"}
    assert list(config["ingest"]["bands"]) == ["B02", "B8A", "B11"]
    assert config["grid"]["resolution"] == 10.0
    assert "Found 2 scenes in 6 files, 2018-04-01 to 2018-04-11" in notes[0]
    assert "files of 10 and 20 m" in notes[1]


@pytest.mark.parametrize("ending", ["gpkg", "shp", "geojson"])
def test_polygons_in_another_crs(tmp_path: Path, ending: str) -> None:
    import geopandas as gpd

    shapes = [square(col, row, 4) for row in range(0, 80, 8) for col in range(0, 80, 8)]
    kinds = ["forest", "water", "field"] * 33 + ["field"]
    table = gpd.GeoDataFrame({"kind": kinds, "id": range(100)}, geometry=shapes, crs="EPSG:32633").to_crs("EPSG:4326")
    vectors(tmp_path / f"labels.{ending}", table.geometry, crs="EPSG:4326", kind=kinds, id=range(100))
    notes = write_config(tmp_path, "mine", one_file(tmp_path), Path(f"labels.{ending}"), "kind")
    config = loaded(tmp_path)
    assert config["label"]["field"] == "kind"
    assert {c["name"]: c["code"] for c in config["classes"]} == {"field": 1, "forest": 2, "water": 3}
    assert "Labels: 100 polygons of 3 classes on the grid." in notes
    assert "528 label pixels in 33 blocks" in (tmp_path / "configs/mine.yaml").read_text()


def test_points_are_counted_one_by_one(tmp_path: Path) -> None:
    points = [Point(CORNER[0] + 80 * i + 5, CORNER[1] - 5) for i in range(10)]
    points += [Point(CORNER[0] + 80 * i + 5, CORNER[1] - 405) for i in range(10)]
    points += [Point(CORNER[0] - 1000, CORNER[1])] * 5
    vectors(tmp_path / "p.gpkg", points, kind=[1] * 10 + [2] * 10 + [1] * 5)
    notes = write_config(tmp_path, "mine", one_file(tmp_path), Path("p.gpkg"), None)
    assert "Labels: 20 points of 2 classes on the grid." in notes
    assert "Check: 5 of 25 points of p.gpkg (20%) lie outside the scenes and are not used." in notes
    assert loaded(tmp_path)["label"]["field"] == "kind"


def test_classes_that_no_split_can_hold_are_dropped_and_told(tmp_path: Path) -> None:
    kinds = np.where(KINDS == 3, 2, KINDS)
    kinds[0, :9] = 7
    raster(tmp_path / "labels.tif", kinds, nodata=0)
    notes = write_config(tmp_path, "mine", one_file(tmp_path), Path("labels.tif"), None)
    config = loaded(tmp_path)
    assert config["label"]["drop"] == [7]
    assert [c["name"] for c in config["classes"]] == ["class 1", "class 2"]
    assert [note for note in notes if "class 7 stands in 2 of the ground blocks" in note]


def test_a_class_of_few_samples_is_told(tmp_path: Path) -> None:
    points = [Point(CORNER[0] + 80 * i + 5, CORNER[1] - 5 - 80 * j) for i in range(10) for j in range(3)]
    vectors(tmp_path / "p.gpkg", points, kind=["a"] * 13 + ["b"] * 13 + ["c"] * 4)
    notes = write_config(tmp_path, "mine", one_file(tmp_path), Path("p.gpkg"), "kind")
    assert "drop" not in loaded(tmp_path)["label"]
    assert [note for note in notes if note.startswith("Check: c has 4 samples, too few")]


def test_an_existing_config_is_never_overwritten(tmp_path: Path) -> None:
    (tmp_path / "configs").mkdir()
    (tmp_path / "configs/mine.yaml").write_text("title: Mine\n")
    with pytest.raises(SettingError, match="already there"):
        write_config(tmp_path, "mine", one_file(tmp_path), None, None)
    assert (tmp_path / "configs/mine.yaml").read_text() == "title: Mine\n"


def test_scenes_outside_the_root_keep_their_whole_path(tmp_path: Path) -> None:
    raster(tmp_path / "else/s.tif", noise((2, 80, 80)))
    notes = write_config(tmp_path / "root", "mine", str(tmp_path / "else/s.tif"), None, None)
    text = (tmp_path / "root/configs/mine.yaml").read_text()
    assert f'files: "{tmp_path}/else/s.tif"' in text
    assert "Check: no date in the names or headers; set ingest.scenes[].date." in notes
    assert "Check: the files name no nodata value; if empty ground has one, set ingest.scenes[].nodata." in notes


def labels_without_crs(root: Path) -> tuple[str, str | None]:
    vectors(root / "l.geojson", [square(0, 0)], kind=[1])
    vectors(root / "l.shp", [square(0, 0)], crs=None, kind=[1])
    return "l.shp", "kind"


def raster_without_crs(root: Path) -> tuple[str, str | None]:
    raster(root / "l.tif", KINDS, crs=None)
    return "l.tif", None


def labels_elsewhere(root: Path) -> tuple[str, str | None]:
    vectors(root / "l.gpkg", [square(5000, 0)], kind=[1])
    return "l.gpkg", "kind"


def raster_elsewhere(root: Path) -> tuple[str, str | None]:
    raster(root / "l.tif", KINDS, corner=(0.0, 0.0))
    return "l.tif", None


def no_such_field(root: Path) -> tuple[str, str | None]:
    vectors(root / "l.gpkg", [square(0, 0)], kind=[1], note=["x"])
    return "l.gpkg", "species"


def no_field_given(root: Path) -> tuple[str, str | None]:
    vectors(root / "l.gpkg", [square(0, 0)], kind=[1], note=["x"])
    return "l.gpkg", None


def fractions(root: Path) -> tuple[str, str | None]:
    raster(root / "l.tif", np.random.default_rng(0).random((80, 80)))
    return "l.tif", None


def missing(root: Path) -> tuple[str, str | None]:
    return "nowhere.gpkg", "kind"


def not_labels(root: Path) -> tuple[str, str | None]:
    (root / "l.tif").write_text("A letter.")
    return "l.tif", None


WRONG: list[tuple[Callable[[Path], tuple[str, str | None]], str]] = [
    (labels_without_crs, "l.shp has no CRS"),
    (raster_without_crs, "l.tif has no CRS"),
    (labels_elsewhere, "none of the 1 labels of .*l.gpkg overlaps the scenes"),
    (raster_elsewhere, "none of the 6400 labels of .*l.tif overlaps the scenes"),
    (no_such_field, "l.gpkg has no column 'species'; give one of kind, note"),
    (no_field_given, "l.gpkg has several columns; give one of kind, note"),
    (fractions, "l.tif holds fractions"),
    (missing, "nowhere.gpkg does not exist"),
    (not_labels, "l.tif is not a raster"),
]


@pytest.mark.parametrize(("make", "words"), WRONG, ids=[make.__name__ for make, _ in WRONG])
def test_labels_that_cannot_be_used(tmp_path: Path, make: Callable[[Path], tuple[str, str | None]], words: str) -> None:
    labels, field = make(tmp_path)
    with pytest.raises(LabelError, match=words):
        write_config(tmp_path, "mine", one_file(tmp_path), Path(labels), field)
    assert not (tmp_path / "configs").exists()


def test_scenes_that_cannot_be_used(tmp_path: Path) -> None:
    def refused(scenes: str, words: str, kind: type[TerrastageError] = SceneError, name: str = "mine") -> None:
        with pytest.raises(kind, match=words):
            write_config(tmp_path, name, scenes, None, None)

    refused("nowhere/*.tif", "no file fits --scenes")
    refused("x", "cannot name an area", SettingError, name="../up")
    refused("x", "cannot name an area", SettingError, name="raw")
    raster(tmp_path / "a/x.tif", noise((8, 8)), crs=None)
    refused("a/x.tif", "x.tif has no CRS")
    raster(tmp_path / "b/x_1.tif", noise((8, 8)))
    raster(tmp_path / "b/x_2.tif", noise((2, 8, 8)))
    refused("b/*.tif", "x_2.tif has 2 bands but x_1.tif has one")
    raster(tmp_path / "c/one_a.tif", noise((8, 8)))
    raster(tmp_path / "c/two.tif", noise((8, 8)))
    refused("c/*.tif", r"differ in their form; say where the band stands")


@pytest.mark.parametrize(
    ("names", "pattern", "tokens"),
    [
        (["lsat7_2000_10", "lsat7_2000_20"], "lsat7_{date}_{band}", ("10", "20")),
        (["LC08_193024_20200513_20200820_SR_B2", "LC08_193024_20200529_20200821_SR_B10"],
         "LC08_193024_{date}_*_SR_{band}", ("B10", "B2")),
        (["2021-05-01_red", "2021-05-01_nir", "2021-05-11_red"], "{date}_{band}", ("nir", "red")),
        (["x_red", "x_green"], "x_{band}", ("green", "red")),
        (["a_1", "b_1", "a_2", "b_2"], "*_{band}", ("1", "2")),
    ],
)  # fmt: skip
def test_names_are_read(names: list[str], pattern: str, tokens: tuple[str, ...]) -> None:
    layout = find_layout([Path(f"/d/{name}.tif") for name in names], a_file_a_band=True)
    assert (layout.pattern, layout.tokens) == (f"/d/{pattern}.tif", tokens)


def test_names_of_files_with_all_bands() -> None:
    files = [Path(f"/d/scene_{date}_v{i}.tif") for i, date in enumerate(("20200101", "20210101"))]
    assert find_layout(files, a_file_a_band=False).pattern == "/d/scene_{date}_*.tif"


def test_colours_are_customary_and_apart() -> None:
    names = ["water", "deciduous forest", "coniferous forest", *[f"class {i}" for i in range(17)]]
    colors = colors_for(names)
    assert colors[:2] == ["#2171b5", "#1b7837"]
    assert len(set(colors)) == 20
    assert min(distance(a, b) for i, a in enumerate(colors) for b in colors[:i]) > 25
