"""Pseudo-labels lie on training ground without a label alone, and a training learns from them as from labels."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from stages.errors import LeakError, SettingError
from stages.formats.samples import UNLABELLED, Part, Role, Samples
from stages.formats.tiles import Tiles
from stages.models.classifier import Classifier, Normalise
from stages.training import loop
from stages.training.classifiers import fit, gather_for
from stages.training.ground import Ground
from stages.training.pseudo import GuessedSplit, guessed
from stages.training.recipes import MlpRecipe
from tests.training_worlds import Laid, lay, quick
from tests.worlds import patchwork, separable

BUFFER = 30.0  # metres: nearer than 3 pixels
TRUTH = patchwork((96, 96), 3, 8, 0)


class Teacher(nn.Module):
    """Sure of class 1 in the upper half of the values of the first band, unsure between all classes elsewhere."""

    margin, stride, series = 2, 1, False

    def forward(self, image: Tensor) -> Tensor:
        high = (image[:, :1] > 0).float()
        return torch.cat([0 * high, 6 * high, 0 * high], dim=1)


def teacher() -> Classifier:
    return Classifier(Normalise([500.0] * 3, [300.0] * 3), Teacher(), 3).eval()


@pytest.fixture(scope="module")
def laid(tmp_path_factory: pytest.TempPathFactory) -> Laid:
    few = TRUTH.copy()
    few[np.random.default_rng(0).random(few.shape) < 0.9] = UNLABELLED
    return lay(tmp_path_factory.mktemp("pseudo"), separable(TRUTH, 0), few, buffer=BUFFER)


def guesses(ground: Ground) -> np.ndarray:
    assert isinstance(ground.split, GuessedSplit)
    return np.load(ground.split.file)[0]


def test_guesses_lie_on_free_training_ground_alone(laid: Laid, tmp_path: Path) -> None:
    ground = guessed(laid.ground(), teacher(), 0.9, tmp_path)
    samples, grid = Samples(laid.root / "samples"), Tiles(laid.root / "tiles").grid
    at = guesses(ground) > 0
    assert at.sum() > 500
    assert set(np.unique(guesses(ground))) == {0, 2}
    assert (samples.part(0, grid.whole)[at] == Part.TRAIN).all()
    assert (samples.read("target", grid.whole)[at] == UNLABELLED).all()
    held = np.argwhere(samples.part(0, grid.whole) != Part.TRAIN)
    apart = [np.hypot(*(held - pixel).T).min() * 10.0 for pixel in np.argwhere(at)]
    assert min(apart) == BUFFER
    # All that the teacher is sure of, and that may be labelled, is.
    image, _ = Tiles(laid.root / "tiles").read_channels(grid.whole)
    free = samples.training_mask(0, grid.whole) & (samples.roles(0, grid.whole) == Role.NONE)
    near = np.ones_like(free)
    near[tuple(np.argwhere(free).T)] = [np.hypot(*(held - p).T).min() * 10.0 < BUFFER for p in np.argwhere(free)]
    np.testing.assert_array_equal(at, free & ~near & (image[0] > 500.0) & (samples.read("target", grid.whole) == 255))


def test_the_ground_bears_labels_and_guesses_and_nothing_is_corrected_for_them(laid: Laid, tmp_path: Path) -> None:
    before, ground = laid.ground(), guessed(laid.ground(), teacher(), 0.9, tmp_path)
    count = int((guesses(ground) > 0).sum())
    np.testing.assert_array_equal(ground.pixels() - before.pixels(), [0, count, 0])
    recipe = quick(MlpRecipe(width=4))
    training = loop.Training(loop.build("mlp", ground, recipe, 0), ground, None, recipe, laid.task("mlp"))
    training.shown.copy_(torch.from_numpy(ground.pixels()))
    assert float(training.corrected().correction.abs().max()) < 1e-6


def test_no_guess_where_the_teacher_is_not_sure_enough(laid: Laid, tmp_path: Path) -> None:
    chance = float(torch.softmax(torch.tensor([0.0, 6.0, 0.0]), 0)[1])
    assert (guesses(guessed(laid.ground(), teacher(), chance - 1e-4, tmp_path)) > 0).any()
    assert not (guesses(guessed(laid.ground(), teacher(), chance + 1e-4, tmp_path)) > 0).any()


def test_a_guess_on_held_out_ground_is_a_leak(laid: Laid, tmp_path: Path) -> None:
    ground = guessed(laid.ground(), teacher(), 0.9, tmp_path)
    samples, grid = Samples(laid.root / "samples"), Tiles(laid.root / "tiles").grid
    assert isinstance(ground.split, GuessedSplit)
    stored = np.load(ground.split.file, mmap_mode="r+")
    row, col = np.argwhere(samples.part(0, grid.whole) == Part.TEST)[0]
    stored[0, row, col] = 1
    stored.flush()
    with pytest.raises(LeakError, match="Pseudo-labels lie on held-out ground"):
        Ground(ground.split, 32, tmp_path / "again")


def test_a_training_with_pseudo_labels_has_a_teacher_and_learns_from_more(
    laid: Laid, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    recipe = quick(MlpRecipe(width=8), chip=1, batch=64, steps=20, epochs=2, lr=0.02, pseudo=0.8)
    held = gather_for("mlp", recipe, laid.split(), Role.VALIDATION)
    fitted: Any = fit("mlp", laid.ground(), held, recipe, laid.task("mlp", folder=tmp_path))
    assert (tmp_path / "teacher" / "0" / "last.ckpt").is_file()
    assert "unlabelled pixels at a confidence of 0.8" in caplog.text
    assert (fitted.logits(held)[0].argmax(axis=1) == held.reference).mean() > 0.95
    recipe_of_labels = recipe.model_copy(update={"pseudo": 0.0})
    task = laid.task("mlp", folder=tmp_path / "plain")
    plain: Any = fit("mlp", laid.ground(), held, recipe_of_labels, task)
    assert not np.array_equal(fitted.logits(held), plain.logits(held))
    again: Any = fit("mlp", laid.ground(), held, recipe, laid.task("mlp", folder=tmp_path))
    np.testing.assert_array_equal(again.logits(held), fitted.logits(held))


def test_a_table_of_series_is_refused(laid: Laid, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Tiles, "is_table", True)
    with pytest.raises(SettingError, match="a table of series, which has none; set pseudo to 0"):
        guessed(laid.ground(), teacher(), 0.9, tmp_path)
