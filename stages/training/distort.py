"""Distort batches of images at random: small affine maps and elastic deformations, on tensors."""

from __future__ import annotations

from dataclasses import dataclass
from math import radians

import torch
from torch import Tensor
from torch.nn import functional


@dataclass(frozen=True)
class Distortion:
    """How far images are moved: every image by maps of its own, drawn evenly within these limits.

    Elastic deformations (Simard, Steinkraus and Platt 2003) are normal displacements, ``elastic`` pixels of standard
    deviation, on ``nodes`` x ``nodes`` nodes with cubic interpolation between them, which is as smooth as the paper's
    displacements convolved with a Gaussian.
    """

    #: Degrees either way.
    rotate: float = 10.0
    #: Share of the size, either way and along either axis by itself.
    zoom: float = 0.1
    #: Tangent of the angle by which the image is slanted.
    shear: float = 0.1
    #: Pixels either way.
    shift: float = 1.5
    elastic: float = 1.0
    nodes: int = 6

    def __call__(self, images: Tensor, draw: torch.Generator) -> Tensor:
        """Distort (n, c, y, x); what comes in from beyond the edge is 0."""
        n, _, high, wide = images.shape
        grid = functional.affine_grid(self._maps(n, (high, wide), draw), [n, 1, high, wide], align_corners=False)
        if self.elastic:
            field = torch.randn(n, 2, self.nodes, self.nodes, generator=draw)
            field = functional.interpolate(field, (high, wide), mode="bicubic", align_corners=False)
            grid = grid + (field * self.elastic).permute(0, 2, 3, 1) * 2.0 / torch.tensor([wide, high])
        return functional.grid_sample(images, grid.to(images), align_corners=False)

    def _maps(self, n: int, size: tuple[int, int], draw: torch.Generator) -> Tensor:
        """Draw affine maps (n, 2, 3) from where pixels are to where they are read, as `affine_grid` takes them."""
        high, wide = size
        even = torch.rand(n, 6, generator=draw) * 2.0 - 1.0
        angle, slant = even[:, 0] * radians(self.rotate), even[:, 1] * self.shear
        scale = 1.0 + even[:, 2:4] * self.zoom
        moved = even[:, 4:6] * self.shift * 2.0 / torch.tensor([wide, high])
        turn = torch.stack([angle.cos(), -angle.sin(), angle.sin(), angle.cos()], 1).reshape(n, 2, 2)
        lean = torch.eye(2).repeat(n, 1, 1)
        lean[:, 0, 1] = slant
        return torch.cat([turn @ lean * scale[:, None], moved[:, :, None]], dim=2)
