"""What a tab shows of a run: the bar, the players with their spectrograms, and the settings used."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING, Any

import gradio as gr
import numpy as np
from gradio.blocks import Block

from clipsonic.audio import write_audio
from clipsonic.config import MelConfig
from clipsonic.storage import slug
from clipsonic.ui import words
from clipsonic.ui.controls import MAX_VARIATIONS
from clipsonic.ui.runs import Report
from clipsonic.ui.spectrogram import draw_spectrogram
from clipsonic.ui.theme import ACCENT, FADED

if TYPE_CHECKING:
    from clipsonic.pipeline import ClipSonicAudio, ClipSonicOutput

Updates = dict[Block, Any]


@dataclass(frozen=True)
class Card:
    """One sound on the page."""

    player: gr.Audio
    spectrogram: gr.Image


class Results:
    """The right half of a tab: places for up to `MAX_VARIATIONS` takes of each method.

    Attributes:
        methods: The methods shown side by side.
        components: Everything an event of the tab may change.
    """

    def __init__(self, methods: Sequence[str]) -> None:
        """Make the components inside the current layout."""
        self.methods = tuple(methods)
        self.status = gr.HTML(message(words.READY), elem_classes="status")
        self._takes: list[gr.Column] = []
        self._cards: list[Card] = []
        with gr.Row(equal_height=False, elem_classes="takes"):
            for take in range(MAX_VARIATIONS):
                with gr.Column(visible=take == 0, min_width=300, elem_classes="take") as column, gr.Row():
                    self._cards += [_card(method, take) for method in self.methods]
                self._takes.append(column)
        with gr.Accordion(words.DETAILS, open=False, visible=False) as self._details:
            self._facts = gr.JSON(show_label=False, container=False)

    @property
    def components(self) -> list[Block]:
        """The status, every place for a sound and the details."""
        cards = [part for card in self._cards for part in (card.player, card.spectrogram)]
        return [self.status, *self._takes, *cards, self._details, self._facts]

    def begin(self, count: int) -> Updates:
        """Clear the places and show as many as there will be sounds."""
        updates: Updates = {self.status: bar(Report("starting", 0, 0)), self._details: gr.update(visible=False)}
        for number, column in enumerate(self._takes):
            updates[column] = gr.update(visible=number < count)
        for card in self._cards:
            updates |= {card.player: gr.update(value=None, visible=False), card.spectrogram: None}
        return updates

    def report(self, report: Report, mel: MelConfig) -> Updates:
        """Move the bar, and draw the spectrograms as they stand."""
        updates: Updates = {self.status: bar(report)}
        if report.preview is not None:
            updates |= self._spectrograms(report.preview, mel)
        return updates

    def show(self, output: ClipSonicOutput, mel: MelConfig, folder: Path) -> Updates:
        """Show the sounds, whose files are written to `folder` first."""
        paths = write_sounds(output, folder)
        players = {
            card.player: gr.update(value=path, visible=True) for card, path in zip(self._cards, paths, strict=False)
        }
        took = f"Done in {output.timings['total']:.1f} s."
        return {
            self.status: message(took),
            self._details: gr.update(visible=True),
            self._facts: facts(output, paths),
            **players,
            **self._spectrograms(output.mels, mel),
        }

    def _spectrograms(self, mels: np.ndarray, mel: MelConfig) -> Updates:
        return {card.spectrogram: draw_spectrogram(each, mel) for card, each in zip(self._cards, mels, strict=False)}


def write_sounds(output: ClipSonicOutput, folder: Path) -> list[Path]:
    """Write each sound as a tagged wav file whose name says what it is.

    Raises:
        OutputError: The folder cannot be written to.
    """
    paths = [folder / file_name(audio) for audio in output.audios]
    for audio, path in zip(output.audios, paths, strict=True):
        write_audio(path, audio.waveform, output.sample_rate, output.tags(audio))
    return paths


def file_name(audio: ClipSonicAudio) -> str:
    """Return a name such as `a-dog-barking_zs_s7.wav`, as the command line gives."""
    return f"{slug(audio.prompt or Path(audio.image or '').stem)}_{audio.method}_s{audio.seed}.wav"


def facts(output: ClipSonicOutput, paths: Sequence[Path]) -> dict[str, Any]:
    """Return how the sounds were made, as plain JSON values."""
    return {
        "model": output.model,
        "model_sha256": output.model_sha256,
        "sample_rate": output.sample_rate,
        "settings": output.settings.to_dict(),
        "seconds": {stage: round(seconds, 3) for stage, seconds in output.timings.items()},
        "audios": [
            {
                "file": path.name,
                "method": audio.method,
                "prompt": audio.prompt,
                "image": audio.image,
                "seed": audio.seed,
            }
            for audio, path in zip(output.audios, paths, strict=True)
        ],
    }


def bar(report: Report) -> str:
    """Return a progress bar with its words as HTML; it only swings if there is nothing to count."""
    name = escape(words.stage_name(report.stage))
    if report.total <= 1:
        return f"<label>{name} …<progress></progress></label>"
    count = f"step {report.step} of {report.total}"
    return f'<label>{name}, {count}<progress value="{report.step}" max="{report.total}"></progress></label>'


def message(text: str) -> str:
    """Return a line of words as HTML."""
    return f"<p>{escape(text)}</p>"


def _card(method: str, take: int) -> Card:
    name, short, meaning = words.METHODS[method]
    with gr.Column(min_width=280, elem_classes="card"):
        number = f" · take {take + 1}" if take else ""
        gr.HTML(f"<h3>{name} <small>{short}{number}</small></h3><p>{meaning}</p>", elem_classes="method")
        player = gr.Audio(
            label=f"{name} ({short}), take {take + 1}",
            show_label=False,
            type="filepath",
            interactive=False,
            visible=False,
            buttons=["download"],
            waveform_options=gr.WaveformOptions(waveform_color=FADED, waveform_progress_color=ACCENT),
            elem_id=f"{method}-{take + 1}-player",
        )
        spectrogram = gr.Image(
            label=f"Spectrogram of {short}, take {take + 1}",
            show_label=False,
            interactive=False,
            format="png",
            buttons=["fullscreen"],
            container=False,
            elem_id=f"{method}-{take + 1}-spectrogram",
            elem_classes="spectrogram",
        )
    return Card(player, spectrogram)
