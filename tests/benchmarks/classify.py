"""Measure how fast `classify` maps a scene with a U-Net and with a network of one 1 x 1 convolution.

    python -m tests.benchmarks.classify [--quick]

The U-Net is the project's own, of about half a million parameters, with its normalisation; the 1 x 1 network costs next
to nothing, so all that is measured is reading, cutting, joining and writing.
"""

from __future__ import annotations

from functools import partial
from pathlib import Path

from tests.benchmarks.inputs import (
    RASTER,
    TILES,
    check_alike,
    least_seconds,
    map_seconds,
    write_classifier,
    write_scene,
)
from tests.benchmarks.networks import PlainPixel, PlainUNet, pixel, unet
from tests.benchmarks.pairs import Work, main, side_of
from tests.benchmarks.peers import torchgeo_map

#: Pixels at the rim of a scene, which the plain U-Net sees otherwise.
RIM = 64


def write_unet(folder: Path) -> None:
    """Write the model folder of the U-Net."""
    ours = unet()
    write_classifier(folder / "unet", ours, int(ours.network.margin), int(ours.network.stride))


def write_pixel(folder: Path, margin: int = 0) -> None:
    """Write the model folder of the 1 x 1 network; with a ``margin`` it is said to look at its surroundings."""
    write_classifier(folder / "pixel", pixel(), margin, 1)


def prepare_unet(folder: Path) -> None:
    write_scene(folder, side_of(folder, 4096, 1024))
    write_unet(folder)
    check_alike(folder / "unet", unet(), PlainUNet(unet()).eval(), RIM)


def prepare_pixel(folder: Path) -> None:
    write_scene(folder, side_of(folder, 8192, 2048))
    write_pixel(folder)
    check_alike(folder / "pixel", pixel(), PlainPixel(pixel()).eval(), 0)


def our_unet(folder: Path) -> float:
    return map_seconds(folder / TILES, folder / "unet")


def our_pixel(folder: Path) -> float:
    return map_seconds(folder / TILES, folder / "pixel", overlap=0)


def least_unet(folder: Path) -> float:
    return least_seconds(folder / RASTER, PlainUNet(unet()).eval())


def least_pixel(folder: Path) -> float:
    return least_seconds(folder / RASTER, PlainPixel(pixel()).eval())


WORKS = (
    Work(
        "U-Net, 4096 x 4096 x 4", "s", 0.45, prepare_unet, our_unet, least_unet, peer=partial(torchgeo_map, "unet")
    ),
    Work(
        "1 x 1 network, 8192 x 8192 x 4, no overlap", "s", 1.3, prepare_pixel, our_pixel, least_pixel,
        peer=partial(torchgeo_map, "pixel"),
    ),
)  # fmt: skip

if __name__ == "__main__":
    main(WORKS)
