"""Descend a loss: gradient descent on full, single or mini-batches, with momentum or Adam, for any network."""

from __future__ import annotations

import copy
import math
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from stages import progress
from stages.errors import DivergedError
from stages.training import checkpoint

CHECKPOINT = "last.ckpt"
#: Steps between two looks at whether the loss is still a number.
WATCHED = 100
#: A loss that has grown by this factor since the start, or since 1, counts as diverged before it overflows.
EXPLODED = 1e6
#: Mean loss of a batch: of what the network gives and the targets.
Loss = Callable[[Any, Tensor], Tensor]
#: Loss of a batch in training, of the network, inputs and targets.
Step = Callable[[nn.Module, Tensor, Tensor], Tensor]
#: Changes a batch of inputs at random.
Vary = Callable[[Tensor, torch.Generator], Tensor]


@dataclass(frozen=True)
class Descent:
    """How a loss is descended; the same seed gives the same weights, killed and gone on with or not."""

    epochs: int = 10
    #: Samples a step: None is full-batch gradient descent, 1 stochastic, anything else mini-batch.
    batch: int | None = 64
    #: momentum is the heavy ball of Polyak (1964); adam is Kingma and Ba (2015); adamw Loshchilov and Hutter (2019).
    optimiser: Literal["sgd", "momentum", "adam", "adamw"] = "adam"
    lr: float = 1e-3
    momentum: float = 0.9
    #: Of weights, not of biases, gains and shifts.
    weight_decay: float = 0.0
    #: constant; one-cycle: warm-up over 15 % of the steps, then half a cosine down to 0; cosine: without the warm-up.
    schedule: Literal["constant", "one-cycle", "cosine"] = "constant"
    #: Decay of the moving average of weights that is kept (Polyak and Juditsky 1992); 0 = off.
    average: float = 0.0
    #: Largest norm of the gradient.
    clip_gradient: float | None = None
    #: Weights that are kept: of the last epoch, or of the one of least held-out loss.
    keep: Literal["best", "last"] = "last"
    #: Epochs without a better held-out loss after which to stop.
    patience: int | None = None
    seed: int = 0


@dataclass
class Curves:
    """What was measured after every epoch; the held-out ones are empty without held-out samples."""

    #: Mean over the epoch of the loss as it was descended.
    loss: list[float] = field(default_factory=list)
    held_loss: list[float] = field(default_factory=list)
    #: Share of the held-out samples put in a wrong class; empty where targets are no classes.
    held_error: list[float] = field(default_factory=list)
    #: Spent on training since its start.
    seconds: list[float] = field(default_factory=list)


def descend(
    network: nn.Module, inputs: Tensor, targets: Tensor, descent: Descent, *,
    held: tuple[Tensor, Tensor] | None = None,
    loss: Loss = cross_entropy, step: Step | None = None, vary: Vary | None = None,
    folder: Path | None = None, device: str = "cpu",
) -> Curves:  # fmt: skip
    """Train ``network`` in place and say how it went.

    Args:
        network: takes a batch of inputs.
        inputs: (n, ...).
        targets: (n, ...); int64 (n,) where they are classes.
        descent: how.
        held: inputs and targets that are only looked at, after every epoch.
        loss: mean loss of a batch, of what the network gives and the targets.
        step: gives the loss of a batch in training instead, where a network needs the targets itself.
        vary: changes a batch of inputs at random, drawing from the generator alone.
        folder: where the checkpoint of the last epoch is kept and gone on from; none is kept without it.
        device: where it is computed; the network stays there.

    Raises:
        DivergedError: a loss or a weight is no longer a number, or the loss has grown a millionfold; the network has
            the weights of the last epoch before, and the checkpoint is of that epoch.
    """
    assert len(inputs) == len(targets) > 0, f"{len(inputs)} inputs have {len(targets)} targets"
    assert held is not None or (descent.keep == "last" and descent.patience is None), "the best is told by held samples"
    run = _Run(network.to(device), inputs.to(device), targets.to(device), descent)
    if folder is not None:
        folder.mkdir(parents=True, exist_ok=True)
        run.go_on_from(folder / CHECKPOINT)
    while not run.finished():
        started = time.monotonic()
        run.epoch(step or (lambda network, inputs, targets: loss(network(inputs), targets)), vary)
        run.note(time.monotonic() - started, held, loss)
        if folder is not None:
            run.keep(folder / CHECKPOINT)
        progress.report("training", len(run.curves.loss), descent.epochs)
    network.load_state_dict(run.best if descent.keep == "best" else run.averaged.state_dict())
    return run.curves


