"""The batch: every area in turn, models kept where only scenes changed, failures told and survived."""

from __future__ import annotations

import threading
import time
from pathlib import Path

import pytest

from pipeline import batch
from pipeline.lock import held
from pipeline.runner import run, survey
from stages.errors import BusyError
from tests.toys import Toy, make_toy

NEW_SCENES = {"scenes": ["raw/one.txt", "raw/two.txt"]}


@pytest.fixture
def toy(tmp_path: Path) -> Toy:
    return make_toy(tmp_path)


def lines(toy: Toy, *names: str) -> list[str]:
    said: list[str] = []
    batch.run(toy.root, names, said.append, toy.stages)
    return [" ".join(line.split()) for line in said]


def steps(toy: Toy, *changes: str) -> dict[str, str]:
    return {step.stage.name: step.state for step in survey(toy.area(*changes))}


def copy(toy: Toy, name: str, **sections: object) -> None:
    (toy.root / "configs" / f"{name}.yaml").write_text((toy.root / "configs" / "a.yaml").read_text())
    toy.config(name=name, **sections)


def test_every_area_that_is_no_example_is_run_once(toy: Toy) -> None:
    copy(toy, "b", title="B")
    copy(toy, "c", example=True)
    first = lines(toy)
    assert [line.split(" in ")[0] for line in first] == [
        f"{name} mapped ingest, tile, label, train, evaluate, classify, export" for name in "ab"
    ]
    assert lines(toy) == ["a up to date", "b up to date"]
    assert lines(toy, "c")[0].startswith("c mapped")
    assert list((toy.root / "data" / "logs").glob("*-batch.log"))


def test_a_failure_is_told_and_the_others_go_on(toy: Toy) -> None:
    copy(toy, "b", train={"fail": "bug"})
    copy(toy, "c", train={"fail": "mistake"})
    copy(toy, "d", train={"epohcs": 5})
    copy(toy, "e")
    said = lines(toy)
    assert [line.split()[1] for line in said] == ["mapped", "failed", "failed", "failed", "mapped"]
    assert said[1] == "b failed by a bug (ZeroDivisionError: a bug); see data/b/logs"
    assert said[2] == "c failed The labels are too few; add some."
    assert "did you mean train.epochs?" in said[3]
    (log,) = (toy.root / "data" / "b" / "logs").glob("*.log")
    assert "Traceback" in log.read_text()
    done = toy.call("batch")
    assert done.returncode == 1
    assert "Traceback" not in done.stderr
    assert toy.call("batch", "a", "e").returncode == 0


def test_a_model_is_kept_where_only_the_scenes_changed(toy: Toy) -> None:
    run(toy.area())
    trained = toy.manifest("model")
    toy.config(ingest=NEW_SCENES)
    assert lines(toy)[0].startswith("a mapped ingest, tile, classify, export in")
    assert lines(toy) == ["a up to date"]
    # A model from other scenes has no scores here.
    assert toy.text("map") == "Toy: |one+two| by model of labels, elsewhere"
    assert toy.manifest("model") == {**trained, "kept_for": toy.manifest("model")["kept_for"]}
    assert steps(toy)["train"] == "kept"
    assert steps(toy)["classify"] == "fresh"
    why = next(step.why[0] for step in survey(toy.area()) if step.stage.name == "train")
    assert why.startswith("kept by batch")
    # The mark holds for a run by hand, and ends with the next change.
    assert [done.stage for done in run(toy.area()) if done.seconds is not None] == []
    assert steps(toy, "train.epochs=4")["train"] == "stale"
    assert steps(toy, "ingest.scenes=[raw/two.txt]")["train"] == "stale"


@pytest.mark.parametrize("change", ["train", "tile", "labels", "code", "retrain"])
def test_a_model_is_not_kept_where_anything_else_changed(toy: Toy, change: str) -> None:
    run(toy.area())
    toy.config(ingest=NEW_SCENES)
    if change == "train":
        toy.config(train={"epochs": 4})
    elif change == "tile":
        toy.config(tile={"pad": 1})
    elif change == "labels":
        (toy.root / "raw" / "labels.txt").write_text("new labels")
    elif change == "code":
        toy.edit("deep/frame", "EDGE + text", "EDGE + EDGE + text")
    else:
        toy.config(batch={"retrain": True})
    assert lines(toy)[0].startswith("a mapped ingest, tile, label, train, evaluate, classify, export in")
    assert set(steps(toy).values()) == {"fresh"}


