"""Make the scenes and the models that are measured, and do with them the least there is to do."""

from __future__ import annotations

import shutil
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from stages.formats.tiles import Tiles
from stages.geo.grid import Grid, Window
from tests.benchmarks.networks import CLASSES, NAMES
from tests.networks import card_of

TILE, THREADS = 256, 2
BATCH = 8
#: Side of the field that scenes are cut from, and by how far the corners of neighbouring tiles lie apart on it.
FIELD, STEP = 1024, 89
RASTER, TILES = "scene.tif", "tiles"


def write_scene(folder: Path, side: int, raster: bool = True) -> None:
    """Write a scene of digital numbers as a tile store and as a plain GeoTIFF with the same pixels."""
    tiles = Tiles.create(_made(folder / TILES), grid_of(side), NAMES, ("2020",), "digital numbers")
    field = field_of(len(NAMES))
    windows = [window for _, _, window in tiles.grid.tiles()]

    def write(window: Window) -> None:
        tiles.write(window, _cut(field, window)[None], np.ones((1, window.height, window.width), bool))

    with ThreadPoolExecutor(THREADS) as pool:
        list(pool.map(write, windows))
    if raster:
        write_raster(folder / RASTER, tiles.grid, len(NAMES), lambda window: _cut(field, window))


def write_raster(
    path: Path, grid: Grid, bands: int, values: Callable[[Window], np.ndarray], kind: str = "float32"
) -> None:
    """Write a GeoTIFF in the form that is read the fastest: in blocks, band by band, not compressed."""
    import rasterio

    profile = {
        "driver": "GTiff", "dtype": kind, "count": bands, "width": grid.width, "height": grid.height,
        "crs": grid.crs, "transform": grid.transform, "tiled": True, "blockxsize": TILE, "blockysize": TILE,
        "interleave": "band", "BIGTIFF": "IF_SAFER",
    }  # fmt: skip
    with rasterio.open(path, "w", **profile) as target:
        for _, _, window in grid.tiles():
            rows, cols = window.slices
            target.write(values(window), window=((rows.start, rows.stop), (cols.start, cols.stop)))


def grid_of(side: int) -> Grid:
    """Lay a square grid of 10 m."""
    return Grid("EPSG:32633", 10.0, 500_000.0, 5_400_000.0, side, side, TILE)


def field_of(bands: int) -> np.ndarray:
    """Make digital numbers with structure and noise, which compress as those of scenes do: float32 (band, y, x)."""
    from scipy.ndimage import gaussian_filter

    rng = np.random.default_rng(0)
    ground = gaussian_filter(rng.normal(0, 1, (bands, FIELD, FIELD)), (0, 8, 8), mode="wrap")
    values = 2000 + 40_000 * ground + rng.normal(0, 40, ground.shape)
    return values.round().clip(1, 10_000).astype(np.float32)


