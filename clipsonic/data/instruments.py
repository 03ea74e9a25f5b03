"""Short instrument solos, rendered from a General MIDI sound font by fluidsynth."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from clipsonic.data.tracks import resample
from clipsonic.errors import DataError

SOUND_FONT = "usr/share/sounds/sf2/FluidR3_GM.sf2"
RENDER_RATE = 44100
"""The font's own rate; rendering lower would alias."""
BLOCK = 64
DRUM_BANK = 128
SCALES = ((0, 2, 4, 5, 7, 9, 11), (0, 2, 3, 5, 7, 8, 10), (0, 2, 4, 7, 9), (0, 3, 5, 7, 10), (0, 2, 3, 5, 7, 9, 10))
STEPS = (-2, -1, -1, 0, 1, 1, 2, 3, -3)
RHYTHMS = ((1.0,), (0.5,), (0.5, 0.5, 1.0), (1.0, 0.5, 0.5), (2.0,), (0.25, 0.25, 0.5), (1.5, 0.5), (4.0,))


@dataclass(frozen=True)
class Instrument:
    """A preset of the sound font and what is idiomatic for it.

    Attributes:
        bank: MIDI bank; `DRUM_BANK` for drum kits.
        program: MIDI program, 0-based.
        low: Lowest note, a MIDI key; for drum kits unused.
        high: Highest note.
        style: "solo" (one note at a time), "chords" (also several at once), "drums" (`keys` in a rhythm),
            or "effect" (one long note).
        keys: Drum keys to play.
    """

    bank: int
    program: int
    low: int = 48
    high: int = 84
    style: str = "solo"
    keys: tuple[int, ...] = ()


@dataclass(frozen=True)
class Note:
    """One note: MIDI key and velocity, start and length in seconds."""

    key: int
    velocity: int
    start_s: float
    length_s: float


def render(font: Path, instrument: Instrument, notes: list[Note], duration_s: float, rate: int) -> NDArray[np.float32]:
    """Render notes with a sound font.

    Args:
        font: The `.sf2` file.
        instrument: The preset.
        notes: What to play.
        duration_s: Length of the result in seconds; notes that ring on are cut.
        rate: Sample rate of the result in Hz.

    Returns:
        Waveform, float32, shape (round(duration_s * rate),).

    Raises:
        DataError: fluidsynth's library is missing, or the font has no such preset.
    """
    synth = _synth()
    try:
        font_id = synth.sfload(str(font))
        if font_id < 0:
            raise DataError(f"fluidsynth cannot read {font}; it must be an .sf2 sound font")
        if synth.program_select(0, font_id, instrument.bank, instrument.program) != 0:
            raise DataError(f"{font.name} has no preset {instrument.bank}:{instrument.program}; name one that it has")
        stereo = _perform(synth, notes, duration_s)
    finally:
        synth.delete()
    sound = resample(stereo.mean(axis=1), RENDER_RATE, rate)
    samples = round(duration_s * rate)
    return np.pad(sound[:samples], (0, max(0, samples - len(sound))))


def compose_phrase(instrument: Instrument, duration_s: float, random: np.random.Generator) -> list[Note]:
    """Make up a short solo: a random key, register, tempo, rhythm, articulation and loudness.

    Args:
        instrument: What plays.
        duration_s: Seconds to fill.
        random: Where all choices come from.
    """
    if instrument.style == "effect":
        return [Note(int(random.integers(instrument.low, instrument.high + 1)), 110, 0.05, duration_s)]
    if instrument.style == "drums":
        return list(_drum_phrase(instrument, duration_s, random))
    return list(_melody(instrument, duration_s, random))


def _melody(instrument: Instrument, duration_s: float, random: np.random.Generator) -> Iterator[Note]:
    scale, root = SCALES[random.integers(len(SCALES))], int(random.integers(12))
    allowed = [k for k in range(instrument.low, instrument.high + 1) if (k - root) % 12 in scale]
    beat_s = 60.0 / random.uniform(66, 168)
    rhythm = RHYTHMS[random.integers(len(RHYTHMS))]
    hold = random.choice([0.35, 0.7, 0.95, 1.05])
    loudness = random.uniform(62, 112)
    chords = instrument.style == "chords" and random.random() < 0.5
    position, time_s, step = int(random.integers(len(allowed))), random.uniform(0.02, 0.15), 0
    while time_s < duration_s - 0.1:
        length_s = max(0.09, beat_s * rhythm[step % len(rhythm)])
        velocity = int(np.clip(loudness + random.normal(0, 7), 40, 122))
        for offset in (0, 2, 4) if chords else (0,):
            yield Note(allowed[min(position + offset, len(allowed) - 1)], velocity, time_s, length_s * hold)
        time_s, step = time_s + length_s, step + 1
        position = int(np.clip(position + random.choice(STEPS), 0, len(allowed) - 1))


def _drum_phrase(instrument: Instrument, duration_s: float, random: np.random.Generator) -> Iterator[Note]:
    step_s = 60.0 / random.uniform(70, 150) / random.choice([1, 2, 2, 4])
    steps = int(random.choice([4, 6, 8]))
    density = random.uniform(0.4, 1.0)
    pattern = [int(random.choice(instrument.keys)) if random.random() < density else None for _ in range(steps)]
    pattern[0] = instrument.keys[0]
    time_s, step = random.uniform(0.02, 0.1), 0
    while time_s < duration_s - 0.08:
        key = pattern[step % steps]
        if key is not None:
            accent = 18 if step % steps == 0 else 0
            yield Note(key, int(np.clip(random.normal(88, 10) + accent, 45, 125)), time_s, max(step_s, 0.2))
        time_s, step = time_s + step_s, step + 1


def _events(notes: list[Note]) -> Iterator[tuple[float, int, int]]:
    """Yield (seconds, key, velocity); velocity 0 ends a note."""
    for note in notes:
        yield note.start_s, note.key, note.velocity
        yield note.start_s + note.length_s, note.key, 0


def _perform(synth: Any, notes: list[Note], duration_s: float) -> NDArray[np.float32]:
    """Return what the synthesiser plays, float32, shape (samples, 2), at `RENDER_RATE` Hz."""
    pieces, now = [], 0
    for time_s, key, velocity in [*sorted(_events(notes)), (duration_s, 0, 0)]:
        # It computes whole blocks: an event between two of them would fall elsewhere.
        count = max(0, round(min(time_s, duration_s) * RENDER_RATE / BLOCK) * BLOCK - now)
        pieces.append(synth.get_samples(count))
        now += count
        if velocity:
            synth.noteon(0, key, velocity)
        else:
            synth.noteoff(0, key)
    return np.concatenate(pieces).astype(np.float32).reshape(-1, 2) / 32768.0


def _synth() -> Any:
    """Return a new synthesiser: one that has played before would not repeat itself to the sample."""
    try:
        import fluidsynth
    except ImportError as error:
        raise DataError(
            f"cannot use fluidsynth: {error}; install pyfluidsynth and the library libfluidsynth3"
        ) from error
    settings = {"synth.reverb.active": 0, "synth.chorus.active": 0, "synth.dynamic-sample-loading": 1}
    return fluidsynth.Synth(gain=0.6, samplerate=float(RENDER_RATE), **settings)
