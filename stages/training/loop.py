"""Fit a network on chips: Lightning drives, validation after every epoch decides which weights are kept."""

from __future__ import annotations

import copy
import logging
import warnings
from dataclasses import replace
from pathlib import Path
from statistics import median_high
from typing import Any

import lightning
import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.data import DataLoader, Dataset

from stages import progress
from stages.errors import DivergedError, ModelError, SettingError
from stages.formats.samples import UNLABELLED
from stages.formats.weights import ONNX, WEIGHTS
from stages.models.classifier import Classifier, Committee
from stages.models.differences import Differenced
from stages.models.rebuild import Description, describe
from stages.models.table import NETWORKS, OF_CHIPS, SERIES
from stages.models.views import VIEWS, seen, seen_back
from stages.training import augmentation, calibration, devices
from stages.training.attack import projected_gradient
from stages.training.checkpoint import load
from stages.training.chip_draw import drawn
from stages.training.chips import Ahead, Batch, Chips, feed
from stages.training.descent import Descent
from stages.training.fitted import Found, Hardware, Task
from stages.training.ground import Ground
from stages.training.held import Held
from stages.training.onnx_file import export_module, save_weights
from stages.training.pretraining import acquaint, refuse_pretraining
from stages.training.pseudo import guessed
from stages.training.recipes import DatedRecipe, Recipe

CHECKPOINT = "last.ckpt"
#: Where the processes of one training find their work, and where they say that it diverged.
SHARED, DIVERGED = "processes", "diverged.txt"
#: Optimiser steps after which a training is looked at for numbers that are none.
WATCHED = 20
_logger = logging.getLogger(__name__)


class FittedNetwork:
    """A trained network, or several averaged, in its frame."""

    def __init__(self, members: list[Classifier], tta: bool, found: Found, network: Description | None = None) -> None:
        self.classifier = (Committee(members) if len(members) > 1 else members[0]).eval()
        self.tta = tta
        self.found = found
        self.normalise = members[0].normalise
        self.network = {**network, "members": len(members)} if network else {}
        self.margin = int(members[0].network.margin)  # type: ignore[arg-type]
        self.stride = int(members[0].network.stride)  # type: ignore[arg-type]

    def logits(self, held: Held) -> np.ndarray:
        """Logits of the held-out pixels: (views, pixels, class)."""
        views = VIEWS if self.tta else VIEWS[:1]
        return np.stack([np.concatenate(list(_predict(self.classifier, held, *view))) for view in views])

    def export(self, folder: Path) -> None:
        """Write `model.onnx` and `weights.safetensors`."""
        plain = self.classifier.to(memory_format=torch.contiguous_format)  # type: ignore[call-overload]
        export_module(plain, self.normalise, self.stride, folder / ONNX)
        save_weights(plain, folder / WEIGHTS)


def build(kind: str, ground: Ground, recipe: Recipe, seed: int) -> Classifier:
    """Make an untrained network in its frame; the same seed gives the same weights."""
    torch.manual_seed(seed)
    differences = recipe.differences if isinstance(recipe, DatedRecipe) else ()
    network = {**NETWORKS, **SERIES, **OF_CHIPS}[kind](**_arguments(kind, ground, recipe))
    return Classifier(ground.normalise(recipe.clip, differences, by_band=kind in SERIES), network, ground.split.classes)


def _made(kind: str, ground: Ground, recipe: Recipe, task: Task) -> Classifier:
    """Make a network that is ready to train, with ``pretrain`` one that has seen the ground without its labels."""
    classifier = build(kind, ground, recipe, task.seed)
    if recipe.pretrain:
        refuse_pretraining(kind)
        given = _arguments(kind, ground, recipe)
        body = NETWORKS[kind](**{**given, "classes": given["channels"]})
        descent = Descent(recipe.pretrain, batch=8, lr=2e-3, schedule="one-cycle", seed=task.seed)
        on_gpu = task.hardware.device in ("auto", "gpu", "cuda") and torch.cuda.is_available()
        acquaint(
            classifier, body, ground, descent, folder=task.folder / "pretraining", device="cuda" if on_gpu else "cpu"
        )  # fmt: skip
    return classifier


