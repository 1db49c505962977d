"""Take values from one pixel grid to another: array functions, renormalised by the weight of what is valid.

Positions are in source pixels counted from the upper left corner, so the centre of the first pixel is at 0.5.
Whatever lies outside the array weighs nothing. A result's weight is the share of its kernel that was valid.
Where a target pixel looks, and how it weighs what is there, is worked out once (`lay_kernel`) for all bands and dates
that share pixels. Sums are made in float32 where it holds every value of the source, in float64 otherwise, and tap by
tap in one order, so that they do not depend on which pixels are asked for together.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

#: A pixel is valid where at least this share of its kernel's weight is.
ENOUGH = 0.5
#: Rounding left over in a sum of weights.
NOISE = 1e-6
#: Target pixels that are summed at once: their indices, weights and sums stay in the processor's cache.
BLOCK = 32_768

#: One-dimensional kernel: positions to the first tap (int) and the weights of every tap (taps, ...).
Kernel = Callable[[np.ndarray], tuple[np.ndarray, np.ndarray]]


def nearest(at: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Take the pixel that holds the position."""
    # A position on an edge, but for rounding, belongs to the pixel after it: neighbouring tiles agree on it.
    return np.floor(at + NOISE).astype(np.int64), np.ones((1, *at.shape))


def bilinear(at: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Take the two nearest pixel centres, by distance."""
    first = np.floor(at - 0.5)
    t = at - 0.5 - first
    return first.astype(np.int64), np.stack([1 - t, t])


def cubic(at: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Take four pixel centres by cubic convolution with a = -0.5 (Keys 1981)."""
    first = np.floor(at - 0.5)
    t = at - 0.5 - first
    weights = [
        ((-0.5 * t + 1.0) * t - 0.5) * t,
        (1.5 * t - 2.5) * t * t + 1.0,
        ((-1.5 * t + 2.0) * t + 0.5) * t,
        (0.5 * t - 0.5) * t * t,
    ]
    return first.astype(np.int64) - 1, np.stack(weights)


KERNELS: dict[str, Kernel] = {"nearest": nearest, "bilinear": bilinear, "cubic": cubic}
#: Pixels that a kernel looks at along an axis.
TAPS = {"nearest": 1, "bilinear": 2, "cubic": 4}


def boxes(rows: np.ndarray, cols: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Top, bottom, left and right in source pixels of every target pixel, from its corners (y + 1, x + 1).

    A pixel that lies askew becomes the upright box of the same centre, proportions and area.
    """
    corners = (
        (slice(None, -1), slice(None, -1)),
        (slice(None, -1), slice(1, None)),
        (slice(1, None), slice(1, None)),
        (slice(1, None), slice(None, -1)),
    )
    y, x = np.stack([rows[c] for c in corners]), np.stack([cols[c] for c in corners])
    area = 0.5 * np.abs((x[2] - x[0]) * (y[3] - y[1]) - (x[3] - x[1]) * (y[2] - y[0]))
    height, width = np.ptp(y, axis=0), np.ptp(x, axis=0)
    shrink = 0.5 * np.sqrt(area / np.maximum(height * width, np.finfo(float).tiny))
    middle_y, middle_x = (y.max(axis=0) + y.min(axis=0)) / 2, (x.max(axis=0) + x.min(axis=0)) / 2
    half_y, half_x = height * shrink, width * shrink
    return middle_y - half_y, middle_y + half_y, middle_x - half_x, middle_x + half_x


def _upto(sums: np.ndarray, rows: np.ndarray, cols: np.ndarray) -> np.ndarray:
    """Sum of everything above and left of a position, which may lie inside a pixel."""
    height, width = sums.shape[1] - 1, sums.shape[2] - 1
    rows, cols = rows.clip(0, height), cols.clip(0, width)
    row, col = np.minimum(rows.astype(np.int64), height - 1), np.minimum(cols.astype(np.int64), width - 1)
    down, across = rows - row, cols - col
    upper = sums[:, row, col] * (1 - across) + sums[:, row, col + 1] * across
    lower = sums[:, row + 1, col] * (1 - across) + sums[:, row + 1, col + 1] * across
    return np.asarray(upper * (1 - down) + lower * down)


@dataclass(frozen=True)
class Scattered:
    """Target pixels that lie anyhow in the source.

    ``first`` int64 (pixels,): the first tap in a flat source with a frame of ``taps`` pixels around; ``weights``, one
    (pixels,) for every tap, row by row; ``shape`` of the target; ``inside``: no tap lies on the frame.
    """

    shape: tuple[int, int]
    source: tuple[int, int]
    first: np.ndarray
    weights: tuple[np.ndarray, ...]
    taps: int
    inside: bool

    @property
    def frame(self) -> int:
        """Pixels of no weight around the source."""
        return self.taps

    @property
    def kind(self) -> np.dtype[Any]:
        """Type of the sums."""
        return self.weights[0].dtype

    @cached_property
    def full(self) -> np.ndarray:
        """What all weights of a target pixel add up to, summed as values are: 1 but for rounding, (y, x)."""
        total = self.weights[0].copy()
        for weight in self.weights[1:]:
            total += weight
        return total.reshape(self.shape)

    def sums(self, planes: np.ndarray) -> np.ndarray:
        """Weigh the pixels of framed planes (n, h, w): (n, y, x)."""
        flat, width = planes.reshape(len(planes), -1), planes.shape[2]
        steps = [row * width + col for row in range(self.taps) for col in range(self.taps)]
        out = np.empty((len(planes), self.first.size), self.kind)
        spare = np.empty(min(BLOCK, self.first.size), self.kind)
        for start in range(0, self.first.size, BLOCK):
            part = slice(start, start + BLOCK)
            index, weights = self.first[part], [weight[part] for weight in self.weights]
            one = spare[: index.size]
            for place, plane in enumerate(flat):
                total = out[place, part]
                # Clipping changes no index: it is the way of `take` that needs no buffer of its own.
                np.take(plane, index, out=total, mode="clip")
                np.multiply(total, weights[0], out=total)
                for step, weight in zip(steps[1:], weights[1:], strict=True):
                    np.take(plane[step:], index, out=one, mode="clip")
                    np.multiply(one, weight, out=one)
                    np.add(total, one, out=total)
        return out.reshape(-1, *self.shape)


@dataclass(frozen=True)
class Axis:
    """Target pixels along one axis: their first tap (pixels,), from -taps on, and the weights of all (taps, pixels)."""

    first: np.ndarray
    weights: np.ndarray

    def taken(self, planes: np.ndarray, tap: int, frame: int, axis: int) -> np.ndarray:
        """Take one tap of every target pixel along the rows (axis 1) or columns (2) of framed planes."""
        index = self.first + (tap + frame)
        step = int(index[1] - index[0]) if index.size > 1 else 1
        if step > 0 and (np.diff(index) == step).all():
            # A slice moves nothing.
            place = slice(int(index[0]), int(index[-1]) + 1, step)
            return np.asarray(planes[:, place] if axis == 1 else planes[:, :, place])
        return np.take(planes, index, axis=axis)


@dataclass(frozen=True)
class Separable:
    """Target pixels whose rows and columns are rows and columns of the source."""

    source: tuple[int, int]
    down: Axis
    across: Axis

    @property
    def shape(self) -> tuple[int, int]:
        """Rows and columns of the target."""
        return self.down.first.size, self.across.first.size

    @property
    def frame(self) -> int:
        """Pixels of no weight around the source."""
        return max(len(self.down.weights), len(self.across.weights))

    @property
    def kind(self) -> np.dtype[Any]:
        """Type of the sums."""
        return self.down.weights.dtype

    @cached_property
    def inside(self) -> bool:
        """Whether no tap lies on the frame."""
        sides = zip((self.down, self.across), self.source, strict=True)
        return all(axis.first.min() >= 0 and axis.first.max() + len(axis.weights) <= size for axis, size in sides)

    @cached_property
    def full(self) -> np.ndarray:
        """What all weights of a target pixel add up to, summed as values are: 1 but for rounding, (y, x)."""
        down, across = np.zeros_like(self.down.weights[0]), np.zeros(self.shape, self.kind)
        for weight in self.down.weights:
            down += weight
        for weight in self.across.weights:
            across += weight * down[:, None]
        return across

    def sums(self, planes: np.ndarray) -> np.ndarray:
        """Weigh the pixels of framed planes (n, h, w), down the columns first: (n, y, x)."""
        half = np.zeros((len(planes), self.shape[0], planes.shape[2]), self.kind)
        out = np.zeros((len(planes), *self.shape), self.kind)
        for tap, weight in enumerate(self.down.weights):
            half += self.down.taken(planes, tap, self.frame, 1) * weight[:, None]
        for tap, weight in enumerate(self.across.weights):
            out += self.across.taken(half, tap, self.frame, 2) * weight
        return out


@dataclass(frozen=True)
class Boxes:
    """Target pixels that lie anyhow and are averaged over their ground, each an upright box of the source.

    The sum over any box is four looks into the running sum of the image (Crow 1984), interpolated between pixel edges.
    """

    source: tuple[int, int]
    top: np.ndarray
    bottom: np.ndarray
    left: np.ndarray
    right: np.ndarray
    frame: int = 0

    @property
    def kind(self) -> np.dtype[Any]:
        """Type of the sums."""
        return np.dtype(np.float64)

    @property
    def shape(self) -> tuple[int, int]:
        """Rows and columns of the target."""
        height, width = self.top.shape
        return height, width

    @cached_property
    def inside(self) -> bool:
        """Whether no box reaches beyond the source."""
        height, width = self.source
        least, most = min(self.top.min(), self.left.min()), max(self.bottom.max() - height, self.right.max() - width)
        return bool(least >= -NOISE and most <= NOISE)

    @cached_property
    def full(self) -> np.ndarray:
        """What the weights of a target pixel add up to, (y, x)."""
        return np.ones(self.shape)

    def sums(self, planes: np.ndarray) -> np.ndarray:
        """Average planes (n, h, w) over the boxes: (n, y, x)."""
        sums = np.zeros((len(planes), planes.shape[1] + 1, planes.shape[2] + 1))
        np.cumsum(np.cumsum(planes, axis=1, dtype=np.float64), axis=2, out=sums[:, 1:, 1:])
        total = _upto(sums, self.bottom, self.right)
        total -= _upto(sums, self.top, self.right)
        total -= _upto(sums, self.bottom, self.left)
        total += _upto(sums, self.top, self.left)
        total /= (self.bottom - self.top) * (self.right - self.left)
        return total


#: Where target pixels look, made once for all planes of one shape.
Laid = Scattered | Separable | Boxes


def lay_kernel(rows: np.ndarray, cols: np.ndarray, source: tuple[int, int], method: str, kind: Any = "float64") -> Laid:
    """Work out where every target pixel looks in a source of some height and width.

    Args:
        rows: pixel centres (y, x), for ``average`` pixel corners (y + 1, x + 1); (y, 1) or (y + 1, 1) where all
            pixels of a row have the same. Positions that are not finite lie outside.
        cols: the same, (1, x) or (1, x + 1) where all pixels of a column have the same.
        source: height and width.
        method: nearest, bilinear, cubic or average.
        kind: type of the sums; boxes that lie askew are always summed in float64.
    """
    # A position that no CRS can give lies far outside, where everything weighs nothing.
    rows, cols = np.where(np.isfinite(rows), rows, -1e6), np.where(np.isfinite(cols), cols, -1e6)
    # A row of positions that are alike is told by its shape; a single pixel may be taken either way.
    if rows.shape[1] == 1 and cols.shape[0] == 1:
        down, across = (
            _lay_axis(at.ravel(), size, method, kind) for at, size in zip((rows, cols), source, strict=True)
        )
        return Separable(source, down, across)
    if method == "average":
        return Boxes(source, *boxes(rows, cols))
    (height, width), taps = source, TAPS[method]
    top, down_weights = KERNELS[method](rows)
    left, across_weights = KERNELS[method](cols)
    down_weights, across_weights = down_weights.astype(kind), across_weights.astype(kind)
    inside = bool(top.min() >= 0 and left.min() >= 0 and top.max() + taps <= height and left.max() + taps <= width)
    if not inside:
        np.clip(top, -taps, height, out=top)
        np.clip(left, -taps, width, out=left)
    top += taps
    top *= width + 2 * taps
    top += left
    top += taps
    weights = tuple((down * across).ravel() for down in down_weights for across in across_weights)
    return Scattered((rows.shape[0], rows.shape[1]), source, top.ravel(), weights, taps, inside)


def _lay_axis(at: np.ndarray, size: int, method: str, kind: Any) -> Axis:
    """Work out the taps along an axis of some size from positions of centres, for ``average`` of edges."""
    if method == "average":
        first, weights = _shares(np.minimum(at[:-1], at[1:]), np.maximum(at[:-1], at[1:]))
    else:
        first, weights = KERNELS[method](at)
    return Axis(first.clip(-len(weights), size), weights.astype(kind))


def _shares(begin: np.ndarray, end: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Take every pixel that a stretch covers by the share of the stretch that it is: first tap and weights."""
    # Pixels that are touched by a rounding error only are left out: three tens of metres are three pixels, not four.
    first, last = np.floor(begin + NOISE), np.ceil(end - NOISE)
    taps = np.arange(max(1, int((last - first).max())))[:, None]
    covered = np.minimum(end, first + taps + 1) - np.maximum(begin, first + taps)
    return first.astype(np.int64), covered.clip(0) / (end - begin)


def kind_of(values: np.dtype[Any]) -> str:
    """Name the type in which sums of values of a type are made."""
    return "float32" if np.can_cast(values, np.float32) else "float64"


def framed(values: np.ndarray, valid: np.ndarray | None, laid: Laid) -> np.ndarray:
    """Put planes (n, h, w) into a frame of zeros, in the type of the sums, and zeros where not valid."""
    frame, (height, width) = laid.frame, values.shape[1:]
    planes = np.zeros((len(values), height + 2 * frame, width + 2 * frame), laid.kind)
    inner = planes[:, frame : frame + height, frame : frame + width]
    np.copyto(inner, values, where=True if valid is None else valid, casting="unsafe")
    return planes


def shares(valid: np.ndarray, laid: Laid) -> np.ndarray:
    """Share of every target pixel's kernel that is valid: bool (n, h, w) -> (n, y, x)."""
    return laid.sums(framed(valid, None, laid))


def resample_bands(values: np.ndarray, valid: np.ndarray, laid: Laid) -> tuple[np.ndarray, np.ndarray]:
    """Resample bands that share their pixels: values and valid (band, h, w) -> values, 0 where invalid, and bool.

    Invalid values weigh nothing, the others are renormalised, and a target pixel is valid where half of its kernel's
    weight was. Both results are (band, y, x).
    """
    every = bool(valid.all())
    sums = laid.sums(framed(values, None if every else valid, laid))
    if every and laid.inside:
        return sums, np.ones(sums.shape, bool)
    # Most rasters have the same pixels valid in every band.
    alike = every or all(np.array_equal(valid[0], one) for one in valid[1:])
    weight = shares(valid[:1] if alike else valid, laid)
    found = weight >= ENOUGH - NOISE
    # Where all of the kernel was valid this is exactly 1, and the value what it is without any invalid pixel nearby.
    sums *= np.where(found, laid.full / np.where(found, weight, 1), 0).astype(sums.dtype)
    return sums, np.repeat(found, len(sums) // len(found), axis=0)


def resample(
    values: np.ndarray, valid: np.ndarray, rows: np.ndarray, cols: np.ndarray, method: str
) -> tuple[np.ndarray, np.ndarray]:
    """Resample one band: values and valid (h, w) at positions, as `lay_kernel` takes them -> values and bool (y, x)."""
    height, width = values.shape
    laid = lay_kernel(rows, cols, (height, width), method, kind_of(values.dtype))
    sums, found = resample_bands(values[None], valid[None], laid)
    return sums[0], found[0]


def average(planes: np.ndarray, rows: np.ndarray, cols: np.ndarray) -> np.ndarray:
    """Average over every target pixel's ground, parts of pixels by their share: planes (n, h, w) -> (n, y, x).

    ``rows`` and ``cols`` are the positions of the target pixels' corners, as `lay_kernel` takes them.
    """
    height, width = planes.shape[1:]
    laid = lay_kernel(rows, cols, (height, width), "average")
    return laid.sums(framed(planes, None, laid))


def touched(mask: np.ndarray, rows: np.ndarray, cols: np.ndarray, method: str) -> np.ndarray:
    """Any-invalid: target pixels whose kernel touches a masked pixel; mask bool (h, w) -> bool (y, x)."""
    height, width = mask.shape
    return touching(mask, lay_kernel(rows, cols, (height, width), touching_method(method), "float32"))


def touching_method(method: str) -> str:
    """Name the kernel that tells whether a pixel is touched."""
    # The negative lobes of the cubic kernel could cancel: its inner two taps are the ones that matter.
    return "bilinear" if method == "cubic" else method


def touching(mask: np.ndarray, laid: Laid) -> np.ndarray:
    """Tell which target pixels look at a masked pixel: mask bool (h, w) -> bool (y, x)."""
    return np.asarray(shares(mask[None], laid)[0] > NOISE)
