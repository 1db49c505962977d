"""How far a network looks is measured: compared with changing one pixel after another and seeing what moves."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from stages.models.context import Context
from stages.models.kernel import KernelMachine
from stages.models.layers import ValidBatchNorm
from stages.models.reach import Reach, Sighted, reach_of
from stages.models.table import NETWORKS, SERIES

CHANNELS, BANDS, CLASSES = 2, 2, 3
#: Name, settings, steps, and the margin and the stride that its layers add up to.
CASES: dict[str, tuple[str, dict[str, Any], int, Reach]] = {
    "mlp": ("mlp", {"width": 4}, 1, Reach(0, 1)),
    "cnn of one layer": ("cnn", {"width": 4, "dilations": (1,)}, 1, Reach(1, 1)),
    "cnn": ("cnn", {"width": 4}, 1, Reach(7, 1)),
    "cnn of wide dilations": ("cnn", {"width": 4, "dilations": (1, 2, 4, 3)}, 1, Reach(10, 1)),
    "cnn3d": ("cnn3d", {"width": 4}, 1, Reach(2, 1)),
    "cnn3d of wide dilations": ("cnn3d", {"width": 4, "dilations": (1, 3)}, 1, Reach(4, 1)),
    "capsule": ("capsule", {"width": 4, "dilations": (1, 2), "types": 2}, 1, Reach(6, 1)),
    "capsule of one place": ("capsule", {"width": 4, "dilations": (1,), "window": 1}, 1, Reach(1, 1)),
    "unet of depth 1": ("unet", {"width": 3, "depth": 1}, 1, Reach(8, 2)),
    "unet of depth 2": ("unet", {"width": 3, "depth": 2}, 1, Reach(20, 4)),
    "unet of depth 3": ("unet", {"width": 5, "depth": 3}, 1, Reach(44, 8)),
    "lstm": ("lstm", {"hidden": 4, "bidirectional": True, "readout": "attention"}, 4, Reach(0, 1)),
    "gru": ("lstm", {"hidden": 4, "kind": "gru", "layers": 2}, 4, Reach(0, 1)),
    "tempcnn": ("tempcnn", {"filters": 4, "dense": 4}, 4, Reach(0, 1)),
    "ltae": ("ltae", {"n_head": 2, "d_model": 8, "embedding": 4, "decoder": 4}, 4, Reach(0, 1)),
    "convlstm": ("convlstm", {"hidden": 3}, 4, Reach(4, 1)),
    "convlstm of a wide kernel": ("convlstm", {"hidden": 3, "kernel": 5, "bidirectional": True}, 3, Reach(6, 1)),
}


@pytest.fixture(autouse=True)
def one_thread() -> None:
    torch.set_num_threads(1)


def network(case: str, seed: int = 0) -> Any:
    """A network as after a training: weights of either sign, and statistics that leave some features dead."""
    kind, settings, steps, _ = CASES[case]
    torch.manual_seed(seed)
    settings = {**settings, "dropout": 0.0}
    net = SERIES[kind](BANDS, steps, CLASSES, **settings) if kind in SERIES else NETWORKS[kind](
        CHANNELS, CLASSES, **settings)  # fmt: skip
    with torch.no_grad():
        for module in net.modules():
            if isinstance(module, ValidBatchNorm):
                module.mean.normal_(0.0, 0.2)
                module.variance.uniform_(0.5, 2.0)
    return net.eval()


def inputs(net: Any, height: int, width: int, seed: int = 0) -> list[Tensor]:
    """An image whose pixels are all valid."""
    draw = torch.Generator().manual_seed(seed)
    first, *others = net.planes
    image = torch.randn(1, first, height, width, generator=draw, dtype=torch.float64)
    if not others:
        image[:, -1] = 1.0
        return [image]
    days = torch.linspace(10.0, 300.0, others[0], dtype=torch.float64)[None]
    return [image, torch.ones(1, others[0], height, width, dtype=torch.float64), days]


def farthest(net: Any, seed: int, hidden: bool) -> int:
    """Largest distance at which a pixel moves logits when its values change, or when it is made invalid.

    Every place within a stride is tried.
    """
    margin, stride = net.reach
    half = -(-(margin + stride + 1) // stride) * stride
    side = 2 * half + stride
    shown = inputs(net, side, side, seed)
    places = [(half + row, half + col) for row in range(stride) for col in range(stride)]
    if stride > 4:  # both axes are alike: the diagonal will do
        places = [(half + place, half + place) for place in range(stride)]
    most = -1
    with torch.no_grad():
        before = net(*shown)
        for row, col in places:
            changed = [part.clone() for part in shown]
            values = changed[0][:, :-1] if len(shown) == 1 else changed[0]
            if hidden:
                (changed[0] if len(shown) == 1 else changed[1])[..., row, col] = 0.0
                values[..., row, col] = 0.0
            else:
                values[..., row, col] += 40.0
            moved = (net(*changed) != before).any(dim=1)[0].nonzero() - torch.tensor([row, col])
            most = max([most, *moved.abs().flatten().tolist()])
    return most


@pytest.mark.parametrize("case", CASES)
def test_the_measured_reach_is_that_of_changed_pixels(case: str) -> None:
    expected = CASES[case][3]
    net = network(case).double()
    assert net.reach == expected
    assert (net.margin, net.stride) == expected
    # Rectified features that happen to be dead hide a change: of some networks one shows the farthest.
    seen = [farthest(network(case, seed).double(), seed, hidden=False) for seed in range(3)]
    assert max(seen) == expected.margin
    assert max(farthest(network(case, seed).double(), seed, hidden=True) for seed in range(2)) <= expected.margin


@pytest.mark.parametrize("case", [case for case in CASES if CASES[case][3].stride > 1])
def test_a_shorter_stride_would_be_wrong(case: str) -> None:
    net = network(case).double()
    margin, stride = net.reach
    side = 2 * (margin + 2 * stride) // stride * stride
    shown = inputs(net, side, side + stride)[0]
    inner = slice(margin, side - margin - stride)
    with torch.no_grad():
        still = net(shown[..., :side])
        for shift in (stride // 2, stride):
            moved = net(shown[..., shift : side + shift])
            same = torch.allclose(still[..., shift:][..., inner], moved[..., inner], rtol=1e-9)
            assert same == (shift == stride), shift
        with pytest.raises(RuntimeError):
            net(shown[..., : side - stride // 2])


@pytest.mark.parametrize(("windows", "margin"), [((), 0), ((3,), 1), ((3, 5, 15), 7), ((9, 5), 4)])
def test_window_statistics_look_as_far_as_their_widest_window(windows: tuple[int, ...], margin: int) -> None:
    context = Context(CHANNELS, windows)
    assert context.reach == Reach(margin, 1)
    machine = KernelMachine(context, CLASSES, 5, 3)
    assert (machine.margin, machine.stride) == (margin, 1)
    double = Context(CHANNELS, windows).double()
    assert farthest(double, 0, hidden=False) == margin


class Made(nn.Module):
    """A network of one function."""

    def __init__(self, answer: Any) -> None:
        super().__init__()
        self.answer = answer

    def forward(self, image: Tensor) -> Tensor:
        """Logits of every pixel."""
        found: Tensor = self.answer(image)
        return found


def to_the_left(image: Tensor) -> Tensor:
    return functional.pad(image, [5, 0, 0, 0])[..., :-5] + image


def upwards(image: Tensor) -> Tensor:
    return functional.pad(image, [0, 0, 3, 0])[..., :-3, :] + image


def cells_of_three(image: Tensor) -> Tensor:
    return functional.interpolate(functional.max_pool2d(image, 3), scale_factor=3.0)


def hidden_in_cells(image: Tensor) -> Tensor:
    """The largest of 3 x 3 pixels, of which the measurement only ever sees the middle."""
    weights = torch.full(image.shape[2:], 0.01, dtype=image.dtype)
    weights[1::3, 1::3] = 1.0
    return functional.interpolate(functional.max_pool2d(image * weights, 3), scale_factor=3.0)


def larger(image: Tensor) -> Tensor:
    """The larger of two, of which the measurement only ever sees the near one."""
    return torch.maximum(image, 0.01 * functional.pad(image, [5, 0, 0, 0])[..., :-5])


def largest(image: Tensor) -> Tensor:
    """The largest of a few channels, of which the measurement only ever sees the near ones."""
    far = 0.01 * functional.pad(image, [4, 0, 0, 0])[..., :-4]
    return torch.cat([image, far], dim=1).amax(dim=1, keepdim=True)


def padded_inside(image: Tensor) -> Tensor:
    """Cells of 4 pixels, of images of any size."""
    high, wide = image.shape[2:]
    whole = functional.pad(image, [0, -wide % 4, 0, -high % 4])
    return functional.interpolate(functional.avg_pool2d(whole, 4), scale_factor=4.0)[..., :high, :wide] + image


def clipped(image: Tensor) -> Tensor:
    """Flat where the measurement happens to look: nothing moves while values are below 5."""
    return functional.avg_pool2d((image - 5.0).clamp(min=0.0), 7, stride=1, padding=3)


@pytest.mark.parametrize(
    ("answer", "expected"),
    [
        (to_the_left, Reach(5, 1)),
        (upwards, Reach(3, 1)),
        (cells_of_three, Reach(2, 3)),
        (lambda image: cells_of_three(to_the_left(image)), Reach(7, 3)),
        (lambda image: cells_of_three(to_the_left(image.flip(3)).flip(3)), Reach(7, 3)),
        (hidden_in_cells, Reach(2, 3)),
        (larger, Reach(5, 1)),
        (largest, Reach(4, 1)),
        (padded_inside, Reach(3, 4)),
        (clipped, Reach(3, 1)),
        (nn.Conv2d(3, 3, 3, padding=4, dilation=4, groups=3), Reach(4, 1)),
        (nn.Conv2d(3, 3, (1, 9), padding="same"), Reach(4, 1)),
    ],
)
def test_networks_of_any_make_are_measured(answer: Any, expected: Reach) -> None:
    assert reach_of(Made(answer), [3]) == expected


def test_weights_of_nothing_do_not_hide_how_far_a_network_could_look() -> None:
    net = network("cnn")
    with torch.no_grad():
        for parameter in net.parameters():
            parameter.zero_()
        for buffer in net.buffers():
            buffer.fill_(1e6)
    assert net.reach == Reach(7, 1)


def test_a_measurement_leaves_everything_as_it_was() -> None:
    net = network("unet of depth 1").train()
    before = {name: tensor.clone() for name, tensor in net.state_dict().items()}
    chance = torch.get_rng_state()
    with torch.no_grad():  # as while a graph is written
        assert net.reach == Reach(8, 2)
    assert net.training
    assert torch.equal(chance, torch.get_rng_state())
    assert all(torch.equal(before[name], tensor) for name, tensor in net.state_dict().items())
    assert all(p.requires_grad and p.grad is None for p in net.parameters())


def test_it_is_measured_once(monkeypatch: pytest.MonkeyPatch) -> None:
    measured: list[nn.Module] = []

    def counted(network: nn.Module, *_: Any) -> Reach:
        measured.append(network)
        return Reach(1, 2)

    monkeypatch.setattr("stages.models.reach.reach_of", counted)
    net = network("mlp")
    assert [net.margin, net.stride, net.margin] == [1, 2, 1]
    assert measured == [net]
    assert isinstance(net, Sighted)


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        (lambda image: image + image.mean(dim=(2, 3), keepdim=True), "looks farther than 2048 px"),
        (torch.zeros_like, "no change of its image moves"),
        (lambda image: (image > 1.0).double(), "no change of its image moves"),
        (lambda image: image * torch.linspace(1, 2, image.shape[-1], dtype=image.dtype), "no stride of at most 64 px"),
        (nn.Conv2d(4, 2, 3, padding=1), "3 planes.*expected input.* to have 4 channels, but got 3"),
        (nn.Conv2d(3, 2, 3), "no stride"),
    ],
)
def test_networks_that_cannot_slide_are_refused(answer: Any, words: str) -> None:
    with pytest.raises(ValueError, match=words) as caught:
        reach_of(Made(answer), [3])
    assert "\n" not in str(caught.value)
