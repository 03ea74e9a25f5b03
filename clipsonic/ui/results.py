"""What a tab shows of a run: the bar with the time left, the sounds, and how they were made."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING, Any

import gradio as gr
from gradio.blocks import Block

from clipsonic.config import MelConfig
from clipsonic.ui import cards, words
from clipsonic.ui.runs import Report
from clipsonic.ui.stage import make_stage

if TYPE_CHECKING:
    from clipsonic.pipeline import ClipSonicOutput

Updates = dict[Block, Any]


class Results:
    """The right half of a tab.

    Attributes:
        components: Everything an event of the tab may change.
    """

    def __init__(self, kind: str, *, more: bool = False) -> None:
        """Make the components inside the current layout.

        Args:
            kind: The tab's name, which its stage is known by.
            more: Whether each sound offers more like it.
        """
        self._more = more
        self.status = gr.HTML(message(words.READY), elem_classes="status", elem_id=f"{kind}-status")
        self.stage = make_stage(elem_id=f"{kind}-stage", elem_classes="sounds")
        with gr.Accordion(words.DETAILS, open=False, visible=False) as self._details:
            self._facts = gr.JSON(show_label=False, container=False)
        self.components: list[Block] = [self.status, self.stage, self._details, self._facts]

    def begin(self, value: cards.Value) -> Updates:
        """Clear the places and show as many as there will be sounds."""
        starting = bar(Report("starting", 0, 0))
        return {self.status: starting, self.stage: value, self._details: gr.update(visible=False)}

    def report(self, report: Report, value: cards.Value, order: Sequence[cards.Place], mel: MelConfig) -> Updates:
        """Move the bar, and draw the spectrograms as they stand."""
        updates: Updates = {self.status: bar(report)}
        if report.preview is not None:
            updates[self.stage] = cards.preview(value, order, report.preview, mel)
        return updates

    def show(self, output: ClipSonicOutput, value: cards.Value, paths: Sequence[Path]) -> Updates:
        """Show the sounds."""
        return {
            self.status: message(f"Done in {output.timings['total']:.1f} s."),
            self.stage: value,
            self._details: gr.update(visible=True),
            self._facts: facts(output, paths),
        }

    def show_ready_made(self, value: cards.Value) -> Updates:
        """Show sounds that were there already, and let the first one play."""
        return {
            self.status: message(words.READY_MADE),
            self.stage: value | {"autoplay": True},
            self._details: gr.update(visible=False),
        }

    @property
    def more(self) -> bool:
        """Whether each sound offers more like it."""
        return self._more


def facts(output: ClipSonicOutput, paths: Sequence[Path]) -> dict[str, Any]:
    """Return how the sounds were made, as plain JSON values."""
    kinds = ("prompt", "image", "video", "audio", "toward", "score")
    return {
        "model": output.model,
        "model_sha256": output.model_sha256,
        "sample_rate": output.sample_rate,
        "settings": output.settings.to_dict(),
        "seconds": {stage: round(seconds, 3) for stage, seconds in output.timings.items()},
        "audios": [
            {"file": path.name, "method": audio.method, "seed": audio.seed}
            | {kind: getattr(audio, kind) for kind in kinds if getattr(audio, kind) is not None}
            for audio, path in zip(output.audios, paths, strict=True)
        ],
    }


def bar(report: Report) -> str:
    """Return a progress bar with its words as HTML; it only swings if there is nothing to count."""
    name = escape(words.stage_name(report.stage))
    if report.total <= 1:
        return f"<label>{name} …<progress></progress></label>"
    count = f"step {report.step} of {report.total}"
    left = "" if report.left_s is None else f", {words.time_left(report.left_s)}"
    return f'<label>{name}, {count}{left}<progress value="{report.step}" max="{report.total}"></progress></label>'


def message(text: str) -> str:
    """Return a line of words as HTML."""
    return f"<p>{escape(text)}</p>"
