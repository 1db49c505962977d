"""What the planner foresees of a call, and that a map keeps to the budget that it is given."""

from __future__ import annotations

import threading
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import dask
import numpy as np
import pytest
import rasterio
from hypothesis import assume, given
from hypothesis import strategies as st
from onnx import helper

from stages import classify
from stages.errors import SettingError
from stages.formats.tiles import Tiles
from stages.inference import planner
from stages.inference.backends import Engine
from stages.inference.blend import Layout
from stages.inference.planner import Cost, bytes_of, fitted, probe, windows_of
from stages.inference.predictor import Predictor
from stages.inference.stream import Streaming, blocks_of, finished, stream_of
from tests.networks import card_of, write_graph, write_network, write_tiles
from tests.processes import alone, peak_mb

CPU = Engine()
#: Windows of 64 pixels with 4 around them, of which 16 x 16 lie beside one another without overlap.
GRID = Layout(1024, 1024, 64, 0, 1, 4)
MB = 1e6


def cost(**changes: Any) -> Cost:
    return replace(Cost(72 * 72, 0.5, 100 * MB, 200 * MB, 4 * MB, 5), **changes)


def test_amounts_of_memory_are_read() -> None:
    assert (bytes_of("500 MB"), bytes_of("2GB"), bytes_of(" 1.5 GB ")) == (5e8, 2e9, 1.5e9)
    for text in ("2", "2 gb", "0 GB", "-1 GB", "much"):
        with pytest.raises(ValueError, match="is no amount of memory; write it as in 500 MB"):
            bytes_of(text)


def test_calls_at_once_are_fitted_into_a_budget_by_hand() -> None:
    # A thread holds 3 windows of 4 MB read ahead, what two windows say (2 x 5 classes x 64 x 64 x 4 bytes) and a row of
    # class and confidence; and what is joined is 2 layers of 256 rows. 0.6 MB in all but for what is read ahead.
    small = 4 * (2 * 5 * 64 * 64 * 4 + 2 * 64 * 1024) + 2 * 256 * 1024
    beside = 4 * 3 * 4 * MB + small
    roomy = fitted(cost(), GRID, 2e9, 4, CPU)
    assert (roomy.at_once, roomy.batch, roomy.most) == (4, 1, 72 * 72)
    assert roomy.memory == pytest.approx(200 * MB + 4 * 100 * MB + beside)
    for calls in (3, 2, 1):
        tight = fitted(cost(), GRID, roomy.memory - (4 - calls) * 100 * MB + 1, 4, CPU)
        assert (tight.at_once, tight.most) == (calls, 72 * 72)


@given(st.floats(1e6, 3e9), st.floats(1e5, 1e9), st.floats(1e6, 9e8), st.integers(1, 32), st.integers(1, 4))
def test_a_plan_keeps_to_its_budget_or_says_what_the_least_is(
    budget: float, call: float, held: float, workers: int, batch: int
) -> None:
    grid = replace(GRID, side=512)
    one = cost(pixels=520 * 520, call=call, held=held)
    try:
        plan = fitted(one, grid, budget, workers, CPU, batch=batch)
    except SettingError as fault:
        words = str(fault).split()
        least = bytes_of(" ".join(words[words.index("takes") + 1 : words.index("takes") + 3]))
        assert budget < least
        assert fitted(one, grid, least, workers, CPU, batch=batch).memory <= least
        with pytest.raises(SettingError):
            fitted(one, grid, least - 2 * MB, workers, CPU, batch=batch)
        return
    assert plan.memory <= budget * (1 + 1e-9)
    assert 1 <= plan.at_once <= workers
    # Parts only where not even one window fits.
    assert plan.most == one.pixels or plan.at_once == plan.batch == 1
    assume(plan.at_once < workers)
    assert plan.memory + plan.call > budget * (1 - 1e-9)


def test_an_accelerator_is_shown_as_many_windows_as_fit() -> None:
    engine = Engine("torch", "cuda")
    assert fitted(cost(), GRID, 100e9, 1, engine).batch == planner.MOST_BATCH
    assert fitted(cost(), GRID, 800 * MB, 1, engine).batch == 5
    assert fitted(cost(), GRID, 800 * MB, 1, engine, batch=2).batch == 2


def test_a_cost_is_scaled_by_pixels() -> None:
    larger = cost(pixels=36 * 72).of(GRID)
    assert (larger.pixels, larger.seconds, larger.call, larger.held, larger.shown) == (
        72 * 72, 1.0, 200 * MB, 200 * MB, 8 * MB,
    )  # fmt: skip


def world(folder: Path, side: int = 512) -> tuple[Path, Path]:
    """Noise and a network of one 5 x 5 convolution."""
    rng = np.random.default_rng(0)
    valid = rng.random((side, side)) > 0.1
    write_tiles(folder / "tiles", np.where(valid, rng.normal(size=(3, side, side)), 0), valid)
    write_network(folder / "model", rng.normal(size=(3, 3, 5, 5)) / 3, name="tiny")
    return folder / "tiles", folder / "model"


