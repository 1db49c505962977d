"""Lecture 1: its toys against what is known of them, and the machines beside scikit-learn's own."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from pipeline.course import data, introduction, vectors
from stages.formats.idx import Digits


@pytest.fixture(scope="module")
def digits() -> Digits:
    return data.small_digits()


def test_one_neuron_learns_what_a_line_divides_and_two_layers_the_rest() -> None:
    rounds, results = introduction.one_neuron(0)
    assert rounds["divided by a line"][-1] == 0
    assert min(rounds["exclusive or"]) > 0
    bound = int(results[0].published.split("= ")[1])
    assert 0 < int(results[0].ours) <= bound
    assert int(results[2].ours.split()[0]) <= 5
    assert float(results[3].ours) < 1e-6


def test_stochastic_descent_starts_faster_and_full_batch_descent_ends_lower() -> None:
    floors = introduction.convex(0, epochs=25)
    stochastic, full = floors["one sample, rate 0.01"], floors["full batch"]
    assert stochastic[0] < full[0]
    assert full[-1] < 0.3 * min(stochastic[10:])
    # The lower rate is slower at first.
    assert floors["one sample, rate 0.001"][0] > stochastic[0]


def test_the_lecture_tells_every_comparison(digits: Digits, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    few = Digits(digits.train_images[:60], digits.train_labels[:60], digits.test_images[:50], digits.test_labels[:50])
    floors = introduction.convex(0, samples=20, epochs=2)
    monkeypatch.setattr(introduction.data, "small_digits", lambda _: few)
    monkeypatch.setattr(introduction, "convex", lambda _: floors)
    lecture = introduction.run(tmp_path, full=False)
    told = " ".join(result.what for result in lecture.results)
    assert all(name in told for name in (*introduction.DESCENTS, "sigmoid", "silu", "hinge", "support vector machine"))
    assert all(picture.content[:4] == "<svg" for picture in lecture.pictures)


def test_mnist_figures_stand_beside_the_published_ones(
    digits: Digits, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    few = Digits(
        digits.train_images[:200] * 15, digits.train_labels[:200], digits.test_images[:90] * 15, digits.test_labels[:90]
    )
    monkeypatch.setattr(introduction.data, "mnist", lambda: few)
    multilayer = introduction.multilayer
    monkeypatch.setattr(introduction, "multilayer", lambda *given: multilayer(*given, epochs=8))
    results = introduction.on_mnist(tmp_path, 0)
    assert len(results) == 5
    assert all(float(result.ours.rstrip("%")) < 30 for result in results)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["gaussian", "mlp-0", "virtual"]


# --- support vector machines -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("kernel", [vectors.Kernel("rbf", 10.0, 0.5), vectors.Kernel("poly", 2.0)])
def test_a_machine_a_pair_votes_as_the_library_does(digits: Digits, kernel: vectors.Kernel) -> None:
    train, test = (images.reshape(len(images), -1) / 16.0 for images in (digits.train_images[:300], digits.test_images))
    train, test = (x / np.linalg.norm(x, axis=1, keepdims=True) for x in (train, test))
    labels = digits.train_labels[:300]
    found = vectors.classify(vectors.fit_pairs(train, labels, kernel), train, kernel, test, batch=77)
    whole = kernel.machine().fit(train, labels)
    # Equal numbers of votes are decided otherwise there.
    assert (found == whole.predict(test)).mean() > 0.99
    assert (found == digits.test_labels).mean() > 0.9


def test_kernels_by_hand() -> None:
    u, v = np.array([[1.0, 0.0]]), np.array([[0.6, 0.8]])
    assert vectors.Kernel("poly", 1.0, degree=3)(u, v)[0, 0] == pytest.approx(0.8**3)
    assert vectors.Kernel("rbf", 1.0, gamma=0.5)(u, v)[0, 0] == pytest.approx(np.exp(-0.5 * (0.16 + 0.64)))


def test_a_killed_fit_goes_on_and_another_set_is_fitted_anew(
    digits: Digits, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    inputs, labels = digits.train_images[:100].reshape(100, -1) / 16.0, digits.train_labels[:100] % 3
    kernel = vectors.Kernel("rbf", 1.0, 0.1)
    whole = vectors.fit_pairs(inputs, labels, kernel, tmp_path)
    (tmp_path / "0-2.npz").write_bytes(b"PK cut short")
    fits = []
    machine = vectors.Kernel.machine
    monkeypatch.setattr(vectors.Kernel, "machine", lambda self: fits.append(1) or machine(self))
    again = vectors.fit_pairs(inputs, labels, kernel, tmp_path)
    assert len(fits) == 1
    assert all(np.array_equal(whole[pair].weights, again[pair].weights) for pair in whole)
    vectors.fit_pairs(inputs + 0.1, labels, kernel, tmp_path)
    assert len(fits) == 4


def test_shifts_move_and_lose_nothing_inside() -> None:
    image = np.zeros((1, 5, 5))
    image[0, 2, 2], image[0, 4, 0] = 1.0, 7.0
    moved = [shift[0] for shift in vectors.shifted(image, 1)]
    assert len(moved) == 9
    assert np.array_equal(moved[0], image[0])
    places = {tuple(int(at) for at in np.argwhere(shift == 1.0)[0]) for shift in moved}
    assert places == {(row, column) for row in (1, 2, 3) for column in (1, 2, 3)}
    # What leaves the image does not come in again.
    assert sum((shift == 7.0).any() for shift in moved) == 4


def test_a_slanted_digit_stands_upright_in_the_middle() -> None:
    image = np.zeros((1, 28, 28), np.uint8)
    for row in range(6, 20):
        image[0, row, 20 - row // 2 : 23 - row // 2] = 255
    found = vectors.deskewed(image)[0]
    rows, columns = np.mgrid[:28, :28]
    ink = found.sum()
    y, x = (found * rows).sum() / ink, (found * columns).sum() / ink
    assert (y, x) == (pytest.approx(13.5, abs=0.1), pytest.approx(13.5, abs=0.1))
    assert abs((found * (rows - y) * (columns - x)).sum()) < 0.02 * (found * (rows - y) ** 2).sum()
    assert ink == pytest.approx(image.sum(), rel=0.02)


def test_the_projection_keeps_what_it_says() -> None:
    inputs = np.random.default_rng(0).normal(size=(200, 10)) * np.array([10.0, 5.0, *[0.1] * 8])
    found = vectors.Projection(inputs, 0.99)(inputs)
    assert found.shape == (200, 2)
    assert np.square(found).sum() >= 0.99 * np.square(inputs).sum()
