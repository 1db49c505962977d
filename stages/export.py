"""Deliver the map: cloud-optimized layers, polygons, styles, legend and report."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np
from pydantic import Field, model_validator

from stages import progress
from stages.delivery import pictures, thinned
from stages.delivery.charts import ClassSeries
from stages.delivery.legend import Legend, codes_of, legend_json, legend_of, rgb
from stages.delivery.observations import Observed, observe
from stages.delivery.report import Report, SieveEffect, render
from stages.delivery.styles import qgis_style
from stages.formats import attacks, maps
from stages.formats.samples import DROPPED, Role, Samples
from stages.formats.scores import read_scores
from stages.formats.tiles import Tiles
from stages.formats.weights import CHOICE, ModelCard, chosen_folder, read_card, read_choice
from stages.geo.cog import Layer, copy_cog, read_windows, write_cog
from stages.geo.geopackage import LayerNotes, write_geopackage
from stages.geo.grid import Grid, Window
from stages.geo.polygons import polygonize
from stages.geo.sieve import sieve
from stages.settings import MapClass, Settings, refuse_same_codes

_logger = logging.getLogger(__name__)

POLYGONS = "classes.gpkg"
STYLE = "classes.qml"
LEGEND = "legend.png"
PICTURE = "map.png"
REPORT = "report.html"
_STEPS = 4


class Config(Settings):
    """What the map is called and how its polygons are simplified."""

    title: str = Field("", description="Title of the report and of the layers")
    attribution: str = Field("", description="Licence and source of the data, shown with the map")
    classes: tuple[MapClass, ...] = Field((), description="Names, codes and colours; the model's own where empty")
    min_area: float = Field(0.0, ge=0, description="Polygons smaller than this join their largest neighbour, hectares")
    picture: int = Field(1600, ge=100, le=10_000, description="Longest side of the report's pictures, pixels")
    attack: Path | None = Field(
        None, description="What `terrastage attack` wrote, shown in the report; by default what lies beside the map"
    )

    @model_validator(mode="after")
    def _distinct(self) -> Config:
        refuse_same_codes(self.classes)
        return self


def sources(config: Config) -> list[Path]:
    """Name the files of an attack that the report shows."""
    return [config.attack / name for name in (attacks.FILE, attacks.PICTURE)] if config.attack else []


@dataclass(frozen=True)
class Inputs:
    """What the stage reads, opened; samples and scores are None where the area has no labels."""

    tiles: Tiles
    classes: Path
    model: Path
    samples: Samples | None
    scores: dict[str, Any] | None
    config: Config

    @cached_property
    def card(self) -> ModelCard:
        """The card of the map's model."""
        return read_card(chosen_folder(self.model))

    @cached_property
    def legend(self) -> Legend:
        """The classes by index."""
        return legend_of(self.card, self.config.classes)

    @cached_property
    def statistics(self) -> dict[str, Any] | None:
        """Statistics of the training pixels; None without labels, or where their classes are not the map's."""
        if self.samples is None:
            return None
        found = self.samples.statistics(None if self.samples.refitted else 0)
        return found if len(found["class_means"]) == len(self.legend) else None

    @property
    def grid(self) -> Grid:
        """The area's grid."""
        return self.tiles.grid

    @cached_property
    def row_hectares(self) -> np.ndarray:
        """True ground area of one pixel of every row: float64 (y,), hectares."""
        return np.asarray(self.grid.pixel_hectares(0, self.grid.height))

    @cached_property
    def ground(self) -> pictures.Ground:
        """How a picture of the whole area lies on the ground."""
        side = self.grid.pixel_metres()
        if not _is_geographic(self.grid.crs):
            return pictures.Ground(self.grid.width * side)
        # Degrees of longitude shrink towards the poles: a pixel is narrower than high there.
        _, bottom, _, top = self.grid.bounds
        shrink = max(0.02, float(np.cos(np.radians((top + bottom) / 2))))
        return pictures.Ground(self.grid.width * side * shrink**0.5, 1.0 / shrink)


