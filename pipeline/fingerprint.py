"""Compute the key of an artifact: the stage's code, its settings, the keys of its inputs, what its sources hold."""

from __future__ import annotations

import ast
import functools
import hashlib
import json
import logging
import os
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import ModuleType
from typing import Any

from pydantic import BaseModel

from stages.geo.identity import content_identity

_logger = logging.getLogger(__name__)

#: What only says which scenes a stage without inputs reads, in each entry of its setting `scenes`: others keep a
#: trained model (`make batch`). The rest of an entry says what the pixels mean, so it counts.
SCENES, WHICH = "scenes", ("files", "date")
MISSING = "missing"


@dataclass(frozen=True)
class Fingerprint:
    """Everything that decides what a stage writes.

    ``code`` maps a file of the package to the hash of its syntax tree, ``inputs`` an artifact to its key, ``sources``
    a raw file to its content's identity. No value depends on the machine: paths below the root are relative to it.
    """

    code: Mapping[str, str]
    config: Mapping[str, Any]
    inputs: Mapping[str, str] = field(default_factory=dict)
    sources: Mapping[str, str] = field(default_factory=dict)

    @property
    def key(self) -> str:
        """The artifact's key: sha256 as hex."""
        parts = [self.code, self.config, self.inputs, self.sources]
        return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()

    def without_scenes(self, bases: Mapping[str, str]) -> Fingerprint:
        """Give the same, blind to which scenes are read: ``bases`` are the inputs' keys of this kind."""
        if self.inputs:
            return replace(self, inputs=bases)
        # A further entry of scenes that are read alike changes nothing, and neither does the entries' order.
        kinds = [
            {name: value for name, value in entry.items() if name not in WHICH}
            for entry in self.config.get(SCENES, ())
            if isinstance(entry, Mapping)
        ]
        alike = sorted({json.dumps(kind, sort_keys=True) for kind in kinds})
        return Fingerprint(self.code, {**self.config, SCENES: alike})


# --- settings --------------------------------------------------------------------------------------------------------


def hashed_config(module: ModuleType, config: BaseModel, root: Path) -> dict[str, Any]:
    """Give the settings that enter the key, as plain values.

    A stage leaves out what cannot change its bytes: `RUN_SETTINGS` names fields (dotted where nested), `COSMETIC` is
    an ``exclude`` of pydantic's.
    """
    excluded: dict[str, Any] = dict(getattr(module, "COSMETIC", {}))
    for name in getattr(module, "RUN_SETTINGS", ()):
        place = excluded
        *above, last = name.split(".")
        for part in above:
            place = place.setdefault(part, {})
        place[last] = True
    plain: dict[str, Any] = _plain(config.model_dump(exclude=excluded, by_alias=True), root)
    return plain


def whole_config(config: BaseModel, root: Path) -> dict[str, Any]:
    """Give every setting as plain values, for the record."""
    plain: dict[str, Any] = _plain(config.model_dump(by_alias=True), root)
    return plain


def relative(path: Path, root: Path) -> str:
    """Write a path as it is recorded: relative to the root where it lies below it."""
    return path.relative_to(root).as_posix() if path.is_relative_to(root) else path.as_posix()


def _plain(value: Any, root: Path) -> Any:
    if isinstance(value, Path):
        return relative(value, root)
    if isinstance(value, dict):
        return {str(key): _plain(entry, root) for key, entry in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(entry, root) for entry in value]
    if isinstance(value, (set, frozenset)):
        return sorted(_plain(entry, root) for entry in value)
    if value is None or isinstance(value, (str, int, float, bool)):
        return value
    return str(value)


# --- code ------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Code:
    """One file: the hash of what it does, and the names it may import as (level, name)."""

    digest: str
    imports: tuple[tuple[int, str], ...]


