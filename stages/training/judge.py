"""Try synthetic samples on a plain classifier that maps the validation blocks."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np

from stages.formats.samples import Role
from stages.formats.synthetic import Prior, Synthetic
from stages.training.calibration import prior_correction
from stages.training.classifiers import fit, surroundings
from stages.training.fitted import Task
from stages.training.ground import Ground
from stages.training.held import Held, gather
from stages.training.mixing import mixed_for
from stages.training.recipes import Baseline, ForestRecipe, MlpRecipe, Recipe

Judge = Literal["rf", "mlp"]
#: Validation pixels at most.
PIXELS = 200_000
#: Windows of a forest's context; those that fit into a sample are taken.
WINDOWS = (3, 7, 15)


def recipe_of(judge: Judge, side: int) -> Baseline | Recipe:
    """Give a quick classifier that looks no farther than samples are wide, without anything to tune on validation."""
    if judge == "rf":
        windows = tuple(window for window in WINDOWS if window <= side)
        return ForestRecipe(trees=60, leaf=(5,), pixels=50_000, windows=windows)
    return MlpRecipe(chip=1, batch=256, steps=150, epochs=8, keep="last")


def held_for(ground: Ground, judge: Judge, side: int) -> Held:
    """Read the validation pixels of a fold as the judge looks at them."""
    reach = surroundings(judge, recipe_of(judge, side), ground.split.tiles.steps)
    return gather(ground.split, Role.VALIDATION, *reach, limit=PIXELS)


@dataclass(frozen=True)
class Trial:
    """One training of the judge: where its samples' sides end, its seed, and where a network keeps its checkpoint."""

    judge: Judge
    side: int
    seed: int
    folder: Path


def judged(ground: Ground, held: Held, synthetic: Synthetic | None, trial: Trial) -> dict[Prior, np.ndarray]:
    """Train on a ground with the samples, as `train` does, and map the validation pixels.

    Returns:
        Mapped class of every held-out pixel (pixels,), in the order of ``held.reference``, with the answers held to the
        class shares of the labels, and to those of labels and samples together.
    """
    recipe = recipe_of(trial.judge, trial.side)
    mixed = mixed_for(trial.judge, recipe, ground, synthetic)
    task = Task(trial.judge, trial.seed, lambda *_: 0.0, trial.folder)
    logits = fit(trial.judge, mixed, None, recipe, task).logits(held).mean(axis=0)
    own = mixed.pixels().astype(np.float64)
    shares: dict[Prior, np.ndarray] = {"labels": ground.mixed(None).pixels(), "drawn": mixed.shown()}
    return {
        prior: (logits + prior_correction(pixels.astype(np.float64), own)).argmax(axis=1)
        for prior, pixels in shares.items()
    }
