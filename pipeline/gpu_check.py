"""Train and map a small synthetic area on an accelerator and on the CPU, and print how far they agree."""

from __future__ import annotations

import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from stages.formats.samples import Samples
    from stages.formats.tiles import Tiles
    from stages.training.ground import Ground
    from stages.training.held import Held
    from stages.training.recipes import Recipe

SIDE, BLOCK, CLASSES = 256, 32, 3
#: Torch's names of Lightning's accelerators, where they differ.
DEVICES = {"gpu": "cuda"}
#: Windows of 64 x 64 pixels mapped at once, and how often, to measure the rate.
BATCH, REPEATS = 8, 10
#: Largest difference of logits in float32 between the two backends.
PARITY = 1e-3


@dataclass(frozen=True)
class Measured:
    """What one device did with one network."""

    device: str
    network: str
    accuracy: float
    train_rate: float
    map_rate: float
    memory_mb: float
    #: Logits of untrained weights, the same on every device.
    fresh: np.ndarray


@dataclass(frozen=True)
class Mapped:
    """How the map of the whole area by one backend compares with that by ONNX Runtime on the CPU."""

    network: str
    backend: str
    #: Share of the pixels of the same class, largest difference of a probability and what is allowed of it.
    agreement: float
    difference: float
    tolerance: float
    map_rate: float


def run() -> int:
    """Compare the accelerator with the CPU; gives the exit code: 1 where they disagree."""
    accelerator = accelerator_name()
    if accelerator is None:
        _say("This machine has no accelerator that torch can use: nothing to compare, the CPU is used everywhere.")
        return 0
    results: list[tuple[Measured, Measured]] = []
    maps: list[Mapped] = []
    with tempfile.TemporaryDirectory() as folder:
        ground, held = small_area(Path(folder))
        for network in ("mlp", "cnn", "unet"):
            model = Path(folder) / network
            cpu = measure("cpu", network, ground, held, model)
            results.append((cpu, measure(accelerator, network, ground, held)))
            maps += compare_maps(model, Path(folder) / "tiles", DEVICES.get(accelerator, accelerator))
    _say(table(results))
    _say(table_of_maps(maps))
    alike = all(_difference(pair) <= PARITY for pair in results)
    return 0 if alike and all(one.difference <= one.tolerance for one in maps) else 1


def accelerator_name() -> str | None:
    """Lightning's name of the accelerator of this machine, none where there is only the CPU."""
    import torch

    if torch.cuda.is_available():
        return "gpu"
    if torch.backends.mps.is_available():
        return "mps"
    return None


def small_area(folder: Path) -> tuple[Ground, Held]:
    """Lay out patches of three classes that noisy bands tell apart, a third of the blocks held out."""
    from stages.formats.samples import Role
    from stages.training.ground import Ground, Split
    from stages.training.held import gather

    tiles, samples = _artifacts(folder)
    split = Split(tiles, samples, ("b0", "b1", "b2"), 0)
    return Ground(split, BLOCK, folder), gather(split, Role.VALIDATION, 32, 8)


