"""Copy a finished map to a folder elsewhere, in object storage or on a disk, so that nobody reads half of it there."""

from __future__ import annotations

import json
import logging
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import Field, field_validator

from pipeline.artifacts import MANIFEST, absence, read_manifest
from stages import progress
from stages.errors import ArtifactError, SettingError
from stages.settings import Settings

_logger = logging.getLogger(__name__)

#: The artifact that is published, and the stage that makes it.
MAP, MAKER = "map", "export"
#: Lies in place of the manifest while the map there is not whole, and says what of it is.
UNFINISHED = "unfinished.json"
#: Stores without folders, in which making one would make a bucket.
BUCKETS = ("s3", "s3a", "gs", "gcs", "abfs", "abfss", "az", "adl", "oss")
#: Seconds until an S3 server that does not answer counts as unreachable, and how often it is tried.
PATIENCE, TRIES = 10, 2

#: What an artifact's manifest says of each file, or of each folder as a whole: bytes, sha256 and number of files.
Outputs = dict[str, dict[str, Any]]


class Publish(Settings):
    """Where a finished map is copied to."""

    to: str | None = Field(
        None,
        description="Folder of its own for this map: s3://bucket/folder, file:///folder or another URL of fsspec's",
    )

    @field_validator("to")
    @classmethod
    def _is_url(cls, to: str | None) -> str | None:
        if to is None:
            return None
        if not re.match(r"[A-Za-z][A-Za-z0-9+.-]*://[^/].*|file:///.+", to):
            raise ValueError(f"{to} is no URL of a folder, such as s3://bucket/folder or file:///folder")
        if re.match(r"[^/]*//[^/]*:[^/]*@", to):
            raise ValueError(
                "a URL must hold no password; set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or a profile"
            )
        return to.rstrip("/")


@dataclass(frozen=True)
class Published:
    """How many files were copied, and their bytes; both are 0 where everything lay there already."""

    files: int
    size: int


def publish(data: Path, to: str) -> Published:
    """Copy the map of an area's folder to a URL; what lies there unchanged is not copied.

    The manifest there is taken away before anything is touched and put back last: where there is one, the map beside
    it is whole. A publication that was broken off is gone on with.

    Raises:
        ArtifactError: there is no whole map, or it cannot be written there; the map here stands as it is.
        SettingError: there is no such kind of storage.
    """
    folder = data / MAP
    manifest = read_manifest(folder)
    if manifest is None:
        raise ArtifactError(f"There is no map to publish ({absence(folder, MAKER)}); `make {MAKER}` makes one.")
    with _told(to, folder):
        store = _Store(*_opened(to))
        done = _copy(store, folder, manifest.outputs)
    if done.files:
        _logger.info("published %d files (%.1f MB) to %s", done.files, done.size / 1e6, to)
    else:
        _logger.info("published already: %s", to)
    return done


def _copy(store: _Store, folder: Path, outputs: Outputs) -> Published:
    text, found = (folder / MANIFEST).read_text(encoding="utf-8"), store.sizes()
    told = {name: store.text(name) for name in (UNFINISHED, MANIFEST) if name in found}
    standing = _standing(told, store.root)
    here = {name: _files(folder, name) for name in outputs}
    whole = {
        name: made
        for name, made in outputs.items()
        if standing.get(name) == made and all(found.get(path) == size for path, size in here[name].items())
    }
    strange = [
        path for path in found if path.split("/")[0] in standing and path not in here.get(path.split("/")[0], {})
    ]
    if len(whole) == len(outputs) and not strange and told == {MANIFEST: text}:
        return Published(0, 0)
    # Whatever of an earlier map is not whole any more is still known, should this be broken off before it is removed.
    left: Outputs = {**{name: {} for name in standing}, **whole}
    store.write(UNFINISHED, json.dumps(left))
    store.remove([*([MANIFEST] if MANIFEST in found else []), *strange])
    missing = [name for name in outputs if name not in whole]
    copied, size = 0, 0
    for number, name in enumerate(missing):
        progress.report("publish", number, len(missing))
        for path, expected in here[name].items():
            store.put(folder / path, path, expected)
            copied, size = copied + 1, size + expected
        left[name] = outputs[name]
        store.write(UNFINISHED, json.dumps(left))
    store.write(MANIFEST, text)
    store.remove([UNFINISHED])
    return Published(copied + 1, size + len(text.encode()))


