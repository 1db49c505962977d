"""Lecture 8: learning from rewards, by a table on a frozen lake, and by networks on a pole, on pixels and on bands."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from pipeline.course import plots
from pipeline.course.lecture import Lecture, Picture, Result
from stages.training.agents.deep_q import SEEDS, DeepQ, History, train
from stages.training.agents.tabular import QLearning, is_optimal, q_learning, value_iteration

if TYPE_CHECKING:
    from gymnasium import Env

NUMBER, TITLE = "8", "Deep reinforcement learning"
WATKINS = "C. Watkins, P. Dayan (1992): Q-learning. Machine Learning 8"
TOWERS = "M. Towers et al. (2024): Gymnasium: A Standard Interface for Reinforcement Learning Environments"
MNIH = "V. Mnih et al. (2015): Human-level control through deep reinforcement learning. Nature 518"
OSBAND = "I. Osband et al. (2020): Behaviour Suite for Reinforcement Learning. ICLR (catch of 10 x 5 pixels)"
MOU = (
    "L. Mou et al. (2021): Deep Reinforcement Learning for Band Selection in Hyperspectral Image Classification. "
    "IEEE TGRS 60"
)
#: An agent that balances the pole; enough is when all 20 games of an evaluation last their 500 steps.
CARTPOLE = DeepQ(
    steps=150_000, warm_up=500, every=4, batch=64, lr=2e-3, dueling=False, target=50, exploration=0.04,
    evaluation_episodes=20, enough=500.0,
)  # fmt: skip
#: An agent that catches balls, from pixels; enough is when all 200 of an evaluation are caught.
CATCH = DeepQ(
    steps=40_000, warm_up=500, every=4, batch=64, lr=1e-3, n_step=3, target=100, capacity=20_000, exploration=0.2,
    widths=(16, 32, 128), evaluate_every=2_000, evaluation_episodes=200, enough=1.0,
)  # fmt: skip
#: Of the small version.
CARTPOLE_STEPS, CATCH_STEPS = 5_000, 3_000
#: Seeds of the episodes that an agent is measured by in the end; none that it learnt or was chosen by.
FRESH = range(2 * SEEDS, 2 * SEEDS + 100)
#: Seeds of the full version.
REPEATS = 5
TEXT = (
    "An agent sees a state, acts, and gets a reward and the next state. It looks for the policy whose discounted sum "
    "of rewards is largest. Nobody shows it the right action, and the reward may come long after the action that "
    "earned it. Slides often list this under unsupervised learning. It is not: unsupervised learning looks for "
    "structure in data without any target, while an agent is told by rewards how well it does, and chooses by its "
    "actions what data it sees next. It is a third kind of learning beside the other two.",
    "Q(s, a) is what action a in state s is worth if one acts at the best from there on. Q-learning moves it after "
    "every step towards what was just seen: Q(s, a) <- Q(s, a) + alpha (r + gamma max Q(s', a') - Q(s, a)). That "
    "converges to the values of the best policy if every action is tried in every state again and again and alpha "
    "falls suitably; where nothing is left to chance, as on a lake that does not slip, a constant alpha will do. This "
    "lake is small enough to compare with value iteration, which is told the rules that the agent has to find out.",
    "A table has a row for every state, and four real numbers or an image have no end of states. In deep Q-learning a "
    "network gives the values. Two inventions keep it stable: experiences are stored and drawn again at random, so "
    "that a batch is not one moment of one game, and what it learns from is valued by an older copy of itself, the "
    "target network, so that it does not chase its own errors. Here the online network also chooses the next action "
    "and the target network values it (double), as the maximum of noisy values comes out too high. A value and "
    "advantages as two heads (dueling), rewards summed over several steps, and draws by priority are options.",
    "An agent does not get steadily better: one that balanced the pole may have forgotten it a thousand steps later, "
    "as the curves show. The agent that is kept is therefore the one that did best in greedy games on the way, and "
    "the figures are from 100 further games that neither taught nor chose it. Results of single seeds say little; "
    "every seed that was run is given.",
    "In this project an agent chooses which bands of which months a classifier reads. Its state is the set chosen so "
    "far, an action adds one more, and the reward is what the score on blocks within the training part gains by it, "
    "for its cost. Such a set can also be found by greedy search, without any learning; whether the agent is worth "
    "its evaluations is a question of the figures, where it stands beside the simpler ways.",
)


@dataclass(frozen=True)
class Learnt:
    """What an agent came to: its returns in 100 fresh games, and how it got there."""

    seed: int
    returns: np.ndarray
    history: History


def run(folder: Path, full: bool, seed: int = 0) -> Lecture:
    """Learn the lake, then pole and ball: for a few thousand steps with one seed, or in full until they are solved."""
    lake_pictures, lake_results = lake(seed)
    seeds = range(seed, seed + (REPEATS if full else 1))
    pole, ball = (CARTPOLE, CATCH) if full else (
        replace(CARTPOLE, steps=CARTPOLE_STEPS, exploration=0.3), replace(CATCH, steps=CATCH_STEPS, exploration=0.3)
    )  # fmt: skip
    poles = [learnt(make_pole, replace(pole, seed=each), folder / f"pole-{each}") for each in seeds]
    balls = [learnt(make_ball, replace(ball, seed=each), folder / f"ball-{each}") for each in seeds]
    results = (
        *lake_results,
        _result("CartPole-v1, mean return of 100 greedy games", poles, "475 counts as solved, 500 is the most", TOWERS),
        _result("Catch (10 x 10 pixels), share caught less share missed", balls, "1 is the most", OSBAND),
        *selection(folder.parents[3] if len(folder.parents) > 3 else folder),
    )
    framed = np.pad(a_game(seed), ((0, 0), (1, 1), (1, 1)), constant_values=40)
    pictures = (
        *lake_pictures,
        _curve("CartPole: greedy games between the training, mean return by steps.", poles),
        _curve("Catch: the same; -1 is missed, +1 is caught.", balls),
        Picture("One game of catch, as the convolutional agent sees it.", plots.pictures(framed, columns=10)),
    )
    return Lecture(NUMBER, TITLE, TEXT, pictures, results)


def lake(seed: int) -> tuple[tuple[Picture, ...], tuple[Result, ...]]:
    """Learn Gymnasium's frozen lake without slipping by a table, and compare with value iteration."""
    import gymnasium as gym

    how = QLearning(seed=seed)
    environment = gym.make("FrozenLake-v1", is_slippery=False)
    Q, returns = q_learning(environment, how)
    ground: Any = environment.unwrapped
    best = value_iteration(ground.P, how.gamma)
    letters = ground.desc.astype(str)
    arrows = np.array(list("←↓→↑"))[Q.argmax(axis=1)].reshape(letters.shape)
    words = np.where(np.isin(letters, ["H", "G"]), letters, np.char.add(np.char.add(letters, " "), arrows))
    successes = returns.reshape(-1, 100).mean(axis=1)
    return (
        Picture(
            "The lake: what the best action of every place is worth, and which it is (S start, F ice, H hole, G goal).",
            plots.board(Q.max(axis=1).reshape(letters.shape), words),
        ),
        Picture(
            f"Share of games that reach the goal, while random actions fall from {how.epsilon[0]:.0%} to "
            f"{how.epsilon[1]:.0%}.",
            plots.curves({"": successes.tolist()}, "hundreds of games", "share"),
        ),
    ), (
        Result(
            f"FrozenLake-v1 without slipping, states with a best action, seed {seed}",
            f"{is_optimal(Q, best).sum()} of {len(Q)}", "converges to the best policy", WATKINS,
        ),
        Result("its values, largest difference from value iteration", f"{np.abs(Q - best).max():.1e}"),
    )  # fmt: skip


