"""Support vector machines on digits, one for every pair of classes, and virtual ones from shifted support vectors."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from itertools import combinations, product
from pathlib import Path
from typing import Any, Literal

import numpy as np

from stages import progress
from stages.formats.idx import Digits

_logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Kernel:
    """What a machine sees of two inputs, and its penalty on errors.

    rbf is exp(-gamma |u - v|^2); poly is ((u . v + 1) / 2)^degree of inputs of length 1, so that both are 1 for u = v.
    """

    kind: Literal["rbf", "poly"]
    cost: float
    gamma: float = 0.0
    degree: int = 9

    def __call__(self, u: np.ndarray, v: np.ndarray) -> np.ndarray:
        """(n, features), (m, features) -> (n, m)."""
        if self.kind == "poly":
            found: np.ndarray = ((u @ v.T + 1.0) / 2.0) ** self.degree
            return found
        square = np.square(u).sum(axis=1)[:, None] + np.square(v).sum(axis=1) - 2.0 * (u @ v.T)
        near: np.ndarray = np.exp(-self.gamma * square)
        return near

    def machine(self) -> Any:
        """Make the machine of scikit-learn that has this kernel."""
        from sklearn.svm import SVC

        if self.kind == "rbf":
            return SVC(C=self.cost, kernel="rbf", gamma=self.gamma, cache_size=800)
        return SVC(C=self.cost, kernel="poly", degree=self.degree, gamma=0.5, coef0=0.5, cache_size=800)


@dataclass(frozen=True)
class Pair:
    """The machine of two classes: where its support vectors are in the training set, their weights, and its bias."""

    at: np.ndarray
    weights: np.ndarray
    bias: float


def fit_pairs(
    features: np.ndarray, labels: np.ndarray, kernel: Kernel, folder: Path | None = None
) -> dict[tuple[int, int], Pair]:
    """Fit a machine for every pair of classes; positive answers are for the first (Cortes and Vapnik 1995).

    Args:
        features: float64 (n, features).
        labels: classes (n,).
        kernel: what the machines have in common.
        folder: where each machine is kept and read from again, so that a killed fit goes on; none is kept without it.
    """
    pairs = list(combinations(np.unique(labels).tolist(), 2))
    origin = repr([asdict(kernel), *features.shape, float(features.sum()), int(labels.astype(np.int64).sum())])
    fitted = {}
    for number, (i, j) in enumerate(pairs):
        path = None if folder is None else folder / f"{i}-{j}.npz"
        found = None if path is None else _read(path, origin)
        if found is None:
            at = np.flatnonzero((labels == i) | (labels == j))
            machine = kernel.machine().fit(features[at], np.where(labels[at] == i, 1, -1))
            found = Pair(at[machine.support_], machine.dual_coef_[0], float(machine.intercept_[0]))
            if path is not None:
                _write(path, found, origin)
        fitted[i, j] = found
        progress.report("support vector machines", number + 1, len(pairs))
    return fitted


def classify(
    pairs: dict[tuple[int, int], Pair], support: np.ndarray, kernel: Kernel, features: np.ndarray, batch: int = 1000
) -> np.ndarray:
    """Give every input the class that most machines vote for; of equal ones that of the larger sum of answers.

    Args:
        pairs: the machines.
        support: the features they were fitted with (n, features).
        kernel: theirs.
        features: of the inputs (m, features).
        batch: inputs at a time.
    """
    used = np.unique(np.concatenate([pair.at for pair in pairs.values()]))
    vectors = support[used]
    classes = sorted({name for pair in pairs for name in pair})
    weights = np.zeros((len(used), len(pairs)))
    for column, pair in enumerate(pairs.values()):
        weights[np.searchsorted(used, pair.at), column] = pair.weights
    found = []
    for start in range(0, len(features), batch):
        answers = kernel(features[start : start + batch], vectors) @ weights + [pair.bias for pair in pairs.values()]
        votes = np.zeros((len(answers), len(classes)))
        for answer, (i, j) in zip(answers.T, pairs, strict=True):
            # Less than half a vote in all, so that it only decides between equal numbers of votes.
            slight = answer / (1.0 + np.abs(answer)) / (2.0 * len(classes))
            votes[:, classes.index(i)] += (answer > 0) + slight
            votes[:, classes.index(j)] += (answer <= 0) - slight
        found.append(np.asarray(classes)[votes.argmax(axis=1)])
    return np.concatenate(found)


def gaussian_error(digits: Digits, folder: Path | None = None, cost: float = 5.0, gamma: float = 0.035) -> float:
    """Test error of machines with a Gaussian kernel on the pixels as they are, scaled to 0..1."""
    project = Projection(_pixels(digits.train_images), 0.95)
    train, test = (project(_pixels(images)) for images in (digits.train_images, digits.test_images))
    kernel = Kernel("rbf", cost, gamma)
    pairs = fit_pairs(train, digits.train_labels, kernel, folder)
    return float((classify(pairs, train, kernel, test) != digits.test_labels).mean())


@dataclass(frozen=True)
class Virtual:
    """Test errors of machines of the digits as they are and of their shifted support vectors, and numbers of both."""

    plain: float
    virtual: float
    support: int
    shown: int


def virtual_error(digits: Digits, folder: Path | None = None, reach: int = 1, cost: float = 2.0) -> Virtual:
    """Fit machines, shift their support vectors, fit anew (DeCoste and Schoelkopf 2002).

    Digits are upright first (`deskewed`), brought to length 1, and compared by a polynomial of degree 9. Only support
    vectors matter for where the border between two classes lies, so only they are shifted, by up to ``reach`` pixels in
    both directions.
    """
    upright = deskewed(digits.train_images), deskewed(digits.test_images)
    project = Projection(_unit(_pixels(upright[0])), 0.98)
    train, test = (_unit(project(_unit(_pixels(images)))) for images in upright)
    kernel = Kernel("poly", cost)
    first = fit_pairs(train, digits.train_labels, kernel, _below(folder, "first"))
    plain = float((classify(first, train, kernel, test) != digits.test_labels).mean())
    support = np.unique(np.concatenate([pair.at for pair in first.values()]))
    _logger.info("%d support vectors, test error %.2f %%", len(support), 100.0 * plain)
    moved = [_unit(project(_unit(_pixels(images)))) for images in shifted(upright[0][support], reach)]
    labels = np.tile(digits.train_labels[support], len(moved))
    shown = np.concatenate(moved)
    second = fit_pairs(shown, labels, kernel, _below(folder, f"shifted-{reach}"))
    virtual = float((classify(second, shown, kernel, test) != digits.test_labels).mean())
    return Virtual(plain, virtual, len(support), len(shown))


class Projection:
    """Project on the principal directions that hold a share of the inputs' length, so that kernels cost less."""

    def __init__(self, inputs: np.ndarray, share: float) -> None:
        lengths, directions = np.linalg.eigh(inputs.T @ inputs)
        held = np.cumsum(lengths[::-1]) / lengths.sum()
        self.directions = directions[:, ::-1][:, : int(np.searchsorted(held, share)) + 1]

    def __call__(self, inputs: np.ndarray) -> np.ndarray:
        """(n, features) -> (n, fewer)."""
        projected: np.ndarray = inputs @ self.directions
        return np.ascontiguousarray(projected)


