"""Log-mel spectrogram to sound: the light spectral vocoder, and BigVGAN in the hub's layout."""

from __future__ import annotations

import io
import pickle
from abc import ABC, abstractmethod
from contextlib import redirect_stdout
from pathlib import Path
from typing import Any, NamedTuple, Self

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from clipsonic.audio import mel_filters
from clipsonic.config import MelConfig, VocoderConfig
from clipsonic.errors import CheckpointError
from clipsonic.storage import CONFIG_NAME, WEIGHTS_NAME, load_weights, read_json, save_part

BIGVGAN_WEIGHTS_NAME = "bigvgan_generator.pt"
NOISE_SEED = 0
MEL_MEAN, MEL_STD = -5.0, 3.0
PHASE_SCALE = 10.0
TINY = 1e-12
LOG_AMPLITUDE_LIMIT = 7.0
"""Natural log: a full-scale sine peaks at log(256) = 5.5 in a spectrum of 1,024 samples."""


class Vocoder(nn.Module, ABC):
    """Turns log-mel spectrograms into sound."""

    mel: MelConfig

    @abstractmethod
    def decode(self, mel: Tensor) -> Tensor:
        """Turn a log-mel spectrogram into sound.

        Args:
            mel: Natural-log mel magnitudes, float32, shape (batch, n_mels, frames).

        Returns:
            Waveform in [-1, 1], float32, shape (batch, frames * hop_length), at `self.mel.sample_rate` Hz.
        """


class Spectrum(NamedTuple):
    """What the network says of each time-frequency cell; all float32, shape (batch, bins, frames)."""

    log_tone: Tensor
    """Natural log of the magnitude of what is foreseeable in the cell."""
    log_noise: Tensor
    """Natural log of the standard deviation of what is not."""
    phase: Tensor
    """Phase of the foreseeable part in radians, unwrapped."""


class ConvNeXtBlock(nn.Module):
    """A ConvNeXt block over time: depthwise convolution, then a two-layer network at each frame."""

    def __init__(self, dim: int, intermediate_dim: int, scale: float) -> None:
        """Build the block; `scale` is the weight its output starts with."""
        super().__init__()
        self.depthwise = nn.Conv1d(dim, dim, 7, padding=3, groups=dim)
        self.norm = nn.LayerNorm(dim)
        self.expand = nn.Linear(dim, intermediate_dim)
        self.contract = nn.Linear(intermediate_dim, dim)
        self.scale = nn.Parameter(torch.full((dim,), scale))

    def forward(self, x: Tensor) -> Tensor:
        """Map frames to frames, float, shape (batch, frames, dim)."""
        mixed = self.depthwise(x.transpose(1, 2)).transpose(1, 2)
        return x + self.scale * self.contract(F.gelu(self.expand(self.norm(mixed))))


