"""Map the whole area with the chosen model, in one streaming pass whose memory does not grow with the area."""

from __future__ import annotations

import logging
import os
import shutil
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Any, Literal

import numpy as np
from pydantic import Field, field_validator

from stages import progress
from stages.errors import SettingError
from stages.formats import maps
from stages.formats.tiles import Tiles
from stages.formats.weights import ModelCard, chosen_folder, read_card
from stages.geo.grid import Grid
from stages.inference.ahead import ahead
from stages.inference.backends import Placing
from stages.inference.blend import Block
from stages.inference.checked import prepare
from stages.inference.fit import check_fit, check_values
from stages.inference.layers import layers_of
from stages.inference.planner import bytes_of, planned
from stages.inference.stream import Stream, Streaming, blocks_of, finished, stream_of

_logger = logging.getLogger(__name__)

#: A block that a killed run has finished is kept.
RESUMES = True
#: Say who computes what, in how much memory, and cannot change a byte of the map.
RUN_SETTINGS = ("rows", "batch", "memory")
#: Where a quantised model waits, while the map is made.
QUANTISED = "int8"
#: Pieces computed ahead of the files they go to.
WRITE_BEHIND = 2
#: Seconds between two looks for a part that is not there yet, and for how long one may stay unseen that is said to be.
LOOK, UNSEEN = 0.05, 60.0


class Config(Streaming, Placing):
    """How the area is cut into windows, what predicts them, and which layers are kept."""

    layers: tuple[Literal["probabilities", "entropy", "margin", "valid"], ...] = Field(
        (), description="Further layers beside class and confidence: probabilities (a band a class), entropy, margin "
        "(lead over the second class) and valid (1 where classified)"
    )  # fmt: skip
    memory: str = Field(
        "2 GB",
        description="What a process may take: calls at once, and in the end the size of a call, are fitted to it",
    )
    bits: Literal[8, 16] = Field(8, description="Bits of a probability: 8 (steps of 0.004) or 16 (steps of 0.000015)")

    @field_validator("memory")
    @classmethod
    def _amount(cls, text: str) -> str:
        bytes_of(text)
        return text


def run(tiles: Path, model: Path, out: Path, config: Config) -> None:
    """Write the class and the confidence of every valid pixel, the layers asked for, and what made them.

    Raises:
        ModelError: the model folder is incomplete, does not fit the tiles, or is computed wrongly on this machine.
        SettingError: this machine or the model cannot do what is asked for.
    """
    import dask

    store, folder = Tiles(tiles), chosen_folder(model)
    card = read_card(folder)
    check_fit(card, store)
    check_values(card, store)
    bands = bands_of(config, card)
    # Tried out by whoever will compute the map: a cluster's workers may have devices that this machine has not.
    ((stream, computed),) = dask.compute(dask.delayed(made_ready)(store, folder, config, out / QUANTISED))
    blocks = blocks_of(stream.layout, config, dask.config.get("terrastage.workers", None))
    counted = _Counts(store.grid, len(card.classes))
    (out / maps.PARTS).mkdir(exist_ok=True)
    compute(stream, blocks, out, bands, counted.add)
    classes = {
        name: {"pixels": int(pixels), "hectares": round(float(hectares), 4)}
        for name, pixels, hectares in zip(card.class_names, counted.pixels, counted.hectares, strict=True)
    }
    maps.write_meta(out, {
        "model": card.name, "fingerprint": card.fingerprint, **computed, "layers": list(bands),
        "windows": len(stream.layout.rows) * len(stream.layout.cols), "valid_pixels": int(counted.pixels.sum()),
        "classes": classes,
    })  # fmt: skip
    for finished_with in (out / maps.PARTS, out / QUANTISED):
        shutil.rmtree(finished_with, ignore_errors=True)
    _logger.info("classify: %s mapped %s pixels", card.name, f"{int(counted.pixels.sum()):,}")


