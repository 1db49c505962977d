"""Attacks: the worked example of a linear classifier, the limits they keep to, and what the command makes of them."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from pipeline import attack as command
from pipeline.attack import Asked, Inputs
from pipeline.cli import main
from pipeline.config import ATTACK
from stages import export
from stages.delivery import report
from stages.delivery.pictures import AttackExample, attack_picture
from stages.errors import ArtifactError, ModelError, SettingError
from stages.formats.attacks import read_attacks
from stages.formats.samples import Role, Samples
from stages.formats.tiles import Tiles
from stages.formats.weights import chosen_folder, read_card
from stages.models.views import VIEWS, seen, seen_back
from stages.training import attack
from stages.training.held import gather
from stages.training.recipes import CnnRecipe, ForestRecipe
from stages.training.robustness import Mapped, Patch, Strength, answers, make_patch, pieces, try_patch
from tests.training_worlds import Laid, lay, quick
from tests.worlds import patchwork, separable

WEIGHTS = torch.tensor([[1.0, -2.0, 0.5], [-1.0, 0.5, 3.0]])


def linear(inputs: Tensor) -> Tensor:
    """Logits (n, 2) of points (n, 3)."""
    return inputs @ WEIGHTS.T


def draw() -> torch.Generator:
    return torch.Generator().manual_seed(0)


def margin(inputs: Tensor) -> Tensor:
    """How much more the first class has than the second."""
    return linear(inputs) @ torch.tensor([1.0, -1.0])


def test_the_fast_gradient_of_a_linear_classifier_is_the_worst_case() -> None:
    points, classes = torch.randn(20, 3, generator=draw()), torch.zeros(20, dtype=torch.int64)
    found = attack.fast_gradient(linear, points, classes, 0.1)
    # Against the first class every value moves against the sign of the difference of the weights (2, -2.5, -2.5).
    torch.testing.assert_close(found - points, 0.1 * torch.tensor([[-1.0, 1.0, 1.0]]).expand(20, 3))
    torch.testing.assert_close(margin(points) - margin(found), torch.full((20,), 0.1 * 7.0))
    torch.testing.assert_close(attack.projected_gradient(linear, points, classes, 0.1, steps=10, draw=draw()), found)


def test_projected_gradient_stays_in_its_box_and_finds_more_where_the_loss_is_curved() -> None:
    torch.manual_seed(0)
    network = nn.Sequential(nn.Linear(3, 32), nn.Tanh(), nn.Linear(32, 32), nn.Tanh(), nn.Linear(32, 2))
    for layer in network[::2]:
        layer.weight.data *= 4
    points = torch.randn(200, 3, generator=draw())
    classes = network(points).argmax(dim=1)
    strength = torch.tensor([[0.2, 0.4, 0.1]])
    fast = attack.fast_gradient(network, points, classes, strength)
    found = attack.projected_gradient(network, points, classes, strength, steps=20, draw=draw())
    assert ((found - points).abs() <= strength + 1e-6).all()
    assert ((found - points).abs().amax(dim=0) > 0.99 * strength[0]).all()
    right = [float((network(moved).argmax(dim=1) == classes).float().mean()) for moved in (fast, found)]
    assert right[1] < right[0] < 1.0
    noise = attack.random_signs(points, strength, draw())
    torch.testing.assert_close((noise - points).abs(), strength.expand_as(points))
    assert float((network(noise).argmax(dim=1) == classes).float().mean()) > right[0]


def test_what_is_not_asked_has_no_slope() -> None:
    images = torch.randn(1, 2, 4, 4, generator=draw())
    labels = torch.full((1, 4, 4), attack.IGNORED)
    labels[0, 1, 2] = 0
    slope = attack.slope(lambda image: image * 2.0, images, labels)
    assert slope[0, :, 1, 2].abs().min() > 0
    assert int((slope != 0).sum()) == 2


def test_a_patch_covers_its_square_alone_and_what_is_beside_it_is_a_frame() -> None:
    images = torch.zeros(2, 1, 9, 9)
    pasted, covered = attack.paste(images, torch.ones(1, 3, 3), [(0, 1), (6, 6)])
    assert pasted.sum((1, 2, 3)).tolist() == [9.0, 9.0]
    assert covered.sum((1, 2)).tolist() == [9, 9]
    assert bool(covered[0, :3, 1:4].all())
    assert attack.beside(covered, 1).sum((1, 2)).tolist() == [5 * 4 - 9, 4 * 4 - 9]
    places = attack.anywhere((400, 1, 5, 9), 3, draw())
    assert {row for row, _ in places} == set(range(3))
    assert {col for _, col in places} == set(range(7))
    views = {tuple(attack.turned(torch.arange(4.0).reshape(1, 2, 2), g).flatten().tolist()) for g in [draw()] * 99}
    assert len(views) == 8


def blurred(image: Tensor) -> Tensor:
    """Class 1 where the mean of the 5 x 5 window is above 0.5: logits (n, 2, y, x)."""
    mean = torch.nn.functional.avg_pool2d(image, 5, stride=1, padding=2)
    return torch.cat([0.5 - mean, mean - 0.5], dim=1) * 20


def test_a_patch_learns_what_turns_the_pixels_around_it() -> None:
    images = 0.3 * torch.rand(6, 1, 20, 20, generator=draw())
    bounds = torch.zeros(1, 1, 1), torch.full((1, 1, 1), 2.0)
    patch = attack.adversarial_patch(
        [(blurred, images)], 1, 4, bounds, reach=2, steps=60, rate=0.2, draw=draw()
    )  # fmt: skip
    assert patch.shape == (1, 4, 4)
    assert 1.5 < float(patch.mean()) <= float(patch.max()) <= 2.0
    pasted, covered = attack.paste(images, patch, [(8, 8)] * 6)
    around = attack.beside(covered, 2)
    assert (blurred(images).argmax(dim=1)[around] == 1).float().mean() == 0
    assert (blurred(pasted).argmax(dim=1)[around] == 1).float().mean() > 0.3
    far = ~attack.beside(covered, 2) & ~covered
    torch.testing.assert_close(blurred(pasted).permute(0, 2, 3, 1)[far], blurred(images).permute(0, 2, 3, 1)[far])


def test_a_patch_fools_a_classifier_of_chips_as_well() -> None:
    images = 0.3 * torch.rand(6, 1, 20, 20, generator=draw())
    bounds = torch.full((1, 1, 1), -2.0), torch.full((1, 1, 1), 9.0)
    chips = lambda image: blurred(image).mean(dim=(2, 3))  # noqa: E731
    patch = attack.adversarial_patch([(chips, images)], 1, 6, bounds, reach=0, steps=40, rate=0.2, draw=draw())
    assert (chips(images).argmax(dim=1) == 1).sum() == 0
    assert (chips(attack.paste(images, patch, [(3, 5)] * 6)[0]).argmax(dim=1) == 1).all()


def test_the_map_s_views_are_averaged_as_the_map_does() -> None:
    torch.manual_seed(0)
    network = nn.Conv2d(2, 3, 3, padding=1)
    image, valid, days = torch.randn(1, 2, 6, 6, generator=draw()), torch.ones(1, 1, 6, 6), torch.zeros(1, 1)
    with torch.no_grad():
        found = Mapped(lambda image, *_: network(image), 2.0, True)(image, valid, days).exp().numpy()
        expected = [
            seen_back(torch.softmax(network(torch.from_numpy(seen(image.numpy(), *view))) / 2.0, 1).numpy(), *view)
            for view in VIEWS
        ]
    np.testing.assert_allclose(found, np.mean(expected, axis=0), atol=1e-6)


# --- on a world of three classes -------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> tuple[Laid, Path]:
    from stages import train

    truth = patchwork((96, 96), 3, 8, 0)
    laid = lay(tmp_path_factory.mktemp("attack"), separable(truth, 0), truth)
    cnn = quick(CnnRecipe(width=8, dilations=(1, 1), average_turns=False), epochs=3, steps=12, batch=4, lr=0.02)
    config = train.Config(
        classes=laid.classes, models=("rf", "cnn"), rf=ForestRecipe(trees=5, windows=()), cnn=cnn, device="cpu"
    )  # type: ignore[arg-type]
    return laid, laid.train(laid.root / "model", config)


@pytest.fixture
def inputs(world: tuple[Laid, Path]) -> Inputs:
    laid, model = world
    return Inputs(Tiles(laid.root / "tiles"), Samples(laid.root / "samples"), model)


ASKED = Asked(strengths=(0.2, 2.0), steps=3, patch=4, patch_steps=5)


def test_attacks_take_more_than_noise_and_a_forest_is_attacked_by_transfer(inputs: Inputs) -> None:
    followed = command._followed(inputs, ("rf", "cnn"))
    assert followed == {"rf": "cnn", "cnn": "cnn"}
    found = command._attack_fold(inputs, 0, followed, ASKED)
    held = gather(inputs_split(inputs), Role.TEST, 0)
    assert {int(matrix.sum()) for matrix in found.values()} == {len(held.reference)}
    cnn = command._accuracies({key[1:]: matrix for key, matrix in found.items() if key[0] == "cnn"}, ASKED)
    assert cnn["clean"]["overall"] > 0.9
    hit = {kind: [row["overall"] for row in rows] for kind, rows in cnn["attacks"].items()}
    assert hit["projected gradient"][1] <= hit["fast gradient"][1] < hit["noise"][1]
    assert hit["fast gradient"][1] < hit["fast gradient"][0] <= cnn["clean"]["overall"]
    forest = command._accuracies({key[1:]: matrix for key, matrix in found.items() if key[0] == "rf"}, ASKED)
    assert forest["attacks"]["fast gradient"][1]["overall"] < forest["attacks"]["noise"][1]["overall"]


def inputs_split(inputs: Inputs) -> Any:
    from stages.training.ground import Split

    return Split(inputs.tiles, inputs.samples, inputs.tiles.channels, 0)


def test_without_an_attack_the_answers_are_the_saved_graph_s(inputs: Inputs) -> None:
    held = gather(inputs_split(inputs), Role.TEST, 4)
    model = command.trained(inputs.model / "cnn")
    strength = Strength(0.0, np.ones(3))
    found = answers({"cnn": model.model}, model.model, held, "noise", strength, seed=0)["cnn"]
    import onnxruntime as ort

    session = ort.InferenceSession(str(inputs.model / "cnn" / "model.onnx"))
    (logits,) = session.run(["logits"], {"image": held.image, "valid": held.valid})
    np.testing.assert_array_equal(found, logits.transpose(0, 2, 3, 1)[held.at].argmax(axis=1))


def test_an_attack_changes_no_answer_where_all_is_hidden(inputs: Inputs) -> None:
    held = gather(inputs_split(inputs), Role.TEST, 4)
    model = command.trained(inputs.model / "cnn").model
    piece = next(pieces(held, alone=False))
    hidden = piece._replace(valid=torch.zeros_like(piece.valid))
    assert attack.slope(hidden.answer(model), hidden.image, hidden.labels).abs().max() == 0


def test_a_patch_is_made_on_validation_and_tried_beside_its_shuffled_self(inputs: Inputs) -> None:
    split = inputs_split(inputs)
    model = Mapped(lambda image, *_: blurred(image[:, :1] / 1000.0), 1.0, False)
    plan = Patch(1, 4, [(low, high) for low, _, high in split.values()], 2, steps=40, tries=2)
    patch = make_patch(model, gather(split, Role.VALIDATION, 4), plan)
    low, high = (torch.tensor([pair[end] for pair in plan.bounds])[:, None, None] for end in (0, 1))
    assert bool(((patch >= low) & (patch <= high)).all())
    tried = try_patch(model, gather(split, Role.TEST, 4), patch, plan)
    assert 0 < len(tried.reference) <= 2 * 32 * len(gather(split, Role.TEST, 4).image)
    shares = tried.share(1)
    assert shares["patched"] > shares["without"]
    expected = (tried.patched[tried.reference != 1] == 1).mean()
    assert shares["patched"] == pytest.approx(expected)


def test_models_without_any_gradient_are_refused(inputs: Inputs, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(command, "has_gradient", lambda _: False)
    with pytest.raises(ModelError, match=r"has a gradient to follow.*train a network too"):
        command._followed(inputs, ("rf",))


def test_votes_have_no_gradient_wherever_they_stand() -> None:
    assert command._votes({"kind": "svm", "members": 1})
    assert command._votes({"kind": "ensemble", "members": [{"kind": "cnn", "members": 1}, {"kind": "svm"}]})
    assert not command._votes({"kind": "ensemble", "members": [{"kind": "cnn", "members": 3}]})


def test_unknown_models_and_classes_are_refused(inputs: Inputs) -> None:
    with pytest.raises(SettingError, match="There is no trained model unet; the trained ones are"):
        command._names(inputs, Asked(models=("unet",)))
    card = command.trained(inputs.model / "cnn").card
    with pytest.raises(SettingError, match="There is no class sea; the classes are class 0, class 1, class 2"):
        command._target(inputs, card, Asked(target="sea"))
    assert command._target(inputs, card, Asked(target="class 2")) == 2


class Standing(NamedTuple):
    """As much of an area and of a step of its survey as an attack looks at."""

    data: Path
    name: str = "a"
    settings: Any = SimpleNamespace(given=SimpleNamespace(model=None))


def standing(inputs: Inputs, monkeypatch: pytest.MonkeyPatch, **missing: str) -> Any:
    def step(name: str) -> Any:
        why = missing.get(name, "")
        return SimpleNamespace(
            stage=SimpleNamespace(writes=name), manifest=None if why else 1, state="fresh", why=(why,)
        )

    monkeypatch.setattr(command, "survey", lambda _: [step(name) for name in command.NEEDED])
    return Standing(inputs.tiles.folder.parent)


def test_what_was_found_is_written_whole_shown_and_read_back(
    inputs: Inputs, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    area = standing(inputs, monkeypatch)
    examples: list[AttackExample] = []

    def drawn(found: Any, example: AttackExample) -> bytes:
        examples.append(example)
        return attack_picture(found, example)

    monkeypatch.setattr(command, "attack_picture", drawn)
    found = command.run(area, ASKED)
    best = inputs.names()[0]
    assert list(found["models"]) == [best, *(name for name in ("rf", "cnn") if name != best)]
    folder = area.data / ATTACK
    assert sorted(path.name for path in folder.iterdir()) == ["attack.json", "attack.png"]
    assert read_attacks(folder)[0] == json.loads(json.dumps(found, allow_nan=False))
    assert read_attacks(folder)[1][:4] == b"\x89PNG"
    (example,) = examples
    assert example.titles == ("as it is", "noise of 2", "attack of 2", "patch")
    changed = (example.scenes[0] != example.scenes[3]).any(axis=-1)  # the patch alone
    assert 0 < changed.sum() <= 16
    lines = command.table(found)
    assert any(line.startswith("rf (by transfer from cnn)") for line in lines)
    assert "A patch of 4 × 4 pixels" in lines[-1]
    # The report shows it, of this very model only.
    card = read_card(chosen_folder(inputs.model))
    exported: Any = SimpleNamespace(config=SimpleNamespace(attack=folder), card=card)
    assert export.attacked_of(exported) == read_attacks(folder)
    exported.card = replace(card, fingerprint="another")
    assert export.attacked_of(exported) is None
    exported.config = SimpleNamespace(attack=tmp_path)
    assert export.attacked_of(exported) is None
    assert export.sources(export.Config(attack=folder)) == [folder / "attack.json", folder / "attack.png"]


def test_a_report_has_a_section_under_attack_where_there_was_one() -> None:
    row = {"overall": 0.5, "balanced": 0.4}
    patch = {"model": "cnn", "by": "cnn", "side": 16, "target": "forest", "reach": 7, "pixels": 9, "without": 0.1,
             "patched": 0.6, "shuffled": 0.2}  # fmt: skip
    clean = {"overall": 0.9, "balanced": 0.8}
    models = {"cnn": {"by": "cnn", "clean": clean, "attacks": {"noise": [row], "fast gradient": [row]}},
              "rf": {"by": "cnn", "clean": row, "attacks": {"fast gradient": [row]}}}  # fmt: skip
    found = {"pixels": 1234, "strengths": [0.25], "models": models, "patch": patch}
    page = report._attacks(SimpleNamespace(attacks=found, pictures={"attack": b"png"}))  # type: ignore[arg-type]
    text = " ".join(re.sub("<[^>]*>", " ", page).split()).replace("\u202f", " ")
    assert "Under attack" in text
    assert "cnn, noise 90.0 % 50.0 % 40.0 % cnn, fast gradient 90.0 % 50.0 % 40.0 %" in text
    assert "rf, fast gradient by transfer from cnn 50.0 % 50.0 % 40.0 %" in text
    assert (
        "turns 60.0 % of the pixels within 7 of it that are no forest into forest (cnn); without it they are 10.0 %"
        in text
    )
    assert "data:image/png;base64" in page
    assert report._attacks(SimpleNamespace(attacks=None, pictures={})) == ""  # type: ignore[arg-type]


def test_an_area_that_was_attacked_shows_it_without_being_told(tmp_path: Path) -> None:
    import yaml

    from pipeline.config import build_area

    raw = yaml.safe_load((Path(__file__).parent.parent / "configs" / "carolina.yaml").read_text())
    assert build_area(tmp_path, "a", raw).configs["export"].attack is None  # type: ignore[attr-defined]
    (tmp_path / "data" / "a" / ATTACK).mkdir(parents=True)
    assert build_area(tmp_path, "a", raw).configs["export"].attack == tmp_path / "data" / "a" / ATTACK  # type: ignore[attr-defined]
    raw["export"]["attack"] = "elsewhere"
    assert build_area(tmp_path, "a", raw).configs["export"].attack == tmp_path / "elsewhere"  # type: ignore[attr-defined]


def test_nothing_to_attack_is_told_in_a_sentence(inputs: Inputs, monkeypatch: pytest.MonkeyPatch) -> None:
    area = standing(inputs, monkeypatch, model="there is none yet")
    with pytest.raises(
        ArtifactError, match=r"no model of area a to attack \(there is none yet\); run `make train AREA=a`"
    ):
        command.run(area, ASKED)
    card = replace(command.trained(inputs.model / "cnn").card, classes=({"name": "sea"},))
    with pytest.raises(ModelError, match="Model cnn maps sea, but the labels hold class 0, class 1, class 2"):
        command._split(inputs, card, 0)
    area = standing(inputs, monkeypatch)
    with pytest.raises(SettingError, match="A patch of 99 pixels is too large"):
        command._patched(
            inputs_split(inputs), gather(inputs_split(inputs), Role.TEST, 2), twice(inputs), 0, replace(ASKED, patch=99)
        )
    monkeypatch.setattr(
        command, "Samples", lambda _: SimpleNamespace(split=inputs.samples.split, all_parts=np.ones((1, 1, 3)))
    )
    with pytest.raises(SettingError, match="has no test blocks to attack"):
        command.run(area, ASKED)
    monkeypatch.setattr(command, "Samples", lambda _: SimpleNamespace(split="another"))
    with pytest.raises(ModelError, match="another division of the labels"):
        command.run(area, ASKED)


def twice(inputs: Inputs) -> Any:
    return (command.trained(inputs.model / "cnn"),) * 2


def test_the_command_refuses_strengths_that_are_none(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for wrong in (("--strengths", "-1"), ("--steps", "0"), ("--patch", "-4")):
        with pytest.raises(SystemExit) as caught:
            main(["--root", str(tmp_path), "attack", *wrong])
        assert caught.value.code == 2
    assert main(["--root", str(tmp_path), "attack", "--area", "nowhere"]) == 2
    assert "There is no configs/nowhere.yaml" in capsys.readouterr().err
