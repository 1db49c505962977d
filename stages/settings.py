"""The one kind of settings object: frozen, unknown keys refused, finite numbers only."""

from __future__ import annotations

from collections.abc import Iterable

from pydantic import BaseModel, ConfigDict, Field


class Settings(BaseModel):
    """Base of every ``Config``: immutable, typed, without unknown keys."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class MapClass(Settings):
    """One class of the map: what it is called, exported and drawn as."""

    name: str = Field(min_length=1, description="Name in tables, legends and polygons")
    labels: tuple[str | int, ...] = Field(min_length=1, description="Values of the label source merged into this class")
    code: int = Field(ge=0, le=254, description="Pixel value in the exported layer (255 is nodata)")
    color: str = Field(pattern=r"^#[0-9a-fA-F]{6}$", description="Colour as #rrggbb")


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
