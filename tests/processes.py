"""Run a piece of work in a process of its own, so that its peak memory is its own."""

from __future__ import annotations

import multiprocessing
import resource
import sys
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

_STATUS, _REFERENCES = Path("/proc/self/status"), Path("/proc/self/clear_refs")


def alone(work: Any, *arguments: Any) -> Any:
    """Run ``work(*arguments)`` in a fresh process and give what it returns."""
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
        return pool.submit(work, *arguments).result()


def peak_mb() -> float:
    """Most memory that this process has held, in MB."""
    # Not getrusage where there is better: Linux lets a new process begin with the peak of the one that started it.
    held = _status("VmHWM")
    if held is not None:
        return held
    most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return most / (1024**2 if sys.platform == "darwin" else 1024)


def restart_peak() -> float:
    """Forget the peak so far, where the system can, and give what this process holds now, in MB."""
    try:
        _REFERENCES.write_text("5")
    except OSError:
        return peak_mb()
    return peak_mb()


def _status(field: str) -> float | None:
    """Read a field of this process's status in MB: kB in the file."""
    if not _STATUS.exists():
        return None
    lines = (line.split() for line in _STATUS.read_text().splitlines())
    return next((int(words[1]) / 1024 for words in lines if words and words[0] == f"{field}:"), None)
