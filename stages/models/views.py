"""The eight turns and mirrorings of the square (the dihedral group D4), from which a model may see an image."""

from __future__ import annotations

import numpy as np

#: Quarter turns, and whether the image is mirrored first; the first view is the image as it is.
VIEWS = tuple((turns, mirrored) for mirrored in (False, True) for turns in range(4))


def seen(array: np.ndarray, turns: int, mirrored: bool) -> np.ndarray:
    """Turn the last two axes of an array into a view."""
    return np.ascontiguousarray(np.rot90(array[..., ::-1] if mirrored else array, turns, axes=(-2, -1)))


def seen_back(array: np.ndarray, turns: int, mirrored: bool) -> np.ndarray:
    """Turn what was found in a view back to how the image lies."""
    back = np.rot90(array, -turns, axes=(-2, -1))
    return back[..., ::-1] if mirrored else back
