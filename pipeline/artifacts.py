"""Keep artifacts whole or absent: scratch folder, manifest written last, renamed into place."""

from __future__ import annotations

import hashlib
import json
import os
import platform
import shutil
import subprocess
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from pipeline.fingerprint import Fingerprint, write_whole
from stages.geo.identity import content_identity

MANIFEST = "manifest.json"
SCRATCH = ".scratch"
#: Raised when manifests change their meaning: older artifacts are then made again.
FORMAT = 1
LIBRARIES = (
    "terrastage", "numpy", "rasterio", "geopandas", "pyproj", "zarr", "dask", "torch", "lightning", "scikit-learn",
    "onnxruntime", "onnx",
)  # fmt: skip


@dataclass(frozen=True)
class Manifest:
    """What made an artifact and what it consists of.

    ``config`` are the settings that entered the key, ``config_outside_key`` the ones that cannot change a byte.
    ``basis`` is the key blind to which scenes were read. ``kept_for`` is the key that a trained model would have with
    the present scenes, where `make batch` kept the model in spite of them. ``seconds`` and ``peak_memory_mb`` are of
    this stage alone; ``outputs`` maps each file, or folder as a whole, to its bytes and sha256.
    """

    stage: str
    artifact: str
    key: str
    basis: str
    config: dict[str, Any]
    config_outside_key: dict[str, Any]
    inputs: dict[str, str]
    sources: dict[str, str]
    code: dict[str, str]
    versions: dict[str, str]
    commit: str | None
    seed: int | None
    started: str
    seconds: float
    peak_memory_mb: float
    outputs: dict[str, dict[str, Any]]
    kept_for: str | None = None
    format: int = field(default=FORMAT)

    @property
    def fingerprint(self) -> Fingerprint:
        """What decided the artifact's content."""
        return Fingerprint(self.code, self.config, self.inputs, self.sources)


def read_manifest(folder: Path) -> Manifest | None:
    """Read an artifact's manifest; none where the artifact is missing, unfinished, or lost or changed a file."""
    return _read(folder)[0]


def absence(artifact: Path, stage: str) -> str:
    """Say why an artifact counts as missing: never made, unfinished, or which of its files is lost or changed."""
    if artifact.exists():
        return _read(artifact)[1]
    unfinished = any((artifact.parent / SCRATCH).glob(f"{stage}-*"))
    return "unfinished: its last run was stopped" if unfinished else "there is none yet"


def _read(folder: Path) -> tuple[Manifest | None, str]:
    """Read an artifact's manifest, or say why it does not stand for a whole artifact."""
    try:
        manifest = Manifest(**json.loads((folder / MANIFEST).read_text(encoding="utf-8")))
        if manifest.format != FORMAT:
            return None, "made by another version of terrastage"
        damage = next(filter(None, (_damage(folder / name, made) for name, made in manifest.outputs.items())), "")
    except FileNotFoundError:
        return None, f"unfinished: it has no {MANIFEST}"
    except OSError as fault:
        return None, f"cannot be read ({fault.strerror})"
    except (ValueError, TypeError, KeyError, AttributeError):
        return None, f"{MANIFEST} is damaged"
    return (None, damage) if damage else (manifest, "")


def _damage(path: Path, made: dict[str, Any]) -> str:
    """Say what became of an output by its size and number of files, "" where it is as it was made; nothing is read."""
    single = made["files"] is None
    if not (path.is_file() if single else path.is_dir()):
        return f"has lost {path.name}"
    files, size = (None, path.stat().st_size) if single else _extent(path)
    if (files, size) == (made["files"], made["bytes"]):
        return ""
    if single:
        return f"{path.name} changed: {size} bytes, not the {made['bytes']} it was made of"
    return (
        f"{path.name} changed: {files} files of {size} bytes, not the {made['files']} of {made['bytes']} it was made of"
    )


def _extent(folder: Path) -> tuple[int, int]:
    """Count the files below a folder and their bytes."""
    files, size = 0, 0
    with os.scandir(folder) as entries:
        for entry in entries:
            if entry.is_dir(follow_symlinks=False):
                more = _extent(Path(entry.path))
                files, size = files + more[0], size + more[1]
            elif entry.is_file():
                files, size = files + 1, size + entry.stat().st_size
    return files, size


