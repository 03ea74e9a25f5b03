"""What happens on a click: widgets to a request, the request to the pipeline, its sounds to widgets."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from html import escape
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

import gradio as gr
from gradio.blocks import Block

from clipsonic.config import GenerationSettings, MelConfig
from clipsonic.errors import Cancelled, ClipSonicError
from clipsonic.ui import words
from clipsonic.ui.controls import read_settings
from clipsonic.ui.results import Results, Updates, facts, message, write_sounds
from clipsonic.ui.runs import Report, Runs, end_if, watch
from clipsonic.ui.zerogpu import on_gpu

if TYPE_CHECKING:
    from clipsonic.pipeline import ClipSonicOutput, ClipSonicPipeline

TEXT_METHODS = ("zs", "pd")
IMAGE_METHODS = ("iq",)


class Studio:
    """Runs the pipeline for the visitors; holds who runs what, and nothing of any request."""

    def __init__(self, load: Callable[[], ClipSonicPipeline]) -> None:
        """Remember how to open the model; `load` is first called when the first sound is asked for."""
        self._load = load
        self._runs = Runs()
        self._on_gpu = on_gpu(self._produce)

    def run(
        self, visitor: str, query: dict[str, Any], settings: GenerationSettings
    ) -> Iterator[Report | ClipSonicOutput]:
        """Yield reports, then the output.

        Args:
            visitor: Whose run this is; see `stop`.
            query: `{"prompt": text}` or `{"image": path}`, as the pipeline takes it.
            settings: What to do.

        Raises:
            ClipSonicError: Whatever the pipeline does not accept.
            Cancelled: The visitor stopped it.
        """
        with self._runs.begin(visitor) as stop:
            for event in self._on_gpu(visitor, query, settings):
                end_if(stop)
                if isinstance(event, ClipSonicError):
                    raise event
                yield event

    def mel(self) -> MelConfig:
        """Return the mel settings of the model."""
        return self._load().folder.index.mel

    def stop(self, visitor: str) -> None:
        """Stop the visitor's runs within a step."""
        self._runs.stop(visitor)

    def _produce(
        self, visitor: str, query: dict[str, Any], settings: GenerationSettings
    ) -> Iterator[Report | ClipSonicOutput | ClipSonicError]:
        """Do the run where the GPU is: on ZeroGPU in another process, out of which errors come only as values."""
        with self._runs.begin(visitor) as stop:
            try:
                pipeline = self._load()
                yield from watch(lambda callback: pipeline(**query, settings=settings, callback=callback), stop)
            except ClipSonicError as error:
                yield error


class Tab:
    """The events of one tab."""

    def __init__(self, studio: Studio, kind: str, seed: Block, results: Results) -> None:
        """Join the parts of a tab.

        Args:
            studio: Where runs happen.
            kind: "prompt" or "image", the argument of the pipeline that the query goes to.
            seed: The widget that shows the seed used.
            results: Where sounds are shown; its methods are those the tab asks for.
        """
        self._studio = studio
        self._kind = kind
        self._seed = seed
        self._results = results

    @property
    def outputs(self) -> list[Block]:
        """Every component that the events may change."""
        return [self._seed, *self._results.components]

    @property
    def status(self) -> gr.HTML:
        """The line that says how far a run is."""
        return self._results.status

    def generate(self, query: Any, keep_seed: bool, request: gr.Request, **values: Any) -> Iterator[Updates]:
        """Turn the widgets' values, as the browser sent them, into sounds; the page is kept up to date on the way."""
        try:
            settings = read_settings(self._results.methods, keep_seed, values)
            yield self._results.begin(settings.num_audios) | {self._seed: settings.seed}
            for event in self._studio.run(visitor_of(request), {self._kind: path_or_text(query)}, settings):
                yield from self._show(event)
        except Cancelled:
            yield {self.status: message(words.STOPPED)}
        except ClipSonicError as error:
            yield {self.status: message(str(error))}
            raise in_page(error) from error

    def stop(self, request: gr.Request) -> Updates:
        """Stop this visitor's runs."""
        self._studio.stop(visitor_of(request))
        return {self.status: message(words.STOPPED)}

    def _show(self, event: Report | ClipSonicOutput) -> Iterator[Updates]:
        if isinstance(event, Report):
            yield self._results.report(event, self._studio.mel())
            return
        with TemporaryDirectory() as folder:  # Gradio copies what it serves while the generator waits
            yield self._results.show(event, self._studio.mel(), Path(folder))


class Api:
    """The endpoints for programs; their names and defaults are those of `GenerationSettings`."""

    def __init__(self, studio: Studio) -> None:
        """Remember where runs happen."""
        self._studio = studio

    def text_to_audio(
        self, prompt: Any, request: gr.Request, **settings: Any
    ) -> Iterator[tuple[list[str], dict[str, Any]]]:
        """Turn a text into sounds: for each variation the zero-shot (zs) and then the diffusion-prior (pd) rendering.

        Both start from the same noise. The same seed and settings give the same sounds.

        Args:
            prompt: What to hear, such as "a dog barking"; at most 500 characters.
            request: The caller.
            **settings: Fields of `GenerationSettings`.

        Returns:
            The wav files, which carry prompt, method, seed, settings and model as tags, and how they were made:
            model, settings, seconds taken and for each file its method and seed.
        """
        yield from self._sounds({"prompt": prompt}, TEXT_METHODS, request, settings)

    def image_to_audio(
        self, image: Any, request: gr.Request, **settings: Any
    ) -> Iterator[tuple[list[str], dict[str, Any]]]:
        """Turn a picture into sounds: one for each variation (method iq).

        The same seed and settings give the same sounds.

        Args:
            image: A picture file.
            request: The caller.
            **settings: Fields of `GenerationSettings`.

        Returns:
            The wav files, which carry picture name, method, seed, settings and model as tags, and how they were made:
            model, settings, seconds taken and for each file its method and seed.
        """
        yield from self._sounds({"image": path_or_text(image)}, IMAGE_METHODS, request, settings)

    def _sounds(
        self, query: dict[str, Any], methods: tuple[str, ...], request: gr.Request, values: dict[str, Any]
    ) -> Iterator[tuple[list[str], dict[str, Any]]]:
        try:
            settings = read_settings(methods, True, values)
            events = self._studio.run(visitor_of(request), query, settings)
            (output,) = (event for event in events if not isinstance(event, Report))
            with TemporaryDirectory() as folder:  # Gradio copies what it serves while the generator waits
                paths = write_sounds(output, Path(folder))
                yield [str(path) for path in paths], facts(output, paths)
        except ClipSonicError as error:
            raise in_page(error) from error


def visitor_of(request: gr.Request) -> str:
    """Return what tells one open page from another."""
    return request.session_hash or "anonymous"


def path_or_text(query: Any) -> Any:
    """Return the path of an uploaded file, which Gradio has seen to be one, and anything else as it is."""
    return query["path"] if isinstance(query, dict) else query


def in_page(error: ClipSonicError) -> gr.Error:
    """Turn an error into Gradio's, which would show its message as HTML."""
    return gr.Error(escape(str(error), quote=False), print_exception=False)
