"""Measure how fast `classify` maps a cube of series with an LSTM, against eager torch on pixels held in memory.

Run it as `python -m tests.benchmarks.series`; `--side 512` makes a quick one.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from stages import classify
from stages.formats.calendar import day_of
from stages.formats.tiles import Tiles
from stages.formats.weights import ONNX, write_card
from stages.geo.grid import Grid
from stages.inference.predictor import Predictor
from tests.networks import card_of
from tests.processes import alone, peak_mb

STEPS, BANDS, CLASSES, HIDDEN, TILE, BATCH = 12, 6, 7, 64, 256, 65_536
NAMES = tuple(f"b{i}" for i in range(BANDS))
DATES = tuple(f"2018-{month:02}-15" for month in range(1, STEPS + 1))


def main() -> None:
    """Print seconds, ratio, largest difference of a probability, and peak memory at two heights."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--side", type=int, default=2048, help="side of the cube in pixels")
    side = parser.parse_args().side
    with tempfile.TemporaryDirectory() as root:
        folder = Path(root)
        for height in (side, side // 2):
            alone(_write_cube, folder / f"tiles{height}", height, side)
        alone(_write_model, folder / "lstm")
        seconds, peak = alone(_ours, folder, side)
        _, low_peak = alone(_ours, folder, side // 2)
        limit = alone(_eager, side)
        off = alone(_difference, folder, side)
        print(f"{side} x {side}, {STEPS} dates x {BANDS} bands, LSTM of {HIDDEN}, two threads, read and write included")
        print(f"{'ours':>10}{'limit':>10}{'ratio':>8}{'px/s':>10}{'difference':>12}{'peak':>10}{'peak at half':>14}")
        print(f"{seconds:>8.1f} s{limit:>8.1f} s{seconds / limit:>8.2f}{side**2 / seconds:>10,.0f}{off:>12.1e}"
              f"{peak:>7.0f} MB{low_peak:>11.0f} MB")  # fmt: skip


def _write_cube(folder: Path, height: int, width: int) -> None:
    folder.mkdir()
    grid = Grid("EPSG:32633", 10.0, 500_000.0, 5_400_000.0, width, height, TILE)
    tiles = Tiles.create(folder, grid, NAMES, DATES, "scaled", step="1 month")
    rng = np.random.default_rng(0)
    for _, _, window in grid.tiles():
        shape = (window.height, window.width)
        values = rng.integers(0, 5000, (STEPS, BANDS, *shape)).astype(np.float32) / np.float32(10_000)
        tiles.write(window, values, np.ones((STEPS, *shape), bool))


def _classifier() -> Any:
    import torch

    from stages.models.classifier import Classifier, Normalise
    from stages.models.recurrent import LSTM

    torch.manual_seed(0)
    network = LSTM(BANDS, STEPS, CLASSES, hidden=HIDDEN, calendar=False)
    count = STEPS * BANDS
    steps = [step for step in range(STEPS) for _ in NAMES]
    return Classifier(Normalise([0.25] * count, [0.15] * count, steps=steps), network, CLASSES).eval()


def _write_model(folder: Path) -> None:
    from stages.training.onnx_file import export_module

    folder.mkdir()
    classifier = _classifier()
    export_module(classifier, classifier.normalise, 1, folder / ONNX)
    channels = tuple(f"{band}@{date}" for date in DATES for band in NAMES)
    card = card_of(CLASSES, 0, channels=channels, dates=DATES, scaling="scaled", name="lstm", step="1 month")
    write_card(folder, replace(card, days=tuple(day_of(date) for date in DATES)))


def _ours(root: Path, height: int) -> tuple[float, float]:
    """Map the cube: seconds and peak memory in MB."""
    import dask

    out = root / f"map{height}"
    out.mkdir()
    begin = time.perf_counter()
    with dask.config.set(scheduler="threads", num_workers=2):
        classify.run(root / f"tiles{height}", root / "lstm", out, classify.Config())
    return time.perf_counter() - begin, peak_mb()


def _plain() -> Any:
    """Build the same network of torch's own parts: (pixels, steps, bands) in, logits out."""
    import torch
    from torch import nn

    ours = _classifier().network
    cell = ours.layers[0][0].cell
    lstm = nn.LSTM(BANDS, HIDDEN, batch_first=True)
    with torch.no_grad():
        lstm.weight_ih_l0.copy_(cell.weight[:, :BANDS])
        lstm.weight_hh_l0.copy_(cell.weight[:, BANDS:])
        lstm.bias_ih_l0.copy_(cell.bias)
        lstm.bias_hh_l0.zero_()
    return lambda series: ours.head(lstm(series)[0][:, -1])


def _eager(height: int) -> float:
    """Run eager torch with default settings over batches that are in memory already."""
    import torch

    torch.set_num_threads(2)
    network = _plain()
    series = torch.rand((BATCH, STEPS, BANDS), generator=torch.Generator().manual_seed(0))
    begin = time.perf_counter()
    with torch.inference_mode():
        for _ in range(height * height // BATCH):
            network(series).max(1)
    return time.perf_counter() - begin


def _difference(root: Path, height: int) -> float:
    """Find the largest difference between the shipped graph and eager torch, in probability."""
    import torch

    tiles = Tiles(root / f"tiles{height}")
    image, valid = tiles.read_channels(next(tiles.grid.tiles())[2])
    found = Predictor(root / "lstm").probabilities(image[None], valid[None], tiles.days)[0]
    with torch.inference_mode():
        scaled = _classifier().normalise(torch.from_numpy(image)[None], torch.from_numpy(valid)[None].float())
        series = scaled.reshape(STEPS, BANDS, -1).permute(2, 0, 1)
        expected = torch.softmax(_plain()(series), 1).T.reshape(found.shape).numpy()
    return float(np.abs(found - expected).max())


if __name__ == "__main__":
    main()
