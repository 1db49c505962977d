"""Train every asked-for classifier on the same split and choose the best on validation."""

from __future__ import annotations

import hashlib
import logging
import shutil
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from statistics import mean, median
from typing import TYPE_CHECKING, Annotated, Any, Literal

import numpy as np
from pydantic import Field, field_validator, model_validator

from stages.accuracy.calibration_error import bin_sums, classwise_error, top_label_error
from stages.accuracy.confusion import confusion, scores_of
from stages.accuracy.merit import DESCRIPTION, Criterion, measure_of, merit
from stages.errors import SettingError
from stages.formats.bands import read_about, read_bands
from stages.formats.samples import Role, Samples
from stages.formats.synthetic import Synthetic, read_samples
from stages.formats.synthetic import read_about as read_worth
from stages.formats.tiles import Tiles
from stages.formats.weights import ITEM, ONNX, ModelCard, fold_folder, read_card, write_card, write_choice
from stages.settings import STYLE_ONLY, MapClass, Settings
from stages.training.chip_recipes import ChipRecipes
from stages.training.recipes import (
    Baseline,
    CapsuleRecipe,
    Cnn3dRecipe,
    CnnRecipe,
    ConvLstmRecipe,
    EnsembleRecipe,
    ForestRecipe,
    LstmRecipe,
    LtaeRecipe,
    MlpRecipe,
    Recipe,
    TempCnnRecipe,
    UnetRecipe,
    VectorRecipe,
)

if TYPE_CHECKING:
    from stages.training.fitted import Fitted, Hardware, Task
    from stages.training.ground import Ground, Split
    from stages.training.held import Held

_logger = logging.getLogger(__name__)

#: A killed run goes on with the models it finished and with the last epoch of the one it was at.
RESUMES = True
#: Colours, codes and the licence text are shown, not learned.
COSMETIC = {**STYLE_ONLY, "attribution": True}
#: The same chips come in the same order, whoever draws them.
RUN_SETTINGS = ("workers",)
Name = Literal[
    "rf", "svm", "mlp", "cnn", "cnn3d", "capsule", "unet", "lstm", "tempcnn", "ltae", "convlstm", "ensemble"
]  # fmt: skip
#: Look at the surroundings of a pixel whatever their settings.
SURROUNDED = ("cnn", "cnn3d", "capsule", "unet", "convlstm")
#: Classify whole chips.
OF_CHIPS = tuple(ChipRecipes.model_fields)
#: Averages networks that are trained before it.
ENSEMBLE = "ensemble"
#: Work in progress inside the stage's folder; gone from the finished artifact.
WORK = ".work"


