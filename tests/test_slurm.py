"""SLURM without SLURM: the script of a job, and jobs that a stand-in for `sbatch` runs as processes of this machine."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from pipeline import slurm
from pipeline.cli import main
from pipeline.cluster import MEMORY, SLOTS, described, opened
from pipeline.slurm import Slurm
from stages.errors import SettingError
from tests.toys import Toy, make_toy

SBATCH = """#!/bin/bash
if [ "$1" = --test-only ]; then
  [ -e {jobs}/refusal ] && {{ cat {jobs}/refusal >&2; exit 1; }}
  exit 0
fi
cp "$1" {jobs}/$$.sh
setsid bash {jobs}/$$.sh > {jobs}/$$.out 2>&1 < /dev/null &
echo $! > {jobs}/$$.pid
echo "Submitted batch job $$"
"""
SCANCEL = """#!/bin/bash
echo "$1" >> {jobs}/cancelled
kill -TERM -- -$(cat {jobs}/"$1".pid)
"""


@pytest.fixture
def toy(tmp_path: Path) -> Toy:
    return make_toy(tmp_path)


@pytest.fixture
def jobs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder in which a stand-in for SLURM keeps the jobs that it runs."""
    folder, commands = tmp_path / "jobs", tmp_path / "bin"
    folder.mkdir()
    commands.mkdir()
    for name, text in (("sbatch", SBATCH), ("scancel", SCANCEL)):
        (commands / name).write_text(text.format(jobs=folder))
        (commands / name).chmod(0o755)
    monkeypatch.setenv("PATH", f"{commands}{os.pathsep}{os.environ['PATH']}")
    return folder


def one(**settings: Any) -> Slurm:
    """One job that begins at once."""
    return Slurm(kind="slurm", workers=1, cores=1, memory="1 GB", interface="lo", **settings)


def eventually(true: Callable[[], bool]) -> bool:
    """Whether something comes true within half a minute."""
    for _ in range(600):
        if true():
            return True
        time.sleep(0.05)
    return False


def where() -> tuple[int, str, str]:
    """Process, memory setting and folder of a worker."""
    from distributed import get_client

    asked = get_client().submit(
        lambda: (os.getpid(), os.environ["MALLOC_TRIM_THRESHOLD_"], str(Path.cwd())), pure=False
    )
    found: tuple[int, str, str] = asked.result(timeout=60)
    return found


def test_the_script_asks_for_what_the_config_says() -> None:
    settings = Slurm(
        kind="slurm", workers=3, queue="short", account="forest", walltime="1-12:00", cores=8, memory="30 GiB",
        gpus=True, interface="ib0", scratch="/scratch", directives=("--constraint=a100",),
        prologue=("module load cuda",),
    )  # fmt: skip
    lines = slurm.script(settings, MEMORY, Path("/maps/my area/logs")).splitlines()
    assert lines[0].startswith("#!")
    for asked in (
        "-p short", "-A forest", "-t 1-12:00", "--cpus-per-task=8", "--mem=30G", "--gres=gpu:1", "--constraint=a100",
        '--output="/maps/my area/logs/%j.out"', "-n 1",
    ):  # fmt: skip
        assert f"#SBATCH {asked}" in lines
    *_, trim, mmap, module, work = lines
    assert (trim, mmap) == ("export MALLOC_TRIM_THRESHOLD_=1073741824", "export MALLOC_MMAP_THRESHOLD_=1073741824")
    assert module == "module load cuda"
    assert work.startswith(f"{sys.executable} -m distributed.cli.dask_worker tcp://")
    for option in ("--nthreads 1", "--memory-limit 30.00GiB", "--local-directory /scratch", "--interface ib0"):
        assert option in work
    # Which GPU a job may use is SLURM's business.
    assert "CUDA_VISIBLE_DEVICES" not in "\n".join(lines)


def test_without_gpus_a_job_works_on_as_many_tasks_as_it_has_cores() -> None:
    text = slurm.script(Slurm(kind="slurm", cores=6), {})
    assert "--gres" not in text
    assert "--nthreads 6" in text
    assert "--nthreads 2" in slurm.script(Slurm(kind="slurm", cores=6, threads=2), {})


