"""Find the scenes of an area, check their headers and list them; no pixel is copied."""

from __future__ import annotations

import glob
import logging
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import Field, PlainSerializer, field_validator, model_validator

from stages.errors import SceneError
from stages.formats.chip_collection import write_collection
from stages.formats.chip_source import ChipFiles, chip_files, load_collection
from stages.formats.scenes import Scenes, Source, write_scenes
from stages.formats.series import write_series
from stages.formats.series_file import SeriesFile, load_series, table_files
from stages.geo.chip_files import ChipHeader, read_chip_headers
from stages.geo.cubes import Cube, cube_files, is_cube, read_cube
from stages.geo.headers import DATE, Header, dated_name, iso_date, read_header, sidecars
from stages.geo.products import Image, is_product, product_files, read_product
from stages.progress import report
from stages.settings import Settings

log = logging.getLogger(__name__)

#: Headers read between two reports of progress.
BATCH = 64
#: Headers of chips that are read in one task.
MANY = 128
WILDCARD = re.compile(r"(\{band\}|\{date\}|\*\*/|\*|\?)")


def _in_order(bands: dict[str, str | int]) -> list[list[str | int]]:
    """Write bands as a list: their order is that of the tiles' channels, so it counts in the stage's key."""
    return [[name, place] for name, place in bands.items()]


#: Band name -> where it is found, in the order of the channels.
Bands = Annotated[dict[str, str | int], PlainSerializer(_in_order)]


class Stack(Settings):
    """How all dates and bands lie in one file, band after band."""

    dates: tuple[str, ...] = Field(min_length=1, description="Dates in the order in which they lie in the file")
    order: Literal["date-band", "band-date"] = Field(
        "date-band", description="date-band: all bands of the first date, then of the next; band-date: the reverse"
    )
    bands: tuple[str, ...] = Field(
        (), description="Names of the bands of a date in their order, so that the bands can be given by name"
    )

    @field_validator("dates", mode="before")
    @classmethod
    def _iso(cls, dates: object) -> object:
        return tuple(iso_date(str(date)) for date in dates) if isinstance(dates, list | tuple) else dates


class SceneFiles(Settings):
    """Files of one kind: a pattern for their names and what cannot be read from them."""

    files: Path = Field(
        description="Path pattern of files, of .zarr folders, or of Sentinel-2 .SAFE and Landsat Collection 2 folders; "
        "{band} and {date} stand for themselves, * and ? for anything"
    )
    date: str | None = Field(None, coerce_numbers_to_str=True, description="Date of files whose name holds none")
    bands: Bands = Field(default_factory=dict, description="Bands of these files only, instead of ingest.bands")
    stack: Stack | None = Field(None, description="How all dates and bands lie in a file that holds several dates")
    nodata: float | None = Field(None, description="Value without data, instead of the header's (digital number)")
    scale: float | None = Field(None, description="Factor to physical units, instead of the header's")
    offset: float | None = Field(None, description="Summand to physical units, instead of the header's")

    @model_validator(mode="after")
    def _dated_once(self) -> Self:
        if self.stack and (self.date or "{" in str(self.files)):
            raise ValueError(f"stack gives the dates and bands of {self.files}; take date, {{date}} and {{band}} out")
        return self


class Config(Settings):
    """Which files are the area's scenes and which of their bands are used."""

    scenes: tuple[SceneFiles, ...] = Field((), description="Files of the scenes, one entry a kind of file")
    table: SeriesFile | None = Field(None, description="Table of labelled series that takes the place of scenes")
    chips: ChipFiles | None = Field(None, description="Labelled image chips that take the place of scenes")
    bands: Bands = Field(
        default_factory=dict,
        description="Band name -> what stands for {band} in the file name, the band's number in the file (from 1), the "
        "variable of a NetCDF or Zarr cube, or what ends the names of a product's images (B04, SCL, SR_B4)",
    )
    quality: str | None = Field(
        None, description="Name of the band that says which pixels are clear, such as SCL; none by default"
    )
    static: tuple[SceneFiles, ...] = Field(
        (), description="Undated layers that join every date, such as an elevation; each entry names its bands"
    )

    @model_validator(mode="after")
    def _something(self) -> Self:
        instead = "table" if self.table is not None else "chips" if self.chips is not None else ""
        if not instead and not self.scenes:
            raise ValueError("scenes is not set; this area needs it (files of the scenes, one entry a kind of file)")
        if instead and (self.scenes or self.bands or self.static or self.quality):
            raise ValueError(
                f"{instead} takes the place of scenes; leave scenes, bands, quality and static out beside it"
            )
        if self.table is not None and self.chips is not None:
            raise ValueError("table and chips both take the place of scenes; give one of the two")
        return self

    @model_validator(mode="after")
    def _undated(self) -> Self:
        for entry in self.static:
            if entry.date or entry.stack or "{date}" in str(entry.files):
                raise ValueError(f"static layers have no date, but one is given for {entry.files}; take it out")
        return self


