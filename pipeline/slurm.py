"""Work in SLURM jobs: write the script of one, have it checked, keep as many of them at work as the config asks for."""

from __future__ import annotations

import logging
import re
import shlex
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

from pydantic import Field, field_validator

from stages.errors import SettingError
from stages.settings import Settings

_logger = logging.getLogger(__name__)

#: Seconds between two looks at the jobs: those that ended, by their walltime or otherwise, are asked for again.
LOOK = 15.0
#: Seconds without any worker after which the person in front of the screen is told where to look.
PATIENCE = 300.0
#: Seconds without work after which jobs above `minimum` are given back (asking again means to queue again), and
#: between two looks at the work.
IDLE, INTERVAL = 120.0, 5.0
#: Output files of jobs that are kept.
KEPT = 50
#: What SLURM takes as a limit of time: minutes, minutes:seconds, hours:minutes:seconds, days-hours[:minutes[:seconds]].
_TIME = re.compile(r"\d+(:\d+){0,2}|\d+-\d+(:\d+){0,2}")


class Slurm(Settings):
    """Jobs of a SLURM cluster whose nodes see the same files; each runs one worker process."""

    kind: Literal["slurm"]
    workers: int = Field(2, ge=1, description="Number of jobs")
    minimum: int | None = Field(
        None, ge=0, description="Jobs kept while there is nothing to do; none: all, so that no stage waits in the queue"
    )
    queue: str | None = Field(None, description="Partition of the jobs; none: the cluster's default")
    account: str | None = Field(None, description="Account that pays for the jobs; none: your default")
    walltime: str = Field("04:00:00", description="Most time a job takes; one that ends early is replaced")
    cores: int = Field(4, ge=1, description="Cores a job")
    memory: str = Field(
        "16 GB",
        pattern=r"^\d+(\.\d+)? ?[kMGT]i?B$",
        description="Memory a job, as 16 GB; a worker above it is restarted",
    )
    threads: int | None = Field(None, ge=1, description="Tasks a job works on at once; none: one a core, or one a GPU")
    gpus: bool = Field(False, description="One GPU a job (--gres=gpu:1); which one a job sees is SLURM's business")
    interface: str | None = Field(None, description="Network between this process and the nodes, such as ib0")
    scratch: str | None = Field(None, description="Fast folder on the nodes for whatever does not fit into memory")
    directives: tuple[str, ...] = Field((), description="More options of sbatch, such as --constraint=avx512")
    prologue: tuple[str, ...] = Field((), description="Lines of the script before the work, such as module load cuda")

    @field_validator("walltime")
    @classmethod
    def _is_time(cls, walltime: str) -> str:
        if not _TIME.fullmatch(walltime):
            raise ValueError(f"{walltime} is no time as SLURM writes it, such as 04:00:00 or 1-12:00")
        return walltime

    @field_validator("directives")
    @classmethod
    def _are_options(cls, directives: tuple[str, ...]) -> tuple[str, ...]:
        for directive in directives:
            if not directive.startswith("-") or "\n" in directive:
                raise ValueError(f"{directive} is no option of sbatch, such as --constraint=avx512")
        return directives

    @property
    def at_once(self) -> int:
        """Tasks that one job works on at once."""
        # Two tasks on one GPU would share its memory and take turns.
        return self.threads or (1 if self.gpus else self.cores)


def script(slurm: Slurm, environment: Mapping[str, object], logs: Path | None = None) -> str:
    """Write the script of one job as it would be submitted; neither SLURM nor a scheduler is needed.

    Args:
        slurm: the settings.
        environment: variables that a worker is started with.
        logs: folder of the jobs' output; without one it goes where SLURM puts it.
    """
    from dask_jobqueue.slurm import SLURMJob

    return str(SLURMJob("tcp://SCHEDULER:PORT", "NAME", **_job(slurm, environment, logs)).job_script())


