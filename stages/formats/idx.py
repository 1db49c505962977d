"""Read IDX files, the format in which handwritten digits are published (LeCun, Cortes and Burges 1998)."""

from __future__ import annotations

import gzip
import math
import struct
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, cast

import numpy as np

from stages.errors import DataError

#: Types of the values by the third byte of a file; more than one byte comes with the highest first.
TYPES = {0x08: "u1", 0x09: "i1", 0x0B: ">i2", 0x0C: ">i4", 0x0D: ">f4", 0x0E: ">f8"}
#: The four files of a set, as they are usually called; a dot may stand in place of the last hyphen, .gz at the end.
NAMES = "train-images-idx3-ubyte", "train-labels-idx1-ubyte", "t10k-images-idx3-ubyte", "t10k-labels-idx1-ubyte"


@dataclass(frozen=True)
class Digits:
    """Images uint8 (n, y, x) and their classes uint8 (n,), divided into training and test set by their publishers."""

    train_images: np.ndarray
    train_labels: np.ndarray
    test_images: np.ndarray
    test_labels: np.ndarray


def read_idx(path: Path) -> np.ndarray:
    """Read one IDX file, plain or compressed by gzip, whatever it is called.

    Raises:
        DataError: it is missing, no IDX file, cut short or longer than it says.
    """
    try:
        with path.open("rb") as file:
            packed = file.read(2) == b"\x1f\x8b"
            file.seek(0)
            if not packed:
                return _read(file, path)
            with gzip.open(file) as unpacked:
                return _read(cast("BinaryIO", unpacked), path)
    except (EOFError, zlib.error, gzip.BadGzipFile) as fault:
        raise DataError(f"{path} cannot be unpacked ({str(fault).rstrip('.')}); fetch or copy it again.") from fault
    except OSError as fault:
        raise DataError(f"{path} cannot be read ({fault.strerror or fault}); check the path.") from fault


def _read(file: BinaryIO, path: Path) -> np.ndarray:
    magic = file.read(4)
    if len(magic) < 4 or magic[:2] != b"\0\0" or magic[2] not in TYPES or magic[3] == 0:
        raise DataError(
            f"{path} is no IDX file: it begins with the bytes {magic.hex(' ') or 'of an empty file'}, but one of bytes "
            "begins with 00 00 08 and the number of its axes; name the unpacked files of the set."
        )
    sizes = file.read(4 * magic[3])
    if len(sizes) < 4 * magic[3]:
        raise DataError(f"{path} is cut short within its first {4 + 4 * magic[3]} bytes; fetch or copy it again.")
    shape = struct.unpack(f">{magic[3]}I", sizes)
    kind = np.dtype(TYPES[magic[2]])
    expected = math.prod(shape) * kind.itemsize
    # One byte more than expected is enough to see that there is more.
    values = file.read(expected + 1)
    if len(values) != expected:
        fault = (
            f"is cut short: it holds {len(values):,}"
            if len(values) < expected
            else "is too long: it holds more than the"
        )
        raise DataError(
            f"{path} {fault} bytes of values where {' x '.join(map(str, shape))} of {kind.itemsize} bytes each were "
            f"expected, {expected:,}; fetch or copy it again."
        )
    return np.frombuffer(values, kind).reshape(shape).astype(kind.newbyteorder("="))


def read_digits(folder: Path) -> Digits:
    """Read the four files of a set from a folder, plain or compressed.

    Raises:
        DataError: one is missing, is no IDX file, is cut short, or images and labels do not belong together.
    """
    arrays = [read_idx(_find(folder, name)) for name in NAMES]
    for name, images, labels in (("train", arrays[0], arrays[1]), ("t10k", arrays[2], arrays[3])):
        if images.ndim != 3 or labels.shape != images.shape[:1] or images.dtype != np.uint8 or labels.dtype != np.uint8:
            raise DataError(
                f"The {name} files of {folder} hold {images.dtype} {images.shape} and {labels.dtype} {labels.shape}; "
                "images of bytes (n, y, x) and as many labels were expected; name the folder of one whole set."
            )
    return Digits(*arrays)


def _find(folder: Path, name: str) -> Path:
    """Find a file of the set by any of its usual names."""
    dotted = name.replace("-idx", ".idx")
    for path in (folder / f"{usual}{end}" for usual in (name, dotted) for end in ("", ".gz")):
        if path.is_file():
            return path
    raise DataError(
        f"{folder} holds no {name} (or {name}.gz); name a folder with the four IDX files: {', '.join(NAMES)}."
    )
