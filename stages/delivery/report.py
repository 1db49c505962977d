"""Write the report: one page that shows the map, what it is worth and where it comes from."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from html import escape
from typing import Any

import numpy as np

from stages.delivery import page
from stages.delivery.charts import ClassSeries, bars_chart, series_chart
from stages.delivery.chosen_features import chosen_features
from stages.delivery.legend import Legend
from stages.delivery.numbers import count, date_of, factor, hectares, percent, period_of, range_of, value_of
from stages.delivery.observations import CLEAR, FILLED, Observed
from stages.delivery.rare_samples import rare_samples
from stages.formats.weights import ModelCard

MAPPED_AREA = "Mapped area is counted from the map's pixels; it is no unbiased estimate of the true area."
_RANDOM = (
    "The labels were divided at random, as was asked for, so test pixels lie beside training pixels that look like "
    "them: these scores are too good for new ground."
)
_MEASURES = {"overall_accuracy": "overall accuracy", "balanced_accuracy": "balanced accuracy"}


@dataclass(frozen=True)
class SieveEffect:
    """What merging small patches changed: share of all mapped pixels, and agreement on the test blocks.

    ``before`` and ``after`` are shares right of ``pixels`` labelled pixels, None where the area has no labels;
    ``learnt`` is true where the map's model has learnt from those labels too, so that both are too high.
    """

    minimum: float  # hectares
    changed: float
    pixels: int = 0
    before: float | None = None
    after: float | None = None
    learnt: bool = False

    def sentence(self) -> str:
        """Say the effect in words."""
        if not self.minimum:
            return "No patch was merged: the polygons are the raster's patches (export.min_area is 0)."
        said = (
            f"In the polygons, patches below {hectares(self.minimum)} ha are merged into their largest neighbour; "
            f"the raster is left as it is. This changes {percent(self.changed)} of the mapped pixels"
        )
        if self.before is None or self.after is None:
            return f"{said}."
        seen = ", which the map's model has learnt from" if self.learnt else ""
        return (
            f"{said} and moves the agreement on {count(self.pixels)} labelled pixels of the test blocks{seen} "
            f"from {percent(self.before)} to {percent(self.after)}."
        )


@dataclass(frozen=True)
class Report:
    """All that the page tells.

    ``pictures`` by name: map, quicklook, confidence, parts, curves, spectra, clear, filled; any may be missing.
    ``dates`` are those that are mapped, with the length of a ``step`` where they were regularised; by default the
    model's own. ``shown_date`` is the one that the quicklook shows; ``split_by`` is what the labels were divided by.
    """

    title: str
    attribution: str
    legend: Legend
    card: ModelCard
    areas: tuple[float, ...]  # mapped hectares of every class
    sieve: SieveEffect
    scores: dict[str, Any] | None
    pictures: Mapping[str, bytes]
    notes: tuple[str, ...] = ()
    shown_bands: tuple[str, ...] = ()
    folds: int = 0
    provenance: Mapping[str, str] = field(default_factory=dict)
    dates: tuple[str, ...] = ()
    step: str = ""
    shown_date: str = ""
    split_by: str = ""
    series: ClassSeries | None = None
    observed: Observed | None = None
    #: Files of further layers, and what each holds.
    layers: tuple[tuple[str, str], ...] = ()
    #: Accuracy under attack (`stages.formats.attacks`), with the picture `attack`.
    attacks: Mapping[str, Any] | None = None

    @property
    def mapped_dates(self) -> tuple[tuple[str, ...], str]:
        """The dates that are mapped and the length of a step."""
        return (self.dates, self.step) if self.dates else (self.card.dates, self.card.step)

    @property
    def random_split(self) -> bool:
        """Whether labels were divided without regard to the ground they lie on."""
        return "random" in (self.split_by, (self.scores or {}).get("split_by"))

    @property
    def measured(self) -> dict[str, Any]:
        """The scores of the map's model on this area, empty where there are none."""
        models = (self.scores or {}).get("models", {})
        found: dict[str, Any] = models.get(self.card.name) or models.get((self.scores or {}).get("best"), {})
        return found


