"""Open the Dask scheduler that the area's config names: threads here, processes here, or a cluster elsewhere."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Annotated, Literal

from pydantic import Field

from stages.errors import SettingError
from stages.settings import Settings

#: How a worker's allocator keeps freed memory. Dask's default gives it back at once, which made the training of a
#: network twice as slow (half of the time went into page faults).
MEMORY = {"MALLOC_TRIM_THRESHOLD_": 1 << 30, "MALLOC_MMAP_THRESHOLD_": 1 << 30}
#: Seconds until a scheduler, or the first worker of it, counts as unreachable.
PATIENCE = 10


class Threads(Settings):
    """Threads in this process."""

    kind: Literal["threads"] = "threads"
    workers: int | None = Field(None, ge=1, description="Number of threads; none: one a core")


class Local(Settings):
    """Worker processes on this machine."""

    kind: Literal["local"]
    workers: int = Field(2, ge=1, description="Number of processes")
    threads: int = Field(1, ge=1, description="Threads a process")


class Address(Settings):
    """A scheduler that runs elsewhere; it and its workers see the same files."""

    kind: Literal["address"]
    address: str = Field(pattern=r"^\w+://.+", description="Scheduler, as tcp://host:port")


Cluster = Annotated[Threads | Local | Address, Field(discriminator="kind")]


@contextmanager
def opened(cluster: Threads | Local | Address) -> Iterator[None]:
    """Make `dask.compute` use this cluster inside the block.

    Raises:
        SettingError: no scheduler or worker answers at the address.
    """
    if isinstance(cluster, Threads):
        import dask

        with dask.config.set(scheduler="threads", num_workers=cluster.workers):
            yield
    elif isinstance(cluster, Local):
        with _processes(cluster):
            yield
    else:
        with _elsewhere(cluster):
            yield


@contextmanager
def _processes(cluster: Local) -> Iterator[None]:
    import logging

    import dask
    from distributed import Client, LocalCluster

    with (
        dask.config.set({f"distributed.nanny.pre-spawn-environ.{name}": value for name, value in MEMORY.items()}),
        tempfile.TemporaryDirectory(prefix="terrastage-", ignore_cleanup_errors=True) as spill,
        LocalCluster(
            n_workers=cluster.workers, threads_per_worker=cluster.threads, processes=True,
            dashboard_address="127.0.0.1:0", silence_logs=logging.ERROR, local_directory=spill,
        ) as processes,
        Client(processes),
    ):  # fmt: skip
        yield


@contextmanager
def _elsewhere(cluster: Address) -> Iterator[None]:
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
        yield
