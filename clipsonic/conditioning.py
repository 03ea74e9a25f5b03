"""From queries to what the denoiser is given: CLIP's three ways in, the priors, morphing, sounds to set out from."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional as F

from clipsonic.audio import log_mel, normalize_loudness, resample
from clipsonic.config import GenerationSettings
from clipsonic.denoiser import Denoiser
from clipsonic.media import Sound
from clipsonic.methods import NEEDS, PRIORS
from clipsonic.queries import Item, Query
from clipsonic.run import Run
from clipsonic.video import Video
from clipsonic.windows import Windows

NEARLY_PARALLEL = 1e-4
"""Sine of an angle below which two directions are mixed along the chord."""
REMEMBERED = ("mp", "mq")
"""Methods that project onto the picture memory."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Conditions:
    """What a call's items are conditioned on; every embedding is L2-normalised float32 on the CPU.

    Attributes:
        embeddings: One tensor an item, shape (1, embedding_dim), or (windows, embedding_dim) for a video.
        negatives: What to steer away from, one an item, shape (embedding_dim,); None for "no condition".
        references: What Clip-Score compares each item's sound with, shape (items, embedding_dim).
        starts: The log-mel that each item sets out from, see `start_mel`; None for noise alone.
    """

    embeddings: list[Tensor]
    negatives: list[Tensor] | None
    references: Tensor
    starts: list[Tensor | None]


def condition(
    run: Run, queries: Sequence[Query], items: Sequence[Item], toward: Query | None, settings: GenerationSettings
) -> Conditions:
    """Embed the queries, let the priors draw, and morph.

    A query and what it is morphed towards each go their own way first: the texts of a method that has a prior through
    that, pictures and sounds as they are; those that have a memory project what texts are looked up as, and pictures.

    Raises:
        CheckpointError: A part of the model is missing or broken.
        Cancelled: The callback asked to stop.
    """
    negative = Query(kind="prompt", name="", source=settings.negative_prompt) if settings.negative_prompt else None
    asked = [*queries, *(query for query in (toward, negative) if query)]
    rows = []
    for number, query in enumerate(asked):
        part = run.part("audio_clip" if query.kind == "audio" else "clip")
        run.report("embedding", number, len(asked))
        with run.timed("embedding"):
            rows.append(_embed(part, query, settings, run))
    run.report("embedding", len(asked), len(asked))
    raw = dict(zip(map(id, asked), rows, strict=True))
    embeddings, negatives = [], []
    moved = (*PRIORS, *REMEMBERED)
    number, total = 0, sum(item.method in moved for item in items)
    for item in items:
        way = _Way(run, item, settings)
        if item.method in moved:
            for part in NEEDS[item.method]:
                run.part(part)
            run.report("prior", number, total)
            number += 1
        embedding = way(item.query, raw[id(item.query)])
        if toward:
            embedding = slerp(embedding, way(toward, raw[id(toward)]), settings.morph)
        embeddings.append(embedding)
        if negative:
            negatives.append(way(negative, raw[id(negative)])[0])
    if total:
        run.report("prior", total, total)
    references = torch.stack([mean_direction(raw[id(item.query)]) for item in items])
    if toward:
        references = slerp(references, raw[id(toward)], settings.morph)
    starts = {id(query): start_mel(run, query, settings) for query in queries}
    return Conditions(
        embeddings=embeddings,
        negatives=negatives or None,
        references=references,
        starts=[starts[id(item.query)] for item in items],
    )


def start_mel(run: Run, query: Query, settings: GenerationSettings) -> Tensor | None:
    """Return the log-mel of a query sound, for less than all of it to be made anew; None for noise alone.

    The beginning of the sound is taken, brought to one loudness, near that of what the models have learnt from.

    Returns:
        Natural-log mel magnitudes on the CPU, float32, shape (n_mels, frames), as long as what is denoised: silence
        follows a shorter sound.
    """
    if settings.strength == 1 or not isinstance(query.source, Sound):
        return None
    mel = run.index.mel
    samples = Windows.lasting(query.duration_s(settings), mel, run.index.frames).span * mel.hop_length
    waveform = resample(query.source.waveform, query.source.sample_rate, mel.sample_rate)[:samples]
    level = torch.from_numpy(normalize_loudness(waveform, mel.sample_rate))
    return log_mel(F.pad(level, (0, samples - len(level))), mel)


