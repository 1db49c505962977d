"""Read a table of labelled series as it comes, long or wide, check it and bring it to the one form of `Series`."""

from __future__ import annotations

import logging
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date, timedelta
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
from pydantic import BeforeValidator, Field, PlainSerializer, field_validator, model_validator

from stages.errors import SceneError
from stages.formats.calendar import day_of
from stages.formats.series import ABOUT, TEST, Series, observed
from stages.formats.sheet import Sheet, listed, read_sheet
from stages.geo.headers import DATE, iso_date
from stages.geo.labels import label_key
from stages.settings import Settings

log = logging.getLogger(__name__)

#: Days between the samples' dates of one step above which it is a warning.
FAR = 16.0
#: Every column that a table may have beside those of its values.
ROLES = ("sample", "date", "label", "longitude", "latitude", "group", "part")


def _named(bands: Any) -> Any:
    """Take bands as a list of names too; every band is then called as its column is."""
    if isinstance(bands, dict):
        return {name: str(column) for name, column in bands.items()}
    if isinstance(bands, list | tuple):
        return {str(name): str(name) for name in bands}
    return bands


#: Band name -> column (or what stands for {band} in it), in the order of the channels.
Bands = Annotated[
    dict[str, str], BeforeValidator(_named), PlainSerializer(lambda bands: [list(pair) for pair in bands.items()])
]


class SeriesFile(Settings):
    """A table of labelled series that takes the place of scenes: its file, its layout and what its columns are."""

    file: Path = Field(description="CSV, TSV or Parquet table of series")
    test: Path | None = Field(None, description="Table of the same layout with independent test samples")
    layout: Literal["long", "wide"] = Field(description="long: a row a sample and date; wide: a row a sample")
    header: bool = Field(True, description="Whether the first row holds names; if not, columns are called 0, 1, 2, ...")
    separator: str | None = Field(None, min_length=1, max_length=1, description="Between fields; by default tab or ,")
    columns: str | None = Field(
        None, description="Pattern of the value columns of a wide table, such as {band}_{date} or {band}_{step}; by "
        "default all columns that nothing else is read from are the steps of one band, in order"
    )  # fmt: skip
    sample: str | None = Field(None, coerce_numbers_to_str=True, description="Column of the sample's name")
    date: str | None = Field(None, coerce_numbers_to_str=True, description="Column of the date, in a long table")
    label: str = Field("label", coerce_numbers_to_str=True, description="Column of the class value")
    longitude: str | None = Field(None, coerce_numbers_to_str=True, description="Column of the longitude in degrees")
    latitude: str | None = Field(None, coerce_numbers_to_str=True, description="Column of the latitude in degrees")
    group: str | None = Field(None, coerce_numbers_to_str=True, description="Column of what is never divided")
    part: str | None = Field(None, coerce_numbers_to_str=True, description="Column that says train or test")
    bands: Bands = Field(
        default_factory=dict,
        description="Names of the bands in order, or band name -> column; by default those that are there",
    )
    dates: tuple[str, ...] = Field((), description="Dates of a wide table's steps, where its columns do not tell them")
    nodata: float | None = Field(None, description="Number that stands for a missing value")
    scale: float | None = Field(None, description="Factor to physical units")
    offset: float | None = Field(None, description="Summand to physical units")
    scaled: bool | None = Field(
        None, description="Whether values are in physical units; by default where a scale or offset is given"
    )
    pixel: float = Field(10.0, gt=0, description="Side in metres of the ground that a series stands for")

    @field_validator("dates", mode="before")
    @classmethod
    def _iso(cls, dates: Any) -> Any:
        return tuple(iso_date(date) for date in dates) if isinstance(dates, list | tuple) else dates

    @model_validator(mode="after")
    def _consistent(self) -> SeriesFile:
        if self.layout == "long":
            if self.sample is None or self.date is None:
                raise ValueError("a long table needs sample and date, the columns that hold them")
            if self.columns or self.dates:
                raise ValueError("columns and dates describe the steps of a wide table; leave them out of a long one")
        elif self.date is not None:
            raise ValueError("date is a column of a long table; a wide one has a column a date (set columns or dates)")
        if self.columns and not re.search(r"\{date\}|\{step\}", self.columns):
            raise ValueError(f"columns is {self.columns}; it must hold {{date}} or {{step}}, such as {{band}}_{{date}}")
        many = len(self.bands) > 1 and not (self.columns and "{band}" in self.columns)
        if self.layout == "wide" and many:
            raise ValueError("several bands in a wide table need columns with {band}, such as {band}_{date}")
        if (self.longitude is None) != (self.latitude is None):
            raise ValueError("longitude and latitude go together; give both or neither")
        if self.part is not None and self.test is not None:
            raise ValueError("part and test both say which samples are the test; give one of the two")
        if list(self.dates) != sorted(set(self.dates)):
            raise ValueError("dates must be in order of time, each once")
        taken = Counter(column for role in ROLES if (column := getattr(self, role)) is not None)
        for column, count in taken.items():
            if count > 1:
                raise ValueError(f"column {column} is named for {count} things; every column has one meaning")
        return self


