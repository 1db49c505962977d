"""Open the Dask scheduler that the area's config names: threads here, processes here, or a cluster elsewhere."""

from __future__ import annotations

import os
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from pipeline import slurm
from pipeline.slurm import Slurm
from stages.errors import ArtifactError, SettingError
from stages.settings import Settings

#: How a worker's allocator keeps freed memory. Dask's default gives it back at once, which made the training of a
#: network twice as slow (half of the time went into page faults).
MEMORY = {"MALLOC_TRIM_THRESHOLD_": 1 << 30, "MALLOC_MMAP_THRESHOLD_": 1 << 30}
#: Seconds until a scheduler, or the first worker of it, counts as unreachable.
PATIENCE = 10
#: Where stages find the number of tasks that are worked on at once (`dask.config`), to cut their work accordingly.
SLOTS = "terrastage.workers"
#: Worker processes where nothing is said.
PROCESSES = 2


class Threads(Settings):
    """Threads in this process."""

    kind: Literal["threads"] = "threads"
    workers: int | None = Field(None, ge=1, description="Number of threads; none: one a core")


class Local(Settings):
    """Worker processes on this machine."""

    kind: Literal["local"]
    workers: int | None = Field(None, ge=1, description="Number of processes; none: 2, or with gpus one a GPU")
    threads: int = Field(1, ge=1, description="Threads a process")
    gpus: bool = Field(False, description="One process a GPU, which sees no other")

    @model_validator(mode="after")
    def _one_a_gpu(self) -> Local:
        if self.gpus and self.workers is not None:
            raise ValueError(f"workers is {self.workers}, but with gpus: true there is one a GPU; leave workers out")
        return self


class Address(Settings):
    """A scheduler that runs elsewhere; it and its workers see the same files."""

    kind: Literal["address"]
    address: str = Field(pattern=r"^\w+://.+", description="Scheduler, as tcp://host:port")


AnyCluster = Threads | Local | Address | Slurm
Cluster = Annotated[AnyCluster, Field(discriminator="kind")]


@contextmanager
def opened(cluster: AnyCluster, folder: Path | None = None) -> Iterator[None]:
    """Make `dask.compute` use this cluster inside the block.

    Args:
        cluster: what the config names.
        folder: the area's data, which workers elsewhere must see, and where the output of jobs is kept.

    Raises:
        SettingError: no scheduler or worker answers at the address, workers there do not see the folder, SLURM is not
            here or refuses the jobs, or there is no GPU.
    """
    import dask

    if isinstance(cluster, Threads):
        with dask.config.set({"scheduler": "threads", "num_workers": cluster.workers, SLOTS: cluster.workers}):
            yield
        return
    if isinstance(cluster, Local):
        there = _processes(cluster)
    elif isinstance(cluster, Address):
        there = _elsewhere(cluster, folder)
    else:
        there = _jobs(cluster, folder)
    with there as slots, dask.config.set({SLOTS: slots}):
        yield


def described(cluster: AnyCluster, folder: Path | None = None) -> str:
    """Tell what `opened` would start, without starting it; of SLURM the script of a job."""
    if isinstance(cluster, Threads):
        count = cluster.workers
        return f"{count} threads in this process" if count else "as many threads in this process as there are cores"
    if isinstance(cluster, Local):
        processes = "one process a GPU" if cluster.gpus else f"{cluster.workers or PROCESSES} processes"
        return f"{processes} on this machine, threads each: {cluster.threads}"
    if isinstance(cluster, Address):
        return f"the workers of the Dask scheduler at {cluster.address}"
    return slurm.script(cluster, MEMORY, _logs(folder)).rstrip()


def lost(fault: BaseException) -> ArtifactError | None:
    """Tell in one sentence how a cluster failed that was at work; none where the fault is no cluster's."""
    # Where nothing was distributed, no name of it need be known.
    if "distributed" not in sys.modules:
        return None
    from distributed import KilledWorker
    from distributed.client import FutureCancelledError
    from distributed.comm import CommClosedError

    if isinstance(fault, KilledWorker):
        return ArtifactError(
            f"{fault.allowed_failures + 1} workers died over the same piece of work, the last one at "
            f"{fault.last_worker.address}; most often their memory runs out: give each more of it, or fewer threads "
            "(cluster), or lower classify.memory."
        )
    if isinstance(fault, (FutureCancelledError, CommClosedError)):
        return ArtifactError("The Dask scheduler was lost in the middle of the work; see that it runs, and run again.")
    return None


