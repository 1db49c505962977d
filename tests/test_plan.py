"""`terrastage plan`: what tiling and mapping will take, told before anything is computed."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pytest
import yaml

from pipeline import foresee as module
from pipeline.cli import main
from pipeline.cluster import Address, Local, Threads
from pipeline.config import Area, load_area
from pipeline.foresee import Foreseen, foresee, lines
from pipeline.slurm import Slurm
from stages.errors import ArtifactError, ModelError, SettingError
from tests.networks import write_network
from tests.worlds import CRS, RESOLUTION, write_raster

HIGH, WIDE, TILE = 300, 420, 128


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """An area of noise with a given network of one 3 x 3 convolution; nothing has been run."""
    rng = np.random.default_rng(0)
    scene = rng.normal(500, 100, (3, HIGH, WIDE)).round().astype(np.float32)
    write_raster(tmp_path / "scene.tif", scene, nodata=-9999.0)
    write_network(tmp_path / "model", rng.normal(size=(4, 3, 3, 3)), channels=("a", "b", "c"), dates=("2024",))
    config = {
        "title": "Noise",
        "grid": {"crs": CRS, "resolution": RESOLUTION, "tile": TILE},
        "ingest": {"scenes": [{"files": "scene.tif", "date": 2024}], "bands": {"a": 1, "b": 2, "c": 3}},
        "given": {"model": "model"},
        "classify": {"window": 128, "layers": ["probabilities"], "memory": "1 GB"},
        "cluster": {"kind": "threads", "workers": 2},
    }
    (tmp_path / "configs").mkdir()
    (tmp_path / "configs" / "noise.yaml").write_text(yaml.safe_dump(config))
    return tmp_path


def run(root: Path, stage: str) -> None:
    assert main(["--root", str(root), "run", stage, "--area", "noise"]) == 0


def area(root: Path, *changes: str) -> Area:
    return load_area(root, "noise", changes)


def listed(root: Path) -> dict[Path, int]:
    """Everything in the area's folder, with when it was written."""
    return {path: path.stat().st_mtime_ns for path in (root / "data" / "noise").rglob("*")}


