"""Lecture 2: what convolution and pooling are good for, on handwritten digits; one network, and a committee of them."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from pipeline.course import data, plots
from pipeline.course.lecture import Lecture, Picture, Result

if TYPE_CHECKING:
    import torch
    from torch import Tensor, nn

    from stages.formats.idx import Digits
    from stages.training.descent import Curves

NUMBER, TITLE = "2", "Convolutional networks"
CIRESAN = (
    "D. Ciresan, U. Meier, J. Schmidhuber (2012): Multi-column Deep Neural Networks for Image Classification. CVPR"
)
LECUN = "Y. LeCun, L. Bottou, Y. Bengio, P. Haffner (1998): Gradient-Based Learning Applied to Document Recognition"
SIMARD = "P. Simard, D. Steinkraus, J. Platt (2003): Best Practices for Convolutional Neural Networks. ICDAR"
#: Of the 60,000 training digits these last ones are held out while settings are compared, and only then.
HELD = 10_000
#: Widths in pixels to which the members' digits are stretched (as the paper's columns); None: as they are.
WIDTHS = None, 12, 14, 16, 18


@dataclass(frozen=True)
class Plan:
    """How one network is built and trained."""

    stages: str = "32x5 pool 64 64 pool | 128"
    epochs: int = 18
    batch: int = 128
    lr: float = 4e-3
    dropout: float = 0.2
    #: How far digits are distorted: the affine limits of `Distortion`, and its elastic displacements in pixels.
    distort: bool = True
    elastic: float = 0.8
    #: Width in pixels to which every digit is stretched.
    width: int | None = None
    seed: int = 0


def run(folder: Path, full: bool, seed: int = 0) -> Lecture:
    """Train the lecture's networks: on the small digits, or in full on MNIST with a committee within three hours."""
    if full:
        digits = data.mnist()
        return _page(digits, folder / "mnist", Plan(seed=seed), members=20)
    plan = Plan("16 16 pool 32 | 64", epochs=30, batch=64, lr=1e-2, elastic=0.3, seed=seed)
    return _page(data.small_digits(seed), folder / "small", plan, members=3)


def images_of(images: np.ndarray) -> Tensor:
    """Bring images (n, y, x) of any range to 0..1: float32 (n, 1, y, x)."""
    import torch

    return torch.from_numpy(np.ascontiguousarray(images))[:, None].float() / float(images.max())


def stretched(images: Tensor, width: int) -> Tensor:
    """Stretch what is drawn in every image (n, 1, y, x) to a width in pixels, at most to twice its own."""
    import torch
    from torch.nn import functional

    n, _, _, wide = images.shape
    drawn = (images > 0).any(dim=2)[:, 0]
    first = drawn.float().argmax(dim=1)
    last = wide - 1 - drawn.flip(1).float().argmax(dim=1)
    maps = torch.eye(2, 3).repeat(n, 1, 1)
    # An upright 1 as wide as other digits would be a block.
    maps[:, 0, 0] = ((last - first + 1) / width).clamp(min=0.5)
    maps[:, 0, 2] = (first + last + 1) / wide - 1.0
    grid = functional.affine_grid(maps, list(images.shape), align_corners=False)
    return functional.grid_sample(images, grid, align_corners=False)


def trained(plan: Plan, images: Tensor, labels: Tensor, folder: Path | None) -> tuple[nn.Module, Curves]:
    """Train one network on images (n, 1, y, x) and their classes (n,), going on from ``folder``."""
    import torch

    from stages.models.convnet import ConvNet
    from stages.training.descent import Descent, descend
    from stages.training.distort import Distortion

    torch.manual_seed(plan.seed)
    network = ConvNet(
        1, 10, plan.stages, size=(images.shape[2], images.shape[3]), padded=images.shape[2] < 20, dropout=plan.dropout
    )
    scale = images.shape[2] / 28
    vary = Distortion(elastic=plan.elastic, shift=1.5 * scale) if plan.distort else None
    descent = Descent(
        plan.epochs, plan.batch, "adamw", plan.lr, weight_decay=0.01, schedule="one-cycle", average=0.998,
        seed=plan.seed,
    )  # fmt: skip
    network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    return network, descend(network, images, labels, descent, step=_step, vary=vary, folder=folder)


def _step(network: nn.Module, images: Tensor, labels: Tensor) -> Tensor:
    """Cross-entropy of a batch, convolved in bfloat16, which takes two thirds of the time."""
    import torch
    from torch.nn.functional import cross_entropy

    with torch.autocast(images.device.type, torch.bfloat16):
        logits = network(images)
    return cross_entropy(logits.float(), labels)


def likely(plan: Plan, digits: Digits, folder: Path) -> tuple[np.ndarray, Curves]:
    """Train one network and give its probabilities of the test digits, float32 (n, 10), and its curves."""
    from stages.training.descent import predict

    images, shown = images_of(digits.train_images), images_of(digits.test_images)
    if plan.width:
        images, shown = stretched(images, plan.width), stretched(shown, plan.width)
    network, curves = trained(plan, images, _classes(digits.train_labels), folder)
    return predict(network, shown).softmax(dim=1).numpy(), curves


