"""Train the vocoder on every sound there is: likelihood of the spectrum, distance of the sound, and critics."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F
from torch.utils.data import Dataset

from clipsonic.audio import log_mel
from clipsonic.config import Config, DenoiserConfig, VocoderConfig
from clipsonic.errors import ConfigError, DataError
from clipsonic.shards import read_samples
from clipsonic.training.discriminators import Discriminators, discriminator_loss, generator_losses, spectrogram
from clipsonic.training.loop import Task
from clipsonic.training.recipe import Recipe
from clipsonic.vocoder import SpectralVocoder, Spectrum

SILENCE = 0.01
"""Crops with a lower peak teach nothing."""
OUTLIER = 20.0
"""Squared deviations beyond this many variances count less and less, lest one click outweigh a batch."""


@dataclass(frozen=True, kw_only=True)
class VocoderTaskConfig(Config):
    """What the vocoder's losses need."""

    crop_frames: int = 40
    refinements: int = 1
    """Refinements that are learnt through; decoding may take more."""
    stft_windows: tuple[int, ...] = (128, 256, 512, 1024, 2048, 4096)
    stft_draws: int = 2
    """Windows that a step looks at, drawn from `stft_windows`."""
    likelihood_weight: float = 0.3
    adversarial_from: int = 0
    """The step from which the critics have a say."""
    adversarial_weight: float = 0.1
    feature_weight: float = 0.5
    critic_windows: tuple[int, ...] = (512, 1024, 2048)
    critic_channels: int = 16
    mel_noise: float = 0.25
    """Largest standard deviation of the noise on the mels (natural log), which a denoiser leaves behind."""
    mel_blur: float = 0.75
    """Largest share of a 3 × 3 mean in the mels."""
    mel_floor: float = DenoiserConfig.mel_floor
    """Half of the mels are cut off here, as the denoiser's are."""
    quietest: float = 0.1
    """Crops are scaled to peaks between this and 1."""


