from __future__ import annotations

import os
import pickle
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from pydantic import ValidationError

from stages import train
from stages.errors import ModelError, SettingError
from stages.formats.samples import Role
from stages.models.layers import ValidBatchNorm
from stages.training import checkpoint, devices, loop
from stages.training.classifiers import fit, gather_for
from stages.training.fitted import Hardware
from stages.training.recipes import LstmRecipe, MlpRecipe
from tests.shared_work import fail_in_one, normalise
from tests.training_worlds import Laid, lay
from tests.worlds import patchwork, separable

#: What draws its chance for itself in every process.
CALM = {"dropout": 0.0, "noise": 0.0}
LSTM = LstmRecipe(
    hidden=8,
    batch=9,
    epochs=12,
    steps=2,
    drop=0.0,
    jitter=0.0,
    lr=0.02,
    clip_gradient=0.5,
    class_weights="balanced",
    smoothing=0.1,
    **CALM,
)  # type: ignore[arg-type]

#: Does what SLURM's command does: starts the tasks of every node, gives each the whole input, waits for all.
SRUN = """#!{python}
import os, subprocess, sys
given = dict(word[2:].split("=") for word in sys.argv[1:] if word.startswith("--") and "=" in word)
command = sys.argv[1 + next(i for i, word in enumerate(sys.argv[1:]) if not word.startswith("--")):]
each = int(given["ntasks-per-node"])
sent = sys.stdin.buffer.read(8)
sent += sys.stdin.buffer.read(int.from_bytes(sent, "big"))
tasks = []
for rank in range(int(given["ntasks"])):
    place = {{"SLURM_PROCID": rank, "SLURM_LOCALID": rank % each, "SLURM_NODEID": rank // each,
              "SLURM_NTASKS": given["ntasks"], "SLURM_NTASKS_PER_NODE": each, "SLURM_NNODES": given["nodes"],
              "SLURM_NODELIST": "127.0.0.1"}}
    environment = {{**os.environ, **{{name: str(value) for name, value in place.items()}}}}
    tasks.append(subprocess.Popen(command, stdin=subprocess.PIPE, env=environment))
for task in tasks:
    task.stdin.write(sent)
    task.stdin.flush()
sys.exit(max(task.wait() for task in tasks))
"""


@pytest.fixture(scope="module")
def laid(tmp_path_factory: pytest.TempPathFactory) -> Laid:
    truth = patchwork((64, 64), 3, 8, 0)
    sparse = np.where(np.random.default_rng(0).random(truth.shape) < 0.3, truth, 255).astype(truth.dtype)
    cube = np.stack([separable(truth, 0), separable(truth, 1)])
    return lay(tmp_path_factory.mktemp("devices"), cube, sparse, ("2024-05-01", "2024-07-01"))


def fitted(laid: Laid, kind: str, recipe: Any, folder: Path, hardware: Hardware) -> Any:
    held = gather_for(kind, recipe, laid.split(), Role.VALIDATION)
    return fit(kind, laid.ground(), held, recipe, laid.task(kind, folder=folder, hardware=hardware))


