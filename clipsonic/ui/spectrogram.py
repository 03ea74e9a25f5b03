"""Log-mel spectrograms as bare pictures, and where the page puts seconds and kilohertz beside them.

The page draws the axes itself, so that a preview costs about a millisecond and the labels follow the page's colours.
"""

from __future__ import annotations

import base64
import io
import math
from functools import cache
from typing import Any

import librosa
import numpy as np
import PIL.Image

from clipsonic.config import MelConfig

TICKS_HZ = (0, 500, 1000, 2000, 4000, 8000, 16000)
STEPS_S = (0.1, 0.2, 0.5, 1, 2, 5, 10, 20)
MOST_TICKS = 7
RANGE_DB = 80
WIDEST = 720
"""Pixels; the frames of longer sounds are averaged down to so many columns."""


def draw_spectrogram(mel: np.ndarray) -> PIL.Image.Image:
    """Draw a log-mel spectrogram, low notes at the bottom.

    Args:
        mel: Natural-log mel magnitudes, float32, shape (n_mels, frames).

    Returns:
        A palette picture of n_mels rows and a column a frame, at most `WIDEST`; the loudest 80 dB are coloured.
    """
    frames = mel.shape[1]
    if frames > WIDEST:
        edges = np.linspace(0, frames, WIDEST, endpoint=False).astype(int)
        mel = np.maximum.reduceat(mel, edges, axis=1)
    decibels = mel[::-1] * (20 / math.log(10))
    top = max(float(decibels.max()), -40.0)
    levels = np.clip((decibels - (top - RANGE_DB)) * (255 / RANGE_DB), 0, 255).astype(np.uint8)
    picture = PIL.Image.fromarray(np.ascontiguousarray(levels))
    picture.putpalette(_palette())
    return picture


def data_uri(picture: PIL.Image.Image) -> str:
    """Return a picture as a PNG inside its own address."""
    buffer = io.BytesIO()
    picture.save(buffer, "PNG", compress_level=1)
    return "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode()


def axes(config: MelConfig, frames: int) -> dict[str, list[dict[str, Any]]]:
    """Return the ticks of a spectrogram: their labels, and where they stand as shares of width or height."""
    low, high = librosa.hz_to_mel([config.fmin, config.fmax])
    hertz = [hz for hz in TICKS_HZ if config.fmin <= hz <= config.fmax]
    heights = (librosa.hz_to_mel(hertz) - low) / (high - low)
    duration_s = config.duration_s(frames)
    step = next((step for step in STEPS_S if duration_s / step <= MOST_TICKS), STEPS_S[-1])
    times = np.arange(0, duration_s, step)
    return {
        "khz": [{"at": round(float(y), 4), "label": f"{hz / 1000:g}"} for hz, y in zip(hertz, heights, strict=True)],
        "seconds": [{"at": round(float(t / duration_s), 4), "label": f"{t:g}"} for t in times.round(2)],
    }


@cache
def _palette() -> bytes:
    """Return 256 RGB colours from black over purple to light yellow: matplotlib's magma."""
    import matplotlib

    colours = matplotlib.colormaps["magma"](np.linspace(0, 1, 256))[:, :3]
    return (colours * 255).round().astype(np.uint8).tobytes()
