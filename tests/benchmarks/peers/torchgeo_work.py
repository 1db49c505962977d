"""Do with TorchGeo what a benchmark does, and print the figure; runs in the peers' environment only.

    python -m tests.benchmarks.peers.torchgeo_work feed FOLDER
    python -m tests.benchmarks.peers.torchgeo_work map NETWORK FOLDER

The feed joins a data set of images with one of masks that were burnt beforehand, which is the fastest way that TorchGeo
has, and draws chips of 256 pixels at random. The map is the loop of its tutorials: a grid sampler, batches, the class
and confidence laid into arrays of the whole scene, one write.
"""

from __future__ import annotations

import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import rasterio
import torch
from torch.utils.data import DataLoader
from torchgeo.datasets import RasterDataset, stack_samples
from torchgeo.samplers import GridGeoSampler, RandomGeoSampler

from tests.benchmarks import networks

SIDE, BATCH, THREADS = 256, 8, 2
#: Chips drawn in one run, after a batch that opens the files.
CHIPS = 160


class _Scene(RasterDataset):
    filename_glob = "scene.tif"


class _Mask(RasterDataset):
    filename_glob = "mask.tif"
    is_image = False


def feed(folder: Path) -> float:
    """Draw chips with masks: samples a second."""
    both = _Scene(str(folder)) & _Mask(str(folder))
    torch.manual_seed(0)
    sampler = RandomGeoSampler(both, size=SIDE, length=CHIPS + BATCH)
    batches = iter(DataLoader(both, batch_size=BATCH, sampler=sampler, collate_fn=stack_samples))
    next(batches)
    begin, count = time.perf_counter(), 0
    for batch in batches:
        assert batch["image"].shape[1:] == (len(networks.NAMES), SIDE, SIDE)
        assert batch["mask"].shape[1:] == (SIDE, SIDE)
        count += len(batch["image"])
    return count / (time.perf_counter() - begin)


def map_scene(network: Any, folder: Path) -> float:
    """Map a scene: seconds."""
    torch.set_num_threads(THREADS)
    begin = time.perf_counter()
    scene = _Scene(str(folder))
    with rasterio.open(folder / "scene.tif") as source:
        profile, transform, shape = source.profile, source.transform, source.shape
    layers = np.empty((2, *shape), np.uint8)
    loader = DataLoader(
        scene, batch_size=BATCH, sampler=GridGeoSampler(scene, size=SIDE, stride=SIDE), collate_fn=stack_samples
    )
    with torch.inference_mode():
        for batch in loader:
            best, index = torch.softmax(network(network.frame(batch["image"])), 1).max(1)
            for place, top, label in zip(batch["bounds"], (best * 100).round_().byte(), index.byte(), strict=True):
                x, y = place[0], place[1]
                col, row = (round(value) for value in ~transform * (x.start, y.stop))
                here = slice(row, row + SIDE), slice(col, col + SIDE)
                layers[0][here], layers[1][here] = label, top
    form = {"count": 2, "dtype": "uint8", "compress": "deflate", "num_threads": THREADS, "interleave": "band"}
    with rasterio.open(folder / "peer.tif", "w", **(profile | form)) as target:
        target.write(layers)
    return time.perf_counter() - begin


def main() -> None:
    """Print one figure."""
    task, *words = sys.argv[1:]
    if task == "feed":
        print(feed(Path(words[0])))
    else:
        plain = {"unet": networks.PlainUNet, "pixel": networks.PlainPixel}[words[0]]
        print(map_scene(plain(getattr(networks, words[0])()).eval(), Path(words[1])))


if __name__ == "__main__":
    main()