@dataclass(frozen=True)
class Match:
    """One file that fits a pattern: the band that its name gives ("" for all of them), its date and its scene."""

    path: Path
    band: str
    date: str
    scene: str


@dataclass(frozen=True)
class Job:
    """One file to describe: which entry it is of, which bands may be in it, and the image of a product that it is."""

    entry: SceneFiles
    bands: dict[str, str | int]
    match: Match
    image: Image | None = None

    @property
    def header(self) -> tuple[Path, tuple[str, ...]]:
        """What is read of it: a file, and the variables of a cube, none for all."""
        if not is_cube(self.match.path) or self.match.band:
            return self.match.path, ()
        return self.match.path, tuple(str(token) for token in self.bands.values())


def run(out: Path, config: Config) -> None:
    """Write the table of the area's scenes into ``out``.

    Raises:
        SceneError: no file fits a pattern, a file cannot be used, or a scene lacks a band.
    """
    if config.table is not None:
        write_series(out, load_series(config.table))
        return
    if config.chips is not None:
        write_collection(out, load_collection(config.chips, read_chip_headers_of))
        return
    bands, static = area_bands(config), static_bands(config)
    jobs = [job for entry in (*config.scenes, *config.static) for job in _jobs(entry, entry.bands or config.bands)]
    headers = _read_headers(sorted({job.header for job in jobs}))
    for entry in (*config.scenes, *config.static):
        _refuse_mixture(h for job in jobs if job.entry is entry and isinstance(h := headers[job.header], Header))
    identities = _identities(sorted({job.match.path for job in jobs}))
    found: dict[bool, list[Source]] = {False: [], True: []}
    for job in jobs:
        undated = any(job.entry is entry for entry in config.static)
        for source in _sources(job, headers[job.header], config.quality or ""):
            plain = replace(source, identity=identities[job.match.path])
            found[undated].append(replace(plain, date="", static=True) if undated else plain)
    complete = _group(bands, found[False], config.quality or "")
    complete.sort(key=lambda source: (source.date, source.path, source.indexes))
    channels = tuple(band for band in bands if band != config.quality)
    write_scenes(out, Scenes(channels, (*complete, *found[True]), config.quality or "", static))
    _tell(complete, found[True], bands)


def _tell(dated: Sequence[Source], static: Sequence[Source], bands: Sequence[str]) -> None:
    """Say how many scenes there are of how many dates."""
    scenes = {(source.date, source.scene) for source in dated}
    dates = Counter(date for date, _ in scenes)
    log.info("%d scenes of %d dates in %d files, bands %s",
             len(scenes), len(dates), len({source.path for source in dated}), ", ".join(bands))  # fmt: skip
    if several := sum(1 for count in dates.values() if count > 1):
        log.info("%d %s more than one scene; they are mosaicked", several, "date has" if several == 1 else "dates have")
    if static:
        log.info("static layers join every date: %s", ", ".join(band for source in static for band in source.bands))


def sources(config: Config) -> list[Path]:
    """Every file that the scenes are read from, those beside them included."""
    if config.table is not None:
        return table_files(config.table)
    if config.chips is not None:
        return chip_files(config.chips)
    found: set[Path] = set()
    for entry in (*config.scenes, *config.static):
        tokens = [str(token) for token in (entry.bands or config.bands).values()]
        for path in _files(entry.files):
            if path.is_file():
                found |= {path, *sidecars(path)}
            elif is_cube(path):
                found |= set(cube_files(path))
            else:
                found |= set(product_files(path, tokens))
    return sorted(found)


