"""Draw charts as SVG within the page, so that lines and letters follow its colours, in the light and in the dark."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import date
from html import escape

import numpy as np

from stages.delivery.legend import Legend
from stages.formats.calendar import year_of

_MONTHS = "Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec"
#: Months between two marks of the time axis; the first that leaves few enough is taken.
_STRIDES = 1, 2, 3, 4, 6, 12, 24, 60, 120, 240
#: A series of more steps than this takes the whole width of the page.
_LONG = 40
#: More bars than this stand for several counts each.
_BARS = 48


@dataclass(frozen=True)
class ClassSeries:
    """Mean value of every class in every band through time, and its spread, over the training pixels.

    ``means`` and ``spreads`` (one standard deviation) are float64 (class, step, band), NaN where nothing is known;
    ``days`` are those of the steps since 1 January of the year of ``dates[0]``; ``seasons`` is how many were pooled.
    """

    bands: tuple[str, ...]
    dates: tuple[str, ...]
    days: tuple[float, ...]
    means: np.ndarray
    spreads: np.ndarray
    seasons: int = 1

    @property
    def is_long(self) -> bool:
        """Whether a chart of it needs the whole width of the page."""
        return len(self.dates) > _LONG

    def order(self) -> tuple[int, ...]:
        """Order the bands for reading: spectral indices first, as they tell classes apart at a glance."""
        import spyndex

        known = {name.upper() for name in spyndex.indices}
        return tuple(sorted(range(len(self.bands)), key=lambda band: self.bands[band].upper() not in known))


@dataclass(frozen=True)
class Plane:
    """Where data lie on a chart: (left, right) and (bottom, top) of the data; all of the drawing in its own units."""

    x: tuple[float, float]
    y: tuple[float, float]
    width: int = 300
    height: int = 168

    LEFT, RIGHT, TOP, BOTTOM = 38, 8, 8, 20

    def across(self, value: float) -> float:
        """Place a value from left to right."""
        share = (value - self.x[0]) / (self.x[1] - self.x[0])
        return self.LEFT + share * (self.width - self.LEFT - self.RIGHT)

    def down(self, value: float) -> float:
        """Place a value from top to bottom."""
        share = (value - self.y[0]) / (self.y[1] - self.y[0])
        return self.height - self.BOTTOM - share * (self.height - self.TOP - self.BOTTOM)


def series_chart(series: ClassSeries, band: int, legend: Legend) -> str:
    """Draw one band: the mean of every class through time, in its colour, with a band of its spread around it."""
    means, spreads = series.means[..., band], series.spreads[..., band]
    plane = Plane(_time_range(series.days), _value_range(means, spreads), 940 if series.is_long else 300)
    beneath, above = [], []
    for entry, mean, spread in zip(legend, means, spreads, strict=True):
        color, name = escape(entry.color, quote=True), escape(entry.name)
        for run in _runs(np.isfinite(mean) & np.isfinite(spread)):
            edge = [*zip(series.days[run], (mean + spread)[run], strict=True)]
            back = [*zip(series.days[run], (mean - spread)[run], strict=True)][::-1]
            beneath.append(f'<path class="spread" fill="{color}" d="{_path(plane, [*edge, *back])}z"/>')
        lines = " ".join(
            _path(plane, [*zip(series.days[run], mean[run], strict=True)]) for run in _runs(np.isfinite(mean))
        )
        if lines:
            # A line of the page's own ink below keeps pale colours apart from paper and dark ones from the night.
            above.append(
                f'<g><title>{name}</title><path class="case" d="{lines}"/>'
                f'<path class="line" stroke="{color}" d="{lines}"/></g>'
            )
    label = f"{series.bands[band]} of every class through time"
    marks = time_marks(series.days, series.dates, plane.x, plane.width // 60, years=series.seasons == 1)
    return _svg(plane, label, [*_value_axis(plane), *_foot(plane, marks), *beneath, *above])


def bars_chart(counts: np.ndarray, label: str) -> str:
    """Draw which share of the pixels has which count: ``counts[n]`` pixels have n; int (n,), not all 0."""
    present = np.flatnonzero(counts)
    first, last = int(present[0]), int(present[-1])
    wide = -(-(last - first + 1) // _BARS)
    starts = np.arange(first, last + 1, wide)
    shares = 100.0 * np.add.reduceat(counts[first : last + 1], starts - first) / counts.sum()
    plane = Plane((first - 0.5, starts[-1] + wide - 0.5), (0.0, 1.06 * float(shares.max())), 400, 180)
    gap = 1.0 if len(starts) > 1 else 0.0
    bars = []
    for start, share in zip(starts, shares, strict=True):
        left, right = plane.across(start - 0.5) + gap / 2, plane.across(start + wide - 0.5) - gap / 2
        top, floor = plane.down(float(share)), plane.down(0.0)
        span = f"{start}" if wide == 1 else f"{start} to {start + wide - 1}"
        bars.append(
            f'<rect class="bar" x="{left:.1f}" y="{top:.1f}" width="{right - left:.1f}" height="{floor - top:.1f}">'
            f"<title>{span}: {share:.1f} %</title></rect>"
        )
    # A count is whole, so its axis has no marks between.
    marks = [(mark, f"{mark:g}") for mark in round_marks(*plane.x, 8) if mark == int(mark)]
    return _svg(plane, label, [*_value_axis(plane, " %"), *_foot(plane, marks), *bars])


def round_marks(low: float, high: float, most: int = 5) -> list[float]:
    """Choose at most ``most`` values from low to high, at 1, 2 or 5 times a power of ten from each other."""
    power = 10.0 ** math.floor(math.log10((high - low) / most))
    for step in (power, 2 * power, 5 * power, 10 * power):
        numbers = range(math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9) + 1)
        if len(numbers) <= most:
            break
    # Rounded, because 3 * 0.1 is not 0.3.
    return [float(f"{number * step:.12g}") for number in numbers]


def time_marks(
    days: Sequence[float], dates: Sequence[str], reach: tuple[float, float], most: int = 5, years: bool = True
) -> list[tuple[float, str]]:
    """Choose days to mark on a time axis, with what to write there: month starts, year starts, or the very dates.

    Args:
        days: since 1 January of the year of the first date.
        dates: of the steps.
        reach: first and last day of the axis.
        most: how many marks there is room for.
        years: whether the year is told; left out where several years lie on top of each other.
    """
    start = year_of(dates[0])
    for stride in _STRIDES:
        marks = list(_month_starts(start, reach, stride, years))
        if len(marks) <= most:
            break
    if len(marks) > 1:
        return marks
    return [(days[0], dates[0]), (days[-1], dates[-1])]


def _month_starts(year: int, reach: tuple[float, float], stride: int, years: bool) -> Iterator[tuple[float, str]]:
    """Every ``stride``-th month's first day within reach, counted from January of a year divisible by the stride."""
    opening = date(year, 1, 1).toordinal()
    every = max(1, stride // 12)
    first = date.fromordinal(max(1, opening + math.floor(reach[0]))).year // every * every * 12
    told = False
    for month in range(max(first, 12), 12 * 9999, stride):
        day = date(month // 12, month % 12 + 1, 1).toordinal() - opening
        if day > reach[1]:
            return
        if day < reach[0]:
            continue
        if stride >= 12:
            yield day, f"{month // 12}"
        else:
            # The year stands once at its start, and at the first mark.
            named = years and (not told or month % 12 == 0)
            yield day, f"{_MONTHS[month % 12]} {month // 12}" if named else _MONTHS[month % 12]
            told = True


def _time_range(days: Sequence[float]) -> tuple[float, float]:
    """From half a step before the first day to half a step after the last, but no more than half a month."""
    edge = min(16.0, float(np.median(np.diff(days))) / 2) or 1.0
    return min(days) - edge, max(days) + edge


def _value_range(means: np.ndarray, spreads: np.ndarray) -> tuple[float, float]:
    """From the lowest to the highest that is drawn, with a little air."""
    known = np.nan_to_num(spreads)
    ends = np.concatenate([(means - known).ravel(), (means + known).ravel()])
    ends = ends[np.isfinite(ends)]
    if not ends.size:
        return 0.0, 1.0
    low, high = float(ends.min()), float(ends.max())
    air = 0.04 * (high - low) or max(1e-6, 0.05 * abs(high))
    return low - air, high + air


def _runs(known: np.ndarray) -> list[slice]:
    """Stretches of steps without a gap."""
    edges = np.flatnonzero(np.diff(np.concatenate([[False], known, [False]]).astype(np.int8)))
    return [slice(int(begin), int(end)) for begin, end in zip(edges[::2], edges[1::2], strict=True)]


def _path(plane: Plane, points: Sequence[tuple[float, float]]) -> str:
    placed = [f"{plane.across(x):.1f} {plane.down(y):.1f}" for x, y in points]
    # A lone point is a line to itself, which round ends make a dot.
    return "M" + "L".join(placed if len(placed) > 1 else placed * 2)


def _value_axis(plane: Plane, unit: str = "") -> Iterator[str]:
    for mark in round_marks(*plane.y):
        y = plane.down(mark)
        yield f'<path class="rule" d="M{plane.LEFT} {y:.1f}H{plane.width - plane.RIGHT}"/>'
        yield f'<text x="{plane.LEFT - 5}" y="{y + 3:.1f}" text-anchor="end">{mark:g}{unit}</text>'


def _foot(plane: Plane, marks: Sequence[tuple[float, str]]) -> Iterator[str]:
    floor = plane.height - plane.BOTTOM
    yield f'<path class="floor" d="M{plane.LEFT} {floor}H{plane.width - plane.RIGHT}"/>'
    for value, words in marks:
        x = plane.across(value)
        yield f'<path class="floor" d="M{x:.1f} {floor}v3"/>'
        half = 2.8 * len(words)
        at = min(max(x, half), plane.width - half)
        yield f'<text x="{at:.1f}" y="{plane.height - 5}" text-anchor="middle">{escape(words)}</text>'


def _svg(plane: Plane, label: str, parts: Sequence[str]) -> str:
    return (
        f'<svg class="chart" role="img" aria-label="{escape(label, quote=True)}" '
        f'viewBox="0 0 {plane.width} {plane.height}">{"".join(parts)}</svg>'
    )
