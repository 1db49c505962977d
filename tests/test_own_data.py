"""A user's own data: `init` writes a config that `run` takes unchanged, whatever the layout of scenes and labels."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import geopandas as gpd
import numpy as np
import pytest
import yaml
from shapely.geometry import Point, box

from tests.worlds import CRS, ORIGIN, RESOLUTION, World, patchwork, separable, small_world, write_raster

SIZE, PATCH = 192, 16


def scenes(root: Path, layout: str, truth: np.ndarray) -> str:
    """Write the scene in one of three layouts; returns the pattern for `init`."""
    bands = separable(truth, 0)
    if layout == "one file":
        write_raster(root / "scenes" / "scene_20240601.tif", bands, nodata=-9999.0)
        return "scenes/*.tif"
    for number, band in enumerate(bands, start=1):
        write_raster(root / "scenes" / f"T33_20240601_B{number:02d}_10m.tif", band, nodata=-9999.0)
    if layout == "two resolutions":
        from affine import Affine

        coarse = bands[2].reshape(SIZE // 2, 2, SIZE // 2, 2).mean(axis=(1, 3)).astype(np.float32)
        (root / "scenes" / "T33_20240601_B03_10m.tif").unlink()
        place = Affine(2 * RESOLUTION, 0.0, ORIGIN[0], 0.0, -2 * RESOLUTION, ORIGIN[1])
        write_raster(root / "scenes" / "T33_20240601_B11_20m.tif", coarse, nodata=-9999.0, transform=place)
    return "scenes/*.tif"


def labels(root: Path, kind: str, truth: np.ndarray) -> tuple[str, tuple[str, ...]]:
    """Write labels of every patch; returns the file and the options for `init`."""
    if kind == "raster":
        write_raster(root / "labels.tif", truth, nodata=255)
        return "labels.tif", ()
    rows, cols = np.mgrid[0:SIZE:PATCH, 0:SIZE:PATCH].reshape(2, -1)
    x, y = ORIGIN[0] + cols * RESOLUTION, ORIGIN[1] - rows * RESOLUTION
    side = PATCH * RESOLUTION
    names = np.array(["crop", "grass"])[truth[rows, cols]]
    if kind == "points":
        shapes: list[Any] = [
            Point(a + side * u, b - side * v) for a, b in zip(x, y, strict=True) for u in (0.3, 0.7) for v in (0.3, 0.7)
        ]
        names = np.repeat(names, 4)
    else:
        shapes = [box(a + 20, b - side + 20, a + side - 20, b - 20) for a, b in zip(x, y, strict=True)]
    table = gpd.GeoDataFrame({"crop": names}, geometry=shapes, crs=CRS)
    table.to_crs("EPSG:4326" if kind == "polygons elsewhere" else CRS).to_file(root / "labels.gpkg")
    return "labels.gpkg", ("--field", "crop")


@pytest.mark.parametrize(
    ("layout", "kind"),
    [
        ("one file", "polygons"),
        ("file a band", "points"),
        ("two resolutions", "polygons elsewhere"),
        ("one file", "raster"),
    ],
)
def test_init_writes_a_config_that_runs(tmp_path: Path, layout: str, kind: str) -> None:
    truth = patchwork((SIZE, SIZE), 2, PATCH, 5)
    (tmp_path / "configs").mkdir()
    world = World(tmp_path, truth)
    pattern = scenes(tmp_path, layout, truth)
    file, options = labels(tmp_path, kind, truth)
    world.run("init", "world", "--scenes", pattern, "--labels", file, *options)
    config = yaml.safe_load((tmp_path / "configs" / "world.yaml").read_text())
    assert config["grid"]["resolution"] == RESOLUTION
    assert len(config["classes"]) == 2
    world.run("run", "--area", "world", "--set", "train.models=[rf]", "--set", "train.rf.trees=20")
    import rasterio

    with rasterio.open(world.data / "map" / "classes.tif") as layer:
        mapped = layer.read(1)
        assert layer.res == (RESOLUTION, RESOLUTION)
    codes = {entry["name"]: entry["code"] for entry in config["classes"]}
    first = codes.get("crop", config["classes"][0]["code"])
    assert ((mapped == first) == (truth == 0)).mean() > 0.95


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> World:
    world = small_world(tmp_path_factory.mktemp("trained"), size=96, classes=2)
    world.run("run", "--area", "world")
    return world


def test_a_model_maps_another_area_and_refuses_scenes_that_do_not_fit(tmp_path: Path, trained: World) -> None:
    import rasterio

    world = small_world(tmp_path, size=64, classes=2)
    config = world.config()
    for name in ("label", "train"):
        del config[name]
    config["given"] = {"model": str(trained.data / "model")}
    (world.root / "configs" / "world.yaml").write_text(yaml.safe_dump(config))
    done = world.run("run", "--area", "world")
    assert "not measured here" in done.stdout
    assert not (world.data / "model").exists()
    with rasterio.open(world.data / "map" / "classes.tif") as layer:
        assert set(np.unique(layer.read(1))) <= {1, 2}
    before = (world.data / "map" / "classes.tif").read_bytes()

    for spoilt in ({"grid": {"resolution": 5.0}}, {"ingest": {"bands": {"b3": 1, "b2": 2, "b1": 3}}}):
        world.change(**spoilt)
        refused = world.run("run", "--area", "world", check=False)
        assert refused.returncode == 2
        assert len(refused.stderr.strip().splitlines()) == 1, refused.stderr
        assert (world.data / "map" / "classes.tif").read_bytes() == before
        (world.root / "configs" / "world.yaml").write_text(yaml.safe_dump(config))


def test_a_new_date_is_mapped_by_the_batch_with_the_model_that_stands(tmp_path: Path) -> None:
    import rasterio

    truth = patchwork((SIZE, SIZE), 2, PATCH, 5)
    (tmp_path / "configs").mkdir()
    world = World(tmp_path, truth)
    pattern, (file, _) = scenes(tmp_path, "one file", truth), labels(tmp_path, "raster", truth)
    world.run("init", "world", "--scenes", pattern, "--labels", file)
    world.change(train={"models": ["rf"], "rf": {"trees": 20}})
    world.run("batch")
    model = (world.data / "model" / "rf" / "model.onnx").read_bytes()

    # On the next date every patch is of the other class.
    later = 1 - truth
    write_raster(tmp_path / "scenes" / "scene_20240701.tif", separable(later, 0), nodata=-9999.0)
    assert "model kept" in world.run("batch").stdout
    assert (world.data / "model" / "rf" / "model.onnx").read_bytes() == model
    with rasterio.open(world.data / "map" / "classes.tif") as layer:
        mapped = layer.read(1)
    codes = sorted(entry["code"] for entry in world.config()["classes"])
    assert (mapped == np.array(codes)[later]).mean() > 0.95
    assert "up to date" in world.run("batch").stdout


def test_the_map_is_the_same_from_threads_processes_and_a_scheduler(tmp_path: Path, trained: World) -> None:
    import shutil

    from dask.distributed import LocalCluster

    root = tmp_path / "copy"
    shutil.copytree(trained.root, root)
    world = World(root, trained.truth)
    world.change(classify={"window": 32, "overlap": 8, "rows": 1})
    world.run("run", "classify", "--area", "world")
    layers = [world.data / "classes" / name for name in ("classes.tif", "confidence.tif")]
    threads = [layer.read_bytes() for layer in layers]

    world.run("clean", "classify", "--area", "world")
    world.run("run", "classify", "--area", "world", "--set", "cluster.kind=local", "--set", "cluster.workers=2")
    assert [layer.read_bytes() for layer in layers] == threads

    world.run("clean", "classify", "--area", "world")
    with LocalCluster(n_workers=2, threads_per_worker=1, dashboard_address=None) as cluster:
        settings = ("--set", "cluster.kind=address", "--set", f"cluster.address={cluster.scheduler_address}")
        world.run("run", "classify", "--area", "world", *settings)
    assert [layer.read_bytes() for layer in layers] == threads


def test_an_independent_test_set_is_scored_apart_and_never_trained_on(tmp_path: Path) -> None:
    world = small_world(tmp_path, size=96, classes=2)
    apart = np.full(world.truth.shape, 255, np.uint8)
    apart[:32, :32] = world.truth[:32, :32]
    write_raster(world.root / "apart.tif", apart, nodata=255)
    world.change(label={"test": "apart.tif"})
    world.run("run", "evaluate", "--area", "world")
    found = json.loads((world.data / "scores" / "scores.json").read_text())["independent"]
    assert found["pixels"] == 32 * 32
    assert found["models"]["rf"]["overall_accuracy"]["value"] > 0.95
