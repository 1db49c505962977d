"""Choose the bands and dates that the classifiers read."""

from __future__ import annotations

import json
import logging
import shutil
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from pydantic import Field

from stages import progress
from stages.accuracy.merit import DESCRIPTION, Criterion, measure_of
from stages.errors import SettingError
from stages.formats.bands import Season, features_of, write_bands
from stages.formats.samples import Role, Samples
from stages.formats.tiles import Tiles
from stages.settings import Settings

if TYPE_CHECKING:
    from stages.training.features.scores import Pixels, Scorer
    from stages.training.features.search import Method

_logger = logging.getLogger(__name__)

#: A killed run goes on with the folds it finished.
RESUMES = True
#: Work in progress inside the stage's folder; gone from the finished artifact.
WORK = ".work"
#: Rows of the table beside the methods.
ALL, RANDOM, EXHAUSTIVE = "all", "random", "exhaustive"


class Config(Settings):
    """How many features are chosen, by which method, and what it is compared with.

    A feature is a band at a step of the season, so that what is chosen is found again in other years.
    """

    method: Literal["none", "dqn", "lasso", "mutual", "greedy", "random", "exhaustive"] = Field(
        "none",
        description="How to choose; none takes every band of every date. dqn: an agent learns what each feature adds; "
        "lasso: the first to enter its path; mutual: those that tell most of the class each by itself; greedy: one "
        "after another; exhaustive: the best of all sets",
    )
    k: int = Field(6, ge=1, description="How many units are chosen")
    unit: Literal["feature", "band", "step"] = Field(
        "feature", description="What is chosen as a whole: a band at one step, a band at every step, or a step"
    )
    cost: dict[str, float] = Field(
        default_factory=dict,
        description="Band (or band@date) -> what reading it takes beside the 1 of others; dqn, greedy and exhaustive "
        "weigh the score against it",
    )
    choose_by: Criterion = Field("both_accuracies", description=DESCRIPTION)
    folds: int = Field(
        5, ge=2, le=50, description="Inner folds of training blocks by which sets of features are scored"
    )
    pixels: int = Field(5_000, ge=100, le=1_000_000, description="Training pixels by which they are scored, at most")
    compare: bool = Field(True, description="Try all methods, and random choices, and tell what each is worth")
    most: int = Field(20_000, ge=1, description="Sets that an exhaustive search may score; beyond it is left out")
    episodes: int = Field(1_000, ge=20, le=1_000_000, description="Sets that the agent of dqn chooses while it learns")
    seed: int = Field(0, ge=0, le=2**31, description="Seed of the inner folds, the pixels and the methods")


@dataclass(frozen=True)
class Job:
    """What is the same in all folds: the channels of every unit, and its cost, float64 (unit,), 1 on average."""

    tiles: Tiles
    samples: Samples
    units: list[np.ndarray]
    costs: np.ndarray
    config: Config


@dataclass(frozen=True)
class Row:
    """What one method came to in one fold.

    ``channels`` are the names of what it chose; ``inner`` is the score by the inner folds, ``validation`` that on the
    validation blocks, which no method has seen (None where there are none); ``spread`` the deviation of both where
    they are means of several draws; ``cost`` the mean cost of a unit.
    """

    method: str
    channels: tuple[str, ...]
    inner: float
    validation: float | None
    evaluations: int
    seconds: float
    cost: float = 1.0
    spread: tuple[float, float | None] | None = None


