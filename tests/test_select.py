"""Band selection: all of them, and a clear word about anything else."""

from __future__ import annotations

from pathlib import Path

import pytest
from pydantic import ValidationError

from stages.formats.bands import read_bands
from stages.select import Config, run
from tests.label_worlds import LabelWorld


def test_none_takes_every_channel(tmp_path: Path) -> None:
    world = LabelWorld.build(tmp_path)
    samples = world.label(world.raster(world.truth))
    run(tmp_path / "tiles", samples.folder, tmp_path, Config())
    assert read_bands(tmp_path) == ("red", "nir")


def test_another_method_is_refused() -> None:
    with pytest.raises(ValidationError, match="'dqn' is not known; this version offers only 'none'"):
        Config(method="dqn")
