"""How far a network looks, measured on the network itself: its margin and its stride in pixels."""

from __future__ import annotations

import copy
import heapq
from collections.abc import Callable, Iterable, Sequence
from functools import cached_property
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.overrides import TorchFunctionMode

#: Half the strip that is looked at first, in pixels; it is doubled until its ends are not felt.
NEAR = 64
#: A network that looks farther, or whose stride is longer, is refused.
FARTHEST, COARSEST = 2048, 64
#: Functions that are flat somewhere: for the measurement a change passes through them as if they were not there.
FLAT = frozenset({
    "relu", "relu6", "leaky_relu", "hardtanh", "hardsigmoid", "hardswish", "threshold",
    "clamp", "clamp_min", "clamp_max", "clip",
})  # fmt: skip
#: Arguments of a convolution in their order.
CONVOLUTION = "input", "weight", "bias", "stride", "padding", "dilation", "groups"


class Reach(NamedTuple):
    """What a network's result at a pixel depends on.

    Nothing beyond ``margin`` pixels from a pixel, in any direction, changes its logits, and something just as far
    does for some pixel. An image moved by a multiple of ``stride`` gives a map moved alike, and its sides must be
    multiples of it.
    """

    margin: int
    stride: int


class Sighted(nn.Module):
    """A network that knows how far it looks: measured when it is first asked, then remembered.

    ``planes`` is how many planes each of its images has: the channels and the validity in one, or, where ``series``
    is set, the channels of all steps and the validity of every step, which the steps' days follow.
    """

    series = False

    def __init__(self, *planes: int) -> None:
        super().__init__()
        self.planes = planes

    @cached_property
    def reach(self) -> Reach:
        """Margin and stride.

        Raises:
            ValueError: the network has none; see `reach_of`.
        """
        return reach_of(self, self.planes, self.series)

    @property
    def margin(self) -> int:
        """Pixels around a pixel that its logits depend on."""
        return self.reach.margin

    @property
    def stride(self) -> int:
        """Pixels by whose multiples an image may be moved; its sides must be multiples of it."""
        return self.reach.stride


def reach_of(network: nn.Module, planes: Sequence[int], series: bool = False) -> Reach:
    """Measure how far a network looks.

    A copy with positive weights and without flat stretches lets every change through that the network could let
    through, so the gradient of one pixel's logits is 0 exactly where nothing is read. Strips along either axis are
    enough for that, and make it quick. Weights and layers' modes stay as they are.

    Args:
        network: gives logits (n, classes, y, x) of images of that size.
        planes: of every image it takes; the last plane of a single one, and all of a second one, are validity.
        series: whether days (n, planes of the second image) follow.

    Raises:
        ValueError: the network takes no image of these planes, looks at everything, or at nothing.
    """
    with torch.inference_mode(False), torch.enable_grad(), _Open():
        opened = _opened(network)
        probes = [_Probe(opened, planes, series, upright) for upright in (False, True)]
        for stride in range(1, COARSEST + 1):
            if all(probe.takes(stride) for probe in probes):
                within = [probe.within(stride) for probe in probes]
                if all(probe.moves(stride, most) for probe, most in zip(probes, within, strict=True)):
                    found = [probe.margin(stride, most) for probe, most in zip(probes, within, strict=True)]
                    return Reach(max(found), stride)
    name = type(network).__name__
    raise ValueError(
        f"{name} has no stride of at most {COARSEST} px: with {' and '.join(map(str, planes))} planes there is no side "
        f"whose multiples it maps alike wherever the image was cut{probes[0].fault}; give it layers that do the same "
        "at every pixel."
    )


def _opened(network: nn.Module) -> nn.Module:
    """Copy a network and give it positive weights, whose sums of about 1 neither overflow nor close a gate."""
    found = copy.deepcopy(network).cpu().double().eval().requires_grad_(False)
    draw = torch.Generator().manual_seed(0)
    for weights in found.parameters():
        share = weights[0].numel() if weights.ndim > 1 else 1
        weights.copy_((0.5 + torch.rand(weights.shape, generator=draw, dtype=torch.float64)) / share)
    return found


