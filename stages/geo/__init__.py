"""Grids, rasters and vectors: rasterio and geopandas only."""
