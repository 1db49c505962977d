"""Convolutions over ground and spectrum: equal to three-dimensional ones, for any number of bands."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional

from stages.models.cnn3d import SpectralCNN, SpectralConvolution
from stages.models.layers import ValidBatchNorm


@pytest.fixture(autouse=True)
def one_thread() -> None:
    torch.set_num_threads(1)
    torch.manual_seed(0)


@pytest.mark.parametrize("bands", [1, 2, 5, 8])
@pytest.mark.parametrize("dilation", [0, 1, 2])
def test_the_layer_is_a_three_dimensional_convolution(bands: int, dilation: int) -> None:
    layer, cube = SpectralConvolution(2, 4, dilation).eval(), torch.randn(3, bands, 2, 9, 8)
    flat = layer.across.convolve.weight
    weight = flat.reshape(4, 3, 2, *flat.shape[2:]).transpose(1, 2)  # (features, inputs, tap, y, x)
    step = max(dilation, 1)
    expected = functional.conv3d(
        cube.transpose(1, 2), weight, stride=(2, 1, 1), padding=(1, 0, 0), dilation=(1, step, step)
    ).transpose(1, 2)
    found = layer(cube, torch.ones(3, 1, *expected.shape[3:]))
    torch.testing.assert_close(found, expected.relu() / (1.0 + 1e-5) ** 0.5, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("bands", [1, 3, 200, 400])
def test_any_number_of_bands_is_taken(bands: int) -> None:
    network = SpectralCNN(bands, 3, width=2).eval()
    assert network(torch.randn(2, bands + 1, 6, 7)).shape == (2, 3, 6, 7)
    assert network.reach == (2, 1)


def spectra(count: int, seed: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Patches of 5 x 5 pixels of 200 bands whose class is where in the spectrum the middle absorbs, or its rim does."""
    draw = torch.Generator().manual_seed(seed)
    classes = torch.arange(count) % 3
    cube = 0.3 * torch.randn(count, 200, 5, 5, generator=draw) + torch.randn(count, 1, 1, 1, generator=draw)
    for patch, kind in zip(cube, classes, strict=True):
        if kind < 2:
            at = 60 if kind == 0 else 140
            patch[at : at + 8, 1:4, 1:4] -= 1.5
        else:
            patch[60:68, [0, 0, 4, 4], [0, 4, 0, 4]] -= 1.5
    return torch.cat([cube, torch.ones(count, 1, 5, 5)], dim=1), classes


def test_a_cube_of_two_hundred_bands_is_learned_from_few_patches() -> None:
    network = SpectralCNN(200, 3, width=6, dropout=0.0).train()
    for module in network.modules():
        if isinstance(module, ValidBatchNorm):
            module.momentum = 0.3  # so that the statistics keep up with so short a training
    images, classes = spectra(96, 0)
    optimiser = torch.optim.Adam(network.parameters(), 0.01)
    for _ in range(40):
        optimiser.zero_grad()
        functional.cross_entropy(network.of_patches(images)[:, :, 0, 0], classes).backward()
        optimiser.step()
    shown, expected = spectra(90, 1)
    with torch.no_grad():
        found = network.eval().of_patches(shown)[:, :, 0, 0].argmax(dim=1)
    assert (found == expected).double().mean() > 0.9


def test_invalid_pixels_say_nothing() -> None:
    network = SpectralCNN(12, 3, width=4).eval()
    image = torch.randn(1, 13, 9, 9)
    image[:, -1] = 1.0
    image[:, :, 2, 3] = 0.0  # as the frame hides it
    with torch.no_grad():
        found = network(image)
        image[:, :, 2, 3] = 1.0
        seen = network(image)
    changed = (found - seen).abs().amax(dim=1)[0] > 1e-6
    assert changed[0:5, 1:6].all()
    assert not changed[5:].any()
    assert not changed[:, 6:].any()
