"""Collections of image chips: finding, checking, layout, division, classifiers of whole chips, and the map from one."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
import yaml
from pydantic import ValidationError

from pipeline.cut_chips import cut
from pipeline.init import write_config
from stages import augment, evaluate, ingest, label, select, tile, train
from stages.errors import LabelError, SceneError, SettingError
from stages.formats.chip_collection import Collection, read_collection
from stages.formats.chip_source import ChipFiles, load_collection
from stages.formats.samples import UNLABELLED, Part, Role, Samples
from stages.formats.series import read_table
from stages.formats.tiles import Tiles
from stages.formats.weights import ONNX, WEIGHTS, chosen_folder, read_card
from stages.geo.chip_cells import UNIT as CELL_UNIT
from stages.geo.chip_cells import Cells
from stages.geo.chip_files import read_chip_headers
from stages.geo.grid import Window
from stages.inference.stream import Streaming, blocks_of, finished, stream_of
from stages.models.chip_features import LEVELS, RAMP, UNIT, ChipFeatures, chip_mean
from stages.models.classifier import Classifier, Normalise
from stages.models.rebuild import rebuild
from stages.models.table import OF_CHIPS
from stages.training.chip_draw import WholeChips
from stages.training.chip_recipes import ChipCnnRecipe
from stages.training.chip_samples import ChipBlocks, ChipLabels, read_chip_labels
from stages.training.ground import Split, lay_out
from stages.training.held import gather
from stages.training.onnx_file import export_module
from tests.rasters import CORNER, raster
from tests.series_worlds import source, tiled

SIDE = 20
CLASSES = [{"name": n, "labels": [n], "code": i, "color": f"#00000{i}"} for i, n in enumerate(("flat", "rough"))]


def texture(rough: bool, rng: np.random.Generator, side: int = SIDE) -> np.ndarray:
    """Two bands of the same mean, one class speckled and the other flat: uint8 (2, y, x)."""
    level = rng.integers(90, 160)
    return np.clip(level + rng.normal(0, 30 if rough else 4, (2, side, side)), 0, 255).astype(np.uint8)


def folder_of(root: Path, count: int = 12, seed: int = 0, **place: Any) -> Path:
    """Write a folder of GeoTIFF chips a class, side by side from west to east; without a CRS where one is None."""
    rng = np.random.default_rng(seed)
    for number in range(2 * count):
        name = CLASSES[number % 2]["name"]
        corner = CORNER[0] + 10.0 * SIDE * (number // 6), CORNER[1] - 10.0 * SIDE * (number % 6)
        (root / str(name)).mkdir(parents=True, exist_ok=True)
        raster(root / str(name) / f"{number:03d}.tif", texture(number % 2 == 1, rng), **{"corner": corner, **place})
    return root


def collected(folder: Path | None = None, **settings: Any) -> Collection:
    return load_collection(ChipFiles.model_validate({"folder": folder, **settings}), read_chip_headers)


def laid(root: Path, chips: Path, **settings: Any) -> Tiles:
    for name in ("scenes", "tiles"):
        (root / name).mkdir(parents=True)
    ingest.run(root / "scenes", ingest.Config.model_validate({"chips": {"folder": chips, **settings}}))
    tile.run(root / "scenes", root / "tiles", tile.Config())
    return Tiles(root / "tiles")


def labelled(root: Path, **settings: Any) -> Samples:
    (root / "samples").mkdir()
    config = {"classes": CLASSES, "block": 600, "buffer": 0, **settings}
    label.run(root / "tiles", root / "samples", label.Config.model_validate(config))
    return Samples(root / "samples")


# --- cells -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("side", "count"), [(16, 1), (20, 7), (64, 65), (100, 30)])
def test_every_chip_has_one_cell_of_whole_units(side: int, count: int) -> None:
    cells = Cells(side, count)
    grid = cells.grid(10.0)
    numbers = cells.numbers(grid.whole)
    assert cells.size % UNIT == 0
    assert CELL_UNIT == UNIT
    assert side <= cells.size < side + UNIT
    held, pixels = np.unique(numbers[numbers >= 0], return_counts=True)
    assert held.tolist() == list(range(count))
    assert set(pixels) == {cells.size**2}
    rows, cols = np.nonzero(cells.marks(grid.whole))
    middles = np.stack(cells.middles())
    assert sorted(zip(rows.tolist(), cols.tolist(), strict=True)) == sorted(map(tuple, middles.T.tolist()))
    assert (numbers[tuple(middles)] == np.arange(count)).all()
    listed = [number for _, _, window in grid.tiles() for number in cells.within(window).tolist()]
    assert sorted(listed) == list(range(count))
    top, left = cells.corners(np.arange(count))
    assert all((top % cells.tile) + cells.size <= cells.tile)  # no chip is cut by a tile
    assert all((left % cells.tile) + cells.size <= cells.tile)


# --- finding and checking --------------------------------------------------------------------------------------------


def test_a_folder_a_class(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    chips = folder_of(tmp_path, 3)
    (chips / "flat" / "notes.txt").write_text("no chip")
    found = collected(chips)
    assert (found.side, found.bands, found.indexes) == (SIDE, ("b1", "b2"), (1, 2))
    assert found.scaling == "digital numbers"
    assert found.chips["label"].tolist() == ["flat"] * 3 + ["rough"] * 3
    assert found.pixel == pytest.approx(10.0, rel=1e-3)
    # 500 km east of a zone's edge is its central meridian.
    assert found.chips["longitude"][0] == pytest.approx(15.0, abs=0.01)
    assert "1 files in the class folders" in caplog.text
    assert collected(chips, bands={"nir": 2}, scale=0.1).indexes == (2,)


@pytest.mark.parametrize("ending", [".csv", ".parquet"])
def test_a_table_of_paths(tmp_path: Path, ending: str, caplog: pytest.LogCaptureFixture) -> None:
    chips = folder_of(tmp_path / "chips", 2, crs=None)
    files = [path.relative_to(tmp_path).as_posix() for path in sorted(chips.rglob("*.tif"))]
    table = pd.DataFrame(
        {"file": files, "kind": ["flat", "flat", "rough", ""], "x": [1.0, 2, 3, 4], "y": [50.0, 51, 52, 53]}
    )
    path = tmp_path / f"chips{ending}"
    table.to_csv(path, index=False) if ending == ".csv" else table.to_parquet(path)
    found = collected(table=path, path="file", label="kind", longitude="x", latitude="y", pixel=2.5)
    assert found.chips["label"].tolist() == ["flat", "flat", "rough"]
    assert found.chips["longitude"].tolist() == [1, 2, 3]
    assert (found.pixel, found.chips["file"][0]) == (2.5, str(path))
    assert "1 of the 4 chips" in caplog.text


def break_bands(chips: Path) -> None:
    raster(chips / "flat" / "000.tif", np.ones((3, SIDE, SIDE), np.uint8))


def break_size(chips: Path) -> None:
    raster(chips / "flat" / "000.tif", np.ones((2, SIDE, SIDE + 1), np.uint8))


def break_type(chips: Path) -> None:
    raster(chips / "flat" / "000.tif", np.ones((2, SIDE, SIDE), np.float32))


def break_file(chips: Path) -> None:
    (chips / "flat" / "000.tif").write_bytes(b"no image at all")


def empty_class(chips: Path) -> None:
    (chips / "sand").mkdir()


@pytest.mark.parametrize(("broken", "said"), [
    (break_bands, r"000.tif has 3 bands, but most chips have 2 bands \(1 of 6 differ\)"),
    (break_size, r"000.tif has 21 x 20 pixels, but most chips have 20 x 20 pixels"),
    (break_type, r"000.tif has values of type float32, but most"),
    (break_file, r"000.tif cannot be read as a chip .* take it out of the collection"),
    (empty_class, r"class folder .*sand holds no chip .* fill it or take it away"),
])  # fmt: skip
def test_what_is_wrong_with_a_folder_is_said(tmp_path: Path, broken: Callable[[Path], None], said: str) -> None:
    chips = folder_of(tmp_path, 3)
    broken(chips)
    with pytest.raises(SceneError, match=said):
        collected(chips)


@pytest.mark.parametrize(("rows", "settings", "said"), [
    ("a.tif,flat\nb.tif,rough", {}, r"row 2 of .* names the chip 'b.tif', but there is no such file"),
    ("a.tif,flat\n,rough", {}, r"row 2 of .* names the chip '', but there is no such file"),
    ("a.tif,flat\na.tif,rough", {}, r"names .*a.tif in several rows"),
    ("a.tif,flat", {"label": "class"}, r"no column 'class' \(ingest.chips.label\); it has path, label"),
    ("a.tif,", {}, r"holds no labelled chip"),
    ("a.tif,flat", {"longitude": "label", "latitude": "path"}, r"row 1 of .* has 'flat' in column 'label'"),
])  # fmt: skip
def test_what_is_wrong_with_a_table_is_said(tmp_path: Path, rows: str, settings: dict[str, Any], said: str) -> None:
    raster(tmp_path / "a.tif", np.ones((2, SIDE, SIDE), np.uint8))
    (tmp_path / "chips.csv").write_text(f"path,label\n{rows}\n")
    with pytest.raises(SceneError, match=said):
        collected(table=tmp_path / "chips.csv", **settings)


def test_chips_are_squares_and_bands_are_there(tmp_path: Path) -> None:
    for name, shape in (("wide", (1, 20, 30)), ("tiny", (1, 8, 8))):
        (tmp_path / name / "a").mkdir(parents=True)
        raster(tmp_path / name / "a" / "1.tif", np.ones(shape, np.uint8))
        with pytest.raises(SceneError, match="chips are squares of 16 to 1024 pixels"):
            collected(tmp_path / name)
    with pytest.raises(SceneError, match="has 2 bands, but band nir is declared as number 3"):
        collected(folder_of(tmp_path / "chips", 1), bands={"nir": 3})
    raster(tmp_path / "chips" / "flat" / "000.tif", np.ones((2, SIDE, SIDE), np.uint8), resolution=20.0)
    with pytest.raises(SceneError, match="of one resolution"):
        collected(tmp_path / "chips")


def test_a_collection_takes_the_place_of_scenes() -> None:
    folder = {"folder": "a"}
    for wrong in (
        {"chips": {}},
        {"chips": {**folder, "table": "b"}},
        {"chips": folder, "bands": {"a": 1}},
        {"chips": {**folder, "longitude": "x", "latitude": "y"}},
    ):
        with pytest.raises(ValidationError):
            ingest.Config.model_validate(wrong)


# --- layout ----------------------------------------------------------------------------------------------------------


def test_pixels_lie_in_their_cells(tmp_path: Path) -> None:
    chips = folder_of(tmp_path / "chips", 5)
    hidden = np.array(texture(True, np.random.default_rng(9)))
    hidden[:, 8:16, 8:16] = 0  # nodata around the middle pixel of the cell
    raster(chips / "rough" / "001.tif", hidden, nodata=0)
    (chips / "rough" / "003.tif").write_bytes((chips / "flat" / "000.tif").read_bytes())
    tiles = laid(tmp_path / "run", chips)
    table, collection = read_table(tiles), read_collection(tmp_path / "run" / "scenes")
    assert tiles.cells == Cells(SIDE, 10)
    assert tiles.is_table
    cube, valid = tiles.read_channels(tiles.grid.whole)
    for number, path in enumerate(collection.chips["sample"]):
        import rasterio

        with rasterio.open(path) as file:
            values = file.read()
        (top,), (left,) = tiles.cells.corners(np.array([number]))
        seen = valid[0, top : top + SIDE, left : left + SIDE].copy()
        found = cube[:, top : top + SIDE, left : left + SIDE]
        middle = tiles.cells.size // 2
        assert (int(table["row"][number]), int(table["col"][number])) == (top + middle, left + middle)
        assert not valid[0, top + SIDE : top + 24, left : left + 24].any()
        assert valid[0, top + middle, left + middle]
        if path.endswith("001.tif"):
            shown = (values != 0).all(axis=0)
            # The middle pixel carries the label; it has the chip's mean.
            assert found[:, middle, middle] == pytest.approx(values[:, shown].mean(axis=1), rel=1e-5)
            shown[middle, middle] = True
            assert (seen == shown).all()
        else:
            assert seen.all()
            np.testing.assert_array_equal(found, values.astype(np.float32))
    same = table["series"].to_numpy()
    assert same[0] == same[list(table["sample"].str.endswith("003.tif")).index(True)]
    assert len(set(same)) == 9


def test_a_chip_that_ends_too_early_is_told_when_it_is_read(tmp_path: Path) -> None:
    import cv2

    for name in ("flat", "rough"):
        (tmp_path / "chips" / name).mkdir(parents=True)
        cv2.imwrite(str(tmp_path / "chips" / name / "1.jpg"), texture(True, np.random.default_rng(0), 64)[0])
    path = tmp_path / "chips" / "flat" / "1.jpg"
    path.write_bytes(path.read_bytes()[:-900])
    with pytest.raises(SceneError, match=r"1\.jpg cannot be read as a chip"):
        laid(tmp_path / "run", tmp_path / "chips")


# --- labels and division ---------------------------------------------------------------------------------------------


def test_without_coordinates_chips_are_divided_at_random_and_copies_together(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    chips = folder_of(tmp_path / "chips", 20, crs=None)
    for number in range(2, 12, 2):  # five further chips that are the same as the first
        (chips / "flat" / f"{number:03d}.tif").write_bytes((chips / "flat" / "000.tif").read_bytes())
    tiles = laid(tmp_path / "run", chips)
    samples = labelled(tmp_path / "run")
    assert samples.split_by == "random"
    assert "have no coordinates" in caplog.text
    assert tiles.cells is not None
    whole = tiles.grid.whole
    target, block = samples.read("target", whole), samples.read("block", whole)
    table = read_table(tiles)
    place = table["row"].to_numpy(), table["col"].to_numpy()
    assert (target != UNLABELLED).sum() == 40
    assert target[place].tolist() == [0] * 20 + [1] * 20
    numbers = tiles.cells.numbers(whole)
    for chip in range(40):  # the whole cell is of one block
        assert set(block[numbers == chip]) == {block[place][chip]}
    copies = (table["series"] == table["series"][0]).to_numpy()
    assert copies.sum() == 6
    assert len(set(block[place][copies])) == 1
    parts = samples.parts[0][block[place]]
    for kind in (0, 1):  # class shares are kept
        shares = [
            float((parts[target[place] == kind] == part).mean()) for part in (Part.TRAIN, Part.VALIDATION, Part.TEST)
        ]
        assert shares == pytest.approx([0.6, 0.2, 0.2], abs=0.101)


def test_with_coordinates_blocks_of_ground_are_divided(tmp_path: Path) -> None:
    chips = folder_of(tmp_path / "chips", 54)
    first = chips / "flat" / "000.tif"
    raster(chips / "rough" / "999.tif", first_values(first), corner=(CORNER[0] + 3000, CORNER[1]))
    tiles = laid(tmp_path / "run", chips)
    samples = labelled(tmp_path / "run")
    assert samples.split_by == "blocks"
    table = read_table(tiles)
    place = table["row"].to_numpy(), table["col"].to_numpy()
    block, roles = samples.read("block", tiles.grid.whole)[place], samples.roles(0, tiles.grid.whole)[place]
    assert block[0] == block[-1]  # a copy far away is in the block of the first
    assert set(roles) <= {Role.TRAIN, Role.VALIDATION, Role.TEST, Role.BUFFER}
    labels = read_chip_labels(
        tiles,
        label._values(label.Config.model_validate({"classes": CLASSES})),
        2,
        block=600,
        split="blocks",
        seed=0,
        buffer=0,
    )
    assert labels.division == "by ground block"
    assert labels.wide == pytest.approx(200, rel=1e-3)


def first_values(path: Path) -> np.ndarray:
    import rasterio

    with rasterio.open(path) as file:
        values: np.ndarray = file.read()
    return values


def test_chips_that_overlap_held_out_ones_do_not_train() -> None:
    degree = 111_195.0
    metres = np.array([[0, 0], [99.5, 0], [100, 0], [90, 90], [99, 150], [400, 0]])
    places = metres / degree / [np.cos(np.radians(50.0)), 1.0] + [15.0, 50.0]
    blocks = ChipBlocks(block=np.array([0, 1, 1, 1, 1, 1], np.int32), bounds=np.zeros((2, 4)), cells=Cells(16, 6))
    held = np.array([True, False, False, False, False, False])
    target = np.zeros(6, np.uint8)

    def near(buffer: float) -> list[bool]:
        labels = ChipLabels(Cells(16, 6), target, blocks, "", places, 100.0, buffer)
        found: list[bool] = labels.near(held)[1:].tolist()
        return found

    assert near(0.0) == [False, False, True, False, False]  # 99.5 and 100 m only touch
    assert near(120.0) == [True, True, True, False, False]


def test_an_unknown_label_is_named(tmp_path: Path) -> None:
    chips = folder_of(tmp_path / "chips", 3, crs=None)
    (chips / "rough").rename(chips / "marsh")
    laid(tmp_path / "run", chips)
    with pytest.raises(LabelError, match="marsh"):
        labelled(tmp_path / "run")
    with pytest.raises(LabelError, match="collection of chips, which have their labels"):
        label.run(
            tmp_path / "run" / "tiles", tmp_path, label.Config.model_validate({"classes": CLASSES, "file": "x.gpkg"})
        )


# --- networks --------------------------------------------------------------------------------------------------------


def test_features_of_a_chip_are_those_of_its_valid_pixels() -> None:
    rng = np.random.default_rng(0)
    image = torch.zeros(1, 3, 40, 40)
    image[:, :2, :36, :36] = torch.from_numpy(rng.normal(0, 1, (1, 2, 36, 36)))
    valid = np.zeros((40, 40), bool)
    valid[:36, :36] = rng.random((36, 36)) < 0.8
    image[:, 2] = torch.from_numpy(valid)
    image[:, :2] *= image[:, 2:]
    found = ChipFeatures(2, 36, (3,))(image)[0, :, 20, 20]
    values = image[0, :2].numpy()[:, valid]
    assert found[:2].numpy() == pytest.approx(values.mean(axis=1), abs=1e-5)
    assert found[2:4].numpy() == pytest.approx(values.std(axis=1), rel=1e-4)
    shares = np.concatenate([np.clip((values - level) / RAMP + 0.5, 0, 1).mean(axis=1) for level in LEVELS])
    assert found[6:].numpy() == pytest.approx(shares, abs=1e-5)


@pytest.mark.parametrize("side", [16, 24, 64])
def test_the_mean_over_a_chip_is_the_same_for_both_middles(side: int) -> None:
    """A chip of an even number of cells has its middle between two of them; seen alone, either stands for all."""
    cells = -(-side // UNIT)
    features, weight = torch.rand(1, 5, cells, cells), torch.rand(1, 1, cells, cells)
    expected = (features * weight).sum(dim=(2, 3)) / weight.sum()
    found = chip_mean(features, weight, side)
    for middle in {cells // 2, (cells - 1) // 2}:
        assert torch.allclose(found[:, :, middle, middle], expected, atol=1e-5)


@pytest.mark.parametrize("kind", sorted(OF_CHIPS))
def test_networks_of_chips_slide_and_export(kind: str, tmp_path: Path) -> None:
    import onnxruntime as ort

    torch.manual_seed(0)
    network = OF_CHIPS[kind](2, 3, 24, **({} if kind == "chip-mlp" else {"width": 4}))
    assert network.stride == UNIT
    model = Classifier(Normalise([0.0, 0.0], [1.0, 1.0]), network, 3).eval()
    # Beyond its margin a pixel does not matter; moved by the stride, the map moves along.
    margin = int(network.margin)
    size = 2 * (-(-margin // UNIT) * UNIT) + 3 * UNIT
    image, valid = torch.randn(1, 2, size, size), torch.ones(1, 1, size, size)
    with torch.no_grad():
        found = model(image, valid)
        middle = size // 2
        changed = image.clone()
        changed[:, :, : middle - margin - 1] += 3.0
        assert torch.allclose(model(changed, valid)[:, :, middle, middle], found[:, :, middle, middle], atol=1e-5)
        moved = model(image.roll(UNIT, dims=3), valid)
        assert torch.allclose(moved[:, :, middle, middle + UNIT], found[:, :, middle, middle], atol=1e-5)
    export_module(model, model.normalise, UNIT, tmp_path / "model.onnx")
    session = ort.InferenceSession(str(tmp_path / "model.onnx"), providers=["CPUExecutionProvider"])
    (answer,) = session.run(["logits"], {"image": image.numpy(), "valid": valid.numpy()})
    np.testing.assert_allclose(answer, found.numpy(), atol=1e-4)


# --- training, scores, and a map -------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Train and score quick classifiers of two textures."""
    root = tmp_path_factory.mktemp("trained")
    tiles = laid(root, folder_of(root / "chips", 40, seed=1, crs=None), pixel=10)
    labelled(root)
    for name in ("bands", "synthetic", "model", "scores"):
        (root / name).mkdir()
    select.run(tiles.folder, root / "samples", root / "bands", select.Config())
    augment.run(tiles.folder, root / "samples", root / "bands", root / "synthetic", augment.Config())
    quick = {"epochs": 6, "batch": 16, "steps": 6, "lr": 0.01}
    inputs = [tiles.folder, *(root / name for name in ("samples", "bands", "synthetic"))]
    train.run(*inputs, root / "model", train.Config.model_validate({
        "classes": CLASSES, "models": ["rf", "svm", "mlp", "cnn", "ensemble"], "model": "cnn",
        "ensemble": {"of": ["svm", "cnn"]},
        "chips": {"rf": {"trees": 10, "leaf": [1]}, "svm": {"cost": [1], "gamma": [1]}, "mlp": quick,
                  "cnn": {**quick, "width": 8, "average": 0.8}},
    }))  # fmt: skip
    evaluate.run(tiles.folder, root / "samples", root / "model", root / "scores", evaluate.Config.model_validate({}))
    return root


