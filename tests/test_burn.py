"""Labels burnt onto the grid: coverage, conflicts, purity, groups, rasters and points, on grids of a few pixels."""

from __future__ import annotations

from pathlib import Path

import geopandas as gpd
import numpy as np
import pytest
import rasterio
from affine import Affine
from hypothesis import given, settings
from hypothesis import strategies as st
from rasterio.features import shapes
from rasterio.warp import Resampling, reproject, transform_bounds
from shapely.geometry import MultiPolygon, Point, Polygon, box, shape

from stages.errors import LabelError
from stages.geo.blocks import Blocks, pixel_sides
from stages.geo.burn import POLYGON_CELLS, burn
from stages.geo.frame import to_crs
from stages.geo.grid import Grid, Window
from stages.geo.labels import EACH, NONE, LabelFile, check_overlap, label_key, read_features

CRS = "EPSG:32633"
LEFT, TOP = 500_000.0, 5_400_000.0
GRID = Grid(CRS, 10.0, LEFT, TOP, 5, 5, 256)
KEYS = (("1", 0), ("2", 1), ("3", 1))


def square(col: float, row: float, width: float, height: float) -> Polygon:
    """A rectangle in pixels of the grid, from its upper left corner."""
    left, top = LEFT + 10 * col, TOP - 10 * row
    return box(left, top - 10 * height, left + 10 * width, top)


def vector(folder: Path, features: list[tuple[object, object]], crs: str | None = CRS, **columns: list[object]) -> Path:
    path = folder / "labels.gpkg"
    table = gpd.GeoDataFrame(
        {"class": [value for _, value in features], **columns}, geometry=[geometry for geometry, _ in features], crs=CRS
    )
    table = table.to_crs(crs) if crs else table.set_crs(None, allow_override=True)
    table.to_file(path, engine="pyogrio")
    return path


def label_file(path: Path, group: str = NONE, **more: object) -> LabelFile:
    stat = path.stat()
    return LabelFile(str(path), KEYS, field="class", group=group, stamp=(stat.st_size, stat.st_mtime_ns), **more)  # type: ignore[arg-type]


def raster(path: Path, values: np.ndarray, left: float, top: float, resolution: float, **profile: object) -> Path:
    options = {"driver": "GTiff", "count": 1, "dtype": values.dtype, "crs": CRS, "nodata": 0, **profile}
    height, width = values.shape
    transform = Affine(resolution, 0.0, left, 0.0, -resolution, top)
    with rasterio.open(path, "w", height=height, width=width, transform=transform, **options) as file:
        file.write(values, 1)
    return path


@pytest.mark.parametrize(
    ("value", "key"),
    [(1, "1"), (1.0, "1"), ("1", "1"), (" 1.0 ", "1"), (np.float32(3), "3"), (1.5, "1.5"), ("forest", "forest"),
     (None, ""), (float("nan"), ""), ("", ""), ("-2", "-2")],
)  # fmt: skip
def test_a_label_is_the_same_as_text_and_as_number(value: object, key: str) -> None:
    assert label_key(value) == key


def test_polygons_cover_a_known_share_of_every_pixel(tmp_path: Path) -> None:
    # 2.6 pixels wide, 1 high: two whole pixels and 3 of 5 columns of cells of the third.
    path = vector(tmp_path, [(square(1, 2, 2.6, 1), 1)])
    found = burn(label_file(path), GRID, GRID.whole)
    assert found.cells == 25
    assert found.counts[0, 2].tolist() == [0, 25, 25, 15, 0]
    assert found.counts.sum() == 65
    category, share = found.dominant()
    assert category[2].tolist() == [-1, 0, 0, 0, -1]
    assert share[2].tolist() == [0, 1, 1, pytest.approx(0.6), 0]


def test_a_pixel_less_than_half_covered_and_not_at_its_centre_is_unlabelled(tmp_path: Path) -> None:
    path = vector(
        tmp_path, [(square(1, 1, 0.4, 1), 1), (square(3, 1, 0.2, 0.2).buffer(0), 1), (square(3.4, 3.4, 0.2, 0.2), 2)]
    )
    category, share = burn(label_file(path), GRID, GRID.whole).dominant()
    assert (category >= 0).sum() == 1  # only the one whose centre cell is covered
    assert category[3, 3] == 1
    assert share[3, 3] == pytest.approx(1 / 25)


