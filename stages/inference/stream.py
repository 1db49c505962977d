"""Predict a whole grid block by block: read ahead, predict, blend, hand on the pixels that are finished."""

from __future__ import annotations

import logging
import os
import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
from pydantic import Field, model_validator

from stages.formats.tiles import Tiles
from stages.formats.weights import ModelCard, read_card
from stages.geo.grid import Window
from stages.inference.ahead import ahead
from stages.inference.backends import Engine, Placing, engine_of
from stages.inference.blend import Blender, Block, Layout, Shape
from stages.inference.fit import check_fit, places_of
from stages.inference.predictor import Predictor, load
from stages.settings import Settings

_logger = logging.getLogger(__name__)

#: A wider halo costs more than it brings: what lies farther away hardly moves a prediction, and blending does the rest.
MOST_HALO = 64
#: Pixels that neighbouring windows share where the halo is narrower than what the model looks at.
OVERLAP = 32
#: Values of a window (channels times pixels) at most, unless it is as small as windows of long series may become.
MOST_VALUES, LEAST_WINDOW = 8_000_000, 64
#: Rows of windows in one task at most, unless the config says otherwise, and pixels of its width: wider grids are cut
#: into blocks beside one another, so that the memory of a task does not grow with the grid in either direction.
MOST_ROWS, MOST_WIDTH = 16, 4096
#: Tasks of a worker at least, where more of them are no more work.
TASKS = 4
#: Calls read ahead of the network.
READ_AHEAD = 2

#: Says which pixels of a window anybody asks for: bool (y, x). Sent to workers, so it must be picklable.
Wanted = Callable[[Window], np.ndarray]
#: Finished pixels, and their probabilities float32 (K, y, x): 0 where none was predicted.
Piece = tuple[Window, np.ndarray]


class Streaming(Settings):
    """How a grid is cut into windows for prediction."""

    window: int = Field(512, ge=16, le=4096, description="Side of a prediction window in pixels")
    overlap: int | Literal["auto"] = Field(
        "auto",
        description="Pixels that neighbouring windows share and blend over; auto: none where all that a model looks at "
        f"is read around every window, as neighbours then say the same, {OVERLAP} otherwise",
    )
    blend: Shape = Field("spline", description="How the say of a window rises over the overlap: spline or gaussian")
    turns: bool | None = Field(
        None, description="Average the eight turns and mirrorings of every window; none: as the model was chosen"
    )
    batch: Annotated[int, Field(ge=1, le=64)] | Literal["auto"] = Field(
        "auto", description="Windows predicted in one call; auto: 1 on a processor, as many as fit on an accelerator"
    )
    rows: int | None = Field(
        None, ge=1, description="Rows of windows a task owns; changes the speed, never the result; none: by the cores"
    )

    @model_validator(mode="after")
    def _overlap_fits(self) -> Streaming:
        half = self.window // 2
        if self.overlap != "auto" and not 0 <= self.overlap <= half:
            raise ValueError(f"overlap is {self.overlap} px, but 0 to half of window ({half} px) are possible")
        return self


@dataclass(frozen=True)
class Stream:
    """The prediction of one grid by one model, as addresses: cheap to send to a worker."""

    tiles: Tiles
    model: Path
    engine: Engine
    layout: Layout
    batch: int = 1
    turns: bool | None = None
    wanted: Wanted | None = None
    #: Calls at once in a process, and pixels of a call with its halo at most; None: as many as there are threads, whole
    #: windows.
    at_once: int | None = None
    most: int | None = None


def stream_of(
    tiles: Tiles, model: Path, config: Streaming, wanted: Wanted | None = None, placing: Placing | None = None
) -> Stream:
    """Lay out the prediction of a grid; what it runs on is found out where ``placing`` does not say.

    Raises:
        ModelError: the model folder is incomplete or does not fit the tiles.
        SettingError: this machine cannot do what is asked for.
    """
    card = read_card(model)
    check_fit(card, tiles)
    engine = engine_of(placing or Placing(), card, Path(model))
    layout = layout_of(card, tiles.grid.shape, config)
    batch = 1 if config.batch == "auto" else config.batch
    return Stream(tiles, Path(model), engine, layout, batch, config.turns, wanted)


