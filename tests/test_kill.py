"""Runs that are killed at every stage, in the middle of its work and just before its delivery, lose nothing."""

from __future__ import annotations

import hashlib
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from pipeline.artifacts import SCRATCH
from pipeline.config import load_area
from pipeline.graph import STAGES
from pipeline.runner import survey
from tests.worlds import World, small_world

NAMES = [stage.name for stage in STAGES]
#: The manifest is written when a stage's work is done, and before any of it is put into place.
DONE = "/.manifest.json.", 1
#: Where in its work a stage is killed: when it opens such a file in its scratch folder for the nth time, to write it.
MOMENTS = [
    ("ingest", *DONE),
    ("tile", *DONE),
    ("tile", "/cube/c/", 3),  # two of four tiles are written; the next run goes on with the third
    ("label", *DONE),
    ("label", "/role/c/", 2),  # labels are burnt, the roles of one of four tiles are written
    ("select", *DONE),
    ("augment", *DONE),
    ("train", "/saving/model.json", 1),  # the network is written, its card is not
    ("train", *DONE),  # the next run trains nothing any more
    ("evaluate", *DONE),
    ("evaluate", "/scores.json", 1),  # all pixels are predicted
    ("classify", *DONE),
    ("classify", "/parts/", 4),  # one of two bands is mapped; the file of the other is there, its rows are not
    ("export", *DONE),
    ("export", "/classes.qml", 1),  # layers and polygons are written; style, legend and report are not
]
KILLER = """
import os, signal, sys
from pipeline.cli import main

stage, place, left = sys.argv[1], sys.argv[2], int(sys.argv[3])

def watch(event, values):
    global left
    if event == "open" and f"/.scratch/{stage}-" in str(values[0]) and place in str(values[0]):
        left -= bool(values[2] & (os.O_WRONLY | os.O_RDWR))
        if not left:
            os.kill(os.getpid(), signal.SIGKILL)

sys.addaudithook(watch)
sys.exit(main(sys.argv[4:]))
"""


def kill(world: World, stage: str, place: str, nth: int) -> None:
    words = [stage, place, str(nth), "--root", str(world.root), "run", "--area", "world"]
    done = subprocess.run(
        [sys.executable, "-c", KILLER, *words], check=False, capture_output=True, text=True, timeout=300
    )
    assert done.returncode == -signal.SIGKILL, f"{stage} {place}: not killed\n{done.stdout}\n{done.stderr}"


def contents(world: World) -> list[str]:
    """The hash of every artifact in the order of the stages; manifests, which hold times, are left out."""
    found = []
    for stage in STAGES:
        folder, digest = world.data / stage.writes, hashlib.sha256()
        for path in sorted(path for path in folder.rglob("*") if path.is_file() and path.name != "manifest.json"):
            digest.update(str(path.relative_to(folder)).encode() + path.read_bytes())
        found.append(digest.hexdigest())
    return found


def manifests(world: World) -> list[bytes]:
    return [(world.data / stage.writes / "manifest.json").read_bytes() for stage in STAGES]


def states(world: World) -> list[str]:
    return [step.state for step in survey(load_area(world.root, "world"))]


@pytest.fixture
def world(tmp_path: Path) -> World:
    world = small_world(tmp_path / "world", size=96, classes=2)
    # One thread, so that a moment is the same in every run; two bands of the map, so that one may be finished.
    world.change(cluster={"kind": "threads", "workers": 1}, classify={"rows": 1}, label={"seed": 0})
    return world


def test_runs_killed_in_every_stage_lose_nothing_and_end_with_the_undisturbed_map(world: World) -> None:
    config = world.config()
    world.run("run", "--area", "world")
    undisturbed = contents(world)
    # Every artifact is made again from other values: these are the earlier ones that no kill may touch.
    world.change(ingest={"scenes": [{"files": "scenes/scene_{date}.tif", "scale": 0.5}]}, label={"seed": 1})
    world.run("run", "--area", "world")
    earlier, dated = contents(world), manifests(world)
    world.change(**config)

    for stage, place, nth in MOMENTS:
        kill(world, stage, place, nth)
        number = NAMES.index(stage)
        where = f"{stage} {place}"
        assert contents(world) == undisturbed[:number] + earlier[number:], where
        assert manifests(world)[number:] == dated[number:], where
        assert states(world) == ["fresh"] * number + ["stale"] * (len(NAMES) - number), where
        assert [path.name.split("-")[0] for path in (world.data / SCRATCH).iterdir()] == [stage], where

    world.run("run", "--area", "world")
    assert contents(world) == undisturbed
    assert states(world) == ["fresh"] * len(NAMES)
    assert list((world.data / SCRATCH).iterdir()) == []