@pytest.fixture
def slurm(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A SLURM job of two nodes, both of them this machine."""
    (tmp_path / "bin").mkdir()
    command = tmp_path / "bin" / "srun"
    command.write_text(SRUN.format(python=sys.executable))
    command.chmod(0o755)
    monkeypatch.setenv("PATH", f"{command.parent}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.setenv("SLURM_JOB_NUM_NODES", "2")
    monkeypatch.setenv("SLURM_JOB_ID", f"1{os.getpid() % 10000:04}")


def test_two_processes_find_what_one_finds_though_one_was_killed_and_they_went_on_as_two_nodes(
    laid: Laid, tmp_path: Path, slurm: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    one = fitted(laid, "lstm", LSTM, tmp_path / "one", Hardware("cpu"))
    started: list[Any] = []
    start = devices._started

    def kept(*arguments: Any) -> Any:
        started[:] = start(*arguments)
        return started

    def kill(what: str, done: int, total: int) -> None:
        assert (what, total) == ("lstm", LSTM.epochs)
        if done == 2:
            started[1].kill()

    with monkeypatch.context() as patch:
        patch.setattr(devices, "_started", kept)
        patch.setattr(devices.progress, "report", kill)
        with pytest.raises(ModelError, match=r"training of lstm stopped, as process 1 was ended by SIGKILL"):
            fitted(laid, "lstm", LSTM, tmp_path / "two", Hardware("cpu", devices=2))
    assert all(process.poll() is not None for process in started)
    left = checkpoint.load(tmp_path / "two" / "0" / loop.CHECKPOINT)
    assert left is not None
    assert not left["finished"]
    assert 2 <= len(left["curves"]["training loss"]) < LSTM.epochs
    two = fitted(laid, "lstm", LSTM, tmp_path / "two", Hardware("cpu", nodes=2))
    assert one.found.chosen == two.found.chosen
    assert set(one.found.curves) == {"training loss", "validation loss", "validation accuracy"}
    for name, curve in one.found.curves.items():
        assert len(curve) == LSTM.epochs
        np.testing.assert_allclose(two.found.curves[name], curve, atol=1e-5, rtol=0, err_msg=name)
    for name, tensor in one.classifier.state_dict().items():
        np.testing.assert_allclose(two.classifier.state_dict()[name], tensor, atol=1e-5, rtol=0, err_msg=name)
    assert not (tmp_path / "two" / "0" / loop.SHARED).exists()


def test_two_processes_normalise_by_the_valid_pixels_of_the_whole_batch(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    features, gains = rng.normal(3, 2, (2, 4, 5, 6, 6)).astype(np.float32)
    valid = (rng.random((4, 1, 6, 6)) < 0.6).astype(np.float32)
    layer = ValidBatchNorm(5)
    inputs = torch.from_numpy(features).requires_grad_()
    outputs = layer(inputs, torch.from_numpy(valid))
    (outputs * torch.from_numpy(gains)).sum().backward()
    assert inputs.grad is not None
    devices.together(normalise, (features, valid, gains, tmp_path), Hardware("cpu", devices=2), "x", tmp_path / "work")
    parts = [np.load(tmp_path / f"{rank}.npz") for rank in range(2)]
    for name, whole in (("outputs", outputs.detach()), ("gradient", inputs.grad)):
        np.testing.assert_allclose(np.concatenate([part[name] for part in parts]), whole, atol=2e-6, err_msg=name)
    for part in parts:
        np.testing.assert_allclose(part["mean"], layer.mean, atol=1e-6)
        np.testing.assert_allclose(part["variance"], layer.variance, atol=1e-6)


def test_every_row_of_a_batch_is_trained_on_once() -> None:
    for batch, processes in ((8, 1), (8, 2), (9, 4), (4, 4), (257, 8)):
        rows = [np.arange(batch)[loop.share(batch, rank, processes)] for rank in range(processes)]
        np.testing.assert_array_equal(np.concatenate(rows), np.arange(batch))
        assert max(map(len, rows)) - min(map(len, rows)) <= 1


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"devices": 3}, "train.mlp.batch is 2, which 3 devices cannot share; set it to at least 3"),
        ({"nodes": 2}, "train.nodes is 2, but this runs in no SLURM job; start it in a job"),
        ({"device": "gpu", "devices": 2}, "train.devices 2 cannot be used on this machine"),
        ({"precision": "16-mixed"}, "bf16-mixed says so"),
    ],
)
def test_what_this_machine_cannot_do_is_refused_before_the_first_model(
    laid: Laid, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, changes: dict[str, Any], said: str
) -> None:
    monkeypatch.delenv("SLURM_JOB_NUM_NODES", raising=False)
    monkeypatch.setattr(train, "_train_all", lambda _: pytest.fail("training began"))
    config = train.Config(models=("rf", "mlp"), mlp=MlpRecipe(batch=2), **{"device": "cpu", **changes})
    with pytest.raises(SettingError) as caught:
        laid.train(tmp_path / "out", config)
    assert said in str(caught.value)
    assert "\n" not in str(caught.value)


def test_fewer_nodes_than_asked_for_are_refused(slurm: None) -> None:
    devices.check_nodes(Hardware(nodes=2))
    with pytest.raises(SettingError, match=r"train.nodes is 3, but this runs in a SLURM job of 2; .*--nodes=3"):
        devices.check_nodes(Hardware(nodes=3))


def test_devices_are_counted_and_settings_without_sense_are_refused() -> None:
    assert loop.counted(Hardware("cpu", devices="auto")) == Hardware("cpu", devices=1)
    assert train.hardware_of(train.Config(devices=4, nodes=2, strategy="ddp")).processes == 8
    for wrong in ({"devices": 0}, {"devices": "all"}, {"nodes": 0}, {"strategy": "fsdp"}):
        with pytest.raises(ValidationError):
            train.Config(**wrong)  # type: ignore[arg-type]


def test_larger_arrays_are_mapped_and_not_sent(tmp_path: Path) -> None:
    plain = np.arange(4000.0).reshape(40, 100)[:, ::2]
    stored = np.lib.format.open_memmap(tmp_path / "stored.npy", "w+", np.float32, (50, 60))
    stored[:] = 7
    sent = devices._packed((plain, stored, np.arange(3)), tmp_path)
    assert len(sent) < 2000
    got = pickle.loads(sent)  # noqa: S301
    for array, expected in zip(got, (plain, stored, np.arange(3)), strict=True):
        np.testing.assert_array_equal(array, expected)
    got[1][:] = 0
    assert (stored == 7).all()
    assert {path.name for path in tmp_path.iterdir()} == {"0.npy", "stored.npy"}


def test_one_that_fails_ends_the_others_and_is_told_in_a_sentence(tmp_path: Path) -> None:
    begun = time.monotonic()
    with pytest.raises(ModelError, match=r"training of x stopped, as process 1 failed \(RuntimeError: no room\); see"):
        devices.together(fail_in_one, (tmp_path,), Hardware("cpu", devices=2), "x", tmp_path / "work")
    assert time.monotonic() - begun < 100, "the other one was waited for"
    assert "RuntimeError: no room." in (tmp_path / "work" / "1.log").read_text()


def test_nothing_goes_on_when_the_one_who_began_is_killed(tmp_path: Path) -> None:
    code = (
        "import sys; from pathlib import Path; from stages.training import devices; from tests.shared_work import wait;"
        "from stages.training.fitted import Hardware; folder = Path(sys.argv[1]);"
        "devices.together(wait, (folder,), Hardware('cpu', devices=2), 'x', folder / 'work')"
    )
    began = subprocess.Popen([sys.executable, "-c", code, str(tmp_path)], cwd=Path(__file__).parents[1])
    files = [tmp_path / "0.pid", tmp_path / "1.pid"]
    try:
        until(lambda: all(file.is_file() and file.read_text() for file in files))
    finally:
        began.send_signal(signal.SIGKILL)
        began.wait()
    until(lambda: not any(Path(f"/proc/{file.read_text()}/cmdline").is_file() for file in files))


def until(is_so: Any) -> None:
    for _ in range(600):
        if is_so():
            return
        time.sleep(0.1)
    pytest.fail("waited a minute in vain")
