"""Compare all models by one protocol: blocked folds, several assignments, paired intervals; goes on where it was.

Every classifier is trained and tested in every fold of every assignment of blocks to folds, on the same labels,
buffer and masks. Confusion matrices are pooled over the folds of an assignment, scores are means over assignments,
and differences get an interval from drawing ground blocks, the same draws for both models.

Each model is read in one of two ways. `prior`: the class most likely under the shares of the training pixels, as
the map shows it. `balanced`: the class most likely if all classes were equally frequent, which trades overall for
balanced accuracy; for the classifiers with balanced weights this is how they were fitted.
"""

from __future__ import annotations

import hashlib
import json
import logging
import shutil
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from pipeline.artifacts import read_manifest
from pipeline.config import Area
from pipeline.fingerprint import Codes, hashed_config, write_whole
from pipeline.runner import run as run_stage
from stages import label, progress, train
from stages.accuracy.bootstrap import block_bootstrap, paired_block_bootstrap
from stages.accuracy.confusion import balanced_accuracy, confusion_by_group, overall_accuracy
from stages.errors import SettingError
from stages.formats.samples import Role, Samples
from stages.formats.tiles import Tiles

if TYPE_CHECKING:
    from stages.training.recipes import Baseline, Recipe

_logger = logging.getLogger(__name__)

FOLDER = "compare"
FOLDS = 5
#: The two readings of a model.
Reading = Literal["prior", "balanced"]
MEASURES = {"overall_accuracy": overall_accuracy, "balanced_accuracy": balanced_accuracy}


@dataclass(frozen=True)
class Row:
    """One model of the table: a classifier, what differs from the area's settings for it, and how it is read."""

    classifier: str
    changes: tuple[tuple[str, Any], ...] = ()
    reading: Reading = "prior"

    @property
    def is_network(self) -> bool:
        """True for the networks, false for the baselines that they are compared with."""
        return self.classifier not in ("majority", "rf", "svm")


def _baselines(name: str) -> dict[str, Row]:
    """Single pixels or hand-made context, without and with class weights."""
    pixel: tuple[tuple[str, Any], ...] = (("windows", ()),)
    balanced: tuple[tuple[str, Any], ...] = (("class_weights", "balanced"),)
    return {
        name: Row(name, pixel),
        f"{name} balanced": Row(name, pixel + balanced, "balanced"),
        f"{name} context": Row(name),
        f"{name} context balanced": Row(name, balanced, "balanced"),
    }


ROWS: dict[str, Row] = {
    "majority": Row("majority"),
    **_baselines("rf"),
    **_baselines("svm"),
    "mlp": Row("mlp"),
    "cnn": Row("cnn"),
    "unet": Row("unet"),
    "mlp read balanced": Row("mlp", reading="balanced"),
    "cnn read balanced": Row("cnn", reading="balanced"),
    "unet read balanced": Row("unet", reading="balanced"),
}


@dataclass(frozen=True)
class Fit:
    """One training of the protocol: an assignment, a fold and a classifier with its settings."""

    area: Area
    seed: int
    fold: int
    row: Row
    samples: Path
    #: Hash of what trains, as it stood when the run began.
    code: str

    @property
    def config(self) -> train.Config:
        """The area's settings of `train`."""
        config = self.area.configs["train"]
        assert isinstance(config, train.Config)
        return config

    @property
    def recipe(self) -> Baseline | Recipe:
        """The classifier's settings: the area's, with the row's changes."""
        return self.config.recipe(self.row.classifier).model_copy(update=dict(self.row.changes))

    @property
    def key(self) -> str:
        """Hash everything that decides the result."""
        parts = [self.code, self.samples.name, self.fold, self.row.classifier, self.config.seed, self.config.choose_by,
                 self.config.precision, self.recipe.model_dump(mode="json")]  # fmt: skip
        return _hash(parts)


