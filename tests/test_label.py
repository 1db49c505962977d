"""The label stage on small worlds: counts, splits, statistics, the independent set, and every mistake in labels."""

from __future__ import annotations

import hashlib
import logging
import pickle
import warnings
from pathlib import Path

import dask
import geopandas as gpd
import numpy as np
import pytest
import rasterio
from pydantic import ValidationError
from pyproj import Transformer
from rasterio.errors import NotGeoreferencedWarning
from scipy.spatial import KDTree
from shapely.geometry import GeometryCollection, LineString, Point, Polygon, box

from stages.errors import LabelError
from stages.formats.samples import DROPPED, UNLABELLED, Part, Role, Samples
from stages.formats.tiles import Tiles
from stages.geo.grid import Grid
from stages.label import Config, sources
from tests.label_worlds import CLASSES, CRS, GRID, LabelWorld, loss_targets
from tests.rasters import spoil_block

WHOLE = GRID.whole


@pytest.fixture
def world(tmp_path: Path) -> LabelWorld:
    return LabelWorld.build(tmp_path)


def polygon(col: float, row: float, width: float, height: float) -> Polygon:
    left, top = GRID.left + 10 * col, GRID.top - 10 * row
    return box(left, top - 10 * height, left + 10 * width, top)


def save(world: LabelWorld, values: list[object], shapes: list[object], crs: str | None = CRS) -> Path:
    path = world.root / "labels.gpkg"
    gpd.GeoDataFrame({"class": values, "farm": "x"}, geometry=shapes, crs=crs).to_file(path)
    return path


