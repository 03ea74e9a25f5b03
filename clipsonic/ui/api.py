"""The endpoints for programs: the same names and defaults as the Python class and the command line."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import gradio as gr

from clipsonic.errors import ClipSonicError
from clipsonic.ui.asking import path_or_text
from clipsonic.ui.cards import FITTING, write_sounds
from clipsonic.ui.controls import read_settings
from clipsonic.ui.handlers import Studio, in_page, visitor_of
from clipsonic.ui.results import facts
from clipsonic.ui.runs import Report

Answer = tuple[list[str], dict[str, Any]]
USUAL = {"prompt": ("zs", "pd"), "image": ("iq",), "video": ("iq",), "audio": ("aq",)}
"""The methods that render each kind of query where the caller names none."""


class Api:
    """The endpoints; the settings are the fields of `GenerationSettings`."""

    def __init__(self, studio: Studio, methods: tuple[str, ...]) -> None:
        """Remember where runs happen, and what the model can do."""
        self._studio, self._able = studio, methods

    def choices(self, kind: str) -> tuple[str, ...]:
        """Return the model's methods that render a kind of query."""
        return tuple(method for method in FITTING[kind] if method in self._able)

    def usual(self, kind: str) -> tuple[str, ...]:
        """Return those of them that do so where the caller names none."""
        return tuple(method for method in USUAL[kind] if method in self._able)

    def text_to_audio(self, prompt: Any, request: gr.Request, **settings: Any) -> Iterator[Answer]:
        """Turn a text into sounds: for each variation the zero-shot (zs) and then the diffusion-prior (pd) rendering.

        Other `methods` may be asked for; all start from the same noise. The same seed and settings give the same
        sounds.

        Args:
            prompt: What to hear, such as "a dog barking"; at most 500 characters.
            request: The caller.
            **settings: Fields of `GenerationSettings`, and `toward`: a text that the sound is morphed towards.

        Returns:
            The wav files, which carry prompt, method, seed, settings and model as tags
            How they were made: model, settings, seconds taken and for each file its method and seed
        """
        yield from self._sounds("prompt", prompt, request, settings)

    def image_to_audio(self, image: Any, request: gr.Request, **settings: Any) -> Iterator[Answer]:
        """Turn a picture into sounds: one for each variation (method iq, unless other `methods` are asked for).

        The same seed and settings give the same sounds.

        Args:
            image: A picture file.
            request: The caller.
            **settings: Fields of `GenerationSettings`, and `toward`: a text that the sound is morphed towards.

        Returns:
            The wav files, which carry picture name, method, seed, settings and model as tags
            How they were made: model, settings, seconds taken and for each file its method and seed
        """
        yield from self._sounds("image", path_or_text(image), request, settings)

    def video_to_audio(self, video: Any, request: gr.Request, **settings: Any) -> Iterator[Answer]:
        """Turn a silent or sounding video into a new sound track as long as the video, at most a minute.

        The method is iq, unless other `methods` are asked for. The same seed and settings give the same sounds.

        Args:
            video: A video file; its pictures are what is heard.
            request: The caller.
            **settings: Fields of `GenerationSettings`, and `toward`: a text that the sound is morphed towards.

        Returns:
            The wav files, which carry video name, method, seed, settings and model as tags
            How they were made: model, settings, seconds taken and for each file its method and seed
        """
        yield from self._sounds("video", path_or_text(video), request, settings)

    def audio_to_audio(self, audio: Any, request: gr.Request, **settings: Any) -> Iterator[Answer]:
        """Turn a sound into others like it: one for each variation (method aq).

        With a `strength` below 1 the sound's own course in time stays, and only so much of it is made anew. The same
        seed and settings give the same sounds.

        Args:
            audio: A sound file.
            request: The caller.
            **settings: Fields of `GenerationSettings`, and `toward`: a text that the sound is morphed towards.

        Returns:
            The wav files, which carry the sound's name, method, seed, settings and model as tags
            How they were made: model, settings, seconds taken and for each file its method and seed
        """
        yield from self._sounds("audio", path_or_text(audio), request, settings)

    def _sounds(self, kind: str, source: Any, request: gr.Request, values: dict[str, Any]) -> Iterator[Answer]:
        try:
            query = {kind: source, "toward": values.pop("toward", None) or None}
            settings = read_settings(values.pop("methods", self.usual(kind)), True, values)
            events = self._studio.run(visitor_of(request), query, settings)
            (output,) = (event for event in events if not isinstance(event, Report))
            with TemporaryDirectory() as folder:  # Gradio copies what it serves while the generator waits
                paths = write_sounds(output, Path(folder))
                yield [str(path) for path in paths], facts(output, paths)
        except ClipSonicError as error:
            raise in_page(error) from error
