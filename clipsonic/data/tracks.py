"""Sound tracks of a fixed length out of recordings: trimmed, repeated or cropped, and loudness-sane."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import pyloudnorm
import soxr
from numpy.typing import NDArray
from scipy import fft
from scipy.signal import resample_poly

LOUDNESS_LUFS = -20.0
PEAK = 0.97
SILENCE_DB = -55.0
"""Below the loudest moment; what is quieter at either end of a recording is cut off."""
MIN_LEVEL = 10 ** (-60 / 20)
MIN_DURATION_S = 0.04
Waveform = NDArray[np.float32]


@dataclass(frozen=True)
class Variation:
    """How far the renderings of one recording may differ; all zeros for test samples.

    Attributes:
        semitones: Varispeed, up or down.
        tilt_db: Spectral tilt between the lowest and the highest band, up or down.
        loudness_db: Deviation from `LOUDNESS_LUFS`, up or down.
        repeat_semitones: Varispeed between the repeats within one track.
    """

    semitones: float = 1.5
    tilt_db: float = 6.0
    loudness_db: float = 3.0
    repeat_semitones: float = 0.4


NO_VARIATION = Variation(semitones=0.0, tilt_db=0.0, loudness_db=0.0, repeat_semitones=0.0)


def clean_recording(waveform: Waveform, rate: int, target_rate: int) -> Waveform | None:
    """Resample a recording, take out its offset and trim the silence at its ends.

    Args:
        waveform: Sound, float32, shape (samples,).
        rate: Its rate in Hz.
        target_rate: The wanted rate in Hz.

    Returns:
        The sound, float32, shape (samples',), or None if it is broken, too quiet or too short to be of use.
    """
    if not np.isfinite(waveform).all() or len(waveform) < MIN_DURATION_S * rate:
        return None
    sound = resample(waveform - waveform.mean(), rate, target_rate)
    level = np.abs(sound)
    if level.max(initial=0.0) < MIN_LEVEL:
        return None
    loud = np.flatnonzero(level > level.max() * 10 ** (SILENCE_DB / 20))
    margin = target_rate // 100
    sound = sound[max(0, loud[0] - margin) : loud[-1] + 1 + margin]
    return _faded(sound, target_rate // 500) if len(sound) >= MIN_DURATION_S * target_rate else None


def make_track(
    recording: Waveform, rate: int, samples: int, random: np.random.Generator, variation: Variation = NO_VARIATION
) -> Waveform:
    """Turn a recording into a sound track as a short video of its source would have.

    Long recordings are cropped where something is heard, steady ones looped without a seam, and short events
    repeated with uneven gaps over faint room noise.

    Args:
        recording: Trimmed sound, float32, shape (n,).
        rate: Sample rate in Hz.
        samples: Length of the result.
        random: Where all choices come from.
        variation: How much the track may differ from the recording.

    Returns:
        Sound in (-1, 1), float32, shape (samples,).
    """
    sound = _varispeed(recording, random.uniform(-1, 1) * variation.semitones)
    sound = _tilt(sound, random.uniform(-1, 1) * variation.tilt_db)
    if len(sound) >= samples:
        track = _crop(sound, samples, random)
    elif _is_steady(sound, rate):
        track = _loop(sound, samples, rate, random)
    else:
        track = _repeat(sound, samples, rate, random, variation.repeat_semitones)
    track = _faded(track, rate // 200)
    room = _room_noise(samples, random) * 10 ** (random.uniform(-62, -52) / 20) * np.abs(track).max()
    loudness = LOUDNESS_LUFS + random.uniform(-1, 1) * variation.loudness_db
    return set_loudness((track + room).astype(np.float32), rate, loudness)


def set_loudness(waveform: Waveform, rate: int, loudness_lufs: float) -> Waveform:
    """Scale a sound to a loudness (ITU-R BS.1770), or less where its true peak would clip.

    Args:
        waveform: Sound, float32, shape (samples,); under 0.4 s its level stands in for its loudness.
        rate: Sample rate in Hz.
        loudness_lufs: The wanted loudness.

    Returns:
        Sound of the same shape with a true peak of at most `PEAK`.
    """
    if len(waveform) >= 0.4 * rate:
        measured = pyloudnorm.Meter(rate).integrated_loudness(waveform.astype(np.float64))
    else:
        measured = 20 * math.log10(max(float(np.sqrt(np.mean(waveform**2))), 1e-9))
    if not math.isfinite(measured):
        measured = 20 * math.log10(max(float(np.sqrt(np.mean(waveform**2))), 1e-9))
    gain = 10 ** ((loudness_lufs - measured) / 20)
    true_peak = float(np.abs(resample_poly(waveform, 4, 1)).max())
    return (waveform * min(gain, PEAK / max(true_peak, 1e-9))).astype(np.float32)


def reverberate(waveform: Waveform, rate: int, random: np.random.Generator) -> Waveform:
    """Put a dry sound into a random room: a decaying noise tail under the direct sound.

    Args:
        waveform: Sound, float32, shape (samples,).
        rate: Sample rate in Hz.
        random: Where the room's size and level come from.

    Returns:
        Sound of the same shape.
    """
    decay_s = random.uniform(0.15, 1.2)
    time = np.arange(int(decay_s * rate)) / rate
    tail = random.standard_normal(len(time)) * np.exp(-6.9 * time / decay_s)
    tail *= 10 ** (random.uniform(-28, -14) / 20) / np.sqrt(np.sum(tail**2) + 1e-9) * 4
    size = fft.next_fast_len(len(waveform) + len(tail), real=True)
    wet = fft.irfft(fft.rfft(waveform, size) * fft.rfft(tail, size), size)[: len(waveform)]
    return (waveform + wet).astype(np.float32)


def resample(waveform: Waveform, rate: float, target_rate: float) -> Waveform:
    """Return the sound at another sample rate, float32, shape (samples * target_rate / rate,)."""
    if rate == target_rate or not len(waveform):
        return waveform
    resampled: Waveform = soxr.resample(waveform, rate, target_rate, quality="HQ")
    return resampled


def _varispeed(sound: Waveform, semitones: float) -> Waveform:
    """Play faster and higher (or slower and lower), as a tape would."""
    return resample(sound, 1.0, 2 ** (-semitones / 12))


def _tilt(sound: Waveform, tilt_db: float) -> Waveform:
    """Change the balance of low and high: a straight line in decibels over log frequency."""
    if tilt_db == 0.0:
        return sound
    size = fft.next_fast_len(len(sound), real=True)
    spectrum = fft.rfft(sound, size)
    octaves = np.log2(np.linspace(0, 1, len(spectrum)).clip(2**-8)) / 8 + 0.5
    tilted: Waveform = fft.irfft(spectrum * 10 ** (octaves * tilt_db / 20), size)[: len(sound)].astype(np.float32)
    return tilted


def _faded(sound: Waveform, samples: int) -> Waveform:
    """Ramp both ends, so that a cut makes no click."""
    samples = min(samples, len(sound) // 2)
    result = sound.copy()
    if samples:
        ramp = np.linspace(0, 1, samples, dtype=np.float32)
        result[:samples] *= ramp
        result[-samples:] *= ramp[::-1]
    return result


def _crop(sound: Waveform, samples: int, random: np.random.Generator) -> Waveform:
    """Cut out a part that has at least half the level of the loudest of some."""
    starts = random.integers(0, len(sound) - samples + 1, size=12)
    levels = np.array([np.sqrt(np.mean(sound[s : s + samples] ** 2)) for s in starts])
    good = starts[levels >= levels.max() / 2]
    start = int(good[0])
    return sound[start : start + samples]


def _is_steady(sound: Waveform, rate: int) -> bool:
    """Tell whether a sound goes on (rain, an engine) rather than being an event with an end."""
    if len(sound) < 0.8 * rate:
        return False
    edge = rate // 5
    middle = float(np.sqrt(np.mean(sound**2)))
    ends = min(float(np.sqrt(np.mean(sound[:edge] ** 2))), float(np.sqrt(np.mean(sound[-edge:] ** 2))))
    return ends > 0.4 * middle


def _loop(sound: Waveform, samples: int, rate: int, random: np.random.Generator) -> Waveform:
    """Chain copies with cross-fades until the track is full."""
    overlap = min(rate // 8, len(sound) // 3)
    fade = np.sin(np.linspace(0, np.pi / 2, overlap, dtype=np.float32))
    track = sound
    while len(track) < samples + len(sound):
        joined = track[-overlap:] * fade[::-1] + sound[:overlap] * fade
        track = np.concatenate([track[:-overlap], joined, sound[overlap:]])
    start = int(random.integers(0, len(sound)))
    return track[start : start + samples]


def _repeat(sound: Waveform, samples: int, rate: int, random: np.random.Generator, repeat_semitones: float) -> Waveform:
    """Lay an event into the track once or several times, with uneven gaps and slightly different loudness."""
    track = np.zeros(samples, dtype=np.float32)
    duration = len(sound) / rate
    gap_s = random.uniform(0.15, 0.6) if duration < 0.6 else random.uniform(0.25, 1.2)
    position = int(random.uniform(0.02, 0.35) * rate)
    limit = 1 if random.random() < 0.2 else 12
    for _ in range(limit):
        event = _varispeed(sound, random.uniform(-1, 1) * repeat_semitones)
        end = min(samples, position + len(event))
        if position > 0.4 * samples and end - position < 0.6 * len(event):
            break
        track[position:end] += event[: end - position] * 10 ** (random.uniform(-2.5, 0) / 20)
        position += len(event) + int(gap_s * random.uniform(0.7, 1.4) * rate)
        if position >= samples:
            break
    return track


def _room_noise(samples: int, random: np.random.Generator) -> NDArray[np.float64]:
    """Return noise that falls off towards high frequencies, with a level of one."""
    spectrum = fft.rfft(random.standard_normal(samples))
    noise = fft.irfft(spectrum / np.sqrt(np.arange(1, len(spectrum) + 1)), samples)
    scaled: NDArray[np.float64] = noise / np.sqrt(np.mean(noise**2))
    return scaled
