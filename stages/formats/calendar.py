"""Dates as scenes carry them, ISO 8601 with the day, the month or the year alone, as days to count with."""

from __future__ import annotations

from datetime import date


def day_of(text: str, since: str = "") -> float:
    """Count the days of a date since 1 January of the year of ``since``, by default of its own year.

    A month or a year without a day is taken at its middle; an undated scene is at 0.
    """
    if not text:
        return 0.0
    start = date(year_of(since or text), 1, 1)
    parts = [int(part) for part in text.split("-")]
    if len(parts) == 3:
        return float((date(*parts) - start).days)
    first = date(parts[0], parts[1] if len(parts) > 1 else 1, 1)
    if len(parts) == 2:
        after = date(first.year + first.month // 12, first.month % 12 + 1, 1)
    else:
        after = date(first.year + 1, 1, 1)
    return float((first - start).days) + (after - first).days / 2


def year_of(text: str) -> int:
    """Read the year of a date, 1 where it has none."""
    return int(text[:4]) if text else 1
