"""Choose features by what an agent is measured against: filters, lasso, greedy and exhaustive search."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import combinations
from math import comb

import numpy as np

from stages.errors import SettingError
from stages.training.features.scores import Scorer

#: Values of the penalty along the path of the lasso, and the last one as a share of the first.
PENALTIES, SMALLEST = 100, 1e-3
#: Pixels by which mutual information is estimated at most.
PIXELS = 2_000
#: Sets of a random choice whose scores are averaged.
DRAWS = 10

#: Units chosen by a method that looks at the scorer and wants so many of them, with a seed.
Method = Callable[[Scorer, int, int], tuple[int, ...]]


def at_random(scorer: Scorer, k: int, seed: int) -> list[tuple[int, ...]]:
    """Draw `DRAWS` sets of k units."""
    rng = np.random.default_rng((seed, 11))
    return [tuple(sorted(rng.choice(scorer.units, k, replace=False).tolist())) for _ in range(DRAWS)]


def first_at_random(scorer: Scorer, k: int, seed: int) -> tuple[int, ...]:
    """Take the first of the sets of `at_random`."""
    return at_random(scorer, k, seed)[0]


def by_lasso(scorer: Scorer, k: int, _seed: int) -> tuple[int, ...]:
    """Take the first k units that enter the lasso's path (Tibshirani 1996).

    The classes' indicators are regressed together, with one penalty on the norm of each feature's coefficients
    (Obozinski, Taskar and Jordan 2010), so that a feature is in for all classes or for none.
    """
    from sklearn.linear_model import MultiTaskLasso

    values = scorer.pixels.values.T - scorer.pixels.values.mean(axis=1)
    wanted = np.eye(scorer.classes)[scorer.pixels.labels]
    # The same least squares in as many rows as there are features.
    basis, triangle = np.linalg.qr(values)
    answers = basis.T @ (wanted - wanted.mean(axis=0))
    first = np.linalg.norm(triangle.T @ answers, axis=1).max() / len(triangle)
    lasso = MultiTaskLasso(fit_intercept=False, warm_start=True, max_iter=20_000, tol=1e-3)
    strength = np.zeros(scorer.units)
    for penalty in first * np.geomspace(1.0, SMALLEST, PENALTIES):
        if (strength > 0).sum() >= k:
            break
        norms = np.square(lasso.set_params(alpha=penalty).fit(triangle, answers).coef_).sum(axis=0)
        strength = np.array([norms[group].sum() for group in scorer.groups])
    return _strongest(strength, k)


def by_information(scorer: Scorer, k: int, seed: int) -> tuple[int, ...]:
    """Take the k units whose features tell most of the class, each by itself (mutual information, Ross 2014)."""
    from sklearn.feature_selection import mutual_info_classif

    few = np.random.default_rng((seed, 12)).permutation(len(scorer.pixels))[:PIXELS]
    told = mutual_info_classif(scorer.pixels.values[:, few].T, scorer.pixels.labels[few], random_state=seed)
    return _strongest(np.array([told[group].max() for group in scorer.groups]), k)


def greedily(scorer: Scorer, k: int, _seed: int) -> tuple[int, ...]:
    """Add the unit that brings most, k times (forward selection, Whitney 1971)."""
    chosen: list[int] = []
    for _ in range(k):
        rest = [unit for unit in range(scorer.units) if unit not in chosen]
        chosen.append(max(rest, key=lambda unit: scorer.merit([*chosen, unit])))
    return tuple(sorted(chosen))


def exhaustively(scorer: Scorer, k: int, _seed: int) -> tuple[int, ...]:
    """Score every set of k units and take the best."""
    return max(combinations(range(scorer.units), k), key=scorer.merit)


def check_exhaustive(units: int, k: int, most: int) -> None:
    """Refuse a search through more sets than asked for.

    Raises:
        SettingError: there are more.
    """
    if comb(units, k) > most:
        raise SettingError(
            f"select.method exhaustive would score {comb(units, k):,} sets of {k} out of {units}, but select.most is "
            f"{most:,}; take greedy or dqn, or raise select.most."
        )


def _strongest(strength: np.ndarray, k: int) -> tuple[int, ...]:
    order: Sequence[int] = np.argsort(-strength, kind="stable")[:k].tolist()
    return tuple(sorted(order))


#: Searches by their name in the settings; the agent is beside them, in `choosing`.
METHODS: dict[str, Method] = {
    "lasso": by_lasso, "mutual": by_information, "greedy": greedily, "random": first_at_random,
    "exhaustive": exhaustively,
}  # fmt: skip
