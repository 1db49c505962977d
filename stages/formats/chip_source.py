"""Find the chips of a collection, in a folder a class or by a table, and check them by their headers."""

from __future__ import annotations

import logging
import re
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Annotated, Any

import numpy as np
from pydantic import Field, PlainSerializer, model_validator

from stages.errors import SceneError
from stages.formats.chip_collection import Collection
from stages.formats.sheet import PARQUET, listed
from stages.geo.chip_cells import UNIT
from stages.geo.chip_files import ChipHeader, centres
from stages.settings import Settings

log = logging.getLogger(__name__)

#: Endings of files that are chips.
IMAGES = (".jpg", ".jpeg", ".png", ".tif", ".tiff", ".jp2")
#: Sides of chips in pixels that are possible.
LEAST, MOST = 2 * UNIT, 1024
#: Pixels whose sides differ by less than this share are alike.
SAME_PIXEL = 0.05

#: Band name -> its number in a chip (from 1), in the order of the channels, which counts in the stage's key.
Bands = Annotated[dict[str, int], PlainSerializer(lambda bands: [list(pair) for pair in bands.items()])]
#: Reads the headers of many files.
Headers = Callable[[Sequence[str]], list[ChipHeader]]


class ChipFiles(Settings):
    """A collection of labelled chips that takes the place of scenes: where they are, and what the files do not say."""

    folder: Path | None = Field(None, description="Folder that holds a folder of chips for every class, named as it is")
    table: Path | None = Field(None, description="CSV, TSV or Parquet table with a row a chip, instead of a folder")
    path: str = Field("path", description="Column of the chip's file; a relative path starts at the table's folder")
    label: str = Field("label", description="Column of the class value")
    longitude: str | None = Field(None, description="Column of the longitude of the chip's middle in degrees")
    latitude: str | None = Field(None, description="Column of the latitude of the chip's middle in degrees")
    bands: Bands = Field(
        default_factory=dict,
        description="Band name -> its number in a chip, from 1; by default all, named as in the chips",
    )
    nodata: float | None = Field(None, description="Value without data, instead of the header's (digital number)")
    scale: float | None = Field(None, description="Factor to physical units, instead of the header's")
    offset: float | None = Field(None, description="Summand to physical units, instead of the header's")
    pixel: float | None = Field(
        None, gt=0, description="Side of a pixel in metres; by default as GeoTIFFs say, 10 where nothing says it"
    )

    @model_validator(mode="after")
    def _one_source(self) -> ChipFiles:
        if (self.folder is None) == (self.table is None):
            raise ValueError("a collection is either a folder with a folder a class, or a table of chips; give one")
        if self.folder is not None and (self.longitude or self.latitude):
            raise ValueError("longitude and latitude are columns of a table; leave them out beside folder")
        if (self.longitude is None) != (self.latitude is None):
            raise ValueError("longitude and latitude go together; give both or neither")
        return self


def load_collection(entry: ChipFiles, read: Headers) -> Collection:
    """Find all chips and see by their headers that they are of one kind; ``read`` reads headers.

    Raises:
        SceneError: there are none, a file is missing or unreadable, or two differ in size, bands or type.
    """
    table = find_chips(entry)
    headers = read(table["sample"].tolist())
    first = headers[0]
    _refuse_mixture(headers)
    if first.height != first.width or not LEAST <= first.width <= MOST:
        raise SceneError(
            f"{first.path} is {first.width} x {first.height} pixels, but chips are squares of {LEAST} to {MOST} "
            "pixels; cut the chips so, or pad them."
        )
    if entry.longitude is None:
        table["longitude"], table["latitude"] = centres([header.frame for header in headers])
    bands = entry.bands or _named(first)
    for name, number in bands.items():
        if not 1 <= number <= first.count:
            raise SceneError(
                f"{first.path} has {first.count} bands, but band {name} is declared as number {number}; "
                "correct ingest.chips.bands."
            )
    scale = first.scale if entry.scale is None else entry.scale
    offset = first.offset if entry.offset is None else entry.offset
    scaled = scale != 1.0 or offset != 0.0 or entry.scale is not None or entry.offset is not None
    _tell(table)
    return Collection(
        tuple(bands), tuple(bands.values()), first.width, _pixel(entry, headers),
        "scaled" if scaled else "digital numbers", scale, offset, entry.nodata, table,
    )  # fmt: skip