def _standing(told: dict[str, str], root: str) -> Outputs:
    """Tell which outputs are whole, by the manifest or by what a publication that was broken off has left.

    Raises:
        ArtifactError: the folder holds something else.
    """
    if UNFINISHED in told:
        try:
            return dict(json.loads(told[UNFINISHED]))
        except (ValueError, TypeError):
            # Broken off while it was written: nothing is sure.
            return {}
    if MANIFEST not in told:
        return {}
    try:
        manifest: dict[str, Any] = json.loads(told[MANIFEST])
        if manifest["artifact"] == MAP:
            return dict(manifest["outputs"])
    except (ValueError, TypeError, KeyError):
        pass
    raise ArtifactError(
        f"{root} holds the {MANIFEST} of something else; publish.to must be a folder of its own for this map."
    )


def _files(folder: Path, name: str) -> dict[str, int]:
    """List the files of an output with their bytes; a file is its own only one."""
    path = folder / name
    files = [path] if path.is_file() else sorted(file for file in path.rglob("*") if file.is_file())
    return {file.relative_to(folder).as_posix(): file.stat().st_size for file in files}


@dataclass(frozen=True)
class _Store:
    """A folder of a file system of fsspec's."""

    system: Any
    root: str

    def sizes(self) -> dict[str, int]:
        """List every file with its bytes, by its path in the folder."""
        found = self.system.find(self.root, detail=True)
        return {path.removeprefix(self.root).lstrip("/"): int(info["size"]) for path, info in found.items()}

    def text(self, name: str) -> str:
        """Read a small file."""
        return str(self.system.cat_file(self._at(name)).decode())

    def write(self, name: str, text: str) -> None:
        """Write a small file."""
        self._make_folder(name)
        self.system.pipe_file(self._at(name), text.encode())

    def put(self, source: Path, name: str, size: int) -> None:
        """Copy a file and see that all of its bytes have arrived.

        Raises:
            OSError: they have not.
        """
        self._make_folder(name)
        self.system.put_file(str(source), self._at(name))
        arrived = int(self.system.info(self._at(name))["size"])
        if arrived != size:
            raise OSError(f"{arrived} of {size} bytes of {name} arrived")

    def remove(self, names: list[str]) -> None:
        """Remove files."""
        for name in names:
            self.system.rm_file(self._at(name))

    def _at(self, name: str) -> str:
        return f"{self.root}/{name}"

    def _make_folder(self, name: str) -> None:
        protocols = (self.system.protocol,) if isinstance(self.system.protocol, str) else self.system.protocol
        if not set(protocols) & set(BUCKETS):
            self.system.makedirs(self._at(name).rpartition("/")[0], exist_ok=True)


def _opened(to: str) -> tuple[Any, str]:
    """Open the file system of a URL with the credentials of the environment, and give the folder's path in it.

    Raises:
        SettingError: there is no such kind of storage.
    """
    import fsspec

    options: dict[str, Any] = {"skip_instance_cache": True, "use_listings_cache": False}
    if to.startswith(("s3://", "s3a://")):
        options["config_kwargs"] = {"connect_timeout": PATIENCE, "retries": {"max_attempts": TRIES}}
    try:
        system, root = fsspec.core.url_to_fs(to, **options)
    except (ValueError, ImportError) as fault:
        raise SettingError(f"publish.to is {to}: {str(fault).rstrip('.')}; s3:// and file:// are there.") from fault
    return system, str(root).rstrip("/")


@contextmanager
def _told(to: str, folder: Path) -> Iterator[None]:
    """Tell in one sentence why a map cannot be written elsewhere."""
    try:
        yield
    except (ArtifactError, SettingError):
        raise
    except Exception as fault:
        why = _reason(fault)
        if why is None:
            raise
        raise ArtifactError(f"Cannot publish to {to}: {why}. The map in {folder} is whole; run again then.") from fault


def _reason(fault: Exception) -> str | None:
    from botocore.exceptions import BotoCoreError, NoCredentialsError, PartialCredentialsError

    said = str(fault).rstrip(".")
    if isinstance(fault, (PermissionError, NoCredentialsError, PartialCredentialsError)):
        return f"access is refused ({said}); set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or AWS_PROFILE"
    if isinstance(fault, FileNotFoundError):
        return f"there is no such place ({said}); make the bucket, or correct publish.to"
    if isinstance(fault, (OSError, BotoCoreError, TimeoutError)):
        return f"the storage cannot be reached or written ({said}); check the network and AWS_ENDPOINT_URL"
    return None
