"""Sound → CLIP embeddings, in the manner of Wav2CLIP (Wu et al., 2022): the third way into CLIP's space."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Self

import timm
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from clipsonic.audio import log_mel, resample
from clipsonic.config import Config, MelConfig
from clipsonic.errors import MediaError
from clipsonic.storage import CONFIG_NAME, WEIGHTS_NAME, load_weights, save_part

SHORTEST_FRAMES = 64
"""Mels of fewer frames are filled up with silence; the network halves them five times."""


@dataclass(frozen=True, kw_only=True)
class AudioClipConfig(Config):
    """A timm image network that reads log-mels as pictures of one channel."""

    embedding_dim: int
    network: str = "mobilenetv3_small_100"
    mel: MelConfig = field(default_factory=MelConfig)
    mel_mean: float = -5.2
    mel_std: float = 2.2
    mel_floor: float = -9.0
    """Natural log; what lies below is inaudible and is read as this value."""


class AudioClip(nn.Module):
    """Embed sounds where CLIP embeds what they come from; learnt from frames and sound of videos, without text."""

    def __init__(self, config: AudioClipConfig) -> None:
        """Build the network with random weights."""
        super().__init__()
        self.config = config
        self.network = timm.create_model(config.network, in_chans=1, num_classes=config.embedding_dim)

    @property
    def embedding_dim(self) -> int:
        """The size of an embedding."""
        return self.config.embedding_dim

    def forward(self, mel: Tensor) -> Tensor:
        """Embed log-mels.

        Args:
            mel: Natural-log mel magnitudes, float32, shape (batch, n_mels, frames), at least `SHORTEST_FRAMES` frames.

        Returns:
            L2-normalised embeddings, float32, shape (batch, embedding_dim).
        """
        picture = (mel.clamp(min=self.config.mel_floor) - self.config.mel_mean) / self.config.mel_std
        return F.normalize(self.network(picture[:, None]).float(), dim=-1)

    @torch.inference_mode()
    def embed(self, waveforms: Tensor, sample_rate: int) -> Tensor:
        """Embed sounds, each by itself, so that none depends on the rest of the batch.

        Args:
            waveforms: Sound in [-1, 1], float32, shape (batch, samples).
            sample_rate: In Hz.

        Returns:
            L2-normalised embeddings on the CPU, float32, shape (batch, embedding_dim).

        Raises:
            MediaError: The sounds have no samples.
        """
        if waveforms.ndim != 2 or not waveforms.shape[1]:
            raise MediaError(f"sounds of shape {tuple(waveforms.shape)} came; expected (batch, samples), not empty")
        mel = self.config.mel
        place = next(self.parameters())
        resampled = torch.from_numpy(resample(waveforms.cpu().numpy(), sample_rate, mel.sample_rate))
        filled = F.pad(resampled, (0, max(0, SHORTEST_FRAMES * mel.hop_length - resampled.shape[1])))
        mels = log_mel(filled, mel).to(place.device)
        return torch.cat([self(one[None]).cpu() for one in mels]).clone()

    def save(self, folder: Path) -> None:
        """Write `config.json` and `model.safetensors` (half precision) into `folder`."""
        save_part(self, self.config, folder)

    @classmethod
    def load(cls, folder: Path, device: str | torch.device = "cpu") -> Self:
        """Read a network that `save` wrote.

        Raises:
            ConfigError: `config.json` is not this part's.
            CheckpointError: The weights are missing, truncated or of another shape.
        """
        part = cls(AudioClipConfig.load(folder / CONFIG_NAME))
        load_weights(part, folder / WEIGHTS_NAME)
        return part.to(device).eval().requires_grad_(False)
