"""Scores on test labels only, against numbers worked out by hand."""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import Any

import dask
import numpy as np
import pytest
import rasterio

from stages import classify, evaluate
from stages.accuracy.confusion import confusion, scores_of
from stages.errors import ModelError
from stages.formats import maps
from stages.formats.samples import DROPPED, UNLABELLED, Part, Role, Samples
from stages.formats.scores import FILE, read_scores
from stages.formats.tiles import Tiles
from stages.formats.weights import CHOICE, write_choice
from stages.geo.grid import Grid
from tests.networks import write_network, write_samples, write_tiles

#: class k where channel k is the highest
HIGHEST = np.eye(3).reshape(3, 3, 1, 1) * 4.0


def _image(classes: np.ndarray) -> np.ndarray:
    """Draw an image on which `HIGHEST` maps ``classes``."""
    return np.stack([(classes == k).astype(np.float32) for k in range(3)])


def _model(folder: Path, names: tuple[str, ...] = ("tiny",), **card: Any) -> Path:
    for name in names:
        write_network(folder / name, HIGHEST, name=name, **card)
    write_choice(folder, names[-1], {name: {} for name in names}, split="elsewhere")
    return folder


def _scores(root: Path, own: bool = True, **settings: int) -> dict[str, Any]:
    """Evaluate the artifacts under a folder, the models being trained with its samples, or elsewhere."""
    choice = root / "model" / CHOICE
    if choice.is_file() and own:
        choice.write_text(json.dumps(json.loads(choice.read_text()) | {"split": Samples(root / "samples").split}))
    out = root / "scores"
    out.mkdir(exist_ok=True)
    config = evaluate.Config(**{"window": 32, "overlap": 8, "replicates": 200} | settings)
    evaluate.run(root / "tiles", root / "samples", root / "model", out, config)
    return read_scores(out)


@pytest.fixture
def world(tmp_path: Path) -> tuple[Path, np.ndarray, np.ndarray]:
    """48 x 64 pixels in blocks of 8; what the model maps, and labels that agree in about three of four pixels."""
    rng = np.random.default_rng(5)
    mapped = rng.integers(0, 3, (48, 64)).astype(np.uint8)
    target = np.where(rng.random((48, 64)) < 0.75, mapped, rng.integers(0, 3, (48, 64))).astype(np.uint8)
    write_tiles(tmp_path / "tiles", _image(mapped))
    _model(tmp_path / "model")
    return tmp_path, mapped, target


def test_only_test_labels_are_scored(world: tuple[Path, np.ndarray, np.ndarray]) -> None:
    root, mapped, target = world
    grid = Tiles(root / "tiles").grid
    roles = np.resize([Role.TRAIN, Role.TEST, Role.BUFFER, Role.TEST, Role.MIXED, Role.VALIDATION], (48, 64))
    target = np.where(roles == Role.TEST, target, 2 - target)  # whoever scores other labels gets other numbers
    write_samples(root / "samples", grid, target, block=8, role=roles[None])
    found = _scores(root)
    test = roles == Role.TEST
    expected = scores_of(confusion(target[test], mapped[test], 3))
    assert found["pixels"] == test.sum()
    assert found["blocks"] == 48
    assert found["best"] == "tiny"
    model = found["models"]["tiny"]
    for name in ("overall_accuracy", "balanced_accuracy", "macro_f1", "kappa"):
        assert model[name]["value"] == pytest.approx(expected[name])
        assert model[name]["low"] < model[name]["value"] < model[name]["high"]
    for k, name in enumerate(("c0", "c1", "c2")):
        for measure in ("precision", "recall", "f1", "iou"):
            assert model["classes"][name][measure] == pytest.approx(expected[measure][k])
            low, high = model["intervals"][name][measure]
            assert low < expected[measure][k] < high
        pixels = (target[test] == k).sum(), (mapped[test] == k).sum()
        assert model["classes"][name]["pixels"] == pixels[0]
        assert model["classes"][name]["reference_ha"] == pytest.approx(0.01 * pixels[0], rel=2e-3)
        assert model["classes"][name]["mapped_ha"] == pytest.approx(0.01 * pixels[1], rel=2e-3)
        assert model["classes"][name]["ratio"] == pytest.approx(pixels[1] / pixels[0], rel=1e-3)
    np.testing.assert_array_equal(model["confusion"], confusion(target[test], mapped[test], 3))
    # Every pixel is mapped with the same confidence e^4 / (e^4 + 2).
    assert model["ece"] == pytest.approx(abs(np.exp(4) / (np.exp(4) + 2) - expected["overall_accuracy"]), abs=1e-5)
    assert set(found["models"]) == {"tiny", "majority"}
    assert found["estimates"].startswith("expected agreement")
    assert found["warning"] is None
    assert found["independent"] is None