def chip_files(entry: ChipFiles) -> list[Path]:
    """List every file that the collection is read from, the table included.

    Raises:
        SceneError: there is none.
    """
    files = [Path(path) for path in find_chips(entry)["sample"]]
    return sorted({*files, *([entry.table] if entry.table is not None else [])})


def find_chips(entry: ChipFiles) -> Any:
    """Find the chips by name alone: a table (pandas) with the columns of `ABOUT`.

    Raises:
        SceneError: there are none, or a row of the table names no file.
    """
    import pandas as pd

    found = _of_folder(entry.folder) if entry.folder is not None else _of_table(entry)
    path, label, longitude, latitude, source = found
    return pd.DataFrame({
        "sample": path, "label": label, "longitude": longitude, "latitude": latitude, "group": "", "part": "",
        "file": str(source),
    })  # fmt: skip


#: Paths, labels, longitudes, latitudes, and what named them.
Found = tuple[list[str], list[str], Any, Any, Path]


def _of_folder(folder: Path) -> Found:
    """List the chips of every class folder, in order of class and name."""
    if not folder.is_dir():
        raise SceneError(f"{folder} is no folder (ingest.chips.folder); name one that holds a folder of chips a class.")
    classes = sorted(path for path in folder.iterdir() if path.is_dir() and not path.name.startswith("."))
    if not classes:
        raise SceneError(f"{folder} holds no folders; a collection of chips has one for every class.")
    paths, labels, others = [], [], 0
    for place in classes:
        files = sorted(path for path in place.iterdir() if path.is_file() and not path.name.startswith("."))
        chips = [path for path in files if path.suffix.lower() in IMAGES]
        if not chips:
            raise SceneError(f"the class folder {place} holds no chip ({', '.join(IMAGES)}); fill it or take it away.")
        paths += [str(path) for path in chips]
        labels += [place.name] * len(chips)
        others += len(files) - len(chips)
    if others:
        log.warning("%d files in the class folders of %s are no images and are left out", others, folder)
    return paths, labels, np.nan, np.nan, folder


def _of_table(entry: ChipFiles) -> Found:
    """Read the rows of a table; those without a label are left out."""
    assert entry.table is not None, "a collection without a folder has a table"
    table = _read_table(entry.table)
    for role in ("path", "label", "longitude", "latitude"):
        name = getattr(entry, role)
        if name is not None and name not in table.columns:
            raise SceneError(
                f"{entry.table} has no column '{name}' (ingest.chips.{role}); it has {listed(map(str, table.columns))}."
            )
    labels = table[entry.label].astype(str).str.strip()
    without = (labels == "") | table[entry.label].isna()
    if without.any():
        log.warning("%d of the %d chips of %s have no label and are left out", without.sum(), len(table), entry.table)
    table, labels = table[~without], labels[~without]
    if table.empty:
        raise SceneError(f"{entry.table} holds no labelled chip; give it a row a chip with its path and label.")
    names = table[entry.path].astype(str).str.strip()
    paths = [str(entry.table.parent / name) for name in names]
    for row, name, path in zip(table.index, names, paths, strict=True):
        if not name or not Path(path).is_file():
            raise SceneError(
                f"row {row + 1} of {entry.table} names the chip '{name}', but there is no such file ({path}); correct "
                "the path or remove the row."
            )
    twice = [path for path, count in Counter(paths).items() if count > 1]
    if twice:
        raise SceneError(f"{entry.table} names {twice[0]} in several rows; a chip has one row and one label.")
    longitude: Any = np.nan
    latitude: Any = np.nan
    if entry.longitude is not None and entry.latitude is not None:
        longitude = _degrees(table[entry.longitude], entry.longitude, entry.table, 360.0)
        latitude = _degrees(table[entry.latitude], entry.latitude, entry.table, 90.0)
    return paths, labels.tolist(), longitude, latitude, entry.table


