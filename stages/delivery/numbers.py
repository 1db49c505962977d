"""Write numbers as people read them: percent, intervals, hectares, counts, dates."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

#: Stands where a measure is undefined.
NONE = "–"
#: Parts thousands without letting a line break between them.
_NARROW = "\u202f"


def percent(share: float | None) -> str:
    """Write a share as percent with one digit: 0.7292 is 72.9 %."""
    return NONE if share is None else f"{100 * share:.1f}{_NARROW}%"


def whole_percent(number: float) -> str:
    """Write a number of percent that is counted in whole ones: 33 %."""
    return f"{number:g}{_NARROW}%"


def count(number: float | None) -> str:
    """Write a whole number with its thousands apart."""
    return NONE if number is None else f"{number:,.0f}".replace(",", _NARROW)


def hectares(area: float | None) -> str:
    """Write an area in hectares with three digits or more."""
    if area is None:
        return NONE
    digits = 0 if area >= 100 else 1 if area >= 10 else 2
    return f"{area:,.{digits}f}".replace(",", _NARROW)


def factor(ratio: float | None) -> str:
    """Write a ratio or a coefficient with two digits."""
    return NONE if ratio is None else f"{ratio:.2f}"


def value_of(score: Any) -> float | None:
    """Take the value of a score that is written with its interval, or alone."""
    found = score.get("value") if isinstance(score, dict) else score
    return None if found is None else float(found)


def interval_of(score: Any) -> tuple[float, float] | None:
    """Take both ends of a score's interval, where it has one."""
    if not isinstance(score, dict) or score.get("low") is None or score.get("high") is None:
        return None
    return float(score["low"]), float(score["high"])


def range_of(score: Any) -> str:
    """Write the interval of a share in percent: 70.1 to 75.8 %."""
    ends = interval_of(score)
    return "" if ends is None else f"{100 * ends[0]:.1f} to {100 * ends[1]:.1f}{_NARROW}%"


def date_of(date: str, step: str = "") -> str:
    """Write a date as exact as it is meant: of a step of months the month, of a step of years the year."""
    unit = step.rstrip("s").rpartition(" ")[2]
    return date[: {"month": 7, "year": 4}.get(unit, len(date))]


def period_of(dates: Sequence[str], step: str = "") -> str:
    """Sum up dates: 12 steps of 1 month, 2018-01 to 2018-12; a single date stands for itself."""
    first, last = date_of(dates[0], step), date_of(dates[-1], step)
    if len(dates) == 1:
        return f"1 step of {step}, {first}" if step else first
    kind = f"steps of {step}" if step else "dates"
    return f"{len(dates)} {kind}, {first} to {last}"
