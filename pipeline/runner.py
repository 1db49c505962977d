"""Walk the graph: tell what is fresh, run what is not, and put each artifact into place whole."""

from __future__ import annotations

import errno
import hashlib
import logging
import shutil
import time
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from pathlib import Path

from pipeline import artifacts, cluster, fetch, publish
from pipeline.artifacts import Manifest, read_manifest
from pipeline.config import Area
from pipeline.fingerprint import (
    Codes,
    Fingerprint,
    Identities,
    differences,
    flattened,
    hashed_config,
    relative,
    whole_config,
)
from pipeline.graph import LABELLED, Stage, check_signature, check_stage
from stages import memory
from stages.errors import ArtifactError, ModelError, SettingError, TerrastageError

_logger = logging.getLogger(__name__)

#: The artifact that may be given, or kept by `make batch`.
MODEL = "model"
#: States in which an artifact can be read as it stands.
USABLE = ("fresh", "kept", "given")
#: With less than this free, in MB, a disk counts as full.
FULL_MB = 0.064


@dataclass(frozen=True)
class Step:
    """A stage as it stands in an area.

    ``state`` is fresh, stale, missing, given (comes from elsewhere), kept (by `make batch`, though the scenes changed)
    or skipped (not part of this run); ``why`` says so in words. ``key`` is the key the artifact should have, "" where
    that cannot be told; ``fault`` is the user's mistake that prevents it.
    """

    stage: Stage
    state: str
    why: tuple[str, ...] = ()
    fingerprint: Fingerprint | None = None
    key: str = ""
    basis: str = ""
    manifest: Manifest | None = None
    fault: TerrastageError | None = None


@dataclass(frozen=True)
class Done:
    """What one run did with a stage: seconds of work, or none where there was nothing to do."""

    stage: str
    seconds: float | None


# --- what stands -----------------------------------------------------------------------------------------------------


def survey(area: Area, keep_model: bool = False) -> list[Step]:
    """Tell of every stage whether its artifact is fresh, stale or missing, and why; runs and writes nothing.

    With ``keep_model`` a model is kept where nothing but the scenes changed since it was trained, unless the area's
    ``batch.retrain`` says otherwise. A model that `make batch` kept stays kept until the next change.
    """
    identities, codes = Identities(area.root / "data" / ".identities.json"), Codes(area.root / "data" / ".code.json")
    steps = _walk(area, identities, codes, None)
    kept = _kept_model(area, steps, keep_model)
    if kept is not None:
        steps = _walk(area, identities, codes, kept)
    identities.save()
    codes.save()
    return steps


def _walk(area: Area, identities: Identities, codes: Codes, kept: Step | None) -> list[Step]:
    steps: dict[str, Step] = {}
    for stage in area.stages:
        if kept is not None and stage.name in LABELLED:
            step = kept if stage.writes == MODEL else _skipped(area, stage, "belongs to the model that was kept")
        elif stage.name in area.skipped:
            given = stage.writes == MODEL
            step = _given(area, stage, identities) if given else _skipped(area, stage, area.skipped[stage.name])
        else:
            step = _examined(area, stage, steps, identities, codes)
        steps[stage.writes] = step
    return list(steps.values())


def _skipped(area: Area, stage: Stage, why: str) -> Step:
    return Step(stage, "skipped", (why,), manifest=read_manifest(area.data / stage.writes))


def _given(area: Area, stage: Stage, identities: Identities) -> Step:
    """Describe the model that the config gives, told by what its files hold."""
    folder = area.settings.given.model
    assert folder is not None
    shown = relative(folder, area.root)
    files = sorted(
        path
        for pattern in ("*.json", "*.onnx*", "*/model.json", "*/model.onnx*")
        for path in folder.glob(pattern)
        if path.name != artifacts.MANIFEST
    )
    if not any(path.name == "model.onnx" for path in files):
        fault = ModelError(
            f"given.model {shown} holds no model.onnx; give the folder that `train` wrote (data/<area>/model), "
            "or one model's folder in it."
        )
        return Step(stage, "missing", (str(fault),), fault=fault)
    digest = hashlib.sha256()
    for path in files:
        digest.update(f"{path.relative_to(folder).as_posix()} {identities.of(path)}\n".encode())
    key = f"given-{digest.hexdigest()}"
    return Step(stage, "given", (f"given: {shown}",), key=key, basis=key)


