"""Train the audio encoder on (frame, sound) pairs, to put a sound where CLIP puts its picture. No text, no label."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from clipsonic.audio_clip import AudioClip, AudioClipConfig
from clipsonic.clip import ClipEncoder
from clipsonic.config import Config, MelConfig
from clipsonic.errors import ConfigError, DataError
from clipsonic.training.alignment import retrieval
from clipsonic.training.features import FrameSoundDataset, load_features
from clipsonic.training.loop import Task
from clipsonic.training.recipe import Recipe


@dataclass(frozen=True, kw_only=True)
class AudioClipTaskConfig(Config):
    """What the audio encoder's loss needs."""

    pictures: int = 2
    """Frames of each video that are embedded; one of them is drawn each time the video comes up."""
    crop_frames: int = 176
    """Length of the random part of each mel that is heard."""
    gain_db: float = 12.0
    """Sounds are made louder or softer by up to this."""
    mask_bands: int = 16
    mask_frames: int = 40
    """The widest stripes that are blanked (Park et al., 2019, SpecAugment), one of each kind a mel."""
    picture_temperature: float = 0.05
    """How alike two pictures must be to count as answers to one another's sounds."""
    alignment: float = 2.0
    """Weight of the plain distance to the own picture beside the contrast with the others'."""


class AudioClipTask(Task):
    """Contrast each sound with the batch's pictures (Radford et al., 2021), those that look alike being alike right."""

    part = "audio_clip"
    dataset: FrameSoundDataset

    def __init__(
        self,
        model: AudioClipConfig,
        task: AudioClipTaskConfig,
        dataset: FrameSoundDataset,
        heldout: FrameSoundDataset | None,
        seed: int,
    ) -> None:
        """Make a new encoder to be trained on `dataset` and measured on `heldout`; `seed` draws its first weights."""
        super().__init__()
        self.config, self.dataset, self.heldout = task, dataset, heldout
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self.encoder = AudioClip(model)
        self.log_scale = nn.Parameter(torch.tensor(math.log(20.0)))

    def loss(self, batch: dict[str, Tensor], phase: str, generator: torch.Generator) -> tuple[Tensor, dict[str, float]]:
        """Return the symmetric cross entropy over the batch's cosines, with soft targets, and the distance of pairs."""
        pictures = self._pick(batch["embeddings"], generator)
        sounds = self.encoder(self._vary(batch["mel"], generator))
        logits = self.log_scale.exp().clamp(max=100) * sounds @ pictures.T
        target = ((pictures @ pictures.T) / self.config.picture_temperature).softmax(dim=1)
        contrast = (F.cross_entropy(logits, target) + F.cross_entropy(logits.T, target)) / 2
        cosine = (sounds * pictures).sum(dim=1).mean()
        figures = {"contrast": contrast.item(), "cosine": cosine.item(), "scale": self.log_scale.exp().item()}
        return contrast + self.config.alignment * (1 - cosine), figures

    def _pick(self, embeddings: Tensor, generator: torch.Generator) -> Tensor:
        """Return one frame's embedding of each video, float32, shape (batch, embedding_dim)."""
        count, pictures, _ = embeddings.shape
        chosen = torch.randint(pictures, (count,), generator=generator, device=embeddings.device)
        return F.normalize(embeddings[torch.arange(count, device=embeddings.device), chosen], dim=-1)

    def _vary(self, mels: Tensor, generator: torch.Generator) -> Tensor:
        """Return a random part of each mel, at another level, with a stripe of bands and one of frames blanked."""
        config, floor = self.config, self.encoder.config.mel_floor
        draws = torch.rand(len(mels), 6, generator=generator, device=mels.device).tolist()
        length = min(config.crop_frames, mels.shape[2])
        varied = []
        for mel, (place, gain, band, bands, frame, frames) in zip(mels, draws, strict=True):
            start = round(place * (mel.shape[1] - length))
            part = mel[:, start : start + length] + (2 * gain - 1) * config.gain_db * math.log(10) / 20
            part = part.clamp(min=floor)
            height, width = round(bands * config.mask_bands), round(frames * config.mask_frames)
            top, left = round(band * (len(part) - height)), round(frame * max(0, length - width))
            part[top : top + height] = floor
            part[:, left : left + width] = floor
            varied.append(part)
        return torch.stack(varied)

    def save(self, folder: Path) -> None:
        """Write the encoder into the model folder."""
        self.encoder.save(folder / self.part)

    @torch.no_grad()
    def metrics(self) -> dict[str, float]:
        """Measure on held-out videos how often a sound finds its own picture among all, and how near it comes."""
        if self.heldout is None:
            return {}
        encoder = self.encoder.cpu().eval()
        mels, pictures = self.heldout.mels.float(), F.normalize(self.heldout.embeddings[:, 0].float(), dim=-1)
        sounds = torch.cat([encoder(share) for share in mels.split(64)])
        encoder.train()
        similarity = sounds @ pictures.T
        others = (similarity.sum() - similarity.trace()) / max(1, similarity.numel() - len(similarity))
        return {
            "videos": len(sounds),
            **retrieval(sounds, pictures, "sound_to_picture"),
            "paired_cosine": similarity.diagonal().mean().item(),
            "unpaired_cosine": others.item(),
        }


def build(recipe: Recipe, data: Path, base: Path | None) -> AudioClipTask:
    """Return the task of a recipe, on the shards `data`, seen through the CLIP of the model folder `base`.

    Raises:
        ConfigError: No base model is given.
        DataError: The shards cannot be read.
    """
    if base is None:
        raise ConfigError("training the audio encoder needs CLIP; give a model folder that has it with --base")
    task, mel = AudioClipTaskConfig.from_dict(recipe.task), MelConfig()
    values: dict[str, Any] = {"embedding_dim": ClipEncoder.load(base / "clip").embedding_dim, **recipe.model}
    dataset = load_features(data, base / "clip", mel, pictures=task.pictures)
    try:
        heldout = load_features(data, base / "clip", mel, pictures=1, split="test")
    except DataError:
        heldout = None
    return AudioClipTask(AudioClipConfig.from_dict(values), task, dataset, heldout, recipe.training.seed)
