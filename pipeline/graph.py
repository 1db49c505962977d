"""The whole pipeline on one page: a row a stage, what it reads and what it writes."""

from __future__ import annotations

import importlib
import inspect
from dataclasses import dataclass
from types import ModuleType

from stages.errors import SettingError


@dataclass(frozen=True)
class Stage:
    """One row of the graph: a stage, the artifacts it reads, the one it writes, and what it does.

    An artifact in ``optional`` is read where it exists in this run: without labels (`given.model`) there is none.
    """

    name: str
    reads: tuple[str, ...]
    writes: str
    purpose: str
    optional: tuple[str, ...] = ()

    @property
    def module(self) -> ModuleType:
        """The stage's own file."""
        return importlib.import_module(f"stages.{self.name}")


def _row(name: str, reads: str, writes: str, purpose: str) -> Stage:
    """Read one row of the table; a trailing ``?`` marks an optional artifact."""
    names = reads.split()
    optional = tuple(n.rstrip("?") for n in names if n.endswith("?"))
    return Stage(name, tuple(n.rstrip("?") for n in names), writes, purpose, optional)


STAGES: tuple[Stage, ...] = (
    # stage     reads                                  writes       what it does
    _row("ingest",   "",                                     "scenes",    "find, check and describe the sources; copies no pixel"),
    _row("tile",     "scenes",                               "tiles",     "warp onto the grid, mask, regularise in time; a chunked store"),
    _row("label",    "tiles",                                "samples",   "burn labels, cut blocks, split; statistics of the training split only"),
    _row("select",   "tiles samples",                        "bands",     "which bands and dates to use (all by default)"),
    _row("augment",  "tiles samples bands",                  "synthetic", "rare-class samples drawn from the training split (none by default)"),
    _row("train",    "tiles samples bands synthetic",        "model",     "every asked-for classifier, the best chosen on the validation split"),
    _row("evaluate", "tiles samples model",                  "scores",    "scores on the test split only, with confidence intervals"),
    _row("classify", "tiles model",                          "classes",   "the whole area in one streaming, memory-bounded pass"),
    _row("export",   "tiles classes model samples? scores?", "map",       "the delivery: layers, polygons, styles, report"),
)  # fmt: skip

#: Not run where the model is given and the area has no labels of its own.
LABELLED = ("label", "select", "augment", "train", "evaluate")


def _check() -> None:
    """Hold the table to itself and to the signature of every stage's ``run``."""
    written: set[str] = set()
    for stage in STAGES:
        missing = [name for name in stage.reads if name not in written]
        assert not missing, f"stage {stage.name} reads {missing} before any stage writes it"
        assert stage.writes not in written, f"artifact {stage.writes} is written twice"
        written.add(stage.writes)


def check_stage(name: str, stages: tuple[Stage, ...]) -> None:
    """See that ``name`` is a stage of the table, or all.

    Raises:
        SettingError: it is neither.
    """
    names = [stage.name for stage in stages]
    if name not in ("all", *names):
        raise SettingError(f"There is no stage {name}; the stages are {', '.join(names)}, or all.")


def check_signature(stage: Stage) -> None:
    """Hold one row to the signature of the stage's ``run``: the artifacts it reads by name, `out` and `config`."""
    found = tuple(inspect.signature(stage.module.run).parameters)
    expected = (*stage.reads, "out", "config")
    assert found == expected, f"stages/{stage.name}.py: run{found} does not match the graph's run{expected}"


_check()
