"""The free corpus: videos that could have been, made from the sounds and pictures of Debian packages."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from clipsonic.config import Config
from clipsonic.data.frames import BackgroundBook, make_frames
from clipsonic.data.instruments import SOUND_FONT, Instrument, compose_phrase, render
from clipsonic.data.manifest import (
    SOUND_FONT_CREDIT,
    SOUND_FONT_LICENCE,
    SOUND_FONT_PACKAGE,
    Manifest,
    Picture,
    Player,
    Recording,
)
from clipsonic.data.readers import read_picture, read_sound
from clipsonic.data.tracks import (
    LOUDNESS_LUFS,
    NO_VARIATION,
    Variation,
    Waveform,
    clean_recording,
    make_track,
    reverberate,
    set_loudness,
)
from clipsonic.errors import SettingsError
from clipsonic.shards import Sample

SAMPLE_RATE = 22050
TRACK_SAMPLES = 352 * 256
FRAMES = 4
PHRASE_S = 6.0


@dataclass(frozen=True, kw_only=True)
class Settings(Config):
    """How much to make of the packages.

    Attributes:
        seed: Where all choices come from.
        train_per_thing: Train videos of each thing.
        test_per_thing: Test videos of each thing that has sounds held out.
        phrases_per_preset: Solos of each preset of the sound font among the recordings; the first is for testing.
        things: Only these labels; none means all.

    Raises:
        SettingsError: On construction, for a count or seed below what makes sense.
    """

    seed: int = 0
    train_per_thing: int = 30
    test_per_thing: int = 5
    phrases_per_preset: int = 4
    things: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        """Check the values."""
        lowest = {"seed": 0, "train_per_thing": 1, "test_per_thing": 0, "phrases_per_preset": 0}
        for name, low in lowest.items():
            if getattr(self, name) < low:
                raise SettingsError(f"{name} is {getattr(self, name)}; allowed: a whole number of at least {low}")


@dataclass(frozen=True)
class Plan:
    """One sample that will be made; everything about it is decided here, the random numbers by its seed."""

    key: str
    split: str
    seed: int
    sound: Recording | Player
    source: str
    picture: Picture | None = None


def plan_videos(manifest: Manifest, settings: Settings) -> list[Plan]:
    """Decide which recording meets which picture, the same number of times for every thing.

    Args:
        manifest: What there is.
        settings: How much to make.

    Returns:
        The train samples, shuffled, then the test samples.
    """
    plans: dict[str, list[Plan]] = {"train": [], "test": []}
    for thing in manifest.things():
        for split, count in (("train", settings.train_per_thing), ("test", settings.test_per_thing)):
            random = _random(settings.seed, thing, split)
            sounds = _sounds(manifest, thing, split, count, random)
            pictures = _pictures(manifest, thing, split, random)
            for number, (sound, source) in enumerate(sounds):
                picture = pictures[number % len(pictures)]
                seed = _seed(settings.seed, thing, split, number)
                plans[split].append(Plan("", split, seed, sound, source, picture))
    order = _random(settings.seed, "order").permutation(len(plans["train"]))
    return _numbered([plans["train"][i] for i in order]) + _numbered(plans["test"])


def plan_sounds(manifest: Manifest, settings: Settings) -> list[Plan]:
    """Decide on the list of all recordings, each once, and of solos of every preset.

    Args:
        manifest: What there is.
        settings: How much to make.

    Returns:
        The train samples, shuffled, then the test samples; none has a picture.
    """
    plans = [Plan("", f"sounds-{row.split}", 0, row, row.source) for row in manifest.recordings]
    for player in manifest.players if settings.things else _all_presets(manifest):
        for phrase in range(settings.phrases_per_preset):
            split = "sounds-test" if phrase == 0 else "sounds-train"
            seed = _seed(settings.seed, "phrase", player.name, phrase)
            plans.append(Plan("", split, seed, player, f"{player.name}:{split}-{phrase}"))
    order = _random(settings.seed, "sounds").permutation(len(plans))
    shuffled = [plans[i] for i in order]
    train = [plan for plan in shuffled if plan.split == "sounds-train"]
    return _numbered(train) + _numbered([plan for plan in shuffled if plan.split == "sounds-test"])


def _sounds(
    manifest: Manifest, thing: str, split: str, count: int, random: np.random.Generator
) -> list[tuple[Recording | Player, str]]:
    """Return (sound, source) `count` times: every source as often as any other, half of them rendered if any can be."""
    by_source: dict[str, list[Recording]] = {}
    for row in manifest.recordings:
        if row.label == thing and row.split == split:
            by_source.setdefault(row.source, []).append(row)
    groups = [by_source[name] for name in sorted(by_source)]
    random.shuffle(groups)
    players = [player for player in manifest.players if player.label == thing]
    rendered = 0 if not players else count // 2 if groups else count
    chosen: list[tuple[Recording | Player, str]] = []
    for number in range(count - rendered if groups else 0):
        group = groups[number % len(groups)]
        row = group[number // len(groups) % len(group)]
        chosen.append((row, row.source))
    for number in range(rendered):
        player = players[number % len(players)]
        chosen.append((player, f"{player.name}:{split}-{number}"))
    return chosen


def _pictures(manifest: Manifest, thing: str, split: str, random: np.random.Generator) -> list[Picture]:
    """Return the thing's pictures of a split in random order, photographs twice as often as drawings."""
    rows = [picture for picture in manifest.pictures if picture.label == thing]
    own = [picture for picture in rows if picture.split == split] or rows
    weighted = own + [picture for picture in own if picture.kind == "photo"]
    return [weighted[i] for i in random.permutation(len(weighted))]


