"""Peak memory of cutting and of mapping an area does not grow with its height."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import yaml

from tests.networks import write_network
from tests.worlds import CRS, RESOLUTION, World, write_raster

#: Three float32 bands of 1024 columns: 24 MiB of pixels low, 96 MiB high. Four times the height adds 72 MiB.
WIDTH, LOW, HIGH = 1024, 2048, 8192
#: MiB. Seen in eight runs: tile -2 to 6, classify 4 to 17; three times as high again adds nothing more to either.
#: It is what two threads do at the same time that varies, not what is kept.
BOUND = 32


def make_area(root: Path, height: int) -> World:
    """An area of noise, with a network of one convolution given, so that nothing is trained."""
    rng = np.random.default_rng(0)
    write_raster(root / "scene.tif", rng.normal(500, 100, (3, height, WIDTH)).astype(np.float32), nodata=-9999.0)
    write_network(root / "model", rng.normal(size=(3, 3, 5, 5)) / 100, channels=("a", "b", "c"), dates=("2024",))
    config = {
        "grid": {"crs": CRS, "resolution": RESOLUTION, "tile": 256},
        "ingest": {"scenes": [{"files": "scene.tif", "date": 2024}], "bands": {"a": 1, "b": 2, "c": 3}},
        "given": {"model": "model"},
        "classify": {"window": 256, "overlap": 32, "rows": 2},
        "cluster": {"kind": "threads", "workers": 2},
    }
    (root / "configs").mkdir()
    (root / "configs" / "world.yaml").write_text(yaml.safe_dump(config))
    return World(root, np.empty((0, 0), np.uint8))


def peaks(world: World) -> dict[str, float]:
    """Run each stage in a process of its own; its peak resident memory (VmHWM) in MiB, as its manifest tells it."""
    found = {}
    for stage, artifact in (("tile", "tiles"), ("classify", "classes")):
        world.run("run", stage, "--area", "world")
        found[stage] = json.loads((world.data / artifact / "manifest.json").read_text())["peak_memory_mb"]
    return found


def test_an_area_four_times_as_high_takes_no_more_memory(tmp_path: Path) -> None:
    low, high = (peaks(make_area(tmp_path / str(height), height)) for height in (LOW, HIGH))
    assert high["tile"] - low["tile"] < BOUND, (low, high)
    assert high["classify"] - low["classify"] < BOUND, (low, high)
