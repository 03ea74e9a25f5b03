"""Lists of videos: a folder, VGGSound's CSV, MUSIC's JSON."""

from __future__ import annotations

import csv
import hashlib
import json
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from clipsonic.data.clips import Video
from clipsonic.data.decoding import VIDEO_SUFFIXES, find_videos
from clipsonic.errors import DataError

VGGSOUND_S = 10.0
_YOUTUBE_ID = re.compile(r"[A-Za-z0-9_-]{11}")
_ALLOWED = "YouTube id, start second, label, split (train or test), without a header"


@dataclass(frozen=True)
class Entry:
    """A row of a list of videos."""

    id: str
    label: str
    where: str
    """File and row, for messages."""
    split: str = ""
    start: int | None = None
    """Second of the YouTube video where the ten that count begin."""


@dataclass
class Found:
    """The videos there are, and the reasons why others of the list are not."""

    dataset: str
    folder: Path
    videos: list[Video]
    missing: dict[str, str] = field(default_factory=dict)


def held_out(name: str, share: float) -> str:
    """Return the split of a source video: by a hash of its name, so that it is the same for ever."""
    draw = int.from_bytes(hashlib.sha256(f"split {name}".encode()).digest()[:8], "big") / 2**64
    return "test" if draw < share else "train"


def list_folder(folder: Path, test_share: float) -> Found:
    """List every video below a folder; the label is the name of the folder it lies in, if any.

    Raises:
        DataError: There is no such folder, or no video in it.
    """
    _check_folder(folder)
    videos = []
    for path in find_videos(folder):
        relative = path.relative_to(folder)
        name = relative.as_posix()
        label = relative.parent.name.replace("_", " ")
        source = hashlib.sha256(name.encode("utf-8", "surrogateescape")).hexdigest()[:16]
        videos.append(Video(source, name, label, held_out(source, test_share)))
    if not videos:
        allowed = ", ".join(sorted(VIDEO_SUFFIXES))
        raise DataError(f"{folder} holds no video; allowed suffixes: {allowed}; give a folder of videos")
    return Found("folder", folder, videos)


def read_vggsound(path: Path) -> list[Entry]:
    """Read VGGSound's official list.

    Raises:
        DataError: The file cannot be read, or a row is not as it should be.
    """
    entries = []
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            for number, row in enumerate(csv.reader(file, strict=True), 1):
                if row:
                    entries.append(_vggsound_entry(row, f"{path}, row {number}"))
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        reason = getattr(error, "strerror", None) or error
        raise DataError(f"cannot read {path}: {reason}; expected a CSV file of {_ALLOWED}") from error
    if not entries:
        raise DataError(f"{path} is empty; expected rows of {_ALLOWED}")
    return entries


def _vggsound_entry(row: Sequence[str], where: str) -> Entry:
    if len(row) != 4:
        raise DataError(f"{where} has {len(row)} columns; expected 4: {_ALLOWED}")
    name, start, label, split = (cell.strip() for cell in row)
    if not _YOUTUBE_ID.fullmatch(name):
        raise DataError(
            f"{where} begins with {name!r:.40}, which is no YouTube id of 11 characters; expected {_ALLOWED}"
        )
    if not (start.isascii() and start.isdigit() and len(start) <= 6):
        raise DataError(f"{where} has start {start!r:.40}; expected a whole number of seconds")
    if split not in ("train", "test"):
        raise DataError(f"{where} has split {split!r:.40}; allowed: train, test")
    return Entry(name, label, where, split, int(start))


def read_music(paths: Sequence[Path], test_share: float) -> list[Entry]:
    """Read MUSIC's official lists (solos, duets): `{"videos": {"instrument": ["YouTube id", …]}}`.

    Raises:
        DataError: A file cannot be read or is laid out otherwise.
    """
    entries: dict[str, Entry] = {}
    for path in paths:
        try:
            groups = json.loads(path.read_text(encoding="utf-8"))["videos"].items()
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            layout = '{"videos": {"instrument": ["YouTube id", …]}}'
            raise DataError(f"cannot read {path}: {error!r}; expected JSON of the form {layout}") from error
        for instrument, names in groups:
            where = f"{path}, {instrument!r}"
            if not isinstance(names, list):
                raise DataError(f"{where} is {type(names).__name__}; expected a list of YouTube ids")
            for number, name in enumerate(names, 1):
                if not isinstance(name, str) or not _YOUTUBE_ID.fullmatch(name):
                    raise DataError(f"{where}, entry {number} is {name!r:.40}; expected a YouTube id of 11 characters")
                label = str(instrument).replace("_", " ")
                entries.setdefault(name, Entry(name, label, f"{where}, entry {number}", held_out(name, test_share)))
    if not entries:
        raise DataError(f"{', '.join(map(str, paths))} names no videos; give MUSIC's official lists")
    return list(entries.values())


def match_files(dataset: str, entries: Iterable[Entry], folder: Path) -> Found:
    """Find the files of a list's videos: `ID_000030.mp4`, `ID_30.mp4` (cut already) or `ID.mp4` (the whole video).

    Raises:
        DataError: There is no such folder, or none of the videos is in it.
    """
    _check_folder(folder)
    files = {path.stem: path.relative_to(folder).as_posix() for path in reversed(find_videos(folder))}
    found = Found(dataset, folder, [])
    for entry in entries:
        stems = cut_names(entry)
        stem = next((stem for stem in stems if stem in files), None)
        source = stems[0]
        if stem is not None:
            found.videos.append(Video(source, files[stem], entry.label, entry.split))
        elif entry.id in files and entry.start is not None:
            found.videos.append(
                Video(source, files[entry.id], entry.label, entry.split, float(entry.start), VGGSOUND_S)
            )
        else:
            names = ", ".join(dict.fromkeys([*stems, entry.id]))
            found.missing[source] = f"{entry.where}: no video named {names} in {folder}"
    if not found.videos:
        first = next(iter(found.missing.values()))
        raise DataError(f"{first}, nor any of the others; fetch the videos with --download or mend --videos")
    return found


def cut_names(entry: Entry) -> list[str]:
    """Return the names, without suffix, that a video may have if it is already cut to what counts; the best first."""
    return [entry.id] if entry.start is None else [f"{entry.id}_{entry.start:06d}", f"{entry.id}_{entry.start}"]


def _check_folder(folder: Path) -> None:
    if not folder.is_dir():
        raise DataError(f"{folder} is no folder; give one that holds videos")