def test_the_majority_class_is_that_of_the_training_labels(world: tuple[Path, np.ndarray, np.ndarray]) -> None:
    root, _, target = world
    write_samples(root / "samples", Tiles(root / "tiles").grid, target, block=8, class_pixels=[10, 60, 30])
    found = _scores(root)["models"]["majority"]
    share = (target == 1).mean()
    assert found["overall_accuracy"]["value"] == pytest.approx(share)
    assert found["balanced_accuracy"]["value"] == pytest.approx(1 / 3)
    assert found["kappa"]["value"] == pytest.approx(0.0, abs=1e-12)
    assert found["ece"] == pytest.approx(abs(0.6 - share), abs=1e-5)
    assert found["classes"]["c0"]["precision"] is None  # mapped nowhere
    assert found["classes"]["c0"]["recall"] == 0.0


def test_dropped_classes_are_errors_in_the_second_accuracy_only(tmp_path: Path) -> None:
    write_tiles(tmp_path / "tiles", _image(np.zeros((8, 16), int)))
    _model(tmp_path / "model")
    target = np.zeros((8, 16), np.uint8)
    target[:, 8:], target[0, 0] = DROPPED, 2  # half of it dropped, one pixel wrong
    write_samples(tmp_path / "samples", Tiles(tmp_path / "tiles").grid, target, block=8)
    found = _scores(tmp_path)
    model = found["models"]["tiny"]
    assert (found["pixels"], found["dropped_pixels"], found["blocks"]) == (64, 64, 2)
    assert model["overall_accuracy"]["value"] == 63 / 64
    assert model["overall_accuracy_with_dropped"]["value"] == 63 / 128
    assert model["overall_accuracy_with_dropped"]["low"] == 0.0  # both draws from the block that is dropped
    assert "below 30" in found["warning"]


def test_boundaries_by_hand() -> None:
    labels = np.array([[0, 0, 0, 0], [0, 0, 0, 1], [0, 0, UNLABELLED, UNLABELLED], [0, 0, UNLABELLED, DROPPED]])
    np.testing.assert_array_equal(
        evaluate.boundary_of(labels.astype(np.uint8)),
        np.array([[0, 0, 1, 1], [0, 0, 1, 1], [0, 0, 1, 1], [0, 0, 1, 0]], bool),
    )


def test_inner_and_boundary_pixels_are_scored_apart(tmp_path: Path) -> None:
    target = np.zeros((40, 40), np.uint8)
    target[:, 20:] = 1
    mapped = target.copy()
    mapped[:, 20] = 0  # wrong along one side of the boundary
    mapped[0, :5] = 1  # and in five inner pixels
    write_tiles(tmp_path / "tiles", _image(mapped), side=16)
    write_network(tmp_path / "model", HIGHEST[:2])
    write_samples(tmp_path / "samples", Tiles(tmp_path / "tiles").grid, target, block=10)
    found = _scores(tmp_path, window=16)["models"]["tiny"]
    assert found["boundary"]["pixels"] == 80
    assert found["boundary"]["overall_accuracy"]["value"] == 0.5
    assert found["inner"]["pixels"] == 1520
    assert found["inner"]["overall_accuracy"]["value"] == pytest.approx(1515 / 1520)
    assert found["overall_accuracy"]["value"] == pytest.approx(1555 / 1600)


