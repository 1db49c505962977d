"""Write classifiers as ONNX graphs that take `image` and `valid` and give `logits`, for any batch, height and width."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from stages.models.classifier import Normalise

OPSET = 17
#: A forest's probability of 0 is taken as this, so that its logarithm is finite.
LEAST = 1e-4


def export_module(module: nn.Module, normalise: Normalise, stride: int, path: Path, output: str = "logits") -> Any:
    """Write a torch module of `image`, `valid` and, where it takes them, `days`.

    The graph is returned too (an onnx ``ModelProto``).

    ``normalise`` is the one inside the module: it knows how many channels and steps there are.
    """
    import onnx

    channels, steps = normalise.mean.shape[1], normalise.length
    side = max(2 * stride, 16)
    names = ["image", "valid", *(["days"] if getattr(module, "takes_days", False) else [])]
    example = (torch.zeros(2, channels, side, side), torch.ones(2, steps, side, side), torch.zeros(2, steps))
    free = {0: "n", 2: "y", 3: "x"}
    axes = {"image": free, "valid": free, "days": {0: "n"}, output: free if output == "logits" else {0: "rows"}}
    axes = {name: axes[name] for name in (*names, output)}
    with warnings.catch_warnings(), torch.no_grad():
        # The tracing exporter is announced to go, but the torch version is pinned; the newer one takes ten times
        # as long and writes source paths of the machine into the file.
        warnings.simplefilter("ignore")
        torch.onnx.export(
            module.eval(), example[: len(names)], str(path), input_names=names, output_names=[output],
            dynamic_axes=axes, dynamo=False, opset_version=OPSET,
        )  # fmt: skip
    model = onnx.load(str(path))
    for node in model.graph.node:
        node.doc_string = ""
    onnx.save(model, str(path))
    return model


def save_weights(module: nn.Module, path: Path) -> None:
    """Write every tensor of a module by name."""
    _write_tensors(module.state_dict(), path)


def join_weights(members: Sequence[Path], path: Path) -> None:
    """Write the tensors of several files as those of `members.0`, `members.1` and so on."""
    from safetensors.torch import load_file

    _write_tensors({
        f"members.{number}.{name}": tensor
        for number, member in enumerate(members)
        for name, tensor in load_file(str(member)).items()
    }, path)  # fmt: skip


def _write_tensors(tensors: Mapping[str, torch.Tensor], path: Path) -> None:
    from safetensors.torch import save

    # Written by ourselves, as the library's own writer makes files that only their owner may read.
    path.write_bytes(save({name: tensor.contiguous() for name, tensor in tensors.items()}))


def export_forest(rows: nn.Module, normalise: Normalise, forest: Any, correction: np.ndarray, path: Path) -> None:
    """Write a scikit-learn forest behind the module that makes its rows: probabilities, logarithm, correction."""
    import onnx
    from onnx import helper, numpy_helper

    classes = len(correction)
    model = export_module(rows, normalise, 1, path, output="rows")
    graph = model.graph
    constants = {
        "forest_least": np.array(LEAST, np.float32),
        "forest_classes": np.array([classes], np.int64),
        "forest_correction": correction.astype(np.float32)[None, :, None, None],
    }
    graph.initializer.extend(numpy_helper.from_array(value, name) for name, value in constants.items())
    graph.node.extend([
        helper.make_node("TreeEnsembleRegressor", ["rows"], ["forest_shares"], domain="ai.onnx.ml",
                         n_targets=classes, aggregate_function="SUM", **_trees(forest)),
        helper.make_node("Max", ["forest_shares", "forest_least"], ["forest_floored"]),
        helper.make_node("Log", ["forest_floored"], ["forest_logarithm"]),
        helper.make_node("Shape", ["valid"], ["forest_n"], start=0, end=1),
        helper.make_node("Shape", ["valid"], ["forest_yx"], start=2, end=4),
        helper.make_node("Concat", ["forest_n", "forest_yx", "forest_classes"], ["forest_shape"], axis=0),
        helper.make_node("Reshape", ["forest_logarithm", "forest_shape"], ["forest_image"]),
        helper.make_node("Transpose", ["forest_image"], ["forest_bands"], perm=[0, 3, 1, 2]),
        helper.make_node("Add", ["forest_bands", "forest_correction"], ["logits"]),
    ])  # fmt: skip
    del graph.output[:]
    graph.output.append(helper.make_tensor_value_info("logits", onnx.TensorProto.FLOAT, ["n", classes, "y", "x"]))
    model.opset_import.append(helper.make_opsetid("ai.onnx.ml", 3))
    onnx.checker.check_model(model)
    onnx.save(model, str(path))


def _trees(forest: Any) -> dict[str, Any]:
    """Turn a forest's node tables into the attributes of ONNX's tree ensemble."""
    labels = np.asarray(forest.classes_, dtype=np.int64)
    parts: dict[str, list[np.ndarray]] = {}
    for number, estimator in enumerate(forest.estimators_):
        for name, values in _tree(estimator.tree_, number, labels, len(forest.estimators_)).items():
            parts.setdefault(name, []).append(values)
    joined = {name: np.concatenate(values) for name, values in parts.items()}
    leaf = joined.pop("leaf")
    modes = np.where(leaf, "LEAF", "BRANCH_LEQ").tolist()
    return {name: values.tolist() for name, values in joined.items()} | {"nodes_modes": modes}


def _tree(tree: Any, number: int, labels: np.ndarray, trees: int) -> dict[str, np.ndarray]:
    leaf = tree.children_left < 0
    count = len(leaf)
    shares = tree.value[:, 0, :] / tree.value[:, 0, :].sum(axis=1, keepdims=True)
    node, column = np.nonzero(leaf[:, None] & (shares > 0))
    return {
        "leaf": leaf,
        "nodes_treeids": np.full(count, number),
        "nodes_nodeids": np.arange(count),
        "nodes_featureids": np.where(leaf, 0, tree.feature),
        "nodes_values": np.where(leaf, np.float32(0), _single(tree.threshold)),
        "nodes_truenodeids": np.where(leaf, 0, tree.children_left),
        "nodes_falsenodeids": np.where(leaf, 0, tree.children_right),
        "target_treeids": np.full(len(node), number),
        "target_nodeids": node,
        "target_ids": labels[column],
        "target_weights": (shares[node, column] / trees).astype(np.float32),
    }


def _single(thresholds: np.ndarray) -> np.ndarray:
    """Largest float32 not above each float64 threshold: the same float32 values pass both."""
    single = thresholds.astype(np.float32)
    down = np.nextafter(single, np.float32(-np.inf), dtype=np.float32)
    rounded: np.ndarray = np.where(single.astype(np.float64) > thresholds, down, single)
    return rounded