def held_error(plan: Plan, digits: Digits, folder: Path) -> float:
    """Train on the first training digits and give the share of the held-out last ones that is put wrong."""
    part = held_out(digits, min(HELD, len(digits.train_images) // 5))
    return error_of(likely(plan, part, folder)[0], part.test_labels)


def held_out(digits: Digits, held: int) -> Digits:
    """Put the last training digits in place of the test digits, which are not looked at while settings are chosen."""
    images, labels = digits.train_images, digits.train_labels
    return replace(
        digits, train_images=images[:-held], train_labels=labels[:-held], test_images=images[-held:],
        test_labels=labels[-held:],
    )  # fmt: skip


def committee(plan: Plan, members: int, digits: Digits, folder: Path) -> list[tuple[np.ndarray, Curves]]:
    """Train the members of a committee, in turn of every width and each from a seed of its own; see `likely`."""
    # Digits of a few pixels do not bear it.
    widths = WIDTHS if digits.train_images.shape[2] >= 20 else (None,)
    plans = [replace(plan, width=widths[k % len(widths)], seed=plan.seed + k) for k in range(members)]
    return [likely(each, digits, folder / f"member-{k}") for k, each in enumerate(plans)]


def error_of(likely: np.ndarray, labels: np.ndarray) -> float:
    """Share of the digits whose most likely class (n, 10) is not theirs (n,)."""
    return float((likely.argmax(axis=1) != labels).mean())


def _classes(labels: np.ndarray) -> torch.Tensor:
    import torch

    return torch.from_numpy(labels.astype(np.int64))


def _page(digits: Digits, folder: Path, plan: Plan, members: int) -> Lecture:
    """Train and tell."""
    size = digits.train_images.shape[1]
    found = committee(plan, members, digits, folder)
    plain, curves = likely(replace(plan, distort=False), digits, folder / "undistorted")
    alone = [error_of(each, digits.test_labels) for each, _ in found]
    together = np.mean([each for each, _ in found], axis=0)
    growing = [
        100.0 * error_of(np.mean([each for each, _ in found[:k]], axis=0), digits.test_labels)
        for k in range(1, members + 1)
    ]
    wrong = np.flatnonzero(together.argmax(axis=1) != digits.test_labels)[:40]
    set_name, count = ("MNIST", "10,000") if size == 28 else ("small digits", f"{len(digits.test_labels):,}")
    seconds = found[0][1].seconds[-1]
    results = (
        Result(
            f"One network ({plan.stages}), test error on {count} {set_name}, seed {plan.seed}, in {seconds:.0f} s",
            _percent(alone[0]), "on MNIST 0.4 % (elastic distortions), 0.95 % (LeNet-5)", f"{SIMARD}; {LECUN}",
        ),
        Result("The same without distortions", _percent(error_of(plain, digits.test_labels)), "", ""),
        Result(
            f"Committee of {members}, seeds {plan.seed} to {plan.seed + members - 1}; its members alone "
            f"{_percent(min(alone))} to {_percent(max(alone))}",
            _percent(error_of(together, digits.test_labels)), "0.23 % on MNIST (35 networks)", CIRESAN,
        ),
    )  # fmt: skip
    pictures = (
        Picture(
            "Training loss after every epoch: distorted digits are harder to learn by heart.",
            plots.curves({"distorted": found[0][1].loss, "as they are": curves.loss}, "epoch", "loss", log=True),
        ),
        Picture("Test error of the mean of the first k members.", plots.curves({"": growing}, "members", "error, %")),
        Picture("Digits before and after random distortion.", _distorted(digits, plan)),
        *(
            [Picture(
                "What the committee puts wrong: the class, and what it says.",
                plots.pictures(
                    digits.test_images[wrong],
                    [f"{digits.test_labels[at]}: {together[at].argmax()}" for at in wrong],
                ),
            )] if len(wrong) else []
        ),
    )  # fmt: skip
    return Lecture(NUMBER, TITLE, TEXT, pictures, results)


TEXT = (
    "A convolution looks for the same small pattern everywhere in an image: few weights, and a pattern that moves is "
    "found where it has moved to. Pooling keeps the strongest answer of a neighbourhood, so that the exact place "
    "matters less. What is found is classified by fully connected stages as in lecture 1.",
    "Slides often call such networks invariant to shifts. A convolution is equivariant: its answers move with the "
    "image. Pooling makes the whole tolerant of shifts by about its own size, no more; the rest has to be learned from "
    "examples that were shifted, turned and elastically distorted. What that is worth is in the table.",
    "Settings were compared on 10,000 of the 60,000 training digits, and the test digits were looked at once. The "
    "published records were found in years in which everyone looked at the same 10,000 test digits; differences of a "
    "few digits between two methods, such as 0.23 against 0.27 %, are within the scatter of seeds.",
    "The committee averages the probabilities of networks from different seeds, whose digits are stretched to "
    "different widths, after Ciresan et al. (2012), who trained 35 large networks on graphics cards. A committee gains "
    "because its members err on different digits.",
)


def _distorted(digits: Digits, plan: Plan) -> str:
    """Draw ten digits above themselves as they were distorted."""
    import torch

    from stages.training.distort import Distortion

    images = images_of(digits.train_images[:10])
    scale = images.shape[2] / 28
    moved = Distortion(elastic=plan.elastic, shift=1.5 * scale)(images, torch.Generator().manual_seed(plan.seed))
    return plots.pictures(torch.cat([images, moved])[:, 0].numpy())


def _percent(share: float) -> str:
    return f"{100.0 * share:.2f} %"
