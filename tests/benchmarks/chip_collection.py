"""Time a collection of synthetic chips from files to scores: `python -m tests.benchmarks.chip_collection FOLDER`."""

from __future__ import annotations

import argparse
import json
import resource
import time
from pathlib import Path

import numpy as np

SIDE, CLASSES = 64, 10


def draw(kind: int, rng: np.random.Generator) -> np.ndarray:
    """Draw one chip: uint8 (y, x, 3).

    A class is a direction and a spacing of stripes and a faint colour, under speckle, shade and stripes of no class, so
    that neither the mean colour nor a single pixel tells it.
    """
    y, x = np.mgrid[:SIDE, :SIDE] - SIDE / 2
    angle = np.pi * (kind % 5) / 5 + rng.normal(0, 0.12)
    spacing = (5.0, 9.0)[kind // 5] * np.exp(rng.normal(0, 0.1))
    stripes = np.sin(2 * np.pi * (np.cos(angle) * x + np.sin(angle) * y) / spacing + rng.uniform(0, 2 * np.pi))
    other = np.sin(2 * np.pi * (x * np.cos(t := rng.uniform(0, np.pi)) + y * np.sin(t)) / rng.uniform(12, 30))
    tint = np.random.default_rng(kind).normal(0, 4, 3) + rng.normal(0, 10, 3)
    shade = rng.uniform(0.7, 1.3)
    values = 110 + tint + 14 * stripes[..., None] + 20 * other[..., None] + rng.normal(0, 22, (SIDE, SIDE, 3))
    return np.clip(values * shade, 0, 255).astype(np.uint8)


def write(folder: Path, count: int, ending: str, seed: int = 0) -> None:
    """Write ``count`` chips into a folder a class."""
    import cv2

    rng = np.random.default_rng(seed)
    for number in range(count):
        kind = number % CLASSES
        place = folder / f"class{kind}"
        place.mkdir(parents=True, exist_ok=True)
        cv2.imwrite(str(place / f"{number:06d}{ending}"), draw(kind, rng)[..., ::-1])


def main() -> None:
    """Write the chips where they are missing, then time every stage."""
    from stages import augment, evaluate, ingest, label, select, tile, train

    asked = argparse.ArgumentParser(description=__doc__)
    asked.add_argument("folder", type=Path)
    asked.add_argument("--count", type=int, default=27_000)
    asked.add_argument("--ending", default=".jpg")
    asked.add_argument("--models", nargs="+", default=["cnn"])
    asked.add_argument("--epochs", type=int)
    options = asked.parse_args()
    chips = options.folder / "chips"
    if not chips.is_dir():
        write(chips, options.count, options.ending)
    classes = [{"name": f"class {k}", "labels": [f"class{k}"], "code": k, "color": "#000000"} for k in range(CLASSES)]
    names = ("scenes", "tiles", "samples", "bands", "synthetic", "model", "scores")
    at = {name: options.folder / name for name in names}
    for path in at.values():
        path.mkdir(parents=True, exist_ok=True)
    members = [name for name in options.models if name != "ensemble"]
    settings = {"classes": classes, "models": options.models, "epochs": options.epochs,
                "ensemble": {"of": members if len(members) > 1 else ["cnn", "unet"]}}  # fmt: skip
    work = {
        "ingest": lambda: ingest.run(at["scenes"], ingest.Config.model_validate({"chips": {"folder": chips}})),
        "tile": lambda: tile.run(at["scenes"], at["tiles"], tile.Config()),
        "label": lambda: label.run(at["tiles"], at["samples"], label.Config.model_validate({"classes": classes})),
        "select": lambda: select.run(at["tiles"], at["samples"], at["bands"], select.Config()),
        "augment": lambda: augment.run(at["tiles"], at["samples"], at["bands"], at["synthetic"], augment.Config()),
        "train": lambda: train.run(
            at["tiles"], at["samples"], at["bands"], at["synthetic"], at["model"], train.Config.model_validate(settings)
        ),
        "evaluate": lambda: evaluate.run(at["tiles"], at["samples"], at["model"], at["scores"], evaluate.Config()),
    }
    for name, run in work.items():
        wall, spent = time.perf_counter(), time.process_time()
        run()
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
        print(f"{name:10} {time.perf_counter() - wall:8.1f} s, CPU {time.process_time() - spent:8.1f} s, {peak:.2f} GB")
    scores = json.loads((at["scores"] / "scores.json").read_text())
    for row in scores["table"]:
        print(row)


if __name__ == "__main__":
    main()