def run(  # noqa: PLR0917
    tiles: Path, classes: Path, model: Path, samples: Path | None, scores: Path | None, out: Path, config: Config
) -> None:
    """Write the delivery.

    The layers are written window by window. Polygons need the whole class map in memory: about 36 bytes a pixel at
    the peak, while small patches are merged.

    Raises:
        SettingError: two classes have the same code.
        ModelError: the model folder is incomplete.
    """
    inputs = Inputs(
        Tiles(tiles), classes, model, Samples(samples) if samples else None, read_scores(scores) if scores else None,
        config,
    )  # fmt: skip
    write_layers(inputs, out)
    # Of a single date there is nothing to count that the map's nodata does not show.
    series = inputs.tiles.steps > 1 or bool(inputs.tiles.step)
    observed = observe(inputs.tiles, classes, out, provenance(inputs)) if series else None
    progress.report("export", 1, _STEPS)
    indices = read_whole(classes / maps.CLASSES)
    sieved = sieve(indices, inputs.row_hectares, config.min_area, maps.NODATA)
    effect = sieve_effect(inputs, indices, sieved)
    progress.report("export", 2, _STEPS)
    style = qgis_style(inputs.legend)
    polygons = write_polygons(inputs, sieved, style, out / POLYGONS)
    (out / STYLE).write_text(style, encoding="utf-8")
    progress.report("export", 3, _STEPS)
    (out / LEGEND).write_bytes(pictures.legend_picture(inputs.legend))
    (out / PICTURE).write_bytes(_picture(inputs))
    report = describe(inputs, areas_of(indices, inputs), effect, observed)
    (out / REPORT).write_text(render(report), encoding="utf-8")
    progress.report("export", 4, _STEPS)
    _logger.info("export: %s ha in %d polygons. %s", f"{sum(report.areas):,.0f}", polygons, effect.sentence())


def write_layers(inputs: Inputs, out: Path) -> None:
    """Write class codes, confidence and the layers asked for as Cloud-Optimized GeoTIFFs."""
    legend, codes = inputs.legend, codes_of(inputs.legend, maps.NODATA)
    names = {entry.code: entry.name for entry in legend}
    colors = {entry.code: rgb(entry) for entry in legend}
    tags = {**provenance(inputs), "classes": legend_json(legend)}
    layer = Layer("class code", "mode", tags, colors, names)
    write_cog(inputs.classes / maps.CLASSES, out / maps.CLASSES, layer, lambda block: codes[block])
    layer = Layer("confidence in percent", "average", provenance(inputs))
    write_cog(inputs.classes / maps.CONFIDENCE, out / maps.CONFIDENCE, layer, lambda block: block)
    for _, found in maps.further_layers(inputs.classes):
        bands = inputs.card.class_names if found.by_class else ()
        overview = "nearest" if found.nodata is None else "average"
        layer = Layer(found.description, overview, provenance(inputs), bands=bands)
        copy_cog(inputs.classes / found.file, out / found.file, layer)


def provenance(inputs: Inputs) -> dict[str, str]:
    """Say what made the map: no time and no machine, so that the same map is the same file."""
    try:
        version = metadata.version("terrastage")
    except metadata.PackageNotFoundError:
        version = "not installed"
    said = {
        "terrastage": version,
        "title": inputs.config.title,
        "attribution": inputs.config.attribution,
        "model": inputs.card.name,
        "model_fingerprint": inputs.card.fingerprint,
    }
    return {name: value for name, value in said.items() if value}


def read_whole(path: Path) -> np.ndarray:
    """Read a whole layer, one byte a pixel: uint8 (y, x)."""
    import rasterio

    with rasterio.open(path) as dataset:
        whole = np.empty(dataset.shape, np.uint8)
        for window, block in read_windows(dataset):
            whole[window.slices] = block
    return whole


def areas_of(indices: np.ndarray, inputs: Inputs) -> tuple[float, ...]:
    """Count the mapped hectares of every class."""
    return tuple(float((indices == k).sum(axis=1) @ inputs.row_hectares) for k in range(len(inputs.legend)))


def sieve_effect(inputs: Inputs, indices: np.ndarray, sieved: np.ndarray) -> SieveEffect:
    """Compare the map before and after sieving, everywhere and on the labels of the test blocks."""
    mapped = int((indices != maps.NODATA).sum())
    changed = int((indices != sieved).sum()) / max(mapped, 1)
    minimum, samples = inputs.config.min_area, inputs.samples
    if samples is None:
        return SieveEffect(minimum, changed)
    pixels = before = after = 0
    for window, reference in tested_labels(samples, inputs.grid):
        asked = (reference < DROPPED) & (indices[window.slices] != maps.NODATA)
        pixels += int(asked.sum())
        before += int((indices[window.slices] == reference)[asked].sum())
        after += int((sieved[window.slices] == reference)[asked].sum())
    if not pixels:
        return SieveEffect(minimum, changed)
    return SieveEffect(minimum, changed, pixels, before / pixels, after / pixels, samples.crossed)


