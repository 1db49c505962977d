"""Write the artifacts that `export` reads, small and known."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
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
    """What the artifacts hold: indices uint8 (y, x) with 255 nodata, image float32 (band, y, x).

    An area of several dates has ``cube`` float32 (time, band, y, x) instead, with ``valid`` bool (time, y, x).
    """

    grid: Grid
    indices: np.ndarray
    image: np.ndarray
    names: tuple[str, ...]
    bands: tuple[str, ...] = ("blue", "green", "red")
    dates: tuple[str, ...] = ("2000",)
    step: str = ""
    cube: np.ndarray | None = None
    valid: np.ndarray | None = None
    clear: np.ndarray | None = None
    filled: np.ndarray | None = None
    truth: np.ndarray | None = None
    block: int = 8
    card: dict[str, Any] = field(default_factory=dict)
    scores: dict[str, Any] = field(default_factory=dict)
    summary: dict[str, Any] = field(default_factory=dict)

    @property
    def values(self) -> np.ndarray:
        """Values of all dates: float32 (time, band, y, x)."""
        return self.image[None] if self.cube is None else self.cube

    @property
    def channels(self) -> tuple[str, ...]:
        """Names of the channels, as the tiles have them."""
        if len(self.dates) == 1:
            return self.bands
        return tuple(f"{band}@{date}" for date in self.dates for band in self.bands)


def area_of(
    indices: np.ndarray, crs: str = "EPSG:32633", corner: tuple[float, float] = (5e5, 5.4e6), resolution: float = 10.0
) -> Area:
    """A small area with this class map and a random image."""
    grid = Grid(crs, resolution, *corner, indices.shape[1], indices.shape[0], 16)
    image = np.random.default_rng(0).normal(100, 10, (3, *indices.shape)).astype(np.float32)
    count = int(indices[indices != 255].max(initial=0)) + 1
    return Area(grid, indices, image, tuple(f"class {i}" for i in range(count)))


def series_of(indices: np.ndarray, bands: tuple[str, ...] = ("blue", "green", "red", "nir", "NDVI")) -> Area:
    """A year of twelve monthly steps: each class peaks in its own month, and every pixel has its clear observations.

    The first column was never clear, the others 1 to 36 times; below 12 the missing steps are filled.
    """
    area, rng = area_of(indices), np.random.default_rng(2)
    day = np.arange(12) / 12 * 2 * np.pi
    waves = np.stack([np.cos(day - 0.9 * k) for k in range(len(area.names))])
    peaks = waves[np.where(indices == 255, 0, indices)].transpose(2, 0, 1)
    scale = np.linspace(0.1, 0.4, len(bands))[:, None, None]
    cube = (scale + 0.15 * peaks[:, None] + rng.normal(0, 0.03, (12, len(bands), *indices.shape))).astype(np.float32)
    clear = np.broadcast_to(np.arange(indices.shape[1]) % 37, indices.shape)
    filled = np.where(clear > 0, np.maximum(0, 12 - clear) * 100 // 12, 0)
    dates = tuple(f"2018-{month:02d}-01" for month in range(1, 13))
    valid = np.broadcast_to((clear > 0) & (indices != 255), (12, *indices.shape))
    return replace(area, bands=bands, dates=dates, step="1 month", cube=cube, valid=valid,
                   clear=clear.astype(np.uint16), filled=filled.astype(np.uint8))  # fmt: skip


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
    """Write the values and the index; nodata of the map is invalid unless given."""
    tiles = Tiles.create(folder, area.grid, area.bands, area.dates, "digital numbers", step=area.step)
    mapped = np.broadcast_to(area.indices != 255, (len(area.dates), *area.grid.shape))
    valid, rows = mapped if area.valid is None else area.valid, []
    for row, col, window in area.grid.tiles():
        place = (..., *window.slices)
        counted = [None if layer is None else layer[place][None] for layer in (area.clear, area.filled)]
        tiles.write(window, area.values[place], valid[place], *counted)
        shares = {f"valid_{date}": valid[place][i].mean() for i, date in enumerate(area.dates)}
        rows.append({"row": row, "col": col, "height": window.height, "width": window.width, **shares})
    tiles.write_index(rows)


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
            "name": kind, "channels": area.channels, "dates": area.dates, "step": area.step,
            "scaling": "digital numbers", "resolution": area.grid.resolution, "metres": area.grid.pixel_metres(),
            "classes": classes,
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
    flat = area.values.reshape(-1, *area.grid.shape)
    by_class = [flat[:, area.indices == k] for k in range(len(area.names))]
    means = [values.mean(axis=1).tolist() if values.size else None for values in by_class]
    spreads = [values.std(axis=1).tolist() if values.size else None for values in by_class]
    Samples.write_statistics(folder, [{"channels": area.channels, "class_means": means, "class_stds": spreads}])


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
