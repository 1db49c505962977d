"""The `terrastage` command: read what was asked for, hand it on, print the answer."""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipeline import __version__
from pipeline.graph import STAGES, Stage, check_stage
from stages.errors import SettingError, TerrastageError

if TYPE_CHECKING:
    from pipeline.config import Area
    from pipeline.runner import Step

#: Exit codes: a mistake in the inputs, and a run stopped by hand.
MISTAKE, STOPPED = 2, 130
DEFAULT_AREA = "carolina"
#: All seven classes of the reference map, on which models are compared.
COMPARED_AREA = "carolina-seven"


def main(arguments: Sequence[str] | None = None, stages: tuple[Stage, ...] = STAGES) -> int:
    """Run the command; returns its exit code. Mistakes of the user are one sentence, bugs trace back."""
    # Looking for plugins of pydantic in every installed package would take a third of the time of `status`.
    os.environ.setdefault("PYDANTIC_DISABLE_PLUGINS", "__all__")
    asked = _parser(stages).parse_args(arguments)
    try:
        code: int = asked.act(asked)
    except TerrastageError as fault:
        print(f"terrastage: {' '.join(str(fault).split())}", file=sys.stderr)
        return MISTAKE
    except KeyboardInterrupt:
        print("terrastage: stopped; the earlier artifacts stand as they were.", file=sys.stderr)
        return STOPPED
    except BrokenPipeError:
        # Whoever read the output has seen enough; the interpreter must not try to flush it again.
        sys.stdout = None
        return 0
    return code


def _parser(stages: tuple[Stage, ...]) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="terrastage", description="Scenes and labels in, a classified map layer with its proof out."
    )
    parser.add_argument("--version", action="version", version=f"terrastage {__version__}")
    parser.add_argument("--root", type=Path, default=Path(), help="folder of configs/ and data/ (default: here)")
    parser.add_argument("--verbose", action="store_true", help="say why each stage runs, and more of what it finds")
    parser.set_defaults(stages=stages)
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    def command(name: str, act: Any, text: str, area: bool = True) -> argparse.ArgumentParser:
        made = commands.add_parser(name, help=text, description=text[0].upper() + text[1:] + ".")
        made.set_defaults(act=act)
        # The general options may stand behind the command, too.
        made.add_argument("--root", type=Path, default=argparse.SUPPRESS, help=argparse.SUPPRESS)
        made.add_argument("--verbose", action="store_true", default=argparse.SUPPRESS, help=argparse.SUPPRESS)
        if area:
            made.add_argument("--area", default=DEFAULT_AREA, metavar="NAME", help="default: %(default)s")
            made.add_argument("--set", dest="changes", action="append", default=[], metavar="SECTION.KEY=VALUE",
                              help="change a setting for this run; may be repeated")  # fmt: skip
        return made

    def waiting(made: argparse.ArgumentParser) -> None:
        made.add_argument("--wait", action="store_true", help="wait for who is at work there instead of refusing")

    names = ", ".join(stage.name for stage in stages)
    made = command("run", _run, "bring a stage, or all, up to date")
    made.add_argument("stage", nargs="?", default="all", metavar="STAGE", help=f"all (default), {names}")
    waiting(made)
    made = command("status", _status, "say which artifacts are fresh, stale or missing, and why")
    made.add_argument("--json", action="store_true", help="for programs")
    made = command("clean", _clean, "remove the artifact of a stage; raw data is never touched")
    made.add_argument("stage", metavar="STAGE", help=f"all, {names}")
    waiting(made)
    made = command(
        "plan", _plan, "say what tiling and mapping will take: tiles, gigabytes and minutes, from short trials"
    )
    made.add_argument(
        "--side", type=int, metavar="PIXELS", help="of a square grid, planned on paper instead of the area"
    )
    made.add_argument("--json", action="store_true", help="for programs")
    command("fetch", _fetch, "fetch the area's sample data")
    command("cluster", _cluster, "say where the work would be done, and print the script of a SLURM job")
    waiting(command("publish", _publish, "copy the finished map to publish.to; what lies there already is not copied"))
    made = command("compare", _compare, "print the table of all models by the comparison's protocol")
    made.set_defaults(area=COMPARED_AREA)
    made.add_argument("--seeds", type=int, nargs="+", metavar="SEED", help="seeds of the assignments to folds")
    made.add_argument("--models", nargs="+", metavar="ROW", help="rows of the table")
    waiting(made)
    made = command("attack", _attack, "try to fool the trained models on the test blocks, and say what is left of them")
    made.add_argument("--models", nargs="+", default=(), metavar="MODEL", help="only these; the first is drawn")
    made.add_argument(
        "--strengths", nargs="+", type=_share_of_deviation, default=(0.05, 0.1, 0.25, 0.5), metavar="X",
        help="largest changes of a value, in deviations of its band (default: 0.05 0.1 0.25 0.5)",
    )  # fmt: skip
    made.add_argument("--steps", type=_positive, default=10, help="of the projected gradient (default: %(default)s)")
    made.add_argument(
        "--pixels", type=_positive, default=20_000, help="test pixels at most, about (default: %(default)s)"
    )
    made.add_argument(
        "--patch", type=_not_negative, default=16, metavar="SIDE", help="in pixels, 0 for none (default: %(default)s)"
    )
    made.add_argument("--target", metavar="CLASS", help="what the patch is to show (default: the most frequent class)")
    made.add_argument("--seed", type=int, default=0, help="of all chance (default: %(default)s)")
    waiting(made)
    command("graph", _graph, "print the stages with what they read and write", area=False)
    command("list", _list, "list the areas", area=False)
    made = command("init", _init, "write a config for your own scenes and labels", area=False)
    made.add_argument("name", metavar="NAME", help="name of the new area")
    made.add_argument(
        "--scenes", required=True, metavar="PATTERN",
        help="the scenes' files, with *, ?, {band} and {date}, or a folder with a folder of image chips a class",
    )  # fmt: skip
    made.add_argument("--labels", type=Path, metavar="FILE", help="polygons, points or a label raster")
    made.add_argument("--field", metavar="COLUMN", help="the column that holds the class")
    made = command(
        "batch", _batch, "run every area that is no example, keep models where only scenes changed", area=False
    )
    made.add_argument("areas", nargs="*", metavar="AREA", help="only these")
    waiting(made)
    made = command("schedule", _schedule, "print the crontab line and the systemd units of the batch", area=False)
    made.add_argument("--hour", type=int, default=4, choices=range(24), metavar="0..23", help="default: %(default)s")
    made = command("course", _course, "run the lectures' experiments and write data/course/index.html", area=False)
    made.add_argument("lectures", nargs="*", metavar="LECTURE", help="only these: 1 to 8, generative, capsules")
    made.add_argument("--full", action="store_true", help="at the size of the published experiments, for hours")
    made.add_argument("--seed", type=int, default=0, help="of all chance (default: %(default)s)")
    command("gpu-check", _gpu_check, "compare an accelerator with the CPU on a small area", area=False)
    return parser


