"""Load an area: read its YAML, hand every stage its settings, and say in one sentence what is wrong with them."""

from __future__ import annotations

import difflib
import re
import types
import typing
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml
from pydantic import BaseModel, Field, ValidationError, field_validator
from pydantic.fields import FieldInfo

from pipeline.cluster import Cluster, Threads
from pipeline.fetch import Sample
from pipeline.graph import LABELLED, STAGES, Stage
from pipeline.publish import Publish
from stages.errors import SettingError
from stages.settings import Settings

#: Top-level settings that several stages share; each stage gets those that its `Config` declares.
SHARED = ("title", "attribution", "grid", "classes")
#: With a given model, the labelled stages that still make sense where the area has labels: they score the model.
SCORING = ("label", "evaluate")
#: Not run where the area is a table of series: there is no ground to map.
MAPPING = ("classify", "export")
#: Folder of an area that `terrastage attack` writes, which is no stage: the report shows what it finds there.
ATTACK = "attack"
#: Folders of `data/` that belong to no area.
RESERVED = ("raw", "logs")


class Batch(Settings):
    """How `make batch` treats the area."""

    retrain: bool = Field(False, description="Train again where only the scenes changed, instead of keeping the model")


class Given(Settings):
    """Artifacts that come from elsewhere."""

    model: Path | None = Field(None, description="Folder of one model that `train` wrote, here or elsewhere")


class RunSettings(Settings):
    """The top-level settings that no stage reads; none of them but ``given`` can change a map."""

    title: str = Field("", description="What the map shows")
    attribution: str = Field("", description="Licence and source of the data, shown with every map")
    example: bool = Field(False, description="Left out by `make batch`")
    sample: Sample | None = Field(None, description="Package that holds the area's data")
    cluster: Cluster = Field(default_factory=Threads, description="Where the work is done")
    batch: Batch = Field(default_factory=Batch, description="How `make batch` treats the area")
    given: Given = Field(default_factory=Given, description="Artifacts that come from elsewhere")
    publish: Publish = Field(default_factory=Publish, description="Where a finished map is copied to")

    @field_validator("cluster", mode="before")
    @classmethod
    def _threads_unless_said(cls, section: Any) -> Any:
        return {"kind": "threads", **section} if isinstance(section, dict) else section


@dataclass(frozen=True)
class Area:
    """One mapping project: its name, root folder, run settings, and the settings of every stage it runs.

    ``configs`` holds a validated `Config` by stage name, paths absolute. ``skipped`` says of every stage that is not
    run why not. ``stages`` is the graph's table.
    """

    name: str
    root: Path
    settings: RunSettings
    configs: Mapping[str, Settings]
    skipped: Mapping[str, str] = field(default_factory=dict)
    stages: tuple[Stage, ...] = STAGES

    @property
    def data(self) -> Path:
        """The folder of the area's artifacts."""
        return self.root / "data" / self.name

    @property
    def title(self) -> str:
        """What the map shows."""
        return self.settings.title or self.name


def area_names(root: Path) -> list[str]:
    """List the areas that have a config, in alphabetical order."""
    return sorted(path.stem for path in (root / "configs").glob("*.yaml"))


def check_name(name: str) -> None:
    """See that a text can name an area: a file in `configs/` and a folder in `data/`.

    Raises:
        SettingError: it cannot.
    """
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9_-]*", name) or name in RESERVED:
        raise SettingError(
            f"{name!r} cannot name an area; use letters, digits, - and _, and neither {' nor '.join(RESERVED)}."
        )


def load_area(root: Path, name: str, changes: tuple[str, ...] = (), stages: tuple[Stage, ...] = STAGES) -> Area:
    """Load `configs/<name>.yaml` with ``changes`` ("section.key=value") applied.

    Raises:
        SettingError: no such area, unreadable YAML, or a setting that is unknown, missing or has a wrong value.
    """
    root = root.resolve()
    raw = _read(root, name)
    for change in changes:
        _apply(raw, change)
    return build_area(root, name, raw, stages)


