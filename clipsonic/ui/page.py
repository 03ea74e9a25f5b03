"""The page: one tab for each kind of query, the history, and the endpoints for programs."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import gradio as gr
from gradio.blocks import Block
from gradio.components import Component

from clipsonic.config import GenerationSettings
from clipsonic.errors import DataError
from clipsonic.examples import ExampleSounds
from clipsonic.ui import words
from clipsonic.ui.abilities import Abilities
from clipsonic.ui.api import Api
from clipsonic.ui.desk import Desk
from clipsonic.ui.handlers import Studio, visitor_of
from clipsonic.ui.limits import Limits
from clipsonic.ui.ready import ReadyMade
from clipsonic.ui.restore import Restore
from clipsonic.ui.stage import ASSETS, make_history
from clipsonic.ui.tabs import GENERATION, Builder, Filled
from clipsonic.ui.theme import theme
from clipsonic.ui.why import Why, why_tab

if TYPE_CHECKING:
    from clipsonic.pipeline import ClipSonicPipeline

QUEUE = Limits().queue
"""Visitors who may wait; whoever comes later is told to try again."""
LARGEST_UPLOAD = "100mb"
SESSIONS = 100
"""Open pages and programs whose state, all widgets' settings, Gradio keeps; its own 10,000 would fill the memory."""
CLEAN_EVERY_S = 3600
KEEP_FILES_S = 24 * 3600
DEFAULTS = GenerationSettings()


def build_ui(
    load: Callable[[], ClipSonicPipeline],
    examples: Path | None = None,
    abilities: Abilities | None = None,
    desk: Desk | None = None,
    listening_tests: Path | None = None,
) -> gr.Blocks:
    """Lay out the page without loading any model.

    Args:
        load: Returns the pipeline, always the same; first called when the first sound is asked for.
        examples: Folder with `prompts.txt` (one a line), `pictures/` and `sounds/`; without it there are no examples.
        abilities: What the model can do; nothing else is offered.
        desk: What watches over the requests; one of its own if left out.
        listening_tests: Folder of sample sets; with it, tests can be curated, taken and looked at in tabs of their own.

    Returns:
        The page with its queue; start it with `.launch(**launch_options())`.
    """
    studio, abilities = Studio(load, desk), abilities or Abilities()
    build = Builder(studio, abilities, examples, _ready_made(examples))

    def leave(request: gr.Request) -> None:
        studio.leave(visitor_of(request))

    with gr.Blocks(
        title=words.TITLE, analytics_enabled=False, fill_width=True, delete_cache=(CLEAN_EVERY_S, KEEP_FILES_S)
    ) as page:
        gr.Markdown(words.INTRO, elem_classes="intro")
        with gr.Tabs() as tabs:
            filled = _lay_out(build, abilities)
            if examples and "pd" in abilities.methods:
                with gr.Tab("Why PD?", id="why"):
                    why_tab(Why(load, examples), GENERATION)
            if listening_tests:
                _listening_tabs(listening_tests, load, page)
        gr.HTML(words.KEYS)
        with gr.Accordion(words.HISTORY, open=False):
            make_history()
        restore = Restore(filled["prompt"], tabs)
        with gr.Accordion(words.RESTORE[0], open=False):
            restore.from_file()
        with gr.Accordion(words.WHAT_IS_THIS, open=False):
            gr.Markdown(words.EXPLANATION, elem_classes="explanation")
        restore.from_link(page)
        if "audio" in filled:
            restore.more_like_this(filled)
        _publish_all(Api(studio, abilities.methods), filled)
        page.unload(leave)
    studio.desk.attach(page)
    # Nobody gets past the queue: a closed API refuses calls that would not wait.
    return page.queue(max_size=studio.desk.limits.queue, api_open=False)


def _listening_tabs(folder: Path, load: Callable[[], ClipSonicPipeline], page: gr.Blocks) -> None:
    """Make the tabs of the listening tests; imported only here, for pandas, scipy and SQLite come with them."""
    from clipsonic.ui.curate_tab import add_curate_tab
    from clipsonic.ui.results_tab import Gate, add_results_tab
    from clipsonic.ui.take_test import add_take_test_tab, open_tests

    gate, tests = Gate(), open_tests(folder)
    add_curate_tab(folder, gate, load, page)
    add_take_test_tab(tests)
    add_results_tab(tests, gate)


def launch_options() -> dict[str, Any]:
    """Return what `launch` needs beside host and port: the looks and the limits."""
    return {
        "theme": theme(),
        "css": (ASSETS / "studio.css").read_text(encoding="utf-8"),
        "footer_links": ["api", "settings"],
        "run_history": False,  # the page has its own, which plays the sounds again
        "mcp_server": True,
        "max_file_size": LARGEST_UPLOAD,
        "ssr_mode": False,
        "state_session_capacity": SESSIONS,
    }


def _lay_out(build: Builder, abilities: Abilities) -> dict[str, Filled]:
    """Make the tabs that the model has something to offer for."""
    makers: dict[str, tuple[str, Callable[[], Filled]]] = {
        "prompt": ("Text", build.text),
        "image": ("Image", build.image),
        "video": ("Video", build.video),
        "audio": ("Sound", build.sound),
        "compare": ("Compare", build.compare),
        "morph": ("Morph", build.morph),
    }
    if "aq" not in abilities.methods:
        del makers["audio"]
    filled = {}
    for name, (title, make) in makers.items():
        with gr.Tab(title, id=name):
            filled[name] = make()
    return filled


def _ready_made(examples: Path | None) -> ReadyMade | None:
    try:
        sounds = ExampleSounds.read(examples / "sounds") if examples else None
    except DataError as error:
        print(f"clipsonic: {error}")
        return None
    return ReadyMade(sounds) if sounds else None


def _publish_all(api: Api, filled: dict[str, Filled]) -> None:
    """Offer the endpoints; their parameters have the widgets' initial values for defaults."""
    toward: dict[str, Block] = {
        "toward": gr.Textbox("", label="Toward", info="A text to morph towards", visible=False),
        "morph": gr.Slider(
            0, 1, DEFAULTS.morph, label="Morph", info="How far: 0 not at all, 1 all the way", visible=False
        ),
    }
    endpoints: dict[str, Callable[..., Any]] = {
        "prompt": api.text_to_audio,
        "image": api.image_to_audio,
        "video": api.video_to_audio,
        "audio": api.audio_to_audio,
    }
    for name, endpoint in endpoints.items():
        if name in filled:
            tab = filled[name]
            _publish(endpoint, tab.query[name], tab.controls | toward | _methods(api, name))


def _methods(api: Api, kind: str) -> dict[str, Block]:
    """Make the parameter that says what a kind of query is rendered by, where there is a choice."""
    choices = api.choices(kind)
    if len(choices) < 2:
        return {}
    info = "By which methods: " + ", ".join(f"{method} ({words.METHODS[method][0].lower()})" for method in choices)
    usual = list(api.usual(kind))
    return {"methods": gr.CheckboxGroup(list(choices), value=usual, label="Methods", info=info, visible=False)}


def _publish(endpoint: Callable[..., Any], query: Component, controls: dict[str, Block]) -> None:
    outputs = [
        gr.File(label="Sounds", file_count="multiple", visible=False),
        gr.JSON(label="How they were made", visible=False),
    ]
    gr.on([], endpoint, [query], outputs, inputs_kwargs=controls, api_name=endpoint.__name__, **GENERATION)
