"""Reduce the clear observations of a step to one value a pixel and band: median, mean or the best date's."""

from __future__ import annotations

from collections.abc import Iterator
from functools import lru_cache
from typing import Any

import numpy as np

#: Values of one plane that are sorted at once: a stack of some tens of them stays in the processor's cache.
BLOCK = 16_384


def reduce(
    observed: Iterator[tuple[np.ndarray, np.ndarray]], count: int, statistic: str, values: np.ndarray, valid: np.ndarray
) -> np.ndarray:
    """Reduce the observations of a step to one value a pixel and band, those that are valid alone.

    Args:
        observed: values float32 (band, y, x) and valid bool (y, x) of one date after the other; for best, the date
            with the greatest clear share first.
        count: how many there are.
        statistic: median, mean or best.
        values: written, float32 (band, y, x); undefined where not valid.
        valid: written, bool (y, x): pixels with any observation.

    Returns:
        The number of valid observations, uint16 (y, x).
    """
    seen = np.zeros(valid.shape, np.uint16)
    if statistic == "best" or count == 1:
        valid[:] = False
        for one, clear in observed:
            np.copyto(values, one, where=clear & ~valid)
            valid |= clear
            seen += clear
    elif statistic == "mean":
        total = np.zeros(values.shape)
        for one, clear in observed:
            total += np.where(clear, one, 0.0)
            seen += clear
        np.divide(total, np.maximum(seen, 1), out=values, casting="same_kind")
    else:
        stack = np.empty((count, *values.shape), np.float32)
        for layer, (one, clear) in zip(stack, observed, strict=True):
            # Beyond every value, so that what is not valid is sorted to the end.
            layer[:] = np.inf
            np.copyto(layer, one, where=clear)
            seen += clear
        median(stack, seen, values)
    np.greater(seen, 0, out=valid)
    return seen


def median(stack: np.ndarray, seen: np.ndarray, out: np.ndarray) -> None:
    """Write the median of every pixel and band over the first axis, the mean of the middle two where even.

    A network of comparisons sorts whole planes at once (Batcher 1968): no branch and no gather a pixel.

    Args:
        stack: float32 (date, band, y, x), infinite where not valid.
        seen: valid dates a pixel, (y, x); where 0 the result is 0.
        out: float32 (band, y, x), written.
    """
    pairs, bands = network(len(stack)), out.shape[0]
    stack, out, seen = stack.reshape(len(stack), bands, -1), out.reshape(bands, -1), seen.reshape(-1)
    for start in range(0, seen.size, BLOCK):
        part = slice(start, start + BLOCK)
        groups = _by_count(seen[part])
        spare = np.empty(seen[part].shape, np.float32)
        for band in range(bands):
            planes = [layer[band, part] for layer in stack]
            for i, j in pairs:
                np.minimum(planes[i], planes[j], out=spare)
                np.maximum(planes[i], planes[j], out=planes[j])
                planes[i], spare = spare, planes[i]
            for count, here in groups:
                middle = planes[count // 2] if count else np.float32(0.0)
                if count and count % 2 == 0:
                    middle = (planes[count // 2 - 1] + middle) * np.float32(0.5)
                np.copyto(out[band, part], middle, where=here)


def _by_count(seen: np.ndarray) -> list[tuple[int, Any]]:
    """List how many valid dates pixels have, each number with where it is: True for everywhere, or bool (pixel,)."""
    counts = np.flatnonzero(np.bincount(seen))
    if len(counts) == 1:
        return [(int(counts[0]), True)]
    return [(int(count), seen == count) for count in counts]


@lru_cache(maxsize=64)
def network(count: int) -> tuple[tuple[int, int], ...]:
    """List the comparisons of Batcher's odd-even merge sort (1968) for any number of values.

    Exchanging the values of each pair (i, j), i < j, so that the smaller comes first, sorts them.
    """
    pairs, p = [], 1
    while p < count:
        k = p
        while k >= 1:
            for j in range(k % p, count - k, 2 * k):
                for i in range(min(k, count - j - k)):
                    if (i + j) // (2 * p) == (i + j + k) // (2 * p):
                        pairs.append((i + j, i + j + k))
            k //= 2
        p *= 2
    return tuple(pairs)