class SpectralVocoder(Vocoder):
    """A network at frame rate that draws tone, noise and phase of every cell, and an inverse STFT.

    The backbone is that of Vocos (Siuzdak, arXiv 2306.00814). The head parts each cell into a foreseeable amplitude
    with a phase, and noise: the sounds of things are rain as often as bells, and rain without chance buzzes.
    """

    window: Tensor
    filters: Tensor
    band_mixing: Tensor
    band_levels: Tensor

    def __init__(self, config: VocoderConfig) -> None:
        """Build the network with random weights."""
        super().__init__()
        self.config, self.mel = config, config.mel
        self.embed = nn.Conv1d(self.mel.n_mels, config.dim, 7, padding=3)
        self.norm = nn.LayerNorm(config.dim)
        scale = 1 / config.num_layers
        self.blocks = nn.ModuleList(
            ConvNeXtBlock(config.dim, config.intermediate_dim, scale) for _ in range(config.num_layers)
        )
        self.final_norm = nn.LayerNorm(config.dim)
        self.head = nn.Linear(config.dim, 3 * (self.mel.n_fft // 2 + 1))
        nn.init.normal_(self.head.weight, std=0.01)
        nn.init.zeros_(self.head.bias)
        self.register_buffer("window", torch.hann_window(self.mel.n_fft), persistent=False)
        filters, mixing = mel_filters(self.mel), _band_mixing(self.mel)
        self.register_buffer("filters", filters, persistent=False)
        self.register_buffer("band_mixing", mixing, persistent=False)
        self.register_buffer("band_levels", mixing / filters.sum(1), persistent=False)

    @classmethod
    def load(cls, folder: Path, device: str | torch.device = "cpu") -> Self:
        """Read the vocoder from its folder, in float32 and ready to decode.

        Raises:
            CheckpointError: The weights are missing, cut short or another network's.
            ConfigError: `config.json` is not a `VocoderConfig`.
        """
        vocoder = cls(VocoderConfig.load(folder / CONFIG_NAME))
        load_weights(vocoder, folder / WEIGHTS_NAME)
        return vocoder.requires_grad_(False).eval().to(device)

    def save(self, folder: Path) -> None:
        """Write `config.json` and `model.safetensors`.

        Raises:
            OutputError: The folder cannot be written to.
        """
        save_part(self, self.config, folder)

    @torch.inference_mode()
    def decode(self, mel: Tensor) -> Tensor:
        """Turn a log-mel spectrogram into sound; see `Vocoder.decode`. The same mel gives the same sound."""
        generator = torch.Generator().manual_seed(NOISE_SEED)
        noise = torch.randn(1, mel.shape[2] * self.mel.hop_length, generator=generator).to(mel.device)
        return self.render(mel, self.analyse(mel), noise, self.config.refinements).clamp(-1, 1)

    def render(self, mel: Tensor, cells: Spectrum, noise: Tensor, refinements: int) -> Tensor:
        """Turn the network's cells into sound that has the given mel.

        Overlapping frames, drawn apart, do not fit together. A refinement is a projection of Griffin and Lim (1984)
        with one more step: bands that came out too soft or too loud are scaled towards the mel.

        Args:
            mel: What the sound should have, float32, shape (batch, n_mels, frames).
            cells: What `analyse` made of it.
            noise: White noise of unit variance, float32, shape (batch or 1, frames * hop_length).
            refinements: How often to refine.

        Returns:
            Waveform, float32, shape (batch, frames * hop_length).
        """
        with torch.autocast(mel.device.type, enabled=False):
            return self._render(mel.float(), cells, noise, refinements)

    def _render(self, mel: Tensor, cells: Spectrum, noise: Tensor, refinements: int) -> Tensor:
        spectrum = self.compose(cells, noise)
        magnitude = (spectrum.real.square() + spectrum.imag.square() + TINY).sqrt()
        waveform = self.istft(spectrum)
        for _ in range(refinements):
            spectrum = self.stft(waveform)
            reached = (spectrum.real.square() + spectrum.imag.square() + TINY).sqrt()
            missing = mel - (self.filters @ reached).clamp(min=self.mel.floor).log()
            magnitude = magnitude * (self.band_mixing @ missing).clamp(-2, 2).exp()
            waveform = self.istft(spectrum * (magnitude / reached))
        return waveform

    def analyse(self, mel: Tensor) -> Spectrum:
        """Estimate the spectrum of the sound from its mel.

        Args:
            mel: Natural-log mel magnitudes, float32, shape (batch, n_mels, frames).

        Returns:
            The cells of the spectrum, float32, shape (batch, bins, frames) each.
        """
        x = self.norm(self.embed((mel - MEL_MEAN) / MEL_STD).transpose(1, 2))
        for block in self.blocks:
            x = block(x)
        tone, noise, phase = self.head(self.final_norm(x)).float().transpose(1, 2).chunk(3, dim=1)
        envelope = self.envelope(mel)
        log_tone = (envelope + tone).clamp(max=LOG_AMPLITUDE_LIMIT)
        log_noise = (envelope + noise).clamp(max=LOG_AMPLITUDE_LIMIT)
        return Spectrum(log_tone, log_noise, PHASE_SCALE * phase)

    def envelope(self, mel: Tensor) -> Tensor:
        """Return the log of the smooth magnitude spectrum a mel stands for, float32, shape (batch, bins, frames)."""
        with torch.autocast(mel.device.type, enabled=False):
            return (self.band_levels @ mel.float().exp()).log()

    def compose(self, cells: Spectrum, noise: Tensor) -> Tensor:
        """Add up tone and noise.

        Args:
            cells: What `analyse` returns.
            noise: White noise of unit variance, float32, shape (batch or 1, frames * hop_length).

        Returns:
            Spectrum, complex64, shape (batch, bins, frames).
        """
        white = self.stft(noise) / self.window.square().sum().sqrt()
        return torch.polar(cells.log_tone.exp(), cells.phase) + cells.log_noise.exp() * white

    def stft(self, waveform: Tensor) -> Tensor:
        """Return the spectrum of sounds, framed as `log_mel` frames them.

        Args:
            waveform: float32, shape (batch, frames * hop_length).

        Returns:
            Spectrum, complex64, shape (batch, bins, frames).
        """
        padding = (self.mel.n_fft - self.mel.hop_length) // 2
        padded = F.pad(waveform, (padding, padding))
        return torch.stft(
            padded, self.mel.n_fft, self.mel.hop_length, window=self.window, center=False, return_complex=True
        )

    def istft(self, spectrum: Tensor) -> Tensor:
        """Return the sound whose spectrum is nearest, framed as `log_mel` frames it.

        Args:
            spectrum: complex64, shape (batch, bins, frames).

        Returns:
            Waveform, float32, shape (batch, frames * hop_length).
        """
        frames = torch.fft.irfft(spectrum, self.mel.n_fft, dim=1) * self.window[:, None]
        weight = self.window.square()[None, :, None].expand(1, -1, spectrum.shape[2])
        padding = (self.mel.n_fft - self.mel.hop_length) // 2
        waveform, envelope = (self._overlap_add(x)[:, padding:-padding] for x in (frames, weight))
        return waveform / envelope

    def _overlap_add(self, frames: Tensor) -> Tensor:
        """Sum frames, shape (batch, n_fft, frames), at their places."""
        length = (frames.shape[2] - 1) * self.mel.hop_length + self.mel.n_fft
        folded = F.fold(frames, (1, length), (1, self.mel.n_fft), stride=(1, self.mel.hop_length))
        return folded[:, 0, 0]


def _band_mixing(mel: MelConfig) -> Tensor:
    """Return the weights that bands have in bins, float32, shape (bins, n_mels), rows summing to 1.

    A bin has the bands that cover it; a bin beyond the bands has those of the nearest covered one.
    """
    filters = mel_filters(mel)
    covered = filters.sum(0).nonzero().squeeze(1)
    nearest = (torch.arange(filters.shape[1])[:, None] - covered).abs().argmin(1)
    return (filters / filters.sum(0).clamp(min=TINY))[:, covered[nearest]].T.contiguous()


class BigVGANVocoder(Vocoder):
    """BigVGAN (Lee et al., arXiv 2206.04658), by the PyPI package `bigvgan`, from the files that lie on the hub."""

    def __init__(self, values: dict[str, Any]) -> None:
        """Build the network that the hub's `config.json` describes, with random weights.

        Raises:
            CheckpointError: The package `bigvgan` is not installed, or a setting is missing or impossible.
        """
        super().__init__()
        try:
            from bigvgan.bigvgan import BigVGAN
            from bigvgan.env import AttrDict
        except ImportError as error:
            raise CheckpointError(f"BigVGAN needs its package: {error}; pip install --no-deps bigvgan") from error
        try:
            self.mel = _bigvgan_mel(values)
            self.network = BigVGAN(AttrDict(values))
        except (KeyError, AttributeError, TypeError, ValueError, NotImplementedError) as error:
            raise CheckpointError(f"config.json describes no BigVGAN: {error}; fetch the model again") from error

    @classmethod
    def load(cls, folder: Path, device: str | torch.device = "cpu") -> Self:
        """Read `config.json` and `bigvgan_generator.pt`.

        Raises:
            CheckpointError: A file is missing, damaged or another network's, or `bigvgan` is not installed.
        """
        vocoder = cls(read_json(folder / CONFIG_NAME))
        path = folder / BIGVGAN_WEIGHTS_NAME
        try:
            weights = torch.load(path, map_location="cpu", weights_only=True)["generator"]
            normed = "conv_pre.weight_g" in weights
            if not normed:
                vocoder.fold_weight_norm()
            vocoder.network.load_state_dict(weights)
        except (OSError, EOFError, RuntimeError, KeyError, TypeError, pickle.UnpicklingError) as error:
            reason = str(error).partition("\n")[0]
            raise CheckpointError(f"{path} lacks this BigVGAN's weights: {reason}; fetch it again") from error
        if normed:
            vocoder.fold_weight_norm()
        return vocoder.requires_grad_(False).eval().to(device)

    def fold_weight_norm(self) -> None:
        """Make plain weights of the weight-normalised ones."""
        with redirect_stdout(io.StringIO()):  # the package prints what it does
            self.network.remove_weight_norm()

    @torch.inference_mode()
    def decode(self, mel: Tensor) -> Tensor:
        """Turn a log-mel spectrogram into sound; see `Vocoder.decode`."""
        return self.network(mel)[:, 0].float().clamp(-1, 1)


def _bigvgan_mel(values: dict[str, Any]) -> MelConfig:
    """Return the mel settings in the names of the hub's config.

    Raises:
        ValueError: The window is not as long as the transform.
    """
    if values["win_size"] != values["n_fft"]:
        raise ValueError(f"win_size {values['win_size']} differs from n_fft {values['n_fft']}")
    return MelConfig(
        sample_rate=values["sampling_rate"],
        n_fft=values["n_fft"],
        hop_length=values["hop_size"],
        n_mels=values["num_mels"],
        fmin=float(values["fmin"]),
        fmax=float(values["fmax"] or values["sampling_rate"] / 2),
    )


def load_vocoder(folder: Path, device: str | torch.device = "cpu") -> Vocoder:
    """Load the vocoder that lies in a folder.

    Args:
        folder: `config.json` with `model.safetensors` (our own), or with `bigvgan_generator.pt` (the hub's BigVGAN).
        device: Where to compute.

    Returns:
        The vocoder, without gradients.

    Raises:
        CheckpointError: A file is missing or does not fit, or BigVGAN's code is not installed.
        ConfigError: `config.json` has an unknown or impossible setting.
    """
    if "upsample_rates" in read_json(folder / CONFIG_NAME):
        return BigVGANVocoder.load(folder, device)
    return SpectralVocoder.load(folder, device)
