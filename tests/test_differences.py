"""Differences along time are those of the definition, within the graph, and nothing where a step is missing."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from stages.errors import SettingError
from stages.models.classifier import Normalise
from stages.models.differences import Differenced, difference
from tests.training_worlds import lay
from tests.worlds import patchwork

SQUARES = torch.arange(6.0)[None, :, None, None, None] ** 2


@pytest.mark.parametrize(
    ("chain", "expected"), [((1,), [1, 3, 5, 7, 9]), ((4,), [16, 24]), ((1, 1), [2, 2, 2, 2]), ((2, 1), [4, 4, 4])]
)
def test_differences_of_squares(chain: tuple[int, ...], expected: list[float]) -> None:
    values, valid = difference(SQUARES, torch.ones(1, 6, 1, 1, 1), chain)
    assert values.flatten().tolist() == expected
    assert valid.flatten().tolist() == [1.0] * len(expected)


def test_a_difference_is_nothing_where_one_of_its_steps_is_missing() -> None:
    shown = torch.ones(1, 6, 1, 1, 1)
    shown[:, 2] = 0.0
    values, valid = difference(SQUARES * shown, shown, (1, 1))
    assert valid.flatten().tolist() == [0.0, 0.0, 0.0, 1.0]
    assert values.flatten().tolist() == [0.0, 0.0, 0.0, 2.0]


def test_the_frame_appends_them_step_by_step_at_the_later_step() -> None:
    rng = np.random.default_rng(0)
    image = torch.from_numpy(rng.normal(50, 10, (3, 10, 4, 4)).astype(np.float32))  # 5 steps of 2 bands
    valid = (torch.rand(3, 5, 4, 4, generator=torch.Generator().manual_seed(0)) < 0.8).float()
    plain = Normalise([50.0] * 10, [10.0] * 10, 4.0, [0, 0, 1, 1, 2, 2, 3, 3, 4, 4])
    frame = Differenced(plain, 2, ((1,), (2,)))
    frame.fit(plain(image, valid), valid)
    found = frame(image, valid).reshape(3, 5, 3, 2, 4, 4)
    assert torch.equal(found[:, :, 0].flatten(1, 2), plain(image, valid))
    assert not found[:, 0, 1].any()
    assert not found[:, :2, 2].any()
    both = (valid[:, 3] * valid[:, 1])[:, None] > 0
    raw = (image[:, 6:8] - image[:, 2:4]) / 10.0 / frame.spread[1][:, None, None]
    torch.testing.assert_close(found[:, 3, 2], torch.where(both, raw, 0.0))
    there = valid[:, 1:] * valid[:, :-1] > 0
    deviation = found[:, 1:, 1].permute(2, 0, 1, 3, 4)[:, there].std(dim=1, correction=0)
    torch.testing.assert_close(deviation, torch.ones(2), rtol=1e-4, atol=1e-4)


def test_lags_longer_than_the_series_are_refused(tmp_path: Path) -> None:
    truth = patchwork((32, 32), 2, 8, 0)
    cube = np.random.default_rng(0).normal(0, 1, (3, 1, 32, 32))
    laid = lay(tmp_path / "world", cube, truth, ("2018-01", "2018-02", "2018-03"))
    assert laid.ground().normalise(4.0, ((1, 1),)).mean.unique().numel() == 1  # one scale for all steps
    with pytest.raises(SettingError, match=r"differences \[2, 1\] reach 3 steps back, but the series has 3"):
        laid.ground().normalise(4.0, ((1,), (2, 1)))
