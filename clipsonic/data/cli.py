"""`python -m clipsonic prepare`: datasets into shards."""

from __future__ import annotations

import argparse
import os
from pathlib import Path

from clipsonic.data import pairs
from clipsonic.data.build import prepare
from clipsonic.data.clips import ClipSettings
from clipsonic.data.corpus import Corpus
from clipsonic.data.debian import Settings
from clipsonic.data.download import DownloadSettings, download
from clipsonic.data.engines import ENGINES, open_engine
from clipsonic.data.sources import Entry, Found, list_folder, match_files, read_music, read_vggsound
from clipsonic.errors import DataError, SettingsError
from clipsonic.packages import DEFAULT_CACHE
from clipsonic.pipeline import DEFAULT_MODEL

NO_CLIP = "none"
_VIDEOS = {
    "folder": "any videos; a folder's name is the label of what lies in it",
    "vggsound": "VGGSound: its official CSV and the videos",
    "music": "MUSIC: its official JSON files (solos, duets) and the videos",
}
_SETTINGS = {
    "clip_s": "seconds of a clip",
    "clips_per_video": "at most so many clips of a video, evenly spread; 0: as many as fit",
    "min_s": "a shorter video is left out; one shorter than a clip is filled up with silence",
    "frames": "pictures of a clip, evenly spread",
    "frame_side": "pixels of their shorter side",
    "audio_stream": "which sound track of a video that has several, from 0",
    "silence_db": "quieter clips are left out, in dB below full scale",
    "test_share": "share of the videos held out, by a hash of their id (folder, music)",
    "shard_clips": "clips of a shard",
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    datasets = parser.add_subparsers(dest="dataset", required=True, metavar="DATASET")
    for name, summary in _VIDEOS.items():
        command = datasets.add_parser(name, help=summary, description=summary, allow_abbrev=False)
        _add_out(command)
        _add_video_arguments(command, name)
    summary = "the small free corpus, out of Debian packages"
    _add_debian_arguments(datasets.add_parser("debian", help=summary, description=summary, allow_abbrev=False))
    summary = "pictures with names for CLIP and the prior"
    command = datasets.add_parser("pairs", help=summary, description=summary, allow_abbrev=False)
    _add_out(command)
    _add_cache(command)


def _add_out(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--out", type=Path, required=True, help="folder for the shards; an interrupted run goes on")
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    parser.add_argument("--workers", type=int, default=cores, help="processes (default: the cores, %(default)s)")


def _add_cache(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--cache", type=Path, default=DEFAULT_CACHE, help="folder for the packages (default: %(default)s)"
    )


def _add_debian_arguments(parser: argparse.ArgumentParser) -> None:
    defaults = Settings()
    _add_out(parser)
    _add_cache(parser)
    counts = {"seed": "same seed, same shards", "train_per_thing": "train videos a thing"}
    for name, text in (counts | {"test_per_thing": "test videos a thing"}).items():
        default = getattr(defaults, name)
        parser.add_argument(_option(name), type=int, default=default, help=f"{text} (default: %(default)s)")
    parser.add_argument(
        "--things", nargs="+", default=[], metavar="LABEL", help="only these things, such as 'dog barking'"
    )


def _add_video_arguments(parser: argparse.ArgumentParser, dataset: str) -> None:
    if dataset == "folder":
        parser.add_argument("videos", type=Path, metavar="DIR", help="folder of videos, at any depth")
    else:
        parser.add_argument("--videos", type=Path, required=True, metavar="DIR", help="folder of the videos")
        parser.add_argument("--download", action="store_true", help="first fetch what is not there, with your yt-dlp")
        defaults = DownloadSettings()
        parser.add_argument("--download-rate", default="", metavar="RATE", help="bytes a second at most, such as 2M")
        parser.add_argument("--download-pause", type=float, default=defaults.pause_s, help="seconds between videos")
        parser.add_argument("--download-retries", type=int, default=defaults.retries, help="tries more of a video")
    if dataset == "vggsound":
        parser.add_argument("--csv", type=Path, required=True, help="YouTube id, start second, label, split")
    if dataset == "music":
        parser.add_argument("--json", type=Path, required=True, nargs="+", help="MUSIC_solo_videos.json and others")
    clip = f"model folder whose CLIP embeds the frames; '{NO_CLIP}': leave it to training (default: %(default)s)"
    parser.add_argument("--clip-model", type=Path, default=Path(DEFAULT_MODEL), metavar="MODEL", help=clip)
    parser.add_argument("--engine", default="local", choices=ENGINES, help="this machine's cores, or Ray")
    parser.add_argument("--ray-address", metavar="ADDRESS", help="a Ray cluster, such as auto or ray://host:10001")
    defaults_clip = ClipSettings()
    for name, text in _SETTINGS.items():
        default = getattr(defaults_clip, name)
        parser.add_argument(_option(name), type=type(default), default=default, help=f"{text} (%(default).4g)")


def _option(name: str) -> str:
    return f"--{name.replace('_', '-')}"


def run(args: argparse.Namespace) -> int:
    """Prepare the dataset; return the exit status."""
    if args.workers < 1:
        raise SettingsError(f"workers is {args.workers}; allowed: a whole number of at least 1")
    if args.dataset == "pairs":
        return pairs.run(args)
    if args.dataset == "debian":
        return _run_debian(args)
    return _run_videos(args)


def _run_debian(args: argparse.Namespace) -> int:
    settings = Settings(
        seed=args.seed,
        train_per_thing=args.train_per_thing,
        test_per_thing=args.test_per_thing,
        things=tuple(args.things),
    )
    index = prepare(args.out, settings, cache=args.cache, workers=args.workers)
    print(f"wrote {', '.join(f'{count} {split}' for split, count in index.counts.items())} samples to {args.out}")
    return 0


def _run_videos(args: argparse.Namespace) -> int:
    settings = ClipSettings(**{name: getattr(args, name) for name in _SETTINGS})
    clip_folder = None if str(args.clip_model) == NO_CLIP else _clip_folder(args.clip_model)
    found = _find(args, settings)
    engine = open_engine(args.engine, args.workers, args.ray_address)
    try:
        report = Corpus(found, args.out, settings, engine, clip_folder).prepare()
    finally:
        engine.close()
    print("\n".join(report.summary(args.out)))
    return 0


def _clip_folder(model: Path) -> Path:
    folder = (model / "clip").absolute()
    if not folder.is_dir():
        advice = f"give one with --clip-model, or --clip-model {NO_CLIP}"
        raise DataError(f"{model} is no model folder with a CLIP; {advice}")
    return folder


def _find(args: argparse.Namespace, settings: ClipSettings) -> Found:
    folder = args.videos.absolute()
    if args.dataset == "folder":
        return list_folder(folder, settings.test_share)
    entries: list[Entry]
    entries = read_vggsound(args.csv) if args.dataset == "vggsound" else read_music(args.json, settings.test_share)
    if args.download:
        how = DownloadSettings(args.download_rate, args.download_pause, args.download_retries)
        print(download(entries, folder, how))
    return match_files(args.dataset, entries, folder)
