"""Sound and pictures out of video files of any kind, however damaged."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
from av.container import InputContainer
from numpy.typing import NDArray
from PIL import Image

from clipsonic.errors import MediaError

VIDEO_SUFFIXES = frozenset(
    f".{name}"
    for name in ("3gp", "asf", "avi", "flv", "m2ts", "m4v", "mkv", "mov", "mp4", "mpeg", "mpg", "mts", "mxf", "ogv")
    + ("ts", "vob", "webm", "wmv")
)
BROKEN = (av.error.FFmpegError, OSError, ValueError, ArithmeticError, LookupError, RuntimeError, MemoryError)
"""What decoders raise on files that are damaged or are no videos."""

_PREROLL_S = 0.5
"""Sound decoders start so much earlier, because the first packets after a jump come out wrong."""
_JITTER_S = 0.05
"""Sound that is so near to where the last packet ended follows on; containers round their time stamps."""
_READ_ON_S = 8.0
"""Pictures no further ahead than this are read on to; for others it is quicker to jump."""


class VideoReader:
    """One video file, open for reading sound and pictures at any time.

    Times are seconds from the start of the file. A damaged packet is left out, a damaged tail ends the file.
    """

    def __init__(self, path: Path, audio_stream: int = 0) -> None:
        """Open a video.

        Args:
            path: The file.
            audio_stream: Which of its sound tracks to read, from 0.

        Raises:
            MediaError: It is no video, or has no picture or no such sound track.
        """
        self._stack = ExitStack()
        try:
            self._open(path, audio_stream)
        except BaseException:
            self._stack.close()
            raise

    def __enter__(self) -> VideoReader:
        """Return self."""
        return self

    def __exit__(self, *_: object) -> None:
        """Close the file."""
        self._stack.close()

    def _open(self, path: Path, audio_stream: int) -> None:
        try:
            # Sound and pictures are read from containers of their own: each is elsewhere in the file.
            containers = [self._stack.enter_context(_open(path)) for _ in range(2)]
        except BROKEN as error:
            raise MediaError(f"is no video that can be read ({_reason(error)})") from error
        self._sounds, self._pictures = containers
        tracks = self._sounds.streams.audio
        videos = [s for s in self._pictures.streams.video if not s.disposition & _ATTACHED_PICTURE]
        if not videos or not videos[0].width:
            raise MediaError("has no picture")
        if not tracks:
            raise MediaError("has no sound track")
        if not 0 <= audio_stream < len(tracks):
            raise MediaError(f"has {len(tracks)} sound tracks, so none is number {audio_stream}; they count from 0")
        self._track, self._video = tracks[audio_stream], videos[0]
        for stream in (self._track, self._video):
            stream.codec_context.thread_count = 1  # the processes share the cores between files
        self._origin_s = (self._pictures.start_time or 0) / av.time_base
        self._frames: Iterator[tuple[float, Any]] = iter(())
        self._shown: tuple[float, Any] | None = None
        self._next: tuple[float, Any] | None = None

    def duration_s(self) -> float:
        """Return how long both the sound and the picture go on, as far as the file says."""
        ends = [_end_s(stream, self._origin_s) for stream in (self._track, self._video)]
        if known := [end for end in ends if end is not None]:
            return min(known)
        if self._pictures.duration:
            return self._pictures.duration / av.time_base
        return self._scanned_duration_s()

    def _scanned_duration_s(self) -> float:
        """Look at every packet: some recorders never write down how long they went on."""
        ends = {stream.index: 0.0 for stream in (self._track, self._video)}
        self._sounds.seek(0)
        for packet in _packets(self._sounds, [self._sounds.streams[index] for index in ends]):
            if packet.pts is not None and packet.time_base is not None:
                end = float((packet.pts + (packet.duration or 0)) * packet.time_base) - self._origin_s
                ends[packet.stream.index] = max(ends[packet.stream.index], end)
        return min(ends.values())

    def sound(self, start_s: float, duration_s: float) -> tuple[NDArray[np.float32], int]:
        """Decode a part of the sound track, mixed down to one channel.

        Args:
            start_s: Where it begins.
            duration_s: How long it is.

        Returns:
            Sound, float32, shape (samples,), and its rate in Hz; shorter than asked for if the track ends.

        Raises:
            MediaError: Nothing of it can be decoded.
        """
        track, rate, position, filled = np.zeros(0, dtype=np.float32), 0, None, 0
        for time_s, frame in self._decoded(self._sounds, self._track, max(0.0, start_s - _PREROLL_S)):
            if not rate:
                rate = frame.sample_rate
                track = np.zeros(round(duration_s * rate), dtype=np.float32)
            samples = _mono(frame, rate)
            begin = round((time_s - start_s) * rate)
            if position is not None and abs(begin - position) < _JITTER_S * rate:
                begin = position
            position = begin + len(samples)
            first, last = max(0, begin), min(len(track), position)
            if first < last:
                track[first:last] = samples[first - begin : last - begin]
                filled = last
            if position >= len(track):
                break
        if not filled:
            raise MediaError(f"has no sound at {start_s:.2f} s")
        return track[:filled], rate

    def pictures(self, times_s: Sequence[float], side: int) -> list[Image.Image]:
        """Decode the pictures that are shown at some times, upright and with square pixels.

        Args:
            times_s: In rising order.
            side: Pixels of the shorter side; smaller pictures stay as they are.

        Returns:
            As many RGB pictures as times.

        Raises:
            MediaError: There is none.
        """
        return [self._picture(time_s, side) for time_s in times_s]

    def _picture(self, time_s: float, side: int) -> Image.Image:
        ahead = self._next[0] if self._next else None
        if self._shown is None or time_s < self._shown[0] or (ahead is not None and time_s > ahead + _READ_ON_S):
            self._frames = self._decoded(self._pictures, self._video, time_s)
            self._shown, self._next = None, next(self._frames, None)
        while self._next is not None and (self._shown is None or self._next[0] <= time_s):
            self._shown, self._next = self._next, next(self._frames, None)
        if self._shown is None:
            raise MediaError(f"has no picture at {time_s:.2f} s")
        return _upright(self._shown[1], self._video.sample_aspect_ratio, side)

    def _decoded(self, container: InputContainer, stream: Any, from_s: float) -> Iterator[tuple[float, Any]]:
        """Decode from the last key frame before a time on, each frame with its own time."""
        try:
            container.seek(int((from_s + self._origin_s) / stream.time_base), stream=stream)
        except BROKEN:
            container.seek(0)
        time_s = from_s
        for packet in _packets(container, [stream]):
            try:
                frames = packet.decode()
            except BROKEN:
                continue
            for frame in frames:
                time_s = time_s if frame.time is None else frame.time - self._origin_s
                yield time_s, frame
                time_s += _length_s(frame, stream)


def find_videos(folder: Path) -> list[Path]:
    """Return the files below a folder whose suffix is a video's, sorted; hidden ones are left alone."""
    return sorted(
        path
        for path in folder.rglob("*")
        if path.suffix.lower() in VIDEO_SUFFIXES
        and not any(part.startswith(".") for part in path.relative_to(folder).parts)
        and path.is_file()
    )


