"""Synthetic samples: none drawn, and a clear word about any other method."""

from __future__ import annotations

from pathlib import Path

import pytest
from pydantic import ValidationError

from stages.augment import Config, run
from stages.formats.bands import write_bands
from stages.formats.synthetic import read_synthetic
from tests.label_worlds import LabelWorld


def test_none_draws_nothing_for_any_class(tmp_path: Path) -> None:
    world = LabelWorld.build(tmp_path)
    samples = world.label(world.raster(world.truth))
    write_bands(tmp_path, ("red", "nir"))
    run(tmp_path / "tiles", samples.folder, tmp_path, tmp_path, Config())
    assert read_synthetic(tmp_path) == {"water": 0, "forest": 0}


def test_another_method_is_refused() -> None:
    with pytest.raises(ValidationError, match="'gan' is not known; this version offers only 'none'"):
        Config(method="gan")
