"""Fetching a list's videos with the user's own `yt-dlp`."""

from __future__ import annotations

import csv
import re
import shutil
import subprocess
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from tqdm import tqdm

from clipsonic.data.decoding import VIDEO_SUFFIXES, find_videos
from clipsonic.data.sources import VGGSOUND_S, Entry, cut_names
from clipsonic.errors import DataError, OutputError, SettingsError

TOOL = "yt-dlp"
GONE_NAME = "gone.csv"
"""Beside the videos: those that are no longer to be had, and why; they are not asked for again."""
_GONE = re.compile(
    r"video (is )?(unavailable|not available|private)|private video|has been (removed|terminated)|account .*terminated"
    r"|no longer available|does not exist|not available in your country|blocked it|copyright|members-only"
    r"|confirm your age|truncated|incomplete youtube id",
    re.IGNORECASE,
)
_TIMEOUT_S = 3600


@dataclass(frozen=True)
class DownloadSettings:
    """How to fetch.

    Attributes:
        rate: Bytes a second at most, as `yt-dlp --limit-rate` takes it, such as "2M"; empty for no limit.
        pause_s: Seconds between two videos.
        retries: How often `yt-dlp` tries each request again, and how often a video is tried in all, less one.

    Raises:
        SettingsError: On construction, for a negative number.
    """

    rate: str = ""
    pause_s: float = 1.0
    retries: int = 3

    def __post_init__(self) -> None:
        """Check the values."""
        for name in ("pause_s", "retries"):
            if not 0 <= getattr(self, name) <= 3600:
                raise SettingsError(f"download {name} is {getattr(self, name)}; allowed: 0 to 3600")


@dataclass(frozen=True)
class Downloaded:
    """What came of it: numbers of videos."""

    fetched: int
    present: int
    gone: int
    failed: int

    def __str__(self) -> str:
        """Return a line for the user."""
        return (
            f"fetched {self.fetched} videos, {self.present} were there, {self.gone} are gone ({GONE_NAME} lists them), "
            f"{self.failed} failed and are tried again next time"
        )


def download(entries: Sequence[Entry], folder: Path, settings: DownloadSettings) -> Downloaded:
    """Fetch the videos that are neither there nor known to be gone; an interrupted run goes on where it stopped.

    Args:
        entries: The list.
        folder: Where to; of an entry with a start only the ten seconds that count are kept.
        settings: How.

    Raises:
        DataError: `yt-dlp` is not installed.
        OutputError: The folder cannot be written to.
    """
    tool = shutil.which(TOOL)
    if tool is None:
        raise DataError(f"--download needs {TOOL}, which is not on this machine; install it, or leave --download out")
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with (folder / GONE_NAME).open("a", encoding="utf-8") as file:
            if not file.tell():
                file.write("video,reason\n")
    except OSError as error:
        raise OutputError(f"cannot write to {folder}: {error.strerror}; choose another --videos") from error
    there, gone = {path.stem for path in find_videos(folder)}, _read_gone(folder)
    wanted = [entry for entry in entries if not there.intersection([*cut_names(entry), entry.id])]
    pending = [entry for entry in wanted if cut_names(entry)[0] not in gone]
    outcomes = {"fetched": 0, "gone": len(wanted) - len(pending), "failed": 0}
    for number, entry in enumerate(tqdm(pending, "download", unit="video")):
        if number:
            time.sleep(settings.pause_s)
        outcomes[_fetch(tool, entry, folder, settings)] += 1
    return Downloaded(present=len(entries) - len(wanted), **outcomes)


def _fetch(tool: str, entry: Entry, folder: Path, settings: DownloadSettings) -> str:
    """Fetch one video; return "fetched", "gone" or "failed"."""
    name = cut_names(entry)[0]
    for attempt in range(settings.retries + 1):
        if attempt:
            time.sleep(settings.pause_s * 2**attempt)
        complaint = _call(_command(tool, entry, folder / name, settings))
        if not complaint and any((folder / f"{name}{suffix}").is_file() for suffix in VIDEO_SUFFIXES):
            return "fetched"
        if _GONE.search(complaint):
            _note_gone(folder, name, complaint)
            return "gone"
    tqdm.write(f"{name}: {complaint or 'no file came'}")
    return "failed"


def _call(command: Sequence[str]) -> str:
    """Run `yt-dlp`; return its last complaint, or nothing if it succeeded."""
    try:
        result = subprocess.run(command, capture_output=True, text=True, errors="replace", timeout=_TIMEOUT_S)
    except subprocess.TimeoutExpired:
        return f"took over {_TIMEOUT_S} s"
    if not result.returncode:
        return ""
    return (result.stderr.strip() or result.stdout.strip() or f"exit status {result.returncode}").splitlines()[-1]


def _command(tool: str, entry: Entry, target: Path, settings: DownloadSettings) -> list[str]:
    command = [tool, "--no-playlist", "--no-progress", "--continue", "--retries", str(settings.retries)]
    command += ["--format", "bv*[height<=480]+ba/b[height<=480]/b", "--merge-output-format", "mp4"]
    if settings.rate:
        command += ["--limit-rate", settings.rate]
    if entry.start is not None:
        end_s = entry.start + VGGSOUND_S
        command += ["--download-sections", f"*{entry.start}-{end_s:g}", "--force-keyframes-at-cuts"]
    # A percent sign in the folder would be a field to yt-dlp; an id may begin with a dash.
    output = f"{str(target).replace('%', '%%')}.%(ext)s"
    return [*command, "--output", output, "--", f"https://www.youtube.com/watch?v={entry.id}"]


def _read_gone(folder: Path) -> set[str]:
    with (folder / GONE_NAME).open(encoding="utf-8", newline="") as file:
        return {row[0] for row in csv.reader(file) if row}


def _note_gone(folder: Path, name: str, reason: str) -> None:
    with (folder / GONE_NAME).open("a", encoding="utf-8", newline="") as file:
        csv.writer(file, lineterminator="\n").writerow([name, reason])
