"""Generative networks: eight Gaussians on a ring, and digits drawn to order and judged by an independent network."""

from __future__ import annotations

import io
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from pipeline.course import data, plots
from pipeline.course.lecture import Lecture, Picture, Result

if TYPE_CHECKING:
    from torch import Tensor

    from stages.formats.idx import Digits
    from stages.models.convnet import ConvNet
    from stages.training.generators.adversary import Adversary

NUMBER, TITLE = "generative", "Generative networks, and learning without labels"
VEEGAN = (
    "A. Srivastava, L. Valkov, C. Russell, M. Gutmann, C. Sutton (2017): VEEGAN: Reducing Mode Collapse in GANs using "
    "Implicit Variational Learning. NeurIPS"
)
#: Radius and deviation of the ring (Metz et al. 2017, Unrolled Generative Adversarial Networks).
RADIUS, DEVIATION, MODES = 2.0, 0.02, 8
TEXT = (
    "A generator turns noise into samples; a discriminator learns to tell them from real ones, and its gradient tells "
    "the generator what to change. Neither has a loss that could simply be minimised: the two play a game, and what is "
    "looked for is its equilibrium. The discriminator's loss is therefore no measure of how good the samples are, and "
    "need not fall.",
    "With the game of the first paper's theory, the generator learns nothing while the discriminator is sure; the "
    "non-saturating loss, the hinge loss and the Wasserstein distance repair that in different ways. The last two need "
    "a discriminator whose score does not rise arbitrarily fast: by a penalty on its gradient, or by dividing every "
    "layer by its largest singular value (spectral normalisation). A restraint can be too strong: a score that may "
    "rise by 1 a unit hardly sees that a point is a hundredth of a unit off, and narrow modes stay blurred.",
    "A generator that draws the same few samples again and again can fool a discriminator for a while: mode collapse. "
    "It does not show in single samples. A ring of eight Gaussians shows it, as one can count the modes that were "
    "found; for digits we compare how many of each class are drawn and how far those of a class lie apart with the "
    "same of real digits, as a classifier sees them that never saw a drawn one.",
    "A conditional network is told which class is wanted, for which it needs labels: it is not unsupervised. And it "
    "knows nothing that its training samples did not say. Whether drawn samples help a classifier of rare classes is "
    "a question to be measured, and the answer is often that they do not.",
    "An autoencoder tells a sample from a short code. It is trained without labels, but decoding random numbers gives "
    "no proper samples, as nothing says how codes are distributed (a variational autoencoder does). What it is used "
    "for here is its encoder: to group the pixels of a scene, and as a start for a classifier that has few labels.",
)


@dataclass(frozen=True)
class Verdict:
    """What an independent classifier says of drawn samples; an entry a class."""

    #: Share of the drawn ones in which it sees the class that was asked for.
    agreement: np.ndarray
    #: How many it takes for each class.
    histogram: np.ndarray
    #: Mean distance between two samples of a class in its features, of drawn ones over that of real ones.
    spread: np.ndarray
    #: Share of real held-out samples that it gets right.
    accuracy: float


def run(folder: Path, full: bool, seed: int = 0) -> Lecture:
    """Draw from the ring, draw digits (MNIST in the full version), and learn from unlabelled pixels of carolina."""
    from pipeline.course import unsupervised

    rings, picture = _rings(folder, full, seed)
    digits, drawn = _digits(folder, full, seed)
    others = unsupervised.experiment(folder, full, seed)
    pictures = (picture, drawn, *others.pictures)
    return Lecture(NUMBER, TITLE, (*TEXT, *others.text), pictures, (*rings, *digits, *others.results))


def ring(n: int, seed: int) -> Tensor:
    """Draw points of the eight Gaussians on a ring: float32 (n, 2)."""
    import torch

    chance = torch.Generator().manual_seed(seed)
    at = torch.randint(MODES, (n,), generator=chance)
    return _centres()[at] + DEVIATION * torch.randn(n, 2, generator=chance)


