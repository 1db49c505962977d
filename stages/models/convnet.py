"""Convolutional networks from a short description: images in, logits of the whole image out."""

from __future__ import annotations

import re
from collections.abc import Sequence
from math import prod

import torch
from torch import Tensor, nn
from torch.nn import functional

#: A convolution or a residual block: its features, its side where it is not 3, its stride where it is not 1.
STAGE = re.compile(r"(?P<residual>res)?(?P<features>[1-9]\d*)(?:x(?P<side>[13579]))?(?:/(?P<stride>[2-9]))?")


class Residual(nn.Module):
    """Two convolutions whose result is added to their input (He et al. 2016).

    Where size or features change, the input is brought to the new ones by a convolution of side 1.
    """

    def __init__(self, inputs: int, features: int, side: int = 3, stride: int = 1) -> None:
        super().__init__()
        self.body = nn.Sequential(
            *convolution(inputs, features, side, stride),
            nn.Conv2d(features, features, side, padding=side // 2, bias=False),
            nn.BatchNorm2d(features),
        )
        same = inputs == features and stride == 1
        self.across = nn.Identity() if same else nn.Conv2d(inputs, features, 1, stride, bias=False)

    def forward(self, image: Tensor) -> Tensor:
        """(n, inputs, y, x) -> (n, features, y / stride, x / stride)."""
        return functional.relu(self.across(image) + self.body(image))


def convolution(inputs: int, features: int, side: int = 3, stride: int = 1, padded: bool = True) -> list[nn.Module]:
    """Make a convolution with batch normalisation (Ioffe and Szegedy 2015) and rectification."""
    convolve = nn.Conv2d(inputs, features, side, stride, side // 2 if padded else 0, bias=False)
    return [convolve, nn.BatchNorm2d(features), nn.ReLU()]


def stages_of(words: Sequence[str], channels: int, padded: bool = True) -> nn.Sequential:
    """Build convolutions and pooling from words such as ``"32"``, ``"64x5/2"``, ``"res64"``, ``"pool"`` and ``"mean"``.

    Raises:
        ValueError: a word is none of these, or ``"mean"`` is not the last.
    """
    layers: list[nn.Module] = []
    for place, word in enumerate(words):
        found = STAGE.fullmatch(word)
        if found:
            features, side, stride = (int(found[name] or usual) for name, usual in zip(
                ("features", "side", "stride"), (0, 3, 1), strict=True))  # fmt: skip
            layers += (
                [Residual(channels, features, side, stride)]
                if found["residual"]
                else convolution(channels, features, side, stride, padded)
            )
            channels = features
        elif word == "pool":
            layers.append(nn.MaxPool2d(2))
        elif word == "mean" and place == len(words) - 1:
            layers.append(nn.AdaptiveAvgPool2d(1))
        else:
            raise ValueError(
                f"'{word}' is no stage of a network here; write features (32, 32x5 for a side of 5, 32/2 for a stride "
                "of 2, res32 for a residual block), pool, or last of all mean, such as '32 32 pool res64 mean | 128'."
            )
    return nn.Sequential(*layers)


class ConvNet(nn.Module):
    """Convolution, pooling and fully connected stages (LeCun et al. 1998), for chips, patches and digits alike.

    ``stages`` such as ``"32 32 pool 64 64 pool | 128"`` names the convolutions and the pooling (see `stages_of`) and,
    behind the bar, the fully connected stages. A network that ends its convolutions with ``mean`` takes images of any
    size; others are made for the one of ``size``. Without ``padded`` every convolution cuts off its reach.

    Raises:
        ValueError: a stage is not known, or images of ``size`` are too small for the stages.
    """

    def __init__(
        self, channels: int, classes: int, stages: str = "32 32 pool 64 64 pool | 128", *,
        size: tuple[int, int] = (28, 28), padded: bool = True, dropout: float = 0.0,
    ) -> None:  # fmt: skip
        super().__init__()
        convolutions, _, dense = stages.partition("|")
        self.features = stages_of(convolutions.split(), channels, padded)
        widths = [prod(shape_after(self.features, channels, size))]
        layers: list[nn.Module] = [nn.Dropout(dropout)]
        for word in dense.split():
            if not word.isdecimal():
                raise ValueError(f"'{word}' behind the bar is no number of features of a fully connected stage.")
            widths.append(int(word))
            layers += [
                nn.Linear(widths[-2], widths[-1], bias=False),
                nn.BatchNorm1d(widths[-1]),
                nn.ReLU(),
                nn.Dropout(dropout),
            ]
        self.head = nn.Sequential(*layers, nn.Linear(widths[-1], classes))

    def forward(self, images: Tensor) -> Tensor:
        """Logits (n, classes) of images (n, channels, y, x)."""
        features = self.features(images.contiguous(memory_format=torch.channels_last))
        logits: Tensor = self.head(features.flatten(1))
        return logits


def shape_after(stages: nn.Module, channels: int, size: tuple[int, int]) -> torch.Size:
    """Find out what stages leave of one image of a size: (features, y, x).

    Raises:
        ValueError: the image is too small.
    """
    try:
        with torch.no_grad():
            found: Tensor = stages.eval()(torch.zeros(1, channels, *size))
    except RuntimeError as fault:
        raise ValueError(
            f"images of {size[0]} x {size[1]} pixels are too small for these stages; take fewer, or pad them."
        ) from fault
    finally:
        stages.train()
    return found.shape[1:]