def _arguments(kind: str, ground: Ground, recipe: Recipe) -> dict[str, Any]:
    """Give the keyword arguments that the network of a recipe is built with."""
    split, features = ground.split, 1 + len(recipe.differences if isinstance(recipe, DatedRecipe) else ())
    if kind in SERIES:
        sizes = {"bands": split.bands * features, "steps": split.tiles.steps}
    else:
        sizes = {"channels": len(split.channels) * features}
    if kind in OF_CHIPS:
        assert split.tiles.cells is not None, "classifiers of chips are fitted to chips"
        sizes["side"] = split.tiles.cells.side
    return {**sizes, "classes": split.classes, **recipe.shape()}


def fit_network(kind: str, ground: Ground, held: Held | None, recipe: Recipe, task: Task) -> FittedNetwork:
    """Train a network; with ``pseudo`` also its teacher first, whose labels of the ground without any it learns from.

    Raises:
        DivergedError: a loss or a weight is no longer a number; the last good checkpoint stays in ``task.folder``.
    """
    if task.chosen:
        recipe = recipe.model_copy(update={"epochs": int(task.chosen["epochs"])})
    if recipe.pseudo:
        before = replace(task, folder=task.folder / "teacher", name=f"{task.name} (teacher)")
        teacher = _fit(kind, ground, held, recipe, before)
        ground = guessed(ground, teacher.classifier, recipe.pseudo, task.folder / "guessed")
    return _fit(kind, ground, held, recipe, task)


def _fit(kind: str, ground: Ground, held: Held | None, recipe: Recipe, task: Task) -> FittedNetwork:
    """Train every member; they differ in the seed of their weights, chips and dropout only."""
    members: list[Classifier] = []
    epochs: list[int] = []
    curves: dict[str, list[float]] = {}
    for number in range(recipe.members):
        folder, seed = task.folder / str(number), task.seed + 7919 * number
        name = task.name if recipe.members == 1 else f"{task.name} {number + 1} of {recipe.members}"
        training = _trained(kind, ground, held, recipe, replace(task, folder=folder, seed=seed, name=name))
        members.append(training.kept())
        epochs.append(training.best_epoch + 1)
        curves |= {
            curve if number == 0 else f"{curve} ({number + 1})": values for curve, values in training.curves.items()
        }
    network = describe(kind, _arguments(kind, ground, recipe), members[0].normalise)
    return FittedNetwork(members, recipe.average_turns, Found({"epochs": median_high(epochs)}, curves), network)


def _trained(kind: str, ground: Ground, held: Held | None, recipe: Recipe, task: Task) -> Training:
    """Train one network, going on from the checkpoint in ``task.folder`` where a killed run left one."""
    task = replace(task, hardware=counted(task.hardware))
    training = Training(_made(kind, ground, recipe, task), ground, held, recipe, task)
    checkpoint = load(task.folder / CHECKPOINT)
    resume = checkpoint is not None
    if task.hardware.processes > 1 and not (checkpoint is not None and checkpoint["finished"]):
        given = kind, ground, held, recipe, replace(task, measure=_unasked), resume
        _together(given, task)
        checkpoint = load(task.folder / CHECKPOINT)
        assert checkpoint is not None, "every epoch leaves a checkpoint"
        assert checkpoint["finished"], "the processes ended before the training did"
    if checkpoint is not None and checkpoint["finished"]:
        training.load_state_dict(checkpoint["state_dict"])
        training.on_load_checkpoint(checkpoint)
    else:
        _run(training, task, resume)
    return training


def _together(given: tuple[Any, ...], task: Task) -> None:
    """Train in several processes; what made one of them diverge is told as it would be told in this one."""
    told = task.folder / DIVERGED
    told.unlink(missing_ok=True)
    try:
        devices.together(_run_shared, given, task.hardware, task.name, task.folder / SHARED)
    except ModelError as fault:
        if told.is_file():
            raise DivergedError(told.read_text(encoding="utf-8")) from fault
        raise


def _run_shared(kind: str, ground: Ground, held: Held | None, recipe: Recipe, task: Task, resume: bool) -> None:  # noqa: PLR0917
    """Train one network as one of several processes, up to the checkpoint of the last epoch."""
    _run(Training(_made(kind, ground, recipe, task), ground, held, recipe, task), task, resume)