class Config(Settings):
    """Which classifiers are trained, how, and which of them makes the map."""

    classes: tuple[MapClass, ...] = Field((), description="Classes of the map, in the order of their index")
    attribution: str = Field("", description="Licence and source of the data, kept with the model")
    models: tuple[Name, ...] = Field(("rf", "svm", "mlp", "cnn", "unet"), min_length=1, description="What to train")
    model: Name | None = Field(None, description="The map's model; none: the best of them on validation")
    choose_by: Criterion = Field("both_accuracies", description=DESCRIPTION)
    seed: int = Field(0, ge=0, le=2**31, description="Seed of weights, chips and samples")
    epochs: int | None = Field(None, ge=1, le=10_000, description="Longest training of every network, in epochs")
    lr: float | None = Field(None, gt=0, le=1, description="Largest learning rate of every network")
    refit: Literal["chosen", "all"] = Field(
        "chosen",
        description="Where labels are held out for validation alone, or in folds: fit the map's model, or every "
        "model, once more on all labels; only what was refitted is scored on the independent test set",
    )
    device: str = Field("auto", description="Lightning accelerator: auto, cpu, gpu, mps ...")
    precision: str = Field("32-true", description="Lightning precision: 32-true, bf16-mixed, 16-mixed ...")
    accumulate: int = Field(1, ge=1, description="Batches whose gradients are added up before a step")
    devices: Annotated[int, Field(ge=1, le=1024)] | Literal["auto"] = Field(
        1, description="Devices of every node that share each batch of a network's training; auto: all there are"
    )
    nodes: int = Field(1, ge=1, le=1024, description="Nodes of the SLURM job in which this runs that share it, too")
    strategy: Literal["auto", "ddp", "ddp_find_unused_parameters_false", "ddp_find_unused_parameters_true"] = Field(
        "auto", description="Lightning strategy of several devices; on every one lies the whole network"
    )
    workers: int = Field(
        0, ge=0, le=64, description="Threads that draw chips ahead of each network; 0: chips are drawn when needed"
    )
    rf: ForestRecipe = Field(default_factory=ForestRecipe, description="Random forest")
    svm: VectorRecipe = Field(default_factory=VectorRecipe, description="Support vector machine")
    mlp: MlpRecipe = Field(default_factory=MlpRecipe, description="Network on single pixels")
    cnn: CnnRecipe = Field(default_factory=CnnRecipe, description="Network on the patch around a pixel")
    cnn3d: Cnn3dRecipe = Field(default_factory=Cnn3dRecipe, description="Network on patches of many bands")
    capsule: CapsuleRecipe = Field(default_factory=CapsuleRecipe, description="Capsules on the patch around a pixel")
    unet: UnetRecipe = Field(default_factory=UnetRecipe, description="Dense network")
    lstm: LstmRecipe = Field(default_factory=LstmRecipe, description="Recurrent network on the series of a pixel")
    tempcnn: TempCnnRecipe = Field(default_factory=TempCnnRecipe, description="Convolutions along a pixel's series")
    ltae: LtaeRecipe = Field(default_factory=LtaeRecipe, description="Attention over a pixel's series")
    convlstm: ConvLstmRecipe = Field(default_factory=ConvLstmRecipe, description="Recurrent network on chips of series")
    ensemble: EnsembleRecipe = Field(default_factory=EnsembleRecipe, description="Average of trained networks")
    chips: ChipRecipes = Field(
        default_factory=ChipRecipes,
        description="Settings of classifiers where the area is a collection of chips, in the place of those above",
    )

    @field_validator("models")
    @classmethod
    def _once(cls, models: tuple[str, ...]) -> tuple[str, ...]:
        twice = [name for name, count in Counter(models).items() if count > 1]
        if twice:
            raise ValueError(f"{twice[0]} stands twice; name every model once")
        return models

    @model_validator(mode="after")
    def _trained(self) -> Config:
        if self.model is not None and self.model not in self.models:
            raise ValueError(f"model {self.model} is not among models ({', '.join(self.models)}); add it there")
        return self

    @model_validator(mode="after")
    def _averaged(self) -> Config:
        if ENSEMBLE not in self.models:
            return self
        missing = [name for name in self.ensemble.of if name not in self.models[: self.models.index(ENSEMBLE)]]
        if missing:
            raise ValueError(f"ensemble averages {missing[0]}, which models does not name before it; put it there")
        # Whether these are of chips, with recipes of their own, is not known before there are tiles.
        if not set(self.ensemble.of) <= set(OF_CHIPS) and (fault := self.unlike_turns()):
            raise ValueError(fault)
        return self

    def unlike_turns(self) -> str:
        """Say that what an ensemble averages is not turned alike, "" where it is or there is none."""
        of = self.ensemble.of if ENSEMBLE in self.models else ()
        if len({getattr(self.recipe(name), "average_turns", False) for name in of}) < 2:
            return ""
        return f"average_turns must be the same for {', '.join(of)}, as ensemble averages them"

    def of_chips(self) -> Config:
        """Put the recipes of chips in the place of those of scenes."""
        return self.model_copy(update={name: getattr(self.chips, name) for name in OF_CHIPS})

    def recipe(self, name: str) -> Any:
        """One classifier's settings, with `epochs` and `lr` of all networks put in."""
        recipe: Baseline | Recipe | EnsembleRecipe = getattr(self, name)
        common = {key: value for key in ("epochs", "lr") if (value := getattr(self, key)) is not None}
        return recipe.model_copy(update=common) if isinstance(recipe, Recipe) else recipe


@dataclass(frozen=True)
class Job:
    """What is the same for all models of a run."""

    tiles: Tiles
    samples: Samples
    bands: Path
    synthetic: Path
    out: Path
    config: Config

    def split(self, fold: int | None) -> Split:
        """Give the labels and pixels of one fold, or with None those of the final model."""
        from stages.training.ground import Split

        return Split(self.tiles, self.samples, read_bands(self.bands, fold), fold)

    def drawn(self, fold: int | None) -> Synthetic | None:
        """Read the synthetic samples of one fold, or with None those of the final model; None where there are none.

        Raises:
            LeakError: they were not made from this fold's training labels alone.
        """
        from stages.training.synthesis import check_sources

        found = read_samples(self.synthetic, fold)
        if found is not None:
            check_sources(found, self.split(fold))
        return found

    def folder(self, name: str, fold: int | None) -> Path:
        """Where a finished model lies."""
        return self.out / name if fold is None else fold_folder(self.out, name, fold, self.samples.refitted)