def area_bands(config: Config) -> tuple[str, ...]:
    """Names of the bands of every date in order of their first mention, those of `ingest.bands` before the entries'.

    Raises:
        SceneError: an entry names none, or the quality band is none of them or the only one.
    """
    bands = dict.fromkeys(config.bands)
    for entry in config.scenes:
        named = entry.bands or config.bands
        if not named:
            raise SceneError(f"no bands are named for {entry.files}; set ingest.bands, such as {{red: 3, nir: 4}}.")
        bands |= dict.fromkeys(named)
    if config.quality is not None and config.quality not in bands:
        raise SceneError(
            f"ingest.quality names {config.quality}, but the bands are {', '.join(bands)}; name one of these, "
            "or add it to the bands."
        )
    if list(bands) == [config.quality]:
        raise SceneError(f"{config.quality} is the only band and says only what is clear; name bands to map from.")
    return tuple(bands)


def static_bands(config: Config) -> tuple[str, ...]:
    """Names of the bands of the static layers, in their order.

    Raises:
        SceneError: an entry names none, or one that a scene has.
    """
    bands: dict[str, None] = {}
    for entry in config.static:
        if not entry.bands:
            raise SceneError(
                f"no bands are named for {entry.files} of ingest.static; set its bands, such as {{dem: 1}}."
            )
        if twice := [band for band in entry.bands if band in area_bands(config)]:
            raise SceneError(f"{twice[0]} of {entry.files} is static and a band of the scenes; name it otherwise.")
        bands |= dict.fromkeys(entry.bands)
    return tuple(bands)


def _jobs(entry: SceneFiles, bands: dict[str, str | int]) -> Iterator[Job]:
    """Find the files of one entry, those within the folders of products included.

    Raises:
        SceneError: none fits, or a product lacks something.
    """
    for match in find(entry, bands):
        if not is_product(match.path):
            yield Job(entry, bands, match)
            continue
        tokens = {name: str(token) for name, token in bands.items()}
        for product in read_product(match.path, tokens.values(), entry.scale is None or entry.offset is None):
            for name, token in tokens.items():
                image = product.images[token]
                part = Match(image.path, name, match.date or product.date, str(product.folder))
                yield Job(entry, bands, part, image)


def find(entry: SceneFiles, bands: dict[str, str | int]) -> list[Match]:
    """Find the files of one entry by name alone, in the order of their paths.

    Raises:
        SceneError: no file fits, for all or for one band, or a name holds no valid date.
    """
    tokens = {str(token): name for name, token in bands.items()} if "{band}" in str(entry.files) else {}
    pattern, loose = _expression(str(entry.files), list(tokens)), _expression(str(entry.files), list(tokens), "[^/]*?")
    matches = []
    for path in _files(entry.files):
        if fit := pattern.fullmatch(str(path)):
            groups = fit.groupdict()
            matches.append(
                Match(path, tokens.get(groups.get("band") or "", ""), _date(path, groups, entry), _scene(path, fit))
            )
        elif fit := loose.fullmatch(str(path)):
            _refuse_undated(path, fit.groupdict().get("date") or "")
    if not matches:
        raise SceneError(f"no scene fits {entry.files}; check the path and its placeholders.")
    for token, band in tokens.items():
        if band not in {match.band for match in matches}:
            wanted = str(entry.files).replace("{band}", token)
            raise SceneError(f"no scene fits {wanted} (band {band}); check ingest.bands and the path.")
    return matches


def _refuse_undated(path: Path, text: str) -> None:
    """Refuse a file where digits that are no date stand in the place of {date}; other words are other files.

    Raises:
        SceneError: they do.
    """
    if re.search(r"\d", text) and not re.search(rf"(?<!\d)(?:{DATE})(?!\d)", text):
        raise SceneError(
            f"{path} has no valid date: {text} is not a date (YYYY-MM-DD, YYYYMMDD, YYYYDDD, YYYY-MM, YYYYMM or YYYY); "
            "correct the name or the pattern in ingest.scenes."
        )


