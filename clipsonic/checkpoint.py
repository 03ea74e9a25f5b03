"""A model folder or hub repository, and its parts, loaded when first needed."""

from __future__ import annotations

import hashlib
import json
import re
import threading
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, Self

from huggingface_hub import snapshot_download
from huggingface_hub.errors import (
    HfHubHTTPError,
    LocalEntryNotFoundError,
    OfflineModeIsEnabled,
    RepositoryNotFoundError,
)

from clipsonic.config import Config, MelConfig
from clipsonic.device import Accelerator
from clipsonic.errors import CheckpointError, ClipSonicError
from clipsonic.storage import CONFIG_NAME, read_json, sha256, write_text

INDEX_NAME = "model_index.json"
CARD_NAME = "README.md"
FORMAT = 1
REQUIRED_PARTS = ("clip", "denoiser", "scheduler", "vocoder")
OPTIONAL_PARTS = ("prior", "supervised_prior", "memory", "audio_clip", "refiner")
_REPO = re.compile(r"[\w.-]+/[\w.-]+")
_PROJECT = Path(__file__).resolve().parent.parent


@dataclass(frozen=True, kw_only=True)
class PartEntry(Config):
    """Where a part lies: a folder beside the index, or a repository of its own on the hub."""

    path: str = "."
    repo: str = ""
    revision: str = ""
    files: tuple[str, ...] = ()
    """For a part with its own repository: the file patterns to fetch; all if empty."""
    sha256: dict[str, str] = field(default_factory=dict)
    """SHA-256 by file name, in hexadecimal, of the weights and what the part's results depend on."""


@dataclass(frozen=True, kw_only=True)
class ModelIndex(Config):
    """What `model_index.json` says."""

    format: int
    name: str
    mel: MelConfig
    frames: int
    embedding_dim: int
    embedding_normalized: bool
    parts: dict[str, Any]

    def entry(self, part: str) -> PartEntry:
        """Return where a part lies.

        Raises:
            CheckpointError: The model has no such part.
        """
        if part not in self.parts:
            raise CheckpointError(f"the model {self.name} has no {part}; it has {', '.join(self.parts)}")
        return PartEntry.from_dict(self.parts[part])

    @property
    def duration_s(self) -> float:
        """The length of a sound in seconds."""
        return self.mel.duration_s(self.frames)


