"""Train the refiner: a denoiser for little noise, where what counts is detail, and detail is local."""

from __future__ import annotations

from pathlib import Path

from diffusers import DDPMScheduler

from clipsonic.denoiser import Denoiser
from clipsonic.errors import CheckpointError, ConfigError
from clipsonic.training.denoiser import DenoiserTask, build_task, required
from clipsonic.training.recipe import Recipe

SCALE = ("mel_mean", "mel_std", "mel_floor")
"""How a log-mel becomes what is denoised: one takes over what the other left."""


class RefinerTask(DenoiserTask):
    """What the denoiser's task is, at the time steps below `below_timestep` of the denoiser's own schedule."""

    part = "refiner"
    base: Path

    @property
    def replaces(self) -> tuple[str, ...]:
        """The refiner alone."""
        return (self.part,)

    def networks(self, trained: Denoiser) -> dict[str, Denoiser]:
        """Return the base's denoiser, and what is trained."""
        denoiser = Denoiser.load(self.base / "denoiser", self.alphas_cumprod.device)
        return {"denoiser": denoiser, "refiner": trained}

    def save(self, folder: Path) -> None:
        """Write the refiner."""
        with self.folded() as refiner:
            refiner.save(folder / self.part)


def build(recipe: Recipe, data: Path, base: Path | None, init_from: Path | None = None) -> RefinerTask:
    """Return the task of a recipe, on the shards `data`, for the denoiser of the model folder `base`.

    With `init_from`, a model folder, training goes on from its refiner.

    Raises:
        ConfigError: No base model is given, the recipe leaves the denoiser nothing to do, or scales mels otherwise.
        DataError: The shards cannot be read.
        CheckpointError: The base has no denoiser, or the refiner to begin from cannot be used.
    """
    base = required(base, RefinerTask.part)
    task = build_task(RefinerTask, recipe, data, base, init_from)
    steps = task.scheduler.config.num_train_timesteps
    if task.denoiser.config.below_timestep >= steps:
        raise ConfigError(
            f"model.below_timestep is {task.denoiser.config.below_timestep}; a refiner needs it below {steps}"
        )
    try:
        task.schedule(DDPMScheduler.from_pretrained(base / "scheduler"))
    except OSError as error:
        raise CheckpointError(f"{base} has no scheduler; train the denoiser first") from error
    task.base = base
    denoiser = Denoiser.load(base / "denoiser")
    for name in SCALE:
        if (value := getattr(task.denoiser.config, name)) != (wanted := getattr(denoiser.config, name)):
            raise ConfigError(
                f"the refiner's {name} is {value}, its denoiser's {wanted}; set model.{name} in the recipe"
            )
    # Sounds made of no condition come with the denoiser's.
    task.denoiser.null_embedding.requires_grad_(False).copy_(denoiser.null_embedding)
    return task
