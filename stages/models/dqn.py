"""Q-networks: what every action of an agent is worth, from a vector of features or from an image."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import Tensor, nn


class Dueling(nn.Module):
    """Two streams in place of one head: the value of the state, and the advantage of every action (Wang et al. 2016).

    Q = V + A - mean of A (their equation 9): subtracting the mean makes the split into V and A unique, and a state's
    value is learnt from whatever action was taken in it.
    """

    def __init__(self, features: int, actions: int) -> None:
        super().__init__()
        self.value = nn.Linear(features, 1)
        self.advantage = nn.Linear(features, actions)

    def forward(self, features: Tensor) -> Tensor:
        """(n, features) -> Q-values (n, actions)."""
        advantage = self.advantage(features)
        action_values: Tensor = self.value(features) + advantage - advantage.mean(dim=1, keepdim=True)
        return action_values


class QNetwork(nn.Module):
    """The values of all actions in one pass (Mnih et al. 2015): observations (n, *shape) -> Q-values (n, actions).

    ``scale`` multiplies the observations first: 1 / 255 for images of bytes, which are also what a replay buffer
    should hold, as they take a quarter of the memory.
    """

    def __init__(
        self, body: nn.Module, features: int, actions: int, *, dueling: bool = False, scale: float = 1.0
    ) -> None:
        super().__init__()
        self.scale = scale
        self.body = body
        self.head: nn.Module = Dueling(features, actions) if dueling else nn.Linear(features, actions)

    def forward(self, observation: Tensor) -> Tensor:
        """Q-values of every action."""
        action_values: Tensor = self.head(self.body(observation.float() * self.scale))
        return action_values


def dense(
    inputs: int, actions: int, widths: Sequence[int] = (128, 128), *, dueling: bool = False, scale: float = 1.0
) -> QNetwork:
    """Make the agent that sees a vector of features: fully connected layers of ``widths`` with rectification."""
    layers: list[nn.Module] = []
    for before, after in pairwise([inputs, *widths]):
        layers += [nn.Linear(before, after), nn.ReLU()]
    return QNetwork(nn.Sequential(*layers), widths[-1], actions, dueling=dueling, scale=scale)


def convolutional(
    shape: tuple[int, int, int], actions: int, channels: Sequence[int] = (16, 32), width: int = 128, *,
    side: int = 3, dueling: bool = False, scale: float = 1.0,
) -> QNetwork:  # fmt: skip
    """Make the agent that sees an image (band, y, x): convolutions, then one fully connected layer (Mnih et al. 2015).

    Every convolution but the first halves the image by its stride. There is no pooling, as the agent has to know
    where things are.
    """
    layers: list[nn.Module] = []
    for number, (before, after) in enumerate(pairwise([shape[0], *channels])):
        stride = 1 if number == 0 else 2
        layers += [nn.Conv2d(before, after, side, stride, padding=side // 2), nn.ReLU()]
    layers.append(nn.Flatten())
    with torch.no_grad():
        features = nn.Sequential(*layers)(torch.zeros(1, *shape)).shape[1]
    layers += [nn.Linear(features, width), nn.ReLU()]
    return QNetwork(nn.Sequential(*layers), width, actions, dueling=dueling, scale=scale)
