"""The stage trains on training labels only, chooses on validation, and goes on where it was killed."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from pydantic import ValidationError

from stages import train
from stages.errors import DivergedError, LabelError, ModelError, SettingError
from stages.formats.samples import Role, Samples
from stages.formats.weights import ONNX, WEIGHTS, chosen_folder, read_card, read_choice
from stages.training import calibration, checkpoint, loop
from stages.training.chips import Chips
from stages.training.classifiers import fit, gather_for
from stages.training.fitted import Hardware
from stages.training.ground import lay_out
from stages.training.recipes import CnnRecipe, ForestRecipe, MlpRecipe, Recipe, UnetRecipe, VectorRecipe
from tests.training_worlds import Laid, lay, quick
from tests.worlds import patchwork, separable

ALL = ("rf", "svm", "mlp", "cnn", "unet")


def config(laid: Laid, **changes: Any) -> train.Config:
    values = {
        "classes": laid.classes, "models": ("rf", "mlp"), "rf": ForestRecipe(trees=10, windows=(3,)),
        "svm": VectorRecipe(pixels=300, windows=(3,), cost=(1.0,)), "mlp": quick(MlpRecipe(width=8), epochs=3),
        "cnn": quick(CnnRecipe(width=8, dilations=(1, 2))), "unet": quick(UnetRecipe(width=4, depth=2)),
    }  # fmt: skip
    return train.Config(**{**values, **changes})  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def laid(tmp_path_factory: pytest.TempPathFactory) -> Laid:
    truth = patchwork((96, 96), 3, 8, 0)
    return lay(tmp_path_factory.mktemp("train"), separable(truth, 0), truth)


@pytest.fixture(scope="module")
def trained(laid: Laid, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return laid.train(tmp_path_factory.mktemp("model"), config(laid, models=ALL, attribution="a licence"))


def test_every_model_is_a_whole_folder(trained: Path) -> None:
    for name in ALL:
        card = read_card(trained / name)
        assert card.name == name
        assert card.channels == ("b0", "b1", "b2")
        assert card.class_names == ("class 0", "class 1", "class 2")
        assert card.classes[1] == {"name": "class 1", "code": 2, "color": "#123456"}
        assert card.attribution == "a licence"
        assert 0.049 < card.temperature < 20.1
        assert (trained / name / WEIGHTS).is_file() == (name != "rf")  # a forest has no torch form
    assert not (trained / train.WORK).exists()
    assert {p.name for p in trained.iterdir()} == {*ALL, "models.json"}
    assert [read_card(trained / n).margin for n in ALL] == [1, 1, 0, 3, 20]
    assert [read_card(trained / n).stride for n in ALL] == [1, 1, 1, 1, 4]
    assert [read_card(trained / n).tta for n in ALL] == [False, False, False, True, True]


def test_the_best_on_validation_makes_the_map(trained: Path) -> None:
    choice = read_choice(trained)
    assert set(choice["candidates"]) == set(ALL)
    merit = {n: s["overall_accuracy"] + s["balanced_accuracy"] for n, s in choice["candidates"].items()}
    assert merit[choice["chosen"]] == max(merit.values())
    assert chosen_folder(trained) == trained / choice["chosen"]
    assert choice["candidates"]["rf"]["overall_accuracy"] > 0.95
    assert "both_accuracies" in choice["note"]


def test_nothing_written_names_the_machine(trained: Path, laid: Laid) -> None:
    for path in trained.rglob("*"):
        if path.is_file():
            assert str(laid.root).encode() not in path.read_bytes(), path


def test_validation_scores_are_those_of_the_saved_graph(trained: Path, laid: Laid) -> None:
    import onnxruntime as ort

    held = gather_for("rf", ForestRecipe(windows=(3,)), laid.split(), Role.VALIDATION)
    session = ort.InferenceSession(str(trained / "rf" / ONNX))
    (logits,) = session.run(["logits"], {"image": held.image, "valid": held.valid})
    mapped = logits.transpose(0, 2, 3, 1)[held.at].argmax(axis=1)
    scores = read_card(trained / "rf").metrics["validation"]
    assert scores["overall_accuracy"] == pytest.approx((mapped == held.reference).mean(), abs=2e-3)
    assert np.sum(scores["confusion"]) == len(held.reference) == scores["pixels"]


def test_a_named_model_is_chosen_and_the_same_seed_gives_the_same_bytes(laid: Laid, tmp_path: Path) -> None:
    folders = [laid.train(tmp_path / name, config(laid, model="mlp")) for name in ("one", "two")]
    assert read_choice(folders[0])["chosen"] == "mlp"
    for path in (p.relative_to(folders[0]) for p in folders[0].rglob("*") if p.is_file()):
        assert (folders[0] / path).read_bytes() == (folders[1] / path).read_bytes(), path
    other = laid.train(tmp_path / "other", config(laid, model="mlp", seed=1))
    assert read_card(other / "mlp").fingerprint != read_card(folders[0] / "mlp").fingerprint


def test_finished_models_are_not_trained_again(laid: Laid, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    out = laid.train(tmp_path / "out", config(laid, models=("rf",)))
    monkeypatch.setattr(train, "_train", lambda *_: pytest.fail("trained again"))
    (out / "models.json").unlink()
    laid.train(out, config(laid, models=("rf",)))
    assert read_choice(out)["chosen"] == "rf"


def test_a_killed_training_goes_on_to_the_same_weights(
    laid: Laid, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe: Recipe = quick(UnetRecipe(width=4, depth=1, dropout=0.2), epochs=4)
    ground, held = laid.ground(), gather_for("unet", recipe, laid.split(), Role.VALIDATION)
    whole: Any = fit("unet", ground, held, recipe, laid.task("unet", folder=tmp_path / "whole"))

    class Killed(BaseException):
        pass

    def die(self: Any) -> None:
        if self.current_epoch == 2:
            raise Killed

    with monkeypatch.context() as patch:
        patch.setattr(loop.Training, "on_train_epoch_start", die)
        with pytest.raises(Killed):
            fit("unet", ground, held, recipe, laid.task("unet", folder=tmp_path / "killed"))
    seen: list[int] = []
    with monkeypatch.context() as patch:
        patch.setattr(loop.Training, "on_train_epoch_start", lambda self: seen.append(self.current_epoch))
        resumed: Any = fit("unet", ground, held, recipe, laid.task("unet", folder=tmp_path / "killed"))
    assert seen == [2, 3]
    assert resumed.found == whole.found
    for name, tensor in whole.classifier.state_dict().items():
        np.testing.assert_array_equal(tensor.numpy(), resumed.classifier.state_dict()[name].numpy())
    again: Any = fit("unet", ground, held, recipe, laid.task("unet", folder=tmp_path / "killed"))
    assert again.found == whole.found


def test_a_broken_checkpoint_starts_anew(laid: Laid, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    recipe = quick(MlpRecipe(width=4))
    (tmp_path / "0").mkdir()
    (tmp_path / "0" / "last.ckpt").write_bytes(b"half a file")
    fitted = fit("mlp", laid.ground(), None, recipe, laid.task("mlp", folder=tmp_path))
    assert fitted.found.chosen["epochs"] == 2
    assert "starts anew" in caplog.text


def test_training_stops_when_validation_no_longer_gains(laid: Laid, tmp_path: Path) -> None:
    recipe = quick(MlpRecipe(width=4), epochs=30, patience=2, lr=1.0, schedule="constant", average=0.0)
    held = gather_for("mlp", recipe, laid.split(), Role.VALIDATION)
    fitted = fit("mlp", laid.ground(), held, recipe, laid.task("mlp", folder=tmp_path))
    losses = fitted.found.curves["validation loss"]
    assert len(losses) < 30
    assert fitted.found.chosen["epochs"] == int(np.argmin(losses)) + 1 == len(losses) - 2


def test_the_last_weights_are_kept_where_asked_for(laid: Laid, tmp_path: Path) -> None:
    recipe = quick(MlpRecipe(width=4), epochs=6, patience=1, lr=1.0, schedule="constant", average=0.0, keep="last")
    held = gather_for("mlp", recipe, laid.split(), Role.VALIDATION)
    fitted = fit("mlp", laid.ground(), held, recipe, laid.task("mlp", folder=tmp_path))
    losses = fitted.found.curves["validation loss"]
    assert fitted.found.chosen["epochs"] == len(losses) == 6
    assert int(np.argmin(losses)) < 5
    assert calibration.loss(fitted.logits(held), held.reference, 1.0) == pytest.approx(losses[-1], rel=1e-4)


def test_extremely_randomised_trees_see_every_pixel(laid: Laid) -> None:
    recipe = ForestRecipe(trees=5, windows=(), kind="extra", features=1.0, leaf=(1,))
    fitted: Any = fit("rf", laid.ground(), None, recipe, laid.task("rf"))
    assert (type(fitted.forest).__name__, fitted.forest.bootstrap) == ("ExtraTreesClassifier", False)
    assert {tree.tree_.n_node_samples[0] for tree in fitted.forest.estimators_} == {laid.ground().pixels().sum()}
    assert fitted.forest.estimators_[0].max_features_ == 3
    plain: Any = fit("rf", laid.ground(), None, ForestRecipe(trees=5, windows=()), laid.task("rf"))
    assert type(plain.forest).__name__ == "RandomForestClassifier"


def test_a_pixel_network_has_the_layers_asked_for_and_trains_on_single_pixels(laid: Laid, tmp_path: Path) -> None:
    recipe = quick(MlpRecipe(width=8, layers=3), chip=1, batch=64, steps=40, epochs=2, lr=0.01)
    fitted: Any = fit("mlp", laid.ground(), None, recipe, laid.task("mlp", folder=tmp_path))
    assert len(fitted.classifier.network.hidden) == 3
    held = gather_for("mlp", recipe, laid.split(), Role.VALIDATION)
    assert (fitted.logits(held)[0].argmax(axis=1) == held.reference).mean() > 0.95
    assert MlpRecipe().layers == 2


def test_with_folds_scores_are_pooled_and_the_choice_is_refitted_on_all(tmp_path: Path) -> None:
    truth = patchwork((96, 96), 2, 8, 1)
    laid = lay(tmp_path / "world", separable(truth, 1), truth, folds=3)
    out = laid.train(tmp_path / "out", config(laid, models=("rf", "mlp"), model="mlp"))
    choice = read_choice(out)
    for name in ("rf", "mlp"):
        cards = [read_card(out / "folds" / str(fold) / name) for fold in range(3)]
        pixels = [card.metrics["validation"]["pixels"] for card in cards]
        assert choice["candidates"][name]["pixels"] == sum(pixels)
    final = read_card(chosen_folder(out))
    assert not (out / "rf").exists()
    found = sorted(read_card(out / "folds" / str(f) / "mlp").metrics["chosen"]["epochs"] for f in range(3))
    assert final.metrics["chosen"]["epochs"] == found[1]
    assert "refitted on all labels" in choice["note"]
    everything = laid.ground(None).pixels().sum()
    assert everything > max(laid.ground(fold).pixels().sum() for fold in range(3))


def test_one_class_alone_is_refused_in_a_sentence(tmp_path: Path) -> None:
    truth = patchwork((64, 64), 2, 8, 0)
    laid = lay(tmp_path, separable(truth, 0), truth)
    whole = laid.split().tiles.grid.whole
    Samples.write(tmp_path / "samples", whole, role=np.where(truth == 0, laid.split().samples.read("role", whole), 0))
    with pytest.raises(LabelError, match=r"1 classes \(class 0\); at least two are needed"):
        lay_out(laid.split(), tmp_path / "ground")


@pytest.mark.parametrize(
    "changes",
    [{"models": ("rf", "rf")}, {"model": "svm", "models": ("rf",)}, {"models": ()}, {"epochs": 0}, {"lr": -1.0},
     {"rf": {"windows": (4,)}}, {"unet": {"depht": 3}}, {"choose_by": "luck"}, {"unet": {"chip": 50}}],
)  # fmt: skip
def test_settings_out_of_range_are_refused(changes: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        train.Config(**changes)


def test_settings_chosen_together_are_agreed_on_together() -> None:
    # Cost 10 and gamma 0.25 are each the most frequent, but no fold chose them together.
    found = [(1.0, 0.25, 2.0), (1.0, 0.25, 4.0), (10.0, 0.06, 9.0), (10.0, 0.5, 5.0), (10.0, 1.0, 5.0)]
    agreed = train._agreed([{"cost": c, "gamma": g, "gain": gain} for c, g, gain in found])
    assert agreed == {"cost": 1.0, "gamma": 0.25, "gain": 5.0}


def test_a_device_that_is_not_there_is_refused_before_anything_is_trained(
    laid: Laid, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(train, "_train_all", lambda _: pytest.fail("training began"))
    for change in ({"device": "tpu"}, {"device": "nonsense"}, {"precision": "17-bit"}):
        with pytest.raises(SettingError, match="cannot be used on this machine") as caught:
            laid.train(tmp_path / "out", config(laid, **change))
        assert "\n" not in str(caught.value)


def test_a_diverged_training_is_told_in_a_sentence(laid: Laid) -> None:
    recipe = quick(MlpRecipe(width=8), lr=1.0, epochs=1)
    held = gather_for("mlp", recipe, laid.split(), Role.VALIDATION)
    training = loop.Training(loop.build("mlp", laid.ground(), recipe, 0), laid.ground(), held, recipe, laid.task("mlp"))
    with pytest.raises(DivergedError, match=r"training of mlp diverged: .* lower train\.mlp\.lr .* from 1 to 0\.003\."):
        training.kept()


def test_a_diverging_training_stops_keeps_its_last_good_checkpoint_and_names_the_setting(
    laid: Laid, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe = quick(MlpRecipe(width=8), epochs=5)
    epochs: list[int] = []

    def burst(self: Any) -> None:
        epochs.append(self.current_epoch)
        if self.current_epoch == 2:
            for group in self.optimizers().param_groups:
                group["lr"] = 1e30
            self.lr_schedulers().base_lrs = [1e30, 1e30]

    monkeypatch.setattr(loop.Training, "on_train_epoch_start", burst)
    with pytest.raises(DivergedError) as caught:
        fit("mlp", laid.ground(), None, recipe, laid.task("mlp", folder=tmp_path))
    assert epochs == [0, 1, 2]
    said = str(caught.value)
    assert said.startswith("The training of mlp diverged in epoch 3 of 5: its ")
    assert "after a loss of " in said
    assert "lower train.mlp.lr (or train.lr) below 0.003" in said
    assert said.endswith("the checkpoint of epoch 2 is kept.")
    assert "\n" not in said
    kept: Any = checkpoint.load(tmp_path / "0" / loop.CHECKPOINT)
    assert len(kept["curves"]["training loss"]) == 2
    assert all(bool(tensor.isfinite().all()) for tensor in kept["state_dict"].values())
    monkeypatch.undo()
    # Going on from it gives what a training without the accident gives.
    gone_on: Any = fit("mlp", laid.ground(), None, recipe, laid.task("mlp", folder=tmp_path))
    whole: Any = fit("mlp", laid.ground(), None, recipe, laid.task("mlp", folder=tmp_path / "whole"))
    assert gone_on.found == whole.found


def test_a_long_epoch_is_stopped_within_it(laid: Laid, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    recipe, steps = quick(MlpRecipe(width=8), epochs=1, steps=50), []
    plain = loop.Training.training_step

    def poisoned(self: Any, batch: Any, step: int) -> Any:
        steps.append(step)
        return plain(self, batch, step) * (float("nan") if step == 25 else 1.0)

    monkeypatch.setattr(loop.Training, "training_step", poisoned)
    with pytest.raises(DivergedError, match="its loss is no longer a number"):
        fit("mlp", laid.ground(), None, recipe, laid.task("mlp", folder=tmp_path))
    assert steps[-1] == 39
    assert checkpoint.load(tmp_path / "0" / loop.CHECKPOINT) is None


def test_what_other_processes_diverged_by_is_told_here(
    laid: Laid, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    said: list[str] = ["The training of mlp diverged."]

    def ended(_work: Any, _given: Any, _hardware: Any, _name: str, out: Path) -> None:
        if said:
            (out.parent / loop.DIVERGED).write_text(said.pop())
        raise ModelError("Process 1 of 2 ended.")

    monkeypatch.setattr(loop.devices, "together", ended)
    with pytest.raises(DivergedError, match=r"^The training of mlp diverged\.$"):
        loop._together((), laid.task("mlp", folder=tmp_path))
    # What an earlier run left says nothing of this one.
    with pytest.raises(ModelError, match=r"^Process 1 of 2 ended"):
        loop._together((), laid.task("mlp", folder=tmp_path))


def test_half_precision_is_suspected_before_the_clipping(laid: Laid) -> None:
    halved = laid.task("cnn 2 of 3", hardware=Hardware(precision="16-true"))
    recipe = MlpRecipe(clip_gradient=100.0)
    assert loop.suspect(recipe, halved) == "set train.precision to 32-true instead of 16-true"
    assert loop.suspect(recipe, laid.task("cnn 2 of 3")) == "lower train.cnn.clip_gradient from 100 to 2"
    assert loop.suspect(MlpRecipe(), laid.task("mlp")).startswith("lower train.mlp.lr (or train.lr) below 0.003")


def test_adversarial_training_shows_the_worst_chips_of_the_box(
    laid: Laid, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe = quick(CnnRecipe(width=8, dilations=(1,), dropout=0.0), batch=4, noise=0.0, adversarial=0.2, attack_steps=3)
    training = loop.Training(loop.build("cnn", laid.ground(), recipe, 0), laid.ground(), None, recipe, laid.task("cnn"))
    classifier = training.classifier.train()
    image, valid, days, labels = Chips(laid.ground(), recipe, 0, 0)[0]
    before = {name: tensor.clone() for name, tensor in classifier.state_dict().items()}
    found = training._attacked(image, valid.float(), days, labels, torch.Generator().manual_seed(1))
    moved = (found - image).abs() / classifier.normalise.deviation
    assert (moved.amax(dim=(1, 2, 3)) > 0).sum() == 2  # half of four chips
    assert float(moved.max()) == pytest.approx(0.2, rel=1e-4)
    assert classifier.training
    for name, tensor in classifier.state_dict().items():
        torch.testing.assert_close(tensor, before[name])  # an attack teaches nothing by itself

    def loss(shown: torch.Tensor) -> float:
        with torch.no_grad():
            logits = classifier.eval()(shown, valid.float(), days)
        return float(torch.nn.functional.cross_entropy(logits, labels.long(), ignore_index=255))

    signs = 2.0 * torch.randint(2, image.shape, generator=torch.Generator().manual_seed(0)) - 1.0
    chips = moved.amax(dim=(1, 2, 3)) > 0
    noisy = torch.where(chips[:, None, None, None], image + 0.2 * signs * classifier.normalise.deviation, image)
    assert loss(found) > loss(noisy)
    shown: list[int] = []
    attacked = loop.Training._attacked

    def counted(self: Any, *given: Any) -> torch.Tensor:
        shown.append(1)
        return attacked(self, *given)

    monkeypatch.setattr(loop.Training, "_attacked", counted)
    fit("cnn", laid.ground(), None, recipe, laid.task("cnn", folder=tmp_path))
    assert len(shown) == recipe.epochs * recipe.steps
    fit(
        "cnn",
        laid.ground(),
        None,
        recipe.model_copy(update={"adversarial": 0.0}),
        laid.task("cnn", folder=tmp_path / "o"),
    )
    assert len(shown) == recipe.epochs * recipe.steps


def test_common_settings_reach_every_network_and_no_baseline() -> None:
    common = train.Config(epochs=3, lr=0.1)
    assert [common.recipe(name).epochs for name in ("mlp", "cnn", "unet")] == [3, 3, 3]  # type: ignore[union-attr]
    assert common.recipe("unet").lr == 0.1  # type: ignore[union-attr]
    assert common.recipe("rf") == ForestRecipe()


def test_every_field_is_described() -> None:
    for kind in (train.Config, ForestRecipe, VectorRecipe, MlpRecipe, CnnRecipe, UnetRecipe):
        assert all(field.description for field in kind.model_fields.values())


def test_the_learning_rate_warms_up_and_falls() -> None:
    rates = [loop.rate(step, 100, "one-cycle") for step in range(100)]
    assert np.argmax(rates) == 14 or np.argmax(rates) == 15
    assert max(rates) == pytest.approx(1.0, abs=2e-3)
    assert rates[-1] < 0.01
    assert loop.rate(500, 100, "constant") == 1.0


def test_candidates_are_json_without_nan(trained: Path) -> None:
    json.loads((trained / "models.json").read_text(), parse_constant=pytest.fail)


def test_members_are_averaged_as_probabilities(laid: Laid, tmp_path: Path) -> None:
    recipe = quick(MlpRecipe(width=4), members=2)
    held = gather_for("mlp", recipe, laid.split(), Role.VALIDATION)
    both: Any = fit("mlp", laid.ground(), held, recipe, laid.task("mlp", folder=tmp_path))
    single = [loop.FittedNetwork([member], False, both.found).logits(held)[0] for member in both.classifier.members]
    assert not np.array_equal(*single)
    likely = np.mean([calibration.probabilities(logits[None], 1.0) for logits in single], axis=0)
    np.testing.assert_allclose(calibration.probabilities(both.logits(held), 1.0), likely, atol=1e-5)
