"""Draw training pixels as a table of hand-made features for the classifiers that read rows."""

from __future__ import annotations

import numpy as np
import torch

from stages.formats.synthetic import Synthetic
from stages.models.chip_features import ChipFeatures
from stages.models.classifier import Normalise, with_validity
from stages.models.context import Context
from stages.training.ground import Ground
from stages.training.held import Held
from stages.training.recipes import Baseline

#: Synthetic samples whose features are computed in one go.
AT_ONCE = 1000


class Features:
    """Normalised channels and their context, computed by the module that also goes into the exported graph."""

    def __init__(self, normalise: Normalise, context: Context | ChipFeatures) -> None:
        self.normalise = normalise
        self.context = context

    def __call__(self, image: np.ndarray, valid: np.ndarray) -> np.ndarray:
        """Float32 (n, c, y, x) and (n, steps, y, x) -> (n, y, x, features)."""
        with torch.no_grad():
            shown = torch.from_numpy(valid)
            scaled = with_validity(self.normalise(torch.from_numpy(image), shown), shown)
            found: np.ndarray = self.context(scaled).permute(0, 2, 3, 1).numpy()
        return found

    def training(self, ground: Ground, drawn: np.ndarray, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
        """Compute the features (rows, features) and labels (rows,) of ``drawn`` (cell, class) pixels of each cell."""
        # A chip's surroundings are other chips.
        margin, side = self.context.margin if ground.split.tiles.cells is None else 0, ground.side
        rows, labels = [], []
        for slot in np.flatnonzero(drawn.sum(axis=1)):
            season, row, col = (int(place) for place in ground.places[slot])
            image, valid, _ = ground.cut(season, row * side - margin, col * side - margin, side + 2 * margin)
            features = self(image[None], valid[None].astype(np.float32))[0]
            features = features[margin : margin + side, margin : margin + side].reshape(side * side, -1)
            flat = ground.labels[slot].reshape(-1)
            for label in np.flatnonzero(drawn[slot]):
                picked = rng.choice(np.flatnonzero(flat == label), size=drawn[slot, label], replace=False)
                rows.append(features[np.sort(picked)])
                labels.append(np.full(len(picked), label))
        if ground.synthetic is not None:
            # As large a share of them as of the real pixels, so that the classes keep the shares of both together.
            count = round(len(ground.synthetic) * drawn.sum() / ground.cells.sum())
            some = np.sort(rng.permutation(len(ground.synthetic))[:count])
            rows.append(self._of_synthetic(ground.synthetic, some))
            labels.append(ground.synthetic.labels[some])
        return np.concatenate(rows), np.concatenate(labels)

    def _of_synthetic(self, synthetic: Synthetic, some: np.ndarray) -> np.ndarray:
        """Compute the features of the middle pixels of some samples: (n, features)."""
        rim = self.context.margin
        seen = synthetic.cropped(2 * rim + 1)
        found = [np.empty((0, self.context.features), np.float32)]
        for at in np.array_split(some, -(-len(some) // AT_ONCE)) if len(some) else ():
            found.append(self(seen.image[at], seen.valid[at].astype(np.float32))[:, rim, rim])
        return np.concatenate(found)

    def held(self, held: Held, limit: int, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
        """Compute the features and labels of at most ``limit`` held-out pixels."""
        rows = np.concatenate(
            [self(held.image[i : i + 1], held.valid[i : i + 1])[0][held.at[i]] for i in range(len(held.labels))]
        )
        picked = np.sort(rng.permutation(len(rows))[:limit])
        return rows[picked], held.reference[picked]


def features_of(ground: Ground, recipe: Baseline) -> Features:
    """Make the features that a recipe asks for, normalised by the training pixels."""
    normalise = ground.normalise(recipe.clip, recipe.differences)
    channels = len(ground.split.channels) * (1 + len(recipe.differences))
    cells = ground.split.tiles.cells
    if cells is not None:
        return Features(normalise, ChipFeatures(channels, cells.side, recipe.windows))
    return Features(normalise, Context(channels, recipe.windows))


def draw_at_random(counts: np.ndarray, pixels: int, rng: np.random.Generator) -> np.ndarray:
    """Draw ``pixels`` of all labelled pixels: how many of every cell and class; ``counts`` (cell, class)."""
    if counts.sum() <= pixels:
        return counts
    flat = rng.multivariate_hypergeometric(counts.reshape(-1), pixels, method="marginals")
    drawn: np.ndarray = flat.reshape(counts.shape)
    return drawn


def draw_stratified(counts: np.ndarray, pixels: int, rng: np.random.Generator) -> np.ndarray:
    """Draw pixels of every class by its share, at least 20 of each that there are; (cell, class)."""
    total = counts.sum(axis=0)
    quota = np.round(pixels * np.minimum(1.0, total / max(total.sum(), 1))).astype(np.int64)
    quota = np.minimum(total, np.maximum(quota, 20))
    columns = [
        rng.multivariate_hypergeometric(counts[:, k], quota[k], method="marginals") for k in range(counts.shape[1])
    ]
    return np.stack(columns, axis=1)
