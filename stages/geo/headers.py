"""Read what a raster's header says, and refuse a file that cannot be a scene."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime, timedelta
from html import unescape
from pathlib import Path
from typing import Any

from stages.errors import SceneError
from stages.geo.frame import Frame

#: Files beside a file that change what is read from it: endings added to its name, and endings in place of its own.
ADDED = ".aux.xml", ".ovr", ".msk"
REPLACED = ".prj", ".tfw", ".tifw", ".wld", ".jgw", ".j2w", ".hdr", ".aux.xml"
OF_SHAPEFILES = ".shx", ".dbf", ".prj", ".cpg"
#: Header fields that give the day of the acquisition, the surest first; the last may be the day of processing.
DATE_TAGS = (
    "ACQUISITION_DATE", "DATE_ACQUIRED", "ACQUISITIONDATETIME", "SENSING_TIME", "DATATAKE_1_DATATAKE_SENSING_START",
    "PRODUCT_START_TIME", "DATETIME", "TIFFTAG_DATETIME",
)  # fmt: skip
DATE = r"\d{4}[-_:]\d{2}[-_:]\d{2}|\d{8}|\d{7}|\d{6}|\d{4}[-_]\d{2}|\d{4}"
#: How a date may be written: digits and separators of the text -> (format to read, format to keep).
FORMATS = {
    "0000-00-00": ("%Y-%m-%d", "%Y-%m-%d"), "00000000": ("%Y%m%d", "%Y-%m-%d"), "0000000": ("%Y%j", "%Y-%m-%d"),
    "0000-00": ("%Y-%m", "%Y-%m"), "000000": ("%Y%m", "%Y-%m"), "0000": ("%Y", "%Y"),
}  # fmt: skip
#: Blocks looked at to see whether a file is whole; a longer list is thinned out evenly.
MAX_BLOCKS = 20_000


@dataclass(frozen=True)
class Header:
    """What a raster file says of itself; the tuples hold one entry a band."""

    path: Path
    frame: Frame
    dtype: str
    nodata: tuple[float | None, ...]
    scale: tuple[float, ...]
    offset: tuple[float, ...]
    names: tuple[str, ...]
    alpha: tuple[int, ...]
    date: str

    @property
    def count(self) -> int:
        """Number of bands, an alpha band not counted."""
        return len(self.names) - len(self.alpha)


def iso_date(text: str) -> str:
    """Bring a date to ISO 8601: YYYY, YYYY-MM or YYYY-MM-DD, from these, YYYYMM, YYYYMMDD and YYYYDDD.

    Raises:
        ValueError: it is no date.
    """
    plain = re.sub("[_:]", "-", str(text).strip())
    pattern = re.sub(r"\d", "0", plain)
    refused = ValueError(f"{text} is not a date (YYYY-MM-DD, YYYYMMDD, YYYYDDD, YYYY-MM, YYYYMM or YYYY)")
    if pattern not in FORMATS:
        raise refused
    read, keep = FORMATS[pattern]
    if read == "%Y%j":
        day = int(plain[4:])
        if not 1 <= day <= 366:
            raise ValueError(f"{text} is not a date: day {day} of a year")
        return (datetime(int(plain[:4]), 1, 1) + timedelta(days=day - 1)).strftime(keep)
    try:
        return datetime.strptime(plain, read).strftime(keep)
    except ValueError:
        raise refused from None


#: A date in a text, free of other digits, with the time of day that may follow it.
DATE_IN_TEXT = re.compile(rf"(?<!\d)({DATE})(?:(?:T\d{{4}}(?:\d\d)?|[T ]\d\d:\d\d(?::\d\d)?)(?:\.\d+)?Z?)?(?!\d)")
#: Four digits that are no year before or after these are taken as a number of another kind.
YEARS = "1950", "2099"


def dated_name(text: str) -> tuple[str, str] | None:
    """Part the description of a band into its date (ISO 8601) and its name: `B4_20180615` or `2018-06-15 red`.

    Returns None where it holds no date.
    """
    for match in DATE_IN_TEXT.finditer(text):
        with suppress(ValueError):
            date = iso_date(match[1])
            if YEARS[0] <= date[:4] <= YEARS[1]:
                return date, f"{text[: match.start()]} {text[match.end() :]}".strip(" _-.,:;/|@()")
    return None


def sidecars(path: Path) -> list[Path]:
    """Find the files beside a raster or vector file that belong to it, and what a VRT is made of, with theirs.

    Nothing is opened but the text of a VRT.
    """
    found: set[Path] = set()
    waiting = [path]
    while waiting:
        file = waiting.pop()
        found |= {other for other in _beside(file) if other.is_file()}
        if file.suffix.lower() == ".vrt" and file.is_file():
            parts = {part for part in _parts_of_vrt(file) if part.is_file()} - found
            found |= parts
            waiting += parts
    return sorted(found - {path})


def _beside(path: Path) -> list[Path]:
    """Name the files that may belong to one."""
    replaced = OF_SHAPEFILES if path.suffix.lower() == ".shp" else REPLACED
    return [Path(f"{path}{ending}") for ending in ADDED] + [path.with_suffix(ending) for ending in replaced]


def _parts_of_vrt(path: Path) -> Iterator[Path]:
    """Name the files that a VRT reads: those of a mosaic are its sources, that of a warped one is its dataset."""
    text = path.read_text(errors="replace")
    for attributes, name in re.findall(r"<Source(?:Filename|Dataset)\b([^>]*)>([^<]+)</", text):
        named = Path(unescape(name.strip()))
        yield path.parent / named if re.search(r"relativeToVRT\s*=\s*[\"']1", attributes) else named


def read_header(path: Path) -> Header:
    """Read a raster's header and see that its last bytes are there; no pixel is read.

    Raises:
        SceneError: the file is missing, empty, truncated or no raster, has no CRS, no place or complex values.
    """
    from rasterio.enums import ColorInterp
    from rasterio.errors import RasterioError

    if not path.is_file():
        raise SceneError(f"{path} does not exist; give the path of a scene.")
    if not path.stat().st_size:
        raise SceneError(f"{path} is empty (0 bytes); download or copy it again.")
    try:
        dataset = _open(path)
    except RasterioError as fault:
        raise SceneError(f"{path} {_unreadable(path)} ({reason(fault)}).") from fault
    with dataset:
        if not dataset.count:
            raise SceneError(f"{path} holds no raster bands of its own; name one of its subdatasets or files.")
        if lost := without_place(dataset):
            raise SceneError(f"{path} {lost}.")
        if dataset.crs is None:
            raise SceneError(f"{path} has no CRS; assign the one it was made in (gdal_edit.py -a_srs EPSG:... FILE).")
        if any(dtype.startswith("complex") for dtype in dataset.dtypes):
            raise SceneError(f"{path} holds complex numbers; give amplitudes or reflectances as real numbers.")
        _refuse_truncated(path, dataset)
        return Header(
            path=path,
            frame=frame_of(dataset),
            dtype=dataset.dtypes[0],
            nodata=tuple(None if value is None else float(value) for value in dataset.nodatavals),
            scale=tuple(float(value) for value in dataset.scales),
            offset=tuple(float(value) for value in dataset.offsets),
            names=tuple(text or "" for text in dataset.descriptions),
            alpha=tuple(i + 1 for i, kind in enumerate(dataset.colorinterp) if kind == ColorInterp.alpha),
            date=_tagged_date(dataset),
        )


def without_place(dataset: Any) -> str:
    """Say why nobody knows where the pixels of an open raster lie, "" where its header tells.

    A missing CRS is another matter, unless the pixels have no coordinates in any.
    """
    # What rasterio gives for a header without a transform; no map has pixels of 1 from 0, 0 that count upwards.
    if tuple(dataset.transform)[:6] != (1.0, 0.0, 0.0, 0.0, 1.0, 0.0):
        return ""
    if dataset.gcps[0]:
        return "is placed by ground control points only; warp it to a map grid first (gdalwarp FILE NEW_FILE)"
    if dataset.rpcs is not None:
        return "is placed by rational polynomials (RPC) only; orthorectify it first (gdalwarp -rpc FILE NEW_FILE)"
    if dataset.crs is None:
        return ""
    return (
        "has a CRS, but its header does not say where in it the pixels lie; write its corners into it "
        "(gdal_edit.py -a_ullr LEFT TOP RIGHT BOTTOM FILE)"
    )


def frame_of(dataset: Any) -> Frame:
    """Give the place of an open rasterio dataset."""
    transform = tuple(float(v) for v in tuple(dataset.transform)[:6])
    return Frame(short_name(dataset.crs), transform, dataset.width, dataset.height)


def short_name(crs: Any) -> str:
    """Write rasterio's ``CRS`` as its EPSG code where it has one, otherwise as WKT."""
    code = crs.to_epsg()
    return f"EPSG:{code}" if code else str(crs.to_wkt())


