"""What a caller may ask with: prompts, pictures, videos and sounds, checked before anything is computed."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from PIL import Image

from clipsonic.config import MAX_DURATION_S, MAX_PROMPT_LENGTH, GenerationSettings, is_text
from clipsonic.errors import PromptError, SettingsError
from clipsonic.media import Picture, Sound, SoundSource, open_picture, open_sound
from clipsonic.methods import AUDIO_METHODS, IMAGE_METHODS, NEEDS, TEXT_METHODS, methods_of
from clipsonic.video import Video, VideoSource, open_video

RANKER = "audio_clip"
"""The part that gives Clip-Scores."""
_KINDS = {
    "prompt": ("a prompt", TEXT_METHODS),
    "image": ("a picture", IMAGE_METHODS),
    "video": ("a video", IMAGE_METHODS),
    "audio": ("a sound", AUDIO_METHODS),
}


@dataclass(frozen=True, kw_only=True, eq=False)
class Query:
    """One thing to make sounds of, and the methods that render it.

    Attributes:
        kind: "prompt", "image", "video" or "audio".
        name: The prompt itself, or the file's name.
        source: What the name stands for, decoded; the text of a prompt.
        methods: Those asked for that fit the kind.
    """

    kind: str
    name: str
    source: str | Image.Image | Video | Sound
    methods: tuple[str, ...] = ()

    def duration_s(self, settings: GenerationSettings) -> float:
        """Return how long its sounds are to be; 0 is the model's own length, a video's is its own at most."""
        if isinstance(self.source, Video):
            return min(self.source.duration_s, settings.duration_s or MAX_DURATION_S)
        return settings.duration_s


@dataclass(frozen=True, kw_only=True, eq=False)
class Item:
    """One sound to make.

    Attributes:
        query: What it is made of.
        query_index: Which of the call's queries that is.
        method: One of the query's methods.
        seed: The seed of the sound that is kept.
        candidate: Which of the candidates for it this is, from 0.
    """

    query: Query
    query_index: int
    method: str
    seed: int
    candidate: int = 0

    @property
    def noise_seed(self) -> int:
        """The seed of the start noise: the first candidate has the sound's own."""
        return derive_seed(self.seed, f"candidate {self.candidate}") if self.candidate else self.seed

    @property
    def prior_seed(self) -> int:
        """The seed of the prior's noise, which must not be the denoiser's."""
        return derive_seed(self.noise_seed, "prior")


def derive_seed(seed: int, purpose: str) -> int:
    """Return another seed below 2**32, the same for the same two; torch's CPU generator only looks at 32 bits."""
    return int.from_bytes(hashlib.sha256(f"{purpose}: {seed}".encode()).digest()[:4], "big")


def read_queries(settings: GenerationSettings, **sources: Any) -> list[Query]:
    """Check and decode what the caller asks with.

    Args:
        settings: Their methods are shared out among the kinds of query.
        **sources: "prompt", "image", "video" and "audio": None, one or a list of them.

    Raises:
        PromptError: A prompt is empty or too long, or there is no query at all.
        MediaError: A file cannot be used.
        SettingsError: None of the methods fits a query.
    """
    queries = []
    for kind, (phrase, fitting) in _KINDS.items():
        methods = tuple(method for method in settings.methods if method in fitting)
        given = _as_list(sources[kind], kind)
        if given and not methods:
            *others, last = fitting
            allowed = f"{', '.join(others)} or {last}" if others else last
            raise SettingsError(f"methods has none that renders {phrase}; add {allowed}")
        queries += [_open(kind, source, number, methods) for number, source in enumerate(given, 1)]
    if not queries:
        raise PromptError("there is neither a prompt nor a picture, video or sound; give at least one")
    return queries


def read_toward(toward: str | Picture | None) -> Query | None:
    """Check what queries are to be morphed towards: text is a prompt, anything else (a `Path` too) a picture.

    Raises:
        PromptError: It is an empty or a too long text.
        MediaError: It is a picture that cannot be used.
    """
    if toward is None:
        return None
    return _open("prompt" if isinstance(toward, str) else "image", toward, 1)


def check_methods(queries: Sequence[Query], settings: GenerationSettings, model: str, parts: Sequence[str]) -> None:
    """Check that a model has the parts that the methods and the candidates need.

    Raises:
        SettingsError: It has not.
    """
    for method in (method for query in queries for method in query.methods):
        if missing := [part for part in NEEDS.get(method, ()) if part not in parts]:
            raise SettingsError(
                f"the model {model} cannot do {method!r}, it has no {' and no '.join(missing)};"
                f" allowed: {', '.join(methods_of(parts))}"
            )
    if settings.candidates > 1 and RANKER not in parts:
        raise SettingsError(
            f"candidates is {settings.candidates}, but the model {model} has no {RANKER} to rank them by; allowed: 1"
        )


def list_items(queries: Sequence[Query], settings: GenerationSettings) -> list[Item]:
    """List the sounds to make, by query, then variation, then method, then candidate."""
    return [
        Item(query=query, query_index=index, method=method, seed=settings.seed + variation, candidate=candidate)
        for index, query in enumerate(queries)
        for variation in range(settings.num_audios)
        for method in query.methods
        for candidate in range(settings.candidates)
    ]


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
    if not is_text(prompt):
        raise PromptError("the prompt holds halves of characters (surrogates); give whole ones")
    return prompt


def _as_list(sources: Any, kind: str) -> list[Any]:
    """Return the sources as a list; a tuple of a sound is a waveform with its rate, and one sound."""
    if sources is None:
        return []
    if isinstance(sources, list) or (isinstance(sources, tuple) and kind != "audio"):
        return list(sources)
    return [sources]


def _open(
    kind: str, source: str | Picture | VideoSource | SoundSource, number: int, methods: tuple[str, ...] = ()
) -> Query:
    """Decode one source."""
    if kind == "prompt":
        prompt = check_prompt(source)
        return Query(kind=kind, name=prompt, source=prompt, methods=methods)
    opened: Any = {"image": open_picture, "video": open_video, "audio": open_sound}[kind](source)  # type: ignore[operator]
    word = {"image": "picture", "video": "video", "audio": "sound"}[kind]
    if isinstance(source, Video):
        name = source.name
    else:
        name = Path(source).name if isinstance(source, str | Path) else f"{word} {number}"
    return Query(kind=kind, name=name, source=opened, methods=methods)