def run(tiles: Path, samples: Path, out: Path, config: Config) -> None:
    """Write the channels that are read, chosen anew for every fold without its validation and test blocks.

    Raises:
        SettingError: more is to be chosen than there is, a cost is of no band, or a search would never end.
        LabelError: the training labels lie in one ground block.
        LeakError: a held-out pixel or label would reach the search.
    """
    store, labels = Tiles(tiles), Samples(samples)
    if config.method == "none":
        write_bands(out, store.channels)
        _logger.info("all %d channels for %d classes (method none)", len(store.channels), len(labels.classes))
        return
    if store.cells is not None:
        raise SettingError(
            "select reads single pixels, but the area is a collection of chips; set select.method to none."
        )
    units = units_of(store, config.unit)
    job = Job(store, labels, units, costs_of(store, units, config.cost), config)
    check(job)
    folds: list[int | None] = [*range(labels.folds), *([None] if labels.refitted else [])]
    tables = []
    for number, fold in enumerate(folds):
        progress.report("select", number, len(folds))
        tables.append(_resumed(out / WORK / f"{number}.json", partial(choose, job, fold)))
    progress.report("select", len(folds), len(folds))
    chosen = [next(row.channels for row in rows if row.method == config.method) for rows in tables]
    season = Season(store.steps, features_of(store, chosen[-1]))
    about: dict[str, Any] = {
        "method": config.method, "k": config.k, "unit": config.unit, "units": len(units), "seed": config.seed,
        "measure": config.choose_by, "table": summary(tables[: labels.folds]),
    }  # fmt: skip
    tried = [[asdict(row) for row in rows] for rows in tables]
    write_bands(out, chosen[-1], chosen[: labels.folds], season=season, about=about, tried=tried)
    shutil.rmtree(out / WORK, ignore_errors=True)
    _logger.info("%s chose %s\n%s", config.method, ", ".join(chosen[-1]), shown(about["table"]))


def units_of(tiles: Tiles, unit: str) -> list[np.ndarray]:
    """List the places of the channels that are chosen together, unit by unit."""
    places = np.arange(len(tiles.channels)).reshape(tiles.steps, len(tiles.bands))
    return list({"feature": places.reshape(-1, 1), "band": places.T, "step": places}[unit])


def costs_of(tiles: Tiles, units: Sequence[np.ndarray], costs: dict[str, float]) -> np.ndarray:
    """Give the cost of every unit, float64 (unit,), 1 on average.

    Raises:
        SettingError: a cost is named for what the tiles do not hold, or is not above 0.
    """
    for name, cost in costs.items():
        if name not in (*tiles.bands, *tiles.channels):
            raise SettingError(
                f"select.cost names {name}, but the tiles hold the bands {', '.join(tiles.bands)}; name one of these, "
                "or a band@date."
            )
        if cost <= 0:
            raise SettingError(f"select.cost.{name} is {cost:g}; expected a number above 0.")
    by_channel = np.array([
        costs.get(name, costs.get(tiles.bands[place % len(tiles.bands)], 1.0))
        for place, name in enumerate(tiles.channels)
    ])  # fmt: skip
    found = np.array([by_channel[unit].sum() for unit in units])
    scaled: np.ndarray = found / found.mean()
    return scaled


def check(job: Job) -> None:
    """Refuse to choose more than there is, and to search what cannot be searched.

    Raises:
        SettingError: it is so.
    """
    from stages.training.features.search import check_exhaustive

    tiles, config, units = job.tiles, job.config, len(job.units)
    if config.k > units:
        steps = f" at {tiles.steps} steps" if tiles.steps > 1 else ""
        raise SettingError(
            f"select.k is {config.k}, but there are {units} to choose from ({len(tiles.bands)} bands{steps}, chosen by "
            f"the {config.unit}); set it to at most {units}, or select.method to none."
        )
    if config.method == EXHAUSTIVE:
        check_exhaustive(units, config.k, config.most)


def choose(job: Job, fold: int | None) -> list[Row]:
    """Choose by every method that is asked for, from the training labels of one fold (None: all labels) alone."""
    from stages.training.features.scores import Scorer, draw, fold_blocks
    from stages.training.features.search import at_random
    from stages.training.ground import Split

    config = job.config
    split = Split(job.tiles, job.samples, job.tiles.channels, fold)
    pixels = draw(split, Role.TRAIN, config.pixels, config.seed)
    test = draw(split, Role.VALIDATION, config.pixels, config.seed) if fold is not None else None
    folds = fold_blocks(pixels, split.classes, config.folds, config.seed)
    measure = measure_of(config.choose_by)
    scorer = Scorer(pixels, folds, split.classes, measure, groups=job.units, costs=job.costs)
    rows = [_row(job, ALL, scorer.apart(), [tuple(range(len(job.units)))], test)]
    for name, method in methods(job).items():
        begun, own = time.perf_counter(), scorer.apart()
        # What is told of random choices is their mean; the first of them is what the method gives.
        sets = at_random(own, config.k, config.seed) if name == RANDOM else [method(own, config.k, config.seed)]
        rows.append(replace(_row(job, name, own, sets, test), seconds=round(time.perf_counter() - begun, 3)))
        _logger.debug("fold %s: %s", fold, rows[-1])
    return rows


