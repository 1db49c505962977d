"""Burn labels onto a window of the grid: how much of every pixel each category covers."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from stages.errors import LabelError
from stages.geo.frame import is_geographic
from stages.geo.grid import Grid, Window
from stages.geo.headers import frame_of, reason
from stages.geo.labels import UNKNOWN, Features, LabelFile, features_on, label_key
from stages.geo.periods import Period
from stages.geo.warp import is_data

#: Cells a side into which a pixel is cut to measure what polygons cover of it; odd, so that one is the centre.
POLYGON_CELLS = 5
#: Least and most cells a side for a label raster on another grid.
RASTER_CELLS, MOST_RASTER_CELLS = 4, 16
#: A label raster nearer to the grid than this share of a pixel lies on it.
ALIGNED = 0.1
#: Side of the pieces in which a window is burnt, so that its cells stay small in memory.
PIECE = 256


@dataclass(frozen=True)
class Coverage:
    """What labels cover of every pixel of a window.

    counts    uint16 (category, y, x)  cells of the pixel that the category covers, of ``cells``
    centre    bool (y, x)              the pixel's centre is covered (False where no cell is the centre)
    conflict  bool (y, x)              two categories lie upon one another in the pixel
    group     int32 (y, x)             group that covers most of the dominant category, -1 where none
    unknown   values without a category and in how many cells they were met
    """

    counts: np.ndarray
    cells: int
    centre: np.ndarray
    conflict: np.ndarray
    group: np.ndarray
    unknown: dict[str, int]

    def dominant(self) -> tuple[np.ndarray, np.ndarray]:
        """Category of every pixel, int16 (y, x), -1 where unlabelled, and its share of the pixel, float32 (y, x).

        A pixel is labelled if its centre or at least half of it is covered; in a tie the first category wins. A pixel
        in conflict is unlabelled.
        """
        covered = self.counts.sum(axis=0, dtype=np.int32)
        labelled = ((covered * 2 >= self.cells) | self.centre) & (covered > 0) & ~self.conflict
        category = np.where(labelled, self.counts.argmax(axis=0), -1).astype(np.int16)
        share = self.counts.max(axis=0) / np.float32(self.cells)
        return category, np.where(labelled, share, 0).astype(np.float32)


def burn(file: LabelFile, grid: Grid, window: Window, season: Period | None = None) -> Coverage:
    """Burn a label source onto a window of the grid; of dated labels those that count for a season.

    Raises:
        LabelError: the source cannot be read.
    """
    whole = _empty(file.categories, window, 1)
    unknown: dict[str, int] = {}
    cells = 1
    for piece in _pieces(window):
        part = _burn_raster(file, grid, piece) if not file.is_vector else _burn_vector(file, grid, piece, season)
        here = piece.within(window)
        for name in ("counts", "centre", "conflict", "group"):
            getattr(whole, name)[(..., *here)] = getattr(part, name)
        cells = part.cells
        for value, count in part.unknown.items():
            unknown[value] = unknown.get(value, 0) + count
    return Coverage(whole.counts, cells, whole.centre, whole.conflict, whole.group, unknown)


def _pieces(window: Window) -> Iterator[Window]:
    for row in range(0, window.height, PIECE):
        for col in range(0, window.width, PIECE):
            size = min(PIECE, window.height - row), min(PIECE, window.width - col)
            yield Window(window.row + row, window.col + col, *size)


def _empty(categories: int, window: Window, cells: int) -> Coverage:
    shape = window.height, window.width
    none = np.zeros(shape, dtype=bool)
    counts = np.zeros((categories, *shape), dtype=np.uint16)
    return Coverage(counts, cells, none.copy(), none.copy(), np.full(shape, -1, dtype=np.int32), {})


def _burn_vector(file: LabelFile, grid: Grid, window: Window, season: Period | None) -> Coverage:
    import shapely

    features = features_on(file, grid)
    left, top = grid.left + window.col * grid.resolution, grid.top - window.row * grid.resolution
    right, bottom = left + window.width * grid.resolution, top - window.height * grid.resolution
    near = np.sort(features.tree.query(shapely.box(left, bottom, right, top)))
    near = near[(features.category[near] >= 0) & features.count_for(season)[near]]
    if not len(near):
        return _empty(file.categories, window, 1 if features.points else POLYGON_CELLS**2)
    if features.points:
        return burn_points(features, near, grid, window, file.categories)
    return burn_polygons(features, near, grid, window, file.categories)


def burn_points(features: Features, near: np.ndarray, grid: Grid, window: Window, categories: int) -> Coverage:
    """Give each point the whole of the pixel it lies in; points of two categories in a pixel are a conflict."""
    import shapely

    coordinates, position = shapely.get_coordinates(features.geometry[near], return_index=True)
    feature = near[position]
    col = np.floor((coordinates[:, 0] - grid.left) / grid.resolution).astype(np.int64) - window.col
    row = np.floor((grid.top - coordinates[:, 1]) / grid.resolution).astype(np.int64) - window.row
    inside = (row >= 0) & (row < window.height) & (col >= 0) & (col < window.width)
    row, col, feature = row[inside], col[inside], feature[inside]
    found = _empty(categories, window, 1)
    found.counts[features.category[feature], row, col] = 1
    found.conflict[...] = found.counts.sum(axis=0) > 1
    found.centre[...] = found.counts.any(axis=0)
    found.group[row[::-1], col[::-1]] = features.group[feature[::-1]]  # the first point of a pixel is written last
    return found


def burn_polygons(features: Features, near: np.ndarray, grid: Grid, window: Window, categories: int) -> Coverage:
    """Count the cells of each pixel whose centres lie in polygons of each category."""
    from affine import Affine

    side = POLYGON_CELLS
    transform = grid.transform @ Affine.translation(window.col, window.row) @ Affine.scale(1 / side)
    shape = window.height * side, window.width * side
    found = _empty(categories, window, side * side)
    covered = np.zeros(shape, dtype=bool)
    for category in np.unique(features.category[near]):
        of_it = near[features.category[near] == category]
        mask = _rasterize(features.geometry[of_it], np.ones(len(of_it), dtype=np.uint8), shape, transform) > 0
        found.counts[category] = _cells(mask, side).sum(axis=-1)
        found.conflict[...] |= _cells(covered & mask, side).any(axis=-1)
        covered |= mask
    middle = side // 2
    found.centre[...] = covered[middle::side, middle::side]
    if (features.group[near] >= 0).any():
        owner = _rasterize(features.geometry[near], near.astype(np.int32) + 1, shape, transform)
        found.group[...] = _main_group(found, features, _cells(owner, side).astype(np.int32) - 1)
    return found


def _rasterize(shapes: np.ndarray, values: np.ndarray, shape: tuple[int, int], transform: Any) -> np.ndarray:
    from rasterio.features import rasterize

    burnt: np.ndarray = rasterize(
        zip(shapes, values.tolist(), strict=True), out_shape=shape, transform=transform, fill=0, dtype=values.dtype.name
    )
    return burnt


def _cells(fine: np.ndarray, side: int) -> np.ndarray:
    """Regroup cells by pixel: (y * side, x * side) -> (y, x, side * side)."""
    height, width = fine.shape[0] // side, fine.shape[1] // side
    return fine.reshape(height, side, width, side).swapaxes(1, 2).reshape(height, width, side * side)


def _main_group(found: Coverage, features: Features, owner: np.ndarray) -> np.ndarray:
    """Group with most cells among those of the pixel's dominant category; ``owner`` is the feature of every cell."""
    category, _ = found.dominant()
    same = (owner >= 0) & (features.category[owner] == category[..., None])
    groups = np.where(same, features.group[owner], -1)
    main: np.ndarray = groups.max(axis=-1)
    least = np.where(groups >= 0, groups, main[..., None]).min(axis=-1)
    for row, col in np.argwhere(least != main):  # only where groups of one category meet
        numbers, counts = np.unique(groups[row, col][groups[row, col] >= 0], return_counts=True)
        main[row, col] = numbers[counts.argmax()]
    return main


