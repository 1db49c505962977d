"""Networks for series: missing steps, irregular dates, packing, export, and what only the order of events tells."""

from __future__ import annotations

import math
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from stages.models.convlstm import ConvLSTM
from stages.models.layers import ValidBatchNorm
from stages.models.ltae import LTAE
from stages.models.recurrent import LSTM
from stages.models.series import columns, of_series
from stages.models.tempcnn import TempCNN

BANDS, STEPS, CLASSES = 2, 5, 3
CASES: dict[str, tuple[type[nn.Module], dict[str, Any]]] = {
    "lstm": (LSTM, {"hidden": 8}),
    "lstm plain": (LSTM, {"hidden": 8, "calendar": False}),
    "lstm deep, both ways": (LSTM, {"hidden": 6, "layers": 2, "bidirectional": True}),
    "lstm attention, both ways": (LSTM, {"hidden": 6, "bidirectional": True, "readout": "attention"}),
    "lstm attention": (LSTM, {"hidden": 6, "readout": "attention"}),
    "gru": (LSTM, {"hidden": 8, "kind": "gru"}),
    "gru deep, both ways": (LSTM, {"hidden": 6, "kind": "gru", "layers": 2, "bidirectional": True}),
    "rnn": (LSTM, {"hidden": 8, "kind": "rnn"}),
    "rnn attention, both ways": (LSTM, {"hidden": 6, "kind": "rnn", "bidirectional": True, "readout": "attention"}),
    "tempcnn": (TempCNN, {"filters": 8, "dense": 16}),
    "tempcnn calendar": (TempCNN, {"filters": 8, "dense": 16, "layers": 2, "kernel": 3, "calendar": True}),
    "ltae": (LTAE, {"n_head": 4, "d_model": 16, "embedding": 8, "decoder": 8}),
    "ltae one head": (LTAE, {"n_head": 1, "d_k": 4, "d_model": 8, "embedding": 8, "decoder": 8}),
    "convlstm": (ConvLSTM, {"hidden": 6}),
    "convlstm both ways": (ConvLSTM, {"hidden": 4, "bidirectional": True}),
}
PIXELS = [case for case in CASES if "convlstm" not in case]


@pytest.fixture(autouse=True)
def one_thread() -> None:
    torch.set_num_threads(1)


