"""Is a sample set whole? Every fault is one line that names the file and what is wrong with it."""

from __future__ import annotations

import hashlib
import re
from collections import defaultdict
from pathlib import Path

import soundfile

from clipsonic.errors import DataError
from clipsonic.listening.sets import ANSWERS, CURATION, IMPORTS, PICTURES, SUMS, WAVS, ListeningSet
from clipsonic.storage import sha256

_SUM_LINE = re.compile(r"([0-9a-f]{64})  (\S.*)")
_WELL_KNOWN = {"README.md", "test.json", "results", CURATION, IMPORTS}


def verify(folder: Path) -> list[str]:
    """Look for everything that can be wrong with a set.

    Args:
        folder: The set's folder.

    Returns:
        One line a fault, by file name; empty if the set is whole.

    Raises:
        DataError: There is no manifest that could be read, so nothing can be said about files.
    """
    listening_set = ListeningSet.load(folder)
    sums, faults = _read_sums(folder)
    faults += _check_sums(listening_set, sums)
    faults += _check_sounds(listening_set)
    faults += _check_duplicates(listening_set)
    faults += _check_strangers(listening_set)
    return sorted(faults)


def _read_sums(folder: Path) -> tuple[dict[str, str], list[str]]:
    """Return the digest by name, and what is wrong with the list itself."""
    try:
        lines = (folder / SUMS).read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeError):
        return {}, [f"{SUMS} is missing or unreadable: the set was not written to its end; curate it again"]
    sums: dict[str, str] = {}
    faults = []
    for number, line in enumerate(lines, 1):
        match = _SUM_LINE.fullmatch(line)
        if match is None:
            faults.append(f"{SUMS} line {number} is no checksum: {line[:80]!r}")
        elif match[2] in sums:
            faults.append(f"{SUMS} names {match[2]} twice")
        else:
            sums[match[2]] = match[1]
    return sums, faults


def _check_sums(listening_set: ListeningSet, sums: dict[str, str]) -> list[str]:
    """Compare every file of the set with its checksum, and the list of checksums with the set."""
    parts = set(listening_set.parts())
    faults = [f"{name} is in {SUMS} but not in the set" for name in sorted(set(sums) - parts)]
    for name in sorted(parts):
        path = listening_set.folder / name
        if path.is_symlink():
            faults.append(f"{name} is a link, not a file of the set")
        elif not path.is_file():
            faults.append(f"{name} is missing")
        elif sums and name not in sums:
            faults.append(f"{name} has no checksum in {SUMS}")
        elif sums and sha256(path) != sums[name]:
            faults.append(f"{name} was altered: its checksum is not the one in {SUMS}")
    return faults


def _check_sounds(listening_set: ListeningSet) -> list[str]:
    """Compare rate, length, channels and coding of every sound with the manifest."""
    manifest, faults = listening_set.manifest, []
    wanted = {"sample rate": manifest.sample_rate, "length": manifest.samples, "channels": manifest.channels}
    for name in sorted(listening_set.key):
        path = listening_set.folder / name
        if not path.is_file():
            continue
        try:
            info = soundfile.info(path)
        except (OSError, soundfile.LibsndfileError) as error:
            faults.append(f"{name} is no sound: {' '.join(str(error).split())}")
            continue
        found = {"sample rate": info.samplerate, "length": info.frames, "channels": info.channels}
        faults += [
            f"{name} has {what} {found[what]}, the set {wanted[what]}" for what in wanted if found[what] != wanted[what]
        ]
        if (info.format, info.subtype) != ("WAV", "PCM_16"):
            faults.append(f"{name} is {info.format} {info.subtype}, expected 16-bit PCM WAV")
    return faults


def _check_duplicates(listening_set: ListeningSet) -> list[str]:
    """Find sounds of one item that are the same sample by sample: a listener would be asked twice."""
    groups: dict[tuple[str, str], list[str]] = defaultdict(list)
    for name, stimulus in sorted(listening_set.key.items()):
        path = listening_set.folder / name
        if path.is_file():
            try:
                digest = hashlib.sha256(soundfile.read(path, dtype="int16")[0].tobytes()).hexdigest()
            except (OSError, soundfile.LibsndfileError):
                continue  # told by _check_sounds
            groups[listening_set.stimuli[stimulus].item, digest].append(name)
    return [
        f"{names[0]} and {name} are the same sound, both of item {item}"
        for (item, _), names in groups.items()
        for name in names[1:]
    ]


def _check_strangers(listening_set: ListeningSet) -> list[str]:
    """Find files in the sounds' and pictures' folders, and beside them, that the set does not know."""
    parts = {*listening_set.parts(), SUMS}
    faults = []
    for path in sorted(listening_set.folder.iterdir()):
        known = path.name in parts | _WELL_KNOWN | {WAVS, PICTURES} or path.name.startswith((ANSWERS, "."))
        if not known:
            faults.append(f"{path.name} does not belong to the set")
    for folder in (WAVS, PICTURES):
        names = [p.name for p in (listening_set.folder / folder).glob("*")]
        faults += [f"{folder}/{n} does not belong to the set" for n in names if f"{folder}/{n}" not in parts]
    return faults


def check_whole(folder: Path) -> ListeningSet:
    """Open a set that must be whole before it is exported, packed or run.

    Raises:
        DataError: It is not; the message names the first fault and how many there are.
    """
    faults = verify(folder)
    if faults:
        more = f" (and {len(faults) - 1} more; see `listen verify {folder}`)" if len(faults) > 1 else ""
        raise DataError(f"{folder} is not whole: {faults[0]}{more}")
    return ListeningSet.load(folder)
