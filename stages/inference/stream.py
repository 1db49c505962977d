"""Predict a whole grid in bands of rows: read a little, predict, blend, hand on the rows that are finished."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from pydantic import Field, model_validator

from stages.formats.tiles import Tiles
from stages.formats.weights import ModelCard, read_card
from stages.geo.grid import Window
from stages.inference.blend import Accumulator, Band, Layout
from stages.inference.predictor import Predictor, check_fit, load, places_of
from stages.settings import Settings

#: A wider halo costs more than it brings: what lies farther away hardly moves a prediction, and blending does the rest.
MOST_HALO = 64
#: Values of a window (channels times pixels) at most, unless it is as small as windows of long series may become.
MOST_VALUES, LEAST_WINDOW = 8_000_000, 64
#: Rows of windows in one task at most, unless the config says otherwise.
MOST_ROWS = 16

#: Says which pixels of a window anybody asks for: bool (y, x). Sent to workers, so it must be picklable.
Wanted = Callable[[Window], np.ndarray]
#: First pixel row, blended sums uint32 (K, rows, width) and which pixels have one: bool (rows, width).
Finished = tuple[int, np.ndarray, np.ndarray]


class Streaming(Settings):
    """How a grid is cut into windows for prediction."""

    window: int = Field(512, ge=16, le=4096, description="Side of a prediction window in pixels")
    overlap: int = Field(32, ge=0, description="Pixels that neighbouring windows share and blend over")
    batch: int = Field(1, ge=1, le=64, description="Windows predicted in one call")
    rows: int | None = Field(
        None, ge=1, description="Rows of windows a task owns; changes the speed, never the result; none: by the cores"
    )

    @model_validator(mode="after")
    def _overlap_fits(self) -> Streaming:
        if self.overlap > self.window // 2:
            raise ValueError(
                f"overlap is {self.overlap} px, at most half of window ({self.window // 2} px) is possible"
            )
        return self


@dataclass(frozen=True)
class Stream:
    """The prediction of one grid by one model, as addresses: cheap to send to a worker."""

    tiles: Tiles
    model: Path
    layout: Layout
    batch: int
    wanted: Wanted | None = None


def stream_of(tiles: Tiles, model: Path, config: Streaming, wanted: Wanted | None = None) -> Stream:
    """Lay out the prediction of a grid.

    Raises:
        ModelError: the model folder is incomplete or does not fit the tiles.
    """
    card = read_card(model)
    check_fit(card, tiles)
    side = _side(card, config)
    # What looks at single pixels says the same in every window: nothing to blend.
    overlap = min(config.overlap, side // 2) if card.margin else 0
    layout = Layout(*tiles.grid.shape, side, overlap, card.stride, _halo(card))
    return Stream(tiles, Path(model), layout, config.batch, wanted)


def _side(card: ModelCard, config: Streaming) -> int:
    """Side of a window in pixels: the one asked for, or halves of it until the channels of one fit in memory."""
    side = config.window
    while side > LEAST_WINDOW and len(card.channels) * side**2 > MOST_VALUES:
        side //= 2
    return side


def bands_of(layout: Layout, config: Streaming, workers: int | None = None) -> list[Band]:
    """Divide a layout among ``workers`` (this machine's cores), where the config does not say how.

    Every band predicts a row of windows that is not its own, so more bands are more work: take the size that is
    done first, but let no task grow so large that a killed run loses much.
    """
    count, workers = len(layout.rows), workers or os.cpu_count() or 1

    def rounds(rows: int) -> int:
        return -(-count // (rows * workers)) * (rows + (rows < count))

    return layout.bands(config.rows or min(range(1, min(count, MOST_ROWS) + 1), key=lambda rows: (rounds(rows), -rows)))


def finished_rows(stream: Stream, band: Band) -> Iterator[Finished]:
    """Predict the pixel rows of a band from top to bottom.

    Rows come as soon as no later window can touch them, and only the rows of one window are held at a time. The
    windows above that reach into the band are predicted here again, so that a band needs nobody else's pixels.
    Pixels that are invalid, or that lie in no window with a wanted pixel, are not seen.
    """
    predictor = load(stream.model)
    held = Accumulator(len(predictor.card.classes), stream.layout, band)
    for row in stream.layout.touching(band):
        for first in range(0, len(stream.layout.cols), stream.batch):
            cols = range(first, min(first + stream.batch, len(stream.layout.cols)))
            for col, probabilities, valid in _predict(stream, predictor, row, cols):
                held.add(row, col, probabilities, valid)
        top = held.top
        sums, seen = held.finish(stream.layout.final(row))
        if len(seen):
            yield top, sums, seen


def _predict(
    stream: Stream, predictor: Predictor, row: int, cols: range
) -> Iterator[tuple[int, np.ndarray, np.ndarray]]:
    """Predict neighbouring windows of one row in one call, without those that hold nothing to predict.

    Which windows share a call depends on the layout and the data only, never on who computes it.
    """
    layout, halo = stream.layout, stream.layout.halo
    high, wide = layout.rows_high, layout.cols_wide
    left, right = layout.cols[cols[0]], layout.cols[cols[-1]] + wide
    hull = Window(layout.rows[row], left, high, right - left)
    asked = _asked(stream, hull)
    if not asked.any():
        return
    image, valid = _read_padded(stream.tiles, hull, halo, predictor.card)
    seen = np.asarray(valid.any(axis=0))
    asked &= seen[halo : halo + high, halo : halo + hull.width]
    places = [layout.cols[col] - left for col in cols]
    chosen = [(col, x) for col, x in zip(cols, places, strict=True) if asked[:, x : x + wide].any()]
    if not chosen:
        return
    images = np.stack([image[:, :, x : x + wide + 2 * halo] for _, x in chosen])
    masks = np.stack([valid[:, :, x : x + wide + 2 * halo] for _, x in chosen])
    inside = slice(halo, halo + high), slice(halo, halo + wide)
    found = predictor.probabilities(images, masks, stream.tiles.days)
    for (col, x), likely in zip(chosen, found, strict=True):
        yield col, likely[:, *inside], seen[:, x : x + wide + 2 * halo][inside]


def _read_padded(tiles: Tiles, hull: Window, halo: int, card: ModelCard) -> tuple[np.ndarray, np.ndarray]:
    """Read a window and its halo: image (channel, y, x) and valid (step, y, x), invalid beyond the grid."""
    outer = Window(hull.row - halo, hull.col - halo, hull.height + 2 * halo, hull.width + 2 * halo)
    read = _clipped(outer, tiles)
    image = np.zeros((len(card.channels), outer.height, outer.width), np.float32)
    valid = np.zeros((tiles.steps, outer.height, outer.width), bool)
    values, usable = tiles.read_channels(read)
    image[:, *read.within(outer)] = values[places_of(card, tiles)]
    valid[:, *read.within(outer)] = usable
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