def _area(asked: argparse.Namespace) -> Area:
    from pipeline.config import load_area

    return load_area(asked.root, asked.area, tuple(asked.changes), asked.stages)


def _run(asked: argparse.Namespace) -> int:
    from pipeline import console, runner
    from pipeline.lock import held

    area = _area(asked)
    check_stage(asked.stage, asked.stages)
    with ExitStack() as stack:
        stack.enter_context(held(area.data / ".lock", f"area {area.name}", f"terrastage run {asked.stage}", asked.wait))
        stack.enter_context(console.shown(console.log_path(area.data / "logs", asked.stage), asked.verbose))
        done = runner.run(area, asked.stage)
    if done and done[-1].stage == "export":
        print(console.summary(area))
    return 0


def _status(asked: argparse.Namespace) -> int:
    from pipeline.runner import survey

    steps = survey(_area(asked))
    if asked.json:
        print(json.dumps([_entry(step) for step in steps], indent=1))
        return 0
    for step in steps:
        first, *more = step.why or ("",)
        print(f"  {step.stage.name:<9} {step.stage.writes:<10} {step.state:<8} {first}".rstrip())
        for reason in more:
            print(f"  {'':<29} {reason}")
    return 0


def _entry(step: Step) -> dict[str, Any]:
    manifest = step.manifest
    return {
        "stage": step.stage.name, "artifact": step.stage.writes, "state": step.state, "why": list(step.why),
        "key": step.key, "made": manifest.started if manifest else None,
        "seconds": manifest.seconds if manifest else None,
        "peak_memory_mb": manifest.peak_memory_mb if manifest else None,
    }  # fmt: skip


def _clean(asked: argparse.Namespace) -> int:
    from pipeline.lock import held
    from pipeline.runner import clean

    area = _area(asked)
    check_stage(asked.stage, asked.stages)
    if not area.data.exists():
        print("nothing to remove")
        return 0
    with held(area.data / ".lock", f"area {area.name}", f"terrastage clean {asked.stage}", asked.wait):
        removed = clean(area, asked.stage)
    print(f"removed {', '.join(f'data/{area.name}/{name}' for name in removed)}" if removed else "nothing to remove")
    return 0


def _plan(asked: argparse.Namespace) -> int:
    from dataclasses import asdict

    from pipeline.foresee import foresee, lines

    title, found = foresee(_area(asked), asked.side)
    if asked.json:
        print(json.dumps({"planned": title, "stages": [asdict(one) for one in found]}, indent=1))
        return 0
    for line in lines(title, found):
        print(line)
    return 0


def _fetch(asked: argparse.Namespace) -> int:
    from pipeline.fetch import fetch

    area = _area(asked)
    sample = area.settings.sample
    if sample is None:
        print(f"area {area.name} names no sample; its data is its own")
        return 0
    fetched = fetch(sample, area.root)
    print(f"{sample.package} {sample.version} {'fetched' if fetched else 'up to date'}")
    return 0


