"""Rank the rows of the comparison: scores pooled over folds, differences to the best baselines, paired intervals."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Literal

import numpy as np

from stages.accuracy.bootstrap import block_bootstrap, paired_block_bootstrap
from stages.accuracy.confusion import balanced_accuracy, overall_accuracy
from stages.accuracy.merit import merit

#: The two readings of a model: under the class shares of the training pixels, or with all classes equally frequent.
Reading = Literal["prior", "balanced"]
MEASURES = {"overall_accuracy": overall_accuracy, "balanced_accuracy": balanced_accuracy}
#: Per block: `blocks` (B,), confusion `test` and `validation` (B, K, K).
Found = dict[str, np.ndarray]
#: Whether it is a network, how it is read, and what was found in every assignment.
Ranked = tuple[bool, Reading, list[Found]]


def merged(folds: list[Found]) -> Found:
    """Sum up the folds of one assignment: every block is tested once and may validate several times."""
    blocks = np.unique(np.concatenate([fold["blocks"] for fold in folds]))
    total = {"blocks": blocks}
    for part in ("test", "validation"):
        total[part] = np.zeros((len(blocks), *folds[0][part].shape[1:]), dtype=np.int64)
        for fold in folds:
            total[part][np.searchsorted(blocks, fold["blocks"])] += fold[part]
    return total


def stacked(assignments: list[Found], part: str) -> np.ndarray:
    """Bring the blocks of all assignments side by side: (block, assignment, K, K)."""
    blocks = np.unique(np.concatenate([one["blocks"] for one in assignments]))
    matrices = np.zeros((len(blocks), len(assignments), *assignments[0][part].shape[1:]), dtype=np.int64)
    for place, one in enumerate(assignments):
        matrices[np.searchsorted(blocks, one["blocks"]), place] = one[part]
    return matrices


def table(rows: dict[str, Ranked]) -> dict[str, Any]:
    """Scores of every row, its differences to the best baselines, and the network chosen on validation a reading."""
    test = {name: stacked(found, "test") for name, (_, _, found) in rows.items()}
    validation = {name: _merit(stacked(found, "validation").sum(axis=0)) for name, (_, _, found) in rows.items()}
    entries: dict[str, dict[str, Any]] = {}
    for name, per_block in test.items():
        matrices = per_block.sum(axis=0)
        entries[name] = {"reading": rows[name][1], "validation": validation[name], "confusion": matrices.tolist()}
        for measure, of_each in MEASURES.items():
            low, high = block_bootstrap(per_block, _mean(measure))
            entries[name][measure] = {"value": _mean(measure)(matrices), "low": low, "high": high,
                                      "assignments": of_each(matrices).tolist()}  # fmt: skip
    best = _best_baselines(rows, entries)
    for name, per_block in test.items():
        for measure, rival in best.items():
            entries[name][measure]["against"] = rival
            difference = paired_block_bootstrap(per_block, test[rival], _mean(measure))
            entries[name][measure]["difference"] = dict(zip(("value", "low", "high"), difference, strict=True))
    chosen = {
        reading: max(candidates, key=lambda name: validation[name])
        for reading in ("prior", "balanced")
        if (candidates := [name for name, (network, read, _) in rows.items() if network and read == reading])
    }
    return {"rows": entries, "best_baseline": best, "chosen_network": chosen}


def _mean(measure: str) -> Any:
    """Mean over the assignments of a measure of the pooled matrices (assignment, K, K)."""
    return lambda matrices: float(np.nanmean(MEASURES[measure](matrices)))


def _merit(matrices: np.ndarray) -> float:
    """Rank rows on validation as `train` does by default: the mean of both accuracies."""
    return merit({measure: _mean(measure)(matrices) for measure in MEASURES}, "both_accuracies")


def _best_baselines(rows: dict[str, Ranked], entries: dict[str, dict[str, Any]]) -> dict[str, str]:
    """Name the best baseline by each measure."""
    baselines = [name for name, (network, _, _) in rows.items() if not network]
    if not baselines:
        return {}
    return {m: max(baselines, key=lambda name, m=m: entries[name][m]["value"]) for m in MEASURES}  # type: ignore[misc]


def markdown(table: dict[str, Any]) -> str:
    """Write the table for people."""
    return "\n".join(_lines(table)) + "\n"


def _lines(table: dict[str, Any]) -> Iterator[str]:
    best = table["best_baseline"]
    yield "| model | overall accuracy | to the best baseline | balanced accuracy | to the best baseline |"
    yield "| --- | --- | --- | --- | --- |"
    for name, entry in table["rows"].items():
        cells = [name + (" (chosen)" if name in table["chosen_network"].values() else "")]
        for measure in MEASURES:
            score, difference = entry[measure], entry[measure].get("difference")
            mark = "**" if name == best.get(measure) else ""
            cells.append(f"{mark}{score['value']:.3f}{mark} ({score['low']:.3f} to {score['high']:.3f})")
            cells.append("" if difference is None or name == best[measure] else signed(difference))
        yield "| " + " | ".join(cells) + " |"
    yield ""
    yield (
        f"{len(table['classes'])} classes, {table['folds']} folds, assignments {', '.join(map(str, table['seeds']))}. "
        + table["note"]
    )
    for reading, name in table["chosen_network"].items():
        yield f"Chosen on validation among the networks ({reading} reading): {name}."


def signed(difference: dict[str, float]) -> str:
    """Write a difference, and say where it is within noise."""
    text = f"{difference['value']:+.3f} ({difference['low']:+.3f} to {difference['high']:+.3f})"
    return text + (", within noise" if difference["low"] <= 0.0 <= difference["high"] else "")
