"""The benchmark's table: alternating pairs in fresh processes, medians, aims, and a file that is whole or absent."""

from __future__ import annotations

import copy
import json
import os
from functools import partial
from pathlib import Path

import numpy as np
import pytest

from tests.benchmarks import pairs
from tests.benchmarks.pairs import Row, Work
from tests.processes import alone, peak_mb, restart_peak

MEGABYTE = 1_000_000


def _prepare(folder: Path) -> None:
    (folder / "prepared").write_text(str(os.getpid()))


def _note(folder: Path, who: str, values: dict[str, list[float]]) -> float:
    """Say who is at work, and give the value of this turn."""
    assert (folder / "prepared").read_text() != str(os.getpid()), "the work is not done where it was prepared"
    log = folder.parent / "log"
    turns = log.read_text().split() if log.exists() else []
    log.write_text(" ".join([*turns, f"{who}{os.getpid()}"]))
    return values[who][sum(turn.startswith(who) for turn in turns)]


def _ours(folder: Path) -> float:
    held = np.ones(120 * MEGABYTE, np.uint8)
    return _note(folder, "o", {"o": [3.0, 1.0, 2.0]}) + 0 * float(held[-1])


def _limit(folder: Path) -> float:
    held = np.ones(20 * MEGABYTE, np.uint8)
    return _note(folder, "l", {"l": [5.0, 4.0, 30.0]}) + 0 * float(held[-1])


def _size(folder: Path) -> float:
    return float(pairs.side_of(folder, 4096, 512))


def _nothing(folder: Path) -> None:
    """Need no inputs."""


def _fail(folder: Path) -> float:
    raise RuntimeError("the scene is gone")


