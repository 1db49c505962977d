"""Workers that die, come late, or lose their scheduler: the same map, byte for byte, and little is done twice."""

from __future__ import annotations

import importlib
import os
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import dask
import numpy as np
import pytest
from distributed import WorkerPlugin, get_client

from pipeline import runner
from pipeline.artifacts import outputs_of
from pipeline.cluster import Address, Local, opened
from pipeline.config import load_area
from stages import classify
from stages.errors import ArtifactError, SettingError
from tests.networks import write_network, write_tiles
from tests.toys import make_toy
from tests.worlds import small_world

RNG = np.random.default_rng(7)
SIGN = np.array([[1.0, -1.0], [-1.0, 1.0]]).reshape(2, 2, 1, 1)
#: Blocks of a map of 256 rows.
BLOCKS = {"window": 32, "overlap": 0, "rows": 1}
#: The work of stages that fan out, as a worker finds it: one keeps what is done in files, one in memory.
WORK = ("stages.tile._cut", "stages.evaluate._done")


class Watched(WorkerPlugin):
    """Note every block that a worker begins and ends, and do something in between; workers started anew do so, too."""

    def __init__(self, notes: Path, between: Callable[[Path], None] | None = None) -> None:
        self.notes, self.between = notes, between

    def setup(self, worker: Any) -> None:  # noqa: ARG002
        from stages import classify

        finished = classify.finished

        def watched(stream: Any, block: Any) -> Iterator[Any]:
            note(self.notes, "begun", block.window.row)
            pieces = finished(stream, block)
            yield next(pieces)
            if self.between is not None:
                self.between(self.notes)
            yield from pieces
            note(self.notes, "ended", block.window.row)

        classify.finished = watched  # type: ignore[assignment]


class Deadly(WorkerPlugin):
    """Kill the first worker that does some work of each of `WORK`."""

    def __init__(self, notes: Path) -> None:
        self.notes = notes

    def setup(self, worker: Any) -> None:  # noqa: ARG002
        for place in WORK:
            name, _, function = place.rpartition(".")
            module = importlib.import_module(name)
            setattr(module, function, dying(self.notes / place, getattr(module, function)))


def dying(mark: Path, work: Callable[..., Any]) -> Callable[..., Any]:
    def once(*arguments: Any) -> Any:
        found = work(*arguments)
        if first(mark):
            os.kill(os.getpid(), signal.SIGKILL)
        return found

    return once


def first(mark: Path) -> bool:
    """Whether nobody else has made this mark."""
    try:
        mark.touch(exist_ok=False)
    except FileExistsError:
        return False
    return True


def note(notes: Path, what: str, row: int) -> None:
    (notes / f"{time.monotonic_ns()} {os.getpid()} {what} {row}").touch()


def noted(notes: Path, what: str) -> list[tuple[int, int]]:
    """Process and row of every block that was begun, or ended, in their order."""
    found = [path.name.split() for path in sorted(notes.glob(f"* {what} *"))]
    return [(int(process), int(row)) for _, process, _, row in found]


def wait_for(true: Callable[[], Any]) -> None:
    for _ in range(1200):
        if true():
            return
        time.sleep(0.05)
    raise AssertionError("waited for a minute in vain")


def die_at_the_second_block(notes: Path) -> None:
    """Kill the first process that is in the middle of a block after it has finished another."""
    if any(process == os.getpid() for process, _ in noted(notes, "ended")) and first(notes / "dead"):
        os.kill(os.getpid(), signal.SIGKILL)


def wait_for_another(notes: Path) -> None:
    """Wait, after one block, for another process to begin one."""
    if noted(notes, "ended"):
        wait_for(lambda: len({process for process, _ in noted(notes, "begun")}) > 1)


@pytest.fixture
def notes(tmp_path: Path) -> Path:
    folder = tmp_path / "notes"
    folder.mkdir()
    return folder


