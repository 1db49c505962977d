"""Recurrent networks for series: LSTM, and as options of the same model the GRU and the plain RNN."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional

from stages.models.reach import Sighted
from stages.models.series import CERTAIN, Columns, as_image, columns, dated, linear

State = tuple[Tensor, ...]


class LongShortTerm(nn.Module):
    """A cell whose memory c is guarded by gates (Hochreiter and Schmidhuber 1997; forget gate: Gers et al. 2000).

    A missing step closes the input gate and opens the forget gate, so the memory is kept exactly, and the output
    is kept beside it. The forget gate starts with a bias of its own (Jozefowicz et al. 2015).
    """

    closing: Tensor

    def __init__(self, inputs: int, hidden: int, forget_bias: float) -> None:
        super().__init__()
        self.hidden = hidden
        self.weight = nn.Parameter(torch.empty(4 * hidden, inputs + hidden).uniform_(-(hidden**-0.5), hidden**-0.5))
        self.bias = nn.Parameter(torch.empty(4 * hidden).uniform_(-(hidden**-0.5), hidden**-0.5))
        with torch.no_grad():
            self.bias[hidden : 2 * hidden] = forget_bias
        gates = torch.tensor([-CERTAIN, CERTAIN, 0.0, 0.0])
        self.register_buffer("closing", gates.repeat_interleave(hidden)[:, None], persistent=False)

    def start(self, pixels: Tensor) -> State:
        """Give the state before the first step: output h and memory c, (hidden, pixels) each."""
        zeros = pixels.new_zeros(self.hidden, pixels.shape[-1])
        return zeros, zeros

    def matrices(self) -> State:
        """Give the matrix of every gate; its columns are the step's features, its bias, a missing step, the state."""
        inputs = self.weight.shape[1] - self.hidden
        whole = torch.cat([self.weight[:, :inputs], self.bias[:, None], self.closing, self.weight[:, inputs:]], dim=1)
        return whole.chunk(4)

    def forward(self, matrices: State, seen: Tensor, valid: Tensor, state: State) -> State:
        """One step: ``seen`` (features + 2, pixels) ends with a row of ones and 1 - ``valid``, which is (1, pixels)."""
        h, c = state
        at = torch.cat([seen, h])
        i, f, g, o = (matrix @ at for matrix in matrices)
        c = f.sigmoid() * c + i.sigmoid() * g.tanh()
        return valid * (o.sigmoid() * c.tanh()) + seen[-1:] * h, c


class GatedUnit(nn.Module):
    """A cell that mixes its old state and a candidate by an update gate (Cho et al. 2014).

    A missing step opens the update gate wholly to the old state. The reset gate acts on the candidate's share of
    the state after its matrix, as every fast implementation has it.
    """

    closing: Tensor

    def __init__(self, inputs: int, hidden: int, _: float) -> None:
        super().__init__()
        self.hidden = hidden
        self.weight = nn.Parameter(torch.empty(3 * hidden, inputs + hidden).uniform_(-(hidden**-0.5), hidden**-0.5))
        self.bias = nn.Parameter(torch.empty(3 * hidden).uniform_(-(hidden**-0.5), hidden**-0.5))
        self.reset_bias = nn.Parameter(torch.empty(hidden).uniform_(-(hidden**-0.5), hidden**-0.5))
        gates = torch.tensor([0.0, CERTAIN, 0.0])
        self.register_buffer("closing", gates.repeat_interleave(hidden)[:, None], persistent=False)

    def start(self, pixels: Tensor) -> State:
        """Give the state before the first step: (hidden, pixels)."""
        return (pixels.new_zeros(self.hidden, pixels.shape[-1]),)

    def matrices(self) -> State:
        """Give the matrices of both gates, and of the candidate those for the step's features and for the state."""
        hidden, inputs = self.hidden, self.weight.shape[1] - self.hidden
        seen = torch.cat([self.weight[:, :inputs], self.bias[:, None], self.closing], dim=1)
        reset, update = torch.cat([seen, self.weight[:, inputs:]], dim=1)[: 2 * hidden].chunk(2)
        return reset, update, seen[2 * hidden :], self.weight[2 * hidden :, inputs:]

    def forward(self, matrices: State, seen: Tensor, _: Tensor, state: State) -> State:
        """One step: ``seen`` (features + 2, pixels) ends with a row of ones and a row that is 1 where missing."""
        (h,) = state
        reset, update, candidate, of_state = matrices
        at = torch.cat([seen, h])
        u = (update @ at).sigmoid()
        r = (reset @ at).sigmoid()
        new = (candidate @ seen + r * (of_state @ h + self.reset_bias[:, None])).tanh()
        return ((1.0 - u) * new + u * h,)


class PlainUnit(nn.Module):
    """A cell without gates (Elman 1990), for comparison: its gradient fades with every step (see docs/gradients.md)."""

    def __init__(self, inputs: int, hidden: int, _: float) -> None:
        super().__init__()
        self.hidden = hidden
        self.weight = nn.Parameter(torch.empty(hidden, inputs + hidden).uniform_(-(hidden**-0.5), hidden**-0.5))
        self.bias = nn.Parameter(torch.empty(hidden).uniform_(-(hidden**-0.5), hidden**-0.5))

    def start(self, pixels: Tensor) -> State:
        """Give the state before the first step: (hidden, pixels)."""
        return (pixels.new_zeros(self.hidden, pixels.shape[-1]),)

    def matrices(self) -> State:
        """Give the one matrix; its columns are the step's features, its bias, a missing step, the state."""
        inputs = self.weight.shape[1] - self.hidden
        bias = self.bias[:, None]
        return (torch.cat([self.weight[:, :inputs], bias, torch.zeros_like(bias), self.weight[:, inputs:]], dim=1),)

    def forward(self, matrices: State, seen: Tensor, valid: Tensor, state: State) -> State:
        """One step: ``seen`` (features + 2, pixels) ends with a row of ones and 1 - ``valid``, which is (1, pixels)."""
        (h,) = state
        return (valid * (matrices[0] @ torch.cat([seen, h])).tanh() + seen[-1:] * h,)