@pytest.fixture
def bare(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """Processes that load no libraries, and a place of our own for their folders."""
    monkeypatch.setattr(pairs, "alone", lambda work, *arguments: alone(_without_libraries, work, arguments))
    monkeypatch.setattr(pairs.tempfile, "tempdir", str(tmp_path))
    return tmp_path


def _without_libraries(work: object, arguments: tuple[object, ...]) -> object:
    pairs.LIBRARIES = ()
    return work(*arguments)  # type: ignore[operator]


def test_pairs_alternate_in_fresh_processes_and_give_medians(bare: Path) -> None:
    work = Work("toy", "s", 0.5, _prepare, _ours, _limit, flat=1.05, budget=200.0)
    said: list[Row] = []
    rows = pairs.measure([work], runs=3, said=said.append)
    turns = (bare / "log").read_text().split()
    assert [turn[0] for turn in turns] == list("ollool")
    assert len({turn[1:] for turn in turns}) == 6
    assert rows == said
    first, flat, budget = rows
    assert (first.ours, first.limit, first.ratio, first.runs) == (2.0, 5.0, 0.4, 3)
    assert first.reached
    assert 110 < first.peak_mb < 150
    assert (flat.unit, flat.ours, flat.reached) == ("MB", first.peak_mb, False)
    assert (budget.limit, budget.reached) == (200.0, True)
    assert not list(bare.glob("bench-*"))


def _peer(folder: Path) -> float:
    return _size(folder) / 8


def test_a_peer_is_measured_where_it_is_installed(bare: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    work = Work("toy", "px/s", 1.0, _nothing, _size, _size, peer=_peer, times_peer=10.0)
    monkeypatch.setattr(pairs.peers, "READY", bare / "ready")
    (row,) = pairs.measure([work], runs=1)
    assert row.peer is None
    pairs.write([row], bare / "alone.json")
    assert "peer" not in json.loads((bare / "alone.json").read_text())["rows"][0]
    (bare / "ready").touch()
    row, beside = pairs.measure([work], runs=2)
    assert (row.peer, row.ratio, beside.ratio, beside.reached) == (512.0, 1.0, 8.0, False)
    pairs.write([row, beside], bare / "beside.json")
    assert json.loads((bare / "beside.json").read_text())["rows"][0]["peer"] == 512.0


@pytest.mark.parametrize(
    ("unit", "ours", "reached"), [("s", 2.0, True), ("s", 2.1, False), ("px/s", 2.0, True), ("px/s", 1.9, False)]
)
def test_less_seconds_and_more_a_second_reach_the_aim(unit: str, ours: float, reached: bool) -> None:
    row = Row("toy", ours, 4.0, unit, 0.5, 10.0, 1)
    assert row.reached == reached
    assert ("!" in pairs.line(row)) != reached
    assert pairs.line(row).split()[-1] == "1"


def test_a_quick_run_is_small_and_leaves_out_what_is_long(bare: Path) -> None:
    works = [Work(name, "s", 1.0, _nothing, _size, _size, long=name == "b") for name in "ab"]
    assert [(row.work, row.ours) for row in pairs.measure(works, runs=1)] == [("a", 4096.0), ("b", 4096.0)]
    assert [(row.work, row.ours) for row in pairs.measure(works, runs=1, quick=True)] == [("a", 512.0)]


def test_the_file_has_the_rows_and_the_machine(bare: Path, capsys: pytest.CaptureFixture[str]) -> None:
    works = [Work(name, "s", 1.0, _nothing, _size, _size) for name in ("first", "second")]
    out = bare / "data" / "bench.json"
    pairs.main(works, ["--runs", "2"], out)
    found = json.loads(out.read_text())
    assert [set(row) for row in found["rows"]] == [{"work", "ours", "limit", "unit", "ratio", "peak_mb", "runs"}] * 2
    assert [(row["work"], row["ratio"], row["runs"]) for row in found["rows"]] == [
        ("first", 1.0, 2),
        ("second", 1.0, 2),
    ]
    assert found["machine"]["cores"] == os.cpu_count()
    assert found["machine"]["cpu"]
    assert capsys.readouterr().out.count("4,096") == 4


def test_a_part_of_the_works_does_not_replace_the_file(bare: Path) -> None:
    works = [Work(name, "s", 1.0, _nothing, _size, _size) for name in ("first", "second")]
    out = bare / "bench.json"
    out.write_text("whole")
    for arguments in (["--only", "FIRST"], ["--quick"]):
        pairs.main(works, ["--runs", "1", *arguments], out)
    assert out.read_text() == "whole"
    pairs.main(works, ["--runs", "1", "--only", "first", "--out", str(out)], out)
    assert [row["work"] for row in json.loads(out.read_text())["rows"]] == ["first"]


def test_work_that_fails_leaves_the_file_alone(bare: Path) -> None:
    out = bare / "bench.json"
    out.write_text("whole")
    works = [Work("good", "s", 1.0, _nothing, _size, _size), Work("bad", "s", 1.0, _nothing, _fail, _size)]
    with pytest.raises(RuntimeError, match="the scene is gone"):
        pairs.main(works, ["--runs", "1"], out)
    assert out.read_text() == "whole"
    assert [path.name for path in bare.iterdir()] == ["bench.json"]


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--only", "third"], "'third'; there are: first; second"),
        (["--runs", "0"], "at least 1"),
        (["--peers"], "make bench-peers"),
    ],
)
def test_what_cannot_be_asked_is_said(
    arguments: list[str],
    said: str,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    works = [Work(name, "s", 1.0, _nothing, _size, _size) for name in ("first", "second")]
    monkeypatch.setattr(pairs.peers, "READY", tmp_path / "ready")
    with pytest.raises(SystemExit):
        pairs.main(works, arguments, tmp_path / "bench.json")
    assert said in capsys.readouterr().err


def test_every_work_of_the_package_is_named_once_and_has_an_aim() -> None:
    from tests.benchmarks.__main__ import works

    names = [work.name for work in works()]
    assert len(names) == len(set(names))
    for needed in ("U-Net, 4096", "1 x 1 network, 8192", "patch classifier", "LSTM", "chips", "32768 against 2048"):
        assert any(needed in name for name in names), needed
    assert all(work.aim > 0 for work in works())


def test_a_peak_is_forgotten_and_found_again() -> None:
    before, after, above = alone(partial(_peaks, 200))
    assert after < before - 150
    assert 90 < above < 130


def _peaks(megabytes: int) -> tuple[float, float, float]:
    """Peaks of holding much once, of starting anew, and of holding half of it above that."""
    much = np.ones(megabytes * MEGABYTE, np.uint8)
    del much
    before, after = peak_mb(), restart_peak()
    half = np.ones(megabytes // 2 * MEGABYTE, np.uint8)
    del half
    return before, after, peak_mb() - after


def test_a_store_of_links_reads_as_its_pattern_everywhere(tmp_path: Path) -> None:
    from stages.formats.tiles import Tiles
    from stages.geo.grid import Window
    from tests.benchmarks.inputs import TILES, repeated

    repeated(tmp_path, 1024, 2)
    tiles = Tiles(tmp_path / TILES)
    corner, valid = tiles.read(Window(0, 0, 512, 512))
    assert valid.all()
    assert len(np.unique(corner[0, :, ::256, ::256].reshape(4, -1), axis=1).T) == 4
    for row, col in ((512, 0), (0, 512), (512, 512)):
        np.testing.assert_array_equal(tiles.read(Window(row, col, 512, 512))[0], corner)


@pytest.mark.parametrize("name", ["unet", "pixel", "patch"])
def test_the_limit_is_the_same_network(name: str, tmp_path: Path) -> None:
    from tests.benchmarks import classify, networks, patches
    from tests.benchmarks.inputs import check_alike

    writers = {"unet": classify.write_unet, "pixel": classify.write_pixel, "patch": patches.write_patch}
    writers[name](tmp_path)
    ours = getattr(networks, name)()
    plain = {"unet": networks.PlainUNet, "pixel": networks.PlainPixel, "patch": networks.PlainPatch}[name](ours).eval()
    rim, cut = (networks.MARGIN, True) if name == "patch" else (classify.RIM, False)
    check_alike(tmp_path / name, ours, plain, rim, cut)
    plain.head = copy.deepcopy(plain.head)
    plain.head.bias.data[0] += 1
    with pytest.raises(AssertionError):
        check_alike(tmp_path / name, ours, plain, rim, cut)