def methods(job: Job) -> dict[str, Method]:
    """Name the methods to try; exhaustive search only where it ends."""
    from math import comb

    from stages.training.features.search import METHODS

    config = job.config
    known: dict[str, Method] = {**METHODS, "dqn": partial(_by_agent, config.episodes)}
    if not config.compare:
        return {config.method: known[config.method]}
    ends = comb(len(job.units), config.k) <= config.most
    return {name: method for name, method in known.items() if name != EXHAUSTIVE or ends}


def _by_agent(episodes: int, scorer: Scorer, k: int, seed: int) -> tuple[int, ...]:
    """Let an agent choose; what it learns in is imported only where it is asked for."""
    from stages.training.features.choosing import by_agent

    return by_agent(scorer, k, seed, episodes=episodes)


def _row(job: Job, name: str, scorer: Scorer, sets: Sequence[tuple[int, ...]], test: Pixels | None) -> Row:
    """Score what a method chose; of several sets the mean is told, and the channels of the first."""
    inner = [scorer.score(units) for units in sets]
    held = [scorer.held_out(units, test) for units in sets] if test is not None and len(test) else []
    return Row(
        name, tuple(job.tiles.channels[i] for i in scorer.features(sets[0])), float(np.mean(inner)),
        float(np.mean(held)) if held else None, scorer.evaluations, 0.0,
        float(np.mean([scorer.costs[list(units)].mean() for units in sets])),
        (float(np.std(inner)), float(np.std(held)) if held else None) if len(sets) > 1 else None,
    )  # fmt: skip


def _resumed(path: Path, work: partial[list[Row]]) -> list[Row]:
    """Do the work of a fold, unless a killed run has done it."""
    if not path.is_file():
        found = [asdict(row) for row in work()]
        path.parent.mkdir(parents=True, exist_ok=True)
        aside = path.with_suffix(".new")
        aside.write_text(json.dumps(found))
        aside.replace(path)
    return [Row(**{**row, "channels": tuple(row["channels"])}) for row in json.loads(path.read_text())]


def summary(tables: Sequence[Sequence[Row]]) -> list[dict[str, Any]]:
    """Average every method over the folds: a row a method."""
    found = []
    for rows in zip(*tables, strict=True):
        tested = [row.validation for row in rows if row.validation is not None]
        spreads = [row.spread for row in rows if row.spread is not None]
        found.append({
            "method": rows[0].method, "features": len(rows[0].channels),
            "inner": float(np.mean([row.inner for row in rows])),
            "validation": float(np.mean(tested)) if tested else None,
            "spread": float(np.mean([spread[0] for spread in spreads])) if spreads else None,
            "evaluations": float(np.mean([row.evaluations for row in rows])),
            "seconds": float(np.mean([row.seconds for row in rows])),
            "cost": float(np.mean([row.cost for row in rows])),
        })  # fmt: skip
    return found


def shown(table: Sequence[dict[str, Any]]) -> str:
    """Lay the table out, one line a method."""
    lines = [f"{'':12}{'features':>9}{'inner':>8}{'validation':>12}{'evaluations':>13}{'seconds':>9}{'cost':>7}"]
    for row in table:
        validation = "-" if row["validation"] is None else f"{row['validation']:.3f}"
        note = f"  +- {row['spread']:.3f}, mean of the draws" if row["spread"] is not None else ""
        lines.append(
            f"{row['method']:12}{row['features']:>9}{row['inner']:>8.3f}{validation:>12}{row['evaluations']:>13,.0f}"
            f"{row['seconds']:>9.2f}{row['cost']:>7.2f}{note}"
        )
    return "\n".join([*lines, "means of a fold; no method sees its validation blocks"])
