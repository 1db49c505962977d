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


def test_channels_of_several_dates_are_step_by_step_and_a_pixel_is_valid_where_any_date_is(tmp_path: Path) -> None:
    grid = Grid("EPSG:32633", 10.0, 0.0, 0.0, 20, 20, 16)
    tiles, cube = filled(tmp_path, grid, ("2020", "2021"))
    assert tiles.channels == ("red@2020", "nir@2020", "red@2021", "nir@2021")
    image, valid = tiles.read_channels(grid.whole)
    assert (image == cube.reshape(4, 20, 20)).all()
    assert (valid == (cube != 0).all(axis=1)).all()
    usable = tiles.read_valid(grid.whole)
    assert (usable == valid.any(axis=0)).all()
    # Four in five dates are valid: some pixels have one of two, some have none.
    assert usable.sum() > valid.all(axis=0).sum()
    assert not usable.all()


def test_seasons_are_read_one_at_a_time_the_last_by_default(tmp_path: Path) -> None:
    grid = Grid("EPSG:32633", 10.0, 0.0, 0.0, 20, 20, 16)
    dates = ("2020-03-01", "2020-09-01", "2021-03-01", "2021-09-01")
    tiles = Tiles.create(tmp_path, grid, ("b",), dates, "scaled", seasons=2, days=(75, 200, 74, 199), step="6 months")
    cube, valid = noise((4, 1, 20, 20)), np.ones((4, 20, 20), bool)
    valid[0, 3, 4] = valid[2:, 5, 6] = False
    tiles.write(grid.whole, cube, valid, filled=np.stack([np.full((20, 20), 50), np.zeros((20, 20))]))
    assert (tiles.seasons, tiles.steps, tiles.season, tiles.step) == (2, 2, 1, "6 months")
    assert (tiles.dates, tiles.days, tiles.span) == (dates[2:], (74, 199), dates[2:])
    first, last = tiles.each_season()
    assert (first.dates, first.days, last.season) == (dates[:2], (75, 200), 1)
    # Channels are named once for all seasons, as the model of one reads the others too.
    assert first.channels == last.channels == ("b@2021-03-01", "b@2021-09-01")
    for season, part in ((first, slice(2)), (last, slice(2, 4))):
        values, there = season.read(grid.whole)
        assert (there == valid[part]).all()
        assert (values == np.where(valid[part][:, None], cube[part], 0)).all()
        assert (season.read_step(grid.whole, 1)[0] == values[1]).all()
    assert first.read_valid(grid.whole).all()
    assert np.argwhere(~last.read_valid(grid.whole)).tolist() == [[5, 6]]
    # Without a count of its own, a pixel was seen as often as it is valid.
    clear, share = first.read_clear(grid.whole)
    assert (clear[3, 4], clear[5, 6], set(share.ravel().tolist())) == (1, 2, {50})
    clear, share = last.read_clear(grid.whole)
    assert (clear[3, 4], clear[5, 6], share.any()) == (2, 0, False)


def test_clear_observations_are_those_that_are_told(tmp_path: Path) -> None:
    grid = Grid("EPSG:32633", 10.0, 0.0, 0.0, 20, 20, 16)
    tiles = Tiles.create(tmp_path, grid, ("b",), ("2020-01-01", "2020-02-01"), "scaled", step="1 month")
    assert tiles.days == (0, 31)
    seen = np.arange(400).reshape(1, 20, 20)
    for _, _, window in grid.tiles():
        part = (..., *window.slices)
        shape = (2, window.height, window.width)
        tiles.write(window, np.ones((2, 1, *shape[1:]), np.float32), np.ones(shape, bool), clear=seen[part])
    window = Window(3, 7, 9, 11)
    assert (tiles.read_clear(window)[0] == seen[0][window.slices]).all()


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
