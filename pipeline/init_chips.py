"""Write the config of an area that is a folder of chips, a folder a class."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np

from pipeline.palette import colors_for
from stages.errors import SceneError
from stages.formats.chip_collection import Collection
from stages.formats.chip_source import IMAGES, ChipFiles, load_collection
from stages.ingest import read_chip_headers_of

#: A class with fewer chips than this may be missing from a part of the split.
FEW = 10
MODELS = "[rf, svm, mlp, cnn, capsule]"
#: Side of a ground block in chips.
CHIPS_A_BLOCK = 5


def class_folders(folder: Path) -> list[Path]:
    """List the folders of classes: those that hold images, where the folder itself holds none."""
    if not folder.is_dir() or _images(folder):
        return []
    return sorted(path for path in folder.iterdir() if path.is_dir() and _images(path))


def _images(folder: Path) -> bool:
    return any(path.suffix.lower() in IMAGES for path in folder.iterdir() if path.is_file())


def propose(folder: Path, shown: str) -> tuple[list[str], list[str]]:
    """Read the headers of all chips; give the lines of the sections of a config, and what to tell about them.

    Args:
        folder: that holds a folder a class.
        shown: the folder as it is written in the config.

    Raises:
        SceneError: chips differ, cannot be read, or are of one class only.
    """
    found = load_collection(ChipFiles(folder=folder), read_chip_headers_of)
    counts = found.chips["label"].value_counts().sort_index()
    if len(counts) < 2:
        raise SceneError(f"{folder} holds chips of one class ({counts.index[0]}); a classifier needs at least two.")
    placed = bool(np.isfinite(found.chips["longitude"].to_numpy(np.float64)).all())
    lines = ["classes:   # labels: the class folders merged into the class"]
    for code, (name, color) in enumerate(zip(counts.index, colors_for(list(counts.index)), strict=True), 1):
        text = json.dumps(name, ensure_ascii=False)
        lines.append(
            f"  - {{name: {text}, labels: [{text}], code: {code}, color: {json.dumps(color)}}}   # {counts[name]} chips"
        )
    lines += [
        "",
        "ingest:",
        "  chips:",
        f"    folder: {json.dumps(shown, ensure_ascii=False)}",
        "    bands:",
        *(f"      {json.dumps(band)}: {i}" for band, i in zip(found.bands, found.indexes, strict=True)),
        f"    pixel: {found.pixel:.6g}   # metres",
        "",
        "label:",
        *_division(found, placed),
        "",
        "train:",
        f"  models: {MODELS}   # all are trained; the best on validation is kept",
        "  choose_by: overall_accuracy",
        "",
    ]
    place = "with coordinates: split by ground block" if placed else "without coordinates: split at random"
    notes = [f"{len(found.chips)} chips of {found.side} x {found.side} pixels, {len(found.bands)} bands and "
             f"{len(counts)} classes, {place}"]  # fmt: skip
    notes += [f"Check class {name}: {count} chips are few" for name, count in counts.items() if count < FEW]
    return lines, notes


def _division(found: Collection, placed: bool) -> list[str]:
    """Write how the chips are divided."""
    if not placed:
        return [
            "  split: random   # the chips have no coordinates; scores are then too good where neighbours are alike"
        ]
    side = CHIPS_A_BLOCK * found.side * found.pixel
    return [
        f"  block: {side:.4g}   # metres: side of the ground blocks, {CHIPS_A_BLOCK} chips",
        f"  buffer: {side / 10:.4g}   # metres from the middles of held-out chips; overlapping ones never train",
    ]