def deskewed(images: np.ndarray) -> np.ndarray:
    """Shear digits uint8 (n, y, x) about their centre until they stand upright: row and column of ink uncorrelated."""
    from scipy.ndimage import affine_transform

    height, width = images.shape[1:]
    rows, columns = np.mgrid[:height, :width].astype(np.float64)
    found = np.empty(images.shape, np.float32)
    for number, image in enumerate(images.astype(np.float64)):
        ink = max(image.sum(), 1e-9)
        y, x = (image * rows).sum() / ink, (image * columns).sum() / ink
        slant = (image * (rows - y) * (columns - x)).sum() / max((image * (rows - y) ** 2).sum(), 1e-9)
        # Row and column that the pixel (r, c) is read from: r, c + slant (r - y), then moved to the centre.
        matrix = np.array([[1.0, 0.0], [slant, 1.0]])
        centre = np.array([(height - 1) / 2, (width - 1) / 2])
        found[number] = affine_transform(image, matrix, np.array([y, x]) - matrix @ centre, order=1)
    return found


def shifted(images: np.ndarray, reach: int) -> Iterator[np.ndarray]:
    """Shift images (n, y, x) by up to ``reach`` pixels either way, 0 coming in; the first are as they were."""
    height, width = images.shape[1:]
    padded = np.pad(images, ((0, 0), (reach, reach), (reach, reach)))
    steps = sorted(product(range(-reach, reach + 1), repeat=2), key=lambda step: step != (0, 0))
    for down, right in steps:
        yield padded[:, reach - down : reach - down + height, reach - right : reach - right + width]


def _pixels(images: np.ndarray) -> np.ndarray:
    return images.reshape(len(images), -1) / 255.0


def _unit(inputs: np.ndarray) -> np.ndarray:
    found: np.ndarray = inputs / np.maximum(np.linalg.norm(inputs, axis=1, keepdims=True), 1e-9)
    return found


def _below(folder: Path | None, name: str) -> Path | None:
    return None if folder is None else folder / name


def _read(path: Path, origin: str) -> Pair | None:
    """Read a machine that was fitted with the same inputs and kernel; any other counts as none."""
    try:
        with np.load(path) as kept:
            if str(kept["origin"]) == origin:
                return Pair(kept["at"], kept["weights"], float(kept["bias"]))
    except FileNotFoundError:
        return None
    except Exception as fault:  # a truncated file raises whatever its first broken part makes it raise
        _logger.warning("machine %s cannot be read (%s): fitting anew", path, type(fault).__name__)
    return None


def _write(path: Path, pair: Pair, origin: str) -> None:
    """Write a machine, whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    new = path.with_suffix(".new.npz")
    np.savez(new, at=pair.at, weights=pair.weights, bias=pair.bias, origin=origin)
    new.replace(path)
