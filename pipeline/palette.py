"""Give every class a colour that can be told from the others."""

from __future__ import annotations

import colorsys
import re
from collections.abc import Sequence

#: Colours that map readers expect, by how a word of the class's name begins; three letters are a whole word, as
#: seasonal crops are no sea.
CONVENTIONS = (
    (("water", "river", "lake", "sea"), "#2171b5"),
    (("forest", "tree", "wood"), "#1b7837"),
    (("develop", "urban", "built", "settle", "city"), "#c4281b"),
    (("agric", "crop", "arable", "field"), "#e6c229"),
    (("grass", "herb", "meadow", "pasture"), "#9ccb5c"),
    (("shrub", "bush", "heath"), "#a6761d"),
    (("wetland", "marsh", "swamp", "bog"), "#3fb7a8"),
    (("sand", "bare", "rock", "sediment", "soil"), "#cdb79e"),
    (("snow", "ice"), "#cfe8ff"),
    (("road", "street"), "#636363"),
)
#: Colours that stay apart for eyes that confuse red and green.
SAFE = "#0072b2", "#e69f00", "#009e73", "#cc79a7", "#56b4e9", "#d55e00", "#f0e442", "#6a3d9a", "#7f7f7f", "#3b2f2f"
#: Colours nearer to each other than this, as red, green and blue from 0 to 255, are taken for the same.
APART = 60.0


def colors_for(names: Sequence[str]) -> list[str]:
    """Choose one colour a name as #rrggbb: the customary one, then a safe palette, then hues all around the circle."""
    chosen: dict[int, str] = {}
    for i, name in enumerate(names):
        color = customary(name)
        if color and color not in chosen.values():
            chosen[i] = color
    for i in range(len(names)):
        if i not in chosen:
            chosen[i] = _free(list(chosen.values()))
    return [chosen[i] for i in range(len(names))]


def customary(name: str) -> str | None:
    """Look up the colour that maps give to a thing of this name."""
    words = re.findall(r"[^\W\d_]+", name.lower())
    for beginnings, color in CONVENTIONS:
        if any(word == start or (len(start) > 3 and word.startswith(start)) for word in words for start in beginnings):
            return color
    return None


def _free(taken: Sequence[str]) -> str:
    """Find a colour far from all taken ones: the first safe one, otherwise the farthest of many hues."""
    for color in SAFE:
        if all(distance(color, other) > APART for other in taken):
            return color
    hues = [colorsys.hsv_to_rgb(i / 48, s, v) for s, v in ((0.85, 0.85), (0.5, 0.95), (0.9, 0.5)) for i in range(48)]
    candidates = ["#" + "".join(f"{round(255 * part):02x}" for part in hue) for hue in hues]
    return max(candidates, key=lambda color: min(distance(color, other) for other in taken))


def distance(one: str, other: str) -> float:
    """Measure how far two colours are apart in red, green and blue."""
    parts = [[int(color[i : i + 2], 16) for i in (1, 3, 5)] for color in (one, other)]
    return float(sum((a - b) ** 2 for a, b in zip(*parts, strict=True)) ** 0.5)
