"""Act by a Q-network: the best of the allowed actions in every state, and whole episodes played so."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import nn

from stages.errors import SettingError
from stages.training.agents.environments import allowed

if TYPE_CHECKING:
    from gymnasium import Env


class Agent:
    """A Q-network that acts greedily."""

    def __init__(self, network: nn.Module, actions: int, device: str = "cpu") -> None:
        self.network = network.to(device)
        self.actions, self.device = actions, device

    @torch.no_grad()
    def values(self, observation: np.ndarray) -> np.ndarray:
        """Q-values of all actions, float32 (actions,)."""
        values: np.ndarray = self.network(torch.from_numpy(observation[None]).to(self.device))[0].cpu().numpy()
        return values

    def act(self, observation: np.ndarray, mask: np.ndarray) -> int:
        """Choose the best of the allowed actions, bool (actions,).

        Raises:
            SettingError: none is allowed.
        """
        if not mask.any():
            raise SettingError(
                "The environment allows no action in a state that does not end the episode; let it end there "
                "(terminated), or allow one."
            )
        return int(np.where(mask, self.values(observation), -np.inf).argmax())

    def play(self, environment: Env[Any, Any], seeds: Iterable[int]) -> np.ndarray:
        """Play an episode from every seed, greedily; gives their returns, without a discount."""
        returns = []
        for seed in seeds:
            observation, info = environment.reset(seed=seed)
            total, over = 0.0, False
            while not over:
                action = self.act(observation, allowed(info, self.actions))
                observation, reward, terminated, truncated, info = environment.step(action)
                total, over = total + float(reward), terminated or truncated
            returns.append(total)
        return np.array(returns)
