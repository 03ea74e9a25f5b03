"""The sample set: what a listening test plays, in one folder that other tools and other labs can read.

    SET/
      manifest.json      the `Manifest` below: title, design, scales, format of the sounds, items, stimuli, files
      manifest.csv       the stimuli as a table, with their item's prompt and picture: for people and spreadsheets
      answer_key.json    {"wavs/3f0c….wav": "p001.zs.s0", …}: which file is which stimulus; keep it from listeners
      answer_key.csv     the same as a table, with the system
      wavs/3f0c….wav     the sounds: equal rate, length and channels, 16-bit PCM, untagged, opaque names
      pictures/a1b2….jpg the pictures of the items that have one
      SHA256SUMS         of all of the above (`sha256sum -c SHA256SUMS` checks them too)
      curation/          candidates and decisions (`curate`); not part of the set, left out of the zip
      imports/           ratings from other tools (`listen import`); not part of the set
      answers.sqlite     the running test's answers (`store`); not part of the set, left out of the zip

The manifest says everything about every stimulus except its file, and everything about every file (its item) except its
stimulus; only the answer key joins the two. So the manifest's `items` and `files` are all that may reach a listener.

An item is a prompt or a picture; a system is what is compared (`zs`, `pd`, a baseline, real recordings); a stimulus is
one sound of one system for one item. `manifest.json` is what programs read; the CSVs are never read back.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path, PurePosixPath
from typing import Any, Self

from clipsonic.config import Config
from clipsonic.errors import ClipSonicError, DataError
from clipsonic.listening.ratings import DESIGNS
from clipsonic.listening.tables import write_csv
from clipsonic.storage import sha256, write_text

FORMAT = "clipsonic-listening-set/1"
MANIFEST, MANIFEST_CSV = "manifest.json", "manifest.csv"
KEY, KEY_CSV = "answer_key.json", "answer_key.csv"
SUMS = "SHA256SUMS"
WAVS, PICTURES = "wavs", "pictures"
CURATION, ANSWERS, IMPORTS = "curation", "answers.sqlite", "imports"

KINDS = ("test", "training", "gold", "trap")
ROLES = ("condition", "reference", "anchor35", "anchor70")
_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,119}")


@dataclass(frozen=True, kw_only=True)
class Scale(Config):
    """What a listener judges.

    Attributes:
        name: Such as "fidelity".
        question: What the listener is asked.
        labels: The words of the lowest value first; five for ACR.
    """

    name: str
    question: str
    labels: tuple[str, ...] = ("Bad", "Poor", "Fair", "Good", "Excellent")


SCALES = (
    Scale(name="fidelity", question="How good is the quality of this sound, whatever it is of?"),
    Scale(name="relevance", question="How well does this sound match the text or picture?"),
)


@dataclass(frozen=True, kw_only=True)
class Item(Config):
    """What was asked for.

    Attributes:
        id: Such as "p001"; letters, digits, dots, hyphens, underscores.
        kind: "test"; "training" (played first, not counted); "gold" (the right answer is plain) or "trap" (it tells
            the listener what to answer).
        prompt: What is shown as text; may be empty if there is a picture.
        picture: "pictures/NAME" in the set, or empty.
        licence: The picture's licence; empty if not known.
    """

    id: str
    kind: str = "test"
    prompt: str = ""
    picture: str = ""
    licence: str = ""

    def __post_init__(self) -> None:
        """Check the names."""
        _check_id("item", self.id)
        _check(self.kind in KINDS, f"item {self.id} is of kind {self.kind!r}; allowed: {', '.join(KINDS)}")
        _check(bool(self.prompt or self.picture), f"item {self.id} has neither prompt nor picture")
        if self.picture:
            _check_file(PICTURES, self.picture)


@dataclass(frozen=True, kw_only=True)
class Stimulus(Config):
    """One sound, and all that is known of it but its file.

    Attributes:
        id: Such as "p001.zs.s0".
        item: The id of its item.
        system: What is compared, such as "zs"; also the name of the condition.
        role: "condition", "reference" (a real recording of the item) or "anchor35"/"anchor70" (it, low-passed at
            3.5 or 7 kHz).
        method: The method of `clipsonic.methods.METHODS` that made it, or empty for another system's sound.
        seed: Of the model, or None.
        settings: The `GenerationSettings` as plain values; empty for another system's sound.
        model: The model's name.
        model_sha256: 64 hexadecimal digits, or empty.
        score: Clip-Score, or None.
        licence: Of the sound; empty if not known.
        source: The name of the file it was taken from, for another system's sound.
        expected: For gold and trap items: scale → [lowest, highest] value of an attentive listener.
    """

    id: str
    item: str
    system: str
    role: str = "condition"
    method: str = ""
    seed: int | None = None
    settings: dict[str, Any] = field(default_factory=dict)
    model: str = ""
    model_sha256: str = ""
    score: float | None = None
    licence: str = ""
    source: str = ""
    expected: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Check the names, the role and the expected answers."""
        _check_id("stimulus", self.id)
        _check_id("system", self.system)
        _check(self.role in ROLES, f"stimulus {self.id} has the role {self.role!r}; allowed: {', '.join(ROLES)}")
        _check(isinstance(self.settings, dict), f"stimulus {self.id} has settings that are no JSON object")
        number = self.score is None or (isinstance(self.score, int | float) and not isinstance(self.score, bool))
        _check(number, f"stimulus {self.id} has the score {self.score!r}; allowed: a number or null")
        whole = self.seed is None or (isinstance(self.seed, int) and not isinstance(self.seed, bool))
        _check(whole, f"stimulus {self.id} has the seed {self.seed!r}; allowed: a whole number or null")
        _check(isinstance(self.expected, dict), f"stimulus {self.id} has expected answers that are no JSON object")
        for scale, span in self.expected.items():
            fits = isinstance(span, list | tuple) and len(span) == 2 and all(isinstance(v, int | float) for v in span)
            _check(fits, f"stimulus {self.id} expects {span!r} of {scale}; allowed: [lowest, highest]")


