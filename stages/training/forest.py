"""Fit a random forest (Breiman 2001) or extremely randomised trees on single pixels or on hand-made context."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from stages.formats.weights import ONNX
from stages.models.classifier import with_validity
from stages.models.context import Rows
from stages.training import calibration
from stages.training.fitted import Found, Task
from stages.training.ground import Ground
from stages.training.held import Held
from stages.training.onnx_file import LEAST, export_forest
from stages.training.recipes import ForestRecipe
from stages.training.table import Features, draw_at_random, features_of

#: While leaf sizes are compared: validation pixels and share of the trees.
TUNING_PIXELS, TUNING_SHARE = 20_000, 0.15


class FittedForest:
    """A forest and the features it reads."""

    tta = False

    def __init__(self, features: Features, forest: Any, classes: int, found: Found) -> None:
        self.features = features
        self.forest = forest
        self.classes = classes
        self.found = found
        self.margin, self.stride = features.context.margin, features.context.stride
        #: Trees have no torch form.
        self.network: dict[str, Any] = {}
        #: Added to the logarithm of the probabilities; the raw, weighted forest has zeros here.
        self.correction = np.zeros(classes, dtype=np.float32)

    def of_rows(self, rows: np.ndarray) -> np.ndarray:
        """Logits of a table of features: (rows, features) -> (rows, class)."""
        shares = np.zeros((len(rows), self.classes), dtype=np.float32)
        shares[:, self.forest.classes_] = self.forest.predict_proba(rows)
        return np.log(np.maximum(shares, np.float32(LEAST))) + self.correction

    def logits(self, held: Held) -> np.ndarray:
        """Logits of the held-out pixels: (1, pixels, class)."""
        found = []
        for image, valid, at in zip(held.image, held.valid, held.at, strict=True):
            if at.any():
                found.append(self.of_rows(self.features(image[None], valid[None])[0][at]))
        return np.concatenate(found)[None]

    def export(self, folder: Path) -> None:
        """Write `model.onnx`."""
        rows = _Rows(self.features)
        export_forest(rows, self.features.normalise, self.forest, self.correction, folder / ONNX)


def fit_forest(ground: Ground, held: Held | None, recipe: ForestRecipe, task: Task) -> FittedForest:
    """Fit the forest whose leaf size is best on the held-out pixels, or the one already chosen in ``task``."""
    rng = np.random.default_rng((task.seed, 1))
    classes = ground.split.classes
    features = features_of(ground, recipe)
    counts = ground.cells
    rows, labels = features.training(ground, draw_at_random(counts, recipe.pixels, rng), rng)
    chosen = task.chosen
    if chosen is None:
        chosen = {"leaf": recipe.leaf[0]}
        if held is not None and len(recipe.leaf) > 1:
            test, reference = features.held(held, TUNING_PIXELS, rng)
            few = max(10, int(recipe.trees * TUNING_SHARE))
            trial_recipe = recipe.model_copy(update={"trees": min(few, recipe.trees)})
            scores = {}
            for leaf in recipe.leaf:
                trial = _grow(rows, labels, trial_recipe, leaf, task.seed)
                scores[leaf] = task.measure(reference, trial.predict(test))
            chosen = {"leaf": max(scores, key=lambda leaf: scores[leaf])}
    forest = _grow(rows, labels, recipe, int(chosen["leaf"]), task.seed)
    fitted = FittedForest(features, forest, classes, Found(chosen))
    pixels, shown = ground.pixels().astype(np.float64), ground.shown().astype(np.float64)
    shown = (shown > 0).astype(np.float64) if recipe.class_weights == "balanced" else shown
    fitted.correction = calibration.prior_correction(pixels, shown).astype(np.float32)
    return fitted


def _grow(rows: np.ndarray, labels: np.ndarray, recipe: ForestRecipe, leaf: int, seed: int) -> Any:
    """Grow the trees; leaves are made larger where all of them together would exceed the recipe's bound.

    Extremely randomised trees (Geurts, Ernst and Wehenkel 2006) see all pixels and cut at random places.
    """
    from sklearn.ensemble import ExtraTreesClassifier, RandomForestClassifier

    extra = recipe.kind == "extra"
    drawn = len(rows) if extra else max(1, int(recipe.share * len(rows)))
    forest = (ExtraTreesClassifier if extra else RandomForestClassifier)(
        n_estimators=recipe.trees, min_samples_leaf=max(leaf, -(-drawn * recipe.trees // recipe.leaves)),
        bootstrap=not extra, max_samples=None if extra else drawn, max_features=recipe.features,
        class_weight="balanced" if recipe.class_weights == "balanced" else None, n_jobs=-1, random_state=seed,
    )  # fmt: skip
    return forest.fit(rows, labels)


class _Rows(Rows):
    """The table of features from `image` and `valid`."""

    def __init__(self, features: Features) -> None:
        super().__init__(features.context)
        self.normalise = features.normalise

    def forward(self, image: Any, valid: Any) -> Any:  # type: ignore[override]
        """(n, c, y, x) and (n, steps, y, x) -> (n * y * x, features)."""
        return super().forward(with_validity(self.normalise(image, valid), valid))
