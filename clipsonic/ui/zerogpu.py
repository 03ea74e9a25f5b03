"""A GPU for the length of a request on a ZeroGPU Space, and nothing anywhere else."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

from clipsonic.config import GenerationSettings

LONGEST_S = 120


def on_gpu(produce: Callable[..., Iterator[Any]]) -> Callable[..., Iterator[Any]]:
    """Let `produce(visitor, query, settings)` run where the GPU is; it must take and yield what can be pickled."""
    try:
        import spaces
    except ImportError:
        return produce
    return spaces.GPU(duration=duration_s)(produce)


def duration_s(visitor: str, query: dict[str, str], settings: GenerationSettings) -> int:
    """Return the seconds of GPU to ask for: loading, then 50 ms for each step of each sound."""
    evaluations = settings.num_inference_steps * settings.num_audios * len(settings.methods)
    return min(LONGEST_S, round(20 + 0.05 * evaluations))
