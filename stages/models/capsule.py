"""Capsules with dynamic routing: what an image shows is a vector whose length says how likely it is there."""

from __future__ import annotations

from itertools import pairwise
from math import prod

import torch
from torch import Tensor, nn
from torch.nn import functional

from stages.models.convnet import shape_after, stages_of


def squash(vectors: Tensor, dim: int = -1) -> Tensor:
    """Shrink vectors to lengths from 0 to 1 without turning them (equation 1 of the paper)."""
    square = vectors.square().sum(dim, keepdim=True)
    # The root of 0 has no gradient.
    return vectors * (square / (1.0 + square) * torch.rsqrt(square + 1e-7))


def lengths_of(vectors: Tensor, dim: int = -1) -> Tensor:
    """Lengths of vectors, with a gradient also at 0."""
    return (vectors.square().sum(dim) + 1e-7).sqrt()


def route(votes: Tensor, rounds: int = 3) -> Tensor:
    """Find class capsules by agreement (procedure 1 of the paper).

    Args:
        votes: (n, classes, inputs, d), what every input capsule expects every class capsule to be.
        rounds: how often each input shares itself out among the classes anew.

    Returns:
        (n, classes, d).
    """
    agreement = votes.new_zeros(votes.shape[:3])
    # How the inputs are shared out is found, not learned: gradients pass through the votes of the last round alone.
    seen = votes.detach()
    for _ in range(rounds - 1):
        found = squash((agreement.softmax(dim=1)[..., None] * seen).sum(dim=2))
        agreement = agreement + (seen * found[:, :, None]).sum(dim=-1)
    return squash((agreement.softmax(dim=1)[..., None] * votes).sum(dim=2))


def margin_loss(lengths: Tensor, classes: Tensor, present: float = 0.9, absent: float = 0.1) -> Tensor:
    """Ask the right class's capsule to be longer than ``present`` and others to be shorter than ``absent``.

    Equation 4 of the paper, summed over classes and averaged over images; lengths are (n, classes), classes (n,).
    """
    right = functional.one_hot(classes, lengths.shape[1]).to(lengths)
    short, long = (present - lengths).clamp(min=0.0).square(), (lengths - absent).clamp(min=0.0).square()
    return (right * short + 0.5 * (1.0 - right) * long).sum(dim=1).mean()


class CapsuleNet(nn.Module):
    """Capsule network with a decoder that draws the image again (Sabour, Frosst and Hinton 2017).

    ``stages`` are the convolutions below (see `stages_of`; the paper's one of side 9 without batch normalisation is
    ``"256x9"`` but for that). A last one of ``side`` and ``stride`` gives ``types`` primary capsules of length ``d``
    at every place, and routing finds from their votes one capsule of length ``class_d`` a class. The decoder sees the
    right class's capsule only and is there to make it hold how the image is drawn.

    Raises:
        ValueError: images of ``size`` are too small.
    """

    def __init__(
        self, channels: int, classes: int, stages: str = "32x5/2 64", *, size: tuple[int, int] = (28, 28),
        types: int = 8, d: int = 8, side: int = 5, stride: int = 2, class_d: int = 16, rounds: int = 3,
        decoder: tuple[int, ...] = (512, 1024),
    ) -> None:  # fmt: skip
        super().__init__()
        self.classes, self.d, self.rounds, self.size = classes, d, rounds, size
        below = stages_of(stages.split(), channels, padded=False)
        inputs = shape_after(below, channels, size)[0]
        self.primary = nn.Sequential(below, nn.Conv2d(inputs, types * d, side, stride))
        capsules = prod(shape_after(self.primary, channels, size)) // d
        #: What every primary capsule makes of its vector for every class: (inputs, d, classes * class_d).
        self.votes = nn.Parameter(torch.randn(capsules, d, classes * class_d) * 0.1)
        widths = [classes * class_d, *decoder]
        hidden = [layer for a, b in pairwise(widths) for layer in (nn.Linear(a, b), nn.ReLU())]
        pixels = channels * size[0] * size[1]
        self.decoder = nn.Sequential(*hidden, nn.Linear(widths[-1], pixels), nn.Sigmoid())

    def forward(self, images: Tensor) -> Tensor:
        """Probabilities (n, classes) that an image (n, channels, y, x) shows the class: they need not add up to 1."""
        return lengths_of(self.capsules(images))

    def capsules(self, images: Tensor) -> Tensor:
        """Class capsules (n, classes, class_d) of images (n, channels, y, x)."""
        poses = self.primary(images.contiguous(memory_format=torch.channels_last))
        n, _, high, wide = poses.shape
        poses = squash(poses.reshape(n, -1, self.d, high * wide).permute(1, 3, 0, 2).flatten(0, 1))
        votes = (poses @ self.votes).reshape(len(self.votes), n, self.classes, -1)
        return route(votes.permute(1, 2, 0, 3), self.rounds)

    def reconstruct(self, capsules: Tensor, classes: Tensor) -> Tensor:
        """Draw images (n, channels, y, x), 0..1, from the capsules (n, classes, class_d) of their classes (n,)."""
        shown = capsules * functional.one_hot(classes, self.classes).to(capsules)[..., None]
        drawn: Tensor = self.decoder(shown.flatten(1))
        return drawn.reshape(len(capsules), -1, *self.size)


def capsule_loss(network: CapsuleNet, images: Tensor, classes: Tensor, reconstruction: float = 5e-4) -> Tensor:
    """Margin loss, and the squared error of the reconstruction, summed over the pixels, scaled down as in the paper."""
    capsules = network.capsules(images)
    drawn = network.reconstruct(capsules, classes)
    error = (drawn - images).square().flatten(1).sum(dim=1).mean()
    return margin_loss(lengths_of(capsules), classes) + reconstruction * error
