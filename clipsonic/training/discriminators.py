"""Critics of sound: networks that look at spectrograms of several resolutions and tell real from rendered."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

SPECTRUM_FLOOR = 1e-3


class SpectrogramDiscriminator(nn.Module):
    """Judges patches of the log-magnitude spectrogram at one resolution, as in UnivNet (arXiv 2106.07889)."""

    window: Tensor

    def __init__(self, n_fft: int, channels: int) -> None:
        """Build the critic for windows of `n_fft` samples, a quarter of that apart."""
        super().__init__()
        self.n_fft = n_fft
        self.register_buffer("window", torch.hann_window(n_fft), persistent=False)
        self.layers = nn.ModuleList(
            (
                nn.Conv2d(1, channels, (8, 4), (4, 2), (2, 1)),
                nn.Conv2d(channels, 2 * channels, (5, 3), (2, 1), (2, 1)),
                nn.Conv2d(2 * channels, 2 * channels, (5, 3), (2, 1), (2, 1)),
                nn.Conv2d(2 * channels, 2 * channels, 3, 1, 1),
            )
        )
        self.verdict = nn.Conv2d(2 * channels, 1, 3, 1, 1)

    def forward(self, waveform: Tensor) -> list[Tensor]:
        """Judge sounds.

        Args:
            waveform: Sound in [-1, 1], float32, shape (batch, samples).

        Returns:
            The activations of every layer, shape (batch, channels, bins, frames) each; the last is the verdict:
            above 0 for real, one channel.
        """
        magnitude = spectrogram(waveform, self.window)
        x = (magnitude.clamp(min=SPECTRUM_FLOOR).log() + 2)[:, None] / 3
        x = x.to(memory_format=torch.channels_last)
        outputs = []
        for layer in self.layers:
            x = F.leaky_relu(layer(x), 0.1)
            outputs.append(x)
        return [*outputs, self.verdict(x)]


class Discriminators(nn.ModuleList):
    """One critic a resolution."""

    def __init__(self, resolutions: Sequence[int], channels: int) -> None:
        """Build a `SpectrogramDiscriminator` for each window length in `resolutions`."""
        super().__init__(SpectrogramDiscriminator(n_fft, channels) for n_fft in resolutions)


def spectrogram(waveform: Tensor, window: Tensor) -> Tensor:
    """Return the magnitude spectrogram with a quarter of the window between frames, (batch, bins, frames)."""
    n_fft = len(window)
    spectrum = torch.stft(waveform, n_fft, n_fft // 4, window=window, return_complex=True)
    return (spectrum.real.square() + spectrum.imag.square() + 1e-9).sqrt()


def discriminator_loss(real: Tensor, rendered: Tensor) -> Tensor:
    """Return the hinge loss of a critic from its verdicts on real and rendered sounds, a float32 scalar."""
    return F.relu(1 - real.float()).mean() + F.relu(1 + rendered.float()).mean()


def generator_losses(real: Sequence[Tensor], rendered: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
    """Return the generator's loss and the feature-matching loss, float32 scalars.

    Args:
        real: A critic's activations for the recordings.
        rendered: Its activations for what the vocoder made of their mels.
    """
    fooled = F.relu(1 - rendered[-1].float()).mean()
    distances = [
        (a.float() - b.detach().float()).abs().mean() / b.detach().float().abs().mean().clamp(min=1e-3)
        for a, b in zip(rendered[:-1], real[:-1], strict=True)
    ]
    return fooled, torch.stack(distances).mean()
