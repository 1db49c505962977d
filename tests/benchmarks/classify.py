"""Measure how fast and in how much memory `classify` maps a scene, against eager torch on tiles held in memory.

Run it as `python -m tests.benchmarks.classify`; `--side 1024` makes a quick one.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

from stages import classify
from stages.formats import maps
from stages.formats.tiles import Tiles
from stages.formats.weights import ONNX, write_card
from stages.geo.grid import Grid, Window
from tests.networks import BANDS, card_of
from tests.processes import alone, peak_mb

CHANNELS, CLASSES, TILE = 4, 7, 256
NAMES = (*BANDS, "blue")


def main() -> None:
    """Print a table of two models at one size, and of the peak memory at two heights."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--side", type=int, default=4096, help="side of the scene in pixels")
    side = parser.parse_args().side
    with tempfile.TemporaryDirectory() as root:
        folder = Path(root)
        for height in (side, side // 2):
            alone(_write_scene, folder / f"tiles{height}", height, side)
        print(f"{side} x {side} x {CHANNELS} float32, {CLASSES} classes, two threads")
        print(f"{'model':8}{'ours':>10}{'limit':>10}{'ratio':>8}{'px/s':>10}{'peak':>10}{'peak at half':>20}")
        for name in ("pixel", "unet"):
            alone(_write_model, folder / name, name)
            seconds, peak = alone(_ours, folder, name, side)
            _, low_peak = alone(_ours, folder, name, side // 2)
            limit, _ = alone(_eager, folder, name, side)
            print(f"{name:8}{seconds:>8.1f} s{limit:>8.1f} s{seconds / limit:>8.2f}{side**2 / seconds:>10,.0f}"
                  f"{peak:>7.0f} MB{low_peak:>17.0f} MB")  # fmt: skip


def _write_scene(folder: Path, height: int, width: int) -> None:
    folder.mkdir()
    grid = Grid("EPSG:32633", 10.0, 500_000.0, 5_400_000.0, width, height, TILE)
    tiles = Tiles.create(folder, grid, NAMES, ("2020",), "digital numbers")
    rng = np.random.default_rng(0)
    for _, _, window in grid.tiles():
        values = rng.normal(size=(1, CHANNELS, window.height, window.width)).astype(np.float32)
        tiles.write(window, values, np.ones((1, window.height, window.width), bool))


def _network(name: str) -> Any:
    """Build a 1x1 classifier, or a small U-Net of two levels."""
    import torch
    from torch import nn

    torch.manual_seed(0)
    if name == "pixel":
        return nn.Conv2d(CHANNELS, CLASSES, 1)

    def block(inputs: int, outputs: int) -> nn.Module:
        layers = [nn.Conv2d(inputs, outputs, 3, padding=1), nn.ReLU(), nn.Conv2d(outputs, outputs, 3, padding=1)]
        return nn.Sequential(*layers, nn.ReLU())

    class Small(nn.Module):
        """Down twice, up twice, with skips."""

        def __init__(self) -> None:
            super().__init__()
            self.down = nn.ModuleList([block(CHANNELS, 16), block(16, 32), block(32, 64)])
            self.up = nn.ModuleList([block(96, 32), block(48, 16)])
            self.head = nn.Conv2d(16, CLASSES, 1)

        def forward(self, image: Any) -> Any:
            first = self.down[0](image)
            second = self.down[1](nn.functional.max_pool2d(first, 2))
            third = self.down[2](nn.functional.max_pool2d(second, 2))
            up = nn.functional.interpolate(third, scale_factor=2.0, mode="nearest")
            up = self.up[0](torch.cat([up, second], 1))
            up = nn.functional.interpolate(up, scale_factor=2.0, mode="nearest")
            return self.head(self.up[1](torch.cat([up, first], 1)))

    return Small()


def _write_model(folder: Path, name: str) -> None:
    import torch

    from stages.models.classifier import Normalise
    from stages.training.onnx_file import export_module

    folder.mkdir()
    network = _network(name)

    class Framed(torch.nn.Module):
        """Give the network the inputs that a model folder has."""

        def __init__(self) -> None:
            super().__init__()
            self.network = network

        def forward(self, image: Any, valid: Any) -> Any:
            return self.network(image) * valid

    reach = {"margin": 22, "stride": 4} if name == "unet" else {"margin": 0, "stride": 1}
    export_module(Framed(), Normalise([0.0] * CHANNELS, [1.0] * CHANNELS), reach["stride"], folder / ONNX)
    write_card(folder, card_of(CLASSES, CHANNELS, channels=NAMES, name=name, **reach))


def _ours(root: Path, name: str, height: int) -> tuple[float, float]:
    """Map the scene: seconds and peak memory in MB."""
    import dask

    out = root / f"{name}{height}"
    out.mkdir()
    begin = time.perf_counter()
    with dask.config.set(scheduler="threads", num_workers=2):
        classify.run(root / f"tiles{height}", root / name, out, classify.Config())
    return time.perf_counter() - begin, peak_mb()


def _eager(root: Path, name: str, height: int) -> tuple[float, float]:
    """Do the least there is to do: read every tile once, eager torch without overlap, write the layers once."""
    import rasterio
    import torch

    torch.set_num_threads(2)
    tiles = Tiles(root / f"tiles{height}")
    network = _network(name).eval()
    begin = time.perf_counter()
    layers = np.empty((2, *tiles.grid.shape), np.uint8)
    windows: list[Window] = [window for _, _, window in tiles.grid.tiles()]
    images = [tiles.read_channels(window)[0] for window in windows]
    with torch.inference_mode():
        for first in range(0, len(windows), 4):
            batch = torch.from_numpy(np.stack(images[first : first + 4]))
            best, index = torch.softmax(network(batch), 1).max(1)
            for window, top, label in zip(windows[first : first + 4], best, index, strict=True):
                layers[0][window.slices], layers[1][window.slices] = label, (100 * top).round()
    profile = maps.layer_profile(*tiles.grid.shape[::-1], tiles.grid.crs, tiles.grid.transform)
    for layer, file in zip(layers, ("a.tif", "b.tif"), strict=True):
        with rasterio.open(root / file, "w", **profile) as target:
            target.write(layer, 1)
    return time.perf_counter() - begin, 0.0


if __name__ == "__main__":
    main()
