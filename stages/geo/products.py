"""Find the images of Sentinel-2 SAFE folders and Landsat Collection 2 folders, and how their numbers are scaled."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from stages.errors import SceneError

IMAGES = ".jp2", ".tif", ".tiff"
#: `T33UWP_20220614T105621_B04_10m.jp2`, and without the resolution where there is one of each band.
SENTINEL_IMAGE = re.compile(r".*_(?P<token>B\d[\dA]|[A-Z]{3})(?:_(?P<metres>\d\d)m)?", re.IGNORECASE)
#: `LC08_L2SP_199030_20180615_20200831_02_T1`: sensor, level, path and row, acquisition, processing, collection, tier.
LANDSAT_NAME = re.compile(r"L[A-Z]\d\d_(?P<level>L\w{3})_\d{6}_(?P<date>\d{8})_\d{8}_\d\d_\w\d")
#: Sentinel-2's bands in the order in which its metadata counts them.
SENTINEL_BANDS = "B01", "B02", "B03", "B04", "B05", "B06", "B07", "B08", "B8A", "B09", "B10", "B11", "B12"
#: A picture in three colours, which is no band.
PICTURES = ("TCI",)
#: From this processing baseline on Sentinel-2's numbers carry an offset.
OFFSET_SINCE = 4.0
#: Landsat Collection 2 level 2: image -> factor, summand and the number without data (product guide LSDS-1619).
LANDSAT_SCALES = {
    r"SR_B\d+": (0.0000275, -0.2, 0.0),
    r"ST_B\d+": (0.00341802, 149.0, 0.0),
    r"ST_(ATRAN|EMIS|EMSD)": (0.0001, 0.0, -9999.0),
    r"ST_(DRAD|TRAD|URAD)": (0.001, 0.0, -9999.0),
    r"ST_(CDIST|QA)": (0.01, 0.0, -9999.0),
}


@dataclass(frozen=True)
class Image:
    """One file of a product that holds one band.

    ``scale`` and ``offset`` turn its numbers into physical units. They are None for a file of classes or flags, whose
    numbers mean themselves. ``nodata`` is None where the file's header decides.
    """

    path: Path
    scale: float | None = None
    offset: float | None = None
    nodata: float | None = None


@dataclass(frozen=True)
class Product:
    """One scene as it was downloaded: its folder, date (ISO 8601) and the images of the bands that were asked for."""

    folder: Path
    date: str
    images: dict[str, Image]


def is_product(path: Path) -> bool:
    """Tell whether a folder is a Sentinel-2 or Landsat scene as downloaded."""
    return path.is_dir() and (_is_sentinel(path) or _landsat_name(path) is not None)


def read_product(path: Path, tokens: Iterable[str], scaled: bool = True) -> list[Product]:
    """Read the metadata of a folder and find its images; Sentinel-2 folders of old hold several scenes.

    Args:
        path: the folder, one that `is_product` knows.
        tokens: what the bands are called in the names of the files, such as B04, SCL, SR_B4 or QA_PIXEL.
        scaled: whether factor and summand are wanted; metadata that lack them are refused then.

    Raises:
        SceneError: an image or the metadata are missing or incomplete, or the product is not surface reflectance.
    """
    tokens = tuple(tokens)
    return _read_sentinel(path, tokens, scaled) if _is_sentinel(path) else [_read_landsat(path, tokens)]


def product_files(path: Path, tokens: Iterable[str]) -> list[Path]:
    """List the files of a folder that are read for some bands: their images and the metadata, as far as they exist."""
    if _is_sentinel(path):
        found = [image for images in _sentinel_images(path).values() for image in _chosen(images, tokens).values()]
        return sorted([*found, *_sentinel_metadata(path)])
    return sorted([*_chosen(_landsat_images(path), tokens).values(), *_landsat_metadata(path)])


def _chosen(images: dict[str, Path], tokens: Iterable[str]) -> dict[str, Path]:
    return {token: images[_full(token)] for token in tokens if _full(token) in images}


def _full(token: str) -> str:
    """Write a Sentinel-2 band in full, as file names do: B4 is B04."""
    return f"B0{token[1]}" if re.fullmatch(r"B\d", token) else token


def _found(path: Path, images: dict[str, Path], token: str) -> Path:
    """Look up the image of one band.

    Raises:
        SceneError: there is none.
    """
    if _full(token) not in images:
        held = ", ".join(sorted(images)) or "none"
        raise SceneError(
            f"{path} has no image of band {token}; it holds {held}; download it again or correct the bands."
        )
    return images[_full(token)]


# --- Sentinel-2 ------------------------------------------------------------------------------------------------------


def _is_sentinel(path: Path) -> bool:
    return path.suffix.upper() == ".SAFE" or (path / "manifest.safe").is_file()


def _sentinel_metadata(path: Path) -> list[Path]:
    """Find the metadata of the whole product: one file in its folder, by any of its names."""
    return sorted(path.glob("*MTD*.xml"))[:1]


def _sentinel_images(path: Path) -> dict[Path, dict[str, Path]]:
    """Find the images of every granule: band -> its finest file, one folder a resolution or one for all."""
    granules = {}
    for granule in sorted((path / "GRANULE").glob("*")):
        finest: dict[str, tuple[int, Path]] = {}
        for file in sorted((granule / "IMG_DATA").rglob("*")):
            name = SENTINEL_IMAGE.fullmatch(file.stem)
            if name is None or file.suffix.lower() not in IMAGES or name["token"].upper() in PICTURES:
                continue
            token, ranked = name["token"].upper(), (int(name["metres"] or 0), file)
            finest[token] = min(finest.get(token, ranked), ranked)
        if finest:
            granules[granule] = {token: file for token, (_, file) in finest.items()}
    return granules


def _read_sentinel(path: Path, tokens: tuple[str, ...], scaled: bool) -> list[Product]:
    """Read a SAFE folder: one product a granule."""
    granules = _sentinel_images(path)
    if not granules:
        raise SceneError(f"{path} holds no images in GRANULE/*/IMG_DATA; download it again, whole and unpacked.")
    files = _sentinel_metadata(path)
    text = files[0].read_text(errors="replace") if files else ""
    if not text and scaled:
        raise SceneError(
            f"{path} lacks its MTD_MSIL*.xml, which says how its numbers become reflectance; "
            "download it again, or set scale and offset of the entry in ingest.scenes."
        )
    date = _sentinel_date(path, text)
    products = []
    for granule, images in granules.items():
        found = {
            token: _sentinel_image(path, _full(token), _found(path, images, token), text, scaled) for token in tokens
        }
        products.append(Product(path if len(granules) == 1 else granule, date, found))
    return products


def _sentinel_date(path: Path, text: str) -> str:
    """Read the day of the acquisition from the metadata, otherwise from the name, "" if neither has it."""
    for key in ("DATATAKE_SENSING_START", "PRODUCT_START_TIME"):
        if found := re.search(rf"<{key}>\s*(\d{{4}}-\d\d-\d\d)", text):
            return found[1]
    named = re.search(r"_(\d{4})(\d\d)(\d\d)T\d{6}", path.name)
    return "-".join(named.groups()) if named else ""


def _sentinel_image(path: Path, token: str, file: Path, text: str, scaled: bool) -> Image:
    """Say how the numbers of one image are scaled; 0 is no data in all of them, also among the classes of SCL.

    Raises:
        SceneError: the metadata do not say it.
    """
    if token in ("AOT", "WVP"):
        divisor = _number(rf"<{token}_QUANTIFICATION_VALUE\b[^>]*>\s*([\d.]+)", text)
        return Image(file, 1.0 / (divisor or 1000.0), 0.0, 0.0)
    if token not in SENTINEL_BANDS:
        return Image(file, nodata=0.0)
    if not scaled:
        return Image(file, 1.0, 0.0, 0.0)
    divisor = _number(r"<(?:L1C_|L2A_)?(?:BOA_)?QUANTIFICATION_VALUE\b[^>]*>\s*([\d.]+)", text)
    if not divisor:
        raise SceneError(
            f"{path}: its metadata hold no QUANTIFICATION_VALUE; "
            "download it again, or set scale and offset of the entry in ingest.scenes."
        )
    offsets = _sentinel_offsets(text)
    if token not in offsets and _baseline(path, text) >= OFFSET_SINCE:
        raise SceneError(
            f"{path}: its metadata hold no offset of band {token}, which baseline {_baseline(path, text):05.2f} has; "
            "download it again, or set scale and offset of the entry in ingest.scenes."
        )
    return Image(file, 1.0 / divisor, offsets.get(token, 0.0) / divisor, 0.0)


def _sentinel_offsets(text: str) -> dict[str, float]:
    """Read the offset of every band in digital numbers; the metadata number the bands and say which is which."""
    order = dict(enumerate(SENTINEL_BANDS))
    for attributes in re.findall(r"<Spectral_Information\b([^>]*)>", text):
        number, band = re.search(r'bandId="(\d+)"', attributes), re.search(r'physicalBand="(\w+)"', attributes)
        if number and band:
            order[int(number[1])] = _full(band[1])
    found = re.findall(r'<(?:BOA|RADIO)_ADD_OFFSET\b[^>]*band_id="(\d+)"[^>]*>\s*(-?[\d.]+)', text)
    return {order[int(number)]: float(value) for number, value in found if int(number) in order}


def _baseline(path: Path, text: str) -> float:
    """Read the processing baseline from the metadata, otherwise from the name, 0 if neither has it."""
    said = _number(r"<PROCESSING_BASELINE>\s*([\d.]+)", text)
    named = re.search(r"_N(\d\d)(\d\d)_", path.name)
    return said or (float(f"{named[1]}.{named[2]}") if named else 0.0)


def _number(pattern: str, text: str) -> float:
    """Read the number that a pattern finds, 0 if there is none."""
    found = re.search(pattern, text)
    return float(found[1]) if found else 0.0


# --- Landsat ---------------------------------------------------------------------------------------------------------


def _landsat_name(path: Path) -> re.Match[str] | None:
    """Find the name of a Landsat scene in that of its folder, otherwise in that of its metadata."""
    names = [path.name, *(file.name for file in _landsat_metadata(path))]
    return next((match for name in names if (match := LANDSAT_NAME.match(name))), None)


def _landsat_metadata(path: Path) -> list[Path]:
    """Find the metadata of the product, as text, XML or JSON."""
    return sorted(file for ending in ("txt", "xml", "json") for file in path.glob(f"L*_MTL.{ending}"))[:1]


def _landsat_images(path: Path) -> dict[str, Path]:
    """Find the images: what follows the scene's name in that of the file -> the file."""
    images = {}
    for file in sorted(path.glob("L*")):
        name = LANDSAT_NAME.match(file.stem)
        if name and file.suffix.lower() in IMAGES:
            images[file.stem[name.end() :].strip("_")] = file
    return images


