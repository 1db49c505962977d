"""Artifacts are whole or absent."""

from __future__ import annotations

import json
import subprocess
import time
from pathlib import Path

import pytest

from pipeline import artifacts
from pipeline.artifacts import Manifest, absence, publish, read_manifest, recover, write_manifest
from stages import memory


def manifest(**values: object) -> Manifest:
    base = {
        "stage": "tile", "artifact": "tiles", "key": "k", "basis": "b", "config": {"a": 1}, "config_outside_key": {},
        "inputs": {"scenes": "s"}, "sources": {}, "code": {"stages/tile.py": "c"}, "versions": {}, "commit": None,
        "seed": 0, "started": "2025-01-01T00:00:00+00:00", "seconds": 1.5, "peak_memory_mb": 10.0, "outputs": {},
    }  # fmt: skip
    return Manifest(**{**base, **values})


@pytest.fixture
def area(tmp_path: Path) -> Path:
    (tmp_path / "tiles").mkdir()
    (tmp_path / "tiles" / "cube").write_text("old")
    (tmp_path / artifacts.SCRATCH).mkdir()
    return tmp_path


def finished(area: Path, content: str = "new") -> Path:
    scratch = artifacts.open_scratch(area, "tile", "0123456789abcdef", resumes=False)
    (scratch / "cube").write_text(content)
    return scratch


def test_a_manifest_is_read_as_it_was_written(tmp_path: Path) -> None:
    (tmp_path / "cube").write_text("12345")
    written = manifest(outputs=artifacts.outputs_of(tmp_path))
    write_manifest(tmp_path, written)
    assert read_manifest(tmp_path) == written
    assert [path.name for path in sorted(tmp_path.iterdir())] == ["cube", "manifest.json"]


@pytest.mark.parametrize("damage", ["", "{", "[]", "null", "{}", '{"stage": "tile"}'])
def test_a_damaged_manifest_is_a_missing_artifact(tmp_path: Path, damage: str) -> None:
    (tmp_path / "manifest.json").write_text(damage)
    assert read_manifest(tmp_path) is None
    assert absence(tmp_path, "tile") == "manifest.json is damaged"


def store(folder: Path) -> Path:
    """An artifact of one file and one folder with chunks at several depths."""
    (folder / "cube").write_text("12345")
    for name in ("zarr.json", "c/0/0", "c/0/1", "c/1/0"):
        (folder / "store" / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / "store" / name).write_text("123")
    write_manifest(folder, manifest(outputs=artifacts.outputs_of(folder)))
    assert read_manifest(folder) is not None
    return folder


@pytest.mark.parametrize(
    ("command", "said"),
    [
        ("printf 1234 > cube", "cube changed: 4 bytes, not the 5 it was made of"),
        ("rm cube", "has lost cube"),
        ("rm cube; mkdir cube", "has lost cube"),
        ("rm -r store", "has lost store"),
        ("rm -r store; touch store", "has lost store"),
        ("rm store/c/0/1", "store changed: 3 files of 9 bytes, not the 4 of 12 it was made of"),
        ("rm -r store/c", "store changed: 1 files of 3 bytes, not the 4 of 12 it was made of"),
        ("touch store/c/2", "store changed: 5 files of 12 bytes, not the 4 of 12 it was made of"),
        ("printf 12 > store/c/1/0", "store changed: 4 files of 11 bytes, not the 4 of 12 it was made of"),
        ("rm manifest.json", "unfinished: it has no manifest.json"),
    ],
)
def test_an_artifact_that_lost_a_file_or_a_byte_is_missing(tmp_path: Path, command: str, said: str) -> None:
    subprocess.run(["/bin/sh", "-c", command], check=True, cwd=store(tmp_path))
    assert read_manifest(tmp_path) is None
    assert absence(tmp_path, "tile") == said


def test_a_folder_of_thousands_of_files_is_looked_at_in_no_time(tmp_path: Path) -> None:
    for number in range(4000):
        folder = tmp_path / "store" / str(number % 40)
        folder.mkdir(parents=True, exist_ok=True)
        (folder / str(number)).touch()
    write_manifest(tmp_path, manifest(outputs={"store": {"files": 4000, "bytes": 0, "sha256": ""}}))
    begun = time.perf_counter()
    assert read_manifest(tmp_path) is not None
    assert time.perf_counter() - begun < 0.5


