"""Tell whether synthetic samples help: F1 of the rare classes by method and seed, and the simplest that is enough."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

import numpy as np

from stages.accuracy.confusion import f1, macro_f1, overall_accuracy

#: The method that draws nothing.
NONE: Final = "none"


def row(method: str, prior: str, matrices: Sequence[np.ndarray], rare: Sequence[int]) -> dict[str, Any]:
    """Tell what a method came to: F1 of the rare classes, macro F1 and accuracy, means over seeds.

    ``matrices`` has one (class, class) a seed, pooled over folds. ``seeds`` are the rare F1 of every seed, ``spread``
    their standard deviation; what no class defines is None.
    """
    stack = np.stack(matrices)
    by_class = f1(stack)[:, list(rare)]
    known = ~np.isnan(by_class)
    by_seed = np.where(known, by_class, 0.0).sum(axis=1) / np.maximum(known.sum(axis=1), 1)
    told = bool(known.any(axis=1).all())
    classes = [None if np.isnan(values).any() else float(values.mean()) for values in by_class.T]
    return {
        "method": method, "prior": prior, "rare_f1": float(by_seed.mean()) if told else None,
        "spread": float(by_seed.std(ddof=1)) if told and len(by_seed) > 1 else 0.0,
        "seeds": by_seed.tolist() if told else [], "classes": classes,
        "macro_f1": float(macro_f1(stack).mean()), "overall_accuracy": float(overall_accuracy(stack).mean()),
    }  # fmt: skip


def recommended(table: Sequence[Mapping[str, Any]], prior: str) -> str:
    """Name the simplest method within one standard error of the best, by the F1 of the rare classes.

    The rule of Breiman et al. (1984): a gain that another seed would not show is none. The table's order goes from
    the simplest method to the most laborious; no samples are the same under either prior.
    """
    known = [entry for entry in table if entry["rare_f1"] is not None]
    rows = [entry for entry in known if entry["prior"] == prior or entry["method"] == NONE]
    if not rows:
        return NONE
    best = max(rows, key=lambda entry: float(entry["rare_f1"]))
    error = best["spread"] / max(len(best["seeds"]), 1) ** 0.5
    return str(next(entry["method"] for entry in rows if entry["rare_f1"] >= best["rare_f1"] - error))


def shown(table: Sequence[Mapping[str, Any]]) -> str:
    """Lay the table out, one line a method and prior."""
    lines = [f"{'on validation':14}{'prior':>8}{'rare F1':>9}{'+-':>8}{'macro F1':>10}{'overall':>9}"]
    for entry in table:
        rare = "-" if entry["rare_f1"] is None else f"{entry['rare_f1']:.3f}"
        lines.append(
            f"{entry['method']:14}{entry['prior']:>8}{rare:>9}{entry['spread']:>8.3f}{entry['macro_f1']:>10.3f}"
            f"{entry['overall_accuracy']:>9.3f}"
        )
    return "\n".join(lines)
