"""Periods of whole days: when a label is true, when a season is, and whether the one counts for the other."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import date, datetime, timedelta

import numpy as np

from stages.errors import LabelError

_YEAR, _MONTH = re.compile(r"(\d{4})(?:\.0)?"), re.compile(r"(\d{4})-(\d{1,2})")
_STEP = re.compile(r"(\d*)\s*(day|week|month|year)s?")


@dataclass(frozen=True)
class Period:
    """Days from ``first`` to the one before ``after``, counted from the year 1."""

    first: int
    after: int

    def __str__(self) -> str:
        return f"{date.fromordinal(self.first)} to {date.fromordinal(self.after - 1)}"

    @classmethod
    def of_date(cls, text: str) -> Period:
        """Read a date as the time it names: a day, whatever hour it says, a month (2018-05) or a year (2018).

        Raises:
            ValueError: it is none of them.
        """
        text = text.strip()
        if found := _YEAR.fullmatch(text):
            return cls(date(int(found[1]), 1, 1).toordinal(), date(int(found[1]), 12, 31).toordinal() + 1)
        if found := _MONTH.fullmatch(text):
            first = date(int(found[1]), int(found[2]), 1)
            return cls(first.toordinal(), _later(first, 1).toordinal())
        day = datetime.fromisoformat(text).toordinal()
        return cls(day, day + 1)

    @classmethod
    def of_steps(cls, dates: tuple[str, ...], step: str = "") -> Period:
        """Period of a season from the first of its dates to the end of its last step.

        That step is as long as ``step`` says ("1 month", "16 days"), else as the median of those before it, and a
        single one without either as its date says.

        Raises:
            ValueError: there is a date that cannot be read.
        """
        steps = [cls.of_date(text) for text in dates]
        last = date.fromordinal(steps[-1].first)
        if found := _STEP.fullmatch(step.strip()):
            count, unit = int(found[1] or 1), found[2]
            days = {"day": 1, "week": 7}.get(unit)
            end = last + timedelta(count * days) if days else _later(last, count * {"month": 1, "year": 12}[unit])
            return cls(steps[0].first, end.toordinal())
        if len(steps) == 1:
            return steps[0]
        interval = float(np.median(np.diff([one.first for one in steps])))
        return cls(steps[0].first, max(steps[-1].first + round(interval), steps[-1].first + 1))


def _later(first: date, months: int) -> date:
    """Go some months on, to the last day of the month where it is shorter."""
    month = first.month - 1 + months
    year, month = first.year + month // 12, month % 12 + 1
    for day in range(first.day, 27, -1):
        try:
            return date(year, month, day)
        except ValueError:
            continue
    return date(year, month, first.day)


def holds(first: np.ndarray, after: np.ndarray, season: Period) -> np.ndarray:
    """Whether labels true from ``first`` to before ``after`` count for a season: bool (label,).

    They do if they cover at least half of it, or lie for at least half of their own length within it.
    """
    common = np.minimum(after, season.after) - np.maximum(first, season.first)
    found: np.ndarray = (common > 0) & (2 * common >= np.minimum(season.after - season.first, after - first))
    return found


def read_periods(starts: Iterable[object], ends: Iterable[object], path: str) -> tuple[np.ndarray, np.ndarray]:
    """Read when labels are true from their start and end dates: first day and day after the last, int64 (label,).

    Raises:
        LabelError: a date cannot be read, or a label ends before it starts.
    """
    starts, ends = list(starts), list(ends)
    known: dict[str, Period] = {}
    found = np.zeros((2, len(starts)), dtype=np.int64)
    for side, (setting, values) in enumerate((("label.start", starts), ("label.end", ends))):
        for row, value in enumerate(values):
            text = str(value).strip()
            if text not in known:
                try:
                    known[text] = Period.of_date(text)
                except ValueError as fault:
                    raise LabelError(
                        f"The labels {path} have the date '{text}' in the column of {setting}, which cannot be read; "
                        "write dates as 2018-05-31, 2018-05 or 2018."
                    ) from fault
            found[side, row] = (known[text].first, known[text].after)[side]
    for row in np.flatnonzero(found[1] <= found[0])[:1]:
        raise LabelError(
            f"The labels {path} have a label that is true from {starts[row]} to {ends[row]}; a label cannot end before "
            "it starts: correct it, or exchange label.start and label.end."
        )
    return found[0], found[1]
