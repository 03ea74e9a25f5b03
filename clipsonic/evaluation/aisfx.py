"""The aiSFX embedding of sound effects, rebuilt for today's libraries.

Network and weights: A. B. Ma and A. Lerch, "Representation Learning for the Automatic Indexing of Sound
Effects Libraries", ISMIR 2022, PyPI package `aisfx` 0.1.2, model under CC-BY-4.0. Only the weights are taken
from the package: it pins versions of numpy and librosa too old to be installed beside this project, and its
exact spectrogram needs Essentia, which `spectrogram` follows in torch.
"""

from __future__ import annotations

import importlib.util
from functools import lru_cache
from pathlib import Path
from pickle import UnpicklingError
from typing import Any, Self

import librosa
import numpy as np
import numpy._core.multiarray as multiarray
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from clipsonic.audio import resample
from clipsonic.errors import CheckpointError

REQUIREMENT = "aisfx==0.1.2"
SAMPLE_RATE = 44100
N_FFT = 2048
HOP_LENGTH = 1024
N_MELS = 96
BLOCK_FRAMES = 100
BLOCK_HOP = 50
LOG_MAXIMUM = 9.457798957824707
"""The largest log-mel value of the authors' training data, by which they scale."""


def weights_path() -> Path:
    """Return the path of the embedding's weights, fetching the package if it is not installed.

    Raises:
        DataError: The package can be neither found nor fetched.
    """
    found = importlib.util.find_spec("aisfx")
    if found is not None and found.origin is not None:
        return Path(found.origin).parent / "models" / "checkpoint.pth"
    from clipsonic.packages import fetch_wheel

    return fetch_wheel(REQUIREMENT) / "aisfx" / "models" / "checkpoint.pth"


@lru_cache(maxsize=1)
def _mel_filters() -> Tensor:
    """Return Essentia's `MelBands`: triangles on the HTK mel scale that sum to 1, float32, shape (bands, bins)."""
    corners = librosa.mel_frequencies(N_MELS + 2, fmin=0.0, fmax=SAMPLE_RATE / 2, htk=True)
    mels = librosa.hz_to_mel(corners, htk=True)[:, None]
    bins = librosa.hz_to_mel(librosa.fft_frequencies(sr=SAMPLE_RATE, n_fft=N_FFT), htk=True)
    rising = (bins - mels[:-2]) / (mels[1:-1] - mels[:-2])
    falling = (mels[2:] - bins) / (mels[2:] - mels[1:-1])
    triangles = np.maximum(np.minimum(rising, falling), 0)
    return torch.from_numpy(triangles / triangles.sum(1, keepdims=True)).float()


def spectrogram(waveform: Tensor) -> Tensor:
    """Compute the log-mel spectrogram the network was trained on.

    Args:
        waveform: Sound in [-1, 1], float32, shape (batch, samples), at 44,100 Hz.

    Returns:
        log10(1 + 10000 power) over the training maximum, float32, shape (batch, frames, 96); the first frame is
        centred on the first sample, the last one at or after the end.
    """
    waveform = F.pad(waveform, (0, -waveform.shape[1] % HOP_LENGTH))
    window = torch.hann_window(N_FFT, periodic=False, device=waveform.device)
    spectrum = torch.stft(
        waveform, N_FFT, HOP_LENGTH, window=window, center=True, pad_mode="constant", return_complex=True
    )
    power = spectrum.real**2 + spectrum.imag**2
    mel = _mel_filters().to(waveform.device) @ power
    return torch.log10(1 + 1e4 * mel).transpose(1, 2) / LOG_MAXIMUM


class _Block(nn.Module):
    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(in_channels, out_channels, 3, padding=1, bias=False)
        self.conv2 = nn.Conv2d(out_channels, out_channels, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(out_channels)
        self.bn2 = nn.BatchNorm2d(out_channels)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu_(self.bn1(self.conv1(x)))
        return F.relu_(self.bn2(self.conv2(x)))


class AisfxNetwork(nn.Module):
    """The embedding network: four pairs of convolutions (CNN10 of arXiv 1808.00773 with max pooling)."""

    def __init__(self) -> None:
        """Build the network with random weights; `AisfxEmbedder` fills it."""
        super().__init__()
        channels = (1, 64, 128, 256, 512)
        for index in range(4):
            self.add_module(f"conv_block{index + 1}", _Block(channels[index], channels[index + 1]))

    def forward(self, blocks: Tensor) -> Tensor:
        """Embed spectrogram blocks.

        Args:
            blocks: Scaled log-mels of `spectrogram`, float32, shape (batch, frames, 96).

        Returns:
            Embeddings, float32, shape (batch, 512), all coordinates ≥ 0.
        """
        x = blocks.unsqueeze(1)
        for index, block in enumerate(self.children()):
            x = F.max_pool2d(block(x), 2 if index < 3 else 1)
        return x.mean(3).amax(2)


class AisfxEmbedder:
    """Turns sounds into aiSFX embeddings."""

    def __init__(self, path: Path | None = None, device: str | torch.device = "cpu") -> None:
        """Load the network.

        Args:
            path: The package's `checkpoint.pth`; by default `weights_path()`.
            device: Where to compute.

        Raises:
            CheckpointError: The file cannot be read or is not the aiSFX checkpoint.
        """
        self.device = torch.device(device)
        path = path or weights_path()
        self.network = AisfxNetwork()
        prefix = "embedding_net."
        try:
            weights = _load(path)
            own = {key.removeprefix(prefix): value for key, value in weights.items() if key.startswith(prefix)}
            self.network.load_state_dict(own)
        except (OSError, RuntimeError, ValueError, TypeError, UnpicklingError) as error:
            first = str(error).splitlines()[0]
            raise CheckpointError(f"{path} is not the checkpoint of {REQUIREMENT}: {first}") from error
        self.network.requires_grad_(False).eval().to(self.device).to(memory_format=torch.channels_last)

    def to(self, device: str | torch.device) -> Self:
        """Move the network to `device`."""
        self.device = torch.device(device)
        self.network.to(self.device)
        return self

    @torch.inference_mode()
    def embed(self, waveform: Tensor, sample_rate: int) -> Tensor:
        """Embed sounds: the mean over blocks of 2.3 s that overlap by half, a last part block dropped.

        Args:
            waveform: Sound in [-1, 1], float32, shape (batch, samples); shorter than a block is padded with silence.
            sample_rate: Its rate in Hz.

        Returns:
            Embeddings, float32, shape (batch, 512), on the CPU.
        """
        resampled = torch.from_numpy(resample(waveform.detach().cpu().numpy(), sample_rate, SAMPLE_RATE))
        mel = spectrogram(resampled.to(self.device, torch.float32))
        if mel.shape[1] < BLOCK_FRAMES:
            mel = F.pad(mel, (0, 0, 0, BLOCK_FRAMES - mel.shape[1]))
        blocks = mel.unfold(1, BLOCK_FRAMES, BLOCK_HOP).transpose(2, 3)
        embedded = self.network(blocks.flatten(0, 1)).unflatten(0, blocks.shape[:2])
        return embedded.mean(1).cpu()


def _load(path: Path) -> dict[str, Tensor]:
    """Read the package's `.pth`, a pair of weights and class counts, allowing numpy's integers beside tensors."""
    allowed: list[Any] = [(multiarray.scalar, "numpy.core.multiarray.scalar"), np.dtype, np.dtypes.Int64DType]
    with torch.serialization.safe_globals(allowed):
        weights, _ = torch.load(path, map_location="cpu", weights_only=True)
    return weights
