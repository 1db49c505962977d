"""The ranking pools folds, averages assignments, pairs blocks, and chooses networks on validation."""

from __future__ import annotations

import numpy as np
import pytest

from pipeline import ranking
from pipeline.ranking import Found, Ranked


def matrices(*diagonal_and_wrong: tuple[int, int]) -> np.ndarray:
    """Two-class confusion of every block: so many right and so many wrong pixels of each class."""
    return np.array([[[right, wrong], [wrong, right]] for right, wrong in diagonal_and_wrong])


def found(blocks: list[int], test: np.ndarray, validation: np.ndarray | None = None) -> Found:
    return {"blocks": np.array(blocks), "test": test, "validation": test if validation is None else validation}


def test_folds_are_summed_block_by_block() -> None:
    merged = ranking.merged([found([1, 5], matrices((9, 1), (0, 0))), found([3, 5], matrices((5, 5), (7, 3)))])
    assert merged["blocks"].tolist() == [1, 3, 5]
    np.testing.assert_array_equal(merged["test"], matrices((9, 1), (5, 5), (7, 3)))


def test_assignments_stand_side_by_side() -> None:
    stacked = ranking.stacked([found([0, 1], matrices((1, 0), (2, 0))), found([1], matrices((3, 0)))], "test")
    assert stacked.shape == (2, 2, 2, 2)
    assert stacked[:, :, 0, 0].tolist() == [[1, 0], [2, 3]]


def test_a_table_averages_assignments_and_pairs_with_the_best_baseline() -> None:
    even = [(8, 2)] * 10
    rows: dict[str, Ranked] = {
        "majority": (False, "prior", [found(list(range(10)), matrices(*[(5, 5)] * 10))] * 2),
        "rf": (False, "prior", [found(list(range(10)), matrices(*even))] * 2),
        # 0.9 in one assignment, 0.8 in the other.
        "unet": (
            True,
            "prior",
            [found(list(range(10)), matrices(*[(9, 1)] * 10)), found(list(range(10)), matrices(*even))],
        ),
        "mlp": (True, "prior", [found(list(range(10)), matrices(*[(6, 4)] * 10))] * 2),
    }
    table = ranking.table(rows)
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
    rows: dict[str, Ranked] = {
        "rf": (False, "prior", [found([0, 1, 2, 3], good)]),
        "mlp": (True, "prior", [found([0, 1, 2, 3], bad, validation=good)]),
        "unet": (True, "prior", [found([0, 1, 2, 3], good, validation=bad)]),
    }
    assert ranking.table(rows)["chosen_network"] == {"prior": "mlp"}


def test_a_difference_whose_interval_holds_zero_is_called_noise() -> None:
    assert ranking.signed({"value": 0.01, "low": -0.01, "high": 0.03}) == "+0.010 (-0.010 to +0.030), within noise"
    assert ranking.signed({"value": 0.02, "low": 0.01, "high": 0.03}) == "+0.020 (+0.010 to +0.030)"