def test_a_chip_counts_once_and_textures_are_told_apart(trained: Path) -> None:
    scores = json.loads((trained / "scores" / "scores.json").read_text())
    samples = Samples(trained / "samples")
    assert scores["pixels"] == sum(samples.summary["pixels"][0]["test"].values()) == 16
    assert "divided at random" in scores["warning"]
    found = {row["model"]: row["test"] for row in scores["table"]}
    assert set(found) == {"rf", "svm", "mlp", "cnn", "ensemble"}
    assert min(found.values()) >= 0.9, found


def test_what_scores_a_chip_sees_it_alone(trained: Path) -> None:
    """The held-out windows are single cells, so that no model sees a neighbour whatever it looks at."""
    tiles, samples = Tiles(trained / "tiles"), Samples(trained / "samples")
    split = Split(tiles, samples, tiles.channels, 0)
    held = gather(split, Role.VALIDATION, 40, 8)
    assert held.image.shape[1:] == (2, 24, 24)
    assert not held.alone
    table = read_table(tiles)
    row, col = table["row"].to_numpy() - 12, table["col"].to_numpy() - 12
    roles = samples.roles(0, tiles.grid.whole)[table["row"], table["col"]]
    expected = [
        tiles.read_channels(Window(int(row[i]), int(col[i]), 24, 24))[0]
        for i in np.flatnonzero(roles == Role.VALIDATION)
    ]
    assert len(held.image) == len(expected) == 16
    found = {image.tobytes() for image in held.image}
    assert found == {image.tobytes() for image in expected}


