"""The `synthetic` artifact: how many samples were drawn for each rare class."""

from __future__ import annotations

import json
from pathlib import Path

FILE = "synthetic.json"


def write_synthetic(folder: Path, drawn: dict[str, int]) -> None:
    """Write the number of synthetic samples of every class."""
    (folder / FILE).write_text(json.dumps({"drawn": drawn}, indent=1))


def read_synthetic(folder: Path) -> dict[str, int]:
    """Read the number of synthetic samples of every class."""
    drawn: dict[str, int] = json.loads((folder / FILE).read_text())["drawn"]
    return drawn
