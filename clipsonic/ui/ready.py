"""The examples' sounds that were made beforehand, as the page shows them."""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from clipsonic.audio import log_mel, read_audio
from clipsonic.config import GenerationSettings, MelConfig
from clipsonic.examples import ExampleSound, ExampleSounds
from clipsonic.ui import cards


@dataclass(frozen=True)
class Found:
    """The sounds of one example."""

    folder: Path
    sounds: tuple[ExampleSound, ...]

    @property
    def seed(self) -> int:
        """The seed that they share."""
        return self.sounds[0].seed

    def value(self, mel: MelConfig, folder: Path, *, more: bool = False) -> cards.Value:
        """Return them as the page shows them.

        Args:
            mel: The model's mel settings, for the spectrograms.
            folder: Where to put copies of the files, from where Gradio may take them.
            more: Whether "more like this" is offered.

        Raises:
            MediaError: A file is broken.
            OSError: A file is missing.
        """
        shown = []
        for number, sound in enumerate(self.sounds):
            path = Path(shutil.copy(self.folder / Path(sound.file).name, folder))
            waveform, rate = read_audio(path, mel.sample_rate)
            spectrogram = log_mel(torch.from_numpy(waveform), mel).numpy()
            place = cards.Place(sound.method, 1, cards.SIDES[min(number, len(cards.SIDES) - 1)])
            duration_s = len(waveform) / rate
            shown.append(cards.finished(place, path, spectrogram, mel, sound.tags, duration_s, sound.score, more=more))
        return cards.value_of(shown, self.sounds[0].query)


@dataclass(frozen=True)
class ReadyMade:
    """All of them; any that the running model and the settings asked for would not give are never shown."""

    sounds: ExampleSounds

    def find(
        self, query: dict[str, Any], settings: GenerationSettings, seed: int | None, model_sha256: str
    ) -> Found | None:
        """Return what a run would give if it is there.

        Args:
            query: As the pipeline would take it: `{"prompt": text}` or `{"image": path}`.
            settings: Those asked for.
            seed: The seed asked for; None if any will do.
            model_sha256: The model that would run.
        """
        asked = query["prompt"] if "prompt" in query else Path(str(query.get("image"))).name
        found = self.sounds.find(asked, settings, seed, model_sha256)
        return Found(self.sounds.folder, found) if found else None
