"""The `synthetic` artifact: samples drawn for the rare classes, a set for every fold, and whether they help."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np

FILE = "synthetic.json"
#: Which class shares a model's answers are corrected to.
Prior = Literal["labels", "drawn"]
PRIORS: tuple[Prior, ...] = ("labels", "drawn")
_ARRAYS = ("image", "valid", "labels", "season", "sources")


@dataclass(frozen=True)
class Synthetic:
    """Samples that a training may mix in: squares of an odd side, each with a class at its middle pixel alone.

    ``image`` float32 (n, channel, side, side) in the tiles' units, ``valid`` bool (n, step, side, side), ``labels``
    uint8 (n,), ``season`` int64 (n,) whose days a sample has, ``sources`` int64 (m, 3): season, row and column of every
    labelled pixel that they were made from. ``channels`` names the image's channels.
    """

    image: np.ndarray
    valid: np.ndarray
    labels: np.ndarray
    season: np.ndarray
    sources: np.ndarray
    channels: tuple[str, ...]
    #: At most this share of a network's chips shows samples.
    share: float = 0.25
    prior: Prior = "labels"

    def __len__(self) -> int:
        return len(self.labels)

    @property
    def side(self) -> int:
        """Side of a sample in pixels."""
        return int(self.image.shape[-1])

    def counts(self, classes: int) -> np.ndarray:
        """Count the samples of every class: int64 (class,)."""
        return np.bincount(self.labels, minlength=classes)

    def cropped(self, side: int) -> Synthetic:
        """Keep the middle of every sample only, ``side`` pixels wide."""
        rim = (self.side - side) // 2
        middle = (..., slice(rim, rim + side), slice(rim, rim + side))
        return replace(self, image=self.image[middle], valid=self.valid[middle])


def write_synthetic(folder: Path, drawn: Mapping[str, int], about: Mapping[str, Any] | None = None) -> None:
    """Write the number of samples of every class, and for people how they were drawn and what they are worth.

    ``about`` holds method, side, share and prior where there are samples, and classes, table and recommended.
    """
    (folder / FILE).write_text(json.dumps({"drawn": drawn, "about": about or {}}, indent=1))


def read_synthetic(folder: Path) -> dict[str, int]:
    """Read the number of synthetic samples of every class in the model that makes the map."""
    drawn: dict[str, int] = json.loads((folder / FILE).read_text())["drawn"]
    return drawn


def read_about(folder: Path) -> dict[str, Any]:
    """Read how the samples were drawn and what they are worth, empty where none was asked for."""
    about: dict[str, Any] = json.loads((folder / FILE).read_text())["about"]
    return about


def write_samples(folder: Path, fold: int | None, drawn: Synthetic) -> None:
    """Write the samples of one fold, or with None those of the final model, whole or not at all."""
    path = _path(folder, fold)
    aside = path.with_suffix(".new")
    with aside.open("wb") as file:
        np.savez(file, channels=np.array(drawn.channels), **{name: getattr(drawn, name) for name in _ARRAYS})
    aside.replace(path)


def read_samples(folder: Path, fold: int | None) -> Synthetic | None:
    """Read the samples of one fold, or with None those of the final model; None where none was drawn."""
    path = _path(folder, fold)
    if not path.is_file():
        return None
    about = read_about(folder)
    with np.load(path, allow_pickle=False) as stored:
        arrays = {name: stored[name] for name in _ARRAYS}
        channels = tuple(str(name) for name in stored["channels"])
    return Synthetic(**arrays, channels=channels, share=about["share"], prior=about["prior"])


def _path(folder: Path, fold: int | None) -> Path:
    return folder / ("final.npz" if fold is None else f"fold-{fold}.npz")
