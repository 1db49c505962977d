"""Attack the trained models of an area on its test blocks, and write down how much of their accuracy is left.

Beside every attack stands random noise of the same strength, as a classifier that noise would upset as much has not
been fooled. Models without a gradient (forests, vector machines, averages with one of them) are attacked by transfer:
with the images that were made to fool the best network that has one (Papernot, McDaniel and Goodfellow 2016).
"""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from pipeline import artifacts
from pipeline.config import ATTACK, Area
from pipeline.runner import survey
from stages import progress
from stages.accuracy.confusion import balanced_accuracy, confusion, overall_accuracy
from stages.delivery.legend import legend_of
from stages.delivery.pictures import AttackExample, attack_picture
from stages.delivery.report import patch_sentence
from stages.errors import ArtifactError, ModelError, SettingError
from stages.formats.attacks import write_attacks
from stages.formats.samples import Part, Role, Samples
from stages.formats.tiles import Tiles
from stages.formats.weights import CHOICE, ModelCard, chosen_folder, fold_folder, read_card, read_choice

if TYPE_CHECKING:
    from torch import Tensor

    from stages.training.ground import Split
    from stages.training.held import Held
    from stages.training.robustness import Model

_logger = logging.getLogger(__name__)

#: Artifacts that an attack reads.
NEEDED = ("tiles", "samples", "model")
#: Networks whose answer is counted votes, which have no slope.
VOTES = "svm"


@dataclass(frozen=True)
class Asked:
    """What is attacked and how.

    Models by name, all of them where none is named; strengths in band deviations; steps of the projected gradient;
    test pixels at most, about; side of the patch in pixels, 0 for none, the class it is to show (the most frequent
    one by default), and how many steps it is sought; the seed of all chance.
    """

    models: tuple[str, ...] = ()
    strengths: tuple[float, ...] = (0.05, 0.1, 0.25, 0.5)
    steps: int = 10
    pixels: int = 20_000
    patch: int = 16
    target: str | None = None
    patch_steps: int = 200
    seed: int = 0


class Trained(NamedTuple):
    """One model of one fold: its card, what it answers, and whether a gradient passes through it."""

    card: ModelCard
    model: Model
    has_gradient: bool


@dataclass(frozen=True)
class Inputs:
    """What an attack reads, opened."""

    tiles: Tiles
    samples: Samples
    model: Path

    @property
    def own(self) -> bool:
        """Whether the models were trained in this area, fold by fold where it has folds."""
        return (self.model / CHOICE).is_file()

    def names(self) -> tuple[str, ...]:
        """Name all models, that of the map first."""
        if not self.own:
            return (read_card(self.model).name,)
        choice = read_choice(self.model)
        return tuple(dict.fromkeys((choice["chosen"], *choice["candidates"])))

    def folder_of(self, name: str, fold: int) -> Path:
        """Find the model that saw none of a fold's test labels."""
        return fold_folder(self.model, name, fold, self.samples.refitted) if self.own else self.model


def run(area: Area, asked: Asked) -> dict[str, Any]:
    """Attack the models, write what is left of them to `data/<area>/attack/` and return it.

    Raises:
        ArtifactError: there are no tiles, samples or models yet.
        SettingError: a model, class or size that there is none of, or no test part to attack.
        ModelError: no model with a gradient is at hand, or the models were trained on other splits.
    """
    found, example = measure(_opened(area), asked)
    _write(area.data, found, attack_picture(found, example))
    for line in table(found):
        _logger.info("%s", line)
    return found


def measure(inputs: Inputs, asked: Asked) -> tuple[dict[str, Any], AttackExample]:
    """Attack the models: the figures as `stages.formats.attacks` holds them, and what their picture shows."""
    names = _names(inputs, asked)
    followed = _followed(inputs, names)
    models: dict[str, dict[str, Any]] = {name: {"by": followed[name]} for name in names}
    matrices: dict[tuple[str, str, float], np.ndarray] = {}
    for fold in range(inputs.samples.folds):
        for key, matrix in _attack_fold(inputs, fold, followed, asked).items():
            matrices[key] = matrices.get(key, 0) + matrix
    for name in names:
        models[name] |= _accuracies({key[1:]: matrix for key, matrix in matrices.items() if key[0] == name}, asked)
    patched, example = _shown(inputs, names[0], followed[names[0]], asked)
    found = {
        "fingerprint": read_card(chosen_folder(inputs.model)).fingerprint, "split": inputs.samples.split,
        "pixels": int(matrices[names[0], "", 0.0].sum()), "strengths": list(asked.strengths), "steps": asked.steps,
        "seed": asked.seed, "folds": inputs.samples.folds if inputs.samples.crossed else 0, "models": models,
        "patch": patched,
    }  # fmt: skip
    return found, example


