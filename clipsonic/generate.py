"""`python -m clipsonic generate`: prompts, pictures, videos and sounds to sound files with a manifest."""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from pathlib import Path
from typing import Any

from clipsonic.audio import FORMATS, write_audio
from clipsonic.config import MAX_DURATION_S, MIN_STRENGTH, SAMPLERS, GenerationSettings
from clipsonic.device import DEVICES
from clipsonic.errors import MediaError, OutputError, PromptError
from clipsonic.media import open_picture, open_sound
from clipsonic.methods import METHODS
from clipsonic.mux import write_video
from clipsonic.pipeline import DEFAULT_MODEL, ClipSonicAudio, ClipSonicOutput, ClipSonicPipeline, Progress, check_prompt
from clipsonic.storage import slug, write_text
from clipsonic.video import open_video

MANIFEST_NAME = "manifest.jsonl"
PICTURE_SUFFIXES = {".png", ".jpg", ".jpeg", ".webp", ".gif", ".bmp", ".tif", ".tiff", ".avif", ".ppm"}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments; names and defaults are those of `GenerationSettings`."""
    defaults = GenerationSettings()
    parser.add_argument("prompt", nargs="*", metavar="PROMPT", help="what should sound, such as 'a dog barking'")
    parser.add_argument("--prompts", type=Path, metavar="FILE", help="a text file with one prompt a line")
    parser.add_argument("--image", type=Path, nargs="+", action="extend", default=[], metavar="PICTURE")
    parser.add_argument(
        "--video",
        type=Path,
        nargs="+",
        action="extend",
        default=[],
        metavar="VIDEO",
        help=f"videos to sound, up to {MAX_DURATION_S:g} s of each; an mp4 with the sound is written too",
    )
    parser.add_argument(
        "--audio", type=Path, nargs="+", action="extend", default=[], metavar="SOUND", help="sounds to make more like"
    )
    parser.add_argument("--toward", metavar="X", help="a text, or the path of a picture, to morph every query towards")
    parser.add_argument(
        "--morph", type=_number, default=defaults.morph, help="how far to morph, from 0 to 1 (%(default)s)"
    )
    parser.add_argument(
        "--strength",
        type=_number,
        default=defaults.strength,
        help=f"how much of a sound given by --audio is made anew, from {MIN_STRENGTH:g} to 1 (%(default)s); less keeps "
        "its course in time; prompts, pictures and videos take no notice of it",
    )
    parser.add_argument(
        "--methods",
        nargs="+",
        choices=METHODS,
        default=defaults.methods,
        metavar="METHOD",
        help=f"of {', '.join(METHODS)}; pictures and videos take iq and mq, sounds aq, prompts the others",
    )
    parser.add_argument("--model", default=DEFAULT_MODEL, help="a model folder or hub repository (%(default)s)")
    parser.add_argument("--sampler", choices=SAMPLERS, default=defaults.sampler)
    parser.add_argument(
        "--steps", type=_whole, default=defaults.num_inference_steps, help="denoising steps (%(default)s)"
    )
    parser.add_argument("--guidance-scale", type=_number, default=defaults.guidance_scale)
    parser.add_argument("--prior-steps", type=_whole, default=defaults.prior_num_inference_steps)
    parser.add_argument("--prior-guidance-scale", type=_number, default=defaults.prior_guidance_scale)
    parser.add_argument("--negative-prompt", default=defaults.negative_prompt, help="what it should not sound like")
    parser.add_argument("--template", default=defaults.template, help="what a prompt is put into (%(default)r)")
    parser.add_argument("--seed", type=_whole, default=defaults.seed)
    parser.add_argument("--num", type=_whole, default=defaults.num_audios, help="variations of each, from seed on")
    parser.add_argument(
        "--candidates", type=_whole, default=defaults.candidates, help="sounds made for each one kept (%(default)s)"
    )
    parser.add_argument(
        "--duration", type=_number, default=defaults.duration_s, help="seconds; 0 is the model's or the video's own"
    )
    parser.add_argument("--format", choices=tuple(FORMATS), default="wav")
    parser.add_argument("--out", type=Path, default=Path("sounds"), help="the folder to write into (%(default)s)")
    parser.add_argument("--device", choices=DEVICES, default="auto")


def run(args: argparse.Namespace) -> None:
    """Make the sounds; every mistake that can be seen beforehand is told before the model is touched."""
    settings = GenerationSettings(
        methods=tuple(args.methods),
        sampler=args.sampler,
        num_inference_steps=args.steps,
        guidance_scale=args.guidance_scale,
        negative_prompt=args.negative_prompt,
        prior_num_inference_steps=args.prior_steps,
        prior_guidance_scale=args.prior_guidance_scale,
        template=args.template,
        num_audios=args.num,
        candidates=args.candidates,
        duration_s=args.duration,
        morph=args.morph,
        strength=args.strength,
        seed=args.seed,
    )
    queries = _read_queries(args)
    toward = _read_toward(args.toward)
    _check_writable(args.out)
    pipeline = ClipSonicPipeline.from_pretrained(args.model, device=args.device)
    writer = _Writer(args.out, args.format)
    callback = _show if sys.stderr.isatty() else None
    for query, path in queries:
        writer.add(query, path, pipeline(**query, toward=toward, settings=settings, callback=callback))


def _read_queries(args: argparse.Namespace) -> list[tuple[dict[str, Any], Path | None]]:
    """Return what the pipeline is to be asked with, one query at a time, and the file it comes from.

    Raises:
        PromptError: A prompt cannot be used, or there is nothing to do.
        MediaError: A file cannot be used.
    """
    queries: list[tuple[dict[str, Any], Path | None]] = []
    for text in [*args.prompt, *_read_prompts(args.prompts)]:
        queries.append(({"prompt": check_prompt(text)}, None))
    for path in args.image:
        open_picture(path)
        queries.append(({"image": path}, path))
    for path in args.video:
        video = open_video(path)
        if video.cut:
            print(f"{path} lasts {video.whole_s:,.0f} s; its first {video.duration_s:g} s get a sound", file=sys.stderr)
        queries.append(({"video": video}, path))
    for path in args.audio:
        open_sound(path)
        queries.append(({"audio": path}, path))
    if not queries:
        raise PromptError(
            "there is nothing to do; give prompts, --prompts FILE, --image PICTURE, --video VIDEO or --audio SOUND"
        )
    return queries


def _read_toward(text: str | None) -> str | Path | None:
    """Return a path if the text is that of a file or looks like a picture's, and the text itself otherwise."""
    if text is None:
        return None
    path = Path(text)
    try:
        is_file = path.is_file()
    except (OSError, ValueError):
        is_file = False
    if is_file or path.suffix.lower() in PICTURE_SUFFIXES:
        open_picture(path)
        return path
    return check_prompt(text)


