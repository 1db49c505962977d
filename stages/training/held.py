"""The validation pixels of a fold with all the surroundings a model may read, in windows of one shape."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from stages.formats.samples import UNLABELLED, Part, Role
from stages.geo.grid import Window
from stages.training.ground import Split, cell_window

#: A model that sees further than this is validated with this much of its surroundings.
FARTHEST = 64


@dataclass(frozen=True)
class Held:
    """Windows for prediction and the labels to compare with.

    ``image`` float32 (n, c, y, x), ``valid`` float32 (n, 1, y, x), ``labels`` uint8 (n, y, x), `UNLABELLED` but at
    the held-out pixels, ``block`` int32 (n, y, x).
    """

    image: np.ndarray
    valid: np.ndarray
    labels: np.ndarray
    block: np.ndarray

    @property
    def at(self) -> np.ndarray:
        """The held-out pixels: bool (n, y, x)."""
        marked: np.ndarray = self.labels != UNLABELLED
        return marked

    @property
    def reference(self) -> np.ndarray:
        """Labels of the held-out pixels (pixels,) in order of window, row and column."""
        found: np.ndarray = self.labels[self.at]
        return found


def gather(split: Split, role: Role, margin: int, stride: int = 1, limit: int = 1_000_000) -> Held:
    """Read every pixel of one role (validation or test) with ``margin`` pixels around.

    Where there are more than about ``limit`` pixels, cells of the grid are drawn, the same for the same labels.
    """
    side, grid = 64, split.tiles.grid
    halo = min(margin, FARTHEST)
    size = -(-(side + 2 * halo) // stride) * stride
    cells = _cells(split, role, side, limit)
    windows = []
    for row, col in cells:
        inner = cell_window(row, col, side, grid)
        windows.append(_window(split, role, inner, inner.padded(halo, grid), size))
    images, valids, labels, blocks = (np.stack(arrays) for arrays in zip(*windows, strict=True))
    return Held(images, valids[:, None].astype(np.float32), labels, blocks)


def _window(
    split: Split, role: Role, inner: Window, outer: Window, size: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Read one window, filled up with invalid pixels to ``size`` x ``size``."""
    image, valid = split.read(outer)
    labels = np.full((size, size), UNLABELLED, dtype=np.uint8)
    block = np.full((size, size), -1, dtype=np.int32)
    within = inner.within(outer)
    labels[within] = _labels(split, role, inner, valid[within])
    block[within] = split.samples.read("block", inner)
    pad = ((0, size - outer.height), (0, size - outer.width))
    return np.pad(image, ((0, 0), *pad)), np.pad(valid, pad), labels, block


def _labels(split: Split, role: Role, window: Window, valid: np.ndarray) -> np.ndarray:
    assert split.fold is not None, "all folds together hold nothing out"
    target = split.samples.read("target", window)
    roles = split.samples.read("role", window)[split.fold]
    kept = (roles == role) & valid & (target < split.classes)
    labels: np.ndarray = np.where(kept, target, np.uint8(UNLABELLED))
    return labels


def _cells(split: Split, role: Role, side: int, limit: int) -> list[tuple[int, int]]:
    """Rows and columns of the cells that hold pixels of the role, in a fixed order of drawing up to ``limit``."""
    part = {Role.VALIDATION: Part.VALIDATION, Role.TEST: Part.TEST}[role]
    grid, fold = split.tiles.grid, split.fold
    assert fold is not None, "all folds together hold nothing out"
    counts: dict[tuple[int, int], int] = {}
    for row in range(-(-grid.height // side)):
        for col in range(-(-grid.width // side)):
            window = cell_window(row, col, side, grid)
            if (split.samples.part(fold, window) == part).any():
                _, valid = split.read(window)
                pixels = int((_labels(split, role, window, valid) != UNLABELLED).sum())
                if pixels:
                    counts[row, col] = pixels
    order = list(counts)
    if sum(counts.values()) > limit:
        order = [order[i] for i in np.random.default_rng(0).permutation(len(order))]
    kept, total = [], 0
    for cell in order:
        if total >= limit:
            break
        kept.append(cell)
        total += counts[cell]
    return kept
