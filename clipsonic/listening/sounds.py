"""The sounds that a browser is given: stripped of all that tells where they come from, or made on the spot."""

from __future__ import annotations

import io
import random
from functools import lru_cache
from pathlib import Path

import numpy as np
import soundfile

from clipsonic.errors import MediaError

RATE = 44100
GAP_S, RAMP_S = 0.35, 0.05
TONE_HZ = 200.0
NOISE_LUFS_LIKE = 0.08
"""Root mean square of the noise for setting the volume, near -23 LUFS."""


def wav_bytes(waveform: np.ndarray, sample_rate: int) -> bytes:
    """Return sound as a 16-bit WAV file that holds nothing else.

    Args:
        waveform: Sound in [-1, 1], float, shape (samples,) or (samples, channels).
        sample_rate: In Hz.
    """
    buffer = io.BytesIO()
    soundfile.write(buffer, np.clip(waveform, -1, 1), sample_rate, subtype="PCM_16", format="WAV")
    return buffer.getvalue()


@lru_cache(maxsize=256)
def plain_sound(content: bytes, noise: bool) -> bytes:
    """Return a sound file's sound as a plain WAV file, without tags, title or name.

    Args:
        content: The file.
        noise: Bury it under noise of more than its own level, as a gold item wants.

    Raises:
        MediaError: It is no sound.
    """
    try:
        waveform, rate = soundfile.read(io.BytesIO(content), dtype="float32", always_2d=True)
    except soundfile.LibsndfileError as error:
        raise MediaError(f"a file of the set is no sound: {error}; restore it") from error
    return wav_bytes(bury(waveform) if noise else waveform, rate)


def bury(waveform: np.ndarray) -> np.ndarray:
    """Return sound under white noise of four times its level, as loud together as the sound was alone.

    Args:
        waveform: Sound in [-1, 1], float32, shape (samples, channels).
    """
    level = float(np.sqrt(np.mean(waveform**2))) or 0.01
    noise = np.random.default_rng(0).standard_normal(waveform.shape) * 4 * level
    mixed = waveform + noise
    return (mixed * level / np.sqrt(np.mean(mixed**2))).astype(np.float32)


def volume_noise(seconds: float = 3.0) -> bytes:
    """Return pink noise, as loud as the sounds of a set are, for setting the volume."""
    samples = round(seconds * RATE)
    spectrum = np.fft.rfft(np.random.default_rng(1).standard_normal(samples))
    spectrum /= np.sqrt(np.maximum(np.arange(len(spectrum)), 1))
    noise = np.fft.irfft(spectrum, samples)
    ramp = np.minimum(1, np.minimum(np.arange(samples), np.arange(samples)[::-1]) / (RAMP_S * RATE))
    return wav_bytes(noise * ramp * NOISE_LUFS_LIKE / np.sqrt(np.mean(noise**2)), RATE)


def headphone_trials(seed: str, trials: int) -> list[tuple[int, int, int]]:
    """Return what the three tones of each trial are: 0 plain, 1 quieter, 2 with its channels in opposite phase."""
    rng = random.Random(seed)
    return [tuple(rng.sample((0, 1, 2), 3)) for _ in range(trials)]  # type: ignore[misc]


def headphone_sound(kinds: tuple[int, int, int], tone_s: float) -> bytes:
    """Return the three tones of a trial of the headphone check (Woods et al. 2017).

    One tone is 6 dB quieter. Another is in antiphase: over loudspeakers its channels cancel and it seems the quietest,
    over headphones the quieter one is.

    Args:
        kinds: What the tones are; see `headphone_trials`.
        tone_s: Length of each tone in seconds.
    """
    samples = round(tone_s * RATE)
    place = np.arange(samples)
    tone = 0.2 * np.sin(2 * np.pi * TONE_HZ * place / RATE)
    tone *= np.minimum(1, np.minimum(place, place[::-1]) / (RAMP_S * RATE))
    shapes = {0: (tone, tone), 1: (tone / 2, tone / 2), 2: (tone, -tone)}
    gap = np.zeros((round(GAP_S * RATE), 2))
    parts = [part for kind in kinds for part in (np.stack(shapes[kind], axis=1), gap)]
    return wav_bytes(np.concatenate(parts[:-1]), RATE)


def read_whole(path: Path) -> bytes:
    """Return a file's bytes.

    Raises:
        MediaError: It is not there.
    """
    try:
        return path.read_bytes()
    except OSError as error:
        raise MediaError(f"cannot read {path.name}: {error.strerror}; restore the set") from error
