"""Show a run on the screen, one line a stage with a progress display, and keep all of it in a log file."""

from __future__ import annotations

import json
import logging
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import IO, Any

from pipeline.config import Area
from pipeline.fingerprint import relative
from stages.errors import ArtifactError, TerrastageError
from stages.progress import PROGRESS

#: Loggers whose INFO lines are kept; of other libraries warnings only, and only in the file.
OURS = ("stages", "pipeline", "terrastage")
#: Log files kept of every area.
KEPT_LOGS = 50
#: Seconds between two lines of progress where the screen is no terminal.
PLAIN_INTERVAL = 15.0


@contextmanager
def shown(log: Path, verbose: bool = False, quiet: bool = False) -> Iterator[None]:
    """Send everything logged inside the block to the screen (unless ``quiet``) and to a file.

    Raises:
        ArtifactError: the file cannot be written.
    """
    handlers: list[logging.Handler] = [_log_file(log)]
    if not quiet:
        handlers.append(Screen(sys.stdout, verbose))
    root = logging.getLogger()
    before, level = root.handlers[:], root.level
    logging.captureWarnings(True)
    root.handlers[:] = handlers
    root.setLevel(logging.INFO)
    try:
        yield
    except Exception as fault:
        _record(handlers[0], fault)
        raise
    finally:
        root.handlers[:] = before
        root.setLevel(level)
        logging.captureWarnings(False)
        for handler in handlers:
            handler.close()


def _record(file: logging.Handler, fault: Exception) -> None:
    """Write down what ended the block: a user's mistake as its sentence, a bug with its traceback."""
    trace = None if isinstance(fault, TerrastageError) else (type(fault), fault, fault.__traceback__)
    record = logging.LogRecord(__name__, logging.ERROR, __file__, 0, "%s", (fault,), trace)
    file.handle(record)


def log_path(folder: Path, what: str) -> Path:
    """Name a new log file's path in ``folder``, named after the time and what is run; the oldest ones are removed."""
    for old in sorted(folder.glob("*.log"))[: -KEPT_LOGS + 1]:
        old.unlink(missing_ok=True)
    return folder / f"{datetime.now(UTC):%Y%m%dT%H%M%S}-{what}.log"


class _QuietFile(logging.FileHandler):
    """A log file that gives up silently: a full disk is told once, by the stage that meets it."""

    def handleError(self, record: logging.LogRecord) -> None:  # noqa: N802 - logging's name
        """Drop the record."""

    def close(self) -> None:
        """Close the file, whatever the disk says."""
        try:
            super().close()
        except OSError:
            return


def _log_file(path: Path) -> logging.Handler:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handler = _QuietFile(path, encoding="utf-8")
    except OSError as fault:
        raise ArtifactError(
            f"Cannot write to {path.parent} ({fault.strerror}); check that it is a folder you may write to."
        ) from fault
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)-7s %(name)s: %(message)s"))
    handler.addFilter(
        lambda record: record.name != PROGRESS and (_is_ours(record) or record.levelno >= logging.WARNING)
    )
    return handler


def _is_ours(record: logging.LogRecord) -> bool:
    return record.name.partition(".")[0] in OURS


