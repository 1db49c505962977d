"""What `tile` reads and makes: the grid, the scenes of every date and the steps, and how the grid is cut into work."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from stages.geo.grid import Grid, Window
from stages.geo.indices import Index
from stages.geo.mosaic import Mask, Piece, Scene
from stages.geo.steps import Steps, TimeConfig

#: Most neighbouring tiles that are read at once.
GROUP = 4
#: Values of the series and of the observations of one step that are held at once: 64 MB of float32. Tiles that need
#: more are cut one at a time, in strips of rows.
BUDGET = 16_000_000


@dataclass(frozen=True)
class Plan:
    """What is read and made: the grid, for every date its scenes in order, and the steps that the dates fall into.

    ``bands`` of every date; ``static`` names with ``layers``, the files that hold them; ``shares`` of the area that
    are clear, a date, where the statistic asks for them.
    """

    grid: Grid
    bands: tuple[str, ...]
    dates: tuple[str, ...]
    scenes: tuple[tuple[Scene, ...], ...]
    steps: Steps
    time: TimeConfig
    mask: Mask | None = None
    indices: tuple[Index, ...] = ()
    static: tuple[str, ...] = ()
    layers: tuple[Piece, ...] = ()
    shares: tuple[float, ...] = ()

    @property
    def channels(self) -> tuple[str, ...]:
        """Bands of every step of the cube: those of the scenes, the indices, the static layers."""
        return (*self.bands, *(index.name for index in self.indices), *self.static)

    @property
    def depth(self) -> int:
        """Values that are held for every pixel: of the whole series, and of the dates of one step for a median."""
        stack = self.steps.most if self.time.statistic == "median" else 1
        return len(self.steps.names) * len(self.channels) + stack * len(self.bands)

    def groups(self) -> list[list[tuple[int, int, Window]]]:
        """Put neighbouring tiles of a row together, as many as the budget holds: one read of a file for all."""
        size = max(1, min(GROUP, BUDGET // (self.depth * self.grid.tile**2)))
        groups: list[list[tuple[int, int, Window]]] = []
        for tile in self.grid.tiles():
            if tile[1] % size:
                groups[-1].append(tile)
            else:
                groups.append([tile])
        return groups


def span(group: Sequence[tuple[int, int, Window]]) -> Window:
    """Put the windows of neighbouring tiles of a row together."""
    first, last = group[0][2], group[-1][2]
    return Window(first.row, first.col, first.height, last.col + last.width - first.col)


def strips(plan: Plan, window: Window) -> Iterator[Window]:
    """Cut a window into strips of rows that the budget holds."""
    rows = max(1, min(window.height, BUDGET // (plan.depth * window.width)))
    for row in range(0, window.height, rows):
        yield Window(window.row + row, window.col, min(rows, window.height - row), window.width)
