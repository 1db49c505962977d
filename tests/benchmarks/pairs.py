"""Time a piece of work and its limit in alternating pairs of fresh processes, and lay the figures out as one table."""

from __future__ import annotations

import argparse
import json
import os
import platform
import sys
import tempfile
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from importlib import import_module
from importlib.metadata import version
from pathlib import Path
from statistics import median
from typing import Any

from tests.benchmarks import peers
from tests.processes import alone, peak_mb, restart_peak

RUNS = 5
#: Loaded before the clock starts and before memory is counted, on both sides alike.
LIBRARIES = ("dask.base", "dask.threaded", "onnxruntime", "pandas", "pyproj", "rasterio", "torch", "zarr")
VERSIONS = ("dask", "numpy", "onnxruntime", "rasterio", "torch", "zarr")
#: Lies in the folder of a work that is to be done small.
QUICK = "quick"
COLUMNS = ("work", "ours", "limit", "unit", "ratio", "peak_mb", "runs")


@dataclass(frozen=True)
class Work:
    """A piece of work, done by us and by its limit; every function is at module level, as processes are sent it.

    ``aim`` is the ratio ours / limit to reach: at most, where a figure is a cost ("s", "MB"), at least where it is a
    rate. The functions share a folder, and so do works with the same ``prepare``, which is called once.
    """

    name: str
    unit: str
    aim: float
    prepare: Callable[[Path], None]
    ours: Callable[[Path], float]
    limit: Callable[[Path], float]
    #: Peak memory becomes a row too: ours at most this many times the limit's.
    flat: float | None = None
    #: Peak memory becomes a row too: ours at most this many MB.
    budget: float | None = None
    #: Pairs at most, for work that takes minutes.
    most_runs: int = RUNS
    #: Left out of a quick run.
    long: bool = False
    #: The same by another system, in its own environment; called where that is installed.
    peer: Callable[[Path], float] | None = None
    #: Where the peer was measured, ours by the peer's becomes a row too: the ratio to reach.
    times_peer: float | None = None


@dataclass(frozen=True)
class Row:
    """A line of the table: medians of the runs; peak memory is ours, in MB above the loaded libraries."""

    work: str
    ours: float
    limit: float
    unit: str
    aim: float
    peak_mb: float
    runs: int
    peer: float | None = None

    @property
    def ratio(self) -> float:
        """Ours by the limit."""
        return self.ours / self.limit

    @property
    def reached(self) -> bool:
        """Whether the aim is reached."""
        return self.ratio >= self.aim if "/s" in self.unit else self.ratio <= self.aim


#: A figure in the work's unit, and the peak memory of the process in MB above the libraries.
Figure = tuple[float, float]
#: Ours, the limit's, and the peer's figure where it was measured.
Pair = tuple[Figure, Figure, float | None]


def side_of(folder: Path, full: int, quick: int) -> int:
    """Give a size for the work of a folder: the full one, or the small one in a quick run."""
    return quick if (folder / QUICK).exists() else full


def measure(
    works: Iterable[Work], runs: int = RUNS, quick: bool = False, said: Callable[[Row], None] | None = None
) -> list[Row]:
    """Do all works, in folders that are gone afterwards; ``said`` gets every row as soon as it is known."""
    rows: list[Row] = []
    groups: dict[Callable[[Path], None], list[Work]] = {}
    for work in works:
        if not (quick and work.long):
            groups.setdefault(work.prepare, []).append(work)
    for prepare, group in groups.items():
        with tempfile.TemporaryDirectory(prefix="bench-") as name:
            folder = Path(name)
            if quick:
                (folder / QUICK).touch()
            alone(prepare, folder)
            for work in group:
                for row in rows_of(work, [pair(work, folder, i % 2 == 1) for i in range(min(runs, work.most_runs))]):
                    rows.append(row)
                    if said:
                        said(row)
    return rows


def pair(work: Work, folder: Path, limit_first: bool) -> Pair:
    """Do the work, its limit and, where one is installed, its peer's once, each in a fresh process."""
    sides = (work.limit, work.ours) if limit_first else (work.ours, work.limit)
    found = {side: alone(figure, side, folder) for side in sides}
    peer = work.peer(folder) if work.peer and peers.READY.exists() else None
    return found[work.ours], found[work.limit], peer


def figure(do: Callable[[Path], float], folder: Path) -> Figure:
    """Do one side of a work in this process, whose libraries are loaded first."""
    for name in LIBRARIES:
        import_module(name)
    before = restart_peak()
    return do(folder), peak_mb() - before


