"""Read image chips of any format that rasterio opens: what the header says, and the pixels."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np

from stages.errors import SceneError
from stages.geo.frame import Frame, transformed
from stages.geo.headers import frame_of, reason

LONGLAT = "EPSG:4326"


@dataclass(frozen=True)
class ChipHeader:
    """What a chip's header says; ``frame`` is None where it does not tell where the chip lies."""

    path: str
    height: int
    width: int
    dtype: str
    names: tuple[str, ...]
    alpha: tuple[int, ...]
    scale: float
    offset: float
    frame: Frame | None

    @property
    def count(self) -> int:
        """Number of bands, an alpha band not counted."""
        return len(self.names) - len(self.alpha)


@contextmanager
def reading() -> Iterator[None]:
    """Open many small files quickly: GDAL does not list their folder for each, and looks for nothing beside them."""
    import rasterio
    from rasterio.errors import NotGeoreferencedWarning

    # A JPEG that was cut short would be grey where it ends.
    strict = {"GDAL_DISABLE_READDIR_ON_OPEN": "EMPTY_DIR", "GDAL_ERROR_ON_LIBJPEG_WARNING": True}
    # For good, as threads share their filters: one that leaves would bring the warning back to the others.
    warnings.filterwarnings("ignore", category=NotGeoreferencedWarning)
    with rasterio.Env(**strict):
        yield


@contextmanager
def _opened(path: str) -> Iterator[Any]:
    """Open a chip.

    Raises:
        SceneError: it is no image, or its pixels cannot be read while it is open.
    """
    import rasterio
    from rasterio.errors import RasterioError

    try:
        with rasterio.open(path) as dataset:
            yield dataset
    except RasterioError as fault:
        raise SceneError(
            f"{path} cannot be read as a chip ({reason(fault)}); replace the file or take it out of the collection."
        ) from fault


def read_chip_headers(paths: Sequence[str]) -> list[ChipHeader]:
    """Read the headers of some chips; no pixel is read.

    Raises:
        SceneError: a file is no image.
    """
    with reading():
        return [_header(path) for path in paths]


def _header(path: str) -> ChipHeader:
    from rasterio.enums import ColorInterp

    with _opened(path) as dataset:
        placed = dataset.crs is not None and tuple(dataset.transform)[:6] != (1.0, 0.0, 0.0, 0.0, 1.0, 0.0)
        return ChipHeader(
            path, dataset.height, dataset.width, dataset.dtypes[0], tuple(text or "" for text in dataset.descriptions),
            tuple(i + 1 for i, kind in enumerate(dataset.colorinterp) if kind == ColorInterp.alpha),
            float(dataset.scales[0]), float(dataset.offsets[0]), frame_of(dataset) if placed else None,
        )  # fmt: skip


def read_chip(path: str, indexes: Sequence[int], nodata: float | None) -> tuple[np.ndarray, np.ndarray]:
    """Read some bands (from 1) of a chip: values float32 (band, y, x) and where all of them are valid, bool (y, x).

    ``nodata`` takes the place of the header's.

    Raises:
        SceneError: its pixels cannot be read.
    """
    from rasterio.enums import MaskFlags

    with _opened(path) as dataset:
        values = dataset.read(list(indexes))
        valid = np.ones(values.shape[1:], dtype=bool)
        if nodata is None and any(MaskFlags.all_valid not in dataset.mask_flag_enums[i - 1] for i in indexes):
            valid = np.asarray((dataset.read_masks(list(indexes)) > 0).all(axis=0))
    if nodata is not None:
        valid &= (values != nodata).all(axis=0)
    image = values.astype(np.float32)
    valid &= np.isfinite(image).all(axis=0)
    return image, valid


def centres(frames: Sequence[Frame | None]) -> tuple[np.ndarray, np.ndarray]:
    """Longitude and latitude of the middles of some frames, NaN where there is none: float64 (frame,) each."""
    found = np.full((2, len(frames)), np.nan)
    for crs in sorted({frame.crs for frame in frames if frame is not None}):
        some = [i for i, frame in enumerate(frames) if frame is not None and frame.crs == crs]
        places = np.array([_middle(frame) for i in some if (frame := frames[i]) is not None])
        found[:, some] = np.stack(transformed(crs, LONGLAT, *places.T))
    return found[0], found[1]


def _middle(frame: Frame) -> tuple[float, float]:
    a, b, c, d, e, f = frame.transform[:6]
    x, y = frame.width / 2, frame.height / 2
    return a * x + b * y + c, d * x + e * y + f
