"""Keys ignore comments and places, and catch a changed setting, code or input."""

from __future__ import annotations

import importlib
import json
import os
import shutil
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.fingerprint import MISSING, Codes, Fingerprint, Identities, _parsed, differences, flattened, hashed_config
from pipeline.runner import survey
from stages import ingest
from stages.geo import identity
from stages.geo.identity import content_identity
from tests.toys import Toy, make_toy


@pytest.fixture
def toy(tmp_path: Path) -> Toy:
    return make_toy(tmp_path)


def keys(toy: Toy, *changes: str) -> dict[str, str]:
    return {step.stage.name: step.key for step in survey(toy.area(*changes))}


def changed(before: dict[str, str], after: dict[str, str]) -> set[str]:
    return {name for name in before if before[name] != after[name]}


DOWNSTREAM = {
    "ingest": {"ingest", "tile", "label", "train", "evaluate", "classify", "export"},
    "tile": {"tile", "label", "train", "evaluate", "classify", "export"},
    "train": {"train", "evaluate", "classify", "export"},
    "export": {"export"},
}


@pytest.mark.parametrize(
    ("change", "first"),
    [("tile.pad=1", "tile"), ("train.epochs=4", "train"), ("export.style.width=2", "export"), ("title=B", "export")],
)
def test_a_setting_changes_its_stage_and_all_below(toy: Toy, change: str, first: str) -> None:
    assert changed(keys(toy), keys(toy, change)) == DOWNSTREAM[first]


@pytest.mark.parametrize("change", ["tile.pause=1", "tile.memory=2", "export.style.color=blue", "attribution=me",
                                    "cluster.kind=local", "example=true"])  # fmt: skip
def test_what_cannot_change_a_byte_changes_no_key(toy: Toy, change: str) -> None:
    assert changed(keys(toy), keys(toy, change)) == set()


def test_code_counts_wherever_it_is_imported(toy: Toy) -> None:
    before = keys(toy)
    toy.edit("deep/frame", "return EDGE + text", "return EDGE + EDGE + text")
    assert changed(before, keys(toy)) == DOWNSTREAM["tile"]


def test_comments_docstrings_and_layout_do_not_count(toy: Toy) -> None:
    before = keys(toy)
    toy.edit("deep/frame", "EDGE = '|'\n", '"""Frame a text."""\n\n# The edge.\n\n\nEDGE = "|"\n')
    toy.edit("deep/frame", "(text):\n", '(text):\n    """Frame it."""\n')
    assert keys(toy) == before


def test_a_source_counts_by_its_content(toy: Toy) -> None:
    before = keys(toy)
    os.utime(toy.root / "raw" / "one.txt", (1, 1))
    assert keys(toy) == before
    (toy.root / "raw" / "one.txt").write_text("1ne")
    assert changed(before, keys(toy)) == DOWNSTREAM["ingest"]


def test_keys_are_the_same_wherever_the_root_lies(toy: Toy, tmp_path: Path) -> None:
    elsewhere = tmp_path / "elsewhere"
    for name in ("configs", "raw"):
        shutil.copytree(toy.root / name, elsewhere / name)
    moved = Toy(elsewhere, toy.package)
    here = toy.stages
    from pipeline.config import load_area

    assert {s.stage.name: s.key for s in survey(load_area(elsewhere, "a", (), here))} == keys(toy)
    assert moved.root != toy.root


def digest(source: str) -> str:
    return _parsed(source.encode(), Path("x.py")).digest


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("x = 1", "x = 2"),
        ("x = 1", "x = '1'"),
        ("x = 1", "x = 1.0"),
        ("def f(a): pass", "def f(b): pass"),
        ("f(a)(b)", "f(a, b)"),
        ("if a:\n  b\nc", "if a:\n  b\n  c"),
        ("[1, [2]]", "[1, 2]"),
        ("x: int", "x: float"),
        ("'a'; 'b'", "'a'; 'c'"),
        ("async def f(): pass", "def f(): pass"),
        ("f(*a)", "f(**a)"),
    ],
)
def test_different_code_hashes_differently(one: str, other: str) -> None:
    assert digest(one) != digest(other)


def test_alike_code_hashes_alike() -> None:
    assert digest("x = ( 1+2 )  # three") == digest('"""Doc."""\nx = 1 + 2')
    assert digest('class A:\n  """Doc."""\n  x = 1') == digest("class A:\n  x = 1")


