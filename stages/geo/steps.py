"""Lay the steps of a series in time: whole months or days, from a first day on, in seasons where they are asked for."""

from __future__ import annotations

import re
from calendar import monthrange
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date, timedelta
from itertools import pairwise
from typing import Literal

from pydantic import ConfigDict, Field, field_validator, model_validator

from stages.errors import SceneError
from stages.settings import Settings

#: Months or days in each unit of a step.
MONTHS, DAYS = {"month": 1, "year": 12}, {"day": 1, "week": 7}


class TimeConfig(Settings):
    """Steps of the time axis, how the observations of a step become one, and what fills the gaps."""

    # `from` is a word of Python, so the settings have other names here.
    model_config = ConfigDict(populate_by_name=True)

    step: str = Field(
        "none", description="Length of a step, such as 1 month, 16 days or 3 months; none: the dates as acquired"
    )
    start: str | None = Field(
        None, alias="from", coerce_numbers_to_str=True,
        description="First day, ISO 8601; none: that of the scenes, moved back to the start of a step",
    )  # fmt: skip
    end: str | None = Field(
        None, alias="to", coerce_numbers_to_str=True,
        description="Last day, ISO 8601; none: that of the scenes, moved on to the end of a step",
    )  # fmt: skip
    season: Literal["none", "1 year"] = Field(
        "none",
        description="1 year: cut the series into years from the day and month of `from` (1 January by default), each "
        "one input of the model with the same number of steps; the last step of a year is the shorter one",
    )
    statistic: Literal["median", "mean", "best"] = Field(
        "median",
        description="Of a step's clear observations: median or mean of every band, or best: all bands of the date "
        "with the greatest clear share of the area",
    )
    fill: Literal["none", "linear", "whittaker", "savgol"] = Field(
        "none",
        description="Steps without a clear observation: linear in time between the neighbours, or the whole series "
        "replaced by its Whittaker or Savitzky-Golay smoothing; beyond the first and last observation the nearest "
        "value is held",
    )
    smooth: float = Field(10.0, gt=0, description="Whittaker: lambda, the weight of the second differences")
    window: int = Field(5, ge=3, le=99, description="Savitzky-Golay: steps of the window, an odd number")
    order: int = Field(2, ge=0, le=6, description="Savitzky-Golay: order of the polynomial, below the window")
    least: int = Field(
        1, ge=1, description="Clear observations that a pixel needs in a season (or series) to be mapped there"
    )

    @field_validator("step")
    @classmethod
    def _known_step(cls, text: str) -> str:
        return text if text == "none" else str(Length.of(text))

    @field_validator("start", "end")
    @classmethod
    def _iso(cls, text: str | None) -> str | None:
        if text is not None:
            days_of(text)
        return text

    @model_validator(mode="after")
    def _fits(self) -> TimeConfig:
        if self.start and self.end and first_day(self.start) > last_day(self.end):
            raise ValueError(f"from is {self.start}, which is after to, {self.end}; exchange them")
        if self.step == "none" and (self.season != "none" or self.fill == "savgol"):
            what = f"season: {self.season}" if self.season != "none" else "fill: savgol"
            raise ValueError(f"{what} needs steps of equal length; set step, such as 1 month")
        if self.season != "none" and Length.of(self.step).per_year < 1:
            raise ValueError(f"a season of 1 year holds no step of {self.step}; shorten the step")
        if self.window % 2 == 0 or self.order >= self.window:
            raise ValueError(f"a window of {self.window} steps and order {self.order} do not fit; window must be odd "
                             "and larger than order")  # fmt: skip
        return self


