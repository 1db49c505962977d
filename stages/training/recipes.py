"""The settings of every classifier: how it is built and how it is fitted."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field, field_validator, model_validator

from stages.settings import Settings

#: Chains of lags in steps: [4] is the difference to 4 steps before, [1, 1] the second difference.
Lags = tuple[Annotated[tuple[Annotated[int, Field(ge=1)], ...], Field(min_length=1)], ...]
LAGS = (
    "Differences along time as further features of every step, each a chain of lags in steps: [4] is the difference "
    "to 4 steps before, [1, 1] the second difference"
)
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
    keep: Literal["best", "last"] = Field(
        "best", description="Weights that are kept: of the epoch of least validation loss, or of the last one"
    )
    batch: int = Field(8, ge=1, description="Chips a step")
    chip: int = Field(64, ge=1, le=1024, description="Side of a training chip in pixels; 1: single labelled pixels")
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
    adversarial: float = Field(
        0.0,
        ge=0,
        le=4,
        description="Strength of attacks that the network learns to withstand, in band deviations; 0 = off",
    )
    attacked: float = Field(0.5, gt=0, le=1, description="Share of the chips of every batch that are attacked")
    attack_steps: int = Field(
        1, ge=1, le=50, description="Steps of the attacks in training: 1 is the fast gradient from a random start"
    )
    pretrain: int = Field(
        0, ge=0, le=10_000,
        description="Epochs in which the network first learns, without labels, to tell hidden values of the training "
        "ground from the others; 0 = off",
    )  # fmt: skip
    pseudo: float = Field(
        0.0, ge=0, lt=1,
        description="Confidence above which unlabelled training ground takes the network's own label, from which a "
        "second network is trained; 0 = off",
    )  # fmt: skip
    members: int = Field(
        1, ge=1, le=16, description="Networks trained from different seeds, their probabilities averaged"
    )
    average_turns: bool = Field(True, description="Average the map over the eight turns and mirrorings of the image")

    def shape(self) -> dict[str, Any]:
        """Give what shapes the network: the settings that only its own recipe has."""
        return {name: getattr(self, name) for name in type(self).model_fields if name not in SeriesRecipe.model_fields}


class DatedRecipe(Recipe):
    """What networks share that take pixels of any number of dates: chips are varied as series."""

    gain: float = Field(0.0, ge=0, description="Deviation of a random factor a chip and band, on tile values")
    offset: float = Field(
        0.0, ge=0, description="Deviation of a random offset a chip and band, in band deviations, on tile values"
    )
    drop: float = Field(0.0, ge=0, le=0.5, description="Mean share of the dates dropped from a chip")
    jitter: float = Field(0.0, ge=0, description="Days by which the values of a chip are moved at most, either way")
    differences: Lags = Field((), description=LAGS)


class MlpRecipe(DatedRecipe):
    """Pixel network."""

    chip: int = Field(16, ge=1, le=1024, description="Side of a training chip in pixels; 1: single labelled pixels")
    batch: int = Field(32, ge=1, description="Chips a step")
    average_turns: bool = Field(False, description="A pixel has no direction: nothing to average")
    turn: bool = Field(False, description="A pixel has no direction: nothing to turn")
    width: int = Field(64, ge=1, description="Features of each hidden layer")
    layers: int = Field(2, ge=1, le=16, description="Number of hidden layers")
    activation: Literal["sigmoid", "tanh", "relu", "leaky_relu", "elu", "gelu", "silu"] = Field(
        "relu", description="Activation function of the hidden layers"
    )
    dropout: float = Field(0.1, ge=0, lt=1, description="Share of features dropped in training")


class CnnRecipe(Recipe):
    """Patch network."""

    chip: int = Field(48, ge=8, le=1024, description="Side of a training chip in pixels")
    width: int = Field(32, ge=1, description="Features of each layer")
    dilations: tuple[int, ...] = Field(
        (1, 1, 1, 2, 2), min_length=1, description="Dilation of each layer; the patch is 1 + twice their sum wide"
    )
    dropout: float = Field(0.1, ge=0, lt=1, description="Share of features dropped in training")


class Cnn3dRecipe(Recipe):
    """Spectral-spatial network."""

    chip: int = Field(32, ge=1, le=1024, description="Side of a training chip in pixels; 1: single labelled pixels")
    width: int = Field(12, ge=1, description="Features of the first layer; all others have twice as many")
    dilations: tuple[int, ...] = Field(
        (1, 1), min_length=1, description="Dilation on the ground of each layer of 3 x 3 x 3; (1, 1) is 5 x 5 pixels"
    )
    spectral: int = Field(2, ge=0, le=8, description="Layers behind them that go along the spectrum only")
    dropout: float = Field(0.1, ge=0, lt=1, description="Share of features dropped in training")


class CapsuleRecipe(Recipe):
    """Capsules with dynamic routing."""

    chip: int = Field(32, ge=8, le=1024, description="Side of a training chip in pixels")
    width: int = Field(32, ge=1, description="Features of each convolution below the capsules")
    dilations: tuple[int, ...] = Field((1, 1, 2), min_length=1, description="Dilation of each of these convolutions")
    types: int = Field(4, ge=1, le=64, description="Primary capsules at every pixel")
    d: int = Field(8, ge=1, le=64, description="Length of a primary capsule's vector")
    window: Literal[1, 3, 5] = Field(3, description="Side of the window of places whose capsules vote, in places")
    spread: int = Field(3, ge=1, description="Pixels between places of the window")
    class_d: int = Field(8, ge=1, le=64, description="Length of a class capsule's vector")
    rounds: int = Field(3, ge=1, le=10, description="Rounds of routing")
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


class SeriesRecipe(DatedRecipe):
    """What every fit of a network for series is made of: single pixels unless the network looks around."""

    epochs: int = Field(20, ge=1, le=10_000, description="Longest training, in epochs")
    batch: int = Field(256, ge=1, description="Chips a step")
    chip: int = Field(1, ge=1, le=1024, description="Side of a training chip in pixels; 1: single labelled pixels")
    turn: bool = Field(False, description="A pixel has no direction: nothing to turn")
    average_turns: bool = Field(False, description="A pixel has no direction: nothing to average")
    drop: float = Field(0.1, ge=0, le=0.5, description="Mean share of the dates dropped from a chip")
    jitter: float = Field(5.0, ge=0, description="Days by which the values of a chip are moved at most, either way")


class LstmRecipe(SeriesRecipe):
    """Recurrent network."""

    kind: Literal["lstm", "gru", "rnn"] = Field("lstm", description="Long short-term memory, gated or plain unit")
    hidden: int = Field(64, ge=1, description="Features of the state")
    layers: int = Field(1, ge=1, le=8, description="Layers on top of one another")
    bidirectional: bool = Field(True, description="Read the series forwards and backwards")
    readout: Literal["last", "attention"] = Field("attention", description="State of the last step, or a weighted mean")
    dropout: float = Field(0.2, ge=0, lt=1, description="Share of features dropped in training")
    forget_bias: float = Field(1.0, description="Bias of the forget gate at the start")
    truncate: int | None = Field(None, ge=1, description="Steps after which gradients stop in training; none: never")
    calendar: bool = Field(True, description="Show the network the day of the year of every step")


class TempCnnRecipe(SeriesRecipe):
    """Convolutions along time."""

    filters: int = Field(64, ge=1, description="Features of every convolution")
    kernel: int = Field(5, ge=1, description="Steps that a convolution sees")
    layers: int = Field(3, ge=1, le=8, description="Number of convolutions")
    dense: int = Field(256, ge=1, description="Features of the dense layer")
    calendar: bool = Field(False, description="Show the network the day of the year of every step")
    dropout: float = Field(0.5, ge=0, lt=1, description="Share of features dropped in training")


class LtaeRecipe(SeriesRecipe):
    """Attention over time; d_model must be a multiple of twice n_head."""

    n_head: int = Field(16, ge=1, description="Attention heads, each on its own group of features")
    d_model: int = Field(128, ge=1, description="Features of every step, shared out among the heads")
    d_k: int = Field(8, ge=1, description="Length of keys and queries")
    dropout: float = Field(0.2, ge=0, lt=1, description="Share of features dropped in training")

    @model_validator(mode="after")
    def _shared_out(self) -> LtaeRecipe:
        if self.d_model % (2 * self.n_head):
            raise ValueError(
                f"d_model is {self.d_model}, which {self.n_head} heads cannot share; it must be a multiple of "
                f"{2 * self.n_head} (twice n_head)"
            )
        return self


class ConvLstmRecipe(SeriesRecipe):
    """Convolutional recurrent network."""

    chip: int = Field(16, ge=4, le=1024, description="Side of a training chip in pixels")
    batch: int = Field(8, ge=1, description="Chips a step")
    turn: bool = Field(True, description="Turn and mirror chips at random (albumentations D4)")
    hidden: int = Field(32, ge=1, description="Features of the state")
    kernel: Literal[1, 3, 5, 7, 9] = Field(3, description="Side of the convolutions in pixels")
    bidirectional: bool = Field(False, description="Read the series forwards and backwards")
    dropout: float = Field(0.2, ge=0, lt=1, description="Share of features dropped in training")
    forget_bias: float = Field(1.0, description="Bias of the forget gate at the start")


#: What an ensemble may average.
Member = Literal["rf", "svm", "mlp", "cnn", "cnn3d", "capsule", "unet", "lstm", "tempcnn", "ltae", "convlstm"]


class EnsembleRecipe(Settings):
    """Average of trained classifiers."""

    of: tuple[Member, ...] = Field(
        ("cnn", "unet"), min_length=2, description="The classifiers whose calibrated probabilities are averaged"
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
    differences: Lags = Field((), description=LAGS)

    @field_validator("windows")
    @classmethod
    def _odd(cls, windows: tuple[int, ...]) -> tuple[int, ...]:
        if any(side < 3 or side % 2 == 0 for side in windows):
            raise ValueError("window sides must be odd and at least 3, so that a pixel is in the middle")
        return windows


class ForestRecipe(Baseline):
    """Random forest, or extremely randomised trees."""

    kind: Literal["forest", "extra"] = Field(
        "forest", description="forest: best cuts of resampled pixels; extra: random cuts of all of them"
    )
    features: Literal["sqrt"] | Annotated[float, Field(gt=0, le=1)] = Field(
        "sqrt", description="Features that a cut is chosen from: the square root of their number, or a share of them"
    )
    pixels: int = Field(150_000, ge=10, description="Training pixels at most, drawn at random")
    trees: int = Field(100, ge=1, description="Number of trees")
    leaf: tuple[int, ...] = Field((5, 20), min_length=1, description="Smallest leaves to choose from on validation")
    share: float = Field(0.4, gt=0, le=1, description="Share of the training pixels every tree of a forest is grown on")
    leaves: int = Field(1_000_000, ge=2, description="Leaves of all trees at most; bounds the model's file to 150 MB")


class VectorRecipe(Baseline):
    """Support vector machine."""

    pixels: int = Field(10_000, ge=10, le=20_000, description="Training pixels at most, stratified by class")
    tuning_pixels: int = Field(4_000, ge=10, description="Training pixels at most while settings are chosen")
    cost: tuple[float, ...] = Field((1.0, 10.0), min_length=1, description="Penalties C to choose from on validation")
    gamma: tuple[float, ...] = Field(
        (0.0625, 0.25), min_length=1, description="Kernel widths to choose from, in units of 1 / number of features"
    )
