"""The check of an accelerator says so where there is none, and measures both devices where there is one."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from pipeline import gpu_check


def test_without_an_accelerator_it_says_so(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(gpu_check, "accelerator_name", lambda: None)
    assert gpu_check.run() == 0
    assert "no accelerator" in capsys.readouterr().out


def test_a_device_is_trained_and_mapped_on(tmp_path: Path) -> None:
    one = gpu_check.measure("cpu", "mlp", *gpu_check.small_area(tmp_path))
    assert one.accuracy > 0.8
    assert min(one.train_rate, one.map_rate, one.memory_mb) > 0
    assert one.fresh.shape[1] == gpu_check.CLASSES


@pytest.mark.parametrize(("gap", "word", "code"), [(1e-5, "within", 0), (0.1, "ABOVE", 1)])
def test_the_exit_code_is_the_parity(
    gap: float, word: str, code: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def measured(device: str, network: str, *_: object) -> gpu_check.Measured:
        return gpu_check.Measured(device, network, 0.9, 1.0, 2.0, 3.0, np.full((1, 2), gap if device == "gpu" else 0.0))

    monkeypatch.setattr(gpu_check, "accelerator_name", lambda: "gpu")
    monkeypatch.setattr(gpu_check, "small_area", lambda _: (None, None))
    monkeypatch.setattr(gpu_check, "measure", measured)
    assert gpu_check.run() == code
    assert word in capsys.readouterr().out
