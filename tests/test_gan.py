"""Generator against discriminator: vectors, series and chips, their losses, and that every mode and class is found."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from pipeline.course.generative import modes_found, ring
from stages.errors import DivergedError
from stages.models.gan import ConditionalNorm, Discriminator, Generator
from stages.training.generators.adversary import CHECKPOINT, Adversary, draw, train_gan
from stages.training.generators.duel import Duel
from stages.training.generators.settings import LOSSES

SHAPES = [(5,), (1,), (12, 4), (3, 2), (17, 1), (1, 28, 28), (3, 9, 13), (2, 4, 4)]
QUICK = Adversary(steps=6, batch=8, latent=4, width=4, keep_every=2)


@pytest.fixture(autouse=True)
def one_thread() -> None:
    torch.set_num_threads(1)


def chance(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def samples(shape: tuple[int, ...], n: int = 24) -> tuple[Tensor, Tensor]:
    labels = torch.arange(n) % 3
    return torch.randn(n, *shape, generator=chance()) * 3.0 + 10.0, labels


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("conditioning", ["projection", "concatenation"])
def test_every_parameter_learns_on_every_shape(shape, conditioning):
    torch.manual_seed(0)
    generator = Generator(shape, 3, latent=4, width=4)
    critic = Discriminator(shape, 3, width=4, conditioning=conditioning)
    labels = torch.tensor([0, 1, 2, 1])
    drawn = generator(torch.randn(4, 4), labels)
    assert drawn.shape == generator.scaled(torch.zeros(4, *shape)).shape
    scores = critic(drawn, labels)
    assert scores.shape == (4,)
    scores.square().sum().backward()
    for network in (generator, critic):
        for name, parameter in network.named_parameters():
            assert parameter.grad is not None, name
            assert parameter.grad.abs().sum() > 0, name


@pytest.mark.parametrize("conditioning", ["projection", "concatenation"])
def test_both_ask_for_the_class(conditioning):
    torch.manual_seed(0)
    generator = Generator((12, 4), 3, latent=4, width=4).eval()
    critic = Discriminator((12, 4), 3, width=4, conditioning=conditioning).eval()
    noise, one, other = torch.randn(1, 4).expand(2, -1), torch.tensor([0, 0]), torch.tensor([0, 1])
    drawn = generator(noise, one)
    assert torch.equal(drawn[0], drawn[1])
    assert not torch.equal(*generator(noise, other))
    assert critic(drawn, one)[0] == critic(drawn, one)[1]
    assert critic(drawn, other)[0] != critic(drawn, other)[1]


def test_a_class_has_its_own_gain_and_shift():
    norm = ConditionalNorm(2, 3, sides=1).eval()
    with torch.no_grad():
        norm.gain.weight[2] = torch.tensor([2.0, 3.0])
        norm.shift.weight[2] = torch.tensor([10.0, 20.0])
    found = norm(torch.ones(2, 2, 4), torch.tensor([0, 2]))
    assert found[:, :, 0].detach() == pytest.approx(torch.tensor([[1.0, 1.0], [12.0, 23.0]]), abs=1e-4)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("bounded", [False, True])
def test_samples_come_in_the_units_of_the_data(shape, bounded):
    data, labels = samples(shape)
    settings = Adversary(steps=1, batch=8, latent=4, width=4, bounded=bounded)
    generator = train_gan(data, labels, 3, settings)
    assert generator.unscaled(generator.scaled(data)) == pytest.approx(data, abs=1e-4)
    scaled = generator.scaled(data)
    if bounded:
        assert scaled.abs().max() == pytest.approx(1.0)
        assert generator(torch.randn(50, 4) * 100, torch.zeros(50, dtype=torch.int64)).abs().max() <= 1.0
    else:
        assert scaled.mean() == pytest.approx(0.0, abs=1e-5)
        assert scaled.square().mean() == pytest.approx(1.0, abs=1e-4)
    drawn = draw(generator, torch.tensor([0, 2, 1]), seed=1)
    assert drawn.shape == (3, *shape)
    assert 0.0 < drawn.mean() < 20.0


def test_each_band_of_a_series_has_its_own_units():
    data, labels = samples((12, 2))
    data[..., 1] = data[..., 1] * 1000.0
    data[:, 3, 0] = 11.0
    generator = train_gan(data, labels, 3, QUICK)
    assert generator.scale[:, 0] == pytest.approx(data.std(dim=(0, 1), correction=0), rel=1e-5)
    assert generator.centre[:, 0] == pytest.approx(data.mean(dim=(0, 1)), rel=1e-5)


def test_a_band_that_never_varies_stays_as_it_is():
    data, labels = samples((3,))
    data[:, 1] = 7.0
    for bounded in (False, True):
        generator = train_gan(data, labels, 3, Adversary(steps=1, batch=8, latent=4, width=4, bounded=bounded))
        assert generator.scaled(data)[:, 1].abs().max() == 0.0


@pytest.mark.parametrize(
    ("loss", "against", "towards"),
    [
        ("hinge", 0.5 * (0.0 + 1.5) + 0.5 * (0.0 + 1.0), 1.5),
        ("wasserstein", -1.5 - 0.75, 1.5),
        (
            "non-saturating",
            0.5 * (math.log1p(math.exp(-2)) + math.log1p(math.exp(0.5)))
            + 0.5 * (math.log1p(math.exp(-3)) + math.log1p(math.exp(0))),
            0.5 * (math.log1p(math.exp(3)) + math.log1p(math.exp(0))),
        ),
    ],
)
def test_losses_as_worked_out_by_hand(loss, against, towards):
    real, drawn = torch.tensor([2.0, -0.5]), torch.tensor([-3.0, 0.0])
    assert LOSSES[loss][0](real, drawn) == pytest.approx(against)
    assert LOSSES[loss][1](drawn) == pytest.approx(towards)


def test_all_eight_gaussians_on_a_ring_are_found():
    """Each by 1 % of the points at least, within three deviations; the mean of all of them lies by none."""
    points = ring(4000, seed=0)
    settings = Adversary(steps=800, lr=2e-3, lr_discriminator=2e-3, latent=8, width=32, average=0.98, seed=0)
    assert modes_found(points) == (8, pytest.approx(0.989, abs=0.01))
    nobody = torch.zeros(len(points), dtype=torch.int64)
    modes, good = modes_found(draw(train_gan(points, nobody, 1, settings), nobody[:1000], seed=1))
    assert modes == 8
    assert good > 0.25


class Slope(nn.Module):
    """A score that rises by 3 for every unit of the first value, and by 4 for every unit of the second."""

    def forward(self, features: Tensor, _: Tensor) -> Tensor:
        return features.flatten(1) @ torch.tensor([3.0, 4.0])


def test_the_gradient_penalty_is_that_of_the_slope():
    data, labels = samples((2,))
    duel = Duel(data, labels, 3, QUICK, "cpu")
    duel.critic = Slope()  # type: ignore[assignment]
    assert duel._steepness(data[:8], data[8:16], labels[:8]) == pytest.approx((5.0 - 1.0) ** 2)


def test_spectral_normalisation_holds_every_layer_to_a_slope_of_one():
    data, labels = samples((2, 8, 8))
    settings = Adversary(loss="hinge", steps=30, batch=8, latent=4, width=4, lr=1e-2, lr_discriminator=1e-2)

    def largest(spectral: bool) -> float:
        duel = Duel(data, labels, 3, Adversary(**{**settings.__dict__, "spectral": spectral}), "cpu")
        for _ in range(settings.steps):
            duel.step()
        layers = [*duel.critic.layers, duel.critic.mix, duel.critic.score, duel.critic.of_class]
        return max(float(torch.linalg.matrix_norm(layer.weight.detach().flatten(1), 2)) for layer in layers)

    assert largest(spectral=True) < 1.2
    assert largest(spectral=False) > 1.5


def test_the_wasserstein_loss_comes_without_spectral_normalisation_unless_asked():
    data, labels = samples((2,))
    plain = Duel(data, labels, 3, Adversary(loss="wasserstein", width=4), "cpu").critic
    asked = Duel(data, labels, 3, Adversary(loss="wasserstein", width=4, spectral=True), "cpu").critic
    assert [name for name, _ in plain.named_buffers()] == []
    assert [name for name, _ in asked.named_buffers()] != []


def test_rare_classes_are_shown_as_often_as_others():
    labels = torch.tensor([0] * 90 + [1] * 10 + [3] * 1)
    data = torch.zeros(len(labels), 2)

    def shares(balanced: bool) -> Tensor:
        duel = Duel(data, labels, 4, Adversary(batch=6000, width=4, balanced=balanced), "cpu")
        return torch.bincount(duel._batch()[1], minlength=4) / 6000

    assert shares(balanced=True) == pytest.approx(torch.tensor([1, 1, 0, 1]) / 3, abs=0.03)
    assert shares(balanced=False) == pytest.approx(torch.tensor([90, 10, 0, 1]) / 101, abs=0.03)


def test_the_average_is_kept_and_not_the_last():
    data, labels = samples((2,))
    still, last = (train_gan(data, labels, 3, Adversary(**{**QUICK.__dict__, "average": a})) for a in (1.0, 0.0))
    duel = Duel(data, labels, 3, QUICK, "cpu")
    for _ in range(QUICK.steps):
        duel.step()
    assert torch.equal(last.first.weight, duel.generator.first.weight)
    assert not torch.equal(still.first.weight, last.first.weight)


@pytest.mark.parametrize("loss", LOSSES)
def test_the_seed_decides(loss):
    data, labels = samples((12, 4))
    settings = Adversary(**{**QUICK.__dict__, "loss": loss})
    other = Adversary(**{**settings.__dict__, "seed": 1})
    first, again, third = (train_gan(data, labels, 3, s) for s in (settings, settings, other))
    asked = torch.arange(3)
    assert torch.equal(draw(first, asked, 5), draw(again, asked, 5))
    assert not torch.equal(draw(first, asked, 5), draw(first, asked, 6))
    assert not torch.equal(draw(first, asked, 5), draw(third, asked, 5))


def test_a_draw_does_not_depend_on_how_it_is_cut():
    data, labels = samples((3, 9, 13))
    generator = train_gan(data, labels, 3, QUICK)
    asked = torch.arange(10) % 3
    assert draw(generator, asked, 5, batch=3) == pytest.approx(draw(generator, asked, 5), abs=1e-5)


class KilledError(Exception):
    """Stands for the end of the process."""


def killed(folder: Path, settings: Adversary, at: int = 4) -> None:
    data, labels = samples((12, 4))

    def watch(done: int, _: Generator) -> None:
        if done == at:
            raise KilledError

    with pytest.raises(KilledError):
        train_gan(data, labels, 3, settings, folder, watch=watch)


def test_a_killed_training_goes_on_as_if_it_had_not_been(tmp_path):
    data, labels = samples((12, 4))
    whole = train_gan(data, labels, 3, QUICK)
    killed(tmp_path, QUICK)
    seen: list[int] = []
    again = train_gan(data, labels, 3, QUICK, tmp_path, watch=lambda done, _: seen.append(done))
    assert seen == [6]
    for name, tensor in whole.state_dict().items():
        assert torch.equal(tensor, again.state_dict()[name]), name
    assert sorted(file.name for file in tmp_path.iterdir()) == [CHECKPOINT]


def test_a_checkpoint_of_something_else_or_a_damaged_one_counts_as_none(tmp_path, caplog):
    data, labels = samples((12, 4))
    killed(tmp_path, QUICK)
    other = Adversary(**{**QUICK.__dict__, "lr": 2e-3})
    fresh = train_gan(data, labels, 3, other)
    assert torch.equal(train_gan(data, labels, 3, other, tmp_path).first.weight, fresh.first.weight)
    assert "of other data or settings" in caplog.text
    swapped = labels.flip(0)
    assert not torch.equal(train_gan(data, swapped, 3, other, tmp_path).first.weight, fresh.first.weight)
    (tmp_path / CHECKPOINT).write_bytes((tmp_path / CHECKPOINT).read_bytes()[:1000])
    assert torch.equal(train_gan(data, labels, 3, other, tmp_path).first.weight, fresh.first.weight)
    assert "cannot be read" in caplog.text


def test_a_diverging_training_stops_and_keeps_its_last_good_checkpoint(tmp_path):
    data, labels = samples((12, 4))
    killed(tmp_path, QUICK)
    before = (tmp_path / CHECKPOINT).read_bytes()
    data[0] = float("inf")
    with pytest.raises(DivergedError, match=r"diverged at step 1: .*checkpoint is kept: lower lr and lr_discriminator"):
        train_gan(data, labels, 3, QUICK, tmp_path)
    assert (tmp_path / CHECKPOINT).read_bytes() == before
    wild = Adversary(**{**QUICK.__dict__, "lr": 1e30, "lr_discriminator": 1e30, "steps": 50})
    with pytest.raises(DivergedError):
        train_gan(*samples((12, 4)), 3, wild, tmp_path)
    assert (tmp_path / CHECKPOINT).read_bytes() == before


def test_the_discriminator_gives_no_gradient_to_itself_while_the_generator_learns():
    data, labels = samples((2,))
    duel = Duel(data, labels, 3, QUICK, "cpu")
    duel.step()
    before = {name: value.clone() for name, value in duel.critic.named_parameters()}
    assert all(value.requires_grad for value in duel.critic.parameters())
    duel._move("generator", duel.generator(duel._noise(), duel._batch()[1]).square().mean())
    assert all(torch.equal(value, before[name]) for name, value in duel.critic.named_parameters())
