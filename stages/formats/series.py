"""The `scenes` artifact of an area that is a table of series, and its layout as tiles: a sample a pixel."""

from __future__ import annotations

import json
import logging
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from stages.formats.tiles import TABLE, Tiles
from stages.geo.grid import Grid, Window

log = logging.getLogger(__name__)

FILE = "series.parquet"
META = "series.json"
#: The made-up grid: equal-area, from the origin, so wide and tiled so.
CRS, WIDTH = "EPSG:6933", 256
#: What is known of a sample beside its values; `file` is the table it was read from.
ABOUT = ("sample", "label", "longitude", "latitude", "group", "part", "file")
#: Part of an independent test sample; every other one has part "".
TEST = "test"


@dataclass(frozen=True)
class Series:
    """Labelled series of equally many steps, checked.

    ``values`` is float32 (sample, step, band), NaN where missing. ``samples`` (pandas) has a row a sample and the
    columns of `ABOUT`: longitude and latitude in degrees, NaN where unknown; texts elsewhere, "" where there is none.
    ``days`` are counted as `Tiles.days`; ``dates`` are those of the first sample where samples differ.
    ``pixel`` is the side in metres of the ground that a series stands for.
    """

    bands: tuple[str, ...]
    dates: tuple[str, ...]
    days: tuple[float, ...]
    scaling: str
    pixel: float
    values: np.ndarray
    samples: Any


def write_series(folder: Path, series: Series) -> None:
    """Write the samples and their values, a column ``band@date`` for every band and step, and what the steps are."""
    import pandas as pd

    steps, bands = series.values.shape[1:]
    names = [f"{band}@{date}" for date in series.dates for band in series.bands]
    values = pd.DataFrame(series.values.reshape(-1, steps * bands), columns=names)
    pd.concat([series.samples.reset_index(drop=True), values], axis=1).to_parquet(folder / FILE)
    meta = {"bands": series.bands, "dates": series.dates, "days": series.days, "scaling": series.scaling,
            "pixel": series.pixel}  # fmt: skip
    (folder / META).write_text(json.dumps(meta, indent=1))


def is_series(folder: Path) -> bool:
    """Tell whether a `scenes` artifact is a table of series."""
    return (folder / META).is_file()


def read_series(folder: Path) -> Series:
    """Read the series back, equal to what was written."""
    import pandas as pd

    meta = json.loads((folder / META).read_text())
    table = pd.read_parquet(folder / FILE)
    bands, dates = tuple(meta["bands"]), tuple(meta["dates"])
    values = table.iloc[:, len(ABOUT) :].to_numpy(np.float32).reshape(len(table), len(dates), len(bands))
    return Series(
        bands, dates, tuple(meta["days"]), meta["scaling"], meta["pixel"], values, table.iloc[:, : len(ABOUT)]
    )


def lay_out(folder: Path, series: Series) -> Tiles:
    """Lay the series out as tiles, a sample a pixel, row by row on a made-up grid, with their table and index.

    The step of a sample is valid where all its bands are known. Pixels beyond the last sample are never valid.
    """
    count = len(series.samples)
    grid = Grid(CRS, series.pixel, 0.0, 0.0, WIDTH, -(-count // WIDTH), WIDTH)
    tiles = Tiles.create(folder, grid, series.bands, series.dates, series.scaling, days=series.days)
    rows = []
    for row, col, window in grid.tiles():
        cube, valid = _pixels(series, window)
        tiles.write(window, cube, valid)
        rows.append(_index(grid, (row, col, window), series.dates, valid))
    tiles.write_index(rows)
    table = _placed(series)
    table.to_parquet(folder / TABLE)
    log.info(
        "%d series of %d steps and %d bands laid out as %d x %d pixels, %.1f %% of the steps observed",
        count, len(series.dates), len(series.bands), grid.height, grid.width,
        100 * float(observed(series.values).mean()),
    )  # fmt: skip
    if copies := int(table["copy"].sum()):
        log.warning("%d of the %d test series are copies of a training series", copies, (table["part"] == TEST).sum())
    return tiles


def observed(values: np.ndarray) -> np.ndarray:
    """Find the steps at which all bands are known: bool (sample, step) of float (sample, step, band)."""
    found: np.ndarray = np.isfinite(values).all(axis=2)
    return found


def _pixels(series: Series, window: Window) -> tuple[np.ndarray, np.ndarray]:
    """Fill a window of whole rows with samples: cube (time, band, y, x) and valid (time, y, x)."""
    first, size = window.row * WIDTH, window.height * WIDTH
    some = series.values[first : first + size]
    cube = np.zeros((size, *some.shape[1:]), np.float32)
    valid = np.zeros(cube.shape[:2], bool)
    valid[: len(some)] = observed(some)
    cube[: len(some)] = np.where(valid[: len(some), :, None], some, np.float32(0.0))
    shape = (window.height, window.width)
    return (
        np.moveaxis(cube.reshape(*shape, *cube.shape[1:]), (0, 1), (2, 3)),
        np.moveaxis(valid.reshape(*shape, -1), 2, 0),
    )


def _index(grid: Grid, place: tuple[int, int, Window], dates: tuple[str, ...], valid: np.ndarray) -> dict[str, Any]:
    row, col, window = place
    left, bottom, right, top = grid.bounds_of(window)
    return {
        "row": row, "col": col, "top_row": window.row, "left_col": window.col, "height": window.height,
        "width": window.width, "left": left, "bottom": bottom, "right": right, "top": top,
        "valid": float(valid.mean()), **{f"valid_{date}": float(valid[i].mean()) for i, date in enumerate(dates)},
    }  # fmt: skip


def _placed(series: Series) -> Any:
    """Add to every sample its row and col, the number of its series (the same for copies) and whether it is a copy."""
    table = series.samples.reset_index(drop=True)
    table["row"], table["col"] = np.divmod(np.arange(len(table)), WIDTH)
    table["series"] = _numbered(series.values)
    test = (table["part"] == TEST).to_numpy()
    table["copy"] = test & table["series"].isin(table["series"][~test]).to_numpy()
    return table


def _numbered(values: np.ndarray) -> np.ndarray:
    """Give every distinct series a number: int64 (sample,), equal where values are and the same are missing."""
    import pandas as pd

    # One kind of nothing and one kind of zero, so that equal values are equal bytes.
    plain = np.where(np.isfinite(values), values, np.float32(np.nan)) + np.float32(0.0)
    rows = [row.tobytes() for row in np.ascontiguousarray(plain)]
    return np.asarray(pd.factorize(np.array(rows, dtype=object))[0], dtype=np.int64)


def read_table(tiles: Tiles) -> Any:
    """Read the samples of tiles that are a table of series (pandas).

    Columns: those of `ABOUT`, row and col (the sample's pixel), series (int, the same for copies) and copy (True for a
    test series that is an exact copy of a training series).
    """
    import pandas as pd

    return pd.read_parquet(tiles.folder / TABLE)


def copied(tiles: Tiles, window: Window) -> np.ndarray:
    """Find the pixels of a window whose series are a copy of a training series: bool (y, x); none of scenes."""
    found = np.zeros((window.height, window.width), dtype=bool)
    if tiles.is_table:
        table = read_table(tiles)
        row, col = (table.loc[table["copy"], axis].to_numpy() for axis in ("row", "col"))
        whole = np.zeros(tiles.grid.shape, dtype=bool)
        whole[row, col] = True
        found = whole[window.slices]
    return found
