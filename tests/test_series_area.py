"""An area that is a table of series, from ingest to scores, and the map that its model makes of a cube elsewhere."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from pydantic import ValidationError

from pipeline.config import load_area
from stages import augment, classify, evaluate, ingest, label, select, tile, train
from stages.errors import LabelError, SceneError, SettingError
from stages.formats.samples import Role, Samples
from stages.formats.tiles import Tiles
from stages.formats.weights import ITEM, ONNX, read_choice
from stages.geo.grid import Grid
from stages.settings import MapClass
from stages.training.ensemble import Ensemble
from tests.worlds import CRS, ORIGIN

DATES = ("2018-03-01", "2018-06-01", "2018-09-01")
CLASSES = tuple(
    MapClass(name=name, labels=(name,), code=i + 1, color="#123456") for i, name in enumerate(("early", "late"))
)


def season(kind: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Series (sample, step, band) that differ by when they are green."""
    curve = np.array([[0.8, 0.5, 0.2], [0.2, 0.5, 0.8]])[kind]
    return np.stack([curve, 1 - curve], axis=2) + rng.normal(0, 0.05, (len(kind), 3, 2))


def table(path: Path, samples: int = 300, seed: int = 0) -> pd.DataFrame:
    """A long table of samples scattered over 20 km."""
    rng = np.random.default_rng(seed)
    kind = rng.integers(0, 2, samples)
    values = season(kind, rng)
    frame = pd.DataFrame({
        "id": np.repeat(np.arange(samples), 3), "when": np.tile(DATES, samples),
        "class": np.repeat(np.array(["early", "late"])[kind], 3),
        "lon": np.repeat(20 + rng.random(samples) * 0.3, 3), "lat": np.repeat(45 + rng.random(samples) * 0.2, 3),
        "nir": values[:, :, 0].ravel(), "red": values[:, :, 1].ravel(),
    })  # fmt: skip
    frame.to_csv(path, index=False)
    return frame


def entry(path: Path, **settings: object) -> dict[str, object]:
    return {"file": path, "layout": "long", "sample": "id", "date": "when", "label": "class", "longitude": "lon",
            "latitude": "lat", "scaled": True, **settings}  # fmt: skip


def lay(root: Path, settings: dict[str, object], **labels: object) -> tuple[Tiles, Samples]:
    for name in ("scenes", "tiles", "samples", "bands", "synthetic", "model", "scores"):
        (root / name).mkdir(parents=True)
    ingest.run(root / "scenes", ingest.Config.model_validate({"table": settings}))
    tile.run(root / "scenes", root / "tiles", tile.Config())
    values = {"classes": CLASSES, "block": 2000.0, "buffer": 0.0, **labels}
    label.run(root / "tiles", root / "samples", label.Config.model_validate(values))
    select.run(root / "tiles", root / "samples", root / "bands", select.Config())
    augment.run(root / "tiles", root / "samples", root / "bands", root / "synthetic", augment.Config())
    return Tiles(root / "tiles"), Samples(root / "samples")


def learn(root: Path, *models: str, **settings: object) -> dict[str, Any]:
    for name in ("model", "scores"):
        shutil.rmtree(root / name)
        (root / name).mkdir()
    config = {"classes": CLASSES, "models": models, "rf": {"windows": [], "trees": 20}, "epochs": 3, **settings}
    train.run(root / "tiles", root / "samples", root / "bands", root / "synthetic", root / "model",
              train.Config.model_validate(config))  # fmt: skip
    evaluate.run(root / "tiles", root / "samples", root / "model", root / "scores", evaluate.Config(replicates=100))
    found: dict[str, Any] = json.loads((root / "scores" / "scores.json").read_text())
    return found


def test_a_table_trains_models_that_map_a_cube(tmp_path: Path) -> None:
    table(tmp_path / "train.csv")
    test = table(tmp_path / "test.csv", 60, seed=1)
    lay(tmp_path / "area", entry(tmp_path / "train.csv", test=tmp_path / "test.csv", scaled=True))
    found = learn(tmp_path / "area", "rf", "lstm")
    assert found["models"]["rf"]["overall_accuracy"]["value"] > 0.95
    assert found["independent"]["pixels"] == len(test) // 3
    assert found["independent"]["models"]["rf"]["overall_accuracy"]["value"] > 0.95
    assert found["independent"].get("without_copies") is None
    rng = np.random.default_rng(5)
    kind = rng.integers(0, 2, (32, 32))
    (tmp_path / "cube").mkdir()
    cube = Tiles.create(tmp_path / "cube", Grid(CRS, 10.0, *ORIGIN, 32, 32, 32), ("nir", "red"), DATES, "scaled")
    values = season(kind.ravel(), rng).reshape(32, 32, 3, 2)
    cube.write(cube.grid.whole, np.moveaxis(values, (0, 1), (2, 3)).astype(np.float32), np.ones((3, 32, 32), bool))
    (tmp_path / "classes").mkdir()
    classify.run(tmp_path / "cube", tmp_path / "area" / "model", tmp_path / "classes", classify.Config())
    import rasterio

    with rasterio.open(next((tmp_path / "classes").glob("classes.tif"))) as source:
        mapped = source.read(1)
    assert (mapped == kind).mean() > 0.95


