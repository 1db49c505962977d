"""Refuse tiles that a trained model was not made for, by what its card says of those it learnt from."""

from __future__ import annotations

from typing import Any

import numpy as np

from stages.errors import ModelError
from stages.formats.tiles import Tiles
from stages.formats.weights import ModelCard

#: Pixels whose sides on the ground differ by less than this share are alike: projections differ by a few per cent.
SAME_RESOLUTION = 0.05
#: Tiles, and pixels of each, looked at for the range of their values, and by how many times the training's range they
#: may differ from it.
TILES_LOOKED_AT, PIXELS_LOOKED_AT, NEAR, ALIKE = 16, 4096, 3.0, 100.0
#: Days by which the dates of a model and of the tiles may differ at least, whatever the length of a step.
MOST_DAYS = 8.0


def places_of(card: ModelCard, tiles: Tiles) -> list[int]:
    """Places among the tiles' channels of those that a model reads: by band and step, so that any year will do."""
    return [
        step * len(tiles.bands) + tiles.bands.index(band) for band, step in zip(card.bands, card.steps, strict=True)
    ]


def check_fit(card: ModelCard, tiles: Tiles) -> None:
    """Refuse tiles that a model was not trained for.

    Raises:
        ModelError: bands are missing or in another order; steps, scaling or resolution differ.
    """
    bands = tuple(dict.fromkeys(card.bands))
    missing = [name for name in bands if name not in tiles.bands]
    if missing:
        raise ModelError(
            f"model {card.name} reads {_listed(bands)}, but the tiles hold {_listed(tiles.bands)}: "
            f"{_listed(missing)} missing; map scenes with the same bands, or train a model on these."
        )
    _check_steps(card, tiles)
    places = places_of(card, tiles)
    if places != sorted(places):
        raise ModelError(
            f"model {card.name} reads its bands in the order {_listed(bands)}, but the tiles hold "
            f"{_listed(tiles.bands)}; put the bands of the config in the model's order."
        )
    if card.scaling != tiles.scaling:
        raise ModelError(
            f"model {card.name} was trained on {card.scaling} values, but the tiles hold {tiles.scaling} values; "
            "map scenes that are scaled alike, or train a model on these."
        )
    metres = tiles.grid.pixel_metres()
    if abs(card.metres - metres) > SAME_RESOLUTION * card.metres:
        raise ModelError(
            f"model {card.name} was trained on pixels of {card.metres:.4g} m, but those of the tiles measure "
            f"{metres:.4g} m on the ground; set grid.resolution to match or train a model on these."
        )


def _check_steps(card: ModelCard, tiles: Tiles) -> None:
    """Refuse a series of another length than a model's, or of another part of the year.

    Raises:
        ModelError: it is.
    """
    if len(card.dates) != tiles.steps:
        raise ModelError(
            f"model {card.name} reads {len(card.dates)} dates ({_steps_of(card.dates, card.step)}), but the tiles hold "
            f"{tiles.steps} ({_steps_of(tiles.dates, tiles.step)}); set tile.time and tile.dates as they were in the "
            "training, or train a model on these."
        )
    if len(card.days) < 2:
        return
    # Half a step off is the neighbouring step.
    most = max(MOST_DAYS, float(np.median(np.diff(card.days))) / 2)
    off = np.abs(np.subtract(card.days, tiles.days))
    if off.max() > most:
        step = int(off.argmax())
        raise ModelError(
            f"step {step + 1} of model {card.name} is day {card.days[step]:.0f} after 1 January, but that of the tiles "
            f"({tiles.dates[step]}) is day {tiles.days[step]:.0f}; let tile.time begin at the same time of the year."
        )


def _steps_of(dates: tuple[str, ...], step: str) -> str:
    span = f"{dates[0]} to {dates[-1]}" if len(dates) > 1 else dates[0] or "undated"
    return f"{span}, every {step}" if step else span


def check_values(card: ModelCard, tiles: Tiles) -> None:
    """Refuse tiles whose values are on another scale than those that a model learnt from.

    Raises:
        ModelError: some channel lies far outside the training's values, or spreads a hundred times more or less.
    """
    found = _percentiles(tiles, places_of(card, tiles))
    if found is None or not card.values:
        return
    for name, (low, middle, high), (first, _, last) in zip(card.channels, found, card.values, strict=True):
        spread, learnt = high - low, last - first
        if np.isnan(middle):  # a date without a valid pixel says nothing
            continue
        near = first - NEAR * learnt <= middle <= last + NEAR * learnt
        alike = learnt / ALIKE <= spread <= learnt * ALIKE
        if not (near and alike):
            raise ModelError(
                f"{name} runs from {low:.4g} to {high:.4g} in the tiles, but model {card.name} learnt from {first:.4g} "
                f"to {last:.4g} (1st to 99th percentile): they are scaled otherwise; set scale and offset of "
                "ingest.scenes as they were in the training, or train a model on these."
            )


def _percentiles(tiles: Tiles, places: list[int]) -> np.ndarray | None:
    """Find the 1st, 50th and 99th percentile of some channels in tiles all over the grid: (channel, 3)."""
    windows = [window for _, _, window in tiles.grid.tiles()]
    steps = np.array(places) // len(tiles.bands)
    parts = []
    for window in windows[:: -(-len(windows) // TILES_LOOKED_AT)]:
        image, valid = tiles.read_picked(window, places)
        seen = np.flatnonzero(valid.any(axis=0))
        some = seen[:: max(1, len(seen) // PIXELS_LOOKED_AT)]
        image, valid = image.reshape(len(image), -1)[:, some], valid.reshape(len(valid), -1)[:, some]
        parts.append(np.where(valid[steps], image, np.float32(np.nan)))
    values = np.concatenate(parts, axis=1)
    known = np.isfinite(values).any(axis=1)
    if not known.any():
        return None
    levels = np.full((len(places), 3), np.nan)
    levels[known] = np.nanpercentile(values[known], (1, 50, 99), axis=1).T
    return levels


def _listed(names: Any) -> str:
    return ", ".join(names) or "none"
