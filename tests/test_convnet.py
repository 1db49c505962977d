"""Networks from a description are built as described, and distorted images are the same images, moved."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from stages.models.convnet import ConvNet, Residual, stages_of
from stages.training.descent import Descent, descend, predict
from stages.training.distort import Distortion


@pytest.fixture(autouse=True)
def one_thread() -> None:
    torch.set_num_threads(1)
    torch.manual_seed(0)


def weights_of(network: nn.Module) -> int:
    return sum(weight.numel() for weight in network.parameters())


def test_stages_are_those_of_the_description() -> None:
    network = ConvNet(3, 7, "8 16x5/2 pool | 20", size=(24, 16))
    shapes = [layer.weight.shape for layer in network.modules() if isinstance(layer, nn.Conv2d | nn.Linear)]
    assert shapes == [(8, 3, 3, 3), (16, 8, 5, 5), (20, 16 * 6 * 4), (7, 20)]
    assert network(torch.randn(2, 3, 24, 16)).shape == (2, 7)


def test_without_padding_every_convolution_cuts_off_its_reach() -> None:
    stages = stages_of(["4", "4x5", "pool", "4/2"], 1, padded=False)
    assert stages(torch.zeros(1, 1, 28, 28)).shape == (1, 4, 5, 5)  # 26, 22, 11, 5
    assert stages_of(["4", "4x5", "pool", "4/2"], 1)(torch.zeros(1, 1, 28, 28)).shape == (1, 4, 7, 7)


def test_a_network_that_ends_in_the_mean_takes_images_of_any_size() -> None:
    network = ConvNet(2, 3, "4 pool res8/2 mean | 5", size=(16, 16)).eval()
    assert [network(torch.zeros(1, 2, *size)).shape for size in ((16, 16), (64, 40))] == [(1, 3)] * 2
    image = torch.randn(1, 2, 16, 16)
    assert weights_of(network) == weights_of(ConvNet(2, 3, "4 pool res8/2 mean | 5", size=(64, 64)))
    assert not torch.equal(network(image), network(image * 2.0))


def test_a_residual_block_of_no_change_is_its_input_rectified() -> None:
    block = Residual(4, 4).eval()
    nn.init.zeros_(block.body[3].weight)
    image = torch.randn(1, 4, 6, 6)
    torch.testing.assert_close(block(image), image.clamp(min=0.0))
    assert isinstance(block.across, nn.Identity)
    assert Residual(4, 6, stride=2)(image).shape == (1, 6, 3, 3)


@pytest.mark.parametrize(
    ("stages", "said"),
    [
        ("32 pol", "'pol' is no stage of a network here; write features"),
        ("mean 32", "'mean' is no stage"),
        ("0", "'0' is no stage"),
        ("8x4", "'8x4' is no stage"),
        ("8 | 4 x", "'x' behind the bar is no number of features"),
        ("8 pool pool pool pool", "images of 8 x 8 pixels are too small for these stages"),
    ],
)
def test_what_cannot_be_built_is_said(stages: str, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        ConvNet(1, 2, stages, size=(8, 8))


def bars(count: int, seed: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Upright and level bars at random places in noise."""
    draw = torch.Generator().manual_seed(seed)
    images, classes = 0.3 * torch.randn(count, 1, 12, 12, generator=draw), torch.arange(count) % 2
    places = torch.randint(1, 11, (count,), generator=draw)
    for image, upright, place in zip(images, classes, places, strict=True):
        image[0, :, place] += upright
        image[0, place] += 1 - upright
    return images, classes


def test_a_network_learns_a_pattern_wherever_it_is() -> None:
    network = ConvNet(1, 2, "6 pool 6 mean", size=(12, 12), dropout=0.1)
    descend(network, *bars(192, 0), Descent(epochs=8, batch=32, lr=0.02))
    images, classes = bars(200, 1)
    assert (predict(network, images).argmax(dim=1) == classes).double().mean() > 0.95


def test_images_that_are_not_distorted_stay_as_they_are() -> None:
    images = torch.rand(3, 2, 9, 13)
    still = Distortion(rotate=0.0, zoom=0.0, shear=0.0, shift=0.0, elastic=0.0)
    torch.testing.assert_close(still(images, torch.Generator()), images, atol=1e-5, rtol=0)


def test_the_same_seed_distorts_the_same_way_and_every_image_its_own() -> None:
    images = torch.rand(1, 1, 12, 12).expand(4, -1, -1, -1)
    one, same = (Distortion()(images, torch.Generator().manual_seed(3)) for _ in range(2))
    assert torch.equal(one, same)
    assert not torch.equal(one, Distortion()(images, torch.Generator().manual_seed(4)))
    assert all((one[0] - other).abs().max() > 0.01 for other in one[1:])


def centre_of(image: torch.Tensor) -> np.ndarray:
    """Row and column of the centre of mass."""
    mass = image.numpy()
    rows, cols = np.mgrid[: mass.shape[0], : mass.shape[1]]
    return np.array([(rows * mass).sum(), (cols * mass).sum()]) / mass.sum()


def test_shifts_fill_their_limits_in_pixels_along_both_axes() -> None:
    images = torch.zeros(400, 1, 20, 30)
    images[:, :, 8:12, 13:17] = 1.0
    moved = Distortion(rotate=0.0, zoom=0.0, shear=0.0, shift=3.0, elastic=0.0)(
        images, torch.Generator().manual_seed(0)
    )
    offsets = np.stack([centre_of(image[0]) for image in moved]) - [9.5, 14.5]
    assert (np.abs(offsets) <= 3.001).all()
    assert (offsets.max(axis=0) > 2.8).all()
    assert (offsets.min(axis=0) < -2.8).all()


def test_elastic_displacements_have_the_deviation_asked_for_and_are_smooth() -> None:
    columns = torch.arange(24.0).expand(300, 1, 24, 24)
    moved = Distortion(0.0, 0.0, 0.0, 0.0, elastic=0.7, nodes=5)(columns, torch.Generator().manual_seed(0))
    offsets = (moved - columns)[:, 0, 6:18, 6:18]
    assert 0.35 < offsets.std() < 0.75  # between nodes the mean of several is taken
    assert (offsets[..., 1:] - offsets[..., :-1]).std() < 0.5 * offsets.std()  # of noise it would be 1.4 times as much
