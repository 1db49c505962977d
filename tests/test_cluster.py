"""Dask through one place: threads, local processes or an address, with the same results."""

from __future__ import annotations

import os
import socket
import time

import pytest

from pipeline import cluster
from pipeline.cluster import Address, Local, Threads, opened
from stages.errors import SettingError


def processes(count: int) -> set[int]:
    from dask import compute, delayed

    return set(compute(*[delayed(os.getpid, pure=False)() for _ in range(count)]))


def squares() -> list[int]:
    from dask import compute, delayed

    return list(compute(*[delayed(pow)(n, 2) for n in range(20)]))


def test_threads_stay_in_this_process() -> None:
    import dask

    with opened(Threads(workers=3)):
        assert processes(4) == {os.getpid()}
        assert dask.config.get("num_workers") == 3


def test_processes_here_and_at_an_address_compute_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    import dask
    from distributed import get_client

    # Dask writes its workers' environment into this process, and takes what it finds there before its own settings.
    for name in cluster.MEMORY:
        monkeypatch.delenv(name, raising=False)
    with opened(Threads()):
        expected = squares()
    with opened(Local(kind="local", workers=2)):
        assert os.getpid() not in processes(4)
        assert squares() == expected
        # Else every freed tensor goes back to the system, and training takes twice as long.
        (kept,) = dask.compute(dask.delayed(os.environ.get)("MALLOC_TRIM_THRESHOLD_"))
        assert int(kept) >= 1 << 30
        address = get_client().scheduler.address
        with opened(Address(kind="address", address=address)):
            assert squares() == expected
            assert os.getpid() not in processes(4)
    with opened(Threads()):
        assert processes(2) == {os.getpid()}


def test_a_scheduler_that_does_not_answer_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cluster, "PATIENCE", 1)
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        port = unused.getsockname()[1]
    begun = time.monotonic()
    said = rf"^No Dask scheduler answers at cluster\.address tcp://127\.0\.0\.1:{port}"
    with pytest.raises(SettingError, match=said), opened(Address(kind="address", address=f"tcp://127.0.0.1:{port}")):
        pytest.fail("connected to nobody")
    assert time.monotonic() - begun < 8
