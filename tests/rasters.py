"""Make rasters and vectors of any kind for tests: CRS, type, nodata, bands, place and values as asked."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from affine import Affine

UTM = "EPSG:32633"
#: Upper left corner of a raster that does not say where it lies, in metres of `UTM`; a multiple of 10.
CORNER = 500_000.0, 5_400_000.0

#: Values as an array (y, x) or (band, y, x), or as a function of the pixel centres' x and y in CRS units.
Values = np.ndarray | Callable[[np.ndarray, np.ndarray], np.ndarray]


def raster(
    path: Path,
    values: Values,
    *,
    crs: str | None = UTM,
    resolution: float = 10.0,
    corner: tuple[float, float] = CORNER,
    rotation: float = 0.0,
    shape: tuple[int, int] = (8, 8),
    bands: int = 1,
    dtype: str | None = None,
    nodata: float | None = None,
    names: Sequence[str] = (),
    scale: float = 1.0,
    offset: float = 0.0,
    tags: dict[str, str] | None = None,
    mask: np.ndarray | None = None,
    **profile: Any,
) -> Path:
    """Write a GeoTIFF and return its path.

    ``rotation`` turns it by so many degrees about its upper left corner. ``mask`` (y, x) is written as the file's own
    mask, False where masked. ``shape`` and ``bands`` count for values that are a function only.
    """
    import rasterio

    turn = np.deg2rad(rotation)
    a, d = resolution * np.cos(turn), resolution * np.sin(turn)
    transform = Affine(a, d, corner[0], d, -a, corner[1])
    if callable(values):
        cols, rows = np.meshgrid(np.arange(shape[1]) + 0.5, np.arange(shape[0]) + 0.5)
        xs, ys = a * cols + d * rows + corner[0], d * cols - a * rows + corner[1]
        values = np.stack([np.broadcast_to(values(xs, ys), shape)] * bands)
    array = np.atleast_3d(values) if values.ndim == 3 else values[None]
    array = array.astype(dtype or array.dtype)
    settings: dict[str, Any] = {
        "driver": "GTiff", "count": array.shape[0], "height": array.shape[1], "width": array.shape[2],
        "dtype": array.dtype, "crs": crs, "nodata": nodata, "transform": transform, **profile,
    }  # fmt: skip
    path.parent.mkdir(parents=True, exist_ok=True)
    with rasterio.Env(GDAL_TIFF_INTERNAL_MASK=True), rasterio.open(path, "w", **settings) as target:
        target.write(array)
        for i, name in enumerate(names):
            target.set_band_description(i + 1, name)
        if (scale, offset) != (1.0, 0.0):
            target.scales, target.offsets = (scale,) * target.count, (offset,) * target.count
        if tags:
            target.update_tags(**tags)
        if mask is not None:
            target.write_mask(mask)
    return path


def spoil_block(path: Path) -> None:
    """Overwrite the last block of a tiled, compressed GeoTIFF, which keeps its length."""
    import rasterio

    with rasterio.open(path) as source:
        high, wide = source.block_shapes[0]
        name = f"{(source.width - 1) // wide}_{(source.height - 1) // high}"
        start, size = (
            int(source.get_tag_item(f"BLOCK_{what}_{name}", "TIFF", bidx=source.count)) for what in ("OFFSET", "SIZE")
        )
    content = bytearray(path.read_bytes())
    content[start : start + size] = b"\xff" * size
    path.write_bytes(content)


def noise(shape: tuple[int, ...], seed: int = 0, dtype: str = "float32") -> np.ndarray:
    """Draw values between 1 and 1000, so that 0 and negative numbers stay free for nodata."""
    return np.random.default_rng(seed).integers(1, 1001, shape).astype(dtype)


def vectors(path: Path, shapes: Sequence[Any], crs: str | None = UTM, **columns: Sequence[Any]) -> Path:
    """Write polygons or points with their columns, as whatever the file's ending says."""
    import geopandas as gpd

    table = gpd.GeoDataFrame(dict(columns), geometry=list(shapes), crs=crs)
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix == ".parquet":
        table.to_parquet(path)
        return path
    with warnings.catch_warnings():
        # Vectors without a CRS are asked for here.
        warnings.simplefilter("ignore", UserWarning)
        table.to_file(path)
    return path


def square(col: float, row: float, side: float = 1.0, resolution: float = 10.0) -> Any:
    """Draw a square from its upper left corner, in pixels from `CORNER`."""
    from shapely import box

    left, top = CORNER[0] + col * resolution, CORNER[1] - row * resolution
    return box(left, top - side * resolution, left + side * resolution, top)