def _examined(area: Area, stage: Stage, steps: dict[str, Step], identities: Identities, codes: Codes) -> Step:
    """Compare what a stage would read now with what its artifact was made of."""
    manifest = read_manifest(area.data / stage.writes)
    above = {name: steps[name] for name in stage.reads if steps[name].state != "skipped"}
    absent = [name for name in stage.reads if name not in above and name not in stage.optional]
    if absent:
        return Step(stage, "skipped", (f"needs {', '.join(absent)}",), manifest=manifest)
    unknown = [name for name, step in above.items() if not step.key]
    try:
        sources = _sources(area, stage, identities)
    except TerrastageError as fault:
        return Step(stage, _state(manifest, "stale"), (str(fault),), manifest=manifest, fault=fault)
    module, config = stage.module, area.configs[stage.name]
    fingerprint = Fingerprint(
        codes.of(module),
        hashed_config(module, config, area.root),
        {name: step.key for name, step in above.items()},
        sources,
    )
    if unknown:
        reason = f"upstream: {', '.join(unknown)}"
        return Step(stage, _state(manifest, "stale"), (reason,), fingerprint, manifest=manifest)
    key = fingerprint.key
    basis = fingerprint.without_scenes({name: step.basis for name, step in above.items()}).key
    if manifest is None:
        return Step(
            stage, "missing", (artifacts.absence(area.data / stage.writes, stage.name),), fingerprint, key, basis
        )
    if manifest.key == key:
        return Step(stage, "fresh", (), fingerprint, key, basis, manifest)
    why = tuple(differences(stage.name, manifest.fingerprint, fingerprint))
    return Step(stage, "stale", why, fingerprint, key, basis, manifest)


def _state(manifest: Manifest | None, otherwise: str) -> str:
    return "missing" if manifest is None else otherwise


def _sources(area: Area, stage: Stage, identities: Identities) -> dict[str, str]:
    """Identify the raw files a stage reads and what they hold."""
    sources = getattr(stage.module, "sources", None)
    if sources is None:
        return {}
    paths: list[Path] = sources(area.configs[stage.name])
    return {relative(path, area.root): identities.of(path) for path in sorted(set(paths))}


def _kept_model(area: Area, steps: list[Step], keep_model: bool) -> Step | None:
    """Make the step of the trained model where it is kept although the scenes changed, else none."""
    step = next((step for step in steps if step.stage.writes == MODEL), None)
    if step is None or step.state != "stale" or step.manifest is None or not step.key or area.settings.batch.retrain:
        return None
    manifest = step.manifest
    if manifest.basis != step.basis or not (keep_model or manifest.kept_for == step.key):
        return None
    why = f"kept by batch: only the scenes changed since it was trained (`make clean-{step.stage.name}` to train again)"
    return Step(step.stage, "kept", (why,), step.fingerprint, manifest.key, manifest.basis, manifest)


# --- running ---------------------------------------------------------------------------------------------------------