@dataclass(frozen=True)
class Part:
    """The series of one file: values float64 (sample, step, band), dates of every sample, and what else is known."""

    values: np.ndarray
    #: ISO dates, object (sample, step).
    dates: np.ndarray
    bands: tuple[str, ...]
    about: Any


def load_series(entry: SeriesFile) -> Series:
    """Read, check and normalise a table and, where there is one, its table of test samples.

    Values are scaled. Where samples have dates of their own, steps go by order, their days are counted from each
    sample's own 1 January, and the median over the samples counts. Rows of one sample and date are averaged. Samples
    without a label or without any whole step are left out.

    Raises:
        SceneError: the table cannot be read, or does not hold series of equally many steps.
    """
    parts = [_read_part(path, entry, path == entry.test) for path in table_files(entry)]
    _same_steps(entry, parts)
    import pandas as pd

    about = pd.concat([part.about for part in parts], ignore_index=True)
    values = _scaled(np.concatenate([part.values for part in parts]), entry)
    dates = np.concatenate([part.dates for part in parts])
    keep = _kept(entry, about, values)
    values, dates, about = values[keep], dates[keep], about[keep].reset_index(drop=True)
    _check_coordinates(entry, about)
    _tell_missing(values)
    scaled = entry.scale is not None or entry.offset is not None if entry.scaled is None else entry.scaled
    scaling = "scaled" if scaled else "digital numbers"
    return Series(parts[0].bands, tuple(dates[0]), _days(dates), scaling, entry.pixel, values.astype(np.float32), about)


def table_files(entry: SeriesFile) -> list[Path]:
    """List every file that is read.

    Raises:
        SceneError: one is not there.
    """
    files = [entry.file] if entry.test is None else [entry.file, entry.test]
    for path in files:
        if not path.is_file():
            raise SceneError(f"the table of series {path} does not exist; correct ingest.table.")
    return files


# --- one file -------------------------------------------------------------------------------------------------------


def _read_part(path: Path, entry: SeriesFile, test: bool) -> Part:
    """Read the series of one file; those of the test file are all test samples."""
    sheet = read_sheet(path, entry.header, entry.separator)
    read = _long if entry.layout == "long" else _wide
    part = read(sheet, entry, test)
    if test:
        part.about["part"] = TEST
    return part