def _unasked(*_: np.ndarray) -> float:
    """Stand for the measure in other processes: a network is decided on by its validation loss."""
    raise AssertionError("a network asks for no measure")


def _run(training: Training, task: Task, resume: bool) -> None:
    """Hand the training to Lightning, without its chatter."""
    _hush()
    recipe = training.recipe
    with warnings.catch_warnings():
        # Loading in a worker process would cost more than cutting a chip does; a run goes on in its old folder; under
        # SLURM this process starts the others itself.
        for text in (
            ".*does not have many workers.*",
            ".*LeafSpec.*",
            ".*exists and is not empty.*",
            ".*in eval mode.*",
            ".*`srun` command is available.*",
        ):
            warnings.filterwarnings("ignore", text)
        trainer = _trainer(
            task.hardware, under_slurm=task.hardware.nodes > 1,
            max_epochs=recipe.epochs, gradient_clip_val=recipe.clip_gradient, num_sanity_val_steps=0,
            reload_dataloaders_every_n_epochs=1, deterministic="warn", default_root_dir=str(task.folder),
        )  # fmt: skip
        path = str(task.folder / CHECKPOINT) if resume else None
        trainer.fit(training, ckpt_path=path, weights_only=True)


def _hush() -> None:
    """Keep Lightning from telling what hardware it found and what else its makers offer."""
    logging.getLogger("lightning.pytorch").setLevel(logging.WARNING)


def _trainer(hardware: Hardware, under_slurm: bool = False, **more: Any) -> Any:
    """Make Lightning's trainer; which process this is it is told, and does not guess from where it finds itself."""
    from lightning.fabric.plugins.environments import LightningEnvironment, SLURMEnvironment

    return lightning.Trainer(
        accelerator=hardware.device, devices=hardware.devices, num_nodes=hardware.nodes,
        strategy="auto" if (hardware.devices, hardware.nodes) == (1, 1) else hardware.strategy,
        precision=hardware.precision, accumulate_grad_batches=hardware.accumulate,
        plugins=[SLURMEnvironment(auto_requeue=False) if under_slurm else LightningEnvironment()],
        # Every process cuts its own share of a batch, and says itself what it has come to.
        use_distributed_sampler=False, logger=False, enable_checkpointing=False, enable_progress_bar=False,
        enable_model_summary=False, **more,
    )  # fmt: skip


def check_hardware(hardware: Hardware) -> Hardware:
    """Refuse devices, nodes or a precision that there are not, before any work is done; counts devices "auto".

    Raises:
        SettingError: Lightning cannot train with them here.
    """
    from lightning.fabric.utilities.exceptions import MisconfigurationException

    _hush()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            trainer = _trainer(hardware)
            _try_out(trainer, hardware)
    except (MisconfigurationException, ImportError, ValueError, RuntimeError, TypeError) as fault:
        reason = " ".join(str(fault).split()).rstrip(".")
        several = "" if hardware.devices == 1 else f" and train.devices {hardware.devices}"
        raise SettingError(
            f"train.device {hardware.device} with train.precision {hardware.precision}{several} cannot be used on this "
            f"machine ({reason}); take device auto, devices 1 and precision 32-true."
        ) from fault
    found = replace(hardware, devices=int(trainer.num_devices))
    devices.check_nodes(found)
    return found


def counted(hardware: Hardware) -> Hardware:
    """Put the number of devices of this machine in place of "auto"."""
    return check_hardware(hardware) if hardware.devices == "auto" else hardware


