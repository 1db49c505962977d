"""Multilayer perceptrons: of vectors, and of single pixels, every one classified by its own spectrum."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

from torch import Tensor, nn

from stages.models.activations import activation as make_activation
from stages.models.activations import initialise
from stages.models.layers import ValidBatchNorm
from stages.models.reach import Sighted


class MLP(nn.Module):
    """Layers of neurons, each of which sees all of the layer before (Rumelhart, Hinton and Williams 1986).

    Args:
        features: of an input.
        classes: number of outputs.
        hidden: neurons of each hidden layer; none leaves multinomial logistic regression.
        activation: of the hidden neurons; see `stages.models.activations`.
        dropout: share of hidden neurons silenced in training (Srivastava et al. 2014).
        visible_dropout: share of the input's features silenced in training.
        batch_norm: normalise before every activation (Ioffe and Szegedy 2015).

    Raises:
        ValueError: the activation is not known.
    """

    def __init__(
        self, features: int, classes: int, hidden: Sequence[int] = (64, 64), *, activation: str = "relu",
        dropout: float = 0.0, visible_dropout: float = 0.0, batch_norm: bool = False,
    ) -> None:  # fmt: skip
        super().__init__()
        layers: list[nn.Module] = [nn.Dropout(visible_dropout)]
        for inputs, outputs in pairwise([features, *hidden]):
            # The normalisation has a shift of its own.
            layer = nn.Linear(inputs, outputs, bias=not batch_norm)
            initialise(layer, activation)
            layers += [layer, *([nn.BatchNorm1d(outputs)] if batch_norm else [])]
            layers += [make_activation(activation), nn.Dropout(dropout)]
        self.hidden = nn.Sequential(*layers)
        self.head = nn.Linear([features, *hidden][-1], classes)

    def forward(self, inputs: Tensor) -> Tensor:
        """Logits (n, classes) of inputs (n, ...) of as many features."""
        logits: Tensor = self.head(self.hidden(inputs.flatten(1)))
        return logits

    def readout(self, inputs: Tensor) -> Tensor:
        """Probabilities (n, classes): the softmax readout, which the cross-entropy of the logits contains already."""
        return self.forward(inputs).softmax(dim=1)


class PixelLayer(nn.Module):
    """A layer of neurons at every pixel alike, which is a 1 x 1 convolution; what is invalid counts nowhere."""

    def __init__(self, inputs: int, outputs: int, activation: str = "relu") -> None:
        super().__init__()
        self.convolve = nn.Conv2d(inputs, outputs, 1, bias=False)
        self.normalise = ValidBatchNorm(outputs)
        self.activate = make_activation(activation)

    def forward(self, features: Tensor, valid: Tensor) -> Tensor:
        """(n, inputs, y, x) -> (n, outputs, y, x), 0 where not valid."""
        activated: Tensor = self.activate(self.normalise(self.convolve(features), valid))
        return activated * valid


class PixelMLP(Sighted):
    """The same perceptron with batch normalisation at every pixel, whose statistics are of the valid pixels only.

    Takes (n, channels + 1, y, x), the last channel being the validity, and gives logits (n, classes, y, x).
    """

    def __init__(
        self, channels: int, classes: int, width: int = 64, dropout: float = 0.1, layers: int = 2, *,
        activation: str = "relu",
    ) -> None:  # fmt: skip
        super().__init__(channels + 1)
        inputs = [channels + 1, *[width] * layers]
        self.hidden = nn.ModuleList(PixelLayer(a, b, activation) for a, b in pairwise(inputs))
        self.drop = nn.Dropout(dropout)
        self.head = nn.Conv2d(width, classes, 1)

    def forward(self, image: Tensor) -> Tensor:
        """Logits of every pixel."""
        valid, features = image[:, -1:], image
        for layer in self.hidden:
            features = self.drop(layer(features, valid))
        logits: Tensor = self.head(features)
        return logits