class Codes:
    """What source files do, remembered by their content.

    As with `Identities` the memory is an optimisation: without it every file is parsed again.
    """

    def __init__(self, memory: Path | None = None) -> None:
        self._memory = memory
        self._known = _load(memory) if memory else {}
        self._used: dict[str, list[Any]] = {}
        self._read = functools.cache(self._read_file)

    def of(self, module: ModuleType) -> dict[str, str]:
        """Hash every file of the stage's package that the stage imports, itself included, lazy imports too."""
        assert module.__file__ is not None
        package = module.__name__.partition(".")[0]
        folder = Path(module.__file__).parents[module.__name__.count(".") - 1]
        hashes: dict[str, str] = {}
        waiting, seen = [module.__name__], set[str]()
        while waiting:
            name = waiting.pop()
            path = None if name in seen else _file_of(name, folder)
            seen.add(name)
            if path is None:
                continue
            code = self._read(path)
            hashes[relative(path, folder.parent)] = code.digest
            if path.name == "__init__.py":
                hashes.update(_beside(path, folder.parent))
            # Importing a module runs the packages above it.
            waiting.extend(name.rsplit(".", depth)[0] for depth in range(1, name.count(".") + 1))
            waiting.extend(_resolved(code, name, path.name == "__init__.py", package))
        return dict(sorted(hashes.items()))

    def _read_file(self, path: Path) -> _Code:
        source = path.read_bytes()
        # Another Python may parse the same text to another tree.
        content = hashlib.sha256(source + sys.version.encode()).hexdigest()
        try:
            digest, imports = self._known[content]
            code = _Code(str(digest), tuple((int(level), str(name)) for level, name in imports))
        except (KeyError, TypeError, ValueError):
            code = _parsed(source, path)
        self._used[content] = [code.digest, code.imports]
        return code

    def save(self) -> None:
        """Remember the files that were asked for."""
        if self._memory is not None and not self._used.keys() <= self._known.keys():
            with suppress(OSError):
                self._memory.parent.mkdir(parents=True, exist_ok=True)
                write_whole(self._memory, json.dumps(self._used))


def _beside(package: Path, root: Path) -> dict[str, str]:
    """Hash what a package holds beside its code: templates, tables, styles."""
    files = [path for path in package.parent.iterdir() if path.is_file() and path.suffix not in (".py", ".pyc")]
    return {relative(path, root): content_identity(path) for path in files if not path.name.startswith(".")}


def _parsed(source: bytes, path: Path) -> _Code:
    pieces: list[str] = []
    imports: set[tuple[int, str]] = set()
    _describe(ast.parse(source, filename=str(path)), pieces.append, imports)
    return _Code(hashlib.sha256("\0".join(pieces).encode()).hexdigest(), tuple(sorted(imports)))


def _describe(node: ast.AST, write: Callable[[str], None], imports: set[tuple[int, str]] | None) -> None:
    """Write a syntax tree without comments, docstrings and places, and collect what it may import while it runs."""
    write(type(node).__name__)
    if imports is not None:
        imports.update(_imported(node))
    for name in node._fields:
        value = getattr(node, name, None)
        # Absent parts are left out, so that a Python that knows more parts writes the same.
        if value is None or value == [] or name in ("ctx", "kind", "type_comment"):
            continue
        if name == "body" and isinstance(node, (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)):
            value = value[1:] if _is_text(value[0]) else value
        write(name)
        # What stands below `if TYPE_CHECKING:` never runs.
        running = None if name == "body" and isinstance(node, ast.If) and _for_types(node.test) else imports
        for entry in value if isinstance(value, list) else [value]:
            if isinstance(entry, ast.AST):
                _describe(entry, write, running)
            else:
                write(repr(entry))
        write(".")


def _is_text(statement: ast.stmt) -> bool:
    """Whether a statement is a docstring."""
    value = statement.value if isinstance(statement, ast.Expr) else None
    return isinstance(value, ast.Constant) and isinstance(value.value, str)


def _for_types(test: ast.expr) -> bool:
    return "TYPE_CHECKING" in (getattr(test, "id", None), getattr(test, "attr", None))


def _imported(node: ast.AST) -> Iterator[tuple[int, str]]:
    """Yield every name a node may import: by a statement, or as a text ("package.module:attribute") in a table."""
    if isinstance(node, ast.Import):
        yield from ((0, alias.name) for alias in node.names)
    elif isinstance(node, ast.ImportFrom):
        base = node.module or ""
        yield node.level, base
        # `from package import name` may mean a module or an attribute; what is no file is passed over later.
        yield from ((node.level, f"{base}.{alias.name}".lstrip(".")) for alias in node.names)
    elif isinstance(node, ast.Constant) and isinstance(node.value, str) and "." in node.value:
        name = node.value.partition(":")[0]
        if all(part.isidentifier() for part in name.split(".")):
            yield 0, name


def _resolved(code: _Code, name: str, is_package: bool, package: str) -> Iterator[str]:
    """Yield the absolute names inside ``package`` that module ``name`` may import."""
    for level, target in code.imports:
        if level:
            parts = name.split(".")
            parts = parts[: len(parts) - level + is_package]
            target = ".".join([*parts, target]) if target else ".".join(parts)  # noqa: PLW2901
        if target == package or target.startswith(f"{package}."):
            yield target