def _try_out(trainer: Any, hardware: Hardware) -> None:
    """Take one step of the smallest network in the precision asked for.

    Raises:
        ValueError: Lightning would take another precision, or start processes that do not each hold the network.
        RuntimeError: the device cannot compute with it.
    """
    from lightning.pytorch.strategies import DDPStrategy

    if hardware.precision in ("16", "16-mixed") and trainer.precision == "bf16-mixed":
        raise ValueError("it computes mixed with bfloat16 only; bf16-mixed says so")
    several = trainer.world_size > 1
    if several and not isinstance(trainer.strategy, DDPStrategy):
        raise ValueError(f"several of them need {type(trainer.strategy).__name__}, which is not provided for")
    device = trainer.strategy.root_device
    if several and device.type == "cuda":
        return  # each device belongs to the process that will train on it
    precision = trainer.precision_plugin
    network = precision.convert_module(nn.Conv2d(1, 1, 1)).to(device)
    with precision.train_step_context():
        network(precision.convert_input(torch.ones(1, 1, 2, 2)).to(device)).sum().backward()


class Training(lightning.LightningModule):
    """One network's training; all chance depends on the seed, the epoch and the step only, so that it can go on."""

    shown: Tensor
    weights: Tensor

    def __init__(self, classifier: Classifier, ground: Ground, held: Held | None, recipe: Recipe, task: Task) -> None:
        super().__init__()
        self.classifier = classifier.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        #: Moving average of the weights (Polyak and Juditsky 1992): what validation sees and what is kept.
        self.averaged: Classifier = copy.deepcopy(self.classifier).requires_grad_(False).eval()
        self._data = (ground, held)
        self.recipe = recipe
        self.task = task
        self.pixels = ground.pixels().astype(np.float64)
        weights = calibration.class_weights(recipe.class_weights, self.pixels)
        self.register_buffer("weights", torch.from_numpy(weights).float())
        self.register_buffer("shown", torch.zeros(len(weights), dtype=torch.int64))
        self.best: dict[str, Tensor] = {}
        self.best_loss, self.best_epoch = float("inf"), -1
        self.curves: dict[str, list[float]] = {"training loss": []}
        if held is not None:
            self.curves |= {"validation loss": [], "validation accuracy": []}
        self._losses: list[Tensor] = []
        self._chips: Chips | None = None

    def train_dataloader(self) -> DataLoader[Batch] | Ahead:
        """Draw the chips of the current epoch; of several processes each gets its share of every batch."""
        recipe = self.recipe.model_copy(update={"steps": self.recipe.steps * self.task.hardware.accumulate})
        self._chips = self._chips or drawn(self._data[0], recipe, self.task.seed, 0)
        chips: Dataset[Batch] = self._chips.of_epoch(self.current_epoch)
        if self.trainer.world_size > 1:
            chips = Share(chips, share(recipe.batch, self.global_rank, self.trainer.world_size))
        return feed(chips, self.task.hardware.workers)

    def configure_optimizers(self) -> Any:
        """AdamW without decay of gains, shifts and biases; the learning rate moves every step."""
        parameters = list(self.classifier.parameters())
        groups = [
            {"params": [p for p in parameters if p.ndim > 1], "weight_decay": self.recipe.weight_decay},
            {"params": [p for p in parameters if p.ndim <= 1], "weight_decay": 0.0},
        ]
        optimizer = torch.optim.AdamW(groups, lr=self.recipe.lr)
        total = self.recipe.epochs * self.recipe.steps
        schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: rate(step, total, self.recipe.schedule))
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}

    def training_step(self, batch: Batch, step: int) -> Tensor:
        """Cross-entropy of the labelled pixels of a batch.

        Of several processes each gives its part of the sum over the whole batch, times their number, as Lightning
        takes the mean of their gradients: so it is the gradient that one process would find.
        """
        image, valid, days, labels = batch
        valid = valid.to(image)
        # Dropout and augmentation draw from the step's own seed, so that a step is the same after a restart.
        own = (self.global_rank,) if self.global_rank else ()
        seed = hash((self.task.seed, self.current_epoch, step, *own)) % 2**63
        torch.manual_seed(seed)
        draw = torch.Generator().manual_seed(seed)
        if self.recipe.hide > 0:
            valid = augmentation.hide(valid.cpu(), self.recipe.hide, draw).to(valid)
            labels = torch.where(valid.amax(dim=1) > 0, labels, UNLABELLED)
        if isinstance(self.recipe, DatedRecipe):
            image, valid = augmentation.vary_series((image, valid, days), self.recipe, self._channels(), draw)
        if self.recipe.adversarial > 0:
            image = self._attacked(image, valid, days, labels, draw)
        varied = self._normalised(image, valid, draw)
        logits = self.classifier.answer(varied.contiguous(memory_format=torch.channels_last), valid, days)
        labelled = labels != UNLABELLED
        chosen, reference = logits.permute(0, 2, 3, 1)[labelled], labels[labelled].long()
        counts = torch.bincount(reference, minlength=len(self.shown))
        everywhere = self._summed(counts)
        self.shown += everywhere
        if len(reference) == 0:
            loss: Tensor = logits.sum() * 0.0
        else:
            loss = functional.cross_entropy(chosen, reference, self.weights, label_smoothing=self.recipe.smoothing)
            loss = loss * ((counts * self.weights).sum() / (everywhere * self.weights).sum())
        if everywhere.any():
            self._losses.append(loss.detach())
        whole: Tensor = loss * self.trainer.world_size
        return whole

    def _attacked(self, image: Tensor, valid: Tensor, days: Tensor, labels: Tensor, draw: torch.Generator) -> Tensor:
        """Attack some chips of a batch, and leave the others (Goodfellow et al. 2015; all of them: Madry et al. 2018).

        The network answers as it does in use: dropout would hide the slope, and attacked chips are no statistics.
        """
        recipe, count = self.recipe, max(1, round(self.recipe.attacked * len(image)))
        some = torch.randperm(len(image), generator=draw)[:count].to(image.device)
        strength = recipe.adversarial * self.classifier.normalise.deviation

        def answer(attacked: Tensor) -> Tensor:
            scaled = self.classifier.normalise(attacked, valid[some]).contiguous(memory_format=torch.channels_last)
            logits: Tensor = self.classifier.answer(scaled, valid[some], days[some])
            return logits

        self.classifier.eval()
        found = projected_gradient(
            answer, image[some], labels[some].long(), strength, steps=recipe.attack_steps, draw=draw
        )  # fmt: skip
        self.classifier.train()
        return image.index_copy(0, some, found.to(image))

    def _summed(self, values: Tensor) -> Tensor:
        """Sum over all processes."""
        if self.trainer.world_size == 1:
            return values
        total = values.clone()
        torch.distributed.all_reduce(total)
        return total

    def _channels(self) -> augmentation.Channels:
        """Say what the channels of the image are."""
        split, normalise = self._data[0].split, self.classifier.normalise
        of_channel = torch.tensor(split.picked, device=normalise.steps.device)
        return augmentation.Channels(normalise.steps, of_channel % len(split.tiles.bands), normalise.deviation)

    def _normalised(self, image: Tensor, valid: Tensor, draw: torch.Generator) -> Tensor:
        """Normalise and vary an image; its differences are those of the varied values."""
        normalise = self.classifier.normalise
        shown = normalise.shown(valid)
        if isinstance(normalise, Differenced):
            return normalise.append(augmentation.vary(normalise.scaled(image, valid), shown, self.recipe, draw), valid)
        return augmentation.vary(normalise(image, valid), shown, self.recipe, draw)

    def on_train_batch_end(self, *_: Any) -> None:
        """Move the average towards the weights; faster in the beginning, when the average is still old."""
        done = self.global_step
        decay = min(self.recipe.average, (done + 1) / (done + 10)) if self.recipe.average else 0.0
        with torch.no_grad():
            for mean, now in zip(
                self.averaged.state_dict().values(), self.classifier.state_dict().values(), strict=True
            ):
                mean.lerp_(now, 1.0 - decay)
        if done % WATCHED == 0:
            self._stop_if_diverged()

    def _stop_if_diverged(self) -> None:
        """End the training where a loss or a weight is no longer a number, before a checkpoint holds it.

        Raises:
            DivergedError: one is, in this process or another.
        """
        losses = torch.stack(self._losses) if self._losses else torch.zeros(1, device=self.shown.device)
        weights = torch.stack([weight.detach().isfinite().all() for weight in self.classifier.parameters()])
        lost = self._summed(torch.stack([~losses.isfinite().all(), ~weights.all()]).long())
        if not lost.any():
            return
        before = self.curves["training loss"]
        what = "its loss is no longer a number" if lost[0] else "its weights are no longer numbers"
        last = f", after a loss of {before[-1]:.3g} in the epoch before" if before else ""
        kept = f"; the checkpoint of epoch {len(before)} is kept" if before else ""
        text = (
            f"The training of {self.task.name} diverged in epoch {self.current_epoch + 1} of {self.recipe.epochs}: "
            f"{what}{last}; {suspect(self.recipe, self.task)}{kept}."
        )
        if self.trainer.world_size > 1:
            aside = self.task.folder / f"{DIVERGED}.{self.global_rank}"
            aside.write_text(text, encoding="utf-8")
            aside.replace(self.task.folder / DIVERGED)
        raise DivergedError(text)

    def on_train_epoch_end(self) -> None:
        """Validate, keep the best weights, or the last, and say whether it is worth going on."""
        self._stop_if_diverged()
        losses = self._summed(torch.stack(self._losses)).mean() if self._losses else 0.0
        self.curves["training loss"].append(float(losses))
        self._losses.clear()
        held = self._data[1]
        loss = self._validated(held) if held is not None else -float(self.current_epoch)
        if self.recipe.keep == "last" and np.isfinite(loss):
            loss = -float(self.current_epoch)
        if loss < self.best_loss:
            self.best_loss, self.best_epoch = loss, self.current_epoch
            self.best = {name: tensor.clone() for name, tensor in self.corrected().state_dict().items()}
        if self.current_epoch - self.best_epoch >= self.recipe.patience:
            self.trainer.should_stop = True
        self._keep_going_point()
        if self.trainer.is_global_zero:
            progress.report(self.task.name, self.current_epoch + 1, self.recipe.epochs)

    def _keep_going_point(self) -> None:
        """Write the checkpoint of this epoch over the last one, whole or not at all."""
        path = self.task.folder / CHECKPOINT
        self.trainer.save_checkpoint(path.with_suffix(".new"))
        if self.trainer.is_global_zero:
            path.with_suffix(".new").replace(path)

    def _validated(self, held: Held) -> float:
        """Validate in the first process alone, so that all go by the very same loss, and note it down."""
        found = self._validate(held) if self.trainer.is_global_zero else (0.0, 0.0)
        loss, accuracy = self.trainer.strategy.broadcast(found)
        self.curves["validation loss"].append(loss)
        self.curves["validation accuracy"].append(accuracy)
        return float(loss)

    def _validate(self, held: Held) -> tuple[float, float]:
        """Mean loss on the held-out pixels, after the correction to the training prior, and the share that is right."""
        classifier = self.corrected()
        total, right, pixels = 0.0, 0, 0
        at = [window.any() for window in held.at]
        references = [held.labels[i][held.at[i]] for i in np.flatnonzero(at)]
        for logits, reference in zip(_predict(classifier, held), references, strict=True):
            total += calibration.loss(logits[None], reference, 1.0) * len(reference)
            right += int((logits.argmax(axis=1) == reference).sum())
            pixels += len(reference)
        # Plain numbers: a checkpoint with any other type is refused on loading.
        return float(total / pixels), float(right / pixels)

    def corrected(self) -> Classifier:
        """Give the averaged network with the correction for the class shares it was shown and weighted with."""
        shown = self.shown.cpu().numpy() * self.weights.cpu().numpy().astype(np.float64)
        self.averaged.correction.copy_(torch.from_numpy(calibration.prior_correction(self.pixels, shown)))
        return self.averaged

    def kept(self) -> Classifier:
        """Give the weights of the best or the last epoch, on the CPU.

        Raises:
            DivergedError: there is none, as no epoch's loss was a number.
        """
        if not self.best:
            raise DivergedError(
                f"The training of {self.task.name} diverged: its validation loss was never a number; "
                f"{suspect(self.recipe, self.task)}."
            )
        kept: Classifier = copy.deepcopy(self.averaged).cpu()
        kept.load_state_dict({name: tensor.cpu() for name, tensor in self.best.items()})
        return kept

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Add what deciding needs: plain numbers and tensors, so that no code is run on loading."""
        checkpoint["best"] = self.best
        checkpoint["decided"] = [self.best_loss, self.best_epoch]
        checkpoint["curves"] = self.curves
        checkpoint["finished"] = self.trainer.should_stop or self.current_epoch + 1 >= self.recipe.epochs

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Take up what `on_save_checkpoint` added."""
        self.best = checkpoint["best"]
        self.best_loss, self.best_epoch = checkpoint["decided"]
        self.curves = checkpoint["curves"]


