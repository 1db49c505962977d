"""Find the scenes of an area, check their headers and list them; no pixel is copied."""

from __future__ import annotations

import glob
import logging
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated

from pydantic import Field, PlainSerializer

from stages.errors import SceneError
from stages.formats.scenes import Scenes, Source, write_scenes
from stages.geo.headers import DATE, Header, iso_date, read_header, sidecars
from stages.progress import report
from stages.settings import Settings

log = logging.getLogger(__name__)

#: Headers read between two reports of progress.
BATCH = 64
WILDCARD = re.compile(r"(\{band\}|\{date\}|\*\*/|\*|\?)")


def _in_order(bands: dict[str, str | int]) -> list[list[str | int]]:
    """Write bands as a list: their order is that of the tiles' channels, so it counts in the stage's key."""
    return [[name, place] for name, place in bands.items()]


#: Band name -> where it is found, in the order of the channels.
Bands = Annotated[dict[str, str | int], PlainSerializer(_in_order)]


class SceneFiles(Settings):
    """Files of one kind: a pattern for their names and what cannot be read from them."""

    files: Path = Field(description="Path pattern; {band} and {date} stand for themselves, * and ? for anything")
    date: str | None = Field(None, coerce_numbers_to_str=True, description="Date of files whose name holds none")
    bands: Bands = Field(default_factory=dict, description="Bands of these files only, instead of ingest.bands")
    nodata: float | None = Field(None, description="Value without data, instead of the header's (digital number)")
    scale: float | None = Field(None, description="Factor to physical units, instead of the header's")
    offset: float | None = Field(None, description="Summand to physical units, instead of the header's")


class Config(Settings):
    """Which files are the area's scenes and which of their bands are used."""

    scenes: tuple[SceneFiles, ...] = Field(min_length=1, description="Files of the scenes, one entry a kind of file")
    bands: Bands = Field(
        default_factory=dict,
        description="Band name -> what stands for {band} in the file name, or the band's number in the file (from 1)",
    )


@dataclass(frozen=True)
class Match:
    """One file that fits a pattern: the band that its name gives ("" for all of them), its date and its scene."""

    path: Path
    band: str
    date: str
    scene: str


def run(out: Path, config: Config) -> None:
    """Write the table of the area's scenes into ``out``.

    Raises:
        SceneError: no file fits a pattern, a file cannot be used, or a scene lacks a band.
    """
    bands = area_bands(config)
    jobs = [(entry, match) for entry in config.scenes for match in find(entry, entry.bands or config.bands)]
    headers = _read_headers(sorted({match.path for _, match in jobs}))
    for entry in config.scenes:
        _refuse_mixture([headers[match.path] for kind, match in jobs if kind == entry])
    sources = [_source(entry, entry.bands or config.bands, match, headers[match.path]) for entry, match in jobs]
    complete = _group(bands, sources)
    write_scenes(out, Scenes(bands, tuple(complete)))
    scenes, dates = len({(s.date, s.scene) for s in complete}), len({s.date for s in complete})
    log.info("%d scenes of %d dates in %d files, bands %s", scenes, dates, len(headers), ", ".join(bands))


def sources(config: Config) -> list[Path]:
    """Every file that the scenes are read from, those beside them included."""
    found: set[Path] = set()
    for entry in config.scenes:
        for path in _files(entry.files):
            found |= {path, *sidecars(path)}
    return sorted(found)


def area_bands(config: Config) -> tuple[str, ...]:
    """Names of the area's bands in their order, the same for every entry.

    Raises:
        SceneError: an entry names none, or others than the entry before.
    """
    bands = tuple(config.bands)
    for entry in config.scenes:
        named = tuple(entry.bands) or tuple(config.bands)
        if not named:
            raise SceneError(f"no bands are named for {entry.files}; set ingest.bands, such as {{red: 3, nir: 4}}.")
        if bands and set(named) != set(bands):
            raise SceneError(
                f"the bands {', '.join(named)} of {entry.files} are not the area's ({', '.join(bands)}); "
                "name the same bands for every entry of ingest.scenes."
            )
        bands = bands or named
    return bands