class ModelFolder:
    """An opened model: its index is read, its parts load when asked for, each once, from any thread.

    Attributes:
        index: What `model_index.json` says.
        accelerator: Where and how the parts compute.
    """

    def __init__(self, root: Path, accelerator: Accelerator, repo: str | None = None) -> None:
        """Read the index in `root`; parts missing there are fetched from `repo`, if there is one.

        Raises:
            CheckpointError: The index is missing or wrong, or lacks a required part.
        """
        self._root, self._repo, self.accelerator = root, repo, accelerator
        self.index = _read_index(root / INDEX_NAME)
        self._parts: dict[str, Any] = {}
        self._locks = {name: threading.Lock() for name in self.index.parts}
        self._one_at_a_time = threading.Lock()

    @classmethod
    def open(cls, folder_or_repo: str | Path, accelerator: Accelerator | None = None) -> Self:
        """Open a local folder, one that comes with this project, or a repository on the hub.

        Raises:
            CheckpointError: There is no such model, or its index cannot be used.
        """
        accelerator = accelerator or Accelerator.choose("cpu")
        name = str(folder_or_repo)
        for root in (Path(name).expanduser(), _PROJECT / name):
            if root.is_dir():
                return cls(root, accelerator)
        if not _REPO.fullmatch(name):
            raise CheckpointError(
                f"there is no model folder {name}; give one with a {INDEX_NAME}, or a hub id org/name"
            )
        return cls(_download(name, None, [INDEX_NAME, CARD_NAME]), accelerator, repo=name)

    @cached_property
    def sha256(self) -> str:
        """64 hexadecimal digits that stand for all of the model's weights."""
        hashes = {name: self.part_sha256(name) for name in sorted(self.index.parts)}
        return hashlib.sha256(json.dumps(hashes).encode()).hexdigest()

    def part_sha256(self, name: str) -> str:
        """Return 64 hexadecimal digits that stand for one part's files."""
        entry = self.index.entry(name)
        identity = [entry.repo, entry.revision, entry.sha256]
        return hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()

    @property
    def card(self) -> str:
        """The model card's text, or "" if there is none."""
        path = self._root / CARD_NAME
        return path.read_text(encoding="utf-8") if path.is_file() else ""

    def is_loaded(self, name: str) -> bool:
        """Return whether `part(name)` would come at once."""
        return name in self._parts

    def part(self, name: str) -> Any:
        """Return a part, loading it if this is the first time it is asked for.

        Args:
            name: "clip" (`ClipEncoder`), "prior" or "supervised_prior" (`DiffusionPrior`), "memory" (`PictureMemory`),
                "denoiser" or "refiner" (`Denoiser`), "scheduler" (the scheduler's settings, a dict), "vocoder"
                (`Vocoder`) or "audio_clip" (`AudioClip`).

        Raises:
            CheckpointError: The part is missing, damaged, or does not fit the model's other parts.
        """
        entry = self.index.entry(name)
        with self._locks[name]:
            if name not in self._parts:
                # Loading peaks at twice a part's size, so parts take turns.
                with self._one_at_a_time:
                    self._parts[name] = self._load(name, entry)
            return self._parts[name]

    def part_folder(self, name: str) -> Path:
        """Return the folder a part's files lie in, fetching them from the hub if need be.

        Raises:
            CheckpointError: The part cannot be had.
        """
        entry = self.index.entry(name)
        if entry.repo:
            root = _download(entry.repo, entry.revision or None, list(entry.files) or None)
        elif self._repo:
            root = _download(self._repo, None, [f"{entry.path}/*"])
        else:
            root = self._root
        folder = root / entry.path
        if not folder.is_dir():
            raise CheckpointError(f"the model's {name} is missing: no folder {folder}; fetch the model again")
        return folder

    def _load(self, name: str, entry: PartEntry) -> Any:
        """Check a part's files, load it, and check that it fits."""
        from clipsonic.parts import LOADERS  # heavy; an index is read without it

        folder = self.part_folder(name)
        for file, expected in entry.sha256.items():
            _check_file(folder / file, expected)
        try:
            part = LOADERS[name](folder, self.accelerator)
        except CheckpointError:
            raise
        except ClipSonicError as error:
            raise CheckpointError(f"the model's {name} cannot be used: {error}") from error
        self._check_fit(name, part)
        return part

    def _check_fit(self, name: str, part: Any) -> None:
        """Compare a loaded part with what the index says of the whole."""
        for what, value, expected in _fits(name, part, self.index):
            if value != expected:
                raise CheckpointError(
                    f"the model's {name} does not fit its other parts: its {what} is {value}, "
                    f"{INDEX_NAME} says {expected}; use parts that were trained together"
                )


def write_index(
    folder: Path, name: str, *, remote: Mapping[str, PartEntry] | None = None, mel: MelConfig | None = None
) -> ModelIndex:
    """Write `model_index.json` for the parts that lie in a folder, with the hashes of their files.

    Args:
        folder: A model folder; its `denoiser/config.json` gives frames and embedding size.
        name: The model's name.
        remote: Parts that live in a repository of their own, by name.
        mel: The mel settings; the project's own if left out.

    Raises:
        CheckpointError: A required part is missing.
        OutputError: The folder cannot be written to.
    """
    entries = {part: entry.to_dict() for part, entry in (remote or {}).items()}
    for part in (*REQUIRED_PARTS, *OPTIONAL_PARTS):
        if part not in entries and (folder / part).is_dir():
            entries[part] = {"path": part, "sha256": _hashes(folder / part)}
        elif part not in entries and part in REQUIRED_PARTS:
            raise CheckpointError(f"{folder} has no {part}; every model needs {', '.join(REQUIRED_PARTS)}")
    denoiser = read_json(folder / "denoiser" / CONFIG_NAME)
    index = ModelIndex(
        format=FORMAT,
        name=name,
        mel=mel or MelConfig(),
        frames=denoiser["frames"],
        embedding_dim=denoiser["embedding_dim"],
        embedding_normalized=True,
        parts=entries,
    )
    write_text(folder / INDEX_NAME, index.to_json())
    return index


