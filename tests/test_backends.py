"""Every backend computes the same network: torch from the folder alone, graphs without masks, refused mistakes."""

from __future__ import annotations

import dataclasses
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from onnx import helper

from stages.errors import ModelError, SettingError
from stages.formats.samples import Role
from stages.formats.weights import ONNX, WEIGHTS, read_card, write_card
from stages.inference import backends
from stages.inference.backends import Engine, Placing, check_agreement, engine_of, opened, session_of, torch_form
from stages.inference.unmasked import unmasked
from stages.models.classifier import Classifier, Committee, Normalise
from stages.models.context import Context
from stages.models.differences import Differenced
from stages.models.kernel import KernelMachine
from stages.models.layers import ValidBatchNorm
from stages.models.rebuild import describe, describe_machine
from stages.models.table import NETWORKS, SERIES
from stages.training.classifiers import fit
from stages.training.ensemble import Ensemble
from stages.training.held import gather
from stages.training.onnx_file import export_module, save_weights
from stages.training.recipes import ForestRecipe, MlpRecipe, VectorRecipe
from tests.networks import card_of, write_graph, write_network, write_window_mean
from tests.training_worlds import lay, quick
from tests.worlds import patchwork, separable

BANDS, STEPS, CLASSES = 3, 4, 4
ARGUMENTS: dict[str, dict[str, Any]] = {
    "mlp": {"width": 8},
    "cnn": {"width": 8, "dilations": (1, 2)},
    "cnn3d": {"width": 4},
    "capsule": {"width": 8, "dilations": (1,), "types": 2, "d": 4, "class_d": 4},
    "unet": {"width": 8, "depth": 2},
    "lstm": {"hidden": 6, "layers": 2, "bidirectional": True, "readout": "attention"},
    "tempcnn": {"filters": 8, "dense": 16},
    "ltae": {"n_head": 4, "d_model": 16, "embedding": 8, "decoder": 8},
    "convlstm": {"hidden": 4, "bidirectional": True},
}
#: Every kind of folder that `train` writes and torch can build.
FOLDERS = (*ARGUMENTS, "gru", "unet of three", "lstm of two", "mlp on differences", "svm", "ensemble", "mixed ensemble")


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    root = tmp_path_factory.mktemp("folders")
    made = {kind: write_kind(root / kind, kind) for kind in ARGUMENTS}
    made["gru"] = write_kind(root / "gru", "lstm", kind_of_unit="gru")
    made["unet of three"] = write_kind(root / "unet3", "unet", members=3)
    made["lstm of two"] = write_kind(root / "lstm2", "lstm", members=2)
    made["mlp on differences"] = write_differences(root / "differences")
    made["svm"] = write_machine(root / "svm")
    made["mlp of series"] = write_kind(root / "mlp-series", "mlp", steps=STEPS)
    made["ensemble"] = write_ensemble(root / "ensemble", [made[kind] for kind in ("cnn", "unet", "mlp")])
    made["mixed ensemble"] = write_ensemble(root / "mixed", [made[kind] for kind in ("mlp of series", "lstm")])
    return made


def normalise_of(steps: int) -> Normalise:
    count = steps * BANDS
    mean, deviation = np.linspace(-0.5, 0.5, count).tolist(), np.linspace(0.5, 2.0, count).tolist()
    return Normalise(mean, deviation, 3.5, np.repeat(range(steps), BANDS).tolist())


def frame(network: Any, normalise: Normalise, seed: int) -> Classifier:
    """A network in its frame as after a training, whose statistics are of a size that shows mistakes."""
    draw = torch.Generator().manual_seed(seed)
    for module in network.modules():
        if isinstance(module, ValidBatchNorm):
            module.mean.normal_(generator=draw)
            module.variance.uniform_(0.5, 2.0, generator=draw)
    made = Classifier(normalise, network, CLASSES)
    made.correction.normal_(generator=draw)
    return made.eval()


def write_kind(
    folder: Path, kind: str, steps: int | None = None, members: int = 1, kind_of_unit: str | None = None
) -> Path:
    series = kind in SERIES
    steps = steps or (STEPS if series else 1)
    sizes = {"bands": BANDS, "steps": steps} if series else {"channels": BANDS * steps}
    arguments = {**sizes, "classes": CLASSES, **ARGUMENTS[kind], **({"kind": kind_of_unit} if kind_of_unit else {})}
    frames = []
    for seed in range(members):
        torch.manual_seed(seed)
        frames.append(frame({**NETWORKS, **SERIES}[kind](**arguments), normalise_of(steps), seed))
    normalise, network = frames[0].normalise, frames[0].network
    description = {**describe(kind, arguments, normalise), "members": members}
    module = Committee(frames).eval() if members > 1 else frames[0]
    return write_module(folder, module, normalise, description, (int(network.margin), int(network.stride)))


