"""One leak of each kind planted in sound samples: the verifier sees every one."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import geopandas as gpd
import numpy as np
import pytest
import zarr
from scipy.spatial.distance import cdist
from shapely.geometry import box

from stages.errors import LeakError
from stages.formats.samples import STORE, SUMMARY, UNLABELLED, Part, Role, Samples
from stages.formats.tiles import Tiles
from stages.training.splits import check_training_input
from tests.label_worlds import CRS, GRID, LabelWorld, loss_targets, verify


@pytest.fixture(scope="module")
def sound(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A world with three folds, groups (polygons of 4 x 2 pixels) and an independent test set."""
    tmp_path = tmp_path_factory.mktemp("sound")
    world = LabelWorld.build(tmp_path)
    cells = [(row, col) for row in range(0, 40, 2) for col in range(0, 48, 4)]
    shapes = [
        box(GRID.left + 10 * c, GRID.top - 10 * (r + 2), GRID.left + 10 * (c + 4), GRID.top - 10 * r) for r, c in cells
    ]
    path = tmp_path / "labels.gpkg"
    gpd.GeoDataFrame({"class": [1 + r // 2 % 2 for r, _ in cells]}, geometry=shapes, crs=CRS).to_file(path)
    apart = np.zeros(GRID.shape, dtype=np.uint8)
    apart[20:22, 20:26] = 1
    world.label(path, field="class", folds=3, test=world.raster(apart, "apart.tif"))
    return tmp_path


@pytest.fixture
def samples(sound: Path, tmp_path: Path) -> Samples:
    """A copy of the sound samples to plant leaks in."""
    shutil.copytree(sound, tmp_path, dirs_exist_ok=True)
    return Samples(tmp_path / "samples")


def place(samples: Samples, wanted: Callable[[Samples], np.ndarray]) -> tuple[int, int]:
    """The first pixel where a mask is true."""
    row, col = np.argwhere(wanted(samples))[0]
    return int(row), int(col)


def plant(samples: Samples, name: str, at: tuple[int, ...], value: int) -> Samples:
    """Change one stored value and open the samples anew."""
    zarr.open_array(samples.folder / STORE / name, mode="r+")[at] = value
    return Samples(samples.folder)


def test_sound_samples_pass(samples: Samples) -> None:
    verify(samples)


def test_roles_keep_the_buffer_measured_by_brute_force(samples: Samples) -> None:
    for fold in range(3):
        part, role = samples.part(fold, GRID.whole), samples.roles(fold, GRID.whole)
        held = (part == Part.VALIDATION) | (part == Part.TEST) | (samples.read("independent", GRID.whole) != UNLABELLED)
        distance = 10 * cdist(np.argwhere(role == Role.TRAIN), np.argwhere(held)).min(axis=1)
        assert distance.min() >= 15
        dropped = 10 * cdist(np.argwhere(role == Role.BUFFER), np.argwhere(held)).min(axis=1)
        assert dropped.max() < 15


def test_a_training_label_in_a_test_block_is_seen(samples: Samples) -> None:
    at = place(samples, lambda s: s.roles(0, GRID.whole) == Role.TEST)
    with pytest.raises(LeakError, match="1 training labels of fold 0 lie in held-out blocks"):
        verify(plant(samples, "role", (0, 0, *at), Role.TRAIN))


def test_a_training_label_in_a_validation_block_is_seen(samples: Samples) -> None:
    at = place(samples, lambda s: s.roles(2, GRID.whole) == Role.VALIDATION)
    with pytest.raises(LeakError, match="1 training labels of fold 2 lie in held-out blocks"):
        verify(plant(samples, "role", (2, 0, *at), Role.TRAIN))


def test_a_training_label_in_the_independent_set_is_seen_even_in_the_final_model(samples: Samples) -> None:
    with pytest.raises(LeakError, match="1 training labels of the final model lie in held-out"):
        verify(plant(samples, "final", (0, 20, 20), Role.TRAIN))


def test_a_training_label_within_the_buffer_is_seen(samples: Samples) -> None:
    at = place(samples, lambda s: s.roles(1, GRID.whole) == Role.BUFFER)
    with pytest.raises(LeakError, match="1 training labels of fold 1 lie within the buffer"):
        verify(plant(samples, "role", (1, 0, *at), Role.TRAIN))


def test_a_divided_group_is_seen(samples: Samples) -> None:
    # Moved to a block that has the same part in every fold, so that nothing but the group check can see it.
    block = samples.read("block", GRID.whole)
    at = place(samples, lambda s: s.read("group", GRID.whole) >= 0)
    twins = np.flatnonzero((samples.parts == samples.parts[:, [block[at]]]).all(axis=0))
    other = next(int(twin) for twin in twins if twin != block[at])
    with pytest.raises(LeakError, match="1 groups are divided between ground blocks, the first is number 0"):
        verify(plant(samples, "block", (0, *at), other))


def test_a_mask_that_lets_held_out_pixels_through_is_seen(samples: Samples, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Samples, "training_mask", lambda _, __, window: np.ones((window.height, window.width), bool))
    with pytest.raises(LeakError, match="held-out pixels pass the input mask of fold 0"):
        verify(samples)


def test_a_block_that_changes_sides_is_seen(samples: Samples) -> None:
    summary = json.loads((samples.folder / SUMMARY).read_text())
    block = int(samples.read("block", GRID.whole)[place(samples, lambda s: s.roles(0, GRID.whole) == Role.TRAIN)])
    summary["parts"][0][0][block] = int(Part.TEST)
    (samples.folder / SUMMARY).write_text(json.dumps(summary))
    with pytest.raises(LeakError, match="training labels of fold 0 lie in held-out blocks"):
        verify(Samples(samples.folder))


@pytest.mark.parametrize("fold", [0, 1, 2, None])
def test_the_arrays_a_training_is_fed_are_checked(samples: Samples, fold: int | None) -> None:
    window = GRID.whole
    valid = Tiles(samples.folder.parent / "tiles").read_valid(window) & samples.training_mask(fold, window)
    labels = loss_targets(samples, fold, window)
    check_training_input(valid, labels, samples, fold, window)
    held = place(samples, lambda s: ~s.training_mask(fold, window))
    valid[held] = True
    with pytest.raises(LeakError, match="1 pixels of held-out blocks or of the independent test set reach the input"):
        check_training_input(valid, labels, samples, fold, window)
    valid[held] = False
    labels[held] = 0
    with pytest.raises(LeakError, match="1 labels that are not training labels reach the loss"):
        check_training_input(valid, labels, samples, fold, window)


def test_a_buffer_label_in_the_loss_is_seen(samples: Samples) -> None:
    labels = loss_targets(samples, 0, GRID.whole)
    labels[place(samples, lambda s: s.roles(0, GRID.whole) == Role.BUFFER)] = 1
    with pytest.raises(LeakError, match="1 labels that are not training labels"):
        check_training_input(np.zeros(GRID.shape, bool), labels, samples, 0, GRID.whole)
