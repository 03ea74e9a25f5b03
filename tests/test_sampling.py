"""Samplers against a Gaussian whose velocity is known exactly, and the loop's promises."""

from __future__ import annotations

import itertools
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import DDPMScheduler
from torch import Tensor

from clipsonic.config import SAMPLERS, DenoiserConfig
from clipsonic.device import Accelerator
from clipsonic.errors import Cancelled, CheckpointError, SettingsError
from clipsonic.sampling import Schedule, sample_mel, spaced_times
from clipsonic.windows import Windows

STD = 0.5
SCHEDULER = DDPMScheduler(1000, beta_schedule="squaredcos_cap_v2", prediction_type="v_prediction")
CONFIG = dict(SCHEDULER.config)


class GaussianDenoiser:
    """The exact velocity for data from N(mean, STD²), where the embedding's first coordinate is the mean."""

    def __init__(self) -> None:
        self.config = DenoiserConfig(embedding_dim=2, n_mels=80, frames=64)
        self.null_embedding = torch.zeros(2)
        self.calls: list[int] = []

    def __call__(self, noisy: Tensor, timestep: Tensor, embedding: Tensor) -> Tensor:
        self.calls.append(len(noisy))
        mean = embedding[:, 0, None, None]
        squared = torch.from_numpy(np.interp(timestep, np.arange(1000), SCHEDULER.alphas_cumprod)).float()[
            :, None, None
        ]
        alpha, sigma = squared.sqrt(), (1 - squared).sqrt()
        clean = mean + alpha * STD**2 / (squared * STD**2 + 1 - squared) * (noisy - alpha * mean)
        return alpha * (noisy - alpha * clean) / sigma - sigma * clean

    def denormalize(self, x: Tensor) -> Tensor:
        return x


def draw(denoiser: GaussianDenoiser | None = None, **changes: Any) -> Tensor:
    """Sample one item about the mean 0.7, unless told otherwise."""
    seeds = changes.pop("seeds", [0])
    settings: dict[str, Any] = {"sampler": "dpmpp-2m", "num_inference_steps": 25, "guidance_scale": 1.0} | changes
    embeddings = settings.pop("embeddings", torch.tensor([[0.7, 0.0]] * len(seeds)))
    generators = [torch.Generator().manual_seed(seed) for seed in seeds]
    return torch.stack(
        sample_mel(denoiser or GaussianDenoiser(), CONFIG, embeddings, generators=generators, **settings)
    )


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_sampler_finds_the_gaussian(sampler: str) -> None:
    mels = draw(sampler=sampler, num_inference_steps=100)
    assert mels.mean().item() == pytest.approx(0.7, abs=0.03)
    assert mels.std().item() == pytest.approx(STD, abs=0.03)


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_few_steps_stay_finite_and_take_that_many(sampler: str) -> None:
    for steps in range(1, 11):
        denoiser = GaussianDenoiser()
        mels = draw(denoiser, sampler=sampler, num_inference_steps=steps)
        assert torch.isfinite(mels).all()
        assert mels.mean().item() == pytest.approx(0.7, abs=0.1)
        assert len(denoiser.calls) == (2 * steps - 1 if sampler == "dpm2" else steps)


def test_time_steps_are_distinct_and_lie_closer_where_there_is_little_noise() -> None:
    for steps in range(1, 1001):
        times = spaced_times(1000, steps)
        assert len(times) == steps and times[0] >= 0 and times[-1] == 999
        assert (times.diff() > 0).all(), steps
    gaps = spaced_times(1000, 25).diff()
    assert gaps[0] < gaps[12] < gaps[-1]


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_every_sampler_goes_through_the_trainings_noise(sampler: str) -> None:
    schedule = Schedule(CONFIG, sampler, 25)
    steps = schedule.sampler.timesteps
    times = [schedule.time(step) for step in steps]
    assert times == sorted(times, reverse=True) and times[0] == pytest.approx(999)
    whole = {step: time for step, time in zip(steps.tolist(), times, strict=True) if step == round(step)}
    assert len(whole) == 25
    for step, time in whole.items():
        kept = schedule.sampler.alphas_cumprod[int(step)]
        assert kept.item() == pytest.approx(SCHEDULER.alphas_cumprod[round(time)].item(), rel=1e-3)


