"""What the tests of the real samples ask of an area that was run: its command, its scores, its manifests."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pipeline.artifacts import Manifest, read_manifest
from pipeline.graph import STAGES

ROOT = Path(__file__).parents[1]


@dataclass(frozen=True)
class RealArea:
    """An area of this repository, by its name."""

    name: str

    @property
    def data(self) -> Path:
        """The folder of its artifacts."""
        return ROOT / "data" / self.name

    def run(self) -> str:
        """Run the installed command on it and give what it printed."""
        command = [str(Path(sys.executable).with_name("terrastage")), "--root", str(ROOT), "run", "--area", self.name]
        return subprocess.run(command, check=True, capture_output=True, text=True, timeout=1800).stdout

    def scores(self) -> dict[str, Any]:
        """Read its scores."""
        found: dict[str, Any] = json.loads((self.data / "scores" / "scores.json").read_text())
        return found

    def made(self) -> list[Manifest]:
        """Read the manifests of the artifacts that are there."""
        found = [read_manifest(self.data / stage.writes) for stage in STAGES]
        return [manifest for manifest in found if manifest is not None]
