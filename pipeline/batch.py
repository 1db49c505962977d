"""Bring every area up to date, one after the other, and go on where one of them fails."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

from pipeline import console, runner
from pipeline.config import Area, area_names, load_area
from pipeline.graph import STAGES, Stage
from pipeline.lock import held
from stages.errors import TerrastageError

_logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Outcome:
    """How one area fared: whether it failed, and one line for a person."""

    area: str
    failed: bool
    line: str


def run(
    root: Path,
    names: tuple[str, ...],
    say: Callable[[str], None],
    stages: tuple[Stage, ...] = STAGES,
    wait: bool = False,
) -> list[Outcome]:
    """Run the areas of ``names``, or all that are no examples; ``say`` is given one line an area.

    A trained model is kept where only the scenes changed. Every area is run under its own lock with its own log file.
    With ``wait`` the batch waits for another batch, and for whoever is at work on an area.

    Raises:
        BusyError: another batch is at work and ``wait`` is false.
    """
    root = root.resolve()
    with held(root / "data" / ".batch.lock", "batch", "terrastage batch", wait):
        outcomes = []
        log = console.log_path(root / "data" / "logs", "batch")
        with console.shown(log, quiet=True):
            for name in names or tuple(area_names(root)):
                outcome = _run_area(root, name, bool(names), stages, wait)
                if outcome is None:
                    continue
                _logger.log(logging.ERROR if outcome.failed else logging.INFO, "%s", outcome.line)
                say(outcome.line)
                outcomes.append(outcome)
        if not outcomes:
            say("There is no area to run: every config in configs/ is marked as an example.")
        return outcomes


def _run_area(root: Path, name: str, named: bool, stages: tuple[Stage, ...], wait: bool) -> Outcome | None:
    """Run one area; none where it is an example that nobody named."""
    begun = time.monotonic()
    try:
        area = load_area(root, name, stages=stages)
        if area.settings.example and not named:
            return None
        with ExitStack() as stack:
            stack.enter_context(held(area.data / ".lock", f"area {name}", "terrastage batch", wait))
            stack.enter_context(console.shown(console.log_path(area.data / "logs", "batch"), quiet=True))
            done = runner.run(area, keep_model=True)
        kept = any(step.state == "kept" for step in runner.survey(area))
    except TerrastageError as fault:
        return Outcome(name, True, f"{name:<16} failed      {fault}")
    except Exception as fault:
        # The area's own log holds the traceback; the next area is not to suffer from it.
        told = f"{type(fault).__name__}: {fault}"
        return Outcome(name, True, f"{name:<16} failed      by a bug ({told}); see {_logs(root, name)}")
    return Outcome(name, False, _line(area, done, kept, time.monotonic() - begun))


def _line(area: Area, done: list[runner.Done], kept: bool, seconds: float) -> str:
    ran = [entry.stage for entry in done if entry.seconds is not None]
    if not ran:
        return f"{area.name:<16} up to date"
    model = ", model kept" if kept else ""
    return f"{area.name:<16} mapped      {', '.join(ran)} in {seconds:.0f} s{model}"


def _logs(root: Path, name: str) -> str:
    return str((root / "data" / name / "logs").relative_to(root))