_ATTACHED_PICTURE = av.stream.Disposition.attached_pic


def _open(path: Path) -> InputContainer:
    # A playlist that calls itself a video must not make us read other files or the network.
    return av.open(str(path), metadata_errors="replace", options={"protocol_whitelist": "file"})


def _reason(error: BaseException) -> str:
    return getattr(error, "strerror", None) or str(error) or type(error).__name__


def _packets(container: InputContainer, streams: Sequence[Any]) -> Iterator[Any]:
    """Yield packets until the file or what can be read of it ends."""
    try:
        yield from container.demux(*streams)
    except BROKEN:
        return


def _end_s(stream: Any, origin_s: float) -> float | None:
    if not stream.duration:
        return None
    return float(((stream.start_time or 0) + stream.duration) * stream.time_base) - origin_s


def _length_s(frame: Any, stream: Any) -> float:
    if isinstance(frame, av.AudioFrame):
        return float(frame.samples) / frame.sample_rate
    return float(1 / (stream.average_rate or 25))


def _mono(frame: av.AudioFrame, rate: int) -> NDArray[np.float32]:
    """Return a frame's samples mixed down; a track that changes its rate midway is brought to `rate`."""
    frame.pts = None
    resampler = av.AudioResampler(format="fltp", layout="mono", rate=rate)
    parts = [*resampler.resample(frame), *resampler.resample(None)]
    return np.concatenate([part.to_ndarray()[0] for part in parts]).astype(np.float32, copy=False)


def _upright(frame: av.VideoFrame, pixel_aspect: Fraction | None, side: int) -> Image.Image:
    """Scale a frame to square pixels and the wanted size, then turn it as its display matrix says."""
    width, height = frame.width * float(pixel_aspect or 1), float(frame.height)
    scale = min(1.0, side / min(width, height))
    size = max(1, round(width * scale)), max(1, round(height * scale))
    picture = frame.reformat(*size, format="rgb24", interpolation="AREA").to_image()
    return picture.rotate(frame.rotation, expand=True) if frame.rotation else picture
