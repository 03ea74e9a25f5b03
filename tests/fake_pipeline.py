"""A pipeline that sounds tones at once: the interface of the real one, for tests of the page around it."""

from __future__ import annotations

import time
import zlib
from collections import Counter
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch

from clipsonic.audio import log_mel
from clipsonic.config import GenerationSettings, MelConfig
from clipsonic.errors import PromptError
from clipsonic.media import open_picture
from clipsonic.methods import METHODS
from clipsonic.pipeline import ClipSonicAudio, ClipSonicOutput, Progress

MEL = MelConfig()
FITTING = {"prompt": ("zs", "pd", "sd"), "image": ("iq", "mq"), "video": ("iq", "mq"), "audio": ("aq",)}
SAMPLES = 352 * MEL.hop_length


class FakePipeline:
    """Answers a query with tones whose pitch depends on the query, the method and every setting."""

    def __init__(self, seconds_a_step: float = 0.0, methods: tuple[str, ...] = METHODS) -> None:
        self.folder = SimpleNamespace(index=SimpleNamespace(mel=MEL), sha256="0" * 64)
        self.methods = methods
        self.seconds_a_step = seconds_a_step
        self.calls: list[GenerationSettings] = []
        self.queries: list[dict[str, Any]] = []
        self.steps = 0
        self.steps_of: Counter[str] = Counter()
        self.stopped = 0

    def __call__(self, *, settings: GenerationSettings, callback: Any, **query: Any) -> ClipSonicOutput:
        self.calls.append(settings)
        self.queries.append(query)
        toward = query.pop("toward", None)
        if not any(query.values()):
            raise PromptError("the prompt is empty; say what you want to hear")
        audios = [
            self._audio(kind, asked, toward, method, settings.seed + variation, settings)
            for kind, asked in ((kind, query[kind]) for kind in FITTING if kind in query)
            for variation in range(settings.num_audios)
            for method in settings.methods
            if method in FITTING[kind]
        ]
        try:
            whose = str(next(filter(None, query.values())))
            self._report(whose, settings.num_inference_steps, np.stack([audio.mel for audio in audios]), callback)
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

    def _audio(self, kind, asked, toward, method, seed, settings) -> ClipSonicAudio:
        asked = getattr(asked, "source", asked)  # an opened video
        content = Path(asked).read_bytes() if kind != "prompt" else b""
        if kind == "image":
            open_picture(asked)
        named = {kind: asked if kind == "prompt" else Path(asked).name}
        key = repr((named, str(toward), method, seed, settings.to_dict() | {"seed": seed, "num_audios": 1})).encode()
        hertz = 200 + zlib.crc32(key + content) % 3000
        samples = SAMPLES if not settings.duration_s else round(settings.duration_s * MEL.sample_rate)
        seconds = torch.arange(samples) / MEL.sample_rate
        wave = 0.4 * torch.sin(2 * torch.pi * hertz * seconds) * torch.exp(-seconds)
        return ClipSonicAudio(
            method=method,
            **({"prompt": None, "image": None} | named),
            toward=None if toward is None else str(toward),
            seed=seed,
            score=0.25 if "aq" in self.methods else None,
            waveform=wave.numpy(),
            mel=log_mel(wave, MEL).numpy(),
            embedding=np.zeros(4, np.float32),
        )

    def _report(self, whose: str, steps: int, mels: np.ndarray, callback: Any) -> None:
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
            self.steps_of[whose] += 1
            time.sleep(self.seconds_a_step)
        callback(Progress(stage="vocoder", step=1, total=1))
