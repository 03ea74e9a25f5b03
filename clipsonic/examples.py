"""The sounds of the app's examples, made beforehand so that a click plays at once: `python -m clipsonic examples`.

The manifest beside them names the model and the settings; sounds of any other are never shown.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from clipsonic.audio import FORMATS, write_audio
from clipsonic.config import GenerationSettings
from clipsonic.device import DEVICES
from clipsonic.errors import DataError
from clipsonic.output import ClipSonicOutput
from clipsonic.storage import slug, write_text

MANIFEST_NAME = "manifest.json"
PICTURE_SUFFIXES = (".jpg", ".jpeg", ".png", ".webp")
VARYING = ("methods", "num_audios", "seed", "strength")
"""What settings may differ in without making the sounds stale; no example is a sound, whose strength would count."""


@dataclass(frozen=True, kw_only=True)
class ExampleSound:
    """One sound made beforehand.

    Attributes:
        file: Its name in the manifest's folder.
        query: The prompt, or the picture's name.
        method: The method that rendered it.
        seed: Its seed.
        score: Its Clip-Score, if the model gives one.
        tags: What the file says of itself.
    """

    file: str
    query: str
    method: str
    seed: int
    score: float | None
    tags: dict[str, str]


@dataclass(frozen=True)
class ExampleSounds:
    """The sounds of a folder, all of one model and made with the same settings."""

    folder: Path
    model_sha256: str
    settings: dict[str, Any]
    sounds: tuple[ExampleSound, ...]

    @classmethod
    def read(cls, folder: Path) -> ExampleSounds | None:
        """Return the sounds of a folder, None if it has no manifest.

        Raises:
            DataError: The manifest cannot be used.
        """
        path = folder / MANIFEST_NAME
        if not path.is_file():
            return None
        try:
            values = json.loads(path.read_text(encoding="utf-8"))
            sounds = tuple(ExampleSound(**sound) for sound in values["sounds"])
            return cls(folder, values["model_sha256"], values["settings"], sounds)
        except (OSError, ValueError, TypeError, KeyError) as error:
            raise DataError(f"{path} cannot be used: {error!r}; make it again: python -m clipsonic examples") from error

    def find(
        self, query: str, settings: GenerationSettings, seed: int | None, model_sha256: str
    ) -> tuple[ExampleSound, ...]:
        """Return what a run would give, in the order of its methods; nothing if it would give anything else.

        Args:
            query: The prompt, or the picture's name.
            settings: Those asked for.
            seed: The seed asked for; None if any will do.
            model_sha256: The model that would run.
        """
        if model_sha256 != self.model_sha256 or settings.num_audios != 1 or comparable(settings) != self.settings:
            return ()
        by_method = {sound.method: sound for sound in self.sounds if sound.query == query}
        found = [by_method[method] for method in settings.methods if method in by_method]
        fits = len(found) == len(settings.methods) and all(seed in (None, sound.seed) for sound in found)
        return tuple(found) if fits else ()


def comparable(settings: GenerationSettings) -> dict[str, Any]:
    """Return the settings that make a sound another one."""
    return {name: value for name, value in settings.to_dict().items() if name not in VARYING}


def read_prompts(folder: Path | None) -> list[str]:
    """Return the example prompts, none if there is no such file."""
    path = folder / "prompts.txt" if folder else None
    return path.read_text(encoding="utf-8").splitlines() if path and path.is_file() else []


def list_pictures(folder: Path | None) -> list[Path]:
    """Return the example pictures in the order of their names, none if there is no such folder."""
    pictures = folder / "pictures" if folder else None
    paths = sorted(pictures.iterdir()) if pictures and pictures.is_dir() else []
    return [path for path in paths if path.suffix.lower() in PICTURE_SUFFIXES]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    from clipsonic.pipeline import DEFAULT_MODEL

    parser.add_argument("--model", default=DEFAULT_MODEL, help="a model folder or hub repository (%(default)s)")
    parser.add_argument("--examples", type=Path, default=Path("examples"), help="has prompts.txt, pictures/ or both")
    parser.add_argument("--out", type=Path, default=Path("examples/sounds"), help="where to write (%(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="the seed of every sound (%(default)s)")
    parser.add_argument("--format", choices=tuple(FORMATS), default="ogg")
    parser.add_argument("--device", choices=DEVICES, default="auto")


def run(args: argparse.Namespace) -> None:
    """Make a sound of every example by every method that fits it, with the app's default settings."""
    from clipsonic.pipeline import ClipSonicPipeline  # heavy; the page reads manifests without it

    prompts, pictures = read_prompts(args.examples), list_pictures(args.examples)
    if not prompts and not pictures:
        raise DataError(f"{args.examples} has neither prompts.txt nor pictures/; choose another --examples")
    old = ExampleSounds.read(args.out)
    pipeline = ClipSonicPipeline.from_pretrained(args.model, device=args.device)
    of_text, of_picture = (tuple(m for m in tab if m in pipeline.methods) for tab in (("zs", "pd", "mp"), ("iq", "mq")))
    queries: list[Mapping[str, Any]] = [{"prompt": p, "methods": of_text} for p in prompts]
    queries += [{"image": p, "methods": of_picture} for p in pictures]
    sounds: list[ExampleSound] = []
    for number, query in enumerate(queries, 1):
        output = pipeline(**query, seed=args.seed)
        sounds += _write(args.out, args.format, output)
        if sys.stderr.isatty():
            print(f"\r\033[K{number}/{len(queries)}", end="\r", file=sys.stderr, flush=True)
    _write_manifest(args.out, pipeline.folder.sha256, comparable(output.settings), sounds)
    for sound in old.sounds if old else ():
        if sound.file not in {s.file for s in sounds}:
            (args.out / Path(sound.file).name).unlink(missing_ok=True)
    print(f"{len(sounds)} sounds in {args.out}")


def _write(folder: Path, suffix: str, output: ClipSonicOutput) -> list[ExampleSound]:
    sounds = []
    for audio in output.audios:
        query = audio.prompt or audio.image or ""
        path = folder / f"{slug(Path(query).stem if audio.image else query)}_{audio.method}_s{audio.seed}.{suffix}"
        tags = output.tags(audio)
        write_audio(path, audio.waveform, output.sample_rate, tags)
        score = None if audio.score is None else round(audio.score, 4)
        sounds.append(
            ExampleSound(file=path.name, query=query, method=audio.method, seed=audio.seed, score=score, tags=tags)
        )
    return sounds


def _write_manifest(folder: Path, model_sha256: str, settings: dict[str, Any], sounds: Sequence[ExampleSound]) -> None:
    values = {"model_sha256": model_sha256, "settings": settings, "sounds": [vars(sound) for sound in sounds]}
    write_text(folder / MANIFEST_NAME, json.dumps(values, indent=1, ensure_ascii=False) + "\n")
