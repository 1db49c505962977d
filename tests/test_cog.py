"""Layers: valid Cloud-Optimized GeoTIFFs with colours, names, statistics and equal bytes for equal maps."""

import struct
from xml.etree import ElementTree

import numpy as np
import pytest
import rasterio
import rasterio.shutil
from affine import Affine

from stages.formats.maps import layer_profile
from stages.geo.cog import Layer, category_names, write_cog

LAYER = Layer("class code", "mode", {"title": "Täst"}, {1: (255, 0, 0), 5: (1, 2, 3)}, {1: "open & <land>", 5: "water"})


@pytest.fixture
def source(tmp_path):
    indices = np.kron(np.arange(12).reshape(3, 4) % 2, np.ones((200, 170), int)).astype(np.uint8)
    indices[:30, :40] = 255
    return written(tmp_path / "indices.tif", indices)


def written(path, indices):
    place = Affine(10.0, 0.0, 500_000.0, 0.0, -10.0, 5_400_000.0)
    with rasterio.open(path, "w", **layer_profile(*indices.shape[::-1], "EPSG:32633", place)) as target:
        target.write(indices, 1)
    return path


def to_codes(block):
    return np.where(block == 255, 255, 4 * block + 1).astype(np.uint8)


@pytest.fixture
def layer(source, tmp_path):
    write_cog(source, tmp_path / "classes.tif", LAYER, to_codes)
    return tmp_path / "classes.tif"


def test_pixels_and_nodata_come_through(source, layer):
    with rasterio.open(source) as before, rasterio.open(layer) as after:
        assert (after.read(1) == to_codes(before.read(1))).all()
        assert (after.crs, after.transform, after.nodata) == (before.crs, before.transform, 255)
        assert (after.dataset_mask() == 0).sum() == 30 * 40


def test_layout_is_that_of_a_cog(layer):
    """Headers before pixels, full resolution first in the headers and last in the pixels, all of it tiled."""
    directories = tiff_directories(layer)
    assert len(directories) == 3
    positions = [d["position"] for d in directories]
    assert positions == sorted(positions)
    first_byte = [min(d["offsets"]) for d in directories]
    assert first_byte == sorted(first_byte, reverse=True)
    assert max(positions) < min(first_byte)
    assert [d["size"] for d in directories] == [(680, 600), (340, 300), (170, 150)]
    assert all(d["tile"] == (256, 256) for d in directories)
    with rasterio.open(layer) as dataset:
        assert dataset.tags(ns="IMAGE_STRUCTURE")["LAYOUT"] == "COG"
        assert dataset.overviews(1) == [2, 4]


def test_overviews_hold_no_new_codes(layer):
    with rasterio.open(layer, overview_level=1) as dataset:
        assert set(np.unique(dataset.read(1))) == {1, 5, 255}


def test_colours_statistics_and_tags_travel_inside(layer):
    with rasterio.open(layer) as dataset:
        assert dataset.colormap(1)[1] == (255, 0, 0, 255)
        assert dataset.colormap(1)[5] == (1, 2, 3, 255)
        assert dataset.descriptions == ("class code",)
        assert dataset.tags()["title"] == "Täst"
        statistics = dataset.tags(1)
        values = dataset.read(1, masked=True)
    assert float(statistics["STATISTICS_MEAN"]) == pytest.approx(values.mean())
    assert (statistics["STATISTICS_MINIMUM"], statistics["STATISTICS_MAXIMUM"]) == ("1", "5")


def test_gdal_reads_the_category_names(layer, tmp_path):
    rasterio.shutil.copy(layer, tmp_path / "view.vrt", driver="VRT")
    names = [e.text for e in ElementTree.parse(tmp_path / "view.vrt").iter("Category")]  # noqa: S314
    assert names == [None, "open & <land>", None, None, None, "water"]


def test_category_names_stand_at_their_codes():
    assert category_names({2: "b"}).count("<Category>") == 3


def test_equal_maps_are_equal_bytes(source, layer, tmp_path):
    write_cog(source, tmp_path / "again.tif", LAYER, to_codes)
    assert (tmp_path / "again.tif").read_bytes() == layer.read_bytes()
    assert not list(tmp_path.glob("*.plain.tif"))


def test_a_map_of_nodata_only_is_still_a_layer(tmp_path):
    source = written(tmp_path / "nothing.tif", np.full((20, 20), 255, np.uint8))
    write_cog(source, tmp_path / "classes.tif", LAYER, to_codes)
    with rasterio.open(tmp_path / "classes.tif") as dataset:
        assert (dataset.read(1) == 255).all()


def tiff_directories(path):
    """Position, size, tile size and tile offsets of every image directory of a little-endian classic TIFF."""
    data = path.read_bytes()
    assert data[:4] == b"II*\0"
    position, found = struct.unpack_from("<I", data, 4)[0], []
    while position:
        count = struct.unpack_from("<H", data, position)[0]
        tags = {}
        for entry in range(position + 2, position + 2 + 12 * count, 12):
            tag, kind, length = struct.unpack_from("<HHI", data, entry)
            if kind in (3, 4):
                size = {3: 2, 4: 4}[kind] * length
                start = entry + 8 if size <= 4 else struct.unpack_from("<I", data, entry + 8)[0]
                tags[tag] = struct.unpack_from(f"<{length}{'H' if kind == 3 else 'I'}", data, start)
        found.append({
            "position": position, "size": (tags[256][0], tags[257][0]), "tile": (tags[322][0], tags[323][0]),
            "offsets": tags[324],
        })  # fmt: skip
        position = struct.unpack_from("<I", data, position + 2 + 12 * count)[0]
    return found
