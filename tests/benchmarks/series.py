"""Measure how fast `classify` maps a cube of series with an LSTM, against eager torch on pixels held in memory.

    python -m tests.benchmarks.series [--quick]

The limit is torch's own LSTM with the same weights on batches of 65,536 pixels, one read of the cube as a GeoTIFF of
all bands of all dates, and one write of class and confidence.
"""

from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from stages.formats.calendar import day_of
from stages.formats.tiles import Tiles
from stages.formats.weights import ONNX, write_card
from stages.geo.grid import Window
from tests.benchmarks.inputs import (
    RASTER,
    THREADS,
    TILES,
    field_of,
    grid_of,
    map_seconds,
    write_layers,
    write_raster,
)
from tests.benchmarks.networks import CLASSES
from tests.benchmarks.pairs import Work, main, side_of
from tests.networks import card_of

STEPS, BANDS, HIDDEN, BATCH = 12, 6, 64, 65_536
NAMES = tuple(f"b{i}" for i in range(BANDS))
DATES = tuple(f"2018-{month:02}-15" for month in range(1, STEPS + 1))
#: Largest difference of a probability between the shipped graph and torch's own LSTM.
ALIKE = 1e-5


def prepare(folder: Path) -> None:
    _write_cube(folder, side_of(folder, 2048, 512))
    _write_model(folder / "lstm")
    _check_alike(folder)


def _write_cube(folder: Path, side: int) -> None:
    """Write the cube as a tile store and as a GeoTIFF with the same values."""
    grid = grid_of(side)
    (folder / TILES).mkdir()
    tiles = Tiles.create(folder / TILES, grid, NAMES, DATES, "scaled", step="1 month")
    field = field_of(BANDS) / np.float32(10_000)
    sides = field.shape[1] - grid.tile

    def values(window: Window) -> np.ndarray:
        """Cut every date at another place: (time, band, y, x)."""
        first = window.row // grid.tile * 89 + window.col // grid.tile * 31
        corners = [((first + 53 * step) % sides, (2 * first + 97 * step) % sides) for step in range(STEPS)]
        return np.stack([field[:, row : row + window.height, col : col + window.width] for row, col in corners])

    def write(window: Window) -> None:
        tiles.write(window, values(window), np.ones((STEPS, window.height, window.width), bool))

    with ThreadPoolExecutor(THREADS) as pool:
        list(pool.map(write, [window for _, _, window in grid.tiles()]))
    channels = STEPS * BANDS
    write_raster(folder / RASTER, grid, channels, lambda window: values(window).reshape(channels, window.height, -1))


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


def ours(folder: Path) -> float:
    return map_seconds(folder / TILES, folder / "lstm")


def least(folder: Path) -> float:
    """Read the cube, run eager torch over batches that lie in memory, normalised, already, and write: seconds."""
    import rasterio
    import torch

    torch.set_num_threads(THREADS)
    network, normalise = _plain(), _classifier().normalise
    mean, deviation = (part.reshape(STEPS, BANDS) for part in (normalise.mean, normalise.deviation))
    begin = time.perf_counter()
    with rasterio.open(folder / RASTER) as source:
        image, profile = source.read(), source.profile
    spent = time.perf_counter() - begin
    pixels = image.reshape(STEPS, BANDS, -1)
    layers = np.empty((2, pixels.shape[2]), np.uint8)
    with torch.inference_mode():
        for first in range(0, pixels.shape[2], BATCH):
            some = np.ascontiguousarray(pixels[..., first : first + BATCH].transpose(2, 0, 1))
            batch = ((torch.from_numpy(some) - mean) / deviation).clamp(-normalise.clip, normalise.clip)
            if first == 0:
                network(batch)
            begin = time.perf_counter()
            best, index = torch.softmax(network(batch), 1).max(1)
            layers[0, first : first + BATCH] = index.byte()
            layers[1, first : first + BATCH] = (best * 100).round_().byte()
            spent += time.perf_counter() - begin
    begin = time.perf_counter()
    write_layers(folder / "limit.tif", layers.reshape(2, *image.shape[1:]), profile)
    return spent + time.perf_counter() - begin


def _check_alike(folder: Path) -> None:
    """Make sure that what is raced is the same: the shipped graph and torch's own LSTM."""
    import onnxruntime as ort
    import torch

    tiles = Tiles(folder / TILES)
    image, valid = tiles.read_channels(Window(0, 0, 64, 64))
    session = ort.InferenceSession(str(folder / "lstm" / ONNX), providers=["CPUExecutionProvider"])
    known = {"image": image[None], "valid": valid[None].astype(np.float32), "days": np.float32([tiles.days])}
    logits = session.run(["logits"], {entry.name: known[entry.name] for entry in session.get_inputs()})[0]
    with torch.inference_mode():
        scaled = _classifier().normalise(torch.from_numpy(image)[None], torch.from_numpy(valid)[None].float())
        series = scaled.reshape(STEPS, BANDS, -1).permute(2, 0, 1)
        expected = torch.softmax(_plain()(series), 1).T.reshape(logits[0].shape).numpy()
    np.testing.assert_allclose(torch.softmax(torch.from_numpy(logits[0]), 0).numpy(), expected, atol=ALIKE)


WORKS = (Work("LSTM of 64 on every pixel, 2048 x 2048 x 12 x 6", "s", 0.55, prepare, ours, least),)

if __name__ == "__main__":
    main(WORKS)