def render(report: Report) -> str:
    """Write the page as HTML, with everything it needs inside."""
    title = report.title or "Classified map"
    return page.document(
        title,
        [
            f"<header>\n<h1>{escape(title)}</h1>\n{page.text(_subtitle(report), 'lead')}\n</header>",
            _headline(report),
            _map(report),
            _comparison(report),
            _classes(report),
            _confusion(report),
            _seasons(report),
            _independent(report),
            chosen_features(report.card.metrics.get("selection"), report.card.channels, report.card.step),
            rare_samples(report.card.metrics.get("synthetic")),
            _attacks(report),
            _learning(report),
            _series(report),
            _observed(report),
            page.section("What to know", *(page.text(note) for note in (report.sieve.sentence(), *report.notes))),
            _origin(report),
        ],
    )


def _subtitle(report: Report) -> str:
    card = report.card
    dates, step = report.mapped_dates
    told = ""
    if len(dates) > 1:
        told = f" {'in' if step else 'on'} {period_of(dates, step)}"
    elif dates[0]:
        told = f" of {date_of(dates[0], step)}"
    return (
        f"{len(report.legend)} classes, mapped by the model “{card.name}” from {len(card.channels)} "
        f"{'channel' if len(card.channels) == 1 else 'channels'}{told}."
    )


def _headline(report: Report) -> str:
    area = (hectares(sum(report.areas)), "hectares mapped", f"{len(report.legend)} classes")
    measured, scores = report.measured, report.scores
    if not measured or not scores:
        return page.figures([*_elsewhere(report.card), area]) + page.text(_elsewhere_note(report.card), "warning")
    overall, balanced = measured.get("overall_accuracy"), measured.get("balanced_accuracy")
    reference = scores.get("reference") or "the reference labels"
    blocks = scores.get("blocks")
    figures = page.figures(
        [
            (percent(value_of(overall)), f"agreement with {reference}", _interval_note(overall)),
            (percent(value_of(balanced)), "balanced over the classes", _interval_note(balanced)),
            (
                count(scores.get("pixels")),
                "test pixels",
                "held out at random"
                if report.random_split
                else f"in {count(blocks)} held-out ground blocks"
                if blocks
                else "held out",
            ),
            area,
        ]
    )
    estimates = scores.get("estimates") or "expected agreement with the reference at unlabelled ground inside this area"
    said = (
        "Agreement is the share of test pixels on which map and reference labels name the same class. It estimates "
        f"the {estimates}; errors of the reference and real change count as errors of the map."
    )
    warning = scores.get("warning")
    warnings = [_RANDOM if report.random_split else "", _sentence(str(warning)) if warning else ""]
    return "\n".join([figures, page.text(said, "small"), *(page.text(words, "warning") for words in warnings if words)])


def _interval_note(score: Any) -> str:
    spread = range_of(score)
    return f"95 % interval {spread}" if spread else ""


def _elsewhere(card: ModelCard) -> list[tuple[str, str, str]]:
    """Show the scores that came with a model from elsewhere."""
    metrics = _metrics(card)
    found = [(name, value_of(metrics.get(key))) for key, name in _MEASURES.items()]
    return [(percent(value), name, "measured elsewhere") for name, value in found if value is not None]


def _metrics(card: ModelCard) -> dict[str, Any]:
    """Take the scores that travel with a model: those of its validation blocks."""
    found: dict[str, Any] = card.metrics.get("validation") or card.metrics
    return found


def _elsewhere_note(card: ModelCard) -> str:
    if _elsewhere(card):
        where = " on the validation blocks that it was trained with" if "validation" in card.metrics else ""
        return f"Measured elsewhere: no labels were scored on these scenes; the scores are those of the model{where}."
    return "Not measured: no labels were scored on these scenes, and the model came without scores."


def _map(report: Report) -> str:
    total = sum(report.areas) or 1.0
    rows = [
        [page.swatch(entry.color, entry.name), hectares(area), percent(area / total)]
        for entry, area in zip(report.legend, report.areas, strict=True)
    ]
    beside = page.table(["class", "hectares", "share"], rows, "wide") + page.text(MAPPED_AREA, "small")
    credit = f"Data: {report.attribution}" if report.attribution else "The map"
    return page.grid("map", page.picture(report.pictures.get("map"), credit), f"<div>{beside}</div>")


