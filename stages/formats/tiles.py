"""The `tiles` artifact: the area's cube (time, band, y, x) with its validity, one chunk a tile, and its index."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from stages.geo.grid import Grid, Window

STORE = "cube.zarr"
META = "tiles.json"
INDEX = "index.parquet"


class Tiles:
    """A tile store opened for reading or writing; cheap to send to a worker, opened there on first use."""

    def __init__(self, folder: Path) -> None:
        self.folder = Path(folder)
        meta = json.loads((self.folder / META).read_text())
        self.grid = Grid(**meta["grid"])
        self.bands: tuple[str, ...] = tuple(meta["bands"])
        self.dates: tuple[str, ...] = tuple(meta["dates"])
        #: What a value means: "scaled" where a scale or offset was applied, "digital numbers" otherwise.
        self.scaling: str = meta["scaling"]
        self._arrays: Any = None

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_arrays": None}

    @property
    def channels(self) -> tuple[str, ...]:
        """Names of the model's inputs: a band, or band@date where there are several dates."""
        if len(self.dates) == 1:
            return self.bands
        return tuple(f"{band}@{date}" for date in self.dates for band in self.bands)

    @classmethod
    def create(cls, folder: Path, grid: Grid, bands: tuple[str, ...], dates: tuple[str, ...], scaling: str) -> Tiles:
        """Lay out an empty store; every pixel is invalid until its tile is written."""
        import zarr

        meta = {"grid": asdict(grid), "bands": bands, "dates": dates, "scaling": scaling}
        (folder / META).write_text(json.dumps(meta, indent=1))
        group = zarr.open_group(folder / STORE, mode="w")
        side = grid.tile
        group.create_array(
            "cube", shape=(len(dates), len(bands), *grid.shape), chunks=(1, len(bands), side, side),
            dtype="float32", fill_value=0.0, compressors=_compressor(),
        )  # fmt: skip
        group.create_array(
            "valid", shape=(len(dates), *grid.shape), chunks=(1, side, side),
            dtype="bool", fill_value=False, compressors=_compressor(),
        )  # fmt: skip
        return cls(folder)

    def _open(self) -> Any:
        if self._arrays is None:
            import zarr

            group = zarr.open_group(self.folder / STORE, mode="r+")
            self._arrays = group["cube"], group["valid"]
        return self._arrays

    def write(self, window: Window, cube: np.ndarray, valid: np.ndarray) -> None:
        """Write one tile: ``cube`` float32 (time, band, y, x), ``valid`` bool (time, y, x)."""
        store, mask = self._open()
        store[(..., *window.slices)] = np.where(valid[:, None], cube, np.float32(0.0))
        mask[(..., *window.slices)] = valid

    def read(self, window: Window) -> tuple[np.ndarray, np.ndarray]:
        """Read any window: float32 (time, band, y, x), 0 where invalid, and bool (time, y, x)."""
        store, mask = self._open()
        cube: np.ndarray = store[(..., *window.slices)]
        valid: np.ndarray = mask[(..., *window.slices)]
        return cube, valid

    def read_channels(self, window: Window) -> tuple[np.ndarray, np.ndarray]:
        """Read a window as a model takes it: float32 (channel, y, x), 0 where invalid, and bool (y, x).

        A pixel is valid here if every date of it is.
        """
        cube, valid = self.read(window)
        usable: np.ndarray = np.asarray(valid.all(axis=0))
        image = cube.reshape(-1, *cube.shape[2:])
        return np.where(usable, image, np.float32(0.0)), usable

    def write_index(self, rows: list[dict[str, Any]]) -> None:
        """Write the index: one row a tile with row, col, bounds and the valid share of every date."""
        import pandas as pd

        pd.DataFrame(rows).to_parquet(self.folder / INDEX)

    def read_index(self) -> Any:
        """Read the index as a table (pandas ``DataFrame``)."""
        import pandas as pd

        return pd.read_parquet(self.folder / INDEX)


def _compressor() -> Any:
    from zarr.codecs import BloscCodec

    return BloscCodec(cname="lz4", clevel=5, shuffle="shuffle")
