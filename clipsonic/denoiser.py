"""The denoiser: a diffusion network over folded log-mels, conditioned on one CLIP embedding."""

from __future__ import annotations

import math
from itertools import pairwise
from pathlib import Path
from typing import Self

import torch
from diffusers import UNet2DModel
from torch import Tensor, nn
from torch.nn import functional as F

from clipsonic.config import DenoiserConfig
from clipsonic.convnext import MelConvNeXt
from clipsonic.storage import CONFIG_NAME, WEIGHTS_NAME, load_weights, save_part
from clipsonic.transformer import MelTransformer


class Denoiser(nn.Module):
    """Predict the velocity of a noisy log-mel (Salimans & Ho, 2022), given an image embedding.

    The mel is folded: `fold[0]` bands × `fold[1]` frames become the channels of one position, so that the network
    (diffusers' `UNet2DModel`, a `MelTransformer` or a `MelConvNeXt`) spends its arithmetic on wide channels rather
    than on many positions. The embedding is added to the time embedding, which scales and shifts every block.
    """

    def __init__(self, config: DenoiserConfig) -> None:
        """Build the network with random weights."""
        super().__init__()
        self.config = config
        time_dim = config.channels[0]
        if config.network == "transformer":
            self.transformer = _transformer(config)
        elif config.network == "convnext":
            self.convnext = _convnext(config)
        else:
            self.unet = _unet(config)
            time_dim = config.channels[0] * 4
        self.embedding_mlp = mlp(config.embedding_dim, *(config.embedding_widths or (time_dim,)), time_dim)
        self.null_embedding = nn.Parameter(torch.zeros(config.embedding_dim))
        if config.frame_attention:
            self.frame_score = nn.Linear(config.embedding_dim, 1)

    def forward(self, noisy: Tensor, timestep: Tensor, embedding: Tensor) -> Tensor:
        """Predict v = alpha * noise - sigma * clean.

        Args:
            noisy: Noisy mels in model space, float32, shape (batch, n_mels, frames).
            timestep: Diffusion times in [0, 1000), shape (batch,).
            embedding: L2-normalised CLIP embeddings (or `null_embedding` rows), float32, shape (batch, embedding_dim).

        Returns:
            The velocity, float32, shape (batch, n_mels, frames).
        """
        condition = self.embedding_mlp(self.scale(embedding))
        folded = self._fold(noisy)
        if self.config.network == "transformer":
            velocity = self.transformer(folded, timestep, condition)
        elif self.config.network == "convnext":
            velocity = self.convnext(folded, timestep, condition)
        else:
            velocity = self.unet(folded, timestep, class_labels=condition).sample
        return self._unfold(velocity).float()

    def scale(self, embedding: Tensor) -> Tensor:
        """Take unit-norm embeddings (..., embedding_dim), whose coordinates are about 1/sqrt(dim), to unit variance."""
        return embedding * math.sqrt(self.config.embedding_dim)

    def pool(self, frames: Tensor) -> Tensor:
        """Make one embedding of those of a video's frames.

        With `frame_attention` a learned score decides each frame's share (Ilse et al., 2018, equation 7, without its
        hidden layer); otherwise they are averaged. A single frame stays as it is.

        Args:
            frames: L2-normalised CLIP embeddings, float32, shape (..., frames, embedding_dim).

        Returns:
            L2-normalised, float32, shape (..., embedding_dim).
        """
        if not self.config.frame_attention:
            return F.normalize(frames.mean(dim=-2), dim=-1)
        score = self.frame_score(self.scale(frames)).float()
        return F.normalize((score.softmax(dim=-2) * frames).sum(dim=-2), dim=-1)

    def normalize(self, mel: Tensor) -> Tensor:
        """Take natural-log mels of any shape into model space (about zero mean and unit variance)."""
        return (mel.clamp(min=self.config.mel_floor) - self.config.mel_mean) / self.config.mel_std

    def denormalize(self, normalized: Tensor) -> Tensor:
        """Take model-space mels of any shape back to natural-log mels, never below the floor."""
        return (normalized * self.config.mel_std + self.config.mel_mean).clamp(min=self.config.mel_floor)

    def _fold(self, mel: Tensor) -> Tensor:
        """(batch, n_mels, frames) → (batch, bands * steps, n_mels / bands, frames / steps)."""
        bands, steps = self.config.fold
        batch, n_mels, frames = mel.shape
        patches = mel.reshape(batch, n_mels // bands, bands, frames // steps, steps).permute(0, 2, 4, 1, 3)
        folded = patches.reshape(batch, bands * steps, n_mels // bands, frames // steps)
        return folded.contiguous(memory_format=torch.channels_last)

    def _unfold(self, folded: Tensor) -> Tensor:
        """Undo `_fold`."""
        bands, steps = self.config.fold
        batch, _, rows, columns = folded.shape
        patches = folded.reshape(batch, bands, steps, rows, columns).permute(0, 3, 1, 4, 2)
        return patches.reshape(batch, rows * bands, columns * steps)

    def save(self, folder: Path) -> None:
        """Write `config.json` and `model.safetensors` (half precision) into `folder`."""
        save_part(self, self.config, folder)

    @classmethod
    def load(cls, folder: Path, device: str | torch.device = "cpu") -> Self:
        """Read a denoiser that `save` wrote.

        Raises:
            ConfigError: `config.json` is not a denoiser's.
            CheckpointError: The weights are missing, truncated or of another shape.
        """
        denoiser = cls(DenoiserConfig.load(folder / CONFIG_NAME))
        load_weights(denoiser, folder / WEIGHTS_NAME)
        return denoiser.to(device).to(memory_format=torch.channels_last).eval().requires_grad_(False)


def mlp(*widths: int) -> nn.Sequential:
    """Return linear layers between these widths, with SiLU between the layers."""
    layers: list[nn.Module] = []
    for into, out in pairwise(widths):
        layers += [nn.SiLU(), nn.Linear(into, out)]
    return nn.Sequential(*layers[1:])


def _unet(config: DenoiserConfig) -> UNet2DModel:
    folded = math.prod(config.fold)
    return UNet2DModel(
        in_channels=folded,
        out_channels=folded,
        block_out_channels=config.channels,
        layers_per_block=config.layers_per_block,
        down_block_types=tuple("AttnDownBlock2D" if a else "DownBlock2D" for a in config.attention),
        up_block_types=tuple("AttnUpBlock2D" if a else "UpBlock2D" for a in reversed(config.attention)),
        attention_head_dim=config.head_dim,
        norm_num_groups=config.norm_groups,
        resnet_time_scale_shift="scale_shift",
        class_embed_type="identity",
    )


def _transformer(config: DenoiserConfig) -> MelTransformer:
    folded = math.prod(config.fold)
    positions = config.n_mels * config.frames // folded
    return MelTransformer(folded, positions, config.channels[0], config.layers_per_block, config.head_dim)


def _convnext(config: DenoiserConfig) -> MelConvNeXt:
    return MelConvNeXt(
        math.prod(config.fold), config.n_mels // config.fold[0], config.channels[0], config.layers_per_block
    )
