"""Every network by the name it has in settings, tables and folders."""

from __future__ import annotations

from torch import nn

from stages.models.cnn import PatchCNN
from stages.models.mlp import MLP
from stages.models.unet import UNet

NETWORKS: dict[str, type[nn.Module]] = {"mlp": MLP, "cnn": PatchCNN, "unet": UNet}