def test_every_sampler_computes_something_else() -> None:
    results = {sampler: draw(sampler=sampler, num_inference_steps=8) for sampler in SAMPLERS}
    for one, other in itertools.combinations(SAMPLERS, 2):
        assert (results[one] - results[other]).abs().mean() > 1e-3, (one, other)


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_an_item_does_not_depend_on_the_batch(sampler: str) -> None:
    alone = draw(sampler=sampler, seeds=[5], num_inference_steps=4, guidance_scale=2.0)
    among = draw(sampler=sampler, seeds=[3, 5, 9], num_inference_steps=4, guidance_scale=2.0)
    assert torch.equal(alone[0], among[1])
    assert not torch.equal(among[0], among[1])


def test_guidance_moves_past_the_condition_and_one_halves_the_work() -> None:
    guided, plain = GaussianDenoiser(), GaussianDenoiser()
    assert draw(guided, guidance_scale=3.0).mean().item() == pytest.approx(3 * 0.7, abs=0.03)
    draw(plain)
    assert set(guided.calls) == {2 * Accelerator.choose("cpu").batch}
    assert set(plain.calls) == {Accelerator.choose("cpu").batch}


def test_negative_embeddings_replace_no_condition() -> None:
    mels = draw(guidance_scale=2.0, negative_embeddings=torch.tensor([[0.2, 0.0]]))
    assert mels.mean().item() == pytest.approx(0.2 + 2 * 0.5, abs=0.03)


def test_a_refiner_takes_over_below_its_time_step_and_without_guidance() -> None:
    denoiser, refiner, batch = GaussianDenoiser(), GaussianDenoiser(), Accelerator.choose("cpu").batch
    refiner.config = replace(refiner.config, below_timestep=400)
    mels = draw(denoiser, refiner=refiner, num_inference_steps=10, guidance_scale=3.0)
    assert (denoiser.calls, refiner.calls) == ([2 * batch] * 5, [batch] * 5)  # at 999, … 464, 353, … 32
    assert 0.9 < mels.mean().item() < 2.0, "guided as long as the denoiser had it"
    same = draw(refiner=refiner, num_inference_steps=10)
    assert torch.equal(same, draw(num_inference_steps=10)), "here both know the exact velocity"


def test_windows_set_the_length() -> None:
    assert draw(windows=[Windows.cover(150, 64)], num_inference_steps=2).shape == (1, 80, 150)
    assert draw(windows=[Windows.cover(20, 64)], num_inference_steps=2).shape == (1, 80, 20)


def test_callback_counts_and_previews_the_denoised_mel() -> None:
    seen = []
    result = draw(num_inference_steps=5, callback=lambda done, total, preview: seen.append((done, total, preview)))
    assert [(done, total) for done, total, _ in seen] == [(step, 5) for step in range(6)]
    assert seen[0][2] is None
    first, last = seen[1][2](), seen[-1][2]()
    assert first.shape == last.shape == (1, 80, 64)
    assert np.abs(last - result.numpy()).mean() < 0.05 < np.abs(first - result.numpy()).mean()


def test_cancelling_stops_within_a_step() -> None:
    denoiser = GaussianDenoiser()

    def stop(done: int, total: int, preview: object) -> None:
        if done == 3:
            raise Cancelled("stopped")

    with pytest.raises(Cancelled):
        draw(denoiser, callback=stop)
    assert len(denoiser.calls) == 3


def test_unknown_sampler_and_wrong_prediction_are_told() -> None:
    with pytest.raises(SettingsError, match=r"sampler is 'plms'; allowed: one of dpmpp-2m"):
        Schedule(CONFIG, "plms", 5)
    with pytest.raises(CheckpointError, match="'epsilon', expected 'v_prediction'"):
        Schedule(CONFIG | {"prediction_type": "epsilon"}, "ddim", 5)
