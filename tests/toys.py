"""A toy graph: seven stages that read and write one line of text, in a package of their own that tests may edit."""

from __future__ import annotations

import importlib
import itertools
import json
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

import yaml

from pipeline.config import Area, load_area
from pipeline.graph import Stage

_numbers = itertools.count()

HEAD = """\
from pathlib import Path
import time
from pydantic import Field
from stages.settings import Settings

"""

FILES = {
    "__init__": "",
    "ingest": """
class Config(Settings):
    scenes: tuple[Path, ...] = Field(description="Text files")
    upper: bool = False

def sources(config):
    return list(config.scenes)

def run(out: Path, config: Config) -> None:
    text = "+".join(path.read_text() for path in config.scenes)
    (out / "scenes.txt").write_text(text.upper() if config.upper else text)
""",
    "deep/__init__": "",
    "deep/frame": "EDGE = '|'\n\ndef framed(text):\n    return EDGE + text + EDGE\n",
    "tile": """
RUN_SETTINGS = ("pause", "memory")

class Config(Settings):
    pad: int = Field(0, ge=0, le=9, description="Blanks on both sides")
    pause: float = 0.0
    memory: int = 1

def run(scenes: Path, out: Path, config: Config) -> None:
    from PACKAGE.deep.frame import framed
    (out / "half.txt").write_text("half")
    time.sleep(config.pause)
    (out / "tiles.txt").write_text(framed(" " * config.pad + (scenes / "scenes.txt").read_text() + " " * config.pad))
    (out / "half.txt").unlink()
""",
    "label": """
class Config(Settings):
    file: Path = Field(description="Labels")
    seed: int = 0

def sources(config):
    return [config.file]

def run(tiles: Path, out: Path, config: Config) -> None:
    (out / "samples.txt").write_text(config.file.read_text())
""",
    "train": """
RESUMES = True
RUN_SETTINGS = ("pause", "fail")

class Config(Settings):
    epochs: int = Field(3, ge=1, description="Passes")
    pause: float = 0.0
    fail: str = ""

def run(tiles: Path, samples: Path, out: Path, config: Config) -> None:
    import os
    from stages.errors import LabelError
    from stages.progress import report
    log = out / "epochs.txt"
    before = log.read_text().splitlines() if log.exists() else []
    for epoch in range(len(before), config.epochs):
        with log.open("a") as file:
            file.write(f"{epoch} {os.getpid()}\\n")
        report("epochs", epoch + 1, config.epochs)
        time.sleep(config.pause)
        if config.fail == "mistake":
            raise LabelError("The labels are too few; add some.")
        if config.fail == "bug":
            raise ZeroDivisionError("a bug")
        if config.fail == "disk":
            raise OSError(28, "No space left on device")
    (out / "model.onnx").write_text("model of " + (samples / "samples.txt").read_text())
    (out / "model.json").write_text("{}")
""",
    "evaluate": """
class Config(Settings):
    pass

def run(tiles: Path, samples: Path, model: Path, out: Path, config: Config) -> None:
    (out / "scores.txt").write_text("scored " + (model / "model.onnx").read_text())
""",
    "classify": """
class Config(Settings):
    pass

def run(tiles: Path, model: Path, out: Path, config: Config) -> None:
    (out / "classes.txt").write_text((tiles / "tiles.txt").read_text() + " by " + (model / "model.onnx").read_text())
""",
    "export": """
COSMETIC = {"style": {"color"}}

class Style(Settings):
    color: str = "red"
    width: int = 1

class Config(Settings):
    title: str
    style: Style = Style()

def run(tiles: Path, classes: Path, model: Path, samples: Path | None, scores: Path | None, out: Path,
        config: Config) -> None:
    scored = (scores / "scores.txt").read_text() if scores else "elsewhere"
    (out / "map.txt").write_text(f"{config.title}: {(classes / 'classes.txt').read_text()}, {scored}")
""",
}
ROWS = (
    ("ingest", (), "scenes", ()),
    ("tile", ("scenes",), "tiles", ()),
    ("label", ("tiles",), "samples", ()),
    ("train", ("tiles", "samples"), "model", ()),
    ("evaluate", ("tiles", "samples", "model"), "scores", ()),
    ("classify", ("tiles", "model"), "classes", ()),
    ("export", ("tiles", "classes", "model", "samples", "scores"), "map", ("samples", "scores")),
)


