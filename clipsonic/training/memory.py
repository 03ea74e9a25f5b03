"""Fill the picture memory with what CLIP makes of the training videos' frames: no label, no text, no steps."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor
from torch.nn import functional as F
from tqdm import tqdm

from clipsonic.audio_clip import AudioClip
from clipsonic.config import MelConfig
from clipsonic.memory import PictureMemory
from clipsonic.training.features import evenly, load_features

PART = "memory"
MOST = 8192
"""Of more videos than this an even selection is remembered."""
PICTURES = 2
"""Frames of each video that are embedded, as for the denoiser, whose cache of features is used."""
NEIGHBOURS = 10
"""Videos, each with itself among them, that one entry is the mean of, where there is an audio encoder."""
SOUND_SHARE = 0.6
"""How much alike sounds count for two videos to be neighbours; the rest is how alike their pictures are."""
BATCH = 256


def remember(data: Path, base: Path, out: Path) -> PictureMemory:
    """Write the memory of the shards' training videos into a model folder.

    Where the base has an audio encoder, an entry is the mean of the pictures of videos that look and sound alike:
    what is peculiar to one picture, and goes with no sound, is averaged away. Without one it is a video's own picture.

    Args:
        data: Folder of shards.
        base: Model folder with the CLIP to look with, and maybe the audio encoder to listen with.
        out: Model folder to write into.

    Returns:
        The memory.

    Raises:
        DataError: The shards cannot be read.
        CheckpointError: CLIP or the audio encoder cannot be loaded.
        OutputError: The folder cannot be written to.
    """
    features = load_features(data, base / "clip", MelConfig(), pictures=PICTURES)
    videos = F.normalize(features.embeddings.float().mean(dim=1), dim=-1)
    entries = _select(videos)
    if has_ears(base):
        sounds = embed_sounds(AudioClip.load(base / "audio_clip"), features.mels)
        entries = neighbourhoods(entries, _select(sounds), videos, sounds)
    memory = PictureMemory.of(entries)
    memory.save(out / PART)
    return memory


def has_ears(base: Path) -> bool:
    """Return whether a model folder has an audio encoder to listen with."""
    return (base / "audio_clip").is_dir()


@torch.inference_mode()
def embed_sounds(encoder: AudioClip, mels: Tensor) -> Tensor:
    """Embed log-mels, shape (sounds, n_mels, frames); returns float32, shape (sounds, embedding_dim)."""
    batches = tqdm(mels.split(BATCH), desc="sounds", unit="batch", disable=None)
    return torch.cat([encoder(batch.float()) for batch in batches]).clone()


def neighbourhoods(pictures: Tensor, sounds: Tensor, all_pictures: Tensor, all_sounds: Tensor) -> Tensor:
    """Return the mean picture of each video's nearest neighbours by picture and sound together.

    Args:
        pictures: L2-normalised embeddings of some videos' pictures, float32, shape (some, embedding_dim).
        sounds: The same of their sounds.
        all_pictures: Of all videos, shape (videos, embedding_dim).
        all_sounds: The same of their sounds.

    Returns:
        L2-normalised, float32, shape (some, embedding_dim).
    """
    means = []
    for picture, sound in zip(pictures.split(BATCH), sounds.split(BATCH), strict=True):
        likeness = SOUND_SHARE * sound @ all_sounds.T + (1 - SOUND_SHARE) * picture @ all_pictures.T
        nearest = likeness.topk(min(NEIGHBOURS, len(all_pictures))).indices
        means.append(F.normalize(all_pictures[nearest].mean(dim=1), dim=-1))
    return torch.cat(means)


def _select(videos: Tensor) -> Tensor:
    """Return the rows of all videos, or an even selection of them."""
    return videos[evenly(len(videos), MOST)]