def _burn_raster(file: LabelFile, grid: Grid, window: Window) -> Coverage:
    """Sample a label raster at the centres of the cells of every pixel and count the categories."""
    side, values = _sample_raster(file, grid, window)
    found = _empty(file.categories, window, side * side)
    seen = ~values.mask
    there = _whole(values.data[seen], file)
    numbers, counts = np.unique(there, return_counts=True)
    categories = file.categories_of(numbers)
    category = np.full(values.shape, UNKNOWN, dtype=np.int16)
    category[seen] = categories[np.searchsorted(numbers, there)]
    for known in np.unique(categories[categories >= 0]):
        found.counts[known] = _cells(category == known, side).sum(axis=-1).astype(np.uint16)
    for unknown in np.flatnonzero(categories == UNKNOWN):
        found.unknown[label_key(numbers[unknown])] = int(counts[unknown])
    return found


def _whole(values: np.ndarray, file: LabelFile) -> np.ndarray:
    """Round fractions down where a range of labels holds what they become."""
    if not file.ranges or values.dtype.kind != "f":
        return values
    down = np.floor(values)
    in_range = np.any([(down >= low) & (down <= high) for low, high, _ in file.ranges], axis=0)
    return np.where(in_range, down, values)


def _sample_raster(file: LabelFile, grid: Grid, window: Window) -> tuple[int, Any]:
    """Cells a side, and the value at the centre of every cell as a masked array (y * side, x * side)."""
    import rasterio
    from rasterio.errors import RasterioIOError

    try:
        with rasterio.open(file.path) as source:
            side, turns = cells_for(source, grid), turns_to(source, grid)
            values, seen = _sample_turned(source, grid, window, side, turns[0])
            for turn in turns[1:]:
                more, there = _sample_turned(source, grid, window, side, turn)
                values, seen = np.where(seen, values, more), seen | there
    except RasterioIOError as fault:
        raise LabelError(
            f"The label raster {file.path} cannot be read ({reason(fault)}); it may be cut off or damaged, "
            "copy it again."
        ) from fault
    return side, np.ma.masked_array(values, ~seen | ~np.isfinite(values))


