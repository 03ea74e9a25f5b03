"""Named samplers over the denoiser: guidance, the loop, previews, cancellation."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, NamedTuple

import diffusers
import numpy as np
import torch
from diffusers import DDPMScheduler
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


SPACING_POWER = 1.5
"""How much closer the time steps lie where there is little noise; 1 spaces them evenly. Detail is settled there, and a
last step from afar would leave its mean."""


class Schedule:
    """A sampler over a few of the training's time steps ("respacing": Nichol & Dhariwal, 2021).

    The sampler is one of diffusers' over a schedule that has these time steps alone, so each of them, whatever spacing
    it knows itself, goes through the same ones.

    Attributes:
        sampler: Diffusers' scheduler; its time steps count those that were chosen.
        kept: How much of the signal's power is left at each of the training's time steps, float64.
        strength: Share of the training's time steps that are gone through, those of least noise.
    """

    def __init__(self, config: dict[str, Any], sampler: str, num_inference_steps: int, strength: float = 1.0) -> None:
        """Set up the time steps.

        Args:
            config: The training's `scheduler_config.json`.
            sampler: One of `SAMPLERS`.
            num_inference_steps: Steps; the sampler "dpm2" evaluates the denoiser twice in each but the last. Where the
                strength leaves fewer time steps of the training, there are as many as those.
            strength: Share of the training's time steps to go through, in (0, 1].

        Raises:
            SettingsError: There is no such sampler.
            CheckpointError: The configuration is not one for velocity prediction.
        """
        if sampler not in SAMPLERS:
            raise SettingsError(f"sampler is {sampler!r}; allowed: one of {', '.join(SAMPLERS)}")
        if config.get("prediction_type") != "v_prediction":
            found = config.get("prediction_type")
            raise CheckpointError(
                f"the scheduler's prediction_type is {found!r}, expected 'v_prediction'; mend the model"
            )
        name, options = _SCHEDULERS[sampler]
        self.strength = strength
        self.kept = DDPMScheduler.from_config(config).alphas_cumprod.double()
        self._log_noise = (1 / self.kept - 1).log()
        within = round((len(self.kept) - 1) * strength) + 1
        self._times = spaced_times(within, min(num_inference_steps, within))
        kept = self.kept[self._times]
        betas = 1 - kept / F.pad(kept, (1, 0), value=1.0)[:-1]
        self.sampler = getattr(diffusers, name).from_config(
            config,
            trained_betas=betas.tolist(),
            num_train_timesteps=len(kept),
            timestep_spacing="trailing",
            **options,
        )
        # Written anew: where a step takes nearly all that is left, one minus its beta is nothing in float32.
        self.sampler.alphas_cumprod = kept.float()
        self.sampler.set_timesteps(len(kept))

    def begin(self, noise: Tensor, start: Tensor | None) -> Tensor:
        """Return what the sampler sets out from, in its own scaling.

        Args:
            noise: Of unit variance, float32, shape (1, n_mels, span).
            start: A mel in model space to set out from (SDEdit: Meng et al., arXiv 2108.01073), of the same shape; None
                for noise alone.
        """
        if start is None:
            return noise * self.sampler.init_noise_sigma
        return self.sampler.add_noise(start, noise, self.sampler.timesteps[:1])

    def time(self, step: Tensor) -> float:
        """Return the training's time step of the same noise as one of the sampler's, which may lie between two."""
        noise = np.interp(float(step), np.arange(len(self._times)), self._log_noise[self._times])
        return float(np.interp(noise, self._log_noise, np.arange(len(self.kept))))


def spaced_times(train_steps: int, steps: int) -> Tensor:
    """Return distinct time steps of the training, rising, with the last among them, int64, shape (steps,).

    Args:
        train_steps: Time steps of the training.
        steps: At most as many.
    """
    even = torch.arange(1, steps + 1, dtype=torch.float64) / steps
    wanted, order = ((train_steps - 1) * even**SPACING_POWER).round().long(), torch.arange(steps)
    return (wanted - order).cummax(dim=0).values + order


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

    def velocity(self, noisy: Tensor, time: float, rows: Tensor) -> Tensor:
        """Return the guided velocity, float32, shape (windows, n_mels, frames).

        Args:
            noisy: Windows in model space, float32, of the same shape.
            time: The training's time step.
            rows: Which of the conditions each window has, int64, shape (windows,).

        Raises:
            OutOfMemoryError: The device has too little memory even for one window.
        """
        while True:
            try:
                return self._velocity(noisy, time, rows)
            except RuntimeError as error:
                if not is_out_of_memory(error) or self._batch == 1:
                    raise
            # Outside of the handler, whose traceback would keep the tensors of the failed attempt alive.
            self._batch //= 2
            release_memory()

    def _velocity(self, noisy: Tensor, time: float, rows: Tensor) -> Tensor:
        count = len(noisy)
        filled = torch.arange(-(-count // self._batch) * self._batch, device=noisy.device) % count
        outputs = [self._chunk(noisy[chunk], time, rows[chunk]) for chunk in filled.split(self._batch)]
        return torch.cat(outputs)[:count]

    def _chunk(self, noisy: Tensor, time: float, rows: Tensor) -> Tensor:
        times = torch.full((len(rows),), time, device=noisy.device)
        if self._refiner is not None and time < self._refiner.config.below_timestep:
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
    starts: Sequence[Tensor | None] | None = None,
    strength: float = 1.0,
    refiner: Denoiser | None = None,
    accelerator: Accelerator | None = None,
    callback: StepCallback | None = None,
) -> list[Tensor]:
    """Draw log-mels from noise under the guidance of embeddings (Ho & Salimans, 2022).

    Every item has a generator and a scheduler of its own, so its result does not depend on the rest of the batch. Those
    that set out from a mel go through other time steps than those from noise alone, and have their turn after them.

    Args:
        denoiser: The network.
        scheduler_config: The training's `scheduler_config.json`.
        embeddings: What to condition each item on, L2-normalised, float32: one for the whole of it, shape
            (embedding_dim,) or (1, embedding_dim), or one a window, shape (windows, embedding_dim).
        sampler: One of `SAMPLERS`.
        num_inference_steps: At least 1.
        guidance_scale: 1 is plain sampling and halves the denoiser's work; larger follows the condition more closely.
        generators: One an item, on the CPU.
        windows: Where the network looks, one an item; a single window of the denoiser's own length if left out.
        negative_embeddings: What to steer away from, in place of "no condition"; one an item, as `embeddings`.
        starts: What to set out from, one an item: natural-log mel magnitudes, float32, shape (n_mels, frames), cropped
            to what is denoised or filled up with silence; None for noise alone.
        strength: How much of the starts is made anew, in (0, 1]: noise is added to them up to the time step at this
            share of the training's (SDEdit: Meng et al., arXiv 2108.01073). At 1 there is nothing left of them, and
            noise alone is set out from.
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
    clean = _in_model_space(denoiser, starts if starts and strength < 1 else [None] * len(windows), windows)
    shares = [1.0 if start is None else strength for start in clean]
    schedules = [Schedule(scheduler_config, sampler, num_inference_steps, share) for share in shares]
    noises = [torch.randn(1, config.n_mels, w.span, generator=g) for w, g in zip(windows, generators, strict=True)]
    samples = [s.begin(noise, start) for s, noise, start in zip(schedules, noises, clean, strict=True)]
    others = [denoiser.null_embedding] * len(windows) if negative_embeddings is None else negative_embeddings
    guided = _Guided(
        denoiser,
        refiner,
        _by_window(embeddings, windows).to(accelerator.device),
        _by_window(others, windows).to(accelerator.device) if guidance_scale != 1 else None,
        guidance_scale,
        accelerator.batch,
    )
    loop = _Loop(guided, schedules, generators, windows, accelerator)
    return loop.run(samples, denoiser.denormalize, callback)


