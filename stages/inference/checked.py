"""Look before a map starts whether it is computed rightly on this machine, and what a quantised model loses."""

from __future__ import annotations

import logging
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np

from stages.formats.weights import ModelCard, read_card
from stages.geo.grid import Window
from stages.inference.backends import check_agreement, opened
from stages.inference.quantise import INT8, quantise
from stages.inference.stream import Stream, read_padded

_logger = logging.getLogger(__name__)

#: Windows looked at, and where the range of values must be found for int8, of how many that are spread over the grid;
#: and their side in pixels.
SHOWN, CALIBRATING, TRIED, SIDE = 2, 16, 36, 64


def prepare(stream: Stream, scratch: Path) -> tuple[Stream, dict[str, Any]]:
    """Compare what computes a map with eager torch on windows of the area; quantise the model where int8 is asked for.

    Args:
        stream: what was asked for.
        scratch: where a quantised model goes.

    Returns:
        The stream to compute, and what to record: ``backend``, ``agreement`` (the largest difference of a probability
        from eager torch; None where the model has no torch form, or is quantised) and, of a quantised model, ``int8``.

    Raises:
        ModelError: the backend computes something else than torch does, or the model cannot be quantised.
    """
    card = read_card(stream.model)
    shown = sampled(stream, card, CALIBRATING if stream.engine == INT8 else SHOWN)
    record: dict[str, Any] = {"agreement": None}
    if stream.engine == INT8:
        loss = quantise(stream.model, scratch, *shown)
        stream, record["int8"] = replace(stream, model=scratch), asdict(loss)
    elif len(shown[0]):
        record["agreement"] = check_agreement(stream.model, stream.engine, *shown)
    record["backend"] = opened(stream.model, stream.engine).name
    return stream, record


def sampled(stream: Stream, card: ModelCard, count: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Read the windows with most valid pixels of some that are spread over the grid, with their surroundings.

    Returns:
        Images float32 (n, channel, y, x), validity bool (n, step, y, x) and days float32 (n, step).
    """
    layout, grid = stream.layout, stream.tiles.grid
    side = min(SIDE, layout.rows_high, layout.cols_wide) // layout.stride * layout.stride or layout.stride
    places = [
        Window(row, col, side, side)
        for row in _spread(grid.height, side, layout.stride)
        for col in _spread(grid.width, side, layout.stride)
    ]
    windows = [read_padded(stream.tiles, place, layout.halo, card) for place in places]
    # Sorting is stable: of windows with as many valid pixels, the first come first.
    windows = sorted((one for one in windows if one[1].any()), key=lambda one: -int(one[1].sum()))[:count]
    if not windows:
        shape = side + 2 * layout.halo, side + 2 * layout.halo
        empty = np.zeros((0, len(card.channels), *shape), np.float32), np.zeros((0, stream.tiles.steps, *shape), bool)
        return *empty, np.zeros((0, stream.tiles.steps), np.float32)
    images, valids = (np.stack(parts) for parts in zip(*windows, strict=True))
    return images, valids, np.tile(np.asarray(stream.tiles.days, np.float32), (len(images), 1))


def _spread(length: int, side: int, stride: int) -> list[int]:
    """First pixels of a few windows along one axis, at multiples of the stride."""
    last = max(length - side, 0)
    return sorted({int(place) // stride * stride for place in np.linspace(0, last, round(TRIED**0.5))})
