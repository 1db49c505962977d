"""One run at a time, and the second one learns who came first."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from pipeline.lock import held
from stages.errors import ArtifactError, BusyError

HOLDER = """
import sys, time
from pathlib import Path
from pipeline.lock import held
with held(Path(sys.argv[1]), "area a", "terrastage run train"):
    print("held", flush=True)
    time.sleep(60)
"""


def holder(path: Path) -> subprocess.Popen[str]:
    process = subprocess.Popen([sys.executable, "-c", HOLDER, str(path)], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stdout.readline() == "held\n"
    return process


def finish(process: subprocess.Popen[str]) -> None:
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    assert process.stdout is not None
    process.stdout.close()


def test_a_second_run_is_refused_with_the_first_ones_name(tmp_path: Path) -> None:
    process = holder(tmp_path / "data" / ".lock")
    try:
        said = rf"area a is in use by process {process.pid} \(terrastage run train, since 20.*--wait"
        with pytest.raises(BusyError, match=said), held(tmp_path / "data" / ".lock", "area a", "x"):
            pytest.fail("two runs at once")
    finally:
        finish(process)
    # The system lets go of a killed holder's lock.
    with held(tmp_path / "data" / ".lock", "area a", "x"):
        pass


def test_a_second_run_may_wait(tmp_path: Path) -> None:
    path, order = tmp_path / ".lock", []
    inside = threading.Event()

    def first() -> None:
        with held(path, "area a", "first"):
            inside.set()
            time.sleep(0.2)
            order.append("first")

    thread = threading.Thread(target=first)
    thread.start()
    inside.wait()
    with held(path, "area a", "second", wait=True):
        order.append("second")
    thread.join()
    assert order == ["first", "second"]


def test_a_lock_that_nobody_signed_still_holds(tmp_path: Path) -> None:
    with held(tmp_path / ".lock", "area a", "x"):
        (tmp_path / ".lock").write_text("")
        with pytest.raises(BusyError, match="in use by another process"), held(tmp_path / ".lock", "area a", "y"):
            pytest.fail("two runs at once")


def test_the_lock_is_let_go_when_the_run_fails(tmp_path: Path) -> None:
    with pytest.raises(ZeroDivisionError), held(tmp_path / ".lock", "area a", "x"):
        raise ZeroDivisionError
    with held(tmp_path / ".lock", "area a", "x"):
        pass


def test_a_folder_that_cannot_be_made_is_told(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(ArtifactError, match="Cannot write to"), held(tmp_path / "file" / "a" / ".lock", "area", "x"):
        pytest.fail("locked below a file")
