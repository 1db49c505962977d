"""Settings: what a YAML means, and one clear sentence for every mistake in it."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from pipeline.cluster import Local, Threads
from pipeline.config import load_area
from stages.errors import SettingError
from tests.toys import Toy, make_toy


@pytest.fixture
def toy(tmp_path: Path) -> Toy:
    return make_toy(tmp_path)


def refused(toy: Toy, *changes: str) -> str:
    with pytest.raises(SettingError) as caught:
        toy.area(*changes)
    message = str(caught.value)
    assert "\n" not in message
    return message


def test_paths_are_absolute_and_shared_settings_injected(toy: Toy) -> None:
    area = toy.area()
    assert area.configs["label"].file == toy.root / "raw" / "labels.txt"
    assert area.configs["ingest"].scenes == (toy.root / "raw" / "one.txt",)
    assert area.configs["export"].title == "Toy"


def test_a_change_is_read_as_yaml(toy: Toy) -> None:
    area = toy.area("train.epochs=7", "ingest.upper=true", "export.style.color=no")
    assert area.configs["train"].epochs == 7
    assert area.configs["ingest"].upper is True
    assert area.configs["export"].style.color == "no"


def test_a_change_reaches_an_entry_of_a_list(toy: Toy) -> None:
    area = toy.area("ingest.scenes.0=raw/two.txt")
    assert area.configs["ingest"].scenes == (toy.root / "raw" / "two.txt",)


@pytest.mark.parametrize("change", ["train.epochs", "=5", "train..epochs=5"])
def test_a_malformed_change_is_refused(toy: Toy, change: str) -> None:
    assert "expected section.key=value" in refused(toy, change)


def test_a_change_below_a_value_is_refused(toy: Toy) -> None:
    assert "title is" in refused(toy, "title.short=5")


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ("train.epohcs=5", ["train.epohcs is not a setting", "did you mean train.epochs?", "pause"]),
        ("export.style.colour=red", ["export.style.colour", "did you mean export.style.color?", "width"]),
        ("lable.seed=1", ["lable is not a setting", "did you mean label?"]),
        ("batch.retrian=true", ["batch.retrian", "did you mean batch.retrain?"]),
        ("train.epochs=many", ["train.epochs is \"many\"", "expected a whole number"]),
        ("train.epochs=1.5", ["train.epochs is 1.5", "whole number"]),
        ("train.epochs=0", ["train.epochs is 0", "at least 1"]),
        ("tile.pad=10", ["tile.pad is 10", "at most 9"]),
        ("tile.pause=.inf", ["tile.pause is inf", "finite number"]),
        ("ingest.upper=maybe", ["ingest.upper", "maybe", "true or false"]),
        ("ingest.scenes=raw/one.txt", ["ingest.scenes", "a list"]),
        ("ingest.scenes.0=3", ["ingest.scenes[0] is 3", "path"]),
        ("label.file=", ["label.file is empty", "path"]),
        ("train=5", ["train is 5", "section"]),
        ("cluster.kind=cloud", ["cluster.kind is cloud", "threads, local, address, slurm"]),
        ("cluster={kind: local, workers: 0}", ["cluster.workers is 0", "at least 1"]),
        ("cluster={kind: address, adress: tcp://a:1}", ["cluster.adress", "cluster.address"]),
        ("cluster.threads=2", ["cluster.threads belongs to cluster.kind local"]),
        ("cluster.address=tcp://a:1", ["cluster.address belongs to cluster.kind address"]),
        ("cluster=local", ["cluster is \"local\"", "section"]),
        ("export.title=other", ["export.title", "top level"]),
    ],
)  # fmt: skip
def test_a_wrong_setting_is_told_in_one_sentence(toy: Toy, change: str, words: list[str]) -> None:
    message = refused(toy, change)
    for word in words:
        assert word in message, message


def test_a_cluster_without_a_kind_is_of_threads(toy: Toy) -> None:
    assert toy.area("cluster.workers=2").settings.cluster == Threads(workers=2)
    toy.config(cluster={"workers": 3})
    assert toy.area().settings.cluster == Threads(workers=3)
    assert toy.area("cluster.kind=local").settings.cluster == Local(kind="local", workers=3)


def test_a_check_of_a_stage_speaks_for_itself(toy: Toy) -> None:
    check = """
    @field_validator("pad")
    @classmethod
    def _even(cls, pad: int) -> int:
        if pad % 2:
            raise ValueError(f"{pad} blanks cannot be halved; give an even number.")
        return pad

    @model_validator(mode="after")
    def _fits(self):
        if self.pad > self.memory:
            raise ValueError(f"pad is {self.pad}, but memory holds {self.memory}; raise one")
        return self
