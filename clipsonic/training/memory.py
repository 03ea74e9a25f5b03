"""Fill the picture memory with what CLIP makes of the training videos' frames: no label, no text, no steps."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor
from torch.nn import functional as F

from clipsonic.config import MelConfig
from clipsonic.memory import PictureMemory
from clipsonic.training.features import load_features

PART = "memory"
MOST = 8192
"""Of more videos than this an even selection is remembered."""
PICTURES = 2
"""Frames of each video that are embedded, as for the denoiser, whose cache of features is used."""


def remember(data: Path, base: Path, out: Path) -> PictureMemory:
    """Write the memory of the shards' training videos into a model folder.

    Args:
        data: Folder of shards.
        base: Model folder with the CLIP to look with.
        out: Model folder to write into.

    Returns:
        The memory.

    Raises:
        DataError: The shards cannot be read.
        CheckpointError: CLIP cannot be loaded.
        OutputError: The folder cannot be written to.
    """
    features = load_features(data, base / "clip", MelConfig(), pictures=PICTURES)
    memory = PictureMemory.of(_select(features.embeddings))
    memory.save(out / PART)
    return memory


def _select(embeddings: Tensor) -> Tensor:
    """Return one embedding a video, shape (videos, embedding_dim), of those of its frames (videos, frames, dim)."""
    videos = F.normalize(embeddings.float().mean(dim=1), dim=-1)
    if len(videos) <= MOST:
        return videos
    return videos[torch.linspace(0, len(videos) - 1, MOST).round().long()]
