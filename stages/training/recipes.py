"""The settings of every classifier: how it is built and how it is fitted."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field, field_validator, model_validator

from stages.settings import Settings

Weights = Literal["none", "balanced", "sqrt"]
WEIGHTS = (
    "Weight of a class in the loss: none, balanced (1 / share) or sqrt (1 / square root of the share); logits are "
    "corrected back to the training prior afterwards"
)


class Recipe(Settings):
    """What every network's fit is made of; lengths are optimiser steps and pixels."""

    epochs: int = Field(6, ge=1, le=10_000, description="Longest training, in epochs")
    steps: int = Field(33, ge=1, description="Optimiser steps an epoch; validation follows every epoch")
    patience: int = Field(6, ge=1, description="Epochs without a better validation loss before stopping early")
    batch: int = Field(8, ge=1, description="Chips a step")
    chip: int = Field(64, ge=8, le=1024, description="Side of a training chip in pixels")
    lr: float = Field(3e-3, gt=0, le=1, description="Largest learning rate (AdamW)")
    schedule: Literal["one-cycle", "constant"] = Field(
        "one-cycle", description="Learning rate over the longest training: warm-up and cosine decay, or constant"
    )
    weight_decay: float = Field(1e-2, ge=0, description="Weight decay of convolution weights")
    clip_gradient: float = Field(2.0, gt=0, description="Largest norm of the gradient")
    average: float = Field(0.99, ge=0, lt=1, description="Decay of the moving average of weights that is kept; 0 = off")
    class_weights: Weights = Field("none", description=WEIGHTS)
    rare: float = Field(0.0, ge=0, le=1, description="Share of chips drawn around every class equally often")
    smoothing: float = Field(0.0, ge=0, lt=1, description="Label smoothing in the loss")
    turn: bool = Field(True, description="Turn and mirror chips at random (albumentations D4)")
    rotate: float = Field(0.0, ge=0, le=180, description="Rotate chips at random by up to this many degrees either way")
    zoom: float = Field(0.0, ge=0, le=1, description="Enlarge or shrink chips at random by up to this share")
    gain: float = Field(0.0, ge=0, description="Deviation of a random factor a band and chip")
    offset: float = Field(0.0, ge=0, description="Deviation of a random offset a band and chip, in band deviations")
    noise: float = Field(0.03, ge=0, description="Deviation of random noise a pixel, in band deviations")
    hide: float = Field(0.0, ge=0, le=1, description="Share of chips with a random rectangle hidden")
    clip: float = Field(4.0, gt=0, description="Values beyond this many band deviations are clipped")
    members: int = Field(
        1, ge=1, le=16, description="Networks trained from different seeds, their probabilities averaged"
    )
    average_turns: bool = Field(True, description="Average the map over the eight turns and mirrorings of the image")

    def shape(self) -> dict[str, Any]:
        """Give what shapes the network: the settings that only its own recipe has."""
        return {name: getattr(self, name) for name in type(self).model_fields if name not in Recipe.model_fields}


class MlpRecipe(Recipe):
    """Pixel network."""

    chip: int = Field(16, ge=8, le=1024, description="Side of a training chip in pixels")
    batch: int = Field(32, ge=1, description="Chips a step")
    average_turns: bool = Field(False, description="A pixel has no direction: nothing to average")
    turn: bool = Field(False, description="A pixel has no direction: nothing to turn")
    width: int = Field(64, ge=1, description="Features of each hidden layer")
    dropout: float = Field(0.1, ge=0, lt=1, description="Share of features dropped in training")


class CnnRecipe(Recipe):
    """Patch network."""

    chip: int = Field(48, ge=8, le=1024, description="Side of a training chip in pixels")
    width: int = Field(32, ge=1, description="Features of each layer")
    dilations: tuple[int, ...] = Field(
        (1, 1, 1, 2, 2), min_length=1, description="Dilation of each layer; the patch is 1 + twice their sum wide"
    )
    dropout: float = Field(0.1, ge=0, lt=1, description="Share of features dropped in training")


class UnetRecipe(Recipe):
    """Dense network."""

    members: int = Field(
        3, ge=1, le=16, description="Networks trained from different seeds, their probabilities averaged"
    )
    width: int = Field(16, ge=1, description="Features of the finest level; every coarser level has twice as many")
    depth: int = Field(3, ge=1, le=6, description="Number of halvings")
    dropout: float = Field(0.1, ge=0, lt=1, description="Share of features dropped in training")

    @model_validator(mode="after")
    def _halves(self) -> UnetRecipe:
        if self.chip % 2**self.depth:
            raise ValueError(
                f"a chip of {self.chip} pixels cannot be halved {self.depth} times; chip must be a multiple of "
                f"{2**self.depth} (2**depth)"
            )
        return self


class EnsembleRecipe(Settings):
    """Average of trained networks."""

    of: tuple[Literal["mlp", "cnn", "unet"], ...] = Field(
        ("cnn", "unet"), min_length=2, description="The networks whose calibrated probabilities are averaged"
    )


class Baseline(Settings):
    """What forests and support vector machines share."""

    windows: tuple[int, ...] = Field(
        (3, 5, 7, 9, 11, 15), description="Sides in pixels of the windows of means and deviations; none: single pixels"
    )
    class_weights: Literal["none", "balanced"] = Field(
        "none", description="Weight of a class in the fit; logits are corrected back to the training prior afterwards"
    )
    clip: float = Field(8.0, gt=0, description="Values beyond this many band deviations are clipped")

    @field_validator("windows")
    @classmethod
    def _odd(cls, windows: tuple[int, ...]) -> tuple[int, ...]:
        if any(side < 3 or side % 2 == 0 for side in windows):
            raise ValueError("window sides must be odd and at least 3, so that a pixel is in the middle")
        return windows


class ForestRecipe(Baseline):
    """Random forest."""

    pixels: int = Field(150_000, ge=10, description="Training pixels at most, drawn at random")
    trees: int = Field(100, ge=1, description="Number of trees")
    leaf: tuple[int, ...] = Field((5, 20), min_length=1, description="Smallest leaves to choose from on validation")
    share: float = Field(0.4, gt=0, le=1, description="Share of the training pixels every tree is grown on")
    leaves: int = Field(1_000_000, ge=2, description="Leaves of all trees at most; bounds the model's file to 150 MB")


class VectorRecipe(Baseline):
    """Support vector machine."""

    pixels: int = Field(10_000, ge=10, le=20_000, description="Training pixels at most, stratified by class")
    tuning_pixels: int = Field(4_000, ge=10, description="Training pixels at most while settings are chosen")
    cost: tuple[float, ...] = Field((1.0, 10.0), min_length=1, description="Penalties C to choose from on validation")
    gamma: tuple[float, ...] = Field(
        (0.0625, 0.25), min_length=1, description="Kernel widths to choose from, in units of 1 / number of features"
    )