@dataclass(frozen=True)
class Length:
    """A length of time in whole months or in whole days; one of the two is 0."""

    months: int
    days: int

    @classmethod
    def of(cls, text: str) -> Length:
        """Read a length such as "1 month", "16 days", "2 weeks" or "1 year".

        Raises:
            ValueError: it is none.
        """
        match = re.fullmatch(r"([1-9][0-9]{0,3}) ?(day|week|month|year)s?", text.strip())
        if not match:
            raise ValueError(f"{text!r} is no length of time; write a number and days, weeks, months or years")
        count, unit = int(match[1]), match[2]
        return cls(count * MONTHS.get(unit, 0), count * DAYS.get(unit, 0))

    def __str__(self) -> str:
        count, unit = (self.months, "month") if self.months else (self.days, "day")
        return f"{count} {unit}{'s' if count > 1 else ''}"

    @property
    def per_year(self) -> int:
        """Steps of a year: as many as its 12 months or 365 days begin, 0 if one is longer than a year."""
        whole, part = (12, self.months) if self.months else (365, self.days)
        return -(-whole // part) if part <= whole else 0

    def after(self, start: date, count: int) -> date:
        """Give the day that lies so many lengths after a start; 31 January and a month is the end of February."""
        if self.days:
            return start + timedelta(days=count * self.days)
        months = start.year * 12 + start.month - 1 + count * self.months
        year, month = divmod(months, 12)
        return date(year, month + 1, min(start.day, monthrange(year, month + 1)[1]))


@dataclass(frozen=True)
class Steps:
    """The time axis of the cube: every step's name and middle, and the scenes' dates that fall into it.

    ``names`` (step,) ISO dates; ``days`` (step,) since 1 January of the year of its season's first step, None where
    dates are kept as acquired; ``dates`` (step,) indices of the scenes' dates; ``seasons`` parts of equal length.
    """

    names: tuple[str, ...]
    days: tuple[float, ...] | None
    dates: tuple[tuple[int, ...], ...]
    seasons: int = 1

    @property
    def most(self) -> int:
        """Most dates of one step."""
        return max(len(dates) for dates in self.dates)

    @property
    def axis(self) -> list[float]:
        """Days of all steps on one axis, growing from season to season; a month or year without a day is its middle."""
        if self.days is None:
            spans = [days_of(name) for name in self.names]
            return [first.toordinal() + ((last - first).days + 1) / 2 * (last > first) for first, last in spans]
        length = len(self.names) // self.seasons
        starts = [date(first_day(name).year, 1, 1).toordinal() for name in self.names[::length]]
        return [starts[i // length] + day for i, day in enumerate(self.days)]


def days_of(text: str) -> tuple[date, date]:
    """Give the first and the last day of a date, a month or a year in ISO 8601.

    Raises:
        ValueError: it is none of these.
    """
    if not re.fullmatch(r"\d{4}(-\d{2}){0,2}", text):
        raise ValueError(f"{text} is not a date (YYYY-MM-DD, YYYY-MM or YYYY)")
    parts = [int(part) for part in text.split("-")]
    try:
        first = date(*[*parts, 1, 1][:3])
    except ValueError as fault:
        raise ValueError(f"{text} is not a date ({fault}); correct it") from fault
    if len(parts) == 3:
        return first, first
    return first, Length(12 if len(parts) == 1 else 1, 0).after(first, 1) - timedelta(days=1)


def first_day(text: str) -> date:
    """Give the first day of a date, month or year."""
    return days_of(text)[0]


def last_day(text: str) -> date:
    """Give the last day of a date, month or year."""
    return days_of(text)[1]


def lay_steps(dates: Sequence[str], config: TimeConfig) -> Steps:
    """Cut the scenes' dates (ISO 8601, in order) into steps; without a step each date is one.

    Steps are counted from `from`, otherwise from 1 January of the first scene's year, and in every season anew. The
    last step of a season, or before `to`, ends with it and so may be shorter; where whole steps fill 365 days it
    takes the 29 February's day in and is longer by it. Seasons without a scene at both ends are left out.

    Raises:
        SceneError: no date lies between `from` and `to`, one is too coarse for the steps, or a season between
            others has none.
    """
    kept = [i for i, text in enumerate(dates) if _inside(text, config)]
    if not kept:
        raise SceneError(
            f"no scene lies between tile.time.from {config.start or '(open)'} and to {config.end or '(open)'}; the "
            f"scenes are from {dates[0] or 'undated'} to {dates[-1] or 'undated'}."
        )
    if config.step == "none":
        return Steps(tuple(dates[i] for i in kept), None, tuple((i,) for i in kept))
    if any(not dates[i] for i in kept):
        raise SceneError("a scene without a date falls into no step; set ingest.scenes[].date, or tile.time.step: none")
    spans = {i: days_of(dates[i]) for i in kept}
    last = last_day(config.end) if config.end else None
    start = first_day(config.start) if config.start else date(min(first for first, _ in spans.values()).year, 1, 1)
    latest = last or max(span[1] for span in spans.values())
    if config.season == "none":
        edges = [_edges(start, Length.of(config.step), latest)]
        if config.start is None:
            # Moved on to the step of the first scene: nothing was asked for before it.
            first = min(span[0] for span in spans.values())
            edges = [[edge for edge, after in pairwise(edges[0]) if after > first]
                     + edges[0][-1:]]  # fmt: skip
        if last:
            edges[0][-1] = last + timedelta(days=1)
    else:
        edges = _years(start, Length.of(config.step), latest)
    held = [[_within(spans, dates, one, other, config.step) for one, other in pairwise(row)]
            for row in edges]  # fmt: skip
    some = [k for k, row in enumerate(held) if any(row)]
    edges, held = edges[some[0] : some[-1] + 1], held[some[0] : some[-1] + 1]
    for row, found in zip(edges, held, strict=True):
        if not any(found):
            raise SceneError(
                f"no scene lies in the season that begins on {row[0]}, between others that have some; add scenes, or "
                "narrow tile.time.from and to."
            )
    names = tuple(str(edge) for row in edges for edge in row[:-1])
    days = tuple(day for row in edges for day in _middles(row))
    return Steps(names, days, tuple(found for row in held for found in row), len(edges))


def _inside(text: str, config: TimeConfig) -> bool:
    """Tell whether a scene's date lies between `from` and `to`; an undated one does where both are open."""
    if not text:
        return not (config.start or config.end)
    first, last = days_of(text)
    return not (config.start and first < first_day(config.start)) and not (config.end and last > last_day(config.end))


def _edges(start: date, length: Length, latest: date) -> list[date]:
    """First days of the steps from a start until a day is passed; the last entry is the end of the last step."""
    edges = [start]
    while edges[-1] <= latest:
        edges.append(length.after(start, len(edges)))
    return edges


def _years(start: date, length: Length, latest: date) -> list[list[date]]:
    """Edges of the steps of every year from a start until a day is passed, each with the same number of steps."""
    year = Length(12, 0)
    rows: list[list[date]] = []
    while year.after(start, len(rows)) <= latest:
        first, after = year.after(start, len(rows)), year.after(start, len(rows) + 1)
        rows.append([length.after(first, i) for i in range(length.per_year)] + [after])
    return rows


def _within(
    spans: dict[int, tuple[date, date]], dates: Sequence[str], first: date, after: date, step: str
) -> tuple[int, ...]:
    """List the indices of the dates that lie in a step.

    Raises:
        SceneError: a month or a year is not wholly inside.
    """
    found = []
    for i, (begin, end) in spans.items():
        if begin < after and end >= first:
            if begin < first or end >= after:
                raise SceneError(
                    f"a scene is of {dates[i]}, which falls into several steps of {step} (tile.time.step); give it its "
                    "full date, or lengthen the step."
                )
            found.append(i)
    return tuple(found)


def _middles(edges: Sequence[date]) -> list[float]:
    """Middles of steps in days since 1 January of the year of the first."""
    since = date(edges[0].year, 1, 1)
    days = [(edge - since).days for edge in edges]
    return [(one + other) / 2 for one, other in pairwise(days)]
