"""Draw the map and what stands beside it as PNG pictures whose bytes depend on their content only."""

from __future__ import annotations

import io
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from stages.delivery.legend import Legend, colors_of

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

DPI = 160
#: Widths of a picture that has the page to itself, and of one that shares it (inches).
WIDE, NARROW = 7.0, 4.8
INK = "#22302b"
SOFT = "#6c7a74"
LINES = "#2f6b3a", "#c4681b", "#2b6cb0", "#8a4f9e", "#a38a1f", "#5d6d7e", "#b03060", "#1f8a8a"
#: Colours of `Part` NONE, TRAIN, VALIDATION and TEST.
PARTS = "#ffffff", "#8fb8a2", "#e3b34c", "#c0504d"
PART_NAMES = "", "train", "validation", "test"


@dataclass(frozen=True)
class Ground:
    """How a picture lies on the ground: metres from its left to its right edge, height over width of a pixel."""

    metres: float
    stretch: float = 1.0


@dataclass(frozen=True)
class Curve:
    """Learning curves of one model: loss by epoch on the training and the validation part (either may be empty)."""

    model: str
    training: Sequence[float]
    validation: Sequence[float]


@dataclass(frozen=True)
class AttackExample:
    """One window of a scene before and after attacks: what was shown (y, x, 3), and class indices (y, x), by title."""

    titles: tuple[str, ...]
    scenes: tuple[np.ndarray, ...]
    maps: tuple[np.ndarray, ...]
    legend: Legend


def map_picture(indices: np.ndarray, legend: Legend, ground: Ground, title: str = "", attribution: str = "") -> bytes:
    """Draw a class map with its scale bar; with a title also with its legend, as a picture that stands alone.

    Args:
        indices: class index of every pixel, 255 nodata: uint8 (y, x).
        legend: the classes by index.
        ground: how large it is.
        title: heading; with one, the legend stands at the right.
        attribution: the licence line of the data, below the map.
    """
    indices, ground = _cropped(indices, ground)
    figure, axes = _canvas(indices.shape, ground, WIDE, side=2.0 if title else 0.0)
    _show(axes, colors_of(legend)[indices], ground)
    _scale_bar(axes, ground)
    if title:
        axes.set_title(title, loc="left", fontsize=13, fontweight="bold", color=INK, pad=8)
        axes.legend(handles=_swatches(legend), loc="upper left", bbox_to_anchor=(1.02, 1.0), **_LEGEND)
    if attribution:
        axes.text(0, -0.015, attribution, transform=axes.transAxes, fontsize=7, color=SOFT, va="top")
    return _png(figure)


def legend_picture(legend: Legend) -> bytes:
    """Draw the legend alone."""
    from matplotlib.figure import Figure

    longest = max(len(entry.name) for entry in legend)
    figure = Figure(figsize=(0.75 + 0.09 * longest, 0.2 + 0.26 * len(legend)))
    figure.legend(handles=_swatches(legend), loc="center", **_LEGEND)
    return _png(figure, tight=False)


def quicklook_picture(rgb: np.ndarray, ground: Ground) -> bytes:
    """Draw the scene in colours: uint8 (y, x, 3)."""
    figure, axes = _canvas(rgb.shape[:2], ground, NARROW)
    _show(axes, rgb, ground)
    return _png(figure)


def confidence_picture(percent: np.ndarray, ground: Ground) -> bytes:
    """Draw the confidence in percent, 255 nodata: uint8 (y, x)."""
    return _quantity(np.ma.masked_equal(percent, 255), 100, "confidence in percent", "YlGnBu", ground)


def clear_picture(counts: np.ndarray, ground: Ground) -> bytes:
    """Draw how many clear observations every pixel had, white where none: uint16 (y, x)."""
    shown = np.ma.masked_equal(counts, 0)
    return _quantity(shown, max(1, int(counts.max(initial=0))), "clear observations", "YlGnBu", ground)


def filled_picture(percent: np.ndarray, counts: np.ndarray, ground: Ground) -> bytes:
    """Draw the share of filled steps in percent, white where a pixel was never clear: uint8 and uint16 (y, x)."""
    shown = np.ma.masked_where(counts == 0, percent)
    return _quantity(shown, 100, "filled steps in percent", "OrRd", ground)


