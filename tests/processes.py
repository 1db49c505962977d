"""Run a piece of work in a process of its own, so that its peak memory is its own."""

from __future__ import annotations

import multiprocessing
from concurrent.futures import ProcessPoolExecutor
from typing import Any

from stages import memory


def alone(work: Any, *arguments: Any) -> Any:
    """Run ``work(*arguments)`` in a fresh process and give what it returns."""
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
        return pool.submit(work, *arguments).result()


def peak_mb() -> float:
    """Most memory that this process has held, in MB."""
    return memory.peak() / 1024**2


def restart_peak() -> float:
    """Forget the peak so far, where the system can, and give what this process holds now, in MB."""
    memory.forget_peak()
    return peak_mb()