def _files(pattern: Path) -> list[Path]:
    """Every file, and every folder that is a scene, whose name may fit a pattern."""
    parts = WILDCARD.split(str(pattern))
    spelled = "".join(
        (part if part in ("**/", "*", "?") else "*") if WILDCARD.fullmatch(part) else glob.escape(part)
        for part in parts
    )
    found = [Path(name) for name in glob.glob(spelled, recursive=True)]  # noqa: PTH207
    return sorted(path for path in found if path.is_file() or is_cube(path) or is_product(path))


def _expression(pattern: str, tokens: Sequence[str], date: str = rf"(?<!\d)(?:{DATE})(?!\d)") -> re.Pattern[str]:
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
            text += f"(?P<date>{date})"
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


def _read_headers(wanted: Sequence[tuple[Path, tuple[str, ...]]]) -> dict[tuple[Path, tuple[str, ...]], Header | Cube]:
    """Read the headers of rasters, and those of cubes for some of their variables, in parallel."""
    import dask

    headers: dict[tuple[Path, tuple[str, ...]], Header | Cube] = {}
    for start in range(0, len(wanted), BATCH):
        batch = wanted[start : start + BATCH]
        read = dask.compute(*[dask.delayed(_read_header)(*each) for each in batch])
        headers |= dict(zip(batch, read, strict=True))
        report("headers", len(headers), len(wanted))
    return headers


def read_chip_headers_of(paths: Sequence[str]) -> list[ChipHeader]:
    """Read the headers of chips in parallel, many to a task."""
    import dask

    headers: list[ChipHeader] = []
    for start in range(0, len(paths), BATCH * MANY):
        batch = paths[start : start + BATCH * MANY]
        parts = [batch[first : first + MANY] for first in range(0, len(batch), MANY)]
        for read in dask.compute(*[dask.delayed(read_chip_headers)(part) for part in parts]):
            headers += read
        report("headers", len(headers), len(paths))
    return headers


def _read_header(path: Path, names: tuple[str, ...]) -> Header | Cube:
    return read_cube(path, names) if is_cube(path) else read_header(path)


def _identities(paths: Sequence[Path]) -> dict[Path, str]:
    """Hash what the files hold, every one once."""
    from stages.geo.cubes import cube_identity

    return {path: cube_identity(path) for path in paths}


def _refuse_mixture(headers: Iterable[Header]) -> None:
    """Files of one entry must be of one kind: as many bands, called the same.

    Raises:
        SceneError: two of them differ.
    """
    first = None
    for other in headers:
        first = first or other
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


def _sources(job: Job, header: Header | Cube, quality: str) -> Iterator[Source]:
    """Describe the wanted bands of one file, once a date.

    Raises:
        SceneError: the file has other bands or dates than declared.
    """
    if isinstance(header, Cube):
        yield from _of_cube(job, header, quality)
        return
    image = job.image or Image(header.path)
    for date, wanted in _layout(job, header):
        at = [i - 1 for i in wanted.values()]
        source = Source(
            path=str(header.path),
            date=date,
            bands=tuple(wanted),
            indexes=tuple(wanted.values()),
            nodata=tuple(header.nodata[i] if image.nodata is None else image.nodata for i in at),
            scale=tuple(header.scale[i] if image.scale is None else image.scale for i in at),
            offset=tuple(header.offset[i] if image.offset is None else image.offset for i in at),
            dtype=header.dtype,
            crs=header.frame.crs,
            transform=header.frame.transform,
            width=header.frame.width,
            height=header.frame.height,
            identity="",
            scene=job.match.scene,
        )
        # A product's classes and flags are no measurements: what the config says of its images is not meant for them.
        yield _overruled(source, job.entry if job.image is None or image.scale is not None else None, quality)


def _of_cube(job: Job, cube: Cube, quality: str) -> Iterator[Source]:
    """Describe the wanted variables of a cube, once a step of its time axis.

    Raises:
        SceneError: its name stands for one band, but it holds several.
    """
    if job.match.band and len(cube.variables) != 1:
        raise SceneError(
            f"{cube.path} holds the variables {', '.join(cube.names)} where one is expected: its name stands for band "
            f"{job.match.band}; leave {{band}} out of ingest.scenes[].files and give the bands' variables."
        )
    wanted = (job.match.band,) if job.match.band else tuple(job.bands)
    for step, date in enumerate(cube.dates, 1):
        source = Source(
            path=str(cube.path),
            # A single step may be told by the name, a series by its own axis only.
            date=job.match.date or date if len(cube.dates) == 1 else date,
            bands=wanted,
            indexes=(step,) * len(wanted),
            nodata=tuple(variable.nodata for variable in cube.variables),
            scale=tuple(variable.scale for variable in cube.variables),
            offset=tuple(variable.offset for variable in cube.variables),
            dtype=cube.variables[0].dtype,
            crs=cube.frame.crs,
            transform=cube.frame.transform,
            width=cube.frame.width,
            height=cube.frame.height,
            identity="",
            scene=job.match.scene,
            variables=cube.names,
        )
        yield _overruled(source, job.entry, quality)


