"""Show which features were chosen and what other ways of choosing came to."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

from stages.delivery import page
from stages.delivery.numbers import count, date_of, percent

#: Names of the methods as people know them.
METHODS = {
    "all": "all features", "lasso": "lasso", "mutual": "mutual information", "greedy": "greedy forward",
    "random": "random", "exhaustive": "every set", "dqn": "agent (deep Q-network)",
}  # fmt: skip


def chosen_features(found: Mapping[str, Any] | None, channels: Sequence[str], step: str = "") -> str:
    """Write the section of a selection, nothing where all features were taken.

    Args:
        found: how they were chosen, as `select` wrote it.
        channels: those that the map's model reads, band or band@date.
        step: length of a step, such as "1 month", "" for acquisition dates.
    """
    if not found:
        return ""
    rows = []
    for row in found["table"]:
        name = escape(METHODS.get(row["method"], row["method"]))
        spread = f"± {percent(row['spread'])}" if row.get("spread") is not None else ""
        validation = "–" if row["validation"] is None else percent(row["validation"])
        rows.append([
            name, count(row["features"]), page.cell(percent(row["inner"]), spread), validation,
            count(round(row["evaluations"])), f"{row['seconds']:.1f}",
        ])  # fmt: skip
    names = [row["method"] for row in found["table"]]
    head = ["chosen by", "features", "inner folds", "validation", "sets scored", "seconds"]
    said = (
        f"{found['k']} of {found['units']} {_units(found['unit'])} were chosen from the training blocks alone, by "
        "folds within them; the shaded way gave those that the map's model reads. No way of choosing has seen the "
        "validation blocks: where the inner score is much above theirs, the search has fitted itself to the folds. "
        f"Both are the {_measure(found['measure'])} of a quick Gaussian classifier, a mean over the folds of "
        "the labels; random is the mean of ten draws."
    )
    return page.section(
        "Chosen features",
        page.text(f"The map's model reads {listed(channels, step)}."),
        page.table(head, rows, "wide", names.index(found["method"])),
        page.text(said, "small"),
    )


def listed(channels: Sequence[str], step: str = "") -> str:
    """Name channels band by band, with the dates of each."""
    dates: dict[str, list[str]] = {}
    for channel in channels:
        band, _, date = channel.partition("@")
        dates.setdefault(band, []).append(date_of(date, step) if date else "")
    return ", ".join(f"{band} of {' and '.join(told)}" if told[0] else band for band, told in dates.items())


def _measure(name: str) -> str:
    return "mean of overall and balanced accuracy" if name == "both_accuracies" else name.replace("_", " ")


def _units(unit: str) -> str:
    return {"feature": "features (a band at a step)", "band": "bands", "step": "steps"}[unit]
