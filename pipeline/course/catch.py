"""A game of 10 x 10 pixels: a ball falls at a slant, bounces off the walls, and is to be caught by a paddle."""

from __future__ import annotations

from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium import spaces

SIDE = 10
#: The paddle is three pixels wide: its middle and one on either side.
HALF = 1


class Catch(gym.Env[np.ndarray, np.int64]):
    """One ball an episode: +1 if it is caught, -1 if it is missed, nothing before.

    An observation is this frame and the one before, uint8 (2, 10, 10) of 0 and 255, since one frame does not show where
    the ball is going. Actions are left, stay and right; the paddle moves one pixel a step. The ball starts anywhere in
    the top row, goes one row down a step and -1, 0 or 1 columns aside. Every ball can be caught by whoever waits one
    step, to see where it goes, and then runs: the longest way is 7 pixels, and there are 8 steps left.
    """

    metadata = {"render_modes": []}  # noqa: RUF012 - as Gymnasium has it

    def __init__(self) -> None:
        self.observation_space = spaces.Box(0, 255, (2, SIDE, SIDE), np.uint8)
        self.action_space = spaces.Discrete(3)
        self._frame = np.zeros((SIDE, SIDE), np.uint8)

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[np.ndarray, dict[str, Any]]:
        """Throw a new ball."""
        super().reset(seed=seed, options=options)
        self._row = 0
        self._column = int(self.np_random.integers(SIDE))
        self._aside = int(self.np_random.integers(-1, 2))
        self._paddle = int(self.np_random.integers(HALF, SIDE - HALF))
        self._frame = self._draw()
        return np.stack([self._frame, self._frame]), {}

    def step(self, action: np.int64) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        """Move paddle and ball."""
        self._paddle = min(max(self._paddle + int(action) - 1, HALF), SIDE - 1 - HALF)
        if not 0 <= self._column + self._aside < SIDE:
            self._aside = -self._aside
        self._row, self._column = self._row + 1, self._column + self._aside
        before, self._frame = self._frame, self._draw()
        over = self._row == SIDE - 1
        caught = abs(self._column - self._paddle) <= HALF
        reward = (1.0 if caught else -1.0) if over else 0.0
        return np.stack([self._frame, before]), reward, over, False, {}

    def _draw(self) -> np.ndarray:
        frame = np.zeros((SIDE, SIDE), np.uint8)
        frame[self._row, self._column] = 255
        frame[-1, self._paddle - HALF : self._paddle + HALF + 1] = 255
        return frame