def make_pole() -> Env[Any, Any]:
    """Make the cart with the pole: four numbers, two actions, at most 500 steps."""
    import gymnasium as gym

    return gym.make("CartPole-v1")


def make_ball() -> Env[Any, Any]:
    """Make the game of catch."""
    from pipeline.course.catch import Catch

    return Catch()


def learnt(make: Any, how: DeepQ, folder: Path) -> Learnt:
    """Train an agent, going on from ``folder``, and play 100 fresh games with the one that is kept."""
    agent, history = train(make, how, folder=folder)
    return Learnt(how.seed, agent.play(make(), FRESH), history)


def a_game(seed: int) -> np.ndarray:
    """Play catch as one would who sees where the ball is: uint8 (frame, y, x)."""
    environment = make_ball()
    image, _ = environment.reset(seed=seed)
    frames, over = [image[0]], False
    while not over:
        ball = int(image[0, :-1].max(axis=0).argmax())
        paddle = int(np.flatnonzero(image[0, -1]).mean())
        image, _, over, _, _ = environment.step(1 + int(np.sign(ball - paddle)))
        frames.append(image[0])
    return np.array(frames)


def selection(root: Path) -> tuple[Result, ...]:
    """Read what the selection of features came to on the sample area, where it has been run."""
    from stages.errors import TerrastageError
    from stages.formats.bands import read_about

    try:
        table = read_about(root / "data" / "romania" / "bands").get("table", [])
    except (OSError, ValueError, TerrastageError):
        return ()
    return tuple(
        Result(
            f"romania, {row['features']} features by {row['method']}, score of the validation blocks",
            "-" if row["validation"] is None else f"{row['validation']:.3f} ({row['evaluations']:,.0f} evaluations)",
            "" if row["method"] != "dqn" else "bands chosen by an agent",
            "" if row["method"] != "dqn" else MOU,
        )
        for row in table
    )  # fmt: skip


def _result(what: str, found: list[Learnt], published: str, source: str) -> Result:
    """Tell the mean return of every seed with its steps and seconds."""
    each = "; ".join(
        f"{one.returns.mean():.4g} (seed {one.seed}, {one.history.ends[-1]:,} steps, {one.history.seconds:.0f} s)"
        for one in found
    )
    return Result(what, each, published, source)


def _curve(caption: str, found: list[Learnt]) -> Picture:
    """Draw the evaluations of every seed over its steps."""
    lines = {f"seed {one.seed}": (one.history.evaluated_at, one.history.evaluations) for one in found}
    return Picture(caption, plots.plot(lines, "steps", "mean return"))
