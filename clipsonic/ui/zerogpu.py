"""A GPU for the length of a request on a ZeroGPU Space, and nothing anywhere else."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

from clipsonic.config import GenerationSettings

if TYPE_CHECKING:
    from clipsonic.pipeline import ClipSonicPipeline

LONGEST_S = 120
OVERHEAD_S = 20
EVALUATION_S = 0.05
WINDOW_S = 3.0
"""Seconds of sound that one evaluation is good for: a window, less what it has in common with the next."""


def on_gpu(produce: Callable[..., Iterator[Any]]) -> Callable[..., Iterator[Any]]:
    """Let `produce(visitor, query, settings)` run where the GPU is; it must take and yield what can be pickled."""
    try:
        import spaces
    except ImportError:
        return produce
    return spaces.GPU(duration=duration_s)(produce)


def place_at_start(load: Callable[[], ClipSonicPipeline]) -> bool:
    """Load every part before the page is up if this is a ZeroGPU Space, which only then lets them onto the GPU.

    Returns:
        Whether this is one.

    Raises:
        ClipSonicError: The model cannot be used.
    """
    if not os.environ.get("SPACES_ZERO_GPU"):
        return False
    load().preload()
    return True


def duration_s(visitor: str, query: dict[str, Any], settings: GenerationSettings) -> int:
    """Return the seconds of GPU to ask for: what is left of a visitor's quota must cover what is asked, not used."""
    windows = max(1.0, settings.duration_s / WINDOW_S)
    sounds = settings.num_audios * settings.candidates * len(settings.methods)
    evaluations = settings.num_inference_steps * sounds * windows
    return min(LONGEST_S, round(OVERHEAD_S + EVALUATION_S * evaluations))
