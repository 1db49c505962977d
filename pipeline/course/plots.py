"""Draw a lecture's curves, bars and pictures as SVG."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

#: What every plot of the course looks like.
STYLE = {
    "axes.spines.top": False, "axes.spines.right": False, "axes.grid": True, "grid.color": "#dfe5e1", "font.size": 9,
    "legend.frameon": False, "legend.fontsize": "small", "svg.fonttype": "none", "svg.hashsalt": "terrastage",
    "axes.prop_cycle": "cycler('color', ['2f6b3a', 'd99a2b', '2b6ca3', 'b8422c', '7a5195', '5f6d67', '17a398'])",
}  # fmt: skip


def curves(
    lines: Mapping[str, Sequence[float]], across: str, up: str, at: Sequence[float] | None = None, log: bool = False,
) -> str:  # fmt: skip
    """Draw named lines over ``at``, by default 1, 2, 3 ...; with a logarithmic axis upwards on request."""
    points = {name: (at if at is not None else range(1, len(values) + 1), values) for name, values in lines.items()}
    return plot(points, across, up, log="y" if log else "")


def plot(points: Mapping[str, tuple[Sequence[float], Sequence[float]]], across: str, up: str, log: str = "") -> str:
    """Draw named lines, each with its own values across and up; ``log`` names the logarithmic axes: x, y or xy."""

    def draw(planes: list[Any]) -> None:
        for name, (x, y) in points.items():
            planes[0].plot(x, y, label=name, marker="o" if len(x) < 40 else None, markersize=3, linewidth=1.5)
        planes[0].set(
            xlabel=across, ylabel=up, xscale="log" if "x" in log else "linear", yscale="log" if "y" in log else "linear"
        )
        if len(points) > 1:
            planes[0].legend()

    return _drawn(draw, 1, 1, (5.6, 3.4))


def bars(values: Mapping[str, float], across: str) -> str:
    """Draw one lying bar a name, the first at the top, with its value behind it."""

    def draw(planes: list[Any]) -> None:
        held = planes[0].barh(list(values), list(values.values()), height=0.7)
        planes[0].bar_label(held, fmt="%.3g", padding=3, fontsize=8)
        planes[0].invert_yaxis()
        planes[0].grid(axis="y", visible=False)
        planes[0].set(xlabel=across)

    return _drawn(draw, 1, 1, (5.6, 0.7 + 0.28 * len(values)))


def board(values: np.ndarray, words: np.ndarray) -> str:
    """Draw a map of few cells (y, x), each with its value and a word in it."""

    def draw(planes: list[Any]) -> None:
        planes[0].imshow(values, cmap="YlGn")
        planes[0].axis("off")
        middle = (values.min() + values.max()) / 2
        for (row, column), value in np.ndenumerate(values):
            ink = "white" if value > middle else "black"
            planes[0].text(column, row, f"{words[row, column]}\n{value:.3f}", ha="center", va="center", color=ink)

    return _drawn(draw, 1, 1, (0.8 * values.shape[1], 0.8 * values.shape[0]))


def pictures(images: np.ndarray, titles: Sequence[str] = (), columns: int = 10, colours: str = "gray_r") -> str:
    """Lay grey images (n, y, x) out in rows, each on its own scale, with a short title above where there is one."""
    columns = min(columns, len(images))
    rows = -(-len(images) // columns)

    def draw(planes: list[Any]) -> None:
        for place, plane in enumerate(planes):
            plane.axis("off")
            if place < len(images):
                plane.imshow(images[place], cmap=colours, interpolation="nearest")
                if titles:
                    plane.set_title(titles[place], fontsize=8, pad=2)

    return _drawn(draw, rows, columns, (0.72 * columns, (0.95 if titles else 0.75) * rows))


def _drawn(draw: Any, rows: int, columns: int, size: tuple[float, float]) -> str:
    """Draw on planes side by side, without the windows and the global state of pyplot: the same SVG each time."""
    import matplotlib as mpl
    from matplotlib.figure import Figure

    written = io.StringIO()
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=size, layout="constrained", facecolor="none")
        draw(list(np.ravel(figure.subplots(rows, columns))))
        figure.savefig(written, format="svg", metadata={"Date": None})
    text = written.getvalue()
    return text[text.index("<svg") :]
