"""Run one piece of work in several processes at once, one a device: of this machine, or of every node of a SLURM job.

Lightning would start its processes by running the program once more, which would run the whole pipeline in each. These
run nothing but the work, so that the stage, its lock and its folders stay with the process that began it.
"""

from __future__ import annotations

import io
import json
import logging
import mmap
import os
import pickle
import queue
import shutil
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from stages import progress
from stages.errors import ModelError, SettingError
from stages.training.fitted import Hardware

#: Larger arrays (bytes) reach the processes as files that all of them map, so that a machine holds them once.
SMALL = 4096
#: Seconds that a process has to end by itself once it is told to.
GRACE = 5.0


def check_nodes(hardware: Hardware) -> None:
    """Refuse more nodes than the SLURM job has in which this runs.

    Raises:
        SettingError: it has fewer, or there is no such job.
    """
    # What SLURM granted a job is told by its environment alone.
    granted = int(os.environ.get("SLURM_JOB_NUM_NODES", "0")) if shutil.which("srun") else 0
    if hardware.nodes > max(granted, 1):
        where = f"in a SLURM job of {granted}" if granted else "in no SLURM job"
        raise SettingError(
            f"train.nodes is {hardware.nodes}, but this runs {where}; start it in a job, as by `sbatch --nodes="
            f"{hardware.nodes} --ntasks-per-node={hardware.devices}`, or set train.nodes to 1."
        )


def together(work: Callable[..., None], arguments: tuple[Any, ...], hardware: Hardware, name: str, out: Path) -> None:
    """Call ``work(*arguments)`` in ``hardware.processes`` processes and wait for all; ``work`` is a module's function.

    What the first of them reports as progress is reported here. When this process ends, however it does, so do they.

    Args:
        work: what every process does; it finds the others through the environment, as Lightning does.
        arguments: given to all alike; arrays among them are copies to write on.
        hardware: how many processes there are and where.
        name: what is done, for messages.
        out: a folder for arrays and logs that all nodes see; gone afterwards unless a process failed.

    Raises:
        ModelError: a process ended before its work was done; the others are ended then.
    """
    shutil.rmtree(out, ignore_errors=True)
    out.mkdir(parents=True)
    sent = _packed((work, arguments), out.resolve())
    started = _started(hardware, out)
    try:
        for process in started:
            _hand_over(process, sent)
        _watch(started, name, out)
    finally:
        _end(started)
    shutil.rmtree(out, ignore_errors=True)


def join() -> None:
    """Do, as one of the processes that `together` starts, what comes from standard input."""
    with open(0, "rb", buffering=0, closefd=False) as given:
        size = int.from_bytes(_read(given, 8), "big")
        sent = _read(given, size)
    threading.Thread(target=_end_with_the_one_who_began, daemon=True).start()
    logger = logging.getLogger(progress.PROGRESS)
    logger.setLevel(logging.INFO)
    logger.addHandler(_Lines())
    # No file, and from nobody but the process that began this one.
    work, arguments = pickle.loads(sent)  # noqa: S301
    work(*arguments)


class _Packer(pickle.Pickler):
    """Leaves larger arrays in files, those that are files already as they are."""

    def __init__(self, stream: io.BytesIO, folder: Path) -> None:
        super().__init__(stream, protocol=5)
        self.folder = folder
        self.files = 0

    def reducer_override(self, value: Any) -> Any:
        if not isinstance(value, np.ndarray) or value.nbytes <= SMALL:
            return NotImplemented
        if isinstance(value, np.memmap) and isinstance(value.base, mmap.mmap):
            value.flush()
            order = "C" if value.flags.c_contiguous else "F"
            return np.memmap, (str(value.filename), value.dtype, "c", value.offset, value.shape, order)
        path = self.folder / f"{self.files}.npy"
        self.files += 1
        np.save(path, value, allow_pickle=False)
        return np.load, (str(path), "c")


def _packed(what: Any, folder: Path) -> bytes:
    stream = io.BytesIO()
    _Packer(stream, folder).dump(what)
    return stream.getvalue()


def _started(hardware: Hardware, out: Path) -> list[subprocess.Popen[bytes]]:
    """Start the processes; under SLURM it is one, which starts one a device on every node and joins their output."""
    command = [sys.executable, "-c", f"from {__name__} import join; join()"]
    # Modules are found where they are found here.
    common = {**os.environ, "PYTHONPATH": os.pathsep.join(path or str(Path.cwd()) for path in sys.path)}
    if hardware.nodes > 1:
        return [_process([*_srun(hardware), *command], common, out / "0.log")]
    common |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(_free_port()), "NODE_RANK": "0"}
    loopback = next((name for _, name in socket.if_nameindex() if name.startswith("lo")), None)
    if loopback is not None:
        # Whatever the machine's name resolves to, its processes reach one another this way.
        common.setdefault("GLOO_SOCKET_IFNAME", loopback)
    return [
        _process(command, {**common, "LOCAL_RANK": str(rank)}, out / f"{rank}.log")
        for rank in range(hardware.processes)
    ]


