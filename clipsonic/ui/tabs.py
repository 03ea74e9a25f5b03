"""The tabs that make sounds: they differ in their query, and share everything else."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import gradio as gr
from gradio.blocks import Block
from gradio.components import Component

from clipsonic.config import MAX_PROMPT_LENGTH
from clipsonic.examples import list_pictures, read_prompts
from clipsonic.ui import words
from clipsonic.ui.abilities import Abilities
from clipsonic.ui.asking import COMPARED, Ask, AskForMix, AskForTwo, AskForVideo
from clipsonic.ui.controls import FOR_ANY, FOR_TEXT, morph_slider, number_slider, settings_controls
from clipsonic.ui.handlers import Studio, Tab
from clipsonic.ui.ready import ReadyMade
from clipsonic.ui.results import Results

GENERATION: dict[str, Any] = {
    # One run at a time, whoever asks: a run takes the whole machine.
    "concurrency_id": "generation",
    "concurrency_limit": 1,
    # Values come as they were sent: `GenerationSettings` and `media` check them, whose messages say what is allowed.
    "preprocess": False,
}
QUIET: dict[str, Any] = {"queue": False, "show_progress": "hidden", "api_visibility": "private"}


@dataclass(frozen=True, kw_only=True)
class Filled:
    """A tab that is laid out.

    Attributes:
        query: The widgets of the query by name.
        controls: The widgets of the settings by field.
        lock: Whether the seed is kept.
        results: Where its sounds are shown.
        go: The button that does.
    """

    query: dict[str, Component]
    controls: dict[str, Block]
    lock: gr.Checkbox
    results: Results
    go: gr.Button


class Builder:
    """Lays out tabs for one page."""

    def __init__(self, studio: Studio, abilities: Abilities, examples: Path | None, ready: ReadyMade | None) -> None:
        """Remember what all tabs share.

        Args:
            studio: Where runs happen.
            abilities: What the model can do; nothing else is offered.
            examples: Folder with `prompts.txt` and `pictures/`.
            ready: Sounds of the examples that were made beforehand.
        """
        self._studio, self._abilities, self._examples, self._ready = studio, abilities, examples, ready

    def text(self) -> Filled:
        """Lay out the tab that turns words into sounds."""
        return self._fill(
            "prompt",
            lambda: {"prompt": _line("prompt", *words.PROMPT, autofocus=True)},
            Ask(("prompt",), self._only("zs", "pd", "mp")),
            FOR_TEXT,
            examples=read_prompts(self._examples),
        )

    def image(self) -> Filled:
        """Lay out the tab that turns a picture into sounds."""
        return self._fill(
            "image",
            lambda: {"image": _picture("picture", words.PICTURE)},
            Ask(("image",), self._only("iq", "mq")),
            FOR_ANY,
            examples=[str(path) for path in list_pictures(self._examples)],
        )

    def video(self) -> Filled:
        """Lay out the tab that puts a sound under a video."""
        return self._fill(
            "video",
            lambda: {"video": gr.Video(label=words.VIDEO, sources=["upload", "webcam"], buttons=[], elem_id="video")},
            AskForVideo(("video",), self._only("iq", "mq")),
            tuple(name for name in FOR_ANY if name != "duration_s"),
            takes=False,
        )

    def sound(self) -> Filled:
        """Lay out the tab that makes more like a sound."""

        def make() -> dict[str, Component]:
            label, info = words.SOUND_TOWARD
            return {
                "audio": gr.Audio(label=words.SOUND, type="filepath", buttons=[], elem_id="audio"),
                "toward": _line("audio-toward", label, "", info=info),
            }

        return self._fill(
            "audio",
            make,
            AskForMix(("audio", "toward"), ("aq",)),
            (*FOR_ANY, "template"),
            morph=words.SOUND_MORPH,
            beside=("strength",),
        )

    def morph(self) -> Filled:
        """Lay out the tab that goes from one query towards another."""

        def make() -> dict[str, Component]:
            return {
                "prompt": _line("morph-prompt", *words.MORPH_FROM),
                "toward": _line("morph-toward", *words.MORPH_TOWARD),
                "toward_picture": _picture("morph-picture", words.MORPH_PICTURE, height=180),
            }

        ask = AskForMix(("prompt", "toward", "toward_picture"), self._only("zs", "pd"))
        return self._fill("morph", make, ask, FOR_TEXT, morph=words.MORPH)

    def compare(self) -> Filled:
        """Lay out the tab that lets any two methods play against each other."""
        methods = self._abilities.methods
        choices = [(f"{words.METHODS[m][0]} ({words.METHODS[m][1]})", m) for m in methods]

        def make() -> dict[str, Component]:
            gr.Markdown(words.COMPARE, elem_classes="explanation")
            made: dict[str, Component] = {}
            with gr.Row():
                for side, start, (label, info) in zip("ab", self._only("zs", "pd"), words.COMPARE_SIDES, strict=False):
                    made[f"method_{side}"] = gr.Dropdown(
                        choices, value=start, label=label, info=info, filterable=False, elem_id=f"compare-{side}"
                    )
            made["prompt"] = _line("compare-prompt", *words.COMPARE_QUERY["prompt"])
            label = str(words.COMPARE_QUERY["image"])
            made["image"] = _picture("compare-picture", label, height=180, visible=False)
            if "aq" in methods:
                label = str(words.COMPARE_QUERY["audio"])
                made["audio"] = gr.Audio(label=label, type="filepath", buttons=[], visible=False)
            _show_what_is_asked(made)
            return made

        names = ("method_a", "method_b", "prompt", "image", *(("audio",) if "aq" in methods else ()))
        return self._fill("compare", make, AskForTwo(names, methods), FOR_TEXT)

    def _only(self, *methods: str) -> tuple[str, ...]:
        """Return those of the methods that the model has."""
        return tuple(method for method in methods if method in self._abilities.methods)

    def _fill(
        self,
        kind: str,
        make_query: Callable[[], dict[str, Component]],
        ask: Ask,
        fields: tuple[str, ...],
        *,
        examples: list[str] | None = None,
        morph: tuple[str, str] | None = None,
        beside: tuple[str, ...] = (),
        takes: bool = True,
    ) -> Filled:
        """Lay out and connect a tab: the query and its settings on the left, the sounds on the right.

        `beside` names settings that stand with the query, for they say what is made of it.
        """
        with gr.Row(elem_classes="halves"):
            with gr.Column(scale=2, min_width=320, elem_classes="left"):
                with gr.Column():
                    query = make_query()
                    mixed: dict[str, Block] = {"morph": morph_slider(morph)} if morph else {}
                    mixed |= {name: number_slider(name) for name in beside}
                    with gr.Row():
                        go = gr.Button("Generate", variant="primary", scale=3, elem_id=f"{kind}-generate")
                        again = gr.Button("Re-roll", scale=1, min_width=90, elem_id=f"{kind}-reroll")
                        stop = gr.Button("Stop", scale=1, min_width=70, elem_id=f"{kind}-stop")
                    go.elem_classes, again.elem_classes = ["generate"], ["reroll"]
                    shown = _examples(query, examples, words.EXAMPLES[self._ready is not None])
                with gr.Column(elem_classes="settings"):
                    controls, lock = settings_controls(fields, self._abilities, takes=takes)
            with gr.Column(scale=3, min_width=320, elem_classes="right"):
                results = Results(kind, more="aq" in self._abilities.methods)
        tab = Tab(self._studio, ask, controls["seed"], results, self._ready)
        widgets = {**query, **controls, **mixed}
        filled = Filled(query=query, controls={**controls, **mixed}, lock=lock, results=results, go=go)
        submits = [box.submit for box in query.values() if isinstance(box, gr.Textbox)]
        _connect(tab, [go.click, *submits], again, shown, stop, lock, widgets)
        return filled


def _connect(
    tab: Tab,
    triggers: list[Callable[..., Any]],
    again: gr.Button,
    examples: Any,
    stop: gr.Button,
    lock: gr.Checkbox,
    widgets: dict[str, Block],
) -> None:
    shown: dict[str, Any] = {"outputs": tab.outputs, "show_progress": "minimal", "show_progress_on": tab.status}
    asked: dict[str, Any] = {"inputs_kwargs": widgets, "api_visibility": "private", **shown, **GENERATION}
    runs: list[Any] = [trigger(tab.generate, inputs=[lock], **asked) for trigger in triggers]
    runs.append(again.click(tab.reroll, inputs=None, **asked))
    if examples:
        runs.append(examples.load_input_event.then(tab.example, inputs=[lock], **asked))
    # What waits in the queue is cancelled by Gradio, what runs stops by itself.
    stop.click(tab.stop, None, tab.outputs, cancels=runs, **QUIET)


def _show_what_is_asked(made: dict[str, Component]) -> None:
    """Show the queries of the chosen sides alone."""
    sides = [widget for name, widget in made.items() if name.startswith("method_")]
    queries = {name: widget for name, widget in made.items() if widget not in sides}

    def show(*methods: str) -> list[Any]:
        wanted = {COMPARED.get(method, "prompt") for method in methods}
        return [gr.update(visible=name in wanted) for name in queries]

    for side in sides:
        side.change(show, sides, list(queries.values()), **QUIET)  # type: ignore[attr-defined]


def _examples(query: dict[str, Component], examples: list[str] | None, label: str) -> Any:
    if not examples:
        return None
    (box,) = query.values()
    with gr.Column(elem_classes="examples"):
        return gr.Examples(examples, box, label=label, examples_per_page=24, api_visibility="private")


def _line(name: str, label: str, placeholder: str, **kwargs: Any) -> gr.Textbox:
    return gr.Textbox(label=label, placeholder=placeholder, max_length=MAX_PROMPT_LENGTH, elem_id=name, **kwargs)


def _picture(name: str, label: str, height: int = 260, *, visible: bool = True) -> gr.Image:
    sources: Any = ["upload", "clipboard", "webcam"]
    return gr.Image(label=label, sources=sources, buttons=[], height=height, elem_id=name, visible=visible)
