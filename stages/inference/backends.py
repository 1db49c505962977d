"""Run a trained network on the hardware that is there, behind one interface: ONNX Runtime or torch, checked alike."""

from __future__ import annotations

import logging
import re
import threading
from collections.abc import Hashable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Protocol

import numpy as np
from pydantic import Field

from stages.errors import ModelError, SettingError
from stages.formats.weights import ONNX, WEIGHTS, ModelCard, read_card
from stages.inference.unmasked import unmasked
from stages.settings import Settings

if TYPE_CHECKING:
    from torch import nn

_logger = logging.getLogger(__name__)

#: Largest difference of a probability from eager torch in float32, by the precision of the backend.
TOLERANCE = {"float32": 1e-5, "float16": 0.01, "bfloat16": 0.05}
#: Votes of vector machines change by a whole one where a decision value is nearly 0, so that rounding may turn
#: this share of the pixels.
VOTING, TURNED = ("svm",), 1e-3
_opening = threading.Lock()


class Backend(Hashable, Protocol):
    """A network that is loaded and ready; `logits` may be called from several threads."""

    #: What computes, as recorded with the map.
    name: str
    #: Pixels of a series that are best shown at once: on a processor few, whose states stay in its cache.
    pixels: int

    def logits(self, image: np.ndarray, valid: np.ndarray, days: np.ndarray, halo: int = 0) -> np.ndarray:
        """Logits of every pixel, not yet divided by the temperature.

        Args:
            image: float32 (n, channel, y, x) in the tiles' units, 0 where invalid; sides are multiples of the stride.
            valid: bool or float32 (n, step, y, x).
            days: float32 (n, step).
            halo: pixels along the edges whose logits nobody will read; they may be anything finite.

        Returns:
            float32 (n, class, y, x); those of an image do not depend on the others beside it.

        Raises:
            MemoryError: there is not enough memory for so much at once.
        """


class Placing(Settings):
    """What a network runs on."""

    backend: Literal["auto", "onnx", "torch"] = Field(
        "auto", description="onnx: ONNX Runtime on the CPU; torch: the CPU or an accelerator; auto: by the device"
    )
    device: str = Field(
        "auto", pattern=r"^(auto|cpu|cuda(:\d+)?|mps)$", description="auto, cpu, cuda, cuda:0 ... or mps"
    )
    precision: Literal["auto", "float32", "float16", "bfloat16", "int8"] = Field(
        "auto",
        description="Arithmetic of the network; auto: float32, so that every device gives the same map; float16 and "
        "bfloat16 with torch, int8 with onnx",
    )
    compile: bool = Field(False, description="Compile the network with torch before the map starts")


@dataclass(frozen=True)
class Engine:
    """What a map is computed by, decided once and sent to every worker."""

    kind: Literal["onnx", "torch"] = "onnx"
    device: str = "cpu"
    precision: str = "float32"
    compiled: bool = False


def engine_of(config: Placing, card: ModelCard, folder: Path) -> Engine:
    """Decide what computes a map: torch on an accelerator where there is one, otherwise ONNX Runtime on the CPU.

    Raises:
        SettingError: settings contradict each other, or this machine or model cannot do what they ask for.
    """
    convertible = has_torch_form(card, folder)
    reduced = config.precision in ("float16", "bfloat16")
    if config.precision == "int8" and (config.backend == "torch" or config.device not in ("auto", "cpu")):
        raise SettingError(
            "classify.precision int8 runs on the CPU with ONNX Runtime only; leave classify.backend and device at auto."
        )
    if config.precision == "int8" and config.compile:
        raise SettingError("classify.compile needs torch, which has no int8 here; leave one of the two out.")
    if config.backend == "onnx":
        _refuse_for_onnx(config)
    elif config.precision != "int8":
        wanted = config.backend == "torch" or reduced or config.compile or config.device not in ("auto", "cpu")
        if wanted and not convertible:
            raise SettingError(
                f"model {card.name} has no torch form, only {ONNX}; leave classify.backend, device, precision and "
                "compile at auto, or train a network on this version."
            )
        device = _device(config.device) if convertible else "cpu"
        if wanted or device != "cpu":
            return Engine("torch", device, config.precision if reduced else "float32", config.compile)
    return Engine("onnx", "cpu", "int8" if config.precision == "int8" else "float32", False)


