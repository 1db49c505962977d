"""Every classifier's ONNX graph gives what the fitted classifier gives."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from stages.formats.samples import Role
from stages.formats.weights import ONNX
from stages.models.table import SERIES
from stages.training.classifiers import CLASSIFIERS, fit, gather_for
from stages.training.onnx_file import _single
from stages.training.recipes import (
    CapsuleRecipe,
    Cnn3dRecipe,
    CnnRecipe,
    ConvLstmRecipe,
    ForestRecipe,
    LstmRecipe,
    LtaeRecipe,
    MlpRecipe,
    TempCnnRecipe,
    UnetRecipe,
    VectorRecipe,
)
from tests.training_worlds import Laid, lay, quick
from tests.worlds import patchwork, separable

RECIPES: dict[str, Any] = {
    "rf": ForestRecipe(trees=12, windows=(3, 7)),
    "svm": VectorRecipe(pixels=300, windows=(3,), cost=(1.0,), gamma=(0.25,)),
    "mlp": quick(MlpRecipe(width=8)),
    "cnn": quick(CnnRecipe(width=8, dilations=(1, 2))),
    "cnn3d": quick(Cnn3dRecipe(width=4)),
    "capsule": quick(CapsuleRecipe(width=8, types=2, window=1, rounds=2)),
    "unet": quick(UnetRecipe(width=4, depth=2)),
    "lstm": quick(LstmRecipe(hidden=8), chip=1, batch=32),
    "tempcnn": quick(TempCnnRecipe(filters=8, dense=16), chip=1, batch=32),
    "ltae": quick(LtaeRecipe(n_head=2, d_model=16), chip=1, batch=32),
    "convlstm": quick(ConvLstmRecipe(hidden=4)),
}


@pytest.fixture(scope="module")
def laid(tmp_path_factory: pytest.TempPathFactory) -> Laid:
    truth = patchwork((96, 80), 3, 8, 0)
    bands = separable(truth, 0)
    bands[:, 40:46, 3:20] = np.nan
    return lay(tmp_path_factory.mktemp("export"), bands, truth)


@pytest.fixture(scope="module")
def series(tmp_path_factory: pytest.TempPathFactory) -> Laid:
    """Two dates that miss different pixels, and one that both miss."""
    truth = patchwork((96, 80), 3, 8, 0)
    cube = np.stack([separable(truth, seed) for seed in (0, 1)])
    cube[0, :, 40:46, 3:20], cube[1, :, 60:70, 30:40] = np.nan, np.nan
    cube[:, :, 5, 6] = np.nan
    return lay(tmp_path_factory.mktemp("series"), cube, truth, ("2024-05-10", "2024-08-02"))


def session(folder: Path) -> Any:
    import onnxruntime as ort

    return ort.InferenceSession(str(folder / ONNX))


@pytest.mark.parametrize("weights", ["none", "balanced"])
@pytest.mark.parametrize("name", sorted(CLASSIFIERS))
def test_the_graph_gives_the_logits_of_the_fit(
    request: pytest.FixtureRequest, name: str, weights: str, tmp_path: Path
) -> None:
    laid = request.getfixturevalue("series" if name in SERIES else "laid")
    recipe = RECIPES[name].model_copy(update={"class_weights": weights})
    held = gather_for(name, recipe, laid.split(), Role.VALIDATION)
    fitted = fit(name, laid.ground(), held, recipe, laid.task(name, folder=tmp_path / "checkpoints"))
    fitted.export(tmp_path)
    run = session(tmp_path)
    dated = name in SERIES and getattr(recipe, "calendar", True)
    inputs = {"image": held.image, "valid": held.valid, **({"days": held.days} if dated else {})}
    assert [entry.name for entry in run.get_inputs()] == list(inputs)
    (found,) = run.run(["logits"], inputs)
    assert found.shape == (len(held.labels), 3, *held.labels.shape[1:])
    rows = found.transpose(0, 2, 3, 1)[held.at]
    expected = fitted.logits(held)[0]
    if name == "rf":  # a feature within rounding of a threshold may fall to the other side
        assert (np.abs(rows - expected).max(axis=1) < 1e-4).mean() > 0.999
    else:
        np.testing.assert_allclose(rows, expected, atol=2e-4)
    assert np.isfinite(found).all()


def test_the_same_fit_writes_the_same_bytes(laid: Laid, tmp_path: Path) -> None:
    written = []
    for attempt in ("one", "two"):
        for name in ("rf", "unet"):
            folder = tmp_path / attempt / name
            folder.mkdir(parents=True)
            fit(name, laid.ground(), None, RECIPES[name], laid.task(name, folder=folder / "c")).export(folder)
            written.append((folder / ONNX).read_bytes())
    assert written[:2] == written[2:]
    assert all(b"/stages/" not in content and b"site-packages" not in content for content in written)


@pytest.mark.parametrize("classes", [2, 3])
def test_the_kernel_machine_decides_as_scikit_learn_does(classes: int, tmp_path: Path) -> None:
    from sklearn.svm import SVC

    from stages.models.context import Context
    from stages.training.vectors import _machine

    rng = np.random.default_rng(0)
    labels = rng.integers(0, classes, 200)
    rows = rng.normal(size=(200, 4)) + labels[:, None]
    solved = SVC(C=2.0, gamma=0.2).fit(rows, labels * 2)  # classes 0, 2, 4 of 6: the others never win
    machine = _machine(solved, Context(4, ()), 6, 0.2)
    machine.spread.fill_(1.0)
    import torch

    test = rng.normal(size=(300, 4)) + 1
    found = machine.of_rows(torch.from_numpy(test.astype(np.float32))).numpy()
    assert (found.argmax(axis=1) == solved.predict(test)).mean() > 0.995
    if classes == 3:
        np.testing.assert_allclose(found[:, [0, 2, 4]], solved.decision_function(test), atol=2e-3)
    assert (found[:, 1::2] < found[:, ::2][:, :classes].min(axis=1, keepdims=True)).all()


def test_a_class_that_no_training_pixel_shows_is_never_mapped(tmp_path: Path) -> None:
    truth = patchwork((96, 96), 2, 8, 0)
    truth[:16, :16] = 2  # one block only: where it is held out, nothing shows it
    laid = lay(tmp_path, separable(truth, 0), truth, folds=4)
    fold = next(f for f in range(4) if laid.ground(f).pixels()[2] == 0)
    for name in ("rf", "svm", "mlp"):
        held = gather_for(name, RECIPES[name], laid.split(fold), Role.TEST)
        fitted = fit(name, laid.ground(fold), None, RECIPES[name], laid.task(name, folder=tmp_path / name))
        logits = fitted.logits(held)[0]
        assert (logits[:, 2] < logits[:, :2].max(axis=1) - 2).all(), name


def test_thresholds_in_single_precision_part_the_same_numbers() -> None:
    rng = np.random.default_rng(0)
    thresholds = rng.normal(size=1000)
    single = _single(thresholds)
    for values in (single, np.nextafter(single, np.float32(np.inf)), np.nextafter(single, np.float32(-np.inf))):
        np.testing.assert_array_equal(values <= single, values.astype(np.float64) <= thresholds)


def test_the_bound_on_leaves_makes_leaves_larger(laid: Laid, tmp_path: Path) -> None:
    recipe = ForestRecipe(trees=10, leaf=(1,), leaves=50, windows=())
    fitted: Any = fit("rf", laid.ground(), None, recipe, laid.task("rf"))
    assert sum(tree.get_n_leaves() for tree in fitted.forest.estimators_) <= 50
