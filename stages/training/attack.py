"""Attack classifiers: changes of an input, of bounded size, that turn the answer, and patches that turn what is beside.

Tensors in, tensors out. An ``answer`` maps inputs (n, c, ...) to logits, (n, class) of chips or (n, class, y, x) of
dense maps; targets are int64 (n) or (n, y, x), `IGNORED` where nothing is asked. Of a dense map the whole input is
attacked at once, for the loss summed over all that is asked of it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor
from torch.nn import functional

Answer = Callable[[Tensor], Tensor]
#: Target that no loss looks at.
IGNORED = 255
#: Strengths that the steps of `projected_gradient` sum up to: more than the 2 from one edge of the box to the other.
STRIDE = 2.5


def slope(answer: Answer, inputs: Tensor, targets: Tensor) -> Tensor:
    """Gradient of the cross-entropy, summed over what is asked, with respect to the inputs: shaped as they are."""
    inputs = inputs.detach().requires_grad_()
    with torch.enable_grad():
        loss = functional.cross_entropy(answer(inputs), targets, ignore_index=IGNORED, reduction="sum")
    (found,) = torch.autograd.grad(loss, inputs)
    return found


def random_signs(inputs: Tensor, strength: Tensor | float, draw: torch.Generator) -> Tensor:
    """Add or subtract the strength at random: as large a change as `fast_gradient` makes, blind to the classifier."""
    signs = 2.0 * torch.randint(2, inputs.shape, generator=draw) - 1.0
    return inputs + strength * signs.to(inputs)


def fast_gradient(answer: Answer, inputs: Tensor, targets: Tensor, strength: Tensor | float) -> Tensor:
    """Go one step of the whole strength along the sign of the gradient (Goodfellow, Shlens and Szegedy 2015).

    Args:
        answer: the classifier.
        inputs: (n, c, ...).
        targets: what the answer is turned away from.
        strength: largest change of every value, a number or a tensor that broadcasts, such as (1, c, 1, 1).
    """
    return inputs + strength * slope(answer, inputs, targets).sign()


def projected_gradient(
    answer: Answer, inputs: Tensor, targets: Tensor, strength: Tensor | float, *, steps: int, draw: torch.Generator
) -> Tensor:
    """Climb the loss in steps along the gradient's sign from a random start, inside the box of the strength.

    Madry et al. 2018. With one step it is the fast gradient from a random start (Wong, Rice and Kolter 2020).

    Args:
        answer: the classifier.
        inputs: (n, c, ...).
        targets: what the answer is turned away from.
        strength: largest change of every value, as of `fast_gradient`.
        steps: how many.
        draw: where the start comes from.
    """
    start = 2.0 * torch.rand(inputs.shape, generator=draw) - 1.0
    change = start.to(inputs)  # in strengths, so that the box is -1 to 1
    stride = min(STRIDE / steps, 1.25)
    for _ in range(steps):
        change = change + stride * slope(answer, inputs + strength * change, targets).sign()
        change = change.clamp(-1.0, 1.0)
    return inputs + strength * change


def paste(inputs: Tensor, patch: Tensor, places: Sequence[tuple[int, int]]) -> tuple[Tensor, Tensor]:
    """Paste a patch (c, side, side) into every input (n, c, y, x) at its place (first row, first column).

    Returns:
        The inputs with the patch, through which a gradient reaches it, and where it lies: bool (n, y, x).
    """
    height, width, side = *inputs.shape[-2:], patch.shape[-1]
    frames = [(col, width - side - col, row, height - side - row) for row, col in places]
    laid = torch.stack([functional.pad(patch, frame) for frame in frames])
    covered = torch.stack([functional.pad(torch.ones_like(patch[0]), frame) for frame in frames]) > 0
    return torch.where(covered[:, None], laid, inputs), covered


def beside(covered: Tensor, reach: int) -> Tensor:
    """Pixels within ``reach`` rows and columns of a patch, but not under it: bool (n, y, x)."""
    wide = functional.max_pool2d(covered[:, None].float(), 2 * reach + 1, stride=1, padding=reach)[:, 0] > 0
    return wide & ~covered


def anywhere(shape: Sequence[int], side: int, draw: torch.Generator) -> list[tuple[int, int]]:
    """Draw a place for a patch in each of n images: ``shape`` (n, ..., y, x)."""
    rows, cols = (torch.randint(shape[axis] - side + 1, (shape[0],), generator=draw) for axis in (-2, -1))
    return list(zip(rows.tolist(), cols.tolist(), strict=True))


def turned(patch: Tensor, draw: torch.Generator) -> Tensor:
    """Turn a patch by quarters and mirror it at random."""
    turns, mirrored = torch.randint(4, (2,), generator=draw).tolist()
    return torch.rot90(patch.flip(-1) if mirrored % 2 else patch, turns, (-2, -1))


def adversarial_patch(
    batches: Sequence[tuple[Answer, Tensor]], target: int, side: int, bounds: tuple[Tensor, Tensor], *,
    reach: int, steps: int, rate: float, draw: torch.Generator,
) -> Tensor:  # fmt: skip
    """Find one patch that makes what it is pasted into, anywhere and in any position, look like the target class.

    Brown et al. 2017: the mean loss over places and positions is descended (Athalye et al. 2018). Of a dense map only
    pixels outside the patch count, as what lies under it is changed anyway.

    Args:
        batches: of images with the classifier that answers for them; a step takes one of them.
        target: class index that the surroundings are to turn into.
        side: of the patch, in pixels.
        bounds: least and greatest value of every channel, (c, 1, 1) each.
        reach: how far around the patch pixels count.
        steps: of Adam.
        rate: its learning rate, on the inner values of a sigmoid between the bounds.
        draw: where batches, places and positions come from.

    Returns:
        (c, side, side).
    """
    low, high = bounds
    inner = torch.randn((len(low), side, side), generator=draw).to(low).requires_grad_()
    optimiser = torch.optim.Adam([inner], lr=rate)
    for _ in range(steps):
        answer, inputs = batches[int(torch.randint(len(batches), (1,), generator=draw))]
        patch = turned(low + (high - low) * torch.sigmoid(inner), draw)
        pasted, covered = paste(inputs, patch, anywhere(inputs.shape, side, draw))
        logits = answer(pasted)
        targets = torch.full((len(inputs), *logits.shape[2:]), target)
        if logits.ndim == 4:
            targets[~beside(covered, reach)] = IGNORED
        loss = functional.cross_entropy(logits, targets.to(logits.device), ignore_index=IGNORED)
        (inner.grad,) = torch.autograd.grad(loss, inner)
        optimiser.step()
    return (low + (high - low) * torch.sigmoid(inner)).detach()
