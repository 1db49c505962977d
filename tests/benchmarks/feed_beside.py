"""Measure the training feed beside TorchGeo's, in alternating runs; only where the peers' environment is installed.

    make bench-peers
    python -m tests.benchmarks.feed_beside [--runs 5] [--quick]

Both draw 256 x 256 x 4 chips with their labels at random from the same ground, in one process. TorchGeo joins a GeoTIFF
of the bands, not compressed, with one of the labels, burnt beforehand: its fastest way.
"""

from __future__ import annotations

from functools import partial
from pathlib import Path

from tests.benchmarks import feed, peers
from tests.benchmarks.inputs import RASTER, write_raster
from tests.benchmarks.pairs import Work, main

#: Times TorchGeo's rate to reach.
TIMES = 10.0


def prepare(folder: Path) -> None:
    from stages.formats.samples import Samples
    from stages.formats.tiles import Tiles

    feed.prepare_flat(folder)
    tiles, samples = Tiles(folder / "tiles"), Samples(folder / "samples")
    write_raster(folder / RASTER, tiles.grid, len(tiles.bands), lambda window: tiles.read(window)[0][0])
    write_raster(folder / "mask.tif", tiles.grid, 1, lambda window: samples.read("target", window)[None], "uint8")


_SIDE = feed.FLAT[0]
_BESIDE = Work(
    "feed 256 x 256 x 4, beside TorchGeo", "samples/s", 0.8, prepare, partial(feed.ours, _SIDE, feed.STILL, 0),
    partial(feed.least, _SIDE, 1), peer=peers.torchgeo_feed, times_peer=TIMES,
)  # fmt: skip
WORKS: tuple[Work, ...] = (_BESIDE,) if peers.READY.exists() else ()

if __name__ == "__main__":
    main(WORKS)
