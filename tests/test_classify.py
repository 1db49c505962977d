"""The whole-area map: its layers, its bytes, and its resumption."""

from __future__ import annotations

import hashlib
from itertools import pairwise
from pathlib import Path
from typing import Any

import dask
import numpy as np
import pytest
import rasterio
from pyproj import Geod

from stages import classify
from stages.errors import ModelError
from stages.formats import maps
from stages.formats.weights import ONNX, write_card, write_choice
from stages.geo.grid import Grid, Window
from stages.inference.predictor import Predictor, load
from tests.networks import card_of, write_network, write_tiles

RNG = np.random.default_rng(3)
#: class 0 where red is above nir, class 1 otherwise
SIGN = np.array([[1.0, -1.0], [-1.0, 1.0]]).reshape(2, 2, 1, 1)


def _hashes(folder: Path) -> list[str]:
    return [
        hashlib.sha256((folder / name).read_bytes()).hexdigest() for name in (maps.CLASSES, maps.CONFIDENCE, maps.META)
    ]


def _run(tiles: Path, model: Path, out: Path, **settings: Any) -> Path:
    out.mkdir(exist_ok=True)
    classify.run(tiles, model, out, classify.Config(**settings))
    return out


def _layer(out: Path, name: str) -> np.ndarray:
    with rasterio.open(out / name) as layer:
        found: np.ndarray = layer.read(1)
    return found


def test_layers_hold_class_confidence_and_nodata(tmp_path: Path) -> None:
    image = RNG.normal(size=(2, 300, 70)).astype(np.float32)
    valid = RNG.random((300, 70)) < 0.6
    tiles = write_tiles(tmp_path / "tiles", image, valid)
    out = _run(tmp_path / "tiles", write_network(tmp_path / "model", SIGN), tmp_path / "out", window=64)
    classes, confidence = _layer(out, maps.CLASSES), _layer(out, maps.CONFIDENCE)
    np.testing.assert_array_equal(classes, np.where(valid, np.where(image[0] > image[1], 0, 1), 255))
    # Two logits d and -d: the top probability is 1 / (1 + exp(-2 |d|)).
    top = 100 / (1 + np.exp(-2 * np.abs(image[0] - image[1]).astype(float)))
    assert np.abs(confidence.astype(float) - top)[valid].max() <= 0.5 + 1e-3
    assert (confidence[~valid] == 255).all()
    with rasterio.open(out / maps.CLASSES) as layer:
        assert layer.crs.to_string() == tiles.grid.crs
        assert layer.transform == tiles.grid.transform
        assert layer.nodata == 255
    meta = maps.read_meta(out)
    assert meta["valid_pixels"] == valid.sum()
    assert meta["classes"]["c0"]["pixels"] == (classes == 0).sum()
    # 10 m pixels of UTM near its central meridian: 0.01 ha within 0.1 %.
    assert meta["classes"]["c1"]["hectares"] == pytest.approx(0.01 * (classes == 1).sum(), rel=1e-3)
    assert meta["model"] == "tiny"
    assert sorted(path.name for path in out.iterdir()) == sorted([maps.CLASSES, maps.CONFIDENCE, maps.META])


def test_hectares_of_a_geographic_grid_shrink_towards_the_pole(tmp_path: Path) -> None:
    where = {"crs": "EPSG:4326", "resolution": 0.5, "left": 10.0, "top": 70.0}
    image = np.zeros((2, 40, 8), np.float32)
    image[0, :20] = 1.0  # class 0 in the north, class 1 in the south
    image[1, 20:] = 1.0
    grid = write_tiles(tmp_path / "tiles", image, **where).grid
    model = write_network(tmp_path / "model", SIGN, resolution=0.5, metres=grid.pixel_metres())
    classes = maps.read_meta(_run(tmp_path / "tiles", model, tmp_path / "out"))["classes"]
    geod = Geod(ellps="WGS84")
    for name, south, north in (("c0", 60.0, 70.0), ("c1", 50.0, 60.0)):
        lon = np.concatenate([np.linspace(10, 14, 200), np.linspace(14, 10, 200)])
        lat = np.repeat([south, north], 200)
        truth = abs(geod.polygon_area_perimeter(lon, lat)[0]) / 10_000
        assert classes[name]["pixels"] == 160
        assert classes[name]["hectares"] == pytest.approx(truth, rel=1e-3)