def test_an_epoch_shows_every_training_chip_once_wherever_it_is_moved(trained: Path, tmp_path: Path) -> None:
    tiles, samples = Tiles(trained / "tiles"), Samples(trained / "samples")
    ground = lay_out(Split(tiles, samples, tiles.channels, 0), tmp_path)
    recipe = ChipCnnRecipe(batch=8, steps=6).model_copy(update={"chip": ground.side})
    chips = WholeChips(ground, recipe, 0, 3)
    batches = [chips[step] for step in range(6)]
    images = np.concatenate([image.numpy().copy() for image, *_ in batches])
    labels = np.concatenate([found.numpy().copy() for *_, found in batches])
    assert (labels != UNLABELLED).sum() == 48
    assert np.isin(labels[:, 12, 12], (0, 1)).all()
    # Turned chips have the same values in another order.
    kinds = {tuple(np.sort(image[0].ravel()).tolist()) for image in images}
    table = read_table(tiles)
    roles = samples.roles(0, tiles.grid.whole)[table["row"], table["col"]]
    assert len(kinds) == len(images) == int((roles == Role.TRAIN).sum())
    rough = images[:, 0].std(axis=(1, 2)) > 0
    assert rough.all()
    again = WholeChips(ground, recipe, 0, 3)[2]
    np.testing.assert_array_equal(again[0].numpy(), images[16:24])


