"""Turn images into calibrated class probabilities with one trained model folder."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import lru_cache, partial
from pathlib import Path
from typing import Any

import numpy as np

from stages.errors import ModelError
from stages.formats.weights import ModelCard, read_card
from stages.inference.backends import Backend, Engine, opened
from stages.models.views import VIEWS, seen, seen_back

#: Values that are scaled at once: more do not stay in the processor's cache.
VALUES = 1 << 17


def load(folder: Path, engine: Engine | None = None) -> Predictor:
    """Load a model folder on an engine, once a process: later calls give the same predictor while its file is the same.

    Raises:
        ModelError: the folder has no complete model, or its network cannot be read.
    """
    read_card(folder)  # a folder without a whole model is told of as such
    return _bound(Path(folder), opened(Path(folder), engine or Engine()))


class Predictor:
    """A model's card and its network, ready to run; safe to call from several threads."""

    def __init__(self, card: ModelCard, backend: Backend) -> None:
        self.card = card
        self.backend = backend

    def probabilities(
        self, image: np.ndarray, valid: np.ndarray, days: Sequence[float] = (0.0,), halo: int = 0,
        turns: bool | None = None,
    ) -> np.ndarray:  # fmt: skip
        """Predict the calibrated probability of every class at every pixel.

        Args:
            image: float32 (n, channel, y, x) in the tiles' units, 0 where invalid.
            valid: bool (n, step, y, x).
            days: of the steps (step,), as `Tiles.days`.
            halo: pixels around that are looked at only: nothing is said of them.
            turns: whether to average the eight turns and mirrorings of the image; by default as the model's card says.

        Returns:
            float32 (n, class, y - 2 halo, x - 2 halo), summing to 1 over the classes; 0 where no step is valid.

        Raises:
            ModelError: the network gives something else than finite logits for its classes.
            MemoryError: there is not enough memory for so much at once.
        """
        high, wide = valid.shape[2:]
        pads = (0, 0), (0, 0), (0, -high % self.card.stride), (0, -wide % self.card.stride)
        padded = any(after for _, after in pads)
        shown, mask = (np.pad(image, pads), np.pad(valid, pads)) if padded else (image, valid)
        # Where the image is padded its edge is no halo, whichever way it is turned.
        predict = partial(self._softmax, np.tile(np.asarray(days, np.float32), (len(image), 1)), 0 if padded else halo)
        many = self.card.tta if turns is None else turns
        found = _averaged(predict, shown, mask) if many else predict(shown, mask)
        inside = slice(halo, high - halo), slice(halo, wide - halo)
        found = found[..., *inside]
        # The sum is not finite where any class is not.
        if not np.isfinite(found.sum(axis=1)).all():
            raise ModelError(
                f"model {self.card.name} gives values that are not finite; "
                "check the range of the scenes, or train the model again."
            )
        anything = np.asarray(valid.any(axis=1))[:, *inside]
        if not anything.all():
            found = np.where(anything[:, None], found, np.float32(0.0))
        return found

    def _softmax(self, days: np.ndarray, halo: int, image: np.ndarray, valid: np.ndarray) -> np.ndarray:
        """Softmax of the logits over the temperature (Guo et al. 2017): float32 (n, K, y, x)."""
        by_pixel = self.card.margin == 0 and len(self.card.dates) > 1
        logits = self._by_pixel(image, valid, days) if by_pixel else self.backend.logits(image, valid, days, halo)
        expected = (len(image), len(self.card.classes), *image.shape[2:])
        if logits.shape != expected:
            raise ModelError(
                f"model {self.card.name} gives logits of shape {logits.shape} instead of {expected}; train it again."
            )
        if not logits.flags.writeable:
            logits = logits.copy()
        rows = max(1, VALUES // (expected[1] * expected[3]))
        for one in logits:
            for first in range(0, expected[2], rows):
                _to_probabilities(one[:, first : first + rows], self.card.temperature)
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
            for first in range(0, len(seen), self.backend.pixels):
                some = seen[first : first + self.backend.pixels]
                columns = (1, -1, 1, len(some))
                logits = self.backend.logits(
                    values[:, some].reshape(columns), mask[:, some].reshape(columns), when[None]
                )
                answers[:, some] = logits[0, :, 0]
        return found


def _to_probabilities(logits: np.ndarray, temperature: float) -> None:
    """Turn logits (class, y, x) into probabilities where they lie."""
    if temperature != 1.0:
        logits /= np.float32(temperature)
    logits -= logits.max(axis=0)
    np.exp(logits, out=logits)
    logits /= logits.sum(axis=0)


def _averaged(
    predict: Callable[[np.ndarray, np.ndarray], np.ndarray], image: np.ndarray, valid: np.ndarray
) -> np.ndarray:
    """Average a prediction over the eight views of its input."""
    total: Any = np.float32(0.0)
    for view in VIEWS:
        total = total + seen_back(predict(seen(image, *view), seen(valid, *view)), *view)
    mean: np.ndarray = total / np.float32(len(VIEWS))
    return mean


@lru_cache(maxsize=8)
def _bound(folder: Path, backend: Backend) -> Predictor:
    return Predictor(read_card(folder), backend)
