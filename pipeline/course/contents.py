"""The lectures in their order, and how one is run and kept."""

from __future__ import annotations

import base64
import importlib
import json
import logging
import time
from dataclasses import asdict, replace
from pathlib import Path
from types import ModuleType

from pipeline.course.lecture import Lecture, Picture, Result
from pipeline.fingerprint import write_whole
from stages.errors import SettingError

log = logging.getLogger(__name__)

#: Number of every lecture, and the module that holds it.
LECTURES = {
    "1": "introduction",
    "2": "convolution",
    "3": "challenges",
    "4": "applications",
    "5": "model_selection",
    "6": "sequences",
    "7": "gradients_of_time",
    "8": "reinforcement",
    "generative": "generative",
    "capsules": "capsules",
}
#: The part of the data folder that is the course's.
FOLDER = Path("data") / "course"
#: Where the course's page is.
PAGE = FOLDER / "index.html"


def teach(root: Path, numbers: tuple[str, ...], full: bool, seed: int = 0) -> Path:
    """Run lectures, all where none is named, and write the course's page of all that were ever run.

    Args:
        root: folder of data/.
        numbers: of the lectures.
        full: as large as in the papers, instead of small.
        seed: of all chance.

    Returns:
        The page.

    Raises:
        SettingError: there is no lecture of a number.
    """
    from pipeline.course.pages import page

    for number in numbers:
        if number not in LECTURES:
            raise SettingError(f"There is no lecture {number}; the lectures are {', '.join(LECTURES)}.")
    for number in numbers or LECTURES:
        began = time.perf_counter()
        lecture = module_of(number).run(_work(root, number), full, seed)
        keep(root, lecture, full)
        log.info("lecture %s, %s: %.0f s\n%s", number, lecture.title, time.perf_counter() - began, told(lecture))
    target = root / PAGE
    write_whole(target, page([read(root, number) for number in LECTURES if kept(root, number).is_file()]))
    return target


def module_of(number: str) -> ModuleType:
    """Load a lecture's own file."""
    return importlib.import_module(f"pipeline.course.{LECTURES[number]}")


def told(lecture: Lecture) -> str:
    """Write the figures of a lecture as lines."""
    return "\n".join(
        f"  {result.what}: {result.ours}" + (f" (published: {result.published})" if result.published else "")
        for result in lecture.results
    )


def kept(root: Path, number: str) -> Path:
    """Where the result of a lecture lies."""
    return root / FOLDER / "lectures" / f"{number}.json"


def keep(root: Path, lecture: Lecture, full: bool) -> None:
    """Write the result of a lecture, whole or not at all."""
    pictures = [
        {"caption": one.caption, "svg": one.content}
        if isinstance(one.content, str)
        else {"caption": one.caption, "png": base64.b64encode(one.content).decode("ascii")}
        for one in lecture.pictures
    ]
    written = {**asdict(replace(lecture, pictures=())), "pictures": pictures, "full": full}
    path = kept(root, lecture.number)
    path.parent.mkdir(parents=True, exist_ok=True)
    write_whole(path, json.dumps(written, indent=1))


def read(root: Path, number: str) -> tuple[Lecture, bool]:
    """Read the result of a lecture, and whether it is the full one."""
    written = json.loads(kept(root, number).read_text())
    pictures = tuple(
        Picture(one["caption"], one["svg"] if "svg" in one else base64.b64decode(one["png"]))
        for one in written["pictures"]
    )
    results = tuple(Result(**one) for one in written["results"])
    lecture = Lecture(written["number"], written["title"], tuple(written["text"]), pictures, results)
    return lecture, bool(written["full"])


def _work(root: Path, number: str) -> Path:
    folder = root / FOLDER / "work" / number
    folder.mkdir(parents=True, exist_ok=True)
    return folder
