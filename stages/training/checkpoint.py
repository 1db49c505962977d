"""Checkpoints of trainings that go on after a kill: written whole, read where they fit."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import torch

_logger = logging.getLogger(__name__)


def save(state: dict[str, Any], path: Path) -> None:
    """Write a checkpoint over the last one, whole or not at all."""
    aside = path.with_suffix(".new")
    torch.save(state, aside)
    aside.replace(path)


def load(path: Path, device: Any = "cpu") -> dict[str, Any] | None:
    """Read the checkpoint of a killed training; one that is not there, or cannot be read, counts as none."""
    try:
        state: dict[str, Any] = torch.load(path, map_location=device, weights_only=True)
    except FileNotFoundError:
        return None
    except Exception as fault:  # a truncated file raises whatever its first broken part makes it raise
        _logger.warning("checkpoint %s cannot be read (%s): the training starts anew", path.name, type(fault).__name__)
        return None
    return state


def load_own(path: Path, origin: dict[str, Any], device: Any = "cpu") -> dict[str, Any] | None:
    """Read a checkpoint whose ``origin`` (data, settings, shapes) is this one; any other counts as none."""
    state = load(path, device)
    if state is not None and state.get("origin") != origin:
        _logger.warning("checkpoint %s is of other data or settings: the training starts anew", path.name)
        return None
    return state
