"""Say how far a stage has come; whoever runs the stage decides how to show it."""

from __future__ import annotations

import logging

PROGRESS = "terrastage.progress"
_logger = logging.getLogger(PROGRESS)


def report(what: str, done: int, total: int) -> None:
    """Record that ``done`` of ``total`` units of ``what`` are finished."""
    _logger.info("%s %d/%d", what, done, total, extra={"what": what, "done": done, "total": total})
