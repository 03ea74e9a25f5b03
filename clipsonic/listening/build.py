"""From chosen candidates to a sample set: equal loudness, length and rate, opaque names, checks of attention."""

from __future__ import annotations

import hashlib
import hmac
import json
import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from clipsonic.audio import loudness, read_audio, write_audio
from clipsonic.errors import DataError, OutputError
from clipsonic.listening.curate import Candidate, Curation, choose
from clipsonic.listening.loudness import ANCHORS_HZ, fit, level, low_pass
from clipsonic.listening.plan import Plan, licences
from clipsonic.listening.sets import (
    ANSWERS,
    CURATION,
    PICTURES,
    SUMS,
    WAVS,
    File,
    Item,
    ListeningSet,
    Manifest,
    Stimulus,
)
from clipsonic.media import open_picture
from clipsonic.storage import write_whole

_LOCK = "build.sqlite"
_TOLERANCE_LU = 0.5
_NAME_LENGTH = 16
_BEEP_HZ, _BEEP_S = 880.0, 0.15


@dataclass(frozen=True, kw_only=True, eq=False)
class _Sound:
    """A stimulus with its sound, float32, shape (samples,), not levelled yet."""

    stimulus: Stimulus
    waveform: np.ndarray


def build(curation: Curation) -> ListeningSet:
    """Build the set from the best candidate of every cell, as `choose` has it.

    Args:
        curation: Candidates and decisions.

    Returns:
        The set, in the curation's folder; building it again from the same decisions gives the same set.

    Raises:
        DataError: A candidate is missing, or a cell has only rejected ones.
        OutputError: Answers were given on the set already, another process builds it, or it cannot be written.
    """
    folder = curation.folder
    if (folder / ANSWERS).exists():
        raise OutputError(f"{folder} is being listened to, it has {ANSWERS}; curate into another --out")
    chosen = list(choose(curation.candidates()).values())
    _check_complete(curation, chosen)
    with _alone(folder):
        return _write(curation, chosen)


def _write(curation: Curation, chosen: list[Candidate]) -> ListeningSet:
    plan, folder = curation.plan, curation.folder
    rate, samples = _common_format(curation, chosen)
    (folder / SUMS).unlink(missing_ok=True)
    items = [*_items(curation), *_check_items(plan)]
    key: dict[str, str] = {}
    stimuli: list[Stimulus] = []
    quiet = []
    for sound in _sounds(curation, chosen, rate, samples):
        loud = level(sound.waveform, rate, plan.loudness_lufs, plan.true_peak_dbtp)
        if loudness(loud, rate) < plan.loudness_lufs - _TOLERANCE_LU:
            quiet.append(sound.stimulus.id)
        file = f"{WAVS}/{_opaque(curation.salt, sound.stimulus.id)}.wav"
        write_audio(folder / file, loud, rate)
        key[file] = sound.stimulus.id
        stimuli.append(sound.stimulus)
    order = {item.id: number for number, item in enumerate(items)}
    stimuli.sort(key=lambda s: order[s.item])
    owner = {stimulus.id: stimulus.item for stimulus in stimuli}
    manifest = Manifest(
        title=plan.title,
        items=tuple(items),
        stimuli=tuple(stimuli),
        files=tuple(File(file=file, item=owner[key[file]]) for file in sorted(key)),
        sample_rate=rate,
        samples=samples,
        loudness_lufs=plan.loudness_lufs,
        true_peak_dbtp=plan.true_peak_dbtp,
        design=plan.design,
        notes=tuple(_notes(plan, chosen, quiet)),
    )
    made = ListeningSet(folder, manifest, key)
    _sweep(made)
    made.save()
    return made


