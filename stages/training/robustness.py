"""Measure what attacks do to a trained model on held-out pixels, beside random changes that are as large.

Every window is attacked by itself, the surroundings that the model looks at included, which is at most stronger than
one attack on the whole scene. Strengths are in deviations of a band over the training pixels, so they mean the same
in every band, and for every model of a split.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from stages import progress
from stages.models.views import VIEWS
from stages.training import attack
from stages.training.held import Held

#: Logarithm of the probabilities (n, class, y, x) of image (n, c, y, x), valid (n, step, y, x) and days (n, step).
Model = Callable[[Tensor, Tensor, Tensor], Tensor]
Kind = Literal["noise", "fast gradient", "projected gradient"]
KINDS: tuple[Kind, ...] = ("noise", "fast gradient", "projected gradient")
#: Windows a batch of a patch's training, and Adam's learning rate there.
BATCH, RATE = 4, 0.1


class Mapped(nn.Module):
    """What a map is made of: the probabilities of a model at its temperature, averaged over the views it looks from.

    Other than the map's own way of doing so, a gradient passes through it.
    """

    def __init__(self, network: Model, temperature: float, turned: bool) -> None:
        super().__init__()
        self.network = network
        self.temperature = temperature
        self.views = VIEWS if turned else VIEWS[:1]

    def forward(self, image: Tensor, valid: Tensor, days: Tensor) -> Tensor:
        """Logarithm of the probabilities (n, class, y, x) of image (n, c, y, x), valid (n, step, y, x) and days."""
        found = []
        for turns, mirrored in self.views:
            turned, hidden = (torch.rot90(t.flip(-1) if mirrored else t, turns, (-2, -1)) for t in (image, valid))
            likely = functional.log_softmax(self.network(turned, hidden, days) / self.temperature, dim=1)
            back = torch.rot90(likely, -turns, (-2, -1))
            found.append(back.flip(-1) if mirrored else back)
        return torch.logsumexp(torch.stack(found), dim=0) - math.log(len(found))


class Piece(NamedTuple):
    """Windows with held-out pixels: image (n, c, y, x), valid (n, step, y, x), days (n, step), labels (n, y, x)."""

    image: Tensor
    valid: Tensor
    days: Tensor
    labels: Tensor

    @property
    def asked(self) -> Tensor:
        """The held-out pixels: bool (n, y, x)."""
        return self.labels != attack.IGNORED

    def answer(self, model: Model) -> attack.Answer:
        """Give what the model answers to other values at the same place and time."""
        return lambda image: model(image, self.valid, self.days)


@dataclass(frozen=True)
class Strength:
    """How strong an attack is: of each value in band deviations, (c,) of which there is ``deviation`` in tile units."""

    deviations: float
    deviation: np.ndarray
    steps: int = 10

    @property
    def box(self) -> Tensor:
        """Largest change of every channel in tile units: (1, c, 1, 1)."""
        return torch.from_numpy(self.deviations * self.deviation).float()[None, :, None, None]


def pieces(held: Held, alone: bool) -> Iterator[Piece]:
    """Give the held-out pixels in order, as many windows at once as is best.

    ``alone``: without surroundings, for models that look at none, so that nothing else is computed.
    """
    some = np.flatnonzero(held.at.any(axis=(1, 2)))
    for rows in np.split(some, range(held.together, len(some), held.together)):
        image, valid, labels = held.image[rows], held.valid[rows], held.labels[rows].astype(np.int64)
        if alone:
            at = held.at[rows[0]]
            image, valid, labels = image[:, :, at][:, :, None], valid[:, :, at][:, :, None], labels[:, at][:, None]
        yield Piece._make(torch.from_numpy(array) for array in (image, valid, held.days[rows], labels))


def attacked(piece: Piece, source: Model, kind: Kind, strength: Strength, draw: torch.Generator) -> Tensor:
    """Change a piece's values by an attack on ``source``, or at random: image (n, c, y, x).

    What is invalid is hidden inside the model, so a change there is none.
    """
    answer, box = piece.answer(source), strength.box
    if kind == "noise":
        return attack.random_signs(piece.image, box, draw)
    if kind == "fast gradient":
        return attack.fast_gradient(answer, piece.image, piece.labels, box)
    return attack.projected_gradient(answer, piece.image, piece.labels, box, steps=strength.steps, draw=draw)


def answers(
    models: Mapping[str, Model], source: Model, held: Held, kind: Kind, strength: Strength, *, seed: int
) -> dict[str, np.ndarray]:
    """Let models classify the held-out pixels after an attack on one of them.

    Args:
        models: by their names; those that the attack was not made for are attacked by transfer.
        source: the one whose gradient is followed.
        held: the pixels, with surroundings enough for all of the models.
        kind: of attack.
        strength: of it.
        seed: where noise and starts come from.

    Returns:
        Class index of every held-out pixel, in the order of `Held.reference`, by model: int64 (pixels,).
    """
    draw = torch.Generator().manual_seed(seed)
    found: dict[str, list[np.ndarray]] = {name: [] for name in models}
    for piece in pieces(held, held.alone):
        image = attacked(piece, source, kind, strength, draw) if strength.deviations else piece.image
        for name, model in models.items():
            with torch.no_grad():
                likely = piece.answer(model)(image)
            found[name].append(likely.argmax(dim=1)[piece.asked].numpy())
    return {name: np.concatenate(parts) for name, parts in found.items()}


@dataclass(frozen=True)
class Patched:
    """What pixels beside a patch are mapped as: class index (pixels,) without it, with it, and with it shuffled.

    ``reference`` (pixels,) are their labels. The shuffled patch has the same values in random places: what any patch
    of these values does.
    """

    reference: np.ndarray
    without: np.ndarray
    patched: np.ndarray
    shuffled: np.ndarray

    def share(self, target: int) -> dict[str, float]:
        """Share of the pixels of other classes that are mapped as the target: `without`, `patched` and `shuffled`."""
        other = self.reference != target
        kinds = {"without": self.without, "patched": self.patched, "shuffled": self.shuffled}
        return {name: float((mapped[other] == target).mean()) if other.any() else 0.0 for name, mapped in kinds.items()}


@dataclass(frozen=True)
class Patch:
    """What a patch is to be: the class index it shows, its side, least and greatest value of every channel.

    ``reach`` is how far around it pixels count, ``tries`` how often it is pasted into every window.
    """

    target: int
    side: int
    bounds: Sequence[tuple[float, float]]
    reach: int
    steps: int = 200
    tries: int = 4
    seed: int = 0


def make_patch(model: Model, held: Held, plan: Patch) -> Tensor:
    """Find a patch (c, side, side) on held-out pixels, which are not those that it is tried on."""
    draw = torch.Generator().manual_seed(plan.seed)
    ends = [torch.tensor([pair[end] for pair in plan.bounds], dtype=torch.float32) for end in (0, 1)]
    low, high = (end[:, None, None] for end in ends)
    every = list(pieces(held, alone=False))
    batches = []
    for first in range(0, len(every), BATCH):
        together = [torch.cat(tensors) for tensors in zip(*every[first : first + BATCH], strict=True)]
        batches.append((_answer_of(model, *together[1:3]), together[0]))
    return attack.adversarial_patch(
        batches, plan.target, plan.side, (low, high), reach=plan.reach, steps=plan.steps, rate=RATE, draw=draw
    )  # fmt: skip


def _answer_of(model: Model, valid: Tensor, days: Tensor) -> attack.Answer:
    return lambda image: model(image, valid, days)


def try_patch(model: Model, held: Held, patch: Tensor, plan: Patch) -> Patched:
    """Paste a patch into every window at random places, and look at what lies beside it."""
    draw = torch.Generator().manual_seed(plan.seed)
    side = plan.side
    found: list[list[np.ndarray]] = [[], [], [], []]
    every = list(pieces(held, alone=False))
    for number, piece in enumerate(every, start=1):
        answer = piece.answer(model)
        with torch.no_grad():
            plain = answer(piece.image).argmax(dim=1)
            for _ in range(plan.tries):
                places = attack.anywhere(piece.image.shape, side, draw)
                order = torch.randperm(side * side, generator=draw)
                shuffled = patch.flatten(1)[:, order].reshape(patch.shape)
                image, covered = attack.paste(piece.image, attack.turned(patch, draw), places)
                counted = attack.beside(covered, plan.reach) & piece.asked
                control, _ = attack.paste(piece.image, shuffled, places)
                mapped = (piece.labels, plain, *(answer(shown).argmax(dim=1) for shown in (image, control)))
                for part, values in zip(found, mapped, strict=True):
                    part.append(values[counted].numpy())
        progress.report("patch", number, len(every))
    return Patched(*(np.concatenate(part) for part in found))
