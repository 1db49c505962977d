"""Learning without labels on a scene: clusters of pixels and of codes, and a classifier that starts from an encoder."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from pipeline.course import plots
from pipeline.course.ground import Labelled, labelled
from pipeline.course.lecture import Picture, Result

if TYPE_CHECKING:
    from torch import Tensor

    from stages.models.autoencoder import Autoencoder

#: Pixels on each side of the patch around a pixel.
AROUND = 4
#: Numbers that a patch is told from, and channels of the autoencoder's finest level.
CODE, WIDTH = 32, 16
COATES = "A. Coates, A. Ng (2012): Learning Feature Representations with K-Means. Neural Networks: Tricks of the Trade"
TEXT = (
    "Unsupervised classification groups the pixels of a scene, and whoever knows the ground names the groups. "
    "Grouped by k-means as the sensor saw them, pixels fall apart by brightness first. The codes that an autoencoder "
    "finds for the patches around them hold texture, too. How far groups agree with a reference map is told by the "
    "share of pixels that are right when every class gets the one group that fits it best, and by two figures that "
    "need no names: normalised mutual information and the adjusted Rand index, which is 0 for groups at random. "
    "Groups follow what varies most in an image, which is seldom what a legend tells apart: low figures are usual.",
    "Learned features stand beside hand-made ones, means and deviations in windows of several sizes, in a random "
    "forest that is judged on blocks of ground it has not seen. Where a few such features say what there is to say, as "
    "in this image, learned ones need not be better.",
    "With few labels, a classifier may start from the encoder instead of from random weights. It is compared with the "
    "same network from random weights, the same labels, seeds and steps, on blocks of ground that neither has seen.",
)


@dataclass(frozen=True)
class Learned:
    """What the page takes over from here."""

    text: tuple[str, ...]
    pictures: tuple[Picture, ...]
    results: tuple[Result, ...]


@dataclass(frozen=True)
class Agreement:
    """How far groups agree with classes."""

    matched: float
    mutual: float
    rand: float

    def __str__(self) -> str:
        return f"{self.matched:.3f}, {self.mutual:.3f}, {self.rand:.3f}"


def experiment(folder: Path, full: bool, seed: int = 0) -> Learned:
    """Cluster carolina, and classify it with few labels; the full version trains longer and with three seeds."""
    from stages.training.reconstruction import encode

    ground = labelled(folder.parents[3], "carolina")
    some = ground.some(60_000 if full else 12_000, seed)
    patches, training = patches_of(some), some.folds("block", seed) != 0
    told = acquainted(patches[training], folder / f"codes-{seed}-{full}", full, seed)
    features = {
        "pixels": patches[:, :, AROUND, AROUND].numpy(),
        "means and deviations in windows": _standardised(some.context),
        "an autoencoder's codes of patches": encode(told, patches).numpy(),
    }
    groups = grouped(features, some.labels, seed)
    forests = judged(features, some.labels, training, seed)
    results = [
        *(Result(f"carolina, k-means of {name}: matched share, mutual information, Rand index", str(found),
                 "k-means features can rival deep ones on images", COATES) for name, found in groups.items()),
        *(Result(f"carolina, random forest on {name}: accuracy on held-out blocks", f"{found:.3f}")
          for name, found in forests.items()),
    ]  # fmt: skip
    few = few_labels(patches, some.labels, training, told, full=full, seed=seed)
    counts = sorted(next(iter(few.values())))
    results += [
        Result(
            f"carolina, {count} labelled pixels, held-out blocks: from random weights, from the encoder",
            ", ".join(_told(few[way][count]) for way in few),
        )
        for count in counts
    ]
    drawn = plots.plot(
        {way: (counts, [float(np.mean(found[count])) for count in counts]) for way, found in few.items()},
        "labelled pixels", "accuracy on held-out blocks", log="x",
    )  # fmt: skip
    return Learned(TEXT, (Picture("A classifier of patches with few labels.", drawn),), tuple(results))


def patches_of(ground: Labelled) -> Tensor:
    """Cut the patch around every labelled pixel, centred and scaled by channel, 0 where invalid: (n, channel, y, x)."""
    import torch

    inside = ground.image[:, ground.valid]
    mean, deviation = (found[:, None, None] for found in (inside.mean(axis=1), inside.std(axis=1)))
    image = np.where(ground.valid, np.clip((ground.image - mean) / np.maximum(deviation, 1e-6), -4, 4), 0)
    padded = np.pad(image.astype(np.float32), [(0, 0), (AROUND, AROUND), (AROUND, AROUND)])
    windows = np.lib.stride_tricks.sliding_window_view(padded, (2 * AROUND + 1,) * 2, axis=(1, 2))
    rows, columns = ground.place.T
    return torch.from_numpy(windows[:, rows, columns].swapaxes(0, 1).copy())


def agreement(groups: np.ndarray, classes: np.ndarray) -> Agreement:
    """Compare groups with classes: int (n,) both, from 0."""
    from scipy.optimize import linear_sum_assignment
    from sklearn.metrics import adjusted_rand_score, confusion_matrix, normalized_mutual_info_score

    table = confusion_matrix(classes, groups)
    matched = table[linear_sum_assignment(table, maximize=True)].sum() / len(classes)
    return Agreement(
        float(matched), float(normalized_mutual_info_score(classes, groups)),
        float(adjusted_rand_score(classes, groups)),
    )  # fmt: skip


def _told(values: list[float]) -> str:
    """Write the mean, and the standard deviation where there are several seeds."""
    return f"{np.mean(values):.3f}" + (f" +- {np.std(values):.3f}" if len(values) > 1 else "")


def _standardised(features: np.ndarray) -> np.ndarray:
    """Centre and scale every feature: (n, feature)."""
    scaled: np.ndarray = (features - features.mean(axis=0)) / np.maximum(features.std(axis=0), 1e-6)
    return scaled


def grouped(features: dict[str, np.ndarray], labels: np.ndarray, seed: int) -> dict[str, Agreement]:
    """Group samples by every kind of features, into as many groups as there are classes."""
    import torch

    from stages.training.reconstruction import clusters

    k = int(labels.max()) + 1
    return {
        name: agreement(clusters(torch.from_numpy(values), k, seed).numpy(), labels)
        for name, values in features.items()
    }


def judged(features: dict[str, np.ndarray], labels: np.ndarray, training: np.ndarray, seed: int) -> dict[str, float]:
    """Accuracy on held-out samples of a random forest on every kind of features, and on all of them."""
    from sklearn.ensemble import RandomForestClassifier

    found = {}
    for name, values in {**features, "all of these": np.concatenate([*features.values()], axis=1)}.items():
        forest = RandomForestClassifier(100, min_samples_leaf=3, random_state=seed)
        forest.fit(values[training], labels[training])
        found[name] = float(forest.score(values[~training], labels[~training]))
    return found


def acquainted(patches: Tensor, folder: Path | None, full: bool, seed: int) -> Autoencoder:
    """Train an autoencoder on patches, without their labels; its checkpoint is kept in ``folder``."""
    from stages.training.descent import Descent
    from stages.training.reconstruction import Reconstruction, train_autoencoder

    descent = Descent(epochs=30 if full else 6, batch=256, lr=3e-3, schedule="one-cycle", seed=seed)
    return train_autoencoder(patches, Reconstruction(code=CODE, width=WIDTH, descent=descent), folder=folder)[0]


def few_labels(
    patches: Tensor, labels: np.ndarray, training: np.ndarray, told: Autoencoder, *, full: bool, seed: int
) -> dict[str, dict[int, list[float]]]:
    """Accuracy on held-out samples of a classifier from random weights and from an encoder, by number of labels.

    Args:
        patches: all samples, (n, channel, y, x).
        labels: of all of them, int64 (n,); only a few of the training ones are used.
        training: which ones may be learned from, bool (n,).
        told: trained on the training ones, without their labels.
        full: longer, with more labels and three seeds.
        seed: the first one.

    Returns:
        A number a seed, by way and by number of labels.
    """
    import torch

    from stages.models.autoencoder import Autoencoder, EncoderClassifier
    from stages.training.descent import Descent, descend, predict
    from stages.training.reconstruction import start_from

    targets, held = torch.from_numpy(labels), torch.from_numpy(~training)
    counts = (50, 200, 1000) if full else (50, 200)
    ways: dict[str, dict[int, list[float]]] = {way: {count: [] for count in counts} for way in ("random", "encoder")}
    for own in range(seed, seed + (3 if full else 1)):
        order = np.random.default_rng(own).permutation(np.flatnonzero(training))
        for count in counts:
            for way, found in ways.items():
                with torch.random.fork_rng(devices=[]):
                    torch.manual_seed(own)
                    encoder = Autoencoder(tuple(patches.shape[1:]), CODE, WIDTH).encoder
                    classifier = EncoderClassifier(encoder, int(labels.max()) + 1)
                if way == "encoder":
                    start_from(classifier.encoder, told.encoder)
                at = torch.from_numpy(order[:count])
                short = Descent(epochs=60 if full else 30, batch=50, lr=1e-3, schedule="one-cycle", seed=own)
                descend(classifier, patches[at], targets[at], short)
                right = predict(classifier, patches[held]).argmax(dim=1) == targets[held]
                found[count].append(float(right.double().mean()))
    return ways
