"""The `scores` artifact: `scores.json`, what every model reached on the test blocks."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

FILE = "scores.json"


def write_scores(folder: Path, scores: dict[str, Any]) -> None:
    """Write the scores: best, pixels, models by name, and what they estimate; what is undefined (NaN) becomes null."""
    (folder / FILE).write_text(json.dumps(_without_nan(scores), indent=1, allow_nan=False))


def read_scores(folder: Path) -> dict[str, Any]:
    """Read the scores."""
    scores: dict[str, Any] = json.loads((folder / FILE).read_text())
    return scores


def _without_nan(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _without_nan(entry) for key, entry in value.items()}
    if isinstance(value, list | tuple):
        return [_without_nan(entry) for entry in value]
    return None if isinstance(value, float) and math.isnan(value) else value
