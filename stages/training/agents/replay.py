"""Remember what an agent has seen: returns of n steps, and buffers that are drawn from evenly or by priority."""

from __future__ import annotations

from collections import deque
from typing import Any, NamedTuple

import numpy as np


class Transition(NamedTuple):
    """What an action led to; of a batch arrays with a first axis more, or tensors while it is learnt from."""

    observation: Any
    action: Any
    #: Discounted sum of the rewards until ``following``.
    reward: Any
    following: Any
    #: Which actions are allowed in ``following``: bool (actions,).
    mask: Any
    #: What the value of ``following`` is multiplied by: gamma to the number of steps, 0 where the episode ended there.
    discount: Any


class Steps:
    """Turn single steps into transitions over ``n`` steps (Sutton 1988; with DQN: Hessel et al. 2018)."""

    def __init__(self, n: int, gamma: float) -> None:
        self.n, self.gamma = n, gamma
        self._open: deque[tuple[np.ndarray, int, float]] = deque()

    def push(
        self, observation: np.ndarray, action: int, reward: float, following: np.ndarray, mask: np.ndarray, *,
        terminated: bool, truncated: bool,
    ) -> list[Transition]:  # fmt: skip
        """Take one step; gives the transitions that it completes: usually one, at an episode's end all open ones.

        An episode that is cut short (truncated) did not end: the value of its last state still counts.
        """
        self._open.append((observation, action, reward))
        done: list[Transition] = []
        while self._open and (len(self._open) == self.n or terminated or truncated):
            total = sum(self.gamma**power * each for power, (_, _, each) in enumerate(self._open))
            discount = 0.0 if terminated else self.gamma ** len(self._open)
            first, taken, _ = self._open.popleft()
            done.append(Transition(first, taken, total, following, mask, discount))
        return done


class SumTree:
    """Numbers whose running sums are searched in log(n): every node holds the sum of the two below it."""

    def __init__(self, size: int) -> None:
        self.leaves = 1 << max(1, size - 1).bit_length()
        self.sums = np.zeros(2 * self.leaves)

    def __getitem__(self, places: Any) -> Any:
        return self.sums[self.leaves + places]

    def set(self, places: np.ndarray, values: np.ndarray) -> None:
        """Replace the numbers at ``places`` and the sums above them."""
        nodes = self.leaves + places
        self.sums[nodes] = values
        while len(nodes) and nodes[0] > 1:
            nodes = np.unique(nodes // 2)
            self.sums[nodes] = self.sums[2 * nodes] + self.sums[2 * nodes + 1]

    @property
    def total(self) -> float:
        """Sum of all numbers."""
        return float(self.sums[1])

    def find(self, heights: np.ndarray) -> np.ndarray:
        """Give for every height in [0, total) the place where the running sum first exceeds it."""
        nodes = np.ones(len(heights), np.int64)
        rest = heights.copy()
        while nodes[0] < self.leaves:
            left = self.sums[2 * nodes]
            # Rounding may leave a height at the very end of a sum; it must not lead to numbers that are 0.
            right = (rest >= left) & (self.sums[2 * nodes + 1] > 0)
            rest = np.where(right, rest - left, rest)
            nodes = 2 * nodes + right
        return nodes - self.leaves


class Replay:
    """The last ``capacity`` transitions, drawn evenly (Lin 1992) or by their error (Schaul et al. 2016).

    Args:
        capacity: transitions held; the oldest is overwritten first.
        shape: of an observation.
        dtype: of an observation.
        actions: how many there are.
        priority: the paper's alpha: a transition is drawn in proportion to |error| ** alpha; 0 draws evenly.
    """

    #: Added to every error, so that none is never drawn again (the paper's epsilon).
    LEAST = 1e-3

    def __init__(self, capacity: int, shape: tuple[int, ...], dtype: Any, actions: int, priority: float = 0.0) -> None:
        self.capacity, self.priority = capacity, priority
        self.count = 0
        self.held = Transition(
            np.zeros((capacity, *shape), dtype), np.zeros(capacity, np.int64), np.zeros(capacity, np.float32),
            np.zeros((capacity, *shape), dtype), np.zeros((capacity, actions), bool), np.zeros(capacity, np.float32),
        )  # fmt: skip
        self.tree = SumTree(capacity) if priority > 0 else None
        self._highest = 1.0

    def __len__(self) -> int:
        return min(self.count, self.capacity)

    def add(self, transition: Transition) -> None:
        """Remember a transition, by the highest priority so far, so that each is drawn soon."""
        place = self.count % self.capacity
        for array, value in zip(self.held, transition, strict=True):
            array[place] = value
        self.count += 1
        if self.tree is not None:
            self.tree.set(np.array([place]), np.array([self._highest]))

    def draw(self, size: int, beta: float, draws: np.random.Generator) -> tuple[Transition, np.ndarray, np.ndarray]:
        """Draw a batch: transitions, their places, and their weights in the loss, float32 (size,).

        By priority, the sum is cut into ``size`` equal parts and one is drawn in each. The weights (N P) ** -beta over
        their maximum make up for what is drawn more often; with ``beta`` 1 in full.
        """
        if self.tree is None:
            places = draws.integers(len(self), size=size)
            weights = np.ones(size, np.float32)
        else:
            places = self.tree.find((np.arange(size) + draws.random(size)) * (self.tree.total / size))
            scarce = (len(self) * self.tree[places] / self.tree.total) ** -beta
            weights = (scarce / scarce.max()).astype(np.float32)
        return Transition(*(array[places] for array in self.held)), places, weights

    def learn(self, places: np.ndarray, errors: np.ndarray) -> None:
        """Set the priorities of drawn transitions by their errors; does nothing where all are drawn evenly."""
        if self.tree is None:
            return
        priorities = (np.abs(errors) + self.LEAST) ** self.priority
        self._highest = max(self._highest, float(priorities.max()))
        self.tree.set(places, priorities)

    def state(self) -> dict[str, Any]:
        """Give all that a checkpoint needs, as arrays and numbers."""
        filled = {name: array[: len(self)] for name, array in self.held._asdict().items()}
        priorities = np.zeros(0) if self.tree is None else self.tree[np.arange(len(self))]
        return {**filled, "priorities": priorities, "count": self.count, "highest": self._highest}

    def restore(self, state: dict[str, Any]) -> None:
        """Take up a state that `state` gave for a buffer of the same sizes."""
        self.count, self._highest = int(state["count"]), float(state["highest"])
        for name, array in self.held._asdict().items():
            array[: len(self)] = state[name]
        if self.tree is not None:
            self.tree.set(np.arange(len(self)), state["priorities"])
