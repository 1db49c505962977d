"""Draw synthetic samples of the rare classes, and measure whether they help."""

from __future__ import annotations

import logging
import shutil
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from pydantic import Field, field_validator

from stages import progress
from stages.accuracy.benefit import NONE, recommended, row, shown
from stages.accuracy.confusion import confusion
from stages.errors import LabelError, SettingError
from stages.formats.bands import read_bands
from stages.formats.samples import Samples
from stages.formats.synthetic import PRIORS, Prior, write_samples, write_synthetic
from stages.formats.tiles import Tiles
from stages.settings import Settings

if TYPE_CHECKING:
    from stages.training.ground import Ground, Split
    from stages.training.rarity import Stock
    from stages.training.synthesis import Drawing

_logger = logging.getLogger(__name__)

#: A killed run goes on with the generators it trained.
RESUMES = True
#: Work in progress inside the stage's folder; gone from the finished artifact.
WORK = ".work"
BEST, GAN = "best", "gan"


class GanRecipe(Settings):
    """How the generator of `gan` is trained."""

    loss: Literal["non-saturating", "hinge", "wasserstein"] = Field(
        "wasserstein", description="What the two networks play for"
    )
    steps: int = Field(2000, ge=1, le=1_000_000, description="Steps of the generator")
    batch: int = Field(128, ge=2, description="Real samples a step, of every class equally many")
    critic_steps: int = Field(1, ge=1, le=100, description="Steps of the discriminator for one of the generator")
    lr: float = Field(1e-3, gt=0, le=1, description="Learning rate of the generator")
    lr_discriminator: float = Field(1e-3, gt=0, le=1, description="Learning rate of the discriminator")
    average: float = Field(0.999, ge=0, lt=1, description="Decay of the moving average that is drawn from; 0 = off")
    latent: int = Field(32, ge=1, description="Numbers of noise that a sample is made of")
    width: int = Field(64, ge=1, description="Features of the finest layer")


class Config(Settings):
    """Which classes get synthetic samples, how many, and how they are drawn."""

    method: Literal["none", "oversample", "interpolate", "gan", "best"] = Field(
        NONE,
        description="How to draw; none draws no sample. oversample: copies of real ones; interpolate: between a real "
        "one and a near one of its class; gan: from a generator; best: what the comparison recommends, be it none",
    )
    rare: tuple[str, ...] | Literal["auto"] = Field(
        "auto", description="Classes that get samples; auto: those whose share of the training labels is below `below`"
    )
    below: float = Field(0.1, gt=0, le=1, description="Share of the training labels below which a class is rare")
    cap: float = Field(2.0, gt=0, le=100, description="Samples of a class at most, in multiples of its real pixels")
    most: int = Field(5_000, ge=1, le=1_000_000, description="Samples of a class at most, and real ones looked at")
    kind: Literal["auto", "pixel", "series", "chip"] = Field(
        "auto",
        description="What a sample is: a pixel, its series, or a chip whose middle pixel has the class; auto: a series "
        "where there are several dates, else a pixel",
    )
    side: int = Field(15, ge=3, le=255, description="Side of a chip in pixels, odd: what the models look at, or more")
    neighbours: int = Field(5, ge=1, description="Near samples of its class that `interpolate` chooses from")
    gan: GanRecipe = Field(default_factory=GanRecipe, description="The generator")
    patches: int = Field(10, ge=1, description="Least connected patches of a class that a generator is trained with")
    blocks: int = Field(3, ge=1, description="Least ground blocks that they lie in")
    share: float = Field(0.25, gt=0, lt=1, description="Share of a network's chips that show samples, at most")
    prior: Prior = Field(
        "labels",
        description="Class shares that the models' answers are held to: those of the real labels, so that areas stay "
        "right, or of labels and samples together, so that rare classes are mapped more often",
    )
    compare: bool = Field(True, description="Try no samples and every method, and tell what each is worth")
    judge: Literal["rf", "mlp"] = Field("rf", description="The quick classifier that the methods are compared with")
    seeds: int = Field(3, ge=1, le=100, description="Seeds that each method is tried with")
    seed: int = Field(0, ge=0, le=2**31, description="First seed of samples, generators and judges")

    @field_validator("side")
    @classmethod
    def _odd(cls, side: int) -> int:
        if side % 2 == 0:
            raise ValueError(f"side is {side}; it must be odd, so that a pixel is in the middle")
        return side

    @field_validator("rare")
    @classmethod
    def _some(cls, rare: tuple[str, ...] | str) -> tuple[str, ...] | str:
        if not rare:
            raise ValueError("rare names no class; name one, or auto")
        return rare


