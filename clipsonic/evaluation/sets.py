"""What is asked of a model, and the sets of sounds that are judged."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from tqdm import tqdm

from clipsonic.audio import log_mel, write_audio
from clipsonic.evaluation.corpus import PROMPTS, Held, read_pairs
from clipsonic.pipeline import ClipSonicPipeline
from clipsonic.storage import slug


@dataclass(frozen=True, kw_only=True, eq=False)
class Query:
    """One thing asked for, by a prompt, a picture, a sound or an embedding.

    Attributes:
        label: The thing.
        prompt: How it is named, or None.
        image: How it looks, or None.
        sound: How it sounds, float32, shape (samples,), and the rate in Hz, or None.
        embedding: What the denoiser is given as it is, L2-normalised, float32, shape (embedding_dim,), or None.
        seed: The first seed.
        seeds: How many sounds to make, with successive seeds.
    """

    label: str
    prompt: str | None = None
    image: Image.Image | Path | None = None
    sound: tuple[np.ndarray, int] | None = None
    embedding: Tensor | None = None
    seed: int = 0
    seeds: int = 1


@dataclass(frozen=True, kw_only=True, eq=False)
class Sounds:
    """Sounds of one row of the report.

    Attributes:
        waveforms: In [-1, 1], float32, shape (samples,) each.
        labels: What each should be of.
        sample_rate: Hz.
        files: Where each lies, for people to listen to; may be empty.
        prompts: The prompt each was asked for by, where it is not the thing's own; may be empty.
        pictures: The picture each was asked for by, where it is not a held-out frame; may be empty.
    """

    waveforms: list[np.ndarray]
    labels: list[str]
    sample_rate: int
    files: list[Path] = field(default_factory=list)
    prompts: list[str | None] = field(default_factory=list)
    pictures: list[Image.Image | Path | None] = field(default_factory=list)

    def add(self, query: Query, waveform: np.ndarray, file: Path) -> None:
        """Append a sound that a query was answered by."""
        self.waveforms.append(waveform)
        self.labels.append(query.label)
        self.files.append(file)
        self.prompts.append(query.prompt)
        self.pictures.append(query.image)


def canonical_prompts(things: Iterable[str]) -> dict[str, str]:
    """Return each thing's own prompt of `prompts/canonical.csv`, or its bare name if it has none there."""
    prompts = {label: prompt for prompt, label in read_pairs(PROMPTS / "canonical.csv", "prompt")}
    return {thing: prompts.get(thing, thing) for thing in things}


def prompt_queries(things: Iterable[str], seeds: int) -> list[Query]:
    """Ask for each thing by its own prompt."""
    return [Query(label=thing, prompt=prompt, seeds=seeds) for thing, prompt in canonical_prompts(things).items()]


def frame_queries(held: Sequence[Held], things: Iterable[str], seeds: int) -> list[Query]:
    """Ask for each thing `seeds` times by frames of its held-out videos, each of another video while there are any."""
    return [Query(label=video.label, image=video.frame, seed=seed) for video, seed in _spread(held, things, seeds)]


def sound_queries(held: Sequence[Held], things: Iterable[str], seeds: int) -> list[Query]:
    """Ask for more like each thing's held-out sounds, in the order of `frame_queries`."""
    return [
        Query(label=video.label, sound=(video.waveform, video.sample_rate), seed=seed)
        for video, seed in _spread(held, things, seeds)
    ]


def _spread(held: Sequence[Held], things: Iterable[str], seeds: int) -> list[tuple[Held, int]]:
    videos: dict[str, list[Held]] = {thing: [] for thing in things}
    for video in held:
        videos[video.label].append(video)
    return [(own[seed % len(own)], seed) for own in videos.values() for seed in range(seeds if own else 0)]


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


def real_sounds(held: Sequence[Held], folder: Path) -> Sounds:
    """Return the held-out sounds as they are, written into `folder` for people to listen to."""
    return _written([video.waveform for video in held], [v.label for v in held], held[0].sample_rate, folder)


@torch.inference_mode()
def copy_synthesis(pipeline: ClipSonicPipeline, held: Sequence[Held], folder: Path) -> Sounds:
    """Return the held-out sounds after the model's vocoder has made them anew from their log-mels."""
    vocoder = pipeline.folder.part("vocoder")
    device = pipeline.folder.accelerator.device
    waveforms = []
    for video in tqdm(held, desc="vocoder", unit="sound", disable=None):
        mel = log_mel(torch.from_numpy(video.waveform)[None], vocoder.mel).to(device)
        waveforms.append(vocoder.decode(mel)[0].float().cpu().numpy())
    return _written(waveforms, [video.label for video in held], vocoder.mel.sample_rate, folder)


def _written(waveforms: list[np.ndarray], labels: list[str], sample_rate: int, folder: Path) -> Sounds:
    """Join sounds with the files they are written to."""
    files = [folder / f"{slug(label)}-{number:03d}.flac" for number, label in enumerate(labels)]
    for file, waveform in zip(files, waveforms, strict=True):
        write_audio(file, waveform, sample_rate)
    return Sounds(waveforms=waveforms, labels=labels, sample_rate=sample_rate, files=files)