def run(area: Area, target: str = "all", keep_model: bool = False) -> list[Done]:
    """Bring ``target`` (a stage, or all) and everything above it up to date; the caller holds the area's lock.

    Raises:
        TerrastageError: an input, a setting or the disk prevents it, and the artifacts stand as they were; or the
            finished map cannot be published.
    """
    steps, done = _prepared(area, target, keep_model), []
    with ExitStack() as resources:
        opened = False
        for step in steps:
            if step.state in USABLE:
                _say(step, "up to date" if step.state == "fresh" else step.state)
                done.append(Done(step.stage.name, None))
                continue
            if step.fault is not None:
                raise step.fault
            if not opened:
                resources.enter_context(cluster.opened(area.settings.cluster, area.data))
                opened = True
            done.append(Done(step.stage.name, _execute(area, step)))
    _mark_kept(area, steps)
    if area.settings.publish.to is not None and any(step.stage.writes == publish.MAP for step in steps):
        publish.publish(area.data, area.settings.publish.to)
    return done


def _prepared(area: Area, target: str, keep_model: bool) -> list[Step]:
    """Fetch, recover, survey, and choose the steps that ``target`` needs."""
    _require_writable(area)
    artifacts.recover(area.data, tuple(stage.writes for stage in area.stages))
    if area.settings.sample is not None and fetch.fetch(area.settings.sample, area.root):
        _logger.info("fetched %s", relative(area.settings.sample.folder(area.root), area.root))
    return chosen(area, survey(area, keep_model), target)


def _mark_kept(area: Area, steps: list[Step]) -> None:
    """Note for which scenes a model was kept, so that runs by hand keep it too, once a run with it has succeeded."""
    for step in steps:
        if step.state == "kept":
            assert step.manifest is not None
            assert step.fingerprint is not None
            mark = replace(step.manifest, kept_for=step.fingerprint.key)
            if mark != step.manifest:
                artifacts.write_manifest(area.data / step.stage.writes, mark)


def chosen(area: Area, steps: list[Step], target: str) -> list[Step]:
    """Choose the steps that bring ``target`` up to date, in order: itself and everything above it.

    Raises:
        SettingError: there is no such stage, or it is not run in this area.
    """
    check_stage(target, area.stages)
    by_artifact = {step.stage.writes: step for step in steps}
    if target == "all":
        return [step for step in steps if step.state != "skipped"]
    wanted = next(step for step in steps if step.stage.name == target)
    if wanted.state == "skipped":
        raise SettingError(f"Stage {target} is not run in area {area.name}: {wanted.why[0]}.")
    needed: set[str] = set()
    waiting = [wanted]
    while waiting:
        step = waiting.pop()
        needed.add(step.stage.writes)
        # A given or kept artifact cuts the graph: nothing above it is run for its sake.
        if step.state not in ("given", "kept"):
            waiting.extend(by_artifact[n] for n in step.stage.reads if by_artifact[n].state != "skipped")
    return [step for step in steps if step.stage.writes in needed]


def _require_writable(area: Area) -> None:
    try:
        (area.data / artifacts.SCRATCH).mkdir(parents=True, exist_ok=True)
    except OSError as fault:
        raise ArtifactError(
            f"Cannot write to {area.data} ({fault.strerror}); check that it is a folder you may write to."
        ) from fault


def _execute(area: Area, step: Step) -> float:
    """Run one stage into its scratch folder and put the artifact into place; returns the seconds it took."""
    stage, module = step.stage, step.stage.module
    assert step.fingerprint is not None
    check_signature(stage)
    resumes = bool(getattr(module, "RESUMES", False))
    _say(step, "running")
    begun, started = time.monotonic(), datetime.now(UTC).isoformat(timespec="seconds")
    memory.forget_peak()
    try:
        scratch = artifacts.open_scratch(area.data, stage.name, step.key, resumes)
        inputs = {name: _input(area, step, name) for name in stage.reads}
        module.run(**inputs, out=scratch, config=area.configs[stage.name])
        seconds = round(time.monotonic() - begun, 2)
        artifacts.write_manifest(scratch, _manifest(area, step, scratch, started, seconds))
        artifacts.publish(scratch, area.data / stage.writes)
    except BaseException as fault:
        told = _translated(area, stage, fault)
        # What a stage can go on from is kept, unless it fills the disk.
        if not resumes or _disk_full(area, fault):
            artifacts.drop_scratch(area.data, stage.name)
        if told is None:
            raise
        raise told from fault
    _say(step, "done", seconds)
    return seconds