def _about(sheet: Sheet, entry: SeriesFile, test: bool) -> Any:
    """Read what a table says of every row beside its values, into the columns of `ABOUT`.

    A test file may do without coordinates and groups: it is not divided.

    Raises:
        SceneError: a column is not there, or a part is neither train nor test.
    """
    import pandas as pd

    rows = len(next(iter(sheet.columns.values())))
    found: dict[str, Any] = dict.fromkeys(ABOUT, "")
    found |= {"longitude": np.nan, "latitude": np.nan, "file": str(sheet.path)}
    for name in ("sample", "label", "longitude", "latitude", "group", "part"):
        column = getattr(entry, name)
        if column is None or (test and name in ("longitude", "latitude", "group") and column not in sheet.columns):
            continue
        found[name] = (sheet.numbers if name in ("longitude", "latitude") else sheet.texts)(column, name)
    table = pd.DataFrame(found, index=range(rows))
    table["label"] = [label_key(value) for value in table["label"]]
    if entry.part is not None:
        parts = table["part"].str.lower()
        wrong = np.flatnonzero(~parts.isin(["train", TEST]))
        if len(wrong):
            raise SceneError(
                f"row {wrong[0] + 1} of {sheet.path} has '{table['part'][wrong[0]]}' in column '{entry.part}' "
                "(ingest.table.part); it says train or test."
            )
        table["part"] = np.where(parts == TEST, TEST, "")
    if entry.sample is not None and (unnamed := np.flatnonzero(table["sample"] == "")).size:
        raise SceneError(
            f"row {unnamed[0] + 1} of {sheet.path} has no sample in column '{entry.sample}'; name the sample of every "
            "row."
        )
    return table


# --- a row a sample and date -----------------------------------------------------------------------------------------


def _long(sheet: Sheet, entry: SeriesFile, test: bool) -> Part:
    """Bring the rows of every sample together, in order of time.

    Raises:
        SceneError: a date cannot be read, a sample contradicts itself, or samples have unequal numbers of dates.
    """
    import pandas as pd

    assert entry.date is not None
    rows = _about(sheet, entry, test)
    dates, day = _row_dates(sheet, entry.date)
    bands = entry.bands or {name: name for name in _rest(sheet, entry)}
    if not bands:
        raise SceneError(
            f"{sheet.path} has no column of values beside {listed(sheet.columns)}; name ingest.table.bands."
        )
    numbers = np.stack([_finite(sheet.numbers(column, "bands"), entry) for column in bands.values()], axis=1)
    sample, names = pd.factorize(rows["sample"])
    _same_in_a_sample(sheet, entry, rows, sample)
    keys, place = np.unique(sample * np.int64(len(dates)) + day, return_inverse=True)
    owner, when = np.divmod(keys, len(dates))
    lengths = np.bincount(owner, minlength=len(names))
    _refuse_ragged(sheet.path, names, lengths)
    if again := len(rows) - len(keys):
        log.warning("%s: %d rows repeat a date of their sample; the values of a date are averaged", sheet.path, again)
    shape = len(names), int(lengths[0]), len(bands)
    first = np.unique(sample, return_index=True)[1]
    about = rows.iloc[first].reset_index(drop=True)
    return Part(
        _averaged(numbers, place, len(keys)).reshape(shape), dates[when].reshape(shape[:2]), tuple(bands), about
    )


def _row_dates(sheet: Sheet, column: str) -> tuple[np.ndarray, np.ndarray]:
    """All dates of a column in order, object (date,), and which of them each row has, int64 (row,).

    Raises:
        SceneError: one cannot be read.
    """
    texts, place = np.unique(sheet.texts(column, "date").astype(str), return_inverse=True)
    found = []
    for number, text in enumerate(texts):
        try:
            # A time of day after the date does not count.
            found.append(iso_date(re.sub(r"^(\d{4}-\d{2}-\d{2})[T ].*$", r"\1", text)))
        except ValueError as fault:
            row = int(np.flatnonzero(place == number)[0]) + 1
            raise SceneError(
                f"row {row} of {sheet.path} has no valid date in column '{column}': {fault}; correct it."
            ) from fault
    dates = sorted(set(found), key=lambda text: (day_of(text, since="0001"), text))
    rank = np.array([dates.index(text) for text in found], np.int64)
    return np.array(dates, dtype=object), rank[place.ravel()]


def _rest(sheet: Sheet, entry: SeriesFile) -> list[str]:
    """List the columns that nothing is read from yet, in order."""
    taken = {getattr(entry, role) for role in ROLES}
    return [name for name in sheet.columns if name not in taken]


