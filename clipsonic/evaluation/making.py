"""Sounds made once: what an interrupted or repeated evaluation finds in its folder is not made again."""

from __future__ import annotations

import hashlib
import json
from collections import defaultdict
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from tqdm import tqdm

from clipsonic.audio import read_audio, write_audio
from clipsonic.config import GenerationSettings
from clipsonic.errors import MediaError
from clipsonic.evaluation.sets import Query, Sounds
from clipsonic.media import open_picture
from clipsonic.methods import NEEDS, TEXT_METHODS
from clipsonic.pipeline import ClipSonicPipeline
from clipsonic.queries import RANKER
from clipsonic.storage import slug

CHUNK = 4
"""Queries of one call to the pipeline: an interruption loses no more."""
UNCONDITIONAL, ORACLE = "unconditional", "oracle"
_PARTS = ("clip", "denoiser", "refiner", "scheduler", "vocoder")
_PRIOR_SETTINGS = ("prior_num_inference_steps", "prior_guidance_scale")

Job = tuple[Query, int, str, Path]
"""A query, a seed, a method, and the file that its sound belongs in."""


class Maker:
    """Makes sounds with one model and keeps them as files, named after all that they depend on.

    Attributes:
        pipeline: The model.
        made: How many sounds were made, not found.
    """

    def __init__(self, pipeline: ClipSonicPipeline, folder: Path) -> None:
        """Keep the sounds under `folder`."""
        self.pipeline, self._folder = pipeline, folder
        self.made = 0

    def make(
        self, queries: Sequence[Query], settings: GenerationSettings, methods: Sequence[str], group: str
    ) -> dict[str, Sounds]:
        """Answer the queries, each once a seed and method.

        Args:
            queries: What to ask; all by prompts, by pictures or by sounds.
            settings: How; methods and seeds are replaced.
            methods: Those that suit such queries; or, alone, `UNCONDITIONAL`, which hears nothing of the query, or
                `ORACLE`, which is given the query's embedding as it is.
            group: The subfolder.

        Returns:
            The sounds of each method, as the files hold them.

        Raises:
            ClipSonicError: The pipeline cannot do what was asked, or a sound cannot be written.
        """
        jobs = [
            (query, query.seed + n, method, self._path(query, query.seed + n, settings, method, group))
            for query in queries
            for n in range(query.seeds)
            for method in methods
        ]
        missing = [job for job in jobs if not job[3].is_file()]
        with tqdm(total=len(missing), desc=f"{group} {'+'.join(methods)}", unit="sound", disable=None) as bar:
            for chunk in _chunks(missing):
                self._answer(chunk, settings)
                self.made += len(chunk)
                bar.update(len(chunk))
        results = {method: Sounds(waveforms=[], labels=[], sample_rate=self.pipeline.sample_rate) for method in methods}
        for query, _, method, path in jobs:
            results[method].add(query, self._read(path), path)
        return results

    def _answer(self, jobs: Sequence[Job], settings: GenerationSettings) -> None:
        """Make and write the sounds of jobs that share their seed; every query has the same methods."""
        seed = jobs[0][1]
        paths = {(id(query), method): path for query, _, method, path in jobs}
        queries = list({id(query): query for query, *_ in jobs}.values())
        methods = tuple(dict.fromkeys(method for _, _, method, _ in jobs))
        if methods in ((UNCONDITIONAL,), (ORACLE,)):
            null = self.pipeline.null_embedding
            embeddings = [null if query.embedding is None else query.embedding for query in queries]
            seeds = [_seed(query, seed) for query in queries]
            renderings = self.pipeline.render(embeddings, seeds, settings)
            for query, rendering in zip(queries, renderings, strict=True):
                write_audio(paths[id(query), methods[0]], rendering.waveform, self.pipeline.sample_rate)
            return
        overrides: dict[str, Any] = {"methods": methods, "seed": seed, "num_audios": 1}
        output = self.pipeline(**asked(queries), settings=settings, **overrides)
        for number, audio in enumerate(output.audios):
            path = paths[id(queries[number // len(methods)]), audio.method]
            write_audio(path, audio.waveform, output.sample_rate, output.tags(audio))

    def _path(self, query: Query, seed: int, settings: GenerationSettings, method: str, group: str) -> Path:
        identity = {
            "parts": self._parts(method, settings),
            "settings": _settings(method, settings),
            "query": None if method == UNCONDITIONAL else _identity(query),
            "seed": _seed(query, seed) if method == UNCONDITIONAL else seed,
            "device": [self.pipeline.folder.accelerator.device.type, str(self.pipeline.folder.accelerator.dtype)],
        }
        key = hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()[:16]
        return self._folder / group / method / f"{slug(query.label)}-s{seed}-{key}.flac"

    def _parts(self, method: str, settings: GenerationSettings) -> dict[str, str]:
        """Return the hashes of what the method makes use of, so that changing another part costs nothing."""
        names = [*_PARTS, *NEEDS.get(method, ()), RANKER if settings.candidates > 1 else "clip"]
        index = self.pipeline.folder.index
        return {name: self.pipeline.folder.part_sha256(name) for name in sorted(set(names)) if name in index.parts}

    def _read(self, path: Path) -> np.ndarray:
        try:
            return read_audio(path)[0]
        except MediaError as error:
            raise MediaError(f"{error}; delete it, and it will be made again") from error


def _chunks(jobs: Sequence[Job]) -> Iterator[list[Job]]:
    """Group jobs so that a call can answer them: one seed, and the same methods for every query."""
    methods: dict[tuple[int, int], list[Job]] = defaultdict(list)
    for job in jobs:
        methods[id(job[0]), job[1]].append(job)
    alike: dict[tuple[Any, ...], list[list[Job]]] = defaultdict(list)
    for own in methods.values():
        alike[own[0][1], tuple(method for _, _, method, _ in own)].append(own)
    for groups in alike.values():
        for start in range(0, len(groups), CHUNK):
            yield [job for own in groups[start : start + CHUNK] for job in own]


def asked(queries: Sequence[Query]) -> dict[str, Any]:
    """Return the queries as the pipeline takes them."""
    first = queries[0]
    if first.prompt is not None:
        return {"prompt": [query.prompt for query in queries]}
    if first.image is not None:
        return {"image": [query.image for query in queries]}
    return {"audio": [query.sound for query in queries]}


def _settings(method: str, settings: GenerationSettings) -> dict[str, Any]:
    """Return the settings that a method listens to."""
    values = settings.to_dict()
    dropped = {"methods", "num_audios", "seed", "morph"}
    if method not in ("pd", "sd"):
        dropped |= {*_PRIOR_SETTINGS}
    if method not in TEXT_METHODS:
        dropped |= {"template"}
    if method != "aq" or settings.strength == 1:
        dropped |= {"strength"}
    return {name: value for name, value in values.items() if name not in dropped}


def _identity(query: Query) -> str:
    """Return a text that no other query has."""
    if query.embedding is not None:
        return f"embedding {hashlib.sha256(query.embedding.numpy().tobytes()).hexdigest()}"
    if query.prompt is not None:
        return f"prompt {query.prompt}"
    if query.image is not None:
        picture = query.image if isinstance(query.image, Image.Image) else open_picture(query.image)
        return f"picture {picture.size} {hashlib.sha256(picture.convert('RGB').tobytes()).hexdigest()}"
    waveform, rate = query.sound or (np.zeros(0, np.float32), 0)
    return f"sound {rate} {hashlib.sha256(waveform.tobytes()).hexdigest()}"


def _seed(query: Query, seed: int) -> int:
    """Return the seed; without a condition one of the thing's own, or all things would have the same sounds."""
    if query.embedding is not None:
        return seed
    return (int(hashlib.sha256(query.label.encode()).hexdigest()[:7], 16) + seed) % 2**32
