"""Predict the chips of a collection that are asked for, each by itself."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

from stages.formats.tiles import Tiles
from stages.geo.grid import Window
from stages.inference.fit import places_of
from stages.inference.predictor import load
from stages.inference.stream import Piece, Stream, Wanted

#: Chips predicted in one call.
TOGETHER = 32


def predicted_chips(stream: Stream, tiles: Sequence[Window]) -> Iterator[Piece]:
    """Predict the chips of some tiles that hold a wanted pixel; 0 where none is wanted.

    A chip's neighbours in the store are other chips, so it is shown to the model alone, as in training.
    """
    predictor = load(stream.model, stream.engine)
    places, size = places_of(predictor.card, stream.tiles), _size(stream.tiles)
    for window in tiles:
        corners = _corners(window, size, stream.wanted)
        if not corners:
            continue
        image, valid = stream.tiles.read_picked(window, places)
        likely = np.zeros((len(predictor.card.classes), window.height, window.width), np.float32)
        for start in range(0, len(corners), TOGETHER):
            boxes = [(slice(y, y + size), slice(x, x + size)) for y, x in corners[start : start + TOGETHER]]
            shown, mask = (np.stack([part[:, *box] for box in boxes]) for part in (image, valid))
            found = predictor.probabilities(shown, mask, stream.tiles.days, turns=stream.turns)
            for box, one in zip(boxes, found, strict=True):
                likely[:, *box] = one
        yield window, likely


def _size(tiles: Tiles) -> int:
    assert tiles.cells is not None, "these tiles hold no chips"
    return tiles.cells.size


def _corners(window: Window, size: int, wanted: Wanted | None) -> list[tuple[int, int]]:
    """First row and column, within a window of whole cells, of those with a wanted pixel."""
    asked = np.ones((window.height, window.width), bool) if wanted is None else wanted(window)
    cells = asked.reshape(window.height // size, size, window.width // size, size).any(axis=(1, 3))
    return [(int(row) * size, int(col) * size) for row, col in np.argwhere(cells)]
