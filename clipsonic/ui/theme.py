"""How the page looks: light and dark, wide and narrow, in the system's own fonts so that it needs no network."""

from __future__ import annotations

import gradio as gr

FONTS = ("ui-sans-serif", "system-ui", "Segoe UI", "Roboto", "Helvetica Neue", "Arial", "sans-serif")
MONO_FONTS = ("ui-monospace", "SFMono-Regular", "Menlo", "Consolas", "monospace")
ACCENT = "#7c3aed"
FADED = "#a8a2c4"

CSS = """
.gradio-container { width: 100% !important; max-width: 1280px !important; margin: 0 auto !important; }
.intro h1 { margin-bottom: 0; }
.intro p { color: var(--body-text-color-subdued); }
.explanation { max-width: 75ch; }

.status, .method { padding: 0 !important; }
.status { min-height: 2.5em; font-size: var(--text-sm); color: var(--body-text-color-subdued); }
.status label { display: block; }
.status progress { display: block; width: 100%; height: 6px; margin-top: 8px; border: 0; appearance: none;
  border-radius: 3px; overflow: hidden; background: var(--border-color-primary); }
.status progress::-webkit-progress-bar { background: var(--border-color-primary); }
.status progress::-webkit-progress-value { background: var(--color-accent); transition: width 0.3s; }
.status progress::-moz-progress-bar { background: var(--color-accent); }
.status progress:indeterminate { background: linear-gradient(90deg, var(--border-color-primary) 35%,
  var(--color-accent) 50%, var(--border-color-primary) 65%) 0 / 300% 100%; animation: swing 1.6s linear infinite; }
.status progress:indeterminate::-webkit-progress-bar { background: none; }
.status [data-testid="status-tracker"]:has(.error) { display: none; }
@keyframes swing { from { background-position: 100% 0; } to { background-position: -50% 0; } }

.card { padding: var(--spacing-lg); gap: var(--spacing-md) !important; background: var(--block-background-fill);
  border: 1px solid var(--border-color-primary); border-radius: var(--radius-lg); }
.card .block { border: 0 !important; box-shadow: none !important; background: none !important; }
.method h3 { margin: 0 !important; }
.method p { margin: 0; font-size: var(--text-sm); color: var(--body-text-color-subdued); }
.method small { font-weight: 400; color: var(--body-text-color-subdued); }
.spectrogram { min-height: 0 !important; }
.spectrogram .empty { min-height: 9em !important; }

@media (min-width: 768px) {
  .examples .gallery:has(img) { display: grid; grid-template-columns: repeat(8, 1fr); }
  .examples .gallery:has(img) :is(button, span, .container) { display: block; width: 100%; height: auto; }
  .examples .gallery:has(img) img { width: 100%; height: auto; aspect-ratio: 1; object-fit: contain; }
}
@media (max-width: 767px) {
  .halves { flex-direction: column; }
  .left { display: contents !important; }
  .left > .settings { order: 2; }
  .right { order: 1; }
  .examples { width: 0; min-width: 100% !important; }
  .examples .gallery { flex-wrap: nowrap !important; overflow-x: auto; }
  .examples .gallery > * { flex: none; white-space: nowrap; }
}
"""


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
