"""CLIPSonic: text-to-sound learnt from unlabeled videos through CLIP (Dong et al., WASPAA 2023, arXiv 2306.09635)."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from clipsonic.config import GenerationSettings
from clipsonic.errors import Cancelled, ClipSonicError

if TYPE_CHECKING:
    from clipsonic.pipeline import ClipSonicAudio, ClipSonicOutput, ClipSonicPipeline, Progress

__version__ = "0.1.0"

__all__ = [
    "Cancelled",
    "ClipSonicAudio",
    "ClipSonicError",
    "ClipSonicOutput",
    "ClipSonicPipeline",
    "GenerationSettings",
    "Progress",
    "__version__",
]


def __getattr__(name: str) -> Any:
    """Import the pipeline, and with it torch and diffusers, only when it is asked for."""
    if name in ("ClipSonicAudio", "ClipSonicOutput", "ClipSonicPipeline", "Progress"):
        return getattr(import_module("clipsonic.pipeline"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
