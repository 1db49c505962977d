"""Keep count of what was found in the scenes while tiles were cut, and refuse what tells nothing."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from stages.errors import SceneError
from stages.geo.plan import Plan

log = logging.getLogger(__name__)


@dataclass
class Tally:
    """What was found while a group was cut.

    About the sources, before scaling: ``low`` and ``high`` (band,) over all dates, ``broken`` (date, band). ``seen``
    (date,): whether any pixel was clear. ``scarce`` (season,): pixels with too few clear observations, and
    ``never`` those without a valid static layer or any observation in the whole series.
    """

    low: np.ndarray
    high: np.ndarray
    broken: np.ndarray
    seen: np.ndarray
    scarce: np.ndarray

    @classmethod
    def empty(cls, plan: Plan) -> Tally:
        """Make a tally of nothing; the static layers are counted as further bands."""
        bands, dates = len(plan.bands) + len(plan.static), len(plan.dates)
        return cls(np.full(bands, np.inf), np.full(bands, -np.inf), np.zeros((dates, bands), np.int64),
                   np.zeros(dates, bool), np.zeros(plan.steps.seasons, np.int64))  # fmt: skip

    def plain(self) -> dict[str, Any]:
        """Give everything as lists, what is broken as (date, band, count)."""
        broken = [(int(d), int(b), int(self.broken[d, b])) for d, b in np.argwhere(self.broken)]
        return {"low": self.low.tolist(), "high": self.high.tolist(), "broken": broken,
                "seen": np.flatnonzero(self.seen).tolist(), "scarce": self.scarce.tolist()}  # fmt: skip


def judge(plan: Plan, parts: Sequence[dict[str, Any]]) -> None:
    """Refuse a band that tells nothing, and tell what was broken, never clear or all cloud.

    Raises:
        SceneError: a band is constant or all nodata on all dates, or no pixel is valid on any.
    """
    low, high = np.min([part["low"] for part in parts], axis=0), np.max([part["high"] for part in parts], axis=0)
    seen = {date for part in parts for date in part["seen"]}
    masked = " and clear by the mask (tile.mask)" if plan.mask else ""
    paths = {band: next(p.layers.path for scenes in plan.scenes for s in scenes for p in s.pieces if band in p.bands)
             for band in range(len(plan.bands))}  # fmt: skip
    paths |= {len(plan.bands) + i: next(p.layers.path for p in plan.layers if i in p.bands)
              for i in range(len(plan.static))}  # fmt: skip
    more = f" and the other {len(plan.dates) - 1} dates" if len(plan.dates) > 1 else ""
    for band, name in enumerate((*plan.bands, *plan.static)):
        where = f"band {name} of {paths[band]}{more if band < len(plan.bands) else ''}"
        if low[band] > high[band] and not (plan.mask and not seen):
            raise SceneError(f"{where} is all nodata on the grid; take the scene or the band out.")
        if low[band] == high[band]:
            raise SceneError(
                f"{where} is constant ({low[band]:g} everywhere on the grid); take the scene or the band out."
            )
    if not seen:
        names = ", ".join((*plan.bands, *plan.static))
        raise SceneError(
            f"no pixel of {paths[0]} and the other files is valid in all bands ({names}){masked}; see that the files "
            "cover the same ground."
        )
    _tell(plan, parts, seen)


def _tell(plan: Plan, parts: Sequence[dict[str, Any]], seen: set[int]) -> None:
    """Log what was broken, which dates add nothing, and how many pixels stay without a map."""
    broken: dict[tuple[int, int], int] = {}
    for part in parts:
        for date, band, count in part["broken"]:
            broken[date, band] = broken.get((date, band), 0) + count
    for (date, band), count in sorted(broken.items()):
        path = next(p.layers.path for scene in plan.scenes[date] for p in scene.pieces if band in p.bands)
        log.warning("band %s of %s: %d values are NaN or infinite, taken as nodata", plan.bands[band], path, count)
    if len(plan.dates) > 1 and (empty := [date for i, date in enumerate(plan.dates) if i not in seen]):
        log.warning("%d of %d dates have no valid pixel and add nothing: %s", len(empty), len(plan.dates),
                    listed(empty))  # fmt: skip
    if vacant := sum(not dates for dates in plan.steps.dates):
        log.info("%d of %d steps have no scene", vacant, len(plan.steps.names))
    scarce, length = np.sum([part["scarce"] for part in parts], axis=0), len(plan.steps.names) // plan.steps.seasons
    for season, count in enumerate(scarce.tolist()):
        if count and (len(plan.dates) > 1 or plan.mask):
            log.info("%d pixels have fewer than %d clear observations from %s on and stay without data", count,
                     plan.time.least, plan.steps.names[season * length] or "the scenes'")  # fmt: skip


def listed(dates: Sequence[str]) -> str:
    """Name some dates."""
    return ", ".join(date or "undated" for date in dates[:5]) + (", ..." if len(dates) > 5 else "")