class Screen(logging.Handler):
    """One row a stage: its name, how it went, how long it took, and what the stage says of it."""

    def __init__(self, out: IO[str], verbose: bool = False) -> None:
        super().__init__()
        self._out = out
        self._verbose = verbose
        self._terminal = out.isatty()
        self._stage = ""
        self._details: list[str] = []
        self._progress: Any = None
        self._task: Any = None
        self._what = ""
        self._told = time.monotonic()

    def emit(self, record: logging.LogRecord) -> None:
        """Show one record."""
        try:
            self._show(record)
        except (OSError, ValueError):
            self.handleError(record)

    def handleError(self, record: logging.LogRecord) -> None:  # noqa: N802 - logging's name
        """Drop the record: nobody reads a closed screen."""

    def close(self) -> None:
        """Take the progress display away."""
        self._stop_progress()
        super().close()

    def _show(self, record: logging.LogRecord) -> None:
        if record.name == PROGRESS:
            self._advance(record)
        elif hasattr(record, "outcome"):
            self._row(record)
        elif not _is_ours(record):
            return
        elif record.levelno >= logging.WARNING:
            self._line(f"  {'':<9} ! {record.getMessage()}")
        elif self._stage and record.name.startswith("stages"):
            self._details.append(record.getMessage())
        elif record.name.startswith("pipeline"):
            self._line(f"  {record.getMessage()}")

    def _row(self, record: logging.LogRecord) -> None:
        """Begin or end a stage."""
        values = record.__dict__
        if values["outcome"] == "running":
            self._stage, self._details = values["stage"], []
            self._told = time.monotonic()
            if self._verbose:
                self._line(f"  {self._stage:<9} runs, because {'; '.join(values['why'])}")
            return
        self._stop_progress()
        seconds = values["seconds"]
        if seconds is None:
            self._line(f"  {values['stage']:<9} {values['outcome']}")
        else:
            first, *more = self._told_lines(values["stage"])
            self._line(f"  {values['stage']:<9} {seconds:>8.1f} s   {first}".rstrip())
            for line in more:
                self._line(f"  {'':<9}              {line}".rstrip())
        self._stage, self._details = "", []

    def _told_lines(self, stage: str) -> list[str]:
        """Give what a stage said of itself: its last line, and its tables."""
        last = len(self._details) - 1
        told = [
            # The stage's name stands in front already.
            detail.removeprefix(f"{stage}: ").strip("\n")
            for number, detail in enumerate(self._details)
            if self._verbose or number == last or "\n" in detail
        ]
        return "\n".join(told).split("\n")

    def _advance(self, record: logging.LogRecord) -> None:
        what, done, total = (record.__dict__[name] for name in ("what", "done", "total"))
        if not self._terminal:
            if time.monotonic() - self._told >= PLAIN_INTERVAL:
                self._told = time.monotonic()
                self._line(f"  {self._stage:<9} ... {what} {done} of {total}")
            return
        if self._progress is None:
            self._start_progress()
        if what != self._what:
            self._what = what
            self._progress.reset(self._task, total=total, description=f"{self._stage:<9} {what}")
        self._progress.update(self._task, completed=done, total=total)

    def _start_progress(self) -> None:
        from rich.console import Console
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

        columns = (TextColumn("  {task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
        self._progress = Progress(*columns, console=Console(file=self._out), transient=True)
        self._task, self._what = self._progress.add_task("", total=None), ""
        self._progress.start()

    def _stop_progress(self) -> None:
        if self._progress is not None:
            self._progress.stop()
            self._progress = None

    def _line(self, text: str) -> None:
        if self._progress is not None:
            self._progress.console.print(text, markup=False, highlight=False, soft_wrap=True)
            return
        self._out.write(f"{text}\n")
        self._out.flush()


# --- the end of a run ------------------------------------------------------------------------------------------------


def summary(area: Area) -> str:
    """Say where the map is, how good it is and what to open next."""
    folder = area.data / "map"
    rows = [("map", relative(folder / "classes.tif", area.root))]
    if (folder / "classes.gpkg").is_file():
        rows.append(("polygons", relative(folder / "classes.gpkg", area.root)))
    rows += _accuracy(area)
    if (folder / "report.html").is_file():
        rows.append(("open next", relative(folder / "report.html", area.root)))
    return "\n".join([f"\n{area.title}", *(f"  {name:<10} {text}" for name, text in rows)])


def _accuracy(area: Area) -> list[tuple[str, str]]:
    """Make the rows on how good the map is, where its scores were measured here."""
    scores = _json(area.data / "scores" / "scores.json") if _belongs(area) else {}
    choice = {} if area.settings.given.model else _json(area.data / "model" / "models.json")
    name = choice.get("chosen") or scores.get("best", "")
    entry = scores.get("models", {}).get(name) or scores.get("models", {}).get(scores.get("best"))
    if not entry:
        where = "given" if area.settings.given.model else "trained earlier"
        return [("accuracy", f"not measured here: the model was {where}; the report shows its own scores")]
    where = "test pixels" if "blocks" not in scores else f"test pixels in {scores['blocks']} test blocks"
    reference = scores.get("reference", "the reference labels")
    rows = [
        ("model", str(name)),
        (
            "accuracy",
            f"{_interval(entry, 'overall_accuracy')} agreement with {reference} on {scores['pixels']:,} {where}",
        ),
    ]
    if "balanced_accuracy" in entry:
        rows.append(("", f"{_interval(entry, 'balanced_accuracy')} on average over the classes"))
    if _json(area.data / "samples" / "samples.json").get("crossed"):
        rows.append(("", "scores are pooled out of fold; the map's model was refitted on all labels"))
    return rows


def _belongs(area: Area) -> bool:
    """Whether the map was made together with the scores that lie beside it."""
    made_with = _json(area.data / "map" / "manifest.json").get("inputs", {}).get("scores")
    return made_with is not None and made_with == _json(area.data / "scores" / "manifest.json").get("key")


def _interval(entry: dict[str, Any], name: str) -> str:
    score = entry[name]
    text = f"{score['value']:.3f}"
    if score.get("low") is not None and score.get("high") is not None:
        text += f" ({score['low']:.3f} to {score['high']:.3f})"
    return text


def _json(path: Path) -> dict[str, Any]:
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return values if isinstance(values, dict) else {}