def test_a_change_that_only_tile_has_seen_is_not_forgotten(toy: Toy) -> None:
    run(toy.area())
    toy.config(tile={"pad": 1})
    run(toy.area(), "tile")
    toy.config(ingest=NEW_SCENES)
    assert "train" in lines(toy)[0]


def test_a_run_by_hand_trains_on_new_scenes(toy: Toy) -> None:
    run(toy.area())
    toy.config(ingest=NEW_SCENES)
    assert steps(toy)["train"] == "stale"
    run(toy.area())
    assert set(steps(toy).values()) == {"fresh"}


OTHER_SCENES = {"scenes": ["raw/two.txt"]}


def picky(toy: Toy) -> None:
    """Make classify refuse a model that has not seen tiles without "one" in them."""
    head = "out: Path, config: Config) -> None:\n"
    toy.edit("train", head, f"{head}    (out / 'seen').write_text((tiles / 'tiles.txt').read_text())\n")
    toy.edit(
        "classify",
        head,
        f"""{head}
    from stages.errors import ModelError
    text = (tiles / "tiles.txt").read_text()
    if "one" not in text and text != (model / "seen").read_text():
        raise ModelError("The model does not fit the scenes.")
""",
    )


def test_a_model_that_does_not_fit_new_scenes_is_trained_again_by_hand(toy: Toy) -> None:
    picky(toy)
    run(toy.area())
    toy.config(ingest=OTHER_SCENES)
    for _ in range(2):
        assert lines(toy) == ["a failed The model does not fit the scenes."]
        assert steps(toy)["train"] == "stale"
    assert [done.stage for done in run(toy.area()) if done.seconds is not None] == [
        "label", "train", "evaluate", "classify", "export"
    ]  # fmt: skip
    assert set(steps(toy).values()) == {"fresh"}


def test_a_failed_batch_leaves_the_mark_of_the_last_good_one(toy: Toy) -> None:
    picky(toy)
    run(toy.area())
    toy.config(ingest=NEW_SCENES)
    assert lines(toy)[0].startswith("a mapped ingest, tile, classify, export in")
    mark = toy.manifest("model")["kept_for"]
    toy.config(ingest=OTHER_SCENES)
    assert lines(toy) == ["a failed The model does not fit the scenes."]
    assert toy.manifest("model")["kept_for"] == mark
    toy.config(ingest=NEW_SCENES)
    assert steps(toy)["train"] == "kept"


def test_two_batches_never_overlap(toy: Toy) -> None:
    with held(toy.root / "data" / ".batch.lock", "batch", "x"), pytest.raises(BusyError, match="batch is in use"):
        lines(toy)


def test_a_batch_may_wait_for_whoever_is_at_work(toy: Toy) -> None:
    inside = threading.Event()
    order: list[str] = []

    def other() -> None:
        with held(toy.data / ".lock", "area a", "terrastage run"):
            inside.set()
            time.sleep(0.3)
            order.append("other")

    thread = threading.Thread(target=other)
    thread.start()
    inside.wait()
    batch.run(toy.root, ("a",), lambda line: order.append(line.split()[1]), toy.stages, wait=True)
    thread.join()
    assert order == ["other", "mapped"]


def test_an_area_in_use_is_a_failure_of_that_area(toy: Toy) -> None:
    copy(toy, "b")
    with held(toy.data / ".lock", "area a", "terrastage run"):
        said = lines(toy)
    assert said[0].startswith("a failed The area a is in use by process")
    assert said[1].startswith("b mapped")


def test_no_area_is_said(toy: Toy) -> None:
    toy.config(example=True)
    assert lines(toy) == ["There is no area to run: every config in configs/ is marked as an example."]
