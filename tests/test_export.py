"""The delivery: codes, areas, sieve and its effect, and equal bytes for equal maps."""

import hashlib
import logging
from dataclasses import replace

import geopandas as gpd
import numpy as np
import pytest
import rasterio
from pydantic import ValidationError

from stages import export
from stages.settings import MapClass
from tests.delivery import area_of, make, series_of

FILES = {"classes.tif", "classes.tif.aux.xml", "confidence.tif", "classes.gpkg", "classes.qml", "legend.png", "map.png",
         "report.html"}  # fmt: skip


def small_map(seed: int = 0) -> np.ndarray:
    """Three classes in stripes with single pixels of another class, nodata in a corner: uint8 (40, 36)."""
    rng = np.random.default_rng(seed)
    indices = np.repeat(np.arange(36) // 12, 40).reshape(36, 40).T.astype(np.uint8)
    speckle = rng.random(indices.shape) < 0.05
    indices[speckle] = (indices[speckle] + 1) % 3
    indices[:6, :6] = 255
    return indices


def delivered(made, out, **settings):
    out.mkdir()
    export.run(**made.labelled, out=out, config=export.Config(picture=100, **settings))
    return out


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    indices = small_map()
    stripes = np.repeat(np.arange(36) // 12, 40).reshape(36, 40).T
    truth = np.where(indices == 255, 255, stripes).astype(np.uint8)
    return make(tmp_path_factory.mktemp("area") / "world", replace(area_of(indices), truth=truth))


@pytest.fixture(scope="module")
def plain(made, tmp_path_factory):
    return delivered(made, tmp_path_factory.mktemp("plain") / "map", title="World", attribution="CC BY 4.0")


@pytest.fixture(scope="module")
def sieved(made, tmp_path_factory):
    return delivered(made, tmp_path_factory.mktemp("sieved") / "map", min_area=0.04)


def test_everything_is_there_and_nothing_else(plain):
    assert {path.name for path in plain.iterdir()} == FILES


def test_pixels_hold_codes_and_nodata_stays(plain):
    indices = small_map()
    with rasterio.open(plain / "classes.tif") as layer, rasterio.open(plain / "confidence.tif") as confidence:
        codes, percent, tags = layer.read(1), confidence.read(1), layer.tags()
        colors = layer.colormap(1)
    assert (codes == np.where(indices == 255, 255, 10 * (indices + 1.0))).all()
    assert ((percent == 255) == (indices == 255)).all()
    assert colors[20] == (0xD8, 0xC4, 0x5A, 255)
    assert (tags["title"], tags["attribution"], tags["model"]) == ("World", "CC BY 4.0", "unet")
    assert tags["model_fingerprint"] == "0123456789abcdef"


def test_polygons_cover_the_map_with_their_hectares(plain):
    indices, table = small_map(), gpd.read_file(plain / "classes.gpkg", layer="classes")
    assert list(table.columns) == ["class", "code", "hectares", "geometry"]
    hectares = table.groupby("code")["hectares"].sum()
    pixel = area_of(indices).grid.pixel_hectares(0, 1)[0]
    assert pixel == pytest.approx(0.01, rel=0.002)
    for k in range(3):
        assert hectares[10 * (k + 1)] == pytest.approx((indices == k).sum() * pixel, abs=0.01)
    assert table.geometry.area.sum() == pytest.approx((indices != 255).sum() * 100.0)
    assert set(zip(table["class"], table["code"], strict=True)) == {("class 0", 10), ("class 1", 20), ("class 2", 30)}


def test_no_polygon_is_cut_at_a_tile(tmp_path):
    """A map of one class over several tiles of 16 pixels is one polygon."""
    made = make(tmp_path / "world", area_of(np.zeros((40, 36), np.uint8)))
    table = gpd.read_file(delivered(made, tmp_path / "map") / "classes.gpkg", layer="classes")
    assert len(table) == 1
    assert len(table.geometry[0].exterior.coords) == 5


def test_sieve_joins_polygons_and_leaves_the_raster(plain, sieved):
    before, after = (gpd.read_file(folder / "classes.gpkg", layer="classes") for folder in (plain, sieved))
    assert before["hectares"].min() < 0.011
    assert after["hectares"].min() > 0.0399
    assert after["hectares"].sum() == pytest.approx(before["hectares"].sum(), abs=0.005)
    with rasterio.open(plain / "classes.tif") as one, rasterio.open(sieved / "classes.tif") as other:
        assert (one.read(1) == other.read(1)).all()


def test_effect_of_the_sieve_is_measured_on_the_test_blocks(made, tmp_path, caplog):
    indices = small_map()
    with caplog.at_level(logging.INFO, logger="stages.export"):
        page = (delivered(made, tmp_path / "map", min_area=0.04) / "report.html").read_text()
    samples = export.Samples(made.root / "samples")
    grid = area_of(indices).grid
    tested = (samples.read("role", grid.whole)[0] == 3) & (indices != 255)
    right = (indices == samples.read("target", grid.whole))[tested].mean()
    # The truth is the map without its speckle, and sieving takes nearly all of the speckle away.
    assert right < 0.97
    (record,) = caplog.records
    line = record.getMessage()
    assert f"agreement on {tested.sum()} labelled pixels of the test blocks from {100 * right:.1f}" in line
    assert float(line.rsplit(" to ", 1)[1].split("\u202f")[0]) > 99
    assert line.split(". ", 1)[1] in page


def test_equal_inputs_are_equal_bytes(made, sieved, tmp_path):
    again = delivered(made, tmp_path / "map", min_area=0.04)
    assert hashes(again) == hashes(sieved)


def test_new_colours_and_codes_need_no_new_model(made, tmp_path):
    classes = [MapClass(name=f"class {i}", labels=[i], code=i + 1, color="#123456") for i in range(3)]
    out = delivered(made, tmp_path / "map", classes=classes)
    with rasterio.open(out / "classes.tif") as layer:
        assert set(np.unique(layer.read(1))) == {1, 2, 3, 255}
        assert layer.colormap(1)[1] == (0x12, 0x34, 0x56, 255)


def test_two_classes_with_one_code_are_refused_before_anything_is_read():
    classes = [MapClass(name=name, labels=[name], code=7, color="#123456") for name in ("field", "wood")]
    with pytest.raises(ValidationError, match="classes field, wood all have code 7"):
        export.Config(classes=classes)


def test_an_area_without_labels_is_delivered_as_measured_elsewhere(tmp_path):
    metrics = {"validation": {"overall_accuracy": 0.7654}}
    made = make(tmp_path / "world", replace(area_of(small_map()), card={"metrics": metrics}))
    (tmp_path / "map").mkdir()
    export.run(**made.unlabelled, out=tmp_path / "map", config=export.Config(picture=100, min_area=0.04))
    page = (tmp_path / "map" / "report.html").read_text()
    assert "Measured elsewhere" in page
    assert "76.5\u202f%" in page
    assert "Confusion matrix" not in page


def test_a_bare_model_folder_is_enough(tmp_path):
    made = make(tmp_path / "world", area_of(small_map()))
    (tmp_path / "map").mkdir()
    artifacts = {**made.unlabelled, "model": made.root / "model" / "unet"}
    export.run(**artifacts, out=tmp_path / "map", config=export.Config(picture=100))
    assert {path.name for path in (tmp_path / "map").iterdir()} == FILES


@pytest.mark.parametrize("left", [-72.0, 179.9])
def test_geographic_areas_have_true_hectares(tmp_path, left):
    """36 x 40 pixels of 0.01 degrees at 60 N, antimeridian included; half as wide on the ground as at the equator."""
    area = area_of(np.zeros((40, 36), np.uint8), "EPSG:4326", (left, 60.2), 0.01)
    made = make(tmp_path / "world", area)
    table = gpd.read_file(delivered(made, tmp_path / "map") / "classes.gpkg", layer="classes")
    kilometres = 0.4 * 111.41, 0.36 * 111.41 * np.cos(np.radians(60.0))
    assert table["hectares"].sum() == pytest.approx(kilometres[0] * kilometres[1] * 100, rel=0.006)


def test_folds_show_every_block_tested_once(tmp_path):
    from stages.formats.samples import Samples

    made = make(tmp_path / "world", area_of(small_map()))
    folder = made.root / "samples"
    samples = Samples(folder)
    Samples.write_summary(folder, {**samples.summary, "crossed": True})
    page = (delivered(made, tmp_path / "map", min_area=0.04) / "report.html").read_text()
    assert "In which fold each ground block was tested" in page
    assert "which the map&#x27;s model has learnt from" in page


def test_layers_asked_for_are_delivered_with_their_bands_and_scales(tmp_path):
    from stages.formats import maps

    area = area_of(small_map())
    made = make(tmp_path / "world", area)
    classes, grid = made.root / "classes", area.grid
    rng, bands = np.random.default_rng(0), {"classes": 1, "confidence": 1, "probabilities16": 3, "valid": 1}
    told = {
        name: rng.integers(0, 2, (count, *grid.shape)).astype(maps.LAYERS[name].dtype) for name, count in bands.items()
    }
    told["probabilities16"] *= 32_500
    maps.write_part(maps.part_path(classes, grid.whole), grid.whole, bands, [(grid.whole, told)])
    maps.assemble(classes, grid, bands, [grid.whole], seen=lambda *_: None)
    maps.write_meta(classes, {"model": "unet", "layers": list(bands)})
    out = delivered(made, tmp_path / "map")
    with rasterio.open(out / "probabilities.tif") as layer:
        assert (layer.read() == told["probabilities16"]).all()
        assert layer.descriptions == area.names
        assert (layer.scales[0], layer.nodata, layer.tags(ns="IMAGE_STRUCTURE")["LAYOUT"]) == (
            1 / 65_000,
            65_535,
            "COG",
        )
        assert layer.tags()["model_fingerprint"] == "0123456789abcdef"
    with rasterio.open(out / "valid.tif") as layer:
        assert (layer.read() == told["valid"]).all()
    assert "probability of every class, 65000 is 1 (16 bits)" in (out / "report.html").read_text()


@pytest.fixture(scope="module")
def year(tmp_path_factory):
    """The map of a year of monthly steps, and the area."""
    area = series_of(small_map())
    area = replace(area, indices=np.where(area.clear == 0, np.uint8(255), area.indices))
    folder = tmp_path_factory.mktemp("year")
    return delivered(make(folder / "world", area), folder / "map"), area


def test_a_series_is_delivered_with_its_observations(year):
    out, area = year
    assert {path.name for path in out.iterdir()} == FILES | {"clear.tif", "filled.tif"}
    with rasterio.open(out / "clear.tif") as clear, rasterio.open(out / "filled.tif") as filled:
        assert (clear.dtypes, clear.nodata, filled.dtypes, filled.nodata) == (("uint16",), None, ("uint8",), 255)
        assert (clear.read(1) == area.clear).all()
        assert (filled.read(1) == np.where(area.clear == 0, 255, area.filled)).all()
        for layer in (clear, filled):
            assert layer.tags(ns="IMAGE_STRUCTURE")["LAYOUT"] == "COG"
            assert layer.tags()["model_fingerprint"] == "0123456789abcdef"
            assert (layer.crs, layer.transform) == (rasterio.open(out / "classes.tif").crs, area.grid.transform)


def test_report_of_a_series_counts_what_was_never_clear(year):
    out, area = year
    page = (out / "report.html").read_text()
    never, dark = int((area.clear == 0).sum()), int(((area.indices == 255) & (area.clear > 0)).sum())
    assert f"{never} pixels (2.8\u202f% of the grid) were never clear and are nodata in the map." in page
    assert f"{dark} pixels were seen at times and are nodata all the same." in page
    assert "in 12 steps of 1 month, 2018-01 to 2018-12." in page
    assert "Mean of every class in every channel" not in page
    assert page.count('class="chart"') == len(area.bands) + 1
    assert "The scene of 2018-07 in natural colours." in page, "of dates seen equally well, the middle of the season"


def test_means_and_spreads_are_those_of_the_samples(year, tmp_path):
    _, area = year
    root = make(tmp_path / "world", area).root
    samples = export.Samples(root / "samples")
    inputs = export.Inputs(
        export.Tiles(root / "tiles"), root / "classes", root / "model", samples, None, export.Config()
    )
    series = export.series_of(inputs)
    for k in range(3):
        values = area.cube[..., area.indices == k]
        np.testing.assert_allclose(series.means[k], values.mean(axis=-1), rtol=1e-5)
        np.testing.assert_allclose(series.spreads[k], values.std(axis=-1), rtol=1e-3)
    assert (series.dates, series.bands) == (area.dates, area.bands)
    statistics = samples.statistics(0)
    statistics["class_means"][1] = None
    statistics["class_stds"][2][0] = None
    export.Samples.write_statistics(root / "samples", [statistics])
    series = export.series_of(replace(inputs))
    assert np.isnan(series.means[1]).all()
    assert np.isnan(series.spreads[2]).sum() == 1
    assert export.series_of(replace(inputs, samples=None)) is None


def test_nothing_filled_and_no_labels_leave_their_parts_out(tmp_path):
    area = replace(series_of(small_map()), filled=None, step="")
    made = make(tmp_path / "world", area)
    (tmp_path / "map").mkdir()
    export.run(**made.unlabelled, out=tmp_path / "map", config=export.Config(picture=100))
    assert {path.name for path in (tmp_path / "map").iterdir()} == FILES | {"clear.tif"}
    page = (tmp_path / "map" / "report.html").read_text()
    assert "filled" not in page
    assert "Each class through time" not in page
    assert "on 12 dates, 2018-01-01 to 2018-12-01." in page


def test_ground_divided_at_random_is_not_drawn(tmp_path):
    summary = {"split_by": "random"}
    made = make(tmp_path / "world", replace(area_of(small_map()), summary=summary))
    page = (delivered(made, tmp_path / "map") / "report.html").read_text()
    assert "these scores are too good for new ground" in page
    assert "Which ground was for training" not in page


def hashes(folder):
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in sorted(folder.iterdir())}
