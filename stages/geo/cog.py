"""Write finished layers as Cloud-Optimized GeoTIFFs: overviews, statistics, colours, names, provenance."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from xml.sax.saxutils import escape

import numpy as np

from stages.geo.grid import Window

NODATA = 255
SIDE = 256


@dataclass(frozen=True)
class Layer:
    """What a layer is, beyond its pixels.

    ``overview`` names the resampling of the overviews (`mode` for classes, `average` for quantities); ``colors`` and
    ``names`` belong to pixel values; ``tags`` must hold neither times nor host names, or equal maps would differ.
    ``bands`` describes every band where there are several.
    """

    description: str
    overview: str
    tags: dict[str, str] = field(default_factory=dict)
    colors: dict[int, tuple[int, int, int]] = field(default_factory=dict)
    names: dict[int, str] = field(default_factory=dict)
    bands: tuple[str, ...] = ()


def copy_cog(source: Path, target: Path, layer: Layer) -> None:
    """Write ``source`` as it is, whatever its bands and their type, as a COG with its own nodata and scales."""
    import rasterio
    from rasterio.shutil import copy

    plain = target.with_suffix(".plain.tif")
    with rasterio.Env(GDAL_PAM_ENABLED="NO"):
        with rasterio.open(source) as dataset:
            profile = {**dataset.profile, "compress": "DEFLATE", "zlevel": 1}
            profile.pop("zstd_level", None)
            with rasterio.open(plain, "w", **profile) as written:
                written.scales = dataset.scales
                for band, description in enumerate(layer.bands or (layer.description,), start=1):
                    written.set_band_description(band, description)
                written.update_tags(**layer.tags)
                for window in _windows(dataset):
                    place = raster_window(window)
                    written.write(dataset.read(window=place), window=place)
        copy(
            plain, target, driver="COG", compress="DEFLATE", level=9, blocksize=SIDE, num_threads=1,
            overview_resampling=layer.overview, bigtiff="IF_SAFER", interleave="BAND",
        )  # fmt: skip
    plain.unlink()


def write_cog(source: Path, target: Path, layer: Layer, change: Callable[[np.ndarray], np.ndarray]) -> None:
    """Write ``source``, its pixels passed through ``change`` (uint8 in, uint8 out), as a COG with nodata 255.

    Works by windows: neither the layer nor its overviews are ever held whole.
    """
    import rasterio
    from rasterio.shutil import copy

    plain = target.with_suffix(".plain.tif")
    with rasterio.Env(GDAL_PAM_ENABLED="NO", GDAL_TIFF_INTERNAL_MASK="NO"):
        mapped = _write_plain(source, plain, layer, change)
        copy(
            plain, target, driver="COG", compress="DEFLATE", level=9, blocksize=SIDE, num_threads=1,
            overview_resampling=layer.overview, statistics="YES" if mapped else "NO", bigtiff="IF_SAFER",
        )  # fmt: skip
    plain.unlink()
    if layer.names:
        Path(f"{target}.aux.xml").write_text(category_names(layer.names), encoding="utf-8")


def _write_plain(source: Path, plain: Path, layer: Layer, change: Callable[[np.ndarray], np.ndarray]) -> bool:
    """Write the changed pixels with colours and tags as a plain tiled GeoTIFF; returns whether any is no nodata."""
    import rasterio

    mapped = False
    with rasterio.open(source) as dataset:
        profile = {
            "driver": "GTiff", "dtype": "uint8", "count": 1, "nodata": NODATA, "width": dataset.width,
            "height": dataset.height, "crs": dataset.crs, "transform": dataset.transform, "tiled": True,
            "blockxsize": SIDE, "blockysize": SIDE, "compress": "DEFLATE", "zlevel": 1, "bigtiff": "IF_SAFER",
        }  # fmt: skip
        with rasterio.open(plain, "w", **profile) as written:
            if layer.colors:
                written.write_colormap(1, {code: (*rgb, 255) for code, rgb in layer.colors.items()})
            written.set_band_description(1, layer.description)
            written.update_tags(**layer.tags)
            for window, block in read_windows(dataset):
                changed = change(block)
                mapped = mapped or bool((changed != NODATA).any())
                written.write(changed, 1, window=raster_window(window))
    return mapped


def read_windows(dataset: Any) -> Iterator[tuple[Window, np.ndarray]]:
    """Read every window of the first band of an open raster."""
    for window in _windows(dataset):
        yield window, dataset.read(1, window=raster_window(window))


def _windows(dataset: Any) -> Iterator[Window]:
    """Cut an open raster into windows a row of blocks high and up to 4096 pixels wide."""
    for row in range(0, dataset.height, SIDE):
        for col in range(0, dataset.width, 16 * SIDE):
            yield Window(row, col, min(SIDE, dataset.height - row), min(16 * SIDE, dataset.width - col))


def raster_window(window: Window) -> Any:
    """Give the same window as rasterio takes it."""
    from rasterio.windows import Window as RasterWindow

    return RasterWindow(window.col, window.row, window.width, window.height)


def category_names(names: dict[int, str]) -> str:
    """Write the sidecar by which GDAL and QGIS show a class name for every pixel value."""
    lines = [f"      <Category>{escape(names.get(code, ''))}</Category>" for code in range(max(names) + 1)]
    return "\n".join(
        ["<PAMDataset>", '  <PAMRasterBand band="1">', "    <CategoryNames>", *lines, "    </CategoryNames>",
         "  </PAMRasterBand>", "</PAMDataset>", ""]
    )  # fmt: skip