class _Writer:
    """Writes sound files and keeps the folder's manifest in step with them."""

    def __init__(self, folder: Path, suffix: str) -> None:
        self._folder, self._suffix = folder, suffix
        self._entries = {entry["file"]: entry for entry in _read_manifest(folder / MANIFEST_NAME)}
        self._taken: set[str] = set()

    def add(self, query: dict[str, Any], source: Path | None, output: ClipSonicOutput) -> None:
        """Write the sounds of one query, and the manifest; none of them if one of them fails.

        Of a video an mp4 with its pictures is written beside each sound.
        """
        written: list[Path] = []
        try:
            for audio in output.audios:
                path = self._folder / self._name(audio)
                write_audio(path, audio.waveform, output.sample_rate, output.tags(audio))
                written.append(path)
                entry = _entry(path.name, audio, output, source)
                if "video" in query:
                    muxed = path.with_suffix(".mp4")
                    write_video(muxed, query["video"], audio.waveform, output.sample_rate, muxed.stem)
                    written.append(muxed)
                    entry["muxed"] = muxed.name
                self._entries[path.name] = entry
            lines = (json.dumps(entry, ensure_ascii=False) + "\n" for entry in self._entries.values())
            write_text(self._folder / MANIFEST_NAME, "".join(lines))
        except (OutputError, MediaError):
            for path in written:
                path.unlink(missing_ok=True)
            raise
        for path in written:
            print(path)

    def _name(self, audio: ClipSonicAudio) -> str:
        """Return a file name that no other sound of this run has."""
        file = audio.image or audio.video or audio.audio or ""
        stem = f"{slug(audio.prompt or Path(file).stem)}_{audio.method}_s{audio.seed}"
        number, name = 1, f"{stem}.{self._suffix}"
        while name in self._taken:
            number += 1
            name = f"{stem}-{number}.{self._suffix}"
        self._taken.add(name)
        return name


