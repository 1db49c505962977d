"""Every network in the table keeps the same promises."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from stages.models.classifier import Classifier, Normalise, with_validity
from stages.models.context import Context, window_mean
from stages.models.layers import ValidBatchNorm, double, halve, mask_pyramid
from stages.models.table import NETWORKS
from stages.training.onnx_file import export_module, save_weights

CHANNELS, CLASSES = 3, 4
SHAPES: dict[str, dict[str, Any]] = {
    "mlp": {"width": 16},
    "cnn": {"width": 8, "dilations": (1, 2)},
    "cnn3d": {"width": 6, "dilations": (1, 2)},
    "capsule": {"width": 8, "dilations": (1,), "types": 2, "spread": 2, "rounds": 2},
    "unet": {"width": 8, "depth": 2},
}


@pytest.fixture(autouse=True)
def one_thread() -> None:
    torch.set_num_threads(1)


@pytest.fixture(params=sorted(NETWORKS))
def kind(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def network(kind: str, seed: int = 0, **changes: Any) -> Any:
    torch.manual_seed(seed)
    return NETWORKS[kind](CHANNELS, CLASSES, **{**SHAPES[kind], **changes})


def framed(kind: str) -> Classifier:
    net = network(kind)
    for module in net.modules():
        if isinstance(module, ValidBatchNorm):  # statistics as after a training, or they would hide mistakes
            module.mean.normal_(generator=torch.Generator().manual_seed(1))
            module.variance.uniform_(0.5, 2.0, generator=torch.Generator().manual_seed(2))
    frame = Classifier(Normalise([1.0, 2.0, 3.0], [2.0, 1.0, 0.5]), net, CLASSES)
    frame.correction.copy_(torch.tensor([0.1, -0.2, 0.3, 0.0]))
    return frame.eval()


def scene(*shape: int, seed: int = 0, hidden: float = 0.1) -> tuple[torch.Tensor, torch.Tensor]:
    draw = torch.Generator().manual_seed(seed)
    valid = (torch.rand((shape[0], 1, *shape[1:]), generator=draw) >= hidden).float()
    return torch.randn((shape[0], CHANNELS, *shape[1:]), generator=draw) * 2.0 * valid, valid


def test_logits_have_the_size_of_the_image(kind: str) -> None:
    assert framed(kind)(*scene(2, 24, 32)).shape == (2, CLASSES, 24, 32)


def test_every_parameter_gets_a_gradient(kind: str) -> None:
    net = network(kind, dropout=0.0).train()
    image, valid = scene(2, 24, 24)
    net(torch.cat([image, valid], 1)).square().sum().backward()
    silent = [name for name, p in net.named_parameters() if p.grad is None or not p.grad.abs().sum() > 0]
    assert silent == []


def test_eight_samples_can_be_learned_by_heart(kind: str) -> None:
    net = network(kind, dropout=0.0).train()
    image, valid = scene(8, 16, 16, hidden=0.0)
    labels = (torch.arange(8) % CLASSES)[:, None, None].expand(8, 16, 16)
    image = 0.03 * image + 3.0 * torch.randn(8, CHANNELS, 1, 1, generator=torch.Generator().manual_seed(3))
    optimizer = torch.optim.Adam(net.parameters(), 0.02)
    for _ in range(40):
        optimizer.zero_grad()
        torch.nn.functional.cross_entropy(net(torch.cat([image, valid], 1)), labels).backward()
        optimizer.step()
    found = net(torch.cat([image, valid], 1)).argmax(1)
    assert (found[:, 4:12, 4:12] == labels[:, 4:12, 4:12]).float().mean() > 0.99


def test_the_same_seed_gives_the_same_weights(kind: str) -> None:
    one, same, other = (network(kind, seed).state_dict() for seed in (0, 0, 1))
    assert all(torch.equal(one[name], same[name]) for name in one)
    assert any(not torch.equal(one[name], other[name]) for name in one)


def test_saved_and_loaded_is_equal(kind: str, tmp_path: Path) -> None:
    from safetensors.torch import load_file

    frame, fresh = framed(kind), Classifier(Normalise([0.0] * 3, [1.0] * 3), network(kind, 5), CLASSES)
    save_weights(frame, tmp_path / "weights.safetensors")
    fresh.load_state_dict(load_file(tmp_path / "weights.safetensors"))
    image, valid = scene(1, 16, 24)
    assert torch.equal(fresh.eval()(image, valid), frame(image, valid))


@pytest.mark.parametrize("shape", [(1, 16, 16), (3, 40, 24)])
def test_onnx_is_equal_to_torch_for_any_size(kind: str, shape: tuple[int, int, int], tmp_path: Path) -> None:
    import onnxruntime as ort

    frame = framed(kind)
    export_module(frame, frame.normalise, frame.network.stride, tmp_path / "model.onnx")  # type: ignore[arg-type]
    image, valid = scene(*shape)
    session = ort.InferenceSession(str(tmp_path / "model.onnx"))
    (found,) = session.run(["logits"], {"image": image.numpy(), "valid": valid.numpy()})
    with torch.no_grad():
        np.testing.assert_allclose(found, frame(image, valid).numpy(), atol=2e-5)


def test_moving_the_image_by_the_stride_moves_the_map(kind: str) -> None:
    frame = framed(kind)
    stride, margin = int(frame.network.stride), int(frame.network.margin)  # type: ignore[arg-type]
    side = stride * (-(-(2 * margin + 16) // stride))
    image, valid = scene(1, side, side + stride)
    with torch.no_grad():
        left = frame(image[..., :side], valid[..., :side])
        right = frame(image[..., stride:], valid[..., stride:])
    inner = slice(margin, side - margin - stride)
    torch.testing.assert_close(
        left[..., margin:-margin or None, inner.start + stride : inner.stop + stride],
        right[..., margin:-margin or None, inner],
        atol=1e-5, rtol=1e-5,
    )  # fmt: skip


def test_what_is_invalid_is_as_if_it_were_cut_off(kind: str) -> None:
    frame = framed(kind)
    image, valid = scene(1, 16, 16)
    pad = 2 * int(frame.network.stride)  # type: ignore[arg-type]
    wide, mask = nn.functional.pad(image, [pad] * 4, value=7.0), nn.functional.pad(valid, [pad] * 4)
    with torch.no_grad():
        torch.testing.assert_close(
            frame(wide, mask)[..., pad:-pad, pad:-pad], frame(image, valid), atol=1e-5, rtol=1e-5
        )


def test_values_under_a_mask_are_never_read(kind: str) -> None:
    frame = framed(kind)
    image, valid = scene(1, 24, 24, hidden=0.3)
    other = torch.where(valid > 0, image, torch.full_like(image, 123.0))
    with torch.no_grad():
        assert torch.equal(frame(image, valid), frame(other, valid))


def test_statistics_of_the_normalisation_are_of_valid_pixels_only() -> None:
    layer = ValidBatchNorm(1, momentum=1.0).train()
    features = torch.tensor([[[[1.0, 3.0], [99.0, 99.0]]]])
    valid = torch.tensor([[[[1.0, 1.0], [0.0, 0.0]]]])
    found = layer(features, valid)
    assert layer.mean.item() == 2.0
    assert layer.variance.item() == 1.0
    torch.testing.assert_close(found[0, 0, 0], torch.tensor([-1.0, 1.0]), atol=1e-4, rtol=0)


def test_halving_is_the_mean_of_what_is_valid() -> None:
    features = torch.tensor([[[[4.0, 8.0], [1.0, 2.0]]]])
    valid = torch.tensor([[[[1.0, 1.0], [0.0, 0.0]]]])
    assert halve(features, valid).item() == 6.0
    assert halve(features, torch.zeros_like(valid)).item() == 0.0
    assert mask_pyramid(valid, 1)[1].item() == 1.0
    assert torch.equal(halve(double(features), torch.ones(1, 1, 4, 4)), features)


def test_context_is_mean_and_deviation_of_the_valid_pixels_of_a_window() -> None:
    image, valid = scene(1, 9, 9, hidden=0.3)
    found = Context(CHANNELS, (3, 5))(torch.cat([image, valid], 1))[0].numpy()
    assert found.shape == (CHANNELS * 5, 9, 9)
    values, seen = image[0].numpy(), valid[0, 0].numpy() > 0
    for place, side in ((0, 3), (1, 5)):
        for row, col in ((0, 0), (4, 4), (8, 3)):
            reach = side // 2
            box = (slice(max(0, row - reach), row + reach + 1), slice(max(0, col - reach), col + reach + 1))
            inside = values[(slice(None), *box)][:, seen[box]]
            first = CHANNELS * (1 + 2 * place)
            np.testing.assert_allclose(found[first : first + 3, row, col], inside.mean(1), atol=1e-5)
            np.testing.assert_allclose(found[first + 3 : first + 6, row, col], inside.std(1), atol=1e-3)


def test_a_window_mean_does_not_depend_on_where_the_image_was_cut() -> None:
    image = torch.randn(1, 2, 30, 30)
    whole, part = window_mean(image, 7), window_mean(image[..., 5:25, 4:28], 7)
    assert torch.equal(whole[..., 8:22, 7:25], part[..., 3:17, 3:21])


def test_normalising_clips_and_hides() -> None:
    frame = Normalise([10.0], [2.0], clip=3.0)
    image = torch.tensor([[[[12.0, 100.0, 12.0]]]])
    found = frame(image, torch.tensor([[[[1.0, 1.0, 0.0]]]]))
    assert found[0, 0, 0].tolist() == [1.0, 3.0, 0.0]
    assert with_validity(found, torch.tensor([[[[1.0, 1.0, 0.0]]]]))[0, 1, 0].tolist() == [1.0, 1.0, 0.0]


def test_every_channel_is_hidden_by_its_own_step() -> None:
    frame = Normalise([0.0] * 4, [1.0] * 4, steps=[0, 0, 1, 1])
    valid = torch.tensor([1.0, 0.0])[None, :, None, None]
    assert frame(torch.ones(1, 4, 1, 1), valid).flatten().tolist() == [1.0, 1.0, 0.0, 0.0]
    assert with_validity(torch.ones(1, 4, 1, 1), valid).flatten().tolist() == [1.0] * 5
