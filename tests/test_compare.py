"""The comparison reads models in two ways, trains nothing twice, and notices new code, settings and labels."""

from __future__ import annotations

import json
import shutil
from typing import Any

import numpy as np
import pytest

from pipeline import compare
from pipeline.config import Area, load_area
from stages.errors import SettingError
from tests.worlds import make_world, patchwork, separable


def test_the_two_readings_differ_by_the_prior() -> None:
    # 90 % of the training pixels are of class 0: a pixel with 0.8 to 0.2 is class 0 as it stands, and class 1 once
    # both classes are taken as equally frequent: 0.8 / 0.9 against 0.2 / 0.1.
    stored = {"pixels": np.array([90, 10])}
    for part in ("test", "validation"):
        likely = np.log([[0.8, 0.2], [0.95, 0.05]])
        stored |= {f"{part} log-probabilities": likely, f"{part} reference": np.array([1, 0]),
                   f"{part} block": np.array([4, 7])}  # fmt: skip
    prior, balanced = (compare._read(stored, reading) for reading in ("prior", "balanced"))  # type: ignore[arg-type]
    assert prior["blocks"].tolist() == [4, 7]
    assert prior["test"].sum(axis=0).tolist() == [[1, 0], [1, 0]]
    assert balanced["test"].sum(axis=0).tolist() == [[1, 0], [0, 1]]


def test_rows_are_those_of_the_protocol() -> None:
    assert [name for name, row in compare.ROWS.items() if not row.is_network] == [
        "majority", "rf", "rf balanced", "rf context", "rf context balanced",
        "svm", "svm balanced", "svm context", "svm context balanced",
    ]  # fmt: skip
    assert all(dict(compare.ROWS[n].changes).get("windows", "default") == () for n in ("rf", "rf balanced", "svm"))
    # The networks are trained with the area's own settings; only the rows with class weights change these.
    networks = {name: row for name, row in compare.ROWS.items() if row.is_network}
    others = {"cnn3d", "capsule", "lstm", "tempcnn", "ltae", "convlstm"}
    assert {name for name, row in networks.items() if not row.changes} == {"mlp", "cnn", "unet", "ensemble"} | others
    assert all(row.changes in ((), (("class_weights", "balanced"),)) for row in networks.values())
    assert all(("balanced" in name) == (row.reading == "balanced") for name, row in compare.ROWS.items())


def test_an_area_has_the_rows_of_the_classifiers_it_trains() -> None:
    assert compare.rows_of(("rf", "lstm")) == (
        "majority", "rf", "rf balanced", "rf context", "rf context balanced", "lstm",
    )  # fmt: skip
    assert set(compare.rows_of(("mlp", "ltae", "convlstm", "tempcnn"))) == {
        "majority", "mlp", "mlp balanced", "ltae", "convlstm", "tempcnn",
    }  # fmt: skip
    assert "ensemble" in compare.rows_of(("cnn", "unet", "ensemble"))


@pytest.fixture(scope="module")
def area(tmp_path_factory: pytest.TempPathFactory) -> Area:
    truth = patchwork((64, 64), 2, 8, 0)
    world = make_world(tmp_path_factory.mktemp("compare"), separable(truth, 0), truth)
    quick = {"epochs": 2, "steps": 5, "chip": 16, "batch": 4, "width": 8}
    world.change(label={"folds": 3}, train={"rf": {"trees": 10}, "mlp": quick})
    return load_area(world.root, "world")


def test_the_table_is_written_and_a_second_run_trains_nothing(area: Area, monkeypatch: pytest.MonkeyPatch) -> None:
    rows = ("majority", "rf", "mlp", "mlp balanced")
    trained: list[str] = []
    train = compare._train
    monkeypatch.setattr(compare, "_train", lambda fit: (trained.append(fit.classifier), train(fit)))
    compare.run(area, seeds=(0,), models=rows)
    assert sorted(trained) == ["mlp"] * 6 + ["rf"] * 3
    folder = area.data / "compare"
    table: dict[str, Any] = json.loads((folder / "compare.json").read_text())
    assert list(table["rows"]) == list(rows)
    assert table["seeds"] == [0]
    majority = table["rows"]["majority"]
    assert np.sum(majority["confusion"]) == 64 * 64  # every pixel is tested once
    assert majority["balanced_accuracy"]["value"] == pytest.approx(0.5, abs=0.05)
    assert table["rows"]["rf"]["overall_accuracy"]["value"] > 0.95
    text = (folder / "compare.md").read_text()
    assert "| rf | **1.000**" in text
    assert "agreement with the reference map" in text
    before = (folder / "compare.json").read_bytes()
    compare.run(area, seeds=(0,), models=rows)
    assert len(trained) == 9
    assert (folder / "compare.json").read_bytes() == before
    assert not list(folder.rglob("*.work"))


