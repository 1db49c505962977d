"""Deep Q-learning: an agent learns from its own replayed experience what every action is worth (Mnih et al. 2015)."""

from __future__ import annotations

import copy
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn

from stages import progress
from stages.training import checkpoint
from stages.training.agents.agent import Agent
from stages.training.agents.environments import allowed, count_actions, name_of, observed
from stages.training.agents.learner import DeepQ, Learner, q_network
from stages.training.agents.replay import Replay, Steps

if TYPE_CHECKING:
    from gymnasium import Env

__all__ = ["CHECKPOINT", "SEEDS", "DeepQ", "History", "Training", "train"]

CHECKPOINT = "last.ckpt"
#: Episodes of the training start from seeds below this, those of the evaluations from as many above it.
SEEDS = 2**31


@dataclass
class History:
    """What happened: returns of all episodes with the step each ended at, and the mean returns of the evaluations."""

    ends: list[int] = field(default_factory=list)
    returns: list[float] = field(default_factory=list)
    evaluated_at: list[int] = field(default_factory=list)
    evaluations: list[float] = field(default_factory=list)
    #: Processor time of the training and its evaluations, over all its runs.
    seconds: float = field(default=0.0, compare=False)


def train(
    make: Callable[[], Env[Any, Any]], how: DeepQ, *, network: nn.Module | None = None, folder: Path | None = None,
    device: str = "cpu",
) -> tuple[Agent, History]:  # fmt: skip
    """Train an agent in an environment; the best of its greedy evaluations is what is given.

    Every episode draws from a generator of its own, and checkpoints are written between episodes, so that a training
    that was killed and goes on from ``folder`` gives the agent that it would have given.

    Args:
        make: makes the environment (Gymnasium's interface, finitely many actions; where some are not allowed,
            ``info["action_mask"]`` says so); called twice, for the training and for the evaluations.
        how: the settings.
        network: observations (n, *shape) to Q-values (n, actions), without layers that behave differently in training
            (dropout, batch normalisation); made from the observations' shape where left out.
        folder: where the checkpoint lies; without one, nothing is written.
        device: where the network computes.

    Raises:
        SettingError: the environment's actions or observations are of another kind, or no action is allowed.
        DivergedError: the loss is not finite; the last checkpoint is kept.
    """
    training = Training(make(), how, network, device)
    if folder is not None:
        folder.mkdir(parents=True, exist_ok=True)
        training.go_on_from(folder / CHECKPOINT)
    judge, last = make(), training.step
    try:
        while training.step < how.steps and not training.is_good_enough:
            began = time.process_time()
            training.episode()
            if training.step - last >= how.evaluate_every or training.step >= how.steps:
                last = training.step
                training.evaluate(judge)
            training.history.seconds += time.process_time() - began
            if last == training.step and folder is not None:
                training.keep(folder / CHECKPOINT)
            progress.report("agent", training.step, how.steps)
    finally:
        training.environment.close()
        judge.close()
    return training.best(), training.history