def _file_of(name: str, folder: Path) -> Path | None:
    """Find the file of a module, or of the module that holds an attribute; nothing for what is neither."""
    base = folder.joinpath(*name.split(".")[1:])
    for path in (base / "__init__.py", base.with_suffix(".py")):
        if path.is_file():
            return path
    return None


# --- sources ---------------------------------------------------------------------------------------------------------


class Identities:
    """What raw files hold, remembered by path, size and time of change.

    The memory is an optimisation: where its file is damaged, absent or cannot be written, files are read again.
    """

    def __init__(self, memory: Path) -> None:
        self._memory = memory
        self._known: dict[str, list[Any]] = _load(memory)
        self._new: dict[str, list[Any]] = {}

    def of(self, path: Path) -> str:
        """Tell the identity of a file, of a folder's whole content, or ``MISSING``."""
        if path.is_dir():
            files = sorted(file for file in path.rglob("*") if file.is_file())
            entries = [f"{file.relative_to(path).as_posix()} {self.of(file)}" for file in files]
            return hashlib.sha256("\n".join(entries).encode()).hexdigest()
        try:
            status = path.stat()
            stamp = [status.st_size, status.st_mtime_ns]
            known = self._known.get(str(path))
            if isinstance(known, list) and known[:2] == stamp and len(known) == 3:
                return str(known[2])
            identity = content_identity(path)
        except OSError:
            # The stage itself says what is wrong with the file.
            return MISSING
        self._known[str(path)] = self._new[str(path)] = [*stamp, identity]
        return identity

    def save(self) -> None:
        """Add what was learned to the memory, beside what others have learned meanwhile."""
        if not self._new:
            return
        with suppress(OSError):
            merged = {**_load(self._memory), **self._new}
            kept = {path: entry for path, entry in merged.items() if Path(path).exists()}
            self._memory.parent.mkdir(parents=True, exist_ok=True)
            write_whole(self._memory, json.dumps(kept, indent=0, sort_keys=True))
            self._new = {}


def write_whole(path: Path, text: str) -> None:
    """Write a text file whole or not at all, and onto the disk."""
    handle, name = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
    try:
        with os.fdopen(handle, "w", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        # mkstemp makes files that only their owner may read.
        Path(name).chmod(0o644)
        Path(name).replace(path)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise


def _load(memory: Path) -> dict[str, list[Any]]:
    try:
        known = json.loads(memory.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return known if isinstance(known, dict) else {}


# --- differences -----------------------------------------------------------------------------------------------------


def differences(stage: str, old: Fingerprint, new: Fingerprint) -> list[str]:
    """Say what changed between two fingerprints of a stage: code, settings, sources, inputs."""
    lines = [f"code: {path}" for path in sorted(_changed(old.code, new.code))]
    before, after = flattened(old.config), flattened(new.config)
    for path in sorted(_changed(before, after)):
        told = (
            path
            if path.partition(".")[0].partition("[")[0] in ("grid", "classes", "title", "attribution")
            else f"{stage}.{path}"
        )
        lines.append(f"{told} {_value(before, path)} -> {_value(after, path)}")
    for path in sorted(_changed(old.sources, new.sources)):
        verb = "new" if path not in old.sources else "no longer read" if path not in new.sources else "changed"
        if new.sources.get(path) == MISSING:
            verb = "gone"
        lines.append(f"input: {path} {verb}")
    if above := sorted(_changed(old.inputs, new.inputs)):
        lines.append(f"upstream: {', '.join(above)}")
    return lines


def flattened(config: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Write nested settings as one level of dotted paths."""
    flat: dict[str, Any] = {}
    for key, value in config.items():
        path = f"{prefix}{key}"
        if isinstance(value, Mapping) and value:
            flat.update(flattened(value, f"{path}."))
        elif isinstance(value, list) and value and all(isinstance(entry, Mapping) and entry for entry in value):
            for number, entry in enumerate(value):
                flat.update(flattened(entry, f"{path}[{number}]."))
        else:
            flat[path] = value
    return flat


def _changed(old: Mapping[str, Any], new: Mapping[str, Any]) -> set[str]:
    absent = object()
    return {name for name in {*old, *new} if old.get(name, absent) != new.get(name, absent)}


def _value(flat: Mapping[str, Any], path: str) -> str:
    if path not in flat:
        return "(not set)"
    value = flat[path]
    return value if isinstance(value, str) and value else json.dumps(value)
