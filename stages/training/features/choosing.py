"""Let an agent choose features one after another (after Mou et al. 2021, who choose bands of hyperspectral images).

L. Mou, S. Saha, Y. Hua, F. Bovolo, L. Bruzzone and X. X. Zhu, "Deep reinforcement learning for band selection in
hyperspectral image classification", IEEE TGRS 60, 2021. As there, the state is what has been chosen, an action adds
one more, and a deep Q-network learns what each is worth. Their reward needs no labels; here it is what the validation
score gains by its cost, on folds within the training part.
"""

from __future__ import annotations

from functools import partial
from typing import Any

import numpy as np
from gymnasium import Env
from gymnasium.spaces import Box, Discrete

from stages.training.agents.deep_q import train
from stages.training.agents.learner import DeepQ
from stages.training.features.scores import Scorer

#: Rewards are gains of some hundredths; a network learns better from numbers about 1.
SCALE = 20.0


class Choosing(Env[np.ndarray, Any]):
    """Choose k units: an episode of k steps, a reward after each of what it added to the merit of the set.

    Observed are float32 (unit + 2,): 1 for every chosen unit, the merit so far, and the share of the k that are
    chosen. A unit that is chosen already is not allowed: ``info["action_mask"]`` is bool (unit,). The rewards of an
    episode sum to the merit of its set, whatever the order.
    """

    def __init__(self, scorer: Scorer, k: int) -> None:
        self.scorer, self.k = scorer, k
        self.action_space = Discrete(scorer.units)
        self.observation_space = Box(-np.inf, np.inf, (scorer.units + 2,), np.float32)
        self.chosen: list[int] = []

    def reset(
        self,
        *,
        seed: int | None = None,
        options: dict[str, Any] | None = None,  # noqa: ARG002
    ) -> tuple[np.ndarray, dict[str, Any]]:
        """Begin with nothing chosen."""
        super().reset(seed=seed)
        self.chosen = []
        return self._observed()

    def step(self, action: int) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        """Choose one more unit."""
        assert action not in self.chosen, f"unit {action} is chosen already"
        before = self.scorer.merit(self.chosen)
        self.chosen.append(int(action))
        gain = self.scorer.merit(self.chosen) - before
        seen, info = self._observed()
        return seen, SCALE * gain, len(self.chosen) == self.k, False, info

    def _observed(self) -> tuple[np.ndarray, dict[str, Any]]:
        seen = np.zeros(self.scorer.units + 2, np.float32)
        seen[self.chosen] = 1.0
        seen[-2:] = SCALE * self.scorer.merit(self.chosen), len(self.chosen) / self.k
        return seen, {"action_mask": seen[:-2] == 0}


def by_agent(scorer: Scorer, k: int, seed: int, *, episodes: int = 1000, device: str = "cpu") -> tuple[int, ...]:
    """Train an agent and take the best set of k units that it has seen in all its episodes.

    Args:
        scorer: what the sets are scored by.
        k: how many units are chosen.
        seed: of the agent.
        episodes: sets that are chosen while it learns.
        device: where its network computes.
    """
    train(partial(Choosing, scorer, k), settings(k, seed, episodes), device=device)
    return best_of(scorer, k)


def settings(k: int, seed: int, episodes: int) -> DeepQ:
    """Say how the agent learns: the return of an episode is its set's merit, so nothing is discounted."""
    steps = episodes * k
    return DeepQ(
        steps=steps, warm_up=max(1, steps // 10), every=4, batch=64, lr=1e-3, gamma=1.0, n_step=3, target=200,
        capacity=steps, epsilon=(1.0, 0.05), exploration=0.6, widths=(128, 128), evaluate_every=max(k, steps // 20),
        evaluation_episodes=1, seed=seed,
    )  # fmt: skip


def best_of(scorer: Scorer, k: int) -> tuple[int, ...]:
    """Give the best set of k units that was scored, the first in order where several are alike."""
    return max(sorted(tuple(sorted(units)) for units in scorer.scored if len(units) == k), key=scorer.merit)
