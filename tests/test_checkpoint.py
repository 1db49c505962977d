"""Checkpoints are written whole, and read only where they can be and where they fit."""

from __future__ import annotations

import logging

import pytest
import torch

from stages.training import checkpoint


def test_a_checkpoint_is_read_back_and_leaves_nothing_aside(tmp_path):
    checkpoint.save({"origin": {"seed": 1}, "weights": torch.arange(3)}, tmp_path / "last.ckpt")
    state = checkpoint.load_own(tmp_path / "last.ckpt", {"seed": 1})
    assert state is not None
    assert state["weights"].tolist() == [0, 1, 2]
    assert [path.name for path in tmp_path.iterdir()] == ["last.ckpt"]


def test_no_checkpoint_is_none_without_a_word(tmp_path, caplog: pytest.LogCaptureFixture):
    assert checkpoint.load(tmp_path / "last.ckpt") is None
    assert not caplog.records


def test_a_truncated_checkpoint_counts_as_none_and_is_told_of(tmp_path, caplog: pytest.LogCaptureFixture):
    path = tmp_path / "last.ckpt"
    checkpoint.save({"weights": torch.arange(1000)}, path)
    path.write_bytes(path.read_bytes()[:500])
    with caplog.at_level(logging.WARNING):
        assert checkpoint.load(path) is None
    assert "last.ckpt cannot be read" in caplog.text


def test_a_checkpoint_of_other_settings_counts_as_none_and_is_told_of(tmp_path, caplog: pytest.LogCaptureFixture):
    checkpoint.save({"origin": {"seed": 1}}, tmp_path / "last.ckpt")
    with caplog.at_level(logging.WARNING):
        assert checkpoint.load_own(tmp_path / "last.ckpt", {"seed": 2}) is None
    assert "other data or settings" in caplog.text
