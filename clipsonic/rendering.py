"""From embeddings to sound: denoising, the vocoder, and the score."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from clipsonic.config import GenerationSettings
from clipsonic.errors import SettingsError
from clipsonic.queries import RANKER
from clipsonic.run import Run
from clipsonic.sampling import sample_mel
from clipsonic.windows import Windows

FADE_S = 0.02
"""A sound cut shorter than the denoiser's own length ends in a fade of so many seconds."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Rendering:
    """One sound.

    Attributes:
        waveform: Sound in [-1, 1], float32, shape (samples,).
        mel: Natural-log mel magnitudes, float32, shape (n_mels, frames).
        score: Cosine of the sound's embedding to its reference; None without a reference or a part to embed it.
    """

    waveform: np.ndarray
    mel: np.ndarray
    score: float | None


def render(
    run: Run,
    embeddings: Sequence[Tensor],
    seeds: Sequence[int],
    durations_s: Sequence[float],
    settings: GenerationSettings,
    *,
    negatives: Sequence[Tensor] | None = None,
    references: Tensor | None = None,
    starts: Sequence[Tensor | None] | None = None,
    shown: int = 1,
) -> list[Rendering]:
    """Make one sound of each embedding; see `ClipSonicPipeline.render`.

    Args:
        run: The call under way.
        embeddings: What each is conditioned on, L2-normalised, float32, shape (embedding_dim,), or one row a window.
        seeds: Of the start noises.
        durations_s: Lengths in seconds; 0 is the model's own.
        settings: Sampler, steps, guidance and strength are taken from here.
        negatives: What to steer away from instead of "no condition", shape (embedding_dim,) each.
        references: What to score the sounds against, shape (items, embedding_dim).
        starts: What each sets out from: natural-log mels, shape (n_mels, frames); None for noise alone.
        shown: Previews show every so manieth item.

    Raises:
        SettingsError: An item has neither one embedding nor one for each window.
    """
    index = run.index
    windows = [Windows.lasting(duration_s, index.mel, index.frames) for duration_s in durations_s]
    for embedding, window in zip(embeddings, windows, strict=True):
        if embedding.ndim > 1 and len(embedding) not in (1, len(window.starts)):
            raise SettingsError(
                f"there are {len(embedding)} embeddings for a sound of {len(window.starts)} windows; give one for each"
            )
    mels = _denoise(run, embeddings, seeds, windows, settings, negatives, starts, shown)
    waveforms = _vocode(run, mels)
    for number, (duration_s, window) in enumerate(zip(durations_s, windows, strict=True)):
        if duration_s:
            samples = round(duration_s * index.mel.sample_rate)
            fade = round(FADE_S * index.mel.sample_rate) if window.frames < window.span else 0
            waveforms[number] = _end(waveforms[number][:samples], fade)
    scores = _score(run, waveforms, references)
    return [
        Rendering(waveform=waveform, mel=mel.numpy(), score=score)
        for waveform, mel, score in zip(waveforms, mels, scores, strict=True)
    ]


def _denoise(
    run: Run,
    embeddings: Sequence[Tensor],
    seeds: Sequence[int],
    windows: Sequence[Windows],
    settings: GenerationSettings,
    negatives: Sequence[Tensor] | None,
    starts: Sequence[Tensor | None] | None,
    shown: int,
) -> list[Tensor]:
    """Return the log-mels on the CPU, float32, shape (n_mels, frames) each; all run as one batch."""
    denoiser, scheduler = run.part("denoiser"), run.part("scheduler")
    refiner = run.part("refiner") if "refiner" in run.index.parts else None

    def tell(step: int, total: int, preview: Callable[[], np.ndarray] | None) -> None:
        run.report("denoising", step, total, None if preview is None else lambda: preview()[::shown])

    with run.timed("denoising"):
        return sample_mel(
            denoiser,
            scheduler,
            embeddings,
            sampler=settings.sampler,
            num_inference_steps=settings.num_inference_steps,
            guidance_scale=settings.guidance_scale,
            generators=[torch.Generator().manual_seed(seed) for seed in seeds],
            windows=windows,
            negative_embeddings=negatives,
            starts=starts,
            strength=settings.strength,
            refiner=refiner,
            accelerator=run.folder.accelerator,
            callback=tell,
        )


def _vocode(run: Run, mels: Sequence[Tensor]) -> list[np.ndarray]:
    """Return one waveform a mel, float32, shape (samples,); one at a time, so that none depends on another."""
    vocoder = run.part("vocoder")
    waveforms = []
    for number, mel in enumerate(mels):
        run.report("vocoder", number, len(mels))
        with run.timed("vocoder"):
            decoded = vocoder.decode(mel[None].to(run.folder.accelerator.device))
            waveforms.append(decoded[0].float().cpu().numpy())
    run.report("vocoder", len(mels), len(mels))
    return waveforms


def _score(run: Run, waveforms: Sequence[np.ndarray], references: Tensor | None) -> list[float | None]:
    """Return the Clip-Scores (Sheffer & Adi, arXiv 2211.03089: the cosine of sound and picture in CLIP's space)."""
    if references is None or RANKER not in run.index.parts:
        return [None] * len(waveforms)
    encoder = run.part(RANKER)
    scores: list[float | None] = []
    for number, (waveform, reference) in enumerate(zip(waveforms, references, strict=True)):
        run.report("scoring", number, len(waveforms))
        with run.timed("scoring"):
            embedding = encoder.embed(torch.from_numpy(waveform)[None], run.index.mel.sample_rate)[0].float().cpu()
            scores.append(float(embedding @ reference))
    run.report("scoring", len(waveforms), len(waveforms))
    return scores


def _end(waveform: np.ndarray, fade: int) -> np.ndarray:
    """Return a copy that fades out over its last `fade` samples."""
    ended = waveform.copy()
    if fade:
        ended[-fade:] *= np.linspace(1, 0, fade, dtype=np.float32)
    return ended
