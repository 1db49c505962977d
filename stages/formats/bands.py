"""The `bands` artifact: which channels of the tiles the classifiers read, and how they were chosen."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from stages.errors import ArtifactError
from stages.formats.tiles import Tiles

FILE = "bands.json"


@dataclass(frozen=True)
class Feature:
    """What stands for a channel in every year: a band at a step of the season, whose middle is so many days in.

    ``step`` counts from 0, ``day`` from 1 January of the year of the season's first step.
    """

    band: str
    step: int
    day: float


@dataclass(frozen=True)
class Season:
    """The features of a season that were chosen, and how many ``steps`` it has."""

    steps: int
    features: tuple[Feature, ...]


def features_of(tiles: Tiles, channels: Sequence[str]) -> tuple[Feature, ...]:
    """Say of every channel which band it is of, and which step of the season."""
    places = [divmod(tiles.channels.index(name), len(tiles.bands)) for name in channels]
    return tuple(Feature(tiles.bands[band], step, tiles.days[step]) for step, band in places)


def write_bands(
    folder: Path, channels: Sequence[str], by_fold: Sequence[Sequence[str]] = (), *, season: Season | None = None,
    about: Mapping[str, Any] | None = None, tried: Sequence[Any] = (),
) -> None:  # fmt: skip
    """Write the chosen channel names in the order the classifiers read them.

    Args:
        folder: where `bands.json` goes.
        channels: those of the model that makes the map.
        by_fold: those of the models of every fold, which were chosen without its held-out blocks; nothing where all
            folds read the same.
        season: ``channels`` as they are found in any other year.
        about: how they were chosen and what other methods came to, kept with every model; for people.
        tried: the same fold by fold.
    """
    (folder / FILE).write_text(json.dumps({
        "channels": channels, "by_fold": by_fold, "season": asdict(season) if season else None, "about": about or {},
        "tried": tried,
    }, indent=1))  # fmt: skip


def read_bands(folder: Path, fold: int | None = None) -> tuple[str, ...]:
    """Read the chosen channel names of one fold, or with None those of the model that makes the map."""
    found = json.loads((folder / FILE).read_text())
    by_fold = found.get("by_fold")
    return tuple(found["channels"] if fold is None or not by_fold else by_fold[fold])


def read_about(folder: Path) -> dict[str, Any]:
    """Read how the channels were chosen, empty where all were taken."""
    about: dict[str, Any] = json.loads((folder / FILE).read_text()).get("about", {})
    return about


def read_season(path: Path) -> Season:
    """Read which features of a season were chosen, from a `bands` artifact or its file.

    Raises:
        ArtifactError: there is no such file, or it chooses nothing.
    """
    path = path / FILE if path.is_dir() else path
    try:
        found = json.loads(path.read_text())["season"]
        return Season(int(found["steps"]), tuple(Feature(**one) for one in found["features"]))
    except (OSError, ValueError, KeyError, TypeError) as fault:
        raise ArtifactError(
            f"{path} says of no features that they were chosen ({type(fault).__name__}); give the {FILE} that `select` "
            "wrote with a select.method other than none."
        ) from fault
