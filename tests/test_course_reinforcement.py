"""The game of catch keeps its rules and can always be won; the lecture gives its figures and pictures."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from gymnasium.utils.env_checker import check_env

from pipeline.course import reinforcement
from pipeline.course.catch import HALF, SIDE, Catch
from stages.formats.bands import write_bands
from stages.training.agents.deep_q import Training


def test_catch_follows_gymnasiums_interface() -> None:
    check_env(Catch(), skip_render_check=True)


def play(environment: Catch, seed: int, move: int) -> tuple[np.ndarray, list[float]]:
    image, _ = environment.reset(seed=seed)
    frames, rewards, over = [image[0]], [], False
    while not over:
        image, reward, over, truncated, _ = environment.step(np.int64(move))
        assert not truncated
        assert np.array_equal(image[1], frames[-1])
        frames.append(image[0])
        rewards.append(reward)
    return np.array(frames), rewards


def test_the_ball_falls_a_row_a_step_and_bounces_off_the_walls() -> None:
    for seed in range(20):
        frames, rewards = play(Catch(), seed, move=1)
        assert len(rewards) == SIDE - 1
        assert rewards[:-1] == [0.0] * (SIDE - 2)
        columns = [int(frame[row].argmax()) for row, frame in enumerate(frames[:-1])]
        assert all(abs(a - b) <= 1 for a, b in pairwise(columns))
        steps = {abs(a - b) for a, b in pairwise(columns)}
        assert len(steps) == 1  # never faster or slower, whatever the walls


def test_the_paddle_moves_a_pixel_a_step_and_stays_in_the_picture() -> None:
    for move, end in ((0, HALF), (2, SIDE - 1 - HALF)):
        frames, _ = play(Catch(), 3, move)
        paddles = [frame[-1].nonzero()[0] for frame in frames[:-1]]
        assert all(len(paddle) == 3 for paddle in paddles)
        middles = [int(paddle[1]) for paddle in paddles]
        assert all(b == min(max(a + move - 1, HALF), SIDE - 1 - HALF) for a, b in pairwise(middles))
        assert middles[-1] == end


def test_whoever_waits_a_step_and_runs_catches_every_ball() -> None:
    environment = Catch()
    for seed in range(300):
        environment.reset(seed=seed)
        image, reward, over, _, _ = environment.step(np.int64(1))
        row, column, before = 1, int(image[0, 1].argmax()), int(image[1, 0].argmax())
        aside = column - before
        while row < SIDE - 1:
            aside = aside if 0 <= column + aside < SIDE else -aside
            row, column = row + 1, column + aside
        while not over:
            middle = int(image[0, -1].nonzero()[0].mean())
            image, reward, over, _, _ = environment.step(np.int64(1 + np.sign(column - middle)))
        assert reward == 1.0


def test_a_paddle_that_does_not_move_misses_most() -> None:
    last = [play(Catch(), seed, move=1)[1][-1] for seed in range(200)]
    assert set(last) == {-1.0, 1.0}
    assert np.mean(last) < -0.2


@pytest.fixture
def short(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, steps in (("CARTPOLE", 400), ("CATCH", 200)):
        changes = {"steps": steps, "warm_up": 100, "evaluate_every": 200, "evaluation_episodes": 2}
        monkeypatch.setattr(reinforcement, name, replace(getattr(reinforcement, name), **changes))
        monkeypatch.setattr(reinforcement, f"{name}_STEPS", steps)
    monkeypatch.setattr(reinforcement, "REPEATS", 2)


@pytest.mark.usefixtures("short")
def test_the_lecture_gives_its_figures_and_pictures(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    work = tmp_path / "data" / "course" / "work" / "8"
    bands = tmp_path / "data" / "romania" / "bands"
    bands.mkdir(parents=True)
    table = [
        {"method": "all", "features": 30, "validation": None, "evaluations": 1.0},
        {"method": "dqn", "features": 6, "validation": 0.8, "evaluations": 1234.0},
    ]
    write_bands(bands, ["B4@1"], about={"table": table})
    lecture = reinforcement.run(work, full=True, seed=3)
    figures = {result.what: result.ours for result in lecture.results}
    assert figures["FrozenLake-v1 without slipping, states with a best action, seed 3"] == "16 of 16"
    for game in ("CartPole-v1", "Catch"):
        (told,) = (ours for what, ours in figures.items() if what.startswith(game))
        assert [f"seed {seed}," in told for seed in (3, 4, 5)] == [True, True, False]
    assert figures["romania, 30 features by all, score of the validation blocks"] == "-"
    assert figures["romania, 6 features by dqn, score of the validation blocks"] == "0.800 (1,234 evaluations)"
    assert len(lecture.pictures) == 5
    assert all(str(picture.content).startswith("<svg") for picture in lecture.pictures)
    assert "It is not" in lecture.text[0]
    # What is finished is read from its checkpoint, and nothing is told otherwise.
    monkeypatch.setattr(reinforcement, "lake", lambda _: ((), ()))
    monkeypatch.delattr(Training, "episode")
    assert reinforcement.run(work, full=True, seed=3).results == lecture.results[2:]


@pytest.mark.usefixtures("short")
def test_the_small_lecture_runs_one_seed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reinforcement, "lake", lambda _: ((), ()))
    told = reinforcement.run(tmp_path / "a" / "b" / "c" / "d", full=False, seed=3).results[0].ours
    assert "seed 3" in told
    assert "seed 4" not in told


def test_without_a_selection_the_lecture_goes_without_its_table(tmp_path: Path) -> None:
    assert reinforcement.selection(tmp_path) == ()
    (tmp_path / "data" / "romania" / "bands").mkdir(parents=True)
    write_bands(tmp_path / "data" / "romania" / "bands", ["B4@1"])
    assert reinforcement.selection(tmp_path) == ()
