"""The widgets of the settings: one for each field of `GenerationSettings` that a visitor may set."""

from __future__ import annotations

import random
from collections.abc import Mapping
from typing import Any

import gradio as gr
from gradio.blocks import Block

from clipsonic.config import MAX_PROMPT_LENGTH, SAMPLERS, GenerationSettings
from clipsonic.ui import words

DEFAULTS = GenerationSettings()
MAX_VARIATIONS = 4
SHORT_SEEDS = 1_000_000
"""Drawn seeds lie below this, to be noted down easily; a typed one may be any that `GenerationSettings` takes."""


def settings_controls(for_text: bool) -> tuple[dict[str, Block], gr.Checkbox]:
    """Make the widgets of one tab inside the current layout.

    Args:
        for_text: Whether to make those that only matter to prompts too.

    Returns:
        The widgets by the field of `GenerationSettings` that they set, and the lock of the seed.
    """
    with gr.Group():
        controls: dict[str, Block] = {"num_audios": _variations()}
        controls["seed"], lock = _seed()
    with gr.Accordion(words.MORE_SETTINGS, open=False):
        controls |= _denoising()
        if for_text:
            controls |= _prior()
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


def _variations() -> Block:
    return gr.Slider(1, MAX_VARIATIONS, DEFAULTS.num_audios, step=1, label="Variations", info=words.NUM_AUDIOS)


def _seed() -> tuple[Block, gr.Checkbox]:
    """Make the seed, its lock and its dice; the dice and typing lock it, or the next click would replace it."""
    with gr.Row(equal_height=True):
        seed = gr.Number(DEFAULTS.seed, precision=0, minimum=0, label="Seed", info=words.SEED, min_width=130)
        with gr.Column(min_width=130):
            lock = gr.Checkbox(False, label="🔒 Keep this seed", info=words.LOCK)
            dice = gr.Button("🎲 New seed", size="sm")
    quietly: dict[str, Any] = {"show_progress": "hidden", "queue": False, "api_visibility": "private"}
    dice.click(lambda: (new_seed(), True), None, [seed, lock], **quietly)
    seed.input(lambda: True, None, lock, **quietly)
    return seed, lock


def _denoising() -> dict[str, Block]:
    steps, guidance = DEFAULTS.num_inference_steps, DEFAULTS.guidance_scale
    samplers = [(words.SAMPLER_NAMES.get(name, name), name) for name in SAMPLERS]
    return {
        "num_inference_steps": gr.Slider(1, 200, steps, step=1, label="Steps", info=words.NUM_INFERENCE_STEPS),
        "guidance_scale": gr.Slider(0, 15, guidance, step=0.1, label="Guidance", info=words.GUIDANCE_SCALE),
        "negative_prompt": gr.Textbox(
            DEFAULTS.negative_prompt, label="Keep away from", info=words.NEGATIVE_PROMPT, max_length=MAX_PROMPT_LENGTH
        ),
        "sampler": gr.Dropdown(samplers, value=DEFAULTS.sampler, label="Sampler", info=words.SAMPLER, filterable=False),
    }


def _prior() -> dict[str, Block]:
    steps, guidance = DEFAULTS.prior_num_inference_steps, DEFAULTS.prior_guidance_scale
    return {
        "prior_num_inference_steps": gr.Slider(1, 100, steps, step=1, label="Prior steps", info=words.PRIOR_STEPS),
        "prior_guidance_scale": gr.Slider(0, 10, guidance, step=0.1, label="Prior guidance", info=words.PRIOR_GUIDANCE),
        "template": gr.Textbox(DEFAULTS.template, label="Caption template", info=words.TEMPLATE),
    }
