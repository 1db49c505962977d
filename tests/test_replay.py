"""Returns of n steps by hand; a buffer that forgets the oldest; draws in proportion to priorities."""

from __future__ import annotations

import numpy as np
import pytest

from stages.training.agents.replay import Replay, Steps, SumTree, Transition

ALL = np.ones(2, bool)


def state(number: float) -> np.ndarray:
    return np.array([number], np.float32)


def transition(number: int) -> Transition:
    return Transition(state(number), number % 2, float(number), state(number + 1), ALL, 0.9)


def walk(steps: Steps, rewards: list[float], *, terminated: bool) -> list[Transition]:
    found = []
    for number, reward in enumerate(rewards):
        last = number == len(rewards) - 1
        found += steps.push(
            state(number), number, reward, state(number + 1), ALL,
            terminated=last and terminated, truncated=last and not terminated,
        )  # fmt: skip
    return found


def test_three_rewards_are_discounted_and_summed() -> None:
    found = walk(Steps(3, 0.5), [1.0, 2.0, 4.0, 8.0], terminated=True)
    assert [each.reward for each in found] == [1 + 0.5 * 2 + 0.25 * 4, 2 + 0.5 * 4 + 0.25 * 8, 4 + 0.5 * 8, 8.0]
    assert [float(each.observation[0]) for each in found] == [0.0, 1.0, 2.0, 3.0]
    assert [each.action for each in found] == [0, 1, 2, 3]
    assert [float(each.following[0]) for each in found] == [3.0, 4.0, 4.0, 4.0]
    assert [each.discount for each in found] == [0.125, 0.0, 0.0, 0.0]


def test_an_episode_that_was_cut_short_still_has_a_future() -> None:
    found = walk(Steps(3, 0.5), [1.0, 2.0], terminated=False)
    assert [each.discount for each in found] == [0.25, 0.5]
    assert [each.reward for each in found] == [2.0, 2.0]


def test_no_reward_crosses_from_one_episode_to_the_next() -> None:
    steps = Steps(3, 0.5)
    walk(steps, [1.0, 1.0], terminated=True)
    assert walk(steps, [8.0], terminated=True)[0].reward == 8.0


def test_a_sum_tree_finds_what_running_sums_find() -> None:
    draws = np.random.default_rng(0)
    tree, values = SumTree(13), draws.random(13)
    values[[2, 7]] = 0.0
    tree.set(np.arange(13), np.ones(13))
    tree.set(np.arange(13), values)
    heights = draws.random(200) * values.sum()
    assert tree.total == pytest.approx(values.sum())
    assert tree.find(heights).tolist() == np.searchsorted(values.cumsum(), heights, side="right").tolist()
    # A height that rounding moved to the very end stays at the last number above 0.
    assert tree.find(np.array([tree.total])).tolist() == [12]


def test_the_oldest_is_forgotten() -> None:
    replay = Replay(4, (1,), np.float32, 2)
    for number in range(6):
        replay.add(transition(number))
    batch, _, weights = replay.draw(200, 0.4, np.random.default_rng(0))
    assert len(replay) == 4
    assert set(batch.observation[:, 0]) == {2.0, 3.0, 4.0, 5.0}
    assert (batch.following - batch.observation == 1).all()
    assert (batch.reward == batch.observation[:, 0]).all()
    assert (weights == 1.0).all()


def test_what_was_predicted_worse_is_drawn_more_often_and_weighs_less() -> None:
    replay = Replay(8, (1,), np.float32, 2, priority=0.5)
    for number in range(4):
        replay.add(transition(number))
    errors = np.array([0.0, 1.0, -4.0, 9.0])
    replay.learn(np.arange(4), errors)
    wanted = (np.abs(errors) + replay.LEAST) ** 0.5
    wanted /= wanted.sum()
    draws = np.random.default_rng(0)
    places = np.concatenate([replay.draw(64, 0.4, draws)[1] for _ in range(100)])
    np.testing.assert_allclose(np.bincount(places, minlength=4) / 6400, wanted, atol=0.01)
    _, places, weights = replay.draw(64, 0.4, draws)
    paper = (4 * wanted[places]) ** -0.4
    np.testing.assert_allclose(weights, paper / paper.max(), rtol=1e-5)


def test_a_new_transition_is_as_urgent_as_any_before() -> None:
    replay = Replay(4, (1,), np.float32, 2, priority=1.0)
    replay.add(transition(0))
    replay.learn(np.array([0]), np.array([7.0]))
    replay.learn(np.array([0]), np.array([0.5]))
    replay.add(transition(1))
    assert replay.tree is not None
    assert replay.tree[1] == pytest.approx(7.0 + replay.LEAST)


@pytest.mark.parametrize("priority", [0.0, 0.6])
@pytest.mark.parametrize("added", [0, 3, 11])
def test_a_restored_buffer_draws_the_same(priority: float, added: int) -> None:
    one, other = (Replay(8, (1,), np.float32, 2, priority) for _ in range(2))
    for number in range(added):
        one.add(transition(number))
    if added:
        one.learn(np.array([1, 2]), np.array([3.0, 0.1]))
    other.restore(one.state())
    for replay in (one, other):
        replay.add(transition(50))
    drawn = [replay.draw(32, 0.4, np.random.default_rng(3)) for replay in (one, other)]
    for mine, theirs in zip(drawn[0][0], drawn[1][0], strict=True):
        assert np.array_equal(mine, theirs)
    assert np.array_equal(drawn[0][2], drawn[1][2])
