"""Train a conditional generator against a discriminator, and draw from it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor

from stages import progress
from stages.models.gan import Generator
from stages.training.generators.duel import Duel
from stages.training.generators.settings import Adversary

__all__ = ["CHECKPOINT", "Adversary", "draw", "train_gan"]
CHECKPOINT = "last.ckpt"


def train_gan(
    data: Tensor, labels: Tensor, classes: int, settings: Adversary, folder: Path | None = None,
    *, device: str = "cpu", watch: Callable[[int, Generator], None] | None = None,
) -> Generator:  # fmt: skip
    """Train a generator of samples like ``data`` and give its moving average, on the CPU.

    The same data, settings and seed give the same generator, killed and gone on with or not.

    Args:
        data: samples in any units: (n, features), (n, steps, bands) or (n, channels, y, x).
        labels: class of every sample, int64 (n,) in 0..classes-1; a class may have no sample.
        classes: number of classes.
        settings: how it is trained.
        folder: where checkpoints are kept, and where a killed training goes on from; none are kept without it.
        device: where it is computed.
        watch: called after every ``keep_every`` steps with the number of steps and the averaged generator.

    Raises:
        DivergedError: a loss is not finite; the last checkpoint is kept.
    """
    assert len(data) == len(labels) > 0, f"{len(data)} samples have {len(labels)} labels"
    duel = Duel(data, labels, classes, settings, device)
    if folder is not None:
        folder.mkdir(parents=True, exist_ok=True)
        duel.go_on_from(folder / CHECKPOINT)
    while duel.done < settings.steps:
        duel.step()
        if duel.done % settings.keep_every == 0 or duel.done == settings.steps:
            if folder is not None:
                duel.keep(folder / CHECKPOINT)
            if watch is not None:
                watch(duel.done, duel.averaged)
            progress.report("gan", duel.done, settings.steps)
    return duel.averaged.cpu().eval()


def draw(generator: Generator, labels: Tensor, seed: int, batch: int = 1000) -> Tensor:
    """Draw a sample of every label, in the units of the data: int64 (n,) -> (n, *shape)."""
    noise = torch.randn(len(labels), generator.latent, generator=torch.Generator().manual_seed(seed))
    device = generator.centre.device
    generator.eval()
    with torch.no_grad():
        parts = [
            generator.unscaled(generator(some.to(device), of.to(device))).cpu()
            for some, of in zip(noise.split(batch), labels.split(batch), strict=True)
        ]
    return torch.cat(parts)