def _cluster(asked: argparse.Namespace) -> int:
    from pipeline.cluster import described

    area = _area(asked)
    print(described(area.settings.cluster, area.data))
    return 0


def _publish(asked: argparse.Namespace) -> int:
    from pipeline import console
    from pipeline.lock import held
    from pipeline.publish import MAP, publish
    from pipeline.runner import survey

    area = _area(asked)
    to = area.settings.publish.to
    if to is None:
        raise SettingError(f"publish.to is not set in area {area.name}; set it to a URL such as s3://bucket/folder.")
    with (
        held(area.data / ".lock", f"area {area.name}", "terrastage publish", asked.wait),
        console.shown(console.log_path(area.data / "logs", "publish"), asked.verbose),
    ):
        for step in survey(area):
            if step.stage.writes == MAP and step.state == "stale":
                print(f"  the map is stale ({step.why[0]}), see `terrastage status`; it is published as it stands")
        publish(area.data, to)
    return 0


def _graph(asked: argparse.Namespace) -> int:
    for stage in asked.stages:
        reads = " ".join(f"{name}?" if name in stage.optional else name for name in stage.reads) or "(sources)"
        print(f"{stage.name:<9} {reads:<38} -> {stage.writes:<10} {stage.purpose}")
    return 0


def _list(asked: argparse.Namespace) -> int:
    from pipeline.config import area_names, load_area

    for name in area_names(asked.root):
        try:
            area = load_area(asked.root, name, stages=asked.stages)
            print(f"{name:<16} {area.title}{' (example)' if area.settings.example else ''}")
        except TerrastageError as fault:
            print(f"{name:<16} cannot be loaded: {fault}")
    return 0


def _init(asked: argparse.Namespace) -> int:
    from pipeline.init import write_config

    for line in write_config(asked.root.resolve(), asked.name, asked.scenes, asked.labels, asked.field):
        print(line)
    return 0


def _batch(asked: argparse.Namespace) -> int:
    from pipeline import batch

    def say(line: str) -> None:
        print(line, flush=True)

    outcomes = batch.run(asked.root, tuple(asked.areas), say, asked.stages, asked.wait)
    return 1 if any(outcome.failed for outcome in outcomes) else 0


def _schedule(asked: argparse.Namespace) -> int:
    from pipeline.schedule import texts

    print(texts(asked.root, asked.hour), end="")
    return 0


def _compare(asked: argparse.Namespace) -> int:
    from pipeline import compare, console
    from pipeline.fetch import fetch
    from pipeline.lock import held

    area = _area(asked)
    options = {"seeds": asked.seeds, "models": asked.models}
    with (
        held(area.data / ".lock", f"area {area.name}", "terrastage compare", asked.wait),
        console.shown(console.log_path(area.data / "logs", "compare"), asked.verbose),
    ):
        if area.settings.sample is not None:
            fetch(area.settings.sample, area.root)
        compare.run(area, **{name: tuple(value) for name, value in options.items() if value is not None})
    return 0


def _attack(asked: argparse.Namespace) -> int:
    from pipeline import attack, console
    from pipeline.lock import held

    area = _area(asked)
    wanted = attack.Asked(
        models=tuple(asked.models), strengths=tuple(sorted(set(asked.strengths))), steps=asked.steps,
        pixels=asked.pixels, patch=asked.patch, target=asked.target, seed=asked.seed,
    )  # fmt: skip
    with (
        held(area.data / ".lock", f"area {area.name}", "terrastage attack", asked.wait),
        console.shown(console.log_path(area.data / "logs", "attack"), asked.verbose),
    ):
        attack.run(area, wanted)
    print(f"  written to data/{area.name}/attack; the report shows it after `terrastage run export --area {area.name}`")
    return 0


def _positive(text: str) -> int:
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"{text} is less than 1")
    return value


def _not_negative(text: str) -> int:
    value = int(text)
    if value < 0:
        raise argparse.ArgumentTypeError(f"{text} is less than 0")
    return value


def _share_of_deviation(text: str) -> float:
    value = float(text)
    if not 0 < value <= 10:
        raise argparse.ArgumentTypeError(f"{text} is not above 0 and at most 10")
    return value


def _course(asked: argparse.Namespace) -> int:
    from pipeline import console
    from pipeline.course.contents import FOLDER, teach
    from pipeline.lock import held

    data = asked.root / FOLDER
    data.mkdir(parents=True, exist_ok=True)
    with (
        held(data / ".lock", "the course", "terrastage course", False),
        console.shown(console.log_path(data / "logs", "course"), asked.verbose),
    ):
        page = teach(asked.root, tuple(asked.lectures), asked.full, asked.seed)
    print(f"  the course: {page}")
    return 0


def _gpu_check(asked: argparse.Namespace) -> int:  # noqa: ARG001
    from pipeline import gpu_check

    return gpu_check.run()


if __name__ == "__main__":
    sys.exit(main())
