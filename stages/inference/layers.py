"""Turn class probabilities into the layers of a map: class and confidence, and on request what lies behind them."""

from __future__ import annotations

import numpy as np

from stages.formats.maps import LAYERS

#: Pixels that are looked at at once: what is held of them stays in the processor's cache.
PIXELS = 1 << 14


def layers_of(likely: np.ndarray, names: tuple[str, ...]) -> dict[str, np.ndarray]:
    """Compute layers by their names in `maps.LAYERS`.

    Args:
        likely: probabilities float32 (class, y, x), 0 where nothing was predicted.
        names: of the layers.

    Returns:
        (band, y, x) of every layer in its own type, nodata where nothing was predicted. Of equal probabilities the
        first class wins. Confidence is the highest probability, margin its lead over the second highest, entropy
        (Shannon 1948) its share of that of equal probabilities, all in whole per cent.
    """
    classes, high, wide = likely.shape
    found = {
        name: np.empty((classes if LAYERS[name].by_class else 1, high, wide), LAYERS[name].dtype) for name in names
    }
    rows = max(1, PIXELS // wide)
    for first in range(0, high, rows):
        part = likely[:, first : first + rows]
        index, best = top_class(part)
        seen = best > 0
        for name, out in found.items():
            layer = LAYERS[name]
            into = out[:, first : first + rows]
            into[...] = _values(name, part, index, best)
            if layer.nodata is not None and not seen.all():
                into[:, ~seen] = layer.nodata
    return found


def _values(name: str, likely: np.ndarray, index: np.ndarray, best: np.ndarray) -> np.ndarray:
    """Values of one layer, whatever where nothing was predicted."""
    if name == "classes":
        return index
    if name == "valid":
        return best > 0
    if name == "confidence":
        return _whole(best, 100)
    if name == "margin":
        return _whole(best - np.sort(likely, axis=0)[-2] if len(likely) > 1 else best, 100)
    if name == "entropy":
        terms = likely * np.log(np.maximum(likely, np.float32(1e-12)))
        return _whole(-terms.sum(axis=0) / np.float32(np.log(max(len(likely), 2))), 100)
    return _whole(likely, LAYERS[name].steps)


def _whole(share: np.ndarray, steps: int) -> np.ndarray:
    """Round shares of 0..1 to whole numbers of ``steps``."""
    scaled = np.multiply(share, np.float32(steps))
    found: np.ndarray = np.rint(scaled, out=scaled).clip(0, steps)
    return found


def top_class(likely: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Index of the largest of (K, ...), the lowest on a tie, as uint8, and its value."""
    best, index = likely[0].copy(), np.zeros(likely.shape[1:], np.uint8)
    for k in range(1, len(likely)):
        # A hundred times as fast as writing where a mask is set: the last class that was larger is the highest k.
        larger = (likely[k] > best).view(np.uint8)
        np.maximum(index, larger * np.uint8(k), out=index)
        np.maximum(best, likely[k], out=best)
    return index, best