def run(tiles: Path, samples: Path, bands: Path, synthetic: Path, out: Path, config: Config) -> None:  # noqa: PLR0917
    """Train every model in every fold, choose one, and refit it on all labels where none of them is left to test."""
    if Tiles(tiles).cells is not None:
        config = config.of_chips()
        _refuse_pixels(synthetic, config)
    _check(config)
    _refuse_neighbours(Tiles(tiles), config)
    job = Job(Tiles(tiles), Samples(samples), bands, synthetic, out, config)
    _refuse_features(job)
    _tell_mixing(job)
    cards = _train_all(job)
    candidates: dict[str, dict[str, Any]] = {
        name: _pooled([card.metrics["validation"] for card in cards[name]]) for name in config.models
    }
    chosen: str = config.model or max(candidates, key=lambda name: merit(candidates[name], config.choose_by))
    note = f"best on validation by {config.choose_by}" if config.model is None else "named in the settings"
    if job.samples.refitted:
        for name in dict.fromkeys((*(config.models if config.refit == "all" else ()), chosen)):
            _refit(job, name, cards)
        scored = f"scores are pooled out of {job.samples.folds} folds, " if job.samples.crossed else ""
        note += f"; {scored}the map's model is refitted on all labels with the settings found there"
    write_choice(out, chosen, candidates, job.samples.split, note)
    shutil.rmtree(out / WORK, ignore_errors=True)
    _logger.info("%s makes the map (%s)\n%s", chosen, note, _table(candidates))


def _check(config: Config) -> None:
    """Refuse hardware that is not there, and an ensemble that cannot be, before the first model is trained.

    Raises:
        SettingError: there is none like it, more of it than a batch has chips, or models are not turned alike; or a
            network is to learn without labels that cannot.
    """
    from stages.training.loop import check_hardware
    from stages.training.pretraining import refuse_pretraining

    if fault := config.unlike_turns():
        raise SettingError(f"train: {fault}.")
    networks = {name: config.recipe(name) for name in config.models if isinstance(config.recipe(name), Recipe)}
    processes = check_hardware(hardware_of(config)).processes if networks else 1
    for name, recipe in networks.items():
        if recipe.pretrain:
            refuse_pretraining(name)
        if recipe.batch < processes:
            raise SettingError(
                f"train.{name}.batch is {recipe.batch}, which {processes} devices cannot share; set it to at least "
                f"{processes}, or train.devices to fewer."
            )


def _refuse_neighbours(tiles: Tiles, config: Config) -> None:
    """Refuse models that look at the ground around a pixel where a pixel is a sample of a table.

    Raises:
        SettingError: there is one.
    """
    for name in config.models if tiles.is_table and tiles.cells is None else ():
        recipe, advice = config.recipe(name), ""
        if name in SURROUNDED:
            advice = "take it out of train.models"
        elif getattr(recipe, "windows", ()):
            advice = f"set train.{name}.windows to []"
        elif getattr(recipe, "rotate", 0) or getattr(recipe, "zoom", 0):
            advice = f"set train.{name}.rotate and zoom to 0"
        if advice:
            raise SettingError(
                f"{name} looks at the ground around a pixel, but the area is a table of series, whose samples have no "
                f"neighbours; {advice}."
            )


def _refuse_pixels(synthetic: Path, config: Config) -> None:
    """Refuse models and samples of single pixels where a label is of a whole chip.

    Raises:
        SettingError: there is one.
    """
    for name in config.models:
        if name not in (*OF_CHIPS, ENSEMBLE):
            raise SettingError(
                f"{name} classifies pixels, but the area is a collection of chips, which have one label each; take it "
                f"out of train.models ({', '.join(OF_CHIPS)} and {ENSEMBLE} classify chips)."
            )
    if read_worth(synthetic).get("side"):
        raise SettingError(
            "augment has drawn synthetic pixels, but the area is a collection of chips, which have one label each; set "
            "augment.method to none."
        )


def _refuse_features(job: Job) -> None:
    """Refuse networks that go from step to step where single features were chosen, before anything is trained.

    Raises:
        SettingError: there is one.
    """
    from stages.models.table import SERIES

    for name in job.config.models:
        recipe: Any = job.config.recipe(name)
        if name in SERIES or bool(getattr(recipe, "differences", None)):
            for fold in (*range(job.samples.folds), None):
                _ = job.split(fold).bands


def _tell_mixing(job: Job) -> None:
    """Say which models look farther than the synthetic samples are wide, and so are trained without them.

    Raises:
        SettingError: all of them do.
    """
    for name, why in _left_out(job).items():
        _logger.warning("%s is trained without the synthetic samples: %s", name, why)


