"""Measure how much memory `classify` takes above its libraries when windows overlap and are blended.

    python -m tests.benchmarks.memory [--quick]

Scenes of 4096 and 8192 pixels a side with the 1 x 1 network, which is said to look at a pixel around each, or nothing
would be blended. The peak is to keep to a budget and to be the same in both; `growth` has the peak at 32768.
"""

from __future__ import annotations

from functools import partial
from pathlib import Path

from tests.benchmarks.classify import write_pixel
from tests.benchmarks.growth import BUDGET, FLAT, LINEAR, PAIRS, rate
from tests.benchmarks.inputs import write_scene
from tests.benchmarks.pairs import Work, main, side_of

HALF, WHOLE = 4096, 8192


def prepare(folder: Path) -> None:
    for side in (HALF, WHOLE):
        write_scene(folder / str(side), side_of(folder, side, side // 4), raster=False)
    write_pixel(folder, margin=1)


WORKS = (
    Work(
        f"blending in bounded memory: {WHOLE} against {HALF}", "px/s", LINEAR, prepare, partial(rate, "pixel", WHOLE),
        partial(rate, "pixel", HALF), flat=FLAT, budget=BUDGET, most_runs=PAIRS,
    ),
)  # fmt: skip

if __name__ == "__main__":
    main(WORKS)