class Calls:
    """Watches the calls of a network: the most that there are at once, and the largest in pixels."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now = self.most = self.pixels = self.count = 0
        self._lock, real = threading.Lock(), Predictor.probabilities

        def watched(predictor: Predictor, image: np.ndarray, *more: Any) -> np.ndarray:
            with self._lock:
                self.now, self.count = self.now + 1, self.count + 1
                self.most, self.pixels = max(self.most, self.now), max(self.pixels, len(image) * image[0, 0].size)
            time.sleep(0.01)  # so that calls that may meet do meet
            found = real(predictor, image, *more)
            with self._lock:
                self.now -= 1
            return found

        monkeypatch.setattr(Predictor, "probabilities", watched)


def mapped(tiles: Path, model: Path, out: Path, memory: str) -> tuple[np.ndarray, np.ndarray]:
    """Map with two threads: classes and probabilities."""
    out.mkdir()
    config = classify.Config(window=256, memory=memory, layers=("probabilities",), bits=16)
    with dask.config.set(scheduler="threads", num_workers=2):
        classify.run(tiles, model, out, config)
    with rasterio.open(out / "classes.tif") as one, rasterio.open(out / "probabilities.tif") as other:
        return one.read(1), other.read().astype(int)


def test_a_small_budget_makes_fewer_calls_at_once_then_smaller_ones_and_the_same_map(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tiles, model = world(tmp_path)
    monkeypatch.setattr("os.cpu_count", lambda: 2)
    # 200 MB are held and a window of 256 pixels with 2 around takes 100.
    monkeypatch.setattr(planner, "probe", lambda _: cost(pixels=260 * 260, shown=0.1 * MB))
    maps, seen = {}, {}
    for memory in ("450 MB", "350 MB", "260 MB"):
        with monkeypatch.context() as patch:
            calls = Calls(patch)
            maps[memory] = mapped(tiles, model, tmp_path / memory, memory)
            seen[memory] = calls.most, calls.pixels, calls.count
    assert seen["450 MB"] == (2, 260 * 260, 4)
    assert seen["350 MB"] == (1, 260 * 260, 4)
    # Half a window is more than the half of its pixels, as it has a rim of its own: quarters.
    assert seen["260 MB"] == (1, 132 * 132, 16)
    for classes, likely in maps.values():
        np.testing.assert_array_equal(classes, maps["450 MB"][0])
        assert np.abs(likely - maps["450 MB"][1]).max() <= 1


def test_a_budget_smaller_than_one_call_is_refused_with_the_least_there_must_be(tmp_path: Path) -> None:
    tiles, model = world(tmp_path)
    with pytest.raises(SettingError, match=r"classify\.memory is 20 MB, but one call takes \d+ MB at least") as told:
        mapped(tiles, model, tmp_path / "out", "20 MB")
    least = int(str(told.value).split("one call takes ")[1].split()[0])
    assert 20 < least < 2000
    assert not (tmp_path / "out" / "classes.tif").exists()


def test_a_probe_finds_a_window_where_there_is_one_and_nothing_where_nothing_is(tmp_path: Path) -> None:
    tiles, model = world(tmp_path)
    found = probe(stream_of(Tiles(tiles), model, Streaming(window=256)))
    assert found is not None
    assert (found.pixels, found.classes) == (260 * 260, 3)
    # As it is read: 3 channels of 4 bytes and a validity, of 132 pixels each way scaled to 260.
    assert found.shown == pytest.approx(260 * 260 * 13)
    assert found.call >= 260 * 260 * 12
    assert found.seconds > 0
    empty = write_tiles(tmp_path / "empty", np.zeros((3, 80, 80)), np.zeros((80, 80), bool))
    assert probe(stream_of(empty, model, Streaming(window=64))) is None


@pytest.mark.parametrize("overlap", [0, 16])
def test_windows_are_counted_as_often_as_they_are_predicted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, overlap: int
) -> None:
    tiles = write_tiles(tmp_path / "tiles", np.ones((3, 300, 200)))
    model = write_network(tmp_path / "model", np.ones((3, 3, 5, 5)))
    config = Streaming(window=64, overlap=overlap, rows=2)
    stream = stream_of(tiles, model, config)
    blocks = blocks_of(stream.layout, config)
    calls = Calls(monkeypatch)
    for block in blocks:
        for _ in finished(stream, block):
            pass
    assert calls.count == windows_of(stream.layout, blocks)
    assert (calls.count > len(stream.layout.rows) * len(stream.layout.cols)) == bool(overlap)


def hungry(folder: Path) -> Path:
    """Write a network that makes 400 values of every pixel: 100 MB of a window of 256 pixels."""
    rng = np.random.default_rng(0)
    nodes = [
        helper.make_node("Mul", ["image", "valid"], ["masked"]),
        helper.make_node("Conv", ["masked", "wide"], ["many"]),
        helper.make_node("Relu", ["many"], ["some"]),
        helper.make_node("Conv", ["some", "narrow"], ["logits"]),
    ]
    constants = {"wide": rng.normal(size=(400, 3, 1, 1)), "narrow": rng.normal(size=(3, 400, 1, 1)) / 400}
    return write_graph(folder, nodes, constants, card_of(3, 3))


def peak_of(tiles: Path, model: Path, out: Path, memory: str) -> float:
    """Map in this process: its peak in MB as budgets count them."""
    mapped(tiles, model, out, memory)
    return peak_mb() * 1.024**2


def test_the_peak_of_a_process_keeps_to_the_budget(tmp_path: Path) -> None:
    tiles, _ = world(tmp_path)
    model = hungry(tmp_path / "hungry")
    roomy = alone(peak_of, tiles, model, tmp_path / "roomy", "2 GB")
    tight = alone(peak_of, tiles, model, tmp_path / "tight", "300 MB")
    assert roomy > 350, roomy
    assert tight < 300 * 1.15, (tight, roomy)