def predict(network: nn.Module, inputs: Tensor, batch: int = 1000) -> Tensor:
    """Give what the network says in use, on the CPU: (n, ...) -> (n, classes); its mode stays as it is."""
    device, training = next(network.parameters()).device, network.training
    network.eval()
    with torch.no_grad():
        found = torch.cat([network(part.to(device)).cpu() for part in inputs.split(batch)])
    network.train(training)
    return found


def share(step: int, total: int, schedule: str) -> float:
    """Share of the largest learning rate at a step of ``total``; see `Descent`."""
    if schedule == "constant":
        return 1.0
    warm = 0.15 * total if schedule == "one-cycle" else 0.0
    if step < warm:
        return (step + 1) / (warm + 1)
    return 0.5 * (1.0 + math.cos(math.pi * (step - warm) / max(total - warm, 1.0)))


class _Run:
    """A training between two epochs: everything that a checkpoint holds."""

    def __init__(self, network: nn.Module, inputs: Tensor, targets: Tensor, descent: Descent) -> None:
        self.network, self.inputs, self.targets, self.descent = network, inputs, targets, descent
        self.optimiser = _optimiser(network, descent)
        self.averaged = copy.deepcopy(network).requires_grad_(False) if descent.average else network
        # Batches of nearly equal size: a last one of a single sample has no statistics to normalise by.
        self.steps = -(-len(inputs) // (descent.batch or len(inputs)))
        self.curves, self.best = Curves(), _copied(network)
        #: Loss of the very first step.
        self.first: float | None = None

    def finished(self) -> bool:
        """Whether all epochs are done, or the held-out loss has not fallen for long enough."""
        done, losses = len(self.curves.loss), self.curves.held_loss
        since = done - 1 - losses.index(min(losses)) if losses else 0
        return done >= self.descent.epochs or (self.descent.patience is not None and since >= self.descent.patience)

    def epoch(self, step: Step, vary: Vary | None) -> None:
        """Go over all samples once, in an order of the epoch's own.

        Raises:
            DivergedError: a loss or a weight is no longer a number, or the loss has exploded.
        """
        done, good = len(self.curves.loss), _copied(self.averaged)
        draw = torch.Generator().manual_seed(hash((self.descent.seed, done)) % 2**63)
        order = torch.randperm(len(self.inputs), generator=draw).to(self.inputs.device)
        total, seen = torch.zeros((), device=self.inputs.device), 0
        self.network.train()
        # Dropout draws from torch's own generator, which must not depend on what was done before the epoch.
        with torch.random.fork_rng():
            torch.manual_seed(draw.initial_seed())
            for number, at in enumerate(order.tensor_split(self.steps)):
                inputs = self.inputs[at] if vary is None else vary(self.inputs[at], draw)
                found = step(self.network, inputs, self.targets[at])
                self._move(found, done * self.steps + number)
                total, seen = total + found.detach() * len(at), seen + len(at)
                if (number % WATCHED == 0 or seen == len(order)) and not self._sound(float(total) / seen):
                    self.network.load_state_dict(good)
                    raise DivergedError(_diverged(self.descent, done))
        self.curves.loss.append(float(total) / seen)

    def _sound(self, mean: float) -> bool:
        """Whether the mean loss of the epoch so far and all weights are numbers, and the loss has not exploded."""
        self.first = mean if self.first is None else self.first
        weights = all(bool(weight.isfinite().all()) for weight in self.network.parameters())
        return weights and math.isfinite(mean) and abs(mean) <= EXPLODED * max(1.0, abs(self.first))

    def _move(self, loss: Tensor, number: int) -> None:
        """Take the step of that number, counted from the start of the training."""
        for group in self.optimiser.param_groups:
            group["lr"] = self.descent.lr * share(number, self.descent.epochs * self.steps, self.descent.schedule)
        self.optimiser.zero_grad(set_to_none=True)
        loss.backward()
        if self.descent.clip_gradient is not None:
            nn.utils.clip_grad_norm_(self.network.parameters(), self.descent.clip_gradient)
        self.optimiser.step()
        if self.descent.average:
            # Faster in the beginning, when the average is still old.
            decay = min(self.descent.average, (number + 1) / (number + 10))
            with torch.no_grad():
                for mean, now in zip(
                    self.averaged.state_dict().values(), self.network.state_dict().values(), strict=True
                ):
                    mean.lerp_(now, 1.0 - decay) if mean.is_floating_point() else mean.copy_(now)

    def note(self, seconds: float, held: tuple[Tensor, Tensor] | None, loss: Loss) -> None:
        """Note what the epoch took and how the weights that would be kept do on held-out samples."""
        curves = self.curves
        curves.seconds.append(seconds + (curves.seconds[-1] if curves.seconds else 0.0))
        if held is None:
            return
        found, targets = predict(self.averaged, held[0]), held[1].cpu()
        curves.held_loss.append(float(loss(found, targets)))
        if not targets.is_floating_point():
            curves.held_error.append(float((found.argmax(dim=1) != targets).double().mean()))
        if curves.held_loss[-1] == min(curves.held_loss):
            self.best = _copied(self.averaged)

    def keep(self, path: Path) -> None:
        """Write the checkpoint over the last one, whole or not at all."""
        checkpoint.save({**self._state(), "origin": self._origin()}, path)

    def go_on_from(self, path: Path) -> None:
        """Take up a checkpoint of the same data, network and settings; any other counts as none."""
        state = checkpoint.load_own(path, self._origin(), self.inputs.device)
        if state is None or len(state["curves"]["loss"]) > self.descent.epochs:
            return
        self.network.load_state_dict(state["network"])
        self.averaged.load_state_dict(state["averaged"])
        self.optimiser.load_state_dict(state["optimiser"])
        self.best, self.curves, self.first = state["best"], Curves(**state["curves"]), state["first"]

    def _state(self) -> dict[str, Any]:
        parts = {name: getattr(self, name).state_dict() for name in ("network", "averaged", "optimiser")}
        return {**parts, "best": self.best, "first": self.first, "curves": asdict(self.curves)}

    def _origin(self) -> dict[str, Any]:
        """Say what a checkpoint must agree with; a constant rate does not depend on how many epochs there will be."""
        settings = {**asdict(self.descent), "patience": None}
        if self.descent.schedule == "constant":
            settings["epochs"] = None
        sums = [[*of.shape, float(of.sum(dtype=torch.float64))] for of in (self.inputs, self.targets)]
        return {
            "settings": settings,
            "data": sums,
            "network": [list(w.shape) for w in self.network.state_dict().values()],
        }


def _optimiser(network: nn.Module, descent: Descent) -> torch.optim.Optimizer:
    """Build the optimiser; only weights decay."""
    parameters = [weight for weight in network.parameters() if weight.requires_grad]
    groups = [
        {"params": [weight for weight in parameters if weight.ndim > 1], "weight_decay": descent.weight_decay},
        {"params": [weight for weight in parameters if weight.ndim <= 1], "weight_decay": 0.0},
    ]
    # In one pass over the weights, which small networks with small batches wait for most.
    fused = all(weight.device.type in ("cpu", "cuda") for weight in parameters)
    if descent.optimiser in ("sgd", "momentum"):
        momentum = descent.momentum if descent.optimiser == "momentum" else 0.0
        return torch.optim.SGD(groups, descent.lr, momentum, fused=fused)
    kind = torch.optim.Adam if descent.optimiser == "adam" else torch.optim.AdamW
    return kind(groups, descent.lr, fused=fused)


def _copied(network: nn.Module) -> dict[str, Tensor]:
    return {name: tensor.clone() for name, tensor in network.state_dict().items()}


def _diverged(descent: Descent, done: int) -> str:
    """Say in which epoch a training diverged, and name the setting that most likely made it."""
    usual = {"sgd": 0.1, "momentum": 0.01, "adam": 1e-3, "adamw": 1e-3}[descent.optimiser]
    if descent.optimiser == "momentum" and descent.momentum >= 0.99:
        advice = f"lower momentum from {descent.momentum:g} to 0.9"
    elif descent.lr > usual:
        advice = f"lower lr from {descent.lr:g} to {usual:g}"
    elif descent.clip_gradient is None:
        advice = f"set clip_gradient to 1, or lower lr from {descent.lr:g}"
    else:
        advice = f"lower lr from {descent.lr:g}, or look for inputs that are not numbers or far outside the others"
    kept = f"the weights of epoch {done} are kept" if done else "the weights are those of the start"
    return (
        f"The training diverged in epoch {done + 1} of {descent.epochs}: its loss has exploded or is no longer "
        f"a number; {kept}: {advice}."
    )
