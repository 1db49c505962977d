"""Capsules: what their vectors hold, and whether they generalise better than a convolutional network of their size."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from pipeline.course import data, plots
from pipeline.course.convolution import images_of
from pipeline.course.lecture import Lecture, Picture, Result

if TYPE_CHECKING:
    from torch import Tensor, nn

    from stages.formats.idx import Digits
    from stages.training.descent import Curves

NUMBER, TITLE = "capsules", "Capsule networks"
SABOUR = "S. Sabour, N. Frosst, G. Hinton (2017): Dynamic Routing Between Capsules. NIPS"
#: How far test digits are turned, in degrees.
TURNS = 15, 30, 45


@dataclass(frozen=True)
class Plan:
    """How capsules, and the networks beside them, are built and trained."""

    #: Arguments of `CapsuleNet`.
    shape: dict[str, Any]
    #: Networks of the same number of weights beside it, by name: stages of `ConvNet`.
    beside: dict[str, str]
    epochs: int
    #: Epochs of every network of the comparison.
    compared: int
    #: How far test digits are shifted, in pixels. In training it is at most the first but one, in MNIST the paper's 2.
    shifts: tuple[int, ...] = (0, 2, 4, 6)
    batch: int = 128
    lr: float = 3e-3
    seed: int = 0


#: The same convolutions with a dense stage in place of the capsules, and a network with pooling.
FULL = Plan(
    {}, {"CNN of the same convolutions": "32x5/2 64 64x5/2 | 157", "CNN with pooling": "32x5 pool 64 64 pool | 152"},
    epochs=12, compared=4,
)  # fmt: skip
SMALL = Plan(
    {"stages": "24", "types": 4, "side": 3, "stride": 1, "class_d": 8, "decoder": (64, 128)},
    {"CNN of the same convolutions": "24 32 | 78"}, epochs=20, compared=20, shifts=(0, 1, 2), batch=64, lr=1e-2,
)  # fmt: skip


def run(folder: Path, full: bool, seed: int = 0) -> Lecture:
    """Train capsules on the small digits, or in full on MNIST, and compare them on digits moved and turned."""
    digits = data.mnist() if full else data.small_digits(seed)
    return _page(digits, folder / ("mnist" if full else "small"), replace(FULL if full else SMALL, seed=seed))


def capsules(plan: Plan, digits: Digits, folder: Path, vary: Any) -> tuple[Any, Curves]:
    """Train capsules on the training digits, going on from ``folder``."""
    import torch

    from stages.models.capsule import CapsuleNet, capsule_loss, margin_loss

    torch.manual_seed(plan.seed)
    high, wide = digits.train_images.shape[1:]
    network = CapsuleNet(1, 10, size=(high, wide), **plan.shape)

    def step(network: Any, images: Tensor, classes: Tensor) -> Tensor:
        with torch.autocast(images.device.type, torch.bfloat16):
            return capsule_loss(network, images, classes)

    return network, _descended(plan, network, digits, folder, vary=vary, step=step, loss=margin_loss)


def beside(plan: Plan, stages: str, digits: Digits, folder: Path, vary: Any) -> tuple[nn.Module, Curves]:
    """Train a convolutional network on the training digits, going on from ``folder``."""
    import torch

    from stages.models.convnet import ConvNet

    torch.manual_seed(plan.seed)
    high, wide = digits.train_images.shape[1:]
    network = ConvNet(1, 10, stages, size=(high, wide), padded=False)
    return network, _descended(plan, network, digits, folder, vary=vary)


def _descended(plan: Plan, network: nn.Module, digits: Digits, folder: Path, **how: Any) -> Curves:
    """Train any network as planned."""
    import torch

    from stages.training.descent import Descent, descend

    descent = Descent(
        plan.epochs, plan.batch, "adamw", plan.lr, weight_decay=1e-4, schedule="one-cycle", average=0.998,
        seed=plan.seed,
    )  # fmt: skip
    classes = torch.from_numpy(digits.train_labels.astype(np.int64))
    return descend(network, images_of(digits.train_images), classes, descent, folder=folder, **how)


def error_when(network: nn.Module, digits: Digits, shift: int = 0, turn: float = 0.0) -> float:
    """Share of the test digits put wrong when all are shifted or turned, as the mean over the ways this can be done.

    Args:
        network: gives (n, classes).
        digits: whose test images are shown.
        shift: pixels, along the rows and along the columns, either way.
        turn: degrees, either way.
    """
    images, wrong = images_of(digits.test_images), []
    ways = [(shift, 0), (-shift, 0), (0, shift), (0, -shift)] if shift else [(0, 0)]
    for down, right in ways:
        for angle in (turn, -turn) if turn else (0.0,):
            wrong.append(_error(network, moved(images, down, right, angle), digits.test_labels))
    return float(np.mean(wrong))


def moved(images: Tensor, down: float, right: float, angle: float) -> Tensor:
    """Move images (n, 1, y, x) by pixels and turn them by degrees; what comes in is 0."""
    import torch
    from torch.nn import functional

    cosine, sine = np.cos(np.radians(angle)), np.sin(np.radians(angle))
    high, wide = images.shape[2:]
    maps = torch.tensor([[cosine, -sine, -2.0 * right / wide], [sine, cosine, -2.0 * down / high]]).float()
    grid = functional.affine_grid(maps.expand(len(images), -1, -1), list(images.shape), align_corners=False)
    return functional.grid_sample(images, grid, align_corners=False)


def _error(network: nn.Module, images: Tensor, labels: np.ndarray) -> float:
    from stages.training.descent import predict

    return float((predict(network, images).argmax(dim=1).numpy() != labels).mean())


def comparison(plan: Plan, digits: Digits, folder: Path) -> dict[str, tuple[int, list[float]]]:
    """Train capsules and networks beside them on digits shifted a little, and test them on digits moved further.

    Returns:
        By name: the number of weights that classify, and the test errors for every shift and every turn.
    """
    from stages.training.distort import Distortion

    shifted = Distortion(rotate=0.0, zoom=0.0, shear=0.0, shift=plan.shifts[1], elastic=0.0)
    plan = replace(plan, epochs=plan.compared)
    networks = {"capsules": capsules(plan, digits, folder / "capsules", shifted)[0]}
    for name, stages in plan.beside.items():
        networks[name] = beside(plan, stages, digits, folder / name.replace(" ", "-"), shifted)[0]
    found = {}
    for name, network in networks.items():
        weights = sum(w.numel() for key, w in network.named_parameters() if not key.startswith("decoder"))
        cases = [{"shift": shift} for shift in plan.shifts] + [{"turn": turn} for turn in TURNS]
        found[name] = weights, [error_when(network, digits, **case) for case in cases]
    return found


def _page(digits: Digits, folder: Path, plan: Plan) -> Lecture:
    """Train and tell."""
    from stages.training.distort import Distortion

    scale = digits.train_images.shape[1] / 28
    vary = Distortion(rotate=8.0, zoom=0.08, shear=0.05, shift=2.0 * scale, elastic=0.5 * scale)
    network, curves = capsules(plan, digits, folder / "best", vary)
    error = error_when(network, digits)
    found = comparison(plan, digits, folder)
    cases = [f"shifted by {shift} px" for shift in plan.shifts] + [f"turned by {turn} degrees" for turn in TURNS]
    name = "MNIST" if scale == 1 else "the small digits"
    results = (
        Result(
            f"Capsules, test error on {name}, seed {plan.seed}, {plan.epochs} epochs of "
            f"{curves.seconds[-1] / plan.epochs:.0f} s", f"{100 * error:.2f} %", "0.25 % on MNIST", SABOUR,
        ),
        *(
            Result(
                f"Test error of digits {case}, after training on digits shifted by {plan.shifts[1]} px at most",
                "; ".join(f"{who} {100 * errors[place]:.2f} %" for who, (_, errors) in found.items()),
            )
            for place, case in enumerate(cases)
        ),
        Result("Weights that classify", "; ".join(f"{who} {weights:,}" for who, (weights, _) in found.items())),
    )  # fmt: skip
    pictures = (
        Picture(
            "Digits, and what the decoder draws from the capsule of their class.", _drawn(network, digits),
        ),
        Picture(
            "One number of a capsule changed from -0.25 to 0.25 a row, the others kept: what it stands for.",
            _turned_knobs(network, digits),
        ),
        Picture(
            "Test error of shifted digits.",
            plots.curves(
                {who: [100 * e for e in errors[: len(plan.shifts)]] for who, (_, errors) in found.items()},
                "pixels", "error, %", plan.shifts, log=True,
            ),
        ),
    )  # fmt: skip
    return Lecture(NUMBER, TITLE, TEXT, pictures, results)


def _drawn(network: Any, digits: Digits) -> str:
    """Draw ten test digits above their reconstructions."""
    import torch

    images, classes = images_of(digits.test_images[:10]), torch.from_numpy(digits.test_labels[:10].astype(np.int64))
    with torch.no_grad():
        again = network.eval().reconstruct(network.capsules(images), classes)
    return plots.pictures(torch.cat([images, again])[:, 0].numpy())


def _turned_knobs(network: Any, digits: Digits, knobs: int = 5) -> str:
    """Draw the first test digit from its capsule with one number after another changed."""
    import torch

    image, number = images_of(digits.test_images[:1]), torch.tensor([int(digits.test_labels[0])])
    steps = torch.linspace(-0.25, 0.25, 11)
    with torch.no_grad():
        found = network.eval().capsules(image)
        changed = found.repeat(knobs * len(steps), 1, 1)
        for knob in range(knobs):
            changed[knob * len(steps) : (knob + 1) * len(steps), number, knob] += steps[:, None]
        drawn = network.reconstruct(changed, number.expand(len(changed)))
    return plots.pictures(drawn[:, 0].numpy(), columns=len(steps))


TEXT = (
    "A capsule is a group of units whose answer is a vector: its length says how likely a thing is there, its "
    "direction how it looks. Every capsule below votes on what those above should be, and routing by agreement sends "
    "its answer to those whose other votes it agrees with. A decoder that must draw the digit from the vector of its "
    "class makes the vector hold how the digit is written.",
    "Slides say that capsules keep where things are while pooling throws it away, and that they therefore generalise "
    "to new viewpoints. Whether they do is measured here: all networks saw digits shifted a little, and "
    "are shown digits shifted further, and turned. The convolutional networks have as many weights as the capsules "
    "without their decoder; one has the same convolutions and no pooling, so that the capsules alone make the "
    "difference.",
    "The lengths of class capsules are no probabilities of a distribution: they need not add up to 1, so that several "
    "digits in one image can be found. In the pipeline, where a pixel has one class, a softmax of their logarithms is "
    "taken in their place.",
)