def _same_in_a_sample(sheet: Sheet, entry: SeriesFile, rows: Any, sample: np.ndarray) -> None:
    """See that the rows of a sample agree on everything but date and values.

    Raises:
        SceneError: they do not.
    """
    first = np.unique(sample, return_index=True)[1][sample]
    for name in ("label", "longitude", "latitude", "group", "part"):
        values = rows[name].to_numpy()
        other = values[first]
        same = values == other
        if name in ("longitude", "latitude"):
            same |= np.isnan(values) & np.isnan(other)
        if not same.all():
            row = int(np.flatnonzero(~same)[0])
            raise SceneError(
                f"sample '{rows['sample'][row]}' of {sheet.path} has several values in column '{getattr(entry, name)}' "
                f"(ingest.table.{name}): {other[row]} in row {first[row] + 1} and {values[row]} in row {row + 1}; "
                "give each a sample of its own."
            )


def _refuse_ragged(path: Path, names: Sequence[str], lengths: np.ndarray) -> None:
    """See that all samples have equally many dates.

    Raises:
        SceneError: they do not.
    """
    usual, _ = Counter(lengths.tolist()).most_common(1)[0]
    odd = np.flatnonzero(lengths != usual)
    if len(odd):
        other = int(np.flatnonzero(lengths == usual)[0])
        raise SceneError(
            f"the series of {path} are of unequal length: sample '{names[odd[0]]}' has {lengths[odd[0]]} dates, sample "
            f"'{names[other]}' has {usual} ({len(odd)} samples differ from most); give every sample a row for every "
            "date, with empty values where nothing was observed."
        )


def _averaged(numbers: np.ndarray, place: np.ndarray, count: int) -> np.ndarray:
    """Average the known values (row, band) of every place (row,): float64 (count, band), NaN where none is known."""
    known = np.isfinite(numbers)
    found = np.full((count, numbers.shape[1]), np.nan)
    for band in range(numbers.shape[1]):
        at = place.ravel()[known[:, band]]
        total = np.bincount(at, weights=numbers[known[:, band], band], minlength=count)
        there = np.bincount(at, minlength=count)
        found[there > 0, band] = total[there > 0] / there[there > 0]
    return found


# --- a row a sample --------------------------------------------------------------------------------------------------


def _wide(sheet: Sheet, entry: SeriesFile, test: bool) -> Part:
    """Read the columns of every band and step.

    Raises:
        SceneError: a sample stands in two rows, or the columns do not make a cube.
    """
    about = _about(sheet, entry, test)
    if entry.sample is None:
        about["sample"] = [str(row + 1) for row in range(len(about))]
    elif about["sample"].duplicated().any():
        second = int(np.flatnonzero(about["sample"].duplicated())[0])
        first = int(np.flatnonzero(about["sample"] == about["sample"][second])[0])
        raise SceneError(
            f"sample '{about['sample'][second]}' of {sheet.path} stands in rows {first + 1} and {second + 1}; a wide "
            "table has one row a sample: name each by itself, or leave ingest.table.sample out."
        )
    places, dates = _matched(sheet, entry) if entry.columns else _in_order(sheet, entry)
    bands = tuple(places)
    values = np.empty((len(about), len(dates), len(bands)))
    for number, columns in enumerate(places.values()):
        for step, column in enumerate(columns):
            values[:, step, number] = _finite(sheet.numbers(column, "columns"), entry)
    return Part(values, np.tile(np.array(dates, dtype=object), (len(about), 1)), bands, about)


def _in_order(sheet: Sheet, entry: SeriesFile) -> tuple[dict[str, list[str]], list[str]]:
    """Columns of the one band, every column that nothing else is read from, and the steps' dates."""
    columns = _rest(sheet, entry)
    if not columns:
        raise SceneError(f"{sheet.path} has no column of values beside {listed(sheet.columns)}.")
    return {next(iter(entry.bands), "value"): columns}, _step_dates(sheet.path, entry, len(columns))


