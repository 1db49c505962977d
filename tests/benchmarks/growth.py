"""Measure whether time grows with the number of pixels and memory with nothing, with overlapping, blended windows.

    python -m tests.benchmarks.growth [--quick]

The limit is the smallest scene of the same kind: pixels a second must not fall, nor peak memory rise. The 1 x 1 network
is said to look at a pixel around each, or nothing would be blended. Scenes repeat 4 x 4 tiles, for a scene of 32768 x
32768 pixels would take 17 GB.
"""

from __future__ import annotations

from functools import partial
from pathlib import Path

from stages.formats.tiles import Tiles
from tests.benchmarks.classify import write_pixel, write_unet
from tests.benchmarks.inputs import TILES, map_seconds, repeated
from tests.benchmarks.pairs import Work, main, side_of

UNET, PIXEL, PATTERN, OVERLAP = (1024, 2048, 4096), (2048, 8192, 32768), 4, 64
#: Linear within 20 %, memory flat within 5 %; and the budget that peak memory is to keep to, in MB.
LINEAR, FLAT, BUDGET = 0.8, 1.05, 500.0
#: A larger scene takes minutes: it is mapped once, and not in a quick run.
SECONDS = 16_384
#: Pairs of the others: they take long, and five would say no more.
PAIRS = 3


def prepare(folder: Path) -> None:
    for side in sorted({*UNET, *PIXEL}):
        if side_of(folder, side, min(side, SECONDS)) == side:
            repeated(folder / str(side), side, PATTERN)
    write_unet(folder)
    write_pixel(folder, margin=1)


def rate(model: str, side: int, folder: Path) -> float:
    """Map the scene that is named after its side with a model: pixels a second."""
    tiles = folder / str(side) / TILES
    height, width = Tiles(tiles).grid.shape
    return height * width / map_seconds(tiles, folder / model, overlap=OVERLAP)


def _works(name: str, model: str, sides: tuple[int, ...], budget: float | None) -> list[Work]:
    least = partial(rate, model, sides[0])
    return [
        Work(
            f"{name}, overlap {OVERLAP}: {side} against {sides[0]}", "px/s", LINEAR, prepare,
            partial(rate, model, side), least, flat=FLAT, budget=budget,
            most_runs=1 if side > SECONDS else PAIRS, long=side > SECONDS,
        )
        for side in sides[1:]
    ]  # fmt: skip


WORKS = (
    *_works("U-Net", "unet", UNET, None),
    *_works("1 x 1 network", "pixel", PIXEL, BUDGET),
)

if __name__ == "__main__":
    main(WORKS)
