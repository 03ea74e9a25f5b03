"""The page: two tabs that differ only in their query, and the endpoints for programs."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import gradio as gr
from gradio.blocks import Block
from gradio.components import Component

from clipsonic.config import MAX_PROMPT_LENGTH
from clipsonic.ui import words
from clipsonic.ui.controls import settings_controls
from clipsonic.ui.handlers import IMAGE_METHODS, TEXT_METHODS, Api, Studio, Tab, visitor_of
from clipsonic.ui.results import Results
from clipsonic.ui.theme import CSS, theme

if TYPE_CHECKING:
    from clipsonic.pipeline import ClipSonicPipeline

PICTURE_SUFFIXES = (".jpg", ".jpeg", ".png", ".webp")
QUEUE = 32
"""Visitors who may wait; whoever comes later is told to try again."""
LARGEST_UPLOAD = "20mb"
CLEAN_EVERY_S = 3600
KEEP_FILES_S = 24 * 3600
GENERATION: dict[str, Any] = {
    # One run at a time, whoever asks: a run takes the whole machine.
    "concurrency_id": "generation",
    "concurrency_limit": 1,
    # Values come as they were sent: `GenerationSettings` and `media` check them, whose messages say what is allowed.
    "preprocess": False,
}


def build_ui(load: Callable[[], ClipSonicPipeline], examples: Path | None = None) -> gr.Blocks:
    """Lay out the page without loading any model.

    Args:
        load: Returns the pipeline, always the same; first called when the first sound is asked for.
        examples: Folder with `prompts.txt` (one a line) and `pictures/`; without it there are no examples.

    Returns:
        The page with its queue; start it with `.launch(**launch_options())`.
    """
    studio = Studio(load)
    api = Api(studio)

    def leave(request: gr.Request) -> None:
        studio.stop(visitor_of(request))

    with gr.Blocks(
        title=words.TITLE, analytics_enabled=False, fill_width=True, delete_cache=(CLEAN_EVERY_S, KEEP_FILES_S)
    ) as page:
        gr.Markdown(words.INTRO, elem_classes="intro")
        with gr.Tab("Text"):
            prompt, controls = _fill_tab(studio, "prompt", _prompt, TEXT_METHODS, read_prompts(examples))
            _publish(api.text_to_audio, prompt, controls)
        with gr.Tab("Image"):
            picture, controls = _fill_tab(studio, "image", _picture, IMAGE_METHODS, list_pictures(examples))
            _publish(api.image_to_audio, picture, controls)
        with gr.Accordion(words.WHAT_IS_THIS, open=False):
            gr.Markdown(words.EXPLANATION, elem_classes="explanation")
        page.unload(leave)
    return page.queue(max_size=QUEUE)


def launch_options() -> dict[str, Any]:
    """Return what `launch` needs beside host and port: the looks and the limits."""
    return {
        "theme": theme(),
        "css": CSS,
        "footer_links": ["api", "settings"],
        "max_file_size": LARGEST_UPLOAD,
        "ssr_mode": False,
    }


def read_prompts(examples: Path | None) -> list[str]:
    """Return the example prompts, none if there is no such file."""
    path = examples / "prompts.txt" if examples else None
    return path.read_text(encoding="utf-8").splitlines() if path and path.is_file() else []


def list_pictures(examples: Path | None) -> list[str]:
    """Return the paths of the example pictures in the order of their names, none if there is no such folder."""
    folder = examples / "pictures" if examples else None
    paths = sorted(folder.iterdir()) if folder and folder.is_dir() else []
    return [str(path) for path in paths if path.suffix.lower() in PICTURE_SUFFIXES]


def _fill_tab(
    studio: Studio, kind: str, make_query: Callable[[], Component], methods: tuple[str, ...], examples: list[str]
) -> tuple[Component, dict[str, Block]]:
    """Lay out and connect a tab: the query and its settings on the left, the sounds on the right.

    Returns:
        The widgets of the query and, by field, of the settings.
    """
    with gr.Row(elem_classes="halves"):
        with gr.Column(scale=2, min_width=320, elem_classes="left"):
            with gr.Column():
                query = make_query()
                with gr.Row():
                    go = gr.Button("Generate", variant="primary", scale=3, elem_id=f"{kind}-generate")
                    stop = gr.Button("Stop", scale=1, min_width=90, elem_id=f"{kind}-stop")
                triggers = [go.click, *_other_triggers(query, examples)]
            with gr.Column(elem_classes="settings"):
                controls, lock = settings_controls(for_text=kind == "prompt")
        with gr.Column(scale=3, min_width=320, elem_classes="right"):
            results = Results(methods)
    tab = Tab(studio, kind, controls["seed"], results)
    _connect(tab, triggers, stop, [query, lock], controls)
    return query, controls


def _prompt() -> Component:
    return gr.Textbox(
        label="What should it sound like?",
        placeholder="a dog barking",
        max_length=MAX_PROMPT_LENGTH,
        autofocus=True,
        elem_id="prompt",
    )


def _picture() -> Component:
    sources: Any = ["upload", "clipboard", "webcam"]
    return gr.Image(label="What does this sound like?", sources=sources, buttons=[], height=260, elem_id="picture")


def _other_triggers(query: Component, examples: list[str]) -> list[Callable[..., Any]]:
    """Make the examples, and return what starts a run beside the button: Enter, or an example once it is filled in."""
    triggers = [query.submit] if isinstance(query, gr.Textbox) else []
    if examples:
        with gr.Column(elem_classes="examples"):
            shown = gr.Examples(examples, query, label=words.EXAMPLES, examples_per_page=24, api_visibility="private")
        triggers.append(shown.load_input_event.then)
    return triggers


def _connect(
    tab: Tab, triggers: list[Callable[..., Any]], stop: gr.Button, inputs: list[Component], controls: dict[str, Block]
) -> None:
    shown: dict[str, Any] = {"outputs": tab.outputs, "show_progress": "minimal", "show_progress_on": tab.status}
    runs: list[Any] = [
        trigger(tab.generate, inputs=inputs, inputs_kwargs=controls, api_visibility="private", **shown, **GENERATION)
        for trigger in triggers
    ]
    # What waits in the queue is cancelled by Gradio, what runs stops by itself.
    stop.click(tab.stop, None, tab.outputs, cancels=runs, queue=False, show_progress="hidden", api_visibility="private")


def _publish(endpoint: Callable[..., Any], query: Component, controls: dict[str, Block]) -> None:
    """Offer an endpoint whose parameters have the widgets' initial values for defaults."""
    outputs = [
        gr.File(label="Sounds", file_count="multiple", visible=False),
        gr.JSON(label="How they were made", visible=False),
    ]
    gr.on([], endpoint, [query], outputs, inputs_kwargs=controls, api_name=endpoint.__name__, **GENERATION)
