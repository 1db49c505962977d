"""The runner: what is fresh is left alone, what is not is run, and nothing is ever half there."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from pipeline import runner
from pipeline.artifacts import SCRATCH
from pipeline.runner import Done, clean, run, survey
from stages.errors import ArtifactError, LabelError, ModelError, SettingError
from tests.toys import Toy, make_toy

ALL = ["ingest", "tile", "label", "train", "evaluate", "classify", "export"]


@pytest.fixture
def toy(tmp_path: Path) -> Toy:
    return make_toy(tmp_path)


def ran(done: list[Done]) -> list[str]:
    return [entry.stage for entry in done if entry.seconds is not None]


def states(toy: Toy, *changes: str) -> dict[str, str]:
    return {step.stage.name: step.state for step in survey(toy.area(*changes))}


def why(toy: Toy, stage: str, *changes: str) -> list[str]:
    return next(list(step.why) for step in survey(toy.area(*changes)) if step.stage.name == stage)


def test_a_run_makes_everything_and_a_second_one_nothing(toy: Toy) -> None:
    assert set(states(toy).values()) == {"missing"}
    assert {step.why for step in survey(toy.area())} == {("there is none yet",)}
    assert ran(run(toy.area())) == ALL
    assert toy.text("map") == "Toy: |one| by model of labels, scored model of labels"
    before = {path: path.stat().st_mtime_ns for path in toy.data.rglob("*") if path.is_file()}
    assert ran(run(toy.area())) == []
    assert {path: path.stat().st_mtime_ns for path in before} == before
    assert set(states(toy).values()) == {"fresh"}
    assert list((toy.data / SCRATCH).iterdir()) == []


def test_a_stage_runs_with_what_is_stale_above_it_and_nothing_else(toy: Toy) -> None:
    assert ran(run(toy.area(), "label")) == ["ingest", "tile", "label"]
    toy.config(tile={"pad": 1})
    assert ran(run(toy.area(), "ingest")) == []
    assert ran(run(toy.area(), "label")) == ["tile", "label"]
    assert ran(run(toy.area(), "classify")) == ["train", "classify"]
    assert toy.text("classes") == "| one | by model of labels"


def test_status_says_why(toy: Toy) -> None:
    run(toy.area())
    assert why(toy, "tile", "tile.pad=2") == ["tile.pad 0 -> 2"]
    assert why(toy, "train", "tile.pad=2") == ["upstream: samples, tiles"]
    (toy.root / "raw" / "one.txt").write_text("1")
    assert why(toy, "ingest") == ["input: raw/one.txt changed"]
    (toy.root / "raw" / "one.txt").unlink()
    assert why(toy, "ingest") == ["input: raw/one.txt gone"]
    toy.edit("label", "read_text()", "read_text().strip()")
    assert why(toy, "label")[0] == f"code: {toy.package}/label.py"


def test_a_damaged_artifact_is_made_again(toy: Toy) -> None:
    run(toy.area())
    (toy.data / "tiles" / "tiles.txt").write_text("")
    assert states(toy)["tile"] == "missing"
    assert why(toy, "tile") == ["tiles.txt changed: 0 bytes, not the 5 it was made of"]
    assert ran(run(toy.area())) == ["tile"]
    (toy.data / "tiles" / "tiles.txt").unlink()
    assert why(toy, "tile") == ["has lost tiles.txt"]


def test_the_manifest_records_what_made_the_artifact(toy: Toy) -> None:
    run(toy.area("label.seed=3", "tile.memory=5"))
    label, tile = toy.manifest("samples"), toy.manifest("tiles")
    assert label["config"] == {"file": "raw/labels.txt", "seed": 3}
    assert label["seed"] == 3
    assert label["inputs"] == {"tiles": tile["key"]}
    assert list(label["sources"]) == ["raw/labels.txt"]
    assert list(tile["code"]) == [f"{toy.package}/{n}.py" for n in ("__init__", "deep/__init__", "deep/frame", "tile")]
    assert tile["config_outside_key"] == {"pause": 0.0, "memory": 5}
    assert tile["outputs"]["tiles.txt"]["bytes"] == 5
    assert tile["peak_memory_mb"] > 1
    assert {"python", "torch", "rasterio"} <= set(tile["versions"])


@pytest.mark.parametrize(
    ("fail", "error"), [("mistake", LabelError), ("bug", ZeroDivisionError), ("disk", ArtifactError)]
)
def test_a_failure_leaves_the_earlier_artifact(toy: Toy, fail: str, error: type[Exception]) -> None:
    run(toy.area())
    before = {path: path.read_bytes() for path in (toy.data / "model").iterdir()}
    with pytest.raises(error):
        run(toy.area("train.epochs=5", f"train.fail={fail}"))
    assert {path: path.read_bytes() for path in (toy.data / "model").iterdir()} == before
    assert set(states(toy).values()) == {"fresh"}
    run(toy.area("train.epochs=5"))
    assert len((toy.data / "model" / "epochs.txt").read_text().splitlines()) == 5


def test_a_full_disk_is_one_sentence_and_gives_the_space_back(toy: Toy) -> None:
    with pytest.raises(ArtifactError, match=r"^The disk is full: train could not write to .* MB free\)"):
        run(toy.area("train.fail=disk"))
    assert list((toy.data / SCRATCH).iterdir()) == []


def test_a_library_that_hides_the_full_disk_is_seen_through(toy: Toy, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(runner, "_free_mb", lambda _: 0.01)
    with pytest.raises(ArtifactError, match="The disk is full"):
        run(toy.area("train.fail=bug"))


def test_a_data_folder_that_cannot_be_made_is_told(toy: Toy) -> None:
    (toy.root / "data").write_text("a file")
    with pytest.raises(ArtifactError, match=r"^Cannot write to .*data/a \(Not a directory\)"):
        run(toy.area())


def test_an_unknown_stage_is_refused(toy: Toy) -> None:
    for act in (run, clean):
        with pytest.raises(SettingError, match="There is no stage tiles; the stages are ingest, tile"):
            act(toy.area(), "tiles")


def test_cleaning_removes_one_artifact_and_no_raw_data(toy: Toy) -> None:
    run(toy.area())
    assert clean(toy.area(), "label") == ["samples"]
    assert states(toy) == {**dict.fromkeys(ALL, "fresh"), "label": "missing"}
    assert clean(toy.area(), "label") == []
    assert len(clean(toy.area(), "all")) == 6
    assert (toy.root / "raw" / "one.txt").read_text() == "one"


# --- a given model ---------------------------------------------------------------------------------------------------


def give(toy: Toy, content: str = "given model") -> None:
    (toy.root / "elsewhere").mkdir(exist_ok=True)
    (toy.root / "elsewhere" / "model.onnx").write_text(content)
    (toy.root / "elsewhere" / "model.json").write_text("{}")
    toy.config(given={"model": "elsewhere"})


def test_a_given_model_without_labels_maps_and_scores_nothing(toy: Toy) -> None:
    give(toy)
    toy.config(label=None)
    assert ran(run(toy.area())) == ["ingest", "tile", "classify", "export"]
    assert toy.text("map") == "Toy: |one| by given model, elsewhere"
    assert states(toy) == {
        **dict.fromkeys(("ingest", "tile", "classify", "export"), "fresh"),
        "label": "skipped", "train": "given", "evaluate": "skipped",
    }  # fmt: skip
    with pytest.raises(SettingError, match="label is not run in area a: the model is given"):
        run(toy.area(), "label")


def test_a_given_model_is_scored_where_there_are_labels(toy: Toy) -> None:
    give(toy)
    assert ran(run(toy.area())) == ["ingest", "tile", "label", "evaluate", "classify", "export"]
    assert toy.text("map") == "Toy: |one| by given model, scored given model"


def test_another_given_model_makes_another_map(toy: Toy) -> None:
    give(toy)
    run(toy.area())
    give(toy, "other model")
    assert ran(run(toy.area())) == ["evaluate", "classify", "export"]


def test_a_given_folder_without_a_model_is_refused(toy: Toy) -> None:
    toy.config(given={"model": "elsewhere"})
    with pytest.raises(ModelError, match=r"given\.model elsewhere holds no model\.onnx"):
        run(toy.area())


# --- kills -----------------------------------------------------------------------------------------------------------


def killed(toy: Toy, until: Callable[[], bool], *changes: str) -> None:
    """Start a run, kill it as soon as ``until`` says so."""
    sets = [word for change in changes for word in ("--set", change)]
    process = subprocess.Popen(toy.command("run", "--area", "a", *sets), stdout=subprocess.DEVNULL)
    try:
        limit = time.monotonic() + 20
        while not until():
            assert process.poll() is None
            assert time.monotonic() < limit
            time.sleep(0.01)
    finally:
        os.kill(process.pid, signal.SIGKILL)
        assert process.wait() == -signal.SIGKILL


def test_a_killed_stage_leaves_the_earlier_artifact_and_the_next_run_completes(toy: Toy) -> None:
    run(toy.area())
    before = (toy.data / "tiles" / "manifest.json").read_bytes()
    killed(toy, lambda: any((toy.data / SCRATCH).glob("tile-*/half.txt")), "tile.pad=2", "tile.pause=60")
    assert (toy.data / "tiles" / "manifest.json").read_bytes() == before
    assert toy.text("tiles") == "|one|"
    assert ran(run(toy.area("tile.pad=2"))) == ALL[1:]
    assert toy.text("tiles") == "|  one  |"
    assert list((toy.data / SCRATCH).iterdir()) == []


def test_a_stage_that_resumes_goes_on_where_it_was_killed(toy: Toy) -> None:
    def two_epochs() -> bool:
        return any(len(log.read_text().splitlines()) == 2 for log in toy.data.glob(f"{SCRATCH}/train-*/epochs.txt"))

    killed(toy, two_epochs, "train.pause=0.3", "train.epochs=6")
    assert why(toy, "train", "train.epochs=6") == ["unfinished: its last run was stopped"]
    assert why(toy, "evaluate", "train.epochs=6") == ["there is none yet"]
    run(toy.area("train.epochs=6"))
    lines = [line.split() for line in (toy.data / "model" / "epochs.txt").read_text().splitlines()]
    assert [int(epoch) for epoch, _ in lines] == list(range(6))
    assert len({process for _, process in lines}) == 2


def test_work_of_another_key_is_not_resumed(toy: Toy) -> None:
    killed(toy, lambda: any(toy.data.glob(f"{SCRATCH}/train-*/epochs.txt")), "train.pause=60", "train.epochs=6")
    run(toy.area("train.epochs=7"))
    assert len({line.split()[1] for line in (toy.data / "model" / "epochs.txt").read_text().splitlines()}) == 1
    assert list((toy.data / SCRATCH).iterdir()) == []


def test_manifests_hold_no_path_of_this_machine(toy: Toy) -> None:
    run(toy.area())
    for manifest in toy.data.glob("*/manifest.json"):
        assert str(toy.root) not in json.dumps(json.loads(manifest.read_text()))
