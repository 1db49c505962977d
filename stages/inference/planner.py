"""Foresee what a map will take: try one call, and fit as many calls at once as a memory budget holds."""

from __future__ import annotations

import ctypes
import gc
import re
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from stages import memory
from stages.errors import ModelError, SettingError
from stages.formats.maps import BLOCK
from stages.inference.backends import Engine
from stages.inference.blend import Block, Layout
from stages.inference.predictor import load
from stages.inference.stream import LEAST_WINDOW, MOST_WIDTH, READ_AHEAD, Stream, first_windows, predict

#: Windows of a grid that is not worth trying out, as it is done before the trial pays, and the budget from which on
#: so few calls at once fit anyway.
FEW, ROOMY = 8, 2e9
#: Side of what a network is tried out on, in pixels: as much as tells, and so little that no budget is spent on it.
SHOWN = 128
#: Windows shown to an accelerator at once, at most.
MOST_BATCH = 16
#: Bytes that libraries and a model take at most. What a process holds beyond that was left there by the stages before.
MOST_HELD = 5e8
_UNITS = {"MB": 1e6, "GB": 1e9, "TB": 1e12}


@dataclass(frozen=True)
class Trial:
    """What a piece of work took: seconds, bytes that the process held before, and bytes above that at its peak."""

    seconds: float
    held: float
    taken: float


@dataclass(frozen=True)
class Cost:
    """What one call of a network takes here: a window with its surroundings.

    ``pixels`` of the window with its halo, ``seconds`` of a call, ``call`` bytes that it takes for itself, ``held``
    bytes that the process holds anyway, for its libraries and the model, ``shown`` bytes of the window as it is read,
    and ``classes`` of the map.
    """

    pixels: int
    seconds: float
    call: float
    held: float
    shown: float
    classes: int

    def of(self, layout: Layout) -> Cost:
        """Scale to a window of another layout, by the number of its pixels."""
        pixels = (layout.rows_high + 2 * layout.halo) * (layout.cols_wide + 2 * layout.halo)
        share = pixels / self.pixels
        return replace(
            self, pixels=pixels, seconds=self.seconds * share, call=self.call * share, shown=self.shown * share
        )


@dataclass(frozen=True)
class Plan:
    """How a grid will be predicted in one process: windows a call, calls at once, and pixels of a call at most.

    ``call`` is what one of these calls takes, ``beside`` what lies read, blended and unwritten beside all of them, and
    ``memory`` the expected peak: all in bytes.
    """

    batch: int
    at_once: int
    most: int
    call: float
    beside: float
    memory: float


def bytes_of(text: str) -> float:
    """Read an amount of memory such as "2 GB".

    Raises:
        ValueError: it is none.
    """
    found = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*(MB|GB|TB)\s*", text)
    if not found or not float(found[1]):
        raise ValueError(f"'{text}' is no amount of memory; write it as in 500 MB or 2 GB")
    return float(found[1]) * _UNITS[found[2]]


def tried(work: Callable[[], Any]) -> Trial:
    """Do a piece of work and measure it."""
    held = memory.held()
    memory.forget_peak()
    begin = time.perf_counter()
    work()
    return Trial(time.perf_counter() - begin, held, max(memory.peak() - held, 0.0))


def probe(stream: Stream) -> Cost | None:
    """Try one call on a window of the grid; None where the grid has nothing to predict.

    Raises:
        ModelError: not even one window fits into the memory of this machine.
    """
    import rasterio

    predictor = load(stream.model, stream.engine)
    alone = replace(stream, batch=1, at_once=None, most=None)
    shown = next((one for one in first_windows(alone, predictor.card) if one is not None), None)
    if shown is None:
        return None
    halo = stream.layout.halo
    image, valid = (part[..., : SHOWN + 2 * halo, : SHOWN + 2 * halo] for part in shown)
    # What joins the map loads its libraries later, but takes their memory all the same.
    with rasterio.Env():
        stream.tiles.grid.pixel_hectares(0, 1)
    _give_back()
    try:
        # The first call of a network takes longer than all others, but what it takes of memory it may keep.
        first = tried(lambda: predict(predictor, alone, [(image, valid)]))
        again = tried(lambda: predict(predictor, alone, [(image, valid)]))
    except MemoryError as fault:
        raise ModelError(
            f"windows of {SHOWN} px do not fit into the memory of this machine; free some, or take a smaller model."
        ) from fault
    call = max(first.taken, again.held + again.taken - first.held, 4.0 * image.size)
    classes = len(predictor.card.classes)
    cost = Cost(image[0].size, again.seconds, call, first.held, float(image.nbytes + valid.nbytes), classes)
    return cost.of(stream.layout)


