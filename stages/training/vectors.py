"""Fit a support vector machine with a radial kernel on single pixels or on hand-made context."""

from __future__ import annotations

from itertools import combinations, product
from pathlib import Path
from typing import Any

import numpy as np
import torch

from stages.formats.weights import ONNX, WEIGHTS
from stages.models.chip_features import ChipFeatures
from stages.models.classifier import Classifier
from stages.models.context import Context
from stages.models.kernel import KernelMachine
from stages.models.rebuild import Description, describe_machine
from stages.training import calibration
from stages.training.fitted import Found, Task
from stages.training.ground import Ground
from stages.training.held import Held
from stages.training.onnx_file import export_module, save_weights
from stages.training.recipes import VectorRecipe
from stages.training.table import Features, draw_stratified, features_of

#: Validation pixels while settings are compared.
TUNING_PIXELS = 8_000


class FittedVectors:
    """A kernel machine and the features it reads."""

    tta = False

    def __init__(self, features: Features, machine: KernelMachine, found: Found) -> None:
        self.features = features
        self.machine = machine
        self.found = found
        self.margin, self.stride = features.context.margin, features.context.stride
        self.classifier = Classifier(features.normalise, machine, machine.classes)

    def logits(self, held: Held) -> np.ndarray:
        """Logits of the held-out pixels: (1, pixels, class)."""
        found = []
        for image, valid, at in zip(held.image, held.valid, held.at, strict=True):
            if at.any():
                rows = torch.from_numpy(self.features(image[None], valid[None])[0][at])
                found.append((self.machine.of_rows(rows) + self.classifier.correction).numpy())
        return np.concatenate(found)[None]

    def export(self, folder: Path) -> None:
        """Write `model.onnx` and `weights.safetensors`."""
        export_module(self.classifier, self.features.normalise, self.stride, folder / ONNX)
        save_weights(self.classifier, folder / WEIGHTS)

    @property
    def network(self) -> Description:
        """How to build it again."""
        return describe_machine(self.machine, self.features.normalise)


def fit_vectors(ground: Ground, held: Held | None, recipe: VectorRecipe, task: Task) -> FittedVectors:
    """Fit the machine whose penalty and width are best on the held-out pixels, or that of ``task``."""
    rng = np.random.default_rng((task.seed, 2))
    classes = ground.split.classes
    features = features_of(ground, recipe)
    counts = ground.cells
    rows, labels = features.training(ground, draw_stratified(counts, recipe.pixels, rng), rng)
    centre, spread = rows.mean(axis=0), rows.std(axis=0) + 1e-6
    scaled = ((rows - centre) / spread).astype(np.float64)
    chosen = task.chosen
    if chosen is None:
        chosen = {"cost": recipe.cost[0], "gamma": recipe.gamma[0]}
        if held is not None and len(recipe.cost) * len(recipe.gamma) > 1:
            test, reference = features.held(held, TUNING_PIXELS, rng)
            few = np.sort(rng.permutation(len(rows))[: recipe.tuning_pixels])
            scores = {}
            for cost, gamma in product(recipe.cost, recipe.gamma):
                trial = _solve(scaled[few], labels[few], recipe, cost, gamma)
                scores[cost, gamma] = task.measure(reference, trial.predict((test - centre) / spread))
            best = max(scores, key=lambda pair: scores[pair])
            chosen = {"cost": best[0], "gamma": best[1]}
    solved = _solve(scaled, labels, recipe, chosen["cost"], chosen["gamma"])
    machine = _machine(solved, features.context, classes, chosen["gamma"] / scaled.shape[1])
    machine.centre.copy_(torch.from_numpy(centre))
    machine.spread.copy_(torch.from_numpy(spread))
    fitted = FittedVectors(features, machine, Found(dict(chosen)))
    _to_logits(fitted, held, (ground.pixels().astype(np.float64), ground.shown().astype(np.float64)), recipe)
    return fitted


def _solve(rows: np.ndarray, labels: np.ndarray, recipe: VectorRecipe, cost: float, gamma: float) -> Any:
    from sklearn.svm import SVC

    weights = "balanced" if recipe.class_weights == "balanced" else None
    machine = SVC(C=cost, gamma=gamma / rows.shape[1], class_weight=weights, cache_size=500)
    return machine.fit(rows, labels)


def _machine(solved: Any, context: Context | ChipFeatures, classes: int, gamma: float) -> KernelMachine:
    """Unfold scikit-learn's coefficients into one column of weights a pair of classes.

    ``dual_coef_[j - 1]`` holds the coefficients of class i's vectors against class j > i, ``dual_coef_[i]`` those of
    class j's vectors against class i. With two classes scikit-learn turns the sign, so that the second class wins
    above 0.
    """
    labels = np.asarray(solved.classes_, dtype=np.int64)
    owner = np.repeat(np.arange(len(labels)), solved.n_support_)
    pairs = list(combinations(range(len(labels)), 2))
    sign = -1.0 if len(labels) == 2 else 1.0
    machine = KernelMachine(context, classes, len(owner), len(pairs), gamma)
    weights, wins = np.zeros((len(owner), len(pairs))), np.zeros((len(pairs), classes))
    for column, (i, j) in enumerate(pairs):
        weights[owner == i, column] = sign * solved.dual_coef_[j - 1, owner == i]
        weights[owner == j, column] = sign * solved.dual_coef_[i, owner == j]
        wins[column, labels[i]], wins[column, labels[j]] = 1.0, -1.0
    absent = np.full(classes, float(calibration.NEVER))
    absent[labels] = 0.0
    for name, values in {
        "vectors": solved.support_vectors_, "weights": weights, "bias": sign * solved.intercept_, "wins": wins,
        "absent": absent, "gain": np.ones(1),
    }.items():  # fmt: skip
        getattr(machine, name).copy_(torch.from_numpy(np.ascontiguousarray(values)))
    return machine.eval()


def _to_logits(
    fitted: FittedVectors, held: Held | None, counts: tuple[np.ndarray, np.ndarray], recipe: VectorRecipe
) -> None:
    """Scale votes to logits of the class shares that the machine was fitted with, then move them to the prior.

    ``counts`` are pixels of every class: of the prior, and as they were shown (class,).
    """
    pixels, shown = counts
    balanced = recipe.class_weights == "balanced"
    if "gain" not in fitted.found.chosen:
        weights = calibration.class_weights(recipe.class_weights, pixels) if balanced else None
        gain = 1.0
        if held is not None:
            gain = 1.0 / calibration.fit_temperature(fitted.logits(held), held.reference, weights)
        fitted.found.chosen["gain"] = gain
    fitted.machine.gain.fill_(fitted.found.chosen["gain"])
    shown = (shown > 0).astype(np.float64) if balanced else shown
    correction = calibration.prior_correction(pixels, shown)
    fitted.classifier.correction.copy_(torch.from_numpy(correction))
