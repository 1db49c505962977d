"""Turn images into class probabilities with one trained model folder, and refuse images the model was not made for."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from functools import lru_cache, partial
from pathlib import Path
from typing import Any

import numpy as np

from stages.errors import ModelError
from stages.formats.tiles import Tiles
from stages.formats.weights import ONNX, ModelCard, read_card
from stages.models.views import VIEWS, seen, seen_back

BACKEND = "onnxruntime-cpu"
#: Pixels whose sides on the ground differ by less than this share are alike: projections differ by a few per cent.
SAME_RESOLUTION = 0.05
#: Tiles, and pixels of each, looked at for the range of their values, and by how many times the training's range they
#: may differ from it.
TILES_LOOKED_AT, PIXELS_LOOKED_AT, NEAR, ALIKE = 16, 4096, 3.0, 100.0
#: Pixels whose series a model that looks at no others is shown at once: more do not stay in the processor's cache.
PIXELS = 256
#: Days by which the dates of a model and of the tiles may differ at least, whatever the length of a step.
MOST_DAYS = 8.0
_loading = threading.Lock()


def load(folder: Path) -> Predictor:
    """Load a model folder, once a process: later calls give the same predictor while the file is the same.

    Raises:
        ModelError: the folder has no complete model, or its network cannot be read.
    """
    network = Path(folder) / ONNX
    stat = network.stat() if network.is_file() else None
    with _loading:  # threads of one process share the session instead of each loading it
        return _load(Path(folder), stat and (stat.st_mtime_ns, stat.st_size, stat.st_ino))


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
        image, valid = tiles.read_channels(window)
        seen = np.flatnonzero(valid.any(axis=0))
        some = seen[:: max(1, len(seen) // PIXELS_LOOKED_AT)]
        image, valid = image.reshape(len(image), -1)[:, some], valid.reshape(len(valid), -1)[:, some]
        parts.append(np.where(valid[steps], image[places], np.float32(np.nan)))
    values = np.concatenate(parts, axis=1)
    known = np.isfinite(values).any(axis=1)
    if not known.any():
        return None
    levels = np.full((len(places), 3), np.nan)
    levels[known] = np.nanpercentile(values[known], (1, 50, 99), axis=1).T
    return levels


class Predictor:
    """A model's card and its network, ready to run; safe to call from several threads."""

    def __init__(self, folder: Path) -> None:
        import onnxruntime as ort

        self.card = read_card(folder)
        options = ort.SessionOptions()
        # One thread a call: parallel work is Dask's, and sums inside the network keep one order.
        options.intra_op_num_threads = 1
        options.inter_op_num_threads = 1
        options.use_deterministic_compute = True
        options.log_severity_level = 3
        try:
            self._session: Any = ort.InferenceSession(
                str(Path(folder) / ONNX), options, providers=["CPUExecutionProvider"]
            )
            self._takes_days = any(entry.name == "days" for entry in self._session.get_inputs())
        except Exception as fault:  # onnxruntime's own exceptions share no public base
            raise ModelError(
                f"{Path(folder) / ONNX} cannot be read as a network ({type(fault).__name__}); "
                "give the whole folder that `train` wrote for one model."
            ) from fault

    def probabilities(self, image: np.ndarray, valid: np.ndarray, days: Sequence[float] = (0.0,)) -> np.ndarray:
        """Predict the calibrated probability of every class at every pixel.

        Args:
            image: float32 (n, channel, y, x) in the tiles' units, 0 where invalid.
            valid: bool (n, step, y, x).
            days: of the steps (step,), as `Tiles.days`.

        Returns:
            float32 (n, class, y, x), summing to 1 over the classes; 0 where no step is valid.

        Raises:
            ModelError: the network gives something else than finite logits for its classes.
        """
        high, wide = valid.shape[2:]
        pads = (0, 0), (0, 0), (0, -high % self.card.stride), (0, -wide % self.card.stride)
        mask = valid.astype(np.float32)
        if any(after for _, after in pads):
            image, mask = np.pad(image, pads), np.pad(mask, pads)
        predict = partial(self._softmax, np.tile(np.asarray(days, np.float32), (len(image), 1)))
        found = _averaged(predict, image, mask) if self.card.tta else predict(image, mask)
        found = np.where(np.asarray(valid.any(axis=1))[:, None], found[..., :high, :wide], np.float32(0.0))
        if not np.isfinite(found).all():
            raise ModelError(
                f"model {self.card.name} gives values that are not finite; "
                "check the range of the scenes, or train the model again."
            )
        return found

    def _softmax(self, days: np.ndarray, image: np.ndarray, valid: np.ndarray) -> np.ndarray:
        """Softmax of the logits over the temperature (Guo et al. 2017): float32 (n, K, y, x)."""
        by_pixel = self.card.margin == 0 and len(self.card.dates) > 1
        logits = self._by_pixel(image, valid, days) if by_pixel else self._run(image, valid, days)
        expected = (len(image), len(self.card.classes), *image.shape[2:])
        if logits.shape != expected:
            raise ModelError(
                f"model {self.card.name} gives logits of shape {logits.shape} instead of {expected}; train it again."
            )
        logits = logits / np.float32(self.card.temperature)
        logits -= logits.max(axis=1, keepdims=True)
        np.exp(logits, out=logits)
        logits /= logits.sum(axis=1, keepdims=True)
        return logits

    def _run(self, image: np.ndarray, valid: np.ndarray, days: np.ndarray) -> np.ndarray:
        """Logits (n, K, y, x) of one call."""
        inputs = {"image": image, "valid": valid, **({"days": days} if self._takes_days else {})}
        logits: np.ndarray = self._session.run(["logits"], inputs)[0]
        return logits

    def _by_pixel(self, image: np.ndarray, valid: np.ndarray, days: np.ndarray) -> np.ndarray:
        """Logits (n, K, y, x) of a model that looks at single pixels: few at a time, as a series makes many values.

        Only pixels with a valid step are shown to it; the others get 0.
        """
        found = np.zeros((len(image), len(self.card.classes), *image.shape[2:]), np.float32)
        for one, shown, when, out in zip(image, valid, days, found, strict=True):
            seen = np.flatnonzero(shown.any(axis=0))
            values, mask = one.reshape(len(one), -1), shown.reshape(len(shown), -1)
            answers = out.reshape(len(out), -1)
            for first in range(0, len(seen), PIXELS):
                some = seen[first : first + PIXELS]
                columns = (1, -1, 1, len(some))
                logits = self._run(values[:, some].reshape(columns), mask[:, some].reshape(columns), when[None])
                answers[:, some] = logits[0, :, 0]
        return found


def _averaged(
    predict: Callable[[np.ndarray, np.ndarray], np.ndarray], image: np.ndarray, valid: np.ndarray
) -> np.ndarray:
    """Average a prediction over the eight views of its input."""
    total: Any = 0.0
    for view in VIEWS:
        total = total + seen_back(predict(seen(image, *view), seen(valid, *view)), *view)
    mean: np.ndarray = total / np.float32(len(VIEWS))
    return mean


@lru_cache(maxsize=4)
def _load(folder: Path, _version: tuple[int, ...] | None) -> Predictor:
    return Predictor(folder)


def _listed(names: Any) -> str:
    return ", ".join(names) or "none"