def _models(root: Path) -> dict[str, Path]:
    """Write a U-Net, a patch network and a forest, as they leave training but for what they have learnt.

    A low temperature makes their confidences differ from pixel to pixel all the same.
    """
    import torch
    from sklearn.ensemble import RandomForestClassifier
    from torch import nn

    from stages.models.classifier import Classifier, Normalise, with_validity
    from stages.models.context import Context, Rows
    from stages.models.table import NETWORKS
    from stages.training.onnx_file import export_forest, export_module

    class Table(nn.Module):
        """Rows of features behind the normalisation."""

        def __init__(self) -> None:
            super().__init__()
            self.normalise, self.rows = Normalise([0.0, 0.0], [1.0, 1.0]), Rows(Context(2, (3, 7)))

        def forward(self, image: torch.Tensor, valid: torch.Tensor) -> torch.Tensor:
            return self.rows(with_validity(self.normalise(image, valid), valid))

    torch.manual_seed(0)
    folders = {name: root / name for name in ("unet", "cnn", "rf")}
    for name, folder in folders.items():
        folder.mkdir()
        reach = {"margin": 3, "stride": 1}
        if name == "rf":
            rows, labels = RNG.normal(size=(300, Context(2, (3, 7)).features)), RNG.integers(0, 3, 300)
            forest = RandomForestClassifier(20, random_state=0).fit(rows, labels)
            table = Table()
            export_forest(table, table.normalise, forest, np.zeros(3), folder / ONNX)
        else:
            network = NETWORKS[name](2, 3, width=8)
            reach = {"margin": int(network.margin), "stride": int(network.stride)}
            classifier = Classifier(Normalise([0.0, 0.0], [1.0, 1.0]), network, 3)
            export_module(classifier, classifier.normalise, reach["stride"], folder / ONNX)
        write_card(folder, card_of(3, 2, name=name, tta=name == "cnn", temperature=0.15, **reach))
    return folders


def test_any_workers_threads_and_bands_give_the_same_bytes(tmp_path: Path) -> None:
    from distributed import Client, LocalCluster

    valid = np.ones((200, 170), bool)
    valid[60:90, 20:150] = False
    tiles = tmp_path / "tiles"
    write_tiles(tiles, RNG.normal(size=(2, 200, 170)), valid)
    windows = {"window": 64, "overlap": 16}
    models, expected = _models(tmp_path), {}
    with dask.config.set(scheduler="synchronous"):
        for name, model in models.items():
            out = _run(tiles, model, tmp_path / f"{name}-alone", **windows)
            expected[name] = _hashes(out)
            assert maps.read_meta(out)["windows"] >= 12
            assert len(np.unique(_layer(out, maps.CONFIDENCE))) > 10  # there is something to differ in
    with dask.config.set(scheduler="threads", num_workers=4):
        for name, model in models.items():
            out = _run(tiles, model, tmp_path / f"{name}-threads", rows=1, **windows)
            assert _hashes(out) == expected[name], name
    with (
        LocalCluster(n_workers=2, threads_per_worker=1, processes=True, dashboard_address=None) as cluster,
        Client(cluster) as client,
    ):
        for name, model in models.items():
            out = _run(tiles, model, tmp_path / f"{name}-processes", rows=1, **windows)
            assert _hashes(out) == expected[name], name
        loaded = client.run(_models_loaded)
    # Four bands a model, two workers: whoever worked for a model loaded it once.
    assert all(1 <= count <= len(models) for count in loaded.values())


def _models_loaded() -> int:
    from stages.inference import backends

    return backends._opened.cache_info().misses


