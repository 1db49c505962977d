"""One step after another of a generator against a discriminator, and what a checkpoint holds."""

from __future__ import annotations

import copy
import zlib
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from stages.errors import DivergedError
from stages.models.gan import Discriminator, Generator
from stages.training import checkpoint
from stages.training.generators.settings import LOSSES, Adversary


class Duel:
    """Generator and discriminator between two steps: everything that a checkpoint holds."""

    def __init__(self, data: Tensor, labels: Tensor, classes: int, settings: Adversary, device: str) -> None:
        self.settings, self.device, self.done = settings, device, 0
        shape = tuple(data.shape[1:])
        spectral = settings.loss != "wasserstein" if settings.spectral is None else settings.spectral
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(settings.seed)
            self.generator = Generator(shape, classes, settings.latent, settings.width, settings.bounded)
            self.critic = Discriminator(shape, classes, settings.width, settings.conditioning, spectral)
        _fit_scale(self.generator, data)
        self.generator.to(device)
        self.critic.to(device)
        self.averaged = copy.deepcopy(self.generator).requires_grad_(False).eval()
        self.pairs: list[tuple[Tensor, Tensor]] = [
            *zip(self.averaged.parameters(), self.generator.parameters(), strict=True),
            *zip(self.averaged.buffers(), self.generator.buffers(), strict=True),
        ]
        self.samples = self.generator.scaled(data.float().to(device)).contiguous()
        self.labels = labels.to(device)
        self.data = {"shape": list(data.shape), "classes": classes, "data": _sum(data), "labels": _sum(labels)}
        self.weights = _weights(labels, classes, settings.balanced)
        self.rates = {"generator": settings.lr, "critic": settings.lr_discriminator}
        self.optimisers = {
            name: torch.optim.Adam(getattr(self, name).parameters(), lr=rate, betas=settings.betas, fused=True)
            for name, rate in self.rates.items()
        }
        self.chance = torch.Generator().manual_seed(settings.seed)
        self.losses: list[list[float]] = []

    def step(self) -> None:
        """Move the discriminator, then the generator, then the average.

        Raises:
            DivergedError: a loss is not finite.
        """
        against, towards = LOSSES[self.settings.loss]
        for _ in range(self.settings.critic_steps):
            real, labels = self._batch()
            with torch.no_grad():
                drawn = self.generator(self._noise(), labels)
            # Both in one call: a tenth of the time of a small network is in the calls.
            of_real, of_drawn = self.critic(torch.cat([real, drawn]), labels.repeat(2)).chunk(2)
            loss = against(of_real, of_drawn)
            if self.settings.loss == "wasserstein":
                loss = loss + self.settings.penalty * self._steepness(real, drawn, labels)
            self._move("critic", loss)
        _, labels = self._batch()
        self.critic.requires_grad_(False)
        found = towards(self.critic(self.generator(self._noise(), labels), labels))
        self._move("generator", found)
        self.critic.requires_grad_(True)
        self.done += 1
        self.losses.append([float(loss.detach()), float(found.detach())])
        self._average()

    def _batch(self) -> tuple[Tensor, Tensor]:
        n = self.settings.batch
        at = torch.multinomial(self.weights, n, replacement=True, generator=self.chance).to(self.device)
        return self.samples[at], self.labels[at]

    def _noise(self) -> Tensor:
        return torch.randn(self.settings.batch, self.settings.latent, generator=self.chance).to(self.device)

    def _steepness(self, real: Tensor, drawn: Tensor, labels: Tensor) -> Tensor:
        """Mean squared deviation of the score's slope from 1, between real and drawn samples."""
        share = torch.rand(len(real), *[1] * (real.ndim - 1), generator=self.chance).to(self.device)
        between = torch.lerp(real, drawn, share).requires_grad_(True)
        slope = torch.autograd.grad(self.critic(between, labels).sum(), between, create_graph=True)[0]
        # The square root has no slope of its own at 0.
        length = (slope.flatten(1).square().sum(dim=1) + 1e-12).sqrt()
        return (length - 1.0).square().mean()

    def _move(self, name: str, loss: Tensor) -> None:
        if not torch.isfinite(loss):
            raise self._diverged(f"the loss of the {name} is {float(loss.detach())}")
        self.optimisers[name].zero_grad(set_to_none=True)
        loss.backward()
        self.optimisers[name].step()

    def _average(self) -> None:
        """Move the average towards the generator; faster in the beginning, when the average is still old."""
        decay = min(self.settings.average, self.done / (self.done + 10)) if self.settings.average else 0.0
        with torch.no_grad():
            for mean, now in self.pairs:
                mean.lerp_(now, 1.0 - decay) if mean.is_floating_point() else mean.copy_(now)

    def _parts(self) -> dict[str, nn.Module | torch.optim.Optimizer]:
        networks = {"generator": self.generator, "critic": self.critic, "averaged": self.averaged}
        return {**networks, **{f"{name} optimiser": value for name, value in self.optimisers.items()}}

    def _origin(self) -> dict[str, Any]:
        """Say what a checkpoint must agree with to be gone on with: all but how long and how often."""
        settings = {k: v for k, v in asdict(self.settings).items() if k not in ("steps", "keep_every")}
        return {**settings, "betas": list(self.settings.betas), **self.data}

    def _diverged(self, found: str) -> DivergedError:
        return DivergedError(
            f"The training of the generator diverged at step {self.done + 1}: {found}; the last good checkpoint is "
            "kept: lower lr and lr_discriminator, or look for values in the data that are far outside the others."
        )

    def keep(self, path: Path) -> None:
        """Write the checkpoint over the last one, whole or not at all.

        Raises:
            DivergedError: a weight is not finite.
        """
        if not all(
            torch.isfinite(weight).all() for net in (self.generator, self.critic) for weight in net.parameters()
        ):
            raise self._diverged("a weight is not finite")
        state = {name: part.state_dict() for name, part in self._parts().items()}
        own = {"done": self.done, "losses": self.losses, "chance": self.chance.get_state(), "origin": self._origin()}
        checkpoint.save({**state, **own}, path)

    def go_on_from(self, path: Path) -> None:
        """Take up a checkpoint of the same data and settings; any other counts as none."""
        state = checkpoint.load_own(path, self._origin(), self.device)
        if state is None or state["done"] > self.settings.steps:
            return
        for name, part in self._parts().items():
            part.load_state_dict(state[name])
        self.done, self.losses = state["done"], state["losses"]
        self.chance.set_state(state["chance"].cpu())


