"""Where the parts meet: a prompt or a picture in, sound out."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Self

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional as F

from clipsonic.checkpoint import ModelFolder
from clipsonic.clip import ClipEncoder
from clipsonic.config import MAX_PROMPT_LENGTH, METHODS, GenerationSettings
from clipsonic.device import Accelerator
from clipsonic.errors import PromptError, SettingsError
from clipsonic.media import Picture, open_picture
from clipsonic.output import Callback, ClipSonicAudio, ClipSonicOutput, Progress
from clipsonic.sampling import sample_mel

DEFAULT_MODEL = "checkpoints/mini"
IMAGE_METHODS = ("iq",)
PRIORS = {"pd": "prior", "sd": "supervised_prior"}
_PRIOR_STREAM = 2**32
"""Added to the seed for the prior's noise, so that it never repeats the denoiser's start noise."""


@dataclass(frozen=True, kw_only=True, eq=False)
class _Query:
    """A prompt or a picture, and the methods that render it."""

    methods: tuple[str, ...]
    prompt: str | None = None
    image: str | None = None
    picture: Image.Image | None = None


@dataclass(frozen=True, kw_only=True, eq=False)
class _Item:
    """One sound to make: a query, one of its methods and a seed."""

    query: _Query
    query_index: int
    method: str
    seed: int


class _Run:
    """What one call needs beside the model: the callback and the clock."""

    def __init__(self, callback: Callback | None) -> None:
        self._callback = callback
        self._start = time.perf_counter()
        self._seconds = dict.fromkeys(("loading", "embedding", "prior", "denoising", "vocoder"), 0.0)

    @contextmanager
    def timed(self, stage: str) -> Iterator[None]:
        """Add the block's seconds to `stage`."""
        start = time.perf_counter()
        yield
        self._seconds[stage] += time.perf_counter() - start

    def report(self, stage: str, step: int, total: int, preview: Callable[[], np.ndarray] | None = None) -> None:
        """Tell the caller; whatever the callback raises stops the run."""
        if self._callback is not None:
            self._callback(Progress(stage=stage, step=step, total=total, preview=preview))

    def timings(self) -> dict[str, float]:
        """Return seconds by stage and in total."""
        return self._seconds | {"total": time.perf_counter() - self._start}


