"""Synthetic worlds with a known truth: scenes, their labels and a config in a folder of their own."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from scipy.ndimage import gaussian_filter

CRS = "EPSG:32633"
RESOLUTION = 10.0
ORIGIN = 500_000.0, 5_400_000.0
COLORS = "#1b6ca8", "#d9a441", "#3f7f4f", "#a83279"


@dataclass(frozen=True)
class World:
    """A root folder with `configs/world.yaml`, its scene and its labels."""

    root: Path
    truth: np.ndarray

    @property
    def data(self) -> Path:
        """The folder of the area's artifacts."""
        return self.root / "data" / "world"

    def run(self, *arguments: str, check: bool = True) -> subprocess.CompletedProcess[str]:
        """Run the installed command on this world: ``world.run("run", "--area", "world")``."""
        command = [sys.executable, "-m", "pipeline.cli", "--root", str(self.root), *arguments]
        done = subprocess.run(command, check=False, capture_output=True, text=True, timeout=600)
        if check and done.returncode:
            raise AssertionError(f"{arguments} ended with {done.returncode}:\n{done.stdout}\n{done.stderr}")
        return done

    def config(self) -> dict[str, Any]:
        """The area's config as a plain dictionary."""
        config: dict[str, Any] = yaml.safe_load((self.root / "configs" / "world.yaml").read_text())
        return config

    def change(self, **sections: dict[str, Any]) -> None:
        """Merge settings into the area's config: ``world.change(label={"seed": 1})``."""
        config = self.config()
        for name, values in sections.items():
            config[name] = {**config.get(name, {}), **values} if isinstance(values, dict) else values
        (self.root / "configs" / "world.yaml").write_text(yaml.safe_dump(config, sort_keys=False))


