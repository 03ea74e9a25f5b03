"""Sounds as the page shows them: plain JSON values, which the script in `assets/studio.js` draws."""

from __future__ import annotations

import secrets
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from clipsonic.audio import write_audio
from clipsonic.config import MelConfig
from clipsonic.methods import AUDIO_METHODS, IMAGE_METHODS, TEXT_METHODS
from clipsonic.storage import slug
from clipsonic.ui import words
from clipsonic.ui.links import link_to
from clipsonic.ui.spectrogram import axes, data_uri, draw_spectrogram

if TYPE_CHECKING:
    from clipsonic.pipeline import ClipSonicAudio, ClipSonicOutput

Value = dict[str, Any]
SIDES = ("A", "B", "C")
FITTING = {"prompt": TEXT_METHODS, "image": IMAGE_METHODS, "video": IMAGE_METHODS, "audio": AUDIO_METHODS}
"""The methods that render each kind of query, in the order in which the pipeline takes the kinds."""


@dataclass(frozen=True)
class Place:
    """Where a sound goes on the page: which method made it, which take it is, and on which side it plays."""

    method: str
    take: int
    side: str

    @property
    def key(self) -> str:
        """What tells this place from the others of a run."""
        return f"{self.method}-{self.take}"


def places(query: Collection[str], methods: Sequence[str], takes: int) -> list[Place]:
    """Return the places in the order in which the pipeline makes sounds: by query, then take, then method."""
    return [
        Place(method, take, SIDES[min(methods.index(method), len(SIDES) - 1)])
        for kind, fitting in FITTING.items()
        if kind in query
        for take in range(1, takes + 1)
        for method in methods
        if method in fitting
    ]


def empty(order: Sequence[Place]) -> Value:
    """Return what stands there before there is anything to see."""
    return {"run": secrets.token_hex(8), "done": False, "cards": _sorted([_frame(place) for place in order])}


def preview(value: Value, order: Sequence[Place], mels: np.ndarray, mel: MelConfig) -> Value:
    """Return the places with the spectrograms as they stand.

    Args:
        value: From `empty`.
        order: Where each spectrogram goes.
        mels: Natural-log mel magnitudes, float32, shape (sounds, n_mels, frames).
        mel: The mel settings, for the axes.
    """
    cards = [_frame(place) | _drawn(one, mel) for place, one in zip(order, mels, strict=False)]
    return value | {"cards": _sorted(cards)}


def sounds(
    output: ClipSonicOutput,
    order: Sequence[Place],
    paths: Sequence[Path],
    mel: MelConfig,
    *,
    more: bool = False,
) -> Value:
    """Return the finished sounds.

    Args:
        output: What the pipeline gave.
        order: Where each of its sounds goes.
        paths: The file of each.
        mel: The mel settings, for the axes.
        more: Whether "more like this" is offered.
    """
    cards = [
        finished(
            place,
            path,
            audio.mel,
            mel,
            output.tags(audio),
            len(audio.waveform) / output.sample_rate,
            audio.score,
            more=more,
        )
        for audio, place, path in zip(output.audios, order, paths, strict=True)
    ]
    return value_of(cards, title_of(output.audios[0]))


def finished(
    place: Place,
    path: Path,
    spectrogram: np.ndarray,
    mel: MelConfig,
    tags: Mapping[str, str],
    duration_s: float,
    score: float | None = None,
    *,
    more: bool = False,
) -> Value:
    """Return one finished sound.

    Args:
        place: Where it goes.
        path: Its file.
        spectrogram: Natural-log mel magnitudes, float32, shape (n_mels, frames).
        mel: The mel settings, for the axes.
        tags: What the file says of itself.
        duration_s: Its length in seconds.
        score: Its Clip-Score, if there is one.
        more: Whether "more like this" is offered.
    """
    scored = {} if score is None else {"score": f"Clip-Score {score:.2f}", "score_meaning": words.SCORE}
    return {
        **_frame(place),
        **_drawn(spectrogram, mel),
        **scored,
        "sound": file_data(path),
        "file": path.name,
        "duration_s": round(duration_s, 3),
        "settings": dict(tags),
        "link": link_to(tags),
        "more": more,
    }


def value_of(cards: list[Value], title: str) -> Value:
    """Return finished sounds as the value of a stage."""
    return {"run": secrets.token_hex(8), "done": True, "title": title, "cards": _sorted(cards)}


def title_of(audio: ClipSonicAudio) -> str:
    """Return what a sound was made from, in few words."""
    return " → ".join(audio.query.values())


def file_name(audio: ClipSonicAudio, suffix: str = "wav") -> str:
    """Return a name such as `a-dog-barking_zs_s7.wav`, as the command line gives."""
    named = audio.image or audio.video or audio.audio or ""
    return f"{slug(audio.prompt or Path(named).stem)}_{audio.method}_s{audio.seed}.{suffix}"


def write_sounds(output: ClipSonicOutput, folder: Path) -> list[Path]:
    """Write each sound as a tagged wav file whose name says what it is.

    Raises:
        OutputError: The folder cannot be written to.
    """
    paths = [folder / file_name(audio) for audio in output.audios]
    for audio, path in zip(output.audios, paths, strict=True):
        write_audio(path, audio.waveform, output.sample_rate, output.tags(audio))
    return paths


def file_data(path: Path) -> Value:
    """Return a file in the form in which Gradio moves it to where it is served."""
    return {"path": str(path), "orig_name": path.name, "meta": {"_type": "gradio.FileData"}}


def _sorted(cards: list[Value]) -> list[Value]:
    """Put the sides of a take beside each other."""
    return sorted(cards, key=lambda card: (card["take"], card["side"]))


def _frame(place: Place) -> Value:
    name, short, meaning = words.METHODS[place.method]
    return {
        "key": place.key,
        "method": place.method,
        "side": place.side,
        "take": place.take,
        "name": name,
        "short": short,
        "meaning": meaning,
    }


def _drawn(mel: np.ndarray, config: MelConfig) -> Value:
    return {"picture": data_uri(draw_spectrogram(mel)), "axes": axes(config, mel.shape[1])}
