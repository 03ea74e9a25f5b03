"""How the page looks: system fonts only, so that it needs no network."""

from __future__ import annotations

import gradio as gr

FONTS = ("ui-sans-serif", "system-ui", "Segoe UI", "Roboto", "Helvetica Neue", "Arial", "sans-serif")
MONO_FONTS = ("ui-monospace", "SFMono-Regular", "Menlo", "Consolas", "monospace")

CSS = """
.gradio-container { max-width: 1240px !important; margin: 0 auto !important; }
.status { min-height: 2.6em; }
.status label { display: block; font-size: var(--text-sm); color: var(--body-text-color-subdued); }
.status p { font-size: var(--text-sm); color: var(--body-text-color-subdued); margin: 0; }
.status progress { display: block; width: 100%; height: 6px; margin-top: 6px; accent-color: var(--color-accent); }
.method h3 { margin: 0; } .method p { margin: 0; font-size: var(--text-sm); color: var(--body-text-color-subdued); }
.method small { color: var(--body-text-color-subdued); font-weight: 400; }
"""


def theme() -> gr.themes.Base:
    """Return the theme: quiet greys and one accent, light and dark."""
    return gr.themes.Default(
        primary_hue="violet", secondary_hue="violet", neutral_hue="slate", font=FONTS, font_mono=MONO_FONTS
    )
