"""Write a GeoPackage layer with described fields and its QGIS style inside, equal bytes for equal content."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

#: Stands in every date field the format demands, so that equal maps are equal files.
NO_TIME = "1970-01-01T00:00:00.000Z"
_EXTENSION = ("gpkg_data_columns", "gpkg_schema", "http://www.geopackage.org/spec/#extension_schema", "read-write")
_DATA_COLUMNS = """CREATE TABLE gpkg_data_columns (
  table_name TEXT NOT NULL, column_name TEXT NOT NULL, name TEXT, title TEXT, description TEXT, mime_type TEXT,
  constraint_name TEXT, CONSTRAINT pk_gdc PRIMARY KEY (table_name, column_name),
  CONSTRAINT gdc_tn UNIQUE (table_name, name))"""
_STYLES = """CREATE TABLE layer_styles (
  id INTEGER PRIMARY KEY AUTOINCREMENT NOT NULL, f_table_catalog TEXT(256), f_table_schema TEXT(256),
  f_table_name TEXT(256), f_geometry_column TEXT(256), styleName TEXT(30), styleQML TEXT, styleSLD TEXT,
  useAsDefault BOOLEAN, description TEXT, owner TEXT(30), ui TEXT(30), update_time DATETIME)"""


@dataclass(frozen=True)
class LayerNotes:
    """Name and description of a layer, a description of every field, and its QGIS style (QML)."""

    name: str
    description: str
    fields: dict[str, str]
    style: str


def write_geopackage(table: Any, path: Path, notes: LayerNotes) -> None:
    """Write a ``GeoDataFrame`` of polygons as the one layer of a new GeoPackage."""
    with _without_time():
        table.to_file(path, layer=notes.name, driver="GPKG", engine="pyogrio", geometry_type="Polygon")
    with closing(sqlite3.connect(path)) as database, database:
        _describe(database, notes)
        _add_style(database, notes)


@contextmanager
def _without_time() -> Iterator[None]:
    """Let GDAL write `NO_TIME` where it would write the time of the run."""
    import pyogrio

    pyogrio.set_gdal_config_options({"OGR_CURRENT_DATE": NO_TIME})
    try:
        yield
    finally:
        pyogrio.set_gdal_config_options({"OGR_CURRENT_DATE": None})


def _describe(database: sqlite3.Connection, notes: LayerNotes) -> None:
    """Say what the layer and each of its fields hold (GeoPackage schema extension)."""
    database.execute(
        "UPDATE gpkg_contents SET identifier = ?, description = ? WHERE table_name = ?",
        (notes.name, notes.description, notes.name),
    )
    database.execute(_DATA_COLUMNS)
    database.executemany(
        "INSERT INTO gpkg_data_columns (table_name, column_name, name, description) VALUES (?, ?, ?, ?)",
        [(notes.name, column, column, text) for column, text in notes.fields.items()],
    )
    database.execute(
        "INSERT INTO gpkg_extensions (table_name, extension_name, definition, scope) VALUES (?, ?, ?, ?)", _EXTENSION
    )


def _add_style(database: sqlite3.Connection, notes: LayerNotes) -> None:
    """Put the style where QGIS looks for a layer's default style."""
    database.execute(_STYLES)
    database.execute(
        "INSERT INTO layer_styles VALUES (1, '', '', ?, 'geom', ?, ?, '', 1, ?, '', '', ?)",
        (notes.name, notes.name, notes.style, notes.description, NO_TIME),
    )
    database.execute(
        "INSERT INTO gpkg_contents (table_name, data_type, identifier, description, last_change) "
        "VALUES ('layer_styles', 'attributes', 'layer_styles', '', ?)",
        (NO_TIME,),
    )