def test_what_was_never_made_is_told_from_what_was_stopped(area: Path) -> None:
    assert absence(area / "model", "train") == "there is none yet"
    artifacts.open_scratch(area, "train", "0123456789abcdef", resumes=True)
    assert absence(area / "model", "train") == "unfinished: its last run was stopped"


def test_a_manifest_of_another_format_is_a_missing_artifact(tmp_path: Path) -> None:
    write_manifest(tmp_path, manifest(format=artifacts.FORMAT + 1))
    assert read_manifest(tmp_path) is None
    assert absence(tmp_path, "tile") == "made by another version of terrastage"


def test_outputs_are_described_by_size_hash_and_number(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_bytes(b"abc")
    (tmp_path / "store" / "deep").mkdir(parents=True)
    (tmp_path / "store" / "x").write_bytes(b"12")
    (tmp_path / "store" / "deep" / "y").write_bytes(b"345")
    found = artifacts.outputs_of(tmp_path)
    assert found["a.txt"] == {
        "bytes": 3, "files": None, "sha256": "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad",
    }  # fmt: skip
    assert (found["store"]["bytes"], found["store"]["files"]) == (5, 2)
    (tmp_path / "store" / "deep" / "y").write_bytes(b"346")
    assert artifacts.outputs_of(tmp_path)["store"]["sha256"] != found["store"]["sha256"]


def test_publishing_replaces_the_earlier_artifact_and_leaves_nothing_else(area: Path) -> None:
    publish(finished(area), area / "tiles")
    assert (area / "tiles" / "cube").read_text() == "new"
    assert list((area / artifacts.SCRATCH).iterdir()) == []


@pytest.mark.parametrize("renames", [0, 1, 2])
def test_a_kill_while_publishing_leaves_the_old_or_the_new_whole(
    area: Path, renames: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    scratch, done = finished(area), []
    rename = Path.rename

    def dying(path: Path, target: Path) -> Path:
        if len(done) == renames:
            raise KeyboardInterrupt
        done.append(path)
        return rename(path, target)

    def no_cleanup(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(Path, "rename", dying)
    monkeypatch.setattr(artifacts.shutil, "rmtree", no_cleanup)
    with pytest.raises(KeyboardInterrupt):
        publish(scratch, area / "tiles")
    monkeypatch.undo()
    recover(area, ("tiles", "model"))
    assert (area / "tiles" / "cube").read_text() == ("new" if renames == 2 else "old")
    assert not [path for path in (area / artifacts.SCRATCH).iterdir() if path.name.startswith(".old")]


def test_scratch_of_the_same_key_is_kept_for_a_stage_that_resumes(area: Path) -> None:
    (finished(area) / "manifest.json").write_text("{}")
    other = area / artifacts.SCRATCH / "tile-ffffffffffff"
    other.mkdir()
    beside = area / artifacts.SCRATCH / "train-0123456789ab"
    beside.mkdir()
    scratch = artifacts.open_scratch(area, "tile", "0123456789abcdef", resumes=True)
    assert [path.name for path in scratch.iterdir()] == ["cube"]
    assert not other.exists()
    assert beside.exists()
    assert list(artifacts.open_scratch(area, "tile", "0123456789abcdef", resumes=False).iterdir()) == []


def test_removing_takes_the_artifact_and_its_unfinished_work(area: Path) -> None:
    finished(area)
    assert artifacts.remove(area / "tiles", "tile")
    assert not (area / "tiles").exists()
    assert list((area / artifacts.SCRATCH).iterdir()) == []
    assert not artifacts.remove(area / "tiles", "tile")


def test_a_text_is_written_whole_or_not_at_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "a.json"
    artifacts.write_whole(file, "old")
    monkeypatch.setattr("os.fsync", lambda _: (_ for _ in ()).throw(OSError(28, "No space left on device")))
    with pytest.raises(OSError, match="No space"):
        artifacts.write_whole(file, "new")
    assert file.read_text() == "old"
    assert list(tmp_path.iterdir()) == [file]


def test_versions_are_told_without_importing(tmp_path: Path) -> None:
    import sys

    script = (
        "import sys, json; from pipeline.artifacts import versions\n"
        "print(json.dumps([versions(), 'torch' in sys.modules]))"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    found, imported = json.loads(done.stdout)
    assert found["torch"].startswith("2.")
    assert not imported


def test_peak_memory_is_of_this_stage() -> None:
    memory.forget_peak()
    before = memory.peak() / 1024**2
    block = bytearray(60_000_000)
    assert memory.peak() / 1024**2 - before > 40
    del block