def test_the_dominant_class_of_a_mixed_pixel_wins_with_its_share(tmp_path: Path) -> None:
    path = vector(tmp_path, [(square(2, 2, 0.4, 1), 1), (square(2.4, 2, 0.6, 1), 2)])
    found = burn(label_file(path), GRID, GRID.whole)
    category, share = found.dominant()
    assert category[2, 2] == 1
    assert share[2, 2] == pytest.approx(0.6)
    assert not found.conflict.any()


def test_overlapping_polygons_of_different_classes_are_a_conflict_of_merged_values_not(tmp_path: Path) -> None:
    overlap = vector(tmp_path, [(square(0, 0, 2, 1), 1), (square(1, 0, 2, 1), 2)])
    found = burn(label_file(overlap), GRID, GRID.whole)
    assert np.argwhere(found.conflict).tolist() == [[0, 1]]
    assert found.dominant()[0][0].tolist() == [0, -1, 1, -1, -1]
    merged = vector(tmp_path, [(square(0, 0, 2, 1), 2), (square(1, 0, 2, 1), 3)])  # both are category 1
    found = burn(label_file(merged), GRID, GRID.whole)
    assert not found.conflict.any()
    assert found.counts[1, 0].tolist() == [25, 25, 25, 0, 0]


def test_every_polygon_is_a_group_and_the_larger_part_of_a_pixel_decides(tmp_path: Path) -> None:
    path = vector(tmp_path, [(square(0, 0, 1.4, 1), 1), (square(1.4, 0, 1.6, 1), 1)])
    found = burn(label_file(path, EACH), GRID, GRID.whole)
    assert found.group[0].tolist() == [0, 1, 1, -1, -1]


def test_a_column_groups_features(tmp_path: Path) -> None:
    path = vector(
        tmp_path, [(square(0, 0, 1, 1), 1), (square(2, 0, 1, 1), 1), (square(4, 0, 1, 1), 2)], farm=["b", "a", "b"]
    )
    found = burn(label_file(path, "farm"), GRID, GRID.whole)
    assert found.group[0].tolist() == [1, -1, 0, -1, 1]


def test_points_label_their_pixel_and_two_classes_in_one_are_a_conflict(tmp_path: Path) -> None:
    at = lambda col, row: Point(LEFT + 10 * col, TOP - 10 * row)  # noqa: E731
    path = vector(tmp_path, [(at(0.1, 0.9), 1), (at(3.5, 2.5), 2), (at(4.2, 4.2), 1), (at(4.8, 4.8), 2), (at(9, 9), 1)])
    found = burn(label_file(path), GRID, GRID.whole)
    category, share = found.dominant()
    assert {tuple(at): category[tuple(at)] for at in np.argwhere(category >= 0).tolist()} == {(0, 0): 0, (2, 3): 1}
    assert share[0, 0] == 1
    assert np.argwhere(found.conflict).tolist() == [[4, 4]]


def test_labels_in_another_crs_fall_on_the_same_pixels(tmp_path: Path) -> None:
    grid = Grid(CRS, 10.0, LEFT, TOP, 40, 40, 256)
    (tmp_path / "utm").mkdir()
    (tmp_path / "degrees").mkdir()
    features = [(square(3, 4, 20, 10), 1), (square(25, 20, 9, 15), 2)]
    here = burn(label_file(vector(tmp_path / "utm", features)), grid, grid.whole)
    there = burn(label_file(vector(tmp_path / "degrees", features, crs="EPSG:4326")), grid, grid.whole)
    # Edges may move by less than a cell, classes of whole pixels not at all.
    assert np.abs(here.counts.astype(int) - there.counts).max() <= POLYGON_CELLS
    assert (here.dominant()[0] == there.dominant()[0]).all()


def test_windows_burn_what_the_whole_burns(tmp_path: Path) -> None:
    path = vector(tmp_path, [(square(0.3, 0.7, 3.1, 2.2), 1), (square(1, 3.5, 4, 1), 2)])
    whole = burn(label_file(path, EACH), GRID, GRID.whole)
    for window in (Window(0, 0, 2, 3), Window(2, 1, 3, 4)):
        part = burn(label_file(path, EACH), GRID, window)
        assert (part.counts == whole.counts[(slice(None), *window.slices)]).all()
        assert (part.group == whole.group[window.slices]).all()


