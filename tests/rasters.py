"""Make rasters, cubes, product folders and vectors for tests: CRS, type, nodata, bands, place and values as asked."""

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


def cube(
    path: Path,
    layers: dict[str, np.ndarray],
    times: Any = None,
    *,
    resolution: float = 10.0,
    attrs: dict[str, Any] | None = None,
    upwards: bool = False,
    westwards: bool = False,
    crs: str | None = UTM,
    chunks: tuple[int, ...] | None = None,
    units: str = "",
    names: tuple[str, str, str] = ("time", "y", "x"),
    dtype: str | None = None,
) -> Path:
    """Write a NetCDF file, or a Zarr folder if the path ends so, with variables (time, y, x) and return its path.

    The first row of an array is the northernmost and its first column the westernmost, however the file stores them.
    Arrays (y, x) have no time. ``times`` are datetimes or, with ``units``, numbers.
    """
    import xarray as xr
    from rasterio.crs import CRS

    time, y, x = names
    high, wide = next(iter(layers.values())).shape[-2:]
    rows = CORNER[1] - resolution * (np.arange(high) + 0.5)
    cols = CORNER[0] + resolution * (np.arange(wide) + 0.5)
    turn = (..., slice(None, None, -1 if upwards else 1), slice(None, None, -1 if westwards else 1))
    said = {"grid_mapping": "spatial_ref", **(attrs or {})}
    axes: dict[str, Any] = {y: (y, rows[turn[1]]), x: (x, cols[turn[2]])}
    if times is not None:
        axes[time] = (time, np.asarray(times), {"units": units} if units else {})
    made: dict[str, Any] = {
        name: ((time, y, x)[-array.ndim :], array[turn].astype(dtype or array.dtype), said)
        for name, array in layers.items()
    }
    if crs:
        made["spatial_ref"] = ((), 0, {"crs_wkt": CRS.from_user_input(crs).to_wkt()})
    data = xr.Dataset(made, coords=axes)
    path.parent.mkdir(parents=True, exist_ok=True)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        if path.suffix == ".zarr":
            data.to_zarr(path, mode="w", consolidated=False, encoding={n: {"chunks": chunks} for n in layers if chunks})
        else:
            data.to_netcdf(path, engine="h5netcdf", encoding={n: {"chunksizes": chunks} for n in layers if chunks})
    return path


#: What the metadata of a Sentinel-2 product say of its numbers: the quantification and each band's offset, if any.
SENTINEL = """<n1:Level-{level}_User_Product><General_Info><Product_Info>
<PRODUCT_START_TIME>{date}T10:56:21.024Z</PRODUCT_START_TIME><PROCESSING_BASELINE>{baseline}</PROCESSING_BASELINE>
</Product_Info><Product_Image_Characteristics>
<QUANTIFICATION_VALUES_LIST><{key}QUANTIFICATION_VALUE unit="none">10000</{key}QUANTIFICATION_VALUE>
<AOT_QUANTIFICATION_VALUE unit="none">1000.0</AOT_QUANTIFICATION_VALUE></QUANTIFICATION_VALUES_LIST>
{offsets}<Spectral_Information_List><Spectral_Information bandId="0" physicalBand="B1"/>
<Spectral_Information bandId="3" physicalBand="B4"/><Spectral_Information bandId="8" physicalBand="B8A"/>
</Spectral_Information_List></Product_Image_Characteristics></General_Info></n1:Level-{level}_User_Product>"""


def sentinel(
    folder: Path,
    images: dict[str, np.ndarray],
    *,
    date: str = "2022-06-14",
    level: str = "2A",
    baseline: str = "04.00",
    offsets: dict[int, int] | None = None,
    corner: tuple[float, float] = CORNER,
    metadata: bool = True,
) -> Path:
    """Make a Sentinel-2 SAFE folder; ``images`` are named as files end, such as B04_10m or B04 for level 1C."""
    day, digits = date.replace("-", ""), baseline.replace(".", "")
    path = folder / f"S2A_MSIL{level}_{day}T105621_N{digits}_R094_T31TCJ_{day}T171017.SAFE"
    inside = path / f"GRANULE/L{level}_T31TCJ_A036448_{day}T105628/IMG_DATA"
    for name, values in images.items():
        metres = int(name[-3:-1]) if name.endswith("m") else 10
        part = inside / (f"R{metres}m" if level == "2A" else "") / f"T31TCJ_{day}T105621_{name}.jp2"
        settings = {"driver": "JP2OpenJPEG", "QUALITY": "100", "REVERSIBLE": "YES"}
        raster(part, values.astype(np.uint16), resolution=metres, corner=corner, **settings)
    if metadata:
        tag = "BOA" if level == "2A" else "RADIO"
        listed = "".join(f'<{tag}_ADD_OFFSET band_id="{i}">{v}</{tag}_ADD_OFFSET>' for i, v in (offsets or {}).items())
        text = SENTINEL.format(
            level=level, date=date, baseline=baseline, key="BOA_" if level == "2A" else "", offsets=listed
        )
        (path / f"MTD_MSIL{level}.xml").write_text(text)
    return path


def landsat(
    folder: Path,
    images: dict[str, np.ndarray],
    *,
    date: str = "2018-06-15",
    level: str = "L2SP",
    metadata: str | None = None,
) -> Path:
    """Make a Landsat Collection 2 folder; ``images`` are named as files end, such as SR_B4."""
    name = f"LC08_{level}_199030_{date.replace('-', '')}_20200831_02_T1"
    for ending, values in images.items():
        raster(folder / name / f"{name}_{ending}.TIF", values.astype(np.uint16), resolution=30, crs="EPSG:32631")
    if metadata is not None:
        (folder / name / f"{name}_MTL.txt").write_text(metadata)
    return folder / name


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
