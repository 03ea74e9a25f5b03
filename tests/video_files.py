"""Video files for tests, made by PyAV alone: moving pictures, tones, and everything that goes wrong in the wild."""

from __future__ import annotations

import struct
from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path

import av
import numpy as np

CODECS = {
    ".mp4": ("libx264", "aac", 44100),
    ".webm": ("libvpx", "libopus", 48000),
    ".mkv": ("mpeg4", "flac", 22050),
    ".avi": ("mpeg4", "mp3", 44100),
    ".mov": ("mjpeg", "pcm_s16le", 16000),
}
FPS = 10


def write_video(
    path: Path,
    seconds: float,
    *,
    tones: Sequence[float] = (440.0,),
    times: Sequence[float] | None = None,
    size: tuple[int, int] = (64, 48),
    fragmented: bool = False,
) -> Path:
    """Write a video whose grey value rises by 20 a second and whose sound tracks are tones (0 Hz is silence).

    Args:
        path: Where to; the suffix chooses container and codecs.
        seconds: Its length.
        tones: Hertz of each sound track; none means a silent film.
        times: When each picture is shown, in seconds; 10 a second if left out.
        size: Width and height.
        fragmented: Write an mp4 that can be read up to where it was cut off.
    """
    video_codec, sound_codec, rate = CODECS[path.suffix]
    path.parent.mkdir(parents=True, exist_ok=True)
    options = {"movflags": "frag_keyframe+empty_moov"} if fragmented else {}
    with av.open(str(path), "w", options=options) as container:
        video = container.add_stream(video_codec, rate=FPS, options={"g": "5", "bf": "0"})
        video.width, video.height = size
        video.pix_fmt = "yuvj420p" if video_codec == "mjpeg" else "yuv420p"
        tracks = [container.add_stream(sound_codec, rate=rate) for _ in tones]
        packets = []
        for time_s in np.arange(0, seconds, 1 / FPS) if times is None else times:
            frame = av.VideoFrame.from_ndarray(np.full((size[1], size[0], 3), grey(float(time_s)), np.uint8))
            frame.pts, frame.time_base = round(float(time_s) * 1000), Fraction(1, 1000)
            packets += video.encode(frame)
        packets += video.encode()
        for track, tone in zip(tracks, tones, strict=True):
            wave = 0.3 * np.sin(2 * np.pi * tone * np.arange(round(seconds * rate)) / rate)
            form = "s16" if sound_codec in ("flac", "pcm_s16le", "libopus") else "fltp"
            samples = (wave * 32767).astype(np.int16) if form == "s16" else wave.astype(np.float32)
            frame = av.AudioFrame.from_ndarray(samples[None], format=form, layout="mono")
            frame.sample_rate, frame.pts = rate, 0
            packets += [*track.encode(frame), *track.encode()]
        for packet in sorted(packets, key=lambda p: float((p.dts or 0) * p.time_base)):
            container.mux(packet)
    return path


def grey(time_s: float) -> int:
    """Return the grey value shown at a time."""
    return int(20 + 20 * time_s) % 256


def rotate_mp4(path: Path) -> None:
    """Write into an mp4 that its picture is to be turned a quarter clockwise, as telephones do."""
    data = path.read_bytes()
    upright = struct.pack(">9i", 1 << 16, 0, 0, 0, 1 << 16, 0, 0, 0, 1 << 30)
    turned = struct.pack(">9i", 0, 1 << 16, 0, -(1 << 16), 0, 0, 0, 0, 1 << 30)
    place = data.index(upright, data.index(b"tkhd"))
    path.write_bytes(data[:place] + turned + data[place + len(turned) :])