def _all_presets(manifest: Manifest) -> list[Player]:
    """Return the manifest's instruments and the other melodic presets of General MIDI."""
    known = {(player.instrument.bank, player.instrument.program) for player in manifest.players}
    others = [Instrument(0, program, 40, 84) for program in range(128) if (0, program) not in known]
    return [*manifest.players, *(Player("", instrument) for instrument in others if known)]


def _numbered(plans: list[Plan]) -> list[Plan]:
    return [replace(plan, key=f"{plan.split}-{number:06d}") for number, plan in enumerate(plans)]


def _seed(*parts: object) -> int:
    return int.from_bytes(hashlib.sha256(repr(parts).encode()).digest()[:8], "big")


def _random(*parts: object) -> np.random.Generator:
    return np.random.default_rng(_seed(*parts))


def make_sample(plan: Plan, roots: dict[str, Path], backgrounds: BackgroundBook) -> Sample | None:
    """Make one planned sample.

    Args:
        plan: What to make.
        roots: For each package the folder it was unpacked into.
        backgrounds: Pictures to put behind cut-out things.

    Returns:
        The sample, or None if its sound is broken, too quiet or too short to be of use.

    Raises:
        DataError: A file the manifest names cannot be read.
    """
    random = np.random.default_rng(plan.seed)
    sound = _load_sound(plan, roots, random)
    if sound is None:
        return None
    provenance: dict[str, Any] = {"sound": _sound_provenance(plan)}
    if plan.picture is None:
        return Sample(plan.key, set_loudness(sound, SAMPLE_RATE, LOUDNESS_LUFS), (), provenance, SAMPLE_RATE)
    variation = Variation() if plan.split == "train" else NO_VARIATION
    track = make_track(sound, SAMPLE_RATE, TRACK_SAMPLES, random, variation)
    picture = read_picture(roots[plan.picture.package], plan.picture.path)
    frames = make_frames(picture, FRAMES, random, backgrounds)
    provenance["picture"] = _credit(plan.picture)
    return Sample(plan.key, track, tuple(frames), provenance, SAMPLE_RATE)


def _load_sound(plan: Plan, roots: dict[str, Path], random: np.random.Generator) -> Waveform | None:
    if isinstance(plan.sound, Recording):
        waveform, rate = read_sound(roots[plan.sound.package], plan.sound.path)
        return clean_recording(waveform, rate, SAMPLE_RATE)
    notes = compose_phrase(plan.sound.instrument, PHRASE_S, random)
    font = roots[SOUND_FONT_PACKAGE] / SOUND_FONT
    dry = render(font, plan.sound.instrument, notes, PHRASE_S, SAMPLE_RATE)
    return clean_recording(reverberate(dry, SAMPLE_RATE, random), SAMPLE_RATE, SAMPLE_RATE)


def _sound_provenance(plan: Plan) -> dict[str, str]:
    if isinstance(plan.sound, Recording):
        return {**_credit(plan.sound), "source": plan.source}
    return {
        "package": SOUND_FONT_PACKAGE,
        "path": f"{SOUND_FONT}!{plan.sound.instrument.bank}:{plan.sound.instrument.program}",
        "licence": SOUND_FONT_LICENCE,
        "attribution": SOUND_FONT_CREDIT,
        "source": plan.source,
    }


def _credit(row: Recording | Picture) -> dict[str, str]:
    return {"package": row.package, "path": row.path, "licence": row.licence, "attribution": row.attribution}
