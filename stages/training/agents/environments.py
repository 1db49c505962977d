"""What an agent has to know of an environment: how many actions and states it has, and which actions are allowed."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from stages.errors import SettingError

if TYPE_CHECKING:
    from gymnasium import Env, Space


def name_of(environment: Env[Any, Any]) -> str:
    """Name an environment as it is registered, or by its class."""
    spec = environment.spec
    return type(environment.unwrapped).__name__ if spec is None else spec.id


def count_actions(environment: Env[Any, Any]) -> int:
    """Count the actions.

    Raises:
        SettingError: the actions are no finite list, so that no maximum over them can be looked up.
    """
    return _count(environment.action_space, environment, "action", "has one value an action")


def count_states(environment: Env[Any, Any]) -> int:
    """Count the states that a table has a row for.

    Raises:
        SettingError: the observations are no finite list.
    """
    return _count(environment.observation_space, environment, "observation", "by a table has one row a state")


def _count(space: Space[Any], environment: Env[Any, Any], what: str, why: str) -> int:
    from gymnasium.spaces import Discrete

    if not isinstance(space, Discrete) or space.start != 0:
        raise SettingError(
            f"The {what} space of {name_of(environment)} is {space}, but Q-learning {why} and needs "
            f"gymnasium.spaces.Discrete counted from 0; take another environment, or wrap this one so that its "
            f"{what}s are a finite list."
        )
    return int(space.n)


def observed(environment: Env[Any, Any]) -> tuple[tuple[int, ...], np.dtype[Any]]:
    """Tell the shape and type of the arrays that a Q-network sees: features (n,) or an image (band, y, x).

    Raises:
        SettingError: the observations are something else.
    """
    from gymnasium.spaces import Box

    space = environment.observation_space
    if not isinstance(space, Box) or len(space.shape) not in {1, 3}:
        raise SettingError(
            f"The observation space of {name_of(environment)} is {space}, but a Q-network sees a vector or an image "
            f"(band, y, x); wrap the environment so that it gives gymnasium.spaces.Box of one or three dimensions."
        )
    return space.shape, np.dtype(space.dtype)


def allowed(info: dict[str, Any], actions: int) -> np.ndarray:
    """Read which actions are allowed, bool (actions,), from ``info["action_mask"]``; all where it is not there.

    Raises:
        SettingError: the mask has another length.
    """
    if "action_mask" not in info:
        return np.ones(actions, bool)
    mask = np.asarray(info["action_mask"], bool)
    if mask.shape != (actions,):
        raise SettingError(
            f"The environment's action_mask has the shape {mask.shape}, but there are {actions} actions; give one "
            f"truth value for each."
        )
    return mask
