"""Train and test all models by one protocol: blocked folds, several assignments; goes on where it was.

Every classifier is trained and tested in every fold of every assignment of blocks to folds, on the same labels,
buffer and masks. Confusion matrices are pooled over the folds of an assignment; `pipeline/ranking.py` makes the table.

Each model is read in one of two ways. `prior`: the class most likely under the shares of the training pixels, as
the map shows it. `balanced`: the class most likely if all classes were equally frequent, which trades overall for
balanced accuracy; rows with balanced weights were fitted for it.
"""

from __future__ import annotations

import hashlib
import json
import logging
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from pipeline import cluster, ranking
from pipeline.artifacts import read_manifest
from pipeline.config import Area
from pipeline.fingerprint import Codes, Identities, hashed_config, write_whole
from pipeline.ranking import Reading
from pipeline.runner import run as run_stage
from stages import label, progress, train
from stages.accuracy import merit
from stages.accuracy.confusion import balanced_accuracy, confusion_by_group, overall_accuracy
from stages.errors import SettingError
from stages.formats.samples import Role, Samples
from stages.formats.tiles import Tiles

if TYPE_CHECKING:
    from stages.training.recipes import Baseline, Recipe

_logger = logging.getLogger(__name__)

FOLDER = "compare"
FOLDS = 5
MAJORITY = "majority"
#: Files whose code decides nothing: a recipe's values enter the key of a fit themselves.
TOLD_OTHERWISE = "stages/training/recipes.py", "stages/settings.py"


@dataclass(frozen=True)
class Row:
    """One model of the table: a classifier, what differs from the area's settings for it, and how it is read."""

    classifier: str
    changes: tuple[tuple[str, Any], ...] = ()
    reading: Reading = "prior"

    @property
    def is_network(self) -> bool:
        """True for the networks, false for the baselines that they are compared with."""
        return self.classifier not in (MAJORITY, "rf", "svm")


PIXEL: tuple[tuple[str, Any], ...] = (("windows", ()),)
BALANCED: tuple[tuple[str, Any], ...] = (("class_weights", "balanced"),)
#: Every classifier without and with class weights; baselines on single pixels and with hand-made context.
ROWS: dict[str, Row] = {
    MAJORITY: Row(MAJORITY),
    "rf": Row("rf", PIXEL),
    "rf balanced": Row("rf", PIXEL + BALANCED, "balanced"),
    "rf context": Row("rf"),
    "rf context balanced": Row("rf", BALANCED, "balanced"),
    "svm": Row("svm", PIXEL),
    "svm balanced": Row("svm", PIXEL + BALANCED, "balanced"),
    "svm context": Row("svm"),
    "svm context balanced": Row("svm", BALANCED, "balanced"),
    "mlp": Row("mlp"),
    "mlp balanced": Row("mlp", BALANCED, "balanced"),
    "cnn": Row("cnn"),
    "cnn balanced": Row("cnn", BALANCED, "balanced"),
    "unet": Row("unet"),
    "unet balanced": Row("unet", BALANCED, "balanced"),
    **{name: Row(name) for name in ("cnn3d", "capsule", "lstm", "tempcnn", "ltae", "convlstm")},
    "ensemble": Row(train.ENSEMBLE),
    "ensemble balanced": Row(train.ENSEMBLE, BALANCED, "balanced"),
}


def rows_of(models: tuple[str, ...]) -> tuple[str, ...]:
    """Name the rows that an area's classifiers make, the majority class among them."""
    return tuple(name for name, row in ROWS.items() if row.classifier in (MAJORITY, *models))


@dataclass(frozen=True)
class Fit:
    """One training of the protocol: everything that decides its result, cheap to send to a worker."""

    tiles: Path
    samples: Path
    fold: int
    classifier: str
    recipe: Baseline | Recipe
    config: train.Config
    #: Hash of the code that trains, as it stood when the run began.
    code: str

    @property
    def key(self) -> str:
        """Hash everything that decides the result."""
        return _hash([
            self.code, self.samples.name, self.fold, self.classifier, self.config.seed, self.config.choose_by,
            self.config.precision, self.config.devices, self.config.nodes, self.recipe.model_dump(mode="json"),
        ])  # fmt: skip

    @property
    def path(self) -> Path:
        """Where the result is kept."""
        return self.samples.parent / "fits" / f"{self.key}.npz"