def imports(source: str) -> set[tuple[int, str]]:
    return set(_parsed(source.encode(), Path("x.py")).imports)


def test_imports_are_found_wherever_they_stand() -> None:
    assert (0, "p.a") in imports("def f():\n  import p.a")
    assert (0, "p.a.b") in imports("def f():\n  from p.a import b")
    assert (1, "b") in imports("from . import b")
    assert (2, "a.b") in imports("from ..a import b")
    assert (0, "p.a.b") in imports("TABLE = {'x': 'p.a.b:Thing'}")
    source = "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n  import p.a\nelse:\n  import p.b"
    assert {(0, "p.b")} == {name for name in imports(source) if name[1].startswith("p.")}


def test_relative_and_packaged_imports_are_followed(toy: Toy) -> None:
    (toy.code / "deep" / "edge.py").write_text("from .frame import EDGE\n")
    (toy.code / "deep" / "style.css").write_text("a {}")
    toy.edit(
        "tile",
        f"from {toy.package}.deep.frame",
        f"from {toy.package}.deep import edge\n    from {toy.package}.deep.frame",
    )
    found = Codes().of(importlib.import_module(f"{toy.package}.tile"))
    names = ["__init__.py", "deep/__init__.py", "deep/edge.py", "deep/frame.py", "deep/style.css", "tile.py"]
    assert list(found) == [f"{toy.package}/{name}" for name in names]


def test_remembered_code_is_the_same_as_parsed(toy: Toy) -> None:
    module, memory = importlib.import_module(f"{toy.package}.tile"), toy.root / "code.json"
    first = Codes(memory)
    found = first.of(module)
    first.save()
    assert Codes(memory).of(module) == found
    for damage in ("", "[]", json.dumps({content: [1] for content in json.loads(memory.read_text())})):
        memory.write_text(damage)
        assert Codes(memory).of(module) == found


def test_real_stages_import_each_other_never() -> None:
    from pipeline.graph import STAGES

    names = {f"stages/{stage.name}.py" for stage in STAGES}
    for stage in STAGES:
        assert names & set(Codes().of(stage.module)) == {f"stages/{stage.name}.py"}


# --- the key without scenes ------------------------------------------------------------------------------------------

SCENES: list[dict[str, Any]] = [{"files": "raw/s2_{date}.tif", "scale": 0.0001, "nodata": 0}]


def blind(*scenes: dict[str, Any], **settings: Any) -> str:
    """The key of ingest that knows nothing of which scenes were read."""
    config = ingest.Config.model_validate({"scenes": scenes or SCENES, "bands": {"red": 3}, **settings})
    key = Fingerprint({}, hashed_config(ingest, config, Path("/root")), {}, {"raw/s2_2024.tif": "1"})
    return key.without_scenes({}).key


@pytest.mark.parametrize(
    "scenes",
    [
        [{**SCENES[0], "files": "raw/other_{date}.tif"}],
        [{**SCENES[0], "date": "2024-06-01"}],
        [*SCENES, {**SCENES[0], "files": "more/s2_{date}.tif"}],
    ],
    ids=["files", "date", "one more"],
)
def test_other_scenes_of_the_same_kind_keep_a_model(scenes: list[dict[str, Any]]) -> None:
    assert blind(*scenes) == blind()


@pytest.mark.parametrize("change", [{"scale": 0.001}, {"offset": -0.1}, {"nodata": None}, {"bands": {"red": 4}}])
def test_a_scene_that_is_read_in_another_way_keeps_no_model(change: dict[str, Any]) -> None:
    assert blind({**SCENES[0], **change}) != blind()
    assert blind(*SCENES, {**SCENES[0], **change}) != blind()
    assert blind(*SCENES, {**SCENES[0], **change}) == blind({**SCENES[0], **change}, *SCENES)


def test_other_bands_keep_no_model() -> None:
    assert blind(bands={"red": 4}) != blind()


# --- identities ------------------------------------------------------------------------------------------------------


def test_the_identity_of_a_small_file_is_its_sha256(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"abc")
    assert content_identity(tmp_path / "a") == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"


