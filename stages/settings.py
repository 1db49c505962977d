"""The one kind of settings object: frozen, unknown keys refused, finite numbers only."""

from __future__ import annotations

import re
from collections.abc import Iterable

from pydantic import BaseModel, ConfigDict, Field, field_validator

_RANGE = re.compile(r"\s*(-?\d+)\s*\.\.\s*(-?\d+)\s*")
_NUMBERS = re.compile(r"\s*-?[\d.]*\d\s*\.\.\s*-?\d[\d.]*\s*")


class Settings(BaseModel):
    """Base of every ``Config``: immutable, typed, without unknown keys."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class MapClass(Settings):
    """One class of the map: what it is called, exported and drawn as."""

    name: str = Field(min_length=1, description="Name in tables, legends and polygons")
    labels: tuple[str | int, ...] = Field(
        min_length=1,
        description="Values of the label source merged into this class; '0..49' is every number from 0 to below 50",
    )
    code: int = Field(ge=0, le=254, description="Pixel value in the exported layer (255 is nodata)")
    color: str = Field(pattern=r"^#[0-9a-fA-F]{6}$", description="Colour as #rrggbb")

    @field_validator("labels")
    @classmethod
    def _sound(cls, labels: tuple[str | int, ...]) -> tuple[str | int, ...]:
        for value in labels:
            label_range(value)
        return labels


def label_range(value: object) -> tuple[int, int] | None:
    """Read a range of whole numbers such as '0..49', both ends included; None where the value is no range.

    Raises:
        ValueError: it counts down, or its ends are no whole numbers.
    """
    text = str(value)
    if not _NUMBERS.fullmatch(text):
        return None
    found = _RANGE.fullmatch(text)
    if found is None:
        raise ValueError(f"the label range '{text}' has ends that are no whole numbers; write it as in '0..49'")
    low, high = int(found[1]), int(found[2])
    if low > high:
        raise ValueError(f"the label range '{text}' counts down; write the lower number first")
    return low, high


def refuse_same_codes(classes: Iterable[MapClass]) -> None:
    """See that every class has a code of its own.

    Raises:
        ValueError: two have the same.
    """
    names: dict[int, list[str]] = {}
    for entry in classes:
        names.setdefault(entry.code, []).append(entry.name)
    for code, same in names.items():
        if len(same) > 1:
            raise ValueError(f"classes {', '.join(same)} all have code {code}; give every class a code of its own")


# Names, codes and colours of classes reach the exported layers only; a stage that trains names this as its
# `COSMETIC`, so that a new colour never makes a model stale.
STYLE_ONLY = {"classes": {"__all__": {"code", "color"}}}
