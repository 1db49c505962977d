"""What a fit gives, whatever the classifier: logits of pixels, a graph to save, and what was found on the way."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, Protocol

import numpy as np

from stages.training.held import Held

#: Says how good a map is, from reference and mapped class indices (pixels,) each; larger is better.
Measure = Callable[[np.ndarray, np.ndarray], float]


@dataclass(frozen=True)
class Found:
    """What fitting decided: the settings chosen on validation, and the learning curves by epoch."""

    chosen: dict[str, Any] = field(default_factory=dict)
    curves: dict[str, list[float]] = field(default_factory=dict)


@dataclass(frozen=True)
class Hardware:
    """Where and how networks are trained, in Lightning's words; ``devices`` are those of every node."""

    device: str = "auto"
    precision: str = "32-true"
    accumulate: int = 1
    devices: int | Literal["auto"] = 1
    nodes: int = 1
    strategy: str = "auto"
    #: Threads that draw batches ahead of their use; none: they are drawn when asked for.
    workers: int = 0

    @property
    def processes(self) -> int:
        """How many processes train one network, each on a device of its own; devices must be counted by now."""
        assert self.devices != "auto", "count the devices first"
        return self.devices * self.nodes


@dataclass(frozen=True)
class Task:
    """What a fit needs besides its data and its recipe.

    ``chosen`` holds settings that were found earlier and are not searched again (the final refit); checkpoints go
    to ``folder``.
    """

    name: str
    seed: int
    measure: Measure
    folder: Path
    hardware: Hardware = Hardware()
    chosen: dict[str, Any] | None = None


class Fitted(Protocol):
    """One interface for forests, vector machines and networks."""

    margin: int
    stride: int
    tta: bool
    found: Found

    @property
    def network(self) -> dict[str, Any]:
        """How to build it again in torch (see `stages.models.rebuild`); empty where it has no torch form."""

    def logits(self, held: Held) -> np.ndarray:
        """Logits of the held-out pixels from every view, one or eight: float32 (views, pixels, class)."""

    def export(self, folder: Path) -> None:
        """Write `model.onnx`, and `weights.safetensors` for a network."""