def write_differences(folder: Path) -> Path:
    normalise = Differenced(normalise_of(STEPS), BANDS, [(1,), (1, 2)])
    normalise.spread.uniform_(0.5, 2.0, generator=torch.Generator().manual_seed(3))
    arguments = {"channels": 3 * STEPS * BANDS, "classes": CLASSES, "width": 8}
    torch.manual_seed(0)
    made = frame(NETWORKS["mlp"](**arguments), normalise, 0)
    return write_module(folder, made, normalise, describe("mlp", arguments, normalise))


def write_machine(folder: Path) -> Path:
    draw = torch.Generator().manual_seed(0)
    machine = KernelMachine(Context(BANDS, (3, 5)), CLASSES, 300, 6, 0.05)
    for tensor in machine.buffers():
        tensor.normal_(generator=draw)
    machine.spread.abs_().add_(0.5)
    machine.wins.sign_()
    normalise = normalise_of(1)
    made = Classifier(normalise, machine, CLASSES).eval()
    return write_module(folder, made, normalise, describe_machine(machine, normalise), (2, 1))


def write_module(
    folder: Path, module: Any, normalise: Normalise, network: dict[str, Any], reach: tuple[int, int] = (0, 1)
) -> Path:
    folder.mkdir()
    margin, stride = reach
    export_module(module, normalise, stride, folder / ONNX)
    save_weights(module, folder / WEIGHTS)
    steps = int(normalise.steps.max()) + 1
    dates = tuple(str(2020 + step) for step in range(steps))
    names = tuple(f"b{i}@{date}" if steps > 1 else f"b{i}" for date in dates for i in range(BANDS))
    write_card(folder, card_of(
        CLASSES, BANDS, channels=names, dates=dates, days=tuple(30.0 * step for step in range(steps)),
        margin=margin, stride=stride, temperature=1.5, network=network,
    ))  # fmt: skip
    return folder


def write_ensemble(folder: Path, members: list[Path]) -> Path:
    folder.mkdir()
    ensemble = Ensemble(members)
    ensemble.export(folder)
    card = read_card(members[-1])
    write_card(folder, dataclasses.replace(
        card, margin=ensemble.margin, stride=ensemble.stride, network=ensemble.network
    ))  # fmt: skip
    return folder