def turns_to(source: Any, grid: Grid) -> tuple[float, ...]:
    """Find the turns of longitude by which an open raster comes to lie on the grid, in degrees; often just 0."""
    frame = frame_of(source)
    if not (is_geographic(grid.crs) and is_geographic(frame.crs)):
        return (0.0,)
    left, _, right, _ = frame.bounds(grid.crs)
    near = grid.bounds[0], grid.bounds[2]
    return tuple(t for t in (0.0, -360.0, 360.0) if left + t < near[1] and right + t > near[0]) or (0.0,)


def _sample_turned(source: Any, grid: Grid, window: Window, side: int, turn: float) -> tuple[np.ndarray, np.ndarray]:
    """Sample an open raster that is moved by a turn of longitude: values, and where there are any."""
    from affine import Affine
    from rasterio.enums import Resampling
    from rasterio.vrt import WarpedVRT
    from rasterio.windows import Window as RasterWindow

    options = {
        "crs": grid.crs, "transform": grid.transform @ Affine.scale(1 / side), "width": grid.width * side,
        "height": grid.height * side, "resampling": Resampling.nearest,
        "src_transform": Affine.translation(turn, 0.0) @ source.transform,
        # Told of the nodata, GDAL would not look at the mask that a file may have beside it.
        "src_nodata": None, "add_alpha": True,
    }  # fmt: skip
    with WarpedVRT(source, **options) as warped:
        at = RasterWindow(window.col * side, window.row * side, window.width * side, window.height * side)
        values, seen = warped.read(1, window=at), warped.dataset_mask(window=at) > 0
    return values, seen & is_data(values, source.nodata)


def cells_for(source: Any, grid: Grid) -> int:
    """Cells a side into which a pixel is cut to count the pixels of a raster in it: 1 where the raster is on the grid.

    A multiple of how many of the raster's pixels fit into one of the grid's, so that each counts alike.
    """
    ratio, offset = _placement(source, grid)
    if abs(ratio - 1) < 0.01 and offset < ALIGNED:
        return 1
    fits = max(1, round(ratio))
    return min(MOST_RASTER_CELLS, fits * -(-RASTER_CELLS // fits))


def _placement(source: Any, grid: Grid) -> tuple[float, float]:
    """Size of a grid pixel in the raster's pixels, and how far off the two lie at most, in the raster's pixels."""
    from affine import Affine
    from pyproj import Transformer

    rows, cols = np.meshgrid(np.linspace(0, grid.height - 1, 9).round(), np.linspace(0, grid.width - 1, 9).round())
    xs = grid.left + (cols.ravel() + 0.5) * grid.resolution
    ys = grid.top - (rows.ravel() + 0.5) * grid.resolution
    to_source = Transformer.from_crs(grid.crs, source.crs, always_xy=True)
    to_pixels = ~(Affine.translation(turns_to(source, grid)[0], 0.0) @ source.transform)

    def place(x: np.ndarray, y: np.ndarray) -> np.ndarray:
        x, y = to_source.transform(x, y)
        return np.stack(
            [to_pixels.a * x + to_pixels.b * y + to_pixels.c, to_pixels.d * x + to_pixels.e * y + to_pixels.f]
        )

    at, right = place(xs, ys), place(xs + grid.resolution, ys)
    held = np.isfinite(at).all(axis=0) & np.isfinite(right).all(axis=0)  # the raster's CRS need not hold every place
    if not held.any():
        return 1.0, 1.0
    at, right = at[:, held], right[:, held]
    ratio = float(np.median(np.hypot(*(right - at))))
    off = np.abs(at - np.floor(at) - 0.5).max()
    turned = np.abs(right - at - np.array([[1.0], [0.0]])).max()
    return ratio, float(max(off, turned))
