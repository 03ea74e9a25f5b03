"""Small videos made for tests, in the containers and conditions that people have."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path

import av
import numpy as np

Colour = tuple[int, int, int]


def make_video(
    path: Path,
    *,
    codec: str = "libx264",
    seconds: float = 2.0,
    fps: int = 8,
    size: tuple[int, int] = (64, 48),
    colours: tuple[Colour, ...] = ((255, 0, 0), (0, 0, 255)),
    rotation: int = 0,
    gaps: bool = False,
    sound: str = "",
) -> Path:
    """Write a video whose picture has each of `colours` in turn, its upper left corner white.

    Args:
        path: Where to; the suffix chooses the container.
        codec: FFmpeg's name of the encoder.
        seconds: Its length.
        fps: Pictures a second.
        size: Width and height as coded.
        colours: Each fills an equal share of the time.
        rotation: Degrees counterclockwise that the container asks players to turn it by.
        gaps: Leave out two of every three pictures in the second half, so that the rate varies.
        sound: FFmpeg's name of an encoder for a tone under it; none if empty.
    """
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=fps)
        stream.width, stream.height = size
        stream.pix_fmt = "rgb8" if codec == "gif" else "yuvj420p" if codec == "mjpeg" else "yuv420p"
        if rotation:
            stream.set_display_rotation(rotation)
        if codec == "libx264":
            stream.options = {"preset": "ultrafast", "g": "8"}
        track = container.add_stream(sound, rate=48_000) if sound else None
        count = int(seconds * fps)
        for number in range(count):
            if gaps and number > count // 2 and number % 3:
                continue
            picture = np.full((size[1], size[0], 3), colours[number * len(colours) // count], np.uint8)
            picture[: size[1] // 3, : size[0] // 3] = 255
            frame = av.VideoFrame.from_ndarray(picture, "rgb24")
            frame.pts, frame.time_base = number, Fraction(1, fps)
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
        if track is not None:
            tone = (np.sin(np.arange(int(seconds * 48_000)) / 20) * 8000).astype(np.int16)
            layout = track.codec_context.layout.name
            wide = np.repeat(tone, track.codec_context.layout.nb_channels)[None]
            frame = av.AudioFrame.from_ndarray(wide, format="s16", layout=layout)
            frame.sample_rate, frame.pts, frame.time_base = 48_000, 0, Fraction(1, 48_000)
            resampler = av.AudioResampler(track.codec_context.format.name, layout, 48_000, frame_size=1024)
            for piece in [*resampler.resample(frame), *resampler.resample(None)]:
                container.mux(track.encode(piece))
            container.mux(track.encode(None))
    return path