def layout_of(card: ModelCard, shape: tuple[int, int], config: Streaming) -> Layout:
    """Lay windows over a grid of some height and width, as a model needs them."""
    side, halo = _side(card, config), _halo(card)
    told = OVERLAP if halo < card.margin else 0
    overlap = told if config.overlap == "auto" else config.overlap
    # What looks at single pixels says the same in every window: nothing to blend.
    overlap = min(overlap, side // 2) if card.margin else 0
    return Layout(*shape, side, overlap, card.stride, halo, config.blend)


def _side(card: ModelCard, config: Streaming) -> int:
    """Side of a window in pixels: halves of the one asked for until the channels of one fit in memory."""
    side = config.window
    while side > LEAST_WINDOW and len(card.channels) * side**2 > MOST_VALUES:
        side //= 2
    return side


def blocks_of(layout: Layout, config: Streaming, workers: int | None = None) -> list[Block]:
    """Divide a layout among ``workers`` (this machine's cores), where the config does not say how.

    With an overlap every block predicts windows that are not its own, so more blocks are more work: take the height
    that is done first, but let no task grow so large that a killed run loses much. Without one, many blocks keep all
    workers busy to the end.
    """
    count, workers = len(layout.rows), workers or os.cpu_count() or 1
    beside = -(-len(layout.cols) // max(1, MOST_WIDTH // layout.cols_wide))
    cols = -(-len(layout.cols) // beside)

    def rounds(rows: int) -> int:
        return -(-(-(-count // rows) * beside) // workers) * (rows + (rows < count))

    if layout.overlap:
        rows = min(range(1, min(count, MOST_ROWS) + 1), key=lambda rows: (rounds(rows), -rows))
    else:
        rows = min(max(count * beside // (TASKS * workers), 1), MOST_ROWS)
    return layout.blocks(config.rows or rows, cols)


def finished(stream: Stream, block: Block) -> Iterator[Piece]:
    """Predict the pixels of a block, row by row of windows, while the next windows are read.

    Pixels come as soon as no later window can touch them. Windows before the block that reach into it are predicted
    here again, so that a block needs nobody else's pixels. Of pixels that are invalid, or that lie in no window with
    a wanted pixel, nothing is said. Where memory runs out, a window is predicted in parts.
    """
    predictor = load(stream.model, stream.engine)
    blender = Blender(len(predictor.card.classes), stream.layout, block)
    with ahead(_read(stream, predictor.card, block), READ_AHEAD) as calls:
        for row, cols, shown in calls:
            found = iter(predict(predictor, stream, [one for one in shown if one is not None]))
            for col, one in zip(cols, shown, strict=True):
                piece = blender.add(row, col, None if one is None else next(found))
                if piece is not None:
                    yield piece


#: A window's image float32 (channel, y, x) and validity bool (step, y, x), both with the halo.
Shown = tuple[np.ndarray, np.ndarray]


def _read(stream: Stream, card: ModelCard, block: Block) -> Iterator[tuple[int, range, list[Shown | None]]]:
    """Read the windows of a block, a few of a row at a time; None for those that hold nothing to predict.

    Which windows share a call depends on the layout and the data only, never on who computes it.
    """
    rows, cols = stream.layout.touching(block)
    for row in rows:
        for first in range(cols.start, cols.stop, stream.batch):
            some = range(first, min(first + stream.batch, cols.stop))
            yield row, some, _read_windows(stream, card, row, some)


def _read_windows(stream: Stream, card: ModelCard, row: int, cols: range) -> list[Shown | None]:
    """Read neighbouring windows of one row at once."""
    windows = [_window(stream.layout, row, col) for col in cols]
    left, right = windows[0].col, windows[-1].col + windows[-1].width
    hull, halo = Window(windows[0].row, left, windows[0].height, right - left), stream.layout.halo
    asked = _asked(stream, hull)
    if not asked.any():
        return [None] * len(windows)
    image, valid = read_padded(stream.tiles, hull, halo, card)
    high, wide = hull.height, hull.width
    asked &= valid[:, halo : halo + high, halo : halo + wide].any(axis=0)
    shown: list[Shown | None] = []
    for window in windows:
        x = window.col - left
        across = slice(x, x + window.width + 2 * halo)
        there = asked[:, x : x + window.width].any()
        shown.append((image[..., across], valid[..., across]) if there else None)
    return shown


def first_windows(stream: Stream, card: ModelCard) -> Iterator[Shown | None]:
    """Read the windows of the grid, from its middle row on; None for those that hold nothing to predict."""
    rows, cols = len(stream.layout.rows), len(stream.layout.cols)
    for row in (*range(rows // 2, rows), *range(rows // 2)):
        for col in range(cols):
            yield from _read_windows(stream, card, row, range(col, col + 1))


def _window(layout: Layout, row: int, col: int) -> Window:
    """Pixels of a window: at the far edges only as many as there are, in whole strides."""
    top, left, stride = layout.rows[row], layout.cols[col], layout.stride
    high = min(layout.rows_high, -(-(layout.height - top) // stride) * stride)
    wide = min(layout.cols_wide, -(-(layout.width - left) // stride) * stride)
    return Window(top, left, high, wide)


def predict(predictor: Predictor, stream: Stream, shown: list[Shown]) -> list[np.ndarray]:
    """Predict windows in one call, those of another size in a call of their own: float32 (K, y, x) each."""
    found: list[np.ndarray] = []
    alike = len({image.shape for image, _ in shown}) == 1
    for some in [shown] if alike else [[one] for one in shown]:
        images, valids = ([np.ascontiguousarray(part[None]) for part in parts] for parts in zip(*some, strict=True))
        together = (images[0], valids[0]) if len(some) == 1 else (np.concatenate(images), np.concatenate(valids))
        with _turnstile(stream.at_once):
            found += list(_in_memory(predictor, stream, *together))
    return found


@lru_cache(maxsize=8)
def _turnstile(at_once: int | None) -> AbstractContextManager[Any]:
    """Let so many calls of this process through at once."""
    return threading.BoundedSemaphore(at_once) if at_once else nullcontext()


def _in_memory(predictor: Predictor, stream: Stream, image: np.ndarray, valid: np.ndarray) -> np.ndarray:
    """Predict images with their halo, in halves where memory does not suffice: float32 (n, K, y, x) without it.

    Raises:
        MemoryError: not even the smallest part can be predicted.
    """
    halo, stride = stream.layout.halo, stream.layout.stride
    try:
        if stream.most is not None and image[0, 0].size > stream.most:
            raise MemoryError
        return predictor.probabilities(image, valid, stream.tiles.days, halo, stream.turns)
    except MemoryError:
        longest = max((3, 2), key=lambda axis: image.shape[axis])
        inner = image.shape[longest] - 2 * halo
        half = inner // 2 // stride * stride
        if len(image) == 1 and half < max(stride, LEAST_WINDOW // 2):
            raise
        if stream.most is None:
            shape = len(image), *image.shape[2:]
            _logger.warning("memory ran out for %d x %d x %d pixels; going on with halves", *shape)
        if len(image) > 1:
            axis, ends = 0, [slice(0, len(image) // 2), slice(len(image) // 2, None)]
        else:
            axis, ends = longest, [slice(0, half + 2 * halo), slice(half, None)]
        cuts = [(slice(None),) * axis + (end,) for end in ends]
        return np.concatenate([_in_memory(predictor, stream, image[cut], valid[cut]) for cut in cuts], axis=axis)


def read_padded(tiles: Tiles, hull: Window, halo: int, card: ModelCard) -> tuple[np.ndarray, np.ndarray]:
    """Read a window and its halo: image (channel, y, x) and valid (step, y, x), invalid beyond the grid."""
    outer = Window(hull.row - halo, hull.col - halo, hull.height + 2 * halo, hull.width + 2 * halo)
    read = _clipped(outer, tiles)
    values, usable = tiles.read_picked(read, places_of(card, tiles))
    if read == outer:
        return values, usable
    image = np.zeros((len(card.channels), outer.height, outer.width), np.float32)
    valid = np.zeros((tiles.steps, outer.height, outer.width), bool)
    image[:, *read.within(outer)], valid[:, *read.within(outer)] = values, usable
    return image, valid


def _asked(stream: Stream, hull: Window) -> np.ndarray:
    """Pixels of a window that lie on the grid and are wanted: bool (y, x)."""
    inside = _clipped(hull, stream.tiles)
    asked = np.zeros((hull.height, hull.width), bool)
    asked[inside.within(hull)] = True if stream.wanted is None else stream.wanted(inside)
    return asked


def _clipped(window: Window, tiles: Tiles) -> Window:
    top, left = max(window.row, 0), max(window.col, 0)
    bottom = min(window.row + window.height, tiles.grid.height)
    right = min(window.col + window.width, tiles.grid.width)
    return Window(top, left, bottom - top, right - left)


def _halo(card: ModelCard) -> int:
    """Pixels to read around a window: the model's margin within reason, in whole strides."""
    return -(-min(card.margin, MOST_HALO) // card.stride) * card.stride
