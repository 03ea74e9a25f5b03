"""Where the parts meet: a prompt, a picture, a video or a sound in, sound out."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Self

import torch
from torch import Tensor

from clipsonic.checkpoint import ModelFolder
from clipsonic.conditioning import Conditions, condition, mean_direction
from clipsonic.config import GenerationSettings
from clipsonic.device import Accelerator, memory_told
from clipsonic.errors import SettingsError
from clipsonic.hub import push_to_hub
from clipsonic.media import Picture, SoundSource
from clipsonic.methods import methods_of
from clipsonic.output import Callback, ClipSonicAudio, ClipSonicOutput, Progress
from clipsonic.queries import Item, Query, check_methods, check_prompt, list_items, read_queries, read_toward
from clipsonic.rendering import Rendering, render
from clipsonic.run import Run
from clipsonic.video import VideoSource

DEFAULT_MODEL = "checkpoints/mini"

__all__ = [
    "DEFAULT_MODEL",
    "ClipSonicAudio",
    "ClipSonicOutput",
    "ClipSonicPipeline",
    "Progress",
    "Rendering",
    "check_prompt",
]


class ClipSonicPipeline:
    """Text, pictures, videos or sounds to sound, with the parts of one model folder, each loaded when first needed.

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
        return methods_of(self.folder.index.parts)

    @property
    def sample_rate(self) -> int:
        """The sample rate of the sounds, in Hz."""
        return self.folder.index.mel.sample_rate

    @property
    def null_embedding(self) -> Tensor:
        """What stands for "no condition", float32 on the CPU, shape (embedding_dim,); `render` takes it like others."""
        return self.folder.part("denoiser").null_embedding.detach().float().cpu()

    def preload(self, *parts: str) -> None:
        """Load parts onto the device now, all if none is named, instead of when each is first needed.

        A ZeroGPU Space must do so while it starts: `spaces` takes note of what is placed on "cuda" then, and hands it
        to the process that holds the GPU of a request.

        Raises:
            CheckpointError: A part is missing or broken.
            OutOfMemoryError: The device cannot hold them.
        """
        with memory_told():
            for name in parts or self.folder.index.parts:
                self.folder.part(name)

    def push_to_hub(
        self,
        repo_id: str,
        *,
        private: bool | None = None,
        token: str | None = None,
        message: str = "Upload a CLIPSonic model",
    ) -> str:
        """Upload the model with its card, so that `from_pretrained(repo_id)` finds it; see `hub.push_to_hub`.

        Returns:
            The repository's address.

        Raises:
            CheckpointError: A part is missing or damaged.
            OutputError: The hub refuses or does not answer.
        """
        return push_to_hub(self.folder, repo_id, private=private, token=token, message=message)

    @torch.inference_mode()
    def __call__(
        self,
        prompt: str | list[str] | tuple[str, ...] | None = None,
        image: Picture | list[Picture] | tuple[Picture, ...] | None = None,
        *,
        video: VideoSource | list[VideoSource] | tuple[VideoSource, ...] | None = None,
        audio: SoundSource | list[SoundSource] | None = None,
        toward: str | Picture | None = None,
        settings: GenerationSettings | None = None,
        generator: torch.Generator | None = None,
        callback: Callback | None = None,
        **overrides: Any,
    ) -> ClipSonicOutput:
        """Make sounds for prompts, pictures, videos and sounds, in this order if there are several kinds.

        Args:
            prompt: One text or a list of them. They are rendered by those of `methods` that take text: zs, pd, sd, mp.
            image: One picture or a list of them (paths, bytes, PIL images or uint8 arrays); rendered by iq and mq.
            video: One video or a list of them (paths, or `Video` as `open_video` returns it); iq and mq on its
                moving pictures. The sound is as long as the video, up to `MAX_DURATION_S`.
            audio: One sound or a list of them (paths, bytes, or pairs of a float32 waveform and its rate in Hz); makes
                more like it by the method aq, or with a `strength` below 1 variations of it.
            toward: A text, or a picture that is not given as a `str`; every query is morphed towards it by `morph`.
            settings: What to do; the defaults of `GenerationSettings` if left out.
            generator: If given, the seed is drawn from it.
            callback: Called with a `Progress` before and after every step; may raise `Cancelled`.
            **overrides: Single fields of `GenerationSettings`, such as `seed=7` or `methods=("zs",)`.

        Returns:
            The sounds, ordered by query, then variation, then method. The same seed, settings and device give the
            same sound, whatever else is asked for in the same call.

        Raises:
            PromptError: A prompt is empty or too long, or there is no query.
            MediaError: A file cannot be used.
            SettingsError: A setting is out of range, or no method fits a query.
            CheckpointError: A part of the model is missing or broken.
            OutOfMemoryError: The device has too little memory even for a batch of one.
            Cancelled: The callback asked to stop.
        """
        settings, run = _settle(settings, overrides, generator), Run(self.folder, callback)
        sources = {"prompt": prompt, "image": image, "video": video, "audio": audio}
        items, end, conditions = self._condition(run, settings, toward, sources)
        renderings = render(
            run,
            conditions.embeddings,
            [item.noise_seed for item in items],
            [item.query.duration_s(settings) for item in items],
            settings,
            negatives=conditions.negatives,
            references=conditions.references,
            starts=conditions.starts,
            shown=settings.candidates,
        )
        audios = tuple(
            _audio(items[row], end, conditions.embeddings[row], renderings[row])
            for row in _best(renderings, settings.candidates)
        )
        return ClipSonicOutput(
            audios=audios,
            settings=settings,
            sample_rate=self.sample_rate,
            timings=run.timings(),
            model=self.folder.index.name,
            model_sha256=self.folder.sha256,
        )

    @torch.inference_mode()
    def embed(
        self,
        prompt: str | list[str] | tuple[str, ...] | None = None,
        image: Picture | list[Picture] | tuple[Picture, ...] | None = None,
        *,
        video: VideoSource | list[VideoSource] | tuple[VideoSource, ...] | None = None,
        audio: SoundSource | list[SoundSource] | None = None,
        toward: str | Picture | None = None,
        settings: GenerationSettings | None = None,
        callback: Callback | None = None,
        **overrides: Any,
    ) -> list[Tensor]:
        """Return what a call would give the denoiser, and make no sound of it: the upper half of a call.

        Args:
            prompt: As in a call.
            image: As in a call.
            video: As in a call.
            audio: As in a call.
            toward: As in a call.
            settings: Methods, template, prior, variations, morph and seed; the defaults if left out. There is no
                sound to choose by: `candidates` has no say.
            callback: As in a call.
            **overrides: Single fields of the settings.

        Returns:
            One tensor a sound, in the order of a call's sounds: L2-normalised, float32, on the CPU, shape
            (1, embedding_dim), or (windows, embedding_dim) for a video. `render` takes them.

        Raises:
            ClipSonicError: As in a call.
        """
        sources = {"prompt": prompt, "image": image, "video": video, "audio": audio}
        settled = dataclasses.replace(_settle(settings, overrides, None), candidates=1)
        return self._condition(Run(self.folder, callback), settled, toward, sources)[2].embeddings

    def _condition(
        self, run: Run, settings: GenerationSettings, toward: str | Picture | None, sources: dict[str, Any]
    ) -> tuple[list[Item], Query | None, Conditions]:
        """Read what is asked, and embed it: the items, what they are morphed towards, and their conditions."""
        queries, end = read_queries(settings, **sources), read_toward(toward)
        check_methods(queries, settings, self.folder.index.name, tuple(self.folder.index.parts))
        items = list_items(queries, settings)
        return items, end, condition(run, queries, items, end, settings)

    @torch.inference_mode()
    def render(
        self,
        embeddings: Tensor | Sequence[Tensor],
        seeds: Sequence[int],
        settings: GenerationSettings | None = None,
        *,
        durations_s: Sequence[float] | None = None,
        negatives: Tensor | None = None,
        references: Tensor | None = None,
        callback: Callback | None = None,
        **overrides: Any,
    ) -> list[Rendering]:
        """Make one sound of each embedding, whatever it comes from: the lower half of a call.

        What belongs to the upper half has no say here: methods, template, negative prompt (give `negatives`), prior,
        strength, candidates, variations and `settings.seed`.

        Args:
            embeddings: L2-normalised, or `null_embedding` for unconditional sound, float32, shape
                (items, embedding_dim); or a list with, for each item, shape (windows, embedding_dim).
            seeds: One an item; the same embedding, seed and settings give the same sound in any company.
            settings: Sampler, steps, guidance and duration; the defaults if left out.
            durations_s: Lengths in seconds, one an item, 0 for the model's own; `settings.duration_s` if left out.
            negatives: What to steer away from instead of "no condition", float32, shape (items, embedding_dim).
            references: What to score the sounds against, float32, shape (items, embedding_dim).
            callback: As in a call.
            **overrides: Single fields of the settings.

        Returns:
            The sounds in the order of the embeddings.

        Raises:
            SettingsError: A setting is out of range, or the numbers of embeddings and seeds differ.
            CheckpointError: A part of the model is missing or broken.
            OutOfMemoryError: The device has too little memory even for a batch of one.
            Cancelled: The callback asked to stop.
        """
        settings = _settle(settings, overrides, None)
        lengths = [settings.duration_s] * len(seeds) if durations_s is None else durations_s
        if not len(embeddings) == len(seeds) == len(lengths):
            raise SettingsError(
                f"there are {len(embeddings)} embeddings, {len(seeds)} seeds and {len(lengths)} durations; "
                "give one of each for every sound"
            )
        rows = [row.float().cpu() for row in embeddings]
        away = None if negatives is None else list(negatives.float().cpu())
        run = Run(self.folder, callback)
        return render(run, rows, seeds, lengths, settings, negatives=away, references=references)


def _best(renderings: Sequence[Rendering], candidates: int) -> list[int]:
    """Return the row of the best-scored candidate for each sound; the first of equals."""
    groups = [range(start, start + candidates) for start in range(0, len(renderings), candidates)]
    return [max(group, key=lambda row: renderings[row].score or 0.0) for group in groups]


def _audio(item: Item, toward: Query | None, embedding: Tensor, rendering: Rendering) -> ClipSonicAudio:
    """Join a sound with what it was made from."""
    names = {
        kind: item.query.name if kind == item.query.kind else None for kind in ("prompt", "image", "video", "audio")
    }
    return ClipSonicAudio(
        **names,
        toward=toward.name if toward else None,
        method=item.method,
        seed=item.seed,
        score=rendering.score,
        waveform=rendering.waveform,
        mel=rendering.mel,
        embedding=mean_direction(embedding).numpy(),
    )


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