def find(entry: SceneFiles, bands: dict[str, str | int]) -> list[Match]:
    """Find the files of one entry by name alone, in the order of their paths.

    Raises:
        SceneError: no file fits, for all or for one band, or a name holds no valid date.
    """
    tokens = {str(token): name for name, token in bands.items()} if "{band}" in str(entry.files) else {}
    pattern = _expression(str(entry.files), list(tokens))
    matches = []
    for path in _files(entry.files):
        if fit := pattern.fullmatch(str(path)):
            groups = fit.groupdict()
            matches.append(
                Match(path, tokens.get(groups.get("band") or "", ""), _date(path, groups, entry), _scene(path, fit))
            )
    if not matches:
        raise SceneError(f"no scene fits {entry.files}; check the path and its placeholders.")
    for token, band in tokens.items():
        if band not in {match.band for match in matches}:
            wanted = str(entry.files).replace("{band}", token)
            raise SceneError(f"no scene fits {wanted} (band {band}); check ingest.bands and the path.")
    return matches


def _files(pattern: Path) -> list[Path]:
    """Every file whose name may fit a pattern."""
    parts = WILDCARD.split(str(pattern))
    spelled = "".join(
        (part if part in ("**/", "*", "?") else "*") if WILDCARD.fullmatch(part) else glob.escape(part)
        for part in parts
    )
    return sorted(Path(name) for name in glob.glob(spelled, recursive=True) if Path(name).is_file())  # noqa: PTH207


def _expression(pattern: str, tokens: Sequence[str]) -> re.Pattern[str]:
    """Turn a path pattern into a regular expression with the groups band and date."""
    text, seen = "", set()
    for part in WILDCARD.split(pattern):
        if part in seen:
            text += f"(?P={part[1:-1]})"
        elif part == "{band}":
            # The longest token first, and no digit beside it: B1 must not be found in B11.
            longest = sorted(tokens, key=len, reverse=True)
            text += "(?P<band>" + "|".join(_bounded(token) for token in longest) + ")"
        elif part == "{date}":
            text += rf"(?P<date>(?<!\d)(?:{DATE})(?!\d))"
        else:
            text += {"**/": "(?:.*/)?", "*": "[^/]*?", "?": "[^/]"}.get(part, re.escape(part))
        if part in ("{band}", "{date}"):
            seen.add(part)
    return re.compile(text)


def _bounded(token: str) -> str:
    """Bound a token so that it is no part of a longer number."""
    before, after = r"(?<!\d)" if token[0].isdigit() else "", r"(?!\d)" if token[-1].isdigit() else ""
    return before + re.escape(token) + after


def _date(path: Path, groups: dict[str, str | None], entry: SceneFiles) -> str:
    """Take the date from the name or from the config, "" if neither has one.

    Raises:
        SceneError: it is no date.
    """
    text = groups.get("date") or entry.date
    try:
        return iso_date(text) if text else ""
    except ValueError as fault:
        raise SceneError(f"{path} has no valid date: {fault}; correct the name or set ingest.scenes[].date.") from fault


def _scene(path: Path, fit: re.Match[str]) -> str:
    """Name what all files of one scene have in common: the path without the band and what follows it."""
    if "band" not in fit.re.groupindex:
        return str(path)
    return f"{str(path)[: fit.start('band')]}{{band}}"


def _read_headers(paths: Sequence[Path]) -> dict[Path, Header]:
    """Read the headers in parallel."""
    import dask

    headers: dict[Path, Header] = {}
    for start in range(0, len(paths), BATCH):
        batch = paths[start : start + BATCH]
        headers |= dict(zip(batch, dask.compute(*[dask.delayed(read_header)(path) for path in batch]), strict=True))
        report("headers", len(headers), len(paths))
    return headers


