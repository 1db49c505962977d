"""Measure how many training chips a second reach the network, against slicing copies of the same ones out of one array.

    python -m tests.benchmarks.feed [--only TEXT] [--runs 5] [--quick]

Chips come with their masks and labels as `train` gets them: drawn around labelled pixels of the training ground, which
is laid out from a tile store, with all that is held out hidden. The limit knows the places beforehand and copies image,
mask and labels out of arrays in memory, in one thread, and holds as many chips as a batch has. Rows with augmentation
have the same feed without it as their limit: they show what moving chips at random costs.
"""

from __future__ import annotations

import tempfile
import time
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from itertools import count
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from stages.formats.samples import UNLABELLED, Part, Role, Samples
from stages.formats.tiles import Tiles
from stages.geo.grid import Grid
from tests.benchmarks.pairs import Work, main, side_of

if TYPE_CHECKING:
    from stages.training.chips import Chips
    from stages.training.recipes import Recipe

CLASSES, TILE, BLOCK = 5, 256, 512
#: Every so many-th block is held out for validation.
HELD = 6
BATCH, STEPS, SECONDS = 8, 33, 2.0
#: Places that the limit goes through, again and again.
PLACES = 2048
#: Side, bands and dates of the chips.
Shape = tuple[int, int, int]
FLAT, DEEP, DATED = (256, 4, 1), (128, 12, 1), (128, 1, 12)
STILL: dict[str, Any] = {"turn": False}
TURNED: dict[str, Any] = {"turn": True}
ROTATED: dict[str, Any] = {"turn": False, "rotate": 10.0, "zoom": 0.1}