def run(area: Area, seeds: tuple[int, ...] = (0, 1, 2), models: tuple[str, ...] | None = None) -> None:
    """Fill the table and write it to `data/<area>/compare/` as compare.json and compare.md.

    Args:
        area: its tiles, classes, label and train settings are used.
        seeds: of the assignments of blocks to folds; one table a number of assignments, the last one counts.
        models: rows of the table; all by default.

    Raises:
        SettingError: a row that there is none of.
    """
    names = models or tuple(ROWS)
    unknown = [name for name in names if name not in ROWS]
    if unknown:
        raise SettingError(f"There is no row {unknown[0]} in the table; the rows are {', '.join(ROWS)}.")
    run_stage(area, "tile")
    folder = area.data / FOLDER
    folder.mkdir(exist_ok=True)
    results: list[dict[str, dict[str, np.ndarray]]] = []
    for seed in seeds:
        results.append(_assignment(area, seed, names))
        table = _table({name: [result[name] for result in results] for name in names})
        table |= {"seeds": list(seeds[: len(results)]), "folds": _folds(area), "classes": _classes(area),
                  "note": _note(area)}  # fmt: skip
        write_whole(folder / "compare.json", json.dumps(table, indent=1))
        text = _markdown(table)
        write_whole(folder / "compare.md", text)
        for line in text.splitlines():
            _logger.info("%s", line)


def _assignment(area: Area, seed: int, names: tuple[str, ...]) -> dict[str, dict[str, np.ndarray]]:
    """Fill one assignment's rows: what `_merged` gives, by the name of the row."""
    from stages.training import classifiers

    samples, code = _samples(area, seed), _hash(_code_of(area, classifiers))
    rows: dict[str, dict[str, np.ndarray]] = {}
    for done, name in enumerate(names):
        folds = []
        for fold in range(_folds(area)):
            progress.report(f"assignment {seed}, {name}", done * _folds(area) + fold, len(names) * _folds(area))
            folds.append(_result(Fit(area, seed, fold, ROWS[name], samples, code)))
        rows[name] = _merged(folds)
        _logger.info("assignment %d: %s", seed, _brief(name, rows[name]))
    return rows


# --- one training ----------------------------------------------------------------------------------------------------


def _folds(area: Area) -> int:
    return int(getattr(area.configs["label"], "folds", None) or FOLDS)


def _classes(area: Area) -> list[str]:
    config = area.configs["label"]
    assert isinstance(config, label.Config)
    return list(config.names)


def _samples(area: Area, seed: int) -> Path:
    """Label the area with one assignment of blocks to folds, unless that stands already."""
    config = area.configs["label"].model_copy(update={"seed": seed, "folds": _folds(area)})
    assert isinstance(config, label.Config)
    tiles = read_manifest(area.data / "tiles")
    assert tiles is not None
    parts = [_code_of(area, label), hashed_config(label, config, area.root), tiles.key]
    folder = area.data / FOLDER / f"samples-{seed}-{_hash(parts)[:12]}"
    if not folder.is_dir():
        aside = folder.with_name("labelling")
        shutil.rmtree(aside, ignore_errors=True)
        aside.mkdir(parents=True)
        label.run(area.data / "tiles", aside, config)
        aside.rename(folder)
    return folder


def _code_of(area: Area, module: Any) -> dict[str, str]:
    return Codes(area.root / "data" / ".code.json").of(module)


def _hash(parts: Any) -> str:
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:24]


def _result(fit: Fit) -> dict[str, np.ndarray]:
    """Test and validation confusion of every block, read from the cache where the training was done before.

    Keys: `blocks` (B,), `test` and `validation` (B, K, K) of the row's reading.
    """
    if fit.row.classifier == "majority":
        return _majority(fit)
    path = fit.area.data / FOLDER / "fits" / f"{fit.key}.npz"
    if not path.is_file():
        _train(fit, path)
    with np.load(path) as stored:
        return _read(stored, fit.row.reading)


