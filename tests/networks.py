"""Tiny model folders, tile stores and labels, so that prediction can be tested without training anything."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from stages.formats.samples import Part, Role, Samples
from stages.formats.tiles import Tiles
from stages.formats.weights import ONNX, ModelCard, write_card
from stages.geo.grid import Grid, Window

BANDS = "red", "nir", "swir1"
COLORS = "#1b6ca8", "#d9a441", "#3f7f4f", "#a83279", "#777777"


def write_tiles(folder: Path, image: np.ndarray, valid: np.ndarray | None = None, side: int = 64, **grid: Any) -> Tiles:
    """Write an image (channel, y, x) as a tile store of one date."""
    folder.mkdir(parents=True, exist_ok=True)
    height, width = image.shape[1:]
    place = {"crs": "EPSG:32633", "resolution": 10.0, "left": 500_000.0, "top": 5_400_000.0} | grid
    whole = Grid(width=width, height=height, tile=side, **place)
    tiles = Tiles.create(folder, whole, BANDS[: len(image)], ("2020",), "digital numbers")
    usable = np.ones((height, width), bool) if valid is None else valid
    tiles.write(whole.whole, image[None].astype(np.float32), usable[None])
    return Tiles(folder)


def card_of(classes: int, channels: int, /, **changes: Any) -> ModelCard:
    """Describe a model that fits `write_tiles`."""
    entries = tuple({"name": f"c{k}", "code": k + 1, "color": COLORS[k % len(COLORS)]} for k in range(classes))
    values: dict[str, Any] = {
        "name": "tiny", "channels": BANDS[:channels], "dates": ("2020",),
        "scaling": "digital numbers", "resolution": 10.0, "metres": 10.0, "classes": entries,
        "margin": 0, "stride": 1, "temperature": 1.0, "tta": False, "fingerprint": "0123456789abcdef",
    }  # fmt: skip
    return ModelCard(**(values | changes))


def write_network(folder: Path, kernel: np.ndarray, bias: Sequence[float] | None = None, **card: Any) -> Path:
    """Write a model of one convolution, float32 kernel (class, channel, k, k), zero-padded by its margin."""
    classes, channels, size, _ = kernel.shape
    margin = size // 2
    constants = {"kernel": kernel, "bias": np.zeros(classes) if bias is None else np.asarray(bias)}
    nodes = [
        helper.make_node("Mul", ["image", "valid"], ["masked"]),
        helper.make_node("Conv", ["masked", "kernel", "bias"], ["logits"], pads=[margin] * 4),
    ]
    return write_graph(folder, nodes, constants, card_of(classes, channels, **({"margin": margin} | card)))


def write_window_mean(folder: Path, classes: int, channels: int, **card: Any) -> Path:
    """Write a model whose every logit is the mean of all it is shown: as much context as there can be."""
    nodes = [
        helper.make_node("ReduceMean", ["image"], ["mean"], axes=[1, 2, 3], keepdims=1),
        helper.make_node("Mul", ["valid", "signs"], ["spread"]),
        helper.make_node("Mul", ["mean", "spread"], ["logits"]),
    ]
    signs = np.linspace(-1, 1, classes).reshape(1, classes, 1, 1)
    return write_graph(folder, nodes, {"signs": signs}, card_of(classes, channels, **({"margin": 500} | card)))


def write_graph(folder: Path, nodes: list[Any], constants: dict[str, np.ndarray], card: ModelCard) -> Path:
    """Write a model folder around ONNX nodes that make `logits` from `image` and `valid`."""
    folder.mkdir(parents=True, exist_ok=True)
    values = [numpy_helper.from_array(np.asarray(v, np.float32), name) for name, v in constants.items()]
    graph = helper.make_graph(
        nodes,
        "tiny",
        [_tensor("image", ["n", len(card.channels), "y", "x"]), _tensor("valid", ["n", 1, "y", "x"])],
        [_tensor("logits", ["n", "k", "y", "x"])],
        values,
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    onnx.save(model, str(folder / ONNX))
    write_card(folder, card)
    return folder


def write_samples(folder: Path, grid: Grid, target: np.ndarray, block: int, **more: Any) -> Samples:
    """Write labels (y, x) with square blocks of ``block`` pixels, all of them test blocks of one fold.

    ``more``: `role` (fold, y, x), `parts` (fold, block), `independent` (y, x), `crossed`, `class_pixels`.
    """
    folder.mkdir(parents=True, exist_ok=True)
    rows, cols = -(-grid.height // block), -(-grid.width // block)
    blocks = np.add.outer(np.arange(grid.height) // block * cols, np.arange(grid.width) // block)
    parts = np.asarray(more.get("parts", np.full((1, rows * cols), Part.TEST)))
    role = more.get("role", np.where(target < 250, Role.TEST, Role.NONE)[None])
    classes = [f"c{k}" for k in range(int(target[target < 250].max(initial=1)) + 1)]
    Samples.layout(folder, grid, len(parts))
    Samples.write(folder, Window(0, 0, *grid.shape), target=target.astype(np.uint8), block=blocks.astype(np.int32),
                  role=role.astype(np.uint8))  # fmt: skip
    if "independent" in more:
        Samples.write(folder, grid.whole, independent=more["independent"].astype(np.uint8))
    summary = {"classes": classes, "folds": len(parts), "crossed": more.get("crossed", False), "parts": parts.tolist()}
    Samples.write_summary(folder, summary)
    pixels = more.get("class_pixels", list(range(len(classes), 0, -1)))
    Samples.write_statistics(folder, [{"class_pixels": pixels}] * (len(parts) + 1))
    return Samples(folder)


def softmax(logits: np.ndarray) -> np.ndarray:
    """Softmax over axis 1 in float64."""
    powers = np.exp(logits - logits.max(axis=1, keepdims=True))
    found: np.ndarray = powers / powers.sum(axis=1, keepdims=True)
    return found


def _tensor(name: str, shape: list[int | str]) -> Any:
    return helper.make_tensor_value_info(name, TensorProto.FLOAT, shape)
