"""Every classifier by its name, behind one call."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

from stages.formats.samples import Role
from stages.models.context import Context
from stages.models.table import NETWORKS, SERIES
from stages.training.chip_fit import fit_chips
from stages.training.fitted import Fitted, Task
from stages.training.forest import fit_forest
from stages.training.ground import Ground, Split
from stages.training.held import Held, gather
from stages.training.loop import fit_network
from stages.training.recipes import Baseline, Recipe
from stages.training.vectors import fit_vectors

CLASSIFIERS: dict[str, Callable[..., Fitted]] = {
    "rf": fit_forest,
    "svm": fit_vectors,
    **{kind: partial(fit_network, kind) for kind in (*NETWORKS, *SERIES)},
}


def surroundings(name: str, recipe: Baseline | Recipe, steps: int) -> tuple[int, int]:
    """Margin and stride in pixels that a classifier's images of a number of steps need."""
    if isinstance(recipe, Baseline):
        return Context(1, recipe.windows).reach
    network: Any = (
        SERIES[name](1, steps, 2, **recipe.shape()) if name in SERIES else NETWORKS[name](1, 2, **recipe.shape())
    )
    return int(network.margin), int(network.stride)


def gather_for(name: str, recipe: Baseline | Recipe, split: Split, role: Role) -> Held:
    """Read the validation or test pixels of a split with the surroundings that a classifier looks at."""
    if split.tiles.cells is not None:
        return gather(split, role, 0)
    return gather(split, role, *surroundings(name, recipe, split.tiles.steps))


def fit(name: str, ground: Ground, held: Held | None, recipe: Baseline | Recipe, task: Task) -> Fitted:
    """Fit the classifier called ``name`` to the training ground; settings are decided on ``held`` where given."""
    if ground.split.tiles.cells is not None:
        return fit_chips(name, ground, held, recipe, task)
    return CLASSIFIERS[name](ground, held, recipe, task)
