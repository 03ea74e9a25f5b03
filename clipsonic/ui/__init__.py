"""The Gradio page around the pipeline; nothing here is needed to make sounds."""

from clipsonic.ui.abilities import Abilities
from clipsonic.ui.desk import Desk
from clipsonic.ui.page import build_ui, launch_options
from clipsonic.ui.zerogpu import place_at_start

__all__ = ["Abilities", "Desk", "build_ui", "launch_options", "place_at_start"]