def tested_labels(samples: Samples, grid: Grid) -> Iterator[tuple[Window, np.ndarray]]:
    """Read the class index of every test pixel of any fold, 255 elsewhere, tile by tile: uint8 (y, x)."""
    for _, _, window in grid.tiles():
        tested = (samples.read("role", window) == Role.TEST).any(axis=0)
        yield window, np.where(tested, samples.read("target", window), np.uint8(maps.NODATA))


def write_polygons(inputs: Inputs, indices: np.ndarray, style: str, path: Path) -> int:
    """Write the patches of a class map as polygons with class, code and hectares; returns how many there are."""
    import geopandas as gpd

    found, legend = polygonize(indices, maps.NODATA), inputs.legend
    columns = {
        "class": [legend[kind].name for kind in found.kinds],
        "code": np.array([legend[kind].code for kind in found.kinds], np.int32),
        "hectares": found.hectares(inputs.row_hectares).round(4),
    }
    table = gpd.GeoDataFrame(columns, geometry=list(found.placed(inputs.grid.transform)), crs=inputs.grid.crs)
    minimum = inputs.config.min_area
    sieved = f", patches below {minimum:g} ha merged into their largest neighbour" if minimum else ""
    about = [f"{inputs.config.title or 'Classified map'}: mapped classes{sieved}.", inputs.config.attribution]
    fields = {
        "class": "Name of the class",
        "code": "Pixel value of the class in classes.tif",
        "hectares": "Mapped area on the ellipsoid in hectares; not an area estimate",
    }
    write_geopackage(table, path, LayerNotes("classes", " ".join(filter(None, about)), fields, style))
    return len(table)


def describe(inputs: Inputs, areas: tuple[float, ...], effect: SieveEffect, observed: Observed | None = None) -> Report:
    """Gather what the report tells."""
    config, samples, tiles = inputs.config, inputs.samples, inputs.tiles
    step, series = thinned.clearest(tiles), series_of(inputs)
    drawn, shown_bands = draw(inputs, step, observed)
    attacked = attacked_of(inputs)
    if attacked is not None:
        drawn["attack"] = attacked[1]
    grid = inputs.grid
    made = {
        "grid": f"{grid.crs}, {grid.resolution:g} per pixel in its units, {grid.width} × {grid.height} pixels",
        "terrastage": provenance(inputs)["terrastage"],
    }
    return Report(
        title=config.title,
        attribution=config.attribution,
        legend=inputs.legend,
        card=inputs.card,
        areas=areas,
        sieve=effect,
        scores=inputs.scores,
        pictures=drawn,
        notes=tuple(notes_of(inputs)),
        shown_bands=shown_bands,
        folds=samples.folds if samples and samples.crossed else 0,
        provenance=made,
        dates=tiles.dates,
        step=tiles.step,
        shown_date=tiles.dates[step] if tiles.steps > 1 else "",
        split_by=samples.split_by if samples else "",
        series=series,
        observed=observed,
        layers=tuple((found.file, found.description) for _, found in maps.further_layers(inputs.classes)),
        attacks=attacked[0] if attacked is not None else None,
    )


def attacked_of(inputs: Inputs) -> tuple[dict[str, Any], bytes] | None:
    """Read what an attack on the map's model found, with its picture; None where there is none, or of another model."""
    if inputs.config.attack is None:
        return None
    try:
        found, picture = attacks.read_attacks(inputs.config.attack)
    except OSError:
        _logger.warning("export: %s holds no attack; run `terrastage attack` again", inputs.config.attack.name)
        return None
    if found["fingerprint"] != inputs.card.fingerprint:
        _logger.warning("export: the attack was on an earlier model and is not shown; run `terrastage attack` again")
        return None
    return found, picture