def _step_dates(path: Path, entry: SeriesFile, steps: int) -> list[str]:
    """Dates of steps that are only numbered: those given, or spread evenly over a year that nobody knows.

    Raises:
        SceneError: there are more or fewer given than steps.
    """
    if entry.dates and len(entry.dates) != steps:
        raise SceneError(
            f"{path} has {steps} steps, but ingest.table.dates names {len(entry.dates)} dates; name one a step."
        )
    if entry.dates:
        return list(entry.dates)
    if path == entry.file:
        log.warning(
            "%s does not tell the dates of its %d steps; they are taken as spread evenly over a year", path, steps
        )
    apart = max(1.0, 365 / steps)
    return [(date(1, 1, 1) + timedelta(days=int(step * apart))).isoformat() for step in range(steps)]


def _matched(sheet: Sheet, entry: SeriesFile) -> tuple[dict[str, list[str]], list[str]]:
    """Columns of every band by the pattern, in order of time, and the steps' dates.

    Raises:
        SceneError: no column fits, two fit the same place, or one is missing.
    """
    path, expression = sheet.path, _expression(entry)
    bands = {column: name for name, column in entry.bands.items()}
    found: dict[tuple[str, str | int], str] = {}
    for column in _rest(sheet, entry):
        if fit := expression.fullmatch(column):
            parts = fit.groupdict()
            token = parts.get("band")
            band = bands.get(token, token) if token is not None else next(iter(entry.bands), "value")
            step = _step(path, column, parts)
            if (band, step) in found:
                raise SceneError(
                    f"columns '{found[band, step]}' and '{column}' of {path} both hold {band} at {step}; keep one."
                )
            found[band, step] = column
    if not found:
        raise SceneError(
            f"no column of {path} fits ingest.table.columns {entry.columns}; it has {listed(sheet.columns)}."
        )
    steps: list[Any] = sorted({step for _, step in found}, key=_when)
    names = list(entry.bands) or list(dict.fromkeys(band for band, _ in found))
    for band in names:
        for step in steps:
            if (band, step) not in found:
                raise SceneError(
                    f"{path} has no column for {band} at {step} (ingest.table.columns {entry.columns}); every band "
                    "needs a column a step."
                )
    dates = steps if isinstance(steps[0], str) else _step_dates(path, entry, len(steps))
    return {band: [found[band, step] for step in steps] for band in names}, dates


def _when(step: str | int) -> tuple[float, str]:
    return (float(step), "") if isinstance(step, int) else (day_of(step, since="0001"), step)


def _step(path: Path, column: str, parts: dict[str, str | None]) -> str | int:
    """Read the date of a column, or its number where it has no date."""
    if "date" not in parts:
        return int(parts["step"] or 0)
    try:
        return iso_date(parts["date"] or "")
    except ValueError as fault:
        raise SceneError(f"column '{column}' of {path} has no valid date: {fault}; correct its name.") from fault


def _expression(entry: SeriesFile) -> re.Pattern[str]:
    """Turn the pattern of columns into a regular expression with the groups band and date or step."""
    groups = {
        "{band}": f"(?P<band>{'|'.join(map(re.escape, entry.bands.values())) or '.+?'})",
        "{date}": rf"(?P<date>(?<!\d)(?:{DATE})(?!\d))",
        "{step}": r"(?P<step>(?<!\d)\d+(?!\d))",
    }
    pieces = re.split(r"(\{band\}|\{date\}|\{step\})", entry.columns or "")
    return re.compile("".join(groups.get(piece, re.escape(piece)) for piece in pieces))


# --- all files together ----------------------------------------------------------------------------------------------


def _finite(values: np.ndarray, entry: SeriesFile) -> np.ndarray:
    """Take infinite values and the nodata value as missing."""
    missing = ~np.isfinite(values)
    if entry.nodata is not None:
        missing |= values == entry.nodata
    return np.where(missing, np.nan, values)