class Training:
    """An agent between two episodes: everything that a checkpoint holds."""

    def __init__(self, environment: Env[Any, Any], how: DeepQ, network: nn.Module | None, device: str) -> None:
        self.environment, self.how, self.device = environment, how, device
        self.actions = count_actions(environment)
        shape, dtype = observed(environment)
        if network is None:
            with torch.random.fork_rng(devices=[]):
                torch.manual_seed(how.seed)
                network = q_network(shape, self.actions, how, 1.0 / 255.0 if dtype == np.uint8 else 1.0)
        self.learner = Learner(network, how, device)
        self.agent = Agent(network, self.actions, device)
        self.replay = Replay(how.capacity, shape, dtype, self.actions, how.priority)
        self.history = History()
        self.step = 0
        self._best = copy.deepcopy(network.state_dict())

    @property
    def epsilon(self) -> float:
        """Share of random actions at this step: falls in a straight line once the first update was made."""
        first, last = self.how.epsilon
        passed = (self.step - self.how.warm_up) / max(1.0, self.how.exploration * self.how.steps)
        return 1.0 if passed < 0.0 else first + min(1.0, passed) * (last - first)

    @property
    def is_good_enough(self) -> bool:
        """Whether the last evaluation reached what was asked for."""
        found = self.history.evaluations
        return self.how.enough is not None and bool(found) and found[-1] >= self.how.enough

    def episode(self) -> None:
        """Play one episode, learning on the way."""
        how = self.how
        draws = np.random.default_rng(np.random.SeedSequence(how.seed, spawn_key=(0, len(self.history.ends))))
        observation, info = self.environment.reset(seed=int(draws.integers(SEEDS)))
        observation, mask = np.array(observation), allowed(info, self.actions)
        steps, total, over = Steps(how.n_step, how.gamma), 0.0, False
        while not over:
            if draws.random() < self.epsilon and mask.any():
                action = int(draws.choice(np.flatnonzero(mask)))
            else:
                action = self.agent.act(observation, mask)
            following, reward, terminated, truncated, info = self.environment.step(action)
            # An environment may go on writing into the array that it gave.
            following, mask = np.array(following), allowed(info, self.actions)
            for each in steps.push(
                observation, action, float(reward), following, mask, terminated=terminated, truncated=truncated
            ):
                self.replay.add(each)
            observation, total, over = following, total + float(reward), terminated or truncated
            self.step += 1
            if self.step >= how.warm_up and self.step % how.every == 0 and len(self.replay):
                self.learn(draws)
        self.history.ends.append(self.step)
        self.history.returns.append(total)

    def learn(self, draws: np.random.Generator) -> None:
        """Draw a batch of what was seen and learn from it."""
        beta = self.how.beta + (1.0 - self.how.beta) * min(1.0, self.step / self.how.steps)
        batch, places, weights = self.replay.draw(self.how.batch, beta, draws)
        self.replay.learn(places, self.learner.update(batch, weights))

    def evaluate(self, environment: Env[Any, Any]) -> None:
        """Play greedily from seeds that no episode of the training starts from; remember the best agent so far."""
        draws = np.random.default_rng(np.random.SeedSequence(self.how.seed, spawn_key=(1,)))
        seeds = draws.integers(SEEDS, 2 * SEEDS, size=self.how.evaluation_episodes)
        mean = float(self.agent.play(environment, seeds.tolist()).mean())
        if mean >= max(self.history.evaluations, default=-np.inf):
            self._best = copy.deepcopy(self.agent.network.state_dict())
        self.history.evaluated_at.append(self.step)
        self.history.evaluations.append(mean)

    def best(self) -> Agent:
        """Give the agent that did best."""
        network = copy.deepcopy(self.agent.network)
        network.load_state_dict(self._best)
        return Agent(network.eval(), self.actions, self.device)

    def keep(self, path: Path) -> None:
        """Write the checkpoint over the last one, whole or not at all."""
        state = {
            "origin": self._origin(), "step": self.step, "history": asdict(self.history), "best": self._best,
            "learner": self.learner.state(),
            "replay": {
                name: torch.from_numpy(value) if isinstance(value, np.ndarray) else value
                for name, value in self.replay.state().items()
            },
        }  # fmt: skip
        checkpoint.save(state, path)

    def go_on_from(self, path: Path) -> None:
        """Take up a checkpoint of the same settings, network and environment; any other counts as none."""
        state = checkpoint.load_own(path, self._origin(), self.device)
        if state is None:
            return
        self.step, self.history, self._best = state["step"], History(**state["history"]), state["best"]
        self.learner.restore(state["learner"])
        self.replay.restore({k: v.cpu().numpy() if isinstance(v, Tensor) else v for k, v in state["replay"].items()})

    def _origin(self) -> dict[str, Any]:
        """Say what a checkpoint must agree with to be gone on with: all but when it is enough."""
        shapes = [list(weight.shape) for weight in self.agent.network.parameters()]
        return {**asdict(self.how), "enough": None, "environment": name_of(self.environment), "shapes": shapes}
