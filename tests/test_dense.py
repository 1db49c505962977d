"""A classifier of patches, evaluated for all pixels at once, says of every pixel what it says of the pixel's patch."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from stages.formats.tiles import Tiles
from stages.formats.weights import read_card
from stages.inference.backends import Placing
from stages.inference.predictor import load
from stages.inference.stream import Streaming, blocks_of, finished, stream_of
from tests.untrained import CLASSES, write_cube, write_model

BANDS, DATES, HEIGHT, WIDTH = 2, 2, 37, 41
#: Classifiers that see a patch around a pixel, how they are built, and how far they see.
PATCHES: dict[str, tuple[str, dict[str, Any], int]] = {
    "cnn": ("cnn", {}, 4),
    "cnn of wide dilations": ("cnn", {"dilations": (1, 2, 3)}, 6),
    "cnn3d": ("cnn3d", {}, 3),
    "capsule": ("capsule", {}, 3),
    "rf": ("rf", {"windows": (3, 7)}, 3),
    "rf on pixels": ("rf", {"windows": ()}, 0),
    "svm": ("svm", {"windows": (3, 5, 9)}, 4),
    "mlp": ("mlp", {}, 0),
    "convlstm": ("convlstm", {}, 2),
}
#: Where a patch holds everything, hardly anything, or nothing else: rows and columns.
SPECIAL = {"corner": (0, 0), "far corner": (36, 40), "rim of a hole": (14, 9), "alone": (20, 30), "in a hole": (16, 12)}


@pytest.fixture(scope="module")
def tiles(tmp_path_factory: pytest.TempPathFactory) -> Tiles:
    """A scene with clouds on either date, a hole, and a pixel that is alone in another hole."""
    draw = np.random.default_rng(11)
    cube = draw.normal(size=(DATES, BANDS, HEIGHT, WIDTH))
    valid = draw.random((DATES, HEIGHT, WIDTH)) < 0.85
    valid[:, 15:19, 10:20] = False
    valid[:, 10:30, 24:37] = False
    valid[:, 20, 30] = True
    for name in ("corner", "far corner", "rim of a hole"):
        valid[:, *SPECIAL[name]] = True
    return write_cube(tmp_path_factory.mktemp("dense") / "tiles", cube, valid, side=16)


@pytest.fixture(scope="module", params=PATCHES)
def model(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    kind, shape, margin = PATCHES[request.param]
    folder = write_model(tmp_path_factory.mktemp("model") / kind, kind, BANDS, DATES, **shape)
    card = read_card(folder)
    assert (card.margin, card.stride) == (margin, 1)
    return folder


def patches(tiles: Tiles, margin: int) -> tuple[np.ndarray, np.ndarray]:
    """Cut out every pixel's own patch, invalid beyond the scene: (pixels, channel, p, p) and (pixels, step, p, p)."""
    image, valid = tiles.read_channels(tiles.grid.whole)
    around, side = ((0, 0), (margin, margin), (margin, margin)), 2 * margin + 1
    image, valid = np.pad(image, around), np.pad(valid, around)
    corners = [(row, col) for row in range(HEIGHT) for col in range(WIDTH)]
    cut = [np.s_[:, row : row + side, col : col + side] for row, col in corners]
    return np.stack([image[place] for place in cut]), np.stack([valid[place] for place in cut])


def by_patch(predict: Callable[..., np.ndarray], tiles: Tiles, margin: int) -> np.ndarray:
    """Classify patch by patch and keep each one's middle pixel: (class, y, x)."""
    images, valids = patches(tiles, margin)
    found = np.concatenate([
        predict(images[first : first + 256], valids[first : first + 256], tiles.days)[:, :, margin, margin]
        for first in range(0, len(images), 256)
    ])  # fmt: skip
    return found.T.reshape(CLASSES, HEIGHT, WIDTH)


