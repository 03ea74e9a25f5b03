"""Sound as numbers: the log-mel spectrogram, resampling, loudness, and files with their metadata."""

from __future__ import annotations

import io
import json
from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any

import librosa
import numpy as np
import soundfile
import torch
from mutagen import MutagenError
from mutagen.id3 import COMM, ID3, TIT2, Encoding
from mutagen.wave import WAVE
from torch import Tensor
from torch.nn import functional as F

from clipsonic.config import MelConfig
from clipsonic.errors import MediaError, OutputError
from clipsonic.storage import write_whole

FORMATS = {
    "wav": ("WAV", "PCM_16"),
    "flac": ("FLAC", "PCM_16"),
    "ogg": ("OGG", "VORBIS"),
    "mp3": ("MP3", "MPEG_LAYER_III"),
}
"""File suffix to what libsndfile calls the container and the coding."""

LOUDNESS_LUFS = -23.0
"""The level of EBU R 128."""

_PEAK = 0.99
_BLOCK_S = 0.4
_WRITE_SAMPLES = 65_536
_INFO_BYTES = 2000
"""Of a WAV's title or comment; libsndfile writes more of it than it reads again (2045)."""
_NOT_IN_FLAC = ("\ufffe", "\uffff")
"""Characters that the format refuses though they can be written as UTF-8."""


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


def resample(waveform: np.ndarray, rate: int, target_rate: int) -> np.ndarray:
    """Change the sample rate of sound.

    Args:
        waveform: Sound, float32, shape (..., samples), at `rate` Hz.
        rate: Sample rate in Hz.
        target_rate: Sample rate wanted, in Hz.

    Returns:
        Sound, float32, shape (..., samples * target_rate / rate), at `target_rate` Hz.
    """
    if rate == target_rate:
        return waveform
    return librosa.resample(waveform, orig_sr=rate, target_sr=target_rate, res_type="soxr_hq")


def to_int16(waveform: np.ndarray) -> np.ndarray:
    """Return sound in [-1, 1] as 16-bit samples of the same shape; what lies outside is clipped."""
    return np.round(np.clip(waveform, -1, 1) * 32767).astype(np.int16)


def loudness(waveform: np.ndarray, sample_rate: int) -> float:
    """Measure the integrated loudness of ITU-R BS.1770.

    Args:
        waveform: Sound in [-1, 1], float32, shape (samples,). One shorter than a gating block (0.4 s) is repeated.
        sample_rate: In Hz.

    Returns:
        Loudness in LUFS; minus infinity for silence.
    """
    import pyloudnorm  # it brings all of scipy.signal, which generating from noise never needs

    if not waveform.size:
        return float("-inf")
    block = int(_BLOCK_S * sample_rate) + 1
    filled = np.resize(waveform, max(block, len(waveform))).astype(np.float64)
    with np.errstate(divide="ignore"):
        return float(pyloudnorm.Meter(sample_rate).integrated_loudness(filled))


def normalize_loudness(waveform: np.ndarray, sample_rate: int, target_lufs: float = LOUDNESS_LUFS) -> np.ndarray:
    """Bring sound to a loudness, or as near as its peaks allow without clipping.

    Args:
        waveform: Sound in [-1, 1], float32, shape (samples,).
        sample_rate: In Hz.
        target_lufs: The loudness wanted.

    Returns:
        Sound of the same shape, float32. Silence comes back as it is.
    """
    level, peak = loudness(waveform, sample_rate), float(np.abs(waveform).max(initial=0.0))
    if not np.isfinite(level):
        return waveform.astype(np.float32)
    gain = min(10 ** ((target_lufs - level) / 20), _PEAK / peak)
    return (waveform * gain).astype(np.float32)