def _fit_scale(generator: Generator, data: Tensor) -> None:
    """Let the network's units be deviations from the mean of a channel, or -1 to 1 over its range if bounded."""
    axes = data.float().transpose(1, 2) if data.ndim == 3 else data.float()
    others = [0, *range(2, axes.ndim)]
    if generator.bounded:
        low, high = axes.amin(dim=others, keepdim=True)[0], axes.amax(dim=others, keepdim=True)[0]
        centre, scale = (low + high) / 2, (high - low) / 2
    else:
        centre = axes.mean(dim=others, keepdim=True)[0]
        scale = axes.std(dim=others, correction=0, keepdim=True)[0]
    generator.centre.copy_(centre)
    # A channel that never varies stays where it is.
    generator.scale.copy_(torch.where(scale > 0, scale, torch.ones_like(scale)))


def _sum(values: Tensor) -> int:
    """Give a check sum of the very bytes: a sum of values would depend on the number of threads."""
    return zlib.crc32(values.detach().cpu().contiguous().numpy().data)


def _weights(labels: Tensor, classes: int, balanced: bool) -> Tensor:
    """Give the chance of every sample to be drawn, up to a factor."""
    counts = torch.bincount(labels.cpu(), minlength=classes)
    return 1.0 / counts[labels.cpu()].double() if balanced else torch.ones(len(labels), dtype=torch.float64)
