"""A network that is acquainted with the training ground starts from what it learnt there, and saw no held-out pixel."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from stages import train
from stages.errors import SettingError
from stages.formats.samples import Samples
from stages.models.cnn import PatchCNN
from stages.training import loop, pretraining
from stages.training.classifiers import fit
from stages.training.descent import Descent
from stages.training.recipes import CnnRecipe, LstmRecipe
from tests.training_worlds import Laid, lay, quick
from tests.worlds import patchwork, separable

RECIPE = quick(CnnRecipe(width=8, dilations=(1,), dropout=0.0, average_turns=False), pretrain=2)


@pytest.fixture(scope="module")
def laid(tmp_path_factory: pytest.TempPathFactory) -> Laid:
    truth = patchwork((96, 96), 3, 8, 0)
    return lay(tmp_path_factory.mktemp("pretrain"), separable(truth, 0), truth)


def test_only_training_ground_is_looked_at(laid: Laid) -> None:
    ground = laid.ground()
    images, valid = pretraining.samples(loop.build("cnn", ground, RECIPE, 0), ground, 0)
    samples, whole = Samples(laid.root / "samples"), laid.split().tiles.grid.whole
    assert int(valid.sum()) == int(samples.training_mask(0, whole).sum())
    assert images.shape == (len(valid), 3, 32, 32)
    assert float(images[(valid == 0).expand_as(images)].abs().max()) == 0.0
    assert float(images[:, 0][valid[:, 0] > 0].std()) == pytest.approx(1.0, abs=0.05)


def test_the_body_is_taken_up_but_for_the_readout(laid: Laid, tmp_path: Path) -> None:
    ground = laid.ground()
    classifier = loop.build("cnn", ground, RECIPE, 0)
    before = {name: tensor.clone() for name, tensor in classifier.network.state_dict().items()}
    torch.manual_seed(1)
    body = PatchCNN(3, 3, width=8, dilations=(1,), dropout=0.0)
    pretraining.acquaint(classifier, body, ground, Descent(2, batch=4, lr=2e-3), folder=tmp_path, device="cpu")
    after, told = classifier.network.state_dict(), body.state_dict()
    taken = [name for name in after if torch.equal(after[name], told[name])]
    assert len(taken) > len(after) / 2
    assert not any(torch.equal(before[name], after[name]) for name in taken if name.endswith("weight"))


def test_a_training_starts_from_it_and_goes_on_after_a_kill(
    laid: Laid, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    fitted = {
        name: fit("cnn", laid.ground(), None, RECIPE.model_copy(update={"pretrain": epochs}),
                  laid.task("cnn", folder=tmp_path / name))
        for name, epochs in (("plain", 0), ("known", 2))
    }  # fmt: skip
    assert caplog.text.count("without labels: mean squared error") == 1
    states: dict[str, Any] = {name: one.classifier.state_dict() for name, one in fitted.items()}  # type: ignore[attr-defined]
    assert not all(torch.equal(states["plain"][name], states["known"][name]) for name in states["plain"])
    (tmp_path / "known" / "0" / loop.CHECKPOINT).unlink()  # killed between the two trainings
    again: Any = fit("cnn", laid.ground(), None, RECIPE, laid.task("cnn", folder=tmp_path / "known"))
    for name, tensor in again.classifier.state_dict().items():
        np.testing.assert_array_equal(tensor.numpy(), states["known"][name].numpy())


def test_networks_that_cannot_are_refused_before_anything_is_trained() -> None:
    with pytest.raises(SettingError, match=r"train\.lstm\.pretrain is set, but only mlp, cnn, cnn3d, unet can"):
        train._check(train.Config(models=("rf", "lstm"), lstm=LstmRecipe(pretrain=3), device="cpu"))