def suspect(recipe: Recipe, task: Task) -> str:
    """Name the setting that most likely made a training diverge, and what to do about it."""
    section, usual = f"train.{task.name.split()[0]}", type(recipe).model_fields
    if recipe.lr > usual["lr"].default:
        return f"lower {section}.lr (or train.lr) from {recipe.lr:g} to {usual['lr'].default:g}"
    if not task.hardware.precision.startswith(("32", "64")):
        return f"set train.precision to 32-true instead of {task.hardware.precision}"
    if recipe.clip_gradient > usual["clip_gradient"].default:
        return f"lower {section}.clip_gradient from {recipe.clip_gradient:g} to {usual['clip_gradient'].default:g}"
    return (
        f"lower {section}.lr (or train.lr) below {recipe.lr:g}, or check the scenes for values far outside the others"
    )


class Share(Dataset[Batch]):
    """Some rows of every batch."""

    def __init__(self, batches: Dataset[Batch], rows: slice) -> None:
        self.batches, self.rows = batches, rows

    def __len__(self) -> int:
        return len(self.batches)  # type: ignore[arg-type]

    def __getitem__(self, step: int) -> Batch:
        image, valid, days, labels = self.batches[step]
        return image[self.rows], valid[self.rows], days[self.rows], labels[self.rows]


