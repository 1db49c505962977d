"""The page on generative networks: its measures see modes that are lost, classes mixed up and groups that agree."""

from __future__ import annotations

import io
from dataclasses import replace

import numpy as np
import pytest
import torch
from matplotlib.image import imread
from torch import Tensor, nn

from pipeline.course import data, generative, unsupervised
from pipeline.course.ground import Labelled
from stages.formats.idx import Digits
from stages.models.convnet import ConvNet
from stages.training.generators.adversary import Adversary


@pytest.fixture(autouse=True)
def one_thread() -> None:
    torch.set_num_threads(1)


def test_the_ring_has_eight_modes_and_a_lost_one_is_missed():
    points = generative.ring(4000, seed=0)
    modes, good = generative.modes_found(points)
    assert modes == 8
    assert good == pytest.approx(0.989, abs=0.01)  # within three deviations in two dimensions
    lost = points[points[:, 0] < generative.RADIUS - 0.5]
    assert generative.modes_found(lost)[0] == 7
    assert generative.modes_found(torch.zeros(10, 2)) == (0, 0.0)


class ByBrightness(nn.Module):
    """A classifier of even images: a tenth of full brightness a class."""

    def __init__(self) -> None:
        super().__init__()
        self.features = nn.Identity()
        self.head = nn.Sequential(nn.Identity(), nn.Linear(1, 10))

    def forward(self, images: Tensor) -> Tensor:
        return -(images.mean(dim=(1, 2, 3))[:, None] * 10 - torch.arange(10)).abs()


def even(classes: np.ndarray, noise: float = 0.02) -> np.ndarray:
    """Images of 4 x 4 pixels whose brightness is their class, uint8 from 0 to 255."""
    rng = np.random.default_rng(0)
    values = classes[:, None, None] / 10 + rng.normal(0, noise, (len(classes), 4, 4))
    values[0] = 1.0  # as bright as can be, so that the scale is known
    return (np.clip(values, 0, 1) * 255).astype(np.uint8)


def test_the_verdict_tells_agreement_histogram_and_spread():
    classes = np.arange(400) % 10
    digits = Digits(even(classes), classes.astype(np.uint8), even(classes), classes.astype(np.uint8))
    network: ConvNet = ByBrightness()  # type: ignore[assignment]
    asked = torch.arange(10).repeat_interleave(20)
    drawn = generative.as_tensors(even(asked.numpy(), noise=0.01), asked.numpy())[0]
    drawn[asked == 3] = 0.7
    verdict = generative.judged(network, drawn, asked, digits)
    assert verdict.accuracy == pytest.approx(1.0, abs=0.01)
    assert verdict.agreement[[2, 3, 7]].tolist() == [1.0, 0.0, 1.0]
    assert verdict.histogram[[2, 3, 7]].tolist() == [20, 0, 40]
    assert verdict.spread[3] == 0.0  # twenty times the same
    assert verdict.spread[5] == pytest.approx(0.5, abs=0.1)


def test_a_lecture_says_what_was_measured(tmp_path, monkeypatch):
    quick = Adversary(steps=2, batch=8, latent=4, width=4)
    digits = data.small_digits(0)
    some = Digits(digits.train_images[:400], digits.train_labels[:400], digits.test_images, digits.test_labels)
    nothing = unsupervised.Learned(("as it is",), (), ())
    monkeypatch.setattr(data, "small_digits", lambda _: some)
    monkeypatch.setattr(generative, "digit_settings", lambda _, seed: replace(quick, bounded=True, seed=seed))
    monkeypatch.setattr(generative, "ring_settings", lambda _, seed: {"no time, no result": replace(quick, seed=seed)})
    monkeypatch.setattr(unsupervised, "experiment", lambda *_: nothing)
    lecture = generative.run(tmp_path, full=False, seed=3)
    assert (lecture.number, lecture.title) == (generative.NUMBER, generative.TITLE)
    assert lecture.text[-1] == "as it is"
    ring, digits_drawn = (picture.content for picture in lecture.pictures)
    assert str(ring).startswith("<svg")
    assert bytes(digits_drawn).startswith(b"\x89PNG")  # type: ignore[arg-type]
    told = {result.what: result.ours for result in lecture.results}
    assert told["eight Gaussians, no time, no result: modes found, points within three deviations of one"] == (
        "0 of 8, 0 %"
    )
    # Two steps draw nothing that is a digit; a judge who agreed would be no judge.
    agreed = next(ours for what, ours in told.items() if "independent classifier" in what)
    assert agreed.endswith("% of 1,000")
    assert float(agreed.partition(" ")[0]) < 60.0