def _check_complete(curation: Curation, chosen: list[Candidate]) -> None:
    """Refuse a set in which an item lacks a system, for its listeners would not be balanced."""
    if not chosen:
        raise DataError(f"{curation.folder} has no candidates yet; run `listen curate` to its end")
    there = {(c.item, c.system) for c in chosen}
    plan = curation.plan
    for item, query in zip(plan.item_ids(), plan.queries, strict=True):
        wanted = [m for methods in plan.methods_of(query).values() for m in methods]
        for system in [*wanted, *(s.name for s in plan.systems)]:
            if (item, system) not in there:
                raise DataError(f"{item} has no candidate of {system} yet; run `listen curate` to its end")


def _common_format(curation: Curation, chosen: list[Candidate]) -> tuple[int, int]:
    """Return the rate in Hz, that of the model if it takes part, and the length in samples, of every sound."""
    methods = set(curation.plan.methods)
    rates, seconds = [], []
    for candidate in sorted(chosen, key=lambda c: c.system not in methods):
        waveform, rate = read_audio(curation.path(candidate))
        rates.append(rate)
        seconds.append(len(waveform) / rate)
    rate = rates[0] if methods else max(rates)
    return rate, round((curation.plan.duration_s or min(max(seconds), 60.0)) * rate)


def _sounds(curation: Curation, chosen: list[Candidate], rate: int, samples: int) -> Iterator[_Sound]:
    """Yield every stimulus with its sound, anchors behind their reference, attention checks last."""
    plan = curation.plan
    order = [*plan.methods, *(system.name for system in plan.systems)]
    known = {system.name: licences(Path(system.folder)) for system in plan.systems}
    chosen = sorted(chosen, key=lambda c: (c.item, order.index(c.system), c.slot))
    for candidate in chosen:
        waveform, own_rate = read_audio(curation.path(candidate))
        sound = fit(waveform, own_rate, rate, samples)
        licence = known.get(candidate.system, {}).get(candidate.source, "") if candidate.source else plan.licence
        stimulus = _stimulus(candidate, licence, plan)
        yield _Sound(stimulus=stimulus, waveform=sound)
        if candidate.system == plan.reference and plan.anchors:
            for name, cutoff in ANCHORS_HZ.items():
                anchor = {"id": f"{candidate.item}.{name}.s{candidate.slot}", "system": name, "role": name}
                yield _Sound(
                    stimulus=Stimulus.from_dict(stimulus.to_dict() | anchor), waveform=low_pass(sound, rate, cutoff)
                )
    yield from _checks(curation, chosen, rate, samples)


def _stimulus(candidate: Candidate, licence: str, plan: Plan) -> Stimulus:
    return Stimulus(
        id=f"{candidate.item}.{candidate.system}.s{candidate.slot}",
        item=candidate.item,
        system=candidate.system,
        role="reference" if candidate.system == plan.reference else "condition",
        method=candidate.system if candidate.system in plan.methods else "",
        seed=candidate.seed,
        settings=json.loads(candidate.settings),
        model=candidate.model,
        model_sha256=candidate.model_sha256,
        score=candidate.score,
        licence=licence,
        source=candidate.source,
    )


def _items(curation: Curation) -> Iterator[Item]:
    """Yield the items, and copy their pictures into the set without what cameras write into them."""
    plan = curation.plan
    for item, query in zip(plan.item_ids(), plan.queries, strict=True):
        picture, licence = "", ""
        if query.picture:
            path = Path(query.picture)
            picture = f"{PICTURES}/{_opaque(curation.salt, f'picture {item}')}.jpg"
            with write_whole(curation.folder / picture) as temporary:
                open_picture(path).save(temporary, "JPEG", quality=92)
            licence = (licences(path.parent) or licences(path.parent.parent)).get(path.name, "")
        yield Item(id=item, prompt=query.prompt, picture=picture, licence=licence)


def _check_items(plan: Plan) -> list[Item]:
    gold = [Item(id=f"gold{n + 1}", kind="gold", prompt=_asked(plan, n)) for n in range(plan.gold)]
    text = "This is a check: count the beeps and give that number, on every scale."
    return gold + [Item(id=f"trap{n + 1}", kind="trap", prompt=text) for n in range(plan.traps)]