def _train(fit: Fit, path: Path) -> None:
    """Train once and keep the calibrated log-probabilities of every validation and test pixel."""
    from stages.training import calibration
    from stages.training.classifiers import fit as fit_classifier
    from stages.training.classifiers import gather_for
    from stages.training.ground import Split

    tiles, samples = Tiles(fit.area.data / "tiles"), Samples(fit.samples)
    split = Split(tiles, samples, tiles.channels, fit.fold)
    work = path.with_suffix(".work")
    ground = train.lay_out(split, work / "ground")
    held = gather_for(fit.row.classifier, fit.recipe, split, Role.VALIDATION)
    task = train.task_of(fit.config, fit.row.classifier, work / "checkpoints")
    fitted = fit_classifier(fit.row.classifier, ground, held, fit.recipe, task)
    logits = fitted.logits(held)
    temperature = calibration.fit_temperature(logits, held.reference)
    found: dict[str, np.ndarray] = {"pixels": ground.pixels(), "temperature": np.array(temperature)}
    for role, pixels in (
        (Role.VALIDATION, held),
        (Role.TEST, gather_for(fit.row.classifier, fit.recipe, split, Role.TEST)),
    ):
        likely = calibration.probabilities(logits if role == Role.VALIDATION else fitted.logits(pixels), temperature)
        found |= {
            f"{role.name.lower()} log-probabilities": np.log(np.maximum(likely, 1e-12)).astype(np.float32),
            f"{role.name.lower()} reference": pixels.reference,
            f"{role.name.lower()} block": pixels.block[pixels.at],
        }
    path.parent.mkdir(parents=True, exist_ok=True)
    aside = path.with_suffix(".new.npz")
    np.savez_compressed(aside, **found)  # type: ignore[arg-type]
    aside.rename(path)
    shutil.rmtree(work, ignore_errors=True)


def _read(stored: Mapping[str, np.ndarray], reading: Reading) -> dict[str, np.ndarray]:
    """Turn stored log-probabilities into confusion matrices by block."""
    pixels = stored["pixels"]
    prior = np.where(pixels > 0, np.log(np.maximum(pixels, 1) / pixels.sum()), 0.0)
    shift = prior if reading == "balanced" else np.zeros_like(prior)
    blocks = np.unique(np.concatenate([stored["test block"], stored["validation block"]]))
    found = {"blocks": blocks}
    for part in ("test", "validation"):
        mapped = (stored[f"{part} log-probabilities"] - shift).argmax(axis=1)
        group = np.searchsorted(blocks, stored[f"{part} block"])
        found[part] = confusion_by_group(stored[f"{part} reference"], mapped, group, len(pixels), len(blocks))
    return found


def _majority(fit: Fit) -> dict[str, np.ndarray]:
    """Give every pixel the most frequent class of the training labels."""
    from stages.training.ground import Split
    from stages.training.held import gather

    tiles, samples = Tiles(fit.area.data / "tiles"), Samples(fit.samples)
    split = Split(tiles, samples, tiles.channels, fit.fold)
    pixels = np.asarray(samples.statistics(fit.fold)["class_pixels"])
    stored: dict[str, np.ndarray] = {"pixels": pixels}
    for part, role in (("test", Role.TEST), ("validation", Role.VALIDATION)):
        held = gather(split, role, 0)
        scores = np.zeros((len(held.reference), len(pixels)))
        scores[:, int(pixels.argmax())] = 1.0
        stored |= {f"{part} log-probabilities": scores, f"{part} reference": held.reference,
                   f"{part} block": held.block[held.at]}  # fmt: skip
    return _read(stored, "prior")


# --- the table -------------------------------------------------------------------------------------------------------


def _merged(folds: list[dict[str, np.ndarray]]) -> dict[str, np.ndarray]:
    """Sum up the folds of one assignment: every block is tested once and may validate several times."""
    blocks = np.unique(np.concatenate([fold["blocks"] for fold in folds]))
    merged = {"blocks": blocks}
    for part in ("test", "validation"):
        merged[part] = np.zeros((len(blocks), *folds[0][part].shape[1:]), dtype=np.int64)
        for fold in folds:
            merged[part][np.searchsorted(blocks, fold["blocks"])] += fold[part]
    return merged