class ClipSonicPipeline:
    """Text or pictures to sound, with the parts of one model folder, each loaded when first needed.

    Calls may come from several threads at once; nothing of a call stays behind.

    Attributes:
        folder: The opened model folder.
    """

    def __init__(self, folder: ModelFolder) -> None:
        """Wrap an opened model folder."""
        self.folder = folder

    @classmethod
    def from_pretrained(cls, folder_or_repo: str | Path = DEFAULT_MODEL, *, device: str = "auto") -> Self:
        """Open a model; its parts load later, on first use.

        Args:
            folder_or_repo: A folder with a `model_index.json`, or the id of a repository on the hub.
            device: "auto" (cuda, then mps, then cpu), "cpu", "cuda" or "mps".

        Raises:
            CheckpointError: There is no such model, or its index cannot be used.
            SettingsError: The device is unknown or not in this machine.
        """
        return cls(ModelFolder.open(folder_or_repo, Accelerator.choose(device)))

    @property
    def methods(self) -> tuple[str, ...]:
        """The methods this model can do, in the order of `METHODS`."""
        return tuple(m for m in METHODS if PRIORS.get(m, "clip") in self.folder.index.parts)

    @property
    def sample_rate(self) -> int:
        """The sample rate of the sounds, in Hz."""
        return self.folder.index.mel.sample_rate

    @torch.inference_mode()
    def __call__(
        self,
        prompt: str | list[str] | tuple[str, ...] | None = None,
        image: Picture | list[Picture] | tuple[Picture, ...] | None = None,
        *,
        settings: GenerationSettings | None = None,
        generator: torch.Generator | None = None,
        callback: Callback | None = None,
        **overrides: Any,
    ) -> ClipSonicOutput:
        """Make sounds for prompts, pictures or both; prompts come first.

        Args:
            prompt: One text or a list of them. They are rendered by those of `methods` that take text: zs, pd, sd.
            image: One picture or a list of them (paths, bytes, PIL images or uint8 arrays); rendered by the method iq.
            settings: What to do; the defaults of `GenerationSettings` if left out.
            generator: If given, the seed is drawn from it.
            callback: Called with a `Progress` before and after every step; may raise `Cancelled`.
            **overrides: Single fields of `GenerationSettings`, such as `seed=7` or `methods=("zs",)`.

        Returns:
            The sounds, ordered by query, then variation, then method. The same seed, settings and device give the
            same sound, whatever else is asked for in the same call.

        Raises:
            PromptError: A prompt is empty or too long, or there is neither prompt nor picture.
            MediaError: A picture cannot be used.
            SettingsError: A setting is out of range, or no method fits a query.
            CheckpointError: A part of the model is missing or broken.
            Cancelled: The callback asked to stop.
        """
        settings = _settle(settings, overrides, generator)
        queries = self._queries(prompt, image, settings)
        items = _items(queries, settings)
        run = _Run(callback)
        embeddings, negatives = self._embed(queries, items, settings, run)
        mels = self._denoise(embeddings, negatives, items, settings, run)
        waveforms = self._vocode(mels, run)
        audios = tuple(
            ClipSonicAudio(
                method=item.method,
                prompt=item.query.prompt,
                image=item.query.image,
                seed=item.seed,
                waveform=waveform,
                mel=mel.float().cpu().numpy(),
                embedding=embedding.float().cpu().numpy(),
            )
            for item, waveform, mel, embedding in zip(items, waveforms, mels, embeddings, strict=True)
        )
        return ClipSonicOutput(
            audios=audios,
            settings=settings,
            sample_rate=self.sample_rate,
            timings=run.timings(),
            model=self.folder.index.name,
            model_sha256=self.folder.sha256,
        )

    def _queries(
        self,
        prompt: str | list[str] | tuple[str, ...] | None,
        image: Picture | list[Picture] | tuple[Picture, ...] | None,
        settings: GenerationSettings,
    ) -> list[_Query]:
        """Check prompts, pictures and the methods that go with them."""
        prompts = [] if prompt is None else [*prompt] if isinstance(prompt, list | tuple) else [prompt]
        pictures = [] if image is None else [*image] if isinstance(image, list | tuple) else [image]
        if not prompts and not pictures:
            raise PromptError("there is neither a prompt nor a picture; give at least one")
        for_text = tuple(m for m in settings.methods if m not in IMAGE_METHODS)
        for_pictures = tuple(m for m in settings.methods if m in IMAGE_METHODS)
        self._check_methods(for_text, "a prompt", "zs, pd or sd", bool(prompts))
        self._check_methods(for_pictures, "a picture", "iq", bool(pictures))
        queries = [_Query(methods=for_text, prompt=check_prompt(text)) for text in prompts]
        for number, picture in enumerate(pictures, 1):
            name = Path(picture).name if isinstance(picture, str | Path) else f"picture {number}"
            queries.append(_Query(methods=for_pictures, image=name, picture=open_picture(picture)))
        return queries

    def _check_methods(self, methods: tuple[str, ...], query: str, allowed: str, asked: bool) -> None:
        if asked and not methods:
            raise SettingsError(f"methods has none that renders {query}; add {allowed}")
        for method in methods if asked else ():
            if method not in self.methods:
                raise SettingsError(
                    f"the model {self.folder.index.name} cannot do {method!r}, it has no {PRIORS[method]}; "
                    f"allowed: {', '.join(self.methods)}"
                )

    def _part(self, name: str, run: _Run) -> Any:
        """Return a part of the model, telling the caller if it has to be loaded first."""
        if not self.folder.is_loaded(name):
            run.report(f"loading {name}", 0, 1)
        with run.timed("loading"):
            return self.folder.part(name)

    def _embed(
        self, queries: list[_Query], items: list[_Item], settings: GenerationSettings, run: _Run
    ) -> tuple[Tensor, Tensor | None]:
        """Return what to condition on and, if there is a negative prompt, what to steer away from.

        One query at a time: a batch's padding and kernels would let one query's result depend on another.

        Returns:
            Two L2-normalised embeddings, float32, shape (items, embedding_dim).
        """
        clip = self._part("clip", run)
        rows = []
        for number, query in enumerate(queries):
            run.report("embedding", number, len(queries))
            with run.timed("embedding"):
                rows.append(_embed_query(clip, query, settings).cpu())
        run.report("embedding", len(queries), len(queries))
        embeddings = torch.cat(rows)[[item.query_index for item in items]]
        negatives = None
        if settings.negative_prompt:
            with run.timed("embedding"):
                negative = _embed_query(clip, _Query(methods=(), prompt=settings.negative_prompt), settings)
            negatives = negative.cpu().repeat(len(items), 1)
        self._apply_priors([e for e in (embeddings, negatives) if e is not None], items, settings, run)
        return embeddings, negatives

    def _apply_priors(self, batches: list[Tensor], items: list[_Item], settings: GenerationSettings, run: _Run) -> None:
        """Replace, in place, the text embeddings of the methods that have a prior by what the prior draws from them."""
        rows = [row for row, item in enumerate(items) if item.method in PRIORS]
        for number, row in enumerate(rows):
            prior = self._part(PRIORS[items[row].method], run)
            run.report("prior", number, len(rows))
            with run.timed("prior"), self._precision():
                for batch in batches:
                    drawn = prior.sample(
                        batch[row : row + 1],
                        num_inference_steps=settings.prior_num_inference_steps,
                        guidance_scale=settings.prior_guidance_scale,
                        generators=[torch.Generator().manual_seed(items[row].seed + _PRIOR_STREAM)],
                    )
                    # Some priors draw embeddings of other lengths; the denoiser only knows unit ones.
                    batch[row] = F.normalize(drawn[0].float(), dim=-1)
        if rows:
            run.report("prior", len(rows), len(rows))

    def _denoise(
        self, embeddings: Tensor, negatives: Tensor | None, items: list[_Item], settings: GenerationSettings, run: _Run
    ) -> Tensor:
        """Return the log-mels, float32, shape (items, n_mels, frames); all items run as one batch."""
        denoiser, scheduler = self._part("denoiser", run), self._part("scheduler", run)
        with run.timed("denoising"):
            return sample_mel(
                denoiser,
                scheduler,
                embeddings,
                sampler=settings.sampler,
                num_inference_steps=settings.num_inference_steps,
                guidance_scale=settings.guidance_scale,
                generators=[torch.Generator().manual_seed(item.seed) for item in items],
                negative_embeddings=negatives,
                accelerator=self.folder.accelerator,
                callback=partial(run.report, "denoising"),
            )

    def _vocode(self, mels: Tensor, run: _Run) -> list[np.ndarray]:
        """Return one waveform a mel, float32, shape (samples,); one at a time, so that none depends on another."""
        vocoder = self._part("vocoder", run)
        waveforms = []
        for number, mel in enumerate(mels):
            run.report("vocoder", number, len(mels))
            with run.timed("vocoder"):
                waveforms.append(vocoder.decode(mel[None])[0].float().cpu().numpy())
        run.report("vocoder", len(mels), len(mels))
        return waveforms

    def _precision(self) -> AbstractContextManager[None]:
        return self.folder.accelerator.autocast()


