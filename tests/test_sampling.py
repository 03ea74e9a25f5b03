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

    def normalize(self, x: Tensor) -> Tensor:
        return x

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


START = 3 * torch.randn(80, 64, generator=torch.Generator().manual_seed(9))
"""A mel to set out from, far from the Gaussian's."""


@pytest.mark.parametrize("strength", [0.05, 0.3, 0.7, 0.95, 1.0])
@pytest.mark.parametrize("sampler", SAMPLERS)
def test_every_sampler_sets_out_from_a_mel_under_the_trainings_noise(sampler: str, strength: float) -> None:
    noise, last = torch.randn(1, 80, 64, generator=torch.Generator().manual_seed(1)), round(999 * strength)
    kept = SCHEDULER.alphas_cumprod[last]
    wanted = kept.sqrt() * START + (1 - kept).sqrt() * noise
    for steps in (1, 2, 25, 100):
        schedule = Schedule(CONFIG, sampler, steps, strength)
        first, *others = schedule.sampler.timesteps
        assert schedule.time(first) == pytest.approx(last, abs=1e-3)
        assert len(others) + 1 == (2 * min(steps, last + 1) - 1 if sampler == "dpm2" else min(steps, last + 1))
        begun = schedule.begin(noise, START[None])
        scaled = schedule.sampler.scale_model_input(begun, first)
        torch.testing.assert_close(scaled, wanted, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_less_strength_stays_nearer_to_the_start(sampler: str) -> None:
    def distance(strength: float) -> float:
        mels = draw(sampler=sampler, num_inference_steps=8, starts=[START], strength=strength)
        assert torch.isfinite(mels).all()
        return (mels[0] - START).abs().mean().item()

    distances = [distance(strength) for strength in (0.05, 0.3, 0.6, 1.0)]
    assert distances == sorted(distances)
    assert distances[0] < 0.2 and distances[0] < distances[-1] / 5
    whole = draw(sampler=sampler, num_inference_steps=8, starts=[START], strength=1.0)
    assert torch.equal(whole, draw(sampler=sampler, num_inference_steps=8)), "all is made anew"
    alone = draw(sampler=sampler, num_inference_steps=8, starts=[None], strength=0.3)
    assert torch.equal(alone, whole), "there is nothing to keep"


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_an_item_with_a_start_does_not_depend_on_the_batch(sampler: str) -> None:
    settings = {"sampler": sampler, "num_inference_steps": 4, "guidance_scale": 2.0, "strength": 0.4}
    starts, seeds = [START, None, START + 1, None], [3, 5, 7, 9]
    crowd = draw(seeds=seeds, starts=starts, **settings)
    for row, (seed, start) in enumerate(zip(seeds, starts, strict=True)):
        assert torch.equal(draw(seeds=[seed], starts=[start], **settings)[0], crowd[row]), row


def test_an_item_keeps_its_own_windows_and_conditions_in_a_mixed_batch() -> None:
    def mels(rows: list[int]) -> list[Tensor]:
        windows = [Windows.cover(frames, 64) for frames in (150, 64, 110)]
        embeddings = [torch.rand(len(w.starts), 2, generator=torch.Generator().manual_seed(w.frames)) for w in windows]
        return sample_mel(
            GaussianDenoiser(),
            CONFIG,
            [embeddings[row] for row in rows],
            sampler="ddpm",
            num_inference_steps=3,
            guidance_scale=2.0,
            generators=[torch.Generator().manual_seed(row) for row in rows],
            windows=[windows[row] for row in rows],
            starts=[[START, None, START][row] for row in rows],
            strength=0.5,
        )

    for row, mel in enumerate(mels([0, 1, 2])):
        assert torch.equal(mel, mels([row])[0])


def test_a_start_is_cropped_or_filled_up_with_silence() -> None:
    settings = {"starts": [START[:, :40]], "strength": 0.05}
    short = draw(**settings)[0]
    assert short.shape == (80, 64)
    silence = DenoiserConfig(embedding_dim=2).mel_floor
    assert (short[:, :40] - START[:, :40]).abs().mean() < 0.2 and (short[:, 40:] - silence).abs().mean() < 0.5
    whole = {"windows": [Windows.cover(150, 64)], "starts": [START], "strength": 0.05}
    assert (draw(**whole)[0, :, 64:] - silence).abs().mean() < 0.5
    long = torch.cat([START, START + 1], dim=1)
    assert torch.equal(draw(starts=[long], strength=0.3), draw(starts=[START], strength=0.3))


def test_with_a_start_a_refiner_takes_over_below_its_time_step() -> None:
    for strength, expected in ((0.3, (0, 5)), (0.6, (2, 3))):
        denoiser, refiner, batch = GaussianDenoiser(), GaussianDenoiser(), Accelerator.choose("cpu").batch
        refiner.config = replace(refiner.config, below_timestep=400)
        settings = {"num_inference_steps": 5, "guidance_scale": 3.0, "starts": [START], "strength": strength}
        draw(denoiser, refiner=refiner, **settings)
        assert (denoiser.calls, refiner.calls) == ([2 * batch] * expected[0], [batch] * expected[1])


def test_progress_goes_on_through_a_mixed_batch_and_previews_show_all_of_it() -> None:
    seen = []
    result = draw(
        seeds=[0, 1],
        starts=[START, None],
        strength=0.05,
        num_inference_steps=60,
        callback=lambda done, total, preview: seen.append((done, total, preview)),
    )
    assert [(done, total) for done, total, _ in seen] == [(step, 60 + 51) for step in range(60 + 51 + 1)]
    before, after, last = (seen[step][2]() for step in (60, 61, -1))
    assert before.shape == after.shape == last.shape == (2, 80, 64)
    assert np.isneginf(before[0]).all() and np.isfinite(before[1]).all(), "silent until its turn"
    assert np.array_equal(before[1], after[1]) and np.isfinite(after[0]).all()
    assert np.abs(last - result.numpy()).mean() < 0.05


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