def _input(area: Area, step: Step, name: str) -> Path | None:
    """Find the folder of an artifact that a stage reads; none for an optional one that does not belong to this run."""
    assert step.fingerprint is not None
    if name not in step.fingerprint.inputs:
        return None
    if name == MODEL and area.settings.given.model is not None:
        return area.settings.given.model
    return area.data / name


def _manifest(area: Area, step: Step, scratch: Path, started: str, seconds: float) -> Manifest:
    fingerprint, module = step.fingerprint, step.stage.module
    config = area.configs[step.stage.name]
    assert fingerprint is not None
    assert module.__file__ is not None
    in_key = flattened(fingerprint.config)
    everything = flattened(whole_config(config, area.root))
    return Manifest(
        stage=step.stage.name,
        artifact=step.stage.writes,
        key=step.key,
        basis=step.basis,
        config_outside_key={path: value for path, value in everything.items() if path not in in_key},
        **asdict(fingerprint),
        versions=artifacts.versions(),
        commit=artifacts.git_commit(Path(module.__file__).parent),
        seed=getattr(config, "seed", None),
        started=started,
        seconds=seconds,
        peak_memory_mb=round(memory.peak() / 1024**2, 1),
        outputs=artifacts.outputs_of(scratch),
    )


def _translated(area: Area, stage: Stage, fault: BaseException) -> ArtifactError | None:
    """Tell in one sentence what the user can do something about: a full disk, a forbidden file, a lost cluster."""
    if _disk_full(area, fault):
        return ArtifactError(
            f"The disk is full: {stage.name} could not write to {area.data} ({_free_mb(area):.1f} MB free); "
            "free some space and run again, the earlier artifact is untouched."
        )
    for cause in _causes(fault):
        if told := cluster.lost(cause):
            return told
        if isinstance(cause, OSError) and cause.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
            return ArtifactError(
                f"{stage.name} may not use {cause.filename or area.data} ({cause.strerror}); check its permissions."
            )
    return None


def _disk_full(area: Area, fault: BaseException) -> bool:
    """Whether a full disk made a stage fail; libraries have many words for it, little free space tells it too."""
    named = any(
        getattr(cause, "errno", None) in (errno.ENOSPC, errno.EDQUOT) or "No space left on device" in str(cause)
        for cause in _causes(fault)
    )
    return named or (isinstance(fault, Exception) and _free_mb(area) < FULL_MB)


def _causes(fault: BaseException) -> Iterator[BaseException]:
    """Yield an exception and everything that led to it."""
    seen: set[int] = set()
    current: BaseException | None = fault
    while current is not None and id(current) not in seen:
        seen.add(id(current))
        yield current
        current = current.__cause__ or current.__context__


def _free_mb(area: Area) -> float:
    return shutil.disk_usage(area.data).free / 1e6


def _say(step: Step, outcome: str, seconds: float | None = None) -> None:
    """Log one stage's line; the console shows it as a row."""
    words = outcome if seconds is None else f"{outcome} in {seconds:.1f} s"
    why = f": {'; '.join(step.why)}" if outcome == "running" and step.why else ""
    _logger.info(
        "%s %s%s", step.stage.name, words, why,
        extra={"stage": step.stage.name, "outcome": outcome, "seconds": seconds, "why": step.why},
    )  # fmt: skip


def clean(area: Area, target: str) -> list[str]:
    """Remove the artifact of a stage, or all of them; names what was removed. Raw data is never touched.

    Raises:
        SettingError: there is no such stage.
    """
    check_stage(target, area.stages)
    stages = [stage for stage in area.stages if target in ("all", stage.name)]
    return [stage.writes for stage in stages if artifacts.remove(area.data / stage.writes, stage.name)]