@dataclass(frozen=True, kw_only=True)
class File(Config):
    """A sound file as a listener may know it.

    Attributes:
        file: "wavs/NAME.wav".
        item: The id of its item.
    """

    file: str
    item: str

    def __post_init__(self) -> None:
        """Check that the file lies in `wavs/`."""
        _check_file(WAVS, self.file)


@dataclass(frozen=True, kw_only=True)
class Manifest(Config):
    """`manifest.json`.

    Attributes:
        title: What the test is called.
        items: In the order of the prompt file; then training, gold and trap items.
        stimuli: By item, then system, then seed.
        files: Sorted by name.
        sample_rate: Of every sound, in Hz.
        samples: Length of every sound.
        channels: Of every sound.
        loudness_lufs: The ITU-R BS.1770 loudness that the sounds were brought to.
        true_peak_dbtp: The true peak that none exceeds.
        design: "acr", "preference" or "mushra": what the test asks.
        scales: What an ACR listener judges.
        notes: What people should know, such as how the candidates were ranked.
        format: `FORMAT`.
    """

    title: str
    items: tuple[Item, ...]
    stimuli: tuple[Stimulus, ...]
    files: tuple[File, ...]
    sample_rate: int
    samples: int
    channels: int = 1
    loudness_lufs: float = -23.0
    true_peak_dbtp: float = -1.0
    design: str = "acr"
    scales: tuple[Scale, ...] = SCALES
    notes: tuple[str, ...] = ()
    format: str = FORMAT

    def __post_init__(self) -> None:
        """Check that the parts belong together."""
        _check(self.format == FORMAT, f"the set's format is {self.format!r}; this version reads {FORMAT}")
        _check(self.design in DESIGNS, f"the set's design is {self.design!r}; allowed: {', '.join(DESIGNS)}")
        for name in ("sample_rate", "samples", "channels"):
            _check(getattr(self, name) > 0, f"the set's {name} is {getattr(self, name)}; allowed: 1 or more")
        _check(bool(self.items and self.stimuli), "the set is empty; curate one with at least one prompt")
        _check(bool(self.scales), "the set has no scale; name at least one")
        _check_unique("item", [item.id for item in self.items])
        _check_unique("stimulus", [stimulus.id for stimulus in self.stimuli])
        _check_unique("file", [file.file.lower() for file in self.files])
        _check_unique("scale", [scale.name for scale in self.scales])
        known = {item.id for item in self.items}
        for item in [*(stimulus.item for stimulus in self.stimuli), *(file.item for file in self.files)]:
            _check(item in known, f"the set has no item {item!r}, which a stimulus or file names")


