"""The legend: names, codes and colours of the classes, in the order of their indices."""

from __future__ import annotations

import json

import numpy as np

from stages.errors import SettingError
from stages.formats.weights import ModelCard
from stages.settings import MapClass, refuse_same_codes

Legend = tuple[MapClass, ...]


def legend_of(card: ModelCard, named: tuple[MapClass, ...]) -> Legend:
    """Classes in the order of the model's logits, looked up by name in the area's config, else as the model has them.

    Raises:
        SettingError: two classes would be exported with the same code, or the config names one that the model lacks.
    """
    unknown = [entry.name for entry in named if entry.name not in card.class_names]
    if unknown:
        raise SettingError(
            f"classes names {', '.join(unknown)}, but model {card.name} maps {', '.join(card.class_names)}; name the "
            "classes as the model does, or leave them out."
        )
    by_name = {entry.name: entry for entry in named}
    own = (MapClass(name=e["name"], labels=(e["name"],), code=e["code"], color=e["color"]) for e in card.classes)
    legend = tuple(by_name.get(entry.name, entry) for entry in own)
    try:
        refuse_same_codes(legend)
    except ValueError as fault:
        raise SettingError(f"{fault}.") from fault
    return legend


def rgb(entry: MapClass) -> tuple[int, int, int]:
    """Red, green and blue of a class, 0..255."""
    return int(entry.color[1:3], 16), int(entry.color[3:5], 16), int(entry.color[5:7], 16)


def codes_of(legend: Legend, nodata: int = 255) -> np.ndarray:
    """Lookup table from class index to exported code, nodata for every other value: uint8 (256,)."""
    table = np.full(256, nodata, np.uint8)
    table[: len(legend)] = [entry.code for entry in legend]
    return table


def colors_of(legend: Legend, nodata: tuple[int, int, int] = (255, 255, 255)) -> np.ndarray:
    """Lookup table from class index to colour: uint8 (256, 3)."""
    table = np.tile(np.array(nodata, np.uint8), (256, 1))
    table[: len(legend)] = [rgb(entry) for entry in legend]
    return table


def legend_json(legend: Legend) -> str:
    """Write the legend as one line of JSON, as it travels in the raster's tags."""
    return json.dumps([{"code": e.code, "name": e.name, "color": e.color} for e in legend], ensure_ascii=False)