@pytest.fixture
def world(tmp_path: Path) -> Callable[[str], dict[str, bytes]]:
    """Map a small scene by whatever cluster is open: the files of the map."""
    write_tiles(tmp_path / "tiles", RNG.normal(size=(2, 256, 64)))
    model = write_network(tmp_path / "model", SIGN)

    def mapped(name: str) -> dict[str, bytes]:
        out = tmp_path / name
        out.mkdir()
        classify.run(tmp_path / "tiles", model, out, classify.Config(**BLOCKS))
        return {path.name: path.read_bytes() for path in out.rglob("*") if path.is_file()}

    return mapped


def test_a_worker_killed_in_the_middle_costs_only_its_block(
    world: Callable[[str], dict[str, bytes]], notes: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    with dask.config.set(scheduler="synchronous"):
        expected = world("alone")
    with opened(Local(kind="local", workers=2)):
        get_client().register_plugin(Watched(notes, die_at_the_second_block))
        assert world("lost") == expected
    begun, ended = noted(notes, "begun"), noted(notes, "ended")
    assert sorted(row for _, row in ended) == list(range(0, 256, 32))
    died = set(begun) - set(ended)
    assert len(died) == 1
    (process, row), *_ = died
    # What the dead one had finished before was not done again, though Dask asked for it.
    assert any(other == process for other, _ in ended)
    assert Counter(row for _, row in begun) == {**dict.fromkeys(range(0, 256, 32), 1), row: 2}
    assert capfd.readouterr() == ("", "")


def test_a_worker_that_comes_during_a_run_is_used(world: Callable[[str], dict[str, bytes]], notes: Path) -> None:
    with dask.config.set(scheduler="synchronous"):
        expected = world("alone")
    with opened(Local(kind="local", workers=1)):
        client = get_client()
        client.register_plugin(Watched(notes, wait_for_another))
        helper = threading.Thread(
            target=lambda: (wait_for(lambda: noted(notes, "ended")), client.cluster.scale(2)), daemon=True
        )
        helper.start()
        with opened(Address(kind="address", address=client.scheduler.address)):
            assert world("grown") == expected
        helper.join()
    assert len({process for process, _ in noted(notes, "ended")}) == 2


def test_every_stage_outlives_the_death_of_a_worker(tmp_path: Path, notes: Path) -> None:
    world = small_world(tmp_path / "world", size=96, classes=2)
    world.change(
        cluster={"workers": 1}, train={"rf": {"trees": 5, "windows": [], "leaf": [5]}}, evaluate={"replicates": 100}
    )
    area = load_area(world.root, "world")
    runner.run(area, "evaluate")
    with opened(Local(kind="local", workers=2)):
        get_client().register_plugin(Deadly(notes))
        for stage in area.stages:
            if stage.name in ("tile", "evaluate"):
                out = tmp_path / stage.writes
                out.mkdir()
                inputs = {name: area.data / name for name in stage.reads}
                stage.module.run(**inputs, out=out, config=area.configs[stage.name])
                assert outputs_of(out) == outputs_of(area.data / stage.writes), stage.name
    assert sorted(path.name for path in notes.iterdir()) == sorted(WORK)


def test_pixels_never_cross_the_scheduler(
    tmp_path: Path, world: Callable[[str], dict[str, bytes]], monkeypatch: pytest.MonkeyPatch
) -> None:
    from distributed.comm import tcp

    sent = 0
    to_frames, from_frames = tcp.to_frames, tcp.from_frames

    async def counted(message: Any, *more: Any, **named: Any) -> Any:
        nonlocal sent
        frames = await to_frames(message, *more, **named)
        sent += sum(memoryview(frame).nbytes for frame in frames)
        return frames

    async def recounted(frames: Any, *more: Any, **named: Any) -> Any:
        nonlocal sent
        sent += sum(memoryview(frame).nbytes for frame in frames)
        return await from_frames(frames, *more, **named)

    write_tiles(tmp_path / "large", RNG.normal(size=(2, 1024, 1024)), side=256)
    out = tmp_path / "out"
    out.mkdir()
    with opened(Local(kind="local", workers=2)):
        # The scheduler is in this process, so whatever reaches it is counted, both ways.
        monkeypatch.setattr(tcp, "to_frames", counted)
        monkeypatch.setattr(tcp, "from_frames", recounted)
        get_client().submit(len, np.zeros(100_000, np.uint8)).result()
        assert sent > 100_000
        sent = 0
        classify.run(tmp_path / "large", tmp_path / "model", out, classify.Config(window=128, rows=1))
        # 8 MB of pixels were read and 2 MB of classes and confidence written, in eight blocks.
        assert 0 < sent < 250_000


# --- what is told ----------------------------------------------------------------------------------------------------


def toy_that(tmp_path: Path, work: str) -> Any:
    """A toy area whose second stage does some work by Dask."""
    toy = make_toy(tmp_path)
    toy.edit("tile", "    time.sleep(config.pause)\n", f"    import dask, os\n    dask.compute({work})\n")
    return toy


def test_work_that_kills_its_workers_is_told(tmp_path: Path) -> None:
    toy = toy_that(tmp_path, "dask.delayed(os.kill)(dask.delayed(os.getpid)(), 9)")
    said = r"^1 workers died over the same piece of work, .* most often their memory runs out"
    with dask.config.set({"distributed.scheduler.allowed-failures": 0}), pytest.raises(ArtifactError, match=said):
        runner.run(toy.area("cluster.kind=local", "cluster.workers=1"), "tile")
    assert not (toy.data / "tiles").exists()


@pytest.fixture
def elsewhere(tmp_path: Path) -> Iterator[tuple[str, list[subprocess.Popen[bytes]]]]:
    """A scheduler and its worker in processes of their own: address and processes."""
    file = tmp_path / "scheduler.json"
    options = ["--no-dashboard", "--scheduler-file", str(file)]
    commands = (
        ["dask_scheduler", "--host", "127.0.0.1", "--port", "0", *options],
        ["dask_worker", "--no-nanny", "--nthreads", "1", "--host", "127.0.0.1", *options],
    )
    started: list[subprocess.Popen[bytes]] = []
    try:
        for command in commands:
            full = [sys.executable, "-m", f"distributed.cli.{command[0]}", *command[1:]]
            started.append(subprocess.Popen(full, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL))
            wait_for(lambda: file.exists() and file.stat().st_size)
        import json

        yield json.loads(file.read_text())["address"], started
    finally:
        for process in started:
            process.kill()
            process.wait()


def test_a_scheduler_lost_in_the_middle_is_told(
    tmp_path: Path, elsewhere: tuple[str, list[subprocess.Popen[bytes]]]
) -> None:
    address, (scheduler, _) = elsewhere
    toy = toy_that(tmp_path, "dask.delayed(time.sleep)(60)")
    half = toy.data / ".scratch"

    def kill() -> None:
        wait_for(lambda: any(half.glob("tile-*/half.txt")))
        time.sleep(0.3)
        scheduler.kill()

    helper = threading.Thread(target=kill, daemon=True)
    helper.start()
    with pytest.raises(ArtifactError, match=r"^The Dask scheduler was lost in the middle of the work"):
        runner.run(toy.area("cluster={kind: address, address: '" + address + "'}"), "tile")
    helper.join()
    assert not (toy.data / "tiles").exists()


def test_a_worker_that_does_not_see_the_area_is_told(tmp_path: Path) -> None:
    with opened(Local(kind="local", workers=1)):
        elsewhere = Address(kind="address", address=get_client().scheduler.address)
        said = rf"^The worker tcp://.* does not see {tmp_path}/nowhere; start the workers where"
        with pytest.raises(SettingError, match=said), opened(elsewhere, tmp_path / "nowhere"):
            pytest.fail("was seen")