def _artifacts(folder: Path) -> tuple[Tiles, Samples]:
    """Write tiles and samples as the stages would."""
    from stages.formats.samples import Part, Role, Samples
    from stages.formats.tiles import Tiles
    from stages.geo.grid import Grid

    rng = np.random.default_rng(0)
    cells = SIDE // BLOCK
    truth = np.kron(rng.integers(0, CLASSES, (2 * cells, 2 * cells)), np.ones((BLOCK // 2,) * 2)).astype(np.uint8)
    image = (rng.normal(0, 1, (CLASSES, 3))[truth].transpose(2, 0, 1) + rng.normal(0, 0.5, (3, SIDE, SIDE))) * 100
    grid = Grid("EPSG:32633", 10.0, 500_000.0, 5_400_000.0, SIDE, SIDE, SIDE)
    for name in ("tiles", "samples"):
        (folder / name).mkdir()
    tiles = Tiles.create(folder / "tiles", grid, ("b0", "b1", "b2"), ("",), "digital numbers")
    tiles.write(grid.whole, image[None].astype(np.float32), np.ones((1, SIDE, SIDE), dtype=bool))
    block = np.kron(np.arange(cells**2).reshape(cells, cells), np.ones((BLOCK, BLOCK))).astype(np.int32)
    parts = np.where(np.arange(cells**2) % 3 == 0, Part.VALIDATION, Part.TRAIN).astype(np.uint8)
    role = np.where(parts[block] == Part.TRAIN, Role.TRAIN, Role.VALIDATION).astype(np.uint8)
    Samples.layout(folder / "samples", grid, 1)
    Samples.write(folder / "samples", grid.whole, target=truth, block=block, role=role[None])
    summary = {"classes": [f"class {i}" for i in range(CLASSES)], "folds": 1, "crossed": False,
               "parts": [parts.tolist()], "buffer": 0.0}  # fmt: skip
    Samples.write_summary(folder / "samples", summary)
    moments = {"mean": image.mean((1, 2)).tolist(), "std": image.std((1, 2)).tolist()}
    Samples.write_statistics(folder / "samples", [moments])
    return tiles, Samples(folder / "samples")


def measure(device: str, network: str, ground: Ground, held: Held, model: Path | None = None) -> Measured:
    """Train on one device and map the held-out windows there; the network is kept in ``model`` where given."""
    import torch

    from stages.training.classifiers import fit
    from stages.training.fitted import Hardware, Task
    from stages.training.loop import build

    recipe = _recipe(network)
    where = torch.device(DEVICES.get(device, device))
    _reset_memory(where)
    with tempfile.TemporaryDirectory() as folder:
        begun = time.perf_counter()
        fitted: Any = fit(network, ground, held, recipe, Task(network, 0, _accuracy, Path(folder), Hardware(device)))
        seconds = time.perf_counter() - begun
    pixels = recipe.epochs * recipe.steps * recipe.batch * recipe.chip**2
    right = float((fitted.logits(held).mean(axis=0).argmax(axis=1) == held.reference).mean())
    if model is not None:
        _keep(fitted, network, ground.split.tiles, model)
    _, rate = _map(fitted.classifier, held, where)
    # The same untrained weights on both devices: what differs is arithmetic alone.
    fresh, _ = _map(build(network, ground, recipe, 0).eval(), held, where)
    return Measured(device, network, right, pixels / seconds, rate, _memory_mb(where), fresh)


def _keep(fitted: Any, network: str, tiles: Tiles, model: Path) -> None:
    """Write a model folder as `train` would."""
    from stages.formats.weights import ModelCard, write_card

    model.mkdir()
    fitted.export(model)
    classes = tuple({"name": f"class {i}", "code": i + 1, "color": "#808080"} for i in range(CLASSES))
    write_card(model, ModelCard(
        name=network, channels=tiles.channels, dates=tiles.dates, days=tiles.days, scaling=tiles.scaling,
        resolution=tiles.grid.resolution, metres=tiles.grid.pixel_metres(), classes=classes, margin=fitted.margin,
        stride=fitted.stride, temperature=1.0, tta=False, fingerprint="0" * 16, network=fitted.network,
    ))  # fmt: skip


def compare_maps(model: Path, folder: Path, device: str) -> list[Mapped]:
    """Map the tiles of a folder in every precision on a device, and compare with ONNX Runtime on the CPU.

    A precision that the device cannot compute in counts as wholly different.
    """
    from stages.formats.tiles import Tiles
    from stages.inference.backends import TOLERANCE, Engine
    from stages.inference.predictor import load

    tiles = Tiles(folder)
    image, valid = (array[None] for array in tiles.read_channels(tiles.grid.whole))
    expected = load(model).probabilities(image, valid, tiles.days)
    compared = []
    for precision, tolerance in TOLERANCE.items():
        engine = Engine("torch", device, precision)
        predictor = load(model, engine)
        try:
            found = predictor.probabilities(image, valid, tiles.days)
        except (RuntimeError, NotImplementedError, TypeError):
            compared.append(Mapped(model.name, predictor.backend.name, 0.0, 1.0, tolerance, 0.0))
            continue
        begun = time.perf_counter()
        for _ in range(REPEATS):
            predictor.probabilities(image, valid, tiles.days)
        rate = REPEATS * valid[:, 0].size / (time.perf_counter() - begun)
        agreement = float((found.argmax(axis=1) == expected.argmax(axis=1))[valid.any(axis=1)].mean())
        difference = float(np.abs(found - expected).max())
        compared.append(Mapped(model.name, predictor.backend.name, agreement, difference, tolerance, rate))
    return compared


def _recipe(network: str) -> Recipe:
    from stages.training import recipes

    kinds: dict[str, type[Recipe]] = {"mlp": recipes.MlpRecipe, "cnn": recipes.CnnRecipe, "unet": recipes.UnetRecipe}
    return kinds[network](epochs=2, steps=20, average_turns=False)


def _map(classifier: Any, held: Held, where: Any) -> tuple[np.ndarray, float]:
    """Logits of a batch of windows, and how many pixels a second."""
    import torch

    classifier = classifier.to(where)
    image, valid = (torch.from_numpy(array[:BATCH]).to(where) for array in (held.image, held.valid))
    with torch.no_grad():
        logits = classifier(image, valid).cpu().numpy()
        begun = time.perf_counter()
        for _ in range(REPEATS):
            last = classifier(image, valid)
        last.cpu()
    return logits, REPEATS * valid.numel() / (time.perf_counter() - begun)


def _accuracy(reference: np.ndarray, mapped: np.ndarray) -> float:
    return float((reference == mapped).mean())


def _reset_memory(where: Any) -> None:
    import torch

    if where.type == "cuda":
        torch.cuda.reset_peak_memory_stats()


def _memory_mb(where: Any) -> float:
    """Peak memory: of the device where it counts, of the process otherwise."""
    import resource

    import torch

    if where.type == "cuda":
        return float(torch.cuda.max_memory_allocated() / 2**20)
    return float(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**10)


def _difference(pair: tuple[Measured, Measured]) -> float:
    return float(np.abs(pair[0].fresh - pair[1].fresh).max())


def table(results: list[tuple[Measured, Measured]]) -> str:
    """Write one line a network and device."""
    lines = [
        f"{'network':8} {'device':8} {'accuracy':>9} {'train px/s':>12} {'map px/s':>12} {'peak MB':>9} {'parity':>9}"
    ]
    for pair in results:
        for one in pair:
            parity = "" if one.device == "cpu" else f"{_difference(pair):9.1e}"
            lines.append(
                f"{one.network:8} {one.device:8} {one.accuracy:9.3f} {one.train_rate:12,.0f} {one.map_rate:12,.0f} "
                f"{one.memory_mb:9.0f} {parity:>9}"
            )
    worst = max(_difference(pair) for pair in results)
    lines.append(
        f"Largest difference of logits with equal weights: {worst:.1e} "
        f"({'within' if worst <= PARITY else 'ABOVE'} {PARITY:.0e})."
    )
    return "\n".join(lines)


def table_of_maps(maps: list[Mapped]) -> str:
    """Write one line a network and backend."""
    lines = [f"{'network':8} {'backend':36} {'same class':>10} {'difference':>10} {'allowed':>8} {'map px/s':>12}"]
    for one in maps:
        beyond = "" if one.difference <= one.tolerance else "  ABOVE"
        lines.append(
            f"{one.network:8} {one.backend:36} {one.agreement:10.4%} {one.difference:10.1e} {one.tolerance:8.0e} "
            f"{one.map_rate:12,.0f}{beyond}"
        )
    lines.append("Maps of the whole area, compared with those by ONNX Runtime on the CPU.")
    return "\n".join(lines)


def _say(text: str) -> None:
    """Write to the screen: this command keeps no log file."""
    sys.stdout.write(f"{text}\n")