def share(batch: int, rank: int, processes: int) -> slice:
    """Give the rows of a batch that one of several processes trains on: all rows once, shares alike to within one."""
    return slice(rank * batch // processes, (rank + 1) * batch // processes)


def rate(step: int, total: int, schedule: str) -> float:
    """Share of the largest learning rate at a step: a linear warm-up over 15 % and a cosine to nearly 0."""
    if schedule == "constant":
        return min(1.0, (step + 1) / 30)
    warm = 0.15 * total
    if step < warm:
        return (step + 1) / max(warm, 1.0)
    return float(0.5 * (1.0 + np.cos(np.pi * (step - warm) / max(total - warm, 1.0))) + 1e-3)


def _predict(classifier: nn.Module, held: Held, turns: int = 0, mirrored: bool = False) -> Any:
    """Logits (pixels, class) of the held-out pixels of every window that has some, seen from one of eight views."""
    device = next(classifier.buffers()).device
    if held.together > 1:
        yield from _predict_together(classifier, held, (turns, mirrored), device)
        return
    for image, valid, days, at in zip(held.image, held.valid, held.days, held.at, strict=True):
        if not at.any():
            continue
        if held.alone:
            # Nothing else is looked at, so nothing else is computed.
            image, valid, at = image[:, at][:, None], valid[:, at][:, None], at[at][None]  # noqa: PLW2901
        shown = [torch.from_numpy(seen(array, turns, mirrored))[None].to(device) for array in (image, valid)]
        with torch.no_grad():
            when = torch.from_numpy(days)[None].to(device)
            found = classifier(shown[0].contiguous(memory_format=torch.channels_last), shown[1], when)[0]
        yield seen_back(found.float().cpu().numpy(), turns, mirrored)[:, at].T


def _predict_together(classifier: nn.Module, held: Held, view: tuple[int, bool], device: torch.device) -> Any:
    """Give what `_predict` gives, many small windows in one call."""
    chosen = np.flatnonzero(held.at.any(axis=(1, 2)))
    for some in np.array_split(chosen, -(-len(chosen) // held.together)):
        shown = [torch.from_numpy(seen(array[some], *view)).to(device) for array in (held.image, held.valid)]
        with torch.no_grad():
            when = torch.from_numpy(held.days[some]).to(device)
            found = classifier(shown[0].contiguous(memory_format=torch.channels_last), shown[1], when)
        for logits, at in zip(seen_back(found.float().cpu().numpy(), *view), held.at[some], strict=True):
            yield logits[:, at].T
