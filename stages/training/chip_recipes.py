"""The settings of the classifiers of chips: how each is built and fitted where a label is of a whole chip."""

from __future__ import annotations

from pydantic import Field, model_validator

from stages.settings import Settings
from stages.training.recipes import ForestRecipe, Recipe, VectorRecipe

#: Sides of the windows in which texture is measured.
TEXTURE = (3, 7)


class ChipRecipe(Recipe):
    """What every network's fit on a collection of chips is made of."""

    epochs: int = Field(10, ge=1, le=10_000, description="Longest training, in epochs")
    steps: int = Field(0, ge=0, description="Optimiser steps an epoch; 0: as many as show every chip once")
    patience: int = Field(10, ge=1, description="Epochs without a better validation loss before stopping early")
    batch: int = Field(64, ge=1, description="Chips a step")
    average_turns: bool = Field(False, description="Average the map over the eight turns and mirrorings of the image")

    @model_validator(mode="after")
    def _of_the_collection(self) -> ChipRecipe:
        if "chip" in self.model_fields_set:
            raise ValueError("chip is the side of the collection's chips; leave it out")
        if self.pseudo:
            raise ValueError(
                "pseudo labels ground without labels, of which a collection of chips has none; set it to 0"
            )
        return self


class ChipCnnRecipe(ChipRecipe):
    """Convolutional network with features averaged over the chip."""

    width: int = Field(32, ge=1, description="Features of the first layers; twice and four times as many deeper down")
    dense: int = Field(128, ge=1, description="Features of the dense layer")
    dropout: float = Field(0.2, ge=0, lt=1, description="Share of features dropped in training")


class ChipCapsuleRecipe(ChipRecipe):
    """Capsules all over the chip."""

    width: int = Field(16, ge=1, description="Features of the first layers; twice and four times as many deeper down")
    types: int = Field(4, ge=1, le=64, description="Primary capsules of every 8 x 8 pixels")
    d: int = Field(8, ge=1, le=64, description="Length of a primary capsule's vector")
    rounds: int = Field(3, ge=1, le=10, description="Rounds of routing")
    dropout: float = Field(0.1, ge=0, lt=1, description="Share of features dropped in training")


class ChipMlpRecipe(ChipRecipe):
    """Multilayer perceptron on simple features of the chip."""

    turn: bool = Field(False, description="Simple features have no direction: nothing to turn")
    noise: float = Field(0.0, ge=0, description="Deviation of random noise a pixel, in band deviations")
    windows: tuple[int, ...] = Field(TEXTURE, description="Sides in pixels of the windows in which texture is measured")
    width: int = Field(128, ge=1, description="Features of each hidden layer")
    layers: int = Field(2, ge=1, le=16, description="Number of hidden layers")
    dropout: float = Field(0.2, ge=0, lt=1, description="Share of features dropped in training")

    @model_validator(mode="after")
    def _odd(self) -> ChipMlpRecipe:
        if any(side < 3 or side % 2 == 0 for side in self.windows):
            raise ValueError("window sides must be odd and at least 3, so that a pixel is in the middle")
        return self


class ChipForestRecipe(ForestRecipe):
    """Random forest on simple features of the chip."""

    windows: tuple[int, ...] = Field(TEXTURE, description="Sides in pixels of the windows in which texture is measured")
    pixels: int = Field(150_000, ge=10, description="Training chips at most, drawn at random")
    leaf: tuple[int, ...] = Field((1, 4), min_length=1, description="Smallest leaves to choose from on validation")
    share: float = Field(0.7, gt=0, le=1, description="Share of the training chips every tree of a forest is grown on")


class ChipVectorRecipe(VectorRecipe):
    """Support vector machine on simple features of the chip."""

    windows: tuple[int, ...] = Field(TEXTURE, description="Sides in pixels of the windows in which texture is measured")
    pixels: int = Field(10_000, ge=10, le=20_000, description="Training chips at most, stratified by class")
    tuning_pixels: int = Field(4_000, ge=10, description="Training chips at most while settings are chosen")
    cost: tuple[float, ...] = Field((1.0, 10.0, 100.0), min_length=1, description="Penalties C to choose from")


class ChipRecipes(Settings):
    """The classifiers of chips by the names that all classifiers have."""

    rf: ChipForestRecipe = Field(default_factory=ChipForestRecipe, description="Random forest")
    svm: ChipVectorRecipe = Field(default_factory=ChipVectorRecipe, description="Support vector machine")
    mlp: ChipMlpRecipe = Field(default_factory=ChipMlpRecipe, description="Network on simple features")
    cnn: ChipCnnRecipe = Field(default_factory=ChipCnnRecipe, description="Convolutional network")
    capsule: ChipCapsuleRecipe = Field(default_factory=ChipCapsuleRecipe, description="Capsules with dynamic routing")