def _stacked(assignments: list[dict[str, np.ndarray]], part: str) -> np.ndarray:
    """Bring the blocks of all assignments side by side: (block, assignment, K, K)."""
    blocks = np.unique(np.concatenate([one["blocks"] for one in assignments]))
    stacked = np.zeros((len(blocks), len(assignments), *assignments[0][part].shape[1:]), dtype=np.int64)
    for place, one in enumerate(assignments):
        stacked[np.searchsorted(blocks, one["blocks"]), place] = one[part]
    return stacked


def _mean(measure: str) -> Any:
    """Mean over the assignments of a measure of the pooled matrices (assignment, K, K)."""
    return lambda matrices: float(np.nanmean(MEASURES[measure](matrices)))


def _merit(matrices: np.ndarray) -> float:
    """Rank rows on validation as `train` does by default: the mean of both accuracies."""
    return float(np.mean([_mean(measure)(matrices) for measure in MEASURES]))


def _table(rows: dict[str, list[dict[str, np.ndarray]]]) -> dict[str, Any]:
    """Scores of every row, its differences to the best baselines, and the network chosen on validation."""
    test = {name: _stacked(found, "test") for name, found in rows.items()}
    validation = {name: _merit(_stacked(found, "validation").sum(axis=0)) for name, found in rows.items()}
    entries: dict[str, dict[str, Any]] = {}
    for name, per_block in test.items():
        matrices = per_block.sum(axis=0)
        entries[name] = {"reading": ROWS[name].reading, "validation": validation[name],
                         "confusion": matrices.tolist()}  # fmt: skip
        for measure, of_each in MEASURES.items():
            low, high = block_bootstrap(per_block, _mean(measure))
            entries[name][measure] = {"value": _mean(measure)(matrices), "low": low, "high": high,
                                      "assignments": of_each(matrices).tolist()}  # fmt: skip
    best = _best_baselines(entries)
    for name, per_block in test.items():
        for measure, rival in best.items():
            entries[name][measure]["against"] = rival
            difference = paired_block_bootstrap(per_block, test[rival], _mean(measure))
            entries[name][measure]["difference"] = dict(zip(("value", "low", "high"), difference, strict=True))
    chosen = {
        reading: max(candidates, key=lambda name: validation[name])
        for reading in ("prior", "balanced")
        if (candidates := [n for n in rows if ROWS[n].is_network and ROWS[n].reading == reading])
    }
    return {"rows": entries, "best_baseline": best, "chosen_network": chosen}


def _best_baselines(entries: dict[str, dict[str, Any]]) -> dict[str, str]:
    """Name the best baseline by each measure."""
    baselines = [name for name in entries if not ROWS[name].is_network]
    if not baselines:
        return {}
    return {m: max(baselines, key=lambda name, m=m: entries[name][m]["value"]) for m in MEASURES}  # type: ignore[misc]


def _note(area: Area) -> str:
    config = area.configs["train"]
    assert isinstance(config, train.Config)
    return (
        f"Support vector machines see at most {config.svm.pixels:,} pixels, stratified by class. Scores are agreement "
        "with the reference map. Interval: 95 % from drawing ground blocks, the same draws for both rows."
    )


def _brief(name: str, found: dict[str, np.ndarray]) -> str:
    matrix = found["test"].sum(axis=0)
    return f"{name:26} overall {overall_accuracy(matrix):.4f}  balanced {balanced_accuracy(matrix):.4f}"


def _markdown(table: dict[str, Any]) -> str:
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
            cells.append("" if difference is None or name == best[measure] else _signed(difference))
        yield "| " + " | ".join(cells) + " |"
    yield ""
    yield (
        f"{len(table['classes'])} classes, {table['folds']} folds, assignments {', '.join(map(str, table['seeds']))}. "
        + table["note"]
    )
    for reading, name in table["chosen_network"].items():
        yield f"Chosen on validation among the networks ({reading} reading): {name}."


def _signed(difference: dict[str, float]) -> str:
    """Write a difference, and say where it is within noise."""
    text = f"{difference['value']:+.3f} ({difference['low']:+.3f} to {difference['high']:+.3f})"
    return text + (", within noise" if difference["low"] <= 0.0 <= difference["high"] else "")