@dataclass(frozen=True)
class ToyStage(Stage):
    """A row whose module lies in another package than `stages`."""

    package: str = ""

    @property
    def module(self) -> ModuleType:
        return importlib.import_module(f"{self.package}.{self.name}")


def table(package: str, folder: Path) -> tuple[Stage, ...]:
    """The toy graph of a package that lies in ``folder``."""
    _importable(folder)
    return tuple(ToyStage(name, reads, writes, "", optional, package) for name, reads, writes, optional in ROWS)


def _importable(folder: Path) -> None:
    if str(folder) not in sys.path:
        sys.path.insert(0, str(folder))
    importlib.invalidate_caches()


@dataclass(frozen=True)
class Toy:
    """A root folder with one area, `a`, and the package of its stages."""

    root: Path
    package: str

    @property
    def code(self) -> Path:
        return self.root / self.package

    @property
    def data(self) -> Path:
        return self.root / "data" / "a"

    @property
    def stages(self) -> tuple[Stage, ...]:
        return table(self.package, self.root)

    def area(self, *changes: str, name: str = "a") -> Area:
        return load_area(self.root, name, changes, self.stages)

    def config(self, name: str = "a", **sections: Any) -> None:
        """Merge sections into the config; None removes one."""
        path = self.root / "configs" / f"{name}.yaml"
        values = yaml.safe_load(path.read_text()) if path.exists() else {}
        for key, section in sections.items():
            if isinstance(section, dict):
                values[key] = {**values.get(key, {}), **section}
            elif section is None:
                values.pop(key, None)
            else:
                values[key] = section
        path.write_text(yaml.safe_dump(values))

    def edit(self, file: str, old: str, new: str) -> None:
        path = self.code / f"{file}.py"
        text = path.read_text()
        assert old in text
        path.write_text(text.replace(old, new))

    def command(self, *arguments: str) -> list[str]:
        """The command line, over the toy's stages, in a process of its own."""
        script = (
            "import sys; from pathlib import Path; from tests.toys import table; from pipeline.cli import main; "
            f"sys.exit(main(sys.argv[1:], table({self.package!r}, Path({str(self.root)!r}))))"
        )
        return [sys.executable, "-c", script, "--root", str(self.root), *arguments]

    def call(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(self.command(*arguments), check=False, capture_output=True, text=True, timeout=60)

    def manifest(self, artifact: str) -> dict[str, Any]:
        values: dict[str, Any] = json.loads((self.data / artifact / "manifest.json").read_text())
        return values

    def text(self, artifact: str) -> str:
        (file,) = (self.data / artifact).glob("*.txt")
        return file.read_text()


def make_toy(root: Path) -> Toy:
    """Write a toy's package, its raw files and its config."""
    toy = Toy(root, f"toystages{next(_numbers)}")
    for name, body in FILES.items():
        path = toy.code / f"{name}.py"
        path.parent.mkdir(parents=True, exist_ok=True)
        head = HEAD if "Config" in body else ""
        path.write_text(head + body.replace("PACKAGE", toy.package))
    _importable(root)
    for folder in ("configs", "raw"):
        (root / folder).mkdir()
    (root / "raw" / "one.txt").write_text("one")
    (root / "raw" / "two.txt").write_text("two")
    (root / "raw" / "labels.txt").write_text("labels")
    toy.config(title="Toy", ingest={"scenes": ["raw/one.txt"]}, label={"file": "raw/labels.txt"})
    return toy