@dataclass(frozen=True, eq=False)
class ListeningSet:
    """An opened set.

    Attributes:
        folder: Where it lies.
        manifest: What it holds.
        key: File ("wavs/NAME.wav") → stimulus id.
    """

    folder: Path
    manifest: Manifest
    key: dict[str, str]

    @classmethod
    def load(cls, folder: Path) -> Self:
        """Open a set; `verify` looks deeper, into every file.

        Raises:
            DataError: There is no set, or its manifest and answer key do not belong together.
        """
        if not (folder / MANIFEST).is_file():
            raise DataError(f"{folder} is no sample set, it has no {MANIFEST}; make one with `listen curate`")
        try:
            manifest = Manifest.load(folder / MANIFEST)
            key = json.loads((folder / KEY).read_text(encoding="utf-8"))
        except DataError:
            raise
        except (OSError, ValueError, TypeError, ClipSonicError) as error:
            raise DataError(f"{folder} is no usable sample set: {error}") from error
        if not isinstance(key, dict) or set(key) != {file.file for file in manifest.files}:
            raise DataError(f"{folder / KEY} does not name the files of {MANIFEST}; curate the set again")
        items = {stimulus.id: stimulus.item for stimulus in manifest.stimuli}
        if sorted(map(str, key.values())) != sorted(items):
            raise DataError(f"{folder / KEY} does not name every stimulus once; curate the set again")
        for file in manifest.files:
            if items[key[file.file]] != file.item:
                raise DataError(f"{file.file} is of item {file.item}, its stimulus {key[file.file]} is not")
        return cls(folder, manifest, key)

    def save(self) -> None:
        """Write manifest, answer key and checksums; the sounds and pictures must lie in the folder already.

        The checksums come last: a set without them, or with old ones, is not whole and `verify` says so.

        Raises:
            OutputError: The folder cannot be written to.
        """
        (self.folder / SUMS).unlink(missing_ok=True)
        write_text(self.folder / MANIFEST, self.manifest.to_json())
        write_csv(self.folder / MANIFEST_CSV, STIMULUS_COLUMNS, self._rows())
        write_text(self.folder / KEY, json.dumps(self.key, indent=2, sort_keys=True) + "\n")
        rows = [{"file": file, "stimulus": s, "system": self.stimuli[s].system} for file, s in sorted(self.key.items())]
        write_csv(self.folder / KEY_CSV, ("file", "stimulus", "system"), rows)
        names = self.parts()
        write_text(self.folder / SUMS, "".join(f"{sha256(self.folder / name)}  {name}\n" for name in names))

    def parts(self) -> list[str]:
        """Return the names of all files of the set but the checksums, as "FOLDER/NAME"."""
        pictures = {item.picture for item in self.manifest.items if item.picture}
        return [MANIFEST, MANIFEST_CSV, KEY, KEY_CSV, *sorted(self.key), *sorted(pictures)]

    def path(self, stimulus: str) -> Path:
        """Return where the sound of a stimulus lies."""
        return self.folder / self.file_of[stimulus]

    def of_item(self, item: str) -> list[Stimulus]:
        """Return the stimuli of an item, in the manifest's order."""
        return [stimulus for stimulus in self.manifest.stimuli if stimulus.item == item]

    @cached_property
    def items(self) -> dict[str, Item]:
        """The items by id."""
        return {item.id: item for item in self.manifest.items}

    @cached_property
    def stimuli(self) -> dict[str, Stimulus]:
        """The stimuli by id."""
        return {stimulus.id: stimulus for stimulus in self.manifest.stimuli}

    @cached_property
    def file_of(self) -> dict[str, str]:
        """Stimulus id → "wavs/NAME.wav"."""
        return {stimulus: file for file, stimulus in self.key.items()}

    @property
    def systems(self) -> list[str]:
        """The systems that are rated, in the manifest's order; those of training, gold and trap items are not."""
        tested = (s.system for s in self.manifest.stimuli if self.items[s.item].kind == "test")
        return list(dict.fromkeys(tested))

    def _rows(self) -> Iterable[dict[str, Any]]:
        for stimulus in self.manifest.stimuli:
            item = self.items[stimulus.item]
            asked = {"kind": item.kind, "prompt": item.prompt, "picture": item.picture}
            yield stimulus.to_dict() | {"stimulus": stimulus.id} | asked


STIMULUS_COLUMNS = (
    *("stimulus", "item", "kind", "prompt", "picture", "system", "role", "method", "seed", "score", "settings"),
    *("model", "model_sha256", "licence", "source", "expected"),
)
"""The columns of `manifest.csv`."""


def _check(ok: bool, message: str) -> None:
    if not ok:
        raise DataError(message)


def _check_id(what: str, text: str) -> None:
    allowed = "up to 120 letters, digits and . _ -"
    _check(bool(_ID.fullmatch(text)), f"the {what} is called {text[:130]!r}; allowed: {allowed}")


def _check_file(folder: str, name: str) -> None:
    path = PurePosixPath(name)
    ok = len(path.parts) == 2 and path.parts[0] == folder and bool(_ID.fullmatch(path.name)) and str(path) == name
    _check(ok, f"the set names the file {name[:130]!r}; allowed: {folder}/NAME of letters, digits and . _ -")


def _check_unique(what: str, names: list[str]) -> None:
    twice = sorted(name for name, count in Counter(names).items() if count > 1)
    _check(not twice, f"the set names the {what} {', '.join(twice[:3])} twice")
