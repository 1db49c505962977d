"""Polygons and sieve: areas are kept, nothing is cut, small patches join their largest neighbour."""

import numpy as np
import pytest
import shapely
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from stages.geo.geopackage import NO_TIME, LayerNotes, write_geopackage
from stages.geo.grid import Grid
from stages.geo.polygons import polygonize
from stages.geo.sieve import label_patches, sieve

MAPS = arrays(np.uint8, st.tuples(st.integers(1, 14), st.integers(1, 14)), elements=st.sampled_from([0, 1, 2, 255]))


@given(MAPS)
@settings(max_examples=60, deadline=None)
def test_areas_of_polygons_sum_to_the_areas_of_pixels(classes):
    row_hectares = np.linspace(1.0, 2.0, len(classes))
    found = polygonize(classes)
    areas = found.hectares(row_hectares)
    for kind in (0, 1, 2):
        expected = ((classes == kind) * row_hectares[:, None]).sum()
        assert areas[found.kinds == kind].sum() == pytest.approx(expected)
    assert shapely.area(found.shapes).sum() == (classes != 255).sum()
    assert shapely.is_valid(found.shapes).all()


@given(MAPS, st.integers(1, 5))
@settings(max_examples=60, deadline=None)
def test_strips_leave_no_trace(classes, rows):
    whole, joined = polygonize(classes), polygonize(classes, strip_rows=rows)
    assert joined.kinds.tolist() == whole.kinds.tolist()
    assert shapely.equals_exact(joined.shapes, whole.shapes).all()


@given(MAPS)
@settings(max_examples=40, deadline=None)
def test_there_is_one_polygon_a_patch(classes):
    assert len(polygonize(classes).shapes) == len(label_patches(classes)[1]) - 1


def test_a_ring_has_its_hole():
    classes = np.zeros((5, 5), np.uint8)
    classes[2, 2] = 1
    found = polygonize(classes)
    assert found.kinds.tolist() == [0, 1]
    assert found.hectares(np.array([1.0, 1, 7, 1, 1])).tolist() == [4 * 5 + 4 * 7, 7]


def test_placing_follows_the_transform():
    grid = Grid("EPSG:32633", 10.0, 500.0, 900.0, 2, 3, 256)
    (placed,) = polygonize(np.zeros((3, 2), np.uint8)).placed(grid.transform)
    assert placed.bounds == (500.0, 870.0, 520.0, 900.0)


def test_an_empty_map_has_no_polygon():
    found = polygonize(np.full((3, 3), 255, np.uint8))
    assert len(found.shapes) == 0
    assert found.hectares(np.ones(3)).tolist() == []


@pytest.mark.parametrize("left", [179.9, -1.0])
def test_hectares_in_degrees_are_those_of_the_ellipsoid(left):
    """A cell of 0.2 x 0.2 degrees at 60 N; hectares from the closed formula of the zone between two parallels."""
    grid = Grid("EPSG:4326", 0.01, left, 60.2, 20, 20, 256)
    found = polygonize(np.zeros(grid.shape, np.uint8))
    (area,) = found.hectares(grid.pixel_hectares(0, 20))
    assert area == pytest.approx(zone_hectares(60.0, 60.2, 0.2), rel=1e-5)
    # Taken for squares of 111.32 km a degree, the area would come out twice as large.
    assert area == pytest.approx(0.2 * 111.4 * 0.2 * 111.3 * 100 * np.cos(np.radians(60.1)), rel=0.01)


def zone_hectares(south: float, north: float, width: float) -> float:
    """Authalic area between two parallels on WGS 84 (Snyder 1987, equation 3-12), `width` degrees wide."""
    a, e = 6378137.0, 0.0818191908426215

    def q(latitude: float) -> float:
        s = np.sin(np.radians(latitude))
        return (1 - e**2) * (s / (1 - (e * s) ** 2) - np.log((1 - e * s) / (1 + e * s)) / (2 * e))

    return a**2 / 2 * (q(north) - q(south)) * np.radians(width) / 10_000


@given(MAPS, st.floats(0, 12))
@settings(max_examples=80, deadline=None)
def test_no_small_patch_stays_beside_another(classes, minimum):
    row_hectares = np.linspace(1.0, 2.0, len(classes))
    sieved = sieve(classes, row_hectares, minimum)
    assert ((sieved == 255) == (classes == 255)).all()
    patches, kinds = label_patches(sieved)
    areas = np.bincount(patches.ravel(), np.repeat(row_hectares, classes.shape[1]), minlength=len(kinds))
    for first, second in ((patches[:, :-1], patches[:, 1:]), (patches[:-1], patches[1:])):
        touching = (first != second) & (first > 0) & (second > 0)
        assert (areas[first[touching]] >= minimum).all()
        assert (areas[second[touching]] >= minimum).all()


@given(MAPS, st.floats(0, 12))
@settings(max_examples=60, deadline=None)
def test_large_patches_keep_their_class(classes, minimum):
    patches, _ = label_patches(classes)
    large = (np.bincount(patches.ravel())[patches] >= minimum) & (classes != 255)
    assert (sieve(classes, np.ones(len(classes)), minimum)[large] == classes[large]).all()


def test_a_small_patch_joins_the_largest_neighbour():
    classes = np.array([[0, 0, 0, 2, 1, 1], [0, 0, 0, 2, 1, 1]], np.uint8)
    expected = [[0, 0, 0, 0, 1, 1]] * 2
    assert sieve(classes, np.ones(2), 3).tolist() == expected
    assert sieve(classes, np.ones(2), 2).tolist() == classes.tolist()
    # By true area the same patch is large enough.
    assert sieve(classes, np.full(2, 1.5), 3).tolist() == classes.tolist()


def test_a_chain_of_small_patches_ends_in_the_large_one():
    classes = np.array([[2, 1, 1, 0, 0, 0, 0]], np.uint8)
    assert sieve(classes, np.ones(1), 4).tolist() == [[0] * 7]


def test_an_island_in_nodata_stays():
    classes = np.array([[0, 255, 1, 1]], np.uint8)
    assert sieve(classes, np.ones(1), 2).tolist() == classes.tolist()


def test_geopackage_says_what_its_fields_are_and_holds_no_time(tmp_path):
    import sqlite3
    from contextlib import closing

    import geopandas as gpd
    import pyogrio

    table = gpd.GeoDataFrame({"code": [1]}, geometry=[shapely.box(0, 0, 1, 1)], crs="EPSG:32633")
    notes = LayerNotes("classes", "What it is.", {"code": "The code."}, "<qgis/>")
    for name in ("a.gpkg", "b.gpkg"):
        write_geopackage(table, tmp_path / name, notes)
    assert (tmp_path / "a.gpkg").read_bytes() == (tmp_path / "b.gpkg").read_bytes()
    assert pyogrio.read_info(tmp_path / "a.gpkg", layer="classes")["layer_metadata"]["DESCRIPTION"] == "What it is."
    with closing(sqlite3.connect(tmp_path / "a.gpkg")) as database:
        assert database.execute("SELECT DISTINCT last_change FROM gpkg_contents").fetchall() == [(NO_TIME,)]
        assert database.execute("SELECT column_name, description FROM gpkg_data_columns").fetchall() == [
            ("code", "The code.")
        ]
        assert database.execute("SELECT f_table_name, styleQML, useAsDefault FROM layer_styles").fetchall() == [
            ("classes", "<qgis/>", 1)
        ]
        assert database.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
    assert pyogrio.get_gdal_config_option("OGR_CURRENT_DATE") is None