def test_a_dry_run_prints_the_script_and_starts_nothing(
    toy: Toy,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("PATH", "")
    toy.config(cluster={"kind": "slurm", "queue": "long", "gpus": True})
    assert main(["--root", str(toy.root), "cluster", "--area", "a"], toy.stages) == 0
    printed = capsys.readouterr().out
    assert printed == described(toy.area().settings.cluster, toy.area().data) + "\n"
    assert "#SBATCH -p long\n" in printed
    assert f'--output="{toy.area().data}/logs/slurm/%j.out"' in printed
    assert not toy.area().data.exists()


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"walltime": "soon"}, "cluster.walltime: soon is no time as SLURM writes it"),
        ({"directives": ["constraint=a100"]}, "cluster.directives: constraint=a100 is no option of sbatch"),
        ({"memory": "much"}, "cluster.memory is .much"),
        ({"gpu": True}, r"cluster.gpu is not a setting \(did you mean cluster.gpus"),
    ],
)
def test_wrong_settings_are_told(toy: Toy, settings: dict[str, Any], words: str) -> None:
    toy.config(cluster={"kind": "slurm", **settings})
    with pytest.raises(SettingError, match=words):
        toy.area()


def test_a_machine_without_slurm_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "")
    with pytest.raises(SettingError, match=r"^cluster\.kind is slurm, but there is no sbatch"), opened(one()):
        pytest.fail("found a scheduler")


def test_a_job_that_slurm_refuses_is_told_in_its_words(jobs: Path) -> None:
    (jobs / "refusal").write_text("sbatch: error: invalid partition specified: nope\n")
    said = r"^SLURM refuses the job \(sbatch: error: invalid partition specified: nope\); correct cluster\.queue"
    with pytest.raises(SettingError, match=said), opened(one(queue="nope")):
        pytest.fail("was accepted")
    assert list(jobs.glob("*.pid")) == []


def test_a_network_that_is_not_there_is_told(jobs: Path) -> None:
    settings = one().model_copy(update={"interface": "ib7"})
    with (
        pytest.raises(SettingError, match=r"^cluster\.interface is ib7: .*ib7.* is not a valid network"),
        opened(settings),
    ):
        pytest.fail("found a network")


def test_jobs_do_the_work_and_one_that_ends_is_replaced(
    jobs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import dask

    monkeypatch.setattr(slurm, "LOOK", 0.1)
    with (
        dask.config.set({"distributed.deploy.lost-worker-timeout": "100ms"}),
        opened(one(prologue=(f"cd {tmp_path}",), threads=3), tmp_path),
    ):
        assert dask.config.get(SLOTS) == 3
        first, kept, folder = where()
        assert (kept, folder) == (str(1 << 30), str(tmp_path))
        assert first != os.getpid()
        (job,) = jobs.glob("*.pid")
        # As at the end of its walltime.
        os.killpg(int(job.read_text()), signal.SIGKILL)
        second, *_ = where()
        assert second != first
        (new,) = set(jobs.glob("*.pid")) - {job}
    assert new.stem in (jobs / "cancelled").read_text().split()
    assert eventually(lambda: subprocess.run(["kill", "-0", new.read_text().strip()], check=False).returncode != 0)


def test_idle_jobs_are_given_back(jobs: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(slurm, "IDLE", 0.1)
    monkeypatch.setattr(slurm, "INTERVAL", 0.1)
    with opened(one(minimum=0)):
        time.sleep(0.5)
        assert list(jobs.glob("*.pid")) == []
        where()
        (job,) = jobs.glob("*.pid")
        assert eventually((jobs / "cancelled").exists)
        assert (jobs / "cancelled").read_text().split() == [job.stem]


def test_waiting_for_slurm_is_told(
    jobs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(slurm, "LOOK", 0.05)
    monkeypatch.setattr(slurm, "PATIENCE", 0.1)
    with opened(one(prologue=("sleep 60",)), tmp_path):
        assert eventually(lambda: "no SLURM job is at work yet" in caplog.text)
    assert caplog.text.count("no SLURM job is at work yet") == 1
    assert str(tmp_path / "logs" / "slurm") in caplog.text
