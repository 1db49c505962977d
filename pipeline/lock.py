"""Let one run at a time work on an area, and tell a second one who came first."""

from __future__ import annotations

import fcntl
import json
import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import IO

from stages.errors import ArtifactError, BusyError

_logger = logging.getLogger(__name__)


@contextmanager
def held(path: Path, what: str, command: str, wait: bool = False) -> Iterator[None]:
    """Hold the lock at ``path`` for ``what`` ("area carolina") while ``command`` runs.

    The lock is the operating system's (`flock`), so it ends with the process, however that ends; the file's content
    only names the holder.

    Raises:
        BusyError: another process holds it and ``wait`` is false.
        ArtifactError: the lock's folder cannot be written.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        file = path.open("a+")
    except OSError as fault:
        raise ArtifactError(
            f"Cannot write to {path.parent} ({fault.strerror}); check that it is a folder you may write to."
        ) from fault
    with file:
        _acquire(file, what, wait)
        _sign(file, command)
        try:
            yield
        finally:
            file.truncate(0)
            fcntl.flock(file, fcntl.LOCK_UN)


def _acquire(file: IO[str], what: str, wait: bool) -> None:
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        holder = _holder(file)
        if not wait:
            raise BusyError(
                f"The {what} is in use by {holder}; wait for it to end, or run again with --wait."
            ) from None
        _logger.warning("waiting for %s, which holds the %s", holder, what)
        fcntl.flock(file, fcntl.LOCK_EX)


def _sign(file: IO[str], command: str) -> None:
    since = datetime.now(UTC).isoformat(timespec="seconds")
    signature = json.dumps({"pid": os.getpid(), "command": command, "since": since})
    # A full disk must not keep anyone from cleaning up; the lock holds without its signature.
    with suppress(OSError):
        os.ftruncate(file.fileno(), 0)
        os.pwrite(file.fileno(), signature.encode(), 0)


def _holder(file: IO[str]) -> str:
    """Name the process that signed the lock file."""
    file.seek(0)
    try:
        signed = json.loads(file.read())
        return f"process {signed['pid']} ({signed['command']}, since {signed['since']})"
    except (ValueError, KeyError, TypeError):
        return "another process"