def build_area(root: Path, name: str, raw: dict[str, Any], stages: tuple[Stage, ...] = STAGES) -> Area:
    """Make an area of settings as they were read from YAML."""
    by_name = {stage.name: stage for stage in stages}
    _refuse_unknown_sections(raw, by_name)
    top = {key: raw[key] for key in RunSettings.model_fields if key in raw}
    settings = _anchored(_validated(RunSettings, top, "", raw), root)
    raw = _attacked({**raw, "title": settings.title or name}, root / "data" / name / ATTACK, by_name)
    skipped = _skipped(settings, raw, by_name)
    # A section that this run does not need is checked all the same, where it is written down.
    configs = {stage.name: _stage_config(stage, raw, root) for stage in stages if stage.name not in skipped}
    for stage in stages:
        if stage.name in skipped and stage.name in raw:
            _stage_config(stage, raw, root)
    return Area(name, root, settings, configs, skipped, stages)


def _attacked(raw: dict[str, Any], folder: Path, stages: Mapping[str, Stage]) -> dict[str, Any]:
    """Let `export` show an attack that was made in this area, unless its section names another."""
    section = raw.get("export", {})
    shows = "export" in stages and ATTACK in stages["export"].module.Config.model_fields
    if not shows or not isinstance(section, dict) or not folder.is_dir():
        return raw
    return {**raw, "export": {ATTACK: folder, **section}}


def _skipped(settings: RunSettings, raw: Mapping[str, Any], stages: Mapping[str, Stage]) -> dict[str, str]:
    """Say which stages a given model or a table of series makes needless."""
    ingest, section = raw.get("ingest"), raw.get("label")
    kinds = {"table": "a table of series", "chips": "a collection of chips"}
    kind = next((text for key, text in kinds.items() if isinstance(ingest, dict) and ingest.get(key)), "")
    is_table = bool(kind)
    skipped = dict.fromkeys(MAPPING, f"the area is {kind}") if is_table else {}
    if settings.given.model is not None:
        # A table holds its own labels.
        scored = is_table or (isinstance(section, dict) and bool(section.get("file")))
        skipped |= dict.fromkeys((name for name in LABELLED if not (scored and name in SCORING)), "the model is given")
    return {name: why for name, why in skipped.items() if name in stages}


# --- reading ---------------------------------------------------------------------------------------------------------


class _Loader(yaml.SafeLoader):
    """YAML as people mean it: `no` is a word, 2024-06-01 and 007 are texts, and no key may stand twice."""


_Loader.yaml_implicit_resolvers = {
    first: [
        (tag, pattern) for tag, pattern in resolvers if tag in ("tag:yaml.org,2002:null", "tag:yaml.org,2002:merge")
    ]
    for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
}
_Loader.add_implicit_resolver("tag:yaml.org,2002:bool", re.compile(r"^(?:true|True|TRUE|false|False|FALSE)$"), "tTfF")
_Loader.add_implicit_resolver("tag:yaml.org,2002:int", re.compile(r"^[-+]?(?:0|[1-9][0-9]*)$"), "-+0123456789")
_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float",
    re.compile(r"^[-+]?(?:(?:0|[1-9][0-9]*)?\.[0-9]+|(?:0|[1-9][0-9]*)\.?)(?:[eE][-+]?[0-9]+)?$|^[-+]?\.(?:inf|nan)$"),
    "-+0123456789.",
)


def _mapping(loader: _Loader, node: yaml.MappingNode) -> dict[Any, Any]:
    seen: dict[Any, int] = {}
    for key_node, _ in node.value:
        if key_node.tag == "tag:yaml.org,2002:merge":
            continue
        key, line = loader.construct_object(key_node, deep=True), key_node.start_mark.line + 1
        if isinstance(key, (dict, list)):
            raise SettingError(f"{loader.name}, line {line}: a setting's name must be one word; found {key}.")
        if key in seen:
            raise SettingError(
                f"{loader.name}, line {line}: {key} was already set in line {seen[key]}; keep one of the two."
            )
        seen[key] = line
    loader.flatten_mapping(node)
    return {loader.construct_object(k, deep=True): loader.construct_object(v, deep=True) for k, v in node.value}


