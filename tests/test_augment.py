"""Synthetic samples: from training labels alone, capped, mixed into every kind of training, and judged by a table."""

from __future__ import annotations

import json
import logging
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from pydantic import ValidationError

from stages import augment, train
from stages.accuracy import benefit
from stages.augment import Config, GanRecipe, run
from stages.delivery.rare_samples import rare_samples
from stages.errors import LabelError, LeakError, SettingError
from stages.formats.bands import write_bands
from stages.formats.samples import UNLABELLED, Role, Samples
from stages.formats.synthetic import Synthetic, read_about, read_samples, read_synthetic
from stages.formats.tiles import Tiles
from stages.formats.weights import read_card
from stages.training import classifiers, judge, synthesis
from stages.training.chips import Chips
from stages.training.forest import fit_forest
from stages.training.ground import Ground
from stages.training.interpolation import between_neighbours
from stages.training.mixing import left_out, mixed_for
from stages.training.rarity import connected, stocks_of
from stages.training.recipes import CnnRecipe, ForestRecipe, MlpRecipe, UnetRecipe
from stages.training.synthesis import Drawing, check_sources, draw_synthetic, real_samples
from stages.training.table import features_of
from stages.training.vectors import fit_vectors
from tests.label_worlds import LabelWorld
from tests.training_worlds import Laid, lay, quick
from tests.worlds import patchwork

#: Value of every pixel that no training may see.
FORBIDDEN = 5000.0
RARE = 2


