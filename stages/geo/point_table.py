"""Read points from a CSV table with a column of longitudes and one of latitudes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from stages.errors import LabelError

#: Names by which the columns are found, in this order, whatever their case.
LONGITUDES, LATITUDES = ("lon", "longitude", "long", "lng", "x"), ("lat", "latitude", "y")
SEPARATORS = (",", ";", "\t")


def read_points(path: str, coordinates: tuple[str, str] | None = None) -> Any:
    """Read a CSV table as points in degrees (geopandas, EPSG:4326), all columns as text.

    ``coordinates`` name the columns of longitude and latitude where they have other names than usual.

    Raises:
        LabelError: there are no such columns, or they hold something else than degrees.
        ValueError: the file is no table.
    """
    import geopandas as gpd
    import pandas as pd

    with Path(path).open(encoding="utf-8-sig") as file:
        header = file.readline()
    separator = max(SEPARATORS, key=header.count)
    table = pd.read_csv(path, sep=separator, dtype=str, keep_default_na=False, encoding="utf-8-sig")
    lon, lat = coordinates or _detected(list(table.columns), path)
    for name in (lon, lat):
        if name not in table.columns:
            raise LabelError(
                f"The labels {path} have no column '{name}' (label.coordinates); the file has "
                f"{', '.join(map(str, table.columns))}."
            )
    x, y = _degrees(table[lon], lon, path, 360), _degrees(table[lat], lat, path, 90)
    return gpd.GeoDataFrame(table, geometry=gpd.points_from_xy(x, y), crs="EPSG:4326")


def _detected(columns: list[str], path: str) -> tuple[str, str]:
    by_name = {str(name).strip().lower(): name for name in reversed(columns)}
    found = [next((by_name[name] for name in names if name in by_name), None) for names in (LONGITUDES, LATITUDES)]
    if found[0] is None or found[1] is None:
        raise LabelError(
            f"The labels {path} have no columns of longitude and latitude by their usual names; the file has "
            f"{', '.join(map(str, columns))}: name the two in label.coordinates."
        )
    return found[0], found[1]


def _degrees(column: Any, name: str, path: str, most: float) -> np.ndarray:
    """Read a column of degrees, at most ``most`` to either side: float64 (row,)."""
    import pandas as pd

    values: np.ndarray = pd.to_numeric(column, errors="coerce").to_numpy(np.float64)
    for row in np.flatnonzero(~np.isfinite(values))[:1]:
        raise LabelError(
            f"The labels {path} have '{column.iloc[row]}' in column '{name}' of row {row + 1}, where a number of "
            "degrees belongs; correct or remove the row."
        )
    for row in np.flatnonzero(np.abs(values) > most)[:1]:
        raise LabelError(
            f"The labels {path} have {column.iloc[row]} in column '{name}' of row {row + 1}, which is no number of "
            f"degrees up to {most:g}; a CSV table holds longitudes and latitudes (EPSG:4326), give other coordinates "
            "as a GeoPackage."
        )
    return values