def _read_table(path: Path) -> Any:
    """Read a table (pandas), that of a text file as texts."""
    import pandas as pd

    if not path.is_file():
        raise SceneError(f"{path} does not exist (ingest.chips.table); give a CSV, TSV or Parquet table of chips.")
    try:
        if path.suffix.lower() in PARQUET:
            return pd.read_parquet(path).reset_index(drop=True)
        with path.open(encoding="utf-8-sig") as file:
            header = file.readline()
        separator = max((",", ";", "\t"), key=header.count)
        return pd.read_csv(path, sep=separator, dtype=str, keep_default_na=False, encoding="utf-8-sig")
    except (ValueError, OSError) as fault:
        told = " ".join(str(fault).split())[:120].rstrip(".")
        raise SceneError(f"{path} cannot be read as a table ({told}); give a CSV, TSV or Parquet table.") from fault


def _degrees(column: Any, name: str, path: Path, most: float) -> np.ndarray:
    """Read a column of degrees, at most ``most`` to either side: float64 (row,)."""
    import pandas as pd

    values: np.ndarray = pd.to_numeric(column, errors="coerce").to_numpy(np.float64)
    wrong = np.flatnonzero(~(np.abs(values) <= most))
    if len(wrong):
        raise SceneError(
            f"row {column.index[wrong[0]] + 1} of {path} has '{column.iloc[wrong[0]]}' in column '{name}', which is no "
            f"number of degrees up to {most:g}; give every chip its place, or leave longitude and latitude out."
        )
    return values


def _named(header: ChipHeader) -> dict[str, int]:
    """Name the bands by the file's descriptions where every band has its own, otherwise b1, b2 ..."""
    numbers = [i + 1 for i in range(len(header.names)) if i + 1 not in header.alpha]
    names = [re.sub(r"[^A-Za-z0-9_]+", "_", header.names[number - 1]).strip("_") for number in numbers]
    if not all(names) or len(set(names)) < len(names):
        names = [f"b{i + 1}" for i in range(len(numbers))]
    return dict(zip(names, numbers, strict=True))


def _refuse_mixture(headers: Sequence[ChipHeader]) -> None:
    """See that all chips are as most of them are.

    Raises:
        SceneError: one differs in its size, number of bands, type, scale or offset.
    """
    told = {
        "bands": [f"{header.count} bands" for header in headers],
        "size": [f"{header.width} x {header.height} pixels" for header in headers],
        "type": [f"values of type {header.dtype}" for header in headers],
        "scale": [f"scale {header.scale:g} and offset {header.offset:g}" for header in headers],
    }
    for what, found in told.items():
        usual, _ = Counter(found).most_common(1)[0]
        odd = [i for i, text in enumerate(found) if text != usual]
        if odd:
            raise SceneError(
                f"{headers[odd[0]].path} has {found[odd[0]]}, but most chips have {usual} ({len(odd)} of "
                f"{len(headers)} differ); a collection is alike in {what}: convert the others or take them out."
            )


def _pixel(entry: ChipFiles, headers: Sequence[ChipHeader]) -> float:
    """Side of a pixel in metres: as the config or the chips say."""
    if entry.pixel is not None:
        return entry.pixel
    frames = [header.frame for header in headers if header.frame is not None]
    # The same CRS and transform but for the place is the same pixel; a few of each are measured.
    kinds = {(frame.crs, frame.transform[0], frame.transform[4]): frame for frame in frames}
    sides = sorted(frame.metres() for frame in kinds.values())
    if not sides:
        log.warning("the chips do not tell how large their pixels are; they are taken as 10 m (ingest.chips.pixel)")
        return 10.0
    if sides[-1] > sides[0] * (1 + SAME_PIXEL):
        raise SceneError(
            f"the chips' pixels are {sides[0]:.4g} to {sides[-1]:.4g} m wide; a collection is of one resolution: "
            "resample the chips, or set ingest.chips.pixel where that does not matter."
        )
    return sides[len(sides) // 2]


def _tell(table: Any) -> None:
    """Say what was found."""
    counts = table["label"].value_counts(sort=False)
    placed = int(np.isfinite(table["longitude"].to_numpy(np.float64)).sum())
    log.info("%d chips of %d classes, %s with coordinates", len(table), len(counts), placed or "none")