def _comparison(report: Report) -> str:
    models: dict[str, Any] = (report.scores or {}).get("models", {})
    if not models:
        return ""
    names = list(models)
    rows = []
    for name, found in models.items():
        shares = [found.get(key) for key in ("overall_accuracy", "balanced_accuracy", "macro_f1")]
        cells = [page.cell(percent(value_of(score)), range_of(score)) for score in shares]
        coefficients = [factor(value_of(found.get("kappa"))), percent(found.get("ece"))]
        parts = [percent(value_of((found.get(part) or {}).get("overall_accuracy"))) for part in ("inner", "boundary")]
        rows.append([escape(name), *cells, *coefficients, *parts])
    head = ["model", "overall", "balanced", "macro F1", "kappa", "calibration error", "inner", "boundary"]
    chosen = names.index(report.card.name) if report.card.name in names else None
    said = (
        "Every model was trained on the same split and scored on the same pixels; the shaded row makes the map. "
        "Below each score stands its 95 % interval from resampling ground blocks. Inner pixels have one reference "
        "class in their 3 × 3 neighbourhood, boundary pixels several. The calibration error is the mean gap between "
        "confidence and agreement."
    )
    pooled = str((report.scores or {}).get("pooled") or "")
    return page.section(
        "All models", page.table(head, rows, "wide", chosen), page.text(said, "small"),
        page.text(_sentence(pooled), "small") if pooled else "", page.text(_dropped(report), "small"),
    )  # fmt: skip


def _dropped(report: Report) -> str:
    pixels = (report.scores or {}).get("dropped_pixels")
    score = report.measured.get("overall_accuracy_with_dropped")
    if not pixels or value_of(score) is None:
        return ""
    return (
        f"With the {count(pixels)} test pixels of dropped classes counted as errors, agreement is "
        f"{percent(value_of(score))} ({range_of(score)})."
    )


def _classes(report: Report) -> str:
    found: dict[str, Any] = report.measured.get("classes", {})
    spreads: dict[str, Any] = report.measured.get("intervals", {})
    rows = []
    for entry in report.legend:
        row = found.get(entry.name)
        if row is None:
            continue
        measures = [
            page.cell(percent(row.get(name)), _spread(spreads.get(entry.name, {}).get(name)))
            for name in ("precision", "recall", "f1", "iou")
        ]
        mapped, reference = row.get("mapped_ha"), row.get("reference_ha")
        ratio = row.get("ratio") or (mapped / reference if mapped is not None and reference else None)
        areas = [count(row.get("pixels")), hectares(mapped), hectares(reference), factor(ratio)]
        rows.append([page.swatch(entry.color, entry.name), *measures, *areas])
    if not rows:
        return ""
    head = ["class", "precision", "recall", "F1", "IoU", "test pixels", "mapped ha", "reference ha", "ratio"]
    said = (
        "On the test blocks. Precision is the share of the mapped class that the reference confirms, recall the share "
        "of the reference class that is mapped; a ratio above 1 means that the class is mapped too often."
    )
    return page.section("Class by class", page.table(head, rows, "wide"), page.text(said, "small"))


def _spread(ends: Any) -> str:
    """Both ends of a class's interval, shorter than `range_of`: nine columns have to fit."""
    if not ends or ends[0] is None or ends[1] is None:
        return ""
    return f"{100 * ends[0]:.0f}–{100 * ends[1]:.0f}"


def _confusion(report: Report) -> str:
    matrix: list[list[int]] = report.measured.get("confusion", [])
    if len(matrix) != len(report.legend):
        return ""
    rows = []
    for i, (entry, counts) in enumerate(zip(report.legend, matrix, strict=True)):
        total = sum(counts)
        cells = []
        for j, number in enumerate(counts):
            share = number / total if total else 0.0
            cells.append(page.shaded(percent(share) if total else "–", count(number), share, i == j))
        rows.append([page.swatch(entry.color, entry.name), *cells])
    head = ["reference ↓   mapped →", *(entry.name for entry in report.legend)]
    said = "Each row shows where the pixels of one reference class went, in percent of the row and in pixels."
    return page.section("Confusion matrix", page.table(head, rows, "confusion"), page.text(said, "small"))