def _write(data: Path, found: dict[str, Any], picture: bytes) -> None:
    """Write the folder aside and rename it into place."""
    scratch = artifacts.open_scratch(data, ATTACK, "", resumes=False)
    write_attacks(scratch, found, picture)
    artifacts.publish(scratch, data / ATTACK)


def _opened(area: Area) -> Inputs:
    steps = {step.stage.writes: step for step in survey(area)}
    given = area.settings.given.model
    stale = []
    for name in NEEDED:
        if name == "model" and given is not None:
            continue
        step = steps[name]
        if step.manifest is None:
            raise ArtifactError(
                f"There are no {name} of area {area.name} to attack ({step.why[0]}); run `make train AREA={area.name}`."
            )
        if step.state == "stale":
            stale.append(f"{name} ({step.why[0]})")
    if stale:
        _logger.warning("stale, and attacked as it stands: %s", "; ".join(stale))
    inputs = Inputs(Tiles(area.data / "tiles"), Samples(area.data / "samples"), given or area.data / "model")
    if inputs.own and given is None and read_choice(inputs.model)["split"] != inputs.samples.split:
        raise ModelError(
            f"The models of area {area.name} were trained on another division of the labels, so its test blocks are "
            f"not new to them; run `make train AREA={area.name}`."
        )
    if not bool((inputs.samples.all_parts == Part.TEST).any()):
        raise SettingError(
            f"Area {area.name} has no test blocks to attack (label.shares.test is 0); give them a share or label.folds."
        )
    return inputs


def _names(inputs: Inputs, asked: Asked) -> tuple[str, ...]:
    names = inputs.names()
    unknown = [name for name in asked.models if name not in names]
    if unknown:
        raise SettingError(f"There is no trained model {unknown[0]}; the trained ones are {', '.join(names)}.")
    return tuple(dict.fromkeys(asked.models)) or names


def _followed(inputs: Inputs, names: tuple[str, ...]) -> dict[str, str]:
    """Find for every model whose gradient is followed: its own, or that of the best model which has one."""
    with_gradient = [name for name in inputs.names() if has_gradient(inputs.folder_of(name, 0))]
    if not with_gradient:
        raise ModelError(
            f"None of the models ({', '.join(inputs.names())}) has a gradient to follow, and an attack by transfer "
            "needs one that has; train a network too, such as train.models [rf, cnn]."
        )
    candidates = read_choice(inputs.model)["candidates"] if inputs.own else {}
    best = max(with_gradient, key=lambda name: candidates.get(name, {}).get("overall_accuracy") or 0.0)
    return {name: name if name in with_gradient else best for name in names}


def has_gradient(folder: Path) -> bool:
    """Whether the gradient of a model's answer can be followed back to the image: networks, and averages of them."""
    from stages.inference.backends import has_torch_form

    card = read_card(folder)
    return has_torch_form(card, folder) and not _votes(card.network)


def _votes(network: Mapping[str, Any]) -> bool:
    members = network.get("members")
    return network.get("kind") == VOTES or (isinstance(members, list) and any(_votes(one) for one in members))


def trained(folder: Path) -> Trained:
    """Load a model as an attack needs it: in torch where a gradient passes through it, else its graph."""
    from stages.inference.backends import Engine, opened, torch_form
    from stages.training.robustness import Mapped

    card = read_card(folder)
    if has_gradient(folder):
        network = torch_form(folder)
        assert network is not None
        return Trained(card, Mapped(network.requires_grad_(False), card.temperature, card.tta), True)
    import torch

    backend = opened(folder, Engine())

    def logits(image: torch.Tensor, valid: torch.Tensor, days: torch.Tensor) -> torch.Tensor:
        return torch.from_numpy(backend.logits(image.numpy(), valid.numpy(), days.numpy()))

    return Trained(card, Mapped(logits, card.temperature, card.tta), False)


