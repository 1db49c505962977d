"""The course: what a lecture gives is kept and shown, and the experiments of lectures 3 to 7 measure what they say."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
import torch

from pipeline.course import contents, gradients_of_time, ground, model_selection, sequences
from pipeline.course.lecture import Lecture, Picture, Result
from pipeline.course.pages import page
from stages.errors import SettingError

SHOWN = Lecture(
    "4", "A <title>", ("Words & more.",), (Picture("drawn", "<svg>x</svg>"), Picture("seen", b"\x89PNG")),
    (Result("error", "1 %", "0.9 %", "Somebody 1999"),),
)  # fmt: skip


def test_every_lecture_has_its_file_number_and_title():
    for number in contents.LECTURES:
        module = contents.module_of(number)
        assert number == module.NUMBER
        assert module.TITLE
        assert callable(module.run)


def test_a_lecture_is_read_back_as_it_was_kept(tmp_path):
    contents.keep(tmp_path, SHOWN, full=True)
    assert contents.read(tmp_path, "4") == (SHOWN, True)


def test_the_page_shows_all_lectures_that_were_ever_run_and_escapes_their_words(tmp_path, monkeypatch):
    contents.keep(tmp_path, Lecture("2", "Before", (), (), ()), full=True)
    seen = []
    monkeypatch.setattr(
        contents,
        "module_of",
        lambda _: SimpleNamespace(run=lambda folder, full, seed: seen.append((folder.is_dir(), full, seed)) or SHOWN),
    )
    written = contents.teach(tmp_path, ("4",), full=False, seed=3).read_text()
    assert seen == [(True, False, 3)]
    assert written.index("2. Before") < written.index('id="4"')
    assert "A &lt;title&gt;" in written
    assert "<svg>x</svg>" in written
    assert "iVBORw" in written  # the picture in base 64
    assert "make course-full LECTURE=4" in written
    assert "make course-full LECTURE=2" not in written


def test_a_lecture_that_does_not_exist_is_refused_before_any_is_run(tmp_path):
    with pytest.raises(SettingError, match=r"no lecture 9; the lectures are 1, 2.*capsules"):
        contents.teach(tmp_path, ("1", "9"), full=False)
    assert not (tmp_path / contents.PAGE).exists()


def test_an_empty_page_is_a_page():
    assert page([]).startswith("<!doctype html>")


def test_folds_by_block_leave_blocks_whole_and_random_ones_do_not():
    count = 600
    pixels = ground.Labelled(
        np.zeros((count, 1)), np.zeros((count, 1)), np.zeros(count, int), np.arange(count) // 20,
        np.zeros((count, 2), int), np.zeros((1, 1)), np.zeros((1, 1, 1)), np.ones((1, 1), bool), ("a",), ("b",), ("b",),
        ("",),
    )  # fmt: skip
    folds = {by: pixels.folds(by, 1) for by in ("block", "random")}
    spread = {by: [len(set(fold[pixels.block == b])) for b in range(30)] for by, fold in folds.items()}
    assert set(spread["block"]) == {1}
    assert min(spread["random"]) > 1
    for fold in folds.values():
        assert np.bincount(fold).tolist() == [count // ground.FOLDS] * ground.FOLDS
    assert len(pixels.some(50, 0).labels) == 50


def test_bias_falls_and_variance_rises_with_the_degree():
    degrees, parts = model_selection.bias_and_variance(0, 60)
    assert parts["squared bias"][0] > 20 * parts["squared bias"][4]
    assert parts["variance"][9] > 3 * parts["variance"][2]
    assert degrees[int(np.argmin(parts["squared bias + variance"]))] in (3, 4, 5)


def test_bic_chooses_no_more_measurements_than_aic():
    chosen = model_selection.best_subsets()
    assert len(chosen["BIC"]) <= len(chosen["AIC"])
    assert {"bmi", "s5"} <= set(chosen["BIC"])


def test_the_adding_problem_marks_one_number_in_each_half_and_asks_for_their_sum():
    series, sums = sequences.adding_problem(50, 20, 0)
    numbers, marks = series.unbind(2)
    assert marks[:, :10].sum(1).tolist() == marks[:, 10:].sum(1).tolist() == [1.0] * 50
    assert torch.allclose((numbers * marks).sum(1, keepdim=True), sums)
    assert 0.1 < float(((sums - 1) ** 2).mean()) < 0.25


def test_a_reader_answers_once_a_sequence():
    assert sequences.Reader("gru", 3, 8, 5)(torch.zeros(4, 7, 3)).shape == (4, 5)


def test_an_open_forget_gate_keeps_gradients_longer_and_a_larger_matrix_lets_them_grow():
    closed, open_ = (gradients_of_time.share("lstm", bias, 20, 0) for bias in (0.0, 1.0))
    assert open_ > 50 * closed
    fading, growing = (gradients_of_time.share("rnn", 0.0, 20, 0, scale) for scale in (1.0, 3.0))
    assert fading < 1e-2
    assert growing > 1e2