def _refuse_mixture(headers: Iterable[Header]) -> None:
    """Files of one entry must be of one kind: as many bands, called the same.

    Raises:
        SceneError: two of them differ.
    """
    first, *others = headers
    for other in others:
        if other.count != first.count:
            raise SceneError(
                f"{other.path} has {other.count} bands but {first.path.name} has {first.count}; "
                "give each kind of file an entry of its own in ingest.scenes."
            )
        if first.count > 1 and other.names != first.names:
            raise SceneError(
                f"{other.path} has the bands {_listed(other.names)} but {first.path.name} has {_listed(first.names)}; "
                "give each kind of file an entry of its own in ingest.scenes."
            )


def _listed(names: Iterable[str]) -> str:
    return ", ".join(name or "(unnamed)" for name in names)


def _source(entry: SceneFiles, bands: dict[str, str | int], match: Match, header: Header) -> Source:
    """Describe the wanted bands of one file.

    Raises:
        SceneError: the file has other bands than declared.
    """
    from stages.geo.identity import content_identity

    path = header.path
    if match.band:
        if header.count != 1:
            raise SceneError(
                f"{path} has {header.count} bands where one is expected: its name stands for band {match.band}; "
                "leave {band} out of ingest.scenes[].files and give the bands' numbers."
            )
        wanted: dict[str, int] = {match.band: 1}
    else:
        wanted = {name: _number(path, name, token) for name, token in bands.items()}
    absent = {name: i for name, i in wanted.items() if not 1 <= i <= header.count}
    if absent:
        name, number = next(iter(absent.items()))
        raise SceneError(
            f"{path} has {header.count} bands, but band {name} is declared as number {number}; correct ingest.bands."
        )
    at = [i - 1 for i in wanted.values()]
    return Source(
        path=str(path),
        date=match.date or header.date,
        bands=tuple(wanted),
        indexes=tuple(wanted.values()),
        nodata=tuple(header.nodata[i] if entry.nodata is None else entry.nodata for i in at),
        scale=tuple(header.scale[i] if entry.scale is None else entry.scale for i in at),
        offset=tuple(header.offset[i] if entry.offset is None else entry.offset for i in at),
        dtype=header.dtype,
        crs=header.frame.crs,
        transform=header.frame.transform,
        width=header.frame.width,
        height=header.frame.height,
        identity=content_identity(path),
        scene=match.scene,
    )


def _number(path: Path, band: str, token: str | int) -> int:
    """Read the number of a band in a file of several."""
    if isinstance(token, int) or token.isdigit():
        return int(token)
    raise SceneError(
        f"band {band} of {path} is declared as {token}, which is no number; "
        "write {band} into ingest.scenes[].files or give the band's number in the file."
    )


def _group(bands: tuple[str, ...], found: Sequence[Source]) -> list[Source]:
    """Put the files of a scene together, and see that every scene has all bands.

    Where the folders of one scene differ by band, as with one folder a resolution, the files of a date are one scene.

    Raises:
        SceneError: a band is missing.
    """
    have: dict[tuple[str, str], set[str]] = {}
    for source in found:
        have.setdefault((source.date, source.scene), set()).update(source.bands)
    whole = {key for key, names in have.items() if names >= set(bands)}
    grouped = [s if (s.date, s.scene) in whole else replace(s, scene=f"scene of {s.date}") for s in found]
    for date in sorted({s.date for s in grouped if s.scene == f"scene of {s.date}"}):
        parts = [s for s in grouped if s.date == date and s.scene == f"scene of {date}"]
        missing = [band for band in bands if not any(band in part.bands for part in parts)]
        # Parts that others make whole, such as the coarser copies of some bands, add nothing but do no harm.
        if missing and not any(key[0] == date for key in whole):
            raise SceneError(
                f"{parts[0].path} and the other files of {date or 'its date'} lack the bands {', '.join(missing)}; "
                "add the files or take the bands out of ingest.bands."
            )
        if missing:
            grouped = [s for s in grouped if s not in parts]
    return grouped
