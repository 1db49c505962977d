"""Features are chosen from the training labels alone, by every method, and found again in other years."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from stages import select, tile, train
from stages.delivery.chosen_features import chosen_features
from stages.errors import ArtifactError, LabelError, LeakError, SettingError
from stages.formats.bands import FILE, Feature, Season, read_about, read_bands, read_season, write_bands
from stages.formats.chunks import Chunks
from stages.formats.samples import Part, Role, Samples
from stages.formats.tiles import STORE, Tiles
from stages.formats.weights import read_card
from stages.geo import warp
from stages.geo.grid import Grid, Window
from stages.inference.fit import check_fit
from stages.inference.predictor import load
from stages.inference.stream import read_padded
from stages.select import Config, run
from stages.training.features import scores as feature_scores
from stages.training.features import search as feature_search
from stages.training.features.choosing import SCALE, Choosing
from stages.training.features.scores import Gaussians, Pixels, Scorer, draw, fold_blocks
from stages.training.ground import Split
from stages.training.loop import build
from stages.training.recipes import ForestRecipe, LstmRecipe, MlpRecipe
from tests.label_worlds import LabelWorld
from tests.networks import card_of
from tests.rasters import noise
from tests.series_worlds import dated, tiled
from tests.training_worlds import Laid, lay, quick
from tests.worlds import patchwork

CHOOSING = ("lasso", "mutual", "greedy", "dqn", "exhaustive")
#: Bands of `cube` that tell the classes apart.
TELLING = ("b2", "b5")


def cube(truth: np.ndarray, bands: int = 8, seed: int = 0) -> np.ndarray:
    """Noise but for two bands: one tells class 0 from the others, one class 2; float32 (band, y, x)."""
    found = np.random.default_rng(seed).normal(0.0, 1.0, (bands, *truth.shape))
    found[2] += 3.0 * (truth == 0)
    found[5] += 3.0 * (truth == 2)
    return found.astype(np.float32)


@pytest.fixture(scope="module")
def laid(tmp_path_factory: pytest.TempPathFactory) -> Laid:
    truth = patchwork((96, 96), 3, 8, 0)
    return lay(tmp_path_factory.mktemp("select"), cube(truth), truth, folds=3)


def chosen(laid: Laid, out: Path, **settings: Any) -> Path:
    """Run the stage with few pixels."""
    values = {"method": "greedy", "k": 2, "pixels": 600, "folds": 3, "episodes": 40, "compare": False}
    out.mkdir(parents=True, exist_ok=True)
    run(laid.root / "tiles", laid.root / "samples", out, Config(**{**values, **settings}))
    return out


def tried(folder: Path) -> list[dict[str, dict[str, Any]]]:
    """What every method came to, fold by fold."""
    return [{row["method"]: row for row in rows} for rows in json.loads((folder / FILE).read_text())["tried"]]


# --- the stage -------------------------------------------------------------------------------------------------------


def test_none_takes_every_channel(tmp_path: Path) -> None:
    world = LabelWorld.build(tmp_path)
    samples = world.label(world.raster(world.truth))
    run(tmp_path / "tiles", samples.folder, tmp_path, Config())
    assert read_bands(tmp_path) == read_bands(tmp_path, 0) == ("red", "nir")
    assert read_about(tmp_path) == {}
    with pytest.raises(ArtifactError, match="says of no features that they were chosen"):
        read_season(tmp_path)


def test_every_method_finds_the_bands_that_tell_the_classes(laid: Laid, tmp_path: Path) -> None:
    folder = chosen(laid, tmp_path, method="dqn", compare=True)
    assert read_bands(folder) == TELLING
    folds = tried(folder)
    assert len(folds) == 4  # three folds and the model of all labels
    for rows in folds:
        assert list(rows) == ["all", "lasso", "mutual", "greedy", "random", "exhaustive", "dqn"]
        assert {name: tuple(rows[name]["channels"]) for name in CHOOSING} == dict.fromkeys(CHOOSING, TELLING)
        assert rows["random"]["inner"] < rows["dqn"]["inner"] - 0.1
        assert rows["random"]["spread"][0] > 0
        numbers = [rows[name]["evaluations"] for name in ("all", "lasso", "mutual", "greedy", "exhaustive")]
        assert numbers == [1, 1, 1, 8 + 7, 28]
    assert [rows["dqn"]["validation"] is None for rows in folds] == [False, False, False, True]
    table = {row["method"]: row for row in read_about(folder)["table"]}
    mean = np.mean([rows["greedy"]["validation"] for rows in folds[:3]])
    assert table["greedy"]["validation"] == pytest.approx(mean)


def test_the_method_of_the_settings_is_the_one_that_is_read(laid: Laid, tmp_path: Path) -> None:
    folder = chosen(laid, tmp_path, method="random", compare=True, seed=3)
    rows = tried(folder)
    assert read_bands(folder) == tuple(rows[-1]["random"]["channels"]) != TELLING
    assert [read_bands(folder, fold) for fold in range(3)] == [tuple(one["random"]["channels"]) for one in rows[:3]]


def test_held_out_blocks_change_nothing(laid: Laid, tmp_path: Path) -> None:
    before = tried(chosen(laid, tmp_path / "before", compare=True, episodes=20))
    shutil.copytree(laid.root, tmp_path / "world")
    samples, tiles = Samples(laid.root / "samples"), Tiles(tmp_path / "world" / "tiles")
    window = tiles.grid.whole
    held = samples.part(0, window) != Part.TRAIN
    image, valid = tiles.read(window)
    target = samples.read("target", window)
    # In held-out blocks another band gives every label away, and the labels are others.
    image[0, 0][held] = 50.0 * target[held]
    tiles.write(window, image, valid)
    Samples.write(tmp_path / "world" / "samples", window, target=np.where(held, 2 - target, target).astype(np.uint8))
    folder = chosen(
        Laid(tmp_path / "world", laid.classes), tmp_path / "after", method="mutual", compare=True, episodes=20
    )
    after = tried(folder)
    for name, row in before[0].items():
        assert (after[0][name]["channels"], after[0][name]["inner"]) == (row["channels"], row["inner"])
        assert after[0][name]["validation"] != row["validation"]
    # Those blocks train in other folds, where they do change what is found.
    assert after[1]["mutual"]["channels"] != before[1]["mutual"]["channels"]
    assert [list(read_bands(folder, fold)) for fold in (0, 1, None)] == [
        after[i]["mutual"]["channels"] for i in (0, 1, 3)
    ]
    assert read_bands(folder, 0) != read_bands(folder, 1)


def test_a_leak_in_the_samples_is_seen(laid: Laid, tmp_path: Path) -> None:
    shutil.copytree(laid.root, tmp_path / "world")
    samples, window = Samples(laid.root / "samples"), Window(0, 0, 96, 96)
    roles = np.stack([samples.roles(fold, window) for fold in range(3)])
    roles[0][samples.part(0, window) == Part.TEST] = Role.TRAIN
    Samples.write(tmp_path / "world" / "samples", window, role=roles)
    with pytest.raises(LeakError, match="training labels lie in held-out blocks"):
        draw(Laid(tmp_path / "world", laid.classes).split(0), Role.TRAIN, 500, seed=0)


def test_training_pixels_come_from_training_blocks(laid: Laid) -> None:
    split = laid.split(1)
    window = split.tiles.grid.whole
    parts = split.samples.parts[1]
    for role, part in ((Role.TRAIN, Part.TRAIN), (Role.VALIDATION, Part.VALIDATION)):
        pixels = draw(split, role, 500, seed=4)
        assert set(parts[pixels.blocks]) == {part}
        total = np.bincount(split.samples.read("target", window)[split.samples.roles(1, window) == role], minlength=3)
        drawn = np.bincount(pixels.labels, minlength=3)
        expected = np.minimum(total, np.maximum(500 * total / total.sum(), feature_scores.LEAST))
        assert np.abs(drawn / expected - 1).max() < 0.25


def test_inner_folds_hold_whole_blocks(laid: Laid) -> None:
    pixels = draw(laid.split(0), Role.TRAIN, 500, seed=0)
    folds = fold_blocks(pixels, 3, 4, seed=0)
    assert set(folds) == {0, 1, 2, 3}
    for block in np.unique(pixels.blocks):
        assert len(set(folds[pixels.blocks == block])) == 1
    alone = pixels.of(pixels.blocks == pixels.blocks[0])
    with pytest.raises(LabelError, match="lie in 1 ground block, but choosing features needs at least 2"):
        fold_blocks(alone, 3, 4, seed=0)


def test_a_killed_run_goes_on_with_the_folds_it_finished(
    laid: Laid, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole, choose, seen = chosen(laid, tmp_path / "whole"), select.choose, []

    def counted(job: select.Job, fold: int | None) -> list[select.Row]:
        seen.append(fold)
        if len(seen) == 3:
            raise KeyboardInterrupt
        return choose(job, fold)

    monkeypatch.setattr(select, "choose", counted)
    with pytest.raises(KeyboardInterrupt):
        chosen(laid, tmp_path / "killed")
    folder = chosen(laid, tmp_path / "killed")
    assert seen == [0, 1, 2, 2, None]
    assert [read_bands(folder, fold) for fold in (0, 1, 2, None)] == [
        read_bands(whole, fold) for fold in (0, 1, 2, None)
    ]
    assert [path.name for path in folder.iterdir()] == [FILE]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"k": 9}, r"select.k is 9, but there are 8 to choose from \(8 bands, chosen by the feature\); set it to at "
                   "most 8"),
        ({"k": 2, "unit": "step"}, "select.k is 2, but there are 1 to choose from"),
        ({"cost": {"B8": 2.0}}, "select.cost names B8, but the tiles hold the bands b0, b1"),
        ({"cost": {"b1": 0.0}}, "select.cost.b1 is 0; expected a number above 0"),
        ({"method": "exhaustive", "most": 20}, "would score 28 sets of 2 out of 8, but select.most is 20"),
    ],
)  # fmt: skip
def test_what_cannot_be_chosen_is_refused(laid: Laid, tmp_path: Path, settings: dict[str, Any], message: str) -> None:
    with pytest.raises(SettingError, match=message):
        chosen(laid, tmp_path, **settings)
    assert not (tmp_path / FILE).exists()


def test_all_features_may_be_chosen(laid: Laid, tmp_path: Path) -> None:
    assert read_bands(chosen(laid, tmp_path, method="lasso", k=8)) == laid.split().tiles.channels


# --- seasons ---------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def seasonal(tmp_path_factory: pytest.TempPathFactory) -> Laid:
    """Three dates of three bands; b2 tells the classes on the second, b0 a little on all."""
    truth = patchwork((64, 64), 2, 8, 1)
    series = np.random.default_rng(5).normal(0.0, 1.0, (3, 3, *truth.shape)).astype(np.float32)
    series[1, 2] += 4.0 * truth
    series[:, 0] += 1.0 * truth
    return lay(tmp_path_factory.mktemp("seasonal"), series, truth, ("2024-03-01", "2024-06-10", "2024-09-01"))


def test_a_feature_is_a_band_at_a_step_of_any_season(seasonal: Laid, tmp_path: Path) -> None:
    folder = chosen(seasonal, tmp_path, k=1)
    assert read_bands(folder) == read_bands(folder, 0) == ("b2@2024-06-10",)
    assert read_season(folder) == read_season(folder / FILE) == Season(3, (Feature("b2", 1, 161.0),))


@pytest.mark.parametrize(
    ("unit", "expected"),
    [
        ("band", ["b2@2024-03-01", "b2@2024-06-10", "b2@2024-09-01"]),
        ("step", ["b0@2024-06-10", "b1@2024-06-10", "b2@2024-06-10"]),
    ],
)  # fmt: skip
def test_bands_and_steps_are_chosen_whole(seasonal: Laid, tmp_path: Path, unit: str, expected: list[str]) -> None:
    folder = chosen(seasonal, tmp_path, k=1, unit=unit)
    assert read_bands(folder) == tuple(expected)
    split = Split(Tiles(seasonal.root / "tiles"), Samples(seasonal.root / "samples"), read_bands(folder), 0)
    if unit == "band":
        assert split.bands == 1
    else:
        with pytest.raises(SettingError, match=r"choose whole bands .*such as rf, svm, mlp and cnn"):
            _ = split.bands


def test_cost_weighs_against_the_score(seasonal: Laid, tmp_path: Path) -> None:
    assert read_bands(chosen(seasonal, tmp_path / "a", k=1, cost={"b2": 50.0}))[0].startswith("b0@")
    assert read_bands(chosen(seasonal, tmp_path / "b", k=1, cost={"b2@2024-03-01": 50.0})) == ("b2@2024-06-10",)


def test_only_the_steps_of_the_chosen_channels_are_read(seasonal: Laid, monkeypatch: pytest.MonkeyPatch) -> None:
    tiles = Tiles(seasonal.root / "tiles")
    window, places = tiles.grid.whole, [5, 3]
    image, valid = tiles.read_channels(window)
    asked: list[tuple[str, tuple[int, ...]]] = []

    def watched(name: str, dates: range, *more: Any) -> np.ndarray:
        asked.append((name, tuple(dates)))
        return read(name, dates, *more)

    read = tiles._read
    monkeypatch.setattr(tiles, "_read", watched)
    picked, known = tiles.read_picked(window, places)
    assert np.array_equal(picked, image[places])
    assert np.array_equal(known[1], valid[1])
    assert asked == [("cube", (1,)), ("valid", (1,))]
    card = card_of(2, 2, channels=("b0@2024-06-10", "b2@2024-06-10"), dates=tiles.dates, days=tiles.days)
    asked.clear()
    assert np.array_equal(read_padded(tiles, window, 0, card)[0], image[[3, 5]])
    assert {dates for _, dates in asked} == {(1,)}
    assert np.array_equal(tiles.read_picked(window, range(9))[0], image)


def test_of_many_bands_only_the_chunks_of_the_chosen_are_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    grid = Grid("EPSG:32633", 10.0, 0.0, 0.0, 40, 24, 32)
    names = tuple(f"b{i}" for i in range(19))
    values = np.random.default_rng(0).integers(1, 999, (2, 19, *grid.shape)).astype(np.float32)
    stores = {}
    for name in ("ours", "zarr"):
        (tmp_path / name).mkdir()
        stores[name] = Tiles.create(tmp_path / name, grid, names, ("2020", "2021"), "digital numbers")
    for _, _, window in grid.tiles():
        stores["ours"].write(window, values[(..., *window.slices)], np.ones((2, window.height, window.width), bool))
    stores["zarr"]._open()["cube"][:] = values
    files = [{path.relative_to(tiles.folder): path.read_bytes() for path in (tiles.folder / STORE / "cube").rglob("*")
              if path.is_file()} for tiles in stores.values()]  # fmt: skip
    assert files[0] == files[1]
    assert len(files[0]) == 2 * 3 * 2 + 1  # dates, chunks of bands, tiles; and their description
    asked, read = set(), Chunks._chunk

    def watched(self: Chunks, place: tuple[int, ...]) -> Any:
        asked.add(place)
        return read(self, place)

    monkeypatch.setattr(Chunks, "_chunk", watched)
    places, window = [17, 19 + 2, 19 + 5, 19 + 6, 19 + 16], Window(3, 1, 20, 38)
    image, _ = stores["ours"].read_picked(window, places)
    flat = values.reshape(38, *grid.shape)
    assert np.array_equal(image, flat[places][(..., *window.slices)])
    assert {place[:2] for place in asked if len(place) == 4} == {(0, 2), (1, 0), (1, 2)}
    assert np.array_equal(stores["ours"].read(window)[0], values[(..., *window.slices)])
    monkeypatch.setattr(Chunks, "__init__", _through_zarr(Chunks.__init__))
    again = Tiles(tmp_path / "ours")
    assert np.array_equal(again.read_picked(window, places)[0], image)


def _through_zarr(prepare: Any) -> Any:
    """Leave all reading to Zarr, as for a store that is no local folder."""

    def prepared(self: Chunks, array: Any) -> None:
        prepare(self, array)
        self._folder = None

    return prepared


def test_a_pixel_is_mapped_where_a_chosen_step_is_valid(tmp_path: Path) -> None:
    world = LabelWorld.build(tmp_path, (slice(0, 9), slice(0, 5)), dates=("2020-03-01", "2020-06-01"))
    tiles = Tiles(world.root / "tiles")
    _, valid = tiles.read_picked(world.grid.whole, [0])
    assert not valid[:, :9, :5].any()
    assert valid[:, 9:].all()
    assert valid[:, :, 5:].all()


# --- scores ----------------------------------------------------------------------------------------------------------


def pixels_of(values: np.ndarray, labels: np.ndarray, blocks: int = 6) -> Pixels:
    return Pixels(values, labels, np.arange(len(labels)) % blocks)


def accuracy(reference: np.ndarray, mapped: np.ndarray) -> float:
    return float((reference == mapped).mean())


def scorer_of(values: np.ndarray, labels: np.ndarray, costs: np.ndarray | None = None) -> Scorer:
    pixels = pixels_of(values, labels)
    units = [np.array([i]) for i in range(len(values))]
    weights = np.ones(len(values)) if costs is None else costs
    return Scorer(pixels, pixels.blocks % 3, int(labels.max()) + 1, accuracy, groups=units, costs=weights)


def test_with_one_covariance_the_classifier_is_the_linear_discriminant(monkeypatch: pytest.MonkeyPatch) -> None:
    from sklearn.discriminant_analysis import LinearDiscriminantAnalysis

    for name in ("OWN", "ROUND", "FLOOR"):
        monkeypatch.setattr(feature_scores, name, 0.0)
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 3, 400)
    values = rng.normal(size=(5, 400)) + np.stack([labels == 0, labels == 1, labels * 0, labels, labels]) * 0.7
    picked = np.array([0, 1, 4])
    mapped = Gaussians.of(pixels_of(values, labels), 3).classify(values, picked)
    assert np.array_equal(
        mapped, LinearDiscriminantAnalysis("lsqr").fit(values[picked].T, labels).predict(values[picked].T)
    )


def test_with_its_own_covariances_it_is_the_quadratic_discriminant(monkeypatch: pytest.MonkeyPatch) -> None:
    from sklearn.discriminant_analysis import QuadraticDiscriminantAnalysis

    for name, value in (("OWN", 1.0), ("ROUND", 0.0), ("FLOOR", 0.0)):
        monkeypatch.setattr(feature_scores, name, value)
    rng = np.random.default_rng(0)
    labels = np.repeat([0, 1], 20_000)
    values = rng.normal(size=(2, 40_000)) * (1.0 + 2.0 * labels)
    mapped = Gaussians.of(pixels_of(values, labels), 2).classify(values, np.arange(2))
    expected = QuadraticDiscriminantAnalysis().fit(values.T, labels).predict(values.T)
    assert accuracy(expected, mapped) > 0.999
    assert accuracy(labels, mapped) > 0.75


def test_sets_are_scored_once_whatever_their_order() -> None:
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 2, 300)
    scorer = scorer_of(rng.normal(size=(4, 300)) + labels * np.array([[2.0], [0.0], [0.5], [0.0]]), labels)
    assert scorer.score([0, 2]) == scorer.score([2, 0]) > scorer.score([1, 3])
    assert scorer.evaluations == 2
    assert scorer.nothing == pytest.approx(max(np.bincount(labels)) / 300, abs=0.02)
    assert scorer.apart().evaluations == 0


def test_classes_that_an_inner_fold_lacks_and_constant_features_do_no_harm() -> None:
    labels = np.array([0, 1, 0, 1, 0, 2] * 30)
    scorer = scorer_of(np.stack([labels * 5.0 + np.arange(180) % 7 * 0.1, np.zeros(180)]), labels)
    assert scorer.score([0, 1]) == pytest.approx(5 / 6)  # class 2 lies in one block alone


def test_rewards_of_an_episode_sum_to_the_score_per_cost() -> None:
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 2, 300)
    costs = np.array([0.5, 1.5, 0.5, 1.5])
    scorer = scorer_of(rng.normal(size=(4, 300)) + labels * np.array([[2.0], [1.0], [0.5], [0.0]]), labels, costs)
    environment = Choosing(scorer, 3)
    seen, info = environment.reset(seed=0)
    assert not seen.any()
    assert info["action_mask"].all()
    total, over = 0.0, False
    for action in (3, 0, 1):
        assert not over
        seen, reward, over, _, info = environment.step(action)
        total += reward
    assert over
    assert total == pytest.approx(SCALE * (scorer.score([0, 1, 3]) - scorer.nothing) / np.mean([0.5, 1.5, 1.5]))
    assert info["action_mask"].tolist() == [False, False, True, False]
    assert seen[:4].tolist() == [1.0, 1.0, 0.0, 1.0]


def test_the_agent_sees_what_features_tell_together() -> None:
    rng = np.random.default_rng(3)
    labels = rng.integers(0, 2, 900)
    values = rng.normal(size=(12, 900))
    values[4] += 1.6 * labels
    values[7] = values[4] + rng.normal(size=900) * 0.1  # the same once more
    values[9] += 1.2 * labels  # less, but something else
    scorer = scorer_of(values, labels)
    assert feature_search.by_information(scorer, 2, 0) == (4, 7)
    from stages.training.features.choosing import by_agent

    own = scorer.apart()
    best = feature_search.exhaustively(scorer, 2, 0)
    assert 9 in best
    assert by_agent(own, 2, seed=0, episodes=60) == best
    assert own.evaluations <= 60 * 2 + 12


# --- a later season --------------------------------------------------------------------------------------------------


def test_a_selection_is_read_back(tmp_path: Path) -> None:
    season = Season(12, (Feature("B8", 6, 196.5),))
    write_bands(tmp_path, ["B8@2018-07-01"], [["B8@2018-07-01"], ["B3@2018-05-01"]], season=season, about={"k": 1})
    assert read_season(tmp_path) == season
    assert [read_bands(tmp_path, fold) for fold in (None, 1)] == [("B8@2018-07-01",), ("B3@2018-05-01",)]
    assert read_about(tmp_path) == {"k": 1}


def years(folder: Path, **settings: Any) -> Tiles:
    """Tile a year of three bands and an index, with two scenes in January, one in February and one in April."""
    dates = ("2019-01-03", "2019-01-20", "2019-02-10", "2019-04-02")
    sources = dated(
        folder, {date: noise((3, 20, 20), seed=i) for i, date in enumerate(dates)}, bands=("B4", "B8", "B11")
    )
    time: dict[str, Any] = {"step": "1 month", "from": "2019-01-01", "to": "2019-04-30", **settings.pop("time", {})}
    indices: dict[str, Any] = {
        "indices": ("NDVI", "NDWI"),
        "index_bands": {"N": "B8", "R": "B4", "G": "B11"},
        "allow_dn": True,
    }
    return tiled(folder, sources, ("B4", "B8", "B11"), time=time, **indices, **settings)


@pytest.fixture
def selection(tmp_path: Path) -> Path:
    """Chosen in another year: red in January and NDVI in April, of four months."""
    season = Season(4, (Feature("B4", 0, 15.5), Feature("NDVI", 3, 105.0)))
    (tmp_path / "bands").mkdir()
    write_bands(tmp_path / "bands", ["B4@2018-01-01", "NDVI@2018-04-01"], season=season)
    return tmp_path / "bands" / FILE


def opened(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Names of the files whose pixels are read from now on."""
    names: list[str] = []
    read = warp.warp

    def watched(layers: warp.Layers, *more: Any) -> Any:
        names.append(Path(layers.path).stem)
        return read(layers, *more)

    monkeypatch.setattr("stages.geo.mosaic.warp", watched)
    return names


