"""A quantised model is a folder of its own, maps nearly the same, and says how nearly."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from stages.errors import ModelError
from stages.formats.weights import ITEM, ONNX, read_card
from stages.inference.backends import Engine, opened, softmax
from stages.inference.quantise import INT8, Loss, quantise
from tests.networks import write_network, write_window_mean
from tests.test_backends import windows, write_ensemble, write_kind

Windows = tuple[np.ndarray, np.ndarray, np.ndarray]


@pytest.fixture(scope="module", params=["cnn", "unet", "tempcnn"])
def model(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_kind(tmp_path_factory.mktemp("model") / str(request.param), str(request.param))


def measured(folder: Path, into: Path, shown: Windows) -> Loss:
    """Loss of a quantised folder, worked out anew."""
    card, seen = read_card(folder), shown[1].any(axis=1)
    before = softmax(opened(folder, Engine()).logits(*shown), card.temperature)
    after = softmax(opened(into, INT8).logits(*shown), card.temperature)
    apart = np.abs(before - after).max(axis=1)[seen]
    same = (before.argmax(axis=1) == after.argmax(axis=1))[seen]
    return Loss(int(seen.sum()), float(same.mean()), float(apart.mean()), float(apart.max()))


def test_the_loss_is_that_of_the_windows_not_calibrated_on(model: Path, tmp_path: Path) -> None:
    shown = windows(model, 6)
    before = {path.name: path.read_bytes() for path in model.iterdir()}
    loss = quantise(model, tmp_path / "int8", *shown)
    rest = shown[0][1::2], shown[1][1::2], shown[2][1::2]
    assert loss == measured(model, tmp_path / "int8", rest)
    assert loss.agreement > 0.9
    assert 1e-4 < loss.mean_difference < loss.largest_difference < 0.02
    assert {path.name: path.read_bytes() for path in model.iterdir()} == before
    assert sorted(path.name for path in (tmp_path / "int8").iterdir()) == [ITEM, ONNX]
    assert opened(tmp_path / "int8", INT8).name.startswith("onnxruntime-cpu ")
    assert opened(tmp_path / "int8", INT8).name.endswith(" int8")


def test_classes_that_are_nearly_tied_change(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    kernel = (1.0 + 0.003 * rng.normal(size=(3, 3, 3, 3))).astype(np.float32)
    folder = write_network(tmp_path / "tied", kernel)
    shown = windows(folder, 2)
    loss = quantise(folder, tmp_path / "int8", *shown)
    assert loss == measured(folder, tmp_path / "int8", (shown[0][1:], shown[1][1:], shown[2][1:]))
    assert 0.3 < loss.agreement < 0.97


def test_it_says_nothing_beside_the_loss(model: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level("INFO"):
        quantise(model, tmp_path / "int8", *windows(model))
    assert [record.name for record in caplog.records] == ["stages.inference.quantise"]
    assert "of the pixels keep their class" in caplog.text


def test_the_file_is_made_of_whole_numbers(model: Path, tmp_path: Path) -> None:
    import onnx

    quantise(model, tmp_path / "int8", *windows(model))
    graph = onnx.load(str(tmp_path / "int8" / ONNX)).graph
    types = {entry.name: entry.data_type for entry in graph.initializer}
    made_by = {name: node for node in graph.node for name in node.output}
    weights = [made_by[node.input[1]].input[0] for node in graph.node if node.op_type == "Conv"]
    assert len(weights) >= 4
    assert {types[name] for name in weights} == {onnx.TensorProto.INT8}
    # Every feature has a scale of its own.
    sizes = {entry.name: tuple(entry.dims) for entry in graph.initializer}
    scales = [made_by[node.input[1]].input[1] for node in graph.node if node.op_type == "Conv"]
    assert [sizes[scale] for scale in scales] == [sizes[name][:1] for name in weights]


def test_one_window_calibrates_and_measures(model: Path, tmp_path: Path) -> None:
    image, valid, days = windows(model, 2)
    one = image[:1], valid[:1], days[:1]
    assert quantise(model, tmp_path / "one", *one) == measured(model, tmp_path / "one", one)
    valid[1] = False  # nothing to measure on in the other
    assert quantise(model, tmp_path / "two", image, valid, days).pixels == int(valid.any(axis=1).sum())


def test_an_ensemble_is_quantised_as_one_graph(tmp_path: Path) -> None:
    members = [write_kind(tmp_path / kind, kind) for kind in ("cnn", "unet")]
    folder = write_ensemble(tmp_path / "ensemble", members)
    assert quantise(folder, tmp_path / "int8", *windows(folder, 4)).agreement > 0.9


def test_what_cannot_be_quantised_is_refused(tmp_path: Path) -> None:
    mean = write_window_mean(tmp_path / "mean", 3, 3)
    with pytest.raises(ModelError, match=r"model tiny has no convolutions, .* set classify\.precision to float32"):
        quantise(mean, tmp_path / "int8", *windows(mean))
    net = write_network(tmp_path / "net", np.ones((2, 3, 3, 3), np.float32))
    image, valid, days = windows(net)
    with pytest.raises(ModelError, match="needs valid pixels"):
        quantise(net, tmp_path / "int8", image, valid & False, days)
    (net / ONNX).write_bytes(b"nonsense")
    with pytest.raises(ModelError, match="model tiny cannot be quantised"):
        quantise(net, tmp_path / "int8", image, valid, days)
    assert not (tmp_path / "int8" / "prepared.onnx").exists()