def test_without_scenes_it_says_what_to_run(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--root", str(root), "plan", "--area", "noise"]) == 2
    told = capsys.readouterr().err
    assert "run `make ingest AREA=noise`, which copies no pixel" in told
    assert len(told.splitlines()) == 1


def test_the_headers_of_the_scenes_suffice_and_nothing_is_left_behind(root: Path) -> None:
    run(root, "ingest")
    before = listed(root)
    title, (tile, classify) = foresee(area(root))
    assert listed(root) == before
    assert title == "Noise: 420 x 300 pixels of 10, 1 date of 3 bands, from the headers of the scenes"
    # 3 rows and 4 columns of tiles; a pixel is 3 values of 4 bytes and its validity, and 3 bytes of counts.
    assert (tile.stage, tile.pieces) == ("tile", 12)
    assert "126,000 pixels x (1 date x (3 bands x 4 bytes + 1) + 1 season x 3) = 2.02 MB before" in tile.arithmetic[1]
    assert tile.disk is not None
    assert 0.1 < tile.disk / (HIGH * WIDE * 16) < 1
    assert tile.seconds is not None
    assert 0 < tile.seconds < 60
    # 3 x 4 windows of 128 pixels; class, confidence and 4 probabilities of a byte.
    assert (classify.stage, classify.pieces, classify.disk) == ("classify", 12, HIGH * WIDE * 6.0)
    assert classify.seconds is not None
    assert 0 < classify.seconds < 60
    assert classify.memory is not None
    assert 5e7 < classify.memory < 1e9


def test_what_the_last_run_took_is_told_of_the_same_scenes(root: Path) -> None:
    run(root, "tile")
    manifest = json.loads((root / "data" / "noise" / "tiles" / "manifest.json").read_text())
    title, (tile, _) = foresee(area(root))
    assert title.endswith("from the tiles")
    assert tile.seconds == pytest.approx(manifest["seconds"])
    assert tile.disk == pytest.approx(manifest["outputs"]["cube.zarr"]["bytes"])
    # Tiles of another grid tell nothing of this one.
    title, (tile, _) = foresee(area(root, "grid.tile=64"))
    assert title.endswith("from the headers of the scenes")
    assert tile.pieces == 35
    assert "of a trial" in tile.arithmetic[2]


def test_a_scene_on_paper_takes_more_time_and_disk_and_no_more_memory(root: Path) -> None:
    run(root, "tile")
    before = listed(root)
    title, (tile, classify) = foresee(area(root), 100_000)
    assert listed(root) == before
    assert "100,000 x 100,000 pixels" in title
    # 782 x 782 tiles and windows, each read once, as whole windows with their surroundings say the same.
    assert (tile.pieces, classify.pieces) == (782**2, 782**2)
    assert classify.disk == 6e10
    assert "10,000,000,000 pixels x 6 bytes" in classify.arithmetic[3]
    _, (less, smaller) = foresee(area(root), 10_000)
    assert smaller.pieces == 79**2
    assert tile.seconds is not None
    assert less.seconds is not None
    assert classify.seconds is not None
    assert smaller.seconds is not None
    # Both are of trials of their own, which differ by more than the arithmetic.
    assert 20 < tile.seconds / less.seconds < 500
    assert 20 < classify.seconds / smaller.seconds < 500
    assert classify.memory is not None
    assert smaller.memory is not None
    # What is joined is as wide as the grid: 256 rows of 2 bytes.
    assert abs(classify.memory - smaller.memory - 2 * 256 * 90_000) < 3e7


def test_time_is_windows_times_the_trial_over_what_is_done_at_once(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run(root, "tile")
    monkeypatch.setattr(module, "_map_some", lambda *_: (6.0, 3))
    for workers, rows in ((1, 3), (2, 1), (4, 1)):
        _, (_, classify) = foresee(area(root, f"cluster.workers={workers}", f"classify.rows={rows}"))
        # 12 windows of 2 s; 3 blocks at most, so that a fourth worker has nothing to do.
        assert classify.seconds == pytest.approx(12 * 2.0 / min(workers, 3))
    # Windows that blocks share are predicted by each: 4 rows of 64 + 64 and what lies above, of 5 columns each.
    _, (_, shared) = foresee(area(root, "classify.overlap=64", "classify.rows=2"))
    rows, cols = 4, 6
    assert shared.pieces == (rows + 1) * cols
    assert "30 with those that neighbouring blocks both predict" in shared.arithmetic[0]


def test_a_budget_that_is_too_small_and_a_model_that_does_not_fit_are_told(root: Path) -> None:
    run(root, "tile")
    with pytest.raises(SettingError, match=r"classify\.memory is 30 MB, but one call takes \d+ MB at least"):
        foresee(area(root, "classify.memory=30 MB"))
    write_network(root / "model", np.zeros((4, 2, 3, 3)), channels=("a", "z"), dates=("2024",))
    with pytest.raises(ModelError, match="z"):
        foresee(area(root))
    with pytest.raises(SettingError, match="--side is 0; give the side of a square grid"):
        foresee(area(root), 0)


def test_without_a_model_the_rest_is_planned(root: Path) -> None:
    config = yaml.safe_load((root / "configs" / "noise.yaml").read_text())
    del config["given"]
    config |= {
        "label": {"file": "labels.tif"},
        "classes": [{"name": f"c{k}", "labels": [k], "code": k, "color": "#000000"} for k in (1, 2)],
    }
    write_raster(root / "labels.tif", np.ones((HIGH, WIDE), np.uint8))
    (root / "configs" / "noise.yaml").write_text(yaml.safe_dump(config))
    run(root, "ingest")
    _, (tile, classify) = foresee(area(root))
    assert tile.pieces == 12
    assert (classify.pieces, classify.seconds) == (None, None)
    assert "there is no model yet; run `make train AREA=noise`" in classify.arithmetic[0]


def test_stale_scenes_are_not_planned_from(root: Path) -> None:
    run(root, "ingest")
    with pytest.raises(ArtifactError, match=r"scenes of area noise are stale \(.*bands.*\), so nothing can be planned"):
        foresee(area(root, "ingest.bands={a: 1, b: 2}"))


def test_workers_are_those_of_the_cluster(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("os.cpu_count", lambda: 6)
    assert module._workers(Threads()) == (1, 6)
    assert module._workers(Threads(workers=3)) == (1, 3)
    assert module._workers(Local(kind="local", workers=3, threads=2)) == (3, 2)
    assert module._workers(Local(kind="local")) == (2, 1)
    assert module._workers(Slurm(kind="slurm", workers=5, cores=8)) == (5, 8)
    assert module._workers(Address(kind="address", address="tcp://there:1")) == (1, 6)


def test_lines_and_json_say_the_same(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run(root, "tile")
    capsys.readouterr()
    assert main(["--root", str(root), "plan", "--area", "noise", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    stages = [Foreseen(**{**one, "arithmetic": tuple(one["arithmetic"])}) for one in found["stages"]]
    assert [list(asdict(one)) for one in stages] == [list(one) for one in found["stages"]]
    told = lines(found["planned"], stages)
    assert told[0] == found["planned"]
    assert [line.split()[0] for line in told if line.startswith("  ") and line[2] != " "] == ["tile", "classify"]
    assert "12 tiles, " in told[1]
    assert " of memory, " in told[1]
    assert main(["--root", str(root), "plan", "--area", "noise"]) == 0
    assert capsys.readouterr().out.splitlines()[0] == found["planned"]
