"""Lecture 7: how far back a recurrent network can learn: gradients against the length of a series."""

from __future__ import annotations

from pathlib import Path
from statistics import median

import torch

from pipeline.course.lecture import Lecture, Picture, Result
from stages.models.recurrent import CELLS, Direction

NUMBER = "7"
TITLE = "Gradients through time"
TEXT = (
    "A series of 46 steps is 46 applications of the same cell, and the gradient of the first one is a product of 46 "
    "matrices: it fades or grows exponentially with the length (Hochreiter 1991; Bengio, Simard and Frasconi 1994). "
    "Below is what is left of it in untrained cells: the norm of the gradient of the last output with respect to the "
    "first input, as a share of that with respect to the last input.",
    "The long short-term memory is said to cure this. Only partly, and only if its forget gate starts open: a gate at "
    "0.5 halves the memory each step, which is no better than no gate. With a bias of 1 it keeps most of it "
    "(Gers et al. 2000; Jozefowicz et al. 2015), and training can open it further.",
    "The other end, a gradient that grows, is cut to a largest norm (Pascanu, Mikolov and Bengio 2013). Below a plain "
    "cell whose state matrix is scaled up shows both.",
    "Reading by attention, or fewer and longer steps, shortens the way instead: every step is then one step from the "
    "loss. That is why the pipeline composes months and reads its recurrent states by attention.",
)
BANDS, HIDDEN, PIXELS = 6, 64, 64
CELLS_SHOWN = {
    "plain RNN": ("rnn", 0.0), "LSTM, forget bias 0": ("lstm", 0.0), "LSTM, forget bias 1": ("lstm", 1.0),
    "GRU": ("gru", 0.0),
}  # fmt: skip
#: Factors by which the state matrix of a plain cell is scaled.
SCALES = (1.0, 2.0, 3.0)


def run(folder: Path, full: bool, seed: int = 0) -> Lecture:  # noqa: ARG001  nothing is worth keeping
    """Measure all cells at growing lengths."""
    lengths = (10, 20, 50, 100, 200) if full else (10, 20, 50, 100)
    seeds = range(seed, seed + (5 if full else 3))
    shares = {
        name: [median(share(kind, bias, length, one) for one in seeds) for length in lengths]
        for name, (kind, bias) in CELLS_SHOWN.items()
    }
    scaled = {
        f"state matrix x {scale:g}": [median(share("rnn", 0.0, n, one, scale) for one in seeds) for n in lengths]
        for scale in SCALES
    }
    from pipeline.course import plots

    pictures = tuple(
        Picture(caption, plots.plot({name: (lengths, values) for name, values in curves.items()}, "steps",
                                     "gradient at the first step / at the last", log="y"))
        for caption, curves in (
            ("What is left of the gradient at the first step, by the length of the series.", shares),
            ("The same of a plain cell without its squashing, whose gradient fades or grows with its matrix.", scaled),
        )
    )  # fmt: skip
    results = tuple(
        Result(f"{name}: gradient left after {lengths[-1]} steps", f"{values[-1]:.0e}")
        for name, values in {**shares, **scaled}.items()
    )
    return Lecture(NUMBER, TITLE, TEXT, pictures, results)


def share(kind: str, forget_bias: float, length: int, seed: int, scale: float | None = None) -> float:
    """Norm of the gradient at the first input over that at the last one, of one untrained network in float64.

    With ``scale``, of the linear recurrence of the plain cell whose state matrix is so many times as large.
    """
    torch.manual_seed(seed)
    way = Direction(CELLS[kind](BANDS, HIDDEN, forget_bias), backward=False, truncate=None).double()
    series = torch.randn(length, BANDS, PIXELS, dtype=torch.float64, requires_grad=True)
    if scale is None:
        _, last = way(series, torch.ones(length, 1, PIXELS, dtype=torch.float64))
    else:
        weight = next(way.parameters()).detach()
        last = torch.zeros(HIDDEN, PIXELS, dtype=torch.float64)
        for step in series:
            last = weight[:, :BANDS] @ step + scale * weight[:, BANDS:] @ last
    (gradient,) = torch.autograd.grad(last.sum(), series)
    first, latest = (gradient[step].norm() for step in (0, -1))
    return float(first / latest)
