"""Draw batches of training chips around labelled pixels, the same ones for the same seed, epoch and step."""

from __future__ import annotations

import threading
import weakref
from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from stages.training import augmentation
from stages.training.ground import Ground, Place
from stages.training.mosaic import Mosaic
from stages.training.recipes import Recipe

Batch = tuple[Tensor, Tensor, Tensor, Tensor]
#: Image, valid and labels of a batch, and the season of every chip.
Arrays = tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]
#: Batches whose memory is kept to be written again.
KEPT = 8
_LENDING = threading.Lock()


class Lent:
    """Arrays that are lent, and free again once nothing refers to what was lent: no array, tensor or view of it."""

    def __init__(self, arrays: Arrays) -> None:
        self._arrays = arrays
        self._lent: list[weakref.ref[np.ndarray]] = []

    @property
    def is_free(self) -> bool:
        """Whether all that was lent is gone."""
        return all(array() is None for array in self._lent)

    def lend(self) -> Arrays:
        """Give the arrays; their content is whatever was written last."""
        # A tensor holds the very array that it was made from, here a view that nobody else has.
        views = tuple(array.view() for array in self._arrays)
        self._lent = [weakref.ref(view) for view in views]
        return views  # type: ignore[return-value]


class Chips(Dataset[Batch]):
    """The batches of one epoch: image (n, c, y, x), valid (n, step, y, x), days (n, step) and labels (n, y, x).

    Valid is bool and labels uint8, as they are stored: what computes with them widens them where it does. A labelled
    pixel is drawn (any with the same chance, or in a share ``rare`` of the chips a class first), and the chip is laid
    so that the pixel falls anywhere in its middle half. Sparse points and dense maps alike. A chip of one pixel is the
    pixel itself. Synthetic samples of the ground come as mosaics in the place of some chips. A batch's memory is
    written again once nothing refers to it.
    """

    def __init__(self, ground: Ground, recipe: Recipe, seed: int, epoch: int) -> None:
        self.ground = ground
        self.recipe = recipe
        self.seed = (seed, epoch)
        self._movers: list[Any] = []
        self._kept: list[Lent] = []
        counts = ground.cells.astype(np.float64)
        self._cells = counts.sum(axis=1).cumsum()
        #: How many labelled pixels lie in the cells before each.
        self._before = np.append(0, ground.cells.sum(axis=1).cumsum())
        self._cells_of = counts.cumsum(axis=0)
        self._classes = np.flatnonzero(counts.sum(axis=0) > 0)
        self._mosaic = _mosaic(ground, recipe.chip)
        single = recipe.chip == 1
        #: In which order labelled pixels come, none where chips are larger.
        self._order = _rounds(self._before[-1], recipe.steps * recipe.batch, self.seed) if single else np.empty(0)

    def of_epoch(self, epoch: int) -> Chips:
        """Give the batches of another epoch, drawn into the same memory."""
        other = type(self)(self.ground, self.recipe, self.seed[0], epoch)
        other._movers, other._kept = self._movers, self._kept
        return other

    def __len__(self) -> int:
        return self.recipe.steps

    def __getitem__(self, step: int) -> Batch:
        if not 0 <= step < len(self):
            raise IndexError(step)
        rng = np.random.default_rng((*self.seed, step))
        room = self._room()
        if len(self._order):
            self._pixels(rng, step, room)
        else:
            self._chips(rng, step, room)
        if self._mosaic is not None:
            self._mosaic.lay(rng, room)
        images, valids, labels, seasons = room
        days = torch.from_numpy(self.ground.days[seasons])
        return torch.from_numpy(images), torch.from_numpy(valids), days, torch.from_numpy(labels)

    def _room(self) -> Arrays:
        """Give arrays for a batch: those of an earlier one that is gone, as fresh memory costs a fault a page."""
        with _LENDING:
            free = next((kept for kept in self._kept if kept.is_free), None)
            if free is not None:
                return free.lend()
            ground, count, size = self.ground, self.recipe.batch, self.recipe.chip
            made = Lent((
                np.empty((count, len(ground.split.channels), size, size), np.float32),
                np.empty((count, ground.days.shape[1], size, size), bool),
                np.empty((count, size, size), np.uint8),
                np.empty(count, np.int64),
            ))  # fmt: skip
            if len(self._kept) < KEPT:
                self._kept.append(made)
            return made.lend()

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_kept": [], "_movers": []}

    def _chips(self, rng: np.random.Generator, step: int, room: Arrays) -> None:
        image, valid, labels, seasons = room
        if augmentation.moves(self.recipe):
            self._moved(rng, step, room)
            return
        places = list(self._places(rng, step))
        self.ground.cut_into(places, (image, valid, labels))
        seasons[:] = [season for season, _, _ in places]

    def _moved(self, rng: np.random.Generator, step: int, room: Arrays) -> None:
        """Draw chips and move each at random."""
        ground, mover = self.ground, self._movers.pop() if self._movers else augmentation.mover(self.recipe)
        for at, place in enumerate(self._places(rng, step)):
            seed = int(rng.integers(2**31))
            chip = augmentation.move(mover, ground.cut(*place, self.recipe.chip), seed, ground.split.steps)
            for target, values in zip(room, (*chip, place[0]), strict=True):
                target[at] = values
        self._movers.append(mover)

    def _pixels(self, rng: np.random.Generator, step: int, room: Arrays) -> None:
        """Draw single labelled pixels, all at once; in an epoch none comes again before all others came."""
        ground = self.ground
        pixel = self._order[step * self.recipe.batch :][: self.recipe.batch]
        slot = np.searchsorted(self._before, pixel, side="right") - 1
        y, x = np.divmod(ground.spots[pixel].astype(np.int64), ground.side)
        rare = rng.random(self.recipe.batch) < self.recipe.rare
        for place in np.flatnonzero(rare):
            of_class = int(rng.choice(self._classes))
            slot[place] = _draw(self._cells_of[:, of_class], rng)
            candidates = np.flatnonzero(ground.labels[slot[place]] == of_class)
            y[place], x[place] = divmod(int(rng.choice(candidates)), ground.side)
        image, valid, labels, season = room
        image[:, :, 0, 0], valid[:, :, 0, 0], labels[:, 0, 0] = ground.pick(slot, y, x)
        season[:] = ground.places[slot, 0]

    def _places(self, rng: np.random.Generator, step: int) -> Iterator[Place]:  # noqa: ARG002
        """Draw the places of a batch, one after another."""
        for _ in range(self.recipe.batch):
            yield self._place(rng)

    def _place(self, rng: np.random.Generator) -> Place:
        """Season, first row and first column of a chip."""
        season, row, col = self._pixel(rng)
        low, high = self.recipe.chip // 4, self.recipe.chip - self.recipe.chip // 4
        return season, row - int(rng.integers(low, high)), col - int(rng.integers(low, high))

    def _pixel(self, rng: np.random.Generator) -> Place:
        """Season, row and column on the grid of one labelled pixel."""
        ground = self.ground
        if rng.random() < self.recipe.rare:
            wanted = int(rng.choice(self._classes))
            slot = _draw(self._cells_of[:, wanted], rng)
            candidates = np.flatnonzero(ground.labels[slot] == wanted)
            inside = int(candidates[rng.integers(len(candidates))])
        else:
            slot = _draw(self._cells, rng)
            first, last = self._before[slot : slot + 2].tolist()
            inside = int(ground.spots[first + rng.integers(last - first)])
        y, x = divmod(inside, ground.side)
        season, row, col = ground.places[slot].tolist()
        return season, row * ground.side + y, col * ground.side + x