def test_folds_are_pooled_and_each_is_scored_by_the_model_that_did_not_see_it(tmp_path: Path) -> None:
    target = np.zeros((16, 32), np.uint8)
    target[:, 16:] = 1
    write_tiles(tmp_path / "tiles", _image(target))
    left, right = Part.TEST, Part.TRAIN
    roles = np.full((2, 16, 32), Role.TRAIN)
    roles[0, :, :16] = roles[1, :, 16:] = Role.TEST
    write_samples(tmp_path / "samples", Tiles(tmp_path / "tiles").grid, target, block=16, role=roles,
                  parts=[[left, right], [right, left]], crossed=True)  # fmt: skip
    # Of the folds' models the first maps class 1 everywhere, the second too: right in the second fold only.
    for fold in range(2):
        write_network(tmp_path / "model" / "folds" / str(fold) / "tiny", np.zeros((2, 3, 1, 1)), bias=(0, 9))
    # The refitted model is always right, and must not be asked.
    write_network(tmp_path / "model" / "tiny", HIGHEST[:2])
    write_choice(tmp_path / "model", "tiny", {"tiny": {}}, split="elsewhere")
    elsewhere = _scores(tmp_path, own=False)
    assert elsewhere["models"]["tiny"]["overall_accuracy"]["value"] == 1.0
    assert elsewhere["pooled"] is None
    found = _scores(tmp_path)
    assert found["pixels"] == target.size
    assert found["folds"] == 2
    assert "refitted" in found["pooled"]
    assert found["models"]["tiny"]["confusion"] == [[0, 256], [0, 256]]


def test_with_folds_the_independent_test_set_is_for_refitted_models(tmp_path: Path) -> None:
    target = np.zeros((16, 32), np.uint8)
    target[:, 16:] = 1
    write_tiles(tmp_path / "tiles", _image(target))
    independent = np.full((16, 32), UNLABELLED, np.uint8)
    independent[:2] = target[:2]
    roles = np.full((2, 16, 32), Role.TRAIN)
    roles[0, :, :16] = roles[1, :, 16:] = Role.TEST
    roles[:, :2] = Role.INDEPENDENT
    write_samples(tmp_path / "samples", Tiles(tmp_path / "tiles").grid, target, block=16, role=roles, crossed=True,
                  independent=independent, parts=[[Part.TEST, Part.TRAIN], [Part.TRAIN, Part.TEST]])  # fmt: skip
    for name in ("one", "two"):
        for fold in range(2):  # class 1 everywhere
            write_network(tmp_path / "model" / "folds" / str(fold) / name, np.zeros((2, 3, 1, 1)), bias=(0, 9))
    write_network(tmp_path / "model" / "two", HIGHEST[:2])
    write_choice(tmp_path / "model", "two", {"one": {}, "two": {}}, split="elsewhere")
    found = _scores(tmp_path)
    assert set(found["models"]) == {"one", "two", "majority"}
    assert found["models"]["two"]["overall_accuracy"]["value"] == 0.5
    assert set(found["independent"]["models"]) == {"two", "majority"}
    assert found["independent"]["models"]["two"]["overall_accuracy"]["value"] == 1.0
    assert "table" not in found
    assert "inner" in found["models"]["two"]


def test_the_independent_test_set_is_scored_apart_by_the_model_of_the_map(tmp_path: Path) -> None:
    mapped = np.tile(np.repeat([0, 1, 2], 8), (24, 1)).astype(np.uint8)
    write_tiles(tmp_path / "tiles", _image(mapped))
    independent = np.full((24, 24), UNLABELLED, np.uint8)
    independent[:2] = 1  # right in 16 of 48 pixels
    independent[2, :4] = DROPPED
    roles = np.where(independent == UNLABELLED, Role.TEST, Role.INDEPENDENT)[None]
    write_samples(tmp_path / "samples", Tiles(tmp_path / "tiles").grid, mapped, block=8, role=roles,
                  independent=independent)  # fmt: skip
    _model(tmp_path / "model", ("one", "two"))
    # Of models trained elsewhere only the map's is asked: what the others held out is not known here.
    assert set(_scores(tmp_path, own=False)["models"]) == {"two", "majority"}
    found = _scores(tmp_path)
    assert found["best"] == "two"
    assert found["pixels"] == 24 * 24 - 52
    assert found["models"]["two"]["overall_accuracy"]["value"] == 1.0
    apart = found["independent"]
    assert (apart["pixels"], apart["dropped_pixels"], apart["blocks"]) == (48, 4, 3)
    assert apart["models"]["one"]["overall_accuracy"]["value"] == pytest.approx(1 / 3)


