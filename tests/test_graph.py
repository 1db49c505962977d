"""The graph holds together, and the Makefile holds to it."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from pipeline.graph import STAGES, check_signature

ROOT = Path(__file__).parent.parent


def make(*arguments: str) -> str:
    done = subprocess.run(["make", *arguments], cwd=ROOT, capture_output=True, text=True, check=True)
    return done.stdout


@pytest.mark.parametrize("stage", STAGES, ids=lambda stage: stage.name)
def test_a_stage_takes_what_the_graph_says(stage) -> None:
    check_signature(stage)


@pytest.mark.parametrize("stage", STAGES, ids=lambda stage: stage.name)
def test_a_stage_begins_with_one_sentence(stage) -> None:
    first = (stage.module.__doc__ or "").splitlines()[0]
    assert first.endswith(".")


def test_every_stage_has_a_target_and_a_clean_target() -> None:
    for stage in STAGES:
        # -o: take the environment for finished, whether or not it stands.
        assert f"terrastage run {stage.name} --area x" in make("-n", "-o", ".venv/.ready", stage.name, "AREA=x")
        assert f"terrastage clean {stage.name} --area x" in make(
            "-n", "-o", ".venv/.ready", f"clean-{stage.name}", "AREA=x"
        )


def test_the_makefile_names_no_other_stage() -> None:
    line = next(line for line in (ROOT / "Makefile").read_text().splitlines() if line.startswith("STAGES"))
    assert line.split(":=")[1].split() == [stage.name for stage in STAGES]


def test_make_alone_lists_the_stages_with_what_they_read_and_write() -> None:
    rows = [" ".join(line.split()) for line in make().splitlines()]
    assert "tile scenes -> tiles warp onto the grid, mask, regularise in time; a chunked store" in rows
    assert sum(" -> " in row for row in rows) == len(STAGES)


def test_settings_reach_the_command() -> None:
    line = make("-n", "-o", ".venv/.ready", "train", "SET=train.epochs=5 label.folds=4")
    assert "--set 'train.epochs=5' --set 'label.folds=4'" in line
