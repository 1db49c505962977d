"""Turn a class raster into polygons that are cut nowhere, with their true areas."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

#: Rows polygonized at once; patches are joined across the seams, so the result does not depend on it.
STRIP_ROWS = 1024


@dataclass(frozen=True)
class Polygons:
    """Polygons in pixel coordinates (x right, y down, whole numbers) and the class of each."""

    shapes: np.ndarray
    kinds: np.ndarray

    def hectares(self, row_hectares: np.ndarray) -> np.ndarray:
        """Measure every polygon by the true ground area of one pixel of each row: float64 (polygons,), hectares.

        Green's theorem on rings of pixel edges: the area is the sum over horizontal edges of the area of the column
        above them times their signed length, so a polygon's area is exactly the sum of its pixels' areas.
        """
        import shapely

        above = np.concatenate([[0.0], np.cumsum(row_hectares)])
        rings, owner = shapely.get_rings(self.shapes, return_index=True)
        points, ring = shapely.get_coordinates(rings, return_index=True)
        same = ring[1:] == ring[:-1]
        steps = np.where(same, np.diff(points[:, 0]), 0.0) * above[points[1:, 1].astype(np.int64)]
        areas = np.abs(np.bincount(ring[1:], steps, minlength=len(rings)))
        exterior = np.concatenate([[True], owner[1:] != owner[:-1]]) if len(owner) else np.zeros(0, bool)
        return np.bincount(owner, np.where(exterior, areas, -areas), minlength=len(self.shapes))

    def placed(self, transform: Any) -> np.ndarray:
        """Place the polygons in the coordinates that an affine ``transform`` from (column, row) gives."""
        import shapely

        def place(points: np.ndarray) -> np.ndarray:
            x, y = points[:, 0], points[:, 1]
            a, b, c, d, e, f = transform[:6]
            return np.stack([a * x + b * y + c, d * x + e * y + f], axis=1)

        return np.asarray(shapely.transform(self.shapes, place))


def polygonize(classes: np.ndarray, nodata: int = 255, strip_rows: int = STRIP_ROWS) -> Polygons:
    """Outline every 4-connected patch of one class of a uint8 (y, x) raster, in reading order."""
    strips = (classes[top : top + strip_rows] for top in range(0, len(classes), strip_rows))
    finished = list(_joined(strips, nodata))
    shapes = np.array([shape for shape, _ in finished], dtype=object)
    kinds = np.array([kind for _, kind in finished], dtype=classes.dtype)
    return _in_reading_order(Polygons(shapes, kinds))


def _joined(strips: Iterable[np.ndarray], nodata: int) -> Iterator[tuple[Any, int]]:
    """Polygonize strip by strip; what touches a seam waits for its other half, the rest is finished at once."""
    waiting: list[tuple[Any, int]] = []
    top = 0
    for strip in strips:
        bottom = top + len(strip)
        pieces = list(_pieces(strip, top, nodata))
        at_seam = [piece for piece in pieces if piece[0].bounds[1] == top and top > 0]
        inside = [piece for piece in pieces if not (piece[0].bounds[1] == top and top > 0)]
        waiting, ready = _split(_unite(waiting + at_seam) + inside, bottom)
        yield from ready
        top = bottom
    yield from waiting


def _pieces(strip: np.ndarray, top: int, nodata: int) -> Iterator[tuple[Any, int]]:
    """Polygons of one strip whose first row is row ``top`` of the raster."""
    from affine import Affine
    from rasterio.features import shapes
    from shapely.geometry import shape

    for outline, kind in shapes(strip, mask=strip != nodata, connectivity=4, transform=Affine.translation(0, top)):
        yield shape(outline), int(kind)


def _unite(pieces: list[tuple[Any, int]]) -> list[tuple[Any, int]]:
    """Dissolve pieces of one class that share an edge, and take away the corners the seam left in straight edges."""
    import shapely

    united = []
    for kind in sorted({kind for _, kind in pieces}):
        whole = shapely.union_all([piece for piece, own in pieces if own == kind])
        parts = shapely.get_parts(whole)
        united += [(part, kind) for part in shapely.simplify(parts, 0, preserve_topology=True)]
    return united


def _split(pieces: list[tuple[Any, int]], bottom: int) -> tuple[list[tuple[Any, int]], list[tuple[Any, int]]]:
    """Pieces that reach the seam at row ``bottom``, and those that are finished."""
    reaching = [piece for piece in pieces if piece[0].bounds[3] == bottom]
    return reaching, [piece for piece in pieces if piece[0].bounds[3] != bottom]


def _in_reading_order(found: Polygons) -> Polygons:
    """Sort by upper left corner, then by class, with rings in one canonical form: same map, same file."""
    import shapely

    if not len(found.shapes):
        return found
    left, top, right, bottom = shapely.bounds(found.shapes).T
    order = np.lexsort((right, bottom, found.kinds, left, top))
    return Polygons(shapely.normalize(found.shapes[order]), found.kinds[order])
