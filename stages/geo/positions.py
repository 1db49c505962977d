"""Find where the pixels of the grid lie in a raster: by CRS at nodes, between them by a parabola that is checked.

A change of CRS costs a quarter of a microsecond a point, more than all the rest of bringing four bands onto the grid.
So it is done at nodes only, which lie at fixed pixels of the CRS and resolution, whatever the area and its tiles; a
position depends on the nodes of its own cell alone, and so not on how the grid is cut.
"""

from __future__ import annotations

import numpy as np

from stages.geo.frame import Frame, is_geographic, same_crs, transformed
from stages.geo.grid import Grid, Window

#: Side in pixels of a cell that has nodes at its corners, the middles of its sides and its centre.
CELL = 32
#: Source pixels by which positions may differ from exact ones; cells that would exceed this are computed pixel by
#: pixel. They bend the most at a quarter and three quarters of a cell, where every cell is compared.
TOLERANCE = 1e-5
#: Parts of a cell at which it is compared.
PROBES = (0.25, 0.75)


def positions(frame: Frame, grid: Grid, window: Window, corners: bool) -> tuple[np.ndarray, np.ndarray]:
    """Find rows and columns in a raster of a window's pixel centres (y, x), or of their corners (y + 1, x + 1).

    Float64, counted from the raster's upper left corner, so that the centre of its first pixel is at 0.5; not finite
    where a CRS has no coordinates. Where rows of the grid are rows of the raster, rows are (y, 1) and columns (1, x).
    """
    start, more = (0.0, 1) if corners else (0.5, 0)
    down = window.row + start + np.arange(window.height + more)
    across = window.col + start + np.arange(window.width + more)
    if not same_crs(grid.crs, frame.crs):
        return _between_nodes(frame, grid, down, across)
    xs, ys = (grid.left + across * grid.resolution)[None, :], (grid.top - down * grid.resolution)[:, None]
    if not frame.upright:
        return pixels_of(frame, *np.broadcast_arrays(xs, ys))
    rows, cols = pixels_of(frame, xs[:, :1], ys)[0], pixels_of(frame, xs, ys[:1])[1]
    return rows, cols


def pixels_of(frame: Frame, xs: np.ndarray, ys: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Rows and columns of a raster at coordinates of its CRS, which may be turns of longitude away."""
    a, b, c, d, e, f = frame.transform[:6]
    if is_geographic(frame.crs):
        centre = a * frame.width / 2 + b * frame.height / 2 + c
        # Just short of half a turn, so that the far edge of a raster of the whole globe stays on its side.
        with np.errstate(invalid="ignore"):
            xs = xs - 360.0 * np.round((xs - centre) / 360.0 * (1 - 1e-9))
    # Taken from the raster's corner, so that large coordinates leave no rounding behind.
    xs, ys = xs - c, ys - f
    with np.errstate(invalid="ignore"):
        return (a * ys - d * xs) / (a * e - b * d), (e * xs - b * ys) / (a * e - b * d)


def _exact(frame: Frame, grid: Grid, down: np.ndarray, across: np.ndarray) -> np.ndarray:
    """Take points of the grid, in pixels from its corner, to rows and columns of the raster: (2, ...)."""
    xs, ys = grid.left + across * grid.resolution, grid.top - down * grid.resolution
    xs, ys = transformed(grid.crs, frame.crs, xs, ys)
    return np.stack(pixels_of(frame, xs, ys))


def _between_nodes(frame: Frame, grid: Grid, down: np.ndarray, across: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Find the positions of the points of rows ``down`` and columns ``across`` in pixels of the grid."""
    rows = _Cells.of(down, -round(grid.top / grid.resolution))
    cols = _Cells.of(across, round(grid.left / grid.resolution))
    nodes = _exact(frame, grid, *np.meshgrid(rows.nodes, cols.nodes, indexing="ij"))
    with np.errstate(invalid="ignore"):
        found = cols.between(rows.between(nodes.swapaxes(1, 2)).swapaxes(1, 2))
        rough = _rough(frame, grid, rows, cols, nodes)
    if rough.any():
        there = rough[rows.cell[:, None], cols.cell[None, :]]
        y, x = np.nonzero(there)
        found[:, y, x] = _exact(frame, grid, down[y], across[x])
    return found[0], found[1]


class _Cells:
    """The cells along one axis that hold some points.

    ``nodes`` (2 n + 1,) in pixels of the grid; ``cell`` (points,) and ``part`` of it (points,), from 0 to 1.
    """

    def __init__(self, first: int, count: int, cell: np.ndarray, part: np.ndarray) -> None:
        self.first, self.count, self.cell, self.part = first, count, cell, part
        self.nodes = first + np.arange(2 * count + 1) * (CELL / 2)

    @classmethod
    def of(cls, points: np.ndarray, origin: int) -> _Cells:
        """Find the cells of points, in pixels of the grid, which lies so many pixels from the CRS's origin."""
        at = (points + origin) / CELL
        whole = np.floor(at)
        first, last = int(whole[0]), int(whole[-1])
        return cls(first * CELL - origin, last - first + 1, (whole - first).astype(np.int64), at - whole)

    def between(self, nodes: np.ndarray) -> np.ndarray:
        """Lay a parabola through the three nodes of every cell: (..., nodes) -> (..., points)."""
        before, middle, after = nodes[..., :-1:2], nodes[..., 1::2], nodes[..., 2::2]
        slope, bend = 4 * middle - 3 * before - after, 2 * (before + after) - 4 * middle
        cell, part = self.cell, self.part
        out = np.take(bend, cell, axis=-1)
        out *= part
        out += np.take(slope, cell, axis=-1)
        out *= part
        out += np.take(before, cell, axis=-1)
        return out


def _rough(frame: Frame, grid: Grid, rows: _Cells, cols: _Cells, nodes: np.ndarray) -> np.ndarray:
    """Tell which cells a parabola does not follow, or have no coordinates somewhere: bool (rows, cols) of cells."""
    down, across = (_Cells(axis.first, axis.count, *_probes(axis.count)) for axis in (rows, cols))
    exact = _exact(frame, grid, *np.meshgrid(
        *((axis.first + (axis.cell + axis.part) * CELL) for axis in (down, across)), indexing="ij"
    ))  # fmt: skip
    far = np.abs(across.between(down.between(nodes.swapaxes(1, 2)).swapaxes(1, 2)) - exact).max(axis=0)
    # Written so that what is not a number is rough.
    smooth = far.reshape(rows.count, len(PROBES), cols.count, len(PROBES)).max(axis=(1, 3)) <= TOLERANCE
    return np.asarray(~smooth)


def _probes(count: int) -> tuple[np.ndarray, np.ndarray]:
    """Cells and parts of the points at which cells are compared."""
    return np.repeat(np.arange(count), len(PROBES)), np.tile(PROBES, count)
