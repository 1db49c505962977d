"""The `tiles` artifact: the area's cube (time, band, y, x) with its validity, one chunk a tile, and its index."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from stages.formats.calendar import day_of
from stages.formats.chunks import Chunks
from stages.geo.chip_cells import Cells
from stages.geo.grid import Grid, Window

STORE = "cube.zarr"
META = "tiles.json"
INDEX = "index.parquet"
#: Bands of a date that lie in one chunk at most, and of how many a chunk is made where there are more, so that a few
#: of hundreds can be read alone.
MOST_BANDS, BANDS = 16, 8
#: Samples of an area that is a table of series: a row a pixel of the made-up grid.
TABLE = "table.parquet"


class Tiles:
    """A tile store opened for reading or writing; cheap to send to a worker, opened there on first use.

    Time is cut into seasons of equally many steps; without seasons the whole series is one. Everything that is read
    is of one season, by default the last, which is the one that is mapped; `of` opens another.
    """

    def __init__(self, folder: Path, season: int = -1) -> None:
        self.folder = Path(folder)
        meta = json.loads((self.folder / META).read_text())
        self.grid = Grid(**meta["grid"])
        self.bands: tuple[str, ...] = tuple(meta["bands"])
        self.seasons: int = meta["seasons"]
        self.season: int = season % self.seasons
        self._dates: tuple[str, ...] = tuple(meta["dates"])
        self._days: tuple[float, ...] = tuple(meta["days"])
        #: What a value means: "scaled" where a scale or offset was applied, "digital numbers" otherwise.
        self.scaling: str = meta["scaling"]
        #: Acquisitions and regularised steps; "" where the dates are those of the acquisitions.
        self.step: str = meta["step"]
        #: How chips are laid out where the area is a collection of chips, None otherwise.
        self.cells: Cells | None = Cells(**meta["cells"]) if "cells" in meta else None
        self._arrays: Any = None
        self._chunks: dict[str, Chunks] = {}

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_arrays": None, "_chunks": {}}

    def of(self, season: int) -> Tiles:
        """Open the same store at another season, counted from the earliest."""
        return Tiles(self.folder, season)

    def each_season(self) -> list[Tiles]:
        """Open the store once a season, the earliest first."""
        return [self.of(season) for season in range(self.seasons)]

    @property
    def steps(self) -> int:
        """Number of dates of a season."""
        return len(self._dates) // self.seasons

    @property
    def dates(self) -> tuple[str, ...]:
        """Dates of the season, in order: of an acquisition, or the first day of a step."""
        return self._dates[self._time.start : self._time.stop]

    @property
    def days(self) -> tuple[float, ...]:
        """Days of the season's steps since 1 January of the year of its first: of acquisitions, or mid-step."""
        return self._days[self._time.start : self._time.stop]

    @property
    def span(self) -> tuple[str, str]:
        """First and last date of the season."""
        return self.dates[0], self.dates[-1]

    @property
    def is_table(self) -> bool:
        """Whether the area is a table of series or chips: samples are listed there, and neighbours mean nothing."""
        return (self.folder / TABLE).is_file()

    @property
    def _time(self) -> range:
        return range(self.season * self.steps, (self.season + 1) * self.steps)

    @property
    def channels(self) -> tuple[str, ...]:
        """Names of the model's inputs, the same in every season: a band, or band@date of the last season."""
        if self.steps == 1:
            return self.bands
        return tuple(f"{band}@{date}" for date in self._dates[-self.steps :] for band in self.bands)

    @classmethod
    def create(
        cls, folder: Path, grid: Grid, bands: tuple[str, ...], dates: tuple[str, ...], scaling: str,
        *, seasons: int = 1, days: Sequence[float] | None = None, step: str = "", cells: dict[str, int] | None = None,
    ) -> Tiles:  # fmt: skip
        """Lay out an empty store; every pixel is invalid until its tile is written.

        Args:
            folder: where the store goes.
            grid: its pixels.
            bands: names of the bands of every date.
            dates: all dates of all seasons in order.
            scaling: "scaled" or "digital numbers".
            seasons: parts of equal length that the dates are cut into.
            days: of every date, as `Tiles.days`; worked out from the dates by default.
            step: the length of a step, such as "1 month", where dates are regularised.
            cells: of `Cells`, where the area is a collection of chips.
        """
        import zarr

        assert len(dates) % seasons == 0, f"{len(dates)} dates cannot be {seasons} seasons of equal length"
        length = len(dates) // seasons
        if days is None:
            days = [day_of(date, since=dates[i // length * length]) for i, date in enumerate(dates)]
        meta = {"grid": asdict(grid), "bands": bands, "dates": dates, "scaling": scaling, "seasons": seasons,
                "days": list(days), "step": step, **({"cells": cells} if cells else {})}  # fmt: skip
        (folder / META).write_text(json.dumps(meta, indent=1))
        group = zarr.open_group(folder / STORE, mode="w")
        side, together = grid.tile, len(bands) if len(bands) <= MOST_BANDS else BANDS
        for name, shape, chunks, kind in (
            ("cube", (len(dates), len(bands), *grid.shape), (1, together, side, side), "float32"),
            ("valid", (len(dates), *grid.shape), (1, side, side), "bool"),
            ("clear", (seasons, *grid.shape), (1, side, side), "uint16"),
            ("filled", (seasons, *grid.shape), (1, side, side), "uint8"),
        ):
            group.create_array(
                name, shape=shape, chunks=chunks, dtype=kind, fill_value=np.zeros((), kind).item(),
                compressors=_compressor(),
            )  # fmt: skip
        return cls(folder)

    def _open(self) -> Any:
        if self._arrays is None:
            import zarr

            self._arrays = zarr.open_group(self.folder / STORE, mode="r+")
        return self._arrays

    def _read(self, name: str, dates: range, window: Window, bands: Sequence[int] | None = None) -> np.ndarray:
        """Read some dates, or seasons, of one of the store's arrays, of all bands or of some."""
        return self._chunks_of(name).read(dates, window, bands)

    def _chunks_of(self, name: str) -> Chunks:
        if name not in self._chunks:
            self._chunks[name] = Chunks(self._open()[name])
        return self._chunks[name]

    def write(
        self, window: Window, cube: np.ndarray, valid: np.ndarray, clear: np.ndarray | None = None,
        filled: np.ndarray | None = None,
    ) -> None:  # fmt: skip
        """Write all dates of all seasons on one tile or a part of it.

        Args:
            window: the pixels.
            cube: float32 (time, band, y, x).
            valid: bool (time, y, x).
            clear: clear observations a pixel had, (season, y, x); by default the number of its valid dates.
            filled: steps that were filled, in per cent, (season, y, x); none by default.
        """
        shown = cube if valid.all() else np.where(valid[:, None], cube, np.float32(0.0))
        self._chunks_of("cube").write(window, shown)
        self._chunks_of("valid").write(window, valid)
        if clear is None:
            clear = valid.reshape(self.seasons, self.steps, *valid.shape[1:]).sum(axis=1)
        self._chunks_of("clear").write(window, clear.astype(np.uint16))
        if filled is not None:
            self._chunks_of("filled").write(window, filled.astype(np.uint8))

    def read(self, window: Window) -> tuple[np.ndarray, np.ndarray]:
        """Read any window: float32 (time, band, y, x), 0 where invalid, and bool (time, y, x)."""
        return self._read("cube", self._time, window), self._read("valid", self._time, window)

    def read_step(self, window: Window, step: int) -> tuple[np.ndarray, np.ndarray]:
        """Read one step of the season: float32 (band, y, x), 0 where invalid, and bool (y, x)."""
        date = self._time[step : step + 1]
        return self._read("cube", date, window)[0], self._read("valid", date, window)[0]

    def read_channels(self, window: Window) -> tuple[np.ndarray, np.ndarray]:
        """Read a window as a model takes it: float32 (channel, y, x), 0 where invalid, and bool (time, y, x)."""
        cube, valid = self.read(window)
        return cube.reshape(-1, *cube.shape[2:]), valid

    def read_picked(self, window: Window, places: Sequence[int]) -> tuple[np.ndarray, np.ndarray]:
        """Read some channels, by their places in `channels`: float32 (channel, y, x) and bool (time, y, x).

        Only the steps that they are of are read, and where there are many bands only the chunks that hold theirs. The
        other steps are said to be valid where any of these is: they decide
        nothing, neither which pixels can be mapped nor whether a window is valid all over.
        """
        if list(places) == list(range(self.steps * len(self.bands))):
            return self.read_channels(window)
        steps, bands = np.divmod(np.asarray(places, np.int64), len(self.bands))
        image = np.empty((len(steps), window.height, window.width), np.float32)
        valid = np.zeros((self.steps, window.height, window.width), bool)
        read = np.unique(steps)
        for step in read.tolist():
            date, own = self._time[step : step + 1], steps == step
            image[own] = self._read("cube", date, window, bands[own].tolist())[0]
            valid[step] = self._read("valid", date, window)[0]
        valid[np.setdiff1d(np.arange(self.steps), read)] = valid[read].any(axis=0)
        return image, valid

    def read_valid(self, window: Window) -> np.ndarray:
        """Read where a pixel can be mapped, which it can if any date of it is valid: bool (y, x)."""
        return np.asarray(self._read("valid", self._time, window).any(axis=0))

    def read_clear(self, window: Window) -> tuple[np.ndarray, np.ndarray]:
        """Read how many clear observations a pixel had, and the share of its steps that was filled, in per cent."""
        season = range(self.season, self.season + 1)
        return self._read("clear", season, window)[0], self._read("filled", season, window)[0]

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