@contextmanager
def _processes(cluster: Local) -> Iterator[int]:
    import dask
    from distributed import Client

    gpus = visible_gpus() if cluster.gpus else []
    if cluster.gpus and not gpus:
        raise SettingError(
            "cluster.gpus is true, but torch sees no GPU here (CUDA_VISIBLE_DEVICES may hide them); set it to false."
        )
    count = len(gpus) or cluster.workers or PROCESSES
    with (
        dask.config.set({f"distributed.nanny.pre-spawn-environ.{name}": value for name, value in MEMORY.items()}),
        tempfile.TemporaryDirectory(prefix="terrastage-", ignore_cleanup_errors=True) as spill,
        _one_a_gpu(cluster, gpus, spill) if gpus else _alike(cluster, count, spill) as processes,
        Client(processes),
    ):
        yield count * cluster.threads


def _alike(cluster: Local, count: int, spill: str) -> Any:
    """Start worker processes that are all alike."""
    import logging

    from distributed import LocalCluster

    return LocalCluster(
        n_workers=count, threads_per_worker=cluster.threads, processes=True, dashboard_address="127.0.0.1:0",
        silence_logs=logging.ERROR, local_directory=spill,
    )  # fmt: skip


def _one_a_gpu(cluster: Local, gpus: list[str], spill: str) -> Any:
    """Start a worker process for every GPU, which takes it for the only one."""
    import logging

    from distributed import Nanny, Scheduler, SpecCluster

    host = {"host": "127.0.0.1", "dashboard_address": "127.0.0.1:0"}
    common = {**host, "nthreads": cluster.threads, "silence_logs": logging.ERROR, "local_directory": spill}
    workers = {
        number: {"cls": Nanny, "options": {**common, "env": {"CUDA_VISIBLE_DEVICES": gpu}}}
        for number, gpu in enumerate(gpus)
    }
    return SpecCluster(workers, {"cls": Scheduler, "options": host}, silence_logs=logging.ERROR)


def visible_gpus() -> list[str]:
    """Name the GPUs that this process may use, as CUDA_VISIBLE_DEVICES names them."""
    import torch

    count = torch.cuda.device_count()
    named = os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",")
    return named[:count] if any(named) else [str(number) for number in range(count)]


@contextmanager
def _jobs(cluster: Slurm, folder: Path | None) -> Iterator[int]:
    from distributed import Client

    with slurm.jobs(cluster, MEMORY, _logs(folder)) as submitted, Client(submitted):
        yield cluster.workers * cluster.at_once


def _logs(folder: Path | None) -> Path | None:
    return None if folder is None else folder / "logs" / "slurm"


@contextmanager
def _elsewhere(cluster: Address, folder: Path | None) -> Iterator[int]:
    from distributed import Client

    try:
        client = Client(cluster.address, timeout=PATIENCE)
    except (OSError, TimeoutError, ValueError) as fault:
        raise SettingError(
            f"No Dask scheduler answers at cluster.address {cluster.address} ({type(fault).__name__} after at most "
            f"{PATIENCE} s); start one there with `dask scheduler`, or set cluster.kind to threads."
        ) from fault
    with client:
        try:
            client.wait_for_workers(1, timeout=PATIENCE)
        except TimeoutError as fault:
            raise SettingError(
                f"The Dask scheduler at cluster.address {cluster.address} has no workers; "
                f"start some with `dask worker {cluster.address}`."
            ) from fault
        if folder is not None:
            _require_seen(client, folder)
        yield sum(client.nthreads().values())


def _require_seen(client: Any, folder: Path) -> None:
    """See that every worker finds the area's data where it is found here.

    Raises:
        SettingError: one does not.
    """
    for worker, seen in client.run(os.path.isdir, str(folder)).items():
        if not seen:
            raise SettingError(
                f"The worker {worker} does not see {folder}; start the workers where the area's folder lies at the "
                "same path, on a disk that all of them share."
            )
