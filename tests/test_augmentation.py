"""Turning moves pixels and changes none; varying values leaves what is hidden alone."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from stages.training import augmentation
from stages.training.recipes import Recipe


def test_a_turn_is_one_of_the_eight_and_the_same_for_image_and_masks() -> None:
    image = np.arange(2 * 6 * 6, dtype=np.float32).reshape(2, 6, 6) - 30.0  # values outside 0..1 survive
    mask = image[0].astype(np.int64).astype(np.uint8)
    eight = [np.rot90(view, k, (1, 2)) for view in (image, image[..., ::-1]) for k in range(4)]
    transform, seen = augmentation.turner(), set()
    for seed in range(60):
        turned, (label,) = augmentation.turn(transform, image, [mask], seed)
        matches = [i for i, view in enumerate(eight) if np.array_equal(view, turned)]
        assert len(matches) == 1
        assert np.array_equal(turned[0].astype(np.int64).astype(np.uint8), label)
        seen.add(matches[0])
    assert seen == set(range(8))


def test_the_same_seed_turns_the_same_way() -> None:
    image = np.random.default_rng(0).normal(size=(1, 5, 5)).astype(np.float32)
    one, two = (augmentation.turn(augmentation.turner(), image, [], 7)[0] for _ in range(2))
    assert np.array_equal(one, two)


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
