"""Other systems' sounds, from a folder with a manifest that says what each file should be of."""

from __future__ import annotations

import csv
import json
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from clipsonic.audio import read_audio, resample
from clipsonic.errors import DataError, MediaError
from clipsonic.evaluation.sets import Sounds

MANIFEST_NAME = "manifest.jsonl"
SUFFIXES = (".wav", ".flac", ".ogg", ".mp3", ".opus", ".aiff")
SILENCE = 1e-4
"""A sound whose peak stays below this is silent."""
_SHOWN = 3


@dataclass(frozen=True, kw_only=True, eq=False)
class Extra:
    """What a folder gave.

    Attributes:
        sounds: Those that can be measured, at one rate.
        left_out: What could not be, a line each.
    """

    sounds: Sounds
    left_out: list[str]


def read_extra(folder: Path, prompts: Mapping[str, str], sample_rate: int) -> Extra:
    """Read another system's sounds.

    Args:
        folder: Holds sound files and `manifest.jsonl` as `generate` writes it, or a CSV file with the column `file` and
            `label` or `prompt`.
        prompts: The evaluated things and their prompts; labels and prompts are looked up here.
        sample_rate: What sounds are resampled to, in Hz.

    Raises:
        DataError: The folder has no manifest, or nothing in it can be measured.
    """
    entries = _read_manifest(folder)
    things = {thing.casefold(): thing for thing in prompts}
    things |= {prompt.casefold(): thing for thing, prompt in prompts.items()}
    sounds = Sounds(waveforms=[], labels=[], sample_rate=sample_rate)
    reasons: dict[str, list[str]] = {}
    rates: Counter[int] = Counter()
    for file, name, prompt in entries:
        thing = things.get(name.casefold())
        if thing is None:
            reasons.setdefault("of things that are not evaluated (raise --things)", []).append(f"{file}: {name}")
            continue
        try:
            waveform, rate = _read(folder, file)
        except MediaError as error:
            reasons.setdefault(str(error), []).append(file)
            continue
        rates[rate] += 1
        sounds.waveforms.append(resample(waveform, rate, sample_rate))
        sounds.labels.append(thing)
        sounds.files.append(folder / file)
        sounds.prompts.append(prompt)
        sounds.pictures.append(None)
    unlisted = sorted(
        {path.name for path in folder.iterdir() if path.suffix.lower() in SUFFIXES} - {e[0] for e in entries}
    )
    if unlisted:
        reasons["not named in the manifest"] = unlisted
    lines = [f"{len(files)} files {reason}: {_some(files)}" for reason, files in reasons.items()]
    if not sounds.waveforms:
        raise DataError(f"{folder} has nothing to measure; {'; '.join(lines) or 'its manifest names no file'}")
    if len(rates) > 1:
        shown = ", ".join(f"{count} at {rate:,} Hz" for rate, count in sorted(rates.items()))
        lines.append(f"mixed sample rates ({shown}): nothing left out, all resampled to {sample_rate:,} Hz")
    return Extra(sounds=sounds, left_out=lines)


def _read(folder: Path, file: str) -> tuple[np.ndarray, int]:
    """Read one sound, or say briefly why it cannot be measured."""
    path = folder / file
    if not path.resolve().is_relative_to(folder.resolve()):
        raise MediaError("outside the folder")
    if not path.is_file():
        raise MediaError("named in the manifest but missing")
    try:
        waveform, rate = read_audio(path)
    except MediaError as error:
        raise MediaError("unreadable or empty") from error
    if not np.isfinite(waveform).all():
        raise MediaError("with samples that are not numbers")
    if np.abs(waveform).max() < SILENCE:
        raise MediaError("silent")
    return waveform, rate


def _read_manifest(folder: Path) -> list[tuple[str, str, str | None]]:
    """Return file, label or prompt to look up, and prompt, of every line.

    Raises:
        DataError: There is no manifest, or a line lacks what is needed.
    """
    if not folder.is_dir() or not any(folder.iterdir()):
        raise DataError(f"{folder} is no folder or is empty; give sounds with a {MANIFEST_NAME} or a CSV file,label")
    tables = sorted(folder.glob("*.csv"))
    path = folder / MANIFEST_NAME if (folder / MANIFEST_NAME).is_file() else next(iter(tables), None)
    if path is None:
        raise DataError(f"{folder} has no {MANIFEST_NAME} and no CSV file; add one that gives file and label or prompt")
    try:
        rows = list(_rows(path))
    except (OSError, ValueError, csv.Error) as error:
        raise DataError(f"cannot read {path}: {error}; it needs file and label or prompt") from error
    entries = []
    for number, row in enumerate(rows, 1):
        prompt, label = row.get("prompt"), row.get("label")
        if not isinstance(row.get("file"), str) or not isinstance(label or prompt, str):
            raise DataError(f"line {number} of {path} lacks file, or both label and prompt; add them")
        entries.append((str(row["file"]), str(label or prompt).strip(), str(prompt) if prompt else None))
    return entries


def _rows(path: Path) -> Iterable[dict[str, Any]]:
    text = path.read_text(encoding="utf-8-sig")
    if path.suffix == ".csv":
        return csv.DictReader(text.splitlines())
    rows = [json.loads(line) for line in text.splitlines() if line.strip()]
    if not all(isinstance(row, dict) for row in rows):
        raise ValueError("a line is no JSON object")
    return rows


def _some(names: list[str]) -> str:
    more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    return ", ".join(names[:_SHOWN]) + more
