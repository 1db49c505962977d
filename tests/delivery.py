"""Write the artifacts that `export` reads, small and known."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import rasterio

from stages.formats import maps
from stages.formats.samples import Part, Role, Samples
from stages.formats.scores import write_scores
from stages.formats.tiles import Tiles
from stages.formats.weights import ONNX, ModelCard, write_card, write_choice
from stages.geo.grid import Grid

COLORS = "#c4281b", "#d8c45a", "#2f6b3a", "#2b6cb0", "#a3a35c", "#8a4f9e", "#777777"


@dataclass(frozen=True)
class Made:
    """Folders of the artifacts of one area."""

    root: Path

    @property
    def labelled(self) -> dict[str, Any]:
        """The artifacts as `run` takes them."""
        return {name: self.root / name for name in ("tiles", "classes", "model", "samples", "scores")}

    @property
    def unlabelled(self) -> dict[str, Any]:
        """The same where the area has no labels."""
        return {**self.labelled, "samples": None, "scores": None}


@dataclass(frozen=True)
class Area:
    """What the artifacts hold: indices uint8 (y, x) with 255 nodata, image float32 (band, y, x)."""

    grid: Grid
    indices: np.ndarray
    image: np.ndarray
    names: tuple[str, ...]
    bands: tuple[str, ...] = ("blue", "green", "red")
    truth: np.ndarray | None = None
    block: int = 8
    card: dict[str, Any] = field(default_factory=dict)
    scores: dict[str, Any] = field(default_factory=dict)
    summary: dict[str, Any] = field(default_factory=dict)


def area_of(
    indices: np.ndarray, crs: str = "EPSG:32633", corner: tuple[float, float] = (5e5, 5.4e6), resolution: float = 10.0
) -> Area:
    """A small area with this class map and a random image."""
    grid = Grid(crs, resolution, *corner, indices.shape[1], indices.shape[0], 16)
    image = np.random.default_rng(0).normal(100, 10, (3, *indices.shape)).astype(np.float32)
    count = int(indices[indices != 255].max(initial=0)) + 1
    return Area(grid, indices, image, tuple(f"class {i}" for i in range(count)))


def make(root: Path, area: Area) -> Made:
    """Write all artifacts."""
    made = Made(root)
    for folder in made.labelled.values():
        folder.mkdir(parents=True)
    write_tiles(root / "tiles", area)
    write_layers(root / "classes", area)
    write_samples(root / "samples", area)
    write_models(root / "model", area)
    write_scores(root / "scores", area.scores or scores_of(area))
    return made


def write_tiles(folder: Path, area: Area) -> None:
    """Write the image; nodata of the map is invalid."""
    tiles = Tiles.create(folder, area.grid, area.bands, ("2000",), "digital numbers")
    for _, _, window in area.grid.tiles():
        valid = area.indices[window.slices] != 255
        tiles.write(window, area.image[(slice(None), *window.slices)][None], valid[None])


def write_layers(folder: Path, area: Area) -> None:
    """Write class indices, and a confidence that runs from 50 to 100 % along the rows."""
    grid = area.grid
    ramp = np.broadcast_to(np.linspace(50, 100, grid.width).astype(np.uint8), grid.shape)
    profile = maps.layer_profile(grid.width, grid.height, grid.crs, grid.transform)
    for name, layer in ((maps.CLASSES, area.indices), (maps.CONFIDENCE, np.where(area.indices == 255, 255, ramp))):
        with rasterio.open(folder / name, "w", **profile) as target:
            target.write(layer.astype(np.uint8), 1)
    maps.write_meta(folder, {"model": "unet"})


def write_models(folder: Path, area: Area) -> None:
    """Write two candidates, of which `unet` makes the map."""
    classes = tuple(
        {"name": name, "labels": [i], "code": 10 * (i + 1), "color": COLORS[i]} for i, name in enumerate(area.names)
    )
    curves = {"training loss": [1.2, 0.9, 0.8, 0.75, 0.72], "validation loss": [1.1, 0.95, 0.9, 0.88, 0.89]}
    for kind in ("rf", "unet"):
        (folder / kind).mkdir()
        values: dict[str, Any] = {
            "name": kind, "channels": area.bands, "dates": ("2000",), "scaling": "digital numbers",
            "resolution": area.grid.resolution, "metres": area.grid.pixel_metres(), "classes": classes,
            "margin": 0, "stride": 1, "temperature": 1.0, "tta": False, "fingerprint": "0123456789abcdef",
            "settings": {"epochs": 5}, "curves": curves if kind == "unet" else {}, **area.card,
        }  # fmt: skip
        write_card(folder / kind, ModelCard(**values))
        (folder / kind / ONNX).write_bytes(b"")
    write_choice(
        folder,
        "unet",
        {"rf": {}, "unet": {}},
        Samples(folder.parent / "samples").split,
        "unet has the highest macro F1 on validation.",
    )


def write_samples(folder: Path, area: Area) -> None:
    """Label every pixel with the truth (the map itself unless given), in square blocks of train, validation, test."""
    rows, cols = (np.arange(length) // area.block for length in area.grid.shape)
    block = rows[:, None] * (cols[-1] + 1) + cols[None]
    parts = np.array([Part.TRAIN, Part.TRAIN, Part.VALIDATION, Part.TEST])[
        np.random.default_rng(1).permutation(int(block.max()) + 1) % 4
    ]
    truth = area.indices if area.truth is None else area.truth
    role = np.where(truth < 254, np.array([0, Role.TRAIN, Role.VALIDATION, Role.TEST])[parts[block]], Role.NONE)
    Samples.layout(folder, area.grid, 1)
    for _, _, window in area.grid.tiles():
        arrays = {"target": truth, "block": block, "role": role}
        cut = {name: values[window.slices] for name, values in arrays.items()}
        Samples.write(folder, window, **{**cut, "role": cut["role"][None].astype(np.uint8)})
    Samples.write_summary(folder, {"classes": area.names, "folds": 1, "crossed": False,
                                   "parts": [parts.tolist()], **area.summary})  # fmt: skip
    means = [
        area.image[:, area.indices == k].mean(axis=1).tolist() if (area.indices == k).any() else None
        for k in range(len(area.names))
    ]
    Samples.write_statistics(folder, [{"channels": area.bands, "class_means": means}])


def scores_of(area: Area) -> dict[str, Any]:
    """Scores with known figures, the same for every model but for the overall accuracy."""
    count = len(area.names)
    matrix = (np.full((count, count), 10) + np.eye(count, dtype=int) * 80).tolist()

    def spread(value: float) -> dict[str, float]:
        return {"value": value, "low": value - 0.03, "high": value + 0.03}

    def model(overall: float) -> dict[str, Any]:
        by_class = {"precision": 0.7, "recall": 0.8, "f1": 0.75, "iou": 0.6, "pixels": 100, "mapped_ha": 12.0,
                    "reference_ha": 10.0, "ratio": 1.2}  # fmt: skip
        ends = {name: [0.6, 0.9] for name in ("precision", "recall", "f1", "iou")}
        return {
            "overall_accuracy": spread(overall), "balanced_accuracy": spread(0.55), "macro_f1": spread(0.5),
            "kappa": spread(0.4), "ece": 0.031, "classes": dict.fromkeys(area.names, by_class),
            "intervals": dict.fromkeys(area.names, ends), "inner": {"overall_accuracy": spread(0.81)},
            "boundary": {"overall_accuracy": spread(0.48)}, "confusion": matrix,
            "overall_accuracy_with_dropped": spread(overall - 0.01),
        }  # fmt: skip

    return {
        "best": "unet", "pixels": 36_684, "blocks": 14, "dropped_pixels": 0,
        "warning": "only 14 ground blocks were scored: below 30, the intervals are too narrow to be trusted",
        "models": {"rf": model(0.729), "unet": model(0.7412), "majority": model(0.487)},
        "estimates": "expected agreement with the reference labels at unlabelled ground inside this area",
        "pooled": None, "folds": None, "independent": None,
    }  # fmt: skip
