"""Measure how much memory this process holds, and the most that it has held."""

from __future__ import annotations

from pathlib import Path


def held() -> float:
    """Bytes that the process holds now; the most it has held where the system does not tell."""
    import resource

    try:
        pages = int(Path("/proc/self/statm").read_text().split()[1])
    except (OSError, ValueError, IndexError):
        return peak()
    return pages * float(resource.getpagesize())


def forget_peak() -> None:
    """Begin to measure the peak anew, where the system lets a process do so (Linux)."""
    try:
        Path("/proc/self/clear_refs").write_text("5")
    except OSError:
        return


def peak() -> float:
    """Most bytes that the process has held since `forget_peak`, or ever where that has no effect."""
    import resource
    import sys

    # Not getrusage where there is better: Linux lets a new process begin with the peak of the one that started it.
    try:
        for line in Path("/proc/self/status").read_text().splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024.0
    except (OSError, ValueError, IndexError):
        pass  # told by the call below, less exactly
    # Bytes on macOS, kilobytes elsewhere.
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1.0 if sys.platform == "darwin" else 1024.0)
