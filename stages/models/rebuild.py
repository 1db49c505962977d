"""Describe a network in plain words and numbers, and build it again from that description and its tensors."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from stages.models.chip_features import ChipFeatures
from stages.models.classifier import Classifier, Committee, Normalise
from stages.models.context import Context
from stages.models.differences import Differenced
from stages.models.kernel import KernelMachine
from stages.models.table import NETWORKS, OF_CHIPS, SERIES

#: What JSON can hold of a network: its kind, its arguments and its normalisation, or the descriptions of its members.
Description = dict[str, Any]
MACHINE, MIXTURE = "svm", "ensemble"


class Mixture(nn.Module):
    """Mean of the calibrated probabilities of several models, each at its own temperature, as one model's logits."""

    temperatures: Tensor

    def __init__(self, members: Sequence[nn.Module], temperatures: Sequence[float]) -> None:
        super().__init__()
        self.members = nn.ModuleList(members)
        self.takes_days = any(member.takes_days for member in members)
        self.register_buffer("temperatures", torch.tensor(temperatures, dtype=torch.float32), persistent=False)

    def forward(self, image: Tensor, valid: Tensor, days: Tensor | None = None) -> Tensor:
        """As `Classifier`: the logarithm of the mean probabilities."""
        likely = [
            functional.softmax(member(image, valid, days) / temperature, dim=1)
            for member, temperature in zip(self.members, self.temperatures, strict=True)
        ]
        return torch.stack(likely).mean(dim=0).clamp(min=1e-7).log()


def describe(kind: str, arguments: Mapping[str, Any], normalise: Normalise) -> Description:
    """Describe a network of the table by the keyword arguments that it was built with."""
    frame = {"clip": normalise.clip, "steps": normalise.steps.tolist(), "length": normalise.length}
    if isinstance(normalise, Differenced):
        frame |= {"bands": normalise.bands, "chains": [list(chain) for chain in normalise.chains]}
    return {"kind": kind, "arguments": dict(arguments), "normalise": frame, "members": 1}


def describe_machine(machine: KernelMachine, normalise: Normalise) -> Description:
    """Describe a support vector machine by its sizes and its kernel's width."""
    context = machine.context
    of_chips = {"side": context.side} if isinstance(context, ChipFeatures) else {}
    arguments = {
        "channels": context.channels, **of_chips, "windows": list(machine.context.windows), "classes": machine.classes,
        "vectors": len(machine.vectors), "pairs": len(machine.bias), "gamma": machine.gamma,
    }  # fmt: skip
    return describe(MACHINE, arguments, normalise)


def describe_mixture(members: Sequence[Description], temperatures: Sequence[float]) -> Description:
    """Describe an average of models; nothing where one of them has no description."""
    if not all(members):
        return {}
    return {"kind": MIXTURE, "members": list(members), "temperatures": list(temperatures)}


def rebuild(description: Description, tensors: Mapping[str, Tensor]) -> nn.Module:
    """Build the network that was described, in evaluation mode.

    Args:
        description: as one of the functions above made it, also after a way through JSON.
        tensors: all of the network's tensors by their names.

    Raises:
        KeyError: the description names a network that is not in the table, or lacks a part.
        RuntimeError: the tensors are not those of such a network.
    """
    module = _built(description)
    module.load_state_dict(dict(tensors))
    return module.eval()


def _built(description: Description) -> nn.Module:
    """Build a network with whatever tensors it has at first."""
    if description["kind"] == MIXTURE:
        return Mixture([_built(member) for member in description["members"]], description["temperatures"])
    members = [_framed(description) for _ in range(description["members"])]
    return Committee(members) if len(members) > 1 else members[0]


def _framed(description: Description) -> Classifier:
    """Build one network in its frame."""
    kind, arguments = description["kind"], dict(description["arguments"])
    if kind == MACHINE:
        channels, windows = arguments.pop("channels"), tuple(arguments.pop("windows"))
        of_chips = "side" in arguments
        context: Context | ChipFeatures
        context = ChipFeatures(channels, arguments.pop("side"), windows) if of_chips else Context(channels, windows)
        network: nn.Module = KernelMachine(context, **arguments)
    else:
        network = {**NETWORKS, **SERIES, **OF_CHIPS}[kind](**arguments)
    return Classifier(_normalise(description["normalise"]), network, arguments["classes"])


def _normalise(frame: Mapping[str, Any]) -> Normalise:
    """Build a normalisation whose mean and deviation come with the tensors."""
    count = len(frame["steps"])
    plain = Normalise([0.0] * count, [1.0] * count, frame["clip"], frame["steps"], frame.get("length"))
    return Differenced(plain, frame["bands"], frame["chains"]) if "chains" in frame else plain
