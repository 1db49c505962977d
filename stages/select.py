"""Choose the bands and dates that the classifiers read."""

from __future__ import annotations

import logging
from pathlib import Path

from pydantic import Field, field_validator

from stages.formats.bands import write_bands
from stages.formats.samples import Samples
from stages.formats.tiles import Tiles
from stages.settings import Settings

_logger = logging.getLogger(__name__)


class Config(Settings):
    """How bands are chosen."""

    method: str = Field("none", description="How to choose; 'none' takes every band of every date")

    @field_validator("method")
    @classmethod
    def _known(cls, method: str) -> str:
        if method != "none":
            raise ValueError(f"method '{method}' is not known; this version offers only 'none', which takes every band")
        return method


def run(tiles: Path, samples: Path, out: Path, config: Config) -> None:
    """Write the names of all channels of the tiles."""
    channels = Tiles(tiles).channels
    write_bands(out, channels)
    _logger.info(
        "all %d channels for %d classes (method %s)", len(channels), len(Samples(samples).classes), config.method
    )