def check_prompt(prompt: object) -> str:
    """Return the prompt if it can be used.

    Raises:
        PromptError: It is not text, is empty, or is longer than `MAX_PROMPT_LENGTH` characters.
    """
    if not isinstance(prompt, str):
        raise PromptError(f"the prompt is {type(prompt).__name__}, expected text")
    if not prompt.strip():
        raise PromptError("the prompt is empty; say what should sound, such as 'a dog barking'")
    if len(prompt) > MAX_PROMPT_LENGTH:
        raise PromptError(f"the prompt has {len(prompt):,} characters; allowed are {MAX_PROMPT_LENGTH}; shorten it")
    return prompt


def _settle(
    settings: GenerationSettings | None, overrides: dict[str, Any], generator: torch.Generator | None
) -> GenerationSettings:
    """Join settings, overrides and the generator's seed."""
    names = [f.name for f in dataclasses.fields(GenerationSettings)]
    if unknown := sorted(set(overrides) - set(names)):
        raise SettingsError(f"there is no setting {', '.join(unknown)}; allowed: {', '.join(names)}")
    if "methods" in overrides:
        methods = overrides["methods"]
        overrides = overrides | {"methods": (methods,) if isinstance(methods, str) else tuple(methods)}
    settled = dataclasses.replace(settings or GenerationSettings(), **overrides)
    if generator is not None:
        seed = int(torch.randint(2**32 - settled.num_audios, (1,), generator=generator, device=generator.device))
        settled = dataclasses.replace(settled, seed=seed)
    return settled


def _items(queries: list[_Query], settings: GenerationSettings) -> list[_Item]:
    """List the sounds to make, by query, then variation, then method."""
    return [
        _Item(query=query, query_index=index, method=method, seed=settings.seed + variation)
        for index, query in enumerate(queries)
        for variation in range(settings.num_audios)
        for method in query.methods
    ]


def _embed_query(clip: ClipEncoder, query: _Query, settings: GenerationSettings) -> Tensor:
    """Return the CLIP embedding of a picture, or of a prompt in its template, shape (1, embedding_dim)."""
    if query.picture is not None:
        return clip.encode_images([query.picture])
    return clip.encode_text([settings.template.replace("{}", query.prompt or "")])