@dataclass(frozen=True)
class Job:
    """What is the same for all folds of a run: ``classes`` are the indices of those that get samples."""

    tiles: Tiles
    samples: Samples
    bands: Path
    out: Path
    config: Config
    classes: tuple[int, ...] = ()

    @property
    def folds(self) -> list[int | None]:
        """The folds that are trained, and None for the final model where there is one."""
        return [*range(self.samples.folds), *([None] if self.samples.refitted else [])]

    def split(self, fold: int | None) -> Split:
        """Give the labels and pixels of one fold, or with None those of the final model."""
        from stages.training.ground import Split

        return Split(self.tiles, self.samples, read_bands(self.bands, fold), fold)

    def ground(self, fold: int | None) -> Ground:
        """Lay out the training ground of one fold; the last one's is written over."""
        from stages.training.ground import lay_out

        return lay_out(self.split(fold), self.out / WORK / "ground")


def run(tiles: Path, samples: Path, bands: Path, out: Path, config: Config) -> None:
    """Draw samples for every fold from its training labels alone, and say whether they help.

    Raises:
        SettingError: a class is not known, or samples of a table have no surroundings.
        LabelError: a class is too rare for the method, or no class has training labels enough.
        DivergedError: the training of a generator diverged.
    """
    job = Job(Tiles(tiles), Samples(samples), bands, out, config)
    known = job.tiles.channels
    assert set(read_bands(bands)) <= set(known), f"bands chosen that the tiles {known} do not hold"
    nothing = dict.fromkeys(job.samples.classes, 0)
    if config.method == NONE:
        write_synthetic(out, nothing)
        _logger.info("no synthetic samples (method none)")
        return
    job = replace(job, classes=chosen_classes(job))
    if not job.classes:
        write_synthetic(out, nothing)
        _logger.info("no synthetic samples: no class has less than %g of the training labels", config.below)
        return
    stocks, too_rare = check(job)
    table = compared(job, too_rare) if config.compare or config.method == BEST else []
    best = {prior: recommended(table, prior) for prior in PRIORS}
    method = best[config.prior] if config.method == BEST else config.method
    drawn = draw_all(job, method) if method != NONE else nothing
    about = {
        "asked": config.method, "method": method, "kind": drawing_of(job, 0).kind, "share": config.share,
        "prior": config.prior, "judge": config.judge, "seed": config.seed, "seeds": config.seeds, "cap": config.cap,
        "classes": [{**asdict(stock), "drawn": drawn[stock.name]} for stock in stocks], "too_rare": too_rare,
        "table": table, "recommended": best if table else {},
        **({"side": drawing_of(job, 0).side} if method != NONE else {}),
    }  # fmt: skip
    write_synthetic(out, drawn, about)
    shutil.rmtree(out / WORK, ignore_errors=True)
    _tell(about)


def chosen_classes(job: Job) -> tuple[int, ...]:
    """Find the classes that get samples: the named ones, or the rare ones by the training labels of all folds.

    Raises:
        SettingError: a named class is none of the map's.
    """
    from stages.training.rarity import rare_classes

    names, config = job.samples.classes, job.config
    if config.rare != "auto":
        unknown = [name for name in config.rare if name not in names]
        if unknown:
            raise SettingError(
                f"augment.rare names {unknown[0]}, which is none of the classes {', '.join(names)}; name one of these, "
                "or auto."
            )
        return tuple(names.index(name) for name in dict.fromkeys(config.rare))
    pixels = np.sum([job.samples.statistics(fold)["class_pixels"] for fold in range(job.samples.folds)], axis=0)
    return tuple(rare_classes(pixels, config.below))


def check(job: Job) -> tuple[list[Stock], str]:
    """Count what every fold has of the classes before any work is done.

    Returns:
        The stock of the model that makes the map, and why the generator has too little, empty if it has enough.

    Raises:
        SettingError: samples of a table have no surroundings, or the area is a collection of chips.
        LabelError: a class is too rare for the generator that is asked for, or a fold has none of it.
    """
    from stages.training.rarity import refuse_too_rare, stocks_of

    config, too_rare = job.config, ""
    if job.tiles.cells is not None:
        raise SettingError(
            f"augment.method is {config.method}, but the area is a collection of chips, of which no samples are "
            "drawn; set it to none, and let networks see rare classes more often by their setting rare."
        )
    if job.tiles.is_table and config.kind == "chip":
        raise SettingError(
            "augment.kind is chip, but the area is a table of series, whose samples have no neighbours; set it to auto."
        )
    stocks: list[Stock] = []
    for fold in job.folds:
        stocks = stocks_of(job.tiles, job.samples, fold, job.classes)
        for stock in stocks:
            if stock.pixels < 2:
                raise LabelError(
                    f"Class {stock.name} has {stock.pixels} training pixels in fold {fold}, and synthetic samples are "
                    "made of at least 2; label more of it, lower label.block or label.folds, or leave it out of "
                    "augment.rare."
                )
        try:
            refuse_too_rare(stocks, config.patches, config.blocks)
        except LabelError as fault:
            if config.method == GAN:
                raise
            too_rare = str(fault)
    return stocks, too_rare


