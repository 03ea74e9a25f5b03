"""The page: two tabs that differ only in their query, and the endpoints for programs."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import gradio as gr
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
GENERATION: dict[str, Any] = {"concurrency_id": "generation", "concurrency_limit": 1}
"""One run at a time, whoever asks: a run takes the whole machine."""
UNCHECKED: dict[str, Any] = {"preprocess": False}
"""Values come as they were sent: `GenerationSettings` and `media` check them, whose messages say what is allowed."""
LARGEST_UPLOAD = "20mb"
CLEAN_EVERY_S = 3600
KEEP_FILES_S = 24 * 3600


def build_ui(load: Callable[[], ClipSonicPipeline], examples: Path | None = None) -> gr.Blocks:
    """Lay out the page without loading any model.

    Args:
        load: Returns the pipeline, always the same; first called when the first sound is asked for.
        examples: Folder with `prompts.txt` (one a line) and `pictures/`; without it there are no examples.

    Returns:
        The page with its queue; start it with `.launch(**launch_options())`.
    """
    studio = Studio(load)

    def leave(request: gr.Request) -> None:
        studio.stop(visitor_of(request))

    with gr.Blocks(
        title=words.TITLE, analytics_enabled=False, fill_width=True, delete_cache=(CLEAN_EVERY_S, KEEP_FILES_S)
    ) as page:
        gr.Markdown(words.INTRO, elem_classes="intro")
        with gr.Tab("Text", id="text"):
            _text_tab(studio, read_prompts(examples))
        with gr.Tab("Image", id="image"):
            _image_tab(studio, list_pictures(examples))
        with gr.Accordion("What am I hearing?", open=False):
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
    return path.read_text(encoding="utf-8").split("\n")[:-1] if path and path.is_file() else []


def list_pictures(examples: Path | None) -> list[str]:
    """Return the paths of the example pictures in the order of their names, none if there is no such folder."""
    folder = examples / "pictures" if examples else None
    paths = sorted(folder.iterdir()) if folder and folder.is_dir() else []
    return [str(path) for path in paths if path.suffix.lower() in PICTURE_SUFFIXES]


def _text_tab(studio: Studio, prompts: list[str]) -> None:
    with gr.Row(elem_classes="halves"):
        with gr.Column(scale=2, min_width=320, elem_classes="left"):
            with gr.Column():
                prompt = gr.Textbox(
                    label="What should it sound like?",
                    placeholder="a dog barking",
                    max_length=MAX_PROMPT_LENGTH,
                    autofocus=True,
                    elem_id="prompt",
                )
                buttons = _buttons("text")
                triggers = [prompt.submit, *_examples(prompts, prompt)]
            with gr.Column(elem_classes="settings"):
                controls, lock = settings_controls(for_text=True)
        with gr.Column(scale=3, min_width=320, elem_classes="right"):
            results = Results(TEXT_METHODS)
    _connect(Tab(studio, "prompt", controls["seed"], results), prompt, lock, controls, buttons, triggers)
    _publish(Api(studio).text_to_audio, prompt, controls)


def _image_tab(studio: Studio, pictures: list[str]) -> None:
    with gr.Row(elem_classes="halves"):
        with gr.Column(scale=2, min_width=320, elem_classes="left"):
            with gr.Column():
                picture = gr.Image(
                    label="What does it sound like?",
                    type="filepath",
                    image_mode=None,
                    sources=["upload", "clipboard", "webcam"],
                    buttons=[],
                    height=260,
                    elem_id="picture",
                )
                buttons = _buttons("image")
                triggers = _examples(pictures, picture)
            with gr.Column(elem_classes="settings"):
                controls, lock = settings_controls(for_text=False)
        with gr.Column(scale=3, min_width=320, elem_classes="right"):
            results = Results(IMAGE_METHODS)
    _connect(Tab(studio, "image", controls["seed"], results), picture, lock, controls, buttons, triggers)
    _publish(Api(studio).image_to_audio, picture, controls)


def _buttons(name: str) -> tuple[gr.Button, gr.Button]:
    with gr.Row():
        go = gr.Button("Generate", variant="primary", scale=3, elem_id=f"{name}-generate")
        stop = gr.Button("Stop", variant="secondary", scale=1, min_width=90, elem_id=f"{name}-stop")
    return go, stop


def _examples(values: list[str], query: Component) -> list[Callable[..., Any]]:
    """Make the examples and return the triggers that fire once one of them has filled in the query."""
    if not values:
        return []
    with gr.Column(elem_classes="examples"):
        examples = gr.Examples(
            values, query, label="Or try one of these", examples_per_page=24, api_visibility="private"
        )
    return [examples.load_input_event.then]


def _connect(
    tab: Tab,
    query: Component,
    lock: gr.Checkbox,
    controls: dict[str, Component],
    buttons: tuple[gr.Button, gr.Button],
    triggers: list[Callable[..., Any]],
) -> None:
    """Let the buttons and the other triggers do what they say."""
    go, stop = buttons
    runs = [
        trigger(
            tab.generate,
            inputs=[query, lock],
            inputs_kwargs=controls,
            outputs=tab.outputs,
            show_progress="hidden",
            api_visibility="private",
            **GENERATION,
            **UNCHECKED,
        )
        for trigger in (go.click, *triggers)
    ]
    # What waits in the queue is cancelled by Gradio, what runs stops by itself.
    stop.click(tab.stop, None, tab.outputs, cancels=runs, queue=False, show_progress="hidden", api_visibility="private")


def _publish(endpoint: Callable[..., Any], query: Component, controls: dict[str, Component]) -> None:
    """Offer an endpoint whose parameters have the widgets' initial values for defaults."""
    files = gr.File(label="Sounds", file_count="multiple", visible=False)
    made_with = gr.JSON(label="How they were made", visible=False)
    gr.on(
        [], endpoint, inputs=[query], inputs_kwargs=controls, outputs=[files, made_with],
        api_name=endpoint.__name__, **GENERATION, **UNCHECKED,
    )  # fmt: skip
