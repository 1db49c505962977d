"""The `bands` artifact: which channels of the tiles the classifiers read."""

from __future__ import annotations

import json
from pathlib import Path

FILE = "bands.json"


def write_bands(folder: Path, channels: tuple[str, ...]) -> None:
    """Write the chosen channel names in the order the classifiers read them."""
    (folder / FILE).write_text(json.dumps({"channels": channels}, indent=1))


def read_bands(folder: Path) -> tuple[str, ...]:
    """Read the chosen channel names."""
    return tuple(json.loads((folder / FILE).read_text())["channels"])
