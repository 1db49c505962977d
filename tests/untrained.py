"""One model folder for every classifier as it leaves the training, but for what it would have learnt."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch

from stages.formats.calendar import day_of
from stages.formats.tiles import Tiles
from stages.formats.weights import write_card
from stages.geo.grid import Grid
from stages.models.classifier import Classifier, Normalise
from stages.models.context import Context
from stages.models.kernel import KernelMachine
from stages.models.layers import ValidBatchNorm
from stages.models.rebuild import describe
from stages.models.table import NETWORKS, SERIES
from stages.training.fitted import Found
from stages.training.forest import FittedForest
from stages.training.loop import FittedNetwork
from stages.training.table import Features
from stages.training.vectors import FittedVectors
from tests.networks import BANDS, card_of

CLASSES, WINDOWS = 3, (3, 7)
DATES = "2024-04-10", "2024-06-20", "2024-09-05"
SHAPES: dict[str, dict[str, Any]] = {
    "mlp": {"width": 8},
    "cnn": {"width": 8, "dilations": (1, 1, 2)},
    "cnn3d": {"width": 4, "dilations": (1, 2)},
    "capsule": {"width": 8, "dilations": (1,), "types": 2, "d": 4, "spread": 2, "class_d": 4},
    "unet": {"width": 6, "depth": 2},
    "lstm": {"hidden": 6, "bidirectional": True, "readout": "attention"},
    "tempcnn": {"filters": 6, "dense": 8},
    "ltae": {"n_head": 2, "d_model": 8, "embedding": 8, "decoder": 8},
    "convlstm": {"hidden": 4},
}
#: Forests and vector machines look at windows, as the patch network does.
ALL = ("rf", "svm", *SHAPES)


def write_cube(folder: Path, cube: np.ndarray, valid: np.ndarray, side: int = 64) -> Tiles:
    """Write dates (time, band, y, x) and their validity (time, y, x) as a tile store of ``DATES``."""
    folder.mkdir(parents=True)
    grid = Grid("EPSG:32633", 10.0, 500_000.0, 5_400_000.0, cube.shape[3], cube.shape[2], side)
    dates = DATES[: len(cube)]
    tiles = Tiles.create(folder, grid, BANDS[: cube.shape[1]], dates, "digital numbers")
    for _, _, window in grid.tiles():
        tiles.write(window, cube[..., *window.slices].astype(np.float32), valid[:, *window.slices])
    return Tiles(folder)


def write_model(folder: Path, name: str, bands: int, dates: int, tta: bool = False, **shape: Any) -> Path:
    """Write a classifier of ``bands`` at every one of ``dates``; its probabilities differ clearly between pixels."""
    torch.manual_seed(0)
    fitted = _fitted(name, bands, dates, tta, shape)
    temperature = 0.5 if name == "rf" else _balanced(fitted.classifier, bands, dates)
    folder.mkdir(parents=True)
    fitted.export(folder)
    channels = tuple(f"{band}@{date}" if dates > 1 else band for date in DATES[:dates] for band in BANDS[:bands])
    write_card(folder, card_of(
        CLASSES, bands, name=name, channels=channels, dates=DATES[:dates], days=_days(dates), margin=fitted.margin,
        stride=fitted.stride, temperature=temperature, tta=tta, network=fitted.network,
    ))  # fmt: skip
    return folder


def _balanced(classifier: Any, bands: int, dates: int) -> float:
    """Move the classes' logits to a common mean, and give the temperature that makes them differ by about 1."""
    draw = torch.Generator().manual_seed(1)
    shown = torch.randn(1, bands * dates, 64, 64, generator=draw), torch.ones(1, dates, 64, 64)
    with torch.no_grad():
        days = (torch.tensor(_days(dates))[None],) if classifier.takes_days else ()
        logits = classifier(*shown, *days)
        classifier.correction.sub_(logits.mean(dim=(0, 2, 3)))
        return float((logits - logits.mean(dim=(0, 2, 3), keepdim=True)).std())


def _days(dates: int) -> tuple[float, ...]:
    return tuple(day_of(date) for date in DATES[:dates])


def _fitted(name: str, bands: int, dates: int, tta: bool, shape: dict[str, Any]) -> Any:
    channels = bands * dates
    steps = [step for step in range(dates) for _ in range(bands)]
    normalise = Normalise([0.1] * channels, [1.5] * channels, steps=steps)
    draw = np.random.default_rng(3)
    features = Features(normalise, Context(channels, shape.get("windows", WINDOWS)))
    if name == "rf":
        from sklearn.ensemble import RandomForestClassifier

        rows, labels = draw.normal(size=(300, features.context.features)), draw.integers(0, CLASSES, 300)
        forest = RandomForestClassifier(15, random_state=0).fit(rows, labels)
        return FittedForest(features, forest, CLASSES, Found())
    if name == "svm":
        machine = KernelMachine(features.context, CLASSES, 40, 3, gamma=0.05)
        machine.vectors.copy_(torch.from_numpy(draw.normal(size=(40, features.context.features))))
        machine.weights.copy_(torch.from_numpy(draw.normal(0.0, 20.0, (40, 3))))
        machine.spread.fill_(1.0)
        machine.gain.fill_(0.3)
        machine.wins.copy_(torch.tensor([[1.0, -1.0, 0.0], [1.0, 0.0, -1.0], [0.0, 1.0, -1.0]]))
        return FittedVectors(features, machine.eval(), Found())
    sizes = {"bands": bands, "steps": dates} if name in SERIES else {"channels": channels}
    arguments = {**sizes, "classes": CLASSES, **SHAPES[name], **shape}
    network = {**NETWORKS, **SERIES}[name](**arguments)
    for module in network.modules():
        if isinstance(module, ValidBatchNorm):
            module.mean.normal_(0.0, 0.3)
            module.variance.uniform_(0.05, 0.3)
    classifier = Classifier(normalise, network, CLASSES)
    return FittedNetwork([classifier], tta, Found(), describe(name, arguments, normalise))