_Loader.add_constructor("tag:yaml.org,2002:map", _mapping)


def _read(root: Path, name: str) -> dict[str, Any]:
    """Read one area's YAML into a dictionary."""
    check_name(name)
    path = root / "configs" / f"{name}.yaml"
    try:
        text = path.read_text(encoding="utf-8")
    except (FileNotFoundError, NotADirectoryError) as fault:
        known = area_names(root)
        there = f"areas here: {', '.join(known)}" if known else "there are no areas here yet"
        raise SettingError(
            f"There is no configs/{name}.yaml below {root} ({there}); `terrastage init {name}` writes one."
        ) from fault
    except (OSError, UnicodeDecodeError) as fault:
        raise SettingError(f"Cannot read configs/{name}.yaml ({fault}); it must be a readable UTF-8 text.") from fault
    raw = _parse(text, f"configs/{name}.yaml")
    if raw is None:
        raise SettingError(f"configs/{name}.yaml is empty; `terrastage init` writes a complete one.")
    if not isinstance(raw, dict):
        raise SettingError(f"configs/{name}.yaml holds {_shown(raw)}; expected sections such as `ingest:`.")
    return raw


def _parse(text: str, where: str) -> Any:
    """Parse YAML, or say in which line it breaks."""
    loader = _Loader(text)
    loader.name = where
    try:
        return loader.get_single_data()
    except yaml.MarkedYAMLError as fault:
        mark = fault.problem_mark or fault.context_mark
        line = f", line {mark.line + 1}" if mark else ""
        raise SettingError(f"{where}{line}: this is not valid YAML ({fault.problem}).") from fault
    except yaml.YAMLError as fault:
        raise SettingError(f"{where}: this is not valid YAML ({' '.join(str(fault).split())}).") from fault
    finally:
        loader.dispose()


def _apply(raw: dict[str, Any], change: str) -> None:
    """Apply one ``section.key=value``; the value is read as YAML, a number in the path counts list entries."""
    path, separator, text = change.partition("=")
    parts = path.strip().split(".")
    if not separator or not all(parts):
        raise SettingError(f"--set {change}: expected section.key=value, such as train.epochs=5.")
    value = _parse(text, f"--set {change}")
    place: Any = raw
    for depth, part in enumerate(parts):
        last = depth == len(parts) - 1
        if isinstance(place, list) and part.isdecimal() and int(part) < len(place):
            key: Any = int(part)
        elif isinstance(place, dict):
            key = part
        else:
            above = ".".join(parts[:depth])
            raise SettingError(f"--set {change}: {above} is {_shown(place)}, so {part} cannot be set in it.")
        if last:
            place[key] = value
        elif isinstance(place, dict) and place.get(key) is None:
            place[key] = {}
        place = place[key]


# --- validating ------------------------------------------------------------------------------------------------------


def _refuse_unknown_sections(raw: Mapping[str, Any], stages: Mapping[str, Stage]) -> None:
    known = [*RunSettings.model_fields, *(name for name in SHARED if name not in RunSettings.model_fields), *stages]
    for key in raw:
        if key not in known:
            raise SettingError(_unknown(str(key), "", known))


def _stage_config(stage: Stage, raw: Mapping[str, Any], root: Path) -> Settings:
    """Make a stage's `Config` of its own section and of the shared settings that it declares."""
    model: type[Settings] = stage.module.Config
    section = raw.get(stage.name)
    if section is None:
        section = {}
    if not isinstance(section, dict):
        raise SettingError(
            f"{stage.name} is {_shown(section)}; expected a section of settings, one `key: value` a line."
        )
    for name in SHARED:
        if name in section and name in model.model_fields:
            raise SettingError(f"{stage.name}.{name} is set once for all stages; move it to the top level, as {name}.")
    shared = {name: raw[name] for name in SHARED if name in raw and name in model.model_fields}
    return _anchored(_validated(model, {**section, **shared}, stage.name, raw), root)