def _seasons(report: Report) -> str:
    """Show the scores of every season, where they were tested apart."""
    found: Mapping[str, Any] = report.measured.get("by_season") or (report.scores or {}).get("by_season") or {}
    rows = []
    for season, scores in found.items():
        own = (scores.get("models") or {}).get(report.card.name, scores)
        shares = [own.get(key) for key in ("overall_accuracy", "balanced_accuracy", "macro_f1")]
        pixels = count(own.get("pixels", scores.get("pixels")))
        rows.append(
            [escape(season), *(page.cell(percent(value_of(score)), range_of(score)) for score in shares), pixels]
        )
    if not rows:
        return ""
    said = "The map's model on the test pixels of each season apart."
    head = ["season", "overall", "balanced", "macro F1", "test pixels"]
    return page.section("Season by season", page.table(head, rows), page.text(said, "small"))


def _independent(report: Report) -> str:
    apart = (report.scores or {}).get("independent")
    found = ((apart or {}).get("models") or {}).get(report.card.name)
    if not apart or not found:
        return ""
    figures = [
        (percent(value_of(found.get(key))), name, _interval_note(found.get(key)))
        for key, name in (("overall_accuracy", "agreement"), ("balanced_accuracy", "balanced over the classes"))
    ]
    warning = apart.get("warning")
    return page.section(
        "Independent test set",
        page.figures([*figures, (count(apart.get("pixels")), "independent test pixels", "")]),
        page.text(_sentence(str(warning)), "warning") if warning else "",
        page.text("These labels come from another source and were kept out of all training.", "small"),
    )


def _attacks(report: Report) -> str:
    """Show how much of the accuracy is left when the scene is changed to fool the models."""
    found = report.attacks
    if not found:
        return ""
    rows = []
    for name, model in found["models"].items():
        by = "" if model["by"] == name else f"by transfer from {model['by']}"
        clean = percent(model["clean"]["overall"])
        for kind, measured in model["attacks"].items():
            cells = [page.cell(percent(row["overall"]), percent(row["balanced"])) for row in measured]
            rows.append([page.cell(f"{name}, {kind}", "" if kind == "noise" else by), clean, *cells])
    head = ["model and change", "unchanged", *(f"{strength:g}" for strength in found["strengths"])]
    said = (
        f"Agreement on {count(found['pixels'])} test pixels, below it balanced over the classes, after every value "
        "was changed by at most so many deviations of its band: at random (noise), and by attacks that know the model "
        "and the labels. What an attack takes beyond noise of the same strength is how easily the model is fooled; it "
        "says nothing of the map where nobody tampers with the scene."
    )
    patch = found.get("patch")
    return page.section(
        "Under attack",
        page.picture(report.pictures.get("attack"), "Accuracy by strength, and one window of the scene with its map."),
        page.table(head, rows, "wide"),
        page.text(said, "small"),
        page.text(patch_sentence(patch), "small") if patch else "",
    )


def patch_sentence(patch: Mapping[str, Any]) -> str:
    """Say what a patch did to the map beside it."""
    by = "" if patch["by"] == patch["model"] else f" made to fool {patch['by']}"
    return (
        f"A patch of {patch['side']} × {patch['side']} pixels{by}, of values that the ground has and tried at random "
        f"places of the test blocks, turns {percent(patch['patched'])} of the pixels within {patch['reach']} of it "
        f"that are no {patch['target']} into {patch['target']} ({patch['model']}); without it they are "
        f"{percent(patch['without'])}, beside the same patch with its pixels shuffled {percent(patch['shuffled'])}."
    )


def _learning(report: Report) -> str:
    shown = report.pictures
    ground = (
        "In which fold each ground block was tested; every labelled block is a test block once." if report.folds else
        "Which ground was for training, validation and test."
    )  # fmt: skip
    scene = _shown(report.shown_bands, date_of(report.shown_date, report.step))
    curves = "Loss by epoch on the training and the validation blocks."
    spectra = "Mean of every class in every channel, over its training pixels."
    return page.section(
        "Scene and samples",
        page.grid(
            "pair",
            page.picture(shown.get("quicklook"), scene),
            page.picture(shown.get("parts"), ground),
            page.picture(shown.get("confidence"), "How sure the model is of the class it names."),
            page.picture(shown.get("spectra"), spectra),
        ),
        page.picture(shown.get("curves"), curves, "plot"),
    )


