"""The diffusion prior: from a text's embedding to that of a picture it may describe (unCLIP, arXiv 2204.06125)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Self

import torch
from diffusers import DDPMScheduler, PriorTransformer
from torch import Tensor, nn
from torch.nn import functional as F

from clipsonic.config import PriorConfig
from clipsonic.errors import SettingsError
from clipsonic.memory import recall, shares
from clipsonic.storage import CONFIG_NAME, WEIGHTS_NAME, load_weights, save_part


class DiffusionPrior(nn.Module):
    """Draw image embeddings from text embeddings with a small transformer that predicts the clean embedding.

    Inside, embeddings are scaled by `config.scale` and then standardised with `clip_mean` and `clip_std`, which
    training sets from the image embeddings it sees. A row of zeros stands for "no text".

    Where the config has names the network is not told the text but the pictures of the names that it is nearest to:
    a small prior, taught with few pairs, need not learn by heart what can be looked up (retrieval-augmented diffusion:
    Blattmann et al., arXiv 2204.11824; Sheynin et al., arXiv 2204.02849).

    Attributes:
        name_texts: L2-normalised text embeddings of the config's names, if it has any, float32, shape (names,
            embedding_dim).
        name_pictures: Mean image embeddings of each name's pictures, L2-normalised, of the same shape.
    """

    name_texts: Tensor
    name_pictures: Tensor

    def __init__(self, config: PriorConfig) -> None:
        """Build the prior with random weights and a standardisation that changes nothing."""
        super().__init__()
        self.config = config
        self.transformer = _transformer(config)
        self.scheduler: Any = noise_scheduler()
        if config.names:
            for name in ("name_texts", "name_pictures"):
                self.register_buffer(name, torch.zeros(len(config.names), config.embedding_dim))

    def look_up(self, text_embeddings: Tensor) -> Tensor:
        """Return what the network is told of texts: the pictures of the names they are nearest to, or just the texts.

        Args:
            text_embeddings: L2-normalised, float32, shape (batch, embedding_dim).

        Returns:
            L2-normalised, float32, shape (batch, embedding_dim).
        """
        if not self.config.names:
            return text_embeddings
        return recall(text_embeddings, self.name_texts, self.name_pictures, self.config.temperature)

    @torch.inference_mode()
    def nearest_names(self, text_embedding: Tensor, count: int) -> list[tuple[str, float]]:
        """Return the names that a text is looked up as, the nearest first, each with its share of the answer.

        Args:
            text_embedding: L2-normalised, float32, shape (embedding_dim,).
            count: How many; fewer if there are no more.
        """
        if not self.config.names:
            return []
        found = shares(text_embedding[None], self.name_texts, self.config.temperature)[0]
        best = found.topk(min(count, len(found)))
        return [
            (self.config.names[n], share) for n, share in zip(best.indices.tolist(), best.values.tolist(), strict=True)
        ]

    def forward(self, noisy: Tensor, timestep: Tensor, told: Tensor) -> Tensor:
        """Predict the clean image embedding in the prior's space.

        Args:
            noisy: Noisy image embeddings in the prior's space, float32, shape (batch, embedding_dim).
            timestep: Diffusion times in [0, 1000), int64, shape (batch,).
            told: What `look_up` makes of texts, or zeros for no text, float32, shape (batch, embedding_dim).

        Returns:
            float32, shape (batch, embedding_dim).
        """
        scaled = told * math.sqrt(self.config.embedding_dim)
        return self.transformer(noisy, timestep, scaled).predicted_image_embedding

    def standardize(self, embeddings: Tensor) -> Tensor:
        """Take image embeddings, shape (..., embedding_dim), into the prior's space."""
        return (embeddings * self.config.scale - self.transformer.clip_mean) / self.transformer.clip_std

    @torch.inference_mode()
    def sample(
        self,
        text_embeddings: Tensor,
        *,
        num_inference_steps: int,
        guidance_scale: float,
        generators: Sequence[torch.Generator],
        negative_embeddings: Tensor | None = None,
    ) -> Tensor:
        """Draw one image embedding for each text.

        Args:
            text_embeddings: L2-normalised text embeddings, float32, shape (batch, embedding_dim).
            num_inference_steps: Evaluations of the transformer.
            guidance_scale: 1 follows the text as learnt; more exaggerates what sets it apart from no text.
            generators: One CPU generator per item, so that an item does not depend on the rest of the batch.
            negative_embeddings: What guidance leads away from, instead of no text; same shape as the texts.

        Returns:
            Image embeddings, float32, shape (batch, embedding_dim), L2-normalised if the config says so.

        Raises:
            SettingsError: The number of generators is not that of the texts.
        """
        if len(generators) != len(text_embeddings):
            raise SettingsError(f"{len(generators)} generators for {len(text_embeddings)} texts; pass one for each")
        device = self.transformer.clip_mean.device
        text = self.look_up(text_embeddings.to(device))
        away = torch.zeros_like(text) if negative_embeddings is None else self.look_up(negative_embeddings.to(device))
        scheduler: Any = noise_scheduler()
        scheduler.set_timesteps(num_inference_steps)
        latents = torch.cat([torch.randn(1, text.shape[1], generator=g) for g in generators]).to(device)
        for step in scheduler.timesteps:
            times = step.to(device).expand(len(text))
            clean = self(latents, times, text).float()
            if guidance_scale != 1.0:
                base = self(latents, times, away).float()
                clean = base + guidance_scale * (clean - base)
            latents = scheduler.step(clean, step, latents, generator=list(generators)).prev_sample
        drawn = self.transformer.post_process_latents(latents) / self.config.scale
        return F.normalize(drawn, dim=-1) if self.config.normalized else drawn

    def save(self, folder: Path) -> None:
        """Write `config.json` and `model.safetensors` (half precision) into `folder`.

        Raises:
            OutputError: The folder cannot be written to.
        """
        save_part(self, self.config, folder)

    @classmethod
    def load(cls, folder: Path, device: torch.device | str = "cpu") -> Self:
        """Read a prior that `save` wrote.

        Raises:
            ConfigError: `config.json` is not a prior's.
            CheckpointError: The weights are missing, truncated or of another shape.
        """
        prior = cls(PriorConfig.load(folder / CONFIG_NAME))
        load_weights(prior, folder / WEIGHTS_NAME)
        return prior.to(device).eval().requires_grad_(False)


def _transformer(config: PriorConfig) -> Any:
    """Build diffusers' network with a standardisation that changes nothing; its own, all zeros, would erase all."""
    transformer: Any = PriorTransformer(
        num_attention_heads=config.num_attention_heads,
        attention_head_dim=config.attention_head_dim,
        num_layers=config.num_layers,
        embedding_dim=config.embedding_dim,
        num_embeddings=0,
        encoder_hid_proj_type=None,
        dropout=config.dropout,
    )
    for name, value in (("clip_mean", 0.0), ("clip_std", 1.0)):
        transformer.get_parameter(name).requires_grad_(False).fill_(value)
    return transformer


def noise_scheduler() -> DDPMScheduler:
    """Return the cosine schedule, predicting the clean embedding, that the prior is trained and sampled with."""
    return DDPMScheduler(
        beta_schedule="squaredcos_cap_v2", prediction_type="sample", clip_sample=False, timestep_spacing="trailing"
    )
