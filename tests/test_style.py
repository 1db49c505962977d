"""Legend and style: every class keeps its name, code and colour."""

from xml.etree import ElementTree

import pytest

from stages.delivery.legend import codes_of, colors_of, legend_json, legend_of
from stages.delivery.styles import qgis_style
from stages.errors import SettingError
from stages.formats.weights import ModelCard
from stages.settings import MapClass

LEGEND = (
    MapClass(name="open & <land>", labels=(1, 2), code=7, color="#0a0B0c"),
    MapClass(name='"water"', labels=(3,), code=2, color="#2b6cb0"),
)


def card_of(*classes):
    return ModelCard(
        name="rf", channels=("b1",), dates=("",), scaling="scaled", resolution=10.0, metres=10.0,
        classes=tuple(classes), margin=0, stride=1, temperature=1.0, tta=False, fingerprint="f",
    )  # fmt: skip


def test_one_style_serves_raster_and_polygons():
    root = ElementTree.fromstring(qgis_style(LEGEND).partition("\n")[2])  # noqa: S314
    raster = [(e.get("value"), e.get("color"), e.get("label")) for e in root.iter("paletteEntry")]
    assert raster == [("7", "#0a0B0c", "open & <land>"), ("2", "#2b6cb0", '"water"')]
    polygons = root.find("renderer-v2")
    assert polygons.get("attr") == "code"
    symbols = {s.get("name"): s.find(".//Option[@name='color']").get("value") for s in polygons.iter("symbol")}
    drawn = [(c.get("value"), c.get("label"), symbols[c.get("symbol")]) for c in polygons.iter("category")]
    assert drawn == [("7", "open & <land>", "10,11,12,255"), ("2", '"water"', "43,108,176,255")]


def test_tables_run_by_index_and_end_in_nodata():
    codes, colors = codes_of(LEGEND), colors_of(LEGEND)
    assert codes[:3].tolist() == [7, 2, 255]
    assert codes[255] == 255
    assert colors[:3].tolist() == [[10, 11, 12], [43, 108, 176], [255, 255, 255]]
    assert legend_json(LEGEND).startswith('[{"code": 7, "name": "open & <land>"')


def test_config_names_the_classes_in_the_order_of_the_model():
    card = card_of(
        {"name": '"water"', "code": 1, "color": "#000000"}, {"name": "forest", "code": 3, "color": "#00ff00"}
    )
    legend = legend_of(card, LEGEND[1:])
    assert [(entry.name, entry.code) for entry in legend] == [('"water"', 2), ("forest", 3)]


def test_classes_that_the_model_lacks_are_refused():
    card = card_of({"name": '"water"', "code": 1, "color": "#000000"})
    with pytest.raises(SettingError, match=r'classes names open & <land>, but model rf maps "water"; name the classes'):
        legend_of(card, LEGEND)


def test_two_classes_with_one_code_are_refused():
    card = card_of({"name": "a", "code": 1, "color": "#000000"}, {"name": "b", "code": 1, "color": "#00ff00"})
    with pytest.raises(SettingError, match=r"^classes a, b all have code 1; give every class a code of its own\.$"):
        legend_of(card, ())