def _read_landsat(path: Path, tokens: tuple[str, ...]) -> Product:
    """Read a folder of Collection 2, level 2."""
    name = _landsat_name(path)
    assert name is not None
    if not name["level"].startswith("L2"):
        raise SceneError(
            f"{path} is of Landsat's level {name['level']}, which is no surface reflectance; download level 2 (L2SP)."
        )
    images = _landsat_images(path)
    if not images:
        raise SceneError(f"{path} holds no images such as {name[0]}_SR_B4.TIF; download it again, whole and unpacked.")
    text = "".join(file.read_text(errors="replace") for file in _landsat_metadata(path))
    said = re.search(r"DATE_ACQUIRED\W+(\d{4}-\d\d-\d\d)", text)
    date = said[1] if said else "-".join(re.findall(r"(\d{4})(\d\d)(\d\d)", name["date"])[0])
    found = {token: _landsat_image(token, _found(path, images, token)) for token in tokens}
    return Product(path, date, found)


def _landsat_image(token: str, file: Path) -> Image:
    """Say how the numbers of one image are scaled; flags are not."""
    for pattern, (scale, offset, nodata) in LANDSAT_SCALES.items():
        if re.fullmatch(pattern, token):
            return Image(file, scale, offset, nodata)
    return Image(file)
