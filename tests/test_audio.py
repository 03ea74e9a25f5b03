"""The mel against librosa's, and sound files with what they say about themselves."""

from __future__ import annotations

import json
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path

import av
import librosa
import numpy as np
import pytest
import torch

from clipsonic.audio import (
    FORMATS,
    log_mel,
    loudness,
    normalize_loudness,
    read_audio,
    read_tags,
    resample,
    to_int16,
    write_audio,
)
from clipsonic.config import MelConfig
from clipsonic.errors import MediaError, OutputError

SmallDisk = Callable[[], AbstractContextManager[None]]
RATE = 22_050
TAGS = {"prompt": 'a dög "barking" 犬', "method": "zs", "seed": "7", "settings": json.dumps({"steps": 25})}


def tone(frequency: float = 440.0, seconds: float = 1.0, amplitude: float = 0.3, rate: int = RATE) -> np.ndarray:
    return (amplitude * np.sin(2 * np.pi * frequency * np.arange(int(seconds * rate)) / rate)).astype(np.float32)


def test_log_mel_is_librosas() -> None:
    config = MelConfig()
    sound = np.random.default_rng(0).standard_normal(256 * 20).astype(np.float32) * 0.1
    pad = (config.n_fft - config.hop_length) // 2
    expected = librosa.feature.melspectrogram(
        y=np.pad(sound, pad, mode="reflect"),
        sr=config.sample_rate,
        n_fft=config.n_fft,
        hop_length=config.hop_length,
        center=False,
        power=1,
        n_mels=config.n_mels,
        fmin=config.fmin,
        fmax=config.fmax,
    )
    found = log_mel(torch.from_numpy(sound), config)
    assert found.shape == (80, 20)
    np.testing.assert_allclose(found.numpy(), np.log(np.maximum(expected, config.floor)), atol=1e-3)


def test_log_mel_keeps_leading_shapes_and_floors_silence() -> None:
    config = MelConfig()
    mels = log_mel(torch.zeros(2, 3, 256 * 8), config)
    assert mels.shape == (2, 3, 80, 8)
    assert mels.max().item() < -5


@pytest.mark.parametrize("suffix", FORMATS)
def test_files_hold_the_sound_and_its_tags(suffix: str, tmp_path: Path) -> None:
    path, sound = tmp_path / f"deep/er/tone.{suffix}", tone()
    write_audio(path, sound, RATE, TAGS)
    back, rate = read_audio(path)
    assert rate == RATE
    assert len(back) == len(sound)
    tolerance = 1 / 32767 if suffix in ("wav", "flac") else 0.05
    assert np.abs(back[2000:-2000] - sound[2000:-2000]).max() <= tolerance
    assert read_tags(path) == TAGS
    assert [p.name for p in path.parent.iterdir()] == [path.name]


@pytest.mark.parametrize("suffix", FORMATS)
def test_another_reader_sees_the_tags(suffix: str, tmp_path: Path) -> None:
    path = tmp_path / f"tone.{suffix}"
    write_audio(path, tone(), RATE, TAGS)
    with av.open(str(path)) as container:
        found = {**container.metadata, **container.streams[0].metadata}
    found = {key.lower(): value for key, value in found.items()}
    assert found["title"] == TAGS["prompt"]
    assert json.loads(found["comment"]) == TAGS


@pytest.mark.parametrize("suffix", FORMATS)
def test_tags_of_any_length_come_back(suffix: str, tmp_path: Path) -> None:
    path, sound = tmp_path / f"tone.{suffix}", tone()[:5000]
    for length in (1, 1900, 2000, 2100, 60_000):
        tags = TAGS | {"prompt": "🔊" * (length // 4), "template": "\u0000\n" + "é" * length}
        write_audio(path, sound, RATE, tags)
        assert read_tags(path) == tags, length
        assert len(read_audio(path)[0]) == len(sound)
    with av.open(str(path)) as container:
        found = {**container.metadata, **container.streams[0].metadata}
    assert {key.lower(): value for key, value in found.items()}["title"] == tags["prompt"]


def test_files_without_tags_have_none(tmp_path: Path) -> None:
    write_audio(tmp_path / "tone.wav", tone(), RATE)
    assert read_tags(tmp_path / "tone.wav") == {}
    with pytest.raises(MediaError, match="cannot read"):
        read_tags(tmp_path / "gone.wav")


def test_sixteen_bits_are_clipped_not_wrapped() -> None:
    assert to_int16(np.array([-2.0, -1.0, 0.0, 1.0, 2.0])).tolist() == [-32767, -32767, 0, 32767, 32767]


def test_unknown_suffix_and_unwritable_folder_are_told(tmp_path: Path) -> None:
    with pytest.raises(OutputError, match=r"'.xyz'; allowed: wav, flac, ogg, mp3"):
        write_audio(tmp_path / "tone.xyz", tone(), RATE)
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputError, match="choose a writable folder"):
        write_audio(tmp_path / "file/tone.wav", tone(), RATE)


@pytest.mark.parametrize("suffix", FORMATS)
def test_a_full_disk_is_told_and_leaves_nothing(suffix: str, tmp_path: Path, small_disk: SmallDisk) -> None:
    noise = np.random.default_rng(0).uniform(-0.5, 0.5, RATE * 4).astype(np.float32)
    with pytest.raises(OutputError, match="choose a writable folder"), small_disk():
        write_audio(tmp_path / f"noise.{suffix}", noise, RATE, TAGS)
    assert not list(tmp_path.iterdir())


def test_stereo_is_mixed_and_resampled(tmp_path: Path) -> None:
    import soundfile

    soundfile.write(tmp_path / "two.wav", np.stack([tone(rate=44_100), np.zeros(44_100)], axis=1), 44_100)
    sound, rate = read_audio((tmp_path / "two.wav").read_bytes(), RATE)
    assert (rate, sound.dtype, sound.shape) == (RATE, np.float32, (RATE,))
    assert np.abs(sound[1000:-1000]).max() == pytest.approx(0.15, abs=0.01)


@pytest.mark.parametrize("data", [b"", b"RIFF", b"no sound at all"])
def test_what_is_no_sound_is_told(data: bytes, tmp_path: Path) -> None:
    with pytest.raises(MediaError, match="cannot read the sound"):
        read_audio(data)
    with pytest.raises(MediaError, match="cannot read"):
        read_audio(tmp_path / "gone.wav")


def test_resample_keeps_pitch() -> None:
    sound = resample(tone(1000, rate=16_000), 16_000, RATE)
    assert sound.dtype == np.float32
    assert np.abs(np.fft.rfft(sound)).argmax() == pytest.approx(1000, abs=2)
    assert resample(sound, RATE, RATE) is sound


@pytest.mark.parametrize("seconds", [0.1, 2.0])
def test_loudness_is_brought_to_the_target(seconds: float) -> None:
    loud = normalize_loudness(tone(seconds=seconds, amplitude=0.01), RATE)
    assert loudness(loud, RATE) == pytest.approx(-23, abs=0.1)


def test_loudness_never_clips_and_leaves_silence() -> None:
    click = np.zeros(RATE, np.float32)
    click[100] = 0.5
    assert np.abs(normalize_loudness(click, RATE, 0.0)).max() <= 1
    assert not normalize_loudness(np.zeros(RATE, np.float32), RATE).any()
    assert loudness(np.zeros(0, np.float32), RATE) == float("-inf")