"""
    toy.edit("tile", "    memory: int = 1\n", f"    memory: int = 1\n{check}")
    toy.edit("tile", "from pydantic import Field", "from pydantic import Field, field_validator, model_validator")
    assert refused(toy, "tile.pad=3") == "tile.pad: 3 blanks cannot be halved; give an even number."
    assert refused(toy, "tile.pad=2") == "tile: pad is 2, but memory holds 1; raise one."


def test_a_missing_setting_is_named_with_its_meaning(toy: Toy) -> None:
    toy.config(label=None)
    assert refused(toy) == "label.file is not set; this area needs it (Labels)."


def test_a_setting_is_told_by_its_name_in_yaml(toy: Toy) -> None:
    toy.edit("tile", "    memory: int = 1\n", '    memory: int = 1\n    start: str = Field("", alias="from")\n')
    message = refused(toy, "tile.form=2018")
    assert "tile.form is not a setting (did you mean tile.from?)" in message
    assert "start" not in message
    assert "tile.from is a list; expected" in refused(toy, "tile.from=[1]")
    assert toy.area("tile.from='2018'").configs["tile"].start == "2018"


def write(toy: Toy, text: str) -> None:
    (toy.root / "configs" / "a.yaml").write_text(text)


BASE = "ingest: {scenes: [raw/one.txt]}\nlabel: {file: raw/labels.txt}\n"


def test_yaml_means_what_people_mean(toy: Toy) -> None:
    # YAML 1.1 would read a boolean, a date, an octal and a sexagesimal number.
    for text in ("no", "2024-06-01", "010", "12:30", "1e"):
        write(toy, BASE + f"export: {{style: {{color: {text}}}}}\n")
        assert toy.area().configs["export"].style.color == text
    write(toy, BASE + "tile: {pause: 1e-3}\n")
    assert toy.area().configs["tile"].pause == 0.001


def test_a_setting_written_twice_is_refused(toy: Toy) -> None:
    write(toy, BASE + "train:\n  epochs: 3\n  epochs: 4\n")
    assert "line 5: epochs was already set in line 4" in refused(toy)


@pytest.mark.parametrize("text", ["title: [unclosed\n", "a: b: c\n", "\t- x\n"])
def test_broken_yaml_is_told_with_its_line(toy: Toy, text: str) -> None:
    write(toy, text)
    message = refused(toy)
    assert "configs/a.yaml, line" in message
    assert "not valid YAML" in message


@pytest.mark.parametrize(("text", "words"), [("", "is empty"), ("just words", "expected sections")])
def test_a_config_without_sections_is_refused(toy: Toy, text: str, words: str) -> None:
    write(toy, text)
    assert words in refused(toy)


def test_an_unknown_area_is_refused_with_the_known_ones(toy: Toy) -> None:
    with pytest.raises(SettingError, match=r"no configs/b\.yaml .*areas here: a"):
        load_area(toy.root, "b", (), toy.stages)


@pytest.mark.parametrize("name", ["raw", "logs", "../a", "", ".a"])
def test_a_name_that_is_no_area_is_refused(toy: Toy, name: str) -> None:
    with pytest.raises(SettingError, match="cannot name an area"):
        load_area(toy.root, name, (), toy.stages)


def test_a_given_model_leaves_out_what_makes_one(toy: Toy) -> None:
    toy.config(given={"model": "elsewhere"})
    assert set(toy.area().configs) == {"ingest", "tile", "label", "evaluate", "classify", "export"}
    toy.config(label=None)
    area = toy.area()
    assert set(area.configs) == {"ingest", "tile", "classify", "export"}
    assert area.settings.given.model == toy.root / "elsewhere"


def test_a_given_model_is_scored_on_a_table_of_series(tmp_path: Path) -> None:
    (tmp_path / "configs").mkdir()
    (tmp_path / "configs" / "crops.yaml").write_text("""
classes:
  - {name: early, labels: [early], code: 1, color: "#123456"}
  - {name: late, labels: [late], code: 2, color: "#654321"}
ingest: {table: {file: crops.csv, layout: wide}}
given: {model: elsewhere}
""")
    area = load_area(tmp_path, "crops")
    assert set(area.configs) == {"ingest", "tile", "label", "evaluate"}
    assert area.skipped["train"] == "the model is given"
    assert area.skipped["classify"] == "the area is a table of series"


def test_a_section_that_is_not_run_is_checked_all_the_same(toy: Toy) -> None:
    toy.config(given={"model": "elsewhere"}, train={"epohcs": 1})
    assert "train.epohcs" in refused(toy)


@pytest.mark.parametrize("change", ["train.epohcs=5", "train.epochs=many", "nonsense"])
def test_the_command_says_one_sentence_and_exits_with_2(toy: Toy, change: str) -> None:
    done: subprocess.CompletedProcess[str] = toy.call("run", "--area", "a", "--set", change)
    assert done.returncode == 2
    assert len(done.stderr.strip().splitlines()) == 1
    assert "Traceback" not in done.stderr
    assert not toy.data.exists()