def test_an_ensemble_averages_probabilities_and_trains_nothing_of_its_own(
    area: Area, monkeypatch: pytest.MonkeyPatch
) -> None:
    members = []
    for likely in ([[0.9, 0.1], [0.6, 0.4], [0.2, 0.8]], [[0.7, 0.3], [0.2, 0.8], [0.4, 0.6]]):
        members.append({"pixels": np.array([50, 50])} | {
            f"{part} {what}": values for part in ("test", "validation") for what, values in (
                ("log-probabilities", np.log(likely)), ("reference", np.array([0, 0, 1])), ("block", np.zeros(3, int)),
            )
        })  # fmt: skip
    # The mean probabilities are 0.8, 0.4 and 0.3: one temperature for all moves none of them over a half.
    matrix = compare._read(compare._averaged(members), "prior")["test"][0]
    assert matrix.tolist() == [[1, 1], [0, 1]]
    assert compare._averaged(members[:1]) is members[0]

    trained: list[str] = []
    monkeypatch.setattr(compare, "_train_all", lambda *given: trained.extend(fit.classifier for fit in given[-1]))
    monkeypatch.setattr(compare, "_stored", lambda _: {})
    monkeypatch.setattr(compare, "_averaged", len)
    monkeypatch.setattr(compare, "_read", lambda count, _: {"members": count})
    monkeypatch.setattr(compare.ranking, "merged", lambda folds: folds)
    monkeypatch.setattr(compare, "_brief", lambda *_: "")
    rows = compare._assignment(area, 0, ("cnn", "ensemble"), dict.fromkeys(("cnn", "unet"), "code"))
    assert sorted(trained) == ["cnn"] * 3 + ["unet"] * 3
    assert [fold["members"] for fold in rows["ensemble"]] == [2, 2, 2]


def test_processes_give_what_one_process_gives(area: Area) -> None:
    rows = ("rf", "mlp")
    compare.run(area, seeds=(0,), models=rows)
    folder = area.data / "compare"
    alone = (folder / "compare.json").read_bytes()
    shutil.rmtree(folder / "fits")
    beside = load_area(area.root, area.name, ("cluster.kind=local",))
    compare.run(beside, seeds=(0,), models=rows)
    assert (folder / "compare.json").read_bytes() == alone


def test_a_key_tells_settings_code_and_labels(area: Area, monkeypatch: pytest.MonkeyPatch) -> None:
    def keys(**train: Any) -> list[str]:
        config = area.configs["train"].model_copy(update=train)
        caught: list[compare.Fit] = []
        monkeypatch.setattr(compare, "_train_all", lambda *given: caught.extend(given[-1]))
        monkeypatch.setattr(compare, "_stored", lambda _: {})
        monkeypatch.setattr(compare, "_read", lambda *_: {})
        monkeypatch.setattr(compare.ranking, "merged", lambda _: {})
        monkeypatch.setattr(compare, "_brief", lambda *_: "")
        other = Area(area.name, area.root, area.settings, {**area.configs, "train": config})
        codes = {"rf": compare._hash(compare._code_of(area, "rf"))}
        compare._assignment(other, 0, ("rf",), codes)
        return [fit.key for fit in caught]

    first = keys()
    assert len(set(first)) == 3
    assert keys() == first
    assert not set(keys(seed=5)) & set(first)
    labels = area.root / "labels.tif"
    content = labels.read_bytes()
    labels.write_bytes(content + b"\0")
    assert not set(keys()) & set(first)
    labels.write_bytes(content)


def test_a_forest_does_not_depend_on_the_code_of_networks(area: Area) -> None:
    forest, network = (set(compare._code_of(area, name)) for name in ("rf", "unet"))
    assert any(path.endswith("training/forest.py") for path in forest)
    assert any(path.endswith("training/ground.py") for path in forest & network)
    assert not any(path.endswith(("loop.py", "vectors.py", "unet.py")) for path in forest)
    assert not any(path.endswith(("forest.py", "vectors.py")) for path in network)


def test_a_given_model_leaves_nothing_to_compare(area: Area) -> None:
    given = load_area(area.root, area.name, ("given.model=elsewhere",))
    with pytest.raises(SettingError, match=r"--set given\.model="):
        compare.run(given)
    assert "train" in load_area(area.root, area.name, ("given.model=elsewhere", "given.model=")).configs


def test_an_unknown_row_is_refused_with_the_known_ones(area: Area) -> None:
    with pytest.raises(SettingError, match=r"no row unett in the table; the rows are majority, rf"):
        compare.run(area, models=("unett",))


def test_folds_by_year_are_refused_before_anything_is_trained(area: Area, monkeypatch: pytest.MonkeyPatch) -> None:
    by_year = {**area.configs, "label": area.configs["label"].model_copy(update={"folds": "by_year"})}
    monkeypatch.setattr(compare, "run_stage", lambda *_: pytest.fail("a stage was run"))
    with pytest.raises(SettingError, match=r"label\.folds is by_year, but the comparison .*--set label\.folds=5"):
        compare.run(Area(area.name, area.root, area.settings, by_year), models=("rf",))