def modes_found(points: Tensor) -> tuple[int, float]:
    """Count the modes that 1 % of the points lie near, and give the share of the points that lie near any.

    Near is within three deviations.
    """
    import torch

    nearest = torch.cdist(points, _centres()).min(dim=1)
    good = nearest.values < 3.0 * DEVIATION
    counts = torch.bincount(nearest.indices[good], minlength=MODES)
    return int((counts >= 0.01 * len(points)).sum()), float(good.float().mean())


def _centres() -> Tensor:
    import torch

    angle = torch.arange(MODES) * (2.0 * torch.pi / MODES)
    return RADIUS * torch.stack([angle.cos(), angle.sin()], dim=1)


def ring_settings(full: bool, seed: int) -> dict[str, Adversary]:
    """Say how the ring is learned, by name: without any restraint of the discriminator, and with one."""
    from stages.training.generators.adversary import Adversary

    steps = 10_000 if full else 1_000
    restrained = Adversary(steps=steps, lr=2e-3, lr_discriminator=2e-3, latent=8, width=32, average=0.98, seed=seed)
    settings = {
        "non-saturating loss, no restraint": Adversary(
            loss="non-saturating", spectral=False, steps=steps, lr=5e-4, lr_discriminator=1e-3, average=0.98, seed=seed
        ),
        "Wasserstein loss, gradient penalty": restrained,
    }
    if full:
        settings["hinge loss, spectral normalisation"] = replace(restrained, loss="hinge", width=64, betas=(0.0, 0.9))
    return settings


def _rings(folder: Path, full: bool, seed: int) -> tuple[list[Result], Picture]:
    import torch

    from stages.training.generators.adversary import draw, train_gan

    points, nobody = ring(10_000, seed), torch.zeros(10_000, dtype=torch.int64)
    results, drawn = [], {"real": points[:2500]}
    for number, (name, settings) in enumerate(ring_settings(full, seed).items()):
        generator = train_gan(points, nobody, 1, settings, folder / f"ring-{number}-{seed}-{full}")
        drawn[name.partition(",")[0]] = draw(generator, nobody[:2500], seed + 1)
        modes, good = modes_found(drawn[name.partition(",")[0]])
        results.append(
            Result(
                f"eight Gaussians, {name}: modes found, points within three deviations of one",
                f"{modes} of {MODES}, {100 * good:.0f} %", "GAN 1, unrolled GAN 7.6, VEEGAN 8 of 8", VEEGAN,
            )
        )  # fmt: skip
    images = np.stack([_seen_from_above(points) for points in drawn.values()])
    return results, Picture("Points of the ring, real and drawn.", plots.pictures(images, list(drawn), columns=4))


def _seen_from_above(points: Tensor) -> np.ndarray:
    """Count the points in squares, on a scale on which single ones are seen."""
    edge = 1.25 * RADIUS
    x, y = points.numpy().T
    counts = np.histogram2d(y, x, bins=56, range=[[-edge, edge], [-edge, edge]])[0]
    seen: np.ndarray = np.log1p(counts)[::-1]
    return seen


def digit_settings(full: bool, seed: int) -> Adversary:
    """Say how digits are learned: MNIST in full, the small digits else."""
    from stages.training.generators.adversary import Adversary

    settings = Adversary(
        loss="hinge", batch=64, width=16, bounded=True, lr=4e-4, lr_discriminator=8e-4, betas=(0.0, 0.9), seed=seed
    )
    return replace(settings, steps=12_000, keep_every=250) if full else replace(settings, steps=1_200)