def patchwork(shape: tuple[int, int], classes: int, patch: int, seed: int) -> np.ndarray:
    """Draw a truth of square patches of one class each: uint8 (y, x)."""
    rng = np.random.default_rng(seed)
    rows, cols = -(-shape[0] // patch), -(-shape[1] // patch)
    # Every class gets the same number of patches, in random places.
    cells = rng.permutation(np.arange(rows * cols) % classes).reshape(rows, cols)
    return np.kron(cells, np.ones((patch, patch)))[: shape[0], : shape[1]].astype(np.uint8)


def separable(truth: np.ndarray, seed: int) -> np.ndarray:
    """Bands in which every class has its own level, far apart against the noise: float32 (band, y, x)."""
    rng = np.random.default_rng(seed)
    levels = rng.permutation(np.linspace(100, 900, 3 * (int(truth.max()) + 1))).reshape(3, -1)
    return (levels[:, truth] + rng.normal(0, 15, (3, *truth.shape))).astype(np.float32)


def textured(truth: np.ndarray, seed: int) -> np.ndarray:
    """Bands whose values are alike in both classes, one smooth and one chequered: float32 (band, y, x).

    Chequering flips the sign of a symmetric smooth field on every other pixel, so the distribution of a single
    pixel's values is the same in both classes and only the neighbourhood tells them apart.
    """
    rng = np.random.default_rng(seed)
    fields = np.stack([gaussian_filter(rng.normal(size=truth.shape), 1.5) for _ in range(3)])
    fields /= fields.std(axis=(1, 2), keepdims=True)
    chequer = np.where(np.add.outer(*map(np.arange, truth.shape)) % 2, -1.0, 1.0)
    return (500 + 100 * np.where(truth == 1, fields * chequer, fields)).astype(np.float32)


def write_raster(path: Path, values: np.ndarray, nodata: float | None = None, **profile: Any) -> Path:
    """Write (band, y, x) or (y, x) values as a GeoTIFF at the worlds' place."""
    import rasterio
    from affine import Affine

    bands = values if values.ndim == 3 else values[None]
    settings: dict[str, Any] = {
        "driver": "GTiff", "count": bands.shape[0], "height": bands.shape[1], "width": bands.shape[2],
        "dtype": bands.dtype, "crs": CRS, "nodata": nodata,
        "transform": Affine(RESOLUTION, 0.0, ORIGIN[0], 0.0, -RESOLUTION, ORIGIN[1]), **profile,
    }  # fmt: skip
    path.parent.mkdir(parents=True, exist_ok=True)
    with rasterio.open(path, "w", **settings) as target:
        target.write(bands)
    return path


def make_world(root: Path, bands: np.ndarray, truth: np.ndarray, labels: np.ndarray | None = None) -> World:
    """Write a world: one three-band scene, a label raster (the truth unless given) and a config with `rf` only."""
    reference = truth if labels is None else labels
    write_raster(root / "scenes" / "scene_20240601.tif", bands, nodata=-9999.0)
    write_raster(root / "labels.tif", reference, nodata=255)
    config = {
        "title": "A synthetic world",
        "grid": {"crs": CRS, "resolution": RESOLUTION, "tile": 64},
        "classes": [
            {"name": f"class {i}", "labels": [i], "code": i + 1, "color": COLORS[i]}
            for i in range(int(truth.max()) + 1)
        ],
        "ingest": {
            "scenes": [{"files": "scenes/scene_{date}.tif"}],
            "bands": {f"b{i + 1}": i + 1 for i in range(bands.shape[0])},
        },
        "label": {"file": "labels.tif", "block": 16 * RESOLUTION, "buffer": 0.0},
        "train": {"models": ["rf"], "rf": {"trees": 30}},
        "classify": {"window": 64, "overlap": 16},
    }
    (root / "configs").mkdir(parents=True, exist_ok=True)
    world = World(root, truth)
    (root / "configs" / "world.yaml").write_text(yaml.safe_dump(config, sort_keys=False))
    return world


def small_world(root: Path, size: int = 128, classes: int = 3, seed: int = 0) -> World:
    """A separable world that every model maps right, quick enough for many runs."""
    truth = patchwork((size, size), classes, 16, seed)
    return make_world(root, separable(truth, seed), truth)


# --- series ----------------------------------------------------------------------------------------------------------

#: Steps of two months: May and June of the first year have two dates, its last step has none.
DATES = (
    "2017-02-14", "2017-04-15", "2017-06-05", "2017-06-21", "2017-07-10", "2017-09-05",
    "2018-02-03", "2018-04-20", "2018-05-25", "2018-07-15", "2018-09-10", "2018-11-07",
)  # fmt: skip
#: Values of a scene classification: vegetation and cloud.
CLEAR, CLOUD = 4, 9
#: Row and column of a pixel that no date shows.
NEVER_CLEAR = 5, 9
CROPS = "soy", "pasture"


def crops(truth: np.ndarray, dates: Sequence[str], seed: int = 0) -> dict[str, np.ndarray]:
    """Draw scenes of fields by date: red, near infrared and their quality, uint16 (band, y, x).

    Class 0 is green in summer only, class 1 all the year, in tenths of a thousandth of reflectance. Every date has
    clouds over two squares, and over one pixel at all times.
    """
    rng = np.random.default_rng(seed)
    found = {}
    for text in dates:
        day = date.fromisoformat(text).timetuple().tm_yday
        green = np.where(truth == 0, np.exp(-(((day - 190) / 45) ** 2)), 0.5)
        scene = np.stack([1500 - 1000 * green, 1500 + 3000 * green]) + rng.normal(0, 60, (2, *truth.shape))
        cloud = np.zeros(truth.shape, bool)
        for row, col in zip(*(rng.integers(0, side, 2) for side in truth.shape), strict=True):
            cloud[row : row + 6, col : col + 6] = True
        cloud[NEVER_CLEAR] = True
        scene[:, cloud] = 9000
        found[text] = np.concatenate([scene, np.where(cloud, CLOUD, CLEAR)[None]]).astype(np.uint16)
    return found


def write_scenes(root: Path, scenes: Mapping[str, np.ndarray]) -> None:
    """Write a file a date."""
    for text, values in scenes.items():
        write_raster(root / "scenes" / f"fields_{text.replace('-', '')}.tif", values)


def write_fields(path: Path, truths: Mapping[int, np.ndarray], patch: int = 8) -> None:
    """Write a polygon a field and year, true from its first to its last day, a pixel inside the field's edge."""
    import geopandas as gpd
    from shapely.geometry import box

    rows = []
    for year, truth in truths.items():
        for row, col in np.ndindex(truth.shape[0] // patch, truth.shape[1] // patch):
            x, y = ORIGIN[0] + (col * patch + 1) * RESOLUTION, ORIGIN[1] - (row * patch + 1) * RESOLUTION
            side = (patch - 2) * RESOLUTION
            kind = CROPS[truth[row * patch, col * patch]]
            rows.append((kind, f"{year}-01-01", f"{year}-12-31", box(x, y - side, x + side, y)))
    names = ("crop", "start", "end", "geometry")
    gpd.GeoDataFrame([dict(zip(names, row, strict=True)) for row in rows], crs=CRS).to_file(path)


def series_world(root: Path, seed: int = 0) -> World:
    """Write fields that are soy in one year and pasture in the other, with a scene a date and a config; cheap models.

    The truth is that of the last year.
    """
    truth = patchwork((40, 48), 2, 8, seed)
    years = {2017: 1 - truth, 2018: truth}
    scenes = {}
    for year, fields in years.items():
        scenes |= crops(fields, [text for text in DATES if text.startswith(str(year))], seed + year)
    write_scenes(root, scenes)
    write_fields(root / "fields.gpkg", years)
    config = {
        "title": "Fields of two years",
        "grid": {"crs": CRS, "resolution": RESOLUTION, "tile": 32},
        "classes": [
            {"name": crop, "labels": [crop], "code": i + 1, "color": color}
            for i, (crop, color) in enumerate(zip(CROPS, COLORS, strict=False))
        ],
        "ingest": {
            "scenes": [{"files": "scenes/fields_{date}.tif", "scale": 0.0001}],
            "bands": {"red": 1, "nir": 2, "SCL": 3},
            "quality": "SCL",
        },
        "tile": {
            "mask": {"dilate": 10},
            "time": {"step": "2 months", "season": "1 year", "fill": "linear"},
            "indices": ["NDVI"],
        },
        "label": {"file": "fields.gpkg", "field": "crop", "start": "start", "end": "end", "block": 80, "buffer": 0,
                  "folds": 3},
        "train": {
            "models": ["rf", "lstm"],
            "rf": {"trees": 15, "windows": [], "leaf": [5]},
            "lstm": {"hidden": 8, "epochs": 2, "steps": 15, "batch": 64, "lr": 0.01},
        },
        "evaluate": {"replicates": 100},
    }  # fmt: skip
    (root / "configs").mkdir(parents=True, exist_ok=True)
    world = World(root, truth)
    (root / "configs" / "world.yaml").write_text(yaml.safe_dump(config, sort_keys=False))
    return world
