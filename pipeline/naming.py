"""Find out from file names how scenes lie on the disk: what stands for the band, what for the date."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from stages.errors import SceneError
from stages.geo.headers import iso_date

RASTERS = ".tif", ".tiff", ".jp2", ".vrt", ".img", ".ntf"
PLACEHOLDER = re.compile(r"\{band\}|\{date\}")
#: Dates in names, the surest first; each must stand free of other digits.
DATES = tuple(
    re.compile(rf"(?<!\d)(?:{form})(?!\d)")
    for form in (r"\d{4}[-_]\d{2}[-_]\d{2}", r"\d{8}", r"\d{7}", r"\d{4}-\d{2}", r"\d{6}", r"\d{4}")
)
YEARS = range(1950, 2100)
#: What a band is called in file names: a short number with or without letters around it, or a colour.
BANDLIKE = re.compile(
    r"(?:b|band|sr|ch)?0?\d{1,2}a?|blue|green|red|nir\d?|swir\d*|pan|vre\d?|rededge\d?|re\d|coastal|tir\d?|vv|vh|hh|hv",
    re.IGNORECASE,
)
DATE_MARK = "\0"


@dataclass(frozen=True)
class Layout:
    """How the scenes lie: a pattern for `ingest.scenes[].files`, and the text that stands for each band in it.

    ``tokens`` is empty where every file holds all bands.
    """

    pattern: str
    tokens: tuple[str, ...]


def find_layout(files: Sequence[Path], a_file_a_band: bool) -> Layout:
    """Find the pattern that the paths have in common, with {band} and {date} where they stand.

    With ``a_file_a_band`` every file holds one band: one of several, or the only one where no two files share a date.

    Raises:
        SceneError: the names have no common form, or nothing in them tells the bands apart.
    """
    marked, dates = _mark_dates(files)
    parts = [re.findall(r"[A-Za-z0-9]+|[^A-Za-z0-9]", text) for text in marked]
    if len({len(split) for split in parts}) > 1:
        raise SceneError(
            f"the names of {files[0].name} and {_unlike(files, parts).name} differ in their form; "
            "say where the band stands, such as --scenes 'scenes/{date}_{band}.tif'."
        )
    columns = [list(column) for column in zip(*parts, strict=True)]
    varying = [i for i, column in enumerate(columns) if len(set(column)) > 1]
    at = _band_column(columns, varying, files, len(dates)) if a_file_a_band else -1
    text = ""
    for i, column in enumerate(columns):
        text += "{band}" if i == at else "*" if i in varying else column[0]
    pattern = re.sub(r"\*+(?:\.\*)*", "*", text).replace(DATE_MARK, "{date}")
    return Layout(pattern, tuple(sorted(set(columns[at]))) if at >= 0 else ())


def tokens_in(pattern: str, files: Sequence[Path]) -> tuple[str, ...]:
    """Find what stands for {band} in the files of a pattern that says where it is."""
    text, seen = "", False
    for part in re.split(r"(\{band\}|\{date\}|\*\*/|\*|\?)", pattern):
        if part == "{band}":
            text, seen = text + ("(?P=band)" if seen else "(?P<band>[A-Za-z0-9]+)"), True
        else:
            text += {"{date}": "[0-9_-]+", "**/": "(?:.*/)?", "*": "[^/]*?", "?": "[^/]"}.get(part, re.escape(part))
    found = (re.fullmatch(text, str(path)) for path in files)
    return tuple(sorted({match["band"] for match in found if match}))


def _mark_dates(files: Sequence[Path]) -> tuple[list[str], set[str]]:
    """Put a mark in place of the date in every name: the first form of date that all of the names hold.

    Returns the marked paths and the different dates, none where the names hold none.
    """
    for form in DATES:
        found = [next((m for m in form.finditer(path.name) if _is_date(m[0])), None) for path in files]
        marked = [
            f"{path.parent}/{path.name[: match.start()]}{DATE_MARK}{path.name[match.end() :]}"
            for path, match in zip(files, found, strict=True)
            if match
        ]
        if len(marked) == len(files):
            return marked, {match[0] for match in found if match}
    return [str(path) for path in files], set()


def _is_date(text: str) -> bool:
    try:
        return int(iso_date(text)[:4]) in YEARS
    except ValueError:
        return False


def _band_column(columns: list[list[str]], varying: list[int], files: Sequence[Path], dates: int) -> int:
    """Find the part of the names that tells the band: the last one that looks like it, or the only one that differs.

    Returns -1 for a series of one band.
    """
    likely = [i for i in varying if all(BANDLIKE.fullmatch(token) for token in columns[i])]
    if likely:
        return likely[-1]
    # A scene's bands are of one date, so a date with a single file tells that this file is the whole scene.
    if dates == len(files):
        return -1
    if len(varying) == 1:
        return varying[0]
    raise SceneError(
        f"{len(files)} files of one band such as {files[0].name} do not tell which band each is; "
        "say where it stands, such as --scenes 'scenes/{date}_{band}.tif'."
    )


def _unlike(files: Sequence[Path], parts: Sequence[Sequence[str]]) -> Path:
    """Find a file whose name has another form than the first one's."""
    return next(path for path, split in zip(files, parts, strict=True) if len(split) != len(parts[0]))