@settings(max_examples=25, deadline=None)
@given(st.lists(st.lists(st.sampled_from([0, 1, 2]), min_size=5, max_size=5), min_size=5, max_size=5))
def test_polygonizing_then_burning_keeps_every_pixel_and_the_area(
    tmp_path_factory: pytest.TempPathFactory, rows: list[list[int]]
) -> None:
    truth = np.array(rows, dtype=np.uint8)
    features = [
        (shape(geometry), int(value)) for geometry, value in shapes(truth, mask=truth > 0, transform=GRID.transform)
    ]
    if not features:
        return
    path = vector(tmp_path_factory.mktemp("world"), features)
    found = burn(label_file(path), GRID, GRID.whole)
    assert (found.dominant()[0] == truth.astype(int) - 1).all()
    area = sum(geometry.area for geometry, _ in features)
    assert found.counts.sum() / found.cells * 100.0 == pytest.approx(area)


def test_a_raster_on_the_grid_is_read_pixel_by_pixel(tmp_path: Path) -> None:
    values = np.arange(25).reshape(5, 5) % 3
    # 0.03 px off, as some real label maps are.
    path = raster(tmp_path / "labels.tif", values.astype(np.float32), LEFT + 0.3, TOP - 0.3, 10.0)
    found = burn(label_file(path), GRID, GRID.whole)
    assert found.cells == 1
    assert (found.dominant()[0] == values - 1).all()


def test_a_finer_raster_gives_the_class_that_covers_most(tmp_path: Path) -> None:
    fine = np.zeros((10, 10), dtype=np.uint8)
    fine[0:2, 0:2] = [[1, 1], [1, 2]]
    fine[2:4, 0:2] = [[2, 2], [2, 2]]
    fine[4:6, 0:2] = [[1, 0], [0, 0]]
    found = burn(label_file(raster(tmp_path / "labels.tif", fine, LEFT, TOP, 5.0)), GRID, GRID.whole)
    category, share = found.dominant()
    assert category[:3, 0].tolist() == [0, 1, -1]
    assert share[:3, 0].tolist() == [0.75, 1.0, 0.0]


def test_a_raster_in_another_crs_keeps_its_area(tmp_path: Path) -> None:
    grid = Grid(CRS, 10.0, LEFT, TOP, 60, 60, 256)
    truth = np.zeros((60, 60), dtype=np.uint8)
    truth[10:40, 12:33] = 1
    truth[40:50, 20:50] = 2
    source = raster(tmp_path / "utm.tif", truth, LEFT, TOP, 10.0)
    target = "EPSG:32632"
    with rasterio.open(source) as file:
        left, bottom, right, top = transform_bounds(file.crs, target, *file.bounds)
        width, height = int((right - left) / 5) + 1, int((top - bottom) / 5) + 1
        transform = Affine(5.0, 0.0, left, 0.0, -5.0, top)
        turned = np.zeros((height, width), dtype=np.uint8)
        reproject(truth, turned, src_transform=file.transform, src_crs=file.crs, dst_transform=transform,
                  dst_crs=target, resampling=Resampling.nearest, src_nodata=0, dst_nodata=0)  # fmt: skip
    path = tmp_path / "other.tif"
    with rasterio.open(path, "w", driver="GTiff", count=1, dtype="uint8", crs=target, nodata=0, width=width,
                       height=height, transform=transform) as file:  # fmt: skip
        file.write(turned, 1)
    found = burn(label_file(path), grid, grid.whole)
    assert found.cells == 16
    category, _ = found.dominant()
    assert (category[11:39, 13:32] == 0).all()
    assert (category >= 0).sum() == pytest.approx(930, rel=0.01)


def test_a_label_rasters_own_mask_counts_beside_its_nodata(tmp_path: Path) -> None:
    values = np.ones((5, 5), dtype=np.uint8)
    values[0, 0] = 0
    mask = np.ones((5, 5), bool)
    mask[2, 3] = False
    path = raster(tmp_path / "labels.tif", values, LEFT, TOP, 10.0)
    with rasterio.Env(GDAL_TIFF_INTERNAL_MASK=True), rasterio.open(path, "r+") as file:
        file.write_mask(mask)
    category, _ = burn(label_file(path), GRID, GRID.whole).dominant()
    assert np.argwhere(category < 0).tolist() == [[0, 0], [2, 3]]


def test_values_of_a_raster_without_a_class_are_counted(tmp_path: Path) -> None:
    values = np.full((5, 5), 1, dtype=np.uint8)
    values[0, :3] = 9
    found = burn(label_file(raster(tmp_path / "labels.tif", values, LEFT, TOP, 10.0)), GRID, GRID.whole)
    assert found.unknown == {"9": 3}


