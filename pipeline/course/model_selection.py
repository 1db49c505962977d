"""Lecture 5: which model to believe: bias and variance, subsets and shrinkage, dropout, early stopping, validation."""

from __future__ import annotations

from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np

from pipeline.course.lecture import Lecture, Picture, Result

NUMBER = "5"
TITLE = "Model selection and regularization"
TEXT = (
    "The error on new data is noise, squared bias and variance. A model too stiff misses the curve (bias), one too "
    "supple follows the noise of its own sample (variance). Below both are measured, by fitting polynomials of growing "
    "degree to a hundred samples of a known curve; the sum is least in between.",
    "Ten measurements of 442 patients (Efron et al. 2004) have 1,023 subsets. Every one is fitted, and AIC, BIC and "
    "cross-validation choose. BIC's penalty grows with the sample, so it chooses fewer; neither looks at held-out "
    "data, and both assume that the model's likelihood is right.",
    "Ridge regression shrinks all coefficients, the lasso sets some to zero, principal components leave out directions "
    "in which the data hardly vary, which need not be those that hardly matter. The amount is chosen by "
    "cross-validation, and the error that chose it is not the error to report: that is measured once, on samples that "
    "had no part in it.",
    "Dropout and early stopping hold a network back on a small sample. Early stopping needs held-out samples, which "
    "are then spent: they are validation data, not test data. Whether either helps is a question to the data: on "
    "digits that are this easy to tell apart the differences below are within the spread of the seeds.",
    "Cross-validation at random estimates the error on further pixels of the same ground; by blocks, on ground not yet "
    "seen. Lecture 3 shows the difference on a map. Neither is wrong, but only one answers the question that is asked.",
)


def run(folder: Path, full: bool, seed: int = 0) -> Lecture:  # noqa: ARG001  nothing is worth keeping
    """Measure on a known curve, on the diabetes data and on the small digits."""
    degrees, parts = bias_and_variance(seed, 400 if full else 100)
    subsets = best_subsets()
    shrunk = shrinkage(seed)
    dropped, stopped = held_back(seed, 5 if full else 2)
    best = degrees[int(np.argmin(parts["squared bias + variance"]))]
    results = [
        Result("degree of least squared bias + variance", f"{best}"),
        *(
            Result(f"measurements chosen by {name} of 10", f"{len(chosen)}: {', '.join(chosen)}")
            for name, chosen in subsets.items()
        ),
        *(Result(f"diabetes, {name}: held-out R²", f"{value:.3f}") for name, value in shrunk.items()),
        *(
            Result(f"200 digits, network of 2 x 256, {name}: test error", f"{value:.1%}")
            for name, value in dropped.items()
        ),
    ]  # fmt: skip
    return Lecture(NUMBER, TITLE, TEXT, _pictures(degrees, parts, stopped, seed), tuple(results))


def _pictures(degrees: list[int], parts: dict[str, list[float]], stopped: Any, seed: int) -> tuple[Picture, ...]:
    from pipeline.course import plots

    curves = {name: (degrees, values) for name, values in parts.items()}
    return (
        Picture("Bias and variance of polynomials of a known curve.", plots.plot(curves, "degree", "", log="y")),
        Picture("A learning curve: ridge regression of the diabetes data.", _learning_curve(seed)),
        Picture("Coefficients of the lasso as its penalty falls.", _lasso_path()),
        Picture(
            "Training and held-out loss of a network on 200 digits: where to stop early.",
            plots.plot(stopped, "epoch", "loss", log="y"),
        ),
    )


def bias_and_variance(seed: int, repeats: int, samples: int = 25) -> tuple[list[int], dict[str, list[float]]]:
    """Fit polynomials to many samples of sin(2 pi x) with noise of 0.3: degrees, and means over x by degree."""
    rng, at = np.random.default_rng(seed), np.linspace(0.02, 0.98, 97)
    truth = np.sin(2 * np.pi * at)
    degrees = list(range(1, 11))
    parts: dict[str, list[float]] = {"squared bias": [], "variance": [], "squared bias + variance": []}
    for degree in degrees:
        fits = np.empty((repeats, at.size))
        for repeat in range(repeats):
            x = np.sort(rng.random(samples))
            y = np.sin(2 * np.pi * x) + rng.normal(0, 0.3, samples)
            fits[repeat] = np.polynomial.Polynomial.fit(x, y, degree, domain=(0, 1))(at)
        bias, variance = float(((fits.mean(0) - truth) ** 2).mean()), float(fits.var(0).mean())
        for name, value in zip(parts, (bias, variance, bias + variance), strict=True):
            parts[name].append(value)
    return degrees, parts


def _diabetes() -> tuple[np.ndarray, np.ndarray, list[str]]:
    from sklearn.datasets import load_diabetes

    data = load_diabetes()
    return data.data / data.data.std(0), data.target, list(data.feature_names)