def series_of(inputs: Inputs) -> ClassSeries | None:
    """Read the mean series of every class with its spread; None of one date or without labels of these classes."""
    tiles, statistics = inputs.tiles, inputs.statistics
    if statistics is None or tiles.steps == 1:
        return None
    shape = tiles.steps, len(tiles.bands)
    means, spreads = (
        np.stack([np.full(shape, np.nan) if row is None else np.array(row, np.float64).reshape(shape) for row in rows])
        for rows in (statistics["class_means"], statistics["class_stds"])
    )
    return ClassSeries(tiles.bands, tiles.dates, tiles.days, means, spreads, tiles.seasons)


def notes_of(inputs: Inputs) -> Iterator[str]:
    """Say which classes of the labels the map joins or leaves out, and why this model makes the map."""
    for entry in inputs.legend:
        if len(entry.labels) > 1:
            yield f"The class {entry.name} joins the labels {', '.join(map(str, entry.labels))}."
    dropped = inputs.samples.summary.get("dropped_classes") if inputs.samples else None
    if dropped:
        yield f"Labels left out of the map: {', '.join(map(str, dropped))}. Pixels of them are mapped as other classes."
    if (inputs.model / CHOICE).is_file() and (note := str(read_choice(inputs.model).get("note") or "")):
        yield f"Choice of the model: {note}"


def draw(inputs: Inputs, step: int, observed: Observed | None) -> tuple[dict[str, bytes], tuple[str, ...]]:
    """Draw every picture for which there is something to show; also tells which bands the scene is shown in.

    ``step`` is the date of which the scene is shown.
    """
    side, ground, legend = inputs.config.picture, inputs.ground, inputs.legend
    half = max(100, side // 2)
    scene, bands = thinned.quicklook(inputs.tiles, half, step)
    drawn = {
        "map": pictures.map_picture(thinned.layer(inputs.classes / maps.CLASSES, side), legend, ground),
        "quicklook": pictures.quicklook_picture(scene, ground),
        "confidence": pictures.confidence_picture(thinned.layer(inputs.classes / maps.CONFIDENCE, half), ground),
    }
    if inputs.samples:
        samples = inputs.samples
        # Where labels are divided at random or by years, no ground is for one thing alone.
        if samples.split_by != "random" and not samples.by_year:
            parts = thinned.parts(samples, inputs.grid, half)
            drawn["parts"] = pictures.parts_picture(parts, scene, samples.folds if samples.crossed else 0, ground)
    # One axis for all bands and dates would hide what `series_of` shows.
    if inputs.statistics and inputs.tiles.steps == 1:
        means, channels = inputs.statistics["class_means"], inputs.statistics["channels"]
        drawn["spectra"] = pictures.spectra_picture(means, channels, legend)
    if observed is not None:
        clear, filled = thinned.observed(inputs.tiles, half)
        drawn["clear"] = pictures.clear_picture(clear, ground)
        if observed.any_filled:
            drawn["filled"] = pictures.filled_picture(filled, clear, ground)
    if curves := learning_curves(inputs.model):
        drawn["curves"] = pictures.curves_picture(curves)
    return drawn, bands


def _picture(inputs: Inputs) -> bytes:
    """Draw the map with title, legend and the licence of the data, to stand alone in a text or on a slide."""
    config = inputs.config
    indices = thinned.layer(inputs.classes / maps.CLASSES, config.picture)
    licence = f"Data: {config.attribution}" if config.attribution else ""
    return pictures.map_picture(indices, inputs.legend, inputs.ground, config.title or "Map", licence)


def learning_curves(model: Path) -> list[pictures.Curve]:
    """Read the curves of every model that was trained by epochs."""
    folders = [model / name for name in read_choice(model)["candidates"]] if (model / CHOICE).is_file() else [model]
    curves = []
    # After cross-validation the chosen model alone was refitted; the others stand in their folds.
    for card in (read_card(folder) for folder in folders if folder.is_dir()):
        losses = {key: values for key, values in card.curves.items() if "loss" in key and len(values)}
        validation = next((values for key, values in losses.items() if "val" in key), [])
        training = next((values for key, values in losses.items() if "val" not in key), [])
        if training or validation:
            curves.append(pictures.Curve(card.name, training, validation))
    return curves


def _is_geographic(crs: str) -> bool:
    from pyproj import CRS

    return bool(CRS.from_user_input(crs).is_geographic)
