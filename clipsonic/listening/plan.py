"""What is to be curated: prompts and pictures, methods, seeds, other systems; kept beside the candidates."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from clipsonic.audio import FORMATS
from clipsonic.config import MAX_AUDIOS, Config, GenerationSettings
from clipsonic.errors import DataError, PromptError, SettingsError
from clipsonic.listening.ratings import DESIGNS
from clipsonic.listening.tables import read_csv
from clipsonic.media import open_picture
from clipsonic.methods import IMAGE_METHODS, TEXT_METHODS
from clipsonic.pipeline import check_prompt
from clipsonic.storage import slug

LICENCES = "LICENSES.csv"


@dataclass(frozen=True, kw_only=True)
class Query(Config):
    """A row of the prompt file.

    Attributes:
        prompt: A text, or empty.
        picture: The path of a picture, or empty. With a prompt too, iq and mq render the picture, the others the text.
    """

    prompt: str = ""
    picture: str = ""


@dataclass(frozen=True, kw_only=True)
class System(Config):
    """Sounds of something else: another model, or real recordings.

    Attributes:
        name: Of the condition.
        folder: Where its sounds lie: `slug-of-the-prompt.wav`, `slug-of-the-prompt_anything.wav`, or any name that
            the folder's `manifest.jsonl` (as `generate` writes it) gives a prompt to.
    """

    name: str
    folder: str


@dataclass(frozen=True, kw_only=True)
class Plan(Config):
    """Everything that decides which candidates there are.

    Attributes:
        title: Of the test.
        queries: One item each.
        methods: Of the model; may be empty if there are other systems.
        seeds: Stimuli of each item and system.
        candidates: Sounds made for each stimulus, of which one is chosen.
        settings: What to generate with; its seed is the first. Its methods, `num_audios` and `candidates` are unused.
        systems: Other systems.
        reference: The one of the other systems that holds real recordings; empty for none.
        anchors: Whether low-passed copies of the reference join.
        design: What the test will ask; see `Manifest`.
        duration_s: Length of every sound; 0 for the longest candidate's.
        loudness_lufs: See `Manifest`.
        true_peak_dbtp: See `Manifest`.
        gold: Gold items to add: a sound buried in noise, so that its fidelity is plain.
        traps: Trapping items to add: beeps to be counted.
        licence: Of what the model makes.
    """

    queries: tuple[Query, ...]
    title: str = "Listening test"
    methods: tuple[str, ...] = ()
    seeds: int = 1
    candidates: int = 1
    settings: GenerationSettings = field(default_factory=GenerationSettings)
    systems: tuple[System, ...] = ()
    reference: str = ""
    anchors: bool = False
    design: str = "acr"
    duration_s: float = 0.0
    loudness_lufs: float = -23.0
    true_peak_dbtp: float = -1.0
    gold: int = 0
    traps: int = 0
    licence: str = ""

    def __post_init__(self) -> None:
        """Refuse what cannot be curated, before a model is touched.

        Raises:
            SettingsError: A number or name is outside what is allowed.
        """
        for name, low, high in (("seeds", 1, 100), ("candidates", 1, MAX_AUDIOS), ("gold", 0, 20), ("traps", 0, 20)):
            if not low <= getattr(self, name) <= high:
                raise SettingsError(f"{name} is {getattr(self, name)}; allowed: {low} to {high}")
        spans = (("duration_s", 0, 60), ("loudness_lufs", -60, -5), ("true_peak_dbtp", -20, 0))
        for name, least, most in spans:
            if not least <= getattr(self, name) <= most:
                raise SettingsError(f"{name} is {getattr(self, name)}; allowed: {least} to {most}")
        self._check_names()
        if not self.queries:
            raise PromptError("there is nothing to curate; give --prompts FILE or --image PICTURE")
        if not (self.methods or self.systems):
            raise SettingsError("there is no system to compare; give --methods or --system NAME=DIR")

    def _check_names(self) -> None:
        names = [*self.methods, *(system.name for system in self.systems)]
        if twice := sorted({name for name in names if names.count(name) > 1}):
            raise SettingsError(f"the system {twice[0]!r} is given twice; name each once")
        for name in names:
            if name != slug(name) or name.startswith("anchor"):
                raise SettingsError(f"the system is called {name!r}; allowed: lower-case letters, digits and hyphens")
        if unknown := [m for m in self.methods if m not in (*IMAGE_METHODS, *TEXT_METHODS)]:
            raise SettingsError(f"method is {unknown[0]!r}; allowed: {', '.join((*IMAGE_METHODS, *TEXT_METHODS))}")
        if self.design not in DESIGNS:
            raise SettingsError(f"design is {self.design!r}; allowed: {', '.join(DESIGNS)}")
        if self.reference and self.reference not in names[len(self.methods) :]:
            raise SettingsError(f"reference is {self.reference!r}; allowed: one of the names given to --system")
        if self.anchors and not self.reference:
            raise SettingsError("anchors are made of real recordings; give --reference NAME")

    def item_ids(self) -> list[str]:
        """Return "p001", "p002" …, one a query."""
        return [f"p{number:03}" for number in range(1, len(self.queries) + 1)]

    def methods_of(self, query: Query) -> dict[str, tuple[str, ...]]:
        """Return which of the methods render the query's prompt and which its picture."""
        pictures = tuple(m for m in self.methods if m in IMAGE_METHODS)
        texts = tuple(m for m in self.methods if m in TEXT_METHODS)
        return {"prompt": texts if query.prompt else (), "image": pictures if query.picture else ()}


