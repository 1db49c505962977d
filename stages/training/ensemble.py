"""Average trained networks of several kinds: what one of them gets wrong another may get right.

Members differ in what they look at, not only in their seeds, so their errors agree less (Hansen and Salamon 1990;
Lakshminarayanan, Pritzel and Blundell 2017). Nothing is trained here: calibrated probabilities are averaged.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from stages.formats.weights import ONNX, WEIGHTS, read_card
from stages.models.rebuild import describe_mixture
from stages.models.views import VIEWS, seen, seen_back
from stages.training.fitted import Found
from stages.training.held import Held
from stages.training.onnx_file import join_weights

#: A probability of 0 would make the logarithm infinite; 1e-7 is what float32 can tell from it.
LEAST = 1e-7


class Ensemble:
    """Finished models as one graph; it looks as far as the farthest of them and turns as they turn."""

    def __init__(self, folders: Sequence[Path]) -> None:
        cards = [read_card(folder) for folder in folders]
        self.margin = max(card.margin for card in cards)
        self.stride = math.lcm(*(card.stride for card in cards))
        self.tta = cards[0].tta
        self.found = Found()
        self.folders = [Path(folder) for folder in folders]
        described = [
            card.network if (folder / WEIGHTS).is_file() else {}
            for card, folder in zip(cards, self.folders, strict=True)
        ]
        self.network = describe_mixture(described, [card.temperature for card in cards])
        self.graph = combined([_graph(folder) for folder in folders], [card.temperature for card in cards])
        self._session: Any = None

    def logits(self, held: Held) -> np.ndarray:
        """Logits of the held-out pixels from every view, one or eight: float32 (views, pixels, class)."""
        views = VIEWS if self.tta else VIEWS[:1]
        return np.stack([np.concatenate(list(self._predict(held, *view))) for view in views])

    def _predict(self, held: Held, turns: int, mirrored: bool) -> Iterator[np.ndarray]:
        for image, valid, days, at in zip(held.image, held.valid, held.days, held.at, strict=True):
            if at.any():
                shown = {"image": seen(image, turns, mirrored)[None], "valid": seen(valid, turns, mirrored)[None]}
                shown["days"] = days[None]
                yield seen_back(self._run(shown)[0], turns, mirrored)[:, at].T

    def _run(self, shown: dict[str, np.ndarray]) -> np.ndarray:
        import onnxruntime as ort

        if self._session is None:
            options = ort.SessionOptions()
            options.log_severity_level = 3
            self._session = ort.InferenceSession(
                self.graph.SerializeToString(), options, providers=["CPUExecutionProvider"]
            )
        asked = {entry.name for entry in self._session.get_inputs()}
        logits: np.ndarray = self._session.run(["logits"], {k: v for k, v in shown.items() if k in asked})[0]
        return logits

    def export(self, folder: Path) -> None:
        """Write `model.onnx` and, where all members have their tensors, `weights.safetensors`."""
        import onnx

        onnx.save(self.graph, str(folder / ONNX))
        if self.network:
            join_weights([member / WEIGHTS for member in self.folders], folder / WEIGHTS)


def _graph(folder: Path) -> Any:
    import onnx

    return onnx.load(str(folder / ONNX))


def combined(models: Sequence[Any], temperatures: Sequence[float]) -> Any:
    """Join graphs of the same inputs into one: the logarithm of their mean calibrated probabilities.

    Args:
        models: ONNX ``ModelProto`` of every member, of one opset; `days` need not be read by all.
        temperatures: by which each member's logits are divided before they are averaged as probabilities.
    """
    import onnx
    from onnx import compose, helper, numpy_helper

    nodes, tensors, likely = [], [], []
    for number, (model, temperature) in enumerate(zip(models, temperatures, strict=True)):
        prefix = f"member{number}_"
        graph = compose.add_prefix_graph(model.graph, prefix, rename_inputs=False)
        nodes += graph.node
        tensors += graph.initializer
        tensors.append(numpy_helper.from_array(np.array(temperature, np.float32), f"{prefix}temperature"))
        nodes += [
            helper.make_node("Div", [f"{prefix}logits", f"{prefix}temperature"], [f"{prefix}scaled"]),
            helper.make_node("Softmax", [f"{prefix}scaled"], [f"{prefix}likely"], axis=1),
        ]
        likely.append(f"{prefix}likely")
    tensors.append(numpy_helper.from_array(np.array(LEAST, np.float32), "least"))
    nodes += [
        helper.make_node("Mean", likely, ["mean"]),
        helper.make_node("Max", ["mean", "least"], ["floored"]),
        helper.make_node("Log", ["floored"], ["logits"]),
    ]
    inputs = {entry.name: entry for model in models for entry in model.graph.input}
    opsets = {entry.domain: entry for model in models for entry in model.opset_import}
    graph = helper.make_graph(nodes, "ensemble", list(inputs.values()), models[0].graph.output, tensors)
    model = helper.make_model(graph, opset_imports=list(opsets.values()), ir_version=models[0].ir_version)
    onnx.checker.check_model(model)
    return model
