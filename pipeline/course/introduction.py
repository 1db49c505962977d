"""Lecture 1: the perceptron, multilayer perceptrons, how a loss is descended, activation functions and losses."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from pipeline.course import data, plots, vectors
from pipeline.course.lecture import Lecture, Picture, Result

if TYPE_CHECKING:
    from torch import Tensor

    from stages.formats.idx import Digits
    from stages.training.descent import Curves

NUMBER, TITLE = "1", "Introduction: from the perceptron to deep networks"
ROSENBLATT = (
    "F. Rosenblatt (1962): Principles of Neurodynamics; A. Novikoff (1962): On Convergence Proofs on Perceptrons"
)
MINSKY = "M. Minsky, S. Papert (1969): Perceptrons"
SRIVASTAVA = "N. Srivastava et al. (2014): Dropout: A Simple Way to Prevent Neural Networks from Overfitting. JMLR 15"
SIMARD = "P. Simard, D. Steinkraus, J. Platt (2003): Best Practices for Convolutional Neural Networks. ICDAR"
LECUN = "Y. LeCun, C. Cortes, C. Burges (1998): The MNIST Database of Handwritten Digits"
DECOSTE = "D. DeCoste, B. Schoelkopf (2002): Training Invariant Support Vector Machines. Machine Learning 46"
#: Descents that are compared, by name: samples a step, optimiser, and the best for it of the rates 0.01, 0.03, 0.1 ...
DESCENTS: dict[str, dict[str, Any]] = {
    "full batch": {"batch": None, "optimiser": "sgd", "lr": 1.0},
    "full batch, momentum": {"batch": None, "optimiser": "momentum", "lr": 1.0},
    "one sample": {"batch": 1, "optimiser": "sgd", "lr": 0.1},
    "32 samples": {"batch": 32, "optimiser": "sgd", "lr": 1.0},
    "32 samples, momentum": {"batch": 32, "optimiser": "momentum", "lr": 0.3},
    "32 samples, Adam": {"batch": 32, "optimiser": "adam", "lr": 0.03},
}


def run(folder: Path, full: bool, seed: int = 0) -> Lecture:
    """Measure on toys and on the small digits; in full on MNIST too, support vector machines beside the perceptron."""
    digits = data.small_digits(seed)
    rounds, perceptrons = one_neuron(seed)
    descents = compared_descents(digits, 1347 if full else 400, seed)
    floors = convex(seed)
    seeds = range(seed, seed + (5 if full else 1))
    activations = {name: _mean(digits, seeds, activation=name) for name in _activations()}
    losses = {name: _mean(digits, seeds, loss=loss) for name, loss in _losses().items()}
    results = [*perceptrons, *_of_descents(descents)]
    results += [Result(f"six hidden layers, {name}: test error", f"{e:.1%}") for name, (e, _) in activations.items()]
    results += [Result(f"six hidden layers, ReLU, {name}: test error", f"{e:.1%}") for name, (e, _) in losses.items()]
    results += on_mnist(folder, seed) if full else _on_small_digits(digits)
    pictures = (
        Picture("Mistakes of the perceptron in every round.", plots.curves(rounds, "round", "mistakes of 100")),
        *_descent_pictures(descents),
        Picture(
            "Least squares: how far the loss lies above its least value.",
            plots.curves(floors, "epoch (each sample's gradient once)", "excess loss", log=True),
        ),
        Picture("Activation functions.", _activation_plot()),
        Picture(
            "Training loss with six hidden layers of 32 neurons, by activation.",
            plots.curves({name: curves.loss for name, (_, curves) in activations.items()}, "epoch", "loss", log=True),
        ),
        Picture("What a sample costs by how clearly it is right (margin > 0) or wrong.", _loss_plot()),
    )
    return Lecture(NUMBER, TITLE, TEXT, pictures, tuple(results))


def one_neuron(seed: int) -> tuple[dict[str, list[int]], list[Result]]:
    """Let the perceptron learn classes that a line divides and the exclusive or, and two layers learn the latter."""
    import torch

    from stages.models.perceptron import TwoLayers, backpropagate, descend_by_hand, learn, loss_of

    draw = torch.Generator().manual_seed(seed)
    points = 2.0 * torch.rand(400, 2, generator=draw) - 1.0
    side = points @ torch.tensor([0.6, 0.8]) - 0.2
    apart = side.abs() > 0.05
    divided, halves = points[apart][:100], side[apart][:100].sign()
    crossed = (points[:100, 0] * points[:100, 1]).sign()
    rounds = {"divided by a line": learn(divided, halves, 60)[1], "exclusive or": learn(points[:100], crossed, 60)[1]}
    start = TwoLayers(*(torch.randn(shape, generator=draw) for shape in ((2, 8), (8,), (8, 2), (2,))))
    classes = (crossed > 0).long()
    found = descend_by_hand(start, points[:100], classes, rate=3.0, steps=2000)
    wrong = (torch.sigmoid(points[:100] @ found.W1 + found.b1) @ found.W2 + found.b2).argmax(dim=1) != classes
    copy = TwoLayers(*(weight.clone().requires_grad_(True) for weight in start))
    slopes = torch.autograd.grad(loss_of(copy, points[:100], classes), copy)
    apart_by = max(
        float((a - b).abs().max()) for a, b in zip(backpropagate(start, points[:100], classes), slopes, strict=True)
    )
    longest, bound = float(divided.square().sum(dim=1).max()) + 1.0, 0.05 / 1.04**0.5
    return rounds, [
        Result("perceptron, two classes that a line divides: mistakes until it makes none",
               f"{sum(rounds['divided by a line'])}", f"at most (R / margin)² = {longest / bound**2:.0f}", ROSENBLATT),
        Result("perceptron, exclusive or: mistakes in its best round of 60", f"{min(rounds['exclusive or'])} of 100",
               "cannot be learnt by one neuron", MINSKY),
        Result("two layers by hand-written backpropagation, exclusive or: mistakes", f"{int(wrong.sum())} of 100"),
        Result("largest difference of its slopes from automatic differentiation", f"{apart_by:.1e}"),
    ]  # fmt: skip


def compared_descents(digits: Digits, samples: int, seed: int) -> dict[str, Curves]:
    """Train the same network from the same weights on so many of the small digits by every descent."""
    import torch

    from stages.models.mlp import MLP
    from stages.training.descent import Descent, descend

    inputs, targets = tensors(digits.train_images[:samples], digits.train_labels[:samples])
    found = {}
    for name, settings in DESCENTS.items():
        torch.manual_seed(seed)
        network = MLP(inputs.shape[1], 10, (32,), activation="tanh")
        found[name] = descend(network, inputs, targets, Descent(15, **settings, seed=seed), held=(inputs, targets))
    return found


def convex(seed: int, samples: int = 100, epochs: int = 40) -> dict[str, list[float]]:
    """Descend a sum of squares, whose least value is known: excess loss after every epoch, by descent."""
    import torch
    from torch import nn
    from torch.nn.functional import mse_loss

    from stages.training.descent import Descent, descend

    draw = torch.Generator().manual_seed(seed)
    inputs = torch.randn(samples, 10, generator=draw, dtype=torch.float64) * torch.linspace(
        1.0, 0.4, 10, dtype=torch.float64
    )
    targets = inputs @ torch.randn(10, 1, generator=draw, dtype=torch.float64)
    targets += 0.5 * torch.randn(samples, 1, generator=draw, dtype=torch.float64)
    least = float(mse_loss(inputs @ torch.linalg.lstsq(inputs, targets).solution, targets))
    found = {}
    for name, settings in (
        ("full batch", {"batch": None, "lr": 0.45}), ("one sample, rate 0.01", {"batch": 1, "lr": 0.01}),
        ("one sample, rate 0.001", {"batch": 1, "lr": 0.001}),
    ):  # fmt: skip
        torch.manual_seed(seed)
        network = nn.Linear(10, 1, bias=False, dtype=torch.float64)
        descent = Descent(epochs, optimiser="sgd", seed=seed, **settings)
        went = descend(network, inputs, targets, descent, loss=mse_loss, held=(inputs, targets))
        found[name] = [max(value - least, 1e-16) for value in went.held_loss]
    return found


def deep_error(
    digits: Digits, seed: int, activation: str = "relu", loss: Callable[[Any, Tensor], Tensor] | None = None
) -> tuple[float, Curves]:
    """Train six hidden layers of 32 neurons on the small digits: test error, and how it went."""
    import torch
    from torch.nn.functional import cross_entropy

    from stages.models.mlp import MLP
    from stages.training.descent import Descent, descend

    torch.manual_seed(seed)
    network = MLP(digits.train_images[0].size, 10, (32,) * 6, activation=activation)
    went = descend(
        network, *tensors(digits.train_images, digits.train_labels), Descent(20, 32, "momentum", 0.03, seed=seed),
        loss=loss or cross_entropy, held=tensors(digits.test_images, digits.test_labels),
    )  # fmt: skip
    return went.held_error[-1], went


def multilayer(digits: Digits, folder: Path | None, seed: int = 0, epochs: int = 30) -> Curves:
    """Train a perceptron with two hidden layers of 800 neurons and dropout on MNIST, unchanged and undistorted."""
    import torch

    from stages.models.mlp import MLP
    from stages.training.descent import Descent, descend

    torch.manual_seed(seed)
    network = MLP(digits.train_images[0].size, 10, (800, 800), dropout=0.5, visible_dropout=0.2)
    return descend(
        network, *tensors(digits.train_images, digits.train_labels),
        Descent(epochs, 128, "adam", 1e-3, schedule="one-cycle", seed=seed),
        held=tensors(digits.test_images, digits.test_labels), folder=folder,
    )  # fmt: skip


def on_mnist(folder: Path, seed: int) -> list[Result]:
    """Train perceptron and support vector machines on MNIST: figures beside the published ones."""
    digits = data.mnist()
    error = multilayer(digits, folder / f"mlp-{seed}", seed).held_error[-1]
    gaussian = vectors.gaussian_error(digits, folder / "gaussian")
    shifted = {reach: vectors.virtual_error(digits, folder / "virtual", reach) for reach in (1, 2)}
    return [
        Result(f"MNIST, perceptron 784-800-800-10 with dropout, seed {seed}: test error", f"{error:.2%}",
               "1.25 % (3 x 1024, dropout), 1.6 % (800, without)", f"{SRIVASTAVA}; {SIMARD}"),
        Result("MNIST, support vector machine, Gaussian kernel: test error", f"{gaussian:.2%}", "1.4 %", LECUN),
        Result(f"MNIST, upright digits, polynomial of degree 9, {shifted[1].support:,} support vectors: test error",
               f"{shifted[1].plain:.2%}"),
        *(Result(f"the same, the support vectors shifted by up to {reach} px, {found.shown:,} digits: test error",
                 f"{found.virtual:.2%}", published, DECOSTE)
          for (reach, found), published in zip(shifted.items(), ("0.68 %", "0.56 %"), strict=True)),
    ]  # fmt: skip


def tensors(images: np.ndarray, labels: np.ndarray) -> tuple[Tensor, Tensor]:
    """Bring images uint8 (n, y, x) to 0..1 as vectors float32 (n, y * x), and labels to int64."""
    import torch

    inputs = torch.from_numpy(images.reshape(len(images), -1).astype(np.float32))
    # Small digits go to 16, others to 255.
    return inputs / (16.0 if images[0].size == 64 else 255.0), torch.from_numpy(labels.astype(np.int64))


def _mean(digits: Digits, seeds: range, **settings: Any) -> tuple[float, Curves]:
    """Mean test error over seeds, and how the first one went."""
    found = [deep_error(digits, seed, **settings) for seed in seeds]
    return float(np.mean([error for error, _ in found])), found[0][1]


def _activations() -> tuple[str, ...]:
    from stages.models.activations import ACTIVATIONS

    return tuple(ACTIVATIONS)


def _losses() -> dict[str, Callable[[Any, Tensor], Tensor]]:
    """Losses of logits (n, classes) and classes (n,)."""
    from torch.nn.functional import cross_entropy, mse_loss, multi_margin_loss, one_hot

    return {
        "cross-entropy": cross_entropy,
        "squares of the softmax": lambda logits, classes: (
            10 * mse_loss(logits.softmax(1), one_hot(classes, 10).float())
        ),
        "hinge": multi_margin_loss,
    }


def _of_descents(descents: dict[str, Curves]) -> list[Result]:
    epochs = len(next(iter(descents.values())).loss)
    return [
        Result(
            f"small digits, {name}: training loss after {epochs} epochs",
            f"{went.held_loss[-1]:.2g} in {went.seconds[-1]:.1f} s",
        )
        for name, went in descents.items()
    ]  # fmt: skip


def _on_small_digits(digits: Digits) -> list[Result]:
    train, test = (tensors(images, digits.train_labels[:0])[0].double().numpy()
                   for images in (digits.train_images, digits.test_images))  # fmt: skip
    kernel = vectors.Kernel("rbf", 10.0, 0.5)
    pairs = vectors.fit_pairs(train, digits.train_labels, kernel)
    error = (vectors.classify(pairs, train, kernel, test) != digits.test_labels).mean()
    return [Result("small digits, support vector machine, Gaussian kernel: test error", f"{error:.1%}")]


def _descent_pictures(descents: dict[str, Curves]) -> tuple[Picture, ...]:
    epochs = {name: went.held_loss for name, went in descents.items()}
    seconds = {name: (went.seconds, went.held_loss) for name, went in descents.items()}
    return (
        Picture(
            "The same network on the small digits, by the samples whose gradient was computed.",
            plots.curves(epochs, "epoch (each sample's gradient once)", "training loss", log=True),
        ),
        Picture("The same by the time it took.", plots.plot(seconds, "seconds", "training loss", log="xy")),
    )


def _activation_plot() -> str:
    import torch

    from stages.models.activations import activation

    at = torch.linspace(-3.0, 3.0, 121)
    return plots.plot(
        {name: (at.tolist(), activation(name)(at).tolist()) for name in _activations()}, "input", "output"
    )


def _loss_plot() -> str:
    margin = np.linspace(-3.0, 3.0, 121)
    lines = {
        "mistakes": (margin < 0).astype(float),
        "perceptron": np.maximum(0.0, -margin),
        "hinge": np.maximum(0.0, 1.0 - margin),
        "cross-entropy": np.log1p(np.exp(-margin)),
        "squares of the softmax": 2.0 / (1.0 + np.exp(margin)) ** 2,
    }
    return plots.plot({name: (margin.tolist(), values.tolist()) for name, values in lines.items()}, "margin", "loss")


TEXT = (
    "A perceptron is one neuron with a threshold. Rosenblatt's rule adds a sample that is answered wrongly to the "
    "weights, or takes it away. Where a line (in general a hyperplane) divides the classes it ends after a bounded "
    "number of mistakes, whatever the order of the samples and the rate; where none does, such as the exclusive or, "
    "it never ends. It is not gradient descent on the number of mistakes, whose slope is zero almost everywhere.",
    "A hidden layer makes the exclusive or learnable. Backpropagation is the chain rule applied from the readout back "
    "to the input: it gives the slopes, and says nothing about how to step. The one below is written by hand and "
    "compared with automatic differentiation.",
    "Slides often say that stochastic descent is faster. By the samples looked at it is, where samples resemble one "
    "another: by the time full-batch descent takes its first step, stochastic descent has taken one for every sample. "
    "By the clock a single sample is the slowest way of all, since a processor takes 32 samples hardly longer than "
    "one: mini-batches win. Close to the least loss it turns round: at a constant rate stochastic descent hovers at a "
    "height that grows with the rate, unless all samples can be fitted at once, while full-batch descent goes on "
    "falling by the same factor every step. The remedy is a rate that falls (Robbins and Monro 1951). Every descent "
    "below has the best rate for itself; with one rate for all, any of them can be made to lose.",
    "A sigmoid's slope is at most a quarter, so that six layers of them pass back hardly any of it (Hochreiter 1991; "
    "Glorot and Bengio 2010): its loss stays where it began. The hyperbolic tangent and the rectifiers do not suffer "
    "from it here; the differences among them are within the scatter of the seeds. That rectifiers are always the "
    "better choice is more than these figures say.",
    "The loss is what is descended, the error what is wanted. Cross-entropy grows with how wrong a sample is, so that "
    "its slope never fades; squares of a softmax flatten out for samples that are wrong with conviction. The hinge "
    "ends at a margin of 1 and leaves the rest of the samples alone, which is what makes support vectors few. In the "
    "error on digits as easy as these the choice hardly shows.",
    "On MNIST the perceptron sees the digits as they are, as a list of pixels in no order. The support vector "
    "machines are one for every pair of classes; virtual ones learn again from the support vectors of the first, "
    "shifted, since only these matter for the border. Their settings were chosen on 10,000 of the 60,000 training "
    "digits, the perceptron's were fixed beforehand, and the test digits decided nothing.",
)