def test_agreement_does_not_depend_on_the_names_of_groups():
    classes = np.array([0, 0, 0, 1, 1, 1, 2, 2])
    same = unsupervised.agreement(2 - classes, classes)
    assert (same.matched, same.mutual, same.rand) == pytest.approx((1.0, 1.0, 1.0))
    one_wrong = unsupervised.agreement(np.array([0, 0, 1, 1, 1, 1, 2, 2]), classes)
    assert one_wrong.matched == pytest.approx(7 / 8)
    one_group = unsupervised.agreement(np.zeros(8, int), classes)
    assert (one_group.matched, one_group.mutual, one_group.rand) == pytest.approx((3 / 8, 0.0, 0.0))


def world(side: int = 24) -> Labelled:
    """Stripes and even ground of the same mean: only the surroundings of a pixel tell its class."""
    rng = np.random.default_rng(0)
    rows, columns = np.mgrid[:side, :side]
    labels = (columns >= side // 2).astype(np.int64)
    image = (np.where(labels, np.where(rows % 2, 1.0, -1.0), rng.choice([-1.0, 1.0], (side, side))) + 5.0)[None]
    valid = np.ones((side, side), dtype=bool)
    valid[0, 0] = False
    place = np.argwhere(valid)
    at = tuple(place.T)
    values = image[:, *at].T.astype(np.float32)
    return Labelled(
        values, values, labels[at], (place[:, 0] // 6).astype(np.int64), place, labels, image.astype(np.float32),
        valid, ("even", "stripes"), ("b1",), ("b1",), ("",),
    )  # fmt: skip


def test_patches_are_centred_on_their_pixel_and_hide_what_is_invalid():
    ground = world()
    patches = unsupervised.patches_of(ground)
    reach = unsupervised.AROUND
    assert patches.shape == (len(ground.labels), 1, 2 * reach + 1, 2 * reach + 1)
    middle = patches[:, 0, reach, reach]
    assert middle.mean() == pytest.approx(0.0, abs=1e-5)
    assert middle.std(correction=0) == pytest.approx(1.0, abs=1e-4)
    second = next(i for i, place in enumerate(ground.place) if place.tolist() == [3, 5])
    assert patches[second, 0, reach, reach + 1] == middle[second + 1]
    corner = next(i for i, place in enumerate(ground.place) if place.tolist() == [1, 1])
    assert patches[corner, 0, reach - 1, reach - 1] == 0.0  # the invalid pixel
    assert patches[corner, 0, 0, 0] == 0.0  # beyond the edge


def test_few_labels_are_measured_on_held_out_samples_alone(tmp_path):
    ground = world()
    patches, training = unsupervised.patches_of(ground), ground.block < 3
    told = unsupervised.acquainted(patches[training], tmp_path, full=False, seed=0)
    found = unsupervised.few_labels(patches, ground.labels, training, told, full=False, seed=0)
    assert set(found) == {"random", "encoder"}
    for by_count in found.values():
        assert sorted(by_count) == [50, 200]
        assert all(0.8 < value <= 1.0 for values in by_count.values() for value in values)
    # A label of a held-out sample that is wrong makes that sample count as wrong, and trains nothing.
    swapped = np.where(training, ground.labels, 1 - ground.labels)
    again = unsupervised.few_labels(patches, swapped, training, told, full=False, seed=0)
    for way, by_count in found.items():
        for count, values in by_count.items():
            assert again[way][count] == pytest.approx([1.0 - value for value in values])


def test_features_are_judged_on_held_out_samples_alone():
    ground = world()
    training = ground.block < 3
    told, noise = ground.labels[:, None].astype(float), np.random.default_rng(0).normal(size=(len(ground.labels), 1))
    swapped = np.where(training, ground.labels, 1 - ground.labels)
    found = unsupervised.judged({"labels": told, "noise": noise}, ground.labels, training, seed=0)
    assert (found["labels"], found["all of these"]) == (1.0, 1.0)
    assert 0.3 < found["noise"] < 0.7
    assert unsupervised.judged({"labels": told}, swapped, training, seed=0)["labels"] == 0.0
    assert unsupervised.grouped({"labels": told}, ground.labels, seed=0)["labels"].rand == pytest.approx(1.0)


def test_a_sheet_lays_rows_below_each_other():
    images = np.zeros((2, 3, 4, 5))
    images[1, 2] = 1.0
    drawn = imread(io.BytesIO(generative.sheet(images, enlarged=1)), format="png")[..., 0]
    assert drawn.shape == (8, 15)
    assert drawn[4:, 10:].max() == 0.0  # ink
    assert drawn[:4].min() == drawn[4:, :10].min() == 1.0