def test_tile_reads_only_what_was_chosen(selection: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    everything = years(tmp_path / "all")
    files = opened(monkeypatch)
    tiles = years(tmp_path / "few", features=selection)
    assert set(files) == {"2019-01-03", "2019-01-20", "2019-04-02"}
    assert tiles.bands == ("B4", "B8", "NDVI")  # B8 is needed for the index, B11 and NDWI are not
    assert (tiles.steps, tiles.days) == (4, everything.days)
    window = tiles.grid.whole
    few, whole = tiles.read(window), everything.read(window)
    places = [everything.bands.index(band) for band in tiles.bands]
    for step in (0, 3):
        assert np.array_equal(few[0][step], whole[0][step, places])
    assert few[1].any(axis=(1, 2)).tolist() == [True, False, False, True]
    card = card_of(2, 2, channels=("B4@2018-01-01", "NDVI@2018-04-01"), days=tiles.days, resolution=10.0,
                   dates=tuple(f"2018-{month:02}-01" for month in (1, 2, 3, 4)))  # fmt: skip
    check_fit(card, tiles)
    image, valid = read_padded(tiles, window, 0, card)
    assert np.array_equal(image, read_padded(everything, window, 0, card)[0])
    assert valid.all()


def test_where_gaps_are_filled_all_dates_are_read(
    selection: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    files = opened(monkeypatch)
    tiles = years(tmp_path / "few", features=selection.parent, time={"fill": "linear"})
    assert set(files) == {"2019-01-03", "2019-01-20", "2019-02-10", "2019-04-02"}
    assert tiles.bands == ("B4", "B8", "NDVI")


def test_tiles_that_do_not_hold_what_was_chosen_are_refused(selection: Path, tmp_path: Path) -> None:
    with pytest.raises(SettingError, match=r"chose from seasons of 4 steps, but tile.time lays 8"):
        years(tmp_path / "a", features=selection, time={"step": "15 days"})
    write_bands(selection.parent, ["B12"], season=Season(4, (Feature("B12", 0, 15.5),)))
    with pytest.raises(
        SettingError, match=r"tile.features chose B12, but the scenes and indices are B4, B8, B11, NDVI"
    ):
        years(tmp_path / "b", features=selection)
    with pytest.raises(ArtifactError, match=r"says of no features that they were chosen \(FileNotFoundError\)"):
        tile.sources(tile.Config(features=tmp_path / "none.json"))
    assert tile.sources(tile.Config(features=selection.parent)) == [selection]


# --- training and report ---------------------------------------------------------------------------------------------


def test_every_fold_trains_on_its_own_features(laid: Laid, tmp_path: Path) -> None:
    world = Laid(tmp_path / "world", laid.classes)
    shutil.copytree(laid.root, world.root)
    names = [("b2", "b5"), ("b1", "b5"), ("b5",)]
    write_bands(world.root / "bands", ("b2",), names, about={"method": "dqn", "table": []})
    recipe = ForestRecipe(trees=5, windows=())
    out = world.train(tmp_path / "model", train.Config(classes=laid.classes, models=("rf",), rf=recipe))
    assert [read_card(out / "folds" / str(fold) / "rf").channels for fold in range(3)] == names
    card = read_card(out / "rf")
    assert card.channels == ("b2",)
    assert card.metrics["selection"] == {"method": "dqn", "table": []}


def test_series_networks_refuse_single_features_before_anything_is_trained(seasonal: Laid, tmp_path: Path) -> None:
    world = Laid(tmp_path / "world", seasonal.classes)
    shutil.copytree(seasonal.root, world.root)
    write_bands(world.root / "bands", ("b2@2024-06-10", "b0@2024-09-01"))
    models = ("rf", "lstm")
    message = r"Networks for series.* go from step to step .*but 2 single features of 9 are selected; choose whole"
    with pytest.raises(SettingError, match=message):
        world.train(tmp_path / "model", train.Config(classes=seasonal.classes, models=models))
    assert not list((tmp_path / "model").iterdir())
    write_bands(world.root / "bands", ("b0@2024-03-01", "b0@2024-06-10", "b0@2024-09-01"))
    assert len(build("lstm", world.ground(), LstmRecipe(hidden=4), 0).state_dict()) > 0


@pytest.mark.parametrize("channels", [("b0@2024-03-01",), ("b0@2024-03-01", "b2@2024-06-10")])
def test_a_model_of_some_features_maps_the_tiles(seasonal: Laid, tmp_path: Path, channels: tuple[str, ...]) -> None:
    world = Laid(tmp_path / "world", seasonal.classes)
    shutil.copytree(seasonal.root, world.root)
    write_bands(world.root / "bands", channels)
    recipes: dict[str, Any] = {"rf": ForestRecipe(trees=9), "mlp": quick(MlpRecipe(width=8), epochs=8, steps=12)}
    least = {"rf": 0.8} if len(channels) == 2 else {"rf": 0.55, "mlp": 0.55}
    config = train.Config(classes=seasonal.classes, models=tuple(least), **recipes)
    out = world.train(tmp_path / "model", config)
    tiles, samples = Tiles(world.root / "tiles"), Samples(world.root / "samples")
    window, truth = tiles.grid.whole, samples.read("target", tiles.grid.whole)
    for name, share in least.items():
        card = read_card(out / name)
        assert (card.channels, len(card.dates)) == (channels, 3)
        image, valid = read_padded(tiles, window, 0, card)
        likely = load(out / name).probabilities(image[None], valid[None], tiles.days)
        assert float((likely[0].argmax(axis=0) == truth).mean()) > share


def test_the_report_shows_the_table() -> None:
    row = {
        "features": 2,
        "inner": 0.9,
        "validation": 0.8,
        "spread": None,
        "evaluations": 15.0,
        "seconds": 0.12,
        "cost": 1,
    }
    found = {"method": "dqn", "k": 2, "unit": "feature", "units": 84, "measure": "both_accuracies", "table": [
        {**row, "method": "all", "features": 84, "validation": None},
        {**row, "method": "random", "spread": 0.05}, {**row, "method": "dqn", "evaluations": 3727.0},
    ]}  # fmt: skip
    shown = chosen_features(found, ("B8@2018-03-01", "B11@2018-03-01", "B8@2018-10-01"), "1 month")
    assert "B8 of 2018-03 and 2018-10, B11 of 2018-03" in shown
    assert "2 of 84 features" in shown
    assert "mean of overall and balanced accuracy" in shown
    assert '<tr class="chosen"><th scope="row">agent (deep Q-network)</th>' in shown
    assert "3\u202f727" in shown
    assert "± 5" in shown
    assert chosen_features(None, ("red",)) == ""
