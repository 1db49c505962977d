"""What `terrastage attack` found: the accuracy of trained models under attack, and a picture of it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

FILE, PICTURE = "attack.json", "attack.png"


def write_attacks(folder: Path, found: dict[str, Any], picture: bytes) -> None:
    """Write the figures and their picture.

    ``found`` holds: fingerprint (of the map's model), split, pixels, strengths, steps, pixels_patch; models by name,
    each with by (whose gradient was followed), clean, and attacks by kind, a list along the strengths, of overall
    and balanced accuracy; and patch, with model, side, target, reach, pixels and the shares without, patched and
    shuffled, or None.
    """
    (folder / FILE).write_text(json.dumps(found, indent=1, allow_nan=False), encoding="utf-8")
    (folder / PICTURE).write_bytes(picture)


def read_attacks(folder: Path) -> tuple[dict[str, Any], bytes]:
    """Read the figures and their picture."""
    found: dict[str, Any] = json.loads((folder / FILE).read_text(encoding="utf-8"))
    return found, (folder / PICTURE).read_bytes()
