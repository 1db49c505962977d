"""A user's own series, through the installed command: dated scenes in any form, dated labels, a table, a new year."""

from __future__ import annotations

import json
import re
import shutil
from datetime import date, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import yaml
from rasterio.warp import transform
from scipy.ndimage import binary_dilation

from stages.formats.samples import UNLABELLED, Samples
from stages.formats.tiles import Tiles
from tests.rasters import cube
from tests.worlds import (
    CLOUD,
    CROPS,
    CRS,
    DATES,
    NEVER_CLEAR,
    ORIGIN,
    RESOLUTION,
    World,
    crops,
    patchwork,
    series_world,
    write_raster,
    write_scenes,
)

BANDS = ("red", "nir", "SCL")
NODATA = 255
#: A pixel, and those whose centres lie within 10 m of it.
CROSS = np.array([[0, 1, 0], [1, 1, 1], [0, 1, 0]], bool)


@pytest.fixture(scope="module")
def mapped(tmp_path_factory: pytest.TempPathFactory) -> World:
    world = series_world(tmp_path_factory.mktemp("mapped"))
    world.change(label={"folds": "by_year"})
    world.run("run", "--area", "world")
    return world


def scenes_of(world: World) -> dict[str, np.ndarray]:
    """Read the scenes as they lie in the files, by date."""
    import rasterio

    found = {}
    for text in DATES:
        with rasterio.open(world.root / "scenes" / f"fields_{text.replace('-', '')}.tif") as source:
            found[text] = source.read()
    return found


def clear_dates(world: World, year: str) -> np.ndarray:
    """Count the dates of a year that are clear at a pixel and around it."""
    clouds = [scene[2] == CLOUD for text, scene in scenes_of(world).items() if text.startswith(year)]
    found: np.ndarray = np.sum([~binary_dilation(cloud, CROSS) for cloud in clouds], axis=0)
    return found


def layer(world: World, name: str) -> np.ndarray:
    import rasterio

    with rasterio.open(world.data / name) as source:
        values: np.ndarray = source.read(1)
    return values


def other(world: World, root: Path, **sections: Any) -> World:
    """Make a world that maps other scenes with the model of one that is finished."""
    config = {key: value for key, value in world.config().items() if key not in ("label", "train", "evaluate")}
    config |= {"given": {"model": str(world.data / "model")}, **sections}
    (root / "configs").mkdir(parents=True)
    (root / "configs" / "world.yaml").write_text(yaml.safe_dump(config, sort_keys=False))
    return World(root, world.truth)


def test_dated_scenes_and_dated_fields_become_a_map_of_the_last_season(mapped: World) -> None:
    tiles, samples = Tiles(mapped.data / "tiles"), Samples(mapped.data / "samples")
    assert (tiles.seasons, tiles.steps, tiles.bands) == (2, 6, ("red", "nir", "NDVI"))
    assert tiles.dates == tuple(f"2018-{month:02}-01" for month in range(1, 12, 2))
    # Every field is of one class in the one year and of the other in the next.
    before, after = (samples.of(season).read("target", tiles.grid.whole) for season in (0, 1))
    labelled = before != UNLABELLED
    assert labelled.sum() == 30 * 6 * 6 - 4  # but for four pixels of one field that no date shows
    assert (before[labelled] == 1 - after[labelled]).all()

    expected = clear_dates(mapped, "2018")
    never = np.zeros(expected.shape, bool)
    never[NEVER_CLEAR] = True
    assert ((expected == 0) == binary_dilation(never, CROSS)).all()
    codes = layer(mapped, "map/classes.tif")
    assert ((codes == NODATA) == (expected == 0)).all()
    assert (codes == mapped.truth + 1)[expected > 0].mean() > 0.97
    assert (layer(mapped, "map/clear.tif") == expected).all()

    # Each season is tested with models of the other.
    assert (samples.folds, samples.summary["fold_seasons"]) == (2, [0, 1])
    told = json.loads((mapped.data / "scores" / "scores.json").read_text())
    assert told["pixels"] == 2 * labelled.sum()
    assert min(told["models"][name]["overall_accuracy"]["value"] for name in ("rf", "lstm")) > 0.9, told["models"]


def test_the_report_tells_what_was_clear_and_what_was_filled(mapped: World) -> None:
    report = re.sub(r"\s+", " ", (mapped.data / "map" / "report.html").read_text())
    expected = clear_dates(mapped, "2018")
    seen = expected[expected > 0]
    assert "Clear observations" in report
    assert f"had {seen.min()} to {seen.max()} clear observations, {np.median(seen):g} in the median" in report
    assert "5 pixels (0.3 % of the grid) were never clear and are nodata in the map" in report
    assert "its value was filled in from other dates" in report
    # Every step of 2018 has one date, so what is not clear is filled; in 2017 the last step has none.
    tiles = Tiles(mapped.data / "tiles")
    _, filled = tiles.read_clear(tiles.grid.whole)
    assert (filled == np.where(expected > 0, np.rint(100 * (6 - expected) / 6), 0)).all()
    _, earlier = tiles.of(0).read_clear(tiles.grid.whole)
    assert earlier[expected > 0].min() == 17
    assert tiles.read(tiles.grid.whole)[1][:, expected > 0].all()


