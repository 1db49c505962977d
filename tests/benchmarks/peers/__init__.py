"""Have the same work done by another system, in an environment of its own."""

from __future__ import annotations

import subprocess
from pathlib import Path

#: The peers' environment, which `make bench-peers` makes, and what is there when it is complete.
PLACE = Path("data/bench/peers/.venv")
READY = PLACE / ".ready"


def torchgeo_map(network: str, folder: Path) -> float:
    """Map a folder's scene with a network as a loop over TorchGeo's grid sampler: seconds."""
    return _asked("map", network, folder)


def torchgeo_feed(folder: Path) -> float:
    """Draw random chips with their masks from a folder's scene and mask with TorchGeo: samples a second."""
    return _asked("feed", folder)


def _asked(*words: object) -> float:
    """Run `torchgeo_work` in the peers' environment; the last thing it says is the figure."""
    command = [str(PLACE / "bin" / "python"), "-m", f"{__name__}.torchgeo_work", *map(str, words)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"TorchGeo failed at {' '.join(map(str, words))}:\n{done.stderr}")
    return float(done.stdout.split()[-1])
