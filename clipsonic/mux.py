"""A sound put under the pictures of a video."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
from PIL import Image

from clipsonic.audio import to_int16
from clipsonic.errors import MediaError
from clipsonic.storage import write_whole
from clipsonic.video import Video, decode_frames, open_container, picture_stream

COPIED = ("h264", "hevc", "av1", "vp9", "mpeg4")
"""Codings of pictures that mp4 holds and players know; others are coded anew as H.264."""
_ENCODER = "libx264"
_TICKS = 90_000
_BLOCK = 1024


def write_video(path: Path, video: Video, waveform: np.ndarray, sample_rate: int, title: str = "") -> bool:
    """Write an mp4 of a video's pictures with a sound of its own, whole or not at all.

    The pictures are copied as they are where mp4 can hold them, and coded anew otherwise. Both end with the sound.

    Args:
        path: Where to, ending in ".mp4".
        video: The video.
        waveform: Sound in [-1, 1], float32, shape (samples,).
        sample_rate: In Hz.
        title: What players show.

    Returns:
        Whether the pictures were copied.

    Raises:
        MediaError: The video can no longer be read.
        OutputError: The folder cannot be written to or the disk is full.
    """
    duration_s = len(waveform) / sample_rate
    with open_container(video.source, video.name) as container:
        copied = picture_stream(container, video.name).codec_context.name in COPIED
    if copied:
        try:
            _write(path, video, waveform, sample_rate, duration_s, title, copy=True)
            return True
        except (av.error.FFmpegError, MediaError):
            copied = False  # a stream that mp4 refuses after all
    try:
        _write(path, video, waveform, sample_rate, duration_s, title, copy=False)
    except av.error.FFmpegError as error:
        raise MediaError(f"cannot put a sound under {video.name}: {error}; convert it to mp4 first") from error
    return copied


def _write(
    path: Path, video: Video, waveform: np.ndarray, sample_rate: int, duration_s: float, title: str, *, copy: bool
) -> None:
    with (
        open_container(video.source, video.name) as source,
        write_whole(path) as temporary,
        av.open(str(temporary), "w", format="mp4", options={"movflags": "+faststart"}) as target,
    ):
        if title:
            target.metadata["title"] = title
        stream = picture_stream(source, video.name)
        pictures = target.add_stream_from_template(stream) if copy else _picture_encoder(target, stream, video)
        sound = target.add_stream("aac", rate=sample_rate, layout="mono")
        sound.bit_rate = 128_000
        if copy:
            written = _copy(source, stream, target, pictures, duration_s)
        else:
            written = _encode(source, stream, target, pictures, duration_s)
        if not written:
            raise MediaError(f"{video.name} has no picture that can be read; give a whole video")
        _add_sound(target, sound, waveform, sample_rate)


def _copy(source: Any, stream: Any, target: Any, pictures: Any, duration_s: float) -> int:
    """Copy the packets of a stream up to a time, starting at zero; returns how many."""
    count, first = 0, None
    packets = source.demux(stream)
    while True:
        try:
            packet = next(packets)
        except (StopIteration, OSError, av.error.FFmpegError):
            return count
        if packet.dts is None or packet.pts is None or packet.is_corrupt:
            continue
        first = packet.pts if first is None else first
        if float((packet.dts - first) * packet.time_base) >= duration_s:
            return count
        if float((packet.pts - first) * packet.time_base) >= duration_s:
            continue
        packet.pts, packet.dts = packet.pts - first, packet.dts - first
        packet.stream = pictures
        target.mux(packet)
        count += 1


def _picture_encoder(target: Any, stream: Any, video: Video) -> Any:
    """Add a stream of H.264 that keeps every picture's own time."""
    pictures = target.add_stream(_ENCODER, rate=Fraction(stream.average_rate or 25).limit_denominator(1001))
    turned = video.frames[0].width > video.frames[0].height
    width, height = stream.codec_context.width, stream.codec_context.height
    if (width > height) != turned and width != height:
        width, height = height, width
    pictures.width, pictures.height = _even(width), _even(height)
    pictures.pix_fmt = "yuv420p"
    pictures.codec_context.time_base = Fraction(1, _TICKS)
    return pictures


def _encode(source: Any, stream: Any, target: Any, pictures: Any, duration_s: float) -> int:
    """Code the pictures anew up to a time; returns how many."""
    count, last = 0, -1
    for shown, _, frame in decode_frames(source, stream, duration_s):
        ticks = round(shown * _TICKS)
        if ticks <= last:
            continue
        picture = frame.to_image()
        if frame.rotation:
            picture = picture.rotate(frame.rotation, expand=True)
        picture = picture.resize((pictures.width, pictures.height), Image.Resampling.BILINEAR)
        coded = av.VideoFrame.from_image(picture)
        coded.pts, coded.time_base, last = ticks, Fraction(1, _TICKS), ticks
        target.mux(pictures.encode(coded))
        count += 1
    target.mux(pictures.encode(None))
    return count


def _add_sound(target: Any, sound: Any, waveform: np.ndarray, sample_rate: int) -> None:
    """Code the sound as AAC."""
    samples = to_int16(waveform)
    for start in range(0, len(samples), _BLOCK):
        frame = av.AudioFrame.from_ndarray(samples[None, start : start + _BLOCK], format="s16", layout="mono")
        frame.sample_rate, frame.pts, frame.time_base = sample_rate, start, Fraction(1, sample_rate)
        target.mux(sound.encode(frame))
    target.mux(sound.encode(None))


def _even(pixels: int) -> int:
    return max(2, pixels // 2 * 2)
