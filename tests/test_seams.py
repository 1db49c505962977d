"""The seam law: no classifier's map depends on how the ground was cut, who computed it, or in which order."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import dask
import numpy as np
import pytest

from stages import classify
from stages.formats.tiles import Tiles
from stages.formats.weights import read_card
from stages.inference.backends import Placing
from stages.inference.stream import Streaming, blocks_of, finished, layout_of, stream_of
from tests.networks import card_of
from tests.untrained import ALL, CLASSES, write_cube, write_model

#: What a probability may differ by.
LAW = 1e-5
#: Ways to cut a grid of 101 x 90 pixels: sides of the store's tiles, then how it is predicted.
CUTS: dict[str, tuple[int, dict[str, Any]]] = {
    "small windows": (64, {"window": 20}),
    "windows that end beyond the grid": (64, {"window": 52, "batch": 2}),
    "small tiles": (16, {"window": 48, "rows": 1}),
    "odd tiles": (37, {"window": 64, "rows": 2, "batch": 3}),
    "one tile": (128, {"window": 32, "rows": 2, "batch": 2}),
    "a spline where all agree": (64, {"window": 40, "overlap": 12, "rows": 1}),
    "a gaussian where all agree": (64, {"window": 40, "overlap": 17, "rows": 2, "blend": "gaussian"}),
}


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three dates with clouds, a hole that all of them have and a corner that none has seen, in stores of all tiles."""
    root, draw = tmp_path_factory.mktemp("seams"), np.random.default_rng(5)
    cube = draw.normal(size=(3, 2, 101, 90))
    cube[:, :, 30:70] += np.linspace(-1.0, 1.0, 90)  # smooth ground too, on which noise does not hide a seam
    valid = draw.random((3, 101, 90)) < 0.8
    valid[:, 40:55, 20:61] = False
    valid[:, :25, :33] = False
    valid[:, 75:] = True
    for side in {side for side, _ in CUTS.values()}:
        write_cube(root / f"tiles{side}", cube, valid, side)
    return root


@pytest.fixture(scope="module", params=ALL)
def model(request: pytest.FixtureRequest, root: Path) -> Path:
    return write_model(root / request.param, request.param, bands=2, dates=3)


@pytest.fixture(scope="module")
def whole(root: Path, model: Path) -> np.ndarray:
    """The map of a single window."""
    return mapped(root / "tiles64", model, window=128)


def mapped(
    tiles: Path, model: Path, *, backend: Any = "auto", backwards: bool = False, threads: int = 1, **settings: Any
) -> np.ndarray:
    """Predict a grid: float32 (class, y, x), NaN where nothing is said."""
    config = Streaming(**settings)
    stream = stream_of(Tiles(tiles), model, config, placing=Placing(backend=backend))
    found = np.full((CLASSES, stream.layout.height, stream.layout.width), np.nan, np.float32)
    blocks = blocks_of(stream.layout, config, workers=threads)

    def work(block: Any) -> None:
        for window, likely in finished(stream, block):
            assert np.isnan(found[:, *window.slices]).all()  # no pixel is finished twice
            found[:, *window.slices] = np.where(likely.any(axis=0), likely, np.float32(np.nan))

    with ThreadPoolExecutor(threads) as pool:
        list(pool.map(work, blocks[::-1] if backwards else blocks))
    return found


def differs(found: np.ndarray, expected: np.ndarray) -> float:
    """Largest difference of a probability; both say something of the same pixels."""
    np.testing.assert_array_equal(np.isnan(found), np.isnan(expected))
    return float(np.nanmax(np.abs(found - expected)))


def test_there_is_something_to_differ_in(root: Path, whole: np.ndarray, model: Path) -> None:
    seen = Tiles(root / "tiles64").read_valid(Tiles(root / "tiles64").grid.whole)
    np.testing.assert_array_equal(~np.isnan(whole).any(axis=0), seen)
    assert np.nanstd(whole, axis=(1, 2)).min() > 0.03
    card = read_card(model)
    if card.margin:  # without its surroundings a window would say something else
        stream = stream_of(Tiles(root / "tiles64"), model, Streaming(window=20))
        assert stream.layout.halo >= card.margin
        assert stream.layout.overlap == 0


@pytest.mark.parametrize("cut", CUTS)
def test_the_map_does_not_depend_on_how_the_ground_was_cut(
    root: Path, whole: np.ndarray, model: Path, cut: str
) -> None:
    side, settings = CUTS[cut]
    assert differs(mapped(root / f"tiles{side}", model, **settings), whole) <= LAW


def test_the_map_does_not_depend_on_order_or_threads(root: Path, whole: np.ndarray, model: Path) -> None:
    cut = {"window": 32, "rows": 1, "batch": 2}
    straight = mapped(root / "tiles16", model, **cut)
    assert differs(straight, whole) <= LAW
    for more in ({"backwards": True}, {"threads": 2}, {"threads": 2, "backwards": True}):
        np.testing.assert_array_equal(mapped(root / "tiles16", model, **cut, **more), straight)


def test_the_map_does_not_depend_on_the_float32_backend(root: Path, whole: np.ndarray, model: Path) -> None:
    if model.name == "rf":
        pytest.skip("trees have no torch form")
    assert differs(mapped(root / "tiles64", model, window=48, backend="torch"), whole) <= LAW


def test_a_unet_with_all_it_looks_at_is_the_same_in_every_window(root: Path) -> None:
    model = write_model(root / "deep", "unet", bands=2, dates=3, depth=3)
    card = read_card(model)
    assert (card.margin, card.stride) == (44, 8)
    whole = mapped(root / "tiles64", model, window=128, overlap=0)
    for side in (16, 24, 40, 56, 64):
        assert differs(mapped(root / "tiles16", model, window=side, overlap=0), whole) <= 1e-6, side


def test_windows_blend_where_they_cannot_read_all_that_a_model_looks_at() -> None:
    near, far = card_of(2, 2, margin=44, stride=8), card_of(2, 2, margin=92, stride=16)
    assert layout_of(near, (900, 900), Streaming()).overlap == 0
    assert layout_of(far, (900, 900), Streaming()).overlap == 32


def test_two_processes_write_the_bytes_of_one(root: Path, tmp_path: Path) -> None:
    from distributed import Client, LocalCluster

    # One of every way to predict: rows of windows, whole windows, single pixels, windows of series.
    names = ("svm", "unet", "lstm", "convlstm")
    models = [write_model(tmp_path / "models" / name, name, bands=2, dates=3) for name in names]

    def maps_of(where: str) -> dict[str, bytes]:
        found = {}
        for model in models:
            out = tmp_path / where / model.name
            out.mkdir(parents=True)
            config = classify.Config(window=48, rows=1, layers=("probabilities", "entropy", "margin"), bits=16)
            classify.run(root / "tiles16", model, out, config)
            layers = sorted(out.glob("*.tif"))
            assert len(layers) == 5
            found[model.name] = b"".join(layer.read_bytes() for layer in layers)
        return found

    with dask.config.set(scheduler="synchronous"):
        alone = maps_of("alone")
    with (
        LocalCluster(n_workers=2, threads_per_worker=1, processes=True, dashboard_address=None) as cluster,
        Client(cluster),
    ):
        assert maps_of("processes") == alone
