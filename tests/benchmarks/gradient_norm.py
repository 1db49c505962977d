"""Measure how the gradient at the first step fades, or not, with the length of a series, for each recurrent cell.

    python -m tests.benchmarks.gradient_norm [--seeds 5]

Prints the norm of d(sum of the last outputs) / d(first input), as a share of the norm at the last input: the median
over untrained networks of different seeds, hidden 64, inputs of six bands drawn from a normal distribution, in float64.
"""

from __future__ import annotations

import argparse
from statistics import median

import torch

from stages.models.recurrent import CELLS, Direction

LENGTHS = (10, 20, 50, 100, 200)
BANDS, HIDDEN, PIXELS = 6, 64, 64
ROWS = {"plain RNN": ("rnn", 0.0), "LSTM, forget bias 0": ("lstm", 0.0), "LSTM, forget bias 1": ("lstm", 1.0),
        "GRU": ("gru", 0.0)}  # fmt: skip


def share(kind: str, forget_bias: float, length: int, seed: int) -> float:
    """Norm of the gradient at the first input over that at the last one, of one untrained network."""
    torch.manual_seed(seed)
    way = Direction(CELLS[kind](BANDS, HIDDEN, forget_bias), backward=False, truncate=None).double()
    series = torch.randn(length, BANDS, PIXELS, dtype=torch.float64, requires_grad=True)
    _, last = way(series, torch.ones(length, 1, PIXELS, dtype=torch.float64))
    (gradient,) = torch.autograd.grad(last.sum(), series)
    first, latest = (gradient[step].norm() for step in (0, -1))
    return float(first / latest)


def main() -> None:
    """Print the table: a line a cell, a column a length."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--seeds", type=int, default=5, help="networks a figure")
    asked = parser.parse_args()
    torch.set_num_threads(1)
    print("| gradient at the first step / at the last, steps: | " + " | ".join(map(str, LENGTHS)) + " |")
    print("| --- " * (len(LENGTHS) + 1) + "|")
    for name, (kind, bias) in ROWS.items():
        found = [median(share(kind, bias, length, seed) for seed in range(asked.seeds)) for length in LENGTHS]
        print(f"| {name} | " + " | ".join(f"{value:.0e}" for value in found) + " |")


if __name__ == "__main__":
    main()