def _srun(hardware: Hardware) -> list[str]:
    """Give the command that starts one process a device on every node, each with all its standard input."""
    each = os.environ.get("SLURM_CPUS_PER_TASK")
    return [
        "srun", f"--nodes={hardware.nodes}", f"--ntasks={hardware.processes}",
        f"--ntasks-per-node={hardware.devices}", *([f"--cpus-per-task={each}"] if each else []),
        "--kill-on-bad-exit=1", "--unbuffered",
    ]  # fmt: skip


def _process(command: list[str], environment: dict[str, str], log: Path) -> subprocess.Popen[bytes]:
    with log.open("wb") as errors:
        return subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=errors, env=environment
        )  # fmt: skip


def _free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return int(free.getsockname()[1])


def _hand_over(process: subprocess.Popen[bytes], sent: bytes) -> None:
    """Send the work and leave the line open: that it is closed tells the process that nobody waits any longer."""
    assert process.stdin is not None
    try:
        process.stdin.write(len(sent).to_bytes(8, "big") + sent)
        process.stdin.flush()
    except BrokenPipeError:
        return  # it ended already, and whoever watches it says why


def _watch(started: list[subprocess.Popen[bytes]], name: str, out: Path) -> None:
    """Report the progress until all processes are done."""
    lines: queue.SimpleQueue[bytes] = queue.SimpleQueue()
    readers = [threading.Thread(target=_gather, args=(process, lines), daemon=True) for process in started]
    for reader in readers:
        reader.start()
    while any(process.poll() is None for process in started):
        _refuse_failed(started, name, out)
        try:
            _pass_on(lines.get(timeout=0.1))
        except queue.Empty:
            continue
    _refuse_failed(started, name, out)
    for reader in readers:
        reader.join()
    while not lines.empty():
        _pass_on(lines.get())


def _gather(process: subprocess.Popen[bytes], lines: queue.SimpleQueue[bytes]) -> None:
    assert process.stdout is not None
    with process.stdout as output:
        for line in output:
            lines.put(line)


def _pass_on(line: bytes) -> None:
    """Report what a line of `_Lines` says; any other was printed by some library."""
    try:
        found = json.loads(line)
    except ValueError:
        return
    if isinstance(found, dict):
        progress.report(**found)


def _refuse_failed(started: list[subprocess.Popen[bytes]], name: str, out: Path) -> None:
    failed = {rank: code for rank, process in enumerate(started) if (code := process.poll()) not in {None, 0}}
    if not failed:
        return
    # Where one is killed the others fail for want of it.
    rank = min(failed, key=lambda rank: (failed[rank] or 0) >= 0)
    code, log = failed[rank] or 0, out / f"{rank}.log"
    if code < 0:
        how = f"was ended by {signal.Signals(-code).name}"
    else:
        told = [line for line in log.read_text(errors="replace").splitlines() if line.strip()]
        how = f"failed ({told[-1].strip().rstrip('.') if told else f'exit status {code}'})"
    raise ModelError(
        f"The training of {name} stopped, as process {rank} {how}; see {log}, and run again to go on from the last "
        "epoch, with a smaller batch where memory ran out."
    )


def _end(started: list[subprocess.Popen[bytes]]) -> None:
    """End whoever still runs: by closing the line, and by force where that is not heard."""
    for process in started:
        assert process.stdin is not None
        try:
            process.stdin.close()
        except BrokenPipeError:
            continue
    for process in started:
        try:
            process.wait(GRACE)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


class _Lines(logging.Handler):
    """Writes progress as lines of JSON that `_pass_on` reads."""

    def emit(self, record: logging.LogRecord) -> None:
        line = json.dumps({key: record.__dict__[key] for key in ("what", "done", "total")})
        os.write(1, f"{line}\n".encode())


def _read(given: io.FileIO, size: int) -> bytes:
    found = bytearray()
    while len(found) < size:
        part = given.read(size - len(found))
        if not part:
            raise SystemExit(1)
        found += part
    return bytes(found)


def _end_with_the_one_who_began() -> None:
    """Wait until standard input is closed, which also happens when the process at its other end is killed."""
    while os.read(0, 1):
        pass
    os._exit(1)
