"""How a generator is trained against a discriminator: the settings, and the losses by name."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from torch import Tensor
from torch.nn import functional

from stages.models.gan import Conditioning

Loss = Literal["non-saturating", "hinge", "wasserstein"]


@dataclass(frozen=True)
class Adversary:
    """How a generator is trained."""

    #: Non-saturating (Goodfellow et al. 2014), hinge (Lim and Ye 2017) or Wasserstein with gradient penalty
    #: (Gulrajani et al. 2017). The Wasserstein loss found all modes of vectors; for images, hinge takes half the time.
    loss: Loss = "wasserstein"
    #: Steps of the generator.
    steps: int = 2000
    batch: int = 128
    #: Steps of the discriminator for one of the generator; Gulrajani et al. take 5 for the Wasserstein loss.
    critic_steps: int = 1
    #: Learning rates; the discriminator's may be the larger one (Heusel et al. 2017).
    lr: float = 1e-3
    lr_discriminator: float = 1e-3
    #: Decay rates of Adam's moments; spectral normalisation wants a first one of 0 (Miyato et al. 2018).
    betas: tuple[float, float] = (0.5, 0.9)
    #: Weight of the gradient penalty of the Wasserstein loss.
    penalty: float = 1.0
    #: Decay of the moving average of the generator that is kept (Yazici et al. 2019); 0 keeps the last.
    average: float = 0.999
    latent: int = 64
    width: int = 64
    conditioning: Conditioning = "projection"
    #: Spectral normalisation of the discriminator; None: unless the loss brings its own penalty.
    spectral: bool | None = None
    #: Squash samples into the range of the data, for values such as grey levels that have one.
    bounded: bool = False
    #: Show every class equally often, so that a rare one is learned as well.
    balanced: bool = True
    #: Steps between two checkpoints.
    keep_every: int = 500
    seed: int = 0


#: Losses of the scores of real and drawn samples for the discriminator, and of drawn ones for the generator.
LOSSES: dict[str, tuple[Callable[[Tensor, Tensor], Tensor], Callable[[Tensor], Tensor]]] = {
    "non-saturating": (
        lambda real, drawn: functional.softplus(-real).mean() + functional.softplus(drawn).mean(),
        lambda drawn: functional.softplus(-drawn).mean(),
    ),
    "hinge": (
        lambda real, drawn: functional.relu(1.0 - real).mean() + functional.relu(1.0 + drawn).mean(),
        lambda drawn: -drawn.mean(),
    ),
    "wasserstein": (lambda real, drawn: drawn.mean() - real.mean(), lambda drawn: -drawn.mean()),
}
