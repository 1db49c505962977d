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


def test_a_device_is_trained_and_mapped_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gpu_check, "REPEATS", 1)
    ground, held = gpu_check.small_area(tmp_path)
    one = gpu_check.measure("cpu", "mlp", ground, held, tmp_path / "mlp")
    assert one.accuracy > 0.8
    assert min(one.train_rate, one.map_rate, one.memory_mb) > 0
    assert one.fresh.shape[1] == gpu_check.CLASSES
    exact, half, brief = gpu_check.compare_maps(tmp_path / "mlp", tmp_path / "tiles", "cpu")
    assert [map_.backend.split()[-1] for map_ in (exact, half, brief)] == ["float32", "float16", "bfloat16"]
    assert exact.difference <= 1e-5 < half.difference < brief.difference <= brief.tolerance
    assert exact.agreement > 0.9999
    assert 1.0 > brief.agreement > 0.9
    assert exact.map_rate > 0


@pytest.mark.parametrize(("gap", "apart", "code"), [(1e-5, 1e-6, 0), (0.1, 1e-6, 1), (1e-5, 1e-3, 1)])
def test_the_exit_code_is_the_parity_of_networks_and_of_maps(
    gap: float, apart: float, code: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def measured(device: str, network: str, *_: object) -> gpu_check.Measured:
        return gpu_check.Measured(device, network, 0.9, 1.0, 2.0, 3.0, np.full((1, 2), gap if device == "gpu" else 0.0))

    def mapped(model: Path, _: object, device: str) -> list[gpu_check.Mapped]:
        return [gpu_check.Mapped(model.name, f"torch-{device}", 0.99, apart, 1e-5, 4.0)]

    monkeypatch.setattr(gpu_check, "accelerator_name", lambda: "gpu")
    monkeypatch.setattr(gpu_check, "small_area", lambda _: (None, None))
    monkeypatch.setattr(gpu_check, "measure", measured)
    monkeypatch.setattr(gpu_check, "compare_maps", mapped)
    assert gpu_check.run() == code
    told = capsys.readouterr().out
    assert ("ABOVE" in told) == bool(code)
    assert "torch-cuda" in told