class _Probe:
    """A network that is open to every change, and strips to show it, along the rows or ``upright``."""

    def __init__(self, network: nn.Module, planes: Sequence[int], series: bool, upright: bool) -> None:
        self.network = network
        self.planes, self.series, self.upright = planes, series, upright
        self.draw = torch.Generator().manual_seed(0)
        self.fault = ""

    def strips(self, count: int, high: int, wide: int) -> list[Tensor]:
        """Make images (count, planes, high, wide) whose pixels are all valid."""
        first, *others = self.planes
        image = 0.5 + torch.rand(count, first, high, wide, generator=self.draw, dtype=torch.float64)
        if not others:
            image[:, -1] = 1.0
        return [image, *(torch.ones(count, n, high, wide, dtype=torch.float64) for n in others)]

    def logits(self, images: Iterable[Tensor]) -> Tensor:
        """Show strips (count, planes, high, wide) and give (count, classes, high, wide)."""
        shown = [image.transpose(2, 3) if self.upright else image for image in images]
        if self.series:
            count, steps = shown[1].shape[:2]
            shown.append(torch.linspace(0.0, 300.0, steps, dtype=torch.float64).expand(count, steps))
        found: Tensor = self.network(*shown)
        if found.ndim != 4 or found.shape[2:] != shown[0].shape[2:]:
            raise ValueError(f"it gives {tuple(found.shape)} for {tuple(shown[0].shape)}")
        return found.transpose(2, 3) if self.upright else found

    def takes(self, stride: int) -> bool:
        """Try whether an image whose sides are multiples of a stride keeps its size."""
        try:
            self.logits(self.strips(1, stride, 3 * stride))
        except (RuntimeError, ValueError) as fault:
            self.fault = f" ({' '.join(str(fault).split()).rstrip('.')})"
            return False
        return True

    def within(self, stride: int) -> int:
        """Find a distance within which all lies that any pixel feels, less than a stride more than needed."""
        half = -(-NEAR // stride) * stride
        while half <= FARTHEST:
            first, last = self._felt(0, stride - 1, stride, half)
            if first > -half and last < half + stride - 1:
                return max(stride - 1 - first, last)
            half *= 2
        raise ValueError(
            f"{type(self.network).__name__} looks farther than {FARTHEST} px from a pixel; a network must be made of "
            "layers that look at a part of the image."
        )

    def margin(self, stride: int, most: int) -> int:
        """Largest distance along the strip over which a pixel is felt, whatever its place in the stride.

        Places are looked at together, and apart only where one of them could be the one that sees farthest.
        """
        half = -(-(most + 1) // stride) * stride
        # What a run of places could feel at most, the run, and the ends of what it feels where they are known.
        runs: list[tuple[int, int, int, tuple[int, int] | None]] = [(-most, 0, stride - 1, None)]
        while True:
            farthest, begin, end, ends = heapq.heappop(runs)
            if ends is None:
                first, last = self._felt(begin, end, stride, half)
                heapq.heappush(runs, (-max(end - first, last - begin), begin, end, (first, last)))
            elif begin == end:
                return -farthest
            else:
                (first, last), middle = ends, (begin + end) // 2
                for a, b in ((begin, middle), (middle + 1, end)):
                    heapq.heappush(runs, (-max(b - first, last - a), a, b, None))

    def _felt(self, begin: int, end: int, high: int, half: int) -> tuple[int, int]:
        """First and last column that the logits in columns ``begin`` to ``end`` of the middle stride depend on.

        Columns are counted from the middle stride's first; beside it are ``half`` of them either way.
        """
        images = [image.requires_grad_() for image in self.strips(1, high, 2 * half + high)]
        asked = self.logits(images)[..., half + begin : half + end + 1].sum()
        gradients = torch.autograd.grad(asked, images, allow_unused=True) if asked.requires_grad else ()
        felt = [(found != 0).any(dim=2).flatten(0, 1).any(dim=0) for found in gradients if found is not None]
        columns = torch.stack(felt).any(dim=0).nonzero() if felt else torch.zeros(0)
        if not len(columns):
            raise ValueError(
                f"{type(self.network).__name__} gives logits that no change of its image moves; they must depend on "
                "the image through functions that have a gradient."
            )
        return int(columns.min()) - half, int(columns.max()) - half

    def moves(self, stride: int, margin: int) -> bool:
        """Try whether a strip that is cut a stride further on gives the same, but at its ends."""
        wide = (-(-2 * margin // stride) + 3) * stride
        images = self.strips(1, stride, wide + stride)
        left = self.logits(image[..., :wide] for image in images)
        right = self.logits(image[..., stride:] for image in images)
        inner = slice(margin, wide - margin - stride)
        return torch.allclose(left[..., stride:][..., inner], right[..., inner], rtol=1e-9, atol=0.0)


class _Open(TorchFunctionMode):
    """Let every change through: functions keep their values, but get the gradient of one that is flat nowhere."""

    def __torch_function__(
        self, func: Callable[..., Any], _: Any, args: Sequence[Any] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        """Call ``func`` and mend its gradient."""
        given = kwargs or {}
        name = getattr(func, "__name__", "")
        if name in FLAT:
            return _steered(func(*args, **given), args[0])
        if name == "amax":
            return _steered(func(*args, **given), torch.mean(*args, **given))
        if name in {"maximum", "minimum"}:
            return _steered(func(*args, **given), torch.add(*args, **given))
        if name == "max_pool2d":
            return _steered(func(*args, **given), _mean_pooled(*args, **given))
        if name == "conv2d":
            return _thin(func, dict(zip(CONVOLUTION, args, strict=False)) | given)
        return func(*args, **given)


def _steered(found: Tensor, open_: Tensor) -> Tensor:
    """Values of the one, gradient of the other."""
    steered: Tensor = _Steered.apply(found.detach(), open_)
    return steered


class _Steered(torch.autograd.Function):
    @staticmethod
    def forward(_: Any, found: Tensor, __: Tensor) -> Tensor:
        return found.clone()

    @staticmethod
    def backward(_: Any, gradient: Tensor) -> tuple[None, Tensor]:
        return None, gradient


def _mean_pooled(image: Tensor, kernel_size: Any, stride: Any = None, padding: Any = 0, *_: Any, **__: Any) -> Tensor:
    """Average the windows whose largest value is asked for."""
    return functional.avg_pool2d(image, kernel_size, stride, padding)


def _thin(convolve: Callable[..., Tensor], given: dict[str, Any]) -> Tensor:
    """Convolve one channel for all: with positive weights every result reads every channel, so all are alike."""
    image, weight, bias = given["input"], given["weight"], given.get("bias")
    if image.shape[1] != weight.shape[1]:  # in groups, or a mistake
        return convolve(**given)
    given["input"] = image.mean(dim=1, keepdim=True)
    given["weight"] = weight[:1].sum(dim=1, keepdim=True)
    given["bias"] = None if bias is None else bias.mean(dim=0, keepdim=True)
    return convolve(**given).expand(-1, len(weight), -1, -1)