def test_scores_are_given_without_copied_series_too(tmp_path: Path) -> None:
    rows = table(tmp_path / "train.csv")
    other = table(tmp_path / "test.csv", 40, seed=1)
    some = rows[rows["id"] < 10].assign(id=lambda found: found["id"] + 1000)
    pd.concat([other, some]).to_csv(tmp_path / "test.csv", index=False)
    lay(tmp_path / "area", entry(tmp_path / "train.csv", test=tmp_path / "test.csv"))
    lay(tmp_path / "whole", entry(tmp_path / "train.csv", test=tmp_path / "test.csv"),
        shares={"train": 0.8, "validation": 0.2, "test": 0})  # fmt: skip
    found = learn(tmp_path / "whole", "rf")
    assert (found["pixels"], found["independent"]["pixels"]) == (0, 50)
    with pytest.raises(LabelError, match="no independent test set"):
        lay(tmp_path / "none", entry(tmp_path / "train.csv"), shares={"train": 0.8, "validation": 0.2, "test": 0})
    independent = learn(tmp_path / "area", "rf")["independent"]
    assert independent["pixels"] == 50
    assert independent["without_copies"]["pixels"] == 40


def test_without_a_test_part_the_independent_one_is_for_models_that_learnt_from_all(tmp_path: Path) -> None:
    rows = table(tmp_path / "train.csv", 120)
    some = rows[rows["id"] < 10].assign(id=lambda found: found["id"] + 1000)
    pd.concat([table(tmp_path / "test.csv", 40, seed=1), some]).to_csv(tmp_path / "test.csv", index=False)
    root, seven = tmp_path / "area", {"train": 0.7, "validation": 0.3, "test": 0}
    lay(root, entry(tmp_path / "train.csv", test=tmp_path / "test.csv"), shares=seven)
    small = {"svm": {"windows": [], "cost": [1.0], "gamma": [1.0]}, "ensemble": {"of": ["rf", "svm"]}, "model": "rf"}
    found = learn(root, "rf", "svm", "ensemble", **small)
    assert set(found["independent"]["models"]) == {"rf", "majority"}
    counts = Samples(root / "samples").statistics
    assert sum(counts(0)["class_pixels"]) < sum(counts(None)["class_pixels"]) == 120
    assert (root / "model" / "folds" / "0" / "svm" / ITEM).is_file()
    rf, svm, _ = found["table"]
    told = read_choice(root / "model")["candidates"]
    assert svm == {"model": "svm", "validation": told["svm"]["overall_accuracy"], "test": None, "without_copies": None}
    assert rf["test"] == found["independent"]["models"]["rf"]["overall_accuracy"]["value"]
    assert rf["without_copies"] == pytest.approx((rf["test"] * 50 - 10) / 40)  # all copies are known by heart
    assert not {"inner", "boundary"} & set(found["independent"]["models"]["rf"])
    assert "ratio" not in found["independent"]["models"]["rf"]["classes"]["early"]
    everything = learn(root, "rf", "svm", "ensemble", refit="all", **small)
    assert set(everything["independent"]["models"]) == {"rf", "svm", "ensemble", "majority"}
    assert all(isinstance(row[part], float) for row in everything["table"] for part in ("test", "without_copies"))
    graphs = [(root / "model" / kind / ONNX).read_bytes() for kind in ("folds/0/svm", "svm")]
    assert graphs[0] != graphs[1]
    joined = Ensemble([root / "model" / kind for kind in ("rf", "svm")]).graph.SerializeToString()
    assert (root / "model" / "ensemble" / ONNX).read_bytes() == joined


