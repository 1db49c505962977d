"""Draw synthetic samples of the rare classes."""

from __future__ import annotations

import logging
from pathlib import Path

from pydantic import Field, field_validator

from stages.formats.bands import read_bands
from stages.formats.samples import Samples
from stages.formats.synthetic import write_synthetic
from stages.formats.tiles import Tiles
from stages.settings import Settings

_logger = logging.getLogger(__name__)


class Config(Settings):
    """How synthetic samples are drawn."""

    method: str = Field("none", description="How to draw; 'none' draws no sample")

    @field_validator("method")
    @classmethod
    def _known(cls, method: str) -> str:
        if method != "none":
            raise ValueError(f"method '{method}' is not known; this version offers only 'none', which draws no sample")
        return method


def run(tiles: Path, samples: Path, bands: Path, out: Path, config: Config) -> None:
    """Write that no sample was drawn for any class."""
    known = Tiles(tiles).channels
    assert set(read_bands(bands)) <= set(known), f"bands chosen that the tiles {known} do not hold"
    write_synthetic(out, dict.fromkeys(Samples(samples).classes, 0))
    _logger.info("no synthetic samples (method %s)", config.method)
