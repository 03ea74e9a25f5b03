"""A pipeline that sounds tones at once: the interface of the real one, for tests of the page around it."""

from __future__ import annotations

import time
import zlib
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch

from clipsonic.audio import log_mel
from clipsonic.config import GenerationSettings, MelConfig
from clipsonic.errors import PromptError
from clipsonic.media import open_picture
from clipsonic.pipeline import ClipSonicAudio, ClipSonicOutput, Progress

MEL = MelConfig()
SAMPLES = 352 * MEL.hop_length


class FakePipeline:
    """Answers a query with tones whose pitch depends on the query, the method and every setting."""

    def __init__(self, seconds_a_step: float = 0.0) -> None:
        self.folder = SimpleNamespace(index=SimpleNamespace(mel=MEL))
        self.seconds_a_step = seconds_a_step
        self.calls: list[GenerationSettings] = []
        self.steps = 0
        self.stopped = 0

    def __call__(self, prompt=None, image=None, *, settings: GenerationSettings, callback: Any) -> ClipSonicOutput:
        self.calls.append(settings)
        if not (prompt or image):
            raise PromptError("the prompt is empty; say what you want to hear")
        name = image.rsplit("/", 1)[-1] if image else None
        picture = open_picture(image).tobytes() if image else b""
        audios = [
            self._audio(prompt, name, method, settings.seed + variation, settings, picture)
            for variation in range(settings.num_audios)
            for method in settings.methods
            if (method == "iq") == bool(image)
        ]
        try:
            self._report(settings.num_inference_steps, np.stack([audio.mel for audio in audios]), callback)
        except BaseException:
            self.stopped += 1
            raise
        return ClipSonicOutput(
            audios=tuple(audios),
            settings=settings,
            sample_rate=MEL.sample_rate,
            timings={"denoising": 0.1, "total": 0.1},
            model="fake",
            model_sha256="0" * 64,
        )

    def _audio(self, prompt, image, method, seed, settings, picture) -> ClipSonicAudio:
        key = repr((prompt, method, seed, settings.to_dict() | {"seed": seed, "num_audios": 1})).encode() + picture
        hertz = 200 + zlib.crc32(key) % 3000
        seconds = torch.arange(SAMPLES) / MEL.sample_rate
        wave = 0.4 * torch.sin(2 * torch.pi * hertz * seconds) * torch.exp(-seconds)
        return ClipSonicAudio(
            method=method,
            prompt=prompt,
            image=image,
            seed=seed,
            waveform=wave.numpy(),
            mel=log_mel(wave, MEL).numpy(),
            embedding=np.zeros(4, np.float32),
        )

    def _report(self, steps: int, mels: np.ndarray, callback: Any) -> None:
        callback(Progress(stage="loading clip", step=0, total=1))
        for step in range(steps + 1):
            noise = np.random.default_rng(step).normal(size=mels.shape).astype(np.float32)
            share = step / steps
            callback(
                Progress(
                    stage="denoising",
                    step=step,
                    total=steps,
                    preview=lambda: share * mels + (1 - share) * (noise - 5),  # noqa: B023 computed at once
                )
            )
            self.steps += 1
            time.sleep(self.seconds_a_step)
        callback(Progress(stage="vocoder", step=1, total=1))