def test_the_model_maps_a_scene_of_the_same_bands_and_pixels(trained: Path, tmp_path: Path) -> None:
    rng = np.random.default_rng(5)
    scene = np.concatenate([texture(False, rng, 128)[:, :, :64], texture(True, rng, 128)[:, :, :64]], axis=2)
    raster(tmp_path / "scene.tif", scene)
    tiles = tiled(tmp_path, [source(tmp_path / "scene.tif", "", ("b1", "b2"))], ("b1", "b2"))
    folder = chosen_folder(trained / "model")
    assert read_card(folder).name == "cnn"
    stream = stream_of(tiles, folder, Streaming.model_validate({"window": 64}))
    classes = np.full((128, 128), 9)
    for block in blocks_of(stream.layout, Streaming.model_validate({"window": 64}), 1):
        for window, likely in finished(stream, block):
            classes[window.slices] = likely.argmax(axis=0)
    assert (classes[:, :48] == 0).mean() > 0.95
    assert (classes[:, 80:] == 1).mean() > 0.95


@pytest.mark.parametrize("name", ["svm", "mlp", "cnn", "ensemble"])
def test_torch_builds_the_model_again_from_its_folder(trained: Path, name: str) -> None:
    import onnxruntime as ort
    from safetensors.torch import load_file

    folder = trained / "model" / name
    again = rebuild(read_card(folder).network, load_file(str(folder / WEIGHTS)))
    image, valid = torch.rand(2, 2, 48, 48) * 200, torch.ones(2, 1, 48, 48)
    session = ort.InferenceSession(str(folder / ONNX), providers=["CPUExecutionProvider"])
    (expected,) = session.run(["logits"], {"image": image.numpy(), "valid": valid.numpy()})
    with torch.no_grad():
        np.testing.assert_allclose(again(image, valid).numpy(), expected, atol=2e-3)