def windows(folder: Path, count: int = 2, hidden: float = 0.2) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Images of a model, their validity and days."""
    card, rng = read_card(folder), np.random.default_rng(1)
    high, wide = 24 + -24 % card.stride, 32 + -32 % card.stride
    valid = rng.random((count, len(card.dates), high, wide)) >= hidden
    image = rng.normal(0.0, 2.0, (count, len(card.channels), high, wide)).astype(np.float32)
    shown = np.where(np.repeat(valid, BANDS, axis=1), image, np.float32(0.0))
    return shown, valid, np.tile(np.array(card.days, np.float32), (count, 1))


@pytest.mark.parametrize("kind", FOLDERS)
def test_torch_is_rebuilt_from_the_folder_and_equal_to_onnx(kind: str, folders: dict[str, Path]) -> None:
    shown = windows(folders[kind])
    found = [opened(folders[kind], engine).logits(*shown) for engine in (Engine(), Engine("torch"))]
    assert found[0].shape == (2, CLASSES, *shown[0].shape[2:])
    assert found[0].std() > 0.1
    np.testing.assert_allclose(found[1], found[0], atol=1e-5, rtol=1e-5)
    difference = check_agreement(folders[kind], Engine(), *shown)
    assert difference is not None
    assert difference < 1e-5


@pytest.mark.parametrize("kind", FOLDERS)
def test_without_masks_a_graph_gives_the_same_where_all_is_valid(kind: str, folders: dict[str, Path]) -> None:
    folder = folders[kind]
    image, valid, days = windows(folder, hidden=0.0)
    backend, whole = opened(folder, Engine()), session_of(str(folder / ONNX))
    given = {"image": image, "valid": valid.astype(np.float32), "days": days}
    (expected,) = whole.run(["logits"], {entry.name: given[entry.name] for entry in whole.get_inputs()})
    np.testing.assert_allclose(backend.logits(image, valid, days), expected, atol=1e-6)
    halo = read_card(folder).margin
    inside = (..., slice(halo, image.shape[2] - halo), slice(halo, image.shape[3] - halo))
    np.testing.assert_allclose(backend.logits(image, valid, days, halo)[inside], expected[inside], atol=1e-6)


@pytest.mark.parametrize(("kind", "whole", "reach"), [("mlp", True, 0), ("unet", True, 0), ("cnn", True, 3),
                                                      ("ensemble", True, 3), ("lstm", True, 0)])  # fmt: skip
def test_masks_are_found(kind: str, whole: bool, reach: int, folders: dict[str, Path]) -> None:
    path = folders[kind] / ONNX
    opened_graphs: list[bytes] = []

    def opener(graph: bytes) -> Any:
        opened_graphs.append(graph)
        return session_of(graph)

    found = unmasked(path, read_card(folders[kind]), session_of(str(path)), opener)
    assert (found.whole is not None, found.inner is not None, found.reach) == (whole, reach > 0, reach)
    # The last graph opened has fewer products than the file.
    assert products(opened_graphs[-1]) < products(path.read_bytes())


def products(graph: bytes) -> int:
    import onnx

    return sum(node.op_type == "Mul" for node in onnx.load_from_string(graph).graph.node)


def test_a_patch_network_needs_no_product_where_all_is_valid(folders: dict[str, Path]) -> None:
    path = folders["cnn"] / ONNX
    graphs: list[bytes] = []
    unmasked(path, read_card(folders["cnn"]), session_of(str(path)), lambda g: (graphs.append(g), session_of(g))[1])
    # Of every layer the product with the gain is left, and nothing of the masks.
    assert products(graphs[-1]) == 4


def test_what_only_looks_like_a_mask_stays(tmp_path: Path) -> None:
    pooled = helper.make_node(
        "AveragePool", ["valid"], ["share"], kernel_shape=[3, 3], pads=[1, 1, 1, 1], count_include_pad=1
    )
    nodes = [pooled, helper.make_node("Mul", ["image", "share"], ["logits_1"]),
             helper.make_node("Identity", ["logits_1"], ["logits"])]  # fmt: skip
    folder = write_graph(tmp_path / "share", nodes, {}, card_of(2, 2))
    image, valid = np.ones((1, 2, 8, 8), np.float32), np.ones((1, 1, 8, 8), bool)
    found = opened(folder, Engine()).logits(image, valid, np.zeros((1, 1), np.float32))
    assert found[0, 0, 0, 0] == pytest.approx(4 / 9)  # the corner sees five pixels of padding
    assert found[0, 0, 4, 4] == pytest.approx(1.0)


def test_a_product_that_widens_its_other_side_stays(tmp_path: Path) -> None:
    folder = write_window_mean(tmp_path / "mean", 3, 2, margin=0)
    image, valid = np.full((1, 2, 8, 8), 2.0, np.float32), np.ones((1, 1, 8, 8), bool)
    found = opened(folder, Engine()).logits(image, valid, np.zeros((1, 1), np.float32))
    assert found.shape == (1, 3, 8, 8)
    np.testing.assert_allclose(found[0, :, 3, 3], [-2.0, 0.0, 2.0])


@pytest.mark.parametrize("kind", ["cnn", "unet", "mlp"])
def test_an_image_does_not_depend_on_those_beside_it(kind: str, folders: dict[str, Path]) -> None:
    image, valid, days = windows(folders[kind], 4)
    valid[1:3] = True
    backend = opened(folders[kind], Engine())
    together = backend.logits(image, valid, days, 8)
    for one, alone in enumerate(together):
        some = slice(one, one + 1)
        assert np.array_equal(alone, backend.logits(image[some], valid[some], days[some], 8)[0])


@pytest.mark.parametrize("engine", [Engine(), Engine("torch")])
def test_threads_may_call_it_at_once(engine: Engine, folders: dict[str, Path]) -> None:
    shown = windows(folders["unet"])
    before = torch.get_num_threads()
    torch.set_num_threads(3)
    backend = opened(folders["unet"], engine)
    expected = backend.logits(*shown)
    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(lambda _: backend.logits(*shown), range(8)))
    assert all(np.array_equal(one, expected) for one in found)
    assert torch.get_num_threads() == 3
    torch.set_num_threads(before)


def test_it_is_loaded_once_until_its_files_change(tmp_path: Path) -> None:
    folder = write_kind(tmp_path / "mlp", "mlp")
    first = opened(folder, Engine("torch"))
    assert opened(folder, Engine("torch")) is first
    assert opened(folder, Engine()) is not first
    (folder / WEIGHTS).write_bytes((folder / WEIGHTS).read_bytes() + b"")
    assert opened(folder, Engine("torch")) is not first


@pytest.mark.parametrize("precision", ["float16", "bfloat16"])
@pytest.mark.parametrize("kind", ["unet", "cnn", "mlp", "lstm"])
def test_reduced_precision_is_near_but_not_equal(kind: str, precision: str, folders: dict[str, Path]) -> None:
    shown, engine = windows(folders[kind]), Engine("torch", "cpu", precision)
    assert opened(folders[kind], engine).name == f"torch-cpu {torch.__version__} {precision}"
    difference = check_agreement(folders[kind], engine, *shown)
    assert difference is not None
    assert 1e-5 < difference <= backends.TOLERANCE[precision]


def test_a_backend_that_computes_something_else_is_found_out(tmp_path: Path) -> None:
    folder = write_kind(tmp_path / "mlp", "mlp")
    form: Any = torch_form(folder)
    with torch.no_grad():
        form.network.head.bias[0] += 1e-3
    save_weights(form, folder / WEIGHTS)
    with pytest.raises(ModelError, match=r"onnxruntime-cpu .* differ by up to .*e-0[45] from torch .* at most 1e-05"):
        check_agreement(folder, Engine(), *windows(folder))


def test_without_a_torch_form_or_a_valid_pixel_nothing_is_compared(tmp_path: Path, folders: dict[str, Path]) -> None:
    folder = write_network(tmp_path / "net", np.ones((2, 3, 1, 1), np.float32))
    assert torch_form(folder) is None
    assert check_agreement(folder, Engine(), *windows(folder)) is None
    image, valid, days = windows(folders["mlp"])
    assert check_agreement(folders["mlp"], Engine(), image, valid & False, days) == 0.0


def test_memory_that_runs_out_is_told_as_such(folders: dict[str, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    class Full:
        def run(self, *_: Any) -> Any:
            raise RuntimeError("Failed to allocate memory for requested buffer of size 8")

    def full(*_: Any) -> Any:
        raise torch.OutOfMemoryError("CUDA out of memory")

    shown = windows(folders["mlp"])
    onnx: Any = backends.OnnxBackend(folders["mlp"], Engine())
    monkeypatch.setattr(onnx, "_session", Full())
    with pytest.raises(MemoryError, match=r"images of \(2, 3, 24, 32\)"):
        onnx.logits(*shown)
    eager: Any = backends.TorchBackend(folders["mlp"], Engine("torch"))
    monkeypatch.setattr(eager, "_network", full)
    with pytest.raises(MemoryError, match=r"images of \(2, 3, 24, 32\)"):
        eager.logits(*shown)


def test_a_network_is_compiled_on_request(folders: dict[str, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    compiled: list[dict[str, Any]] = []

    def compiler(module: Any, **settings: Any) -> Any:
        compiled.append(settings)
        return module if len(compiled) == 1 else lambda *_: 1 / 0

    monkeypatch.setattr(torch, "compile", compiler)
    engine, folder = Engine("torch", compiled=True), folders["cnn"]
    backends._opened.cache_clear()
    assert check_agreement(folder, engine, *windows(folder)) == pytest.approx(0.0, abs=1e-6)
    assert opened(folder, engine).name.endswith("float32 compiled")
    assert compiled == [{"dynamic": True}]
    backends._opened.cache_clear()
    with pytest.raises(ModelError, match=r"cannot run the network \(ZeroDivisionError: .*or classify.compile to false"):
        check_agreement(folder, engine, *windows(folder))
    backends._opened.cache_clear()


def test_the_engine_is_decided_by_the_machine(folders: dict[str, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    def decided(folder: Path, **settings: Any) -> Engine:
        return engine_of(Placing(**settings), read_card(folder), folder)

    bare = write_network(folders["mlp"].parent / "bare", np.ones((2, 3, 1, 1), np.float32))
    assert decided(folders["unet"]) == Engine("onnx", "cpu", "float32", False)
    assert decided(folders["unet"], backend="torch") == Engine("torch", "cpu", "float32", False)
    assert decided(folders["unet"], precision="bfloat16") == Engine("torch", "cpu", "bfloat16", False)
    assert decided(folders["unet"], compile=True) == Engine("torch", "cpu", "float32", True)
    assert decided(folders["unet"], precision="int8") == Engine("onnx", "cpu", "int8", False)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: True)
    assert decided(folders["unet"]) == Engine("torch", "mps", "float32", False)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    assert decided(folders["unet"]) == Engine("torch", "cuda", "float32", False)
    assert decided(folders["unet"], device="cuda:1", precision="float16") == Engine("torch", "cuda:1", "float16", False)
    assert decided(folders["unet"], device="cpu") == decided(folders["unet"], backend="onnx") == Engine()
    assert decided(folders["unet"], precision="int8") == Engine("onnx", "cpu", "int8", False)
    assert decided(bare) == Engine()
    with pytest.raises(SettingError, match="cuda:2 is not on this machine, which has cuda:0, cuda:1, mps, cpu"):
        decided(folders["unet"], device="cuda:2")


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"device": "cuda"}, "device cuda is not on this machine, which has cpu"),
        ({"backend": "torch", "device": "mps"}, "device mps is not on this machine"),
        ({"backend": "onnx", "device": "cuda"}, "backend onnx runs on the CPU, but classify.device is cuda"),
        ({"backend": "onnx", "precision": "float16"}, "precision float16 needs torch"),
        ({"backend": "onnx", "compile": True}, "compile needs torch"),
        ({"backend": "torch", "precision": "int8"}, "int8 runs on the CPU with ONNX Runtime only"),
        ({"device": "cuda", "precision": "int8"}, "int8 runs on the CPU with ONNX Runtime only"),
        ({"compile": True, "precision": "int8"}, "leave one of the two out"),
    ],
)
def test_what_cannot_be_is_refused(settings: dict[str, Any], words: str, folders: dict[str, Path]) -> None:
    with pytest.raises(SettingError, match=words):
        engine_of(Placing(**settings), read_card(folders["mlp"]), folders["mlp"])


@pytest.mark.parametrize("settings", [{"backend": "torch"}, {"precision": "float16"}, {"compile": True}])
def test_torch_is_refused_to_a_model_without_a_torch_form(settings: dict[str, Any], tmp_path: Path) -> None:
    folder = write_network(tmp_path / "net", np.ones((2, 3, 1, 1), np.float32))
    with pytest.raises(SettingError, match="model tiny has no torch form"):
        engine_of(Placing(**settings), read_card(folder), folder)


def test_a_damaged_folder_is_told_of(tmp_path: Path) -> None:
    folder = write_kind(tmp_path / "mlp", "mlp")
    whole = (folder / WEIGHTS).read_bytes()
    (folder / WEIGHTS).write_bytes(whole[:100])
    with pytest.raises(ModelError, match=r"cannot be built from weights\.safetensors"):
        torch_form(folder)
    (folder / WEIGHTS).unlink()
    with pytest.raises(ModelError, match="has no torch form"):
        opened(folder, Engine("torch"))
    (folder / ONNX).write_bytes(b"nonsense")
    with pytest.raises(ModelError, match=r"model\.onnx cannot be read as a network"):
        opened(folder, Engine())


def test_what_train_fits_says_how_to_build_it(tmp_path: Path) -> None:
    truth = patchwork((64, 64), 3, 8, 0)
    laid = lay(tmp_path, separable(truth, 0), truth)
    recipes: dict[str, Any] = {
        "mlp": quick(MlpRecipe(width=8), members=2),
        "svm": VectorRecipe(windows=(3,), pixels=200, cost=(1.0,), gamma=(0.25,)),
        "rf": ForestRecipe(windows=(3,), pixels=200, trees=3, leaf=(5,)),
    }
    held = gather(laid.split(), Role.VALIDATION, 8, 8)
    for kind, recipe in recipes.items():
        fitted: Any = fit(kind, laid.ground(), held, recipe, laid.task(kind))
        folder = tmp_path / kind
        folder.mkdir()
        fitted.export(folder)
        channels = laid.split().tiles.channels
        write_card(folder, card_of(3, 1, channels=channels, margin=fitted.margin, network=fitted.network))
        rng = np.random.default_rng(0)
        image = rng.normal(size=(1, len(channels), 16, 16)).astype(np.float32)
        shown = image, np.ones((1, 1, 16, 16), bool), np.zeros((1, 1), np.float32)
        found = check_agreement(folder, Engine(), *shown)
        assert (found is None) == (kind == "rf")
        assert found is None or found < 1e-5
    assert not Ensemble([tmp_path / "mlp", tmp_path / "rf"]).network
