"""Turning moves pixels and changes none; varying values leaves what is hidden alone."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from stages.formats.samples import UNLABELLED
from stages.training import augmentation
from stages.training.recipes import Recipe

TURN, STILL = Recipe(), Recipe(turn=False)


def test_a_turn_is_one_of_the_eight_and_the_same_for_image_validity_and_labels() -> None:
    image = np.arange(2 * 6 * 6, dtype=np.float32).reshape(2, 6, 6) - 30.0  # values outside 0..1 survive
    valid = np.random.default_rng(0).random((6, 6)) < 0.8
    labels = np.where(valid, np.arange(36).reshape(6, 6), UNLABELLED).astype(np.uint8)
    eight = [np.rot90(view, k, (1, 2)) for view in (image * valid, (image * valid)[..., ::-1]) for k in range(4)]
    transform, seen = augmentation.mover(TURN), set()
    for seed in range(60):
        turned, usable, found = augmentation.move(transform, (image, valid[None], labels), seed)
        usable = usable[0]
        matches = [i for i, view in enumerate(eight) if np.array_equal(view, turned)]
        assert len(matches) == 1
        assert np.array_equal(found != UNLABELLED, usable)
        assert np.array_equal(found[usable], (turned[0] + 30)[usable].astype(np.uint8))
        seen.add(matches[0])
    assert seen == set(range(8))


def test_a_turn_is_the_one_that_albumentations_draws() -> None:
    image = np.random.default_rng(0).normal(size=(7, 7, 1)).astype(np.float32)
    valid, labels = np.ones((1, 7, 7), bool), np.zeros((7, 7), np.uint8)
    ours, theirs = augmentation.mover(TURN), augmentation.mover(TURN)
    for seed in range(30):
        theirs.set_random_seed(seed)
        found, _, _ = augmentation.move(ours, (image[None, ..., 0], valid, labels), seed)
        np.testing.assert_array_equal(found[0], theirs(image=image)["image"][..., 0])


def test_nothing_moves_where_the_recipe_moves_nothing() -> None:
    assert augmentation.mover(STILL) is None


@pytest.mark.parametrize("recipe", [TURN, STILL.model_copy(update={"rotate": 30.0, "zoom": 0.3})])
def test_the_same_seed_moves_the_same_way(recipe: Recipe) -> None:
    image, labels = np.random.default_rng(0).normal(size=(1, 5, 5)).astype(np.float32), np.zeros((5, 5), np.uint8)
    valid = np.ones((5, 5), bool)
    one, two = (augmentation.move(augmentation.mover(recipe), (image, valid[None], labels), 7) for _ in range(2))
    assert all(np.array_equal(a, b) for a, b in zip(one, two, strict=True))
    assert not np.array_equal(one[0], augmentation.move(augmentation.mover(recipe), (image, valid[None], labels), 8)[0])


def test_rotating_and_zooming_moves_values_and_labels_alike() -> None:
    # The bands are the coordinates themselves, so a moved pixel tells where it came from.
    y, x = np.mgrid[:33, :33].astype(np.float32) - 16.0
    labels = (4 * (y > 0) + 2 * (x > 0)).astype(np.uint8)
    transform = augmentation.mover(STILL.model_copy(update={"rotate": 20.0, "zoom": 0.25}))
    turns, scales = [], []
    for seed in range(40):
        (rows, cols), valid, found = augmentation.move(
            transform, (np.stack([y, x]), np.ones((1, 33, 33), bool), labels), seed
        )
        valid = valid[0]
        inner = valid & (np.abs(rows) > 1) & (np.abs(cols) > 1)
        assert np.array_equal(found[inner], (4 * (rows > 0) + 2 * (cols > 0))[inner])
        assert (found[~valid] == UNLABELLED).all()
        assert not rows[~valid].any()
        step = rows[16, 20] - rows[16, 16], cols[16, 20] - cols[16, 16]
        turns.append(np.degrees(np.arctan2(step[0], step[1])))
        scales.append(np.hypot(*step) / 4)
    assert max(map(abs, turns)) == pytest.approx(20, abs=3)
    assert min(scales) == pytest.approx(0.8, abs=0.05)
    assert max(scales) == pytest.approx(1.25, abs=0.05)


def test_hidden_values_never_mix_into_moved_ones() -> None:
    valid = np.ones((32, 32), bool)
    valid[:, 16:] = False
    image = np.where(valid, 500.0, 9e9).astype(np.float32)[None]
    transform = augmentation.mover(STILL.model_copy(update={"rotate": 45.0}))
    moved, usable, _ = augmentation.move(transform, (image, valid[None], np.zeros((32, 32), np.uint8)), 3)
    usable = usable[0]
    assert 100 < usable.sum() < 700
    assert moved[0][usable] == pytest.approx(500.0, rel=1e-4)


@pytest.mark.parametrize("change", [{"gain": 0.5}, {"offset": 0.5}, {"noise": 0.5}])
def test_values_vary_where_valid_only(change: dict[str, float]) -> None:
    image, valid = torch.ones(2, 3, 8, 8), torch.ones(2, 1, 8, 8)
    valid[..., :4] = 0
    image *= valid
    recipe = Recipe(**{"gain": 0.0, "offset": 0.0, "noise": 0.0, **change})
    found = augmentation.vary(image, valid, recipe, torch.Generator().manual_seed(0))
    assert not found[..., :4].any()
    assert (found[..., 4:] != 1).all()
    per_chip = found[..., 4:].flatten(2).std(dim=2)
    assert bool((per_chip > 0).all()) == ("noise" in change)  # gain and offset are one number a band and chip


def test_nothing_varies_with_everything_off() -> None:
    image, valid = torch.randn(1, 2, 4, 4), torch.ones(1, 1, 4, 4)
    still = Recipe(gain=0.0, offset=0.0, noise=0.0)
    assert torch.equal(augmentation.vary(image, valid, still, torch.Generator()), image)


def test_hiding_takes_one_rectangle_from_the_asked_share() -> None:
    valid = torch.ones(400, 1, 16, 16)
    found = augmentation.hide(valid, 0.5, torch.Generator().manual_seed(0))
    hidden = (found == 0).flatten(1)
    assert (hidden.any(dim=1)).float().mean().item() == pytest.approx(0.5, abs=0.08)
    for chip in found[hidden.any(dim=1)][:20, 0] == 0:
        rows, cols = chip.any(1).sum().item(), chip.any(0).sum().item()
        assert chip.sum().item() == rows * cols
        assert 2 <= rows <= 8
        assert 2 <= cols <= 8
    assert valid.all()
