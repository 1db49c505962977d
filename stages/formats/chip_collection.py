"""The `scenes` artifact of an area that is a collection of chips, and the table of chips as they lie in the tiles."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from stages.formats.tiles import TABLE, Tiles
from stages.geo.chip_cells import Cells

FILE, META = "chips.parquet", "chips.json"
#: What is known of a chip, as of a sample of a table of series; `sample` is the path, `file` what named it.
ABOUT = ("sample", "label", "longitude", "latitude", "group", "part", "file")


@dataclass(frozen=True)
class Collection:
    """Labelled chips of one kind, checked by their headers.

    ``chips`` (pandas) has a row a chip and the columns of `ABOUT`: the path as text, the label, longitude and latitude
    of the middle in degrees (NaN where unknown), no group and no part, and the table or folder that named the chip.
    ``indexes`` are the bands' numbers in a file (from 1), ``side`` is that of a chip in pixels, ``pixel`` that of a
    pixel in metres. Values are multiplied by ``scale`` and moved by ``offset``; ``nodata`` None is as the files say.
    """

    bands: tuple[str, ...]
    indexes: tuple[int, ...]
    side: int
    pixel: float
    scaling: str
    scale: float
    offset: float
    nodata: float | None
    chips: Any

    @property
    def cells(self) -> Cells:
        """How the chips are laid out."""
        return Cells(self.side, len(self.chips))


def write_collection(folder: Path, collection: Collection) -> None:
    """Write the table of chips, and what is the same for all."""
    collection.chips.to_parquet(folder / FILE)
    meta = {name: value for name, value in vars(collection).items() if name != "chips"}
    (folder / META).write_text(json.dumps(meta, indent=1))


def is_collection(folder: Path) -> bool:
    """Tell whether a `scenes` artifact is a collection of chips."""
    return (folder / META).is_file()


def read_collection(folder: Path) -> Collection:
    """Read the collection back, equal to what was written."""
    import pandas as pd

    meta = json.loads((folder / META).read_text())
    meta |= {name: tuple(meta[name]) for name in ("bands", "indexes")}
    return Collection(**meta, chips=pd.read_parquet(folder / FILE))


def write_chip_table(tiles: Tiles, collection: Collection, contents: list[str]) -> None:
    """Write the table of chips into finished tiles, as `read_table` gives it.

    Columns: those of `ABOUT`; row and col of the pixel that stands for the chip; series (int), the same for chips of
    the same content (``contents`` are their hashes); copy, False, as no chip belongs to an official test set.
    """
    import pandas as pd

    table = collection.chips.reset_index(drop=True)
    table["row"], table["col"] = collection.cells.middles()
    table["series"] = np.asarray(pd.factorize(np.array(contents, dtype=object))[0], dtype=np.int64)
    table["copy"] = False
    table.to_parquet(tiles.folder / TABLE)


def create_tiles(folder: Path, collection: Collection, indices: tuple[str, ...] = ()) -> Tiles:
    """Lay out an empty store with a cell a chip; ``indices`` are the names of further bands."""
    cells = collection.cells
    return Tiles.create(
        folder, cells.grid(collection.pixel), (*collection.bands, *indices), ("",), collection.scaling,
        cells=asdict(cells),
    )  # fmt: skip
