"""The tab *Why PD?*: where a visitor's own words land in CLIP's space, and where the prior takes them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import lru_cache
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING, Any

import gradio as gr
from gradio.blocks import Block

from clipsonic.config import GenerationSettings
from clipsonic.errors import ClipSonicError
from clipsonic.examples import list_pictures, read_prompts
from clipsonic.gap import Landscape, Located, draw_svg, embed_landscape, locate
from clipsonic.ui import words
from clipsonic.ui.controls import number_slider, text_box
from clipsonic.ui.handlers import in_page
from clipsonic.ui.zerogpu import on_gpu

if TYPE_CHECKING:
    from clipsonic.pipeline import ClipSonicPipeline

ROWS = {"zs": "ZS", "pd": "PD", "sd": "SD", "mp": "MP", "pictures": "pictures themselves"}


class Why:
    """Locates prompts among the example pictures and prompts."""

    def __init__(self, load: Callable[[], ClipSonicPipeline], examples: Path) -> None:
        """Remember how to open the model and where the examples lie."""
        self._load, self._examples = load, examples
        self._locate_on_gpu = on_gpu(self._locate)
        self._landscape = lru_cache(maxsize=4)(self._embed)

    def show(self, prompt: Any, request: gr.Request, **values: Any) -> str:
        """Return the plot and the table for a prompt as HTML."""
        try:
            settings = GenerationSettings(**values)
            (located,) = self._locate_on_gpu("", {"prompt": prompt}, settings)
            if isinstance(located, ClipSonicError):
                raise located
        except ClipSonicError as error:
            raise in_page(error) from error
        told = f"{draw_svg(located)}{table(located)}{looked_up(located)}<p>{escape(words.WHY_READ)}</p>"
        return f'<div class="gap">{told}</div>'

    def _locate(
        self, visitor: str, query: dict[str, Any], settings: GenerationSettings
    ) -> Iterator[Located | ClipSonicError]:
        """Do the work where the GPU is, out of which errors come only as values."""
        from clipsonic.pipeline import check_prompt

        try:
            prompt = check_prompt(query["prompt"])
            yield locate(self._load(), self._landscape(settings.template), prompt, settings)
        except ClipSonicError as error:
            yield error

    def _embed(self, template: str) -> Landscape:
        pictures = {path.stem: path for path in list_pictures(self._examples)}
        return embed_landscape(self._load(), pictures, read_prompts(self._examples), template)


def why_tab(why: Why, generation: dict[str, Any]) -> None:
    """Lay out and connect the tab inside the current layout.

    Args:
        why: What answers.
        generation: How events share the machine with those that make sounds.
    """
    gr.Markdown(words.WHY, elem_classes="explanation")
    with gr.Row(elem_classes="halves"):
        with gr.Column(scale=2, min_width=320):
            prompt = gr.Textbox(label=words.WHY_PROMPT[0], placeholder=words.WHY_PROMPT[1], elem_id="why-prompt")
            go = gr.Button("Show", variant="primary", elem_id="why-go", elem_classes="generate")
            with gr.Accordion(words.MORE_SETTINGS, open=False):
                controls: dict[str, Block] = {
                    "prior_guidance_scale": number_slider("prior_guidance_scale"),
                    "prior_num_inference_steps": number_slider("prior_num_inference_steps"),
                    "template": text_box("template"),
                }
        with gr.Column(scale=3, min_width=320):
            plot = gr.HTML(elem_id="why-plot", min_height=120)
    for trigger in (go.click, prompt.submit):
        trigger(why.show, [prompt], plot, inputs_kwargs=controls, api_visibility="private", **generation)


def table(located: Located) -> str:
    """Return the cosines as an HTML table."""
    rows = "".join(
        f"<tr><th scope='row'>{ROWS[way]}</th><td>{row['to_pictures']:.2f}</td>"
        f"<td>{row['to_nearest']:.2f} ({escape(str(row['nearest']))})</td></tr>"
        for way, row in located.cosines().items()
    )
    head = "".join(f"<th scope='col'>{name}</th>" for name in words.WHY_COLUMNS)
    return f"<table><caption>{words.WHY_CAPTION}</caption><thead><tr>{head}</tr></thead><tbody>{rows}</tbody></table>"


def looked_up(located: Located) -> str:
    """Return the names that the words were looked up as, as an HTML paragraph; nothing if there are none."""
    if not located.looked_up:
        return ""
    names = ", ".join(f"{escape(name)} {share:.0%}" for name, share in located.looked_up)
    return f"<p>{words.WHY_LOOKED_UP} {names}.</p>"