class SoundDataset(Dataset[dict[str, Tensor]]):
    """Stretches of sounds, each twice as long as a crop, a crop's length apart.

    An item is `waveform` (float32 in [-1, 1], shape (2 * crop_samples,)), of which the loss takes a random half.
    """

    def __init__(self, folder: Path, split: str, crop_samples: int, sample_rate: int) -> None:
        """Read a split of the shards into memory as 16-bit sound.

        Raises:
            DataError: The shards are missing or damaged, have another rate, or hold nothing but silence.
        """
        self.length = 2 * crop_samples
        self.sounds: list[Tensor] = []
        self.stretches: list[tuple[int, int]] = []
        shares: list[float] = []
        for sample in read_samples(folder, split, frames=False):
            if sample.sample_rate != sample_rate:
                raise DataError(f"{sample.key} in {folder} has {sample.sample_rate} Hz, the vocoder has {sample_rate}")
            starts = self._add(sample.waveform, crop_samples)
            shares += [max(1, len(starts)) ** -0.5] * len(starts)
        if not self.stretches:
            raise DataError(f"{folder} has no {split} sound louder than {SILENCE}; prepare the corpus again")
        self.weights = torch.tensor(shares)

    def _add(self, waveform: np.ndarray, crop_samples: int) -> list[int]:
        """Keep one sound with some silence around it; return where its audible stretches start."""
        padded = np.pad(waveform, crop_samples // 2)
        padded = np.pad(padded, (0, max(0, self.length - len(padded))))
        starts = [
            start
            for start in range(0, len(padded) - self.length + 1, crop_samples)
            if np.abs(padded[start : start + self.length]).max() > SILENCE
        ]
        self.stretches += [(len(self.sounds), start) for start in starts]
        self.sounds.append(torch.from_numpy((padded * 32767).astype(np.int16)))
        return starts

    def __len__(self) -> int:
        """Return the number of stretches."""
        return len(self.stretches)

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        """Return one stretch."""
        sound, start = self.stretches[index]
        return {"waveform": self.sounds[sound][start : start + self.length].float() / 32767}


class VocoderTask(Task):
    """Copy-synthesis from somewhat spoilt mels, judged by likelihood, distance and critics."""

    part = "vocoder"
    steps: Tensor

    def __init__(self, model: VocoderConfig, task: VocoderTaskConfig, dataset: SoundDataset) -> None:
        """Make a new vocoder to be trained on `dataset`."""
        super().__init__()
        self.config = task
        self.dataset = dataset
        self.vocoder = SpectralVocoder(model)
        self.critics = Discriminators(task.critic_windows, task.critic_channels)
        self.register_buffer("steps", torch.zeros((), dtype=torch.long))

    def phases(self) -> dict[str, list[torch.nn.Parameter]]:
        """Return the vocoder's parameters, then the critics'."""
        return {"generator": list(self.vocoder.parameters()), "discriminator": list(self.critics.parameters())}

    def learning_rate_scale(self, phase: str) -> float:
        """Return the factor on the learning rate: the critics learn more slowly."""
        return 0.5 if phase == "discriminator" else 1.0

    def loss(self, batch: dict[str, Tensor], phase: str, generator: torch.Generator) -> tuple[Tensor, dict[str, float]]:
        """Return the loss of a phase; both phases of a step see the same crops, and the same critic of them."""
        critic = self.critics[self._draw(len(self.critics), generator)]
        with torch.autocast(batch["waveform"].device.type, enabled=False):
            recording = self._crop(batch["waveform"], generator)
            mel = self._spoil(log_mel(recording, self.vocoder.mel), generator)
        noise = torch.randn(recording.shape, generator=generator, device=recording.device)
        adversarial = int(self.steps) >= self.config.adversarial_from
        if phase == "generator":
            self.steps += 1
            return self._generator_loss(recording, mel, noise, critic if adversarial else None, generator)
        if not adversarial:
            return torch.stack([p.sum() for p in self.critics.parameters()]).sum() * 0.0, {}
        with torch.no_grad():
            rendered = self._render(mel, self.vocoder.analyse(mel), noise)
        loss = discriminator_loss(critic(recording)[-1], critic(rendered)[-1])
        return loss, {"critic": loss.item()}

    def _generator_loss(
        self,
        recording: Tensor,
        mel: Tensor,
        noise: Tensor,
        critic: torch.nn.Module | None,
        generator: torch.Generator,
    ) -> tuple[Tensor, dict[str, float]]:
        config = self.config
        cells = self.vocoder.analyse(mel)
        with torch.autocast(mel.device.type, enabled=False):
            likelihood = rice_loss(cells, self.vocoder.stft(recording).abs(), self.vocoder.envelope(mel))
            rendered = self._render(mel, cells, noise)
            distance = self._stft_distance(rendered, recording, generator)
        loss = config.likelihood_weight * likelihood + distance
        figures = {"likelihood": likelihood.item(), "stft": distance.item()}
        if critic is not None:
            with torch.no_grad():
                real = critic(recording)
            fooled, features = generator_losses(real, critic(rendered))
            loss = loss + config.adversarial_weight * fooled + config.feature_weight * features
            figures |= {"fooled": fooled.item(), "features": features.item()}
        return loss, figures

    def _render(self, mel: Tensor, cells: Spectrum, noise: Tensor) -> Tensor:
        return self.vocoder.render(mel, cells, noise, self.config.refinements)

    def _draw(self, count: int, generator: torch.Generator) -> int:
        return int(torch.randint(count, (), generator=generator, device=generator.device))

    def _crop(self, waveform: Tensor, generator: torch.Generator) -> Tensor:
        """Take a random half of each stretch at a random level."""
        length = waveform.shape[1] // 2
        start = torch.randint(length + 1, (len(waveform), 1), generator=generator, device=waveform.device)
        crop = waveform.gather(1, start + torch.arange(length, device=waveform.device))
        level = self.config.quietest ** torch.rand(len(crop), 1, generator=generator, device=crop.device)
        return crop * level / crop.abs().amax(1, keepdim=True).clamp(min=SILENCE)

    def _spoil(self, mel: Tensor, generator: torch.Generator) -> Tensor:
        """Blur, disturb and cut off mels by chance, as a denoiser would; half of them stay clean of each."""

        def chance() -> Tensor:
            return (2 * torch.rand(len(mel), 1, 1, generator=generator, device=mel.device) - 1).clamp(min=0)

        blurred = F.avg_pool2d(mel[:, None], 3, 1, 1, count_include_pad=False)[:, 0]
        mel = torch.lerp(mel, blurred, self.config.mel_blur * chance())
        noise = torch.randn(mel.shape, generator=generator, device=mel.device)
        mel = mel + self.config.mel_noise * chance() * noise
        return torch.where(chance() > 0, mel.clamp(min=self.config.mel_floor), mel)

    def _stft_distance(self, rendered: Tensor, recording: Tensor, generator: torch.Generator) -> Tensor:
        """Return spectral convergence plus log-magnitude distance (arXiv 1910.11480), over some window lengths."""
        windows = self.config.stft_windows
        order = torch.randperm(len(windows), generator=generator, device=generator.device)
        total = torch.zeros((), device=rendered.device)
        for index in order[: self.config.stft_draws].tolist():
            window = torch.hann_window(windows[index], device=rendered.device)
            total = total + stft_distance(spectrogram(rendered, window), spectrogram(recording, window))
        return total / self.config.stft_draws

    def save(self, folder: Path) -> None:
        """Write the vocoder."""
        self.vocoder.save(folder / "vocoder")


def stft_distance(rendered: Tensor, recording: Tensor) -> Tensor:
    """Return spectral convergence plus log-magnitude distance of spectrograms (batch, bins, frames), a scalar."""
    missing = (rendered - recording).square().sum((1, 2)).sqrt()
    convergence = missing / (recording.square().sum((1, 2)).sqrt() + 1e-3)
    log_distance = (rendered.clamp(min=1e-3).log() - recording.clamp(min=1e-3).log()).abs().mean()
    return convergence.mean() + log_distance


def rice_loss(cells: Spectrum, magnitude: Tensor, envelope: Tensor) -> Tensor:
    """Return the mean negative log-likelihood of magnitudes, a scalar.

    The magnitude of a steady amplitude in complex Gaussian noise has a Rice distribution, so this teaches the
    network what in a cell can be foreseen and what is chance.

    Args:
        cells: What the vocoder says, shape (batch, bins, frames) each.
        magnitude: The recording's magnitudes, same shape.
        envelope: Log of the smooth spectrum; sets the precision below which nothing needs to be foreseen.
    """
    tone = cells.log_tone.exp()
    variance = (2 * cells.log_noise).exp() + (0.1 * tone).square() + (0.03 * envelope.exp()).square() + 1e-5
    bessel = torch.special.i0e(2 * magnitude * tone / variance).clamp(min=1e-6).log()
    surprise = OUTLIER * ((magnitude - tone).square() / variance / OUTLIER).log1p()
    return (surprise - bessel + variance.log()).mean()


def build(recipe: Recipe, data: Path, base: Path | None) -> VocoderTask:
    """Return the task of a recipe on the shards `data`; the vocoder needs no other part, so `base` is not read.

    Raises:
        ConfigError: A crop is shorter than the longest window.
        DataError: The shards cannot be read.
    """
    model, task = VocoderConfig.from_dict(recipe.model), VocoderTaskConfig.from_dict(recipe.task)
    crop_samples = task.crop_frames * model.mel.hop_length
    if max(*task.stft_windows, *task.critic_windows) > crop_samples:
        raise ConfigError(f"crop_frames is {task.crop_frames}, {crop_samples} samples: shorter than the longest window")
    return VocoderTask(model, task, SoundDataset(data, "sounds-train", crop_samples, model.mel.sample_rate))
