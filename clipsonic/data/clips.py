"""Clips out of videos: where they are cut, their sound and frames, and CLIP's view of the frames."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from PIL.Image import Image

from clipsonic.audio import resample
from clipsonic.clip import ClipEncoder
from clipsonic.config import Config, MelConfig
from clipsonic.data.decoding import BROKEN, VideoReader
from clipsonic.device import Accelerator
from clipsonic.errors import MediaError, SettingsError
from clipsonic.shards import Sample, decode_frames, encode_embeddings, encode_sample

MEL = MelConfig()
CLIP_S = MEL.duration_s(352)
STAGES = ("decode", "resample", "clip", "encode", "write")
UNIT_CLIPS = 16
"""A worker gets at most so many clips of a video at once, so that one of hours is shared among all."""
_SLACK_S = 0.1
"""Sound that ends so much before its clip does is filled up with silence: tracks rarely end together."""
_GPU_BATCH = 64
_FRAME_MULTIPLE = 32
Seconds = dict[str, float]


@dataclass(frozen=True, kw_only=True)
class ClipSettings(Config):
    """How videos are cut into clips.

    Attributes:
        clip_s: Seconds of a clip, rounded to what denoisers can be trained on (`length_s`).
        clips_per_video: At most so many of a video, evenly spread; 0 means as many as fit.
        min_s: A video shorter than a clip gives one clip, filled up with silence, if it has so many seconds.
        frames: Pictures of a clip, evenly spread.
        frame_side: Pixels of their shorter side.
        audio_stream: Which sound track of a video, from 0.
        silence_db: Clips whose level (root mean square, dB below full scale) is lower are left out.
        test_share: Share of the videos that are held out, where the list of videos does not say itself.
        shard_clips: Clips of a shard.

    Raises:
        SettingsError: On construction, for a value that makes no sense.
    """

    clip_s: float = CLIP_S
    clips_per_video: int = 0
    min_s: float = 1.0
    frames: int = 4
    frame_side: int = 288
    audio_stream: int = 0
    silence_db: float = -50.0
    test_share: float = 0.1
    shard_clips: int = 256

    def __post_init__(self) -> None:
        """Check the values."""
        ranges: dict[str, tuple[float, float]] = {
            "clip_s": (0.25, 60),
            "clips_per_video": (0, 100_000),
            "min_s": (0.25, 60),
            "frames": (1, 64),
            "frame_side": (32, 2160),
            "audio_stream": (0, 100),
            "silence_db": (-120, 0),
            "test_share": (0, 1),
            "shard_clips": (1, 100_000),
        }
        for name, (low, high) in ranges.items():
            if not low <= getattr(self, name) <= high:
                raise SettingsError(f"{name} is {getattr(self, name)}; allowed: {low:g} to {high:g}")

    @property
    def samples(self) -> int:
        """The samples of a clip at the mel configuration's rate: a multiple of 32 mel frames, for U-Nets."""
        return max(1, round(MEL.frames(self.clip_s) / _FRAME_MULTIPLE)) * _FRAME_MULTIPLE * MEL.hop_length

    @property
    def length_s(self) -> float:
        """The seconds that these are."""
        return self.samples / MEL.sample_rate


@dataclass(frozen=True)
class Video:
    """One video, or the part of one that counts.

    Attributes:
        source: What tells it from others in the shards; says nothing of what it shows.
        path: Below the folder of videos.
        label: What it shows.
        split: "train" or "test".
        start_s: Where the part that counts begins.
        duration_s: How long that is; None means to the end.
    """

    source: str
    path: str
    label: str
    split: str
    start_s: float = 0.0
    duration_s: float | None = None


@dataclass(frozen=True)
class Clip:
    """Where a clip is cut; `length_s` is less than a whole clip's only if the video is."""

    key: str
    start_s: float
    length_s: float


@dataclass(frozen=True)
class Unit:
    """Clips of one video that one worker cuts."""

    video: Video
    clips: tuple[Clip, ...]


@dataclass
class Cut:
    """What came of a unit: the files of its clips, and why others are left out."""

    unit: Unit
    files: dict[str, dict[str, bytes]] = field(default_factory=dict)
    skipped: dict[str, str] = field(default_factory=dict)
    seconds: Seconds = field(default_factory=lambda: dict.fromkeys(STAGES, 0.0))


def place_clips(duration_s: float, settings: ClipSettings) -> list[tuple[float, float]]:
    """Decide where clips lie in so many seconds: as many as fit or are asked for, evenly spread.

    Returns:
        Start and length of each, in seconds; one that fills less than a clip if there are fewer seconds.

    Raises:
        MediaError: It is too short for any.
    """
    # Files round their length, so a tenth of a second is not held against them.
    if duration_s < min(settings.min_s, settings.length_s) - _SLACK_S:
        raise MediaError(f"lasts {duration_s:.2f} s, less than {settings.min_s:g} s")
    fitting = max(1, int((duration_s + _SLACK_S) / settings.length_s))
    count = min(fitting, settings.clips_per_video or fitting)
    share, length_s = duration_s / count, min(settings.length_s, duration_s)
    return [(max(0.0, round(k * share + (share - settings.length_s) / 2, 6)), length_s) for k in range(count)]


