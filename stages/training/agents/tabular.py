"""Q-learning by a table: one value for every state and action, and the policies that follow from such values."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from stages.training.agents.environments import count_actions, count_states

if TYPE_CHECKING:
    from gymnasium import Env

#: For every state and action what may follow: (probability, next state, reward, whether the episode ends there).
Dynamics = Mapping[int, Mapping[int, Sequence[tuple[float, int, float, bool]]]]


@dataclass(frozen=True)
class QLearning:
    """How the table is learnt."""

    episodes: int = 3_000
    #: Learning rate: how far a value moves towards what was just seen.
    alpha: float = 0.5
    #: Discount of the next state's value.
    gamma: float = 0.95
    #: Share of random actions at first and at last; falls in a straight line over all episodes.
    epsilon: tuple[float, float] = (1.0, 0.2)
    seed: int = 0


def q_learning(environment: Env[Any, Any], how: QLearning) -> tuple[np.ndarray, np.ndarray]:
    """Learn Q by Q(s, a) <- Q(s, a) + alpha (r + gamma max Q(s', a') - Q(s, a)) (Watkins and Dayan 1992).

    The maximum is over the actions of the next state whatever is done there, so that what is learnt is the value of the
    best policy while another one explores (off-policy). After the end of an episode nothing follows and it is 0; an
    episode that only ran out of time (truncated) did not end.

    Returns:
        Q, float64 (states, actions), and the return of every episode, float64 (episodes,).

    Raises:
        SettingError: the environment's states or actions are no finite list.
    """
    Q = np.zeros((count_states(environment), count_actions(environment)))
    draws = np.random.default_rng(how.seed)
    returns = np.zeros(how.episodes)
    for episode, epsilon in enumerate(np.linspace(*how.epsilon, how.episodes)):
        state, _ = environment.reset(seed=int(draws.integers(2**31)))
        over = False
        while not over:
            action = _explore(Q[state], float(epsilon), draws)
            following, reward, terminated, truncated, _ = environment.step(action)
            target = float(reward) + (0.0 if terminated else how.gamma * Q[following].max())
            Q[state, action] += how.alpha * (target - Q[state, action])
            returns[episode] += float(reward)
            state, over = following, terminated or truncated
    return Q, returns


def _explore(values: np.ndarray, epsilon: float, draws: np.random.Generator) -> int:
    """Choose a random action with probability epsilon and otherwise a best one; of equally good ones any."""
    if draws.random() < epsilon:
        return int(draws.integers(len(values)))
    return int(draws.choice(np.flatnonzero(values == values.max())))


def value_iteration(dynamics: Dynamics, gamma: float, tolerance: float = 1e-12) -> np.ndarray:
    """Compute the values of the best policy where the dynamics are known (Bellman 1957).

    Returns:
        Q, float64 (states, actions), of which no value changes by more than ``tolerance`` any more.
    """
    Q = np.zeros((len(dynamics), len(dynamics[0])))
    while True:
        best = Q.max(axis=1)
        found = np.array(
            [
                [
                    sum(p * (r + (0.0 if ended else gamma * best[s])) for p, s, r, ended in moves)
                    for moves in row.values()
                ]
                for row in dynamics.values()
            ]
        )
        if np.abs(found - Q).max() <= tolerance:
            return found
        Q = found


def is_optimal(Q: np.ndarray, best: np.ndarray, tolerance: float = 1e-9) -> np.ndarray:
    """Tell in which states the greedy action of ``Q`` is one of the best by ``best``: bool (states,).

    A state where nothing can be gained any more, as behind an episode's end, is optimal whatever is done.
    """
    chosen = np.take_along_axis(best, Q.argmax(axis=1)[:, None], axis=1)[:, 0]
    optimal: np.ndarray = chosen >= best.max(axis=1) - tolerance
    return optimal