def test_a_finished_band_of_a_killed_run_is_kept(tmp_path: Path) -> None:
    write_tiles(tmp_path / "tiles", RNG.normal(size=(2, 128, 64)))
    model = write_network(tmp_path / "model", SIGN)
    whole = _run(tmp_path / "tiles", model, tmp_path / "whole", window=32, overlap=0, rows=2)
    out = tmp_path / "resumed"
    planted = maps.part_path(out, Window(64, 0, 64, 64))
    planted.mkdir(parents=True)
    for name in maps.ALWAYS:
        (planted / name).write_bytes(bytes([77]) * 64 * 64)
    (planted.parent / f"{maps.part_path(out, Window(0, 0, 64, 64)).name}.1.unfinished").mkdir()
    (out / maps.CLASSES).write_bytes(b"torn")
    _run(tmp_path / "tiles", model, out, window=32, overlap=0, rows=2)
    classes = _layer(out, maps.CLASSES)
    assert (classes[64:] == 77).all()  # taken over, not computed again
    np.testing.assert_array_equal(classes[:64], _layer(whole, maps.CLASSES)[:64])
    assert not (out / maps.PARTS).exists()


def test_windows_without_a_valid_pixel_cost_no_prediction(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    valid = np.zeros((128, 128), bool)
    valid[100, 100] = True
    write_tiles(tmp_path / "tiles", np.ones((2, 128, 128)), valid)
    shown = []
    honest = Predictor.probabilities
    monkeypatch.setattr(
        Predictor, "probabilities", lambda self, image, *more: shown.append(len(image)) or honest(self, image, *more)
    )
    out = _run(tmp_path / "tiles", write_network(tmp_path / "model", SIGN), tmp_path / "out", window=32, overlap=0)
    assert shown == [1, 1, 1]  # of 16 windows one, tried twice before it is mapped
    assert (_layer(out, maps.CLASSES) != 255).sum() == 1


def test_a_scene_without_a_valid_pixel_stays_nodata(tmp_path: Path) -> None:
    write_tiles(tmp_path / "tiles", np.ones((2, 20, 30)), np.zeros((20, 30), bool))
    out = _run(tmp_path / "tiles", write_network(tmp_path / "model", SIGN), tmp_path / "out")
    assert (_layer(out, maps.CLASSES) == 255).all()
    assert (_layer(out, maps.CONFIDENCE) == 255).all()
    assert maps.read_meta(out)["valid_pixels"] == 0


def test_the_chosen_model_of_an_artifact_makes_the_map(tmp_path: Path) -> None:
    write_tiles(tmp_path / "tiles", np.ones((2, 20, 20)))
    write_network(tmp_path / "model" / "one", np.zeros((2, 2, 1, 1)), bias=(1, 0), name="one")
    write_network(tmp_path / "model" / "two", np.zeros((2, 2, 1, 1)), bias=(0, 1), name="two")
    write_choice(tmp_path / "model", "two", {"one": {}, "two": {}}, split="any")
    out = _run(tmp_path / "tiles", tmp_path / "model", tmp_path / "out")
    assert maps.read_meta(out)["model"] == "two"
    assert (_layer(out, maps.CLASSES) == 1).all()


def test_a_model_for_other_scenes_is_refused(tmp_path: Path) -> None:
    write_tiles(tmp_path / "tiles", np.ones((2, 20, 20)))
    model = write_network(tmp_path / "model", SIGN, channels=card_of(2, 3).channels[1:])
    with pytest.raises(ModelError, match="swir1 missing"):
        _run(tmp_path / "tiles", model, tmp_path / "out")


@pytest.mark.parametrize("tops", [(0, 600), (0, 100, 256, 300, 600), (0, 599, 600)])
@pytest.mark.parametrize("lefts", [(0, 40), (0, 7, 33, 40)])
def test_parts_of_any_size_are_assembled_alike(tmp_path: Path, tops: tuple[int, ...], lefts: tuple[int, ...]) -> None:
    rows = np.arange(600 * 40).reshape(600, 40) % 251
    both = {
        "classes": rows.astype(np.uint8)[None],
        "probabilities16": np.stack([rows * 100, rows[::-1]]).astype(np.uint16),
    }
    bands = {"classes": 1, "probabilities16": 2}
    blocks = []
    for top, bottom in pairwise(tops):
        for left, right in pairwise(lefts):
            window = Window(top, left, bottom - top, right - left)
            blocks.append(window)
            middle = (top + bottom) // 2
            halves = [
                Window(top, left, middle - top, right - left),
                Window(middle, left, bottom - middle, right - left),
            ]
            pieces = [
                (half, {name: layer[:, *half.slices] for name, layer in both.items()}) for half in halves if half.height
            ]
            maps.write_part(maps.part_path(tmp_path, window), window, bands, pieces)
    counted: list[tuple[int, int]] = []
    grid = Grid("EPSG:32633", 10.0, 0.0, 0.0, 40, 600, 256)
    maps.assemble(tmp_path, grid, bands, blocks, seen=lambda top, piece: counted.append((top, len(piece))))
    np.testing.assert_array_equal(_layer(tmp_path, maps.CLASSES), both["classes"][0])
    with rasterio.open(tmp_path / "probabilities.tif") as layer:
        np.testing.assert_array_equal(layer.read(), both["probabilities16"])
        assert layer.scales == (1 / 65000, 1 / 65000)
    assert counted == [(0, 256), (256, 256), (512, 88)]


def test_rows_that_no_piece_covers_are_nodata(tmp_path: Path) -> None:
    window, bands = Window(10, 5, 20, 8), {"classes": 1, "valid": 1}
    piece = Window(14, 7, 3, 4), {name: np.full((1, 3, 4), 1, np.uint8) for name in bands}
    path = maps.part_path(tmp_path, window)
    maps.write_part(path, window, bands, [piece])
    expected = np.full((20, 8), 255, np.uint8)
    expected[4:7, 2:6] = 1
    np.testing.assert_array_equal(np.fromfile(path / "classes", np.uint8).reshape(20, 8), expected)
    np.testing.assert_array_equal(np.fromfile(path / "valid", np.uint8).reshape(20, 8), expected == 1)


def test_further_layers_say_what_lies_behind_a_class(tmp_path: Path) -> None:
    image = RNG.normal(size=(3, 90, 70)).astype(np.float32)
    valid = RNG.random((90, 70)) < 0.6
    write_tiles(tmp_path / "tiles", image, valid)
    model = write_network(tmp_path / "model", RNG.normal(size=(4, 3, 1, 1)))
    layers = ("probabilities", "entropy", "margin", "valid")
    for bits, steps, nodata in ((8, 250, 255), (16, 65000, 65535)):
        out = _run(tmp_path / "tiles", model, tmp_path / str(bits), window=64, layers=layers, bits=bits)
        likely = load(model).probabilities(np.where(valid, image, np.float32(0))[None], valid[None, None])[0]
        with rasterio.open(out / "probabilities.tif") as layer:
            found = layer.read()
            assert (layer.nodata, layer.scales) == (nodata, (1 / steps,) * 4)
        assert np.abs(found[:, valid] / steps - likely[:, valid]).max() <= 0.5 / steps + 1e-6
        assert (found[:, ~valid] == nodata).all()
        entropy = -(likely * np.log(np.maximum(likely, 1e-12))).sum(axis=0) / np.log(4)
        second, first = np.sort(likely, axis=0)[-2:]
        for name, share in (("entropy", entropy), ("margin", first - second)):
            values = _layer(out, f"{name}.tif").astype(float)
            assert np.abs(values - 100 * share)[valid].max() <= 0.5 + 1e-3
            assert (values[~valid] == 255).all()
        np.testing.assert_array_equal(_layer(out, "valid.tif"), valid)
        assert [name for name, _ in maps.further_layers(out)][1:] == ["entropy", "margin", "valid"]


def test_the_backend_and_its_check_are_recorded(tmp_path: Path) -> None:
    write_tiles(tmp_path / "tiles", RNG.normal(size=(2, 100, 80)))
    out = _run(tmp_path / "tiles", write_network(tmp_path / "model", SIGN), tmp_path / "out")
    meta = maps.read_meta(out)
    assert meta["backend"].startswith("onnxruntime-cpu ")
    assert meta["agreement"] is None  # a graph alone has no torch form to compare with


def test_the_cached_model_is_shared_by_bands(tmp_path: Path) -> None:
    write_tiles(tmp_path / "tiles", np.ones((2, 100, 20)))
    model = write_network(tmp_path / "model", SIGN)
    first = load(model)
    _run(tmp_path / "tiles", model, tmp_path / "out", window=16, overlap=4, rows=1)
    assert load(model) is first
