"""Activation functions by name, and weights to start from that suit them."""

from __future__ import annotations

from collections.abc import Callable

from torch import nn

#: sigmoid and tanh saturate at both ends; the others are those of Nair and Hinton (2010, relu), Maas et al. (2013,
#: leaky_relu), Clevert et al. (2016, elu), Hendrycks and Gimpel (2016, gelu) and Elfwing et al. (2018, silu).
ACTIVATIONS: dict[str, Callable[[], nn.Module]] = {
    "sigmoid": nn.Sigmoid,
    "tanh": nn.Tanh,
    "relu": nn.ReLU,
    "leaky_relu": nn.LeakyReLU,
    "elu": nn.ELU,
    "gelu": nn.GELU,
    "silu": nn.SiLU,
}


def activation(name: str) -> nn.Module:
    """Make an activation function.

    Raises:
        ValueError: there is none of that name.
    """
    if name not in ACTIVATIONS:
        raise ValueError(f"'{name}' is no activation function here; take one of {', '.join(ACTIVATIONS)}.")
    return ACTIVATIONS[name]()


def initialise(layer: nn.Linear | nn.Conv2d, name: str) -> None:
    """Start a layer before that activation so that signals neither grow nor fade from layer to layer; biases are 0.

    Saturating functions take the weights of Glorot and Bengio (2010), the others those of He et al. (2015).
    """
    if name in ("sigmoid", "tanh"):
        nn.init.xavier_uniform_(layer.weight, nn.init.calculate_gain("tanh" if name == "tanh" else "sigmoid"))
    else:
        nn.init.kaiming_uniform_(layer.weight, nonlinearity="relu")
    if layer.bias is not None:
        nn.init.zeros_(layer.bias)