def _left_out(job: Job) -> dict[str, str]:
    """Say of every model that cannot learn from the synthetic samples why not; empty where there are none."""
    from stages.training.mixing import left_out

    side = read_worth(job.synthetic).get("side")
    recipes: dict[str, Any] = {name: job.config.recipe(name) for name in job.config.models if name != ENSEMBLE}
    return left_out(recipes, side, job.tiles.steps) if side else {}


def _train_all(job: Job) -> dict[str, list[ModelCard]]:
    """Train what is not yet there: the cards of every model, one a fold."""
    from stages.training.ground import lay_out

    cards: dict[str, list[ModelCard]] = {name: [] for name in job.config.models}
    for fold in range(job.samples.folds):
        ground: Ground | None = None
        for name in job.config.models:
            if not (job.folder(name, fold) / ITEM).is_file():
                ground = ground or lay_out(job.split(fold), job.out / WORK / "ground")
                _train(job, name, ground)
            cards[name].append(read_card(job.folder(name, fold)))
    return cards


def _train(job: Job, name: str, ground: Ground) -> None:
    """Train one model on one fold and save it whole."""
    from stages.training.classifiers import fit, gather_for
    from stages.training.held import gather
    from stages.training.mixing import mixed_for

    fold = ground.split.fold
    if name == ENSEMBLE:
        fitted: Fitted = _average(job, fold)
        held = gather(ground.split, Role.VALIDATION, fitted.margin, fitted.stride)
    else:
        recipe = job.config.recipe(name)
        held = gather_for(name, recipe, ground.split, Role.VALIDATION)
        task = task_of(job.config, name, job.out / WORK / f"{name}-{fold}")
        fitted = fit(name, mixed_for(name, recipe, ground, job.drawn(fold)), held, recipe, task)
    temperature, scores = validate(fitted, held, ground.split.classes)
    _save(job, name, fold, fitted, (temperature, {"validation": scores, "chosen": fitted.found.chosen}))


def _average(job: Job, fold: int | None) -> Fitted:
    """Average the finished networks of a fold."""
    from stages.training.ensemble import Ensemble

    return Ensemble([job.folder(name, fold) for name in job.config.ensemble.of])


def task_of(config: Config, name: str, folder: Path, chosen: dict[str, Any] | None = None) -> Task:
    """Put together what a fit needs besides data and recipe."""
    from stages.training.fitted import Task

    return Task(name, config.seed, measure_of(config.choose_by), folder, hardware_of(config), chosen)


def hardware_of(config: Config) -> Hardware:
    """Take the settings of devices and precision out of the config."""
    from stages.training.fitted import Hardware

    return Hardware(
        config.device, config.precision, config.accumulate, config.devices, config.nodes, config.strategy,
        config.workers,
    )  # fmt: skip


def validate(fitted: Fitted, held: Held, classes: int) -> tuple[float, dict[str, Any]]:
    """Find the temperature on the held-out pixels and the scores there, with the calibration error before and after."""
    from stages.training import calibration

    logits, reference = fitted.logits(held), held.reference
    temperature = calibration.fit_temperature(logits, reference)
    before, after = (calibration.probabilities(logits, t) for t in (1.0, temperature))
    matrix = confusion(reference, after.argmax(axis=1), classes)
    sums = bin_sums(after, reference)
    overall = {key: value for key, value in scores_of(matrix).items() if isinstance(value, float)}
    return temperature, _finite({
        **overall,
        "pixels": len(reference),
        "loss": calibration.loss(logits, reference, temperature),
        "ece_before": top_label_error(bin_sums(before, reference)),
        "ece": top_label_error(sums),
        "classwise_ece": classwise_error(sums),
        "confusion": matrix.tolist(),
    })  # fmt: skip


