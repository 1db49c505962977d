"""The map of the real series, as `terrastage run --area romania` leaves it."""

from __future__ import annotations

import numpy as np
import pytest
import rasterio

from pipeline.graph import STAGES
from stages.formats.scenes import read_scenes
from stages.formats.tiles import Tiles
from stages.formats.weights import read_card, read_choice
from tests.real import RealArea

pytestmark = pytest.mark.real

AREA = RealArea("romania")
DATA = AREA.data
MAP = DATA / "map"


@pytest.fixture(scope="module", autouse=True)
def again() -> str:
    return AREA.run()


def test_a_second_run_finds_all_nine_stages_up_to_date(again: str) -> None:
    rows = [line.split(maxsplit=1) for line in again.splitlines() if line.endswith("up to date")]
    assert rows == [[stage.name, "up to date"] for stage in STAGES]
    print(f"\nstages {sum(manifest.seconds for manifest in AREA.made()):.1f} s")  # noqa: T201


def test_all_dates_are_found_and_those_of_the_year_are_regularised() -> None:
    assert len(read_scenes(DATA / "scenes").dates) == 140
    tiles = Tiles(DATA / "tiles")
    assert (tiles.steps, tiles.dates[0], tiles.dates[-1]) == (37, "2018-01-01", "2018-12-27")
    assert tiles.bands == ("B2", "B3", "B4", "B8", "B8A", "B11", "NDVI")
    cube, valid = tiles.read(tiles.grid.whole)
    clear, filled = tiles.read_clear(tiles.grid.whole)
    assert valid.all()
    assert (clear.min() >= 1, clear.max() <= 34) == (True, True)
    assert 0 < filled.min() <= filled.max() < 100
    # Vegetation in summer: most of the ground is green.
    assert np.median(cube[20, 6]) > 0.6
    print(f"\nclear observations {clear.min()} to {clear.max()}, median {np.median(clear):.0f}; "  # noqa: T201
          f"{filled.mean():.0f} % of the steps filled")  # fmt: skip


def test_models_agree_with_the_reference_as_others_found() -> None:
    found, chosen = AREA.scores(), read_choice(DATA / "model")["chosen"]
    accuracy = {name: entry["overall_accuracy"]["value"] for name, entry in found["models"].items()}
    table = ", ".join(f"{name} {value:.3f}" for name, value in accuracy.items())
    print(f"\n{chosen} makes the map; overall accuracy {table}")  # noqa: T201
    assert (found["pixels"], found["blocks"]) == (2500, 25)
    assert accuracy["ltae"] >= 0.82
    assert accuracy[chosen] >= 0.82
    assert accuracy[chosen] >= accuracy["majority"] + 0.3


def test_the_map_has_three_classes_and_its_observations() -> None:
    with rasterio.open(MAP / "classes.tif") as layer:
        classes = layer.read(1)
        assert (layer.width, layer.height, layer.res) == (50, 50, (20, 20))
    assert set(np.unique(classes)) == {1, 2, 3}
    with rasterio.open(MAP / "clear.tif") as layer:
        np.testing.assert_array_equal(
            layer.read(1), Tiles(DATA / "tiles").read_clear(Tiles(DATA / "tiles").grid.whole)[0]
        )
    report = (MAP / "report.html").read_text(encoding="utf-8")
    assert "Clear observations" in report
    assert "EUPL-1.2" in report
    assert len(read_card(DATA / "model" / "ltae").dates) == 37
