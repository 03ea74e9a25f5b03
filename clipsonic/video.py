"""Videos that people hand in: pictures at a steady pace out of any container, never trusted."""

from __future__ import annotations

import io
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
from av.stream import Disposition
from PIL import Image

from clipsonic.config import MAX_DURATION_S
from clipsonic.errors import MediaError
from clipsonic.media import MAX_PICTURE_PIXELS, check_plain

VIDEO_FORMATS = (
    "3gp,asf,avi,dv,f4v,flv,gif,gxf,h264,hevc,ivf,m4v,matroska,mjpeg,mov,mp4,mpeg,mpegts,mpegvideo,mxf,nut,nuv,ogg,rm,"
    "roq,vob,webm,wtv,yuv4mpegpipe"
)
"""FFmpeg's names of the containers that are read; its others include playlists, which open further files."""

FRAMES_PER_S = 1.0
MAX_DECODED = 15_000
"""Frames that are decoded at most: 60 s at 250 a second."""
LONGEST_SIDE = 512
"""Pixels; frames are kept no larger, for CLIP sees less."""
_MAX_ERRORS = 100
_BUFFER = 1 << 20


@dataclass(frozen=True, kw_only=True, eq=False)
class Video:
    """What a video shows.

    Attributes:
        name: Its file's name.
        source: The file, for its pictures to be put together with a sound (`clipsonic.mux`).
        duration_s: Seconds from its first picture to the end of its last one, `max_duration_s` at most.
        whole_s: Seconds the container claims to last, or `duration_s` if it does not say.
        times: When each of `frames` is shown, in seconds from the first picture.
        frames: About one picture a second, at least one, upright RGB.
    """

    name: str
    source: Path | bytes
    duration_s: float
    whole_s: float
    times: tuple[float, ...]
    frames: tuple[Image.Image, ...]

    @property
    def cut(self) -> bool:
        """Whether it goes on after `duration_s`."""
        return self.whole_s > self.duration_s + 1 and self.duration_s >= MAX_DURATION_S


VideoSource = str | Path | bytes | Video


def open_video(source: VideoSource, max_duration_s: float = MAX_DURATION_S) -> Video:
    """Read the pictures of a video's beginning.

    Frame rates that vary, rotation noted by a camera and pixels that are not square are allowed for. What cannot be
    decoded is left out: a file cut short ends where its pictures end. The sound track is not looked at.

    Args:
        source: A path, a file's bytes, or a video that is open already.
        max_duration_s: What lies beyond is not read.

    Returns:
        The video.

    Raises:
        MediaError: It is missing, is no video, has no picture that can be decoded, or too large ones.
    """
    if isinstance(source, Video):
        return source
    kept = source if isinstance(source, bytes) else Path(source)
    name = "the video" if isinstance(kept, bytes) else kept.name
    with open_container(kept, name) as container:
        stream = picture_stream(container, name)
        whole_s = container.duration / av.time_base if container.duration else 0.0
        times, frames, end = _sample(container, stream, max_duration_s)
    if not frames:
        raise MediaError(f"{name} has no picture that can be decoded; give a whole video")
    duration_s = min(end, max_duration_s)
    return Video(
        name=name,
        source=kept,
        duration_s=duration_s,
        whole_s=max(whole_s, duration_s),
        times=tuple(times),
        frames=tuple(frames),
    )


@contextmanager
def open_container(source: Path | bytes, name: str) -> Iterator[Any]:
    """Open a video file for reading; nothing but this file is ever opened.

    Raises:
        MediaError: It is missing or no video.
    """
    try:
        if not isinstance(source, bytes):
            check_plain(source, name)
        file = io.BytesIO(source) if isinstance(source, bytes) else source.open("rb", buffering=_BUFFER)
    except (OSError, ValueError) as error:
        if isinstance(error, MediaError):
            raise
        reason = getattr(error, "strerror", None) or error
        raise MediaError(f"cannot read the video {name}: {reason}; give a path to a video file") from error
    with file:
        try:
            options = {"format_whitelist": VIDEO_FORMATS, "max_pixels": str(MAX_PICTURE_PIXELS)}
            container = av.open(file, metadata_errors="ignore", options=options, buffer_size=_BUFFER)
        except (av.error.FFmpegError, OSError, ValueError) as error:
            raise MediaError(f"{name} is not a video, or a damaged one; give one such as mp4, webm or mkv") from error
        with container:
            yield container


