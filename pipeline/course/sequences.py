"""Lecture 6: networks with a memory: sums over a sequence, digits read row by row, and a year of satellite images."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from pipeline.course.lecture import Lecture, Picture, Result
from stages.models.recurrent import CELLS, Direction
from stages.training.descent import Descent, descend, predict

NUMBER = "6"
TITLE = "Recurrent networks and LSTMs"
TEXT = (
    "A recurrent network applies the same cell at every step and carries a state along. The plain cell overwrites its "
    "state each time; the long short-term memory adds to it, and gates decide what is written, kept and shown "
    "(Hochreiter and Schmidhuber 1997). The gated unit (Cho et al. 2014) does much the same with fewer weights.",
    "The adding problem asks for nothing but memory: of a long sequence of numbers two are marked, and their sum is "
    "wanted at the end. Always answering 1 gives a squared error of 0.167; what is far below has remembered.",
    "Digits need not be images. Read row by row, each row a step, they are sequences, and the same module reads them.",
    "A pixel through the year is a sequence, too: seven bands every ten days. The module here is the one of the "
    "pipeline's `lstm`, with the difference that the pipeline also knows which steps were clouded. A random forest on "
    "all values at once is a strong opponent: a recurrent network has to learn that June comes every year at the same "
    "place of the row.",
)
KINDS = {"plain RNN": "rnn", "LSTM": "lstm", "GRU": "gru"}


class Reader(nn.Module):
    """Read sequences (n, steps, features) with one recurrent cell and answer from its last state: (n, outputs)."""

    def __init__(self, kind: str, features: int, hidden: int, outputs: int) -> None:
        super().__init__()
        self.way = Direction(CELLS[kind](features, hidden, 1.0), backward=False, truncate=None)
        self.answer = nn.Linear(hidden, outputs)

    def forward(self, sequences: Tensor) -> Tensor:
        """(n, steps, features) -> (n, outputs)."""
        series = sequences.permute(1, 2, 0)
        _, last = self.way(series, series.new_ones(len(series), 1, series.shape[2]))
        answer: Tensor = self.answer(last.T)
        return answer


def run(folder: Path, full: bool, seed: int = 0) -> Lecture:
    """Train all cells on the adding problem, on digits, and on romania; the full version reads MNIST."""
    steps = 100 if full else 30
    # Steps of a small cell are too short to be shared out among threads, which would wait for one another.
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        errors, curves = adding(steps, seed, 60 if full else 12)
        digits, what = _digits(folder, full, seed)
        romania = _romania(folder.parents[3], seed, 40 if full else 15)
    finally:
        torch.set_num_threads(threads)
    best = "1.8 % pixel by pixel", "Arjovsky, Shah and Bengio 2016, Unitary evolution recurrent neural networks"
    results = [
        *(
            Result(f"adding problem, {steps} steps, {name}: squared error", f"{error:.4f}", "0.167 without memory")
            for name, error in errors.items()
        ),
        *(
            Result(f"{what} row by row, {name}: test error", f"{error:.2%}", *(best if full and name == "LSTM" else ()))
            for name, error in digits.items()
        ),
        *(Result(f"romania, {name}: accuracy on held-out blocks", f"{value:.3f}") for name, value in romania.items()),
    ]  # fmt: skip
    from pipeline.course import plots

    shown = Picture(
        f"The adding problem over {steps} steps: squared error on new sequences.",
        plots.plot(curves, "epoch", "squared error", log="y"),
    )
    return Lecture(NUMBER, TITLE, TEXT, (shown,), tuple(results))


def adding_problem(count: int, steps: int, seed: int) -> tuple[Tensor, Tensor]:
    """Draw sequences (n, steps, 2) of numbers in 0..1 and marks, one in either half, and the marked sums (n, 1)."""
    draw = torch.Generator().manual_seed(seed)
    numbers, marks = torch.rand(count, steps, generator=draw), torch.zeros(count, steps)
    for half in (0, steps // 2):
        marks.scatter_(1, half + torch.randint(steps // 2, (count, 1), generator=draw), 1.0)
    return torch.stack([numbers, marks], dim=2), (numbers * marks).sum(1, keepdim=True)


def adding(steps: int, seed: int, epochs: int) -> tuple[dict[str, float], dict[str, Any]]:
    """Squared error of every cell on new sequences, and its course."""
    sequences, sums = adding_problem(3_000, steps, seed)
    held = adding_problem(1_000, steps, seed + 1)
    errors, curves = {}, {}
    for name, kind in KINDS.items():
        torch.manual_seed(seed)
        network = Reader(kind, 2, 32, 1)
        descent = Descent(epochs=epochs, batch=50, lr=3e-3, clip_gradient=1.0, schedule="cosine", seed=seed)
        went = descend(network, sequences, sums, descent, held=held, loss=functional.mse_loss)
        errors[name] = went.held_loss[-1]
        curves[name] = list(range(1, len(went.held_loss) + 1)), went.held_loss
    return errors, curves


def _digits(folder: Path, full: bool, seed: int) -> tuple[dict[str, float], str]:
    """Test error of a plain network and an LSTM on digits read row by row, and which digits they are."""
    from pipeline.course.data import mnist, small_digits

    digits, scale = (mnist(), 255.0) if full else (small_digits(seed), 16.0)
    train, test = (torch.from_numpy(part.copy()).float() / scale for part in (digits.train_images, digits.test_images))
    known, asked = (torch.from_numpy(part.copy()).long() for part in (digits.train_labels, digits.test_labels))
    errors = {}
    for name in ("plain RNN", "LSTM"):
        torch.manual_seed(seed)
        network = Reader(KINDS[name], train.shape[2], 128 if full else 48, 10)
        descent = Descent(epochs=12 if full else 30, batch=100 if full else 32, lr=3e-3, clip_gradient=1.0,
                          schedule="one-cycle", seed=seed)  # fmt: skip
        descend(network, train, known, descent, folder=folder / name.replace(" ", "-") if full else None)
        errors[name] = float((predict(network, test).argmax(1) != asked).double().mean())
    return errors, "MNIST" if full else "small digits"


def _romania(root: Path, seed: int, epochs: int) -> dict[str, float]:
    """Accuracy on one held-out fold of blocks of the LSTM and of a random forest, both on the same pixels' years."""
    from pipeline.course.challenges import forest
    from pipeline.course.ground import labelled

    ground = labelled(root, "romania")
    held = ground.folds("block", seed) == 0
    found = {
        "random forest": float(
            forest(seed).fit(ground.values[~held], ground.labels[~held]).score(ground.values[held], ground.labels[held])
        )
    }
    mean, deviation = ground.values[~held].mean(0), ground.values[~held].std(0) + 1e-6
    series = torch.from_numpy(((ground.values - mean) / deviation).clip(-4, 4).astype(np.float32))
    series = series.reshape(len(series), len(ground.steps), len(ground.bands))
    labels = torch.from_numpy(ground.labels)
    torch.manual_seed(seed)
    network = Reader("lstm", len(ground.bands), 48, len(ground.classes))
    descent = Descent(epochs=epochs, batch=64, lr=3e-3, weight_decay=0.01, optimiser="adamw", clip_gradient=1.0,
                      schedule="one-cycle", average=0.99, seed=seed)  # fmt: skip
    descend(network, series[~held], labels[~held], descent)
    found["LSTM"] = float((predict(network, series[held]).argmax(1) == labels[held]).double().mean())
    return found
