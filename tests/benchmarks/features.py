"""Measure how long choosing features takes where there are hundreds of them, and what each way of choosing comes to.

    python -m tests.benchmarks.features [--bands 200] [--k 10] [--size 128] [--episodes 1000] [--seed 0]

The scene is as a spectrometer sees it: nine classes of smooth spectra that differ in a few narrow absorption bands,
neighbouring bands alike, mixed over patches, with noise. Prints the table of `select` and the minutes of the whole.
"""

from __future__ import annotations

import argparse
import logging
import tempfile
import time
from pathlib import Path

import numpy as np

from stages import select
from tests.training_worlds import lay
from tests.worlds import patchwork

CLASSES, PATCH = 9, 8


def spectra(bands: int, seed: int) -> np.ndarray:
    """Make reflectances of every class, float64 (class, band): a common curve with dips of its own."""
    rng = np.random.default_rng((seed, 0))
    place = np.linspace(0.0, 1.0, bands)
    curve = 0.3 + 0.15 * np.sin(3.0 * place) + 0.05 * np.sin(11.0 * place)
    found = []
    for _ in range(CLASSES):
        dips = [0.05 * rng.uniform(0.3, 1.0) * np.exp(-(((place - rng.uniform()) / 0.02) ** 2)) for _ in range(4)]
        found.append(curve - np.sum(dips, axis=0))
    return np.stack(found)


def scene(truth: np.ndarray, bands: int, seed: int) -> np.ndarray:
    """Light every pixel differently and add noise that neighbouring bands share in part, float32 (band, y, x)."""
    from scipy.ndimage import gaussian_filter1d

    rng = np.random.default_rng((seed, 1))
    light = rng.normal(1.0, 0.08, truth.shape)
    noise = gaussian_filter1d(rng.normal(0.0, 0.06, (bands, *truth.shape)), 2.0, axis=0)
    noise += rng.normal(0.0, 0.02, noise.shape)
    found: np.ndarray = np.moveaxis(spectra(bands, seed)[truth], 2, 0) * light + noise
    return found.astype(np.float32)


def main() -> None:
    """Make the scene, choose, and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name, value in (("bands", 200), ("k", 10), ("size", 128), ("episodes", 1000), ("seed", 0)):
        parser.add_argument(f"--{name}", type=int, default=value)
    options = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    logging.getLogger("terrastage.progress").setLevel(logging.WARNING)
    truth = patchwork((options.size, options.size), CLASSES, PATCH, options.seed)
    with tempfile.TemporaryDirectory() as name:
        laid = lay(Path(name) / "world", scene(truth, options.bands, options.seed), truth)
        out = Path(name) / "chosen"
        out.mkdir()
        config = select.Config(method="dqn", k=options.k, episodes=options.episodes, seed=options.seed)
        begun, worked = time.perf_counter(), time.process_time()
        select.run(laid.root / "tiles", laid.root / "samples", out, config)
        wall, work = time.perf_counter() - begun, time.process_time() - worked
    print(f"{options.k} of {options.bands} bands: {wall / 60:.1f} minutes, {work / 60:.1f} of them on the processor")


if __name__ == "__main__":
    main()
