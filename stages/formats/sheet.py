"""Read a table from CSV, TSV or Parquet, column by column, and say in which row something is wrong."""

from __future__ import annotations

import csv
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from stages.errors import SceneError

#: Texts that stand for a missing number.
MISSING = ("", "na", "nan", "-nan", "null", "none", "n/a", "#n/a", "<na>")
#: Columns listed in a sentence.
SHOWN = 12
PARQUET = (".parquet", ".pq")


@dataclass(frozen=True)
class Sheet:
    """The columns of a table as they stand in the file (Arrow arrays), and where it came from."""

    path: Path
    columns: dict[str, Any]

    def column(self, name: str, setting: str) -> Any:
        """Find a column.

        Raises:
            SceneError: there is none of that name.
        """
        if name not in self.columns:
            raise SceneError(
                f"{self.path} has no column '{name}' (ingest.table.{setting}); it has {listed(self.columns)}."
            )
        return self.columns[name]

    def texts(self, name: str, setting: str) -> np.ndarray:
        """Read a column as texts without blanks around them, "" where it is empty: object (row,)."""
        import pyarrow as pa
        import pyarrow.compute as pc

        column = self.column(name, setting)
        if pa.types.is_timestamp(column.type):
            column = pc.strftime(column, format="%Y-%m-%d")
        elif not pa.types.is_string(column.type):
            column = _cast(column, pa.string())
            if column is None:
                raise SceneError(
                    f"column '{name}' of {self.path} holds {self.columns[name].type}, which is no text or number."
                )
        found: np.ndarray = pc.fill_null(pc.utf8_trim_whitespace(column), "").to_numpy(zero_copy_only=False)
        return found

    def numbers(self, name: str, setting: str) -> np.ndarray:
        """Read a column as numbers, NaN where it is empty: float64 (row,).

        Raises:
            SceneError: it holds text; the first one is shown with its row.
        """
        import pyarrow as pa

        column = self.column(name, setting)
        if pa.types.is_integer(column.type) or pa.types.is_floating(column.type) or pa.types.is_decimal(column.type):
            return np.asarray(column.cast(pa.float64()).to_numpy(zero_copy_only=False), np.float64)
        return self._parsed(name, self.texts(name, setting))

    def _parsed(self, name: str, texts: np.ndarray) -> np.ndarray:
        import pandas as pd
        import pyarrow as pa
        import pyarrow.compute as pc

        column = pa.array(texts, pa.string())
        missing = pc.is_in(pc.utf8_lower(column), value_set=pa.array(MISSING))
        column = pc.if_else(missing, pa.scalar(None, pa.string()), column)
        found = _cast(column, pa.float64())
        if found is not None:
            return np.asarray(found.to_numpy(zero_copy_only=False), np.float64)
        values: np.ndarray = pd.to_numeric(pd.Series(texts), errors="coerce").to_numpy(np.float64)
        wrong = np.flatnonzero(np.isnan(values) & ~missing.to_numpy(zero_copy_only=False))
        if len(wrong):
            raise SceneError(
                f"row {wrong[0] + 1} of {self.path} has the text '{texts[wrong[0]]}' in column '{name}', where a "
                f"number is expected ({len(wrong)} such rows); correct it, leave it empty, or name the columns of "
                "numbers in ingest.table.bands."
            )
        return values


def read_sheet(path: Path, header: bool, separator: str | None) -> Sheet:
    """Read a table's columns; those of a text file are texts, called 0, 1, 2, ... without a ``header``.

    Raises:
        SceneError: the file is empty, unreadable, or its rows are of different length.
    """
    sheet = _read_parquet(path) if path.suffix.lower() in PARQUET else _read_text(path, header, separator)
    if not len(next(iter(sheet.columns.values()), ())):
        raise SceneError(f"the table of series {path} has no rows; give one with a row a sample.")
    return sheet


def _read_parquet(path: Path) -> Sheet:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        table = pq.ParquetFile(path).read()
    except (pa.ArrowException, OSError) as fault:
        raise SceneError(f"{path} cannot be read as Parquet ({_short(fault)}); give a CSV or Parquet table.") from fault
    columns = zip(table.column_names, table.columns, strict=True)
    # Categories are read as what they stand for.
    return Sheet(path, {n: c.cast(c.type.value_type) if pa.types.is_dictionary(c.type) else c for n, c in columns})


def _read_text(path: Path, header: bool, separator: str | None) -> Sheet:
    import pyarrow as pa
    from pyarrow import csv as arrow

    separator = separator or ("\t" if path.suffix.lower() in (".tsv", ".tab") else ",")
    names, skip = _first_row(path, header, separator)
    odd: list[Any] = []

    def note(row: Any) -> str:
        odd.append(row)
        return "skip"

    try:
        table = arrow.read_csv(
            path,
            # One thread: only so does Arrow know the number of a row.
            read_options=arrow.ReadOptions(column_names=names, skip_rows=skip, use_threads=False),
            parse_options=arrow.ParseOptions(delimiter=separator, invalid_row_handler=note),
            convert_options=arrow.ConvertOptions(
                column_types=dict.fromkeys(names, pa.string()), null_values=[], strings_can_be_null=False
            ),
        )
    except pa.ArrowInvalid as fault:
        if "Empty CSV" in str(fault):
            return Sheet(path, {})
        raise SceneError(f"{path} cannot be read as a table ({_short(fault)}); give UTF-8 text or Parquet.") from fault
    if odd:
        first = odd[0]
        raise SceneError(
            f"row {first.number - skip} of {path} has {first.actual_columns} values, the first row "
            f"{first.expected_columns} ({len(odd)} such rows); give all series the same length, with "
            "empty fields where a value is missing."
        )
    return Sheet(path, dict(zip(names, table.columns, strict=True)))


def _first_row(path: Path, header: bool, separator: str) -> tuple[list[str], int]:
    """Names of the columns, and how many lines they take."""
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            rows = csv.reader(file, delimiter=separator)
            first = next((row for row in rows if row), [])
            lines = rows.line_num
    except (UnicodeDecodeError, csv.Error) as fault:
        raise SceneError(f"{path} cannot be read as a table ({_short(fault)}); give UTF-8 text or Parquet.") from fault
    if len(first) < 2:
        raise SceneError(
            f"the first row of {path} has {len(first)} columns, and a table of series has at least two; "
            "set ingest.table.separator to what stands between its fields."
        )
    if not header:
        return [str(number) for number in range(len(first))], 0
    names = [name.strip() for name in first]
    if twice := [name for name, count in Counter(names).items() if count > 1]:
        raise SceneError(f"{path} has several columns called '{twice[0]}'; give every column a name of its own.")
    return names, lines


def _cast(column: Any, kind: Any) -> Any:
    """Cast a column, None where a value does not let it."""
    import pyarrow as pa

    try:
        return column.cast(kind)
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError):
        return None


def _short(fault: Exception) -> str:
    return " ".join(str(fault).split())[:120].rstrip(".")


def listed(names: Iterable[str]) -> str:
    """Name columns in a sentence, the first ones of many."""
    names = list(names)
    return ", ".join(names[:SHOWN]) + (f", ... ({len(names)})" if len(names) > SHOWN else "")
