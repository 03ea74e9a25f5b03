"""The Gradio page around the pipeline; nothing here is needed to make sounds."""

from clipsonic.ui.page import build_ui, launch_options

__all__ = ["build_ui", "launch_options"]