def test_invalid_geometries_are_repaired_and_counted(tmp_path: Path) -> None:
    at = [(LEFT + 10 * x, TOP - 10 * y) for x, y in ((0, 0), (4, 4), (4, 0), (0, 4))]
    path = vector(tmp_path, [(Polygon(at), 1), (square(0, 4, 5, 1), 2), (square(0, 0, 1, 1), None)])
    features = read_features(label_file(path), CRS)
    assert (features.repaired, features.without_value) == (1, 1)
    assert burn(label_file(path), GRID, GRID.whole).counts[0].sum() / 25 == pytest.approx(8, abs=0.8)  # half of 16


def test_labels_elsewhere_are_refused_with_both_places(tmp_path: Path) -> None:
    path = vector(tmp_path, [(square(1000, 0, 3, 3), 1)])
    with pytest.raises(
        LabelError, match=r"do not overlap the scenes: they lie at 510000\.\.510030, .* 500000\.\.500050"
    ):
        check_overlap(label_file(path), GRID)


# --- the antimeridian ------------------------------------------------------------------------------------------------

STEP = 0.0001
#: 80 columns from 179.996 to 180.004 degrees east: the antimeridian lies between columns 39 and 40.
DATE_LINE = Grid("EPSG:4326", STEP, 179.996, 1.0, 80, 20, 256)


def degrees(col: float, width: float, row: float = 5, height: float = 5, turn: float = 0.0) -> Polygon:
    """A rectangle in pixels of `DATE_LINE`, moved by a turn of longitude."""
    left, top = DATE_LINE.left + turn + col * STEP, DATE_LINE.top - row * STEP
    return box(left, top - height * STEP, left + width * STEP, top)


def geographic(folder: Path, shapes: list[object], crs: str = "EPSG:4326") -> Path:
    path = folder / "labels.gpkg"
    gpd.GeoDataFrame({"class": [1] * len(shapes)}, geometry=shapes, crs=crs).to_file(path)
    return path


def burnt_columns(path: Path, row: int = 7) -> list[int]:
    category, _ = burn(label_file(path), DATE_LINE, DATE_LINE.whole).dominant()
    return np.flatnonzero(category[row] == 0).tolist()


@pytest.mark.parametrize("turn", [0.0, -360.0], ids=["counted on", "counted from -180"])
@pytest.mark.parametrize("points", [False, True], ids=["polygons", "points"])
def test_features_beyond_the_antimeridian_are_on_the_grid(tmp_path: Path, turn: float, points: bool) -> None:
    # One on the near side, one beyond, and two on the same parallel far away.
    shapes = [degrees(10, 5), degrees(60, 5, turn=turn), degrees(0, 5, turn=-170.0), degrees(0, 5, turn=-180.0)]
    path = geographic(tmp_path, [shape.centroid for shape in shapes] if points else shapes)
    check_overlap(label_file(path), DATE_LINE)
    assert burnt_columns(path) == ([12, 62] if points else [*range(10, 15), *range(60, 65)])


def test_labels_beyond_the_antimeridian_alone_overlap_the_grid(tmp_path: Path) -> None:
    path = geographic(tmp_path, [degrees(60, 5, turn=-360.0)])
    check_overlap(label_file(path), DATE_LINE)
    assert burnt_columns(path) == [*range(60, 65)]
    far = geographic(tmp_path, [degrees(60, 5, turn=-180.0)])
    with pytest.raises(LabelError, match=r"they lie at 0\.002\.\.0\.0025"):
        check_overlap(label_file(far), DATE_LINE)


def test_a_polygon_cut_at_the_antimeridian_is_whole_again(tmp_path: Path) -> None:
    halves = MultiPolygon([degrees(35, 5), degrees(40, 10, turn=-360.0)])
    path = geographic(tmp_path, [halves])
    assert burnt_columns(path) == [*range(35, 50)]
    assert burn(label_file(path, EACH), DATE_LINE, DATE_LINE.whole).group[7, [35, 49]].tolist() == [0, 0]


def test_a_polygon_around_the_globe_covers_both_sides(tmp_path: Path) -> None:
    path = geographic(tmp_path, [box(-180, -10, 180, 10)])
    assert burnt_columns(path) == [*range(80)]


