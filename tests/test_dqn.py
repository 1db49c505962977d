"""Q-networks, the update's target by hand, agents that learn small worlds, and trainings that go on after a kill."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch
from gymnasium import spaces
from torch import Tensor, nn

from stages.errors import DivergedError, SettingError
from stages.models.dqn import Dueling, convolutional, dense
from stages.training.agents.agent import Agent
from stages.training.agents.deep_q import CHECKPOINT, DeepQ, Training, train
from stages.training.agents.learner import Learner
from stages.training.agents.replay import Transition

QUICK = DeepQ(
    steps=500, warm_up=64, batch=32, lr=3e-3, gamma=0.9, capacity=400, target=20, widths=(24,), exploration=0.5,
    evaluate_every=100, evaluation_episodes=1,
)  # fmt: skip


class Corridor(gym.Env[np.ndarray, np.int64]):
    """Five places in a row, started in the middle one; +1 at the right end, +0.3 at the left, none in between.

    With ``masked``, every second step forbids one of the three actions, at random, and taking it is an error. The
    third action stays.
    """

    def __init__(self, *, masked: bool = False, reward: float = 1.0, ends_without_actions: bool = True) -> None:
        self.observation_space = spaces.Box(0.0, 1.0, (5,), np.float32)
        self.action_space = spaces.Discrete(3)
        self.masked, self.reward, self.ends_without_actions = masked, reward, ends_without_actions

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        super().reset(seed=seed, options=options)
        self.place, self.time = 2, 0
        return self._seen()

    def _seen(self) -> tuple[Any, dict[str, Any]]:
        self.mask = np.ones(3, bool)
        if self.masked and self.time % 2 == 1:
            self.mask[self.np_random.integers(3)] = False
        if self.place in {0, 4}:
            self.mask[:] = not self.ends_without_actions
        return np.eye(5, dtype=np.float32)[self.place], {"action_mask": self.mask} if self.masked else {}

    def step(self, action: np.int64) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        assert self.mask[action], "an action was taken that is not allowed"
        self.place, self.time = self.place + (-1, 1, 0)[action], self.time + 1
        observation, info = self._seen()
        reward = {0: 0.3, 4: self.reward}.get(self.place, 0.0)
        return observation, reward, self.place in {0, 4}, self.time >= 12, info


class Lights(gym.Env[np.ndarray, np.int64]):
    """One image a game, a light on the left or on the right: +1 for the action on its side."""

    def __init__(self) -> None:
        self.observation_space = spaces.Box(0, 255, (1, 6, 6), np.uint8)
        self.action_space = spaces.Discrete(2)

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        super().reset(seed=seed, options=options)
        self.image = np.zeros((1, 6, 6), np.uint8)
        self.column = int(self.np_random.integers(6))
        self.image[0, self.np_random.integers(6), self.column] = 255
        return self.image, {}

    def step(self, action: np.int64) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        return self.image, float(action == self.column // 3), True, False, {}


class Table(nn.Module):
    """Q-values that are looked up by the first feature."""

    def __init__(self, values: list[list[float]]) -> None:
        super().__init__()
        self.values = nn.Parameter(torch.tensor(values))

    def forward(self, observation: Tensor) -> Tensor:
        return self.values[observation[:, 0].long()]


@pytest.fixture(autouse=True)
def one_thread() -> None:
    torch.set_num_threads(1)


def test_value_and_advantages_are_summed_with_the_mean_advantage_taken_off() -> None:
    head = Dueling(2, 3)
    with torch.no_grad():
        head.value.weight.copy_(torch.tensor([[1.0, 0.0]]))
        head.value.bias.fill_(10.0)
        head.advantage.weight.copy_(torch.tensor([[0.0, 1.0], [0.0, 2.0], [0.0, 3.0]]))
        head.advantage.bias.zero_()
    assert head(torch.tensor([[5.0, 1.0]]))[0].tolist() == [14.0, 15.0, 16.0]


@pytest.mark.parametrize("dueling", [False, True])
@pytest.mark.parametrize("kind", ["dense", "convolutional"])
def test_every_parameter_gets_a_gradient(kind: str, dueling: bool) -> None:
    torch.manual_seed(0)
    if kind == "dense":
        net, seen = dense(4, 3, (8, 8), dueling=dueling), torch.randn(16, 4)
    else:
        net, seen = convolutional((2, 9, 7), 3, (4, 8), 16, dueling=dueling), torch.randn(16, 2, 9, 7)
    values = net(seen)
    assert values.shape == (16, 3)
    values.square().sum().backward()
    assert [name for name, p in net.named_parameters() if p.grad is None or not p.grad.abs().sum() > 0] == []


def test_bytes_are_scaled() -> None:
    net = dense(2, 2, (4,), scale=1.0 / 255.0)
    assert torch.allclose(
        net(torch.tensor([[255, 51]], dtype=torch.uint8)), dense_like(net)(torch.tensor([[1.0, 0.2]]))
    )


def dense_like(net: Any) -> Any:
    plain = dense(2, 2, (4,))
    plain.load_state_dict(net.state_dict())
    return plain


def table_training(how: DeepQ) -> Training:
    return Training(Corridor(), how, Table([[1.0, 5.0, 3.0], [0.0, 0.0, 0.0]]), "cpu")


def table_learner(how: DeepQ) -> Learner:
    learner = table_training(how).learner
    learner.target = Table([[10.0, 20.0, 30.0], [7.0, 8.0, 9.0]]).requires_grad_(False)
    return learner


def batch_of(mask: list[bool], discount: float) -> Transition:
    return Transition(
        torch.zeros(1, 1), torch.tensor([0]), torch.tensor([100.0]), torch.zeros(1, 1), torch.tensor([mask]),
        torch.tensor([discount]),
    )  # fmt: skip


@pytest.mark.parametrize(
    ("double", "mask", "wanted"),
    [
        (False, [True, True, True], 115.0),  # the target network's own best, 30
        (True, [True, True, True], 110.0),  # the online network's best is action 1, which the target values at 20
        (False, [True, True, False], 110.0),  # the best of those that are allowed
        (True, [True, False, False], 105.0),
    ],
)
def test_what_is_wanted_is_the_reward_and_the_discounted_value_of_the_best_allowed_action(
    double: bool, mask: list[bool], wanted: float
) -> None:
    learner = table_learner(replace(QUICK, double=double))
    assert learner.returns(batch_of(mask, 0.5)).tolist() == [wanted]


def test_nothing_follows_an_end() -> None:
    assert table_learner(QUICK).returns(batch_of([False, False, False], 0.0)).tolist() == [100.0]


def test_an_update_moves_the_values_of_the_actions_taken_by_their_weights() -> None:
    learner = table_learner(replace(QUICK, double=False, lr=0.01))
    before = learner.network.values.detach().clone()  # type: ignore[operator,union-attr]
    batch = Transition(
        np.array([[0.0], [1.0]], np.float32), np.array([2, 1]), np.array([1.0, -2.0], np.float32),
        np.array([[1.0], [0.0]], np.float32), np.ones((2, 3), bool), np.array([0.5, 0.0], np.float32),
    )  # fmt: skip
    errors = learner.update(batch, np.array([1.0, 0.0], np.float32))
    assert errors.tolist() == [1.0 + 0.5 * 9.0 - 3.0, -2.0 - 0.0]
    moved = (learner.network.values - before).detach()  # type: ignore[operator]
    assert moved[0].tolist() == pytest.approx([0.0, 0.0, 0.01], abs=1e-5)  # Adam's first step is lr
    assert moved[1].tolist() == [0.0, 0.0, 0.0]


def test_draws_by_priority_learn_from_their_errors_and_are_made_up_for_in_full_at_last(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    training = Training(Corridor(), replace(QUICK, priority=0.6, steps=1000, warm_up=10**6), None, "cpu")
    for _ in range(5):
        training.episode()
    tree, draw, betas = training.replay.tree, training.replay.draw, []
    assert tree is not None
    before = tree.sums.copy()
    monkeypatch.setattr(training.replay, "draw", lambda n, beta, draws: betas.append(beta) or draw(n, beta, draws))
    for training.step in (0, 500, 1000, 2000):
        training.learn(np.random.default_rng(0))
    assert betas == pytest.approx([0.4, 0.7, 1.0, 1.0])
    assert (tree.sums != before).any()


def test_the_target_network_follows_slowly_or_in_jumps() -> None:
    for share, wanted in ((0.25, 0.75 * 10.0 + 0.25 * 1.0), (2.0, 10.0)):
        learner = table_learner(replace(QUICK, target=share))
        learner.updates = 1
        learner._move_target()
        assert learner.target.values[0, 0].item() == wanted  # type: ignore[union-attr,operator,index]
    learner.updates = 2
    learner._move_target()
    assert learner.target.values[0, 0].item() == 1.0  # type: ignore[union-attr,operator,index]


def test_random_actions_fall_in_a_straight_line_after_the_warm_up() -> None:
    training = table_training(replace(QUICK, steps=1000, warm_up=100, epsilon=(0.9, 0.1), exploration=0.2))
    found = []
    for training.step in (0, 99, 100, 200, 300, 900):
        found.append(training.epsilon)
    assert found == pytest.approx([1.0, 1.0, 0.9, 0.5, 0.1, 0.1])


@pytest.mark.parametrize(
    "change",
    [{}, {"double": False, "dueling": False}, {"n_step": 3, "target": 0.1}, {"priority": 0.6}],
    ids=["double dueling", "plain", "three steps, soft target", "by priority"],
)
def test_a_corridor_is_walked_to_its_better_end(change: dict[str, Any]) -> None:
    agent, history = train(Corridor, replace(QUICK, **change))
    assert agent.play(Corridor(), [0]).tolist() == [1.0]
    # The better end is two steps away: gamma times 1 from the middle, and 1 from the place next to it.
    np.testing.assert_allclose(agent.values(np.eye(5, dtype=np.float32)[2])[1], 0.9, atol=0.15)
    np.testing.assert_allclose(agent.values(np.eye(5, dtype=np.float32)[3])[1], 1.0, atol=0.15)
    assert history.ends[-1] >= QUICK.steps
    assert len(history.returns) == len(history.ends)


def test_the_convolutional_agent_reads_an_image() -> None:
    agent, _ = train(Lights, replace(QUICK, widths=(4, 8, 16), gamma=0.5, evaluation_episodes=20))
    assert agent.play(Lights(), range(500, 600)).mean() > 0.95


def test_forbidden_actions_are_never_taken_and_never_count() -> None:
    agent, _ = train(lambda: Corridor(masked=True), QUICK)
    assert agent.play(Corridor(masked=True), range(20)).mean() == 1.0


def test_a_state_without_any_action_must_be_an_end() -> None:
    environment = Corridor(masked=True)
    environment.reset()
    with pytest.raises(SettingError, match="allows no action"):
        Agent(Table([[1.0, 2.0, 3.0]]), 3).act(np.zeros(1, np.float32), np.zeros(3, bool))


def test_the_agent_that_did_best_is_kept() -> None:
    training, played = table_training(QUICK), iter([1.0, 3.0, 2.0])
    for number, seen in enumerate(played):
        with torch.no_grad():
            training.agent.network.values[:] = float(number)  # type: ignore[operator,index]
        training.agent.play = lambda *_, seen=seen: np.array([seen])  # type: ignore[method-assign,misc]
        training.evaluate(Corridor())
    assert training.best().network.values[0, 0].item() == 1.0  # type: ignore[union-attr,operator,index]
    assert training.history.evaluations == [1.0, 3.0, 2.0]


def test_a_training_ends_when_it_is_good_enough() -> None:
    _, history = train(Corridor, replace(QUICK, enough=1.0))
    assert history.evaluations[-1] == 1.0
    assert max(history.evaluations[:-1], default=0.0) < 1.0
    assert history.ends[-1] < QUICK.steps


@pytest.mark.parametrize("priority", [0.0, 0.6])
def test_a_killed_training_ends_as_it_would_have(
    priority: float, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    how = replace(QUICK, priority=priority, n_step=2, steps=300)
    whole, there = train(Corridor, how)
    step, count = Corridor.step, iter(range(260))

    def dying(self: Corridor, action: np.int64) -> Any:
        if next(count, None) is None:
            raise KeyboardInterrupt
        return step(self, action)

    with monkeypatch.context() as patch:
        patch.setattr(Corridor, "step", dying)
        with pytest.raises(KeyboardInterrupt):
            train(Corridor, how, folder=tmp_path)
    gone_on, here = train(Corridor, how, folder=tmp_path)
    assert here == there
    assert here.seconds > 0.0
    for one, other in zip(whole.network.parameters(), gone_on.network.parameters(), strict=True):
        assert torch.equal(one, other)
    # Finished: nothing is played again.
    monkeypatch.setattr(Corridor, "step", dying)
    again, _ = train(Corridor, how, folder=tmp_path)
    assert torch.equal(next(again.network.parameters()), next(whole.network.parameters()))


def test_a_checkpoint_of_another_training_is_not_gone_on_with(tmp_path: Path) -> None:
    how = replace(QUICK, steps=200)
    _, first = train(Corridor, how, folder=tmp_path)
    for change, network, step in (
        ({}, None, first.ends[-1]),
        ({"enough": 0.5}, None, first.ends[-1]),
        ({"lr": 1e-3}, None, 0),
        ({}, dense(5, 3, (8,)), 0),
    ):
        found = Training(Corridor(), replace(how, **change), network, "cpu")
        found.go_on_from(tmp_path / CHECKPOINT)
        assert found.step == step


def test_a_diverging_training_stops_and_leaves_the_last_checkpoint(tmp_path: Path) -> None:
    train(Corridor, replace(QUICK, steps=200), folder=tmp_path)
    before = (tmp_path / CHECKPOINT).read_bytes()
    with pytest.raises(DivergedError, match=r"loss is (inf|nan).*checkpoint is kept.*lower lr"):
        train(lambda: Corridor(reward=float("inf")), QUICK, folder=tmp_path)
    assert (tmp_path / CHECKPOINT).read_bytes() == before


def test_an_environment_without_discrete_actions_is_refused() -> None:
    wanted = r"action space of Pendulum-v1 is Box.*needs gymnasium.spaces.Discrete.*take another"
    with pytest.raises(SettingError, match=wanted):
        train(lambda: gym.make("Pendulum-v1"), QUICK)


def test_observations_that_are_no_vector_and_no_image_are_refused() -> None:
    with pytest.raises(
        SettingError, match=r"observation space of FrozenLake-v1 is Discrete\(16\).*a vector or an image"
    ):
        train(lambda: gym.make("FrozenLake-v1"), QUICK)


def test_a_mask_of_another_length_is_refused() -> None:
    class Wrong(Corridor):
        def _seen(self) -> tuple[Any, dict[str, Any]]:
            return super()._seen()[0], {"action_mask": np.ones(2, bool)}

    with pytest.raises(SettingError, match=r"shape \(2,\), but there are 3 actions"):
        train(Wrong, QUICK)
