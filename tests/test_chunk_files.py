"""Chunk files written without Zarr are the files that Zarr writes."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from stages.formats.chunks import Chunks
from stages.formats.tiles import STORE, Tiles
from stages.geo.grid import Grid, Window

GRID = Grid("EPSG:32633", 10.0, 0.0, 0.0, 70, 50, 32)


def _files(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.mark.parametrize("window", [Window(0, 0, 32, 32), Window(0, 32, 50, 38), Window(32, 64, 18, 6), GRID.whole,
                                    Window(3, 5, 20, 40), Window(0, 0, 32, 40)])  # fmt: skip
@pytest.mark.parametrize("filled", [False, True])
def test_files_are_the_same_as_with_zarr(window: Window, filled: bool, tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    cube = rng.integers(0, 999, (2, 3, window.height, window.width)).astype(np.float32)
    valid = rng.random((2, window.height, window.width)) < 0.5
    valid[0, :, :6] = False
    share = np.full((1, window.height, window.width), 7, np.uint8) if filled else None
    folders = tmp_path / "ours", tmp_path / "zarr"
    for folder in folders:
        folder.mkdir()
        tiles = Tiles.create(folder, GRID, ("a", "b", "c"), ("2020", "2021"), "digital numbers")
        if folder.name == "ours":
            tiles.write(window, cube, valid, filled=share)
            continue
        arrays, place = tiles._open(), (..., *window.slices)
        arrays["cube"][place] = np.where(valid[:, None], cube, np.float32(0))
        arrays["valid"][place] = valid
        arrays["clear"][place] = valid.sum(axis=0, keepdims=True).astype(np.uint16)
        if filled:
            arrays["filled"][place] = share
    ours, zarrs = map(_files, folders)
    assert ours == zarrs
    found, seen = Tiles(folders[0]).read(window)
    np.testing.assert_array_equal(seen, valid)
    np.testing.assert_array_equal(found, np.where(valid[:, None], cube, 0))


def test_a_chunk_that_becomes_empty_loses_its_file(tmp_path: Path) -> None:
    tiles = Tiles.create(tmp_path, GRID, ("a",), ("2020",), "digital numbers")
    window, full = Window(0, 0, 32, 32), np.ones((1, 1, 32, 32), np.float32)
    chunks, chunk = Chunks(tiles._open()["cube"]), tmp_path / STORE / "cube" / "c" / "0" / "0" / "0" / "0"
    chunks.write(window, full)
    assert chunk.is_file()
    chunks.write(window, 0 * full)
    assert not chunk.exists()
