"""How the page looks: light and dark, wide and narrow, in the system's own fonts so that it needs no network."""

from __future__ import annotations

import gradio as gr

FONTS = ("ui-sans-serif", "system-ui", "Segoe UI", "Roboto", "Helvetica Neue", "Arial", "sans-serif")
MONO_FONTS = ("ui-monospace", "SFMono-Regular", "Menlo", "Consolas", "monospace")


def theme() -> gr.themes.Base:
    """Return the theme: quiet greys and one accent."""
    return gr.themes.Default(
        primary_hue="violet", secondary_hue="violet", neutral_hue="slate", font=FONTS, font_mono=MONO_FONTS
    ).set(
        body_background_fill="*neutral_50",
        body_text_color_subdued="*neutral_500",
        body_text_color_subdued_dark="*neutral_400",
        button_primary_background_fill="*primary_600",
        button_primary_background_fill_hover="*primary_500",
    )