def _cut(field: np.ndarray, window: Window) -> np.ndarray:
    """Cut one tile out of the field, every tile at another place: (band, y, x)."""
    row, col = (first // TILE * STEP % (FIELD - TILE) for first in (window.row, window.col))
    cut: np.ndarray = field[:, row : row + window.height, col : col + window.width]
    return cut + np.float32((window.row + 3 * window.col) // TILE % 50)


def repeated(folder: Path, side: int, pattern: int) -> None:
    """Write a scene of any side that repeats ``pattern`` x ``pattern`` tiles, as links to the files of these.

    It takes no room and no time to make; whoever reads it unpacks as many chunks as of any other scene.
    """
    small = _made(folder / "pattern")
    write_scene(small, pattern * TILE, raster=False)
    tiles = Tiles.create(_made(folder / TILES), grid_of(side), NAMES, ("2020",), "digital numbers")
    count = side // TILE
    for chunk in (small / TILES).rglob("*"):
        if not (chunk.is_file() and chunk.name.isdigit() and chunk.parent.name.isdigit()):
            continue
        above = tiles.folder / chunk.parent.parent.relative_to(small / TILES)
        for row in range(int(chunk.parent.name), count, pattern):
            (above / str(row)).mkdir(parents=True, exist_ok=True)
            for col in range(int(chunk.name), count, pattern):
                (above / str(row) / str(col)).hardlink_to(chunk)
    last = Window(side - TILE, side - TILE, TILE, TILE)
    assert tiles.read_valid(last).all(), "the store's chunks are not where they are thought to be"


def check_alike(folder: Path, ours: Any, plain: Any, rim: int, cut: bool = False) -> None:
    """Make sure that what is raced is the same: the shipped graph, the network in its frame and the plain one.

    Pixels that see beyond the edge, ``rim`` of them, are not compared; ``cut``: the plain one leaves them out.
    """
    import onnxruntime as ort
    import torch

    from stages.formats.weights import ONNX

    image = np.random.default_rng(0).normal(2000, 900, (1, len(NAMES), 192, 192)).astype(np.float32)
    valid = np.ones((1, 1, 192, 192), np.float32)
    session = ort.InferenceSession(str(folder / ONNX), providers=["CPUExecutionProvider"])
    shipped = session.run(["logits"], {"image": image, "valid": valid})[0]
    with torch.inference_mode():
        eager = ours(torch.from_numpy(image), torch.from_numpy(valid)).numpy()
        bare = plain(plain.frame(torch.from_numpy(image))).numpy()
    inside = (..., slice(rim, 192 - rim), slice(rim, 192 - rim))
    np.testing.assert_allclose(shipped, eager, atol=1e-3)
    np.testing.assert_allclose(bare if cut else bare[inside], eager[inside], atol=1e-3)


def write_classifier(folder: Path, classifier: Any, margin: int, stride: int, **card: Any) -> None:
    """Write a model folder around a classifier, as training does."""
    from stages.formats.weights import ONNX, WEIGHTS, write_card
    from stages.training.onnx_file import export_module, save_weights

    export_module(classifier, classifier.normalise, stride, _made(folder) / ONNX)
    save_weights(classifier, folder / WEIGHTS)
    described = card_of(CLASSES, len(NAMES), channels=NAMES, name=folder.name, margin=margin, stride=stride)
    write_card(folder, replace(described, **card))


def map_seconds(tiles: Path, model: Path, **config: Any) -> float:
    """Map a scene with the project's own stage, on two threads, and throw the map away: seconds."""
    import dask

    from stages import classify

    out = Path(tempfile.mkdtemp(dir=tiles.parent))
    begin = time.perf_counter()
    with dask.config.set(scheduler="threads", num_workers=THREADS):
        classify.run(tiles, model, out, classify.Config(**config))
    spent = time.perf_counter() - begin
    shutil.rmtree(out)
    return spent


def least_seconds(raster: Path, network: Any, margin: int = 0) -> float:
    """Map a raster with the least that eager torch needs, by a plain network of `networks`: seconds.

    One read, the network on batches of eight tiles that lie in memory with their surroundings, one write of class and
    confidence. Cutting and normalising the batches is not counted, nor the first call, in which torch makes its plans.
    """
    import rasterio
    import torch

    torch.set_num_threads(THREADS)
    begin = time.perf_counter()
    with rasterio.open(raster) as source:
        image, profile = source.read(), source.profile
    spent = time.perf_counter() - begin
    layers = np.empty((2, *image.shape[1:]), np.uint8)
    with torch.inference_mode():
        for number, (windows, tiles) in enumerate(_batches(image, margin)):
            batch = network.frame(tiles)
            if number == 0:
                network(batch)
            begin = time.perf_counter()
            best, index = torch.softmax(network(batch), 1).max(1)
            for window, top, label in zip(windows, (best * 100).round_().byte(), index.byte(), strict=True):
                layers[0][window.slices], layers[1][window.slices] = label, top
            spent += time.perf_counter() - begin
    begin = time.perf_counter()
    write_layers(raster.with_name("limit.tif"), layers, profile)
    return spent + time.perf_counter() - begin


def _batches(image: np.ndarray, margin: int) -> Iterator[tuple[list[Window], Any]]:
    import torch

    padded = np.pad(image, ((0, 0), (margin, margin), (margin, margin))) if margin else image
    side = TILE + 2 * margin
    windows = [window for _, _, window in grid_of(image.shape[1]).tiles()]
    for first in range(0, len(windows), BATCH):
        some = windows[first : first + BATCH]
        tiles = [padded[:, window.row : window.row + side, window.col : window.col + side] for window in some]
        yield some, torch.from_numpy(np.stack(tiles))


def write_layers(path: Path, layers: np.ndarray, profile: Any) -> None:
    """Write class and confidence as the delivery has them, in one file."""
    import rasterio

    from stages.formats.maps import layer_profile

    form = layer_profile(layers.shape[2], layers.shape[1], profile["crs"], profile["transform"])
    with rasterio.open(path, "w", **(form | {"count": 2, "num_threads": THREADS, "interleave": "band"})) as target:
        target.write(layers)


def _made(folder: Path) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    return folder