def rows_of(work: Work, pairs: Sequence[Pair]) -> list[Row]:
    """Take the medians of the pairs of one work: a row, and one more for each of its aims of memory."""
    ours, peak = (median(values) for values in zip(*(pair[0] for pair in pairs), strict=True))
    limit, other_peak = (median(values) for values in zip(*(pair[1] for pair in pairs), strict=True))
    others = [pair[2] for pair in pairs if pair[2] is not None]
    peer = median(others) if others else None
    rows = [Row(work.name, ours, limit, work.unit, work.aim, peak, len(pairs), peer)]
    if work.flat is not None:
        rows.append(Row(f"{work.name}: memory", peak, other_peak, "MB", work.flat, peak, len(pairs)))
    if work.budget is not None:
        rows.append(Row(f"{work.name}: memory of {work.budget:.0f} MB", peak, work.budget, "MB", 1.0, peak, len(pairs)))
    if peer is not None and work.times_peer is not None:
        rows.append(Row(f"{work.name}: by the peer", ours, peer, work.unit, work.times_peer, peak, len(pairs)))
    return rows


def heading() -> str:
    """Name the columns of `line`."""
    return (
        f"{'work':<58}{'ours':>12}{'limit':>12}{'peer':>12} {'unit':<10}{'ratio':>7}{'aim':>9}{'peak_mb':>9}{'runs':>6}"
    )


def line(row: Row) -> str:
    """Write a row; an aim that is missed has a mark."""
    aim = f"{'>=' if '/s' in row.unit else '<='} {row.aim:.2f}{' ' if row.reached else '!'}"
    return (f"{row.work:<58}{_short(row.ours):>12}{_short(row.limit):>12}{_short(row.peer):>12} "
            f"{row.unit:<10}{row.ratio:>7.2f}{aim:>9}{row.peak_mb:>9.0f}{row.runs:>6}")  # fmt: skip


def _short(value: float | None) -> str:
    if value is None:
        return "-"
    return f"{value:,.0f}" if value >= 1000 else f"{value:.3g}"


def write(rows: Sequence[Row], path: Path) -> None:
    """Write the rows and what they were measured on as JSON, whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    entries = [
        {name: getattr(row, name) for name in COLUMNS} | ({} if row.peer is None else {"peer": row.peer})
        for row in rows
    ]
    found = {"rows": entries, "aims": {row.work: row.aim for row in rows}, "machine": machine()}
    unfinished = path.with_name(f"{path.name}.{os.getpid()}.unfinished")
    unfinished.write_text(json.dumps(found, indent=1) + "\n")
    unfinished.replace(path)


def machine() -> dict[str, Any]:
    """Say what the figures were measured on: processor, cores, system, versions."""
    return {
        "cpu": _processor(), "cores": os.cpu_count(), "system": f"{platform.system()} {platform.machine()}",
        "python": platform.python_version(), "versions": {name: version(name) for name in VERSIONS},
    }  # fmt: skip


def _processor() -> str:
    listed = Path("/proc/cpuinfo")
    lines = listed.read_text().splitlines() if listed.exists() else []
    named = [entry.partition(":")[2].strip() for entry in lines if entry.startswith("model name")]
    return named[0] if named else platform.processor() or "unknown"


def main(works: Sequence[Work], arguments: Sequence[str] | None = None, out: Path | None = None) -> None:
    """Print the table of some works as it grows; write it to ``out`` where all of them were done in full."""
    parser = argparse.ArgumentParser(description=sys.modules["__main__"].__doc__)
    parser.add_argument("--only", metavar="TEXT", help="works whose name contains this")
    parser.add_argument("--runs", type=int, default=RUNS, help="pairs of ours and the limit")
    parser.add_argument("--quick", action="store_true", help="small sizes, without what takes minutes")
    parser.add_argument("--peers", action="store_true", help="only works that a peer does too")
    parser.add_argument("--out", type=Path, help="where the figures go as JSON, also of a part of the works")
    asked = parser.parse_args(arguments)
    if asked.peers and not peers.READY.exists():
        parser.error(f"there is no {peers.PLACE}; make it with `make bench-peers`, or leave out --peers")
    named = [work for work in works if (asked.only or "").lower() in work.name.lower()]
    chosen = [work for work in named if work.peer or not asked.peers]
    if not chosen:
        parser.error(f"no work's name contains {asked.only!r}; there are: {'; '.join(work.name for work in works)}")
    if asked.runs < 1:
        parser.error(f"--runs is {asked.runs}; at least 1 pair is needed")
    print(heading(), flush=True)
    rows = measure(chosen, asked.runs, asked.quick, lambda row: print(line(row), flush=True))
    target = asked.out or (None if asked.only or asked.quick or asked.peers else out)
    if target:
        write(rows, target)
        print(f"written to {target}")
