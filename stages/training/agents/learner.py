"""One update of deep Q-learning: what a network should have predicted, its loss, and the network that follows it."""

from __future__ import annotations

import copy
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from stages.errors import DivergedError
from stages.models.dqn import convolutional, dense
from stages.training.agents.replay import Transition


@dataclass(frozen=True)
class DeepQ:
    """How an agent learns. The paper in brackets is where a part comes from."""

    #: Steps in the environment.
    steps: int = 50_000
    #: Steps before the first update, taken at random.
    warm_up: int = 1_000
    #: Steps in the environment between two updates.
    every: int = 1
    batch: int = 128
    lr: float = 5e-4
    #: Discount of the next step's value.
    gamma: float = 0.99
    #: Steps whose rewards are summed before a value is looked up (Sutton 1988).
    n_step: int = 1
    #: The online network chooses the best next action and the target network values it (van Hasselt et al. 2016).
    double: bool = True
    #: Value and advantages apart (Wang et al. 2016).
    dueling: bool = True
    #: Transitions that are remembered.
    capacity: int = 50_000
    #: Exponent of the error that a transition is drawn by (Schaul et al. 2016); 0 draws evenly.
    priority: float = 0.0
    #: First exponent of the weights that make up for it; the last is 1.
    beta: float = 0.4
    #: Share of random actions at first and at last, and the share of all steps over which it falls.
    epsilon: tuple[float, float] = (1.0, 0.05)
    exploration: float = 0.2
    #: Updates after which the target network becomes a copy of the online one (hard), or the share of it that it moves
    #: by every update (soft, below 1; Lillicrap et al. 2016).
    target: float = 500
    #: Layers' features: of the dense agent, or of the convolutions and then the fully connected layer.
    widths: tuple[int, ...] = (128, 128)
    clip_gradient: float = 10.0
    #: Steps between two greedy evaluations, and the episodes of each; the agent that did best is kept.
    evaluate_every: int = 1_000
    evaluation_episodes: int = 10
    #: The training ends once an evaluation reaches this mean return.
    enough: float | None = None
    seed: int = 0


class Learner:
    """A Q-network that learns, and the target network that it learns from (Mnih et al. 2015)."""

    def __init__(self, network: nn.Module, how: DeepQ, device: str) -> None:
        self.network, self.how, self.device = network.to(device), how, device
        self.target = copy.deepcopy(network).requires_grad_(False).eval()
        self.optimiser = torch.optim.Adam(network.parameters(), how.lr, fused=True)
        self.updates = 0

    def update(self, batch: Transition, weights: np.ndarray) -> np.ndarray:
        """Descend the loss of a batch, weighted by float32 (n,), and move the target network.

        Returns:
            By how much the network was wrong (the temporal-difference error), float32 (n,).

        Raises:
            DivergedError: the loss is not finite.
        """
        tensors = Transition(*(torch.from_numpy(array).to(self.device) for array in batch))
        predicted = self.network(tensors.observation).gather(1, tensors.action[:, None])[:, 0]
        wanted = self.returns(tensors)
        # The gradient of Huber's loss is the paper's error clipped to -1 .. 1.
        each = functional.smooth_l1_loss(predicted, wanted, reduction="none")
        loss = (each * torch.from_numpy(weights).to(self.device)).mean()
        self.optimiser.zero_grad(set_to_none=True)
        loss.backward()
        steepness = nn.utils.clip_grad_norm_(self.network.parameters(), self.how.clip_gradient)
        if not torch.isfinite(loss + steepness):
            raise DivergedError(
                f"The agent's training diverged at update {self.updates + 1}: the loss is {float(loss.detach()):g} "
                f"and its gradient {float(steepness):g}; the last good checkpoint is kept: lower lr (it is "
                f"{self.how.lr:g}), or look for rewards or observations that are not finite or very large."
            )
        self.optimiser.step()
        self.updates += 1
        self._move_target()
        errors: np.ndarray = (wanted - predicted).detach().cpu().numpy()
        return errors

    @torch.no_grad()
    def returns(self, batch: Transition) -> Tensor:
        """Give what should have been predicted: r + gamma max Q'(s', a') over the allowed a', float32 (n,)."""
        values = self.target(batch.following)
        chosen_by = self.network(batch.following) if self.how.double else values
        # Finite, so that a last state without any allowed action, times its discount of 0, is 0.
        best = chosen_by.masked_fill(~batch.mask, torch.finfo(torch.float32).min).argmax(dim=1, keepdim=True)
        found: Tensor = batch.reward + batch.discount * values.gather(1, best)[:, 0]
        return found

    def _move_target(self) -> None:
        if self.how.target < 1:
            for there, here in zip(self.target.parameters(), self.network.parameters(), strict=True):
                there.lerp_(here.detach(), self.how.target)
        elif self.updates % int(self.how.target) == 0:
            self.target.load_state_dict(self.network.state_dict())

    def state(self) -> dict[str, Any]:
        """Give all that a checkpoint needs."""
        parts = {name: getattr(self, name).state_dict() for name in ("network", "target", "optimiser")}
        return {**parts, "updates": self.updates}

    def restore(self, state: dict[str, Any]) -> None:
        """Take up a state that `state` gave."""
        for name in ("network", "target", "optimiser"):
            getattr(self, name).load_state_dict(state[name])
        self.updates = state["updates"]


def q_network(shape: tuple[int, ...], actions: int, how: DeepQ, scale: float) -> nn.Module:
    """Make the dense agent of vectors or the convolutional agent of images (band, y, x)."""
    if len(shape) == 1:
        return dense(shape[0], actions, how.widths, dueling=how.dueling, scale=scale)
    bands, rows, columns = shape
    return convolutional(
        (bands, rows, columns), actions, how.widths[:-1], how.widths[-1], dueling=how.dueling, scale=scale
    )
