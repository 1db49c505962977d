"""Measure how fast `classify` maps a scene with a patch classifier, against its dense pass in eager torch.

    python -m tests.benchmarks.patches [--quick]

Every pixel is classified by the 9 x 9 patch around it. The limit evaluates the network for all
pixels of a tile at once.
"""

from __future__ import annotations

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
from tests.benchmarks.networks import MARGIN, PlainPatch, patch
from tests.benchmarks.pairs import Work, main, side_of


def write_patch(folder: Path) -> None:
    """Write the model folder."""
    write_classifier(folder / "patch", patch(), MARGIN, 1)


def prepare(folder: Path) -> None:
    write_scene(folder, side_of(folder, 2048, 768))
    write_patch(folder)
    check_alike(folder / "patch", patch(), PlainPatch(patch()).eval(), MARGIN, cut=True)


def ours(folder: Path) -> float:
    return map_seconds(folder / TILES, folder / "patch")


def least(folder: Path) -> float:
    return least_seconds(folder / RASTER, PlainPatch(patch()).eval(), MARGIN)


WORKS = (Work("patch classifier 9 x 9, 2048 x 2048 x 4", "s", 1.1, prepare, ours, least),)

if __name__ == "__main__":
    main(WORKS)