def test_a_bare_model_folder_is_the_only_candidate(world: tuple[Path, np.ndarray, np.ndarray]) -> None:
    root, mapped, target = world
    write_samples(root / "samples", Tiles(root / "tiles").grid, target, block=8)
    out = root / "bare"
    out.mkdir()
    evaluate.run(root / "tiles", root / "samples", root / "model" / "tiny", out, evaluate.Config(replicates=100))
    found = read_scores(out)
    assert found["best"] == "tiny"
    assert found["models"]["tiny"]["overall_accuracy"]["value"] == pytest.approx((mapped == target).mean())


def test_scores_are_those_of_the_map(tmp_path: Path) -> None:
    rng = np.random.default_rng(2)
    target = rng.integers(0, 3, (70, 90)).astype(np.uint8)
    write_tiles(tmp_path / "tiles", rng.normal(size=(2, 70, 90)), rng.random((70, 90)) < 0.9)
    write_network(tmp_path / "model", rng.normal(size=(3, 2, 9, 9)))
    role = np.where(rng.random((70, 90)) < 0.05, Role.TEST, Role.TRAIN)[None]
    write_samples(tmp_path / "samples", Tiles(tmp_path / "tiles").grid, target, block=10, role=role)
    windows = {"window": 32, "overlap": 16}
    (tmp_path / "map").mkdir()
    classify.run(tmp_path / "tiles", tmp_path / "model", tmp_path / "map", classify.Config(**windows))
    with rasterio.open(tmp_path / "map" / maps.CLASSES) as layer:
        mapped = layer.read(1)
    test = role[0] == Role.TEST
    expected = confusion(target[test], mapped[test], 3)
    with dask.config.set(scheduler="synchronous"):
        found = _scores(tmp_path, rows=1, **windows)
    np.testing.assert_array_equal(found["models"]["tiny"]["confusion"], expected)
    assert found == _scores(tmp_path, rows=9, **windows)  # whoever computes what


def test_undefined_scores_are_null_and_the_file_is_plain_json(tmp_path: Path) -> None:
    write_tiles(tmp_path / "tiles", _image(np.zeros((8, 8), int)))
    _model(tmp_path / "model")
    target = np.zeros((8, 8), np.uint8)
    samples = write_samples(tmp_path / "samples", Tiles(tmp_path / "tiles").grid, target, block=8)
    Samples.write_summary(samples.folder, samples.summary | {"classes": ["c0", "c1", "c2"]})
    Samples.write_statistics(samples.folder, [{"class_pixels": [3, 2, 1]}] * 2)
    found = _scores(tmp_path)["models"]["tiny"]
    assert found["overall_accuracy"] == {"value": 1.0, "low": 1.0, "high": 1.0}
    assert found["kappa"]["value"] is None
    assert found["classes"]["c2"]["recall"] is None
    assert found["classes"]["c2"]["ratio"] is None
    assert found["boundary"]["overall_accuracy"]["value"] is None
    text = (tmp_path / "scores" / FILE).read_text()
    json.loads(text, parse_constant=lambda name: pytest.fail(f"{name} is not JSON"))


def test_a_model_of_other_classes_is_refused(world: tuple[Path, np.ndarray, np.ndarray]) -> None:
    root, _, target = world
    samples = write_samples(root / "samples", Tiles(root / "tiles").grid, target, block=8)
    Samples.write_summary(samples.folder, samples.summary | {"classes": ["c1", "c0", "c2"]})
    with pytest.raises(ModelError, match="maps c0, c1, c2, but the labels hold c1, c0, c2"):
        _scores(root)


