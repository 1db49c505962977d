"""The tile store gives back what was written, by any window, and is the same bytes each time."""

from __future__ import annotations

import hashlib
import pickle
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stages.formats.tiles import Tiles
from stages.geo.grid import Grid, Window
from tests.rasters import noise


def filled(folder: Path, grid: Grid, dates: tuple[str, ...] = ("",), seed: int = 0) -> tuple[Tiles, np.ndarray]:
    folder.mkdir(parents=True, exist_ok=True)
    tiles = Tiles.create(folder, grid, ("red", "nir"), dates, "digital numbers")
    cube = noise((len(dates), 2, *grid.shape), seed)
    valid = np.random.default_rng(seed).random((len(dates), *grid.shape)) < 0.8
    for _, _, window in grid.tiles():
        tiles.write(window, cube[(..., *window.slices)], valid[(..., *window.slices)])
    return tiles, np.where(valid[:, None], cube, 0)


@settings(deadline=None, max_examples=15)
@given(st.integers(1, 70), st.integers(1, 70), st.sampled_from([16, 32]), st.data())
def test_cutting_and_reading_any_window_is_the_identity(
    tmp_path_factory: pytest.TempPathFactory, width: int, height: int, tile: int, data: st.DataObject
) -> None:
    tiles, cube = filled(tmp_path_factory.mktemp("t"), Grid("EPSG:32633", 10.0, 0.0, 0.0, width, height, tile))
    row, col = data.draw(st.integers(0, height - 1)), data.draw(st.integers(0, width - 1))
    window = Window(row, col, data.draw(st.integers(1, height - row)), data.draw(st.integers(1, width - col)))
    values, valid = tiles.read(window)
    assert (values == cube[(..., *window.slices)]).all()
    assert (valid == (values != 0).all(axis=1)).all()


def test_channels_of_several_dates_are_valid_where_every_date_is(tmp_path: Path) -> None:
    grid = Grid("EPSG:32633", 10.0, 0.0, 0.0, 20, 20, 16)
    tiles, cube = filled(tmp_path, grid, ("2020", "2021"))
    assert tiles.channels == ("red@2020", "nir@2020", "red@2021", "nir@2021")
    image, usable = tiles.read_channels(grid.whole)
    assert image.shape == (4, 20, 20)
    assert (usable == (cube != 0).all(axis=(0, 1))).all()
    assert (image == np.where(usable, cube.reshape(4, 20, 20), 0)).all()


def test_a_store_travels_as_its_address(tmp_path: Path) -> None:
    tiles, cube = filled(tmp_path, Grid("EPSG:32633", 10.0, 0.0, 0.0, 20, 20, 16))
    tiles.read(tiles.grid.whole)
    sent = pickle.dumps(tiles)
    assert len(sent) < 2000
    received = pickle.loads(sent)  # noqa: S301  what this test itself has packed
    assert (received.read(tiles.grid.whole)[0] == cube).all()


def test_the_same_tiles_are_the_same_bytes(tmp_path: Path) -> None:
    sums = []
    for name in ("a", "b"):
        filled(tmp_path / name, Grid("EPSG:32633", 10.0, 0.0, 0.0, 40, 20, 16))
        files = sorted(path for path in (tmp_path / name).rglob("*") if path.is_file())
        sums.append([(f.relative_to(tmp_path / name), hashlib.sha256(f.read_bytes()).hexdigest()) for f in files])
    assert sums[0] == sums[1]
