"""Bring confidences back to what was measured: correction to the training prior, then one temperature."""

from __future__ import annotations

import numpy as np

#: Added to the logit of a class that no training pixel shows: it is never mapped.
NEVER = -20.0


def class_weights(kind: str, pixels: np.ndarray) -> np.ndarray:
    """Weight of every class in the loss, with mean 1 over the training pixels; ``pixels`` (class,).

    `none`: all alike; `balanced`: inverse to the class's share; `sqrt`: to the square root of it.
    """
    power = {"none": 0.0, "sqrt": 0.5, "balanced": 1.0}[kind]
    shares = pixels / pixels.sum()
    weights = np.where(pixels > 0, np.where(pixels > 0, shares, 1.0) ** -power, 0.0)
    mean_one: np.ndarray = weights / (weights * shares).sum()
    return mean_one


def prior_correction(pixels: np.ndarray, shown: np.ndarray) -> np.ndarray:
    """Find what to add to the logits of a model that was shown other class shares than the training pixels have.

    Logits learn log p(class | pixel) under the shares shown (weighted or resampled, ``shown`` (class,)); Bayes'
    rule moves them to the prior of the training pixels: + log prior - log shown (Saerens, Latinne and
    Decaestecker 2002; Menon et al. 2021).
    """
    there = (pixels > 0) & (shown > 0)
    prior = np.where(there, pixels, 1.0) / pixels[there].sum()
    seen = np.where(there, shown, 1.0) / shown[there].sum()
    return np.where(there, np.log(prior) - np.log(seen), NEVER)


def probabilities(logits: np.ndarray, temperature: float) -> np.ndarray:
    """Mean softmax over the views of (views, pixels, class): (pixels, class)."""
    scaled = logits.astype(np.float64) / temperature
    scaled -= scaled.max(axis=-1, keepdims=True)
    np.exp(scaled, out=scaled)
    scaled /= scaled.sum(axis=-1, keepdims=True)
    mean: np.ndarray = scaled.mean(axis=0)
    return mean


def loss(logits: np.ndarray, labels: np.ndarray, temperature: float, weights: np.ndarray | None = None) -> float:
    """Mean negative log-likelihood of the labels (pixels,), weighted by class where ``weights`` (class,) are given."""
    likely = probabilities(logits, temperature)[np.arange(len(labels)), labels]
    each = None if weights is None else weights[labels]
    return float(np.average(-np.log(np.maximum(likely, 1e-12)), weights=each))


def fit_temperature(logits: np.ndarray, labels: np.ndarray, weights: np.ndarray | None = None) -> float:
    """Find the temperature of least negative log-likelihood on held-out pixels (Guo et al. 2017), in 1/20..20."""
    from scipy.optimize import minimize_scalar

    if len(labels) == 0:
        return 1.0
    found = minimize_scalar(
        lambda log_t: loss(logits, labels, float(np.exp(log_t)), weights), bounds=(-3.0, 3.0), method="bounded",
        options={"xatol": 1e-3},
    )  # fmt: skip
    return float(np.exp(found.x))