def picture_stream(container: Any, name: str) -> Any:
    """Return the stream of moving pictures; a cover that comes with a song is none.

    Raises:
        MediaError: There is none, or its pictures are too large.
    """
    streams = [s for s in container.streams.video if not s.disposition & Disposition.attached_pic]
    if not streams:
        raise MediaError(f"{name} has no moving pictures; give a video, or a sound as audio")
    stream = streams[0]
    if stream.codec_context is None:
        raise MediaError(f"{name} has pictures of a kind that cannot be decoded; convert it to mp4")
    width, height = stream.codec_context.width, stream.codec_context.height
    if width * height > MAX_PICTURE_PIXELS:
        raise MediaError(
            f"{name} has {width} x {height} pixels; allowed are {MAX_PICTURE_PIXELS // 10**6} million; scale it down"
        )
    return stream


def decode_frames(container: Any, stream: Any, max_duration_s: float) -> Iterator[tuple[float, float, Any]]:
    """Yield the pictures that can be decoded, until the time is over or nothing more can be read.

    Yields:
        When it is shown and when it ends, in seconds from the first picture, and PyAV's frame.
    """
    first, shown = None, -1.0
    step = float(1 / (stream.average_rate or Fraction(25)))
    for count, frame in enumerate(_decode(container, stream)):
        time = frame.time if frame.time is not None else shown + step + (first or 0.0)
        first = time if first is None else first
        shown = max(time - first, shown)
        if shown >= max_duration_s or count >= MAX_DECODED:
            return
        lasts = float(frame.duration * frame.time_base) if frame.duration and frame.time_base else step
        yield shown, shown + max(lasts, 1e-3), frame


def _decode(container: Any, stream: Any) -> Iterator[Any]:
    """Yield frames; packets that cannot be decoded are passed over, up to a limit."""
    errors = 0
    packets = container.demux(stream)
    while errors < _MAX_ERRORS:
        try:
            packet = next(packets)
        except StopIteration:
            return
        except (av.error.FFmpegError, OSError, IndexError):  # PyAV: a stream that turns up late
            return
        try:
            yield from packet.decode()
        except (av.error.FFmpegError, ValueError):
            errors += 1


def _sample(container: Any, stream: Any, max_duration_s: float) -> tuple[list[float], list[Image.Image], float]:
    """Return the times and pictures of about `FRAMES_PER_S`, and when the last picture ends."""
    times: list[float] = []
    frames: list[Image.Image] = []
    end, wanted, last = 0.0, 0.5 / FRAMES_PER_S, None
    for shown, ends, frame in decode_frames(container, stream, max_duration_s):
        end, last = ends, (shown, frame)
        if ends > wanted:
            times.append(shown)
            frames.append(_upright(frame))
            wanted = max(wanted, shown) + 1 / FRAMES_PER_S
    if not frames and last is not None:
        times, frames = [last[0]], [_upright(last[1])]
    return times, frames, end


def _upright(frame: Any) -> Image.Image:
    """Return a frame as it is to be seen, small."""
    picture = frame.to_image()
    ratio = getattr(frame, "sample_aspect_ratio", None) or 1
    width, height = picture.width * (float(ratio) if 0.1 < ratio < 10 else 1.0), picture.height
    scale = min(1.0, LONGEST_SIDE / max(width, height))
    size = (max(1, round(width * scale)), max(1, round(height * scale)))
    if size != picture.size:
        picture = picture.resize(size, Image.Resampling.BICUBIC, reducing_gap=2.0)
    return picture.rotate(frame.rotation, expand=True) if frame.rotation else picture
