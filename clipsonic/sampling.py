"""Named samplers over the denoiser: guidance, the loop, previews, cancellation."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, NamedTuple

import diffusers
import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from clipsonic.config import SAMPLERS
from clipsonic.denoiser import Denoiser
from clipsonic.device import Accelerator, is_out_of_memory, release_memory
from clipsonic.errors import CheckpointError, SettingsError
from clipsonic.windows import Windows

StepCallback = Callable[[int, int, Callable[[], np.ndarray] | None], None]
"""Called with the steps done, the steps altogether, and what computes the denoised log-mels as they stand."""

_SCHEDULERS: dict[str, tuple[str, dict[str, Any]]] = {
    "dpmpp-2m": ("DPMSolverMultistepScheduler", {"algorithm_type": "dpmsolver++", "solver_order": 2}),
    "dpmpp-2m-sde": ("DPMSolverMultistepScheduler", {"algorithm_type": "sde-dpmsolver++", "solver_order": 2}),
    "unipc": ("UniPCMultistepScheduler", {"solver_order": 2}),
    "lms": ("LMSDiscreteScheduler", {}),
    "dpm2": ("KDPM2DiscreteScheduler", {}),
    "ddim": ("DDIMScheduler", {"clip_sample": False}),
    "ddpm": ("DDPMScheduler", {"clip_sample": False, "variance_type": "fixed_small"}),
}
"""Left out on purpose: Euler, which is DDIM in other variables, and Heun, whose corrector blows up on the steep start
of the cosine schedule; DPM-Solver-2 takes its place as the second-order method of two evaluations a step."""


def make_scheduler(config: dict[str, Any], sampler: str, num_inference_steps: int) -> Any:
    """Return diffusers' scheduler for a sampler, its time steps set.

    Args:
        config: The training's `scheduler_config.json`.
        sampler: One of `SAMPLERS`.
        num_inference_steps: Steps; the sampler "dpm2" evaluates the denoiser twice in each but the last.

    Raises:
        SettingsError: There is no such sampler.
        CheckpointError: The configuration is not one for velocity prediction.
    """
    if sampler not in SAMPLERS:
        raise SettingsError(f"sampler is {sampler!r}; allowed: one of {', '.join(SAMPLERS)}")
    if config.get("prediction_type") != "v_prediction":
        found = config.get("prediction_type")
        raise CheckpointError(f"the scheduler's prediction_type is {found!r}, expected 'v_prediction'; mend the model")
    name, options = _SCHEDULERS[sampler]
    # "trailing" starts at the last time step, where the training's noise is whole, and never stops short of the first.
    scheduler = getattr(diffusers, name).from_config(config, timestep_spacing="trailing", **options)
    scheduler.set_timesteps(num_inference_steps)
    return scheduler


class _Guided:
    """The denoiser with classifier-free guidance, run in batches of one size; smaller ones where memory is short.

    A refiner needs no guidance: what it adds is as plausible as what it was left with.
    """

    def __init__(
        self,
        denoiser: Denoiser,
        refiner: Denoiser | None,
        conditions: Tensor,
        others: Tensor | None,
        guidance_scale: float,
        batch: int,
    ) -> None:
        self._denoiser, self._refiner, self._conditions, self._others = denoiser, refiner, conditions, others
        self._guidance_scale, self._batch = guidance_scale, batch

    def velocity(self, noisy: Tensor, timestep: Tensor) -> Tensor:
        """Return the guided velocity, float32, shape (windows, n_mels, frames).

        Raises:
            OutOfMemoryError: The device has too little memory even for one window.
        """
        while True:
            try:
                return self._velocity(noisy, timestep)
            except RuntimeError as error:
                if not is_out_of_memory(error) or self._batch == 1:
                    raise
            # Outside of the handler, whose traceback would keep the tensors of the failed attempt alive.
            self._batch //= 2
            release_memory()

    def _velocity(self, noisy: Tensor, timestep: Tensor) -> Tensor:
        count = len(noisy)
        rows = torch.arange(-(-count // self._batch) * self._batch, device=noisy.device) % count
        outputs = [self._chunk(noisy[chunk], timestep, chunk) for chunk in rows.split(self._batch)]
        return torch.cat(outputs)[:count]

    def _chunk(self, noisy: Tensor, timestep: Tensor, rows: Tensor) -> Tensor:
        times = timestep.to(noisy.device, torch.float32).expand(len(rows))
        if self._refiner is not None and timestep < self._refiner.config.below_timestep:
            return self._refiner(noisy, times, self._conditions[rows])
        if self._others is None:
            return self._denoiser(noisy, times, self._conditions[rows])
        conditions = torch.cat([self._conditions[rows], self._others[rows]])
        wanted, other = self._denoiser(noisy.repeat(2, 1, 1), times.repeat(2), conditions).chunk(2)
        return other + self._guidance_scale * (wanted - other)


def sample_mel(
    denoiser: Denoiser,
    scheduler_config: dict[str, Any],
    embeddings: Sequence[Tensor],
    *,
    sampler: str,
    num_inference_steps: int,
    guidance_scale: float,
    generators: Sequence[torch.Generator],
    windows: Sequence[Windows] | None = None,
    negative_embeddings: Sequence[Tensor] | None = None,
    refiner: Denoiser | None = None,
    accelerator: Accelerator | None = None,
    callback: StepCallback | None = None,
) -> list[Tensor]:
    """Draw log-mels from noise under the guidance of embeddings (Ho & Salimans, 2022).

    Every item has a generator and a scheduler of its own, so its result does not depend on the rest of the batch.

    Args:
        denoiser: The network.
        scheduler_config: The training's `scheduler_config.json`.
        embeddings: What to condition each item on, L2-normalised, float32: one for the whole of it, shape
            (embedding_dim,) or (1, embedding_dim), or one a window, shape (windows, embedding_dim).
        sampler: One of `SAMPLERS`.
        num_inference_steps: At least 1.
        guidance_scale: 1 is plain sampling and takes half the time; larger follows the condition more closely.
        generators: One an item, on the CPU.
        windows: Where the network looks, one an item; a single window of the denoiser's own length if left out.
        negative_embeddings: What to steer away from, in place of "no condition"; one an item, as `embeddings`.
        refiner: An expert for little noise, which takes over where its `below_timestep` says, without guidance (an
            ensemble of expert denoisers: Balaji et al., 2022, "eDiff-I"; SDXL's refiner).
        accelerator: The device and precision; the CPU's if left out.
        callback: Told before the first and after every evaluation; may raise `Cancelled`.

    Returns:
        Natural-log mel magnitudes on the CPU, float32, shape (n_mels, frames) each, as long as the windows say.

    Raises:
        SettingsError: There is no such sampler.
        CheckpointError: The scheduler's configuration does not fit.
        OutOfMemoryError: The device has too little memory even for one window.
    """
    accelerator = accelerator or Accelerator.choose("cpu")
    config = denoiser.config
    windows = windows or [Windows.cover(config.frames, config.frames)] * len(generators)
    schedulers = [make_scheduler(scheduler_config, sampler, num_inference_steps) for _ in generators]
    noises = [torch.randn(1, config.n_mels, w.span, generator=g) for w, g in zip(windows, generators, strict=True)]
    others = [denoiser.null_embedding] * len(windows) if negative_embeddings is None else negative_embeddings
    guided = _Guided(
        denoiser,
        refiner,
        _by_window(embeddings, windows).to(accelerator.device),
        _by_window(others, windows).to(accelerator.device) if guidance_scale != 1 else None,
        guidance_scale,
        accelerator.batch,
    )
    loop = _Loop(guided, schedulers, generators, windows, accelerator)
    return loop.run(noises, denoiser.denormalize, callback)


def _by_window(embeddings: Sequence[Tensor], windows: Sequence[Windows]) -> Tensor:
    """Return one row a window of every item, shape (all windows, embedding_dim)."""
    pairs = zip(embeddings, windows, strict=True)
    return torch.cat([embedding.expand(len(window.starts), -1) for embedding, window in pairs])


class _Step(NamedTuple):
    """What a preview is made of, item by item."""

    scaled: list[Tensor]
    velocities: list[Tensor]
    timestep: Tensor


class _Loop:
    """The reverse diffusion of several items in step, each with its own scheduler."""

    def __init__(
        self,
        guided: _Guided,
        schedulers: list[Any],
        generators: Sequence[torch.Generator],
        windows: Sequence[Windows],
        accelerator: Accelerator,
    ) -> None:
        self._guided, self._schedulers, self._accelerator = guided, schedulers, accelerator
        self._windows = windows
        takes_generator = "generator" in inspect.signature(schedulers[0].step).parameters
        self._extra = [{"generator": g} if takes_generator else {} for g in generators]

    def run(
        self, noises: list[Tensor], denormalize: Callable[[Tensor], Tensor], callback: StepCallback | None
    ) -> list[Tensor]:
        """Denoise; returns natural-log mels on the CPU, float32, shape (n_mels, frames) each."""
        samples = [noise * s.init_noise_sigma for noise, s in zip(noises, self._schedulers, strict=True)]
        timesteps = self._schedulers[0].timesteps
        _tell(callback, 0, len(timesteps), None)
        for done, timestep in enumerate(timesteps, 1):
            scaled = [s.scale_model_input(x, timestep) for s, x in self._pairs(samples)]
            velocities = self._velocities(scaled, timestep)
            samples = [
                s.step(v, timestep, x, **extra).prev_sample
                for (s, x), v, extra in zip(self._pairs(samples), velocities, self._extra, strict=True)
            ]
            step = _Step(scaled, velocities, timestep)
            _tell(callback, done, len(timesteps), partial(self._preview, step, denormalize))
        return self._crop([denormalize(sample) for sample in samples])

    def _velocities(self, scaled: list[Tensor], timestep: Tensor) -> list[Tensor]:
        """Return each item's velocity, averaged over its windows, float32 on the CPU, shape (1, n_mels, span)."""
        pieces = torch.cat([w.cut(x) for w, x in zip(self._windows, scaled, strict=True)])
        with self._accelerator.autocast():
            velocity = self._guided.velocity(pieces.to(self._accelerator.device), timestep).float().cpu()
        shares = velocity.split([len(w.starts) for w in self._windows])
        return [w.join(share) for w, share in zip(self._windows, shares, strict=True)]

    def _pairs(self, samples: list[Tensor]) -> list[tuple[Any, Tensor]]:
        return list(zip(self._schedulers, samples, strict=True))

    def _crop(self, mels: list[Tensor]) -> list[Tensor]:
        return [mel[0, :, : w.frames] for w, mel in zip(self._windows, mels, strict=True)]

    def _preview(self, step: _Step, denormalize: Callable[[Tensor], Tensor]) -> np.ndarray:
        """Return the clean log-mels that a velocity points at: alpha * x - sigma * v, silence after the shorter."""
        alpha_squared = self._schedulers[0].alphas_cumprod[round(float(step.timestep))]
        alpha, sigma = alpha_squared.sqrt(), (1 - alpha_squared).sqrt()
        pairs = zip(step.scaled, step.velocities, strict=True)
        mels = self._crop([denormalize(alpha * x - sigma * v) for x, v in pairs])
        longest = max(w.frames for w in self._windows)
        silence = float(denormalize(torch.tensor(-torch.inf)))
        return np.stack([F.pad(mel, (0, longest - mel.shape[1]), value=silence).numpy() for mel in mels])


def _tell(callback: StepCallback | None, done: int, total: int, preview: Callable[[], np.ndarray] | None) -> None:
    if callback is not None:
        callback(done, total, preview)