def run(area: Area, seeds: tuple[int, ...] = (0, 1, 2), models: tuple[str, ...] | None = None) -> None:
    """Fill the table and write it to `data/<area>/compare/` as compare.json and compare.md.

    Args:
        area: its tiles, classes, label and train settings are used, and its cluster where that has processes.
        seeds: of the assignments of blocks to folds; one table a number of assignments, the last one counts.
        models: rows of the table; by default those of the classifiers that the area trains.

    Raises:
        SettingError: a row that there is none of, folds that are not of blocks, or a model that is given.
    """
    if "train" not in area.configs:
        raise SettingError(
            "The comparison trains models, but given.model gives one; leave it out (--set given.model=)."
        )
    config = area.configs["train"]
    assert isinstance(config, train.Config)
    names = models or rows_of(config.models)
    unknown = [name for name in names if name not in ROWS]
    if unknown:
        raise SettingError(f"There is no row {unknown[0]} in the table; the rows are {', '.join(ROWS)}.")
    _folds(area)
    run_stage(area, "tile")
    folder = area.data / FOLDER
    folder.mkdir(exist_ok=True)
    kinds = {ROWS[name].classifier for name in names} - {MAJORITY, train.ENSEMBLE} | set(config.ensemble.of)
    codes = {name: _hash(_code_of(area, name)) for name in sorted(kinds)}
    results: list[dict[str, dict[str, np.ndarray]]] = []
    for seed in seeds:
        results.append(_assignment(area, seed, names, codes))
        rows = {name: (ROWS[name].is_network, ROWS[name].reading, [result[name] for result in results])
                for name in names}  # fmt: skip
        table = ranking.table(rows) | {
            "seeds": list(seeds[: len(results)]), "folds": _folds(area), "classes": _classes(area), "note": _note(area),
        }  # fmt: skip
        write_whole(folder / "compare.json", json.dumps(table, indent=1))
        text = ranking.markdown(table)
        write_whole(folder / "compare.md", text)
        for line in text.splitlines():
            _logger.info("%s", line)


def _assignment(
    area: Area, seed: int, names: tuple[str, ...], codes: Mapping[str, str]
) -> dict[str, dict[str, np.ndarray]]:
    """Fill one assignment's rows: what `ranking.merged` gives, by the name of the row."""
    samples = _samples(area, seed)
    config = area.configs["train"]
    assert isinstance(config, train.Config)

    def fits_of(row: Row, fold: int) -> list[Fit]:
        members = config.ensemble.of if row.classifier == train.ENSEMBLE else (row.classifier,)
        return [
            Fit(area.data / "tiles", samples, fold, kind,
                config.recipe(kind).model_copy(update=dict(row.changes)), config, codes[kind])
            for kind in members
        ]  # fmt: skip

    fits = {name: [fits_of(ROWS[name], fold) for fold in range(_folds(area))] for name in names if name != MAJORITY}
    # An ensemble's members may be rows themselves: they are trained once.
    every = {fit.path: fit for folds in fits.values() for members in folds for fit in members}
    _train_all(area, f"assignment {seed}", list(every.values()))
    rows: dict[str, dict[str, np.ndarray]] = {}
    for name in names:
        if name == MAJORITY:
            folds = [_majority(area.data / "tiles", samples, fold) for fold in range(_folds(area))]
        else:
            folds = [_read(_averaged([_stored(fit) for fit in members]), ROWS[name].reading) for members in fits[name]]
        rows[name] = ranking.merged(folds)
        _logger.info("assignment %d: %s", seed, _brief(name, rows[name]))
    return rows


def _train_all(area: Area, what: str, fits: list[Fit]) -> None:
    """Train what is not kept yet: one after the other, or side by side where the area's cluster has processes."""
    import dask

    missing = [fit for fit in fits if not fit.path.is_file()]
    number = len(fits) - len(missing)
    progress.report(what, number, len(fits))
    config = area.configs["train"]
    assert isinstance(config, train.Config)
    if isinstance(area.settings.cluster, cluster.Threads) or (config.devices, config.nodes) != (1, 1):
        # A training draws its chance from the process, so threads of one process cannot share it; nor can trainings
        # on several devices share these.
        for fit in missing:
            _train(fit)
            number += 1
            progress.report(what, number, len(fits))
    elif missing:
        with cluster.opened(area.settings.cluster, area.data):
            dask.compute(*(dask.delayed(_train)(fit) for fit in missing))


# --- one training ----------------------------------------------------------------------------------------------------


def _folds(area: Area) -> int:
    """Give the number of folds of every assignment.

    Raises:
        SettingError: the folds are no folds of blocks.
    """
    folds = getattr(area.configs["label"], "folds", None)
    if folds == label.BY_YEAR:
        raise SettingError(
            f"label.folds is {folds}, but the comparison draws folds of blocks; give their number, such as --set "
            f"label.folds={FOLDS}."
        )
    return int(folds or FOLDS)


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
    identities = Identities(area.root / "data" / ".identities.json")
    sources = {path.name: identities.of(path) for path in label.sources(config)}
    parts = [_codes(area).of(label), hashed_config(label, config, area.root), tiles.key, sources]
    folder = area.data / FOLDER / f"samples-{seed}-{_hash(parts)[:12]}"
    if not folder.is_dir():
        aside = folder.with_name("labelling")
        shutil.rmtree(aside, ignore_errors=True)
        aside.mkdir(parents=True)
        label.run(area.data / "tiles", aside, config)
        aside.rename(folder)
    return folder


