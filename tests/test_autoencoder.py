"""Autoencoders: what is told from a code, what a classifier takes over, and clusters."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from stages.models.autoencoder import Autoencoder, EncoderClassifier
from stages.models.cnn import PatchCNN
from stages.models.mlp import PixelMLP
from stages.training.descent import Descent
from stages.training.reconstruction import (
    Reconstruction,
    clusters,
    encode,
    error_of_valid,
    hiding,
    pretrain,
    start_from,
    train_autoencoder,
)

SHAPES = [(5,), (12, 4), (3, 2), (1, 28, 28), (3, 9, 13), (2, 4, 4)]


@pytest.fixture(autouse=True)
def one_thread() -> None:
    torch.set_num_threads(1)


def chance(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@pytest.mark.parametrize("shape", SHAPES)
def test_every_parameter_learns_on_every_shape(shape):
    torch.manual_seed(0)
    network = Autoencoder(shape, code=3, width=4)
    samples = torch.randn(6, *shape)
    told = network(samples)
    assert told.shape == samples.shape
    assert network.encoder(samples).shape == (6, 3)
    told.square().sum().backward()
    for name, parameter in network.named_parameters():
        assert parameter.grad is not None, name
        # A bias before a batch normalisation is taken out again.
        assert parameter.grad.abs().sum() > 0 or "bias" in name, name


def plane(n: int, seed: int = 0) -> Tensor:
    """Samples of 8 values that are made of two."""
    return torch.randn(n, 2, generator=chance(seed)) @ torch.randn(2, 8, generator=chance(7))


def test_two_numbers_tell_what_is_made_of_two_and_one_does_not():
    descent = Descent(epochs=25, batch=64, lr=5e-3, schedule="one-cycle")
    data, held = plane(600), plane(200, seed=1)
    left = {}
    for code in (1, 2):
        network, curves = train_autoencoder(data, Reconstruction(code, 16, hide=0.0, descent=descent), held=held)
        assert encode(network, held).shape == (200, code)
        left[code] = curves.held_loss[-1] / float(held.var())
    assert left[2] < 0.05
    assert left[1] > 0.15


def test_hidden_values_are_told_from_the_others():
    """Copying what is shown would leave the variance of the hidden share as the error."""
    descent = Descent(epochs=25, batch=64, lr=5e-3, schedule="one-cycle")
    network, _ = train_autoencoder(plane(600), Reconstruction(4, 16, hide=0.25, descent=descent))
    held = plane(200, seed=1)
    vary = hiding(0.25)
    assert vary is not None
    seen = vary(held, chance(3))
    hidden = seen == 0
    with torch.no_grad():
        told = network.eval()(seen)
    assert hidden.float().mean() == pytest.approx(0.25, abs=0.04)
    assert (told - held)[hidden].square().mean() < 0.3 * held[hidden].square().mean()


def test_nothing_is_hidden_of_the_channels_that_are_kept():
    assert hiding(0.0) is None
    vary = hiding(0.9, kept=1)
    assert vary is not None
    seen = vary(torch.ones(4, 3, 5, 5), chance())
    assert torch.equal(seen[:, 2], torch.ones(4, 5, 5))
    assert seen[:, :2].mean() == pytest.approx(0.1, abs=0.06)


def test_invalid_pixels_count_in_no_error():
    seen = torch.tensor([[1.0, 2.0], [5.0, 7.0], [1.0, 0.0]])[None, :, None]  # two channels and the validity
    told = torch.tensor([[2.0, 99.0], [8.0, 99.0]])[None, :, None]
    assert error_of_valid(told, seen) == pytest.approx((1.0 + 9.0) / 2)
    assert error_of_valid(told, torch.zeros(1, 3, 1, 2)) == 0.0


def test_a_killed_training_goes_on(tmp_path):
    descent = Descent(epochs=4, batch=50)
    how = Reconstruction(2, 8, descent=descent)
    whole, _ = train_autoencoder(plane(100), how)
    train_autoencoder(plane(100), Reconstruction(2, 8, descent=Descent(epochs=4, batch=50)), folder=tmp_path)
    again, curves = train_autoencoder(plane(100), how, folder=tmp_path)
    assert len(curves.loss) == 4
    for name, tensor in whole.state_dict().items():
        assert torch.equal(tensor, again.state_dict()[name]), name


def test_a_classifier_starts_from_all_but_the_readout():
    torch.manual_seed(0)
    trained, _ = train_autoencoder(plane(100), Reconstruction(2, 8, descent=Descent(epochs=1)))
    classifier = EncoderClassifier(Autoencoder((8,), 2, 8).encoder, classes=3)
    fresh = classifier.head.weight.clone()
    assert start_from(classifier.encoder, trained.encoder) == []
    assert torch.equal(classifier.encoder.code.weight, trained.encoder.code.weight)
    assert torch.equal(classifier.head.weight, fresh)
    assert classifier(plane(5)).shape == (5, 3)


@pytest.mark.parametrize("kind", [PixelMLP, PatchCNN])
def test_a_dense_classifier_is_pretrained_without_labels(kind):
    torch.manual_seed(0)
    sizes = {"width": 8, "layers": 2} if kind is PixelMLP else {"width": 8, "dilations": (1, 1)}
    images = plane(16 * 36).reshape(16, 6, 6, 8).permute(0, 3, 1, 2).contiguous()
    valid = (torch.rand(16, 1, 6, 6, generator=chance()) > 0.2).float()
    pretrained = kind(8, 8, dropout=0.0, **sizes)
    how = Reconstruction(hide=0.2, descent=Descent(epochs=20, batch=4, lr=5e-3))
    curves = pretrain(pretrained, images * valid, valid, how)
    assert curves.loss[-1] < 0.5 * curves.loss[0]
    classifier = kind(8, 3, dropout=0.0, **sizes)
    stayed = start_from(classifier, pretrained)
    assert {name.partition(".")[0] for name in stayed} == {"head"}
    assert torch.equal(next(iter(classifier.parameters())), next(iter(pretrained.parameters())))


def test_clusters_are_found_again_for_any_order_of_names():
    centres = torch.tensor([[0.0, 0.0], [9.0, 0.0], [0.0, 9.0]])
    of = torch.arange(90) % 3
    found = clusters(centres[of] + torch.randn(90, 2, generator=chance()), 3, seed=0)
    names = [set(found[of == k].tolist()) for k in range(3)]
    assert [len(name) for name in names] == [1, 1, 1]
    assert len(set.union(*names)) == 3
