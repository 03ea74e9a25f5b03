"""What happens on a click: widgets to a request, the request to the pipeline, its sounds to widgets."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from html import escape
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

import gradio as gr
from gradio.blocks import Block

from clipsonic.config import GenerationSettings, MelConfig
from clipsonic.errors import Cancelled, ClipSonicError
from clipsonic.ui import cards, words
from clipsonic.ui.asking import Ask
from clipsonic.ui.controls import read_settings
from clipsonic.ui.desk import Desk
from clipsonic.ui.ready import ReadyMade
from clipsonic.ui.redact import without_paths
from clipsonic.ui.results import Results, Updates, message
from clipsonic.ui.runs import Report, Runs, end_if, watch
from clipsonic.ui.zerogpu import on_gpu

if TYPE_CHECKING:
    from clipsonic.pipeline import ClipSonicOutput, ClipSonicPipeline


class Studio:
    """Runs the pipeline for the visitors; holds who runs what, and nothing of any request."""

    def __init__(self, load: Callable[[], ClipSonicPipeline], desk: Desk | None = None) -> None:
        """Remember how to open the model; `load` is first called when the first sound is asked for."""
        self._load = load
        self.desk = desk or Desk()
        self._runs = Runs()
        self._on_gpu = on_gpu(self._produce)

    def run(
        self, visitor: str, query: dict[str, Any], settings: GenerationSettings
    ) -> Iterator[Report | ClipSonicOutput]:
        """Yield reports, then the output.

        Args:
            visitor: Whose run this is; see `stop`.
            query: What to make sounds of, by the pipeline's own names, such as `{"prompt": text}`.
            settings: What to do.

        Raises:
            ClipSonicError: Whatever the pipeline does not accept.
            Cancelled: The visitor stopped it.
        """
        with self.desk.watch(visitor, query, settings) as record, self._runs.begin(visitor) as stop:
            for event in self._on_gpu(visitor, query, settings):
                end_if(stop)
                if isinstance(event, ClipSonicError):
                    raise event
                record.note(event)
                yield event

    def mel(self) -> MelConfig:
        """Return the mel settings of the model."""
        return self._load().folder.index.mel

    def model_sha256(self) -> str:
        """Return what stands for the model's weights."""
        return self._load().folder.sha256

    def stop(self, visitor: str) -> None:
        """Stop the visitor's runs within a step."""
        self._runs.stop(visitor)

    def leave(self, visitor: str) -> None:
        """Stop the visitor's runs and delete what the visitor brought."""
        self.stop(visitor)
        self.desk.leave(visitor)

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

    def __init__(self, studio: Studio, ask: Ask, seed: Block, results: Results, ready: ReadyMade | None = None) -> None:
        """Join the parts of a tab.

        Args:
            studio: Where runs happen.
            ask: How the tab's widgets make a query.
            seed: The widget that shows the seed used.
            results: Where sounds are shown.
            ready: Sounds of the examples that were made beforehand.
        """
        self._studio, self._ask, self._seed, self._results, self._ready = studio, ask, seed, results, ready

    @property
    def outputs(self) -> list[Block]:
        """Every component that the events may change."""
        return [self._seed, *self._results.components]

    @property
    def status(self) -> gr.HTML:
        """The line that says how far a run is."""
        return self._results.status

    def generate(self, keep_seed: bool, request: gr.Request, **values: Any) -> Iterator[Updates]:
        """Turn the widgets' values, as the browser sent them, into sounds; the page is kept up to date on the way."""
        try:
            query, settings = self._read(keep_seed, values)
            order = cards.places(query, settings.methods, settings.num_audios)
            value = cards.empty(order)
            yield self._results.begin(value) | {self._seed: settings.seed}
            for event in self._studio.run(visitor_of(request), query, settings):
                yield from self._show(event, query, value, order)
        except Cancelled:
            yield {self.status: message(words.STOPPED)}
        except ClipSonicError as error:
            yield {self.status: message(str(error))}
            raise in_page(error) from error

    def reroll(self, request: gr.Request, **values: Any) -> Iterator[Updates]:
        """Do the same with a new seed, whether or not the seed is locked."""
        yield from self.generate(False, request, **values)

    def example(self, keep_seed: bool, request: gr.Request, **values: Any) -> Iterator[Updates]:
        """Show an example's sounds at once if this model made them with these settings, and make them otherwise."""
        try:
            query, settings = self._read(keep_seed, values)
            seed = settings.seed if keep_seed else None
            found = self._ready and self._ready.find(query, settings, seed, self._studio.model_sha256())
        except ClipSonicError:
            found = None  # `generate` says what is wrong
        if not found:
            yield from self.generate(keep_seed, request, **values)
            return
        with TemporaryDirectory() as folder:
            value = found.value(self._studio.mel(), Path(folder), more=self._results.more)
            yield self._results.show_ready_made(value) | {self._seed: found.seed}

    def stop(self, request: gr.Request) -> Updates:
        """Stop this visitor's runs."""
        self._studio.stop(visitor_of(request))
        return {self.status: message(words.STOPPED)}

    def _read(self, keep_seed: bool, values: Mapping[str, Any]) -> tuple[dict[str, Any], GenerationSettings]:
        asked = {name: values[name] for name in self._ask.names}
        query, methods = self._ask.read(asked)
        settings = {name: value for name, value in values.items() if name not in asked}
        return query, read_settings(methods, keep_seed, settings)

    def _show(
        self,
        event: Report | ClipSonicOutput,
        query: dict[str, Any],
        value: cards.Value,
        order: Sequence[cards.Place],
    ) -> Iterator[Updates]:
        mel = self._studio.mel()
        if isinstance(event, Report):
            yield self._results.report(event, value, order, mel)
            return
        with TemporaryDirectory() as folder:  # Gradio copies what it serves while the generator waits
            paths = cards.write_sounds(event, Path(folder))
            value = cards.sounds(event, order, paths, mel, more=self._results.more)
            yield self._results.show(event, self._ask.finish(value, query, event, Path(folder)), paths)


def visitor_of(request: gr.Request) -> str:
    """Return what tells one open page from another."""
    return request.session_hash or "anonymous"


def in_page(error: ClipSonicError) -> gr.Error:
    """Turn an error into Gradio's, which would show its message as HTML."""
    return gr.Error(escape(without_paths(str(error)), quote=False), print_exception=False)