@contextmanager
def jobs(slurm: Slurm, environment: Mapping[str, object], logs: Path | None = None) -> Iterator[Any]:
    """Keep jobs at work inside the block, for `script`'s arguments; gives the Dask cluster they belong to.

    Raises:
        SettingError: SLURM is not here, it refuses such a job, or there is no such interface.
    """
    if shutil.which("sbatch") is None:
        raise SettingError(
            "cluster.kind is slurm, but there is no sbatch on this machine; start the run on a node of the cluster "
            "that submits jobs, or set cluster.kind to local."
        )
    if logs is not None:
        logs.mkdir(parents=True, exist_ok=True)
        _forget_old(logs)
    from dask_jobqueue import SLURMCluster

    try:
        cluster = SLURMCluster(
            **_job(slurm, environment, logs), scheduler_options={"dashboard_address": "127.0.0.1:0"},
            silence_logs=logging.ERROR,
        )  # fmt: skip
    except RuntimeError as fault:
        if slurm.interface is None:
            raise
        raise SettingError(f"cluster.interface is {slurm.interface}: {fault.__cause__ or fault}.") from fault
    with cluster:
        _rehearse(cluster.job_script())
        if slurm.minimum is None:
            cluster.scale(jobs=slurm.workers)
        else:
            least = min(slurm.minimum, slurm.workers)
            cluster.adapt(
                minimum_jobs=least,
                maximum_jobs=slurm.workers,
                interval=f"{INTERVAL} s",
                wait_count=int(IDLE / INTERVAL),
            )
        _logger.info("asking SLURM for %d jobs of %d cores and %s", slurm.workers, slurm.cores, slurm.memory)
        over = threading.Event()
        keeper = threading.Thread(target=_keep, args=(cluster, over, logs), daemon=True, name="slurm jobs")
        keeper.start()
        try:
            yield cluster
        finally:
            over.set()
            keeper.join()


def _job(slurm: Slurm, environment: Mapping[str, object], logs: Path | None) -> dict[str, Any]:
    """Put a job into the words of dask-jobqueue."""
    output = [f'--output="{logs}/%j.out"'] if logs is not None else []
    return {
        "queue": slurm.queue, "account": slurm.account, "walltime": slurm.walltime, "memory": slurm.memory,
        "cores": slurm.at_once, "job_cpu": slurm.cores, "processes": 1, "interface": slurm.interface,
        "local_directory": slurm.scratch, "python": shlex.quote(sys.executable), "job_name": "terrastage",
        "job_extra_directives": [*output, *(["--gres=gpu:1"] if slurm.gpus else []), *slurm.directives],
        "job_script_prologue": [*(f"export {name}={value}" for name, value in environment.items()), *slurm.prologue],
    }  # fmt: skip


def _rehearse(text: str) -> None:
    """Ask SLURM whether it would take the job, as a job that is refused later would be waited for in vain.

    Raises:
        SettingError: it would not.
    """
    with tempfile.NamedTemporaryFile("w", suffix=".sh") as file:
        file.write(text)
        file.flush()
        done = subprocess.run(["sbatch", "--test-only", file.name], capture_output=True, text=True, check=False)
    if done.returncode:
        said = "; ".join(line.strip() for line in done.stderr.splitlines() if line.strip()) or "without a reason"
        raise SettingError(
            f"SLURM refuses the job ({said}); correct cluster.queue, account, walltime, cores, memory or directives "
            "(`terrastage cluster` prints the script)."
        )


def _keep(cluster: Any, over: threading.Event, logs: Path | None) -> None:
    """Ask again for jobs whose workers are gone, and say so when none comes at all."""
    begun, told = time.monotonic(), False
    while not over.wait(LOOK):
        # Dask forgets a lost job, and starts it anew when it is asked for the number it has planned already.
        cluster.loop.add_callback(lambda: cluster.scale(len(cluster.worker_spec)))
        if cluster.scheduler_info["workers"]:
            begun = time.monotonic()
        elif cluster.worker_spec and not told and time.monotonic() - begun > PATIENCE:
            told = True
            _logger.warning(
                "no SLURM job is at work yet; `squeue --me` says why they wait, %s what became of those that ran",
                logs or "their output",
            )


def _forget_old(logs: Path) -> None:
    """Remove the oldest outputs of jobs."""
    for old in sorted(logs.glob("*.out"), key=lambda path: path.stat().st_mtime)[:-KEPT]:
        old.unlink(missing_ok=True)
