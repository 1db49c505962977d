"""Learn without labels: an autoencoder of samples, or any dense network made to tell hidden values from the others."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn.functional import mse_loss

from stages.models.autoencoder import Autoencoder
from stages.models.classifier import with_validity
from stages.training.descent import Curves, Descent, Vary, descend, predict


@dataclass(frozen=True)
class Reconstruction:
    """How samples are told from what is left of them."""

    #: Numbers that a sample is told from.
    code: int = 32
    #: Channels of the finest level.
    width: int = 32
    #: Share of the values that are set to 0 in what the network sees (Vincent et al. 2008); it is asked for them all.
    hide: float = 0.3
    descent: Descent = field(default_factory=lambda: Descent(epochs=20, batch=128, schedule="one-cycle", lr=2e-3))


def train_autoencoder(
    data: Tensor, how: Reconstruction, *, held: Tensor | None = None, folder: Path | None = None, device: str = "cpu"
) -> tuple[Autoencoder, Curves]:
    """Train an autoencoder of samples; gone on with from the checkpoint in ``folder``.

    Args:
        data: centred and scaled samples: (n, features), (n, steps, bands) or (n, channels, y, x).
        how: its size and training.
        held: samples that are only looked at, after every epoch.
        folder: where the checkpoint is kept.
        device: where it is computed.

    Raises:
        DivergedError: see `descend`.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(how.descent.seed)
        network = Autoencoder(tuple(data.shape[1:]), how.code, how.width)
    curves = descend(
        network, data, data, how.descent, held=None if held is None else (held, held), loss=mse_loss,
        vary=hiding(how.hide), folder=folder, device=device,
    )  # fmt: skip
    return network, curves


def encode(network: Autoencoder, data: Tensor) -> Tensor:
    """Give the codes of samples: (n, *shape) -> (n, code)."""
    return predict(network.encoder, data)


def hiding(share: float, kept: int = 0) -> Vary | None:
    """Make what sets a share of a batch's values to 0, but for the last ``kept`` channels; None if none is hidden."""
    if share == 0:
        return None

    def hide(batch: Tensor, chance: torch.Generator) -> Tensor:
        shown = (torch.rand(batch.shape, generator=chance) >= share).to(batch)
        shown[:, batch.shape[1] - kept :] = 1.0
        return batch * shown

    return hide


def pretrain(
    network: nn.Module, images: Tensor, valid: Tensor, how: Reconstruction, *, folder: Path | None = None,
    device: str = "cpu",
) -> Curves:  # fmt: skip
    """Train a dense classifier's body without labels: to tell the values of valid pixels of which some are hidden.

    Args:
        network: (n, channels + 1, y, x), the last channel being the validity, to (n, channels, y, x): a classifier
            made for as many classes as there are channels. Trained in place; `start_from` takes its weights up.
        images: (n, channels, y, x), centred and scaled, 0 where invalid.
        valid: (n, 1, y, x), 1 or 0.
        how: share that is hidden, and the training.
        folder: where the checkpoint is kept.
        device: where it is computed.

    Raises:
        DivergedError: see `descend`.
    """
    seen = with_validity(images, valid)
    return descend(
        network, seen, seen, how.descent, loss=error_of_valid, vary=hiding(how.hide, kept=1), folder=folder,
        device=device,
    )  # fmt: skip


def error_of_valid(told: Tensor, seen: Tensor) -> Tensor:
    """Mean squared error at valid pixels: (n, channels, y, x) against (n, channels + 1, y, x), with the validity."""
    valid = seen[:, -1:]
    return ((told - seen[:, :-1]).square() * valid).sum() / (valid.sum() * told.shape[1]).clamp(min=1.0)


def start_from(classifier: nn.Module, pretrained: nn.Module) -> list[str]:
    """Copy every tensor that both have under one name and of one shape; give the names that stay as they were.

    What stays is the classifier's readout: of another width, or of another name.
    """
    own, other = classifier.state_dict(), pretrained.state_dict()
    same = {name for name, tensor in own.items() if name in other and other[name].shape == tensor.shape}
    classifier.load_state_dict({name: other[name] if name in same else tensor for name, tensor in own.items()})
    return [name for name in own if name not in same]


def clusters(samples: Tensor, k: int, seed: int) -> Tensor:
    """Divide samples into k groups around their means (Lloyd 1982): (n, features) -> int64 (n,)."""
    from sklearn.cluster import KMeans

    found = KMeans(k, n_init=10, random_state=seed).fit_predict(samples.numpy())
    return torch.from_numpy(found).long()