def _codes(area: Area) -> Codes:
    return Codes(area.root / "data" / ".code.json")


def _code_of(area: Area, classifier: str) -> dict[str, str]:
    """Name the files that one classifier's training runs through, with their hashes: not those of other classifiers."""
    from stages.training import forest, held, loop, vectors

    codes = _codes(area)
    code = codes.of({"rf": forest, "svm": vectors}.get(classifier, loop)) | codes.of(held) | codes.of(merit)
    return {path: digest for path, digest in code.items() if not path.endswith(TOLD_OTHERWISE)}


def _hash(parts: Any) -> str:
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:24]


def _train(fit: Fit) -> None:
    """Train once and keep what was found, whole or not at all."""
    from joblib import parallel_config

    work = fit.path.with_suffix(".work")
    # A worker of Dask may have no processes of its own; scikit-learn warns of it unless told to use threads.
    with parallel_config(backend="threading"):
        found = _found(fit, work)
    fit.path.parent.mkdir(parents=True, exist_ok=True)
    aside = fit.path.with_suffix(".new.npz")
    np.savez_compressed(aside, **found)  # type: ignore[arg-type]
    aside.rename(fit.path)
    shutil.rmtree(work, ignore_errors=True)


def _found(fit: Fit, work: Path) -> dict[str, np.ndarray]:
    """Fit a classifier: calibrated log-probabilities, labels and blocks of every validation and test pixel."""
    from stages.training import calibration
    from stages.training.classifiers import fit as fit_classifier
    from stages.training.classifiers import gather_for
    from stages.training.ground import Split, lay_out

    tiles, samples = Tiles(fit.tiles), Samples(fit.samples)
    split = Split(tiles, samples, tiles.channels, fit.fold)
    ground = lay_out(split, work / "ground")
    held = gather_for(fit.classifier, fit.recipe, split, Role.VALIDATION)
    task = train.task_of(fit.config, fit.classifier, work / "checkpoints")
    fitted = fit_classifier(fit.classifier, ground, held, fit.recipe, task)
    logits = fitted.logits(held)
    temperature = calibration.fit_temperature(logits, held.reference)
    found: dict[str, np.ndarray] = {"pixels": ground.pixels(), "temperature": np.array(temperature)}
    for role, pixels in (
        (Role.VALIDATION, held),
        (Role.TEST, gather_for(fit.classifier, fit.recipe, split, Role.TEST)),
    ):
        likely = calibration.probabilities(logits if role == Role.VALIDATION else fitted.logits(pixels), temperature)
        found |= {
            f"{role.name.lower()} log-probabilities": np.log(np.maximum(likely, 1e-12)).astype(np.float32),
            f"{role.name.lower()} reference": pixels.reference,
            f"{role.name.lower()} block": pixels.block[pixels.at],
        }
    return found


def _stored(fit: Fit) -> dict[str, np.ndarray]:
    with np.load(fit.path) as stored:
        return dict(stored)


def _averaged(members: list[dict[str, np.ndarray]]) -> dict[str, np.ndarray]:
    """Average the calibrated probabilities of several fits, and calibrate the average, as `train` does."""
    from stages.training import calibration

    if len(members) == 1:
        return members[0]
    found = dict(members[0])
    means = {part: np.log(np.mean([np.exp(one[f"{part} log-probabilities"]) for one in members], axis=0))
             for part in ("validation", "test")}  # fmt: skip
    temperature = calibration.fit_temperature(means["validation"][None], found["validation reference"])
    for part, mean in means.items():
        likely = calibration.probabilities(mean[None], temperature)
        found[f"{part} log-probabilities"] = np.log(np.maximum(likely, 1e-12))
    return found


def _read(stored: Mapping[str, np.ndarray], reading: Reading) -> dict[str, np.ndarray]:
    """Turn stored log-probabilities into confusion of every block: `blocks` (B,), `test`, `validation` (B, K, K)."""
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


def _majority(tiles: Path, samples: Path, fold: int) -> dict[str, np.ndarray]:
    """Give every pixel the most frequent class of the training labels."""
    from stages.training.ground import Split
    from stages.training.held import gather

    opened, labels = Tiles(tiles), Samples(samples)
    split = Split(opened, labels, opened.channels, fold)
    pixels = np.asarray(labels.statistics(fold)["class_pixels"])
    stored: dict[str, np.ndarray] = {"pixels": pixels}
    for part, role in (("test", Role.TEST), ("validation", Role.VALIDATION)):
        held = gather(split, role, 0)
        scores = np.zeros((len(held.reference), len(pixels)))
        scores[:, int(pixels.argmax())] = 1.0
        stored |= {f"{part} log-probabilities": scores, f"{part} reference": held.reference,
                   f"{part} block": held.block[held.at]}  # fmt: skip
    return _read(stored, "prior")


# --- words -----------------------------------------------------------------------------------------------------------


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