def _hashes(folder: Path) -> dict[str, str]:
    """Return the SHA-256 of every file of a part, by path relative to the part."""
    return {str(p.relative_to(folder)): sha256(p) for p in sorted(folder.rglob("*")) if p.is_file()}


def _read_index(path: Path) -> ModelIndex:
    """Read and check `model_index.json`."""
    values = read_json(path)
    try:
        index = ModelIndex.from_dict(values)
        for name in index.parts:
            index.entry(name)
    except (ClipSonicError, TypeError) as error:
        raise CheckpointError(f"{path} cannot be used: {error}") from error
    if index.format != FORMAT or not index.embedding_normalized:
        raise CheckpointError(
            f"{path} is of format {index.format}, expected {FORMAT} with normalised embeddings; update"
        )
    if missing := [name for name in REQUIRED_PARTS if name not in index.parts]:
        raise CheckpointError(f"{path} names no {', '.join(missing)}; every model needs {', '.join(REQUIRED_PARTS)}")
    places = {name: Path(index.entry(name).path) for name in index.parts}
    if strays := [name for name, place in places.items() if place.is_absolute() or ".." in place.parts]:
        raise CheckpointError(f"{path} names a folder outside the model for {', '.join(strays)}; mend the model")
    allowed = (*REQUIRED_PARTS, *OPTIONAL_PARTS)
    if unknown := [name for name in index.parts if name not in allowed]:
        raise CheckpointError(f"{path} names {', '.join(unknown)}; allowed: {', '.join(allowed)}")
    return index


def _check_file(path: Path, expected: str) -> None:
    """Compare a file with the hash that the index has for it."""
    if not path.is_file():
        raise CheckpointError(f"the model lacks the file {path}; fetch the model again")
    if sha256(path) != expected:
        raise CheckpointError(
            f"{path} is damaged or was changed: it is not the file {INDEX_NAME} names; fetch it again"
        )


def _download(repo: str, revision: str | None, patterns: list[str] | None) -> Path:
    """Fetch files of a hub repository, or take them from the cache."""
    try:
        return Path(snapshot_download(repo, revision=revision, allow_patterns=patterns))
    except RepositoryNotFoundError as error:
        raise CheckpointError(f"there is no model folder {repo} here and no such repository on the hub") from error
    except (LocalEntryNotFoundError, OfflineModeIsEnabled, HfHubHTTPError, OSError, ValueError) as error:
        reason = str(error).splitlines()[0]
        raise CheckpointError(f"there is no model folder {repo} here, and the hub does not answer: {reason}") from error


def _fits(name: str, part: Any, index: ModelIndex) -> list[tuple[str, Any, Any]]:
    """List (what, the part's value, the index's value) of what neighbours must agree on."""
    if name == "clip":
        return [("embedding size", part.embedding_dim, index.embedding_dim)]
    if name == "vocoder":
        return [("mel setting", part.mel, index.mel)]
    if name in ("denoiser", "refiner"):
        return [
            ("embedding size", part.config.embedding_dim, index.embedding_dim),
            ("number of mel bands", part.config.n_mels, index.mel.n_mels),
            ("number of frames", part.config.frames, index.frames),
        ]
    if name in OPTIONAL_PARTS:
        return [("embedding size", part.config.embedding_dim, index.embedding_dim)]
    return []
