"""Work for several processes, in a file that imports little."""

from __future__ import annotations

import os
import time
from pathlib import Path

import numpy as np

from stages import progress


def fail_in_one(folder: Path) -> None:
    if os.environ["LOCAL_RANK"] == "1":
        raise RuntimeError("no room.")
    progress.report("half", 1, 2)
    time.sleep(120)


def wait(folder: Path) -> None:
    (folder / f"{os.environ['LOCAL_RANK']}.pid").write_text(str(os.getpid()))
    time.sleep(120)


def normalise(features: np.ndarray, valid: np.ndarray, gains: np.ndarray, folder: Path) -> None:
    """Normalise this process's share of a batch and save what came of it; unequal shares."""
    import torch
    from torch import distributed

    from stages.models.layers import ValidBatchNorm

    rank = int(os.environ["LOCAL_RANK"])
    distributed.init_process_group("gloo", rank=rank, world_size=2)
    rows = slice(0, 1) if rank == 0 else slice(1, None)
    layer = ValidBatchNorm(features.shape[1])
    inputs = torch.from_numpy(features[rows]).requires_grad_()
    outputs = layer(inputs, torch.from_numpy(valid[rows]))
    (outputs * torch.from_numpy(gains[rows])).sum().backward()
    assert inputs.grad is not None
    found = {"outputs": outputs.detach(), "gradient": inputs.grad, "mean": layer.mean, "variance": layer.variance}
    np.savez(folder / f"{rank}.npz", **found)
    distributed.destroy_process_group()
