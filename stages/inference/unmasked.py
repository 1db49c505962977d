"""Take the masks out of a network's graph, for images that are valid everywhere.

Networks multiply by the validity after every layer. Where all of it is 1 that changes nothing, but it costs a pass over
the features each time and breaks the layout in which ONNX Runtime convolves. What is 1 or 0 wherever `valid` is 1 is
found by rules that hold for every size of image; the result is compared with the whole graph once all the same.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from stages.formats.weights import ModelCard

_logger = logging.getLogger(__name__)

#: Opens a graph, given as bytes: something with onnxruntime's `run`.
Open = Callable[[bytes], Any]
#: Largest difference of logits to the whole graph, as a share of the largest logit.
EQUAL = 1e-5
#: Operations whose values are values of their first input (pooling only where nothing is padded).
_PICK = {
    "AveragePool", "Cast", "Expand", "Flatten", "Gather", "Identity", "MaxPool", "ReduceMax", "ReduceMean", "ReduceMin",
    "Reshape", "Slice", "Split", "Squeeze", "Transpose", "Unsqueeze",
}  # fmt: skip
#: What a forest's time goes into; a second copy of it would only take memory.
_TREES = "TreeEnsembleRegressor"


@dataclass(frozen=True)
class Unmasked:
    """Sessions for images that are valid everywhere; None where a graph has no masks to take out.

    ``whole`` gives what the network gives. ``inner`` does not pad the image either: it gives the same, except for
    ``reach`` pixels along the edges.
    """

    whole: Any = None
    inner: Any = None
    reach: int = 0


def unmasked(path: Path, card: ModelCard, session: Any, opener: Open) -> Unmasked:
    """Open a model's graph without masks, where it has some and gives the same without them.

    Args:
        path: of the graph.
        card: of the model.
        session: the whole graph, opened.
        opener: opens the others.
    """
    import onnx

    model = onnx.load(str(path))
    graph = model.graph
    if any(node.op_type == _TREES for node in graph.node):
        return Unmasked()
    trial = _Trial(card, session, opener)
    whole = trial.opened(model, _without_masks(graph, {}), 0)
    pads = {node.output[0]: node.input[0] for node in graph.node if node.op_type == "Pad"}
    # Masks are 0 in what a graph pads its image with, so they vanish with the padding only.
    reaches = trial.reaches(model, pads) if pads else {}
    if not reaches:
        return Unmasked(whole)
    nodes, reach = _without_masks(graph, pads), max(reaches.values())
    inner = trial.opened(model, nodes and _padded_back(nodes, pads, reaches), reach)
    return Unmasked(whole, inner, reach)


@dataclass(frozen=True)
class _Trial:
    """Runs graphs on made-up images that are valid everywhere."""

    card: ModelCard
    session: Any
    opener: Open

    def opened(self, model: Any, nodes: list[Any] | None, cut: int) -> Any:
        """Open a graph of other nodes if it gives what the whole one gives but for ``cut`` pixels a side."""
        if not nodes:
            return None
        try:
            session = self.opener(_graph_of(model, nodes, model.graph.output))
            return session if self._alike(session, cut) else None
        except Exception as fault:  # onnxruntime's own exceptions share no public base
            _logger.debug("%s keeps its masks: %s", self.card.name, fault)
            return None

    def reaches(self, model: Any, pads: dict[str, str]) -> dict[str, int]:
        """Measure by how many pixels a side every padding widens the image; nothing if one does it otherwise."""
        import onnx

        names = [*pads, *pads.values()]
        outputs = [onnx.helper.make_empty_tensor_value_info(name) for name in names]
        nodes = _needed(list(model.graph.node), names)
        try:
            shown = self._shown(0)
            found = self.opener(_graph_of(model, nodes, outputs)).run(names, shown)
        except Exception as fault:
            _logger.debug("%s keeps its padding: %s", self.card.name, fault)
            return {}
        reaches = {}
        for name, wide, narrow in zip(pads, found[: len(pads)], found[len(pads) :], strict=True):
            reach = (wide.shape[-1] - narrow.shape[-1]) // 2
            middle = (..., slice(reach, reach + narrow.shape[-2]), slice(reach, reach + narrow.shape[-1]))
            if reach <= 0 or not np.array_equal(wide[middle], narrow) or np.abs(wide).sum() != np.abs(narrow).sum():
                return {}
            reaches[name] = reach
        return reaches

    def _alike(self, session: Any, cut: int) -> bool:
        """Whether a graph gives what the whole one gives."""
        shown = self._shown(cut)
        expected, found = (graph.run(["logits"], shown)[0] for graph in (self.session, session))
        if found.shape != expected.shape:
            return False
        inside = (..., slice(cut, found.shape[-2] - cut), slice(cut, found.shape[-1] - cut))
        return bool(np.abs(found - expected)[inside].max() <= EQUAL * np.abs(expected).max())

    def _shown(self, cut: int) -> dict[str, np.ndarray]:
        """Make images up that are wider than twice ``cut``, among the values that the model learnt from."""
        card, rng = self.card, np.random.default_rng(0)
        side = -(-max(16, 2 * cut + 8) // card.stride) * card.stride
        shape = (2, len(card.channels), side, side + card.stride)
        values = card.values or [[-1.0, 0.0, 1.0]] * len(card.channels)
        low, _, high = np.transpose(values)[..., None, None]
        shown = {
            "image": (low + (high - low) * rng.random(shape)).astype(np.float32),
            "valid": np.ones((2, len(card.dates), *shape[2:]), np.float32),
            "days": np.tile(np.asarray(card.days, np.float32), (2, 1)),
        }
        return {entry.name: shown[entry.name] for entry in self.session.get_inputs()}


def _graph_of(model: Any, nodes: list[Any], outputs: Sequence[Any]) -> bytes:
    """Write a model of other nodes and outputs."""
    from onnx import helper

    tensors = {name for node in nodes for name in node.input}
    used = [entry for entry in model.graph.initializer if entry.name in tensors]
    graph = helper.make_graph(nodes, model.graph.name, model.graph.input, outputs, used)
    made = helper.make_model(graph, opset_imports=model.opset_import, ir_version=model.ir_version)
    serialised: bytes = made.SerializeToString()
    return serialised


def _padded_back(nodes: list[Any], pads: dict[str, str], reaches: dict[str, int]) -> list[Any]:
    """Pad the logits of every network that no longer pads its image, so that they are as large as it.

    In an ensemble's graph the names of a member begin alike, those of its logits too.
    """
    from onnx import helper, numpy_helper

    padded = list(nodes)
    for member in dict.fromkeys(_member(name) for name in pads):
        logits, reach = f"{member}logits", next(reaches[name] for name in pads if _member(name) == member)
        place = next(i for i, node in enumerate(padded) if logits in node.output)
        padded[place].output[0] = f"{logits}_inner"
        amounts = numpy_helper.from_array(np.array([0, 0, reach, reach] * 2, np.int64))
        padded[place + 1 : place + 1] = [
            helper.make_node("Constant", [], [f"{logits}_amounts"], value=amounts),
            helper.make_node("Pad", [f"{logits}_inner", f"{logits}_amounts"], [logits]),
        ]
    return padded


def _member(name: str) -> str:
    """Beginning of the names of the member that a name belongs to: nothing where there are no members."""
    found = re.match(r"member\d+_", name)
    return found[0] if found else ""


@dataclass
class _Facts:
    """What is known of the values in a graph when `valid` is 1, by name."""

    ones: set[str] = field(default_factory=lambda: {"valid"})
    zeros: set[str] = field(default_factory=set)
    same_as: dict[str, str] = field(default_factory=dict)
    constant: dict[str, np.ndarray] = field(default_factory=dict)
    made_by: dict[str, Any] = field(default_factory=dict)


def _without_masks(graph: Any, dropped: dict[str, str]) -> list[Any] | None:
    """Give the nodes of a graph that are left without its masks, or None where it has none."""
    from onnx import NodeProto, numpy_helper

    facts = _Facts(same_as=dict(dropped))
    facts.constant = {entry.name: numpy_helper.to_array(entry) for entry in graph.initializer}
    kept = []
    for given in graph.node:
        if given.output[0] in dropped:
            continue
        node = NodeProto()
        node.CopyFrom(given)
        for place, name in enumerate(node.input):
            node.input[place] = facts.same_as.get(name, name)
        if node.op_type == "Constant" and node.attribute[0].name == "value":
            facts.constant[node.output[0]] = numpy_helper.to_array(node.attribute[0].t)
        same = _operand(node, facts)
        if same is not None and node.output[0] != "logits":
            facts.same_as[node.output[0]] = same
            continue
        _learn(node, facts)
        facts.made_by[node.output[0]] = node
        kept.append(node)
    return _needed(kept) if len(facts.same_as) > len(dropped) else None


def _operand(node: Any, facts: _Facts) -> str | None:
    """Find the operand that a node gives back unchanged, if it does."""
    if node.op_type not in {"Add", "Div", "Mul", "Sub"}:
        return None
    neutral = facts.ones if node.op_type in {"Div", "Mul"} else facts.zeros
    first, second = node.input
    if second in neutral and first not in neutral | set(facts.constant):
        return str(first)
    if node.op_type in {"Add", "Mul"} and first in neutral and second not in neutral | set(facts.constant):
        return str(second)
    return None


def _learn(node: Any, facts: _Facts) -> None:
    """Note whether what a node gives is all 1 or all 0."""
    for known in (facts.ones, facts.zeros):
        if _picked(node, known) or (_clipped_at(node, facts) and known is facts.ones):
            known.update(node.output)
    if node.op_type == "Mul" and all(name in facts.ones for name in node.input):
        facts.ones.update(node.output)
    if node.op_type == "Mul" and any(name in facts.zeros for name in node.input):
        facts.zeros.update(node.output)
    if node.op_type == "Sub" and _is_one(node.input[0], facts) and node.input[1] in facts.ones:
        facts.zeros.update(node.output)
    if _is_last_ones(node, facts):
        facts.ones.update(node.output)


def _picked(node: Any, known: set[str]) -> bool:
    """Whether all that a node gives is among the values of what is known to be of one value."""
    if node.op_type == "Concat":
        return all(name in known for name in node.input)
    padded = any(entry.name in {"pads", "auto_pad"} and (any(entry.ints) or entry.s) for entry in node.attribute)
    return node.op_type in _PICK and node.input[0] in known and not padded


def _clipped_at(node: Any, facts: _Facts) -> bool:
    """Whether a node clips ones at bounds that leave them ones."""
    if node.op_type != "Clip" or node.input[0] not in facts.ones:
        return False
    low, high = ([*node.input[1:], "", ""])[:2]
    above = not low or (low in facts.constant and facts.constant[low] <= 1)
    below = not high or (high in facts.constant and facts.constant[high] >= 1)
    return bool(above and below)


def _is_one(name: str, facts: _Facts) -> bool:
    return name in facts.ones or (name in facts.constant and bool((facts.constant[name] == 1).all()))


def _is_last_ones(node: Any, facts: _Facts) -> bool:
    """Whether a node takes the last channel of an image to which the validity was appended."""
    if node.op_type != "Slice" or len(node.input) < 4:
        return False
    start, axes = (facts.constant.get(node.input[place]) for place in (1, 3))
    joined = facts.made_by.get(node.input[0])
    if start is None or axes is None or joined is None or joined.op_type != "Concat":
        return False
    of_channels = joined.attribute[0].i == 1 and axes.tolist() == [1]
    return bool(of_channels and start.tolist() == [-1] and joined.input[-1] in facts.ones)


def _needed(nodes: list[Any], outputs: Iterable[str] = ("logits",)) -> list[Any]:
    """Leave out nodes that nothing reads any more."""
    wanted, kept = set(outputs), []
    for node in reversed(nodes):
        if any(name in wanted for name in node.output):
            wanted.update(node.input)
            kept.append(node)
    return kept[::-1]