def _attack_fold(
    inputs: Inputs, fold: int, followed: Mapping[str, str], asked: Asked
) -> dict[tuple[str, str, float], np.ndarray]:
    """Attack all models on the test pixels of one fold: confusion by model, kind of attack ("" for none), strength."""
    from stages.training.robustness import KINDS, Strength, answers

    models = {name: trained(inputs.folder_of(name, fold)) for name in {**followed, **dict.fromkeys(followed.values())}}
    cards = [model.card for model in models.values()]
    split = _split(inputs, cards[0], fold)
    held = _held(split, Role.TEST, cards, asked)
    deviation = np.maximum(np.array(split.moments()[1], np.float64), 1e-6)
    found: dict[tuple[str, str, float], np.ndarray] = {}
    jobs = [("", 0.0), *((kind, strength) for kind in KINDS for strength in asked.strengths)]
    done = 0
    for source in dict.fromkeys(followed.values()):
        victims = {name: models[name].model for name in followed if followed[name] == source}
        for kind, deviations in jobs:
            strength = Strength(deviations, deviation, asked.steps)
            mapped = answers(victims, models[source].model, held, kind or KINDS[0], strength, seed=asked.seed)  # type: ignore[arg-type]
            for name, classes in mapped.items():
                found[name, kind, deviations] = confusion(held.reference, classes, split.classes)
            done += 1
            progress.report("attacks", done, len(jobs) * len(set(followed.values())))
    return found


def _split(inputs: Inputs, card: ModelCard, fold: int) -> Split:
    """Open the tiles and labels of a fold as a model reads them.

    Raises:
        ModelError: it was made for other tiles, or maps other classes.
    """
    from stages.inference.fit import check_fit, places_of
    from stages.training.ground import Split

    check_fit(card, inputs.tiles)
    if card.class_names != inputs.samples.classes:
        raise ModelError(
            f"Model {card.name} maps {', '.join(card.class_names)}, but the labels hold "
            f"{', '.join(inputs.samples.classes)}; name the classes of the config as the model does, in its order."
        )
    channels = tuple(inputs.tiles.channels[place] for place in places_of(card, inputs.tiles))
    return Split(inputs.tiles, inputs.samples, channels, fold)


def _held(split: Split, role: Role, cards: list[ModelCard], asked: Asked) -> Held:
    """Read held-out pixels with the surroundings that all of the models look at."""
    from stages.training.held import gather

    margin, stride = max(card.margin for card in cards), math.lcm(*(card.stride for card in cards))
    return gather(split, role, margin, stride, asked.pixels)


def _accuracies(matrices: Mapping[tuple[str, float], np.ndarray], asked: Asked) -> dict[str, Any]:
    """Overall and balanced accuracy without an attack, and by kind and strength."""

    def of(kind: str, strength: float) -> dict[str, float]:
        matrix = matrices[kind, strength]
        return {"overall": float(overall_accuracy(matrix)), "balanced": float(balanced_accuracy(matrix))}

    kinds = [kind for kind in dict.fromkeys(kind for kind, _ in matrices) if kind]
    return {"clean": of("", 0.0), "attacks": {kind: [of(kind, each) for each in asked.strengths] for kind in kinds}}


