"""What a run tells while it lasts, and what it gives back."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from clipsonic.config import GenerationSettings


@dataclass(frozen=True, kw_only=True, eq=False)
class Progress:
    """Where a run stands; handed to the caller's callback, which may raise `Cancelled` to stop the run.

    Attributes:
        stage: "loading clip" (or another part), "embedding", "prior", "denoising", "vocoder" or "scoring".
        step: Steps of this stage that are done, from 0.
        total: Steps of this stage altogether.
        preview: Computes the denoised log-mels as they stand, float32, shape (audios, n_mels, frames), those of
            shorter sounds filled up with silence; only while denoising. Of several candidates it shows the first.
    """

    stage: str
    step: int
    total: int
    preview: Callable[[], np.ndarray] | None = None


Callback = Callable[[Progress], None]


@dataclass(frozen=True, kw_only=True, eq=False)
class ClipSonicAudio:
    """One sound, and what it was made from.

    Attributes:
        method: One of `METHODS`.
        prompt: The prompt as it was given, if it was made from one.
        image: The picture's name, if it was made from one.
        video: The video's name, if it was made from one.
        audio: The name of the sound, if it was made from one.
        toward: The text or the picture's name that the query was morphed towards, if there was one.
        seed: What gives this very sound again as `seed` with `num_audios=1`.
        score: Clip-Score: the cosine of this sound to its query, both embedded into CLIP's space; None if the model
            has no part "audio_clip".
        waveform: Sound in [-1, 1], float32, shape (samples,).
        mel: Natural-log mel magnitudes, float32, shape (n_mels, frames).
        embedding: The L2-normalised embedding the denoiser was conditioned on, float32, shape (embedding_dim,); for a
            video the mean over its length.
    """

    method: str
    prompt: str | None
    image: str | None
    video: str | None = None
    audio: str | None = None
    toward: str | None = None
    seed: int
    score: float | None = None
    waveform: np.ndarray
    mel: np.ndarray
    embedding: np.ndarray

    @property
    def query(self) -> dict[str, str]:
        """What the sound was made from: the names in "prompt", "image", "video", "audio" and "toward" that it has."""
        kinds = {"prompt": self.prompt, "image": self.image, "video": self.video, "audio": self.audio}
        return {kind: name for kind, name in (kinds | {"toward": self.toward}).items() if name is not None}


@dataclass(frozen=True, kw_only=True, eq=False)
class ClipSonicOutput:
    """The sounds of one call, ordered by query, then variation, then method.

    Attributes:
        audios: One entry a sound.
        settings: The settings in force.
        sample_rate: Of every waveform, in Hz.
        timings: Seconds spent, by stage ("loading", "embedding", "prior", "denoising", "vocoder", "scoring") and in
            "total".
        model: The model's name.
        model_sha256: 64 hexadecimal digits that stand for all of its weights.
    """

    audios: tuple[ClipSonicAudio, ...]
    settings: GenerationSettings
    sample_rate: int
    timings: dict[str, float]
    model: str
    model_sha256: str

    @property
    def waveforms(self) -> np.ndarray:
        """All sounds in [-1, 1], float32, shape (audios, samples); they must be equally long."""
        return np.stack([audio.waveform for audio in self.audios])

    @property
    def mels(self) -> np.ndarray:
        """All natural-log mels, float32, shape (audios, n_mels, frames)."""
        return np.stack([audio.mel for audio in self.audios])

    @property
    def embeddings(self) -> np.ndarray:
        """All conditioning embeddings, float32, shape (audios, embedding_dim)."""
        return np.stack([audio.embedding for audio in self.audios])

    def tags(self, audio: ClipSonicAudio) -> dict[str, str]:
        """Return what a sound file should say about one of the sounds: the query, the settings and the model."""
        settings = self.settings.to_dict() | {"methods": [audio.method], "num_audios": 1, "seed": audio.seed}
        score = {} if audio.score is None else {"score": f"{audio.score:.4f}"}
        return (
            audio.query
            | score
            | {
                "method": audio.method,
                "seed": str(audio.seed),
                "settings": json.dumps(settings, ensure_ascii=False),
                "model": self.model,
                "model_sha256": self.model_sha256,
            }
        )
