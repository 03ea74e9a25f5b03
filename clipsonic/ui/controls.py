"""The widgets of the settings: one for each field of `GenerationSettings` that a visitor may set."""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping
from typing import Any

import gradio as gr
from gradio.blocks import Block

from clipsonic.config import MAX_PROMPT_LENGTH, MIN_STRENGTH, SAMPLERS, GenerationSettings
from clipsonic.ui import words
from clipsonic.ui.abilities import Abilities

DEFAULTS = GenerationSettings()
MAX_VARIATIONS = 4
LONGEST_S = 60
SHORT_SEEDS = 1_000_000
"""Drawn seeds lie below this, to be noted down easily; a typed one may be any that `GenerationSettings` takes."""

FOR_ANY = (
    "num_audios",
    "seed",
    "duration_s",
    "num_inference_steps",
    "guidance_scale",
    "negative_prompt",
    "sampler",
    "candidates",
)
FOR_TEXT = (*FOR_ANY, "prior_num_inference_steps", "prior_guidance_scale", "template")


def settings_controls(
    fields: tuple[str, ...], abilities: Abilities, *, takes: bool = True
) -> tuple[dict[str, Block], gr.Checkbox]:
    """Make the widgets of one tab inside the current layout.

    Args:
        fields: The fields of `GenerationSettings` that matter to the tab.
        abilities: What the model can do; ranked candidates are only offered if it can rank.
        takes: Whether several takes can be shown.

    Returns:
        The widgets by the field that they set, and the lock of the seed.
    """
    left_out = (() if takes else ("num_audios",)) + (() if abilities.scores else ("candidates",))
    wanted = [name for name in fields if name not in left_out]
    controls: dict[str, Block] = {}
    with gr.Group():
        if "num_audios" in wanted:
            controls["num_audios"] = number_slider("num_audios")
        if "duration_s" in wanted:
            controls["duration_s"] = number_slider("duration_s")
        controls["seed"], lock = _seed()
    with gr.Accordion(words.MORE_SETTINGS, open=False):
        for name in wanted:
            if name not in controls:
                controls[name] = _MAKERS[name]() if name in _MAKERS else number_slider(name)
    return controls, lock


def read_settings(methods: tuple[str, ...], keep_seed: bool, values: Mapping[str, Any]) -> GenerationSettings:
    """Turn the values of the widgets into settings, with a new seed unless it is to be kept.

    Raises:
        SettingsError: A value is outside what is allowed.
    """
    seed = values["seed"] if keep_seed else new_seed()
    return GenerationSettings(**{**values, "methods": methods, "seed": seed})


def new_seed() -> int:
    """Draw a seed of at most six digits."""
    return random.randrange(SHORT_SEEDS)


_RANGES: dict[str, tuple[float, float, float]] = {
    "num_audios": (1, MAX_VARIATIONS, 1),
    "duration_s": (0, LONGEST_S, 0.5),
    "num_inference_steps": (1, 200, 1),
    "guidance_scale": (0, 15, 0.1),
    "prior_num_inference_steps": (1, 100, 1),
    "prior_guidance_scale": (0, 10, 0.1),
    "candidates": (1, 8, 1),
    "morph": (0, 1, 0.05),
    "strength": (MIN_STRENGTH, 1, 0.05),
}


def number_slider(name: str) -> Block:
    """Make the slider of a field."""
    low, high, step = _RANGES[name]
    label, info = words.CONTROLS[name]
    return gr.Slider(low, high, getattr(DEFAULTS, name), step=step, label=label, info=info)


def morph_slider(words_of: tuple[str, str]) -> Block:
    """Make the slider of `morph` with a label and an explanation of its own."""
    low, high, step = _RANGES["morph"]
    return gr.Slider(low, high, DEFAULTS.morph, step=step, label=words_of[0], info=words_of[1])


def _seed() -> tuple[Block, gr.Checkbox]:
    """Make the seed and its lock; typing a seed locks it, or the next click would replace it."""
    label, info = words.CONTROLS["seed"]
    with gr.Row(equal_height=True):
        seed = gr.Number(DEFAULTS.seed, precision=0, minimum=0, label=label, info=info, min_width=130)
        lock = gr.Checkbox(False, label=words.LOCK[0], info=words.LOCK[1], min_width=130)
    # In the browser, for a round trip may end after the next click.
    seed.input(None, None, lock, js="() => true", show_progress="hidden", api_visibility="private")
    return seed, lock


def _sampler() -> Block:
    label, info = words.CONTROLS["sampler"]
    choices = [(words.SAMPLER_NAMES.get(name, name), name) for name in SAMPLERS]
    return gr.Dropdown(choices, value=DEFAULTS.sampler, label=label, info=info, filterable=False)


def text_box(name: str) -> Block:
    """Make the text box of a field."""
    label, info = words.CONTROLS[name]
    return gr.Textbox(getattr(DEFAULTS, name), label=label, info=info, max_length=MAX_PROMPT_LENGTH)


_MAKERS: dict[str, Callable[[], Block]] = {
    "sampler": _sampler,
    "negative_prompt": lambda: text_box("negative_prompt"),
    "template": lambda: text_box("template"),
}
