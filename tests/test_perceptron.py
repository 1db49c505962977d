"""The perceptron and backpropagation: worked examples, the bound on mistakes, and autograd as the judge."""

from __future__ import annotations

import pytest
import torch

from stages.models.perceptron import TwoLayers, backpropagate, descend_by_hand, learn, loss_of

CORNERS = torch.tensor([[0.0, 0.0], [0.0, 1.0], [1.0, 0.0], [1.0, 1.0]])
AND = torch.tensor([-1.0, -1.0, -1.0, 1.0])
XOR = torch.tensor([-1.0, 1.0, 1.0, -1.0])


def test_two_samples_by_hand() -> None:
    # Nothing is above 0 at first, so +1 is answered wrongly: w = (1, 2), b = 1. Then -1 is: w = (1 - 3, 2 - 0), b = 0,
    # which is right for both.
    found, mistakes = learn(torch.tensor([[1.0, 2.0], [3.0, 0.0]]), torch.tensor([1.0, -1.0]), 10)
    assert (found.weights.tolist(), found.bias.item(), mistakes) == ([-2.0, 2.0], 0.0, [2, 0])


def test_the_conjunction_is_learnt_and_exclusive_or_is_not() -> None:
    found, mistakes = learn(CORNERS, AND, 100)
    assert torch.equal(found(CORNERS), AND)
    assert mistakes[-1] == 0
    assert len(mistakes) < 100
    _, mistakes = learn(CORNERS, XOR, 100)
    assert len(mistakes) == 100
    assert min(mistakes) > 0


@pytest.mark.parametrize("margin", [0.5, 0.1])
def test_no_more_mistakes_than_the_theorem_allows(margin: float) -> None:
    draw = torch.Generator().manual_seed(0)
    points = 2.0 * torch.rand(300, 2, generator=draw) - 1.0
    side = (points @ torch.tensor([0.6, 0.8])) - 0.2
    points, side = points[side.abs() > margin], side[side.abs() > margin]
    found, mistakes = learn(points, side.sign(), 1000)
    longest = points.square().sum(dim=1).max() + 1.0
    # The plane (0.6, 0.8, -0.2) of length sqrt(1.04) divides them by this margin.
    assert 0 < sum(mistakes) <= longest / (margin / 1.04**0.5) ** 2
    assert torch.equal(found(points), side.sign())


def test_the_rate_scales_the_weights_alone() -> None:
    one, mistakes = learn(CORNERS, AND, 100)
    half, others = learn(CORNERS, AND, 100, rate=0.5)
    assert torch.equal(half.weights, 0.5 * one.weights)
    assert mistakes == others


def layers(hidden: int = 5, classes: int = 3) -> TwoLayers:
    draw = torch.Generator().manual_seed(1)
    shapes = (4, hidden), (hidden,), (hidden, classes), (classes,)
    return TwoLayers(*(torch.randn(shape, generator=draw, dtype=torch.float64) for shape in shapes))


def test_the_slopes_by_hand_are_those_of_autograd() -> None:
    draw = torch.Generator().manual_seed(2)
    inputs = torch.randn(7, 4, generator=draw, dtype=torch.float64)
    targets = torch.randint(0, 3, (7,), generator=draw)
    found = layers()
    for weight in found:
        weight.requires_grad_(True)
    expected = torch.autograd.grad(loss_of(found, inputs, targets), found)
    with torch.no_grad():
        slopes = backpropagate(found, inputs, targets)
    for slope, other in zip(slopes, expected, strict=True):
        torch.testing.assert_close(slope, other, rtol=1e-10, atol=1e-12)
        assert slope.abs().max() > 1e-3


def test_descent_by_hand_learns_exclusive_or() -> None:
    draw = torch.Generator().manual_seed(0)
    shapes = (2, 4), (4,), (4, 2), (2,)
    start = TwoLayers(*(torch.randn(shape, generator=draw) for shape in shapes))
    found = descend_by_hand(start, CORNERS, (XOR > 0).long(), rate=2.0, steps=1000)
    assert loss_of(found, CORNERS, (XOR > 0).long()) < 0.05
    assert loss_of(start, CORNERS, (XOR > 0).long()) > 0.5