def test_parts_follow_the_ground_and_the_buffer(tmp_path: Path) -> None:
    rows = table(tmp_path / "train.csv")
    tiles, samples = lay(tmp_path / "area", entry(tmp_path / "train.csv"), folds=3, buffer=1000.0)
    assert (samples.summary["division"], samples.summary["labelled"]) == ("by ground block", 300)
    places = rows.drop_duplicates("id")[["lon", "lat"]].to_numpy()
    metres = (places - places.mean(axis=0)) * 111_195 * np.array([np.cos(np.radians(45.1)), 1])
    apart = np.linalg.norm(metres[:, None] - metres[None], axis=2)
    tests = np.zeros(300, int)
    for fold in range(3):
        role = samples.roles(fold, tiles.grid.whole).ravel()[:300]
        held = np.isin(role, [Role.TEST, Role.VALIDATION])
        tests += role == Role.TEST
        assert (apart[role == Role.TRAIN][:, held] > 990).all()
        assert (apart[role == Role.BUFFER][:, held].min(axis=1) < 1010).all()
        assert (role == Role.BUFFER).any()
    assert (tests == 1).all()


def test_a_random_split_keeps_copies_together(tmp_path: Path) -> None:
    rows = table(tmp_path / "train.csv")
    copies = rows.assign(id=lambda found: found["id"] + 1000)
    pd.concat([rows, copies]).to_csv(tmp_path / "train.csv", index=False)
    settings = entry(tmp_path / "train.csv")
    settings = {name: value for name, value in settings.items() if name not in ("longitude", "latitude")}
    settings["bands"] = ["nir", "red"]
    with pytest.raises(LabelError, match="neither coordinates nor groups"):
        lay(tmp_path / "refused", settings)
    tiles, samples = lay(tmp_path / "area", settings, split="random")
    role = samples.roles(0, tiles.grid.whole).ravel()[:600]
    assert (role[:300] == role[300:]).all()
    assert (samples.summary["division"], samples.split_by, samples.summary["buffer"]) == ("at random", "random", 0)
    assert (role > 0).all()


def test_indices_are_added_as_to_scenes(tmp_path: Path) -> None:
    table(tmp_path / "train.csv")
    scenes, out = tmp_path / "scenes", tmp_path / "tiles"
    scenes.mkdir()
    out.mkdir()
    ingest.run(scenes, ingest.Config.model_validate({"table": entry(tmp_path / "train.csv")}))
    tile.run(scenes, out, tile.Config(indices=("NDVI",)))
    tiles = Tiles(out)
    cube, _ = tiles.read(tiles.grid.whole)
    nir, red, index = cube[:, :, 0, 7].T
    assert tiles.bands == ("nir", "red", "NDVI")
    np.testing.assert_allclose(index, (nir - red) / (nir + red), rtol=1e-5)
    with pytest.raises(SettingError, match=r"tile.time places scenes"):
        tile.run(scenes, out, tile.Config.model_validate({"time": {"step": "1 month"}}))
    ingest.run(scenes, ingest.Config.model_validate({"table": entry(tmp_path / "train.csv", scaled=False)}))
    with pytest.raises(SettingError, match=r"holds digital numbers"):
        tile.run(scenes, out, tile.Config(indices=("NDVI",)))


def test_settings_that_have_no_place_beside_a_table(tmp_path: Path) -> None:
    table(tmp_path / "train.csv", 30)
    with pytest.raises(ValidationError, match="takes the place of scenes"):
        ingest.Config.model_validate({"table": entry(tmp_path / "train.csv"), "bands": {"red": 1}})
    with pytest.raises(ValidationError, match="scenes is not set"):
        ingest.Config()
    with pytest.raises(LabelError, match="holds its labels"):
        lay(tmp_path / "area", entry(tmp_path / "train.csv"), file=tmp_path / "labels.gpkg")
    for models, advice in ((["cnn"], "take it out"), (["svm"], r"set train.svm.windows to \[\]")):
        with pytest.raises(SettingError, match=advice):
            train._refuse_neighbours(Tiles(tmp_path / "area" / "tiles"), train.Config(models=tuple(models)))
    with pytest.raises(SceneError, match="does not exist"):
        ingest.sources(ingest.Config.model_validate({"table": entry(tmp_path / "none.csv")}))


def test_a_table_is_not_mapped(tmp_path: Path) -> None:
    (tmp_path / "configs").mkdir()
    (tmp_path / "configs" / "crops.yaml").write_text("""
classes:
  - {name: early, labels: [early], code: 1, color: "#123456"}
  - {name: late, labels: [late], code: 2, color: "#654321"}
ingest:
  table: {file: raw/crops.tsv, layout: wide, header: false, label: 0}
label: {split: random}
train: {models: [lstm]}
""")
    area = load_area(tmp_path, "crops")
    assert area.skipped == dict.fromkeys(("classify", "export"), "the area is a table of series")
    assert area.configs["ingest"].table.file == tmp_path.resolve() / "raw" / "crops.tsv"