def _asked(plan: Plan, number: int) -> str:
    query = plan.queries[number % len(plan.queries)]
    return query.prompt or Path(query.picture).stem.replace("-", " ")


def _checks(curation: Curation, chosen: list[Candidate], rate: int, samples: int) -> Iterator[_Sound]:
    """Yield gold items, white noise over a sound that can hardly be heard, and traps, one to five beeps."""
    plan = curation.plan
    for number in range(plan.gold):
        item = plan.item_ids()[number % len(plan.queries)]
        waveform, own_rate = read_audio(curation.path(next(c for c in chosen if c.item == item)))
        noise = np.random.default_rng(number).normal(size=samples).astype(np.float32) * 0.1
        buried = noise + 0.01 * fit(waveform, own_rate, rate, samples)
        name = f"gold{number + 1}"
        span = {"fidelity": [1, 2]}
        yield _Sound(
            stimulus=Stimulus(id=f"{name}.noise.s0", item=name, system="gold", expected=span),
            waveform=fit(buried.astype(np.float32), rate, rate, samples),
        )
    for number in range(plan.traps):
        beeps = 1 + (2 * number + 3) % 5  # 4, 1, 3, 5, 2, …
        name = f"trap{number + 1}"
        span = {"fidelity": [beeps, beeps], "relevance": [beeps, beeps]}
        yield _Sound(
            stimulus=Stimulus(id=f"{name}.beeps.s0", item=name, system="trap", expected=span),
            waveform=_beeps(beeps, rate, samples),
        )


def _beeps(count: int, rate: int, samples: int) -> np.ndarray:
    """Return beeps with pauses of the same length, shorter where the set's sounds are short."""
    length = min(int(_BEEP_S * rate), samples // (2 * count))
    tone = np.hanning(length) * np.sin(2 * np.pi * _BEEP_HZ * np.arange(length) / rate)
    train = np.tile(np.concatenate([tone, np.zeros(length)]), count)
    return np.pad(train, (0, samples - len(train))).astype(np.float32)


def _notes(plan: Plan, chosen: list[Candidate], quiet: list[str]) -> Iterator[str]:
    """Say how candidates were chosen and what could not be made equal."""
    made = [c for c in chosen if c.system in plan.methods]
    judged = sum(c.decision in ("star", "keep") for c in chosen)
    if plan.candidates > 1 and made:
        how = "best Clip-Score" if all(c.score is not None for c in made) else "lowest seed, for there is no Clip-Score"
        yield f"Of {plan.candidates} candidates each, the one of the {how} was taken where no curator had chosen."
    if judged:
        yield f"A curator chose {judged} of {len(chosen)} sounds by ear."
    if quiet:
        yield f"Below {plan.loudness_lufs:g} LUFS, for their true peak allows no more: {', '.join(quiet)}."


def _opaque(salt: str, name: str) -> str:
    """Return a file name that only who has the salt can tell from a random one."""
    return hmac.new(salt.encode(), name.encode(), hashlib.sha256).hexdigest()[:_NAME_LENGTH]


def _sweep(made: ListeningSet) -> None:
    """Delete sounds and pictures of an earlier build that are not in this one."""
    parts = set(made.parts())
    for folder in (WAVS, PICTURES):
        for path in (made.folder / folder).glob("*"):
            if f"{folder}/{path.name}" not in parts:
                path.unlink()


@contextmanager
def _alone(folder: Path) -> Iterator[None]:
    """Keep other processes from building the same set; the lock ends with the process, however that ends."""
    database = sqlite3.connect(folder / CURATION / _LOCK, timeout=0)
    try:
        database.execute("BEGIN EXCLUSIVE")
        yield
    except sqlite3.OperationalError as error:
        raise OutputError(f"{folder} is being built by another process; wait for it") from error
    finally:
        database.close()