def _same_steps(entry: SeriesFile, parts: Sequence[Part]) -> None:
    """See that the test series are as long as the others, of the same bands.

    Raises:
        SceneError: they are not.
    """
    first, *others = parts
    for other in others:
        if other.bands != first.bands:
            raise SceneError(
                f"the bands of {entry.test} are {', '.join(other.bands)}, those of {entry.file} "
                f"{', '.join(first.bands)}; give both tables the same columns."
            )
        if other.dates.shape[1] != first.dates.shape[1]:
            raise SceneError(
                f"the series of {entry.test} have {other.dates.shape[1]} steps, those of {entry.file} "
                f"{first.dates.shape[1]}; give both the same length."
            )


def _scaled(values: np.ndarray, entry: SeriesFile) -> np.ndarray:
    """Bring values to physical units."""
    scale = 1.0 if entry.scale is None else entry.scale
    return values * scale + (entry.offset or 0.0)


def _kept(entry: SeriesFile, about: Any, values: np.ndarray) -> np.ndarray:
    """Find samples with a label and at least one whole step: bool (sample,); say how many have not.

    Raises:
        SceneError: none is left to train on.
    """
    labelled = (about["label"] != "").to_numpy()
    seen = observed(values).any(axis=1)
    if count := int((~labelled).sum()):
        log.warning("%d samples have no label and are left out", count)
    if count := int((labelled & ~seen).sum()):
        log.warning("%d samples have no step with all values and are left out", count)
    keep: np.ndarray = labelled & seen
    if not (keep & (about["part"] != TEST).to_numpy()).any():
        raise SceneError(
            f"no sample of {entry.file} can be trained on: of {len(about)}, {int((~labelled).sum())} have no label and "
            f"{int((~seen).sum())} have no step with all values; see that ingest.table names the right columns."
        )
    return keep


def _check_coordinates(entry: SeriesFile, about: Any) -> None:
    """See that training samples have places on the globe, where coordinates are given.

    Raises:
        SceneError: one has none, or numbers that are no degrees.
    """
    if entry.longitude is None:
        return
    lon, lat = about["longitude"].to_numpy(), about["latitude"].to_numpy()
    without = (np.isnan(lon) | np.isnan(lat)) & (about["part"] != TEST).to_numpy()
    if without.any():
        raise SceneError(
            f"{int(without.sum())} samples of {entry.file} have no longitude or latitude, the first is "
            f"'{about['sample'][int(np.flatnonzero(without)[0])]}'; give all of them, or leave both columns out."
        )
    beyond = (np.abs(lat) > 90) | (lon < -180) | (lon > 360)
    if beyond.any():
        at = int(np.flatnonzero(beyond)[0])
        raise SceneError(
            f"sample '{about['sample'][at]}' lies at longitude {lon[at]:g}, latitude {lat[at]:g}, which are no "
            "degrees; give ingest.table.longitude and latitude in degrees (EPSG:4326)."
        )


def _tell_missing(values: np.ndarray) -> None:
    seen = observed(values)
    if count := int((~seen).sum()):
        log.warning(
            "%d of %d steps of %d samples lack a value and are taken as not observed",
            count, seen.size, int((~seen).any(axis=1).sum()),
        )  # fmt: skip


def _days(dates: np.ndarray) -> tuple[float, ...]:
    """Day of every step: the samples' own, or the median over them where they differ."""
    known, place = np.unique(dates.astype(str), return_inverse=True)
    place = place.reshape(dates.shape)
    if (place == place[0]).all():
        return tuple(day_of(text, since=str(dates[0, 0])) for text in dates[0])
    rows, count = np.unique(place, axis=0, return_counts=True)
    days = np.array([[day_of(known[at], since=known[row[0]]) for at in row] for row in rows])
    # Every sample has a vote, not every calendar.
    middle = np.median(np.repeat(days, count, axis=0), axis=0)
    apart = float(np.abs(days - middle).max())
    tell = log.warning if apart > FAR else log.info
    tell(
        "the samples have dates of their own: steps go by order, at the median day of the year, from which a date is "
        "at most %.0f days away", apart,
    )  # fmt: skip
    return tuple(float(day) for day in middle)