def mapped(tiles: Tiles, model: Path, backend: Any = "auto", **settings: Any) -> np.ndarray:
    """Map the scene: (class, y, x), 0 where nothing is said."""
    config = Streaming(**settings)
    stream = stream_of(tiles, model, config, placing=Placing(backend=backend))
    found = np.zeros((CLASSES, HEIGHT, WIDTH), np.float32)
    for block in blocks_of(stream.layout, config):
        for window, likely in finished(stream, block):
            found[:, *window.slices] = likely
    return found


def test_the_dense_map_is_the_map_of_every_pixels_patch(tiles: Tiles, model: Path) -> None:
    predictor = load(model)
    expected = by_patch(predictor.probabilities, tiles, predictor.card.margin)
    seen = tiles.read_valid(tiles.grid.whole)
    assert expected[:, seen].std(axis=1).min() > 0.03
    image, valid = tiles.read_channels(tiles.grid.whole)
    dense = predictor.probabilities(image[None], valid[None], tiles.days)[0]
    np.testing.assert_allclose(dense, expected, atol=1e-6)
    for settings in ({"window": 64}, {"window": 16, "batch": 2}):
        found = mapped(tiles, model, **settings)
        np.testing.assert_allclose(found, expected, atol=1e-6)
        assert (found.sum(axis=0) > 0.99).tolist() == seen.tolist()
    for name, (row, col) in SPECIAL.items():
        assert (expected[:, row, col].sum() > 0.99) == (name != "in a hole"), name


def test_a_smaller_patch_would_not_do(tiles: Tiles, model: Path) -> None:
    predictor = load(model)
    margin = predictor.card.margin
    if margin == 0:
        pytest.skip("a pixel is the smallest patch")
    image, valid = tiles.read_channels(tiles.grid.whole)
    dense = predictor.probabilities(image[None], valid[None], tiles.days)[0]
    assert np.abs(by_patch(predictor.probabilities, tiles, margin - 1) - dense).max() > 1e-3


def test_the_torch_form_of_a_patch_classifier_is_dense_too(tiles: Tiles, model: Path) -> None:
    if read_card(model).name == "rf":
        pytest.skip("trees have no torch form")
    expected = by_patch(load(model).probabilities, tiles, read_card(model).margin)
    np.testing.assert_allclose(mapped(tiles, model, window=16, backend="torch"), expected, atol=1e-5)


def test_turned_views_are_those_of_every_pixels_patch(tiles: Tiles, tmp_path: Path) -> None:
    model = write_model(tmp_path / "cnn", "cnn", BANDS, DATES, tta=True)
    predictor = load(model)
    expected = by_patch(predictor.probabilities, tiles, predictor.card.margin)
    plain = load(write_model(tmp_path / "plain", "cnn", BANDS, DATES))
    assert np.abs(by_patch(plain.probabilities, tiles, plain.card.margin) - expected).max() > 0.05
    np.testing.assert_allclose(mapped(tiles, model, window=16), expected, atol=1e-6)


def test_the_network_of_patches_without_padding_gives_the_same_logits(tiles: Tiles) -> None:
    import torch

    from stages.models.cnn import PatchCNN

    torch.manual_seed(0)
    net = PatchCNN(BANDS * DATES, CLASSES, width=8, dilations=(1, 2)).eval()
    image, valid = tiles.read_channels(tiles.grid.whole)
    shown = torch.from_numpy(np.concatenate([image, valid.any(axis=0, keepdims=True).astype(np.float32)]))[None]
    cut, seen = patches(tiles, net.margin)
    each = torch.from_numpy(np.concatenate([cut, seen.any(axis=1, keepdims=True).astype(np.float32)], axis=1))
    with torch.no_grad():
        whole, single = net(shown)[0], net.of_patches(each)
    assert single.shape == (HEIGHT * WIDTH, CLASSES, 1, 1)
    torch.testing.assert_close(whole.flatten(1).T, single[:, :, 0, 0], atol=1e-5, rtol=0)
