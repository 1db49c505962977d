"""An ensemble maps the mean of its members' calibrated probabilities, as one graph and without training anything."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pydantic import ValidationError

from stages import train
from stages.formats.samples import Role
from stages.formats.weights import ITEM, ONNX, WEIGHTS, read_card, read_choice
from stages.inference.backends import Engine, check_agreement
from stages.inference.predictor import load
from stages.training import calibration
from stages.training.ensemble import Ensemble
from stages.training.held import gather
from stages.training.recipes import CnnRecipe, EnsembleRecipe, MlpRecipe, Recipe, UnetRecipe
from tests.training_worlds import Laid, lay, quick
from tests.worlds import patchwork, separable

KINDS = ("mlp", "cnn", "unet")


def config(laid: Laid, turned: bool, **changes: Any) -> train.Config:
    def recipe(made: Recipe) -> Recipe:
        return quick(made, average_turns=turned)

    values = {
        "classes": laid.classes, "models": (*KINDS, "ensemble"), "mlp": recipe(MlpRecipe(width=8)),
        "cnn": recipe(CnnRecipe(width=8, dilations=(1, 2))), "unet": recipe(UnetRecipe(width=4, depth=2)),
        "ensemble": EnsembleRecipe(of=KINDS), **changes,
    }  # fmt: skip
    return train.Config(**values)  # type: ignore[arg-type]


@pytest.fixture(scope="module", params=[False, True], ids=["as it lies", "turned"])
def trained(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[Laid, Path]:
    truth = patchwork((64, 64), 3, 8, 0)
    laid = lay(tmp_path_factory.mktemp("ensemble"), separable(truth, 0), truth)
    return laid, laid.train(tmp_path_factory.mktemp("model"), config(laid, request.param))


def test_it_maps_the_mean_of_calibrated_probabilities(trained: tuple[Laid, Path]) -> None:
    laid, model = trained
    split = laid.split()
    image, valid = split.read(split.tiles.grid.whole)
    valid = valid.copy()
    valid[:, :9, 5:20] = False
    pixels = valid[0]
    image = np.where(valid, image, np.float32(0.0))[None]
    members = [load(model / kind).probabilities(image, valid[None]) for kind in KINDS]
    # The ensemble's own temperature comes on top: it is undone for the comparison.
    card = read_card(model / "ensemble")
    found = load(model / "ensemble").probabilities(image, valid[None])
    if not card.tta:
        found = found**card.temperature
        found /= found.sum(axis=1, keepdims=True).clip(min=1e-9)
        np.testing.assert_allclose(found[:, :, pixels], np.mean(members, axis=0)[:, :, pixels], atol=2e-5)
    assert not found[:, :, ~pixels].any()
    agree = (found.argmax(1) == np.mean(members, axis=0).argmax(1))[0][pixels]
    assert agree.mean() > 0.98
    assert (card.margin, card.stride) == (20, 4)
    assert (model / "ensemble" / ONNX).is_file()
    assert (model / "ensemble" / WEIGHTS).is_file()
    # Its folder alone is enough for torch, and gives the same.
    shown = image, valid[None], np.zeros((1, 1), np.float32)
    assert check_agreement(model / "ensemble", Engine(), *shown) < 1e-5


def test_its_validation_scores_are_those_of_its_graph(trained: tuple[Laid, Path]) -> None:
    laid, model = trained
    ensemble = Ensemble([model / kind for kind in KINDS])
    held = gather(laid.split(), Role.VALIDATION, ensemble.margin, ensemble.stride)
    logits, card = ensemble.logits(held), read_card(model / "ensemble")
    assert len(logits) == (8 if card.tta else 1)
    likely = calibration.probabilities(logits, card.temperature)
    told = read_choice(model)["candidates"]["ensemble"]
    assert (likely.argmax(axis=1) == held.reference).mean() == pytest.approx(told["overall_accuracy"])
    assert calibration.loss(logits, held.reference, card.temperature) == pytest.approx(told["loss"])


def test_with_folds_its_members_are_refitted_with_it(tmp_path: Path) -> None:
    truth = patchwork((64, 64), 2, 8, 0)
    laid = lay(tmp_path, separable(truth, 0), truth, folds=3)
    settings = config(laid, False, models=("mlp", "cnn", "ensemble"), ensemble={"of": ("mlp", "cnn")}, model="ensemble")
    model = laid.train(tmp_path / "model", settings)
    assert {path.parent.name for path in model.glob(f"*/{ITEM}")} == {"mlp", "cnn", "ensemble"}
    assert len(list(model.glob(f"folds/*/ensemble/{ITEM}"))) == 3
    whole = Ensemble([model / "mlp", model / "cnn"]).graph.SerializeToString()
    assert (model / "ensemble" / ONNX).read_bytes() == whole


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"models": ("cnn", "ensemble")}, "ensemble averages unet, which models does not name before it"),
        ({"models": ("ensemble", "cnn", "unet")}, "ensemble averages cnn, which models does not name before it"),
        ({"models": ("cnn", "unet", "ensemble"), "cnn": {"average_turns": False}}, "average_turns must be the same"),
        ({"ensemble": {"of": ("cnn",)}}, "at least 2 items"),
    ],
)
def test_an_ensemble_that_cannot_be_is_refused(changes: dict[str, Any], words: str) -> None:
    with pytest.raises(ValidationError, match=words):
        train.Config(**changes)