def _series(report: Report) -> str:
    """Show the mean series of every class with its spread, a chart a band."""
    series = report.series
    if series is None:
        return ""
    seasons = f" All {series.seasons} seasons are taken together." if series.seasons > 1 else ""
    said = (
        "Each line is the mean of a class over its training pixels, the shade around it one standard deviation to "
        f"either side.{seasons}"
    )
    shown = [
        (entry.color, entry.name)
        for entry, rows in zip(report.legend, series.means, strict=True)
        if np.isfinite(rows).any()
    ]
    kind = "charts long" if series.is_long else "charts"
    charts = [page.figure(series_chart(series, band, report.legend), series.bands[band]) for band in series.order()]
    return page.section("Each class through time", page.text(said), page.key(shown), page.grid(kind, *charts))


def _observed(report: Report) -> str:
    """Show how often the ground was seen and what was filled."""
    observed, shown = report.observed, report.pictures
    if observed is None:
        return ""
    bars = ""
    if observed.clear[1:].astype(bool).sum() > 1:
        counts = observed.clear.copy()
        counts[0] = 0
        drawn = bars_chart(counts, "Share of the pixels by their number of clear observations")
        bars = page.grid("charts bars", page.figure(drawn, "Pixels by their number of clear observations"))
    return page.section(
        "Clear observations",
        *(page.text(sentence) for sentence in observed.sentences()),
        page.grid(
            "pair",
            page.picture(shown.get("clear"), "Clear observations of every pixel; white was never clear."),
            page.picture(shown.get("filled"), "Share of the steps that were filled from other dates.") or bars,
        ),
        bars if shown.get("filled") else "",
    )


def _shown(bands: tuple[str, ...], date: str = "") -> str:
    scene = f"The scene of {date}" if date else "The scene"
    if bands == ("red", "green", "blue"):
        return f"{scene} in natural colours."
    if len(set(bands)) == 1:
        return f"{scene}: channel {bands[0]}."
    return f"{scene}; red, green and blue show {', '.join(bands)}."


def _origin(report: Report) -> str:
    card = report.card
    settings = "; ".join(f"{name} {_plain(value)}" for name, value in sorted(card.settings.items()))
    entries = [
        ("data", report.attribution),
        ("model's training data", card.attribution if card.attribution != report.attribution else ""),
        ("model", f"{card.name}, {card.fingerprint}"),
        ("channels", _channels(report.card)),
        ("dates learnt from", "" if report.mapped_dates[0] == card.dates else period_of(card.dates, card.step)),
        ("model settings", settings),
        *report.provenance.items(),
    ]
    files = [
        ("classes.tif", "class codes, Cloud-Optimized GeoTIFF with colours and names"),
        ("confidence.tif", "confidence of every pixel in percent"),
        *report.layers,
        (CLEAR, "number of clear observations of every pixel" if report.observed else ""),
        (FILLED, "share of filled steps in percent" if report.observed and report.observed.any_filled else ""),
        ("classes.gpkg", "polygons with class, code and hectares (mapped area)"),
        ("classes.qml", "QGIS style of both"),
        ("legend.png", "the legend as a picture"),
        ("map.png", "the map with its legend as a picture"),
    ]
    return page.section(
        "Licence and origin", page.facts(entries), page.heading("Files of this delivery"), page.facts(files)
    )


def _channels(card: ModelCard) -> str:
    """Name every channel, or of a series with all bands at all dates the bands alone."""
    bands = tuple(dict.fromkeys(card.bands))
    if len(card.dates) > 1 and len(card.channels) == len(bands) * len(card.dates):
        return f"{', '.join(bands)}; each of {period_of(card.dates, card.step)}"
    return ", ".join(card.channels)


def _plain(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value, sort_keys=True)


def _sentence(words: str) -> str:
    """Begin with a capital and end with a full stop."""
    return words[:1].upper() + words[1:].rstrip(".") + "."