def write_manifest(folder: Path, manifest: Manifest) -> None:
    """Write the manifest whole and onto the disk; nothing of an artifact is written after it."""
    write_whole(folder / MANIFEST, json.dumps(asdict(manifest), indent=1))


def outputs_of(folder: Path) -> dict[str, dict[str, Any]]:
    """Describe every file of a folder, and every folder in it as one: bytes, sha256, and number of files."""
    return {
        path.name: _described(path)
        for path in sorted(folder.iterdir())
        if path.name != MANIFEST and not path.name.startswith(f".{MANIFEST}")
    }


def _described(path: Path) -> dict[str, Any]:
    if path.is_file():
        return {"bytes": path.stat().st_size, "sha256": content_identity(path), "files": None}
    files = sorted(file for file in path.rglob("*") if file.is_file())
    digest = hashlib.sha256()
    for file in files:
        digest.update(f"{file.relative_to(path).as_posix()} {content_identity(file)}\n".encode())
    return {"bytes": sum(file.stat().st_size for file in files), "sha256": digest.hexdigest(), "files": len(files)}


# --- scratch folders -------------------------------------------------------------------------------------------------


def open_scratch(area: Path, stage: str, key: str, resumes: bool) -> Path:
    """Make the folder a stage writes into, and remove what other runs of the stage left.

    Where the stage ``resumes``, the unfinished work of a killed run with the same key is kept.
    """
    scratch = area / SCRATCH / f"{stage}-{key[:12]}"
    for other in (area / SCRATCH).glob(f"{stage}-*"):
        if other != scratch or not resumes:
            shutil.rmtree(other)
    scratch.mkdir(parents=True, exist_ok=True)
    (scratch / MANIFEST).unlink(missing_ok=True)
    return scratch


def drop_scratch(area: Path, stage: str) -> None:
    """Remove every unfinished work of a stage."""
    for scratch in (area / SCRATCH).glob(f"{stage}-*"):
        shutil.rmtree(scratch, ignore_errors=True)


def publish(scratch: Path, artifact: Path) -> None:
    """Rename finished work into place; the earlier artifact stands until then, and is removed after."""
    old = _aside(artifact)
    if artifact.exists():
        artifact.rename(old)
    scratch.rename(artifact)
    if old.exists():
        shutil.rmtree(old)


def recover(area: Path, artifacts: tuple[str, ...]) -> None:
    """Put back what a kill between the two renames of `publish` left aside."""
    for name in artifacts:
        artifact = area / name
        old = _aside(artifact)
        if not old.exists():
            continue
        if artifact.exists():
            shutil.rmtree(old)
        else:
            old.rename(artifact)


def remove(artifact: Path, stage: str) -> bool:
    """Remove an artifact and its unfinished work; True where there was any."""
    drop_scratch(artifact.parent, stage)
    if not artifact.exists():
        return False
    # Moved first, so that a kill leaves it whole or absent.
    gone = artifact.parent / SCRATCH / f"{stage}-gone"
    gone.parent.mkdir(parents=True, exist_ok=True)
    artifact.rename(gone)
    shutil.rmtree(gone)
    return True


def _aside(artifact: Path) -> Path:
    # No stage name holds a dot, so that no stage's scratch is mistaken for it.
    return artifact.parent / SCRATCH / f".old.{artifact.name}"


# --- circumstances ---------------------------------------------------------------------------------------------------


def versions() -> dict[str, str]:
    """Versions of Python and of the main libraries, without importing them."""
    from importlib import metadata

    found = {"python": platform.python_version()}
    for name in LIBRARIES:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return found


def git_commit(folder: Path) -> str | None:
    """Name the commit that the code stands at, marked where files were changed since; none outside a repository."""
    command = ["git", "-C", str(folder), "describe", "--always", "--abbrev=40", "--dirty", "--exclude", "*"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=20)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.strip() or None if done.returncode == 0 else None
