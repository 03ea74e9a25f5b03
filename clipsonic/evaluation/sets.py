"""Sets of sounds to judge: what is asked of the pipeline, and what it answers."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from tqdm import tqdm

from clipsonic.audio import log_mel, write_audio
from clipsonic.config import GenerationSettings
from clipsonic.evaluation.corpus import PROMPTS, Held, read_pairs
from clipsonic.pipeline import ClipSonicPipeline

IMAGE_METHODS = ("iq",)


@dataclass(frozen=True, kw_only=True, eq=False)
class Query:
    """One thing asked for, by a prompt or by a picture.

    Attributes:
        label: The thing.
        prompt: How it is named, or None.
        image: How it looks, or None.
        seed: The first seed.
        seeds: How many sounds to make, with successive seeds.
    """

    label: str
    prompt: str | None = None
    image: Image.Image | Path | None = None
    seed: int = 0
    seeds: int = 1


@dataclass(frozen=True, kw_only=True, eq=False)
class Sounds:
    """Sounds of one row of the report.

    Attributes:
        waveforms: In [-1, 1], float32, shape (samples,) each.
        labels: What each should be of.
        sample_rate: Hz.
    """

    waveforms: list[np.ndarray]
    labels: list[str]
    sample_rate: int


def prompt_queries(things: Iterable[str], seeds: int) -> list[Query]:
    """Ask for each thing by its own prompt of `prompts/canonical.csv`, or by its bare name if it has none there."""
    prompts = {label: prompt for prompt, label in read_pairs(PROMPTS / "canonical.csv", "prompt")}
    return [Query(label=thing, prompt=prompts.get(thing, thing), seeds=seeds) for thing in things]


def frame_queries(held: Sequence[Held], things: Iterable[str], seeds: int) -> list[Query]:
    """Ask for each thing `seeds` times by frames of its held-out videos, each of another video while there are any."""
    frames: dict[str, list[Image.Image]] = {thing: [] for thing in things}
    for video in held:
        frames[video.label].append(video.frame)
    return [
        Query(label=thing, image=own[seed % len(own)], seed=seed)
        for thing, own in frames.items()
        for seed in range(seeds if own else 0)
    ]


def file_queries(path: Path, column: str, known: Iterable[str], seeds: int) -> list[Query]:
    """Ask by the prompts or pictures of a CSV file, leaving out things the judge does not know.

    Args:
        path: The CSV file; pictures lie in `pictures/` beside it.
        column: "prompt" or "file".
        known: The things the judge knows.
        seeds: Sounds to make of each query.

    Raises:
        DataError: The file is missing or lacks a column.
    """
    known = set(known)
    pairs = [(value, label) for value, label in read_pairs(path, column) if label in known]
    if column == "file":
        return [Query(label=label, image=path.parent / "pictures" / name, seeds=seeds) for name, label in pairs]
    return [Query(label=label, prompt=prompt, seeds=seeds) for prompt, label in pairs]


def generate(
    pipeline: ClipSonicPipeline,
    queries: Sequence[Query],
    settings: GenerationSettings,
    methods: Sequence[str],
    folder: Path | None = None,
) -> dict[str, Sounds]:
    """Make the sounds that were asked for.

    Args:
        pipeline: The model.
        queries: What to ask; all by prompts or all by pictures.
        settings: How; methods and seeds are replaced.
        methods: With which of the methods that suit such queries.
        folder: Where to write the sounds, one folder a method; nowhere if left out.

    Returns:
        The sounds of each method.

    Raises:
        ClipSonicError: The pipeline cannot do what was asked, or a sound cannot be written.
    """
    results = {method: Sounds(waveforms=[], labels=[], sample_rate=pipeline.sample_rate) for method in methods}
    for number, query in enumerate(tqdm(queries, desc="+".join(methods), unit="query", disable=None)):
        overrides: dict[str, Any] = {"methods": tuple(methods), "seed": query.seed, "num_audios": query.seeds}
        output = pipeline(prompt=query.prompt, image=query.image, settings=settings, **overrides)
        for audio in output.audios:
            results[audio.method].waveforms.append(audio.waveform)
            results[audio.method].labels.append(query.label)
            if folder is not None:
                name = f"{number:03d}-{_slug(query.label)}-{audio.seed}.flac"
                write_audio(folder / audio.method / name, audio.waveform, output.sample_rate, output.tags(audio))
    return results


def _slug(text: str) -> str:
    return "-".join("".join(c if c.isalnum() else " " for c in text.lower()).split())[:40]


def real_sounds(held: Sequence[Held]) -> Sounds:
    """Return the held-out sounds as they are."""
    return Sounds(waveforms=[v.waveform for v in held], labels=[v.label for v in held], sample_rate=held[0].sample_rate)


@torch.inference_mode()
def copy_synthesis(pipeline: ClipSonicPipeline, held: Sequence[Held]) -> Sounds:
    """Return the held-out sounds after the model's vocoder has made them anew from their log-mels."""
    vocoder = pipeline.folder.part("vocoder")
    waveforms = []
    for video in tqdm(held, desc="vocoder", unit="sound", disable=None):
        mel = log_mel(torch.from_numpy(video.waveform)[None], vocoder.mel)
        waveforms.append(vocoder.decode(mel)[0].float().cpu().numpy())
    return Sounds(waveforms=waveforms, labels=[v.label for v in held], sample_rate=vocoder.mel.sample_rate)
