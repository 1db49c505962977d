"""Say which pixels a quality band calls clear, and keep a distance from its clouds."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
from pydantic import Field, model_validator

from stages.errors import SettingError
from stages.geo.blocks import pixel_sides
from stages.geo.grid import Grid
from stages.settings import Settings

#: Share of a pixel that a distance may be short of: a map's scale must not take the last whole pixel off a disc.
SLACK = 0.05


@dataclass(frozen=True)
class Rule:
    """What the values of a quality band mean.

    Lists of classes: ``clear`` values, and ``cloud`` values that distance is kept from (None: all that are not
    clear). Bit fields: a pixel is clear if none of the bits ``dirty`` is set, and a cloud if one of ``cloudy`` is.
    """

    clear: tuple[int, ...] = ()
    cloud: tuple[int, ...] | None = None
    dirty: int = 0
    cloudy: int = 0

    def is_clear(self, values: np.ndarray) -> np.ndarray:
        """Tell where the ground is seen: quality values of any shape -> bool of that shape."""
        if self.dirty:
            return np.asarray((values.astype(np.int64) & self.dirty) == 0)
        return _any_of(values, self.clear)

    def is_cloud(self, values: np.ndarray) -> np.ndarray:
        """Tell where a cloud, its shadow or a doubtful edge of one is: bool, same shape."""
        if self.dirty:
            return np.asarray((values.astype(np.int64) & self.cloudy) != 0)
        return ~_any_of(values, self.clear) if self.cloud is None else _any_of(values, self.cloud)

    def is_far(self, values: np.ndarray) -> np.ndarray:
        """Tell where no cloud is: bool, same shape."""
        return ~self.is_cloud(values)


def _any_of(values: np.ndarray, wanted: tuple[int, ...]) -> np.ndarray:
    """Tell which values are among some: by a table for the small numbers that classes are."""
    if values.dtype.kind == "u" and values.dtype.itemsize == 1:
        table = np.zeros(256, bool)
        table[[value for value in wanted if 0 <= value < 256]] = True
        return np.asarray(table[values])
    return np.isin(values, wanted)


# Sentinel-2 scene classification, ESA, Sentinel-2 Level-2A product definition and algorithm theoretical basis: 0 no
# data, 1 saturated or defective, 2 cast shadows (dark area), 3 cloud shadows, 4 vegetation, 5 not vegetated, 6 water,
# 7 unclassified, 8 and 9 cloud of medium and high probability, 10 thin cirrus, 11 snow or ice.
SCL_CLOUDS = (3, 7, 8, 9, 10)
# Landsat Collection 2 QA_PIXEL, USGS, Landsat 8-9 Collection 2 Level 2 science product guide (LSDS-1619): bit 0 fill,
# 1 dilated cloud, 2 cirrus, 3 cloud, 4 cloud shadow, 5 snow. Bits 0 to 5 of Landsat 4-7 (LSDS-1618) are the same, but
# for cirrus, which they do not know.
QA_FILL, QA_CLOUDS, QA_SNOW = 0b1, 0b11110, 0b100000
PRESETS = {
    "sentinel-2-scl": Rule(clear=(4, 5, 6), cloud=SCL_CLOUDS),
    "sentinel-2-scl-snow": Rule(clear=(4, 5, 6, 11), cloud=SCL_CLOUDS),
    "landsat-c2": Rule(dirty=QA_FILL | QA_CLOUDS | QA_SNOW, cloudy=QA_CLOUDS),
    "landsat-c2-snow": Rule(dirty=QA_FILL | QA_CLOUDS, cloudy=QA_CLOUDS),
}
#: What is in the name of a quality band -> the preset that it is taken to follow.
GUESSES = {"SCL": "sentinel-2-scl", "QA_PIXEL": "landsat-c2"}


class MaskConfig(Settings):
    """Which pixels are clear by the quality band, `ingest.quality`."""

    clear: tuple[int, ...] | None = Field(None, min_length=1, description="Values of the quality band that are clear")
    preset: Literal["sentinel-2-scl", "sentinel-2-scl-snow", "landsat-c2", "landsat-c2-snow"] | None = Field(
        None, description="A known quality band instead of a list; none of both: guessed from the band's name"
    )
    cloud: tuple[int, ...] | None = Field(
        None, description="Values that `dilate` grows, beside a list of clear ones; none: all that are not clear"
    )
    dilate: float = Field(100.0, ge=0, le=10_000, description="Distance kept from clouds and their shadows, in metres")

    @model_validator(mode="after")
    def _one_of(self) -> MaskConfig:
        if self.clear is not None and self.preset is not None:
            raise ValueError(f"clear and preset {self.preset} both say what is clear; leave one of them out")
        if self.cloud is not None and self.clear is None:
            raise ValueError("cloud goes with a list of clear values; set clear too")
        if self.clear and self.cloud and set(self.clear) & set(self.cloud):
            raise ValueError(f"the values {sorted(set(self.clear) & set(self.cloud))} are both clear and cloud")
        return self


def rule_of(config: MaskConfig | None, quality: str) -> Rule | None:
    """Find what decides that a pixel is clear, None where there is no quality band.

    Raises:
        SettingError: a mask is asked for without a quality band, or nobody knows what the band's values mean.
    """
    if not quality:
        if config is None:
            return None
        raise SettingError("tile.mask needs a quality band, but there is none; name it as ingest.quality.")
    if config and config.clear is not None:
        return Rule(config.clear, config.cloud)
    if config and config.preset:
        return PRESETS[config.preset]
    for part, preset in GUESSES.items():
        if part in quality.upper():
            return PRESETS[preset]
    raise SettingError(
        f"ingest.quality is {quality}, but nothing says which of its values are clear; set tile.mask.preset to one of "
        f"{', '.join(PRESETS)}, or tile.mask.clear to a list of values."
    )


@dataclass(frozen=True)
class Reach:
    """A distance on the ground in pixels: half widths of the rows of an ellipse, the middle row first."""

    half: tuple[int, ...]

    @classmethod
    def of(cls, metres: float, grid: Grid) -> Reach:
        """Measure a distance in pixels at the middle of the grid, down and across by themselves."""
        if not metres:
            return cls(())
        down, across = pixel_sides(grid)
        rows = int(metres / down + SLACK)
        inside = (max(0.0, metres**2 - (i * down) ** 2) for i in range(rows + 1))
        return cls(tuple(int(square**0.5 / across + SLACK) for square in inside))

    @property
    def pixels(self) -> int:
        """Pixels that are looked at on every side."""
        return max(len(self.half) - 1, *self.half) if self.half else 0


def grow(cloud: np.ndarray, reach: Reach) -> np.ndarray:
    """Mark every pixel whose centre lies within a distance of a marked one's: bool (y, x) -> bool (y, x).

    The distance to the nearest mark of its own row is found once a pixel; a pixel is within reach if in one of the
    rows above and below that distance is at most the half width of the ellipse there.
    """
    if not reach.half or not cloud.any():
        return cloud
    height, width = cloud.shape
    # So far that it stays beyond every half width, in a type that compares fast.
    far = max(reach.half) + 1
    kind = np.int16 if width + far < np.iinfo(np.int16).max else np.int32
    cols = np.arange(width, dtype=kind)
    before = np.maximum.accumulate(np.where(cloud, cols, kind(-far)), axis=1)
    after = np.minimum.accumulate(np.where(cloud, cols, kind(width - 1 + far))[:, ::-1], axis=1)[:, ::-1]
    distance = np.minimum(cols - before, after - cols)
    found = distance <= reach.half[0]
    for i, half in enumerate(reach.half[1:height], 1):
        near = distance <= half
        found[i:] |= near[: height - i]
        found[: height - i] |= near[i:]
    return np.asarray(found)
