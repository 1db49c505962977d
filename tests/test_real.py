"""The map of the real sample, as `terrastage run --area carolina` leaves it."""

from __future__ import annotations

import json
import time
from xml.etree import ElementTree

import geopandas as gpd
import numpy as np
import pytest
import rasterio

from pipeline.graph import STAGES
from stages.formats.tiles import Tiles
from stages.geo.sieve import sieve
from tests.real import RealArea
from tests.test_cog import tiff_directories

pytestmark = pytest.mark.real

AREA = RealArea("carolina")
DATA = AREA.data
MAP = DATA / "map"
MIN_AREA = 0.3249  # hectares, as configs/carolina.yaml has it


@pytest.fixture(scope="module", autouse=True)
def summary() -> str:
    return AREA.run()


def read(name: str) -> np.ndarray:
    with rasterio.open(MAP / name) as layer:
        values: np.ndarray = layer.read(1)
    return values


def test_a_second_run_finds_all_nine_stages_up_to_date() -> None:
    started = time.monotonic()
    rows = [line.split(maxsplit=1) for line in AREA.run().splitlines() if line.endswith("up to date")]
    assert rows == [[stage.name, "up to date"] for stage in STAGES]
    first, again = sum(manifest.seconds for manifest in AREA.made()), time.monotonic() - started
    print(f"\nstages {first:.1f} s, a second run {again:.1f} s")  # noqa: T201 - `make test-real` shows the figures


def test_the_summary_says_where_the_map_is_and_how_good(summary: str) -> None:
    told = summary[summary.index("North Carolina") :]
    print(f"\n{told}")  # noqa: T201
    for name in ("classes.tif", "classes.gpkg", "report.html"):
        assert f"data/carolina/map/{name}" in told
    chosen = json.loads((DATA / "model" / "models.json").read_text())["chosen"]
    assert f"model      {chosen}\n" in told
    score = AREA.scores()["models"][chosen]["overall_accuracy"]
    assert f"{score['value']:.3f} ({score['low']:.3f} to {score['high']:.3f}) agreement with" in told
    assert "on 37,163 test pixels in 11 test blocks" in told


def test_the_chosen_model_is_far_better_than_the_majority_class() -> None:
    found = AREA.scores()
    accuracy = {name: entry["overall_accuracy"]["value"] for name, entry in found["models"].items()}
    chosen = json.loads((DATA / "model" / "models.json").read_text())["chosen"]
    table = ", ".join(f"{name} {value:.3f}" for name, value in accuracy.items())
    print(f"\n{chosen} makes the map; overall accuracy {table}")  # noqa: T201
    assert found["pixels"] == 37_163
    assert accuracy[chosen] >= 0.72
    assert accuracy[chosen] >= accuracy["majority"] + 0.15


def test_the_scene_is_mapped_and_nothing_else() -> None:
    tiles = Tiles(DATA / "tiles")
    valid = tiles.read_valid(tiles.grid.whole)
    classes, confidence = read("classes.tif"), read("confidence.tif")
    assert valid.sum() == 183_418
    np.testing.assert_array_equal(classes != 255, valid)
    np.testing.assert_array_equal(confidence != 255, valid)
    assert set(np.unique(classes[valid])) == {1, 2, 3, 4, 5}
    # The most likely of five classes has a fifth at least.
    assert confidence[valid].min() >= 20
    assert confidence[valid].max() <= 100


@pytest.mark.parametrize("name", ["classes.tif", "confidence.tif"])
def test_layers_are_cloud_optimized(name: str) -> None:
    with rasterio.open(MAP / name) as layer:
        assert (layer.crs.to_string(), layer.width, layer.height) == ("EPSG:32119", 489, 443)
        assert (layer.res, layer.nodata) == ((28.5, 28.5), 255)
        assert layer.tags(ns="IMAGE_STRUCTURE")["LAYOUT"] == "COG"
        assert layer.overviews(1) == [2]
    directories = tiff_directories(MAP / name)
    headers, pixels = [d["position"] for d in directories], [min(d["offsets"]) for d in directories]
    assert headers == sorted(headers)
    assert pixels == sorted(pixels, reverse=True)
    assert max(headers) < min(pixels)
    assert all(d["tile"] == (256, 256) for d in directories)


def test_polygons_hold_the_hectares_of_the_sieved_map() -> None:
    polygons = gpd.read_file(MAP / "classes.gpkg", layer="classes")
    hectares = Tiles(DATA / "tiles").grid.pixel_hectares(0, 443)
    sieved = sieve(read("classes.tif"), hectares, MIN_AREA)
    for code, found in polygons.groupby("code"):
        # Every polygon's hectares are rounded to four places.
        expected = float((sieved == code).sum(axis=1) @ hectares)
        assert abs(found["hectares"].sum() - expected) <= 0.5e-4 * len(found) + 1e-6
    assert set(polygons["code"]) == set(np.unique(sieved)) - {255}
    assert polygons.crs.to_string() == "EPSG:32119"
    print(f"\n{polygons['hectares'].sum():,.1f} ha in {len(polygons)} polygons")  # noqa: T201


def test_style_legend_and_report_come_along() -> None:
    style = ElementTree.parse(MAP / "classes.qml")  # noqa: S314
    labels = [entry.get("label") for entry in style.iter("paletteEntry")]
    assert labels == ["developed", "open land", "shrubland", "forest", "water"]
    for picture in ("legend.png", "map.png"):
        assert (MAP / picture).read_bytes().startswith(b"\x89PNG\r\n")
    assert "Data: North Carolina sample data set, CC BY-SA 3.0" in (MAP / "report.html").read_text(encoding="utf-8")
