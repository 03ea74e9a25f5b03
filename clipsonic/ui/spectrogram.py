"""Log-mel spectrograms as pictures, with time in seconds and frequency in kilohertz."""

from __future__ import annotations

import io
import math

import librosa
import numpy as np
import PIL.Image
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from clipsonic.config import MelConfig

INK = "#7d8494"
"""Readable on the light and on the dark page alike."""
TICKS_HZ = (0, 500, 1000, 2000, 4000, 8000, 16000)


def draw_spectrogram(mel: np.ndarray, config: MelConfig) -> PIL.Image.Image:
    """Draw a log-mel spectrogram on a transparent ground.

    Args:
        mel: Natural-log mel magnitudes, float32, shape (n_mels, frames).
        config: The mel settings, for the axes.

    Returns:
        RGBA picture, 720 × 340 pixels; the loudest 80 dB are coloured.
    """
    figure = Figure(figsize=(3.6, 1.7), dpi=200)
    figure.patch.set_alpha(0.0)
    axes = figure.add_axes((0.1, 0.21, 0.89, 0.77))
    decibels = mel * (20 / math.log(10))
    top = max(float(decibels.max()), -40.0)
    duration_s = config.duration_s(mel.shape[1])
    axes.imshow(
        decibels, origin="lower", aspect="auto", cmap="magma", vmin=top - 80, vmax=top, extent=(0, duration_s, 0, 1)
    )
    _label_axes(axes, config)
    buffer = io.BytesIO()
    FigureCanvasAgg(figure).print_png(buffer, pil_kwargs={"compress_level": 1})
    return PIL.Image.open(buffer)


def _label_axes(axes: Axes, config: MelConfig) -> None:
    ticks = [hz for hz in TICKS_HZ if config.fmin <= hz <= config.fmax]
    low, high = librosa.hz_to_mel([config.fmin, config.fmax])
    axes.set_yticks((librosa.hz_to_mel(ticks) - low) / (high - low), [f"{hz / 1000:g}" for hz in ticks])
    axes.xaxis.set_major_locator(MaxNLocator(nbins=6, steps=[1, 2, 5, 10]))
    axes.set_xlabel("seconds", color=INK, fontsize=7, labelpad=1)
    axes.set_ylabel("kHz", color=INK, fontsize=7, labelpad=1)
    axes.tick_params(colors=INK, labelsize=7, length=2, pad=2)
    for spine in axes.spines.values():
        spine.set_visible(False)
