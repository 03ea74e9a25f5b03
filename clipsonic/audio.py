"""Sound as numbers: the log-mel spectrogram, resampling, loudness, and files with their metadata."""

from __future__ import annotations

from functools import lru_cache

import librosa
import torch
from torch import Tensor
from torch.nn import functional as F

from clipsonic.config import MelConfig


@lru_cache(maxsize=8)
def mel_filters(config: MelConfig) -> Tensor:
    """Return the slaney-normalised mel filter bank, float32, shape (n_mels, n_fft // 2 + 1)."""
    return torch.from_numpy(
        librosa.filters.mel(
            sr=config.sample_rate, n_fft=config.n_fft, n_mels=config.n_mels, fmin=config.fmin, fmax=config.fmax
        )
    )


def log_mel(waveform: Tensor, config: MelConfig) -> Tensor:
    """Turn sound into a log-mel spectrogram, as BigVGAN and HiFi-GAN do.

    Args:
        waveform: Sound in [-1, 1], float32, shape (..., samples), at `config.sample_rate` Hz.
        config: The mel settings.

    Returns:
        Natural-log mel magnitudes, float32, shape (..., n_mels, samples // hop_length).
    """
    shape = waveform.shape
    padding = (config.n_fft - config.hop_length) // 2
    flat = F.pad(waveform.reshape(-1, 1, shape[-1]), (padding, padding), mode="reflect").squeeze(1)
    window = torch.hann_window(config.n_fft, device=waveform.device)
    spectrum = torch.stft(flat, config.n_fft, config.hop_length, window=window, center=False, return_complex=True)
    magnitude = torch.sqrt(spectrum.real**2 + spectrum.imag**2 + 1e-9)
    mel = mel_filters(config).to(waveform.device) @ magnitude
    return mel.clamp(min=config.floor).log().reshape(*shape[:-1], config.n_mels, -1)
