"""The raster factory writes what it was asked for."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import rasterio

from tests.rasters import CORNER, raster, square, vectors


@pytest.mark.parametrize("crs", ["EPSG:32633", "EPSG:4326", "EPSG:32119", None])
@pytest.mark.parametrize(("dtype", "nodata"), [("uint8", 0), ("int16", -32768), ("uint16", 65535), ("float32", -99999)])
def test_any_crs_type_and_nodata(tmp_path: Path, crs: str | None, dtype: str, nodata: float) -> None:
    values = np.arange(24).reshape(2, 3, 4)
    path = raster(tmp_path / "a.tif", values, crs=crs, dtype=dtype, nodata=nodata, resolution=0.5, corner=(10, 20))
    with rasterio.open(path) as dataset:
        assert (dataset.read() == values).all()
        assert dataset.dtypes == (dtype, dtype)
        assert dataset.nodata == nodata
        assert (dataset.crs.to_string() if dataset.crs else None) == crs
        assert tuple(dataset.bounds) == (10.0, 18.5, 12.0, 20.0)


def test_values_of_a_function_are_taken_at_pixel_centres(tmp_path: Path) -> None:
    path = raster(tmp_path / "a.tif", lambda x, _: x - CORNER[0], shape=(2, 3), bands=2, dtype="float64")
    with rasterio.open(path) as dataset:
        assert dataset.read().tolist() == [[[5, 15, 25], [5, 15, 25]]] * 2


def test_names_scale_tags_and_mask(tmp_path: Path) -> None:
    mask = np.array([[True, False]])
    path = raster(tmp_path / "a.tif", np.ones((1, 2)), names=["nir"], scale=0.1, offset=-1, tags={"A": "b"}, mask=mask)
    with rasterio.open(path) as dataset:
        assert (dataset.descriptions, dataset.scales, dataset.offsets) == (("nir",), (0.1,), (-1.0,))
        assert dataset.tags()["A"] == "b"
        assert (dataset.read_masks(1) == mask * 255).all()


@pytest.mark.parametrize("ending", ["gpkg", "shp", "geojson", "parquet"])
def test_vectors_of_any_kind(tmp_path: Path, ending: str) -> None:
    import geopandas as gpd

    path = vectors(tmp_path / f"a.{ending}", [square(0, 0), square(2, 1, 2)], kind=["x", "y"])
    table = gpd.read_parquet(path) if ending == "parquet" else gpd.read_file(path)
    assert table["kind"].tolist() == ["x", "y"]
    assert table.to_crs("EPSG:32633").area.round(3).tolist() == pytest.approx([100.0, 400.0], rel=1e-3)