_S = typing.TypeVar("_S", bound=Settings)


def _validated(model: type[_S], values: dict[str, Any], section: str, raw: Mapping[str, Any]) -> _S:
    try:
        return model.model_validate(values)
    except ValidationError as fault:
        # A misspelt setting explains a missing one, so it is told first.
        errors = sorted(fault.errors(), key=lambda error: error["type"] != "extra_forbidden")
        raise SettingError(_sentence(errors[0], model, values, section, raw)) from fault


def _sentence(error: Any, model: type[BaseModel], values: Any, section: str, raw: Mapping[str, Any]) -> str:
    """Tell one error of pydantic's: where, what was found, what was expected."""
    loc = _real_parts(error["loc"], values, error["type"])
    shared = not section or (bool(loc) and loc[0] in SHARED and loc[0] in raw)
    prefix = "" if shared else section
    kind = error["type"]
    if kind == "extra_forbidden":
        where = _dotted(prefix, loc[:-1])
        holders = _models_at(model, loc[:-1])
        if other := next((holder for holder in holders if loc[-1] in _named_fields(holder)), None):
            (kind,) = typing.get_args(other.model_fields["kind"].annotation)
            return f"{where}.{loc[-1]} belongs to {where}.kind {kind}; set that too, or leave {loc[-1]} out."
        known = list(_fields_of(holders))
        if section and not shared and len(loc) == 1:
            known = [name for name in known if name not in SHARED]
        return _unknown(str(loc[-1]), where, known)
    where = _dotted(prefix, loc)
    if kind == "missing":
        described = _fields_of(_models_at(model, loc[:-1])).get(str(loc[-1]))
        meaning = f" ({described.description})" if described and described.description else ""
        return f"{where} is not set; this area needs it{meaning}."
    if kind == "union_tag_invalid":
        ctx = {name: text.replace("'", "") for name, text in error["ctx"].items()}
        return f"{where}.{ctx['discriminator']} is {ctx['tag']}; expected one of {ctx['expected_tags']}."
    if kind in ("value_error", "assertion_error"):
        # A check of ours: what was found and expected stands in its own sentence.
        return f"{where}: {str(error['ctx']['error']).rstrip('.')}."
    return f"{where} is {_shown(error['input'])}; expected {_expected(error)}."


_EXPECTED = {
    "int_": "a whole number", "float_": "a number", "bool_": "true or false", "string_type": "a text",
    "path_": "the path of a file or folder", "tuple_": "a list", "list_": "a list", "set_": "a list",
    "dict_": "a section of `key: value` lines", "mapping_": "a section of `key: value` lines",
    "model_": "a section of `key: value` lines", "finite_number": "a finite number",
}  # fmt: skip


def _expected(error: Any) -> str:
    """Say what a setting's value should have been."""
    kind, ctx = error["type"], error.get("ctx", {})
    if kind in ("greater_than", "greater_than_equal", "less_than", "less_than_equal"):
        words = {"greater_than": "more than", "greater_than_equal": "at least",
                 "less_than": "less than", "less_than_equal": "at most"}  # fmt: skip
        (limit,) = ctx.values()
        return f"{words[kind]} {limit}"
    if kind in ("literal_error", "enum"):
        return "one of " + str(ctx["expected"]).replace("'", "").replace(" or ", ", ")
    if kind == "string_pattern_mismatch":
        return f"a text like the pattern {ctx['pattern']}"
    if kind in ("too_short", "string_too_short"):
        return f"at least {ctx['min_length']} {'characters' if kind.startswith('string') else 'entries'}"
    if kind in ("too_long", "string_too_long"):
        return f"at most {ctx['max_length']} {'characters' if kind.startswith('string') else 'entries'}"
    for start, meaning in _EXPECTED.items():
        if kind.startswith(start):
            return meaning
    message = str(error["msg"]).removeprefix("Input should be ")
    return message[:1].lower() + message[1:]


