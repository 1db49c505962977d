"""Fit classifiers of whole chips, and read the held-out chips they are validated on."""

from __future__ import annotations

from typing import Any

from stages.training.chip_recipes import ChipRecipe
from stages.training.fitted import Fitted, Task
from stages.training.forest import fit_forest
from stages.training.ground import Ground
from stages.training.held import Held
from stages.training.loop import fit_network
from stages.training.recipes import Baseline, Recipe
from stages.training.vectors import fit_vectors

BASELINES: dict[str, Any] = {"rf": fit_forest, "svm": fit_vectors}


def fit_chips(name: str, ground: Ground, held: Held | None, recipe: Baseline | Recipe, task: Task) -> Fitted:
    """Fit the classifier called ``name`` to the chips of the training ground."""
    if name in BASELINES:
        fitted: Fitted = BASELINES[name](ground, held, recipe, task)
        return fitted
    assert isinstance(recipe, ChipRecipe), f"{name} is fitted to chips by a recipe of chips"
    return fit_network(f"chip-{name}", ground, held, _counted(recipe, ground), task)


def _counted(recipe: ChipRecipe, ground: Ground) -> ChipRecipe:
    """Put in what the collection decides: the side of a chip, and by default the steps that show every chip once."""
    steps = recipe.steps or -(-int(ground.cells.any(axis=1).sum()) // recipe.batch)
    return recipe.model_copy(update={"chip": ground.side, "steps": steps})