def _save(job: Job, name: str, fold: int | None, fitted: Fitted, verdict: tuple[float, dict[str, Any]]) -> None:
    """Write a model folder aside and move it into place whole, so that a folder that is there is finished."""
    aside, folder = job.out / WORK / "saving", job.folder(name, fold)
    shutil.rmtree(aside, ignore_errors=True)
    aside.mkdir(parents=True)
    fitted.export(aside)
    tiles, config, split = job.tiles, job.config, job.split(fold)
    by_name = {entry.name: entry for entry in config.classes}
    classes = tuple(
        {"name": label, "code": by_name[label].code, "color": by_name[label].color}
        if label in by_name
        else {"name": label, "code": index, "color": "#808080"}
        for index, label in enumerate(job.samples.classes)
    )
    write_card(aside, ModelCard(
        name=name, channels=split.channels, values=split.values(), dates=tiles.dates, days=tiles.days,
        step=tiles.step, scaling=tiles.scaling, resolution=tiles.grid.resolution, metres=tiles.grid.pixel_metres(),
        classes=classes, margin=fitted.margin, stride=fitted.stride, temperature=verdict[0], tta=fitted.tta,
        fingerprint=hashlib.sha256((aside / ONNX).read_bytes()).hexdigest(),
        settings={**config.recipe(name).model_dump(mode="json"), "seed": config.seed},
        metrics={**verdict[1], **_origins(job, name)},
        curves=fitted.found.curves, attribution=config.attribution, network=fitted.network,
    ))  # fmt: skip
    folder.parent.mkdir(parents=True, exist_ok=True)
    aside.rename(folder)


def _origins(job: Job, name: str) -> dict[str, Any]:
    """Say how the channels were chosen and which samples were drawn, where either was asked for."""
    origins: dict[str, Any] = {}
    if selection := read_about(job.bands):
        origins["selection"] = selection
    if synthetic := read_worth(job.synthetic):
        origins["synthetic"] = {**synthetic, "without": _left_out(job).get(name, "")}
    return origins


def _refit(job: Job, name: str, cards: dict[str, list[ModelCard]]) -> None:
    """Fit a model on all labels: found settings by majority, lengths and temperature by median and mean."""
    from stages.training.classifiers import fit
    from stages.training.ground import lay_out
    from stages.training.mixing import mixed_for

    if (job.folder(name, None) / ITEM).is_file():
        return
    chosen: dict[str, Any] = {}
    if name == ENSEMBLE:
        for member in job.config.ensemble.of:
            _refit(job, member, cards)
        fitted = _average(job, None)
    else:
        chosen = _agreed([card.metrics["chosen"] for card in cards[name]])
        ground = lay_out(job.split(None), job.out / WORK / "ground")
        task = task_of(job.config, name, job.out / WORK / f"{name}-all", chosen)
        ground = mixed_for(name, job.config.recipe(name), ground, job.drawn(None))
        fitted = fit(name, ground, None, job.config.recipe(name), task)
    scores = _pooled([card.metrics["validation"] for card in cards[name]])
    temperature = mean(card.temperature for card in cards[name])
    _save(job, name, None, fitted, (temperature, {"validation": scores, "chosen": chosen}))


def _agreed(found: list[dict[str, Any]]) -> dict[str, Any]:
    """One setting out of those of every fold: the median length or scale, otherwise the most frequent."""
    measured = [key for key in found[0] if key in ("epochs", "gain")]
    # Settings that were chosen together are voted on together: no fold may have wanted a mixture of two folds' choices.
    choices = Counter(tuple(item for item in entry.items() if item[0] not in measured) for entry in found)
    return {**dict(choices.most_common(1)[0][0]), **{key: median(entry[key] for entry in found) for key in measured}}


def _pooled(scores: list[dict[str, Any]]) -> dict[str, Any]:
    """Scores of one model over its folds: from the summed confusion matrices; errors are means by pixels."""
    matrix = np.sum([entry["confusion"] for entry in scores], axis=0)
    pixels = [entry["pixels"] for entry in scores]
    overall = {key: value for key, value in scores_of(matrix).items() if isinstance(value, float)}
    means = {
        key: float(np.average([entry[key] if entry[key] is not None else np.nan for entry in scores], weights=pixels))
        for key in ("loss", "ece_before", "ece", "classwise_ece")
    }
    return _finite({**overall, **means, "pixels": sum(pixels), "confusion": matrix.tolist()})


def _finite(scores: dict[str, Any]) -> dict[str, Any]:
    """Put None where a score is undefined, as JSON has no NaN."""
    return {key: None if isinstance(value, float) and np.isnan(value) else value for key, value in scores.items()}


def _table(candidates: dict[str, dict[str, Any]]) -> str:
    """One line a model with its validation scores."""
    columns = {"overall": "overall_accuracy", "balanced": "balanced_accuracy", "macro F1": "macro_f1", "loss": "loss",
               "ECE": "ece"}  # fmt: skip
    lines = ["on validation " + "".join(f"{title:>10}" for title in columns)]
    for name, scores in candidates.items():
        values = [scores[key] for key in columns.values()]
        lines.append(f"{name:14}" + "".join(f"{'-' if value is None else f'{value:.3f}':>10}" for value in values))
    return "\n".join(lines)
