"""Bad input through the installed command: one clear sentence, a non-zero exit, the earlier artifact untouched."""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import warnings
from collections.abc import Callable
from pathlib import Path

import geopandas as gpd
import numpy as np
import pytest
from shapely.geometry import Polygon, box

from tests.worlds import CRS, ORIGIN, World, small_world, write_raster

SCENE = Path("scenes/scene_20240601.tif")


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> World:
    world = small_world(tmp_path_factory.mktemp("finished"), size=96, classes=2)
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


def polygons(world: World, shapes: list[Polygon], kinds: list[int], crs: str | None = CRS, field: str = "kind") -> None:
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
    world.change(select={"method": "dqn"})


def unreadable_yaml(world: World) -> None:
    (world.root / "configs" / "world.yaml").write_text("title: [unclosed\n")


CASES: list[tuple[Callable[[World], None], str, list[str]]] = [
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
    (unknown_method, "select", ["select.method", "dqn", "none"]),
    (unreadable_yaml, "label", ["world.yaml"]),
]


def refused(done: subprocess.CompletedProcess[str], words: list[str]) -> None:
    assert done.returncode != 0, done.stdout
    said = done.stderr.strip()
    assert "Traceback" not in said + done.stdout
    assert len([line for line in said.splitlines() if line.strip()]) == 1, said
    for word in words:
        assert word in said, said


@pytest.mark.parametrize(("spoil", "stage", "words"), CASES, ids=[case[0].__name__ for case in CASES])
def test_bad_input_gets_one_sentence_and_loses_nothing(
    tmp_path: Path, finished: World, spoil: Callable[[World], None], stage: str, words: list[str]
) -> None:
    root = tmp_path / "copy"
    shutil.copytree(finished.root, root)
    world = World(root, finished.truth)
    before = artifacts(world)
    spoil(world)
    refused(world.run("run", stage, "--area", "world", check=False), words)
    kept = artifacts(world)
    last = {"tile": ("data/world/tiles",), "label": ("data/world/samples",), "select": ("data/world/",)}[stage]
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
    assert "1 invalid" in done.stderr + done.stdout


def test_nan_and_infinity_are_nodata_and_counted(tmp_path: Path) -> None:
    from stages.formats.tiles import Tiles

    world = small_world(tmp_path, size=96, classes=2)
    values = bands(world)
    values[0, 3, 4], values[1, 5, 6] = np.nan, np.inf
    write_raster(scene(world), values, nodata=-9999.0)
    done = world.run("run", "tile", "--area", "world")
    assert "2" in done.stdout + done.stderr
    tiles = Tiles(world.data / "tiles")
    _, valid = tiles.read_channels(tiles.grid.whole)
    assert sorted(zip(*np.nonzero(~valid), strict=True)) == [(3, 4), (5, 6)]


def test_an_unwritable_data_folder_is_named(tmp_path: Path) -> None:
    world = small_world(tmp_path, size=96, classes=2)
    # Tests may run as root, whom no permission stops: a folder below a file can never be made.
    (world.root / "data").write_text("not a folder")
    refused(world.run("run", "ingest", "--area", "world", check=False), ["data"])


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
    import fcntl

    world = small_world(tmp_path, size=96, classes=2)
    world.run("run", "ingest", "--area", "world")
    with (world.data / ".lock").open("r+") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        refused(world.run("run", "tile", "--area", "world", check=False), ["world"])


@pytest.mark.parametrize(
    ("crs", "left", "top", "resolution"),
    [("EPSG:4326", 179.99, 1.0, 0.0001), ("EPSG:32601", 180_000.0, 100_000.0, 10.0)],
    ids=["geographic at the antimeridian", "UTM zone 1 at its western edge"],
)
def test_areas_are_right_in_any_crs(tmp_path: Path, crs: str, left: float, top: float, resolution: float) -> None:
    from affine import Affine

    world = small_world(tmp_path, size=96, classes=2)
    place = {"crs": crs, "transform": Affine(resolution, 0.0, left, 0.0, -resolution, top)}
    write_raster(scene(world), bands(world), nodata=-9999.0, **place)
    write_raster(world.root / "labels.tif", world.truth, nodata=255, **place)
    world.change(grid={"crs": crs, "resolution": resolution}, label={"block": 160.0})
    world.run("run", "--area", "world")
    table = gpd.read_file(world.data / "map" / "classes.gpkg", layer="classes")
    # 96 x 96 pixels of 10 m; 0.0001 degrees at 1 degree north are 11.130 m by 11.057 m.
    expected = 96 * 96 * (0.01 if resolution == 10 else 11.1301 * 11.0574 / 10_000)
    # UTM stretches by up to 0.1 % beyond the edge of its zone, so true hectares differ from the grid's by twice that.
    assert table["hectares"].sum() == pytest.approx(expected, rel=5e-3)


def test_a_scene_smaller_than_a_tile(tmp_path: Path) -> None:
    world = small_world(tmp_path, size=48, classes=2)
    world.change(grid={"tile": 256}, label={"block": 80.0})
    world.run("run", "--area", "world")
    assert (world.data / "map" / "classes.tif").is_file()
