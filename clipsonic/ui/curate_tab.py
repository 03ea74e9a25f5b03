"""The tab in which an organiser curates a sample set: bulk generation, decisions by button or key, and the build."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import gradio as gr
from gradio.components import Component

from clipsonic.errors import Cancelled, ClipSonicError
from clipsonic.listening.build import build
from clipsonic.methods import IMAGE_METHODS, TEXT_METHODS
from clipsonic.ui.candidates import LISTEN_TO_KEYS, QUIET, add_candidates, opening
from clipsonic.ui.curator import Curator, make_plan
from clipsonic.ui.handlers import in_page, visitor_of
from clipsonic.ui.results_tab import Gate

if TYPE_CHECKING:
    from clipsonic.pipeline import ClipSonicPipeline

BUSY: dict[str, Any] = {"concurrency_id": "generation", "concurrency_limit": 1, "api_visibility": "private"}


def add_curate_tab(folder: Path, gate: Gate, load: Callable[[], ClipSonicPipeline], page: gr.Blocks) -> None:
    """Lay out the tab inside the current `gr.Blocks`, which is `page`."""
    curator = Curator(folder, gate, load)
    with gr.Tab("Curate", id="curate"):
        with gr.Row():
            password = gr.Textbox(
                label="Organiser's password",
                info="Enter shows the sets. It is sent with every request and kept nowhere.",
                type="password",
            )
            which = gr.Dropdown([], label="Set", info="Sets that were begun here.")
        with gr.Accordion("Begin a set, or go on with one", open=True):
            form = _add_form()
            with gr.Row():
                go = gr.Button("Generate", variant="primary", elem_id="curate-generate")
                stop = gr.Button("Stop", elem_id="curate-stop")
        status = gr.Markdown(elem_id="curate-status")
        gr.on([password.submit, which.focus], _naming(curator), password, [which, status], **QUIET)
        candidate = add_candidates(curator, password, which, status)
        finish = gr.Button("Build the set", variant="primary", elem_id="curate-build")
    go.click(_generating(curator), [password, *form], [which, status], **BUSY).success(
        opening(curator), [password, which], [candidate, status], **QUIET
    )
    stop.click(_stopping(curator), None, None, queue=False, **QUIET)
    finish.click(_building(curator), [password, which], status, **BUSY)
    page.unload(_stopping(curator))
    page.load(None, None, None, js=LISTEN_TO_KEYS)


def _add_form() -> list[Component]:
    """Lay out what a set is begun from, and return it in the order in which `make_plan` takes it."""
    title = gr.Textbox(label="Title", info="Listeners see it; the folder is named after it.", max_length=60)
    prompts = gr.Textbox(label="Prompts", info="One a line.", lines=4)
    pictures = gr.File(label="Pictures", file_count="multiple", file_types=["image"], height=120)
    methods = gr.CheckboxGroup(
        [*TEXT_METHODS, *IMAGE_METHODS],
        value=["zs", "pd"],
        label="Methods",
        info="To be compared: iq and mq render the pictures, the others the prompts.",
    )
    with gr.Row():
        seeds = gr.Slider(1, 5, 1, step=1, label="Sounds", info="Of each prompt and method in the test.")
        many = gr.Slider(1, 8, 2, step=1, label="Candidates", info="To choose each of those sounds from.")
        gold = gr.Slider(0, 5, 1, step=1, label="Gold items", info="Noise that an attentive ear rates low.")
        traps = gr.Slider(0, 5, 1, step=1, label="Trapping items", info="Beeps to be counted.")
    return [title, prompts, methods, seeds, many, gold, traps, pictures]


def _generating(curator: Curator) -> Callable[..., Any]:
    def generate(
        password: str,
        title: str,
        prompts: str,
        methods: list[str],
        seeds: int,
        candidates: int,
        gold: int,
        traps: int,
        pictures: list[str] | None,
        request: gr.Request,
        progress: gr.Progress = gr.Progress(),  # noqa: B008 how Gradio passes it
    ) -> tuple[Any, str]:
        try:
            curator.check(password, request)
            keep = partial(curator.keep_pictures, pictures=pictures or [])
            name, plan = make_plan(title, prompts, methods, seeds, candidates, gold, traps, keep)
            curator.generate(plan, name, visitor_of(request), lambda done, total: progress((done, total), unit="cells"))
        except Cancelled as told:
            return gr.update(choices=curator.names()), str(told)
        except ClipSonicError as error:
            raise in_page(error) from error
        return gr.update(choices=curator.names(), value=name), f"All candidates of {name} are made."

    return generate


def _stopping(curator: Curator) -> Callable[..., Any]:
    def stop(request: gr.Request) -> None:
        curator.stop(visitor_of(request))

    return stop


def _naming(curator: Curator) -> Callable[..., Any]:
    """Return what fills the list of sets, whose names are the organiser's alone."""

    def name(password: str, request: gr.Request) -> tuple[Any, str]:
        if not password:
            return gr.update(), "The organiser's password comes first."
        try:
            curator.check(password, request)
        except ClipSonicError as error:
            raise in_page(error) from error
        names = curator.names()
        return gr.update(choices=names), f"Choose one of {len(names)} sets, or begin one." if names else "No set yet."

    return name


def _building(curator: Curator) -> Callable[..., Any]:
    def finish(password: str, name: str | None, request: gr.Request) -> str:
        try:
            made = build(curator.open(password, name, request))
        except ClipSonicError as error:
            raise in_page(error) from error
        return f"{name} is built: {len(made.manifest.stimuli)} sounds. It can be taken in the tab *Take the test*."

    return finish
