"""The comparison pools folds, averages assignments, pairs blocks, and never trains the same thing twice."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pipeline import compare
from pipeline.config import Area, load_area
from stages.errors import SettingError
from tests.worlds import make_world, patchwork, separable


def matrices(*diagonal_and_wrong: tuple[int, int]) -> np.ndarray:
    """Two-class confusion of every block: so many right and so many wrong pixels of each class."""
    return np.array([[[right, wrong], [wrong, right]] for right, wrong in diagonal_and_wrong])


def found(blocks: list[int], test: np.ndarray, validation: np.ndarray | None = None) -> dict[str, np.ndarray]:
    return {"blocks": np.array(blocks), "test": test, "validation": test if validation is None else validation}


def test_folds_are_summed_block_by_block() -> None:
    merged = compare._merged([found([1, 5], matrices((9, 1), (0, 0))), found([3, 5], matrices((5, 5), (7, 3)))])
    assert merged["blocks"].tolist() == [1, 3, 5]
    np.testing.assert_array_equal(merged["test"], matrices((9, 1), (5, 5), (7, 3)))


def test_assignments_stand_side_by_side() -> None:
    stacked = compare._stacked([found([0, 1], matrices((1, 0), (2, 0))), found([1], matrices((3, 0)))], "test")
    assert stacked.shape == (2, 2, 2, 2)
    assert stacked[:, :, 0, 0].tolist() == [[1, 0], [2, 3]]


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


def test_a_table_averages_assignments_and_pairs_with_the_best_baseline() -> None:
    even = [(8, 2)] * 10
    rows = {
        "majority": [found(list(range(10)), matrices(*[(5, 5)] * 10))] * 2,
        "rf": [found(list(range(10)), matrices(*even))] * 2,
        # 0.9 in one assignment, 0.8 in the other.
        "unet": [found(list(range(10)), matrices(*[(9, 1)] * 10)), found(list(range(10)), matrices(*even))],
        "mlp": [found(list(range(10)), matrices(*[(6, 4)] * 10))] * 2,
    }
    table = compare._table(rows)
    assert table["best_baseline"] == {"overall_accuracy": "rf", "balanced_accuracy": "rf"}
    assert table["chosen_network"] == {"prior": "unet"}
    unet = table["rows"]["unet"]["overall_accuracy"]
    assert unet["value"] == pytest.approx(0.85)
    assert unet["assignments"] == pytest.approx([0.9, 0.8])
    assert unet["difference"] == {"value": pytest.approx(0.05), "low": pytest.approx(0.05), "high": pytest.approx(0.05)}
    own = table["rows"]["rf"]["overall_accuracy"]["difference"]
    assert own == {"value": 0.0, "low": 0.0, "high": 0.0}


def test_the_network_is_chosen_on_validation_not_on_test() -> None:
    good, bad = matrices(*[(9, 1)] * 4), matrices(*[(5, 5)] * 4)
    rows = {
        "rf": [found([0, 1, 2, 3], good)],
        "mlp": [found([0, 1, 2, 3], bad, validation=good)],
        "unet": [found([0, 1, 2, 3], good, validation=bad)],
    }
    assert compare._table(rows)["chosen_network"] == {"prior": "mlp"}


def test_a_difference_whose_interval_holds_zero_is_called_noise() -> None:
    assert compare._signed({"value": 0.01, "low": -0.01, "high": 0.03}) == "+0.010 (-0.010 to +0.030), within noise"
    assert compare._signed({"value": 0.02, "low": 0.01, "high": 0.03}) == "+0.020 (+0.010 to +0.030)"


def test_rows_are_those_of_the_protocol() -> None:
    assert [name for name, row in compare.ROWS.items() if not row.is_network] == [
        "majority", "rf", "rf balanced", "rf context", "rf context balanced",
        "svm", "svm balanced", "svm context", "svm context balanced",
    ]  # fmt: skip
    assert all(dict(compare.ROWS[n].changes).get("windows", "default") == () for n in ("rf", "rf balanced", "svm"))
    # The networks are trained with the area's own settings, nothing changed for the table.
    assert all(row.changes == () for row in compare.ROWS.values() if row.is_network)


@pytest.fixture(scope="module")
def area(tmp_path_factory: pytest.TempPathFactory) -> Area:
    truth = patchwork((64, 64), 2, 8, 0)
    world = make_world(tmp_path_factory.mktemp("compare"), separable(truth, 0), truth)
    quick = {"epochs": 2, "steps": 5, "chip": 16, "batch": 4, "width": 8}
    world.change(label={"folds": 3}, train={"rf": {"trees": 10}, "mlp": quick})
    return load_area(world.root, "world")


def test_the_table_is_written_and_a_second_run_trains_nothing(area: Area, monkeypatch: pytest.MonkeyPatch) -> None:
    rows = ("majority", "rf", "mlp", "mlp read balanced")
    trained: list[str] = []
    train = compare._train
    monkeypatch.setattr(compare, "_train", lambda fit, path: (trained.append(fit.row.classifier), train(fit, path)))
    monkeypatch.setattr(compare, "_code_of", lambda *_: {})
    compare.run(area, seeds=(0,), models=rows)
    assert sorted(trained) == ["mlp"] * 3 + ["rf"] * 3
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
    assert len(trained) == 6
    assert (folder / "compare.json").read_bytes() == before
    assert not list(folder.rglob("*.work"))


def test_changed_settings_are_trained_anew(area: Area, tmp_path: Path) -> None:
    changed = area.configs["train"].model_copy(update={"seed": 5})
    other = Area(area.name, area.root, area.settings, {**area.configs, "train": changed})
    fits = [compare.Fit(one, 0, 0, compare.ROWS["rf"], tmp_path / "samples", "code") for one in (area, other)]
    assert fits[0].key != fits[1].key
    assert fits[0].key == compare.Fit(area, 0, 0, compare.ROWS["rf"], tmp_path / "samples", "code").key


def test_an_unknown_row_is_refused_with_the_known_ones(area: Area) -> None:
    with pytest.raises(SettingError, match=r"no row unett in the table; the rows are majority, rf"):
        compare.run(area, models=("unett",))
