"""Compute spectral indices by name, by the formulas and constants of the library spyndex."""

from __future__ import annotations

import difflib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np

from stages.errors import SettingError

#: Names of bands, in small letters, that stand for a letter of the formulas; the first that is there counts.
COMMON = {
    "A": ("coastal",), "B": ("blue",), "G1": ("green05",), "G": ("green",), "Y": ("yellow",), "R": ("red",),
    "RE1": ("rededge1", "rededge071", "rededge"), "RE2": ("rededge2", "rededge075"),
    "RE3": ("rededge3", "rededge078"), "N": ("nir", "nir08"), "N2": ("nir08", "nir2"), "WV": ("nir09",),
    "S1": ("swir16", "swir1"), "S2": ("swir22", "swir2"), "T": ("lwir", "thermal"), "T1": ("lwir11",),
    "T2": ("lwir12",),
}  # fmt: skip
#: Indices are kept within this, both ways: where a denominator comes close to 0 they say nothing.
LIMIT = 10.0


@dataclass(frozen=True)
class Index:
    """One index: its name, and for every letter of its formula the band, by position, or the constant's value."""

    name: str
    bands: tuple[tuple[str, int], ...]
    constants: tuple[tuple[str, float], ...]


def find_indices(names: Sequence[str], bands: Sequence[str], given: Mapping[str, str]) -> tuple[Index, ...]:
    """Find what every index is computed from.

    Args:
        names: of the indices.
        bands: names of the bands that there are.
        given: letter of a formula -> name of a band, before the common names.

    Raises:
        SettingError: nobody knows an index, it has a band's name, or a band that it needs is not there.
    """
    for letter, band in given.items():
        if band not in bands:
            raise SettingError(
                f"tile.index_bands takes band {band} for {letter}, but the bands are {', '.join(bands)}; name one."
            )
    found: list[Index] = []
    for name in names:
        if name in bands or name in {index.name for index in found}:
            raise SettingError(f"tile.indices names {name}, and there is such a band already; take it out.")
        found.append(_index(name, bands, given))
    return tuple(found)


def _index(name: str, bands: Sequence[str], given: Mapping[str, str]) -> Index:
    """Resolve the letters of one formula."""
    known = _known()
    if name not in known:
        near = difflib.get_close_matches(name.upper(), known, n=1, cutoff=0.5)
        advice = f" (did you mean {near[0]}?)" if near else ""
        raise SettingError(f"tile.indices names {name}, which is no index of the library spyndex{advice}.")
    small = {band.lower(): place for place, band in reversed(list(enumerate(bands)))}
    needed: list[tuple[str, int]] = []
    constants: list[tuple[str, float]] = []
    for letter in known[name]:
        if letter in given:
            needed.append((letter, list(bands).index(given[letter])))
        elif letter in COMMON:
            places = [small[common] for common in COMMON[letter] if common in small]
            if not places:
                raise SettingError(
                    f"{name} needs the band {COMMON[letter][0]} ({letter}), but the bands are {', '.join(bands)}; say "
                    f"which it is with tile.index_bands, such as {{{letter}: {bands[0]}}}."
                )
            needed.append((letter, places[0]))
        else:
            constants.append((letter, _constant(name, letter)))
    return Index(name, tuple(needed), tuple(constants))


@lru_cache(maxsize=1)
def _known() -> dict[str, tuple[str, ...]]:
    """Every index of the library with the letters of its formula."""
    import spyndex

    return {name: tuple(index.bands) for name, index in spyndex.indices.items()}


def _constant(name: str, letter: str) -> float:
    """Give the usual value of a constant.

    Raises:
        SettingError: it has none.
    """
    import spyndex

    value = spyndex.constants[letter].default if letter in spyndex.constants else None
    if not isinstance(value, int | float):
        raise SettingError(
            f"{name} needs {letter}, which is neither an optical band nor a constant with a usual value; leave it out "
            "of tile.indices."
        )
    return float(value)


def compute(indices: Sequence[Index], bands: np.ndarray, out: np.ndarray) -> None:
    """Compute indices of one date.

    What is no number, as 0 / 0, is 0, and infinities and what lies beyond +-10 are cut off there: a pixel whose bands
    are valid stays valid, and no network meets a value that is not finite.

    Args:
        indices: what to compute.
        bands: float32 (band, ...), reflectances.
        out: float32 (index, ...), written.
    """
    if not indices:
        return
    import spyndex

    for index, into in zip(indices, out, strict=True):
        values: dict[str, Any] = {letter: bands[place] for letter, place in index.bands} | dict(index.constants)
        with np.errstate(all="ignore"):
            found = spyndex.computeIndex(index.name, values)
        np.clip(np.nan_to_num(found, nan=0.0, posinf=LIMIT, neginf=-LIMIT), -LIMIT, LIMIT, out=into)
