"""`terrastage init` writes a config that loads unchanged, and tells what is wrong with the files."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from shapely import LineString, MultiPolygon, Point, box

from pipeline.init import write_config
from pipeline.naming import find_layout
from pipeline.palette import colors_for, customary, distance
from stages import ingest, tile
from stages.errors import ArtifactError, LabelError, SceneError, SettingError, TerrastageError
from tests.rasters import CORNER, noise, raster, square, vectors

KINDS = np.kron(np.arange(64).reshape(8, 8) % 3 + 1, np.ones((10, 10))).astype("uint8")


def loaded(root: Path, name: str = "mine") -> dict[str, Any]:
    """Read the config and hold its sections to the stages' own settings."""
    config: dict[str, Any] = yaml.safe_load((root / "configs" / f"{name}.yaml").read_text())
    for entry in config["ingest"]["scenes"]:
        entry["files"] = root / entry["files"]
    ingest.Config.model_validate(config["ingest"])
    tile.Config.model_validate({"grid": config["grid"], **config["tile"]})
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
    assert config["train"]["models"] == ["rf", "svm", "mlp", "cnn", "unet", "ensemble"]
    assert config["tile"] == {"dates": "latest"}
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
    assert config["tile"] == {"dates": "all"}
    assert "dates: all   # latest maps the newest date; all makes" in (tmp_path / "configs/mine.yaml").read_text()
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


def test_polygons_that_reach_over_the_edge_are_inside(tmp_path: Path) -> None:
    # The scene is 80 x 80 pixels; the first polygon has its middle outside, the next two share an edge with the scene.
    shapes = [square(70, 0, 40), square(80, 0, 8), square(0, -40, 40)]
    shapes += [square(col, 40, 4) for col in range(0, 80, 8)]
    vectors(tmp_path / "l.gpkg", shapes, kind=["a", "a", "a"] + ["b"] * 10)
    notes = write_config(tmp_path, "mine", one_file(tmp_path), Path("l.gpkg"), "kind")
    assert "Labels: 11 polygons of 2 classes on the grid." in notes
    assert "Check: 2 of 13 polygons of l.gpkg (15%) lie outside the scenes and are not used." in notes
    # 10 of 40 columns by 40 rows lie on the scene.
    assert "400 label pixels in 1 blocks" in (tmp_path / "configs/mine.yaml").read_text()


SHIFT = 0.0001
DATE_LINE = {"crs": "EPSG:4326", "resolution": SHIFT}


@pytest.mark.parametrize("kind", ["polygons", "points", "raster"])
@pytest.mark.parametrize("beyond", [True, False])
def test_labels_beyond_the_antimeridian_are_found(tmp_path: Path, kind: str, beyond: bool) -> None:
    # 80 columns from 179.996 to 180.004 degrees east; the labels count eastern columns from -180 degrees.
    raster(tmp_path / "s.tif", noise((2, 80, 80)), corner=(179.996, 1.0), **DATE_LINE)
    turn = 360.0 if beyond else 0.0
    if kind == "raster":
        raster(tmp_path / "l.tif", KINDS, nodata=0, corner=(179.996 - turn, 1.0), **DATE_LINE)
        file, total = "l.tif", 6400
    else:
        places = [(179.996 - turn + 8 * SHIFT * i, 1.0 - 8 * SHIFT * j) for j in range(10) for i in range(10)]
        shapes = [box(x, y - 4 * SHIFT, x + 4 * SHIFT, y) for x, y in places]
        # Far away on the same parallel: on both sides of Greenwich.
        shapes.append(box(-1, 0.9, 1, 1.0))
        if kind == "points":
            shapes = [shape.centroid for shape in shapes]
        vectors(tmp_path / "l.gpkg", shapes, crs="EPSG:4326", kind=["a", "b"] * 50 + ["a"])
        file, total = "l.gpkg", 100
    notes = write_config(tmp_path, "mine", "s.tif", Path(file), None)
    unit = "pixels" if kind == "raster" else kind
    assert [note for note in notes if note.startswith(f"Labels: {total} {unit} of ")]
    counted = {"raster": "2200 label pixels", "polygons": "800 label pixels in 50", "points": "50 points in 50"}
    assert counted[kind] in (tmp_path / "configs/mine.yaml").read_text()


def test_a_polygon_cut_at_the_antimeridian_is_one(tmp_path: Path) -> None:
    raster(tmp_path / "s.tif", noise((2, 80, 80)), corner=(179.996, 1.0), **DATE_LINE)
    cut = [MultiPolygon([box(179.998, y, 180, y + 0.001), box(-180, y, -179.999, y + 0.001)]) for y in (0.993, 0.996)]
    vectors(tmp_path / "l.gpkg", cut, crs="EPSG:4326", kind=["a", "b"])
    assert "Labels: 2 polygons of 2 classes on the grid." in write_config(
        tmp_path, "mine", "s.tif", Path("l.gpkg"), None
    )
    # 20 columns on the near side and 10 beyond, by 10 rows.
    assert "300 label pixels in 1 blocks" in (tmp_path / "configs/mine.yaml").read_text()