class Ahead:
    """Batches drawn ahead of their use by threads of this process; the same ones in the same order.

    Threads and not processes: copying does not hold the interpreter, and a batch that a process hands over is copied
    into fresh memory once more.
    """

    def __init__(self, batches: Dataset[Batch], workers: int) -> None:
        self.batches = batches
        self.workers = workers

    def __len__(self) -> int:
        return len(self.batches)  # type: ignore[arg-type]

    def __iter__(self) -> Iterator[Batch]:
        waiting: deque[Future[Batch]] = deque()
        pool = ThreadPoolExecutor(self.workers, "chips")
        try:
            for step in range(len(self)):
                waiting.append(pool.submit(self.batches.__getitem__, step))
                if len(waiting) > self.workers:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        finally:
            pool.shutdown(cancel_futures=True)


def feed(batches: Dataset[Batch], workers: int) -> DataLoader[Batch] | Ahead:
    """Give the batches in order, drawn when asked for, or ahead by so many threads."""
    return Ahead(batches, workers) if workers else DataLoader(batches, batch_size=None)


def _mosaic(ground: Ground, chip: int) -> Mosaic | None:
    """Prepare mosaics of the synthetic samples that are mixed into a ground, if any."""
    synthetic, labelled = ground.synthetic, int(ground.cells.sum())
    if synthetic is None or not len(synthetic):
        return None
    density = labelled / (np.count_nonzero(ground.cells.any(axis=1)) * ground.side**2)
    return Mosaic(synthetic, chip, labelled, 1.0 if chip == 1 else density)


def _rounds(count: int, wanted: int, seed: tuple[int, ...]) -> np.ndarray:
    """Put ``count`` places in random order, again and again until there are as many as wanted: int64 (wanted,)."""
    rng = np.random.default_rng(seed)
    if count > wanted:
        return rng.choice(count, size=wanted, replace=False)
    rounds = [rng.permutation(count) for _ in range(-(-wanted // max(count, 1)))]
    return np.concatenate(rounds)[:wanted]


def _draw(cumulated: np.ndarray, rng: np.random.Generator) -> int:
    """Draw an index with a chance proportional to its weight, from cumulated weights."""
    return int(cumulated.searchsorted(rng.random() * cumulated[-1], side="right"))
