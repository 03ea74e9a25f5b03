"""Train the denoiser on (frame, sound) pairs: it sees image embeddings and mels, never a label or a text."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import torch
from diffusers import DDPMScheduler
from torch import Tensor
from torch.nn import functional as F

from clipsonic.clap import ClapEncoder
from clipsonic.clip import ClipEncoder
from clipsonic.config import ClipConfig, Config, DenoiserConfig, MelConfig
from clipsonic.denoiser import Denoiser
from clipsonic.errors import CheckpointError, ConfigError
from clipsonic.shards import clip_sha256
from clipsonic.storage import CONFIG_NAME, write_text
from clipsonic.training.draws import rows
from clipsonic.training.features import FrameSoundDataset, load_features
from clipsonic.training.head_start import pretrain
from clipsonic.training.loop import Task
from clipsonic.training.recipe import Recipe
from clipsonic.training.samples import write_samples
from clipsonic.training.translation import translate
from clipsonic.training.whitening import WhitenedLinear
from clipsonic.vocoder import Vocoder, load_vocoder

FRAMES = ("one", "all")
CONDITIONS = ("image", "clip-text", "clap-text")
SAMPLES = 4
"""Sounds rendered to see how training goes."""


@dataclass(frozen=True, kw_only=True)
class DenoiserTaskConfig(Config):
    """What the denoiser's loss needs."""

    condition_drop: float = 0.1
    """Share of clips that are trained without a condition, for classifier-free guidance."""
    embedding_noise: float = 0.0
    """Norm of the Gaussian noise added to the unit-norm embeddings, so that near pictures sound alike."""
    noise_shift: float = 1.0
    """How far the noise schedule is shifted towards noise; see `noise_scheduler`. A refiner has its denoiser's."""
    time_power: float = 1.0
    """Uniform times in [0, 1) are raised to this power: below 1, more steps go to the noisy end, where the condition
    decides."""
    crop_share: float = 0.0
    """Share of batches trained on a random part of the mels: half the arithmetic, twice the conditions seen."""
    crop_frames: int = 160
    """Length of that part."""
    pictures: int = 2
    """Frames of each video that are embedded; one of them is drawn each time the video comes up."""
    frames: str = "one"
    """Which of a video's embedded frames condition it: "one" at random, or "all" pooled, by attention if the model's
    `frame_attention` is set and otherwise by their mean."""
    condition: str = "image"
    """What the denoiser is conditioned on: "image", as the paper's model; "clip-text" or "clap-text", its supervised
    baselines, whose texts are made of the labels."""
    text_templates: tuple[str, ...] = ("a photo of {}",)
    """Texts made of a label, one drawn each time the sound comes up."""
    clap: str = "laion/clap-htsat-unfused"
    """The CLAP of "clap-text": a hub id or a folder."""
    whiten: bool = False
    """Train behind a map that whitens the embeddings (see `whitening`); the finished model is an ordinary one."""
    condition_steps: int = 0
    """Steps of the head start that a new model's condition is given (see `head_start`)."""


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
    draws_rows = True
    dataset: FrameSoundDataset
    alphas_cumprod: Tensor

    def __init__(
        self,
        model: DenoiserConfig,
        task: DenoiserTaskConfig,
        dataset: FrameSoundDataset,
        seed: int,
        init: Denoiser | None = None,
    ) -> None:
        """Take a denoiser to be trained on `dataset`: `init`, or a new one whose first weights `seed` draws."""
        super().__init__()
        if task.crop_share and task.crop_frames % model.frame_multiple:
            raise ConfigError(f"crop_frames is {task.crop_frames}; allowed: multiples of {model.frame_multiple}")
        for name, allowed in (("frames", FRAMES), ("condition", CONDITIONS)):
            if (value := getattr(task, name)) not in allowed:
                raise ConfigError(f"task.{name} is {value!r}; allowed: {', '.join(allowed)}")
        if model.frame_attention and task.frames != "all":
            raise ConfigError('model.frame_attention needs task.frames to be "all", or it would never be trained')
        self.config = task
        self.dataset = dataset
        self.vocoder_folder: Path | None = None
        self._vocoder: Vocoder | None = None
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self.denoiser = init or Denoiser(model)
        self.denoiser.to(memory_format=torch.channels_last).train().requires_grad_(True)
        if task.whiten:
            self._whiten(new=init is None)
        if task.condition_steps and init is None:
            self._pretrain_condition(seed)
        self.schedule(noise_scheduler(task.noise_shift))

    def schedule(self, scheduler: DDPMScheduler) -> None:
        """Say how noisy each time step is."""
        self.scheduler = scheduler
        self.register_buffer("alphas_cumprod", scheduler.alphas_cumprod, persistent=False)

    def loss(self, batch: dict[str, Tensor], phase: str, generator: torch.Generator) -> tuple[Tensor, dict[str, float]]:
        """Return the mean squared error of the velocity."""
        clean = self.denoiser.normalize(self._crop(batch["mel"], generator))
        embedding = self._condition(batch["embeddings"], generator)
        timestep = self._timesteps(len(clean), generator)
        shape = clean.shape[1:]
        draw: Any = {"generator": generator, "device": clean.device}
        noise = rows(lambda count: torch.randn(count, *shape, **draw), len(clean), generator)
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
        spread = rows(lambda all_: torch.arange(all_, device=generator.device) / all_, count, generator)
        time = ((start + spread) % 1) ** self.config.time_power
        return (time * self.denoiser.config.below_timestep).long()

    def _condition(self, embeddings: Tensor, generator: torch.Generator) -> Tensor:
        """Choose each video's condition, and drop some; (batch, dim)."""
        chosen = self._choose(embeddings, generator)
        draw: Any = {"generator": generator, "device": embeddings.device}
        drawn = rows(lambda count: torch.rand(count, 1, **draw), len(chosen), generator)
        return torch.where(drawn < self.config.condition_drop, self.denoiser.null_embedding, chosen)

    def _choose(self, embeddings: Tensor, generator: torch.Generator) -> Tensor:
        """Pick one frame of each video or pool all, and blur a little; (batch, dim)."""
        batch, pictures, dim = embeddings.shape
        draw: Any = {"generator": generator, "device": embeddings.device}
        if self.config.frames == "all":
            chosen = self.denoiser.pool(embeddings)
        else:
            frame = rows(lambda count: torch.randint(pictures, (count,), **draw), batch, generator)
            chosen = embeddings[torch.arange(batch, device=embeddings.device), frame]
        noise = rows(lambda count: torch.randn(count, dim, **draw), batch, generator) * dim**-0.5
        return F.normalize(chosen + self.config.embedding_noise * noise, dim=-1)

    def _pretrain_condition(self, seed: int) -> None:
        """Give the condition its head start."""
        denoiser, embeddings = self.denoiser, self.dataset.embeddings

        def condition(chosen: Tensor, generator: torch.Generator) -> Tensor:
            return denoiser.scale(self._choose(embeddings[chosen].float(), generator)).detach()

        steps = self.config.condition_steps
        pretrain(denoiser.embedding_mlp, self.dataset.mels, condition, steps=steps, seed=seed)

    @torch.no_grad()
    def _whiten(self, new: bool) -> None:
        """Put the map before the first layer that sees embeddings; a new denoiser's "no condition" is their mean."""
        embeddings = F.normalize(self.dataset.embeddings.flatten(0, 1).float(), dim=-1)
        samples = self.denoiser.scale(embeddings)
        first: Any = self.denoiser.embedding_mlp[0]
        self.denoiser.embedding_mlp[0] = WhitenedLinear(first, samples, same_function=not new)
        if new:
            self.denoiser.null_embedding.copy_(embeddings.mean(dim=0))

    @contextmanager
    def folded(self) -> Iterator[Denoiser]:
        """Yield the denoiser as it is used once trained, its weights as they now are."""
        first = self.denoiser.embedding_mlp[0]
        if isinstance(first, WhitenedLinear):
            self.denoiser.embedding_mlp[0] = first.fold()
        try:
            yield self.denoiser
        finally:
            self.denoiser.embedding_mlp[0] = first

    @property
    def replaces(self) -> tuple[str, ...]:
        """Parts that are not to be taken from the base: with CLAP in its place, none that belongs to CLIP."""
        clap = self.config.condition == "clap-text"
        return ("denoiser", "clip", "prior", "supervised_prior", "audio_clip") if clap else ("denoiser",)

    def sample(self, folder: Path, step: int, writer: Any) -> None:
        """Render some of the conditions that are trained on, through the base's vocoder if it has one."""
        if self._vocoder is None and self.vocoder_folder is not None and self.vocoder_folder.is_dir():
            self._vocoder = load_vocoder(self.vocoder_folder)
        chosen = range(0, len(self.dataset), -(-len(self.dataset) // SAMPLES))
        embeddings = torch.stack([self.dataset[n]["embeddings"][0] for n in chosen]).to(self.alphas_cumprod.device)
        with self.folded() as trained:
            networks = self.networks(trained)
            write_samples(
                scheduler_config=self.scheduler.config,
                embeddings=embeddings,
                vocoder=self._vocoder,
                folder=folder,
                step=step,
                writer=writer,
                **networks,
            )

    def networks(self, trained: Denoiser) -> dict[str, Denoiser]:
        """Return what samples are drawn with: a "denoiser", and a "refiner" if there is one."""
        return {"denoiser": trained}

    def save(self, folder: Path) -> None:
        """Write the denoiser and the scheduler it belongs to."""
        with self.folded() as denoiser:
            denoiser.save(folder / "denoiser")
        self.scheduler.save_pretrained(folder / "scheduler")
        if self.config.condition == "clap-text":
            size = self.denoiser.config.embedding_dim
            write_text(folder / "clip" / CONFIG_NAME, ClipConfig(embedding_dim=size, clap=self.config.clap).to_json())


AnyDenoiserTask = TypeVar("AnyDenoiserTask", bound=DenoiserTask)


def build(recipe: Recipe, data: Path, base: Path | None, init_from: Path | None = None) -> DenoiserTask:
    """Return the task of a recipe, on the shards `data`, seen through the CLIP of the model folder `base`.

    With `init_from`, a model folder, training goes on from its denoiser, whose shape the recipe must not contradict; if
    that model has another CLIP, the denoiser first learns to read this one's embeddings as that one's.

    Raises:
        ConfigError: No base model is given.
        DataError: The shards cannot be read.
        CheckpointError: The denoiser to begin from cannot be read or is of another shape.
    """
    return build_task(DenoiserTask, recipe, data, required(base, DenoiserTask.part), init_from)


def required(base: Path | None, part: str) -> Path:
    """Return the base model, without which a part cannot be trained."""
    if base is None:
        raise ConfigError(f"training the {part} needs CLIP; give a model folder that has it with --base")
    return base


def build_task(
    kind: type[AnyDenoiserTask], recipe: Recipe, data: Path, base: Path, init_from: Path | None
) -> AnyDenoiserTask:
    """Do what `build` says, for a task of any kind."""
    task = DenoiserTaskConfig.from_dict(recipe.task)
    model = DenoiserConfig.from_dict(recipe.model)
    init = None if init_from is None else load_initial(init_from / kind.part, recipe.model)
    dataset = load_features(data, base / "clip", MelConfig(), pictures=task.pictures)
    frames = dataset.embeddings
    if task.condition in CONDITIONS[1:]:
        dataset = _labelled(dataset, task, data, base)
    size, length = dataset.embeddings.shape[-1], dataset.mels.shape[-1]
    config = init.config if init else model
    for name, found, wanted in (("embedding_dim", size, config.embedding_dim), ("frames", length, config.frames)):
        if found != wanted:
            raise ConfigError(f"the model's {name} is {wanted}, the data's {found}; set model.{name} in the recipe")
    if init is not None and init_from is not None and _other_clip(init_from / "clip", base / "clip"):
        before = load_features(data, init_from / "clip", MelConfig(), pictures=task.pictures)
        told = translate(init, frames.flatten(0, 1), before.embeddings.flatten(0, 1))
        print(f"{base} has another CLIP than {init_from}: {told:.0%} of what that one saw is read out of this one's")
    result = kind(config, task, dataset, recipe.training.seed, init)
    result.vocoder_folder = base / "vocoder"
    return result


def _other_clip(one: Path, other: Path) -> bool:
    """Return whether the embeddings of a CLIP folder, if there is one, are not those of another folder's."""
    return one.is_dir() and clip_sha256(one) != clip_sha256(other)


def _labelled(features: FrameSoundDataset, task: DenoiserTaskConfig, data: Path, base: Path) -> FrameSoundDataset:
    """Return the sounds with the embeddings of their labels' texts in place of the pictures'."""
    from clipsonic.training.labelled import text_conditions

    encoder = ClapEncoder.load(task.clap) if task.condition == "clap-text" else ClipEncoder.load(base / "clip")
    texts = text_conditions(data, "train", encoder.encode_text, task.text_templates)
    return FrameSoundDataset(features.mels, texts)


def load_initial(folder: Path, asked: dict[str, Any]) -> Denoiser:
    """Load the denoiser that training is to go on from.

    Args:
        folder: A model's `denoiser` folder.
        asked: The settings that the recipe names; those it leaves out are the loaded denoiser's.

    Raises:
        CheckpointError: There is none, or it has another value of a setting that the recipe names.
    """
    try:
        config = DenoiserConfig.load(folder / CONFIG_NAME)
    except ConfigError as error:
        raise CheckpointError(f"--init-from has no denoiser: {error}; give a whole model folder") from error
    wanted = DenoiserConfig.from_dict({**config.to_dict(), **asked})
    if other := [name for name in asked if getattr(wanted, name) != getattr(config, name)]:
        name = other[0]
        raise CheckpointError(
            f"{folder} has {name} {getattr(config, name)}, the recipe {getattr(wanted, name)}; take a recipe that "
            "agrees or leaves it out"
        )
    return Denoiser.load(folder)
