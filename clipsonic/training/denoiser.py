"""Train the denoiser on (frame, sound) pairs: it sees image embeddings and mels, never a label or a text."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from diffusers import DDPMScheduler
from torch import Tensor
from torch.nn import functional as F

from clipsonic.config import Config, DenoiserConfig, MelConfig
from clipsonic.denoiser import Denoiser
from clipsonic.errors import ConfigError
from clipsonic.training.features import FrameSoundDataset, load_features
from clipsonic.training.loop import Task
from clipsonic.training.recipe import Recipe


@dataclass(frozen=True, kw_only=True)
class DenoiserTaskConfig(Config):
    """What the denoiser's loss needs."""

    condition_drop: float = 0.1
    """Share of clips that are trained without a condition, for classifier-free guidance."""
    embedding_noise: float = 0.0
    """Norm of the Gaussian noise added to the unit-norm embeddings, so that near pictures sound alike."""
    noise_shift: float = 1.0
    """How far the noise schedule is shifted towards noise; see `noise_scheduler`."""
    time_power: float = 1.0
    """Uniform times in [0, 1) are raised to this power: below 1, more steps go to the noisy end, where the condition
    decides."""
    crop_share: float = 0.0
    """Share of batches trained on a random part of the mels: half the arithmetic, twice the conditions seen."""
    crop_frames: int = 160
    """Length of that part."""
    pictures: int = 2
    """Frames of each video that are embedded; one of them is drawn each time the video comes up."""


def noise_scheduler(shift: float) -> DDPMScheduler:
    """Return the schedule that the denoiser is trained and sampled with: a cosine one, shifted towards noise.

    Neighbouring cells of a mel agree so much that its plan shows through the noise of the plain cosine schedule
    (Nichol & Dhariwal, 2021) until the last fiftieth of the time steps. Dividing the signal-to-noise ratio by the
    square of `shift` (Hoogeboom et al., 2023, "simple diffusion", section 2.1) gives the plan its share of them.
    """
    alphas_cumprod = DDPMScheduler(beta_schedule="squaredcos_cap_v2").alphas_cumprod.double()
    ratio = alphas_cumprod / (1 - alphas_cumprod) / shift**2
    shifted = ratio / (1 + ratio)
    betas = 1 - shifted / torch.cat([torch.ones(1, dtype=torch.float64), shifted[:-1]])
    return DDPMScheduler(
        trained_betas=betas.clamp(max=0.999).tolist(), prediction_type="v_prediction", clip_sample=False
    )


class DenoiserTask(Task):
    """Velocity matching with classifier-free guidance dropout."""

    part = "denoiser"
    alphas_cumprod: Tensor

    def __init__(self, model: DenoiserConfig, task: DenoiserTaskConfig, dataset: FrameSoundDataset, seed: int) -> None:
        """Make a new denoiser to be trained on `dataset`; `seed` draws its first weights."""
        super().__init__()
        if task.crop_share and task.crop_frames % model.frame_multiple:
            raise ConfigError(f"crop_frames is {task.crop_frames}; allowed: multiples of {model.frame_multiple}")
        self.config = task
        self.dataset = dataset
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self.denoiser = Denoiser(model).to(memory_format=torch.channels_last)
        self.scheduler = noise_scheduler(task.noise_shift)
        self.register_buffer("alphas_cumprod", self.scheduler.alphas_cumprod, persistent=False)

    def loss(self, batch: dict[str, Tensor], phase: str, generator: torch.Generator) -> tuple[Tensor, dict[str, float]]:
        """Return the mean squared error of the velocity."""
        clean = self.denoiser.normalize(self._crop(batch["mel"], generator))
        embedding = self._condition(batch["embeddings"], generator)
        timestep = self._timesteps(len(clean), generator)
        noise = torch.randn(clean.shape, generator=generator, device=clean.device)
        level = self.alphas_cumprod[timestep][:, None, None]
        noisy = level.sqrt() * clean + (1 - level).sqrt() * noise
        velocity = level.sqrt() * noise - (1 - level).sqrt() * clean
        loss = F.mse_loss(self.denoiser(noisy, timestep, embedding), velocity)
        return loss, {"v_loss": loss.item()}

    def _crop(self, mel: Tensor, generator: torch.Generator) -> Tensor:
        """Return a random part of the mels, or all of them."""
        draw, place = torch.rand(2, generator=generator, device=mel.device).tolist()
        if draw >= self.config.crop_share:
            return mel
        start = round(place * (mel.shape[-1] - self.config.crop_frames))
        return mel[..., start : start + self.config.crop_frames]

    def _timesteps(self, count: int, generator: torch.Generator) -> Tensor:
        """Return timesteps spread over the batch from a random start (Kingma et al., 2021, appendix I)."""
        start = torch.rand(1, generator=generator, device=generator.device)
        spread = torch.arange(count, device=generator.device) / count
        time = ((start + spread) % 1) ** self.config.time_power
        return (time * len(self.alphas_cumprod)).long()

    def _condition(self, embeddings: Tensor, generator: torch.Generator) -> Tensor:
        """Pick one frame of each video, blur its embedding a little, and drop some conditions; (batch, dim)."""
        count, pictures, dim = embeddings.shape
        device = embeddings.device
        frame = torch.randint(pictures, (count,), generator=generator, device=device)
        chosen = embeddings[torch.arange(count, device=device), frame]
        noise = torch.randn(chosen.shape, generator=generator, device=device) * dim**-0.5
        chosen = F.normalize(chosen + self.config.embedding_noise * noise, dim=-1)
        dropped = torch.rand(count, 1, generator=generator, device=device) < self.config.condition_drop
        return torch.where(dropped, self.denoiser.null_embedding, chosen)

    def save(self, folder: Path) -> None:
        """Write the denoiser and the scheduler it belongs to."""
        self.denoiser.save(folder / "denoiser")
        self.scheduler.save_pretrained(folder / "scheduler")


def build(recipe: Recipe, data: Path, base: Path | None) -> DenoiserTask:
    """Return the task of a recipe, on the shards `data`, seen through the CLIP of the model folder `base`.

    Raises:
        ConfigError: No base model is given.
        DataError: The shards cannot be read.
    """
    if base is None:
        raise ConfigError("training the denoiser needs CLIP; give a model folder that has it with --base")
    values: dict[str, Any] = recipe.model
    task = DenoiserTaskConfig.from_dict(recipe.task)
    dataset = load_features(data, base / "clip", MelConfig(), pictures=task.pictures)
    return DenoiserTask(DenoiserConfig.from_dict(values), task, dataset, recipe.training.seed)