@dataclass(frozen=True)
class Probe:
    """Finds out where the clips of a video are, or why it has none."""

    folder: Path
    settings: ClipSettings

    def __call__(self, video: Video) -> list[tuple[float, float]] | str:
        """Return the clips' starts and lengths in seconds of the file, or the reason why there is none."""
        try:
            with VideoReader(self.folder / video.path, self.settings.audio_stream) as reader:
                left_s = reader.duration_s() - video.start_s
            if left_s <= 0:
                return f"ends before second {video.start_s:g}, where it should begin"
            duration_s = left_s if video.duration_s is None else min(left_s, video.duration_s)
            return [(video.start_s + start_s, length_s) for start_s, length_s in place_clips(duration_s, self.settings)]
        except MediaError as error:
            return str(error)
        except BROKEN as error:
            return f"is no video that can be read ({error})"


@dataclass(frozen=True)
class Cutter:
    """Decodes the clips of a unit and encodes them as the files of a shard."""

    folder: Path
    settings: ClipSettings

    def __call__(self, unit: Unit) -> Cut:
        """Cut the clips; never raises for what is wrong with the video."""
        cut = Cut(unit)
        try:
            with VideoReader(self.folder / unit.video.path, self.settings.audio_stream) as reader:
                for clip in unit.clips:
                    try:
                        cut.files[clip.key] = self._files(reader, unit.video, clip, cut.seconds)
                    except MediaError as error:
                        cut.skipped[clip.key] = str(error)
        except MediaError as error:
            reason = str(error)
        except BROKEN as error:
            reason = f"cannot be decoded ({error})"
        else:
            return cut
        cut.skipped |= {clip.key: reason for clip in unit.clips if clip.key not in cut.files | cut.skipped}
        return cut

    def _files(self, reader: VideoReader, video: Video, clip: Clip, seconds: Seconds) -> dict[str, bytes]:
        settings = self.settings
        with _timed(seconds, "decode"):
            sound, rate = reader.sound(clip.start_s, clip.length_s)
        with _timed(seconds, "resample"):
            waveform = self._fill(resample(sound, rate, MEL.sample_rate), clip)
        times_s = [clip.start_s + (k + 0.5) / settings.frames * clip.length_s for k in range(settings.frames)]
        with _timed(seconds, "decode"):
            pictures = reader.pictures(times_s, settings.frame_side)
        provenance = {
            "source": video.source,
            "start_s": round(clip.start_s, 3),
            "length_s": round(clip.length_s, 3),
            "frames_s": [round(time_s, 3) for time_s in times_s],
        }
        with _timed(seconds, "encode"):
            return encode_sample(Sample(clip.key, waveform, tuple(pictures), provenance, MEL.sample_rate))

    def _fill(self, sound: NDArray[np.float32], clip: Clip) -> NDArray[np.float32]:
        """Return a clip's sound at its full length, unless it is silent or ends too early."""
        settings, length_s = self.settings, len(sound) / MEL.sample_rate
        if length_s < clip.length_s - _SLACK_S:
            raise MediaError(f"its sound ends at {clip.start_s + length_s:.2f} s, before the clip does")
        level = 20 * np.log10(max(1e-9, float(np.sqrt(np.mean(np.square(sound, dtype=np.float64))))))
        if level < settings.silence_db:
            raise MediaError(f"is silent from {clip.start_s:.2f} s on ({level:.0f} dB)")
        filled = np.zeros(settings.samples, dtype=np.float32)
        filled[: len(sound)] = sound[: settings.samples]
        return filled


@dataclass(frozen=True)
class Embedder:
    """Adds the CLIP embeddings of the frames as they are stored; loads CLIP once a process, when first needed."""

    clip_folder: Path
    frames: int

    def __call__(self, cut: Cut) -> Cut:
        """Return the same clips with their embeddings."""
        with _timed(cut.seconds, "clip"):
            if cut.files:
                pictures = [picture for files in cut.files.values() for picture in decode_frames(files)]
                rows = self._embed(pictures).reshape(len(cut.files), self.frames, -1)
                for files, embeddings in zip(cut.files.values(), rows, strict=True):
                    files["embeddings.npy"] = encode_embeddings(embeddings)
        return cut

    def _embed(self, pictures: list[Image]) -> NDArray[np.float32]:
        """Embed in batches of one size, filled up: kernels are chosen by shape, and shards must come out the same."""
        clip, accelerator = _load_clip(self.clip_folder)
        size = _GPU_BATCH
        if accelerator.device.type == "cpu":
            size = self.frames
            torch.set_num_threads(1)  # a process a core; and sums in another order would give other bytes
        rows = []
        for start in range(0, len(pictures), size):
            batch = pictures[start : start + size]
            with accelerator.autocast():
                embedded = clip.encode_images(batch + batch[-1:] * (size - len(batch)))
            rows.append(embedded[: len(batch)].float().cpu().numpy())
        return np.concatenate(rows)


@lru_cache(maxsize=1)
def _load_clip(folder: Path) -> tuple[ClipEncoder, Accelerator]:
    accelerator = Accelerator.choose("auto")
    return ClipEncoder.load(folder, accelerator.device), accelerator


@contextmanager
def _timed(seconds: Seconds, stage: str) -> Iterator[None]:
    start = time.perf_counter()
    try:
        yield
    finally:
        seconds[stage] += time.perf_counter() - start
