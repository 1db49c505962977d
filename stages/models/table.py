"""Every network by the name it has in settings, tables and folders."""

from __future__ import annotations

from torch import nn

from stages.models.capsule_map import CapsuleMap
from stages.models.chip_networks import ChipCapsules, ChipCNN, ChipMLP
from stages.models.cnn import PatchCNN
from stages.models.cnn3d import SpectralCNN
from stages.models.convlstm import ConvLSTM
from stages.models.ltae import LTAE
from stages.models.mlp import PixelMLP
from stages.models.recurrent import LSTM
from stages.models.tempcnn import TempCNN
from stages.models.unet import UNet

#: Networks that take all channels of a pixel at once, whatever their dates.
NETWORKS: dict[str, type[nn.Module]] = {
    "mlp": PixelMLP, "cnn": PatchCNN, "cnn3d": SpectralCNN, "capsule": CapsuleMap, "unet": UNet,
}  # fmt: skip
#: Networks that go from step to step: they take the bands, the validity and the day of every step.
SERIES: dict[str, type[nn.Module]] = {"lstm": LSTM, "tempcnn": TempCNN, "ltae": LTAE, "convlstm": ConvLSTM}
#: Networks whose class is that of the chip of ``side`` pixels around a pixel.
OF_CHIPS: dict[str, type[nn.Module]] = {"chip-mlp": ChipMLP, "chip-cnn": ChipCNN, "chip-capsule": ChipCapsules}
