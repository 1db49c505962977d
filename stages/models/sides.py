"""Layers that fit a sample by how many sides it has: a vector has none, a series one, a chip two."""

from __future__ import annotations

from typing import Any

from torch import nn

#: Sides are halved until one is shorter than this.
LEAST = 8
#: By the number of sides.
CONVOLUTIONS: tuple[Any, ...] = nn.Linear, nn.Conv1d, nn.Conv2d
TRANSPOSED: tuple[Any, ...] = nn.Linear, nn.ConvTranspose1d, nn.ConvTranspose2d
NORMS: tuple[Any, ...] = nn.BatchNorm1d, nn.BatchNorm1d, nn.BatchNorm2d


def layout(shape: tuple[int, ...]) -> tuple[int, tuple[int, ...]]:
    """Give the channels and the sides of a sample.

    Args:
        shape: (features,) of a vector, (steps, bands) of a series or (channels, y, x) of a chip.

    Returns:
        Features, bands or channels; and (), (steps,) or (y, x).
    """
    assert 1 <= len(shape) <= 3, f"a sample of shape {shape} is no vector, series or chip"
    return (shape[1], shape[:1]) if len(shape) == 2 else (shape[0], shape[1:])


def widths(width: int, sides: tuple[int, ...]) -> list[int]:
    """Channels from the finest level to the coarsest, doubled twice; vectors, which have one level, get two layers."""
    depth = 0 if sides else 2
    while sides and min(sides) >> depth >= LEAST:
        depth += 1
    return [width * 2 ** min(level, 2) for level in range(depth + 1)]


def halve(sides: int, inputs: int, outputs: int) -> nn.Module:
    """Make a layer that halves every side."""
    layer: nn.Module = CONVOLUTIONS[sides](inputs, outputs, *((4, 2, 1) if sides else ()))
    return layer


def double(sides: int, inputs: int, outputs: int) -> nn.Module:
    """Make a layer that doubles every side."""
    layer: nn.Module = TRANSPOSED[sides](inputs, outputs, *((4, 2, 1) if sides else ()))
    return layer


def keep(sides: int, inputs: int, outputs: int) -> nn.Module:
    """Make a layer that keeps every side as long as it is."""
    layer: nn.Module = CONVOLUTIONS[sides](inputs, outputs, *((3, 1, 1) if sides else ()))
    return layer