def _shown(inputs: Inputs, name: str, source: str, asked: Asked) -> tuple[dict[str, Any] | None, AttackExample]:
    """Try a patch on the first fold, and map one of its windows as it is, after noise, after an attack, with the patch.

    Returns:
        What the patch did, None where there is none, and the window.
    """
    import torch

    from stages.training import attack
    from stages.training.robustness import Strength, attacked, pieces

    seen, followed = (trained(inputs.folder_of(one, 0)) for one in (name, source))
    split = _split(inputs, followed.card, 0)
    test = _held(split, Role.TEST, [seen.card, followed.card], asked)
    piece = max(pieces(test, alone=False), key=lambda one: int(one.asked[0].sum()))
    draw = torch.Generator().manual_seed(asked.seed)
    strength = Strength(asked.strengths[len(asked.strengths) // 2], np.array(split.moments()[1]), asked.steps)
    images = {"as it is": piece.image}
    for kind, title in (("noise", "noise"), ("projected gradient", "attack")):
        changed = attacked(piece, followed.model, kind, strength, draw)  # type: ignore[arg-type]
        images[f"{title} of {strength.deviations:g}"] = changed
    target = _target(inputs, followed.card, asked)
    patch, did = _patched(split, test, (seen, followed), target, asked)
    if patch is not None:
        middle = [(size - asked.patch) // 2 for size in piece.image.shape[-2:]]
        images["patch"] = attack.paste(piece.image, patch, [(middle[0], middle[1])] * len(piece.image))[0]
    with torch.no_grad():
        maps = [piece.answer(seen.model)(image)[0].argmax(dim=0).numpy() for image in images.values()]
    valid = piece.valid[0].amax(dim=0).numpy() > 0
    scenes = (np.where(valid[..., None], colours(image[0].numpy(), split), np.uint8(255)) for image in images.values())
    shown = (np.where(valid, mapped, 255).astype(np.uint8) for mapped in maps)
    return did, AttackExample(tuple(images), tuple(scenes), tuple(shown), legend_of(followed.card, ()))


def _patched(
    split: Split, test: Held, models: tuple[Trained, Trained], target: int, asked: Asked
) -> tuple[Tensor | None, dict[str, Any] | None]:
    """Make a patch on the validation blocks and try it on the test blocks: the patch, and what it did.

    It is made to fool the second of the models and tried on the first, of values that 98 % of the training pixels have.
    """
    from stages.training.robustness import Patch, make_patch, try_patch

    (seen, followed), side = models, min(test.labels.shape[1:])
    reach = min(followed.card.margin, side // 2)
    if not asked.patch or not reach:
        return None, None
    if asked.patch > side // 2:
        raise SettingError(f"A patch of {asked.patch} pixels is too large; it may have {side // 2} at most.")
    bounds = [(low, high) for low, _, high in split.values()]
    plan = Patch(target, asked.patch, bounds, reach, asked.patch_steps, seed=asked.seed)
    patch = make_patch(followed.model, _held(split, Role.VALIDATION, [seen.card, followed.card], asked), plan)
    tried = try_patch(seen.model, test, patch, plan)
    return patch, {
        "model": seen.card.name, "by": followed.card.name, "side": asked.patch,
        "target": followed.card.class_names[target], "reach": reach,
        "pixels": int((tried.reference != target).sum()), **tried.share(target),
    }  # fmt: skip


def _target(inputs: Inputs, card: ModelCard, asked: Asked) -> int:
    """Class index that a patch is to show."""
    if asked.target is None:
        return int(np.argmax(inputs.samples.statistics(0)["class_pixels"]))
    if asked.target not in card.class_names:
        raise SettingError(f"There is no class {asked.target}; the classes are {', '.join(card.class_names)}.")
    return card.class_names.index(asked.target)


def colours(image: np.ndarray, split: Split) -> np.ndarray:
    """Show the last date's values (channel, y, x) as red, green and blue between the 1st and 99th percentile."""
    names = [channel.rpartition("@")[0] or channel for channel in split.channels]
    last = [place for place, step in enumerate(split.steps) if step == max(split.steps)]
    by_name = {names[place]: place for place in last}
    picked = [by_name.get(colour, last[min(at, len(last) - 1)]) for at, colour in enumerate(("red", "green", "blue"))]
    low, _, high = np.array(split.values()).T
    scaled = (image - low[:, None, None]) / np.maximum(high - low, 1e-9)[:, None, None]
    shown: np.ndarray = (255 * scaled[picked].clip(0.0, 1.0)).astype(np.uint8).transpose(1, 2, 0)
    return shown


def table(found: Mapping[str, Any]) -> list[str]:
    """Lay the accuracies out as aligned lines, and say what the patch did."""
    strengths = found["strengths"]
    lines = [f"{found['pixels']:,} test pixels, strengths in band deviations, overall (balanced) accuracy"]
    lines.append(f"{'':26}{'clean':>15}" + "".join(f"{strength:>15g}" for strength in strengths))
    for name, model in found["models"].items():
        by = "" if model["by"] == name else f" (by transfer from {model['by']})"
        lines.append(f"{name + by:26}{_pair(model['clean']):>15}")
        for kind, rows in model["attacks"].items():
            lines.append(f"  {kind:24}{'':15}" + "".join(f"{_pair(row):>15}" for row in rows))
    if found["patch"]:
        lines.append(patch_sentence(found["patch"]))
    return lines


def _pair(row: Mapping[str, float]) -> str:
    return f"{row['overall']:.3f} ({row['balanced']:.3f})"
