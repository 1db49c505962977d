"""Acquaint a network with the training ground before it sees a label: it learns to tell hidden values from others."""

from __future__ import annotations

import logging
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from stages.errors import SettingError
from stages.models.classifier import Classifier
from stages.training.descent import Descent
from stages.training.ground import Ground
from stages.training.reconstruction import Reconstruction, pretrain, start_from

#: Networks whose body is of use for telling values: they end in a readout of features, whatever it is asked for.
LEARNERS = ("mlp", "cnn", "cnn3d", "unet")
#: Cells of the training ground that are looked at, at most, and the bytes of their values.
CELLS, BYTES = 256, 512 << 20
_logger = logging.getLogger(__name__)


def refuse_pretraining(name: str) -> None:
    """Refuse to acquaint a network that cannot be.

    Raises:
        SettingError: it is none of `LEARNERS`.
    """
    if name not in LEARNERS:
        raise SettingError(
            f"train.{name}.pretrain is set, but only {', '.join(LEARNERS)} can be trained without labels; set it to 0."
        )


def acquaint(
    classifier: Classifier, body: nn.Module, ground: Ground, descent: Descent, *, folder: Path, device: str
) -> None:  # fmt: skip
    """Train a body without labels and let a classifier start from its weights, all but the readout.

    Args:
        classifier: untrained, in its frame; its network takes up the weights.
        body: the same network, with as many outputs as there are channels.
        ground: whose pixels are looked at, hidden outside the training blocks as for any training.
        descent: how.
        folder: where the checkpoint is kept.
        device: where it is computed.

    Raises:
        DivergedError: see `stages.training.descent.descend`.
    """
    images, valid = samples(classifier, ground, descent.seed)
    curves = pretrain(body, images, valid, Reconstruction(descent=descent), folder=folder, device=device)
    start_from(classifier.network, body)
    _logger.info(
        "pre-training on %d cells without labels: mean squared error %.3f in the first epoch, %.3f in the last",
        len(images), curves.loss[0], curves.loss[-1],
    )  # fmt: skip


def samples(classifier: Classifier, ground: Ground, seed: int) -> tuple[Tensor, Tensor]:
    """Cut cells of the training ground, drawn where there are many.

    Returns:
        Normalised image (n, c, y, x) and where any step of it is valid (n, 1, y, x).
    """
    each = ground.side**2 * 4 * len(ground.split.channels)
    most = max(1, min(CELLS, BYTES // each))
    drawn = np.sort(np.random.default_rng((seed, 3)).permutation(len(ground.places))[:most])
    cells = ((season, row * ground.side, col * ground.side) for season, row, col in ground.places[drawn].tolist())
    cut = [ground.cut(*cell, ground.side)[:2] for cell in cells]
    image, shown = (torch.from_numpy(np.stack(layer)).float() for layer in zip(*cut, strict=True))
    some = shown.flatten(1).any(dim=1)
    with torch.no_grad():
        images: Tensor = classifier.normalise(image[some], shown[some])
    return images, shown[some].amax(dim=1, keepdim=True)
