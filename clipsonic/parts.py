"""How each part of a model is loaded; importing this imports every network there is."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from clipsonic.audio_clip import AudioClip
from clipsonic.clap import load_encoder
from clipsonic.denoiser import Denoiser
from clipsonic.device import Accelerator
from clipsonic.memory import PictureMemory
from clipsonic.storage import read_json
from clipsonic.token_prior import load_prior
from clipsonic.vocoder import load_vocoder

SCHEDULER_NAME = "scheduler_config.json"
LOADERS: dict[str, Callable[[Path, Accelerator], Any]] = {
    "clip": lambda folder, on: load_encoder(folder, device=str(on.device)),
    "prior": lambda folder, on: on.prepare(load_prior(folder, device="cpu")),
    "supervised_prior": lambda folder, on: on.prepare(load_prior(folder, device="cpu")),
    "memory": lambda folder, on: PictureMemory.load(folder, device=on.device),
    "audio_clip": lambda folder, on: AudioClip.load(folder, device=on.device),
    "denoiser": lambda folder, on: on.prepare(Denoiser.load(folder, device="cpu")),
    "refiner": lambda folder, on: on.prepare(Denoiser.load(folder, device="cpu")),
    "scheduler": lambda folder, on: read_json(folder / SCHEDULER_NAME),
    "vocoder": lambda folder, on: load_vocoder(folder, device=str(on.device)),
}
