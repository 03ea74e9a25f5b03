"""Samples of a denoiser in training: sounds to listen to and spectrograms to look at."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from clipsonic.audio import write_audio
from clipsonic.config import MelConfig
from clipsonic.denoiser import Denoiser
from clipsonic.device import Accelerator
from clipsonic.sampling import sample_mel
from clipsonic.storage import write_whole
from clipsonic.vocoder import Vocoder

STEPS = 25
GUIDANCE = 3.0


def write_samples(
    denoiser: Denoiser,
    scheduler_config: dict[str, Any],
    embeddings: Tensor,
    vocoder: Vocoder | None,
    folder: Path,
    step: int,
    writer: Any,
    refiner: Denoiser | None = None,
) -> None:
    """Render some embeddings from always the same noise, and write `STEP.png` and `STEP-N.wav`.

    Args:
        denoiser: As it is by now.
        scheduler_config: What it is sampled with.
        embeddings: What to render, L2-normalised, float32, shape (sounds, embedding_dim).
        vocoder: Makes the sounds; without, only the picture is written.
        folder: Where to.
        step: The training step, for the names.
        writer: TensorBoard's, or None.
        refiner: What takes over from the denoiser, if anything does.
    """
    drawn = sample_mel(
        denoiser,
        scheduler_config,
        list(embeddings[:, None]),
        sampler="dpmpp-2m",
        num_inference_steps=STEPS,
        guidance_scale=GUIDANCE,
        generators=[torch.Generator().manual_seed(n) for n in range(len(embeddings))],
        refiner=refiner,
        accelerator=Accelerator(embeddings.device, torch.float32, len(embeddings)),
    )
    mels = torch.stack(drawn)
    _draw(mels, folder / f"{step:07d}.png", writer, step)
    if vocoder is None:
        return
    rate = MelConfig().sample_rate
    for number, waveform in enumerate(vocoder.decode(mels).cpu()):
        write_audio(folder / f"{step:07d}-{number}.wav", waveform.numpy(), rate)
        if writer is not None:
            writer.add_audio(f"samples/{number}", waveform[None], step, sample_rate=rate)


def _draw(mels: Tensor, path: Path, writer: Any, step: int) -> None:
    """Draw the log-mels below one another."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6, 1.5 * len(mels)), layout="constrained")
    for axes, mel in zip(figure.subplots(len(mels), squeeze=False)[:, 0], mels, strict=True):
        axes.imshow(mel.numpy(), origin="lower", aspect="auto", vmin=-9, vmax=1, cmap="magma")
        axes.set_axis_off()
    with write_whole(path) as temporary:
        figure.savefig(temporary, dpi=100)
    if writer is not None:
        writer.add_figure("samples/spectrograms", figure, step)
