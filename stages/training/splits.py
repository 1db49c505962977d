"""Divide ground blocks into train, validation and test, and prove that nothing leaks between them."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from stages.errors import LeakError
from stages.formats.samples import DROPPED, UNLABELLED, Part, Role, Samples
from stages.geo.blocks import smallest_sides
from stages.geo.grid import Grid, Window

#: Cost of a class that is absent from a part although it has blocks enough for all; above any cost of imbalance.
ABSENT = 100.0
#: Blocks looked at in a round of improvement, and rounds in a row without a gain that end it.
CANDIDATES, PATIENCE, ROUNDS = 256, 12, 400
#: Weight of the number of blocks of a part beside the weight 1 of the share of each class.
BLOCK_COUNT = 0.25


def assign_blocks(counts: np.ndarray, shares: tuple[float, ...], seed: int) -> np.ndarray:
    """Divide blocks into parts so that every part holds its share of every class: part of each block, int64 (block,).

    ``counts`` (block, class) are labelled pixels, ``shares`` (part,) sum to 1. A greedy pass hands out blocks, those
    with the greatest share of a class first, each to where it lowers the cost most; then moves and exchanges of
    blocks are made while they lower it. The cost is the squared deviation from the shares, summed over classes, all
    pixels and (weakly) the number of blocks, and `ABSENT` for every class missing from a part. Blocks without a
    label go to part 0. The same seed gives the same parts.
    """
    counts = np.asarray(counts, dtype=np.float64)
    parts = np.zeros(len(counts), dtype=np.int64)
    used = np.flatnonzero(counts.sum(axis=1) > 0)
    if not len(used):
        return parts
    content = _content(counts[used])
    cost = _Cost(np.asarray(shares, dtype=np.float64), content, counts[used])
    rng = np.random.default_rng(seed)
    parts[used] = _improve(content, _greedy(content, cost, rng), cost, rng)
    return parts


def _content(counts: np.ndarray) -> np.ndarray:
    """Share of each class, of all pixels and of the blocks that each block holds: (block, class + 2)."""
    totals = counts.sum(axis=0)
    present = counts[:, totals > 0] / totals[totals > 0]
    every = counts.sum(axis=1, keepdims=True) / counts.sum()
    return np.concatenate([present, every, np.full((len(counts), 1), 1 / len(counts))], axis=1)


class _Cost:
    """How far the parts are from their shares of each column of ``content``."""

    def __init__(self, shares: np.ndarray, content: np.ndarray, counts: np.ndarray) -> None:
        self.shares = shares
        holders = (counts[:, counts.sum(axis=0) > 0] > 0).sum(axis=0)
        self.weight = np.ones(content.shape[1])
        self.weight[-1] = BLOCK_COUNT
        self.absent = np.zeros(content.shape[1])
        self.absent[: len(holders)] = np.where(holders >= len(shares), ABSENT, 0.0)

    def of(self, part: Any, have: np.ndarray) -> np.ndarray:
        """Cost of holding ``have`` (..., column) in ``part`` (an index that broadcasts): (...)."""
        share = self.shares[part][..., None]
        gap = (have - share) ** 2 / share * self.weight
        # Content is compared with a small number: sums and differences of shares do not come out as exactly 0.
        cost: np.ndarray = (gap + self.absent * (have < 1e-9)).sum(axis=-1)
        return cost


def _greedy(content: np.ndarray, cost: _Cost, rng: np.random.Generator) -> np.ndarray:
    """Hand out blocks by falling share of their rarest class, shuffled a little."""
    parts = np.zeros(len(content), dtype=np.int64)
    every = np.arange(len(cost.shares))
    have = np.zeros((len(every), content.shape[1]))
    key = content[:, :-1].max(axis=1) * (1 + 0.3 * rng.random(len(content)))
    tie = rng.random((len(content), len(every))) * 1e-9
    for block in np.argsort(-key, kind="stable"):
        gain = cost.of(every, have + content[block]) - cost.of(every, have)
        part = int(np.argmin(gain + tie[block]))
        parts[block] = part
        have[part] += content[block]
    return parts


def _improve(content: np.ndarray, parts: np.ndarray, cost: _Cost, rng: np.random.Generator) -> np.ndarray:
    """Make the best move or exchange among some blocks, again and again, until none helps."""
    parts = parts.copy()
    every = np.arange(len(cost.shares))
    quiet = 0
    for _ in range(ROUNDS):
        have = np.stack([content[parts == part].sum(axis=0) for part in every])
        some = np.sort(rng.permutation(len(content))[:CANDIDATES])
        gain, change = _best_change(content[some], parts[some], have, cost)
        if gain > -1e-9:
            quiet += 1
            if len(some) == len(content) or quiet == PATIENCE:
                break
            continue
        quiet = 0
        for block, part in change:
            parts[some[block]] = part
    return parts


def _best_change(
    content: np.ndarray, parts: np.ndarray, have: np.ndarray, cost: _Cost
) -> tuple[float, list[tuple[int, int]]]:
    """Change of cost of the best move or exchange, and the blocks with their new parts."""
    every = np.arange(len(have))
    now = cost.of(every, have)
    leaving = cost.of(parts, have[parts] - content) - now[parts]
    arriving = cost.of(every, have[None] + content[:, None]) - now
    move = leaving[:, None] + np.where(every == parts[:, None], np.inf, arriving)
    block, part = np.unravel_index(move.argmin(), move.shape)
    best, change = float(move[block, part]), [(int(block), int(part))]
    swap = np.full((len(content), len(content)), np.inf)
    for one in every:
        for other in every[one + 1 :]:
            a, b = np.flatnonzero(parts == one), np.flatnonzero(parts == other)
            given = content[a][:, None] - content[b][None]
            swap[np.ix_(a, b)] = (
                cost.of(one, have[one] - given) + cost.of(other, have[other] + given) - now[one] - now[other]
            )
    first, second = np.unravel_index(swap.argmin(), swap.shape)
    if swap[first, second] < best:
        best = float(swap[first, second])
        change = [(int(first), int(parts[second])), (int(second), int(parts[first]))]
    return best, change


def single_split(counts: np.ndarray, shares: tuple[float, ...], seed: int) -> np.ndarray:
    """`Part` of every block in one split by shares of train, validation and perhaps test: uint8 (1, block)."""
    order = np.array([Part.TRAIN, Part.VALIDATION, Part.TEST], dtype=np.uint8)
    parts: np.ndarray = order[assign_blocks(counts, shares, seed)][None]
    return parts


def cross_split(counts: np.ndarray, folds: int, validation: float, seed: int) -> np.ndarray:
    """`Part` of every block in each of ``folds`` folds: uint8 (fold, block).

    Each labelled block is test in exactly one fold; of the other blocks of a fold the share ``validation`` validates.
    Blocks without a label hold nothing out and train in every fold.
    """
    fold_of = assign_blocks(counts, (1 / folds,) * folds, seed)
    labelled = counts.sum(axis=1) > 0
    parts = np.full((folds, len(counts)), Part.TRAIN, dtype=np.uint8)
    for fold in range(folds):
        test = labelled & (fold_of == fold)
        rest = np.flatnonzero(labelled & ~test)
        inner = assign_blocks(counts[rest], (1 - validation, validation), seed * 1000 + fold + 1)
        parts[fold, test] = Part.TEST
        parts[fold, rest[inner == 1]] = Part.VALIDATION
    return parts


def year_split(counts: np.ndarray, validation: float, seed: int) -> tuple[np.ndarray, list[int]]:
    """`Part` of every block where each fold tests one season: uint8 (fold, season, block), and those seasons.

    ``counts`` (season, block, class) are labelled pixels; seasons without any have no fold. Of a fold's other seasons
    the same blocks train or validate in all, the share ``validation`` of their labels validates.
    """
    tested = np.flatnonzero(counts.sum(axis=(1, 2)) > 0).tolist()
    parts = np.full((len(tested), *counts.shape[:2]), Part.TRAIN, dtype=np.uint8)
    for fold, season in enumerate(tested):
        others = np.delete(counts, season, axis=0).sum(axis=0)
        inner = assign_blocks(others, (1 - validation, validation), seed * 1000 + fold + 1)
        parts[fold, :, inner == 1] = Part.VALIDATION
        parts[fold, season] = Part.TEST
    return parts, tested


def halo(grid: Grid, buffer: float) -> int:
    """Pixels around a window that can lie within ``buffer`` metres of it."""
    return math.ceil(buffer / min(smallest_sides(grid, grid.whole)))


def near(held: np.ndarray, sides: tuple[float, float], buffer: float) -> np.ndarray:
    """Pixels whose centre is nearer than ``buffer`` metres to the centre of a held pixel: bool (y, x).

    ``sides`` are the metres of a pixel (down, across). A held pixel is near itself unless ``buffer`` is 0.
    """
    from scipy.ndimage import distance_transform_edt

    if buffer <= 0 or not held.any():
        return np.zeros(held.shape, dtype=bool)
    distance: np.ndarray = distance_transform_edt(~held, sampling=sides)
    # A distance that is the buffer itself but for rounding is not nearer.
    return distance < buffer * (1 - 1e-9)


def assign_roles(target: np.ndarray, mixed: np.ndarray, part: np.ndarray, too_near: np.ndarray) -> np.ndarray:
    """`Role` of every label of a fold: uint8 (y, x).

    Test labels stay whatever they are, dropped classes too; validation labels must have a class of the map; training
    labels must moreover be pure and far enough from what is held out.
    """
    role = np.full(target.shape, Role.NONE, dtype=np.uint8)
    labelled, mapped = target != UNLABELLED, target < DROPPED
    training = mapped & (part == Part.TRAIN)
    role[training] = Role.TRAIN
    role[training & too_near] = Role.BUFFER
    role[training & mixed] = Role.MIXED
    role[mapped & (part == Part.VALIDATION)] = Role.VALIDATION
    role[labelled & (part == Part.TEST)] = Role.TEST
    return role


def held_out(apart: np.ndarray, block: np.ndarray, parts: np.ndarray | None) -> np.ndarray:
    """Pixels that a fold's training may not see: bool (y, x).

    ``apart`` are the pixels of the independent test set, ``block`` the block of every pixel, ``parts`` the `Part` of
    every block in the fold; None for the final model, which only the independent test set is held out of.
    """
    if parts is None:
        return apart
    part = parts[block]
    held: np.ndarray = apart | (part == Part.VALIDATION) | (part == Part.TEST)
    return held


def parts_of(samples: Samples, fold: int | None) -> np.ndarray | None:
    """`Part` of every block in a fold and the opened season; None for the final model."""
    return None if fold is None else samples.parts[fold]


def check_training_input(
    valid: np.ndarray, labels: np.ndarray, samples: Samples, fold: int | None, window: Window
) -> None:
    """See that what a training is fed on a window holds nothing held out.

    ``valid`` bool (y, x) are the pixels whose values are fed, ``labels`` uint8 (y, x) the loss's targets
    (`UNLABELLED` where it does not look). ``fold`` None is the final model.

    Raises:
        LeakError: a held-out pixel is fed, or a label is used that is not a training label.
    """
    where = "the final model" if fold is None else f"fold {fold}"
    held = held_out(samples.apart(window), samples.read("block", window), parts_of(samples, fold))
    fed = int((valid.astype(bool) & held).sum())
    if fed:
        raise LeakError(f"{fed} pixels of held-out blocks or of the independent test set reach the input of {where}.")
    used = int(((labels != UNLABELLED) & (samples.roles(fold, window) != Role.TRAIN)).sum())
    if used:
        raise LeakError(f"{used} labels that are not training labels reach the loss of {where}.")


def verify_window(samples: Samples, grid: Grid, window: Window) -> np.ndarray:
    """Check one window of all folds and seasons; give its (group, block) pairs, int32 (pair, 2), for `check_groups`.

    Raises:
        LeakError: a training label in a held-out block, in the independent test set or within the buffer of one;
            a training mask that lets a held-out pixel through; or ground that changes its block with the season.
    """
    outer = window.padded(halo(grid, samples.summary["buffer"]), grid)
    blocks = samples.read_seasons("block", outer)
    _refuse((blocks != blocks[:1]).any(axis=0), "pixels belong to other ground blocks in other seasons")
    pairs = [_verify_season(one, grid, window, outer) for one in samples.each_season()]
    return np.unique(np.concatenate(pairs), axis=0)


def _verify_season(samples: Samples, grid: Grid, window: Window, outer: Window) -> np.ndarray:
    buffer, sides, inner = samples.summary["buffer"], smallest_sides(grid, outer), window.within(outer)
    apart, block = samples.apart(outer), samples.read("block", outer)
    target, group = samples.read("target", window), samples.read("group", window)
    for fold in (*range(samples.folds), None):
        where = "the final model" if fold is None else f"fold {fold}"
        held = held_out(apart, block, parts_of(samples, fold))
        training = samples.roles(fold, window) == Role.TRAIN
        _refuse(
            training & held[inner], f"training labels of {where} lie in held-out blocks or the independent test set"
        )
        if training.any():
            close = near(held, sides, buffer)[inner]
            _refuse(training & close, f"training labels of {where} lie within the buffer of a held-out block")
        _refuse(samples.training_mask(fold, window) & held[inner], f"held-out pixels pass the input mask of {where}")
        _refuse(training & (target >= DROPPED), f"training labels of {where} have no class of the map")
    grouped = group >= 0
    return np.unique(np.stack([group[grouped], block[inner][grouped]], axis=1), axis=0)


def check_seasons(samples: Samples) -> None:
    """See that no ground trains in one season and is held out in another.

    Where every fold tests a season, only that season may be held out apart from the others, and whole.

    Raises:
        LeakError: some ground does.
    """
    for fold, parts in enumerate(samples.all_parts):
        whole = (parts == Part.TEST).all(axis=1) if samples.by_year else np.zeros(len(parts), dtype=bool)
        others = parts[~whole]
        changed = (others != others[:1]).any(axis=0)
        _refuse(changed, f"ground blocks train in one season and are held out in another in fold {fold}")


def check_groups(pairs: list[np.ndarray]) -> None:
    """See that every group lies whole in one block, given the pairs of all windows.

    Raises:
        LeakError: a group is divided.
    """
    if not pairs:
        return
    group, blocks = np.unique(np.unique(np.concatenate(pairs), axis=0)[:, 0], return_counts=True)
    divided = group[blocks > 1]
    if len(divided):
        raise LeakError(f"{len(divided)} groups are divided between ground blocks, the first is number {divided[0]}.")


def _refuse(leak: np.ndarray, what: str) -> None:
    count = int(leak.sum())
    if count:
        raise LeakError(f"{count} {what}.")
