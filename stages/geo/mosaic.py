"""Read one date on a window of the grid: its scenes one over the other, each only where it is clear."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np

from stages.geo.clear import Reach, Rule, grow
from stages.geo.frame import Frame, is_geographic, same_crs
from stages.geo.grid import Grid, Window
from stages.geo.warp import Layers, Patch, warp, warp_clear


@dataclass(frozen=True)
class Piece:
    """One file of a scene: which of the area's bands it holds, and the pixels of the grid it may reach."""

    layers: Layers
    bands: tuple[int, ...]
    reach: Window

    def touches(self, window: Window) -> bool:
        """Tell whether the file may hold something for a window."""
        rows = self.reach.row < window.row + window.height and window.row < self.reach.row + self.reach.height
        return rows and self.reach.col < window.col + window.width and window.col < self.reach.col + self.reach.width


@dataclass(frozen=True)
class Scene:
    """The files of one scene, those of the bands and those that hold the quality band, the finest first."""

    pieces: tuple[Piece, ...]
    quality: tuple[Piece, ...] = ()


@dataclass(frozen=True)
class Mask:
    """What is clear, and the distance that is kept from clouds."""

    rule: Rule
    reach: Reach


def place_piece(layers: Layers, bands: tuple[int, ...], grid: Grid, resampling: str) -> Piece | None:
    """Place the layers of one file on the grid and choose their kernel, None where they do not reach it."""
    frame = layers.frame
    left, bottom, right, top = frame.bounds(grid.crs)
    # Curved edges between the points of the outline may bulge: two pixels and a little more are spared for them.
    spare = 2 + 0.01 * max(right - left, top - bottom) / grid.resolution
    if frame.offset(grid) is not None:
        spare = 0.0
    first = int((grid.top - top) / grid.resolution - spare), int((left - grid.left) / grid.resolution - spare)
    last = (grid.top - bottom) / grid.resolution + spare, (right - grid.left) / grid.resolution + spare
    reach = Window(*first, int(np.ceil(last[0])) - first[0], int(np.ceil(last[1])) - first[1])
    overlaps = left < grid.bounds[2] and right > grid.bounds[0] and bottom < grid.bounds[3] and top > grid.bounds[1]
    return Piece(replace(layers, method=_method(frame, grid, resampling)), bands, reach) if overlaps else None


def place_anywhere(layers: Layers, bands: tuple[int, ...], grid: Grid, resampling: str) -> list[Piece]:
    """Place layers that the grid was not laid around, on either side of the antimeridian."""
    turning = is_geographic(grid.crs) and same_crs(layers.frame.crs, grid.crs)
    turns = (-360.0, 0.0, 360.0) if turning else (0.0,)
    moved = [replace(layers, frame=layers.frame.shifted(turn) if turn else layers.frame) for turn in turns]
    found = [place_piece(one, bands, grid, resampling) for one in moved]
    return [piece for piece in found if piece]


def _method(frame: Frame, grid: Grid, resampling: str) -> str:
    """Choose the kernel of one source: average where its pixels are finer than the grid's, bilinear otherwise."""
    if resampling != "auto":
        return resampling
    # A few per cent of difference come from the projection alone.
    return "average" if frame.resolution(grid.crs) < 0.95 * grid.resolution else "bilinear"


def read_date(
    scenes: Sequence[Scene], bands: int, grid: Grid, window: Window, mask: Mask | None
) -> tuple[Patch, np.ndarray]:
    """Read one date: every pixel of the first scene where all its bands are valid and it is clear.

    A scene that is nowhere clear on the window is not read, so `Patch.low`, ``high`` and ``broken`` leave it out.

    Returns:
        The date's values float32 (band, y, x), meaningless where not valid, with what was found in the sources, and
        valid bool (y, x).
    """
    total: Patch | None = None
    valid = np.zeros((window.height, window.width), bool)
    for scene in scenes:
        clear = is_clear(scene, grid, window, mask) if mask else None
        if clear is not None and not clear.any():
            continue
        patch = merge_pieces(scene.pieces, bands, grid, window)
        take = np.asarray(patch.valid.all(axis=0))
        if clear is not None:
            take &= clear
        if total is None:
            total, valid = patch, take
            continue
        take &= ~valid
        np.copyto(total.values, patch.values, where=take)
        valid |= take
        total.low, total.high = np.minimum(total.low, patch.low), np.maximum(total.high, patch.high)
        total.broken = total.broken + patch.broken
    return total or Patch.empty(bands, valid.shape), valid


def merge_pieces(pieces: Sequence[Piece], bands: int, grid: Grid, window: Window) -> Patch:
    """Bring the files of one scene onto a window, every band from the finest file that has it there."""
    scene: Patch | None = None
    for piece in pieces:
        if not piece.touches(window):
            continue
        held = list(piece.bands)
        if scene is None and held == list(range(bands)):
            scene = warp(piece.layers, grid, window)
            continue
        scene = scene or Patch.empty(bands, (window.height, window.width))
        if scene.valid[held].all():
            continue
        patch = warp(piece.layers, grid, window)
        for i, band in enumerate(held):
            new = patch.valid[i] & ~scene.valid[band]
            np.copyto(scene.values[band], patch.values[i], where=new)
            scene.valid[band] |= new
        scene.low[held] = np.minimum(scene.low[held], patch.low)
        scene.high[held] = np.maximum(scene.high[held], patch.high)
        scene.broken[held] += patch.broken
    return scene or Patch.empty(bands, (window.height, window.width))


def is_clear(scene: Scene, grid: Grid, window: Window, mask: Mask) -> np.ndarray:
    """Tell where a scene shows the ground, at a distance from its clouds: bool (y, x).

    Clouds are looked for around the window too, beyond the grid where the scene goes on there, so the answer does
    not depend on how the grid is cut. Ground without a quality value is not clear, and no cloud either.
    """
    clear, known = _quality(scene, grid, window, mask.rule.is_clear)
    clear &= known
    around = mask.reach.pixels
    if not around or not clear.any():
        return clear
    wide = Window(window.row - around, window.col - around, window.height + 2 * around, window.width + 2 * around)
    far, known = _quality(scene, grid, wide, mask.rule.is_far)
    return np.asarray(clear & ~grow(known & ~far, mask.reach)[window.within(wide)])


def _quality(
    scene: Scene, grid: Grid, window: Window, rule: Callable[[np.ndarray], np.ndarray]
) -> tuple[np.ndarray, np.ndarray]:
    """Ask a scene's quality bands, the finest first: what the rule says and where there is a value, bool (y, x)."""
    said = np.zeros((window.height, window.width), bool)
    known = np.zeros_like(said)
    for piece in scene.quality:
        if piece.touches(window) and not known.all():
            answer, there = warp_clear(piece.layers, grid, window, rule)
            np.copyto(said, answer, where=there & ~known)
            known |= there
    return said, known