CELLS: dict[str, type[nn.Module]] = {"lstm": LongShortTerm, "gru": GatedUnit, "rnn": PlainUnit}


class Direction(nn.Module):
    """A cell led over the steps from the first to the last, or back; a missing step leaves its state as it is.

    So its state after the last step is that after the last valid one: what a packed sequence of the valid steps
    gives, without moving any of them.
    """

    def __init__(self, cell: nn.Module, backward: bool, truncate: int | None) -> None:
        super().__init__()
        self.cell = cell
        self.backward = backward
        self.truncate = truncate

    def forward(self, series: Tensor, valid: Tensor) -> tuple[Tensor, Tensor]:
        """Give all outputs (steps, hidden, pixels) and the last of (steps, features, pixels) and (steps, 1, pixels).

        In training the gradient goes ``truncate`` steps back at most (Williams and Peng 1990).
        """
        seen = torch.cat([series, torch.ones_like(valid), 1.0 - valid], dim=1)
        state, matrices = self.cell.start(seen), self.cell.matrices()  # type: ignore[operator]
        order = range(seen.shape[0])
        outputs = []
        for done, step in enumerate(reversed(order) if self.backward else order):
            if self.training and self.truncate and done and done % self.truncate == 0:
                state = tuple(part.detach() for part in state)
            state = self.cell(matrices, seen[step], valid[step], state)
            outputs.append(state[0])
        return torch.stack(outputs[::-1] if self.backward else outputs), outputs[-1]


class Attention(nn.Module):
    """Mean over the steps, weighted by how much each one has to say (Bahdanau et al. 2015, with one learned query)."""

    def __init__(self, features: int) -> None:
        super().__init__()
        self.key = nn.Linear(features, features)
        self.query = nn.Parameter(torch.empty(1, features).uniform_(-(features**-0.5), features**-0.5))

    def forward(self, outputs: Tensor, valid: Tensor) -> Tensor:
        """Sum up (steps, features, pixels) into (features, pixels); validity is (steps, 1, pixels)."""
        score = self.query @ linear(self.key, outputs).tanh() - CERTAIN * (1.0 - valid)
        return (functional.softmax(score, dim=0) * outputs).sum(dim=0)


class LSTM(Sighted):
    """Long short-term memory over the steps of every pixel (Hochreiter and Schmidhuber 1997).

    ``kind`` takes the GRU or the plain RNN in its place. Of both directions (Schuster and Paliwal 1997) and of
    several layers each reads the outputs of the layer below. The classes are read from the last states, or from
    the outputs of all valid steps by attention. ``calendar`` appends the sine and cosine of the day of the year to
    every step, so that dates may be irregular. Missing steps are passed over, which equals a packed sequence.

    Takes (n, steps * bands, y, x), validity (n, steps, y, x) and days (n, steps); gives logits (n, classes, y, x).
    """

    series = True

    def __init__(
        self, bands: int, steps: int, classes: int, *, kind: Literal["lstm", "gru", "rnn"] = "lstm", hidden: int = 64,
        layers: int = 1, bidirectional: bool = False, readout: Literal["last", "attention"] = "last",
        dropout: float = 0.1, forget_bias: float = 1.0, calendar: bool = True, truncate: int | None = None,
    ) -> None:  # fmt: skip
        super().__init__(steps * bands, steps)
        self.bands, self.steps, self.calendar = bands, steps, calendar
        ways = (False, True) if bidirectional else (False,)
        width = hidden * len(ways)
        inputs = [bands + 2 * calendar, *[width] * (layers - 1)]
        self.layers = nn.ModuleList(
            nn.ModuleList(Direction(CELLS[kind](size, hidden, forget_bias), back, truncate) for back in ways)
            for size in inputs
        )
        self.attention = Attention(width) if readout == "attention" else None
        self.drop = nn.Dropout(dropout)
        self.head = nn.Linear(width, classes)

    def forward(self, image: Tensor, valid: Tensor, days: Tensor) -> Tensor:
        """Logits of every pixel; one without any valid step gets those of a state of zeros."""
        return as_image(self.of_columns(columns(image, valid, days, self.steps, self.bands)), image)

    def of_columns(self, seen: Columns) -> Tensor:
        """Logits (classes, pixels) of columns."""
        outputs = (dated(seen) if self.calendar else seen.series).flatten(2)
        valid = seen.valid.flatten(2)
        last: list[Tensor] = []
        for number, layer in enumerate(self.layers):
            features = self.drop(outputs) if number else outputs
            ways = [way(features, valid) for way in layer]  # type: ignore[attr-defined]
            outputs = torch.cat([way[0] for way in ways], dim=1)
            last = [way[1] for way in ways]
        state = torch.cat(last) if self.attention is None else self.attention(outputs, valid)
        return linear(self.head, self.drop(state))