def best_subsets() -> dict[str, tuple[str, ...]]:
    """Fit every subset of the diabetes measurements by least squares, and choose by AIC, BIC and cross-validation."""
    inputs, targets, names = _diabetes()
    count = len(targets)
    found: dict[tuple[int, ...], tuple[float, float]] = {}
    for size in range(1, len(names) + 1):
        for subset in combinations(range(len(names)), size):
            likelihood = count * np.log(_squares(inputs[:, subset], targets) / count)
            found[subset] = likelihood + 2 * (size + 1), likelihood + np.log(count) * (size + 1)
    choices = {"AIC": min(found, key=lambda subset: found[subset][0]), "BIC": min(found, key=lambda s: found[s][1])}
    # Cross-validation looks at the best subset of every size only; all 1,023 would overfit the folds.
    sizes = [min((s for s in found if len(s) == size), key=lambda s: found[s][0]) for size in range(1, len(names) + 1)]
    choices["10-fold cross-validation"] = min(sizes, key=lambda subset: _validated(inputs[:, subset], targets))
    return {name: tuple(names[i] for i in subset) for name, subset in choices.items()}


def _squares(inputs: np.ndarray, targets: np.ndarray) -> float:
    """Sum of squared residuals of least squares with an intercept."""
    design = np.column_stack([np.ones(len(inputs)), inputs])
    residuals = targets - design @ np.linalg.lstsq(design, targets, rcond=None)[0]
    return float(residuals @ residuals)


def _validated(inputs: np.ndarray, targets: np.ndarray) -> float:
    from sklearn.linear_model import LinearRegression
    from sklearn.model_selection import KFold, cross_val_score

    folds = KFold(10, shuffle=True, random_state=0)
    return -float(cross_val_score(LinearRegression(), inputs, targets, cv=folds, scoring="r2").mean())


def shrinkage(seed: int) -> dict[str, float]:
    """R² on a held-out third of the diabetes data; every penalty and number of components by cross-validation."""
    from sklearn.decomposition import PCA
    from sklearn.linear_model import LassoCV, LinearRegression, RidgeCV
    from sklearn.model_selection import GridSearchCV, train_test_split
    from sklearn.pipeline import make_pipeline

    inputs, targets, _ = _diabetes()
    train, test, known, asked = train_test_split(inputs, targets, test_size=1 / 3, random_state=seed)
    components = GridSearchCV(
        make_pipeline(PCA(), LinearRegression()), {"pca__n_components": list(range(1, 11))}, cv=10
    )
    models = {
        "least squares": LinearRegression(), "ridge": RidgeCV(np.logspace(-3, 4, 30)),
        "lasso": LassoCV(cv=10, random_state=seed), "principal components": components,
    }  # fmt: skip
    return {name: float(model.fit(train, known).score(test, asked)) for name, model in models.items()}


def held_back(seed: int, repeats: int) -> tuple[dict[str, float], dict[str, Any]]:
    """Train a network that is too large for 200 digits: test errors plain, with dropout, stopped early; its curves."""
    import torch

    from pipeline.course.data import small_digits
    from stages.training.descent import Descent, descend, predict

    digits = small_digits(seed)
    images, labels = (
        (torch.from_numpy(digits.train_images).flatten(1) / 16.0),
        torch.from_numpy(digits.train_labels).long(),
    )
    test, asked = torch.from_numpy(digits.test_images).flatten(1) / 16.0, torch.from_numpy(digits.test_labels).long()
    held = images[200:300], labels[200:300]
    errors = dict.fromkeys(("plain", "dropout of a half", "stopped early"), 0.0)
    curves: dict[str, Any] = {}
    for repeat in range(repeats):
        for name in errors:
            torch.manual_seed(seed + repeat)
            network = _network(0.5 if name == "dropout of a half" else 0.0)
            early = {"keep": "best", "patience": 15} if name == "stopped early" else {}
            descent = Descent(epochs=100, batch=50, lr=2e-3, seed=seed + repeat, **early)  # type: ignore[arg-type]
            went = descend(network, images[:200], labels[:200], descent, held=held)
            errors[name] += float((predict(network, test).argmax(1) != asked).float().mean()) / repeats
            if name == "plain" and repeat == 0:
                epochs = list(range(1, len(went.loss) + 1))
                curves = {"training": (epochs, went.loss), "held out": (epochs, went.held_loss)}
    return errors, curves


def _network(dropout: float) -> Any:
    from torch import nn

    hidden = [nn.Linear(64, 256), nn.ReLU(), nn.Dropout(dropout), nn.Linear(256, 256), nn.ReLU(), nn.Dropout(dropout)]
    return nn.Sequential(*hidden, nn.Linear(256, 10))


def _learning_curve(seed: int) -> str:
    """Mean R² of ridge regression on training and held-out samples as the training set grows."""
    from sklearn.linear_model import Ridge
    from sklearn.model_selection import ShuffleSplit, learning_curve

    from pipeline.course import plots

    inputs, targets, _ = _diabetes()
    split = ShuffleSplit(40, test_size=0.25, random_state=seed)
    sizes, train, held = learning_curve(
        Ridge(1.0), inputs, targets, cv=split, train_sizes=[15, 20, 30, 50, 80, 130, 200, 300]
    )
    curves = {"training": (sizes, train.mean(1)), "held out": (sizes, held.mean(1))}
    return plots.plot(curves, "training samples", "R²", log="x")


def _lasso_path() -> str:
    from sklearn.linear_model import lasso_path

    from pipeline.course import plots

    inputs, targets, names = _diabetes()
    penalties, coefficients, *_ = lasso_path(inputs, targets - targets.mean())
    return plots.plot(
        {n: (penalties, c) for n, c in zip(names, coefficients, strict=True)}, "penalty", "coefficient", log="x"
    )