def parts_picture(parts: np.ndarray, beneath: np.ndarray, folds: int, ground: Ground) -> bytes:
    """Draw which ground was for training, validation and test, over the scene in grey.

    Args:
        parts: `Part` of every pixel, or with ``folds`` the fold it is tested in from 1, 0 for none: uint8 (y, x).
        beneath: the scene, uint8 (y, x, 3).
        folds: number of folds, 0 without.
        ground: how large it is.
    """
    from matplotlib.colors import to_rgb
    from matplotlib.patches import Patch

    if folds:
        palette = ["#ffffff", *(LINES[i % len(LINES)] for i in range(folds))]
        names = ["", *(f"tested in fold {i + 1}" for i in range(folds))]
    else:
        palette, names = list(PARTS), list(PART_NAMES)
    colors = np.array([to_rgb(color) for color in palette])
    grey = 0.55 + 0.45 * beneath.mean(axis=-1, keepdims=True) / 255.0
    blended = np.where(parts[..., None] > 0, grey * colors[parts], grey)
    figure, axes = _canvas(parts.shape, ground, NARROW)
    _show(axes, np.clip(blended, 0, 1), ground)
    present = [i for i in range(1, len(palette)) if (parts == i).any()]
    swatches = [Patch(facecolor=palette[i], label=names[i]) for i in present]
    axes.legend(handles=swatches, loc="upper left", bbox_to_anchor=(-0.01, -0.01), ncols=3, **_LEGEND)
    return _png(figure)


