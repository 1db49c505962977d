"""The lectures on digits: what they do to images, and that settings are chosen without the test digits."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from pipeline.course import capsules, convolution, data, plots
from stages.formats.idx import Digits


@pytest.fixture(autouse=True)
def one_thread() -> None:
    torch.set_num_threads(1)


@pytest.fixture(scope="module")
def few() -> Digits:
    digits = data.small_digits()
    return Digits(
        digits.train_images[:150], digits.train_labels[:150], digits.test_images[:30], digits.test_labels[:30]
    )


def drawn(high: int, wide: int, left: int = 3) -> Tensor:
    image = torch.zeros(1, 1, 28, 28)
    image[:, :, 4 : 4 + high, left : left + wide] = 1.0
    return image


@pytest.mark.parametrize(("wide", "left"), [(10, 3), (20, 2), (16, 11), (9, 19)])
def test_what_is_drawn_is_stretched_to_a_width_in_the_middle(wide: int, left: int) -> None:
    found = convolution.stretched(drawn(20, wide, left), 16)[0, 0]
    columns = (found.sum(dim=0) > 10.0).nonzero().flatten()
    assert (columns.min(), columns.max()) == (6, 21)
    assert found.sum(dim=1).nonzero().flatten().tolist() == list(range(4, 24))


def test_a_stroke_is_not_stretched_to_more_than_twice_its_width() -> None:
    assert convolution.stretched(drawn(20, 4), 16).sum() == pytest.approx(8 * 20, rel=0.01)


def test_settings_are_compared_on_training_digits_only() -> None:
    train, test = np.arange(50, dtype=np.uint8)[:, None, None], np.full((20, 1, 1), 99, np.uint8)
    part = convolution.held_out(Digits(train, train[:, 0, 0], test, test[:, 0, 0]), 10)
    assert part.train_images.ravel().tolist() == list(range(40))
    assert part.test_labels.tolist() == part.test_images.ravel().tolist() == list(range(40, 50))


def test_a_committee_goes_on_member_by_member(few: Digits, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    plan = convolution.Plan("4 pool | 8", epochs=2, batch=50, lr=0.01, elastic=0.2)
    stepped: list[int] = []
    step = convolution._step
    monkeypatch.setattr(
        convolution, "_step", lambda network, *batch: (stepped.append(len(batch[0])), step(network, *batch))[1]
    )
    one = convolution.committee(plan, 1, few, tmp_path)
    assert len(stepped) == 6
    two = convolution.committee(plan, 2, few, tmp_path)
    assert len(stepped) == 12
    np.testing.assert_array_equal(two[0][0], one[0][0])
    assert np.abs(two[1][0] - two[0][0]).max() > 0.01
    np.testing.assert_allclose(two[1][0].sum(axis=1), 1.0, atol=1e-5)


class First(nn.Module):
    """Says class 1 where the middle of the left half is bright."""

    def __init__(self) -> None:
        super().__init__()
        self.unused = nn.Parameter(torch.zeros(1))

    def forward(self, images: Tensor) -> Tensor:
        seen = images[:, 0, 4, 2]
        return torch.stack([0.5 - seen, seen - 0.5], dim=1)


def test_digits_are_moved_by_whole_pixels_and_turned_about_their_middle() -> None:
    image = torch.zeros(1, 1, 9, 9)
    image[..., 4, 2] = 1.0
    torch.testing.assert_close(capsules.moved(image, 2.0, -1.0, 0.0)[0, 0].nonzero(), torch.tensor([[6, 1]]))
    turned = capsules.moved(image, 0.0, 0.0, 90.0)[0, 0]
    assert (turned > 0.99).nonzero().tolist() in ([[2, 4]], [[6, 4]])
    back = capsules.moved(turned[None, None], 0.0, 0.0, -90.0)
    torch.testing.assert_close(back, image, atol=1e-4, rtol=0)


def test_the_error_of_moved_digits_is_the_mean_over_all_ways() -> None:
    images = np.zeros((1, 9, 9), np.uint8)
    images[0, 3:6, 2] = 255
    digits = Digits(images, np.ones(1, np.uint8), images, np.ones(1, np.uint8))
    assert capsules.error_when(First(), digits) == 0.0
    assert capsules.error_when(First(), digits, shift=1) == 0.5  # found up and down, lost to the left and right
    assert capsules.error_when(First(), digits, turn=90.0) == 1.0


def test_a_page_tells_what_was_measured(few: Digits, tmp_path: Path) -> None:
    plan = replace(capsules.SMALL, epochs=1, compared=1, shifts=(0, 1))
    lecture = capsules._page(few, tmp_path / "capsules", plan)
    assert [result.what.split(",")[0] for result in lecture.results][1:3] == [
        "Test error of digits shifted by 0 px", "Test error of digits shifted by 1 px",
    ]  # fmt: skip
    assert all("%" in result.ours for result in lecture.results[:-1])
    assert all(str(picture.content).startswith("<svg") for picture in lecture.pictures)
    page = convolution._page(few, tmp_path / "2", convolution.Plan("4 pool | 8", epochs=1), members=2)
    assert "Committee of 2, seeds 0 to 1" in page.results[2].what
    assert all(str(picture.content).startswith("<svg") for picture in page.pictures)


def test_the_networks_beside_the_capsules_have_as_many_weights() -> None:
    from stages.models.capsule import CapsuleNet
    from stages.models.convnet import ConvNet

    for plan, side in ((capsules.FULL, 28), (capsules.SMALL, 8)):
        own = CapsuleNet(1, 10, size=(side, side), **plan.shape)
        weights = sum(w.numel() for key, w in own.named_parameters() if not key.startswith("decoder"))
        for stages in plan.beside.values():
            network = ConvNet(1, 10, stages, size=(side, side), padded=False)
            assert sum(w.numel() for w in network.parameters()) == pytest.approx(weights, rel=0.01)


def test_a_plot_is_the_same_each_time_it_is_drawn() -> None:
    one, same = (plots.curves({"a": [1.0, 2.0], "b": [2.0, 1.0]}, "epoch", "loss", log=True) for _ in range(2))
    assert one == same
    assert one.startswith("<svg")
    assert "epoch" in one
    images = np.random.default_rng(0).random((12, 4, 4))
    assert plots.pictures(images, [str(k) for k in range(12)], columns=5).count("<image") == 12