def prepare(shape: Shape, folder: Path) -> None:
    """Write tiles and labels, and the arrays and places of the limit."""
    size, bands, dates = shape
    side = side_of(folder, 2048, 1024)
    grid = Grid("EPSG:32633", 10.0, 500_000.0, 5_400_000.0, side, side, TILE)
    days = tuple(f"2020-{month:02}-15" for month in range(1, dates + 1))
    for name in ("tiles", "samples"):
        (folder / name).mkdir()
    tiles = Tiles.create(folder / "tiles", grid, tuple(f"b{i}" for i in range(bands)), days, "digital numbers")
    Samples.layout(folder / "samples", grid, 1)
    across = side // BLOCK
    parts = np.where(np.arange(across**2) % HELD == HELD - 1, Part.VALIDATION, Part.TRAIN)
    rng = np.random.default_rng(0)
    for _, _, window in grid.tiles():
        shown = rng.random((dates, window.height, window.width)) < 0.95
        tiles.write(window, rng.normal(500, 90, (dates, bands, *shown.shape[1:])).astype(np.float32).round(), shown)
        row, col = (np.arange(place, place + TILE) // BLOCK for place in (window.row, window.col))
        block = (row[:, None] * across + col).astype(np.int32)
        target = rng.integers(0, CLASSES, block.shape).astype(np.uint8)
        role = np.where(parts[block] == Part.TRAIN, Role.TRAIN, Role.VALIDATION).astype(np.uint8)
        Samples.write(folder / "samples", window, target=target, block=block, role=role[None], final=role * 0 + 1)
    names = [f"class {i}" for i in range(CLASSES)]
    summary = {"classes": names, "folds": 1, "crossed": False, "parts": parts[None, None].tolist()}
    Samples.write_summary(folder / "samples", summary)
    chips = _chips(folder, size, STILL)
    _write_limit(folder, chips, side)


def _write_limit(folder: Path, chips: Chips, side: int) -> None:
    """Keep the whole ground as one array of each kind, with a rim that chips may reach into, and where chips lie."""
    size = chips.recipe.chip
    whole = chips.ground.cut(0, -size, -size, side + 2 * size)
    for name, array in zip(("image", "valid", "labels"), whole, strict=True):
        np.save(folder / f"{name}.npy", array)
    places: list[tuple[int, int, int]] = []
    batches = -(-PLACES // BATCH)
    longer = _chips(folder, size, STILL, steps=batches)
    longer.ground.cut_into = lambda drawn, _: places.extend(drawn)  # type: ignore[method-assign]
    for step in range(batches):
        longer[step]
    np.save(folder / "places.npy", np.array(places)[:, 1:] + size)


def _chips(folder: Path, size: int, how: dict[str, Any], steps: int = STEPS) -> Chips:
    from stages.training.chips import Chips
    from stages.training.ground import CELL, Ground, Split

    tiles = Tiles(folder / "tiles")
    split = Split(tiles, Samples(folder / "samples"), tiles.channels, 0)
    with tempfile.TemporaryDirectory(dir=folder) as work:
        ground = Ground(split, CELL, Path(work))
    return Chips(ground, _recipe(size, how, steps), 0, 0)


def _recipe(size: int, how: dict[str, Any], steps: int = STEPS) -> Recipe:
    from stages.training.recipes import Recipe

    return Recipe(chip=size, batch=BATCH, steps=steps, **how)


def epochs(chips: Chips, workers: int) -> Iterator[int]:
    """Go through epoch after epoch as `train` does: chips of every batch, once it is there."""
    from stages.training.chips import feed

    for epoch in count():
        for batch in feed(chips.of_epoch(epoch), workers):
            yield len(batch[0])


def ours(size: int, how: dict[str, Any], workers: int, folder: Path) -> float:
    """Feed chips: a second."""
    return _rate(epochs(_chips(folder, size, how), workers))


def least(size: int, threads: int, folder: Path) -> float:
    """Slice the same chips out of arrays in memory: a second, of all threads together."""
    arrays = [np.load(folder / f"{name}.npy") for name in ("image", "valid", "labels")]
    places = np.load(folder / "places.npy").tolist()

    def slices(first: int) -> Iterator[int]:
        # As many chips are held as the network is given at a time.
        held: deque[list[np.ndarray]] = deque(maxlen=BATCH)
        for at in count(first, threads):
            row, col = places[at % len(places)]
            held.append([array[..., row : row + size, col : col + size].copy() for array in arrays])
            yield 1

    if threads == 1:
        return _rate(slices(0))
    with ThreadPoolExecutor(threads) as pool:
        return sum(pool.map(lambda first: _rate(slices(first)), range(threads)))


def _rate(chips: Iterator[int]) -> float:
    """Count the chips of a while: a second."""
    next(chips)
    begin, done = time.perf_counter(), 0
    while (spent := time.perf_counter() - begin) < SECONDS:
        done += next(chips)
    return done / spent


def check(folder: Path, size: int) -> None:
    """See that ours and the limit give the very same chips.

    Raises:
        AssertionError: they differ.
    """
    arrays = [np.load(folder / f"{name}.npy") for name in ("image", "valid", "labels")]
    image, valid, _, labels = _chips(folder, size, STILL)[0]
    for place, (row, col) in enumerate(np.load(folder / "places.npy")[:BATCH].tolist()):
        for ours_, array in zip((image, valid, labels), arrays, strict=True):
            np.testing.assert_array_equal(ours_[place].numpy(), array[..., row : row + size, col : col + size])
    assert (labels != UNLABELLED).any()


def _works(shape: Shape, name: str) -> Iterator[Work]:
    size, made = shape[0], _prepared(shape)
    for workers, said in ((0, "in this process"), (1, "one worker"), (2, "two workers")):
        yield Work(
            f"feed {name}, {said}", "samples/s", 0.8, made, partial(ours, size, STILL, workers),
            partial(least, size, 1),
        )  # fmt: skip


def _prepared(shape: Shape) -> Callable[[Path], None]:
    """Give the same function for the same shape: works that share it share a folder."""
    return {FLAT: prepare_flat, DEEP: prepare_deep, DATED: prepare_dated}[shape]


def prepare_flat(folder: Path) -> None:
    prepare(FLAT, folder)


def prepare_deep(folder: Path) -> None:
    prepare(DEEP, folder)


def prepare_dated(folder: Path) -> None:
    prepare(DATED, folder)


def still(size: int, folder: Path) -> float:
    """Feed chips as they are: a second."""
    return ours(size, STILL, 0, folder)


WORKS = (
    *_works(FLAT, "256 x 256 x 4"),
    *_works(DEEP, "128 x 128 x 12"),
    *_works(DATED, "128 x 128 x 12 dates"),
    Work(
        "feed with augmentation: turned, 256 x 256 x 4", "samples/s", 0.2, prepare_flat,
        partial(ours, FLAT[0], TURNED, 0), partial(still, FLAT[0]),
    ),
    Work(
        "feed with augmentation: rotated and zoomed, 256 x 256 x 4", "samples/s", 0.02, prepare_flat,
        partial(ours, FLAT[0], ROTATED, 0), partial(still, FLAT[0]),
    ),
)  # fmt: skip

if __name__ == "__main__":
    main(WORKS)
