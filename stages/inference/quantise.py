"""Turn a model's convolutions into whole numbers of 8 bits, and measure what that changes in the map."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from stages.errors import ModelError
from stages.formats.weights import ONNX, read_card, write_card
from stages.inference.backends import Engine, opened, softmax

_logger = logging.getLogger(__name__)

#: What computes a quantised model.
INT8 = Engine("onnx", "cpu", "int8")


@dataclass(frozen=True)
class Loss:
    """What quantisation changes, over the valid pixels of some windows that it was not calibrated on.

    ``agreement`` is the share of the pixels whose class is that of float32; differences are of the probability that
    differs most at a pixel.
    """

    pixels: int
    agreement: float
    mean_difference: float
    largest_difference: float


def quantise(folder: Path, into: Path, images: np.ndarray, valids: np.ndarray, days: np.ndarray) -> Loss:
    """Write the model of ``folder`` with convolutions of 8 bits as another model folder, to be opened as `INT8`.

    Every other window calibrates the range of the values, the others measure the loss; one alone does both.

    Args:
        folder: of the model; nothing is written there.
        into: the new folder, empty or not there yet.
        images: windows of the area, as `Backend.logits` takes them.
        valids: their validity.
        days: of their steps.

    Returns:
        What is lost.

    Raises:
        ModelError: the model has no convolutions, cannot be quantised, or there is no valid pixel to do it with.
    """
    from onnxruntime.quantization import QuantFormat, QuantType, quantize_static

    folder, into = Path(folder), Path(into)
    card = read_card(folder)
    if not valids.any():
        raise ModelError(
            "classify.precision int8 needs valid pixels to find the range of the values, but the windows looked at "
            "have none; set it to float32."
        )
    into.mkdir(parents=True, exist_ok=True)
    prepared = into / "prepared.onnx"
    try:
        _prepare(folder / ONNX, prepared, card.name)
        quantize_static(
            str(prepared), str(into / ONNX), _Windows(prepared, images[::2], valids[::2], days[::2]),
            quant_format=QuantFormat.QDQ, op_types_to_quantize=["Conv"], per_channel=True,
            activation_type=QuantType.QUInt8, weight_type=QuantType.QInt8,
        )  # fmt: skip
    except ModelError:
        raise
    except Exception as fault:  # onnxruntime's own exceptions share no public base
        raise ModelError(
            f"model {card.name} cannot be quantised ({type(fault).__name__}); set classify.precision to float32."
        ) from fault
    finally:
        prepared.unlink(missing_ok=True)
    write_card(into, card)
    rest = slice(1, None, 2) if len(images) > 1 and valids[1::2].any() else slice(None)
    loss = _loss(folder, into, images[rest], valids[rest], days[rest])
    _logger.info("%s in int8: %.2f %% of the pixels keep their class", card.name, 100.0 * loss.agreement)
    return loss


def _prepare(path: Path, prepared: Path, name: str) -> None:
    """Fold the factors and offsets that follow a convolution into it, as they would be quantised apart.

    Raises:
        ModelError: there is no convolution.
    """
    import onnx
    import onnxruntime as ort

    options = ort.SessionOptions()
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_ENABLE_BASIC
    options.optimized_model_filepath = str(prepared)
    options.log_severity_level = 4
    ort.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    model = onnx.load(str(prepared))
    if not any(node.op_type == "Conv" for node in model.graph.node):
        raise ModelError(
            f"model {name} has no convolutions, and nothing else is quantised; set classify.precision to float32."
        )
    # Without this mark the quantiser advises to do what has just been done.
    onnx.helper.set_model_props(model, {"onnx.quant.pre_process": "onnxruntime.quant"})
    onnx.save(model, str(prepared))


class _Windows:
    """Windows one after another, as the calibration takes them."""

    def __init__(self, path: Path, images: np.ndarray, valids: np.ndarray, days: np.ndarray) -> None:
        import onnx

        self._names = {entry.name for entry in onnx.load(str(path)).graph.input}
        self._windows = self._each(images, valids.astype(np.float32), days)

    def _each(self, *arrays: np.ndarray) -> Iterator[dict[str, np.ndarray]]:
        for image, valid, when in zip(*arrays, strict=True):
            shown = {"image": image[None], "valid": valid[None], "days": when[None]}
            yield {name: array for name, array in shown.items() if name in self._names}

    def get_next(self) -> dict[str, Any] | None:
        """Give the next window, or None after the last."""
        return next(self._windows, None)


def _loss(folder: Path, into: Path, images: np.ndarray, valids: np.ndarray, days: np.ndarray) -> Loss:
    """Compare a model with its quantised form, window by window."""
    temperature = read_card(folder).temperature
    float32, int8 = opened(folder, Engine()), opened(into, INT8)
    same, apart = [], []
    for window in zip(images[:, None], valids[:, None], days[:, None], strict=True):
        seen = window[1].any(axis=1)
        before, after = (softmax(backend.logits(*window), temperature) for backend in (float32, int8))
        same.append((before.argmax(axis=1) == after.argmax(axis=1))[seen])
        apart.append(np.abs(before - after).max(axis=1)[seen])
    agree, differ = np.concatenate(same), np.concatenate(apart)
    return Loss(len(agree), float(agree.mean()), float(differ.mean()), float(differ.max()))
