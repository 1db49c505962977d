"""General networks in plain torch: tensors in, tensors out, no raster in sight."""
