"""Networks for series learn what lies in the order of events, whatever is missing, and map any year."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from stages import train
from stages.errors import ModelError
from stages.formats.samples import Role
from stages.formats.tiles import Tiles
from stages.formats.weights import ModelCard, read_card, read_choice
from stages.inference.fit import check_fit
from stages.inference.predictor import load
from stages.training import augmentation, chips
from stages.training.chips import Chips
from stages.training.held import gather
from stages.training.recipes import (
    ConvLstmRecipe,
    EnsembleRecipe,
    ForestRecipe,
    LstmRecipe,
    LtaeRecipe,
    MlpRecipe,
    SeriesRecipe,
    TempCnnRecipe,
    VectorRecipe,
)
from tests.networks import card_of
from tests.training_worlds import Laid, lay, quick
from tests.worlds import patchwork

DATES = tuple(f"2018-{month:02}-15" for month in range(1, 9))
PIXEL = "lstm", "tempcnn", "ltae"
FOREST = ForestRecipe(trees=20, windows=(), kind="extra", features=0.5, differences=((1,),))


def order_of_events(shape: tuple[int, int], seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Two classes: the same two peaks in each band, one band first in the one class and last in the other."""
    truth = patchwork(shape, 2, 8, seed)
    rng = np.random.default_rng(seed)
    early, late = rng.integers(0, 3, shape), rng.integers(5, 8, shape)
    first, second = np.where(truth == 0, early, late), np.where(truth == 0, late, early)
    steps = np.arange(8)[:, None, None]
    cube = np.stack([steps == first, steps == second], axis=1) * 3.0 + rng.normal(0, 0.3, (8, 2, *shape))
    return 100.0 + 10.0 * cube, truth


def config(laid: Laid, **changes: Any) -> train.Config:
    common = {"steps": 30, "lr": 0.01, "chip": 1, "batch": 64, "jitter": 2.0, "drop": 0.05}
    values = {
        "classes": laid.classes, "models": PIXEL, "rf": FOREST,
        "svm": VectorRecipe(windows=(), pixels=300, cost=(1.0,), gamma=(1.0,), differences=((2,),)),
        "mlp": quick(MlpRecipe(width=16, layers=3, differences=((1,), (1, 1))), epochs=2, **common),
        "lstm": quick(LstmRecipe(hidden=16), epochs=3, **common),
        "tempcnn": quick(TempCnnRecipe(filters=16, dense=32, dropout=0.2, differences=((3,),)), epochs=4, **common),
        "ltae": quick(LtaeRecipe(n_head=4, d_model=32), epochs=4, **common),
        "convlstm": quick(ConvLstmRecipe(hidden=8), epochs=1, steps=6, lr=0.01, chip=16, batch=4),
        "ensemble": EnsembleRecipe(of=("rf", "lstm")),
    }  # fmt: skip
    return train.Config(**{**values, **changes})  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def laid(tmp_path_factory: pytest.TempPathFactory) -> Laid:
    torch.set_num_threads(1)
    cube, truth = order_of_events((64, 64))
    missing = np.random.default_rng(1).random((8, 1, 64, 64)) < 0.05
    cube = np.where(missing, np.nan, cube)
    cube[:, :, 3, 5] = np.nan
    return lay(tmp_path_factory.mktemp("order"), cube, truth, DATES)