def test_the_log_shows_one_aligned_table(
    world: tuple[Path, np.ndarray, np.ndarray], caplog: pytest.LogCaptureFixture
) -> None:
    root, _, target = world
    write_samples(root / "samples", Tiles(root / "tiles").grid, target, block=8)
    with caplog.at_level(logging.INFO, logger="stages.evaluate"):
        found = _scores(root)
    table = caplog.records[-1].getMessage().splitlines()[1:-1]
    assert len({len(line) for line in table}) == 1
    assert f"{found['models']['tiny']['overall_accuracy']['value']:.3f} [" in table[1]
    assert table[1].startswith("tiny *")
    assert table[2].startswith("majority ")


def _seasons(root: Path, targets: list[np.ndarray], mapped: list[np.ndarray], **summary: Any) -> Samples:
    """Tiles and test labels (season, y, x) of several years in blocks of 8 pixels."""
    grid = Grid("EPSG:32633", 10.0, 500_000.0, 5_400_000.0, *reversed(targets[0].shape), 64)
    for name in ("tiles", "samples"):
        (root / name).mkdir()
    dates = tuple(str(2017 + k) for k in range(len(targets)))
    tiles = Tiles.create(root / "tiles", grid, ("red", "nir", "swir1"), dates, "digital numbers", seasons=len(dates))
    cube = np.stack([_image(classes) for classes in mapped])
    tiles.write(grid.whole, cube, np.ones((len(dates), *grid.shape), bool))
    Samples.layout(root / "samples", grid, 1, len(dates))
    block = np.add.outer(np.arange(grid.height) // 8 * (grid.width // 8), np.arange(grid.width) // 8).astype(np.int32)
    for season, target in enumerate(targets):
        role = np.where(target == UNLABELLED, Role.NONE, Role.TEST).astype(np.uint8)[None]
        Samples.write(root / "samples", grid.whole, season, target=target, block=block, role=role)
    parts = np.full((1, len(dates), block.max() + 1), Part.TEST).tolist()
    Samples.write_summary(root / "samples", {"classes": ["c0", "c1", "c2"], "folds": 1, "crossed": False,
                                             "parts": parts, "season_names": dates, **summary})  # fmt: skip
    Samples.write_statistics(root / "samples", [{"class_pixels": [3, 2, 1]}] * 2)
    return Samples(root / "samples")


def test_every_season_is_scored_with_its_own_image_and_labels(tmp_path: Path) -> None:
    rng = np.random.default_rng(3)
    mapped = [rng.integers(0, 3, (32, 48)).astype(np.uint8) for _ in range(3)]
    targets = [one.copy() for one in mapped]
    targets[0][:, :12] = (targets[0][:, :12] + 1) % 3  # a quarter wrong in the first year
    targets[1][:] = UNLABELLED
    targets[2][:, 24:] = UNLABELLED  # half as many labels in the last, all right
    _seasons(tmp_path, targets, mapped)
    _model(tmp_path / "model")
    found = _scores(tmp_path)
    assert found["pixels"] == 32 * 48 + 32 * 24
    assert found["blocks"] == 24  # the same ground in both years
    assert found["models"]["tiny"]["overall_accuracy"]["value"] == pytest.approx(1 - 32 * 12 / (32 * 72))
    assert list(found["by_season"]) == ["2017", "2019"]
    first, last = (found["by_season"][year]["tiny"] for year in ("2017", "2019"))
    assert (first["pixels"], first["overall_accuracy"]["value"]) == (32 * 48, 0.75)
    assert (last["pixels"], last["overall_accuracy"]["value"]) == (32 * 24, 1.0)
    assert set(found["by_season"]["2017"]) == {"tiny", "majority"}
    assert found["split_by"] == "blocks"


def test_scores_of_a_random_split_say_that_they_are_too_good(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    mapped = np.zeros((48, 64), np.uint8)
    _seasons(tmp_path, [mapped], [mapped], split_by="random")
    _model(tmp_path / "model")
    found = _scores(tmp_path)
    assert (found["split_by"], found["warning"]) == ("random", evaluate.RANDOM)
    assert "scores are too good: labels were divided at random" in caplog.text
    assert "by_season" not in found