def test_pixels_of_0_without_nodata_are_unlabelled(tmp_path: Path) -> None:
    kinds = np.where(KINDS == 3, 0, KINDS)
    raster(tmp_path / "labels.tif", np.where(np.arange(80) < 60, KINDS, 0).astype("uint8"))
    notes = write_config(tmp_path, "mine", one_file(tmp_path), Path("labels.tif"), None)
    config = loaded(tmp_path)
    assert config["label"]["ignore"] == [0]
    assert [entry["name"] for entry in config["classes"]] == ["class 1", "class 2", "class 3"]
    assert "Labels: 4800 pixels of 3 classes on the grid." in notes
    assert [note for note in notes if note.startswith("Check: 0 is taken for unlabelled ground (label.ignore), as")]
    # Where the file says what is unlabelled, 0 is a class like any other.
    raster(tmp_path / "marked.tif", kinds, nodata=255)
    raster(tmp_path / "masked.tif", kinds, mask=np.arange(6400).reshape(80, 80) % 80 > 0)
    for name, pixels in (("marked", 6400), ("masked", 6320)):
        notes = write_config(tmp_path, name, one_file(tmp_path), Path(f"{name}.tif"), None)
        assert [entry["name"] for entry in loaded(tmp_path, name)["classes"]] == ["class 0", "class 1", "class 2"]
        assert f"Labels: {pixels} pixels of 3 classes on the grid." in notes
        assert not [note for note in notes if note.startswith("Check: 0")]


def test_one_of_two_values_is_no_sign_of_unlabelled_ground(tmp_path: Path) -> None:
    raster(tmp_path / "labels.tif", (KINDS > 1).astype("uint8"))
    notes = write_config(tmp_path, "mine", one_file(tmp_path), Path("labels.tif"), None)
    assert [entry["labels"] for entry in loaded(tmp_path)["classes"]] == [[0], [1]]
    assert "Check: 0 is taken for a class, though labels.tif names no nodata value; is it one?" in notes


def test_classes_in_too_few_blocks_are_told_where_none_can_be_dropped(tmp_path: Path) -> None:
    vectors(tmp_path / "l.gpkg", [square(0, 0, 6), square(20, 20, 6)], kind=["a", "b"])
    notes = write_config(tmp_path, "mine", one_file(tmp_path), Path("l.gpkg"), None)
    assert "drop" not in loaded(tmp_path)["label"]
    assert [note.partition(",")[0] for note in notes if note.startswith("Check")] == [
        "Check: a stands in 1 of the ground blocks", "Check: b stands in 1 of the ground blocks"
    ]  # fmt: skip


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


def test_a_config_that_cannot_be_written_is_told(tmp_path: Path) -> None:
    (tmp_path / "configs").write_text("a file")
    with pytest.raises(
        ArtifactError, match=r"^Cannot write .*configs/mine\.yaml \(.*\); check that .*configs is a folder"
    ):
        write_config(tmp_path, "mine", one_file(tmp_path), None, None)
    assert (tmp_path / "configs").read_text() == "a file"


def test_a_column_that_nothing_has_is_refused(tmp_path: Path) -> None:
    raster(tmp_path / "labels.tif", KINDS, nodata=0)
    with pytest.raises(SettingError, match=r"--field kind names a column, but .*labels\.tif is no vector file"):
        write_config(tmp_path, "mine", one_file(tmp_path), Path("labels.tif"), "kind")
    with pytest.raises(SettingError, match="--field kind names a column of the labels, but there is no --labels"):
        write_config(tmp_path, "mine", one_file(tmp_path), None, "kind")


@pytest.mark.parametrize("pattern", ["scenes [x]/s_20240601.tif", "scenes [x]", "scenes [x]/*.tif", "s*/s_{date}.tif"])
def test_brackets_are_part_of_a_name(tmp_path: Path, pattern: str) -> None:
    root = tmp_path / "[x]"
    raster(root / "scenes [x]/s_20240601.tif", noise((2, 80, 80)))
    for scenes in (pattern, str(root / pattern)):
        write_config(root, "mine", scenes, None, None)
        assert loaded(root)["ingest"]["scenes"][0]["files"].name == "s_{date}.tif"
        (root / "configs/mine.yaml").unlink()