def _digits(folder: Path, full: bool, seed: int) -> tuple[list[Result], Picture]:
    import torch

    from stages.training.generators.adversary import draw, train_gan

    digits = data.mnist() if full else data.small_digits(seed)
    images, labels = as_tensors(digits.train_images, digits.train_labels)
    name = "mnist" if full else "small"
    generator = train_gan(images, labels, 10, digit_settings(full, seed), folder / f"{name}-{seed}")
    asked = torch.arange(10).repeat_interleave(1000 if full else 100)
    drawn = draw(generator, asked, seed + 1)
    judge = judge_of(digits, folder / f"{name}-judge-{seed}", full, seed)
    verdict = judged(judge, drawn, asked, digits)
    told = "MNIST" if full else "small digits"
    results = [
        Result(
            f"{told}: drawn digits in which an independent classifier sees the one asked for "
            f"(it is right on {100 * verdict.accuracy:.1f} % of real test digits)",
            f"{100 * float(verdict.agreement.mean()):.1f} % of {len(drawn):,}",
        ),
        Result(
            f"{told}: least and most frequent class, of {len(asked) // 10:,} asked for",
            f"{verdict.histogram.min()}, {verdict.histogram.max()}",
        ),
        Result(
            f"{told}: spread within a class, drawn over real, least and most",
            f"{verdict.spread.min():.2f}, {verdict.spread.max():.2f}",
        ),
    ]
    return results, Picture(
        "Drawn digits, a class a row.", sheet(drawn.reshape(10, -1, *drawn.shape[2:])[:, :10].numpy())
    )


def sheet(images: np.ndarray, enlarged: int = 2) -> bytes:
    """Lay images (row, column, y, x) of values from 0 to 1 out in rows, as a PNG with ink on white."""
    from matplotlib.image import imsave

    rows, columns, height, width = images.shape
    laid = images.transpose(0, 2, 1, 3).reshape(rows * height, columns * width)
    written = io.BytesIO()
    imsave(written, np.kron(laid, np.ones((enlarged, enlarged))), cmap="gray_r", vmin=0, vmax=1, format="png")
    return written.getvalue()


def as_tensors(images: np.ndarray, labels: np.ndarray) -> tuple[Tensor, Tensor]:
    """Bring images to float32 (n, 1, y, x) from 0 to 1 and labels to int64 (n,)."""
    import torch

    values = torch.from_numpy(images).float()[:, None]
    return values / values.max(), torch.from_numpy(labels).long()


def judge_of(digits: Digits, folder: Path | None, full: bool, seed: int) -> ConvNet:
    """Train a convolutional network on real digits alone; a larger one in the full version, for MNIST."""
    import torch

    from stages.models.convnet import ConvNet
    from stages.training.descent import Descent, descend

    images, labels = as_tensors(digits.train_images, digits.train_labels)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed + 100)
        side = images.shape[-1]
        network = ConvNet(1, 10, "16 pool 32 pool | 64" if full else "16 32 pool | 64", size=(side, side))
    descent = Descent(epochs=5 if full else 12, batch=128, lr=4e-3, schedule="one-cycle", seed=seed)
    descend(network, images, labels, descent, folder=folder)
    return network


def judged(network: ConvNet, drawn: Tensor, asked: Tensor, digits: Digits) -> Verdict:
    """Let a classifier judge.

    Args:
        network: trained on real digits.
        drawn: (n, 1, y, x) from 0 to 1.
        asked: class that each was drawn for, int64 (n,).
        digits: real ones: the training part for the spread, the test part for the classifier's own accuracy.
    """
    import torch

    from stages.training.descent import predict

    found = predict(network, drawn).argmax(dim=1)
    test_images, test_labels = as_tensors(digits.test_images, digits.test_labels)
    accuracy = (predict(network, test_images).argmax(dim=1) == test_labels).double().mean()
    right = (found == asked).double()
    real = as_tensors(digits.train_images, digits.train_labels)
    return Verdict(
        np.array([float(right[asked == k].mean()) for k in range(10)]),
        torch.bincount(found, minlength=10).numpy(),
        spreads(network, drawn, asked) / spreads(network, *real),
        float(accuracy),
    )


def spreads(network: ConvNet, images: Tensor, labels: Tensor, most: int = 500) -> np.ndarray:
    """Mean distance between two images of a class in the classifier's last features: float64 (classes,)."""
    import torch

    found = []
    network.eval()
    for k in range(10):
        with torch.no_grad():
            features = network.head[:-1](network.features(images[labels == k][:most]).flatten(1))
        found.append(float(torch.pdist(features).mean()))
    return np.array(found)
