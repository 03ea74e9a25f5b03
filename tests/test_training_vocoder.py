"""Training the vocoder: the data, the likelihood, both phases, and a short run that learns."""

import dataclasses
import math
from pathlib import Path

import numpy as np
import pytest
import torch

from clipsonic.config import MelConfig, VocoderConfig
from clipsonic.errors import ConfigError, DataError
from clipsonic.shards import Index, Sample, ShardWriter
from clipsonic.training.discriminators import Discriminators, discriminator_loss, generator_losses
from clipsonic.training.loop import Trainer
from clipsonic.training.recipe import Recipe
from clipsonic.training.vocoder import SoundDataset, VocoderTask, VocoderTaskConfig, build, rice_loss, stft_distance
from clipsonic.vocoder import Spectrum, load_vocoder

RATE = MelConfig().sample_rate
CROP = 16 * MelConfig().hop_length


def write_sounds(folder: Path, sounds: list[np.ndarray], rate: int = RATE) -> Path:
    writer = ShardWriter(folder / "sounds-train-000000.tar")
    with writer:
        for number, sound in enumerate(sounds):
            writer.write(Sample(f"s{number}", sound.astype(np.float32), (), {}, rate))
    Index(settings={}, shards=(writer.entry(),), sample_rate=rate).write(folder)
    return folder


@pytest.fixture
def shards(tmp_path: Path) -> Path:
    random = np.random.default_rng(0)
    tone = 0.3 * np.sin(2 * math.pi * 440 * np.arange(RATE) / RATE)
    rain = 0.1 * random.standard_normal(RATE // 2)
    click = np.zeros(900)
    click[300] = 0.9
    return write_sounds(tmp_path / "shards", [tone, rain, click])


def test_stretches_cover_every_sound(shards: Path) -> None:
    dataset = SoundDataset(shards, "sounds-train", CROP, RATE)
    items = [dataset[i]["waveform"] for i in range(len(dataset))]
    assert all(item.shape == (2 * CROP,) and item.abs().max() > 0.01 for item in items)
    assert len(dataset.sounds) == 3
    assert len(dataset.weights) == len(dataset)
    assert dataset.weights[-1] > dataset.weights[0]  # a click's only stretch counts more than one of a long tone


def test_short_sounds_lie_where_every_crop_can_meet_them(shards: Path) -> None:
    dataset = SoundDataset(shards, "sounds-train", CROP, RATE)
    click = dataset[len(dataset) - 1]["waveform"]
    assert int(click.argmax()) == CROP // 2 + 300


def test_silence_and_other_rates_are_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="louder"):
        SoundDataset(write_sounds(tmp_path / "a", [np.zeros(9000)]), "sounds-train", CROP, RATE)
    with pytest.raises(DataError, match="8000"):
        SoundDataset(write_sounds(tmp_path / "b", [np.ones(9000)], 8000), "sounds-train", CROP, RATE)


def test_windows_longer_than_a_crop_are_refused(shards: Path) -> None:
    recipe = Recipe.find("vocoder", "tiny")
    recipe = dataclasses.replace(recipe, task={**recipe.task, "crop_frames": 4})
    with pytest.raises(ConfigError, match="crop_frames"):
        build(recipe, shards, None)


def test_likelihood_prefers_the_truth() -> None:
    """Of noise, the loss wants the noise level; of a steady magnitude, the tone."""
    generator = torch.Generator().manual_seed(0)
    noise = torch.randn(1, 64, 512, dtype=torch.complex64, generator=generator).abs()
    steady = torch.ones(1, 64, 512)
    loud, soft = torch.zeros(1, 64, 512), torch.full((1, 64, 512), -4.0)

    def loss(tone: torch.Tensor, level: torch.Tensor, magnitude: torch.Tensor) -> float:
        return rice_loss(Spectrum(tone, level, loud), magnitude, loud).item()

    assert loss(soft, loud, noise) < min(
        loss(loud, soft, noise), loss(soft, loud - 1, noise), loss(soft, loud + 1, noise)
    )
    assert loss(loud, soft, steady) < min(loss(soft, loud, steady), loss(loud - 1, soft, steady))


def test_stft_distance_of_a_sound_to_itself_is_zero() -> None:
    spectrum = torch.rand(2, 65, 10)
    assert stft_distance(spectrum, spectrum).item() == 0
    assert stft_distance(0.5 * spectrum, spectrum).item() > 0.5


def test_critics_learn_to_tell_noise_from_tone() -> None:
    torch.manual_seed(0)
    critic = Discriminators((256,), 8)[0]
    optimizer = torch.optim.Adam(critic.parameters(), lr=3e-3)
    tone = torch.sin(torch.arange(4096) * 0.2).expand(4, -1) * 0.5
    for _ in range(30):
        loss = discriminator_loss(critic(0.3 * torch.randn(4, 4096))[-1], critic(tone)[-1])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert loss.item() < 0.5
    real, rendered = critic(0.3 * torch.randn(4, 4096)), critic(tone)
    fooled, features = generator_losses(real, rendered)
    assert fooled.item() > 1
    assert features.item() > generator_losses(real, real)[1].item() == 0


def test_spoilt_mels_keep_their_shape_and_half_are_cut_off(shards: Path) -> None:
    task = tiny_task(shards)
    mel = torch.full((400, 80, 4), -11.0)
    spoilt = task._spoil(mel, torch.Generator().manual_seed(0))
    cut = (spoilt.amin((1, 2)) >= -9).float().mean().item()
    assert spoilt.shape == mel.shape
    assert 0.4 < cut < 0.6


def tiny_task(shards: Path, **changes: object) -> VocoderTask:
    torch.manual_seed(0)
    config = dataclasses.replace(
        VocoderTaskConfig(crop_frames=16, stft_windows=(512, 1024), critic_channels=4), **changes
    )
    model = VocoderConfig(dim=16, intermediate_dim=32, num_layers=1, refinements=1)
    return VocoderTask(model, config, SoundDataset(shards, "sounds-train", CROP, RATE))


def test_each_phase_trains_its_own_networks(shards: Path) -> None:
    task = tiny_task(shards)
    batch = {"waveform": torch.stack([task.dataset[i]["waveform"] for i in range(2)])}
    for phase, parameters in task.phases().items():
        task.zero_grad()
        loss, figures = task.loss(batch, phase, torch.Generator().manual_seed(0))
        loss.backward()
        assert all(math.isfinite(value) for value in figures.values())
        assert any(p.grad is not None and p.grad.abs().sum() > 0 for p in parameters)
    assert all(p.grad is None for p in task.vocoder.parameters())


def test_a_short_training_learns_and_resumes(shards: Path, tmp_path: Path) -> None:
    recipe = Recipe.find("vocoder", "tiny", max_steps=20)
    task = build(recipe, shards, None)
    trainer = Trainer(task, recipe.training, tmp_path)
    before = mean_loss(task)
    trainer.run()
    assert mean_loss(task) < before
    assert load_vocoder(tmp_path / "vocoder").mel == MelConfig()

    again = Trainer(build(recipe, shards, None), recipe.training, tmp_path)
    again.resume()
    assert again.step == 20
    assert int(again.task.steps) == 20


def mean_loss(task: VocoderTask) -> float:
    batch = {"waveform": torch.stack([task.dataset[i]["waveform"] for i in range(len(task.dataset))])}
    steps = task.steps.clone()
    with torch.no_grad():
        losses = [task.loss(batch, "generator", torch.Generator().manual_seed(s))[1]["stft"] for s in range(3)]
    task.steps.copy_(steps)
    return sum(losses) / len(losses)