@pytest.mark.parametrize("form", ["stack", "netcdf", "zarr"])
def test_the_same_series_in_another_form_gives_the_same_bytes(tmp_path: Path, mapped: World, form: str) -> None:
    """A stack with its dates in any order, a cube that runs backwards, and one that has a date twice."""
    scenes = scenes_of(mapped)
    order = {"stack": DATES[1::2] + DATES[::2], "netcdf": DATES[::-1], "zarr": (*DATES, DATES[-1])}[form]
    if form == "stack":
        write_raster(tmp_path / "series.tif", np.concatenate([scenes[text] for text in order]))
        entry = {"files": "series.tif", "stack": {"dates": list(order), "bands": list(BANDS)}}
    else:
        name = {"netcdf": "series.nc", "zarr": "series.zarr"}[form]
        values = np.stack([scenes[text] for text in order])
        layers = {band: values[:, i] for i, band in enumerate(BANDS)}
        cube(tmp_path / name, layers, np.array(order, "datetime64[ns]"), resolution=RESOLUTION, crs=CRS)
        entry = {"files": name}
    ingest = {"scenes": [{**entry, "scale": 0.0001}], "bands": {band: band for band in BANDS}, "quality": "SCL"}
    world = other(mapped, tmp_path, ingest=ingest)
    done = world.run("run", "classify", "--area", "world", "--verbose")
    assert ("1 date has more than one scene; they are mosaicked" in done.stdout + done.stderr) == (form == "zarr")
    for name in ("classes.tif", "confidence.tif"):
        assert (world.data / "classes" / name).read_bytes() == (mapped.data / "classes" / name).read_bytes()


def test_a_new_year_is_mapped_with_the_model_that_stands(tmp_path: Path, mapped: World) -> None:
    world = other(mapped, tmp_path)
    truth = patchwork(mapped.truth.shape, 2, 8, 9)
    # Other days of the year, and as many as come.
    dates = ("2019-01-20", "2019-03-05", "2019-06-11", "2019-06-27", "2019-08-02", "2019-10-17", "2019-12-01")
    write_scenes(tmp_path, crops(truth, dates, 3))
    world.run("run", "classify", "--area", "world")
    codes = layer(world, "classes/classes.tif")
    before = (world.data / "classes" / "classes.tif").read_bytes()
    assert (codes == truth)[codes != NODATA].mean() > 0.95
    assert (codes != NODATA).mean() > 0.99
    refused = world.run("run", "classify", "--area", "world", "--set", "tile.time.step=3 months", check=False)
    assert refused.returncode == 2
    (sentence,) = refused.stderr.strip().splitlines()
    assert "reads 6 dates (2018-01-01 to 2018-11-01, every 2 months), but the tiles hold 4" in sentence
    assert (world.data / "classes" / "classes.tif").read_bytes() == before


def table_of(world: World, path: Path) -> None:
    """Write the world's own series at every third labelled pixel of both years as a long table."""
    tiles, samples = Tiles(world.data / "tiles"), Samples(world.data / "samples")
    grid, rows = tiles.grid, []
    for season in tiles.each_season():
        target = samples.of(season.season).read("target", grid.whole)
        values, _ = season.read(grid.whole)
        places = np.argwhere(target != UNLABELLED)[::3]
        centres = (ORIGIN[0] + (places[:, 1] + 0.5) * RESOLUTION, ORIGIN[1] - (places[:, 0] + 0.5) * RESOLUTION)
        lon, lat = transform(CRS, "EPSG:4326", *centres)
        year = date(int(season.dates[0][:4]), 1, 1)
        for (row, col), x, y in zip(places, lon, lat, strict=True):
            for step, day in enumerate(season.days):
                about = f"{year.year} {row} {col}", year + timedelta(day), x, y, CROPS[target[row, col]]
                rows.append((*about, *values[step, :, row, col]))
    names = ("sample", "date", "lon", "lat", "crop", "red", "nir", "NDVI")
    pd.DataFrame(rows, columns=names).to_csv(path, index=False)


def test_a_table_of_the_series_trains_a_model_that_maps_the_cube(tmp_path: Path, mapped: World) -> None:
    root = tmp_path / "table"
    root.mkdir()
    table_of(mapped, root / "series.csv")
    table = {"file": "series.csv", "layout": "long", "sample": "sample", "date": "date", "label": "crop",
             "longitude": "lon", "latitude": "lat", "scaled": True}  # fmt: skip
    config = mapped.config()
    config = {
        "classes": config["classes"], "ingest": {"table": table}, "label": {"block": 80, "buffer": 0},
        "train": {**config["train"], "models": ["lstm"]}, "evaluate": {"replicates": 100},
    }  # fmt: skip
    learnt = other(mapped, root)
    (root / "configs" / "world.yaml").write_text(yaml.safe_dump(config, sort_keys=False))
    learnt.run("run", "--area", "world")
    assert not (learnt.data / "classes").exists()
    assert Samples(learnt.data / "samples").summary["division"] == "by ground block"
    told = json.loads((learnt.data / "scores" / "scores.json").read_text())
    assert told["models"]["lstm"]["overall_accuracy"]["value"] > 0.9

    world = World(shutil.copytree(mapped.root, tmp_path / "cube"), mapped.truth)
    world.change(given={"model": str(learnt.data / "model")})
    world.run("run", "classify", "--area", "world")
    codes = layer(world, "classes/classes.tif")
    assert (codes == world.truth)[codes != NODATA].mean() > 0.9
    assert json.loads((world.data / "classes" / "classes.json").read_text())["model"] == "lstm"

    # The other way round: the cube's model is scored on the table, and nothing is trained.
    config["given"] = {"model": str(mapped.data / "model")}
    (root / "configs" / "world.yaml").write_text(yaml.safe_dump(config, sort_keys=False))
    learnt.run("run", "--area", "world")
    told = json.loads((learnt.data / "scores" / "scores.json").read_text())
    assert set(told["models"]) == {"rf", "majority"}
    assert told["models"]["rf"]["overall_accuracy"]["value"] > 0.95