@pytest.fixture(scope="module")
def trained(laid: Laid, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return laid.train(
        tmp_path_factory.mktemp("model"), config(laid, models=("rf", "svm", "mlp", *PIXEL, "convlstm", "ensemble"))
    )


def test_the_order_of_events_is_learnt(trained: Path) -> None:
    scores = {name: found["overall_accuracy"] for name, found in read_choice(trained)["candidates"].items()}
    assert min(scores[name] for name in PIXEL) > 0.9, scores


def test_sorted_values_do_not_tell_the_classes_apart(tmp_path: Path) -> None:
    cube, truth = order_of_events((64, 64))
    laid = lay(tmp_path / "sorted", np.sort(cube, axis=0), truth, DATES)
    model = laid.train(tmp_path / "model", config(laid, models=("rf",)))
    assert read_choice(model)["candidates"]["rf"]["overall_accuracy"] < 0.6


@pytest.mark.parametrize("name", ["rf", "svm", "mlp", *PIXEL, "convlstm", "ensemble"])
def test_the_shipped_graph_says_what_the_fit_said(trained: Path, laid: Laid, name: str) -> None:
    card, split = read_card(trained / name), laid.split()
    held = gather(split, Role.VALIDATION, card.margin)
    told = read_choice(trained)["candidates"][name]
    right = pixels = 0
    predictor = load(trained / name)
    for image, valid, days, labels, at in zip(held.image, held.valid, held.days, held.labels, held.at, strict=True):
        likely = predictor.probabilities(image[None], valid[None] > 0, days)[0]
        right += int((likely.argmax(axis=0) == labels)[at].sum())
        pixels += int(at.sum())
    assert right / pixels == pytest.approx(told["overall_accuracy"], abs=2e-3)
    assert pixels == told["pixels"]


def test_a_pixel_that_was_never_clear_is_not_mapped(trained: Path, laid: Laid) -> None:
    tiles = Tiles(laid.root / "tiles")
    image, valid = tiles.read_channels(tiles.grid.whole)
    found = load(trained / "lstm").probabilities(image[None], valid[None], tiles.days)[0]
    assert not valid[:, 3, 5].any()
    assert not found[:, 3, 5].any()
    np.testing.assert_allclose(found.sum(axis=0)[valid.any(axis=0)], 1.0, atol=1e-5)


def test_few_pixels_at_a_time_or_many_are_the_same(trained: Path, laid: Laid, monkeypatch: pytest.MonkeyPatch) -> None:
    tiles = Tiles(laid.root / "tiles")
    image, valid = tiles.read_channels(tiles.grid.whole)
    model = load(trained / "tempcnn")
    many = model.probabilities(image[None], valid[None], tiles.days)
    monkeypatch.setattr(model.backend, "pixels", 100)
    np.testing.assert_allclose(model.probabilities(image[None], valid[None], tiles.days), many, atol=1e-5)


def test_chips_of_one_pixel_are_labelled_pixels_of_the_training(laid: Laid) -> None:
    ground = laid.ground()
    image, valid, days, labels = Chips(ground, quick(LstmRecipe(), chip=1, batch=500, rare=0.5), 0, 0)[0]
    assert (image.shape, valid.shape, days.shape, labels.shape) == (
        (500, 16, 1, 1), (500, 8, 1, 1), (500, 8), (500, 1, 1),
    )  # fmt: skip
    there = {(*series, label) for series, label in zip(
        ground.image.transpose(0, 2, 3, 1).reshape(-1, 16)[:, :3].round(4).tolist(), ground.labels.ravel(), strict=True,
    ) for series in [tuple(series)] if label < 2}  # fmt: skip
    drawn = zip(image[:, :3, 0, 0].numpy().round(4).tolist(), labels.flatten().tolist(), strict=True)
    assert all((*series, label) in there for series, label in drawn)
    assert not image[(valid == 0).repeat_interleave(2, dim=1)].any()


def test_no_pixel_comes_again_before_all_others_came(laid: Laid) -> None:
    order = chips._rounds(5, 12, (0, 1))
    assert sorted(order[:5]) == sorted(order[5:10]) == [0, 1, 2, 3, 4]
    assert len(order) == 12
    assert len(set(chips._rounds(100, 60, (0, 1)))) == 60
    assert not np.array_equal(order, chips._rounds(5, 12, (0, 2)))
    ground = laid.ground()
    count = int(ground.pixels().sum())
    recipe = quick(LstmRecipe(), chip=1, batch=-(-count // 2), steps=2, rare=0.0)
    drawn = torch.cat([Chips(ground, recipe, 0, 0)[step][3].flatten() for step in range(2)])[:count]
    assert torch.bincount(drawn).tolist() == ground.pixels().tolist()


def test_normalisation_is_by_band_for_series_and_by_channel_for_tables(laid: Laid) -> None:
    split = laid.split()
    by_band, by_channel = (split.normalise(4.0, by_band=flag) for flag in (True, False))
    mean = by_band.mean.flatten().reshape(8, 2)
    assert torch.equal(mean, mean[:1].expand(8, 2))
    assert not torch.equal(by_channel.mean, by_band.mean)
    image, valid = split.read(split.tiles.grid.whole)
    seen = split.samples.training_mask(0, split.tiles.grid.whole)
    values = image[::2][valid & seen]
    assert by_band.mean.flatten()[0].item() == pytest.approx(values.mean(), rel=1e-4)
    assert by_band.deviation.flatten()[0].item() == pytest.approx(values.std(), rel=1e-3)


def series_card(**changes: Any) -> ModelCard:
    channels = tuple(f"{band}@{date}" for date in DATES for band in ("b0", "b1"))
    days = tuple(30.4 * step + 14 for step in range(8))
    return replace(card_of(2, 0, channels=channels, dates=DATES, days=days), **changes)


def cube_of(folder: Path, dates: tuple[str, ...], bands: tuple[str, ...] = ("b0", "b1")) -> Tiles:
    from stages.geo.grid import Grid

    folder.mkdir()
    return Tiles.create(folder, Grid("EPSG:32633", 10.0, 5e5, 5.4e6, 16, 16, 16), bands, dates, "digital numbers")


def test_the_same_steps_of_another_year_fit_and_others_do_not(tmp_path: Path) -> None:
    next_year = tuple(date.replace("2018", "2020") for date in DATES)
    check_fit(series_card(), cube_of(tmp_path / "next", next_year))
    with pytest.raises(ModelError, match=r"reads 8 dates \(2018-01-15 to 2018-08-15\), but the tiles hold 7"):
        check_fit(series_card(), cube_of(tmp_path / "short", DATES[:-1]))
    later = tuple(f"2018-{month:02}-15" for month in range(5, 13))
    with pytest.raises(ModelError, match="begin at the same time of the year"):
        check_fit(series_card(), cube_of(tmp_path / "later", later))
    with pytest.raises(ModelError, match="b1 missing"):
        check_fit(series_card(), cube_of(tmp_path / "bands", DATES, ("b0", "b2")))
    with pytest.raises(ModelError, match="in the order b0, b1"):
        check_fit(series_card(), cube_of(tmp_path / "order", DATES, ("b1", "b0")))


def channels(steps: int, bands: int, deviation: float) -> augmentation.Channels:
    order = torch.arange(steps * bands)
    return augmentation.Channels(order // bands, order % bands, torch.full((1, len(order), 1, 1), deviation))


def vary(series: tuple[torch.Tensor, ...], bands: int = 2, **settings: float) -> tuple[torch.Tensor, torch.Tensor]:
    recipe = SeriesRecipe(**{"drop": 0.0, "jitter": 0.0, **settings})  # type: ignore[arg-type]
    of = channels(series[1].shape[1], bands, 0.02)
    return augmentation.vary_series(series, recipe, of, torch.Generator().manual_seed(0))  # type: ignore[arg-type]


def test_series_vary_in_value_alike_at_all_dates_and_lose_dates() -> None:
    still = torch.full((400, 6, 1, 1), 0.3), torch.ones(400, 3, 1, 1), torch.zeros(400, 3)
    image, valid = vary(still, drop=0.3, gain=0.1, offset=0.5)
    assert valid.mean().item() == pytest.approx(1 - 0.3 * 2 / 3, abs=0.04)  # one date is always kept
    assert valid.amax(dim=1).min() == 1
    assert image.std().item() == pytest.approx(np.hypot(0.03, 0.01), rel=0.1)
    by_date = image.reshape(400, 3, 2)
    assert torch.equal(by_date, by_date[:, :1].expand(400, 3, 2))
    assert not torch.equal(by_date[..., 0], by_date[..., 1])
    assert all(torch.equal(a, b) for a, b in zip(vary(still), still[:2], strict=True))


def test_series_move_along_time_by_interpolation_where_the_neighbour_is_known() -> None:
    days = torch.tensor([0.0, 10.0, 20.0, 40.0]).expand(400, 4)
    both = torch.stack([days * 2.0, days * -2.0], dim=2)
    image = both.flatten(1)[:, :, None, None]
    apart = vary((image, torch.ones(400, 4, 1, 1), days), jitter=4.0)[0][:, 2, 0, 0] / 2.0 - 10.0
    assert apart.abs().max().item() == pytest.approx(4.0, abs=0.1)
    assert apart.mean().item() == pytest.approx(0.0, abs=0.4)
    shown = torch.ones(400, 4, 1, 1)
    shown[:, 1] = 0.0
    moved = vary((image, shown, days), jitter=4.0)[0].reshape(400, 4, 2)
    torch.testing.assert_close(moved[..., 0], -moved[..., 1])
    later = apart > 0
    # The last date has none after it, the first and the third none known before or after, the second is missing.
    torch.testing.assert_close(moved[:, 3, 0], torch.where(later, 80.0, 80.0 + 2.0 * apart))
    torch.testing.assert_close(moved[:, 2, 0], torch.where(later, 40.0 + 2.0 * apart, 40.0))
    torch.testing.assert_close(moved[:, :2], both[:, :2])
    far = vary((image, torch.ones(400, 4, 1, 1), days), jitter=1000.0)[0].reshape(400, 4, 2)[..., 0]
    assert ((far.diff(dim=1) >= 0) & (far[:, 1:] <= 80.0)).all()  # never beyond the neighbour
    assert far[:, 1].min() >= 0.0
    assert far[:, 1].max() <= 40.0
