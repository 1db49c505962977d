"""From a scene to a map through the installed command, on worlds whose truth is known."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np

from tests.worlds import World, make_world, patchwork, separable, small_world, textured

STAGES = ["ingest", "tile", "label", "select", "augment", "train", "evaluate", "classify", "export"]
MODELS = ["rf", "svm", "mlp", "cnn", "unet", "ensemble"]
#: Small enough for a test, large enough to learn these worlds.
CHIPS = {"epochs": 2, "steps": 100, "batch": 4, "chip": 32, "average_turns": False}
QUICK = {
    "rf": {"trees": 30, "leaf": [5]},
    "svm": {"pixels": 2000, "tuning_pixels": 1000},
    "mlp": {"epochs": 2, "steps": 80, "lr": 0.01},
    "cnn": CHIPS,
    "unet": {**CHIPS, "members": 1},
}


def scores(world: World) -> dict[str, Any]:
    result: dict[str, Any] = json.loads((world.data / "scores" / "scores.json").read_text())
    return result


def accuracies(world: World) -> dict[str, float]:
    return {name: entry["overall_accuracy"]["value"] for name, entry in scores(world)["models"].items()}


def read_map(world: World) -> np.ndarray:
    import rasterio

    with rasterio.open(world.data / "map" / "classes.tif") as layer:
        values: np.ndarray = layer.read(1)
    return values


def test_a_scene_becomes_a_map_and_a_second_run_does_nothing(tmp_path: Path) -> None:
    world = small_world(tmp_path)
    first = world.run("run", "--area", "world")
    assert (read_map(world) == world.truth + 1).mean() > 0.98
    for name in ("classes.tif", "confidence.tif", "classes.gpkg", "legend.png", "report.html"):
        assert (world.data / "map" / name).stat().st_size > 0
    assert "report.html" in first.stdout

    manifests = {p: p.read_bytes() for p in world.data.glob("*/manifest.json")}
    assert len(manifests) == len(STAGES)
    second = world.run("run", "--area", "world")
    assert second.stdout.count("up to date") >= len(STAGES)
    assert {p: p.read_bytes() for p in manifests} == manifests

    status = json.loads(world.run("status", "--area", "world", "--json").stdout)
    assert {entry["stage"]: entry["state"] for entry in status} == dict.fromkeys(STAGES, "fresh")
    world.change(export={"min_area": 0.5})
    status = json.loads(world.run("status", "--area", "world", "--json").stdout)
    states = {entry["stage"]: entry for entry in status}
    assert states["export"]["state"] == "stale"
    assert "export.min_area" in json.dumps(states["export"]["why"])
    assert states["classify"]["state"] == "fresh"


def test_a_world_separable_per_pixel_is_learned_by_every_model(tmp_path: Path) -> None:
    truth = patchwork((160, 160), 3, 16, 1)
    world = make_world(tmp_path, separable(truth, 1), truth)
    world.change(train={"models": MODELS, **QUICK})
    world.run("run", "evaluate", "--area", "world")
    found = accuracies(world)
    assert set(found) == {*MODELS, "majority"}
    assert found["majority"] < 0.5
    assert min(found[name] for name in MODELS) > 0.9, found


def test_texture_is_seen_by_models_with_a_neighbourhood_only(tmp_path: Path) -> None:
    truth = patchwork((192, 192), 2, 32, 2)
    world = make_world(tmp_path, textured(truth, 2), truth)
    # The baselines see single pixels here, as the network `mlp` does: windows would show them the texture.
    pixels = {name: {**QUICK[name], "windows": []} for name in ("rf", "svm")}
    world.change(label={"block": 320.0}, train={"models": MODELS, **QUICK, **pixels})
    world.run("run", "evaluate", "--area", "world")
    found = accuracies(world)
    assert max(found[name] for name in ("rf", "svm", "mlp")) < 0.75, found
    assert min(found[name] for name in ("cnn", "unet", "ensemble")) > 0.9, found


def test_shuffled_labels_teach_nothing(tmp_path: Path) -> None:
    truth = patchwork((128, 128), 2, 16, 3)
    # 70 % of the pixels are of class 0, wherever they lie.
    shuffled = (np.random.default_rng(3).random(truth.shape) < 0.3).astype(np.uint8)
    world = make_world(tmp_path, separable(truth, 3), truth, labels=shuffled)
    world.change(train={"models": MODELS, **QUICK, "epochs": 1})
    world.run("run", "evaluate", "--area", "world")
    found = accuracies(world)
    assert abs(found["majority"] - 0.7) < 0.02
    for name in MODELS:
        assert abs(found[name] - found["majority"]) < 0.03, found


def test_folds_pool_their_scores_and_refit_the_model(tmp_path: Path) -> None:
    world = small_world(tmp_path)
    world.change(label={"folds": 4})
    done = world.run("run", "--area", "world")
    assert scores(world)["pixels"] == world.truth.size
    assert "out of fold" in done.stdout
    assert "refitted" in done.stdout
    assert (read_map(world) == world.truth + 1).mean() > 0.98


def test_the_golden_map(tmp_path: Path) -> None:
    world = small_world(tmp_path, size=48, classes=2, seed=7)
    world.change(label={"block": 80.0})
    world.run("run", "--area", "world")
    golden = Path(__file__).parent / "golden" / "classes.txt"
    drawn = "\n".join("".join(map(str, row)) for row in read_map(world)) + "\n"
    assert drawn == golden.read_text()
