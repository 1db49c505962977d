"""The descent of the course: steps against arithmetic by hand, going on after a kill, and trainings that diverge."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import mse_loss

from stages.errors import DivergedError
from stages.training.descent import CHECKPOINT, Curves, Descent, descend, predict, share

X = torch.tensor([[1.0], [2.0], [3.0], [4.0]])
Y = 2.0 * X


def line(weight: float = 0.0) -> nn.Linear:
    net = nn.Linear(1, 1, bias=False)
    nn.init.constant_(net.weight, weight)
    return net


def regress(descent: Descent, weight: float = 0.0, **more: Any) -> tuple[float, Curves]:
    net = line(weight)
    curves = descend(net, X, Y, descent, loss=mse_loss, **more)
    return net.weight.item(), curves


def test_full_batch_descent_follows_the_slope_of_the_whole_sample() -> None:
    # The loss is 7.5 (w - 2)^2 and its slope 15 (w - 2).
    found, curves = regress(Descent(epochs=3, batch=None, optimiser="sgd", lr=0.02))
    assert curves.loss == pytest.approx([30.0, 30.0 * 0.7**2, 30.0 * 0.7**4])
    assert found == pytest.approx(2.0 - 2.0 * 0.7**3)


def test_momentum_keeps_the_direction_of_the_step_before() -> None:
    # 0 -> 0.6 by the slope -30; then the slope -21 and nine tenths of the step before.
    found, _ = regress(Descent(epochs=2, batch=None, optimiser="momentum", momentum=0.9, lr=0.02))
    assert found == pytest.approx(0.6 + 0.02 * 21.0 + 0.9 * 0.6)


def test_the_first_step_of_adam_is_as_long_as_its_rate() -> None:
    found, _ = regress(Descent(epochs=1, batch=None, optimiser="adam", lr=0.125))
    assert found == pytest.approx(0.125)


def test_adamw_shrinks_weights_apart_from_the_slope_and_adam_within_it() -> None:
    still = {"batch": None, "epochs": 1, "lr": 0.1, "weight_decay": 0.5}
    assert regress(Descent(optimiser="adamw", **still), 2.0)[0] == pytest.approx(2.0 * (1.0 - 0.1 * 0.5))  # type: ignore[arg-type]
    assert regress(Descent(optimiser="adam", **still), 2.0)[0] == pytest.approx(2.0 - 0.1)  # type: ignore[arg-type]


def test_biases_do_not_decay() -> None:
    net = nn.Linear(1, 1)
    nn.init.ones_(net.weight)
    nn.init.ones_(net.bias)
    descend(net, X, Y, Descent(1, None, "sgd", lr=0.1, weight_decay=0.5), step=lambda net, *_: 0.0 * net(X).sum())
    assert (net.weight.item(), net.bias.item()) == (pytest.approx(0.95), 1.0)


@pytest.mark.parametrize(("batch", "sizes"), [(None, [10]), (1, [1] * 10), (4, [4, 3, 3]), (64, [10])])
def test_an_epoch_shows_every_sample_once_in_batches(batch: int | None, sizes: list[int]) -> None:
    shown: list[Tensor] = []

    def step(net: nn.Module, inputs: Tensor, _: Tensor) -> Tensor:
        shown.append(inputs[:, 0])
        return net(inputs).sum() * 0.0

    descend(line(), torch.arange(10.0)[:, None], torch.zeros(10), Descent(2, batch), step=step)
    assert [len(part) for part in shown] == sizes * 2
    first, second = (torch.cat(part) for part in (shown[: len(sizes)], shown[len(sizes) :]))
    assert sorted(first.tolist()) == sorted(second.tolist()) == list(range(10))
    assert first.tolist() != second.tolist()


def test_clipping_bounds_the_step() -> None:
    assert regress(Descent(1, None, "sgd", lr=0.1, clip_gradient=1.0))[0] == pytest.approx(0.1)


def test_the_average_lies_behind_the_weights_and_is_kept() -> None:
    # Weights 0.6 and 1.02; the average starts at 0 and keeps 1 / 10 and then 2 / 11 of itself.
    found, _ = regress(Descent(2, None, "sgd", lr=0.02, average=0.9))
    first = 0.9 * 0.6
    assert found == pytest.approx(2 / 11 * first + 9 / 11 * 1.02)


def test_schedules() -> None:
    assert [share(step, 100, "constant") for step in (0, 99)] == [1.0, 1.0]
    assert [share(step, 100, "cosine") for step in (0, 50)] == [1.0, pytest.approx(0.5)]
    warm = [share(step, 100, "one-cycle") for step in range(100)]
    assert max(warm) == warm[15] == 1.0
    assert warm[0] == pytest.approx(1 / 16)
    assert warm[-1] < 0.001


def test_the_best_weights_are_kept_and_patience_ends_it() -> None:
    # Every step goes past the optimum and farther off, so that the start of the first epoch's end is the best.
    held = (X, Y)
    steps = Descent(20, None, "sgd", lr=0.14, keep="best", patience=3)
    found, curves = regress(steps, 1.9, held=held)
    assert len(curves.held_loss) == len(curves.loss) == 4
    assert 7.5 * (found - 2.0) ** 2 == pytest.approx(curves.held_loss[0])
    last, _ = regress(replace(steps, keep="last"), 1.9, held=held)
    assert 7.5 * (last - 2.0) ** 2 == pytest.approx(curves.held_loss[-1])
    assert curves.held_error == []


def test_the_held_error_is_the_share_of_wrong_classes() -> None:
    net = nn.Linear(1, 2, bias=False)
    net.weight.data = torch.tensor([[1.0], [-1.0]])
    inputs, classes = torch.tensor([[1.0], [2.0], [-1.0], [3.0]]), torch.tensor([0, 0, 0, 1])
    curves = descend(net, inputs, classes, Descent(1, lr=0.0), held=(inputs, classes))
    assert curves.held_error == [0.5]


# --- going on --------------------------------------------------------------------------------------------------------

G = torch.Generator().manual_seed(0)
INPUTS, CLASSES = torch.randn(40, 3, generator=G), torch.randint(0, 2, (40,), generator=G)
VARIED = Descent(5, 8, "adam", lr=0.01, schedule="one-cycle", average=0.9, weight_decay=0.1, keep="best", seed=3)


def net() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(3, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Dropout(0.5), nn.Linear(8, 2))


def trained(folder: Path | None, killed_at: int = 99, elsewhere: int = 0) -> tuple[dict[str, Tensor], Curves]:
    """Train with everything that draws, and be killed in the midst of an epoch."""
    calls = 0

    def vary(batch: Tensor, draw: torch.Generator) -> Tensor:
        nonlocal calls
        calls += 1
        if calls == killed_at:
            raise KeyboardInterrupt
        return batch + 0.1 * torch.randn(batch.shape, generator=draw)

    made = net()
    torch.manual_seed(elsewhere)  # whatever was drawn before the training
    curves = descend(made, INPUTS, CLASSES, VARIED, held=(INPUTS, CLASSES), vary=vary, folder=folder)
    return made.state_dict(), curves


def test_a_killed_training_goes_on_to_the_same_weights(tmp_path: Path) -> None:
    whole, curves = trained(None)
    with pytest.raises(KeyboardInterrupt):
        trained(tmp_path, killed_at=13)
    assert len(torch.load(tmp_path / CHECKPOINT, weights_only=True)["curves"]["loss"]) == 2
    found, others = trained(tmp_path, killed_at=16, elsewhere=1)
    assert all(torch.equal(whole[name], found[name]) for name in whole)
    assert (others.loss, others.held_loss) == (curves.loss, curves.held_loss)
    # A finished one is read, not trained again.
    again, _ = trained(tmp_path, killed_at=1)
    assert all(torch.equal(whole[name], again[name]) for name in whole)


def test_the_seed_decides(tmp_path: Path) -> None:
    first, second = net(), net()
    descend(first, INPUTS, CLASSES, Descent(2, 8))
    descend(second, INPUTS, CLASSES, Descent(2, 8, seed=1))
    assert not torch.equal(predict(first, INPUTS), predict(second, INPUTS))


@pytest.mark.parametrize("fault", ["other data", "other settings", "cut short"])
def test_a_checkpoint_of_something_else_counts_as_none(tmp_path: Path, fault: str) -> None:
    regress(Descent(3, None, "sgd", lr=0.02), folder=tmp_path)
    x, rate = (X + 1.0, 0.02) if fault == "other data" else (X, 0.01) if fault == "other settings" else (X, 0.02)
    path = tmp_path / CHECKPOINT
    if fault == "cut short":
        path.write_bytes(path.read_bytes()[:300])
    found, fresh = line(), line()
    descent = Descent(1, None, "sgd", lr=rate)
    assert len(descend(found, x, Y, descent, loss=mse_loss, folder=tmp_path).loss) == 1
    descend(fresh, x, Y, descent, loss=mse_loss)
    assert torch.equal(found.weight, fresh.weight)


def test_more_epochs_at_a_constant_rate_go_on_from_fewer(tmp_path: Path) -> None:
    regress(Descent(2, None, "sgd", lr=0.02), folder=tmp_path)
    found, curves = regress(Descent(3, None, "sgd", lr=0.02), folder=tmp_path, vary=lambda batch, _: batch)
    assert len(curves.loss) == 3
    assert found == pytest.approx(2.0 - 2.0 * 0.7**3)


def test_predict_is_in_use_and_leaves_the_mode() -> None:
    made = net()
    assert torch.equal(predict(made, INPUTS, batch=7), predict(made, INPUTS))
    assert made.training
    assert not predict(made, INPUTS).requires_grad


# --- diverging -------------------------------------------------------------------------------------------------------


def test_a_diverging_training_stops_and_keeps_the_last_good_epoch(tmp_path: Path) -> None:
    made = line(1.0)
    # The distance to the optimum is 1, -14, 196, -2744, and the loss 7.5 times its square: a millionfold after 3 more.
    with pytest.raises(DivergedError, match=r"diverged in epoch 4 of 9: .* epoch 3 are kept: lower lr from 1 to 0\.1"):
        descend(made, X, Y, Descent(9, None, "sgd", lr=1.0), loss=mse_loss, folder=tmp_path)
    kept = torch.load(tmp_path / CHECKPOINT, weights_only=True)
    assert kept["curves"]["loss"] == pytest.approx([7.5, 7.5 * 14**2, 7.5 * 14**4])
    assert torch.equal(kept["network"]["weight"], made.weight)
    assert made.weight.item() == pytest.approx(2.0 + 14**3)


def test_the_advice_follows_the_settings() -> None:
    bad = torch.tensor([[float("nan")], [1.0]])
    for descent, words in (
        (Descent(1, None, "momentum", momentum=0.999), "lower momentum from 0.999 to 0.9"),
        (Descent(1, None, "adam", lr=0.5), "lower lr from 0.5 to 0.001"),
        (Descent(1, None, "adam"), "set clip_gradient to 1, or lower lr from 0.001"),
        (Descent(1, None, "adam", clip_gradient=1.0), "inputs that are not numbers"),
    ):
        made = line(1.0)
        with pytest.raises(DivergedError, match=f"the weights are those of the start: .*{words}"):
            descend(made, bad, bad, descent, loss=mse_loss)
        assert made.weight.item() == 1.0


def test_a_training_that_diverges_early_does_not_go_on_to_the_end_of_the_epoch() -> None:
    steps = 0

    def step(net: nn.Module, inputs: Tensor, _: Tensor) -> Tensor:
        nonlocal steps
        steps += 1
        return net(inputs).sum() * float("nan")

    with pytest.raises(DivergedError):
        descend(line(), torch.ones(1000, 1), torch.ones(1000), Descent(1, 1), step=step)
    assert steps == 1
