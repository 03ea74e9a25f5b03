"""What training costs: arithmetic, memory, and the share of the machine's measured peak."""

from __future__ import annotations

import resource
import sys
import time
from typing import TYPE_CHECKING, Any

import torch
from torch.utils.flop_counter import FlopCounterMode, conv_flop_count

if TYPE_CHECKING:
    from torch import Tensor

    from clipsonic.training.loop import Task

COUNTED_CLIPS = 2
COUNTED_DRAWS = 6
"""Batches that the arithmetic is averaged over, for some steps see shorter clips than others."""
PEAK_TRIES = 4


def _convolution_backward(  # noqa: PLR0913 the operator's own arguments
    grad: list[int],
    inputs: list[int],
    weight: list[int],
    _bias: Any,
    _stride: Any,
    _padding: Any,
    _dilation: Any,
    transposed: bool,
    _output_padding: Any,
    _groups: int,
    wanted: list[bool],
    **_: Any,
) -> int:
    """Count what torch's own counter takes for a dense convolution where it is a grouped one."""
    return sum(wanted[:2]) * conv_flop_count(inputs, weight, grad, transposed=transposed)


_COUNTS = {torch.ops.aten.convolution_backward: _convolution_backward}


def flops_per_clip(task: Task, batch: dict[str, Tensor], device: torch.device) -> float:
    """Count the floating-point operations of a clip's forward and backward passes through every phase.

    Args:
        task: What is trained; its gradients are cleared afterwards.
        batch: Some clips, on the task's device.
        device: Where the task computes.
    """
    total, clips = 0, len(next(iter(batch.values())))
    for draw in range(COUNTED_DRAWS):
        for phase in task.phases():
            generator = torch.Generator(device).manual_seed(draw)
            with FlopCounterMode(display=False, custom_mapping=_COUNTS) as counter:
                task.loss(batch, phase, generator)[0].backward()
            total += counter.get_total_flops()
            task.zero_grad(set_to_none=True)
    return total / COUNTED_DRAWS / clips


def matmul_peak(device: torch.device, dtype: torch.dtype) -> float:
    """Measure the floating-point operations per second of this machine's matrix products, the best of a few."""
    size = 8192 if device.type == "cuda" else 1536
    one, other = (torch.randn(size, size, device=device).to(dtype) for _ in range(2))
    best = 0.0
    for _ in range(PEAK_TRIES):
        _wait(device)
        start = time.perf_counter()
        one @ other
        _wait(device)
        best = max(best, 2 * size**3 / (time.perf_counter() - start))
    return best


def peak_memory_gb(device: torch.device) -> float:
    """Return the most memory taken so far in gigabytes: the device's for CUDA, otherwise the process'."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 1e9
    # Linux counts in kilobytes, macOS in bytes.
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024) / 1e9


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
