"""The training ground and the chips cut from it hold training pixels, and nothing else."""

from __future__ import annotations

import pickle
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from stages.errors import LeakError
from stages.formats.samples import UNLABELLED, Part, Role, Samples
from stages.training import ground as ground_module
from stages.training import held as held_module
from stages.training.chips import Chips, feed
from stages.training.ground import Ground
from stages.training.held import gather
from stages.training.recipes import Recipe
from tests.training_worlds import Laid, lay, quick
from tests.worlds import patchwork, separable

SHAPE = (90, 75)


@pytest.fixture(scope="module")
def laid(tmp_path_factory: pytest.TempPathFactory) -> Laid:
    truth = patchwork(SHAPE, 3, 8, 0)
    bands = separable(truth, 0)
    bands[:, :5, :7] = np.nan
    return lay(tmp_path_factory.mktemp("chips"), np.where(np.isfinite(bands), bands, np.nan), truth, buffer=20.0)


@pytest.fixture(scope="module")
def ground(laid: Laid) -> Ground:
    return laid.ground()


def expected(laid: Laid) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The whole ground at once, straight from the formats."""
    split = laid.split()
    window = split.tiles.grid.whole
    image, valid = split.tiles.read_channels(window)
    train = split.samples.part(0, window) == Part.TRAIN
    role = split.samples.read("role", window)[0]
    labels = np.where(role == Role.TRAIN, split.samples.read("target", window), UNLABELLED)
    return np.where(train & valid, image, 0.0), train & valid, labels


@settings(max_examples=40, deadline=None)
@given(row=st.integers(-40, 100), col=st.integers(-40, 90), size=st.integers(1, 70))
def test_a_cut_is_the_masked_image_wherever_it_lies(laid: Laid, ground: Ground, row: int, col: int, size: int) -> None:
    image, valid, labels = expected(laid)
    pad = 200
    wide = np.pad(image, ((0, 0), (pad, pad), (pad, pad)))
    mask = np.pad(valid, ((0, 0), (pad, pad), (pad, pad)))
    target = np.pad(labels, pad, constant_values=UNLABELLED)
    box = (slice(row + pad, row + pad + size), slice(col + pad, col + pad + size))
    found = ground.cut(0, row, col, size)
    np.testing.assert_array_equal(found[0], wide[(slice(None), *box)])
    np.testing.assert_array_equal(found[1], mask[(slice(None), *box)])
    np.testing.assert_array_equal(found[2], target[box])


def test_counts_are_the_training_labels(laid: Laid, ground: Ground) -> None:
    _, _, labels = expected(laid)
    np.testing.assert_array_equal(ground.pixels(), [(labels == k).sum() for k in range(3)])


def test_a_ground_in_a_file_is_the_same(laid: Laid, ground: Ground, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ground_module, "IN_MEMORY", 0)
    filed = laid.ground()
    assert isinstance(filed._image, np.memmap)
    for mine, other in zip(filed.cut(0, -5, -5, 100), ground.cut(0, -5, -5, 100), strict=True):
        np.testing.assert_array_equal(mine, other)


def test_sparse_labels_lay_out_their_cells_and_the_neighbours_only(tmp_path: Path) -> None:
    labels = np.full((160, 160), 255, dtype=np.uint8)
    for place, (row, col) in enumerate([(8, 8), (8, 24), (24, 8), (24, 24), (40, 40), (40, 24), (40, 8), (24, 40)]):
        labels[row, col], labels[row, col + 3] = place % 2, (place + 1) % 2
    bands = np.ones((2, 160, 160), np.float32)
    sparse = Ground(lay(tmp_path, bands, labels).split(), 16, tmp_path / "ground")
    assert len(sparse.places) < 40  # of 100 cells
    batch = Chips(sparse, quick(Recipe(), batch=8), 0, 0)[0]
    assert all((chip != UNLABELLED).any() for chip in batch[3].numpy())


@pytest.fixture(scope="module")
def scattered(tmp_path_factory: pytest.TempPathFactory) -> Ground:
    """Two clusters of labels, far apart, and one between and below them: cells in more than one rectangle."""
    folder = tmp_path_factory.mktemp("scattered")
    labels = np.full((200, 240), 255, dtype=np.uint8)
    for row, col in [(3, 4), (9, 30), (100, 120), (101, 160), (140, 121), (195, 230), (20, 8), (110, 150)]:
        labels[row, col], labels[row, col + 2] = 0, 1
    bands = np.random.default_rng(0).normal(5, 1, (3, 2, 200, 240)).astype(np.float32)
    bands[1, :, 90:120, 100:130] = np.nan
    return Ground(lay(folder, bands, labels, ("2020-01", "2020-05", "2020-09")).split(), 8, folder / "ground")


def test_a_cut_across_rectangles_shows_the_wanted_cells_and_hides_all_else(scattered: Ground) -> None:
    split, side = scattered.split, scattered.side
    assert len(scattered._pieces) > 2
    image, valid, labels = split.read_training(split.tiles.grid.whole)
    wanted = np.zeros(labels.shape, bool)
    for _, row, col in scattered.places:
        wanted[row * side : (row + 1) * side, col * side : (col + 1) * side] = True
    assert not (labels[~wanted] != UNLABELLED).any()
    assert valid.any(axis=0)[~wanted].any()
    kinds = (np.where(wanted, image, 0.0), valid & wanted, labels)
    wide = [np.pad(array, [(0, 0)] * (array.ndim - 2) + [(100, 200)] * 2, constant_values=hidden)
            for array, hidden in zip(kinds, (0.0, False, UNLABELLED), strict=True)]  # fmt: skip
    rng, pieces = np.random.default_rng(1), set()
    for size in (1, 7, 8, 64, 150):
        for row, col in rng.integers(-60, 220, (25, 2)).tolist():
            pieces.add(len(scattered._touched(0, row, col, size, size)))
            for found, array in zip(scattered.cut(0, row, col, size), wide, strict=True):
                np.testing.assert_array_equal(found, array[..., row + 100 :, col + 100 :][..., :size, :size])
    assert {0, 1, 2} <= pieces


@given(cells=st.integers(0, 2**35 - 1), rows=st.sampled_from([1, 5, 7]))
@settings(max_examples=60, deadline=None)
def test_rectangles_hold_every_wanted_cell_once_and_little_else(cells: int, rows: int) -> None:
    wanted = np.array([cells >> place & 1 for place in range(35)], bool).reshape(rows, -1)
    times = np.zeros(wanted.shape, int)
    for row, col, height, width in ground_module._boxes(wanted):
        times[row : row + height, col : col + width] += 1
        assert wanted[row : row + height, col : col + width].mean() >= ground_module.FILLED
    assert times.max() <= 1
    assert (times[wanted] == 1).all()


def test_single_pixels_are_picked_from_their_rectangles(scattered: Ground) -> None:
    y, x = np.divmod(scattered.spots.astype(np.int64), scattered.side)
    slot = np.repeat(np.arange(len(scattered.places)), scattered.cells.sum(axis=1))
    image, valid, labels = scattered.pick(slot, y, x)
    for place, (season, row, col) in enumerate(scattered.places[slot].tolist()):
        alone = scattered.cut(season, row * scattered.side + int(y[place]), col * scattered.side + int(x[place]), 1)
        assert np.array_equal(alone[0].ravel(), image[place])
        assert np.array_equal(alone[1].ravel(), valid[place])
        assert alone[2].item() == labels[place]
    assert set(labels.tolist()) == {0, 1}


@pytest.mark.parametrize("changes", [{"turn": False}, {"turn": True, "rare": 0.5}, {"rotate": 20.0}, {"chip": 1}])
def test_workers_draw_the_same_chips_in_the_same_order(ground: Ground, changes: dict[str, float]) -> None:
    recipe = quick(Recipe(), batch=4, steps=9, **changes)
    alone = list(feed(Chips(ground, recipe, 5, 1), 0))
    chips = Chips(ground, recipe, 5, 0)
    for workers in (1, 2, 5):
        for batches in (chips.of_epoch(0), chips.of_epoch(1)):
            ahead = feed(batches, workers)
            assert len(ahead) == 9
            # Only one batch at a time is held, so that memory is written again.
            same = [all(torch.equal(a, b) for a, b in zip(one, other, strict=True))
                    for one, other in zip(ahead, alone, strict=True)]  # fmt: skip
            assert all(same) == (batches.seed == (5, 1))


def test_memory_that_is_still_looked_at_is_not_written_again(ground: Ground) -> None:
    chips = Chips(ground, quick(Recipe(), batch=2, steps=20), 0, 0)
    held = [chips[step][0][1, 0] for step in range(3)]
    before = [view.clone() for view in held]
    addresses = set()
    for step in range(3, 20):
        addresses.add(chips[step][0].data_ptr())
    assert len(addresses) == 1
    assert all(torch.equal(view, copy) for view, copy in zip(held, before, strict=True))


def test_chips_that_go_to_another_process_take_no_memory_along(ground: Ground) -> None:
    chips = Chips(ground, quick(Recipe(), batch=2), 0, 0)
    first = chips[0]
    again = pickle.loads(pickle.dumps(chips))[0]  # noqa: S301  its own bytes
    assert all(torch.equal(a, b) for a, b in zip(first, again, strict=True))


def test_a_fault_of_a_worker_reaches_whoever_asks(ground: Ground, monkeypatch: pytest.MonkeyPatch) -> None:
    chips = Chips(ground, quick(Recipe(), batch=2, steps=5, turn=False), 0, 0)

    def fail(*_: object) -> None:
        raise LeakError("planted")

    monkeypatch.setattr(ground, "cut_into", fail)
    with pytest.raises(LeakError, match="planted"):
        list(feed(chips, 2))


def test_chips_hold_the_drawn_pixel_and_repeat_by_seed_epoch_and_step(ground: Ground) -> None:
    recipe = quick(Recipe(), batch=4, chip=16)
    image, valid, days, labels = Chips(ground, recipe, 1, 2)[1]
    assert image.shape == (4, 3, 16, 16)
    assert valid.shape == (4, 1, 16, 16)
    assert days.shape == (4, 1)
    assert labels.shape == (4, 16, 16)
    assert all((chip != UNLABELLED).any() for chip in labels)
    assert not image[(valid == 0).expand_as(image)].any()
    again = Chips(ground, recipe, 1, 2)[1]
    assert all(np.array_equal(a, b) for a, b in zip((image, valid, days, labels), again, strict=True))
    for other in (Chips(ground, recipe, 1, 3)[1], Chips(ground, recipe, 2, 2)[1], Chips(ground, recipe, 1, 2)[0]):
        assert not np.array_equal(image, other[0])


def test_labels_stay_with_their_pixels_when_a_chip_is_turned(laid: Laid, ground: Ground) -> None:
    # Bands of this world name their class: the nearest class mean of every labelled pixel is its label.
    image, _, _, labels = Chips(ground, quick(Recipe(), batch=8, chip=24), 0, 0)[0]
    means = np.array(laid.split().samples.statistics(0)["class_means"])
    chips = image.numpy().transpose(0, 2, 3, 1)
    nearest = np.abs(chips[..., None, :] - means).sum(axis=-1).argmin(axis=-1)
    labelled = labels.numpy() != UNLABELLED
    assert (nearest[labelled] == labels.numpy()[labelled]).all()


def test_rare_classes_are_drawn_as_often_as_common_ones(tmp_path: Path) -> None:
    truth = np.zeros((128, 128), np.uint8)
    truth[::16, ::16] = 1  # one pixel a block
    rare = Ground(lay(tmp_path, separable(truth, 0), truth).split(), 32, tmp_path / "ground")
    recipe = quick(Recipe(), chip=8, batch=1, rare=1.0, steps=200)
    chips = Chips(rare, recipe, 0, 0)
    drawn = [rare.cut(season, row, col, 1)[2].item() for season, row, col in map(chips._pixel, _rngs(200))]
    assert np.mean(drawn) == pytest.approx(0.5, abs=0.12)


def _rngs(count: int) -> list[np.random.Generator]:
    return [np.random.default_rng(seed) for seed in range(count)]


def test_held_out_pixels_come_with_all_their_surroundings(laid: Laid) -> None:
    split = laid.split()
    held = gather(split, Role.VALIDATION, margin=5, stride=4)
    role = split.samples.read("role", split.tiles.grid.whole)[0]
    target = split.samples.read("target", split.tiles.grid.whole)
    assert np.sort(held.reference).tolist() == np.sort(target[role == Role.VALIDATION]).tolist()
    assert held.image.shape[2] % 4 == 0
    parts = split.samples.parts[0]
    assert (parts[held.block[held.at]] == Part.VALIDATION).all()
    # Any pixel may be read at prediction: training blocks are in the windows too.
    assert held.valid.sum() > (split.samples.part(0, split.tiles.grid.whole) == Part.VALIDATION).sum()


def test_held_out_ground_is_pooled_in_the_squares_of_the_map(laid: Laid) -> None:
    # A halo of 5 pixels is widened to 8, so that windows begin at multiples of the stride as a map's do.
    split = laid.split()
    held, whole = gather(split, Role.VALIDATION, 5, 4), split.read(split.tiles.grid.whole)[0]
    for image, at in zip(held.image, held.at, strict=True):
        row, col = np.argwhere(at)[0]
        there = np.argwhere(whole[0] == image[0, row, col])[0]
        assert ((there - (row, col)) % 4).tolist() == [0, 0]


def test_memory_bounds_the_windows_of_scattered_labels(laid: Laid, monkeypatch: pytest.MonkeyPatch) -> None:
    assert len(gather(laid.split(), Role.VALIDATION, 8).labels) > 1
    monkeypatch.setattr(held_module, "BYTES", 1)
    assert len(gather(laid.split(), Role.VALIDATION, 8).labels) == 1


def test_a_few_windows_stand_for_many(laid: Laid) -> None:
    assert len(gather(laid.split(), Role.VALIDATION, 0, limit=1).labels) == 1


def test_a_planted_leak_is_refused(tmp_path: Path) -> None:
    truth = patchwork((64, 64), 2, 8, 0)
    laid = lay(tmp_path, separable(truth, 0), truth)
    whole = laid.split().tiles.grid.whole
    samples = Samples(tmp_path / "samples")
    role = samples.read("role", whole)
    row, col = np.argwhere(role[0] == Role.TEST)[0]
    role[0, row, col] = Role.TRAIN
    Samples.write(tmp_path / "samples", whole, role=role)
    with pytest.raises(LeakError):
        laid.ground()