def curves_picture(curves: Sequence[Curve]) -> bytes:
    """Draw the loss of every trained network by epoch, a panel a model."""
    from matplotlib.figure import Figure
    from matplotlib.ticker import MaxNLocator

    columns = min(3, len(curves))
    rows = -(-len(curves) // columns)
    figure = Figure(figsize=(7.5, 2.4 * rows), layout="constrained")
    panels = figure.subplots(rows, columns, squeeze=False).ravel()
    for axes, curve in zip(panels, curves, strict=False):
        for name, values, color in (("training", curve.training, SOFT), ("validation", curve.validation, LINES[0])):
            if len(values):
                axes.plot(range(1, len(values) + 1), values, color=color, label=name, lw=1.6)
        axes.set_title(curve.model, loc="left", fontsize=10, fontweight="bold", color=INK)
        _plain_axes(axes, "epoch", "loss")
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        axes.legend(**_LEGEND)
    for axes in panels[len(curves) :]:
        axes.set_visible(False)
    return _png(figure)


def spectra_picture(means: Sequence[Sequence[float] | None], channels: Sequence[str], legend: Legend) -> bytes:
    """Draw the mean value of every class in every channel over its training pixels."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(NARROW, 4.2), layout="constrained")
    axes = figure.subplots()
    for entry, values in zip(legend, means, strict=True):
        if values is not None:
            axes.plot(range(len(channels)), values, color=entry.color, marker="o", ms=4, lw=1.8, label=entry.name)
    axes.set_xticks(range(len(channels)), channels, rotation=90 if len(channels) > 7 else 0)
    _plain_axes(axes, "", "mean value")
    figure.legend(loc="outside lower left", ncols=3, **_LEGEND)
    return _png(figure)


def attack_picture(found: Mapping[str, Any], example: AttackExample) -> bytes:
    """Draw what is left of the first model's accuracy by strength, and a window before and after attacks.

    ``found`` is what `stages.formats.attacks` holds.
    """
    from matplotlib.figure import Figure

    name, model = next(iter(found["models"].items()))
    columns = len(example.titles)
    figure = Figure(figsize=(3.4 + 1.5 * columns, 3.6), layout="constrained")
    parts: Any = figure.subfigures(1, 2, width_ratios=(3.4, 1.5 * columns))
    plot, shown = parts
    axes = plot.subplots()
    strengths = [0.0, *found["strengths"]]
    colors = dict(zip(("noise", "fast gradient", "projected gradient"), (SOFT, LINES[1], LINES[6]), strict=True))
    for kind, rows in model["attacks"].items():
        values = [model["clean"]["overall"], *(row["overall"] for row in rows)]
        axes.plot(
            strengths, [100 * value for value in values], color=colors[kind], marker="o", ms=3, lw=1.6, label=kind
        )
    axes.set_ylim(0, 100)
    axes.set_title(name, loc="left", fontsize=10, fontweight="bold", color=INK)
    _plain_axes(axes, "strength in band deviations", "accuracy on test pixels, percent")
    axes.legend(**_LEGEND)
    panels = shown.subplots(2, columns, squeeze=False)
    for column, title in enumerate(example.titles):
        mapped = colors_of(example.legend)[example.maps[column]]
        for place, image in zip(panels[:, column], (example.scenes[column], mapped), strict=True):
            place.set_axis_off()
            place.imshow(image, interpolation="nearest")
        panels[0, column].set_title(title, fontsize=9, color=INK)
    return _png(figure)


_LEGEND: dict[str, Any] = {"frameon": False, "fontsize": 9, "labelcolor": INK, "handlelength": 1.2,
                           "handleheight": 1.0, "columnspacing": 1.4}  # fmt: skip


def _canvas(shape: Sequence[int], ground: Ground, width: float, side: float = 0.0) -> tuple[Figure, Axes]:
    """Make a figure at most ``width`` inches wide whose axes fit an image, with room at the ``side`` (inches)."""
    from matplotlib.figure import Figure

    ratio = shape[0] * ground.stretch / shape[1]
    width = min(width, 1.4 * width / ratio)
    figure = Figure(figsize=(width + side, max(width * ratio, 0.4)))
    axes = figure.add_axes((0.0, 0.0, width / (width + side), 1.0))
    axes.set_axis_off()
    return figure, axes


def _quantity(shown: np.ma.MaskedArray[Any, Any], most: int, label: str, colors: str, ground: Ground) -> bytes:
    """Draw whole numbers from 0 to ``most`` over their scale; what is masked stays white."""
    from matplotlib.ticker import MaxNLocator

    figure, axes = _canvas(shown.shape, ground, NARROW)
    image = axes.imshow(shown, cmap=colors, vmin=0, vmax=most, aspect=ground.stretch, interpolation="nearest")
    bar = figure.colorbar(image, ax=axes, orientation="horizontal", fraction=0.04, pad=0.03, aspect=40)
    bar.outline.set_visible(False)
    bar.ax.tick_params(labelsize=8, colors=SOFT, length=0)
    bar.ax.xaxis.set_major_locator(MaxNLocator(6, integer=True, steps=[1, 2, 5, 10]))
    bar.set_label(label, fontsize=8, color=SOFT)
    return _png(figure)


def _cropped(indices: np.ndarray, ground: Ground) -> tuple[np.ndarray, Ground]:
    """Cut off margins without a mapped pixel."""
    rows, cols = np.flatnonzero((indices != 255).any(axis=1)), np.flatnonzero((indices != 255).any(axis=0))
    if not rows.size:
        return indices, ground
    cropped = indices[rows[0] : rows[-1] + 1, cols[0] : cols[-1] + 1]
    return cropped, Ground(ground.metres * cropped.shape[1] / indices.shape[1], ground.stretch)


def _show(axes: Axes, rgb: np.ndarray, ground: Ground) -> None:
    axes.imshow(rgb, interpolation="nearest", aspect=ground.stretch)


def _swatches(legend: Legend) -> list[Any]:
    from matplotlib.patches import Patch

    return [Patch(facecolor=entry.color, edgecolor="#00000030", lw=0.5, label=entry.name) for entry in legend]


def _scale_bar(axes: Axes, ground: Ground) -> None:
    """Draw a bar of a round length near a fifth of the picture's width, on a light ground in the lower left corner."""
    from matplotlib.patches import Rectangle

    length = round_length(ground.metres / 5)
    share = length / ground.metres
    text = f"{length / 1000:g} km" if length >= 1000 else f"{length:g} m"
    axes.add_patch(Rectangle((0, 0), share + 0.04, 0.065, transform=axes.transAxes, facecolor="white", alpha=0.85,
                             edgecolor="none", zorder=3))  # fmt: skip
    axes.add_patch(Rectangle((0.02, 0.017), share, 0.008, transform=axes.transAxes, facecolor=INK, zorder=4))
    axes.text(0.02 + share / 2, 0.03, text, transform=axes.transAxes, ha="center", va="bottom", fontsize=8,
              color=INK, zorder=4)  # fmt: skip


def round_length(metres: float) -> float:
    """Find the largest of 1, 2 and 5 times a power of ten that is not above ``metres``."""
    power = 10.0 ** math.floor(math.log10(metres))
    return next(step * power for step in (5.0, 2.0, 1.0) if step * power <= metres * (1 + 1e-9))


def _plain_axes(axes: Axes, x: str, y: str) -> None:
    for edge in ("top", "right"):
        axes.spines[edge].set_visible(False)
    for edge in ("left", "bottom"):
        axes.spines[edge].set_color("#b9c2bd")
    axes.tick_params(labelsize=8, colors=SOFT, length=3)
    axes.set_xlabel(x, fontsize=8, color=SOFT)
    axes.set_ylabel(y, fontsize=8, color=SOFT)
    axes.grid(axis="y", color="#e6eae7", lw=0.8)
    axes.set_axisbelow(True)


def _png(figure: Figure, tight: bool = True) -> bytes:
    """Write the picture without the name and version of the program that drew it."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    FigureCanvasAgg(figure)
    target = io.BytesIO()
    box: dict[str, Any] = {"bbox_inches": "tight", "pad_inches": 0.05} if tight else {}
    figure.savefig(target, format="png", dpi=DPI, metadata={"Software": None}, facecolor="white", **box)
    return target.getvalue()