def read_audio(source: Path | bytes, sample_rate: int | None = None) -> tuple[np.ndarray, int]:
    """Read a sound file, mixed down to one channel.

    Args:
        source: A path or a file's bytes; WAV, FLAC, Ogg, MP3 and whatever else libsndfile knows.
        sample_rate: Resample to this, in Hz.

    Returns:
        Sound, float32, shape (samples,), and its sample rate in Hz.

    Raises:
        MediaError: It is missing, is no sound, or is empty.
    """
    name = "the sound" if isinstance(source, bytes) else str(source)
    try:
        file = io.BytesIO(source) if isinstance(source, bytes) else source
        samples, rate = soundfile.read(file, dtype="float32", always_2d=True)
    except (OSError, soundfile.LibsndfileError) as error:
        raise MediaError(f"cannot read {name}: {error}; give a WAV, FLAC, Ogg or MP3 file") from error
    if not len(samples):
        raise MediaError(f"{name} holds no sound; give a longer one")
    mono = np.ascontiguousarray(samples.mean(axis=1, dtype=np.float32))
    return (mono, rate) if sample_rate is None else (resample(mono, rate, sample_rate), sample_rate)


def write_audio(path: Path, waveform: np.ndarray, sample_rate: int, tags: Mapping[str, str] | None = None) -> None:
    """Write a sound file whole or not at all, 16 bits where the format has them.

    The tags go into the file's comment as JSON, which every format here can hold; the prompt, if there is one, is
    the title too, so that players show it.

    Args:
        path: Where to; the suffix chooses among `FORMATS`.
        waveform: Sound in [-1, 1], float32, shape (samples,).
        sample_rate: In Hz.
        tags: What the file should say about itself; `read_tags` gives it back.

    Raises:
        OutputError: The suffix is unknown, the folder cannot be written to, or the disk is full.
    """
    suffix = path.suffix.lower().lstrip(".")
    if suffix not in FORMATS:
        raise OutputError(f"cannot write {path.name}: its suffix is {path.suffix!r}; allowed: {', '.join(FORMATS)}")
    container, coding = FORMATS[suffix]
    samples, said = to_int16(waveform), _title_and_comment(tags, path) if tags else ()
    as_id3 = suffix == "mp3" or (suffix == "wav" and any(len(text.encode()) > _INFO_BYTES for text in said))
    with write_whole(path) as temporary:
        try:
            with soundfile.SoundFile(temporary, "w", sample_rate, 1, coding, format=container) as file:
                if said and not as_id3:
                    file.title, file.comment = said
                # libsndfile's Vorbis encoder overflows the stack on one very long write.
                for start in range(0, len(samples), _WRITE_SAMPLES):
                    file.write(samples[start : start + _WRITE_SAMPLES])
        except soundfile.LibsndfileError as error:
            raise OSError(f"{error.error_string}") from error
        if said and as_id3:
            _write_id3(temporary, suffix, *said)


def _title_and_comment(tags: Mapping[str, str], path: Path) -> tuple[str, str]:
    title, comment = tags.get("prompt", ""), json.dumps(dict(tags), ensure_ascii=False)
    for mark in _NOT_IN_FLAC:
        title, comment = title.replace(mark, ""), comment.replace(mark, f"\\u{ord(mark):04x}")
    return title or path.stem, comment


def _write_id3(path: Path, suffix: str, title: str, comment: str) -> None:
    """Write ID3 tags in UTF-8; libsndfile would declare its UTF-8 to be Latin-1, and has no room for much in a WAV."""
    frames = (
        TIT2(encoding=Encoding.UTF8, text=title),
        COMM(encoding=Encoding.UTF8, lang="eng", desc="", text=comment),
    )
    tags: Any = ID3()
    if suffix == "wav":
        wave = WAVE(path)
        wave.add_tags()
        tags = wave.tags
    for frame in frames:
        tags.add(frame)
    tags.save(path)


def read_tags(path: Path) -> dict[str, str]:
    """Return the tags that `write_audio` put into a file; empty if there are none.

    Raises:
        MediaError: The file is missing or is no sound.
    """
    try:
        with soundfile.SoundFile(path) as file:
            comment = file.comment or (_wav_comment(path) if file.format == "WAV" else "")
    except (OSError, soundfile.LibsndfileError) as error:
        raise MediaError(f"cannot read {path}: {error}; give a sound file") from error
    try:
        tags = json.loads(comment)
    except ValueError:
        return {}
    return tags if isinstance(tags, dict) else {}


def _wav_comment(path: Path) -> str:
    """Return the comment of the ID3 tags in a WAV, "" if it has none."""
    try:
        tags = WAVE(path).tags
    except (MutagenError, OSError, ValueError):
        return ""
    comments: list[Any] = tags.getall("COMM") if tags else []
    return "".join(text for comment in comments for text in comment.text)