def stripes(world: LabelWorld) -> Path:
    """Polygons of 4 x 2 pixels of the two classes all over the grid."""
    cells = [(row, col) for row in range(0, 40, 2) for col in range(0, 48, 4)]
    return save(world, [1 + row // 2 % 2 for row, _ in cells], [polygon(col, row, 4, 2) for row, col in cells])


def test_a_raster_becomes_targets_in_three_parts(world: LabelWorld) -> None:
    samples = world.label(world.raster(world.truth))
    assert (samples.read("target", WHOLE) == world.truth - 1).all()
    summary = samples.summary
    assert (summary["labelled"], summary["conflicts"], summary["mixed"], summary["on_nodata"]) == (1920, 0, 0, 0)
    assert (samples.folds, samples.crossed, summary["block_pixels"]) == (1, False, 8)
    assert summary["blocks"] == [{"train": 18, "validation": 6, "test": 6}]
    assert (summary["pixels"][0]["test"], summary["pixels"][0]["validation"]) == (
        {"water": 192, "forest": 192, "(dropped)": 0}, {"water": 192, "forest": 192, "(dropped)": 0}
    )  # fmt: skip
    part, role = samples.part(0, WHOLE), samples.roles(0, WHOLE)
    assert ((role == Role.TEST) == (part == Part.TEST)).all()
    assert ((role == Role.VALIDATION) == (part == Part.VALIDATION)).all()
    train = summary["pixels"][0]["train"]
    buffered = summary["pixels"][0]["buffer"]
    assert sum(train.values()) + sum(buffered.values()) == 18 * 64
    assert summary["buffer_share"] == pytest.approx(sum(buffered.values()) / (18 * 64))
    assert (samples.read("final", WHOLE) == Role.TRAIN).all()


def test_statistics_come_from_valid_training_pixels_only(tmp_path: Path) -> None:
    world = LabelWorld.build(tmp_path, invalid=(slice(0, 10), slice(0, 30)))
    samples = world.label(world.raster(world.truth), folds=3)
    image, valid = Tiles(tmp_path / "tiles").read_channels(WHOLE)[0], Tiles(tmp_path / "tiles").read_valid(WHOLE)
    for fold in (0, 1, 2, None):
        mask = valid & samples.training_mask(fold, WHOLE)
        found = samples.statistics(fold)
        assert found["pixels"] == mask.sum()
        assert found["count"] == [mask.sum()] * 2
        assert found["mean"] == pytest.approx(image[:, mask].mean(axis=1, dtype=np.float64).tolist())
        assert found["std"] == pytest.approx(image[:, mask].std(axis=1, dtype=np.float64).tolist())
        assert found["percentiles"]["99"] == pytest.approx(np.percentile(image[:, mask], 99, axis=1).tolist())
        assert found["channels"] == ["red", "nir"]
        loss = loss_targets(samples, fold, WHOLE)
        assert found["class_pixels"] == [int((loss == k).sum()) for k in (0, 1)]
        assert found["class_means"][1] == pytest.approx(image[:, loss == 1].mean(axis=1, dtype=np.float64).tolist())
        assert found["class_stds"][1] == pytest.approx(image[:, loss == 1].std(axis=1, dtype=np.float64).tolist())
    assert samples.summary["on_nodata"] == 300
    assert (samples.read("target", WHOLE)[:10, :30] == UNLABELLED).all()


def test_mixed_pixels_do_not_train_but_are_scored(world: LabelWorld) -> None:
    # A label raster twice as fine: every pixel of column 2 holds two classes, half and half.
    fine = np.kron(world.truth, np.ones((2, 2), dtype=np.uint8))
    fine[:, 4] = 3 - fine[:, 5]
    path = world.raster(fine)
    from affine import Affine

    with rasterio.open(path, "r+") as file:
        file.transform = Affine(5.0, 0.0, GRID.left, 0.0, -5.0, GRID.top)
    samples = world.label(path)
    part, role = samples.part(0, WHOLE), samples.roles(0, WHOLE)
    assert samples.summary["mixed"] == 40
    assert (role[part == Part.TEST] == Role.TEST).all()
    assert (role[part == Part.VALIDATION] == Role.VALIDATION).all()
    assert set(np.unique(role[:, 2][part[:, 2] == Part.TRAIN]).tolist()) == {int(Role.MIXED)}
    assert (samples.read("final", WHOLE)[:, 2] == Role.MIXED).all()


def test_polygons_are_never_divided(world: LabelWorld) -> None:
    path = save(
        world,
        [1 + i % 2 for i in range(20)],
        [polygon(1 + 12 * (i % 4), 1 + 8 * (i // 4), 10, 5) for i in range(20)],  # wider than a block
    )
    samples = world.label(path, field="class")
    group, block = samples.read("group", WHOLE), samples.read("block", WHOLE)
    assert samples.summary["group"] == "polygon"
    for number in range(20):
        assert (group == number).sum() == 50
        assert len(np.unique(block[group == number])) == 1
    # The first spans columns 1..10: 7 of its columns lie in block column 0, which owns it.
    assert block[1, 10] == block[1, 1] == 0
    assert samples.read("block", WHOLE)[0, 10] == 1  # unlabelled ground keeps its own block
    alone = world.label(path, "alone", field="class", group="none")
    assert (alone.read("block", WHOLE)[1, [1, 10]] == [0, 1]).all()
    assert (alone.read("group", WHOLE) == -1).all()
    with pytest.raises(LabelError, match="fewer than the 3 folds"):
        world.label(path, "farm", field="class", group="farm", folds=3)


def test_dropped_classes_never_train_and_count_in_the_test(world: LabelWorld) -> None:
    truth = world.truth
    truth[:, 40:44] = 7
    samples = world.label(world.raster(truth), drop=[7])
    target, role, part = samples.read("target", WHOLE), samples.roles(0, WHOLE), samples.part(0, WHOLE)
    dropped = target == DROPPED
    assert dropped.sum() == 160
    assert (role[dropped & (part == Part.TEST)] == Role.TEST).all()
    assert (role[dropped & (part != Part.TEST)] == Role.NONE).all()
    assert samples.summary["class_pixels"]["(dropped)"] == 160
    assert samples.summary["pixels"][0]["test"]["(dropped)"] == int((dropped & (part == Part.TEST)).sum())


def test_the_independent_set_is_kept_out_of_everything(world: LabelWorld) -> None:
    apart = np.zeros(GRID.shape, dtype=np.uint8)
    apart[10:12, 10:14] = 2
    samples = world.label(world.raster(world.truth), test=world.raster(apart, "apart.tif"), folds=3)
    inside = apart > 0
    assert (samples.read("independent", WHOLE)[inside] == 1).all()
    assert samples.summary["independent"] == 8
    for fold in (0, 1, 2, None):
        assert (samples.roles(fold, WHOLE)[inside] == Role.INDEPENDENT).all()
        assert not samples.training_mask(fold, WHOLE)[inside].any()
    ring = np.zeros(GRID.shape, dtype=bool)
    ring[9:13, 9:15] = True
    assert (samples.read("final", WHOLE)[ring & ~inside] == Role.BUFFER).all()
    assert (samples.read("final", WHOLE)[~ring] == Role.TRAIN).all()


def test_an_independent_set_that_scores_nothing_is_refused_and_its_losses_are_told(
    world: LabelWorld, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    file = world.raster(world.truth)
    nothing = world.raster(np.zeros(GRID.shape, np.uint8), "nothing.tif")
    with pytest.raises(LabelError, match=r"independent test labels .*nothing\.tif do not lie on any valid pixel"):
        world.label(file, test=nothing)
    other = LabelWorld.build(tmp_path / "holes", invalid=(slice(0, 4), slice(0, 6)))
    apart = np.zeros(GRID.shape, np.uint8)
    apart[:5, :6] = 1
    samples = other.label(other.raster(other.truth), test=other.raster(apart, "apart.tif"))
    assert samples.summary["independent"] == 6
    assert samples.summary["independent_on_nodata"] == 24
    assert "24 pixels of the independent test labels lie on nodata" in caplog.text


def test_the_buffer_is_as_long_as_promised_on_every_row_of_a_tall_grid_of_degrees(tmp_path: Path) -> None:
    """From 35 to 70 degrees north; distances on the ellipsoid, from the training labels to what is held out."""
    grid = Grid("EPSG:4326", 0.01, 10.0, 70.0, 24, 3500, 256)
    world = LabelWorld.build(tmp_path, grid=grid)
    samples = world.label(world.raster(world.truth), block=8000.0, buffer=1000.0)
    role, part = samples.roles(0, grid.whole), samples.part(0, grid.whole)
    rows, cols = np.indices(grid.shape)
    place = Transformer.from_crs("EPSG:4979", "EPSG:4978", always_xy=True).transform(
        grid.left + (cols + 0.5) * 0.01, grid.top - (rows + 0.5) * 0.01, np.zeros(grid.shape)
    )
    places = np.stack(place, axis=-1)
    held = KDTree(places[(part == Part.VALIDATION) | (part == Part.TEST)])
    for third in (slice(0, 1100), slice(1100, 2300), slice(2300, 3500)):
        nearest = held.query(places[third][role[third] == Role.TRAIN])[0].min()
        lost = held.query(places[third][role[third] == Role.BUFFER])[0].max()
        assert nearest >= 999.9
        # The least side in reach of a tile counts for all of it: 256 rows make up to 7 % at 70 degrees.
        assert lost < 1000 * 1.08


def test_folds_cover_every_block_and_the_table_of_blocks_agrees(world: LabelWorld) -> None:
    samples = world.label(world.raster(world.truth), folds=5)
    assert samples.parts.shape == (5, 30)
    assert ((samples.parts == Part.TEST).sum(axis=0) == 1).all()
    table = samples.read_blocks()
    assert table.crs == CRS
    assert (table["part_3"].to_numpy() == samples.parts[3]).all()
    assert table["pixels_water"].sum() + table["pixels_forest"].sum() == 1920
    assert table.geometry.area.sum() == pytest.approx(48 * 40 * 100)


def test_same_inputs_same_bytes_and_other_seeds_other_splits(world: LabelWorld) -> None:
    def digest(samples: Samples) -> str:
        found = hashlib.sha256()
        for path in sorted(p for p in samples.folder.rglob("*") if p.is_file()):
            found.update(str(path.relative_to(samples.folder)).encode() + path.read_bytes())
        return found.hexdigest()

    path = stripes(world)
    one = world.label(path, "one", field="class", folds=3)
    with dask.config.set(scheduler="synchronous"):
        two = world.label(path, "two", field="class", folds=3)
    assert digest(one) == digest(two)
    assert (world.label(path, "three", field="class", folds=3, seed=1).parts != one.parts).any()
    assert (pickle.loads(pickle.dumps(one)).parts == one.parts).all()  # noqa: S301  our own bytes


def test_much_buffer_and_left_out_labels_are_told(world: LabelWorld, caplog: pytest.LogCaptureFixture) -> None:
    shapes = [polygon(2 * i, 4 * j, 2, 4) for j in range(10) for i in range(24)]
    values = [1 + (i % 2) for _ in range(10) for i in range(24)]
    bowtie = Polygon([(GRID.left + x, GRID.top - y) for x, y in ((0, 0), (40, 40), (40, 0), (0, 40))])
    path = save(world, [*values, 1], [*shapes, bowtie])
    with caplog.at_level(logging.WARNING):
        samples = world.label(path, field="class", buffer=35)
    assert samples.summary["buffer_share"] > 0.4
    assert samples.summary["repaired"] == 1
    assert samples.summary["conflicts"] > 0
    text = caplog.text
    assert "% of the training labels; larger blocks or a smaller buffer" in text
    assert "1 invalid label geometries were repaired" in text
    assert "labels of several classes and were left out" in text


def test_points_are_samples_by_themselves(world: LabelWorld) -> None:
    rows, cols = np.mgrid[1:40:3, 1:48:3]
    points = [
        Point(GRID.left + 10 * c + 5, GRID.top - 10 * r - 5) for r, c in zip(rows.ravel(), cols.ravel(), strict=True)
    ]
    path = save(world, [("1", "2")[i % 2] for i in range(len(points))], points)
    samples = world.label(path, field="class")
    assert samples.summary["labelled"] == 13 * 16
    assert samples.summary["group"] == "none"
    assert (samples.read("target", WHOLE)[1, 1::3] == np.arange(16) % 2).all()


# --- mistakes ---------------------------------------------------------------------------------------------------------


def test_a_missing_empty_or_unreadable_file_is_refused(world: LabelWorld) -> None:
    with pytest.raises(LabelError, match=r"label file .*gone\.tif does not exist"):
        world.label(world.root / "gone.tif", "a")
    for name in ("empty.gpkg", "empty.tif"):
        (world.root / name).touch()
        with pytest.raises(LabelError, match=r"is empty \(0 bytes\)"):
            world.label(world.root / name, f"{name}_", field="class")
    (world.root / "text.tif").write_text("not a raster")
    with pytest.raises(LabelError, match="can be read neither as a raster nor as a vector file"):
        world.label(world.root / "text.tif", "b")
    (world.root / "text.gpkg").write_text("not a vector file")
    with pytest.raises(LabelError, match="cannot be read as a vector file"):
        world.label(world.root / "text.gpkg", "c", field="class")


def test_a_truncated_raster_is_refused(world: LabelWorld) -> None:
    path = world.raster(np.random.default_rng(0).integers(1, 3, GRID.shape).astype(np.uint8))
    path.write_bytes(path.read_bytes()[:1200])
    with pytest.raises(LabelError, match=r"cannot be read|can be read neither"):
        world.label(path)


def test_labels_without_crs_are_refused(world: LabelWorld) -> None:
    with pytest.raises(LabelError, match=r"labels\.tif has no CRS"):
        world.label(world.raster(world.truth, crs=None), "a")
    path = world.root / "labels.shp"
    gpd.GeoDataFrame({"class": [1]}, geometry=[polygon(0, 0, 2, 2)], crs=CRS).to_file(path)
    path.with_suffix(".prj").unlink()
    with pytest.raises(LabelError, match=r"labels\.shp have no CRS"):
        world.label(path, "b", field="class")


def test_a_raster_with_a_crs_but_no_place_is_refused(world: LabelWorld) -> None:
    path = world.root / "labels.tif"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", NotGeoreferencedWarning)
        with rasterio.open(
            path, "w", driver="GTiff", width=48, height=40, count=1, dtype="uint8", crs=CRS, nodata=0
        ) as file:
            file.write(world.truth, 1)
    with pytest.raises(LabelError, match=r"label raster .*labels\.tif has a CRS, but its header does not say where"):
        world.label(path)


def test_a_block_that_cannot_be_unpacked_is_refused(world: LabelWorld) -> None:
    path = world.raster(world.truth, tiled=True, blockxsize=16, blockysize=16, compress="deflate")
    spoil_block(path)
    with pytest.raises(LabelError, match=r"labels\.tif cannot be read \(.*[Dd]ecod.*\); it may be cut off or damaged"):
        world.label(path)


def test_a_missing_column_is_refused_with_those_there(world: LabelWorld) -> None:
    path = stripes(world)
    with pytest.raises(LabelError, match=r"no column 'klass' \(label.field\); the file has class, farm"):
        world.label(path, "a", field="klass")
    with pytest.raises(LabelError, match=r"need label.field, the column of the class; the file has class, farm"):
        world.label(path, "b")
    with pytest.raises(LabelError, match=r"no column 'owner' \(label.group\)"):
        world.label(path, "c", field="class", group="owner")
    with pytest.raises(LabelError, match="raster without columns"):
        world.label(world.raster(world.truth), "d", group="farm")


def test_unknown_classes_are_named(world: LabelWorld) -> None:
    values = world.truth
    values[0, :5] = 9
    with pytest.raises(LabelError, match=r"unknown class '9'; list it under a class's labels, in label\.drop"):
        world.label(world.raster(values), "a")
    path = save(world, ["1", "moor"], [polygon(0, 0, 2, 2), polygon(4, 4, 2, 2)])
    with pytest.raises(LabelError, match="unknown class 'moor'"):
        world.label(path, "b", field="class")
    # Told that the value means no label, nothing is wrong with it.
    assert world.label(world.raster(values), "c", ignore=["9"]).summary["labelled"] == 1915


def test_zero_means_no_label_in_a_raster_without_nodata(world: LabelWorld) -> None:
    values = world.truth
    values[:, :8] = 0
    assert world.label(world.raster(values, nodata=None)).summary["labelled"] == 40 * 40


def test_labels_elsewhere_are_refused(world: LabelWorld) -> None:
    with pytest.raises(LabelError, match="do not overlap the scenes"):
        world.label(save(world, [1], [polygon(900, 0, 5, 5)]), "a", field="class")
    far = world.raster(world.truth)
    from affine import Affine

    with rasterio.open(far, "r+") as file:
        file.transform = Affine(10.0, 0.0, GRID.left + 90_000, 0.0, -10.0, GRID.top)
    with pytest.raises(LabelError, match="do not lie on any valid pixel of the scenes"):
        world.label(far, "b")


def test_lines_and_mixtures_are_refused(world: LabelWorld) -> None:
    line = LineString([(GRID.left, GRID.top), (GRID.left + 50, GRID.top - 50)])
    with pytest.raises(LabelError, match="hold lines; give either polygons or points"):
        world.label(save(world, [1], [line]), "a", field="class")
    with pytest.raises(LabelError, match="hold lines and polygons; give either polygons or points"):
        world.label(save(world, [1, 2], [polygon(0, 0, 2, 2), line]), "c", field="class")
    together = GeometryCollection([polygon(0, 0, 2, 2), line])
    with pytest.raises(LabelError, match="hold lines and polygons"):
        world.label(save(world, [1, 2], [polygon(9, 9, 2, 2), together]), "d", field="class")
    with pytest.raises(LabelError, match="hold points and polygons"):
        world.label(
            save(world, [1, 2], [polygon(0, 0, 2, 2), Point(GRID.left + 95, GRID.top - 95)]), "b", field="class"
        )


def test_a_class_without_samples_in_a_split_is_refused(world: LabelWorld, caplog: pytest.LogCaptureFixture) -> None:
    values = world.truth * 0 + 1
    values[1:5, 1:5] = 2  # in one block only
    path = world.raster(values)
    with pytest.raises(LabelError, match=r"Class 'forest' has no \w+ sample \(ground blocks with it: 1.*\); merge it"):
        world.label(path, "a")
    with caplog.at_level(logging.WARNING):
        samples = world.label(path, "b", folds=3)
    assert "Class 'forest' has no train sample" in caplog.text
    assert "in fold" in caplog.text
    assert samples.summary["class_blocks"]["forest"] == 1
    values[values == 2] = 1
    with pytest.raises(LabelError, match="Class 'forest' has no labelled pixel on the scenes"):
        world.label(world.raster(values), "c", folds=3)


def test_settings_that_contradict_themselves_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ValidationError, match=r"must sum to 1, not 1\.1"):
        Config(classes=CLASSES, file=tmp_path, shares={"train": 0.7, "validation": 0.2, "test": 0.2})
    with pytest.raises(ValidationError, match="label value '2' stands twice"):
        Config(classes=CLASSES, file=tmp_path, drop=["2.0"])
    with pytest.raises(ValidationError, match="class name 'water' stands twice"):
        Config(classes=[CLASSES[0], {**CLASSES[1], "name": "water"}], file=tmp_path)
    for folds in (2, 51, "by_month"):
        with pytest.raises(ValidationError, match=f"a number from 3 to 50 or by_year, not {folds}"):
            Config(classes=CLASSES, file=tmp_path, folds=folds)


def test_two_classes_with_one_code_are_refused(tmp_path: Path) -> None:
    same = [CLASSES[0], CLASSES[1] | {"code": CLASSES[0]["code"]}]
    with pytest.raises(ValidationError, match="classes water, forest all have code 1"):
        Config(classes=same, file=tmp_path / "labels.tif")


def test_sidecars_belong_to_the_sources(world: LabelWorld) -> None:
    path = world.root / "labels.shp"
    gpd.GeoDataFrame({"class": [1]}, geometry=[polygon(0, 0, 2, 2)], crs=CRS).to_file(path)
    found = sources(Config(classes=CLASSES, file=path))
    assert [other.suffix for other in found] == [".shp", ".cpg", ".dbf", ".prj", ".shx"]
    with pytest.raises(LabelError, match="does not exist"):
        sources(Config(classes=CLASSES, file=path, test=world.root / "gone.shp"))
    raster, mosaic = world.raster(world.truth, "crops.tif"), world.root / "mosaic.vrt"
    mosaic.write_text('<VRTDataset><SourceFilename relativeToVRT="1">crops.tif</SourceFilename></VRTDataset>')
    assert sources(Config(classes=CLASSES, file=mosaic)) == [mosaic, raster]