def _unknown(key: str, where: str, known: list[str]) -> str:
    """Refuse an unknown setting: name the known ones, suggest the nearest."""
    path = f"{where}.{key}" if where else key
    near = difflib.get_close_matches(key, known, n=1, cutoff=0.5)
    advice = f" (did you mean {f'{where}.' if where else ''}{near[0]}?)" if near else ""
    place = f"in {where}" if where else "at the top level"
    return f"{path} is not a setting{advice}; known {place}: {', '.join(known) or 'none'}."


def _real_parts(loc: tuple[Any, ...], values: Any, kind: str) -> tuple[Any, ...]:
    """Leave out of an error's place what names a branch of a type instead of a setting."""
    parts: list[Any] = []
    place = values
    for number, part in enumerate(loc):
        listed = isinstance(place, (list, tuple)) and isinstance(part, int) and part < len(place)
        if listed or (isinstance(place, Mapping) and part in place):
            place = place[part]
        elif not (kind == "missing" and number == len(loc) - 1):
            continue
        parts.append(part)
    return tuple(parts)


def _dotted(prefix: str, loc: tuple[Any, ...]) -> str:
    path = prefix
    for part in loc:
        if isinstance(part, int):
            path += f"[{part}]"
        else:
            path += f".{part}" if path else str(part)
    return path


def _models_at(model: type[BaseModel], loc: tuple[Any, ...]) -> list[type[BaseModel]]:
    """List the settings classes of a place in a settings class, one for each kind of section that may stand there."""
    current: Any = model
    for part in loc:
        holder = next((m for m in _models_in(current) if part in _named_fields(m)), None)
        # A number counts the entries of a list, which are all of one type.
        current = _named_fields(holder)[part].annotation if holder else current
    return _models_in(current)


def _fields_of(models: list[type[BaseModel]]) -> dict[str, FieldInfo]:
    return {name: info for model in models for name, info in _named_fields(model).items()}


def _named_fields(model: type[BaseModel]) -> dict[str, FieldInfo]:
    """List the settings of a class by the names that they have in YAML: `from` cannot name a field of Python."""
    return {info.alias or name: info for name, info in model.model_fields.items()}


def _models_in(annotation: Any) -> list[type[BaseModel]]:
    """List every settings class that a type mentions: ``tuple[MapClass, ...] | None`` mentions `MapClass`."""
    if isinstance(annotation, type) and not isinstance(annotation, types.GenericAlias):
        return [annotation] if issubclass(annotation, BaseModel) else []
    return [model for part in typing.get_args(annotation) for model in _models_in(part)]


def _shown(value: Any) -> str:
    """Show a value as it is told to a person."""
    if isinstance(value, str):
        return f'"{value}" (a text)'
    if isinstance(value, bool):
        return f"{str(value).lower()} (true or false)"
    if value is None:
        return "empty"
    if isinstance(value, (int, float)):
        return str(value)
    if isinstance(value, (list, tuple)):
        return "a list"
    if isinstance(value, dict):
        return "a section"
    return f"{value} ({type(value).__name__})"


def _anchored(config: _S, root: Path) -> _S:
    """Make every path of the settings absolute, against the root folder."""
    return typing.cast(_S, _anchor(config, root))


def _anchor(value: Any, root: Path) -> Any:
    if isinstance(value, Path):
        return root / value.expanduser()
    if isinstance(value, BaseModel):
        fields = {name: getattr(value, name) for name in type(value).model_fields}
        changed = {name: new for name, old in fields.items() if (new := _anchor(old, root)) is not old}
        return value.model_copy(update=changed) if changed else value
    if isinstance(value, (tuple, list)):
        new = [_anchor(entry, root) for entry in value]
        return type(value)(new) if any(a is not b for a, b in zip(new, value, strict=True)) else value
    if isinstance(value, dict):
        return {key: _anchor(entry, root) for key, entry in value.items()}
    return value
