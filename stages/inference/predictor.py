"""Turn images into class probabilities with one trained model folder, and refuse images the model was not made for."""

from __future__ import annotations

import threading
from collections.abc import Callable
from functools import lru_cache
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
#: Tiles looked at for the range of their values, and by how many times the training's range they may differ from it.
TILES_LOOKED_AT, NEAR, ALIKE = 16, 3.0, 100.0
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


def check_fit(card: ModelCard, tiles: Tiles) -> None:
    """Refuse tiles that a model was not trained for.

    Raises:
        ModelError: channels are missing or in another order, or the scaling or the resolution differ.
    """
    missing = [name for name in card.channels if name not in tiles.channels]
    if missing:
        raise ModelError(
            f"model {card.name} reads {_listed(card.channels)}, but the tiles hold {_listed(tiles.channels)}: "
            f"{_listed(missing)} missing; map scenes with the same bands and dates, or train a model on these."
        )
    places = [tiles.channels.index(name) for name in card.channels]
    if places != sorted(places):
        raise ModelError(
            f"model {card.name} reads its channels in the order {_listed(card.channels)}, but the tiles hold "
            f"{_listed(tiles.channels)}; put the bands of the config in the model's order."
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


def check_values(card: ModelCard, tiles: Tiles) -> None:
    """Refuse tiles whose values are on another scale than those that a model learnt from.

    Raises:
        ModelError: some channel lies far outside the training's values, or spreads a hundred times more or less.
    """
    found = _percentiles(tiles, [tiles.channels.index(name) for name in card.channels])
    if found is None or not card.values:
        return
    for name, (low, middle, high), (first, _, last) in zip(card.channels, found, card.values, strict=True):
        spread, learnt = high - low, last - first
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
    parts = []
    for window in windows[:: -(-len(windows) // TILES_LOOKED_AT)]:
        image, valid = tiles.read_channels(window)
        parts.append(image[places][:, valid])
    values = np.concatenate(parts, axis=1)
    return np.percentile(values, (1, 50, 99), axis=1).T if values.size else None


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
        except Exception as fault:  # onnxruntime's own exceptions share no public base
            raise ModelError(
                f"{Path(folder) / ONNX} cannot be read as a network ({type(fault).__name__}); "
                "give the whole folder that `train` wrote for one model."
            ) from fault

    def probabilities(self, image: np.ndarray, valid: np.ndarray) -> np.ndarray:
        """Predict the calibrated probability of every class at every pixel.

        Args:
            image: float32 (n, channel, y, x) in the tiles' units, 0 where invalid.
            valid: bool (n, y, x).

        Returns:
            float32 (n, class, y, x), summing to 1 over the classes; 0 where invalid.

        Raises:
            ModelError: the network gives something else than finite logits for its classes.
        """
        high, wide = valid.shape[1:]
        pads = (0, -high % self.card.stride), (0, -wide % self.card.stride)
        image = np.pad(image, ((0, 0), (0, 0), *pads))
        mask = np.pad(valid, ((0, 0), *pads))[:, None].astype(np.float32)
        found = _averaged(self._softmax, image, mask) if self.card.tta else self._softmax(image, mask)
        found = np.where(valid[:, None], found[..., :high, :wide], np.float32(0.0))
        if not np.isfinite(found).all():
            raise ModelError(
                f"model {self.card.name} gives values that are not finite; "
                "check the range of the scenes, or train the model again."
            )
        return found

    def _softmax(self, image: np.ndarray, valid: np.ndarray) -> np.ndarray:
        """Softmax of the logits over the temperature (Guo et al. 2017): float32 (n, K, y, x)."""
        logits: np.ndarray = self._session.run(["logits"], {"image": image, "valid": valid})[0]
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
