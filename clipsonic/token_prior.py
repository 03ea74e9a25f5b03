"""Pretrained priors for OpenAI's ViT-L/14 as their repositories hold them: Karlo's and Kandinsky 2.1's.

Both are unCLIP priors (Ramesh et al., arXiv 2204.06125, section 2.2) in diffusers' layout. They differ from this
project's own in what they take, 77 hidden states of the text tower beside its embedding, and in scale: what goes in
and what comes out is CLIP's output before it is normalised. The denoiser only knows unit vectors, so `sample`
normalises at the end.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Self

import torch
from diffusers import PriorTransformer, UnCLIPScheduler
from torch import Tensor, nn
from torch.nn import functional as F

from clipsonic.clip import TextTokens
from clipsonic.config import PriorConfig
from clipsonic.errors import CheckpointError, SettingsError
from clipsonic.prior import DiffusionPrior
from clipsonic.storage import CONFIG_NAME

CLIP_SAMPLE_RANGE = 10.0
"""Where predicted embeddings, standardised, are cut off."""


class TokenPrior(nn.Module):
    """A prior that reads the text tower's hidden states; drawn from as diffusers' `UnCLIPPipeline` does."""

    needs_tokens = True

    def __init__(self, transformer: Any) -> None:
        """Wrap diffusers' network.

        Args:
            transformer: A `PriorTransformer` with a text projection and `clip_mean` and `clip_std`.
        """
        super().__init__()
        self.transformer = transformer
        values = transformer.config
        self.config = PriorConfig(
            embedding_dim=values.embedding_dim,
            num_layers=values.num_layers,
            num_attention_heads=values.num_attention_heads,
            attention_head_dim=values.attention_head_dim,
            normalized=False,
        )

    def look_up(self, text_embeddings: Tensor) -> Tensor:
        """Return texts as they are: this prior keeps no names (see `DiffusionPrior.look_up`)."""
        return text_embeddings

    def nearest_names(self, text_embedding: Tensor, count: int) -> list[tuple[str, float]]:
        """Return nothing: there are no names."""
        return []

    @torch.inference_mode()
    def sample(
        self,
        text_embeddings: Tensor,
        *,
        num_inference_steps: int,
        guidance_scale: float,
        generators: Sequence[torch.Generator],
        tokens: TextTokens,
        no_text: TextTokens,
    ) -> Tensor:
        """Draw one image embedding for each text.

        Args:
            text_embeddings: Not used but for their number; `tokens` hold the embeddings before normalisation.
            num_inference_steps: Evaluations of the transformer.
            guidance_scale: 1 follows the text as learnt; more exaggerates what sets it apart from no text.
            generators: One CPU generator per item.
            tokens: What CLIP's text tower makes of the texts.
            no_text: The same of an empty text, one row.

        Returns:
            Image embeddings, L2-normalised, float32, shape (batch, embedding_dim).

        Raises:
            SettingsError: The number of generators is not that of the texts.
        """
        if len(generators) != len(text_embeddings):
            raise SettingsError(f"{len(generators)} generators for {len(text_embeddings)} texts; pass one for each")
        drawn = [
            self._draw(tokens.row(n), no_text, num_inference_steps, guidance_scale, generator)
            for n, generator in enumerate(generators)
        ]
        return F.normalize(torch.cat(drawn), dim=-1)

    def _draw(
        self, text: TextTokens, away: TextTokens, steps: int, guidance_scale: float, generator: torch.Generator
    ) -> Tensor:
        """Return one embedding of CLIP's own length, float32, shape (1, embedding_dim)."""
        device = self.transformer.clip_mean.device
        scheduler = noise_scheduler()
        scheduler.set_timesteps(max(steps, 2))  # it cannot divide the way into one
        times = scheduler.timesteps[:steps]
        latents = torch.randn(1, self.config.embedding_dim, generator=generator)
        for number, step in enumerate(times):
            clean = self._predict(latents.to(device), step, text)
            if guidance_scale != 1.0:
                base = self._predict(latents.to(device), step, away)
                clean = base + guidance_scale * (clean - base)
            following = times[number + 1] if number + 1 < len(times) else -1
            latents = scheduler.step(
                clean.cpu(), step, latents, prev_timestep=following, generator=generator
            ).prev_sample
        return self.transformer.post_process_latents(latents.to(device)).float()

    def _predict(self, latents: Tensor, step: Tensor, text: TextTokens) -> Tensor:
        device = latents.device
        return self.transformer(
            latents,
            step.to(device),
            text.embedding.to(device),
            encoder_hidden_states=text.hidden.to(device),
            attention_mask=text.mask.to(device),
        ).predicted_image_embedding.float()

    @classmethod
    def load(cls, folder: Path, device: torch.device | str = "cpu") -> Self:
        """Read a folder in diffusers' layout: `config.json` and `diffusion_pytorch_model`.

        Raises:
            CheckpointError: The files are missing, damaged, or another network's, or hold no scale of embeddings.
        """
        try:
            transformer: Any = PriorTransformer.from_pretrained(folder, torch_dtype=torch.float32)
        except (OSError, ValueError, RuntimeError, TypeError) as error:
            reason = str(error).strip().splitlines()[0]
            raise CheckpointError(f"cannot read the prior in {folder}: {reason}; fetch it again") from error
        if not bool(transformer.clip_std.abs().min() > 0):
            raise CheckpointError(
                f"the prior in {folder} has a clip_std of zero, so all it draws is alike; fetch it again"
            )
        return cls(transformer).to(device).eval().requires_grad_(False)


def noise_scheduler() -> Any:
    """Return the schedule of Karlo and Kandinsky 2.1: cosine, predicting the clean embedding."""
    return UnCLIPScheduler(
        variance_type="fixed_small_log",
        num_train_timesteps=1000,
        clip_sample=True,
        clip_sample_range=CLIP_SAMPLE_RANGE,
        prediction_type="sample",
        beta_schedule="squaredcos_cap_v2",
    )


def load_prior(folder: Path, device: torch.device | str = "cpu") -> DiffusionPrior | TokenPrior:
    """Load the prior that lies in a folder: this project's, or a pretrained one in diffusers' layout.

    Raises:
        ConfigError: `config.json` is no prior's.
        CheckpointError: The weights are missing, truncated or of another shape.
    """
    path = folder / CONFIG_NAME
    foreign = path.is_file() and '"_class_name"' in path.read_text(encoding="utf-8")
    return TokenPrior.load(folder, device) if foreign else DiffusionPrior.load(folder, device)