def test_a_large_file_is_sampled(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(identity, "WHOLE", 100)
    monkeypatch.setattr(identity, "SAMPLES", 3)
    monkeypatch.setattr(identity, "SAMPLE_BYTES", 10)
    file = tmp_path / "a"

    def of(content: bytes) -> str:
        file.write_bytes(content)
        return content_identity(file)

    base = bytearray(200)
    plain = of(base)
    # Samples lie at bytes 0-9, 95-104 and 190-199.
    for place, seen in ((0, True), (9, True), (10, False), (94, False), (95, True), (104, True), (199, True)):
        content = base.copy()
        content[place] = 1
        assert (of(content) != plain) == seen, place
    assert of(bytes(201)) != plain


def test_identities_are_remembered_until_the_file_changes(tmp_path: Path) -> None:
    memory, file = tmp_path / "data" / "memory.json", tmp_path / "file"
    file.write_text("one")
    first = Identities(memory)
    known = first.of(file)
    first.save()
    stamp = file.stat()
    # The same size and time of change: the memory is trusted.
    file.write_text("two")
    os.utime(file, ns=(stamp.st_atime_ns, stamp.st_mtime_ns))
    assert Identities(memory).of(file) == known
    os.utime(file, ns=(stamp.st_atime_ns, stamp.st_mtime_ns + 1))
    assert Identities(memory).of(file) == content_identity(file) != known


@pytest.mark.parametrize("content", ["", "{", "[]", '{"PATH": 5}', '{"PATH": [1]}'])
def test_a_damaged_memory_is_ignored(tmp_path: Path, content: str) -> None:
    memory, file = tmp_path / "memory.json", tmp_path / "file"
    file.write_text("one")
    memory.write_text(content.replace("PATH", str(file)))
    assert Identities(memory).of(file) == content_identity(file)


def test_what_others_learned_meanwhile_is_kept(tmp_path: Path) -> None:
    memory = tmp_path / "memory.json"
    one, two = tmp_path / "one", tmp_path / "two"
    one.write_text("1")
    two.write_text("2")
    a, b = Identities(memory), Identities(memory)
    a.of(one)
    b.of(two)
    a.save()
    b.save()
    assert set(json.loads(memory.read_text())) == {str(one), str(two)}


def test_a_folder_is_all_it_holds_and_an_absent_file_is_missing(tmp_path: Path) -> None:
    identities = Identities(tmp_path / "memory.json")
    folder = tmp_path / "store"
    (folder / "deep").mkdir(parents=True)
    (folder / "deep" / "a").write_text("1")
    before = identities.of(folder)
    (folder / "deep" / "a").rename(folder / "deep" / "b")
    assert identities.of(folder) != before
    assert identities.of(tmp_path / "nothing") == MISSING


# --- differences -----------------------------------------------------------------------------------------------------


def test_differences_name_settings_code_sources_and_inputs() -> None:
    old = Fingerprint(
        {"s/a.py": "1"}, {"lr": 0.001, "grid": {"tile": 64}}, {"tiles": "x"}, {"a.tif": "1", "b.tif": "1"}
    )
    new = Fingerprint({"s/a.py": "2"}, {"lr": 0.01, "grid": {"tile": 32}}, {"tiles": "y"}, {"a.tif": "2", "c.tif": "1"})
    assert differences("train", old, new) == [
        "code: s/a.py",
        "grid.tile 64 -> 32",
        "train.lr 0.001 -> 0.01",
        "input: a.tif changed",
        "input: b.tif no longer read",
        "input: c.tif new",
        "upstream: tiles",
    ]


plain = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text("ab", max_size=3),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text("cd", min_size=1, max_size=2), inner, max_size=3)
    ),
    max_leaves=8,
)
configs = st.dictionaries(st.text("ef", min_size=1, max_size=2), plain, max_size=3)


@given(configs, configs)
def test_keys_differ_exactly_where_something_can_be_named(one: dict[str, Any], other: dict[str, Any]) -> None:
    a, b = Fingerprint({}, one), Fingerprint({}, other)
    assert (a.key == b.key) == (not differences("s", a, b))
    assert (one == other) == (flattened(one) == flattened(other))


def test_the_order_of_the_bands_counts(tmp_path: Path) -> None:
    one, other = (
        hashed_config(ingest, ingest.Config(scenes=({"files": "s.tif"},), bands=bands), tmp_path)  # type: ignore[arg-type]
        for bands in ({"red": 1, "nir": 2}, {"nir": 2, "red": 1})
    )
    assert one["bands"] == [["red", 1], ["nir", 2]]
    assert Fingerprint({}, one).key != Fingerprint({}, other).key
    told = differences("ingest", Fingerprint({}, one), Fingerprint({}, other))
    assert len(told) == 1
    assert told[0].startswith("ingest.bands ")