def test_models_of_pixels_are_refused(trained: Path, tmp_path: Path) -> None:
    inputs = [trained / name for name in ("tiles", "samples", "bands", "synthetic")]
    with pytest.raises(SettingError, match="unet classifies pixels, but the area is a collection of chips"):
        train.run(*inputs, tmp_path, train.Config.model_validate({"classes": CLASSES}))
    for wrong, said in (({"chip": 32}, "leave it out"), ({"pseudo": 0.9}, "set it to 0")):
        with pytest.raises(ValidationError, match=said):
            train.Config.model_validate({"classes": CLASSES, "chips": {"cnn": wrong}})


# --- configs ---------------------------------------------------------------------------------------------------------


def test_init_writes_a_config_that_loads(tmp_path: Path) -> None:
    from pipeline.config import load_area

    folder_of(tmp_path / "chips", 3)
    notes = write_config(tmp_path, "mine", "chips", None, None)
    assert notes[0] == "6 chips of 20 x 20 pixels, 2 bands and 2 classes, with coordinates: split by ground block"
    assert "Check class flat: 3 chips are few" in notes
    config = yaml.safe_load((tmp_path / "configs" / "mine.yaml").read_text())
    assert config["ingest"]["chips"]["folder"] == "chips"
    assert [(c["name"], c["labels"]) for c in config["classes"]] == [("flat", ["flat"]), ("rough", ["rough"])]
    area = load_area(tmp_path, "mine")
    assert set(area.skipped) >= {"classify", "export"}
    assert "collection of chips" in area.skipped["classify"]


