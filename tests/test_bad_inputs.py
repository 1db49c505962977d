"""Bad input through the installed command: one clear sentence, a non-zero exit, the earlier artifact untouched."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import signal
import subprocess
import sys
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import geopandas as gpd
import numpy as np
import pytest
from rasterio.control import GroundControlPoint
from rasterio.errors import NotGeoreferencedWarning
from shapely.geometry import LineString, Polygon, box
from shapely.geometry.base import BaseGeometry

from tests.rasters import spoil_block
from tests.worlds import CRS, DATES, ORIGIN, World, series_world, small_world, write_fields, write_raster

SCENE = Path("scenes/scene_20240601.tif")


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> World:
    world = small_world(tmp_path_factory.mktemp("finished"), size=96, classes=2)
    world.run("run", "label", "--area", "world")
    return world


@pytest.fixture(scope="module")
def fields(tmp_path_factory: pytest.TempPathFactory) -> World:
    """A series of one file a date and band, with its quality."""
    import rasterio

    world = series_world(tmp_path_factory.mktemp("fields"))
    for path in sorted((world.root / "scenes").iterdir()):
        with rasterio.open(path) as source:
            for name, values in zip(("red", "nir", "SCL"), source.read(), strict=True):
                write_raster(path.with_stem(f"{path.stem}_{name}"), values)
        path.unlink()
    world.change(ingest={
        "scenes": [{"files": "scenes/fields_{date}_{band}.tif", "scale": 0.0001}],
        "bands": {band: band for band in ("red", "nir", "SCL")},
    })  # fmt: skip
    world.run("run", "label", "--area", "world")
    return world


@pytest.fixture(scope="module")
def series(tmp_path_factory: pytest.TempPathFactory) -> World:
    """A table of series: 40 samples of three dates."""
    world = World(tmp_path_factory.mktemp("series"), np.empty((0, 0), np.uint8))
    rows = [
        f"{sample},2018-0{month}-01,{('soy', 'pasture')[sample % 2]},0.{month + sample % 2},{sample}"
        for sample in range(40)
        for month in (3, 5, 7)
    ]
    (world.root / "series.csv").write_text("\n".join(["id,date,crop,ndvi,farm", *rows, ""]))
    (world.root / "configs").mkdir()
    (world.root / "configs" / "world.yaml").write_text("title: A table\n")
    table = {"file": "series.csv", "layout": "long", "sample": "id", "date": "date", "label": "crop", "group": "farm"}
    world.change(
        classes=[{"name": crop, "labels": [crop], "code": i + 1, "color": color}
                 for i, (crop, color) in enumerate({"soy": "#d9a441", "pasture": "#3f7f4f"}.items())],
        ingest={"table": table},
    )  # fmt: skip
    world.run("run", "label", "--area", "world")
    return world


def artifacts(world: World) -> dict[str, str]:
    return {
        str(path.relative_to(world.root)): hashlib.sha256(path.read_bytes()).hexdigest()
        for folder in ("scenes", "tiles", "samples")
        for path in sorted((world.data / folder).rglob("*"))
        if path.is_file()
    }


def scene(world: World) -> Path:
    return world.root / SCENE


def bands(world: World) -> np.ndarray:
    import rasterio

    with rasterio.open(scene(world)) as source:
        values: np.ndarray = source.read()
    return values


def polygons(
    world: World, shapes: list[BaseGeometry], kinds: list[int], crs: str | None = CRS, field: str = "kind"
) -> None:
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "'crs' was not provided")
        gpd.GeoDataFrame({field: kinds}, geometry=shapes, crs=crs).to_file(world.root / "labels.gpkg")
    world.change(label={"file": "labels.gpkg", "field": "kind"})


def cell(col: int, row: int, size: int = 16) -> Polygon:
    """A square of the grid, in pixels from the upper left corner."""
    x, y = ORIGIN[0] + col * 10, ORIGIN[1] - row * 10
    return box(x, y - size * 10, x + size * 10, y)


def missing(world: World) -> None:
    scene(world).unlink()


def empty(world: World) -> None:
    scene(world).write_bytes(b"")


def truncated(world: World) -> None:
    content = scene(world).read_bytes()
    scene(world).write_bytes(content[: len(content) // 2])


def not_a_raster(world: World) -> None:
    scene(world).write_text("This is a letter, not a scene.")


def without_crs(world: World) -> None:
    write_raster(scene(world), bands(world), nodata=-9999.0, crs=None)


def elsewhere(world: World) -> None:
    world.change(grid={"bounds": [700_000, 5_000_000, 701_000, 5_001_000]})


def other_bands(world: World) -> None:
    write_raster(scene(world), bands(world)[:2], nodata=-9999.0)


def constant_band(world: World) -> None:
    values = bands(world)
    values[1] = 7
    write_raster(scene(world), values, nodata=-9999.0)


def nodata_band(world: World) -> None:
    values = bands(world)
    values[2] = -9999
    write_raster(scene(world), values, nodata=-9999.0)


def nan_band(world: World) -> None:
    values = bands(world)
    values[1, ::2], values[1, 1::2] = np.nan, np.inf
    write_raster(scene(world), values, nodata=-9999.0)


def corrupt_block(world: World) -> None:
    write_raster(scene(world), bands(world), nodata=-9999.0, compress="deflate")
    spoil_block(scene(world))


def without_a_place(world: World) -> None:
    from affine import Affine

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", NotGeoreferencedWarning)
        write_raster(scene(world), bands(world), nodata=-9999.0, transform=Affine.identity())


def placed_by_points(world: World) -> None:
    places = [GroundControlPoint(row, col, ORIGIN[0] + col, ORIGIN[1] - row) for row in (0, 96) for col in (0, 96)]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", NotGeoreferencedWarning)
        write_raster(scene(world), bands(world), nodata=-9999.0, transform=None, gcps=places)


def date_that_there_is_not(world: World) -> None:
    world.change(tile={"dates": ["2024-07-01"]})


def labels_without_crs(world: World) -> None:
    polygons(world, [cell(0, 0)], [0], crs=None)


def labels_elsewhere(world: World) -> None:
    polygons(world, [box(0, 0, 100, 100)], [0])


def labels_without_field(world: World) -> None:
    polygons(world, [cell(0, 0)], [0], field="species")


def labels_of_an_unknown_class(world: World) -> None:
    polygons(world, [cell(0, 0), cell(40, 40)], [0, 9])


def labels_missing(world: World) -> None:
    (world.root / "labels.tif").unlink()


def labels_empty(world: World) -> None:
    (world.root / "labels.tif").write_bytes(b"")


def polygons_empty(world: World) -> None:
    polygons(world, [cell(0, 0)], [0])
    (world.root / "labels.gpkg").write_bytes(b"")


def labels_truncated(world: World) -> None:
    path = world.root / "labels.tif"
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def polygons_truncated(world: World) -> None:
    polygons(world, [cell(c, 0) for c in range(0, 96, 16)], [0, 1] * 3)
    path = world.root / "labels.gpkg"
    path.write_bytes(path.read_bytes()[:5000])


def labels_corrupt(world: World) -> None:
    path = write_raster(world.root / "labels.tif", world.truth, nodata=255, compress="deflate")
    spoil_block(path)


def label_raster_without_crs(world: World) -> None:
    write_raster(world.root / "labels.tif", world.truth, nodata=255, crs=None)


def label_raster_without_a_place(world: World) -> None:
    from affine import Affine

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", NotGeoreferencedWarning)
        write_raster(world.root / "labels.tif", world.truth, nodata=255, transform=Affine.identity())


def label_raster_elsewhere(world: World) -> None:
    write_raster(world.root / "labels.tif", world.truth, nodata=255, crs="EPSG:32601")


def labels_of_the_test_elsewhere(world: World) -> None:
    write_raster(world.root / "apart.tif", world.truth, nodata=255, crs="EPSG:32601")
    world.change(label={"test": "apart.tif"})


def lines_among_polygons(world: World) -> None:
    line = LineString([ORIGIN, (ORIGIN[0] + 500, ORIGIN[1] - 500)])
    polygons(world, [cell(0, 0), line], [0, 1])


def two_classes_with_one_code(world: World) -> None:
    classes = world.config()["classes"]
    world.change(classes=[entry | {"code": 5} for entry in classes])


def class_without_samples(world: World) -> None:
    polygons(world, [cell(c, r, 8) for c in (0, 32, 64) for r in (0, 32, 64)] + [cell(16, 16, 4)], [0] * 9 + [1])


def misspelt_setting(world: World) -> None:
    world.change(label={"buffr": 10})


def unknown_section(world: World) -> None:
    world.change(lable={"buffer": 10})


def wrong_type(world: World) -> None:
    world.change(label={"buffer": "wide"})


def out_of_range(world: World) -> None:
    world.change(label={"purity": 1.5})


def unknown_method(world: World) -> None:
    world.change(select={"method": "magic"})


def chip_that_cannot_be_halved(world: World) -> None:
    world.change(train={"models": ["unet"], "unet": {"chip": 50}})


def device_that_is_not_there(world: World) -> None:
    import torch

    if torch.cuda.is_available():
        pytest.skip("this machine has a GPU")
    world.change(train={"models": ["mlp"], "device": "gpu"})


def unreadable_yaml(world: World) -> None:
    (world.root / "configs" / "world.yaml").write_text("title: [unclosed\n")


# --- series ----------------------------------------------------------------------------------------------------------


def file_of(world: World, text: str, band: str) -> Path:
    return world.root / "scenes" / f"fields_{text.replace('-', '')}_{band}.tif"


def date_that_cannot_be_read(world: World) -> None:
    for band in ("red", "nir", "SCL"):
        file_of(world, DATES[2], band).rename(file_of(world, "2017-13-40", band))


def one_date_without_quality(world: World) -> None:
    file_of(world, DATES[3], "SCL").unlink()


def one_date_without_a_band(world: World) -> None:
    file_of(world, DATES[3], "nir").unlink()


def index_of_unscaled_numbers(world: World) -> None:
    world.change(ingest={"scenes": [{"files": "scenes/fields_{date}_{band}.tif"}]})


def bounds_beyond_every_date(world: World) -> None:
    world.change(grid={"bounds": [700_000, 5_000_000, 701_000, 5_001_000]})


def no_date_between(world: World) -> None:
    world.change(tile={"time": {**world.config()["tile"]["time"], "from": 2019}})


def misspelt_time(world: World) -> None:
    world.change(tile={"time": {"step": "1 month", "form": 2018}})


def labels_of_other_years(world: World) -> None:
    write_fields(world.root / "fields.gpkg", {2009: world.truth, 2010: 1 - world.truth})


def labels_with_a_date_that_cannot_be_read(world: World) -> None:
    path = world.root / "fields.gpkg"
    gpd.read_file(path).replace({"start": "2018-01-01"}, {"start": "spring"}).to_file(path)


def labels_of_two_years_in_one_season(world: World) -> None:
    world.change(tile={"time": {"step": "2 months", "fill": "linear"}})


def edit(world: World, old: str, new: str) -> None:
    path = world.root / "series.csv"
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new))


def series_of_unequal_length(world: World) -> None:
    edit(world, "7,2018-05-01,pasture,0.6,7\n", "")


def text_in_a_column_of_numbers(world: World) -> None:
    edit(world, "7,2018-05-01,pasture,0.6,7", "7,2018-05-01,pasture,green,7")


def label_of_no_class(world: World) -> None:
    edit(world, "pasture", "meadow")


def series_without_values(world: World) -> None:
    for value in (3, 4, 5, 6, 7, 8):
        edit(world, f",0.{value},", ",,")


Case = tuple[Callable[[World], None], str, list[str]]
CASES: list[Case] = [
    # what is done to the world, the stage asked for, words the sentence must hold
    (missing, "tile", ["scene", ".tif"]),
    (empty, "tile", ["scene_20240601.tif", "empty"]),
    (truncated, "tile", ["scene_20240601.tif", "truncated"]),
    (not_a_raster, "tile", ["scene_20240601.tif", "raster"]),
    (without_crs, "tile", ["scene_20240601.tif", "CRS"]),
    (elsewhere, "tile", ["scene_20240601.tif", "overlap"]),
    (other_bands, "tile", ["scene_20240601.tif", "band"]),
    (constant_band, "tile", ["b2", "constant"]),
    (nodata_band, "tile", ["b3", "nodata"]),
    (nan_band, "tile", ["b2", "nodata"]),
    (corrupt_block, "tile", ["scene_20240601.tif is damaged: some of its pixels cannot be read"]),
    (without_a_place, "tile", ["scene_20240601.tif has a CRS, but its header does not say where"]),
    (placed_by_points, "tile", ["scene_20240601.tif is placed by ground control points only; warp it"]),
    (date_that_there_is_not, "tile", ["tile.dates names 2024-07-01, but the scenes are of 2024-06-01"]),
    (labels_empty, "label", ["labels.tif is empty (0 bytes)"]),
    (polygons_empty, "label", ["labels.gpkg is empty (0 bytes)"]),
    (labels_truncated, "label", ["labels.tif", "cannot be read", "cut off"]),
    (polygons_truncated, "label", ["labels.gpkg cannot be read as a vector file"]),
    (labels_corrupt, "label", ["labels.tif cannot be read", "damaged"]),
    (label_raster_without_crs, "label", ["labels.tif has no CRS"]),
    (label_raster_without_a_place, "label", ["labels.tif has a CRS, but its header does not say where"]),
    (label_raster_elsewhere, "label", ["labels.tif do not lie on any valid pixel"]),
    (labels_of_the_test_elsewhere, "label", ["apart.tif do not lie on any valid pixel", "label.test"]),
    (lines_among_polygons, "label", ["labels.gpkg hold lines and polygons"]),
    (two_classes_with_one_code, "label", ["classes class 0, class 1 all have code 5"]),
    (labels_without_crs, "label", ["labels.gpkg", "CRS"]),
    (labels_elsewhere, "label", ["labels.gpkg", "overlap"]),
    (labels_without_field, "label", ["kind", "species"]),
    (labels_of_an_unknown_class, "label", ["9"]),
    (labels_missing, "label", ["labels.tif"]),
    (class_without_samples, "label", ["class 1"]),
    (misspelt_setting, "label", ["label.buffr", "label.buffer"]),
    (unknown_section, "label", ["lable", "label"]),
    (wrong_type, "label", ["label.buffer", "wide"]),
    (out_of_range, "label", ["label.purity", "1.5"]),
    (unknown_method, "select", ["select.method", "magic", "none, dqn, lasso"]),
    (chip_that_cannot_be_halved, "train", ["train.unet", "a chip of 50 pixels", "multiple of 8"]),
    (device_that_is_not_there, "train", ["train.device gpu", "cannot be used on this machine"]),
    (unreadable_yaml, "label", ["world.yaml"]),
]
SERIES_CASES: list[Case] = [
    (date_that_cannot_be_read, "tile", ["fields_20171340_", "20171340 is not a date"]),
    (one_date_without_quality, "tile", ["2017-06-21 lack the quality band SCL"]),
    (one_date_without_a_band, "tile", ["2017-06-21 lack the bands nir"]),
    (index_of_unscaled_numbers, "tile", ["NDVI is an index of reflectances", "tile.allow_dn: true"]),
    (bounds_beyond_every_date, "tile", ["and 35 other files do not overlap the grid"]),
    (no_date_between, "tile", ["no scene lies between tile.time.from 2019", "from 2017-02-14 to 2018-11-07"]),
    (
        misspelt_time,
        "tile",
        ["tile.time.form is not a setting (did you mean tile.time.from?)", "step, from, to, season"],
    ),
    (
        labels_of_other_years,
        "label",
        ["fields.gpkg are true from 2009-01-01 to 2010-12-31", "2017-01-01 to 2018-12-31"],
    ),
    (
        labels_of_two_years_in_one_season,
        "label",
        ["1080 pixels lie under labels of several classes", "tile.time.season"],
    ),
    (labels_with_a_date_that_cannot_be_read, "label", ["the date 'spring' in the column of label.start"]),
]
TABLE_CASES: list[Case] = [
    (series_of_unequal_length, "tile", ["sample '7' has 2 dates, sample '0' has 3"]),
    (text_in_a_column_of_numbers, "tile", ["the text 'green' in column 'ndvi'"]),
    (series_without_values, "tile", ["40 have no step"]),
    (label_of_no_class, "label", ["hold the unknown class 'meadow'"]),
]


def refused(done: subprocess.CompletedProcess[str], words: list[str]) -> None:
    assert done.returncode == 2, done.stdout
    said = done.stderr.strip()
    assert "Traceback" not in said + done.stdout
    assert len([line for line in said.splitlines() if line.strip()]) == 1, said
    for word in words:
        assert word in said, said


@pytest.mark.parametrize(
    ("world", "case"),
    [
        pytest.param(world, case, id=case[0].__name__)
        for world, cases in (("finished", CASES), ("fields", SERIES_CASES), ("series", TABLE_CASES))
        for case in cases
    ],
)
def test_bad_input_gets_one_sentence_and_loses_nothing(
    tmp_path: Path, request: pytest.FixtureRequest, world: str, case: Case
) -> None:
    spoil, stage, words = case
    made: World = request.getfixturevalue(world)
    copy = World(shutil.copytree(made.root, tmp_path / "copy"), made.truth)
    before = artifacts(copy)
    spoil(copy)
    refused(copy.run("run", stage, "--area", "world", check=False), words)
    kept = artifacts(copy)
    last = {"tile": "data/world/tiles", "label": "data/world/samples"}.get(stage, "data/world/")
    assert any(name.startswith(last) for name in before)
    assert {k: v for k, v in kept.items() if k.startswith(last)} == {
        k: v for k, v in before.items() if k.startswith(last)
    }


def test_invalid_geometries_are_repaired_and_counted(tmp_path: Path) -> None:
    world = small_world(tmp_path, size=96, classes=2)
    x, y = ORIGIN
    bow_tie = Polygon([(x + 400, y - 400), (x + 560, y - 560), (x + 560, y - 400), (x + 400, y - 560)])
    cells = [cell(c, r, 12) for c in (0, 32, 64) for r in (0, 32, 64)]
    others = [cell(c, r, 12) for c in (16, 48, 80) for r in (16, 48, 80)]
    polygons(world, [*cells, *others, bow_tie], [0] * 9 + [1] * 9 + [0])
    done = world.run("run", "label", "--area", "world")
    assert "1 invalid label geometries were repaired" in done.stderr + done.stdout


def test_nan_and_infinity_are_nodata_and_counted(tmp_path: Path) -> None:
    from stages.formats.tiles import Tiles

    world = small_world(tmp_path, size=96, classes=2)
    values = bands(world)
    values[0, 3, 4], values[0, 3, 5], values[1, 5, 6] = np.nan, -np.inf, np.inf
    write_raster(scene(world), values, nodata=-9999.0)
    done = world.run("run", "tile", "--area", "world")
    for band, count in (("b1", 2), ("b2", 1)):
        assert f"band {band} of {scene(world)}: {count} values are NaN or infinite" in done.stdout + done.stderr
    tiles = Tiles(world.data / "tiles")
    _, valid = tiles.read_channels(tiles.grid.whole)
    assert np.argwhere(~valid).tolist() == [[0, 3, 4], [0, 3, 5], [0, 5, 6]]


def test_an_unwritable_data_folder_is_named(tmp_path: Path) -> None:
    world = small_world(tmp_path, size=96, classes=2)
    # Tests may run as root, whom no permission stops: a folder below a file can never be made.
    (world.root / "data").write_text("not a folder")
    refused(world.run("run", "ingest", "--area", "world", check=False), ["data"])


def test_a_data_folder_that_may_not_be_written_loses_nothing(tmp_path: Path, finished: World) -> None:
    world = World(shutil.copytree(finished.root, tmp_path / "copy"), finished.truth)
    before = artifacts(world)
    world.change(tile={"resampling": "nearest"})
    with read_only(world.root / "data"):
        refused(world.run("run", "tile", "--area", "world", check=False), ["data", "Read-only"])
    assert artifacts(world) == before


@contextmanager
def read_only(folder: Path) -> Iterator[None]:
    """Mount a folder onto itself so that nobody may write to it."""
    if os.geteuid() or subprocess.run(["mount", "--bind", str(folder), str(folder)], check=False).returncode:
        pytest.skip("mounting a read-only folder is refused here")
    try:
        subprocess.run(["mount", "-o", "remount,bind,ro", str(folder)], check=True)
        yield
    finally:
        subprocess.run(["umount", "-l", str(folder)], check=True)


def test_a_full_disk_is_told_and_loses_nothing(tmp_path: Path) -> None:
    place = tmp_path / "small disk"
    place.mkdir()
    if (
        os.geteuid()
        or subprocess.run(["mount", "-t", "tmpfs", "-o", "size=6m", "tmpfs", str(place)], check=False).returncode
    ):
        pytest.skip("mounting a small disk is refused here")
    try:
        world = small_world(place, size=128, classes=2)
        world.run("run", "ingest", "--area", "world")
        before = artifacts(world)
        free = shutil.disk_usage(place).free
        (place / "ballast").write_bytes(b"\1" * (free - 40_000))
        refused(world.run("run", "tile", "--area", "world", check=False), ["full"])
        assert artifacts(world) == before
        (place / "ballast").unlink()
        world.run("run", "tile", "--area", "world")
    finally:
        subprocess.run(["umount", "-l", str(place)], check=True)


def test_a_second_run_on_the_same_area_names_the_first(tmp_path: Path) -> None:
    world = small_world(tmp_path, size=96, classes=2)
    command = [sys.executable, "-m", "pipeline.cli", "--root", str(world.root), "run", "ingest", "--area", "world"]
    first = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        since = stopped_at_work(first, world.data / ".lock")
        words = [f"area world is in use by process {first.pid} (terrastage run ingest, since {since})", "--wait"]
        refused(world.run("run", "tile", "--area", "world", check=False), words)
        assert not (world.data / "tiles").exists()
    finally:
        first.send_signal(signal.SIGCONT)
        assert first.wait(timeout=120) == 0
    world.run("run", "tile", "--area", "world")


def stopped_at_work(process: subprocess.Popen[bytes], lock: Path) -> str:
    """Halt a run while it holds the lock; since when it does."""
    end = time.monotonic() + 60
    while time.monotonic() < end:
        if lock.exists() and lock.read_text():
            process.send_signal(signal.SIGSTOP)
            since: str = json.loads(lock.read_text())["since"]
            return since
        time.sleep(0.001)
    raise AssertionError("the first run never took its lock")


STEP = 0.0001


def test_an_area_across_the_antimeridian_has_labels_on_both_sides(tmp_path: Path) -> None:
    """A scene from 179.9952 to 180.0048 degrees east; the labels beyond 180 are counted from -180."""
    import rasterio
    from affine import Affine

    world = small_world(tmp_path, size=96, classes=2)
    left, top, patches = 179.9952, 1.0, [(row, col) for row in range(0, 96, 16) for col in range(0, 96, 16)]
    write_raster(
        scene(world), bands(world), nodata=-9999.0, crs="EPSG:4326", transform=Affine(STEP, 0.0, left, 0.0, -STEP, top)
    )
    shapes = []
    for row, col in patches:
        west = left + col * STEP - (360.0 if col >= 48 else 0.0)
        shapes.append(box(west, top - (row + 16) * STEP, west + 16 * STEP, top - row * STEP))
    assert {shape.bounds[0] > 0 for shape in shapes} == {True, False}
    polygons(world, shapes, [int(world.truth[at]) for at in patches], crs="EPSG:4326")
    world.change(grid={"crs": "EPSG:4326", "resolution": STEP}, label={"block": 160.0})
    world.run("run", "--area", "world")
    summary = json.loads((world.data / "samples" / "samples.json").read_text())
    assert summary["labelled"] == 96 * 96
    with rasterio.open(world.data / "map" / "classes.tif") as layer:
        codes = layer.read(1)
        assert layer.bounds.left == pytest.approx(left)
    for side in (codes[:, :48] == world.truth[:, :48] + 1, codes[:, 48:] == world.truth[:, 48:] + 1):
        assert side.mean() > 0.98
    # 0.0001 degrees at 1 degree north are 11.130 m by 11.057 m.
    assert mapped_hectares(world) == pytest.approx(96 * 96 * 11.1301 * 11.0574 / 10_000, rel=5e-3)


def test_an_area_at_the_western_edge_of_utm_zone_1_has_true_hectares(tmp_path: Path) -> None:
    from affine import Affine

    world = small_world(tmp_path, size=96, classes=2)
    place = {"crs": "EPSG:32601", "transform": Affine(10.0, 0.0, 165_600.0, 0.0, -10.0, 100_000.0)}
    write_raster(scene(world), bands(world), nodata=-9999.0, **place)
    write_raster(world.root / "labels.tif", world.truth, nodata=255, **place)
    world.change(grid={"crs": "EPSG:32601"})
    world.run("run", "--area", "world")
    # UTM stretches by up to 0.1 % beyond the edge of its zone, so true hectares differ from the grid's by twice that.
    assert mapped_hectares(world) == pytest.approx(96 * 96 * 0.01, rel=5e-3)


def mapped_hectares(world: World) -> float:
    return float(gpd.read_file(world.data / "map" / "classes.gpkg", layer="classes")["hectares"].sum())


def test_a_scene_of_exactly_one_tile(tmp_path: Path) -> None:
    import rasterio

    world = small_world(tmp_path, size=64, classes=2)
    assert world.config()["grid"]["tile"] == 64
    world.run("run", "--area", "world")
    with rasterio.open(world.data / "map" / "classes.tif") as layer:
        assert layer.shape == (64, 64)
        assert (layer.read(1) == world.truth + 1).mean() > 0.98


def test_a_scene_smaller_than_a_tile(tmp_path: Path) -> None:
    import rasterio

    world = small_world(tmp_path, size=48, classes=2)
    world.change(grid={"tile": 256}, label={"block": 80.0})
    world.run("run", "--area", "world")
    with rasterio.open(world.data / "map" / "classes.tif") as layer:
        assert layer.shape == (48, 48)
        assert (layer.read(1) == world.truth + 1).mean() > 0.98
