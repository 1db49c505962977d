"""The `model` artifact: one self-sufficient folder a trained classifier, and which of them makes the map.

    model/models.json                    the chosen one, and every candidate's validation scores
    model/<name>/model.onnx              image and valid in, logits out, normalisation inside
    model/<name>/weights.safetensors     all tensors by name (not of forests, and of what averages one)
    model/<name>/model.json              STAC MLM item
    model/folds/<fold>/<name>/...        the same, trained on one fold (with `label.folds`)

No file of it runs code when read.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from stages.errors import ModelError

CHOICE = "models.json"
ITEM = "model.json"
ONNX = "model.onnx"
WEIGHTS = "weights.safetensors"


@dataclass(frozen=True)
class ModelCard:
    """Everything a map needs to know of a model, apart from its weights.

    The ONNX graph takes `image` float32 (n, channel, y, x) in the tiles' units, 0 where invalid, `valid` float32
    (n, step, y, x) and, of networks for series, `days` float32 (n, step), and gives `logits` float32 (n, class, y, x),
    corrected to the training prior but not yet divided by ``temperature``. ``dates`` and ``days`` are those of the
    steps it learnt from, ``step`` their length where they were regularised. ``margin`` is the number of pixels around
    a pixel that its logits depend on (the receptive field is 2 * margin + 1); ``stride`` is what height and width must
    be multiples of. ``resolution`` is in units of the CRS and ``metres`` on the ground; ``values`` holds the 1st, 50th
    and 99th percentile of every channel over the training pixels, nothing where they are not known. ``network`` says
    how to build the network in torch around the tensors of `weights.safetensors`; empty where it has no torch form.
    """

    name: str
    channels: tuple[str, ...]
    dates: tuple[str, ...]
    scaling: str
    resolution: float
    metres: float
    classes: tuple[dict[str, Any], ...]
    margin: int
    stride: int
    temperature: float
    tta: bool
    fingerprint: str
    days: tuple[float, ...] = (0.0,)
    step: str = ""
    values: tuple[tuple[float, ...], ...] = ()
    settings: dict[str, Any] = field(default_factory=dict)
    metrics: dict[str, Any] = field(default_factory=dict)
    curves: dict[str, list[float]] = field(default_factory=dict)
    attribution: str = ""
    network: dict[str, Any] = field(default_factory=dict)

    @property
    def bands(self) -> tuple[str, ...]:
        """Band of every channel."""
        if len(self.dates) == 1:
            return self.channels
        return tuple(channel.rpartition("@")[0] for channel in self.channels)

    @property
    def steps(self) -> tuple[int, ...]:
        """Step of every channel, counted from 0."""
        if len(self.dates) == 1:
            return (0,) * len(self.channels)
        return tuple(self.dates.index(channel.rpartition("@")[2]) for channel in self.channels)

    @property
    def class_names(self) -> tuple[str, ...]:
        """Class names in the order of the logits."""
        return tuple(entry["name"] for entry in self.classes)


def write_card(folder: Path, card: ModelCard) -> None:
    """Write `model.json`: a STAC item with the MLM extension's fields, and ours under `terrastage`."""
    inputs = {
        "name": "image and valid",
        "bands": list(card.channels),
        "input": {"shape": [-1, len(card.channels), -1, -1], "dim_order": ["batch", "bands", "height", "width"],
                  "data_type": "float32"},
        "value_scaling": None,
        "resize_type": None,
    }  # fmt: skip
    output = {
        "name": "logits",
        "tasks": ["semantic-segmentation"],
        "result": {"shape": [-1, len(card.classes), -1, -1], "dim_order": ["batch", "class", "height", "width"],
                   "data_type": "float32"},
        "classification:classes": [
            {"value": c["code"], "name": c["name"], "color_hint": c["color"].lstrip("#").upper()} for c in card.classes
        ],
    }  # fmt: skip
    item = {
        "type": "Feature",
        "stac_version": "1.1.0",
        "stac_extensions": [
            "https://stac-extensions.github.io/mlm/v1.5.0/schema.json",
            "https://stac-extensions.github.io/classification/v2.0.0/schema.json",
        ],
        "id": f"{card.name}-{card.fingerprint[:12]}",
        "geometry": None,
        "properties": {
            "datetime": None,
            "mlm:name": card.name,
            "mlm:architecture": card.name,
            "mlm:framework": "ONNX",
            "mlm:tasks": ["semantic-segmentation"],
            "mlm:input": [inputs],
            "mlm:output": [output],
            "mlm:hyperparameters": card.settings,
        },
        "assets": {
            "model": {"href": ONNX, "type": "application/octet-stream; framework=onnx", "roles": ["mlm:model"],
                      "mlm:artifact_type": "onnx"},
        },
        "links": [],
        "terrastage": asdict(card),
    }  # fmt: skip
    (folder / ITEM).write_text(json.dumps(item, indent=1))


def read_card(folder: Path) -> ModelCard:
    """Read the card of one model folder.

    Raises:
        ModelError: the folder has no complete model.
    """
    path = Path(folder) / ITEM
    try:
        values = json.loads(path.read_text())["terrastage"]
        fields: dict[str, Any] = {k: tuple(v) if isinstance(v, list) else v for k, v in values.items()}
        card = ModelCard(**fields)
    except (OSError, ValueError, KeyError, TypeError) as fault:
        raise ModelError(
            f"{folder} is not a model folder ({type(fault).__name__} while reading {ITEM}); "
            "give the folder that `train` wrote for one model."
        ) from fault
    if not (Path(folder) / ONNX).is_file():
        raise ModelError(f"{folder} has no {ONNX}; give the whole folder that `train` wrote for one model.")
    return card


def write_choice(folder: Path, chosen: str, candidates: dict[str, Any], split: str, note: str = "") -> None:
    """Write which model makes the map and why.

    ``candidates`` maps each name to its validation scores; ``split`` tells by `Samples.split` which labels were held
    out of the training.
    """
    choice = {"chosen": chosen, "note": note, "split": split, "candidates": candidates}
    (folder / CHOICE).write_text(json.dumps(choice, indent=1))


def read_choice(folder: Path) -> dict[str, Any]:
    """Read which model makes the map (`chosen`), a `note`, the `split`, and the `candidates` with their scores."""
    choice: dict[str, Any] = json.loads((folder / CHOICE).read_text())
    return choice


def chosen_folder(folder: Path) -> Path:
    """Find the folder of the map's model: inside a `model` artifact, or the folder itself where it is one model."""
    if (folder / CHOICE).is_file():
        return folder / str(read_choice(folder)["chosen"])
    return folder


def fold_folder(folder: Path, name: str, fold: int, crossed: bool) -> Path:
    """Where the model ``name`` that was not trained on fold ``fold`` lies."""
    return folder / "folds" / str(fold) / name if crossed else folder / name