def truth_of(side: int = 96) -> np.ndarray:
    """Two classes in patches of 8 pixels, and a rare one in squares of 2, one in every block of 16."""
    truth = patchwork((side, side), 2, 8, 0)
    for row, col in np.ndindex(side // 16, side // 16):
        truth[row * 16 + 7 : row * 16 + 9, col * 16 + 3 : col * 16 + 5] = RARE
    return truth


def bands_of(truth: np.ndarray) -> np.ndarray:
    """Three bands, a step of 20 and a deviation of 2 between neighbouring classes."""
    rng = np.random.default_rng(0)
    return 100 + 20.0 * truth + rng.normal(0, 2, (3, *truth.shape))


@pytest.fixture(scope="module")
def laid(tmp_path_factory: pytest.TempPathFactory) -> Laid:
    truth = truth_of()
    return lay(tmp_path_factory.mktemp("augment"), bands_of(truth), truth, folds=3)


@pytest.fixture(scope="module")
def single(tmp_path_factory: pytest.TempPathFactory) -> Laid:
    """A smaller world without folds."""
    truth = truth_of(64)
    return lay(tmp_path_factory.mktemp("single"), bands_of(truth), truth)


@pytest.fixture(scope="module")
def grounds(laid: Laid) -> dict[int | None, Ground]:
    return {0: laid.ground(0)}


def quick_config(**changes: Any) -> Config:
    values = {"method": "oversample", "compare": False, "gan": GanRecipe(steps=20, width=8), **changes}
    return Config(**values)  # type: ignore[arg-type]


def augmented(laid: Laid, out: Path, **changes: Any) -> Path:
    out.mkdir(parents=True)
    run(laid.root / "tiles", laid.root / "samples", laid.root / "bands", out, quick_config(**changes))
    return out


def sample_set(count: int = 8, side: int = 1, label: int = RARE, value: float = 900.0, **changes: Any) -> Synthetic:
    """Samples of one class that no real pixel looks like."""
    image = np.full((count, 3, side, side), value, np.float32) + np.arange(count, dtype=np.float32)[:, None, None, None]
    values = {
        "image": image, "valid": np.ones((count, 1, side, side), bool), "labels": np.full(count, label, np.uint8),
        "season": np.zeros(count, np.int64), "sources": np.zeros((0, 3), np.int64), "channels": ("b0", "b1", "b2"),
        **changes,
    }  # fmt: skip
    return Synthetic(**values)


def test_none_draws_nothing_for_any_class(tmp_path: Path) -> None:
    world = LabelWorld.build(tmp_path)
    samples = world.label(world.raster(world.truth))
    write_bands(tmp_path, ("red", "nir"))
    run(tmp_path / "tiles", samples.folder, tmp_path, tmp_path, Config())
    assert read_synthetic(tmp_path) == {"water": 0, "forest": 0}
    assert read_about(tmp_path) == {}
    assert read_samples(tmp_path, 0) is None


def test_patches_touch_at_sides_and_corners_within_a_season() -> None:
    assert connected(np.empty((0, 3), np.int64)) == 0
    assert connected(np.array([[0, 0, 0], [0, 1, 1], [0, 1, 3], [0, 2, 2]])) == 1
    assert connected(np.array([[0, 0, 0], [0, 0, 2]])) == 2
    assert connected(np.array([[0, 5, 5], [1, 5, 5], [1, 5, 6]])) == 2
    # The end of a row does not touch the beginning of the next one.
    assert connected(np.array([[0, 0, 0], [0, 0, 9], [0, 1, 0], [0, 1, 9]])) == 2
    assert connected(np.array([[0, 0, 9], [0, 1, 0]])) == 2


def test_a_class_is_counted_in_patches_and_blocks_of_the_training_part(laid: Laid) -> None:
    split = laid.split(0)
    (stock,) = stocks_of(split.tiles, split.samples, 0, [RARE])
    whole = split.tiles.grid.whole
    training = (split.samples.roles(0, whole) == Role.TRAIN) & (split.samples.read("target", whole) == RARE)
    # One square of 2 x 2 pixels in every block of 16.
    assert (stock.pixels, stock.patches, stock.blocks) == (training.sum(), training.sum() // 4, training.sum() // 4)
    assert 0 < stock.blocks < 36
    assert stock.name == "class 2"


def test_interpolated_points_lie_between_neighbours_of_the_class() -> None:
    rng = np.random.default_rng(0)
    rows = np.concatenate([rng.normal(0, 1, (10, 4)), rng.normal(50, 1, (10, 4))]).astype(np.float32)
    found = between_neighbours(rows, 50, 3, rng)
    assert (np.bincount(found.first, minlength=20) >= 2).all()
    assert (np.bincount(found.first, minlength=20) <= 3).all()
    assert (found.first != found.second).all()
    assert ((found.first < 10) == (found.second < 10)).all()
    points = found.of(rows)
    apart = np.linalg.norm(rows[found.second] - rows[found.first], axis=1)
    both = np.linalg.norm(points - rows[found.first], axis=1) + np.linalg.norm(points - rows[found.second], axis=1)
    np.testing.assert_allclose(both, apart, rtol=1e-4)
    assert ((found.share >= 0) & (found.share < 1)).all()
    assert np.unique(found.share).size == 50


def test_neighbours_are_near_in_units_of_each_feature() -> None:
    # By plain distance the large second feature alone would decide.
    rows = np.array([[0.0, 0.0], [0.0, 100.0], [1.0, 10.0], [1.0, 110.0]])
    found = between_neighbours(rows, 4, 1, np.random.default_rng(0))
    assert dict(zip(found.first.tolist(), found.second.tolist(), strict=True)) == {0: 1, 1: 0, 2: 3, 3: 2}


@pytest.mark.parametrize("method", synthesis.METHODS)
@pytest.mark.parametrize("side", [1, 5])
def test_nothing_held_out_reaches_a_sample(tmp_path: Path, method: str, side: int) -> None:
    truth = truth_of(64)
    laid = lay(tmp_path, bands_of(truth), truth, folds=3)
    split = laid.split(1)
    # What no training may see looks like nothing else.
    whole = split.tiles.grid.whole
    image, valid = split.tiles.read(whole)
    image[..., ~split.samples.training_mask(1, whole)] = FORBIDDEN
    split.tiles.write(whole, image, valid)
    kind = "pixel" if side == 1 else "chip"
    drawing = Drawing(kind, side, adversary=synthesis.Adversary(steps=5, width=8))  # type: ignore[arg-type]
    drawn = draw_synthetic(method, laid.ground(1), {RARE: 30, 0: 5}, drawing, 0)
    assert drawn.image.shape == (35, 3, side, side)
    assert drawn.image[drawn.valid[:, [0, 0, 0]]].min() > 0
    assert drawn.image.max() < FORBIDDEN / 2
    assert drawn.labels.tolist() == [RARE] * 30 + [0] * 5
    _, row, col = drawn.sources.T
    assert (split.samples.roles(1, whole)[row, col] == Role.TRAIN).all()
    assert set(split.samples.read("target", whole)[row, col].tolist()) >= {0, RARE}
    check_sources(drawn, split)
    held = np.argwhere(split.samples.roles(1, whole) == Role.TEST)[0]
    leaky = replace(drawn, sources=np.vstack([drawn.sources, [0, *held]]))
    with pytest.raises(LeakError, match=f"made from 1 of {len(drawn.sources) + 1} labels"):
        check_sources(leaky, split)
    with pytest.raises(LeakError, match="channels"):
        check_sources(replace(drawn, channels=("b0",)), split)


def test_every_fold_has_samples_of_its_own_ground_and_train_refuses_others(laid: Laid, tmp_path: Path) -> None:
    out = augmented(laid, tmp_path / "synthetic", cap=1.5)
    assert sorted(path.name for path in out.iterdir()) == [
        "final.npz", "fold-0.npz", "fold-1.npz", "fold-2.npz", "synthetic.json"
    ]  # fmt: skip
    samples = Samples(laid.root / "samples")
    for fold in (0, 1, 2, None):
        drawn = read_samples(out, fold)
        assert drawn is not None
        assert len(drawn) == round(1.5 * laid.ground(fold).pixels()[RARE])
        assert set(drawn.labels.tolist()) == {RARE}
        check_sources(drawn, laid.split(fold))
    assert samples.folds == 3
    (out / "fold-1.npz").replace(out / "fold-0.npz")
    with pytest.raises(LeakError, match="may not see; run `augment` again"):
        train.run(laid.root / "tiles", laid.root / "samples", laid.root / "bands", out, tmp_path,
                  train.Config(models=("rf",), rf=ForestRecipe(trees=2, windows=())))  # fmt: skip


def test_the_cap_holds(single: Laid, tmp_path: Path) -> None:
    assert read_synthetic(augmented(single, tmp_path / "a", most=7)) == {"class 0": 0, "class 1": 0, "class 2": 7}
    named = read_synthetic(augmented(single, tmp_path / "b", rare=("class 0",), cap=0.01))
    assert named == {"class 0": round(0.01 * single.ground().pixels()[0]), "class 1": 0, "class 2": 0}


def test_a_class_too_rare_for_the_generator_is_refused_with_the_least_number(single: Laid, tmp_path: Path) -> None:
    with pytest.raises(
        LabelError, match=r"class 2 has \d+ patches in \d+ training blocks .* at least 500 patches in 3"
    ):
        augmented(single, tmp_path / "out", method="gan", patches=500)
    with pytest.raises(LabelError, match="at least 1 patches in 40 blocks; label more of it"):
        augmented(single, tmp_path / "other", method="gan", blocks=40, patches=1)
    assert not list((tmp_path / "out").iterdir())
    about = read_about(augmented(single, tmp_path / "copies", patches=500))
    assert "at least 500 patches" in about["too_rare"]


def test_a_generator_learns_the_class_and_stays_within_its_range(grounds: dict[int | None, Ground]) -> None:
    adversary = synthesis.Adversary(steps=150, width=16, latent=8, average=0.9, lr=2e-3, lr_discriminator=2e-3)
    drawn = draw_synthetic("gan", grounds[0], {RARE: 200, 0: 200}, Drawing(adversary=adversary), 3)
    real = real_samples(grounds[0], Drawing(), np.random.default_rng(0)).of(RARE)
    own = drawn.image[:200, :, 0, 0]
    assert own.min() >= real.image.min()
    assert own.max() <= real.image.max()
    # The classes' means are 100 and 140, with a deviation of 2.
    assert abs(own.mean() - 140) < 4
    assert 0.7 < own.std() < 4
    assert abs(drawn.image[200:].mean() - 100) < 4
    # The generator has looked at all classes, so labels of all are its sources.
    assert len(drawn.sources) == grounds[0].pixels().sum()


def test_a_generator_depends_on_its_seed_alone_and_tells_when_it_has_not_learnt(
    grounds: dict[int | None, Ground], caplog: pytest.LogCaptureFixture
) -> None:
    short = Drawing(adversary=synthesis.Adversary(steps=2, width=8))
    real = real_samples(grounds[0], short, np.random.default_rng(0))
    learnt = [synthesis._learnt(real, grounds[0].split, short, seed, None) for seed in (3, 3, 4)]
    one, two, other = (synthesis.draw(generator, torch.full((9,), 1), 0).numpy() for generator in learnt)
    np.testing.assert_array_equal(one, two)
    assert not np.array_equal(one, other)
    drawn, own = draw_synthetic("gan", grounds[0], {RARE: 9}, short, 3), real.of(RARE)
    assert own.image.min() <= drawn.image.min() <= drawn.image.max() <= own.image.max()
    assert "100 % of the values drawn for class 2 lie outside" in caplog.text


def test_gaps_are_filled_for_a_generator_and_come_back_in_its_samples(tmp_path: Path) -> None:
    truth = truth_of(64)
    cube = np.stack([bands_of(truth), bands_of(truth) + 5.0])
    hidden = np.random.default_rng(0).random(truth.shape) < 0.4
    cube[1][:, hidden] = np.nan
    laid = lay(tmp_path, cube, truth, dates=("2020", "2021"))
    ground = laid.ground()
    real = real_samples(ground, Drawing(), np.random.default_rng(0))
    filled = synthesis._filled(real, ground.split)
    own = real.labels == RARE
    gap = own & ~real.valid[:, 1, 0, 0]
    mean = real.image[own & real.valid[:, 1, 0, 0], 3].mean()
    np.testing.assert_allclose(filled[gap, 3, 0, 0], mean, rtol=1e-4)
    np.testing.assert_array_equal(filled[~gap & own], real.image[~gap & own])
    for method in synthesis.METHODS:
        drawing = Drawing("series", adversary=synthesis.Adversary(steps=3, width=8))
        drawn = draw_synthetic(method, ground, {RARE: 400}, drawing, 0)
        share = drawn.valid[:, 1].mean()
        assert drawn.valid[:, 0].all()
        assert abs(share - real.valid[own, 1].mean()) < 0.12
        assert (drawn.image[:, 3:][~drawn.valid[:, [1, 1, 1]]] == 0).all()
        assert drawn.image[:, 3:][drawn.valid[:, [1, 1, 1]]].min() > 90


def test_what_lies_between_series_without_a_common_step_is_no_sample(tmp_path: Path) -> None:
    truth = truth_of(64)
    cube = np.stack([bands_of(truth), bands_of(truth)])
    # Every square of the rare class has one pixel that was seen on the second date alone, three on the first alone.
    second = (truth == RARE) & (np.indices(truth.shape).sum(axis=0) % 16 == 10)
    cube[0][:, second], cube[1][:, (truth == RARE) & ~second] = np.nan, np.nan
    ground = lay(tmp_path, cube, truth, dates=("2020", "2021")).ground()
    drawn = draw_synthetic("interpolate", ground, {RARE: 300}, Drawing("series", neighbours=1000), 0)
    assert 30 < len(drawn) < 270
    assert (drawn.valid.sum(axis=1) == 1).all()
    assert len(drawn.image) == len(drawn.valid) == len(drawn.season)


def test_mosaics_show_samples_that_are_labelled_in_the_middle(grounds: dict[int | None, Ground]) -> None:
    synthetic = sample_set(4000, side=5, share=0.5)
    recipe = quick(CnnRecipe(), chip=16, batch=200, steps=1)
    image, valid, _, labels = Chips(grounds[0].mixed(synthetic), recipe, 0, 0)[0]
    shown = image[:, 0, 0, 0].numpy() >= 900
    assert 70 < shown.sum() < 130
    for chip in np.flatnonzero(shown):
        named = np.argwhere(labels[chip].numpy() != UNLABELLED)
        assert named.tolist() == [[row, col] for row in (2, 7, 12) for col in (2, 7, 12)]
        assert (labels[chip][2::5, 2::5] == RARE).all()
        assert valid[chip, 0, :15, :15].all()
        assert not valid[chip, 0, 15].any()
        for row, col in np.ndindex(3, 3):
            # Every sample lies in its own square, whole.
            assert np.unique(image[chip, :, row * 5 : row * 5 + 5, col * 5 : col * 5 + 5].numpy()).size == 1
    plain = Chips(grounds[0], recipe, 0, 0)[0]
    for mixed, own in zip((image, valid, labels), (plain[0], plain[1], plain[3]), strict=True):
        np.testing.assert_array_equal(mixed.numpy()[~shown], own.numpy()[~shown])


def test_single_pixels_come_as_often_as_their_number_says(grounds: dict[int | None, Ground]) -> None:
    labelled = int(grounds[0].pixels().sum())
    recipe = quick(MlpRecipe(), chip=1, batch=4000, steps=1)
    few = Chips(grounds[0].mixed(sample_set(labelled // 9, share=0.9)), recipe, 0, 0)[0]
    assert abs((few[0][:, 0] >= 900).float().mean() - 0.1) < 0.02
    many = Chips(grounds[0].mixed(sample_set(labelled, share=0.2)), recipe, 0, 0)[0]
    assert abs((many[0][:, 0] >= 900).float().mean() - 0.2) < 0.02
    none = replace(sample_set(50, share=0.9), valid=np.zeros((50, 1, 1, 1), bool))
    image, _, _, labels = Chips(grounds[0].mixed(none), recipe, 0, 0)[0]
    assert (labels[image[:, 0] >= 900] == UNLABELLED).all()


def test_forests_read_the_middles_of_samples_as_further_rows(grounds: dict[int | None, Ground]) -> None:
    recipe = ForestRecipe(windows=(3, 5))
    # What lies around the middle differs, so that windows elsewhere would see something else.
    image = np.random.default_rng(0).normal(120, 10, (40, 3, 9, 9)).astype(np.float32)
    synthetic = replace(sample_set(40, side=9), image=image)
    features = features_of(grounds[0], recipe)
    counts = grounds[0].cells
    rng = np.random.default_rng
    plain, labels = features.training(grounds[0], counts, rng(0))
    mixed, more = features.training(grounds[0].mixed(synthetic), counts, rng(0))
    np.testing.assert_array_equal(mixed[: len(plain)], plain)
    np.testing.assert_array_equal(more, np.append(labels, np.full(40, RARE)))
    expected = features(synthetic.image, synthetic.valid.astype(np.float32))[:, 4, 4]
    np.testing.assert_allclose(mixed[len(plain) :], expected, rtol=1e-5)
    half, _ = features.training(grounds[0].mixed(synthetic), counts // 2, rng(0))
    assert len(half) == (counts // 2).sum() + round(40 * (counts // 2).sum() / counts.sum())


def test_answers_are_held_to_the_shares_of_labels_or_of_labels_and_samples(
    laid: Laid, grounds: dict[int | None, Ground]
) -> None:
    real = grounds[0].pixels()
    synthetic = sample_set(int(real.sum()))
    recipe = ForestRecipe(trees=2, windows=(), leaf=(5,))
    by_labels = fit_forest(grounds[0].mixed(synthetic), None, recipe, laid.task("rf"))
    both = real + np.array([0, 0, len(synthetic)])
    expected = np.log(real / real.sum()) - np.log(both / both.sum())
    np.testing.assert_allclose(by_labels.correction, expected, rtol=1e-5)
    drawn = grounds[0].mixed(replace(synthetic, prior="drawn"))
    np.testing.assert_array_equal(drawn.pixels(), both)
    np.testing.assert_array_equal(drawn.mixed(None).pixels(), real)
    assert not fit_forest(drawn, None, recipe, laid.task("rf")).correction.any()
    machine = fit_vectors(
        grounds[0].mixed(synthetic), None, train.VectorRecipe(pixels=100, windows=(), cost=(1.0,), gamma=(0.25,)),
        laid.task("svm"),
    )  # fmt: skip
    np.testing.assert_allclose(machine.classifier.correction.numpy().ravel(), expected, rtol=1e-5)


def test_a_model_that_looks_farther_than_samples_are_wide_is_left_out(grounds: dict[int | None, Ground]) -> None:
    recipes = {"rf": ForestRecipe(windows=(3, 5)), "mlp": MlpRecipe(), "unet": UnetRecipe(depth=2),
               "cnn": CnnRecipe(chip=8, dilations=(1, 2, 2))}  # fmt: skip
    assert list(left_out(recipes, 1, 1)) == ["rf", "unet", "cnn"]
    wide = left_out(recipes, 15, 1)
    assert list(wide) == ["unet", "cnn"]
    assert "it looks at 11 x 11 pixels, its chips are 8 wide" in wide["cnn"]
    with pytest.raises(SettingError, match=r"\(unet: it looks at \d+ x \d+ pixels, the samples are 15 wide\)"):
        left_out({"unet": UnetRecipe(depth=2)}, 15, 1)
    synthetic = sample_set(side=15)
    assert mixed_for("unet", recipes["unet"], grounds[0], synthetic).synthetic is None
    assert mixed_for("cnn", recipes["cnn"], grounds[0], synthetic).synthetic is None
    for name, side in (("rf", 5), ("mlp", 1)):
        found = mixed_for(name, recipes[name], grounds[0], synthetic).synthetic
        assert found is not None
        assert found.side == side
    assert grounds[0].synthetic is None


def test_training_learns_from_the_samples_and_says_so(
    single: Laid, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    fed: dict[str, Synthetic | None] = {}

    def fit(name: str, ground: Ground, *rest: Any) -> Any:
        fed[name] = ground.synthetic
        return plain(name, ground, *rest)

    plain = classifiers.fit
    monkeypatch.setattr(classifiers, "fit", fit)
    out = augmented(single, tmp_path / "synthetic", most=50)
    config = train.Config(
        models=("rf", "cnn"), model="rf", rf=ForestRecipe(trees=3, windows=(), leaf=(5,)),
        cnn=quick(CnnRecipe(width=4, dilations=(1,)), epochs=1, steps=1),
    )  # fmt: skip
    model = tmp_path / "model"
    model.mkdir()
    with caplog.at_level(logging.WARNING):
        train.run(single.root / "tiles", single.root / "samples", single.root / "bands", out, model, config)
    assert "cnn is trained without the synthetic samples: it looks at 3 x 3 pixels" in caplog.text
    assert fed["cnn"] is None
    assert fed["rf"] is not None
    np.testing.assert_array_equal(fed["rf"].image, np.load(out / "fold-0.npz")["image"])
    told = read_card(model / "rf").metrics["synthetic"]
    assert (told["method"], told["without"]) == ("oversample", "")
    assert told["classes"][0]["drawn"] == 50
    assert "looks at 3 x 3" in read_card(model / "cnn").metrics["synthetic"]["without"]
    with pytest.raises(SettingError, match=r"No model of train\.models can learn"):
        train.run(single.root / "tiles", single.root / "samples", single.root / "bands", out, tmp_path,
                  train.Config(models=("cnn",)))  # fmt: skip


def test_the_stage_compares_and_takes_the_best(
    single: Laid, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(judge, "recipe_of", lambda *_: ForestRecipe(trees=3, windows=(), leaf=(5,)))
    with caplog.at_level(logging.INFO):
        out = augmented(single, tmp_path / "out", method="best", seeds=2)
    about = read_about(out)
    rows = [(row["method"], row["prior"]) for row in about["table"]]
    assert rows == [("none", "labels"), *((name, of) for name in synthesis.METHODS for of in ("labels", "drawn"))]
    assert all(len(row["seeds"]) == 2 for row in about["table"])
    # The classes lie ten deviations apart: nothing is left to gain.
    assert about["table"][0]["rare_f1"] > 0.95
    assert about["recommended"]["labels"] == about["method"] == "none"
    assert set(read_synthetic(out).values()) == {0}
    assert [path.name for path in out.iterdir()] == ["synthetic.json"]
    assert "rare F1" in caplog.text
    json.loads((out / "synthetic.json").read_text(), parse_constant=pytest.fail)


def test_the_judge_counts_held_out_pixels_under_either_prior(
    laid: Laid, grounds: dict[int | None, Ground], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(judge, "recipe_of", lambda *_: ForestRecipe(trees=3, windows=(), leaf=(400,)))
    held = judge.held_for(grounds[0], "rf", 1)
    # So many copies of a sample in the middle of class 0 that it would be mapped as the rare class, if they counted.
    synthetic = replace(sample_set(20_000), image=np.full((20_000, 3, 1, 1), 100, np.float32))
    found = judge.judged(grounds[0], held, synthetic, judge.Trial("rf", 1, 0, tmp_path))
    first = held.reference == 0
    assert (found["drawn"][first] == RARE).mean() > 0.3
    assert (found["labels"][first] == RARE).mean() < 0.1


def test_the_simplest_method_within_an_error_of_the_best_is_recommended() -> None:
    def table(**scores: tuple[float, ...]) -> list[dict[str, Any]]:
        return [
            {"method": name, "prior": "labels", "rare_f1": float(np.mean(seeds)), "seeds": seeds,
             "spread": float(np.std(seeds, ddof=1))}
            for name, seeds in scores.items()
        ]  # fmt: skip

    clear = table(none=(0.5, 0.5, 0.5), oversample=(0.6, 0.61, 0.62), gan=(0.7, 0.71, 0.72))
    assert benefit.recommended(clear, "labels") == "gan"
    other = [{**row, "prior": "drawn"} if row["method"] == "oversample" else row for row in clear]
    assert benefit.recommended(other, "drawn") == "oversample"
    assert benefit.recommended(other, "labels") == "gan"
    assert benefit.recommended(clear, "drawn") == "none"
    noisy = table(none=(0.5, 0.5, 0.5), oversample=(0.4, 0.5, 0.7), gan=(0.3, 0.3, 0.3))
    assert benefit.recommended(noisy, "labels") == "none"
    middle = table(none=(0.5, 0.5, 0.5), oversample=(0.69, 0.69, 0.69), gan=(0.68, 0.7, 0.72))
    assert benefit.recommended(middle, "labels") == "oversample"


def test_a_row_of_the_table_is_the_mean_over_seeds_of_the_rare_classes_f1() -> None:
    one = np.array([[8, 2, 0], [2, 6, 0], [0, 0, 0]])
    two = np.array([[10, 0, 0], [0, 8, 0], [0, 0, 0]])
    row = benefit.row("gan", "labels", [one, two], [1, 2])
    assert row["seeds"] == pytest.approx([0.75, 1.0])
    assert row["rare_f1"] == pytest.approx(0.875)
    assert row["classes"] == [pytest.approx(0.875), None]
    assert row["overall_accuracy"] == pytest.approx((14 / 18 + 1) / 2)
    assert benefit.row("gan", "labels", [one], [2])["rare_f1"] is None


def test_the_report_tells_counts_table_and_verdict() -> None:
    row = {"method": "gan", "prior": "labels", "rare_f1": 0.512, "seeds": [0.5, 0.524], "macro_f1": 0.6,
           "overall_accuracy": 0.7}  # fmt: skip
    about = {
        "method": "gan", "classes": [{"name": "a<b", "drawn": 100, "pixels": 50, "patches": 12, "blocks": 4}],
        "table": [row], "judge": "rf", "seeds": 2, "too_rare": "", "without": "",
        "recommended": {"labels": "none", "drawn": "gan"},
    }  # fmt: skip
    html = rare_samples(about)
    for words in (
        "a&lt;b",
        "<td>12</td>",
        "51.2",
        "50.0 52.4",
        "learnt from synthetic samples",
        "no samples where shares are held to real labels and by a g",
    ):
        assert words in html
    assert "without the synthetic samples: it looks far." in rare_samples({**about, "without": "it looks far"})
    assert "did not help" in rare_samples({**about, "method": "none"})
    assert rare_samples({}) == rare_samples(None) == ""


@pytest.mark.parametrize(
    "changes", [{"method": "luck"}, {"side": 4}, {"rare": ()}, {"below": 0.0}, {"cap": -1}, {"gan": {"loss": "luck"}}]
)
def test_settings_out_of_range_are_refused(changes: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        Config(**changes)


def test_a_class_that_there_is_none_of_is_refused(single: Laid, tmp_path: Path) -> None:
    with pytest.raises(SettingError, match=r"augment\.rare names water, which is none of the classes class 0, class 1"):
        augmented(single, tmp_path / "out", rare=("water",))


@pytest.mark.parametrize(
    ("kind", "message"),
    [("is_table", "augment.kind is chip, but the area is a table"), ("cells", "collection of chips")],
)
def test_areas_without_ground_are_refused(
    single: Laid, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str, message: str
) -> None:
    monkeypatch.setattr(Tiles, kind, property(lambda _: True, lambda *_: None), raising=False)
    with pytest.raises(SettingError, match=message):
        augmented(single, tmp_path / "out", kind="chip")


def test_no_class_is_rare_where_all_are_frequent(single: Laid, tmp_path: Path) -> None:
    out = augmented(single, tmp_path / "out", below=0.001)
    assert set(read_synthetic(out).values()) == {0}
    assert read_about(out) == {}


def test_every_field_is_described() -> None:
    assert all(field.description for kind in (Config, GanRecipe) for field in kind.model_fields.values())
    assert augment.RESUMES
