"""The `classes` artifact: class index and confidence of every pixel as plain tiled GeoTIFFs."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

CLASSES = "classes.tif"
CONFIDENCE = "confidence.tif"
META = "classes.json"
#: Nodata of both layers. Classes are indices 0..K-1; confidence is the top probability in percent, 0..100.
NODATA = 255


def layer_profile(width: int, height: int, crs: str, transform: Any) -> dict[str, Any]:
    """The rasterio profile of both layers."""
    return {
        "driver": "GTiff", "dtype": "uint8", "count": 1, "nodata": NODATA, "width": width, "height": height,
        "crs": crs, "transform": transform, "tiled": True, "blockxsize": 256, "blockysize": 256,
        "compress": "deflate", "BIGTIFF": "IF_SAFER",
    }  # fmt: skip


def write_meta(folder: Path, meta: dict[str, Any]) -> None:
    """Write what made the layers: model, backend, tiles, valid pixels."""
    (folder / META).write_text(json.dumps(meta, indent=1))


def read_meta(folder: Path) -> dict[str, Any]:
    """Read what made the layers."""
    meta: dict[str, Any] = json.loads((folder / META).read_text())
    return meta
