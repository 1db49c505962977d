"""Count what a split came to, and refuse a class that it leaves unlearnt or unscored."""

from __future__ import annotations

import logging
from typing import Any

import numpy as np

from stages.errors import LabelError
from stages.formats.samples import Part, Role

#: Name of what the config drops among the classes.
DROPPED = "(dropped)"

_logger = logging.getLogger(__name__)


def split_summary(classes: tuple[str, ...], roles: np.ndarray, parts: np.ndarray, counts: np.ndarray) -> dict[str, Any]:
    """Pixels by role and class, blocks by part, and what the buffer costs.

    ``roles`` (fold + 1, role, class + 1), ``parts`` (fold, season, block), ``counts`` (season, block, class + 1).
    """
    names = (*classes, DROPPED)
    labelled = counts.sum(axis=2) > 0
    roles_of = [Role.TRAIN, Role.VALIDATION, Role.TEST, Role.BUFFER, Role.MIXED, Role.INDEPENDENT]
    pixels = [
        {role.name.lower(): dict(zip(names, fold[role].tolist(), strict=True)) for role in roles_of} for fold in roles
    ]
    blocks = [
        {part.name.lower(): int((labelled & (fold == part)).any(axis=0).sum()) for part in Part if part != Part.NONE}
        for fold in parts
    ]
    buffered, trained = roles[:-1, Role.BUFFER].sum(), roles[:-1, Role.TRAIN].sum()
    in_all = counts.sum(axis=0)
    return {
        "parts": parts.tolist(), "pixels": pixels[:-1], "final_pixels": pixels[-1], "blocks": blocks,
        "labelled_blocks": int(labelled.any(axis=0).sum()),
        "buffer_share": float(buffered / max(1, buffered + trained)),
        "season_pixels": counts.sum(axis=(1, 2)).tolist(),
        "class_pixels": dict(zip(names, in_all.sum(axis=0).tolist(), strict=True)),
        "class_blocks": dict(zip(names, (in_all > 0).sum(axis=0).tolist(), strict=True)),
    }  # fmt: skip


def check_classes(
    classes: tuple[str, ...], roles: np.ndarray, counts: np.ndarray, crossed: bool, tested: bool = True
) -> None:
    """Refuse a class that cannot be learnt or scored; with folds, warn where one fold lacks it.

    Without ``tested`` no block is for the test, as an independent test set scores the map.

    Raises:
        LabelError: a class has no sample at all or, in a single split, none in one of the parts.
    """
    advice = "merge it with another class, drop it (label.drop) or make label.block smaller"
    for index, name in enumerate(classes):
        holders = int((counts[:, :, index] > 0).any(axis=0).sum())
        if not holders:
            raise LabelError(f"Class '{name}' has no labelled pixel on the scenes; correct its labels or remove it.")
        for fold in range(len(roles) - 1):
            for role in (Role.TRAIN, Role.VALIDATION, Role.TEST):
                if roles[fold, role, index] or (crossed and role != Role.TRAIN):
                    continue
                if role == Role.TEST and not tested:
                    continue
                lost = int(roles[fold, Role.BUFFER, index] + roles[fold, Role.MIXED, index])
                reason = (
                    f"; {lost} of its pixels are lost to label.buffer and label.purity"
                    if role == Role.TRAIN and lost
                    else ""
                )
                text = f"Class '{name}' has no {role.name.lower()} sample (ground blocks with it: {holders}{reason})"
                if not crossed:
                    raise LabelError(f"{text}; {advice}.")
                _logger.warning("%s in fold %d; its model cannot know the class", text, fold)
        if crossed and not roles[:-1, Role.TRAIN, index].any():
            raise LabelError(
                f"Class '{name}' has no training sample in any fold (ground blocks with it: {holders}); {advice}."
            )