def _entry(file: str, audio: ClipSonicAudio, output: ClipSonicOutput, source: Path | None) -> dict[str, Any]:
    """Return one line of the manifest."""
    settings = output.settings
    paths = {kind: None if kind not in audio.query else str(source) for kind in ("image", "video", "audio")}
    return {
        "file": file,
        "method": audio.method,
        "prompt": audio.prompt,
        **paths,
        "toward": audio.toward,
        "morph": settings.morph if audio.toward else None,
        "strength": settings.strength if audio.audio else None,
        "seed": audio.seed,
        "sampler": settings.sampler,
        "steps": settings.num_inference_steps,
        "guidance_scale": settings.guidance_scale,
        "prior_steps": settings.prior_num_inference_steps,
        "prior_guidance_scale": settings.prior_guidance_scale,
        "negative_prompt": settings.negative_prompt,
        "template": settings.template,
        "candidates": settings.candidates,
        "score": audio.score,
        "sample_rate": output.sample_rate,
        "duration_s": len(audio.waveform) / output.sample_rate,
        "model": output.model,
        "model_sha256": output.model_sha256,
        "seconds_taken": round(output.timings["total"] / len(output.audios), 3),
        "muxed": None,
    }


def _read_prompts(path: Path | None) -> list[str]:
    """Return the lines of a prompt file that are not blank."""
    if path is None:
        return []
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except (OSError, ValueError) as error:
        raise PromptError(f"cannot read the prompts in {path}: {error}; give a UTF-8 text file") from error
    prompts = [line.strip() for line in lines if line.strip()]
    if not prompts:
        raise PromptError(f"{path} has no prompts; write one a line")
    return prompts


def _read_manifest(path: Path) -> list[dict[str, Any]]:
    """Return the entries of an earlier run in the same folder."""
    if not path.is_file():
        return []
    try:
        entries = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines() if line.strip()]
        return [entry | {"file": str(entry["file"])} for entry in entries]
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise OutputError(f"{path} is not a manifest of this command ({error}); choose another --out") from error


def _check_writable(folder: Path) -> None:
    """Say early that nothing can be written, before minutes are spent on sounds."""
    nearest = folder.absolute()
    while not nearest.exists() and nearest != nearest.parent:
        nearest = nearest.parent
    try:
        with tempfile.TemporaryFile(dir=nearest):
            pass
    except OSError as error:
        reason = f"{nearest}: {error.strerror}"
        raise OutputError(f"cannot write into {folder} ({reason}); choose another --out") from error


def _show(progress: Progress) -> None:
    """Keep one line on the terminal up to date."""
    print(f"\r\033[K{progress.stage} {progress.step}/{progress.total}", end="\r", file=sys.stderr, flush=True)


def _whole(text: str) -> int:
    try:
        return int(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number; give one such as 25") from None


def _number(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number; give one such as 3.0") from None