@pytest.fixture(params=CASES)
def case(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def network(case: str, seed: int = 0, **changes: Any) -> Any:
    """A network as after a training, whose weights and statistics are of a size that shows mistakes."""
    torch.manual_seed(seed)
    kind, settings = CASES[case]
    net = kind(BANDS, STEPS, CLASSES, **{**settings, "dropout": 0.0, **changes})
    with torch.no_grad():
        for module in net.modules():
            if isinstance(module, ValidBatchNorm):
                module.mean.normal_()
                module.variance.uniform_(0.5, 2.0)
        for parameter in net.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    return net.eval()


def scene(n: int, y: int, x: int, missing: float = 0.3, seed: int = 0) -> tuple[Tensor, Tensor, Tensor]:
    draw = torch.Generator().manual_seed(seed)
    valid = (torch.rand(n, STEPS, y, x, generator=draw) >= missing).float()
    image = torch.randn(n, STEPS * BANDS, y, x, generator=draw) * valid.repeat_interleave(BANDS, dim=1)
    days = torch.rand(n, STEPS, generator=draw).mul(500.0).sort(dim=1).values
    return image, valid, days


def test_networks_keep_the_contract(case: str) -> None:
    net = network(case)
    assert net(*scene(2, 4, 6)).shape == (2, CLASSES, 4, 6)
    assert (net.stride, net.series) == (1, True)
    assert net.margin == (STEPS if "convlstm" in case else 0)


def test_every_parameter_gets_a_gradient(case: str) -> None:
    net = network(case).train()
    net(*scene(2, 6, 6)).square().sum().backward()
    assert [name for name, p in net.named_parameters() if p.grad is None or not p.grad.abs().sum() > 0] == []


def test_the_same_seed_gives_the_same_weights(case: str) -> None:
    one, same, other = (network(case, seed).state_dict() for seed in (0, 0, 1))
    assert all(torch.equal(one[name], same[name]) for name in one)
    assert any(not torch.equal(one[name], other[name]) for name in one)


def test_values_at_missing_steps_do_not_matter(case: str) -> None:
    net, (image, valid, days) = network(case), scene(2, 5, 4)
    rubbish = torch.where(valid.repeat_interleave(BANDS, dim=1) > 0, image, 30.0 * torch.randn_like(image))
    assert not torch.equal(image, rubbish)
    torch.testing.assert_close(net(rubbish, valid, days), net(image, valid, days), atol=1e-6, rtol=0)
    net.train()
    torch.testing.assert_close(net(rubbish, valid, days), net(image, valid, days), atol=1e-6, rtol=0)


def test_valid_values_matter_at_every_step(case: str) -> None:
    net, (image, valid, days) = network(case), scene(1, 3, 3, missing=0.0)
    for step in range(STEPS):
        changed = image.clone()
        changed[:, step * BANDS] += 1.0
        assert (net(changed, valid, days) - net(image, valid, days)).abs().amax(dim=1).min() > 1e-6, step


@pytest.mark.parametrize("case", [case for case in CASES if "tempcnn" not in case])
def test_a_missing_step_is_as_if_it_were_not_there(case: str) -> None:
    net, (image, valid, days) = network(case), scene(2, 3, 3)
    valid[:, 3] = 0.0
    kind, settings = CASES[case]
    shorter = kind(BANDS, STEPS - 1, CLASSES, **{**settings, "dropout": 0.0}).eval()
    shorter.load_state_dict(net.state_dict())
    keep = [0, 1, 2, 4]
    bands = image.reshape(2, STEPS, BANDS, 3, 3)[:, keep].flatten(1, 2)
    valid[:, 0] = 1.0  # attention to nothing at all would be spread over however many steps there are
    found = shorter(bands, valid[:, keep], days[:, keep])
    torch.testing.assert_close(found, net(image, valid, days), atol=1e-5, rtol=0)


@pytest.mark.parametrize("training", [False, True])
def test_a_pixel_without_any_valid_step_has_finite_logits_and_gradients(case: str, training: bool) -> None:
    net, (image, valid, days) = network(case).train(training), scene(1, 3, 3)
    valid[..., 0] = 0.0
    for mask in (valid, torch.zeros_like(valid)):
        net.zero_grad()
        logits = net(image, mask, days)
        logits.square().sum().backward()
        assert logits.isfinite().all()
        assert all(p.grad.isfinite().all() for p in net.parameters() if p.grad is not None)


def test_onnx_is_equal_to_torch_whatever_is_missing(case: str, tmp_path: Path) -> None:
    net = network(case)
    session, names = exported(net, tmp_path / "net.onnx")
    for shape, missing in [((1, 4, 16), 0.0), ((3, 5, 7), 0.3), ((1, 5, 7), 0.9), ((2, 3, 3), 1.0)]:
        given = dict(zip(("image", "valid", "days"), scene(*shape, missing=missing), strict=True))
        (found,) = session.run(None, {name: given[name].numpy() for name in names})
        with torch.no_grad():
            np.testing.assert_allclose(found, net(**given).numpy(), atol=1e-5, rtol=0)


def exported(net: nn.Module, path: Path) -> tuple[Any, list[str]]:
    import onnxruntime

    free = {0: "n", 2: "y", 3: "x"}
    axes = {"image": free, "valid": free, "days": {0: "n"}, "logits": free}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # the tracing exporter is announced to go
        torch.onnx.export(
            net, scene(2, 8, 8), str(path), input_names=["image", "valid", "days"], output_names=["logits"],
            dynamic_axes=axes, dynamo=False, opset_version=17,
        )  # fmt: skip
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    return session, [given.name for given in session.get_inputs()]


@pytest.mark.parametrize("case", PIXELS)
def test_a_pixel_is_classified_by_its_own_series(case: str) -> None:
    net, (image, valid, days) = network(case), scene(2, 3, 4)
    series = image.reshape(2, STEPS, BANDS, 12).permute(0, 3, 1, 2).flatten(0, 1)
    seen = valid.flatten(2).permute(0, 2, 1).flatten(0, 1)
    found = of_series(net, series, seen, days.repeat_interleave(12, dim=0))
    torch.testing.assert_close(found, net(image, valid, days).permute(0, 2, 3, 1).flatten(0, 2), atol=1e-6, rtol=0)


@pytest.mark.parametrize("case", [case for case in CASES if case not in {"lstm plain", "tempcnn"}])
def test_the_days_matter(case: str) -> None:
    net, (image, valid, days) = network(case), scene(1, 2, 2, missing=0.0)
    days = torch.tensor([[10.0, 60.0, 130.0, 190.0, 300.0]])
    assert (net(image, valid, days.roll(1, dims=1)) - net(image, valid, days)).abs().max() > 1e-4


@pytest.mark.parametrize("case", [case for case in CASES if "ltae" not in case])
def test_the_order_of_steps_matters_even_on_the_same_days(case: str) -> None:
    net, (image, valid, days) = network(case), scene(1, 2, 2, missing=0.0)
    swapped = image.reshape(1, STEPS, BANDS, 2, 2).flip(1).reshape(image.shape)
    days = torch.zeros_like(days)
    assert (net(swapped, valid, days) - net(image, valid, days)).abs().max() > 1e-4


def test_attention_depends_on_steps_only_through_their_days() -> None:
    net, (image, valid, days) = network("ltae"), scene(1, 2, 2)
    turned = image.reshape(1, STEPS, BANDS, 2, 2).flip(1).reshape(image.shape)
    found, moved = net(turned, valid.flip(1), days.flip(1)), net(turned, valid.flip(1), days)
    torch.testing.assert_close(found, net(image, valid, days), atol=1e-6, rtol=0)
    assert (moved - found).abs().max() > 1e-3


def test_a_leap_of_a_year_is_nearly_the_same_season() -> None:
    net, (image, valid, days) = network("lstm"), scene(1, 2, 2)
    year_on, half_on = (net(image, valid, days + later) for later in (365.25, 182.6))
    torch.testing.assert_close(year_on, net(image, valid, days), atol=1e-4, rtol=0)
    assert (half_on - year_on).abs().max() > 1e-3


@pytest.mark.parametrize("layers", [1, 2])
@pytest.mark.parametrize("both", [False, True])
@pytest.mark.parametrize("kind", ["lstm", "gru", "rnn"])
def test_passing_over_missing_steps_equals_packed_sequences(kind: str, both: bool, layers: int) -> None:
    net = network("lstm", kind=kind, bidirectional=both, layers=layers, hidden=7, calendar=False)
    image, valid, days = scene(40, 1, 1)
    valid[:, 2] = 1.0  # a packed sequence has a step at least
    seen = columns(image, valid, days, STEPS, BANDS)
    outputs, valid = seen.series.flatten(2), seen.valid.flatten(2)
    for layer in net.layers:
        ways = [way(outputs, valid) for way in layer]
        outputs, last = torch.cat([way[0] for way in ways], 1), torch.cat([way[1] for way in ways])

    rows, at = seen.series.flatten(2).permute(2, 0, 1), valid[:, 0].T > 0
    packed = nn.utils.rnn.pack_sequence([row[keep] for row, keep in zip(rows, at, strict=True)], enforce_sorted=False)
    with torch.no_grad():
        found, state = reference(net, kind)(packed)
    state = state[0] if kind == "lstm" else state
    expected, _ = nn.utils.rnn.pad_packed_sequence(found, batch_first=True)
    for pixel, keep in enumerate(at):
        found_here = outputs[keep, :, pixel]
        torch.testing.assert_close(found_here, expected[pixel, : int(keep.sum())], atol=1e-5, rtol=0)
    torch.testing.assert_close(last.T, state[-1 - both :].permute(1, 0, 2).flatten(1), atol=1e-5, rtol=0)


def reference(net: LSTM, kind: str) -> nn.Module:
    """The framework's own recurrent layers with the network's weights."""
    make = {"lstm": nn.LSTM, "gru": nn.GRU, "rnn": nn.RNN}[kind]
    theirs = make(BANDS, 7, num_layers=len(net.layers), bidirectional=len(net.layers[0]) == 2, batch_first=True)
    with torch.no_grad():
        for number, layer in enumerate(net.layers):
            for way, ending in zip(layer, ("", "_reverse"), strict=False):
                cell, inputs = way.cell, way.cell.weight.shape[1] - 7
                getattr(theirs, f"weight_ih_l{number}{ending}").copy_(cell.weight[:, :inputs])
                getattr(theirs, f"weight_hh_l{number}{ending}").copy_(cell.weight[:, inputs:])
                getattr(theirs, f"bias_ih_l{number}{ending}").copy_(cell.bias)
                rest = getattr(theirs, f"bias_hh_l{number}{ending}").zero_()
                if kind == "gru":
                    rest[-7:] = cell.reset_bias
    return theirs


@pytest.mark.parametrize("bias", [0.0, 1.0, 2.5])
def test_the_forget_gate_starts_with_its_bias(bias: float) -> None:
    recurrent = LSTM(BANDS, STEPS, CLASSES, hidden=8, layers=2, bidirectional=True, forget_bias=bias)
    for way in (way for layer in recurrent.layers for way in layer):
        parts = way.cell.bias.chunk(4)
        assert (parts[1] == bias).all()
        assert all((part.abs() <= 8**-0.5).all() for part in (parts[0], parts[2], parts[3]))
    assert (ConvLSTM(BANDS, STEPS, CLASSES, hidden=8, forget_bias=bias).sweeps[0].gates.bias[8:16] == bias).all()


@pytest.mark.parametrize("kind", ["lstm", "gru", "rnn"])
def test_truncation_stops_the_gradient_and_changes_no_value(kind: str) -> None:
    whole, cut = (network("lstm", kind=kind, truncate=steps).train() for steps in (None, 2))
    image, valid, days = scene(1, 2, 2, missing=0.0)
    torch.testing.assert_close(cut(image, valid, days), whole(image, valid, days), atol=0, rtol=0)
    reached = []
    for net, training in ((whole, True), (cut, True), (cut, False)):
        image.requires_grad_(True).grad = None
        net.train(training)(image, valid, days).sum().backward()
        reached.append([bool(image.grad[:, BANDS * t : BANDS * (t + 1)].abs().sum() > 0) for t in range(STEPS)])
    assert reached[0] == [True] * STEPS
    assert reached[1] == [False, False, False, False, True]  # cut before the third and the fifth of five
    assert reached[2] == [True] * STEPS


def test_ltae_is_the_attention_of_the_paper() -> None:
    net, (image, valid, days) = network("ltae"), scene(1, 1, 1)
    valid[0, :, 0, 0] = torch.tensor([1.0, 1.0, 0.0, 1.0, 1.0])
    embedded = torch.randn(16, STEPS)
    found = net.attend(embedded, columns(image, valid, days, STEPS, BANDS))[0, :, 0, 0]
    heads = []
    for head in range(4):
        marked = embedded.clone()
        for place in range(16):
            for step in range(STEPS):
                i = place % 4
                angle = float(days[0, step]) / 1000.0 ** (2 * (i // 2) / 4)
                marked[place, step] += math.sin(angle + math.pi / 2 * (i % 2))
        keys = net.key[head] @ marked
        scores = (net.query[head] @ keys)[0] / math.sqrt(8)
        weights = torch.softmax(scores[valid[0, :, 0, 0] > 0], 0)
        heads.append(marked[4 * head : 4 * head + 4][:, valid[0, :, 0, 0] > 0] @ weights)
    torch.testing.assert_close(found, torch.cat(heads), atol=1e-5, rtol=0)


def test_ltae_refuses_heads_that_cannot_share_the_features() -> None:
    with pytest.raises(ValueError, match="multiple of 32"):
        LTAE(BANDS, STEPS, CLASSES, d_model=100)


def test_tempcnn_normalises_by_pixels_with_a_valid_step_only() -> None:
    image, valid, days = scene(1, 4, 4)
    valid[:, 0] = 1.0
    hidden = [torch.cat([part, torch.zeros_like(part)], dim=3) for part in (image, valid)]
    plain, padded = network("tempcnn").train(), network("tempcnn").train()
    torch.testing.assert_close(padded(*hidden, days)[..., :4], plain(image, valid, days), atol=1e-5, rtol=0)
    for one, other in zip(plain.buffers(), padded.buffers(), strict=True):
        torch.testing.assert_close(one, other, atol=1e-6, rtol=0)


@pytest.mark.parametrize("both", [False, True])
@pytest.mark.parametrize("kernel", [3, 5])
def test_convlstm_looks_exactly_as_far_as_its_margin(kernel: int, both: bool) -> None:
    net = network("convlstm", kernel=kernel, bidirectional=both).double()
    reach = STEPS * (kernel // 2)
    assert net.margin == reach
    image, valid, days = (part.double() for part in scene(1, 2 * reach + 3, 2 * reach + 3, missing=0.0))
    before = net(image, valid, days)[..., reach + 1, reach + 1]
    for far, seen in ((0, False), (1, True)):
        changed = image.clone()
        changed[..., far, far] += 5.0
        after = net(changed, valid, days)[..., reach + 1, reach + 1]
        assert bool((after != before).any()) == seen, far


def test_to_convlstm_a_hole_and_the_edge_look_alike() -> None:
    net, (image, valid, days) = network("convlstm both ways"), scene(1, 6, 6)
    padded = [torch.nn.functional.pad(part, [3, 2, 1, 4]) for part in (image, valid)]
    torch.testing.assert_close(net(*padded, days)[..., 1:7, 3:9], net(image, valid, days), atol=1e-6, rtol=0)


def test_convlstm_equals_the_recurrent_network_where_its_kernel_is_one_pixel() -> None:
    conv = network("convlstm", kernel=1)
    sweep, plain = conv.sweeps[0], LSTM(BANDS + 1, STEPS, CLASSES, hidden=6, dropout=0.0).eval()
    cell = plain.layers[0][0].cell
    with torch.no_grad():  # its inputs are bands, season, validity; here validity is one more band before the season
        order = [0, 1, 4, 2, 3, *range(5, 11)]
        cell.weight.copy_(sweep.gates.weight[:, :, 0, 0][:, order])
        cell.bias.copy_(sweep.gates.bias)
        plain.head.weight.copy_(conv.head.weight[:, :, 0, 0])
        plain.head.bias.copy_(conv.head.bias)
    image, valid, days = scene(2, 3, 3)
    more = torch.cat([image.reshape(2, STEPS, BANDS, 3, 3), valid[:, :, None]], dim=2).flatten(1, 2)
    torch.testing.assert_close(plain(more, valid, days), conv(image, valid, days), atol=1e-5, rtol=0)


def events(count: int, seed: int) -> tuple[Tensor, Tensor, Tensor]:
    """Series (count, 12) of noise with a high and a low event, two steps long; the class is which one comes first."""
    draw = np.random.default_rng(seed)
    labels = draw.integers(0, 2, count)
    first, second = draw.integers(0, 5, count), draw.integers(7, 11, count) - draw.integers(0, 2, count)
    series = draw.normal(0.0, 0.3, (count, 12))
    for row in range(count):
        high, low = (first[row], second[row]) if labels[row] == 0 else (second[row], first[row])
        series[row, high : high + 2] += 2.0
        series[row, low : low + 2] -= 2.0
    valid = draw.random((count, 12)) >= 0.1
    return tuple(torch.from_numpy(part) for part in ((series * valid).astype(np.float32), valid, labels))


@pytest.mark.parametrize("kind", [LSTM, TempCNN, LTAE])
def test_the_order_of_two_events_is_learned(kind: type[nn.Module]) -> None:
    torch.manual_seed(0)
    net = kind(1, 12, 2).train()
    series, valid, labels = events(800, 1)
    days = torch.arange(12.0).expand(800, 12) * 30.0 + 15.0
    optimizer = torch.optim.Adam(net.parameters(), 0.005)
    for _ in range(12):
        for rows in torch.randperm(800).split(100):
            logits = of_series(net, series[rows, :, None], valid[rows].float(), days[rows])
            optimizer.zero_grad()
            nn.functional.cross_entropy(logits, labels[rows]).backward()
            optimizer.step()
    series, valid, labels = events(500, 2)
    with torch.no_grad():
        found = of_series(net.eval(), series[..., None], valid.float(), days[:500]).argmax(1)
    assert (found == labels).float().mean() > 0.9


def test_sorted_values_do_not_tell_the_order_of_two_events() -> None:
    torch.manual_seed(0)
    (series, _, labels), (unseen, _, truth) = events(800, 1), events(500, 2)
    net = nn.Sequential(nn.Linear(12, 64), nn.ReLU(), nn.Linear(64, 2))
    optimizer = torch.optim.Adam(net.parameters(), 0.005)
    for _ in range(12):
        for rows in torch.randperm(800).split(100):
            optimizer.zero_grad()
            nn.functional.cross_entropy(net(series[rows].sort(dim=1).values), labels[rows]).backward()
            optimizer.step()
    assert (net(unseen.sort(dim=1).values).argmax(1) == truth).float().mean() < 0.6
