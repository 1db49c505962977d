"""Decide which classifiers can learn from synthetic samples, and hand each its part of them."""

from __future__ import annotations

from collections.abc import Mapping

from stages.errors import SettingError
from stages.formats.synthetic import Synthetic
from stages.training.classifiers import surroundings
from stages.training.ground import Ground
from stages.training.recipes import Baseline, Recipe


def needed_side(name: str, recipe: Baseline | Recipe, steps: int) -> int:
    """Side in pixels of the square that a classifier looks at to name its middle pixel."""
    return 2 * surroundings(name, recipe, steps)[0] + 1


def left_out(recipes: Mapping[str, Baseline | Recipe], side: int, steps: int) -> dict[str, str]:
    """Say of every classifier that cannot learn from samples ``side`` pixels wide why not.

    Raises:
        SettingError: none of them can.
    """
    reasons = {}
    for name, recipe in recipes.items():
        need, chip = needed_side(name, recipe, steps), recipe.chip if isinstance(recipe, Recipe) else None
        if need > side:
            reasons[name] = f"it looks at {need} x {need} pixels, the samples are {side} wide"
        elif chip is not None and need > chip:
            reasons[name] = f"it looks at {need} x {need} pixels, its chips are {chip} wide"
    if recipes and len(reasons) == len(recipes):
        name, why = next(iter(reasons.items()))
        raise SettingError(
            f"No model of train.models can learn from the synthetic samples ({name}: {why}); set augment.kind to chip "
            "and augment.side to what a model looks at, train one that looks at less (windows [] for rf and svm, or "
            "mlp), or set augment.method to none."
        )
    return reasons


def mixed_for(name: str, recipe: Baseline | Recipe, ground: Ground, synthetic: Synthetic | None) -> Ground:
    """Give the ground with what a classifier looks at of the samples, or as it is where it looks farther."""
    if synthetic is None:
        return ground.mixed(None)
    steps = ground.split.tiles.steps
    side = needed_side(name, recipe, steps)
    usable = side <= synthetic.side and (not isinstance(recipe, Recipe) or side <= recipe.chip)
    return ground.mixed(synthetic.cropped(side) if usable else None)
