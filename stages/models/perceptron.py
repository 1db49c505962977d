"""The perceptron by Rosenblatt's rule, and backpropagation through two layers by hand, in plain tensors."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import one_hot


class Perceptron(NamedTuple):
    """One neuron with a threshold: it says +1 where weights . input + bias > 0, and -1 elsewhere."""

    weights: Tensor
    bias: Tensor

    def __call__(self, inputs: Tensor) -> Tensor:
        """(n, features) -> +1 or -1 (n,)."""
        return torch.where(inputs @ self.weights + self.bias > 0, 1.0, -1.0)


def learn(inputs: Tensor, targets: Tensor, epochs: int, rate: float = 1.0) -> tuple[Perceptron, list[int]]:
    """Learn by Rosenblatt's rule: w += rate * t * x, b += rate * t after every sample that is answered wrongly.

    Where a plane divides the classes, at most (R / m)^2 mistakes are made, R being the length of the longest input
    (its 1 for the bias counted in) and m the margin of the best plane, whatever the order of the samples (Rosenblatt,
    "Principles of Neurodynamics", 1962; Novikoff, "On convergence proofs on perceptrons", 1962). Elsewhere it never
    ends, so it is cut off after ``epochs``.

    Args:
        inputs: (n, features).
        targets: +1 or -1 (n,).
        epochs: rounds over the samples at most; it ends with the first one without a mistake.
        rate: of learning; as the weights start from 0 it scales them and changes no answer.

    Returns:
        The perceptron and its number of mistakes in every round.
    """
    weights, bias = torch.zeros(inputs.shape[1]), torch.zeros(())
    mistakes: list[int] = []
    while len(mistakes) < epochs and (not mistakes or mistakes[-1]):
        mistakes.append(0)
        for x, t in zip(inputs, targets, strict=True):
            if Perceptron(weights, bias)(x) != t:
                weights, bias = weights + rate * t * x, bias + rate * t
                mistakes[-1] += 1
    return Perceptron(weights, bias), mistakes


class TwoLayers(NamedTuple):
    """Weights and biases of a hidden layer of sigmoid neurons and of a softmax readout, or the slopes along them.

    Shapes: (features, hidden), (hidden,), (hidden, classes), (classes,).
    """

    W1: Tensor
    b1: Tensor
    W2: Tensor
    b2: Tensor


def loss_of(layers: TwoLayers, inputs: Tensor, targets: Tensor) -> Tensor:
    """Mean cross-entropy of the softmax readout; inputs (n, features), classes (n,)."""
    hidden = torch.sigmoid(inputs @ layers.W1 + layers.b1)
    logits = hidden @ layers.W2 + layers.b2
    return -logits.log_softmax(dim=1)[torch.arange(len(targets)), targets].mean()


def backpropagate(layers: TwoLayers, inputs: Tensor, targets: Tensor) -> TwoLayers:
    """Slopes of the mean cross-entropy along every weight, by the chain rule from the readout back to the input.

    The deltas of Rumelhart, Hinton and Williams, "Learning representations by back-propagating errors" (1986), for a
    softmax readout, where the slope of the loss along a logit is the answer less the target.
    """
    hidden = torch.sigmoid(inputs @ layers.W1 + layers.b1)  # (n, hidden)
    answer = (hidden @ layers.W2 + layers.b2).softmax(dim=1)  # (n, classes)
    delta2 = (answer - one_hot(targets, answer.shape[1])) / len(inputs)
    # A hidden neuron answers for what it sent on, times the slope of its sigmoid, h (1 - h).
    delta1 = (delta2 @ layers.W2.T) * hidden * (1.0 - hidden)
    return TwoLayers(inputs.T @ delta1, delta1.sum(dim=0), hidden.T @ delta2, delta2.sum(dim=0))


def descend_by_hand(layers: TwoLayers, inputs: Tensor, targets: Tensor, rate: float, steps: int) -> TwoLayers:
    """Descend the loss by full-batch gradient descent: every weight less rate times its slope."""
    for _ in range(steps):
        slopes = backpropagate(layers, inputs, targets)
        layers = TwoLayers(*(weight - rate * slope for weight, slope in zip(layers, slopes, strict=True)))
    return layers