def _refuse_for_onnx(config: Placing) -> None:
    """See that ONNX Runtime can do what is asked for."""
    if config.device not in ("auto", "cpu"):
        raise SettingError(
            f"classify.backend onnx runs on the CPU, but classify.device is {config.device}; take backend torch."
        )
    if config.precision in ("float16", "bfloat16") or config.compile:
        what = "compile" if config.compile else f"precision {config.precision}"
        raise SettingError(f"classify.{what} needs torch, but classify.backend is onnx; take backend torch.")


def _device(wanted: str) -> str:
    """Find the device that is asked for, or the best there is."""
    import torch

    there = {"cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available(), "cpu": True}
    if wanted == "auto":
        return next(name for name, found in there.items() if found)
    kind, _, number = wanted.partition(":")
    if not there[kind] or (number and int(number) >= torch.cuda.device_count()):
        found = [name for name, is_there in there.items() if is_there]
        if there["cuda"]:
            found[:1] = [f"cuda:{i}" for i in range(torch.cuda.device_count())]
        raise SettingError(
            f"classify.device {wanted} is not on this machine, which has {', '.join(found)}; take one of these or auto."
        )
    return wanted


def has_torch_form(card: ModelCard, folder: Path) -> bool:
    """Whether a model folder says how to build its network in torch, and holds the tensors."""
    return bool(card.network) and (Path(folder) / WEIGHTS).is_file()


def torch_form(folder: Path) -> nn.Module | None:
    """Build a model's network in torch from its folder alone, in float32 on the CPU; None where it has no torch form.

    Raises:
        ModelError: the description and the tensors do not belong together.
    """
    card = read_card(folder)
    if not has_torch_form(card, folder):
        return None
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    from stages.models.rebuild import rebuild

    try:
        return rebuild(card.network, load_file(str(Path(folder) / WEIGHTS)))
    except (SafetensorError, OSError, RuntimeError, KeyError, TypeError, ValueError) as fault:
        raise ModelError(
            f"the network of {folder} cannot be built from {WEIGHTS} ({type(fault).__name__}); give the whole folder "
            "that `train` wrote for one model."
        ) from fault


def opened(folder: Path, engine: Engine) -> Backend:
    """Load a model's network on an engine, once a process while its files are the same.

    Raises:
        ModelError: the network cannot be read, or has no torch form.
    """
    files = [Path(folder) / name for name in (ONNX, WEIGHTS)]
    version = tuple((s.st_mtime_ns, s.st_size, s.st_ino) for s in (f.stat() for f in files if f.is_file()))
    with _opening:  # threads of one process share the network instead of each loading it
        return _opened(Path(folder), engine, version)


@lru_cache(maxsize=4)
def _opened(folder: Path, engine: Engine, _version: tuple[tuple[int, ...], ...]) -> Backend:
    return OnnxBackend(folder, engine) if engine.kind == "onnx" else TorchBackend(folder, engine)


class OnnxBackend:
    """ONNX Runtime on the CPU, one thread a call: parallel work is Dask's, and sums in the network keep one order.

    Images that are valid everywhere are predicted by the same graph without its masks.
    """

    pixels = 256

    def __init__(self, folder: Path, engine: Engine) -> None:
        import onnxruntime as ort

        precision = "" if engine.precision == "float32" else f" {engine.precision}"
        self.name = f"onnxruntime-cpu {ort.__version__}{precision}"
        card = read_card(folder)
        path = Path(folder) / ONNX
        try:
            self._session = session_of(str(path))
            self._inputs = {entry.name for entry in self._session.get_inputs()}
        except Exception as fault:  # onnxruntime's own exceptions share no public base
            raise ModelError(
                f"{path} cannot be read as a network ({type(fault).__name__}); "
                "give the whole folder that `train` wrote for one model."
            ) from fault
        self._unmasked = unmasked(path, card, self._session, session_of)

    def logits(self, image: np.ndarray, valid: np.ndarray, days: np.ndarray, halo: int = 0) -> np.ndarray:
        """As `Backend`: every image by the graph that fits it, so that none depends on its neighbours."""
        shorter = self._unmasked.whole
        if self._unmasked.inner is not None and halo >= self._unmasked.reach:
            shorter = self._unmasked.inner
        clear = valid.reshape(len(valid), -1).all(axis=1)
        if shorter is None or not clear.any():
            return self._run(self._session, image, valid, days)
        if clear.all():
            return self._run(shorter, image, valid, days)
        found = self._run(shorter, image[clear], valid[clear], days[clear])
        logits = np.empty((len(image), *found.shape[1:]), np.float32)
        logits[clear] = found
        logits[~clear] = self._run(self._session, image[~clear], valid[~clear], days[~clear])
        return logits

    def _run(self, session: Any, image: np.ndarray, valid: np.ndarray, days: np.ndarray) -> np.ndarray:
        given = {"image": image, "valid": valid.astype(np.float32, copy=False), "days": days}
        try:
            logits: np.ndarray = session.run(["logits"], {k: v for k, v in given.items() if k in self._inputs})[0]
        except Exception as fault:
            if "alloc" in str(fault):
                raise MemoryError(f"ONNX Runtime has no memory for images of {image.shape}") from fault
            raise
        return logits


@lru_cache(maxsize=1)
def _share_memory() -> None:
    """Let all graphs of a process work in one memory, as each would keep what it ever needed for itself."""
    import onnxruntime as ort

    kind = ort.OrtMemoryInfo("Cpu", ort.OrtAllocatorType.ORT_ARENA_ALLOCATOR, 0, ort.OrtMemType.DEFAULT)
    ort.create_and_register_allocator(kind, ort.OrtArenaCfg(0, 0, -1, -1))


def session_of(model: str | bytes) -> Any:
    """Open a graph, given by its path or its bytes, for one thread a call and the same bits in every call."""
    import onnxruntime as ort

    options = ort.SessionOptions()
    options.intra_op_num_threads = 1
    options.inter_op_num_threads = 1
    options.use_deterministic_compute = True
    # As fast without, and two calls at once of a U-Net on 608 x 608 pixels take 430 MB instead of 550.
    options.enable_mem_pattern = False
    options.log_severity_level = 4  # what fails is raised as well
    _share_memory()
    options.add_session_config_entry("session.use_env_allocators", "1")
    return ort.InferenceSession(model, options, providers=["CPUExecutionProvider"])


class TorchBackend:
    """Torch on the CPU, CUDA or MPS.

    The code is the same on every device and is tested on the CPU; on CUDA and MPS it has not been run. Reduced
    precision is autocast's; pinned memory and transfers beside the computation are CUDA's alone.
    """

    def __init__(self, folder: Path, engine: Engine) -> None:
        import torch

        module = torch_form(folder)
        if module is None:
            raise ModelError(f"{folder} has no torch form; take classify.backend onnx.")
        compiled = " compiled" if engine.compiled else ""
        self.name = f"torch-{engine.device.partition(':')[0]} {torch.__version__} {engine.precision}{compiled}"
        self._device = torch.device(engine.device)
        self.pixels = 2048 if self._device.type == "cpu" else 65_536
        self._takes_days = bool(module.takes_days)
        self._half = getattr(torch, engine.precision) if engine.precision != "float32" else None
        # Columns of series are matrices, which channels-last would only copy.
        self._layout = torch.contiguous_format if self._takes_days else torch.channels_last
        module = module.to(self._device, memory_format=self._layout)  # type: ignore[call-overload]
        self._network = torch.compile(module, dynamic=True) if engine.compiled else module
        if self._device.type == "cuda":
            # Neither shorter products inside float32 nor whatever algorithm is fastest today: the same bits always.
            torch.backends.cudnn.allow_tf32 = False
            torch.backends.cuda.matmul.allow_tf32 = False
            torch.backends.cudnn.deterministic = True

    def logits(self, image: np.ndarray, valid: np.ndarray, days: np.ndarray, halo: int = 0) -> np.ndarray:  # noqa: ARG002
        """As `Backend`; every pixel is computed, those of the halo too."""
        import torch

        try:
            with torch.inference_mode(), self._arithmetic():
                shown = [self._sent(image).contiguous(memory_format=self._layout), self._sent(valid)]
                logits = self._network(*shown, *([self._sent(days)] if self._takes_days else []))
                found: np.ndarray = logits.float().contiguous().cpu().numpy()
        except torch.OutOfMemoryError as fault:
            raise MemoryError(f"the device has no memory for images of {image.shape}") from fault
        return found

    def _sent(self, array: np.ndarray) -> Any:
        """Bring an array to the device; from pinned memory the processor need not wait for it."""
        import torch

        host = torch.from_numpy(np.ascontiguousarray(array, np.float32))
        if self._device.type == "cuda":
            host = host.pin_memory()
        return host.to(self._device, non_blocking=self._device.type == "cuda")

    @contextmanager
    def _arithmetic(self) -> Iterator[None]:
        """Compute in the engine's precision, and on the CPU with one thread a call, as ONNX Runtime does."""
        import torch

        threads = torch.get_num_threads()
        half = nullcontext() if self._half is None else torch.autocast(self._device.type, self._half)
        if self._device.type == "cpu":
            torch.set_num_threads(1)
        try:
            with half:
                yield
        finally:
            if self._device.type == "cpu":
                torch.set_num_threads(threads)


def check_agreement(
    folder: Path, engine: Engine, images: np.ndarray, valids: np.ndarray, days: np.ndarray
) -> float | None:
    """Compare an engine's probabilities with those of eager torch in float32 on the CPU, window by window.

    Args:
        folder: of the model.
        engine: what is to compute the map.
        images: some windows, as `Backend.logits` takes them.
        valids: their validity.
        days: of their steps.

    Returns:
        The largest difference of a probability over the valid pixels; None where there is no torch form to compare
        with.

    Raises:
        ModelError: it is larger than the precision allows, or the network does not run on the engine.
    """
    reference = torch_form(folder)
    if reference is None:
        _logger.info("classify: the backend is not checked, as the model has no torch form")
        return None
    card, backend = read_card(folder), opened(folder, engine)
    eager = _eager(reference)
    differences = []
    for window in zip(images[:, None], valids[:, None], days[:, None], strict=True):
        seen = window[1].any(axis=1)
        found = softmax(_tried(backend, engine, *window), card.temperature)
        expected = softmax(eager(*window), card.temperature)
        differences.append(np.abs(found - expected).max(axis=1)[seen])
    apart = np.concatenate(differences)
    if not len(apart):
        return 0.0
    if card.network["kind"] in VOTING:
        apart = np.sort(apart)[: max(1, int(len(apart) * (1.0 - TURNED)))]
    worst = float(apart.max())
    if not worst <= TOLERANCE[engine.precision]:
        raise ModelError(
            f"{backend.name} gives probabilities of model {card.name} that differ by up to {worst:.1e} from torch in "
            f"float32 on the CPU, where at most {TOLERANCE[engine.precision]:.0e} is right; set classify.backend to "
            "onnx or classify.precision to float32."
        )
    return worst


def _tried(backend: Backend, engine: Engine, image: np.ndarray, valid: np.ndarray, days: np.ndarray) -> np.ndarray:
    """Logits of the first call, which is where an operation or a compiler turns out to be missing."""
    try:
        return backend.logits(image, valid, days)
    except MemoryError:
        raise
    except Exception as fault:  # compilers and devices raise whatever they like
        reason = re.sub(r"\s+", " ", str(fault))[:200]
        raise ModelError(
            f"{backend.name} cannot run the network ({type(fault).__name__}: {reason}); set classify.backend to onnx"
            f"{' or classify.compile to false' if engine.compiled else ''}."
        ) from fault


def _eager(network: Any) -> Any:
    """Give a function from arrays to logits by eager torch."""
    import torch

    def logits(image: np.ndarray, valid: np.ndarray, days: np.ndarray) -> np.ndarray:
        shown = [torch.from_numpy(np.ascontiguousarray(a, np.float32)) for a in (image, valid, days)]
        with torch.inference_mode():
            found: np.ndarray = network(*shown).numpy()
        return found

    return logits


def softmax(logits: np.ndarray, temperature: float) -> np.ndarray:
    """Probabilities of logits (n, class, y, x)."""
    scaled = np.float64(logits) / temperature
    scaled -= scaled.max(axis=1, keepdims=True)
    likely: np.ndarray = np.exp(scaled)
    likely /= likely.sum(axis=1, keepdims=True)
    return likely