def _overruled(source: Source, entry: SceneFiles | None, quality: str) -> Source:
    """Put what the config says in place of what the header says.

    The quality band holds classes or flags: it is not scaled, and the number that means nodata in the bands beside it
    may be a class of its own.
    """
    changed: dict[str, tuple[float | None, ...]] = {}
    for key, neutral in (("nodata", None), ("scale", 1.0), ("offset", 0.0)):
        own, said = getattr(source, key), getattr(entry, key) if entry else None
        values = [value if said is None else said for value in own]
        for i, band in enumerate(source.bands):
            if band == quality:
                values[i] = neutral if neutral is not None else own[i] if len(source.bands) > 1 else values[i]
        changed[key] = tuple(values)
    return replace(source, **changed)  # type: ignore[arg-type]


def _layout(job: Job, header: Header) -> list[tuple[str, dict[str, int]]]:
    """Find where the wanted bands lie in a raster, by date: band name -> number in the file (from 1).

    Raises:
        SceneError: they are not where they are declared to be.
    """
    path, match = header.path, job.match
    if match.band:
        if header.count != 1:
            raise SceneError(
                f"{path} has {header.count} bands where one is expected: its name stands for band {match.band}; "
                "leave {band} out of ingest.scenes[].files and give the bands' numbers."
            )
        return [(match.date or header.date, {match.band: 1})]
    if job.entry.stack:
        return _stacked(path, job.entry.stack, job.bands, header.count)
    if not all(_is_number(token) for token in job.bands.values()) and any(dated_name(name) for name in header.names):
        return _described(job, header)
    wanted = {name: _number(path, name, token) for name, token in job.bands.items()}
    absent = {name: i for name, i in wanted.items() if not 1 <= i <= header.count}
    if absent:
        name, number = next(iter(absent.items()))
        raise SceneError(
            f"{path} has {header.count} bands, but band {name} is declared as number {number}; correct ingest.bands."
        )
    return [(match.date or header.date, wanted)]


def _stacked(path: Path, stack: Stack, bands: dict[str, str | int], count: int) -> list[tuple[str, dict[str, int]]]:
    """Find where the bands of every date lie in a stacked file, as the config lays it out.

    Raises:
        SceneError: the file has another number of bands, or a band is none of them.
    """
    dates = len(stack.dates)
    if count % dates or (stack.bands and count != dates * len(stack.bands)):
        each = f"{len(stack.bands)} bands" if stack.bands else "equally many bands"
        raise SceneError(
            f"{path} has {count} bands, but its stack is declared as {dates} dates with {each} each; "
            "correct ingest.scenes[].stack."
        )
    every, places = count // dates, {}
    for name, token in bands.items():
        if not isinstance(token, int) and token in stack.bands:
            places[name] = stack.bands.index(token) + 1
        elif _is_number(token) and 1 <= int(token) <= every:
            places[name] = int(token)
        else:
            names = f" ({', '.join(stack.bands)})" if stack.bands else ""
            raise SceneError(
                f"band {name} of {path} is declared as {token}, but a date of its stack has the bands 1 to {every}"
                f"{names}; correct the bands or ingest.scenes[].stack.bands."
            )
    if stack.order == "date-band":
        return [(date, {name: i * every + at for name, at in places.items()}) for i, date in enumerate(stack.dates)]
    return [
        (date, {name: (at - 1) * dates + i + 1 for name, at in places.items()}) for i, date in enumerate(stack.dates)
    ]


