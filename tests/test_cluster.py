"""Dask through one place: threads, local processes or an address, with the same results."""

from __future__ import annotations

import os
import socket
import time

import pytest

from pipeline import cluster
from pipeline.cluster import SLOTS, Address, Local, Threads, described, opened
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
        assert dask.config.get(SLOTS) == 3
    assert dask.config.get(SLOTS, None) is None


def test_processes_here_and_at_an_address_compute_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    import dask
    from distributed import get_client

    # Dask writes its workers' environment into this process, and takes what it finds there before its own settings.
    for name in cluster.MEMORY:
        monkeypatch.delenv(name, raising=False)
    with opened(Threads()):
        expected = squares()
    with opened(Local(kind="local", workers=2, threads=3)):
        assert dask.config.get(SLOTS) == 6
        assert os.getpid() not in processes(4)
        assert squares() == expected
        # Else every freed tensor goes back to the system, and training takes twice as long.
        (kept,) = dask.compute(dask.delayed(os.environ.get)("MALLOC_TRIM_THRESHOLD_"))
        assert int(kept) >= 1 << 30
        address = get_client().scheduler.address
        with opened(Address(kind="address", address=address)):
            assert dask.config.get(SLOTS) == 6
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


def seen_gpus() -> tuple[int, str, str]:
    time.sleep(0.02)
    return os.getpid(), os.environ["CUDA_VISIBLE_DEVICES"], os.environ["MALLOC_TRIM_THRESHOLD_"]


def test_every_gpu_has_a_process_that_sees_no_other(monkeypatch: pytest.MonkeyPatch) -> None:
    from dask import compute, delayed

    for name in cluster.MEMORY:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    monkeypatch.setattr(cluster, "visible_gpus", lambda: ["3", "GPU-7f"])
    with opened(Local(kind="local", gpus=True)):
        found = set(compute(*[delayed(seen_gpus, pure=False)() for _ in range(12)]))
    assert {gpu for _, gpu, _ in found} == {"3", "GPU-7f"}
    assert len({process for process, *_ in found}) == len(found) == 2
    assert {kept for *_, kept in found} == {str(1 << 30)}
    assert "CUDA_VISIBLE_DEVICES" not in os.environ


@pytest.mark.parametrize(
    ("count", "named", "expected"),
    [
        (2, None, ["0", "1"]),
        (2, "", ["0", "1"]),
        (2, "5,GPU-a", ["5", "GPU-a"]),
        # Whatever stands behind a name that is no device is not seen.
        (1, "4,-1,6", ["4"]),
        (0, "", []),
    ],
)
def test_gpus_are_named_as_the_process_sees_them(
    monkeypatch: pytest.MonkeyPatch, count: int, named: str | None, expected: list[str]
) -> None:
    import torch

    monkeypatch.setattr(torch.cuda, "device_count", lambda: count)
    if named is None:
        monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    else:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", named)
    assert cluster.visible_gpus() == expected


def test_gpus_that_are_not_there_are_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cluster, "visible_gpus", list)
    with pytest.raises(SettingError, match=r"^cluster\.gpus is true, but"), opened(Local(kind="local", gpus=True)):
        pytest.fail("found one")
    with pytest.raises(ValueError, match="workers is 3, but with gpus: true there is one a GPU"):
        Local(kind="local", workers=3, gpus=True)


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        (Threads(workers=3), "3 threads in this process"),
        (Threads(), "as many threads in this process as there are cores"),
        (Local(kind="local", workers=4), "4 processes on this machine, threads each: 1"),
        (Local(kind="local", gpus=True, threads=2), "one process a GPU on this machine, threads each: 2"),
        (Address(kind="address", address="tcp://a:1"), "the workers of the Dask scheduler at tcp://a:1"),
    ],
)
def test_what_would_be_started_is_told(settings: cluster.AnyCluster, expected: str) -> None:
    assert described(settings) == expected
