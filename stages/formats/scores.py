"""The `scores` artifact: `scores.json`, what every model reached on the test blocks."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

FILE = "scores.json"


def write_scores(folder: Path, scores: dict[str, Any]) -> None:
    """Write the scores: best, pixels, models by name, and what they estimate."""
    (folder / FILE).write_text(json.dumps(scores, indent=1, allow_nan=False))


def read_scores(folder: Path) -> dict[str, Any]:
    """Read the scores."""
    scores: dict[str, Any] = json.loads((folder / FILE).read_text())
    return scores