def test_chips_are_cut_from_a_scene_with_the_class_of_most_pixels(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.ERROR)
    values = np.arange(64 * 64, dtype=np.float32).reshape(64, 64)
    raster(tmp_path / "scene.tif", values)
    kinds = np.kron(np.array([[1, 2], [2, 1]]), np.ones((32, 32))).astype(np.uint8)
    kinds[:16, :20] = 0  # three quarters of a chip and more without a label
    raster(tmp_path / "labels.tif", kinds, nodata=0)
    tiles = tiled(tmp_path, [source(tmp_path / "scene.tif", "", ("b",))])
    (tmp_path / "samples").mkdir()
    config = {"classes": [{"name": f"k{i}", "labels": [i], "code": i, "color": "#000000"} for i in (1, 2)],
              "file": tmp_path / "labels.tif", "block": 80, "buffer": 0}  # fmt: skip
    label.run(tiles.folder, tmp_path / "samples", label.Config.model_validate(config))
    counts = cut(tiles, Samples(tmp_path / "samples"), tmp_path / "chips", 16, 0.6)
    assert counts == {"k1": 7, "k2": 8}
    found = collected(tmp_path / "chips")
    assert (found.bands, found.side) == (("b",), 16)
    np.testing.assert_array_equal(first_values(tmp_path / "chips" / "k1" / "00016_00000.tif")[0], values[16:32, :16])
    assert found.chips["longitude"].notna().all()