def read_queries(prompts: Path | None, pictures: Sequence[Path]) -> tuple[Query, ...]:
    """Read what to ask for.

    Args:
        prompts: A text file with a prompt a line, or a CSV file with the columns prompt and picture (either may be
            empty; pictures relative to the file).
        pictures: Further items of their own.

    Raises:
        PromptError: The file cannot be read, or a prompt is empty or too long.
        MediaError: A picture cannot be used.
    """
    queries = [] if prompts is None else _read_file(prompts)
    queries += [Query(picture=str(path)) for path in pictures]
    for query in queries:
        if query.prompt:
            check_prompt(query.prompt)
        if query.picture:
            open_picture(Path(query.picture))
    if len(set(queries)) != len(queries):
        twice = next(q for q in queries if queries.count(q) > 1)
        raise PromptError(f"{twice.prompt or twice.picture!r} is asked for twice; name it once and use --seeds")
    return tuple(queries)


def _read_file(path: Path) -> list[Query]:
    if path.suffix.lower() == ".csv":
        rows = read_csv(path)
        if not rows or not {"prompt", "picture"} & set(rows[0]):
            raise PromptError(f"{path} has neither a column prompt nor a column picture; add one")
        folder = path.parent
        pairs = [(row.get("prompt", ""), row.get("picture", "")) for row in rows]
        return [Query(prompt=text, picture=str(folder / name) if name else "") for text, name in pairs if text or name]
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except (OSError, ValueError) as error:
        raise PromptError(f"cannot read the prompts in {path}: {error}; give a UTF-8 text file") from error
    if not any(line.strip() for line in lines):
        raise PromptError(f"{path} has no prompts; write one a line")
    return [Query(prompt=line.strip()) for line in lines if line.strip()]


def find_sounds(system: System, queries: Sequence[Query]) -> list[list[Path]]:
    """Find a system's sounds, a sorted list a query.

    Raises:
        DataError: The folder is missing, or has no sound for a query.
    """
    folder = Path(system.folder)
    if not folder.is_dir():
        raise DataError(f"the system {system.name} has no folder {folder}; give --system NAME=DIR")
    if (folder / "manifest.json").is_file():
        raise DataError(f"{folder} is a sample set; give the folder of a system's own sounds")
    sounds = sorted(p for p in folder.iterdir() if p.suffix.lower().lstrip(".") in FORMATS)
    said = _prompts_of(folder)
    found = []
    for query in queries:
        stem = slug(query.prompt or Path(query.picture).stem)
        of_query = [p for p in sounds if (query.prompt and said.get(p.name) == query.prompt) or _is_of(p.stem, stem)]
        if not of_query:
            asked = query.prompt or Path(query.picture).name
            raise DataError(f"the system {system.name} has no sound for {asked!r}; put one at {folder / stem}.wav")
        found.append(of_query)
    return found


def _is_of(name: str, stem: str) -> bool:
    return name == stem or name.startswith(f"{stem}_")


def _prompts_of(folder: Path) -> dict[str, str]:
    """Return the prompt of each file that the folder's `manifest.jsonl` knows."""
    try:
        lines = (folder / "manifest.jsonl").read_text(encoding="utf-8").splitlines()
        entries = [json.loads(line) for line in lines if line.strip()]
        return {entry["file"]: entry["prompt"] for entry in entries if entry.get("prompt")}
    except FileNotFoundError:
        return {}
    except (OSError, ValueError, TypeError, KeyError, AttributeError) as error:
        raise DataError(f"cannot read {folder / 'manifest.jsonl'}: {error}") from error


def licences(folder: Path) -> dict[str, str]:
    """Return what `LICENSES.csv` (file, licence) says about the files of a folder; empty without one."""
    if not (folder / LICENCES).is_file():
        return {}
    rows = read_csv(folder / LICENCES)
    return {row["file"]: row["licence"] for row in rows if row.get("file") and row.get("licence")}
