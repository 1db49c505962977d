"""Grids, rasters and vectors: rasterio, odc-geo and geopandas only."""
