"""Multilayer perceptrons: depth, activations and readout, and the pixel network as the same thing at every pixel."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from pydantic import ValidationError
from torch import nn

from stages.models.activations import ACTIVATIONS, activation
from stages.models.mlp import MLP, PixelMLP
from stages.training.descent import Descent, descend
from stages.training.recipes import MlpRecipe

#: Values at -1 and 2 from the functions' definitions.
VALUES = {
    "sigmoid": (1 / (1 + math.e), 1 / (1 + math.exp(-2))),
    "tanh": (math.tanh(-1), math.tanh(2)),
    "relu": (0.0, 2.0),
    "leaky_relu": (-0.01, 2.0),
    "elu": (math.exp(-1) - 1, 2.0),
    "gelu": (-0.5 * (1 + math.erf(-1 / 2**0.5)), 1 + math.erf(2**0.5)),
    "silu": (-1 / (1 + math.e), 2 / (1 + math.exp(-2))),
}


@pytest.mark.parametrize("name", ACTIVATIONS)
def test_activations_are_what_they_are_called(name: str) -> None:
    assert activation(name)(torch.tensor([-1.0, 2.0])).tolist() == pytest.approx(VALUES[name], abs=1e-6)


def test_an_unknown_activation_is_refused() -> None:
    with pytest.raises(ValueError, match="'swash' is no activation function here; take one of sigmoid, tanh"):
        MLP(2, 2, activation="swash")
    with pytest.raises(ValidationError, match="activation"):
        MlpRecipe(activation="swash")  # type: ignore[arg-type]


@pytest.mark.parametrize("hidden", [(), (5,), (7, 6, 5)])
def test_depth_and_widths_are_as_asked(hidden: tuple[int, ...]) -> None:
    net = MLP(4, 3, hidden)
    assert [layer.out_features for layer in net.modules() if isinstance(layer, nn.Linear)] == [*hidden, 3]
    assert net(torch.zeros(2, 4)).shape == (2, 3)
    assert MLP(12, 3, hidden)(torch.zeros(2, 3, 4)).shape == (2, 3)


def test_a_network_by_hand() -> None:
    net = MLP(2, 2, (2,), activation="tanh")
    with torch.no_grad():
        for layer, weight in zip(
            [net.hidden[1], net.head], ([[1.0, -1.0], [0.0, 2.0]], [[1.0, 1.0], [0.0, -1.0]]), strict=True
        ):
            layer.weight.copy_(torch.tensor(weight))  # type: ignore[union-attr, operator]
            layer.bias.copy_(torch.tensor([0.5, 0.0]))  # type: ignore[union-attr, operator]
    a, b = math.tanh(1.0 - 3.0 + 0.5), math.tanh(6.0)
    logits = a + b + 0.5, -b
    shown = torch.tensor([[1.0, 3.0]])
    assert net(shown)[0].tolist() == pytest.approx(logits)
    total = sum(math.exp(value) for value in logits)
    assert net.readout(shown)[0].tolist() == pytest.approx([math.exp(value) / total for value in logits])


def test_dropout_and_batch_norm_are_there_when_asked_for() -> None:
    shown = torch.randn(50, 6, generator=torch.Generator().manual_seed(0))
    plain = MLP(6, 2, (8, 8))
    assert torch.equal(plain(shown), plain.eval()(shown))
    torch.manual_seed(0)
    dropped = MLP(6, 2, (1000,), dropout=0.4)
    assert (dropped.hidden(torch.ones(1, 6)) == 0).double().mean() > (
        dropped.eval().hidden(torch.ones(1, 6)) == 0
    ).double().mean()
    unseen = MLP(6, 2, (), visible_dropout=0.5)
    assert (unseen.hidden(torch.ones(1000, 6)) == 0).double().mean().item() == pytest.approx(0.5, abs=0.05)
    normal = MLP(6, 2, (8,), batch_norm=True)
    between = normal.hidden[:3](100.0 + shown)  # type: ignore[index]
    assert between.mean(dim=0).abs().max() < 1e-3


@pytest.mark.parametrize("name", [name for name in ACTIVATIONS if name != "sigmoid"])
def test_signals_neither_fade_nor_grow_with_depth_at_the_start(name: str) -> None:
    torch.manual_seed(0)
    net = MLP(256, 10, (256,) * 8, activation=name)
    before = net.hidden[:2](torch.randn(100, 256))  # type: ignore[index]
    after = net.hidden[:-2](torch.randn(100, 256))  # type: ignore[index]
    assert 0.1 < after.std(dim=1).mean() / before.std(dim=1).mean() < 10


@pytest.mark.parametrize(
    "settings", [{"activation": name} for name in ACTIVATIONS] + [{"batch_norm": True}, {"dropout": 0.1}]
)
def test_every_kind_learns_exclusive_or(settings: dict[str, Any]) -> None:
    torch.manual_seed(1)
    corners = torch.tensor([[0.0, 0.0], [0.0, 1.0], [1.0, 0.0], [1.0, 1.0]]).repeat(8, 1)
    targets = torch.tensor([0, 1, 1, 0]).repeat(8)
    curves = descend(
        MLP(2, 2, (16, 16), **settings),
        corners,
        targets,
        Descent(150, None, lr=0.02),
        held=(corners, targets),
    )
    assert curves.held_error[-1] == 0.0


@pytest.mark.parametrize("name", ["relu", "tanh"])
def test_the_pixel_network_is_the_same_perceptron_at_every_pixel(name: str) -> None:
    torch.manual_seed(0)
    pixels, vectors = PixelMLP(3, 5, 8, layers=2, activation=name), MLP(4, 5, (8, 8), activation=name, batch_norm=True)
    image = torch.randn(2, 4, 6, 7)
    image[:, -1] = 1.0
    pixels(image)  # statistics that are not 0 and 1
    with torch.no_grad():
        for pixel, at in zip(pixels.hidden, (1, 5), strict=True):
            vectors.hidden[at].weight.copy_(pixel.convolve.weight[:, :, 0, 0])  # type: ignore[union-attr, operator]
            normal: Any = vectors.hidden[at + 1]
            for mine, theirs in (
                ("weight", "gain"),
                ("bias", "shift"),
                ("running_mean", "mean"),
                ("running_var", "variance"),
            ):
                getattr(normal, mine).copy_(getattr(pixel.normalise, theirs))
        vectors.head.weight.copy_(pixels.head.weight[:, :, 0, 0])
        vectors.head.bias.copy_(pixels.head.bias)
    found = pixels.eval()(image).permute(0, 2, 3, 1).reshape(-1, 5)
    torch.testing.assert_close(found, vectors.eval()(image.permute(0, 2, 3, 1).reshape(-1, 4)))


def test_the_activation_of_the_recipe_reaches_the_pixel_network() -> None:
    net = PixelMLP(3, 2, **MlpRecipe(activation="silu").shape())
    assert [type(layer.activate) for layer in net.hidden] == [nn.SiLU, nn.SiLU]
    assert MlpRecipe().activation == "relu"
    assert net.reach == (0, 1)