def _described(job: Job, header: Header) -> list[tuple[str, dict[str, int]]]:
    """Find where the bands of every date lie in a stacked file whose descriptions say it, such as `B4_20180615`.

    Raises:
        SceneError: a description holds no date, or no description holds a band.
    """
    tokens = {str(token): name for name, token in job.bands.items()}
    found: dict[tuple[str, int], dict[str, int]] = {}
    seen: Counter[tuple[str, str]] = Counter()
    for number, text in enumerate(header.names, 1):
        if number in header.alpha:
            continue
        parted = dated_name(text)
        if parted is None:
            raise SceneError(
                f"band {number} of {header.path} is described as '{text}', which holds no date, while others hold one; "
                "correct the descriptions, or lay the file out with ingest.scenes[].stack."
            )
        date, band = parted
        token = band if band in tokens else next((t for t in tokens if _word(t).search(band)), None)
        if token is None:
            continue
        # The same band and date once more is another scene of that date.
        seen[date, token] += 1
        found.setdefault((date, seen[date, token]), {})[tokens[token]] = number
    absent = [name for name in job.bands if not any(name in numbers for numbers in found.values())]
    if absent:
        raise SceneError(
            f"{header.path} describes no band as {job.bands[absent[0]]} (band {absent[0]}); its descriptions are such "
            f"as '{header.names[0]}'; correct the bands."
        )
    return [(date, {n: numbers[n] for n in job.bands if n in numbers}) for (date, _), numbers in sorted(found.items())]


def _word(token: str) -> re.Pattern[str]:
    """Find a token that is no part of a longer word."""
    return re.compile(rf"(?<![A-Za-z0-9]){re.escape(token)}(?![A-Za-z0-9])")


def _is_number(token: str | int) -> bool:
    return isinstance(token, int) or token.isdigit()


def _number(path: Path, band: str, token: str | int) -> int:
    """Read the number of a band in a file of several."""
    if _is_number(token):
        return int(token)
    raise SceneError(
        f"band {band} of {path} is declared as {token}, which is no number; "
        "write {band} into ingest.scenes[].files or give the band's number in the file."
    )


def _group(bands: tuple[str, ...], found: Sequence[Source], quality: str) -> list[Source]:
    """Put the files of a scene together, and see that every scene has all bands.

    Where the folders of one scene differ by band, as with one folder a resolution, the files of a date are one scene.
    A file that has a date twice, as a cube may, has two scenes of it.

    Raises:
        SceneError: a band is missing.
    """
    numbered = list(_numbered(found))
    have: dict[tuple[str, str], set[str]] = {}
    for source, _ in numbered:
        have.setdefault((source.date, source.scene), set()).update(source.bands)
    whole = {key for key, names in have.items() if names >= set(bands)}
    grouped = [s for s, _ in numbered if (s.date, s.scene) in whole]
    parts: dict[tuple[str, int], list[Source]] = {}
    for source, turn in numbered:
        if (source.date, source.scene) not in whole:
            joined = replace(source, scene=f"scene {turn} of {source.date}" if turn > 1 else f"scene of {source.date}")
            parts.setdefault((source.date, turn), []).append(joined)
    for (date, _), files in sorted(parts.items()):
        missing = [band for band in bands if not any(band in part.bands for part in files)]
        # Parts that others make whole, such as the coarser copies of some bands, add nothing but do no harm.
        if missing and not any(key[0] == date for key in whole):
            raise _lacking(files[0], missing, quality)
        if not missing:
            grouped += files
    return grouped


def _numbered(found: Sequence[Source]) -> Iterator[tuple[Source, int]]:
    """Count how often a file has had a date before, from 1; from the second time on it is a scene of its own."""
    seen: Counter[tuple[str, str, tuple[str, ...]]] = Counter()
    for source in found:
        key = (source.path, source.date, source.bands)
        seen[key] += 1
        yield (replace(source, scene=f"{source.scene} ({seen[key]})") if seen[key] > 1 else source), seen[key]


def _lacking(source: Source, missing: Sequence[str], quality: str) -> SceneError:
    """Say which bands a date lacks, and of which file that is true."""
    files = f"{source.path} and the other files of {source.date or 'its date'}"
    if list(missing) == [quality]:
        return SceneError(
            f"{files} lack the quality band {quality}, which says where they are clear; "
            "add its file, or take the date out."
        )
    return SceneError(
        f"{files} lack the bands {', '.join(missing)}; add the files or take the bands out of ingest.bands."
    )
