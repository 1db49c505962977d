"""The update rule by hand; the optimal policy of a lake without slipping, exactly."""

from __future__ import annotations

from typing import Any

import gymnasium as gym
import numpy as np
import pytest
from gymnasium import spaces

from stages.errors import SettingError
from stages.training.agents.tabular import QLearning, is_optimal, q_learning, value_iteration


class OneStep(gym.Env[int, int]):
    """Every action leads back to the only state with a reward of 1; the episode ends, or is cut short, at once."""

    def __init__(self, *, ends: bool) -> None:
        self.observation_space, self.action_space = spaces.Discrete(1), spaces.Discrete(1)
        self.ends = ends

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[int, dict[str, Any]]:
        super().reset(seed=seed, options=options)
        return 0, {}

    def step(self, _: int) -> tuple[int, float, bool, bool, dict[str, Any]]:
        return 0, 1.0, self.ends, not self.ends, {}


def lake(**more: Any) -> Any:
    return gym.make("FrozenLake-v1", is_slippery=False, **more)


def test_every_update_moves_a_share_of_the_way_to_what_was_seen() -> None:
    Q, returns = q_learning(OneStep(ends=True), QLearning(episodes=3, alpha=0.5))
    assert Q.tolist() == [[0.5 + 0.25 + 0.125]]
    assert returns.tolist() == [1.0, 1.0, 1.0]


def test_an_episode_that_ran_out_of_time_is_valued_by_what_would_have_followed() -> None:
    Q, _ = q_learning(OneStep(ends=False), QLearning(episodes=2, alpha=0.5, gamma=0.5))
    first = 0.5
    assert Q.tolist() == [[first + 0.5 * (1.0 + 0.5 * first - first)]]
    long, _ = q_learning(OneStep(ends=False), QLearning(episodes=200, alpha=0.5, gamma=0.5))
    assert long[0, 0] == pytest.approx(2.0)  # 1 / (1 - gamma)


def test_the_optimal_policy_of_the_lake_is_found_exactly() -> None:
    Q, returns = q_learning(lake(), QLearning(seed=1))
    best = value_iteration(lake().unwrapped.P, QLearning().gamma)
    assert is_optimal(Q, best).all()
    np.testing.assert_allclose(Q, best, atol=1e-6)
    # The way is six steps long, and the reward comes with the sixth.
    assert best[0].max() == pytest.approx(0.95**5)
    assert returns[-500:].mean() > returns[:500].mean() + 0.2


def test_value_iteration_solves_bellmans_equation_where_moves_slip() -> None:
    moves = gym.make("FrozenLake-v1", is_slippery=True).unwrapped.P  # type: ignore[attr-defined]
    best = value_iteration(moves, 0.9)
    for state, row in moves.items():
        for action, after in row.items():
            wanted = sum(p * (r + (0.0 if ended else 0.9 * best[s].max())) for p, s, r, ended in after)
            assert best[state, action] == pytest.approx(wanted, abs=1e-9)
    assert 0.0 < best[0].max() < 0.9**5


def test_one_wrong_turn_is_not_optimal() -> None:
    best = np.array([[1.0, 1.0, 0.5], [0.0, 0.0, 0.0]])
    assert is_optimal(np.array([[0.0, 9.0, 0.0], [0.0, 0.0, 1.0]]), best).tolist() == [True, True]
    assert is_optimal(np.array([[0.0, 0.0, 9.0], [0.0, 0.0, 1.0]]), best).tolist() == [False, True]


def test_the_same_seed_learns_the_same() -> None:
    one, same, other = (q_learning(lake(), QLearning(episodes=200, seed=seed))[0] for seed in (0, 0, 1))
    assert np.array_equal(one, same)
    assert not np.array_equal(one, other)


def test_states_or_actions_that_cannot_be_counted_are_refused() -> None:
    with pytest.raises(SettingError, match=r"observation space of CartPole-v1 is Box.*one row a state"):
        q_learning(gym.make("CartPole-v1"), QLearning())
    environment = OneStep(ends=True)
    environment.action_space = spaces.Box(-1.0, 1.0)  # type: ignore[assignment]
    with pytest.raises(SettingError, match=r"action space of OneStep is Box.*finite list"):
        q_learning(environment, QLearning())
