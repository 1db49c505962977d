"""Tell in the report which synthetic samples a model learnt from, and what they were found to be worth."""

from __future__ import annotations

from collections.abc import Mapping
from html import escape
from typing import Any

from stages.delivery import page
from stages.delivery.numbers import count, percent

_HOW = {
    "none": "no samples", "oversample": "copies of real samples", "interpolate": "between real samples",
    "gan": "by a generator (GAN)",
}  # fmt: skip
_PRIOR = {"labels": "real labels", "drawn": "labels and samples"}


def rare_samples(about: Mapping[str, Any] | None) -> str:
    """Write the section; nothing where no samples were asked for (`stages.formats.synthetic.read_about`)."""
    if not about:
        return ""
    return page.section(
        "Rare classes", _stock(about), page.text(_drawn(about)), _worth(about), page.text(_verdict(about), "small")
    )


def _stock(about: Mapping[str, Any]) -> str:
    rows = [
        [escape(entry["name"]), *(count(entry[key]) for key in ("drawn", "pixels", "patches", "blocks"))]
        for entry in about["classes"]
    ]
    return page.table(["class", "synthetic samples", "training pixels", "patches", "ground blocks"], rows)


def _drawn(about: Mapping[str, Any]) -> str:
    if about["method"] == "none":
        return "No synthetic samples were drawn: they were tried, and did not help."
    if about.get("without"):
        return f"The map's model was trained without the synthetic samples: {about['without']}."
    return (
        f"Beside its labels, the map's model learnt from synthetic samples of the rare classes, {_HOW[about['method']]}"
        ", made from training labels alone. They are in no score and in no area on this page."
    )


def _worth(about: Mapping[str, Any]) -> str:
    rows = []
    for entry in about["table"]:
        seeds = " ".join(f"{100 * score:.1f}" for score in entry["seeds"])
        cells = [page.cell(percent(entry["rare_f1"]), seeds), percent(entry["macro_f1"])]
        rows.append(
            [_HOW[entry["method"]], _PRIOR[entry["prior"]], *cells, percent(entry["overall_accuracy"])]
        )  # fmt: skip
    head = ["samples", "shares held to", "F1, rare classes", "F1, all classes", "overall"]
    return page.table(head, rows, "wide") if rows else ""


def _verdict(about: Mapping[str, Any]) -> str:
    if not about["table"]:
        return ""
    advice = " and ".join(
        f"{_HOW[method]} where shares are held to {_PRIOR[prior]}" for prior, method in about["recommended"].items()
    )
    rare = f" {about['too_rare']}" if about["too_rare"] else ""
    return (
        f"A plain classifier ({about['judge']}) on the validation blocks, mean of {about['seeds']} seeds, below it "
        f"each seed. The simplest that is within one standard error of the best is {advice}.{rare}"
    )