def drawing_of(job: Job, seed: int) -> Drawing:
    """Take how samples are drawn out of the settings."""
    from stages.training.generators.adversary import Adversary
    from stages.training.synthesis import Drawing

    config, kind = job.config, job.config.kind
    whole = set(read_bands(job.bands)) == set(job.tiles.channels)
    if kind == "auto":
        kind = "series" if job.tiles.steps > 1 and whole else "pixel"
    adversary = Adversary(**config.gan.model_dump(), seed=seed)
    side = config.side if kind == "chip" else 1
    return Drawing(kind, side, config.most, config.neighbours, adversary, config.share, config.prior)


def wanted(job: Job, ground: Ground) -> dict[int, int]:
    """How many samples every class gets in a fold."""
    pixels, config = ground.pixels(), job.config
    return {label: max(1, min(config.most, round(config.cap * int(pixels[label])))) for label in job.classes}


def compared(job: Job, too_rare: str) -> list[dict[str, Any]]:
    """Try no samples and every method with every seed in every fold: a row a method and prior."""
    from stages.training.judge import Trial, held_for, judged
    from stages.training.synthesis import METHODS, draw_synthetic

    config = job.config
    methods = [NONE, *(name for name in METHODS if not (name == GAN and too_rare))]
    seeds = [config.seed + number for number in range(config.seeds)]
    folds = range(job.samples.folds)
    total, done = len(folds) * len(seeds) * len(methods), 0
    found: dict[tuple[str, Prior, int], np.ndarray] = {}
    for fold in folds:
        ground = job.ground(fold)
        side = drawing_of(job, 0).side
        held = held_for(ground, config.judge, side)
        for seed, method in ((seed, method) for seed in seeds for method in methods):
            progress.report("augment", done, total)
            drawn = None
            if method != NONE:
                drawing, folder = drawing_of(job, seed), _gan_folder(job, fold, seed)
                drawn = draw_synthetic(method, ground, wanted(job, ground), drawing, seed, folder)
            trial = Trial(config.judge, side, seed, job.out / WORK / f"judge-{fold}-{seed}-{method}")
            for prior, mapped in judged(ground, held, drawn, trial).items():
                matrix = confusion(held.reference, mapped, ground.split.classes)
                found[method, prior, seed] = found.get((method, prior, seed), 0) + matrix
            done += 1
    progress.report("augment", total, total)
    return [
        row(method, prior, [found[method, prior, seed] for seed in seeds], job.classes)
        for method in methods
        for prior in PRIORS
        if method != NONE or prior == PRIORS[0]
    ]


def draw_all(job: Job, method: str) -> dict[str, int]:
    """Draw and write the samples of every fold; returns how many the model that makes the map has of every class."""
    from stages.training.synthesis import check_sources, draw_synthetic

    config, counts = job.config, np.zeros(len(job.samples.classes), np.int64)
    for fold in job.folds:
        ground = job.ground(fold)
        folder, drawing = _gan_folder(job, fold, config.seed), drawing_of(job, config.seed)
        drawn = draw_synthetic(method, ground, wanted(job, ground), drawing, config.seed, folder)
        check_sources(drawn, ground.split)
        write_samples(job.out, fold, drawn)
        counts = drawn.counts(len(counts))
    return dict(zip(job.samples.classes, counts.tolist(), strict=True))


def _gan_folder(job: Job, fold: int | None, seed: int) -> Path:
    """Where the generator of one fold and seed keeps its checkpoints."""
    return job.out / WORK / f"gan-{fold}-{seed}"


def _tell(about: Mapping[str, Any]) -> None:
    """Say what was drawn of what there is, and what it is worth."""
    lines = [*_lines(about), *([shown(about["table"])] if about["table"] else [])]
    _logger.info("%s", "\n".join(lines))


def _lines(about: Mapping[str, Any]) -> Iterator[str]:
    for entry in about["classes"]:
        yield (
            f"{entry['drawn']} synthetic samples of {entry['name']} ({about['method']}) beside {entry['pixels']} "
            f"pixels in {entry['patches']} patches and {entry['blocks']} blocks"
        )
    if about["too_rare"]:
        yield f"the generator was not tried: {about['too_rare']}"
    for prior, method in about["recommended"].items():
        yield f"recommended with augment.prior {prior}: {method}"
