"""Measure everything that has a limit, print one table and write `data/bench/bench.json`.

make bench
python -m tests.benchmarks [--only TEXT] [--runs 5] [--quick]
"""

from __future__ import annotations

import pkgutil
from importlib import import_module
from pathlib import Path

from tests import benchmarks
from tests.benchmarks.pairs import Work, main

OUT = Path("data/bench/bench.json")


def works() -> list[Work]:
    """Collect the works of every module of this package that has some, by the modules' names."""
    names = sorted(module.name for module in pkgutil.iter_modules(benchmarks.__path__) if module.name != "__main__")
    modules = [import_module(f"{benchmarks.__name__}.{name}") for name in names]
    return [work for module in modules for work in getattr(module, "WORKS", ())]


if __name__ == "__main__":
    main(works(), out=OUT)