def made_ready(store: Tiles, folder: Path, config: Config, scratch: Path) -> tuple[Stream, dict[str, Any]]:
    """Lay out the map, check what computes it, and fit it into the memory of a process."""
    stream, computed = prepare(stream_of(store, folder, config, placing=config), scratch)
    batch = None if config.batch == "auto" else config.batch
    return planned(stream, bytes_of(config.memory), threads(), batch), computed


def threads() -> int:
    """Count the threads of this process that work on blocks."""
    import dask

    if "distributed" in sys.modules:
        from distributed import get_worker

        with suppress(ValueError):  # this process is no worker
            return int(get_worker().state.nthreads)
    return int(dask.config.get("num_workers", None) or os.cpu_count() or 1)


def bands_of(config: Config, card: ModelCard) -> dict[str, int]:
    """Name the layers of the map, with their numbers of bands.

    Raises:
        SettingError: a layer is asked for twice.
    """
    if len(set(config.layers)) < len(config.layers):
        raise SettingError(f"classify.layers names a layer twice: {', '.join(config.layers)}; name each once.")
    wide = {"probabilities": "probabilities16"} if config.bits == 16 else {}
    names = [*maps.ALWAYS, *(wide.get(name, name) for name in config.layers)]
    return {name: len(card.classes) if maps.LAYERS[name].by_class else 1 for name in names}


def compute(stream: Stream, blocks: list[Block], out: Path, bands: dict[str, int], seen: maps.Seen) -> None:
    """Let Dask compute the parts that are missing, while a thread of this process joins those that are there."""
    import dask

    parts = [(block, maps.part_path(out, block.window)) for block in blocks]
    missing = [(block, path) for block, path in parts if not path.exists()]
    progress.report("classify", len(parts) - len(missing), len(parts))
    tasks = [dask.delayed(map_block)(stream, block, path, bands, len(parts)) for block, path in missing]
    arrivals = _Arrivals()
    with ThreadPoolExecutor(1) as joiner:
        windows = [block.window for block in blocks]
        joined = joiner.submit(maps.assemble, out, stream.tiles.grid, bands, windows, seen=seen, wait=arrivals.wait)
        try:
            dask.compute(*tasks)
        except BaseException:
            arrivals.failed.set()
            raise
        arrivals.complete.set()
        joined.result()


class _Arrivals:
    """Tells whoever joins parts when one is there, or that none will come any more."""

    def __init__(self) -> None:
        self.complete, self.failed = threading.Event(), threading.Event()

    def wait(self, path: Path) -> None:
        """Return once a part is there.

        Raises:
            OSError: it was computed, but cannot be seen; or the computation failed, which is told by it itself.
        """
        unseen = 0.0
        while not path.exists():
            if self.failed.wait(LOOK) or unseen > UNSEEN:
                raise OSError(f"{path} is not to be seen from here; all workers must share the folder of the area.")
            # A file that another machine wrote may take a while to be seen on a shared disk.
            unseen += LOOK * self.complete.is_set()


def map_block(stream: Stream, block: Block, path: Path, bands: dict[str, int], total: int) -> None:
    """Map one block into a part, unless it is there: a task may be run anew after its worker was lost."""
    if not path.exists():
        pieces = ((where, layers_of(likely, tuple(bands))) for where, likely in finished(stream, block))
        with ahead(pieces, WRITE_BEHIND) as computed:
            maps.write_part(path, block.window, bands, computed)
    progress.report("classify", len([part for part in path.parent.iterdir() if part.suffix == ""]), total)


class _Counts:
    """Pixels and hectares of every class, counted while the layers are written."""

    def __init__(self, grid: Grid, classes: int) -> None:
        self.grid = grid
        self.pixels = np.zeros(classes, np.int64)
        self.hectares = np.zeros(classes)

    def add(self, top: int, rows: np.ndarray) -> None:
        """Count rows of class indices that begin at row ``top`` of the grid."""
        by_row = np.stack([np.bincount(row, minlength=256)[: len(self.pixels)] for row in rows])
        self.pixels += by_row.sum(axis=0)
        self.hectares += self.grid.pixel_hectares(top, top + len(rows)) @ by_row