def fitted(
    cost: Cost, layout: Layout, budget: float, workers: int, engine: Engine, *, batch: int | None = None
) -> Plan:
    """Fit the calls of a process into a budget of bytes: first fewer at once, then fewer windows, then parts of one.

    Args:
        cost: of one call.
        layout: of the grid.
        budget: bytes that the process may take.
        workers: threads of the process; each holds rows and windows, even while it waits for its call.
        engine: what computes; an accelerator is shown several windows in a call.
        batch: windows a call, where they are told.

    Raises:
        SettingError: the budget does not hold even one call of the smallest part of a window.
    """
    width = min(layout.width, MOST_WIDTH)
    sums = 2.0 * cost.classes * layout.overlap * width * 4
    windows = batch or 1
    said = 2.0 * cost.classes * layout.rows_high * layout.cols_wide * 4
    each = windows * ((READ_AHEAD + 1) * cost.shown + said) + sums + 2.0 * layout.rows_high * width
    # What joins the parts of all works on rows of blocks as wide as the grid.
    beside = workers * each + 2.0 * BLOCK * layout.width
    held = min(cost.held, MOST_HELD)
    left = budget - held - beside
    if batch is None and engine.device != "cpu":
        windows = int(np.clip(left // (cost.call + (READ_AHEAD + 1) * workers * cost.shown), 1, MOST_BATCH))
    at_once = int(np.clip(left // (cost.call * windows), 1, workers))
    most, call = cost.pixels, cost.call * windows
    if call > left:
        windows = int(np.clip(left // cost.call, 1, windows))
        call = cost.call * windows
    least = (LEAST_WINDOW + 2 * layout.halo) ** 2
    while call > left and most // 2 >= least:
        most, call = most // 2, call / 2
    if call > left:
        raise SettingError(
            f"classify.memory is {_written(budget)}, but one call takes {_written(budget - left + call)} at least, of "
            f"which the libraries hold {_written(held)}; give it that, or make classify.window "
            "smaller."
        )
    return Plan(windows, at_once, most, call, beside, held + at_once * call + beside)


def windows_of(layout: Layout, blocks: Sequence[Block]) -> int:
    """Count the windows that are predicted, those that several blocks need as often as they do."""
    # Blocks beside one another need the same rows, and those below one another the same columns.
    rows = {row: len(layout.touching(block)[0]) for row, block in {block.window.row: block for block in blocks}.items()}
    cols = {col: len(layout.touching(block)[1]) for col, block in {block.window.col: block for block in blocks}.items()}
    return sum(rows[block.window.row] * cols[block.window.col] for block in blocks)


def planned(stream: Stream, budget: float, workers: int, batch: int | None) -> Stream:
    """Fit a stream into a budget of bytes a process; a grid of few windows is left as it is, where there is room.

    Raises:
        ModelError: not even one window fits into the memory of this machine.
        SettingError: the budget is smaller than what the smallest part of a window takes.
    """
    if len(stream.layout.rows) * len(stream.layout.cols) <= FEW and budget >= ROOMY:
        return stream
    cost = probe(stream)
    if cost is None:
        return stream
    plan = fitted(cost, stream.layout, budget, workers, stream.engine, batch=batch)
    most = plan.most if plan.most < cost.pixels else None
    return replace(stream, batch=plan.batch, at_once=plan.at_once, most=most)


def _written(amount: float) -> str:
    """Write an amount of memory as `bytes_of` reads it, rounded up."""
    return f"{int(np.ceil(amount / 1e6)):d} MB"


def _give_back() -> None:
    """Give back to the system what the stages before have freed, where the allocator is glibc's."""
    gc.collect()
    with suppress(AttributeError, OSError, TypeError):
        ctypes.CDLL(None).malloc_trim(0)