@pytest.mark.parametrize(
    ("names", "files"),
    [
        (("ndvi_20240601", "ndvi_20240701"), "ndvi_{date}.tif"),
        (("ndvi_20240601T100031", "ndvi_20240701T100029"), "ndvi_{date}*.tif"),
    ],
)
def test_a_series_of_one_band(tmp_path: Path, names: tuple[str, str], files: str) -> None:
    for name in names:
        raster(tmp_path / f"s/{name}.tif", noise((80, 80)), names=["ndvi"])
    notes = write_config(tmp_path, "mine", "s/*.tif", None, None)
    config = loaded(tmp_path)
    assert config["ingest"] == {"scenes": [{"files": tmp_path / f"s/{files}"}], "bands": {"ndvi": 1}}
    assert config["tile"] == {"dates": "all"}
    assert notes[0] == "Found 2 scenes in 2 files, 2024-06-01 to 2024-07-01: 1 bands (ndvi)."


def test_many_dates_with_a_quality_band_become_a_series(tmp_path: Path) -> None:
    for month in range(1, 9):
        bands = np.concatenate([noise((2, 80, 80)), np.full((1, 80, 80), 4.0)])
        raster(tmp_path / f"s/S2_2018{month:02}15.tif", bands, names=["red", "nir", "SCL"])
    raster(tmp_path / "labels.tif", KINDS)
    notes = write_config(tmp_path, "mine", "s/*.tif", Path("labels.tif"), None)
    config = loaded(tmp_path)
    assert notes[0].endswith("2 bands (red, nir).")
    assert config["ingest"]["quality"] == "SCL"
    assert config["tile"]["time"] == {"step": "1 month", "statistic": "median", "fill": "linear"}
    assert config["tile"]["mask"] == {"dilate": 100}
    assert {"lstm", "tempcnn", "ltae"} <= set(config["train"]["models"])
    from pipeline.config import load_area

    area = load_area(tmp_path, "mine")
    assert area.configs["train"].rf.windows == (3,)  # type: ignore[attr-defined]


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


def lines(root: Path) -> tuple[str, str | None]:
    vectors(root / "l.gpkg", [LineString(square(col, 0, 9).exterior) for col in (0, 20)], kind=[1, 2])
    return "l.gpkg", "kind"


def points_and_polygons(root: Path) -> tuple[str, str | None]:
    vectors(root / "l.geojson", [square(0, 0, 9), square(20, 20, 9).centroid], kind=[1, 2])
    return "l.geojson", "kind"


def two_bands(root: Path) -> tuple[str, str | None]:
    raster(root / "l.tif", np.stack([KINDS, KINDS]), nodata=0)
    return "l.tif", None


def one_class(root: Path) -> tuple[str, str | None]:
    vectors(root / "l.gpkg", [square(col, 0, 4) for col in (0, 20, 40, 200)], kind=["a", "a", "a", "b"])
    return "l.gpkg", "kind"


def raster_of_one_class(root: Path) -> tuple[str, str | None]:
    raster(root / "l.tif", np.where(KINDS == 1, 1, 0).astype("uint8"), nodata=0)
    return "l.tif", None


WRONG: list[tuple[Callable[[Path], tuple[str, str | None]], str]] = [
    (labels_without_crs, "l.shp have no CRS"),
    (raster_without_crs, "l.tif has no CRS"),
    (labels_elsewhere, "none of the 1 labels of .*l.gpkg overlaps the scenes"),
    (raster_elsewhere, "none of the 6400 labels of .*l.tif overlaps the scenes"),
    (no_such_field, "l.gpkg has no column 'species'; give one of kind, note"),
    (no_field_given, "l.gpkg has several columns; give one of kind, note"),
    (fractions, "l.tif holds fractions"),
    (missing, "nowhere.gpkg does not exist"),
    (not_labels, "l.tif can be read neither as a raster nor as a vector file"),
    (lines, "l.gpkg hold lines; give either polygons or points"),
    (points_and_polygons, "l.geojson hold points and polygons; give either polygons or points"),
    (two_bands, "l.tif has 2 bands; give a raster with one band"),
    (one_class, "l.gpkg holds no other class than 'a' on the scenes, but a map needs two; give another column"),
    (
        raster_of_one_class,
        "l.tif holds no other class than '1' on the scenes, but a map needs two; give another raster",
    ),
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
        (["x_2021_ndvi", "x_2021_evi"], "x_{date}_{band}", ("evi", "ndvi")),
        (["ndvi_2023_v1", "ndvi_2024_v2"], "ndvi_{date}_*", ()),
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


@pytest.mark.parametrize(
    ("name", "like"),
    [
        ("seasonal crop", "crop"), ("Sea", "water"), ("open_sea2", "water"), ("rice", None), ("sea ice", "water"),
        ("ice", "snow"), ("broad leaves", None), ("Grassland", "grass"), ("peat-bog", "wetland"), ("bogota", None),
        ("class 3", None),
    ],
)  # fmt: skip
def test_words_are_told_by_how_they_begin(name: str, like: str | None) -> None:
    assert customary(name) == (customary(like) if like else None)
    assert len(set(colors_for([name, "snow", "water", "crop", "sea", "seasonal crop", "rice"]))) == 7