def _open(path: Path) -> Any:
    """Open with rasterio; a file without georeferencing is refused later, with a sentence of its own."""
    import warnings

    import rasterio
    from rasterio.errors import NotGeoreferencedWarning

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", NotGeoreferencedWarning)
        return rasterio.open(path)


def _unreadable(path: Path) -> str:
    """Say why a file does not open: a raster by its first bytes that is damaged, or none at all."""
    with path.open("rb") as file:
        start = file.read(12)
    if start[:4] in (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+") or start[4:8] == b"jP  ":
        return "is truncated or damaged: its header cannot be read; download or copy it again"
    return "is not a raster that can be read; give a GeoTIFF, COG, JP2 or VRT"


def reason(fault: BaseException) -> str:
    """Say in one line what a library complains about: the first cause, which is the nearest to the file."""
    while fault.__cause__ is not None:
        fault = fault.__cause__
    return (str(fault).strip().splitlines() or [type(fault).__name__])[0].rstrip(".;")


def _refuse_truncated(path: Path, dataset: Any) -> None:
    """Hold the place of every block of a GeoTIFF to the file's size; try the last pixel of any other format."""
    from rasterio.errors import RasterioError
    from rasterio.windows import Window

    if dataset.driver == "GTiff":
        needed, size = _end_of_blocks(dataset), path.stat().st_size
        if needed > size:
            raise SceneError(
                f"{path} is truncated: its header announces pixels up to byte {needed}, but the file ends at {size}; "
                "download or copy it again."
            )
        return
    try:
        dataset.read(dataset.count, window=Window(dataset.width - 1, dataset.height - 1, 1, 1))
    except RasterioError as fault:
        raise SceneError(f"{path} is truncated or damaged: its last pixel cannot be read ({reason(fault)}).") from fault


def _end_of_blocks(dataset: Any) -> int:
    """Find the last byte that the blocks of a GeoTIFF reach, 0 where none is known."""
    bands = dataset.indexes if dataset.interleaving and dataset.interleaving.name == "band" else (1,)
    high, wide = dataset.block_shapes[0]
    blocks = [
        (b, y, x) for b in bands for y in range(-(-dataset.height // high)) for x in range(-(-dataset.width // wide))
    ]
    blocks = blocks[:: 1 + len(blocks) // MAX_BLOCKS] + blocks[-1:]
    end = 0
    for band, row, col in blocks:
        start = dataset.get_tag_item(f"BLOCK_OFFSET_{col}_{row}", "TIFF", bidx=band)
        size = dataset.get_tag_item(f"BLOCK_SIZE_{col}_{row}", "TIFF", bidx=band)
        if start and size:
            end = max(end, int(start) + int(size))
    return end


def _tagged_date(dataset: Any) -> str:
    """Find the day of the acquisition from the header's fields, "" where there is none."""
    tags: dict[str, str] = {}
    for space in (None, "IMAGERY"):
        tags |= {key.upper(): value for key, value in dataset.tags(ns=space).items()}
    for key in DATE_TAGS:
        match = re.match(r"\d{4}[-:]\d{2}[-:]\d{2}", tags.get(key, ""))
        if match:
            with suppress(ValueError):
                return iso_date(match[0])
    return ""