@pytest.mark.parametrize("crs", ["EPSG:32660", "EPSG:32601", "EPSG:3832"])
def test_a_polygon_in_metres_is_not_torn_at_the_antimeridian(tmp_path: Path, crs: str) -> None:
    ring = degrees(30, 20, 2, 12).difference(degrees(42, 3, 5, 5))
    there = gpd.GeoSeries([ring], crs="EPSG:4326").to_crs(crs)
    path = geographic(tmp_path, list(there), crs)
    assert burnt_columns(path) == [*range(30, 42), *range(45, 50)]
    assert burnt_columns(path, 15) == []
    # What is not torn there is not on a grid half the globe away either.
    away = Grid("EPSG:4326", STEP, 9.996, 1.0, 80, 20, 256)
    assert not burn(label_file(path), away, away.whole).counts.any()


@pytest.mark.parametrize("width", [40_075_016.0, 39_000_000.0])
def test_a_polygon_around_the_globe_in_metres_stays_whole(tmp_path: Path, width: float) -> None:
    path = geographic(tmp_path, [box(-width / 2, 0, width / 2, 1e6)], "EPSG:3857")
    away = Grid("EPSG:4326", STEP, 9.996, 1.0, 80, 20, 256)
    assert (burn(label_file(path), away, away.whole).dominant()[0] == 0).all()
    assert burnt_columns(path) == ([*range(80)] if width > 4e7 else [])


@pytest.mark.parametrize("crs", ["EPSG:4326", "EPSG:4258"])
@pytest.mark.parametrize(
    ("left", "first"),
    [(179.996, 0), (-180.004, 0), (-180.0, 40), (179.992, -40)],
    ids=["across", "across from -180.004", "beyond", "before"],
)
def test_a_label_raster_on_any_side_of_the_antimeridian(tmp_path: Path, crs: str, left: float, first: int) -> None:
    """The raster's first column is column ``first`` of the grid."""
    values = np.broadcast_to(1 + np.arange(80) // 5 % 2, (20, 80)).astype(np.uint8)
    path = raster(tmp_path / "labels.tif", values, left, 1.0, STEP, crs=crs)
    found = burn(label_file(path), DATE_LINE, DATE_LINE.whole)
    kinds = {first + col: value - 1 for col, value in enumerate(values[0].tolist())}
    assert found.cells == 1
    assert found.dominant()[0][7].tolist() == [kinds.get(col, -1) for col in range(80)]


def test_a_label_raster_around_the_globe_reaches_over_its_own_edge(tmp_path: Path) -> None:
    values = np.ones((20, 3600), dtype=np.uint8)
    values[:, 0] = 2
    path = raster(tmp_path / "labels.tif", values, -180.0, 1.0, 0.1, crs="EPSG:4326")
    category, _ = burn(label_file(path), DATE_LINE, DATE_LINE.whole).dominant()
    assert category[7].tolist() == [0] * 40 + [1] * 40


def test_a_label_raster_in_metres_reaches_over_the_antimeridian(tmp_path: Path) -> None:
    x, y = to_crs("EPSG:4326", "EPSG:32660", np.array([179.996]), np.array([1.0]))
    path = raster(tmp_path / "labels.tif", np.ones((60, 120), np.uint8), x[0] - 50, y[0] + 50, 10.0, crs="EPSG:32660")
    assert (burn(label_file(path), DATE_LINE, DATE_LINE.whole).dominant()[0] == 0).all()


# --- blocks ----------------------------------------------------------------------------------------------------------


def test_blocks_partition_the_grid_in_whole_pixels() -> None:
    grid = Grid(CRS, 28.5, LEFT, TOP, 489, 443, 256)
    blocks = Blocks.of_metres(grid, 1824)
    assert (blocks.side, blocks.columns, blocks.count) == (64, 8, 56)
    ids = blocks.ids(grid.whole)
    assert np.bincount(ids.ravel()).tolist()[:2] == [4096, 4096]
    assert (blocks.ids(Window(60, 60, 10, 10)) == ids[60:70, 60:70]).all()
    areas = [outline.area for outline in blocks.outlines(grid)]
    assert areas == pytest.approx((np.bincount(ids.ravel()) * 28.5**2).tolist())


def test_pixels_are_measured_on_the_ground() -> None:
    assert pixel_sides(GRID) == (10.0, 10.0)
    degrees = Grid("EPSG:4326", 0.001, 10.0, 60.005, 10, 10, 256)
    down, across = pixel_sides(degrees)
    assert down == pytest.approx(111.41, abs=0.05)  # a thousandth of a degree of latitude at 60 degrees
    assert across == pytest.approx(55.80, abs=0.05)
    mercator = Grid("EPSG:3857", 10.0, 1_113_194.9, 8_399_737.9, 10, 10, 256)  # at 60 degrees north
    assert pixel_sides(mercator)[1] == pytest.approx(5.0, abs=0.05)