class _Way:
    """How an item's embeddings go from CLIP to the denoiser."""

    def __init__(self, run: Run, item: Item, settings: GenerationSettings) -> None:
        self._run, self._item, self._settings = run, item, settings

    def __call__(self, query: Query, row: Tensor) -> Tensor:
        """Return what the method's prior draws from a text's embedding, or its memory projects, or `row` itself."""
        if self._item.method in REMEMBERED:
            return self._remember(query, row)
        if self._item.method in PRIORS and query.kind == "prompt":
            return self._draw(query, row, PRIORS[self._item.method])
        return row

    def _remember(self, query: Query, row: Tensor) -> Tensor:
        memory = self._run.part("memory")
        with self._run.timed("prior"), torch.inference_mode():
            told = self._run.part("prior").look_up(row) if query.kind == "prompt" else row
            return memory(told).cpu()

    def _draw(self, query: Query, row: Tensor, name: str) -> Tensor:
        prior = self._run.part(name)
        reads: dict[str, Any] = {}
        if getattr(prior, "needs_tokens", False):
            text, clip = self._settings.template.replace("{}", str(query.source)), self._run.part("clip")
            reads = {"tokens": clip.encode_tokens([text]), "no_text": clip.encode_tokens([""])}
        with self._run.timed("prior"), self._run.precision():
            drawn = prior.sample(
                row,
                num_inference_steps=self._settings.prior_num_inference_steps,
                guidance_scale=self._settings.prior_guidance_scale,
                generators=[torch.Generator().manual_seed(self._item.prior_seed)],
                **reads,
            )
        # Some priors draw embeddings of other lengths; the denoiser only knows unit ones.
        return F.normalize(drawn.float().cpu(), dim=-1)


def _embed(part: Any, query: Query, settings: GenerationSettings, run: Run) -> Tensor:
    """Embed one query by itself: a batch's padding and kernels would let one query's result depend on another.

    Returns:
        L2-normalised, float32 on the CPU, shape (1, embedding_dim), or (windows, embedding_dim) for a video.
    """
    source = query.source
    if isinstance(source, Sound):
        return part.embed(torch.from_numpy(source.waveform)[None], source.sample_rate).float().cpu()
    if isinstance(source, Video):
        index, pool = run.index, pooling(run.part("denoiser"))
        windows = Windows.lasting(query.duration_s(settings), index.mel, index.frames)
        frames = torch.cat([part.encode_images([frame]).cpu() for frame in source.frames])
        return by_window(frames, source.times, windows, index.mel.duration_s(1), pool)
    if isinstance(source, Image.Image):
        return part.encode_images([source]).cpu()
    return part.encode_text([settings.template.replace("{}", source)]).cpu()


def pooling(denoiser: Denoiser) -> Callable[[Tensor], Tensor]:
    """Return what makes one embedding of several frames': the denoiser's learned weights, or their mean."""
    if not denoiser.config.frame_attention:
        return mean_direction
    return lambda rows: rows[0] if len(rows) == 1 else denoiser.pool(rows.to(denoiser.null_embedding.device)).cpu()


def by_window(
    frames: Tensor,
    times: Sequence[float],
    windows: Windows,
    frame_s: float,
    pool: Callable[[Tensor], Tensor] | None = None,
) -> Tensor:
    """Make one embedding of a video's frames for each window of its sound.

    Args:
        frames: L2-normalised embeddings, float32, shape (video frames, embedding_dim).
        times: When each is shown, in seconds from the start.
        windows: Where the denoiser looks.
        frame_s: Seconds of one frame of the mel.
        pool: Embeddings of the frames in a window, shape (frames, embedding_dim), to one; their mean if left out.

    Returns:
        L2-normalised, float32, shape (windows, embedding_dim). A window without a frame has the one nearest its middle.
    """
    shown = torch.tensor(times, dtype=torch.float64)
    rows = []
    for start in windows.starts:
        begin, end = start * frame_s, (start + windows.size) * frame_s
        inside = (shown >= begin) & (shown < end)
        if not inside.any():
            inside[(shown - (begin + end) / 2).abs().argmin()] = True
        rows.append((pool or mean_direction)(frames[inside]))
    return torch.stack(rows)


def mean_direction(rows: Tensor) -> Tensor:
    """Return the L2-normalised mean of embeddings, shape (rows, embedding_dim); a single one as it is."""
    return rows[0] if len(rows) == 1 else F.normalize(rows.mean(0), dim=-1)


def slerp(start: Tensor, end: Tensor, share: float) -> Tensor:
    """Go along the great circle from one direction to another (Shoemake, 1985).

    Args:
        start: L2-normalised, float32, shape (rows, embedding_dim).
        end: L2-normalised, float32, shape (rows or 1, embedding_dim).
        share: 0 gives `start` and 1 gives `end`, to the bit.

    Returns:
        L2-normalised, float32, shape (rows, embedding_dim).
    """
    if share in (0, 1):
        return (start, end)[int(share)].expand_as(start).clone()
    angle = torch.acos((start * end).sum(-1, keepdim=True).clamp(-1, 1))
    near = angle.sin() < NEARLY_PARALLEL
    mixed = torch.lerp(start, end.expand_as(start), share)
    curved = (((1 - share) * angle).sin() * start + (share * angle).sin() * end) / angle.sin().clamp(
        min=NEARLY_PARALLEL
    )
    return F.normalize(torch.where(near, mixed, curved), dim=-1)