def _by_window(embeddings: Sequence[Tensor], windows: Sequence[Windows]) -> Tensor:
    """Return one row a window of every item, shape (all windows, embedding_dim)."""
    pairs = zip(embeddings, windows, strict=True)
    return torch.cat([embedding.expand(len(window.starts), -1) for embedding, window in pairs])


def _in_model_space(
    denoiser: Denoiser, mels: Sequence[Tensor | None], windows: Sequence[Windows]
) -> list[Tensor | None]:
    """Return log-mels as the denoiser knows them, shape (1, n_mels, span) each, cropped or filled up with silence."""
    silence = denoiser.config.mel_floor
    return [
        None if mel is None else denoiser.normalize(F.pad(mel, (0, w.span - mel.shape[1]), value=silence))[None]
        for mel, w in zip(mels, windows, strict=True)
    ]


class _Step(NamedTuple):
    """What the preview of an item is made of."""

    scaled: Tensor
    velocity: Tensor
    time: float


class _Loop:
    """The reverse diffusion of several items, each with its own scheduler; those of one strength go in step."""

    def __init__(
        self,
        guided: _Guided,
        schedules: list[Schedule],
        generators: Sequence[torch.Generator],
        windows: Sequence[Windows],
        accelerator: Accelerator,
    ) -> None:
        self._guided, self._schedules, self._windows, self._accelerator = guided, schedules, windows, accelerator
        shares = sorted({schedule.strength for schedule in schedules}, reverse=True)
        self._turns = [[item for item, s in enumerate(schedules) if s.strength == share] for share in shares]
        counts = [len(w.starts) for w in windows]
        self._rows = torch.arange(sum(counts)).split(counts)
        takes_generator = "generator" in inspect.signature(schedules[0].sampler.step).parameters
        self._extra = [{"generator": g} if takes_generator else {} for g in generators]

    def run(
        self, samples: list[Tensor], denormalize: Callable[[Tensor], Tensor], callback: StepCallback | None
    ) -> list[Tensor]:
        """Denoise; returns natural-log mels on the CPU, float32, shape (n_mels, frames) each."""
        steps = [(turn, step) for turn in self._turns for step in self._schedules[turn[0]].sampler.timesteps]
        seen: list[_Step | None] = [None] * len(samples)
        _tell(callback, 0, len(steps), None)
        for done, (turn, step) in enumerate(steps, 1):
            for item, looked in zip(turn, self._look(turn, step, samples), strict=True):
                sampler, seen[item] = self._schedules[item].sampler, looked
                samples[item] = sampler.step(looked.velocity, step, samples[item], **self._extra[item]).prev_sample
            _tell(callback, done, len(steps), partial(self._preview, list(seen), denormalize))
        return [self._crop(item, denormalize(sample)) for item, sample in enumerate(samples)]

    def _look(self, turn: list[int], step: Tensor, samples: list[Tensor]) -> list[_Step]:
        """Return what the denoiser makes of a turn's items; velocities are averaged over windows, on the CPU."""
        time, windows = self._schedules[turn[0]].time(step), [self._windows[item] for item in turn]
        scaled = [self._schedules[item].sampler.scale_model_input(samples[item], step) for item in turn]
        pieces = torch.cat([w.cut(x) for w, x in zip(windows, scaled, strict=True)])
        rows, device = torch.cat([self._rows[item] for item in turn]), self._accelerator.device
        with self._accelerator.autocast():
            velocity = self._guided.velocity(pieces.to(device), time, rows.to(device)).float().cpu()
        shares = velocity.split([len(w.starts) for w in windows])
        return [_Step(x, w.join(share), time) for x, w, share in zip(scaled, windows, shares, strict=True)]

    def _crop(self, item: int, mel: Tensor) -> Tensor:
        return mel[0, :, : self._windows[item].frames]

    def _preview(self, seen: Sequence[_Step | None], denormalize: Callable[[Tensor], Tensor]) -> np.ndarray:
        """Return the clean log-mels that velocities point at; silence after the shorter, and before an item's turn."""
        mels = {item: denormalize(self._clean(step)) for item, step in enumerate(seen) if step is not None}
        longest, n_mels = max(w.frames for w in self._windows), next(iter(mels.values())).shape[1]
        silence = float(denormalize(torch.tensor(-torch.inf)))
        shown = np.full((len(seen), n_mels, longest), silence, np.float32)
        for item, mel in mels.items():
            shown[item, :, : self._windows[item].frames] = self._crop(item, mel)
        return shown

    def _clean(self, step: _Step) -> Tensor:
        """Return what a velocity points at: alpha * x - sigma * v."""
        alpha_squared = self._schedules[0].kept[round(step.time)].float()
        alpha, sigma = alpha_squared.sqrt(), (1 - alpha_squared).sqrt()
        return alpha * step.scaled - sigma * step.velocity


def _tell(callback: StepCallback | None, done: int, total: int, preview: Callable[[], np.ndarray] | None) -> None:
    if callback is not None:
        callback(done, total, preview)
