"""Over 300 malformed pictures, sounds and videos: each is read or refused in one line, and does nothing else."""

from __future__ import annotations

import os
import socket
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import hostile
import pytest

from clipsonic.errors import MediaError
from clipsonic.media import open_picture, open_sound
from clipsonic.video import open_video

OPEN: dict[str, Callable[[Any], Any]] = {"picture": open_picture, "sound": open_sound, "video": open_video}
RUNS_SOMETHING = (
    "subprocess.Popen",
    "os.system",
    "os.exec",
    "os.posix_spawn",
    "os.fork",
    "socket.connect",
    "pty.spawn",
)
_seen: list[tuple[str, Any]] = []
_watching = False


def _audit(event: str, arguments: tuple[Any, ...]) -> None:
    if not _watching:
        return
    if event in RUNS_SOMETHING:
        _seen.append((event, arguments))
    if event == "open" and isinstance(arguments[1], str) and set(arguments[1]) & set("wax+"):
        _seen.append((event, arguments))


sys.addaudithook(_audit)


@contextmanager
def nothing_else_happens() -> Iterator[None]:
    """Fail if the block writes a file, starts a program or opens a connection."""
    global _watching
    _seen.clear()
    _watching = True
    try:
        yield
    finally:
        _watching = False
    assert _seen == []


def one_clear_line(error: Exception) -> bool:
    told = str(error)
    return 10 < len(told) < 500 and "\n" not in told and "Traceback" not in told


def test_the_watch_sees_what_it_should(tmp_path: Path) -> None:
    with pytest.raises(AssertionError), nothing_else_happens():
        (tmp_path / "a").write_text("a")
    with pytest.raises(AssertionError), nothing_else_happens():
        os.system("true")


def test_there_are_over_300_cases_and_no_two_alike() -> None:
    cases = [(kind, *case) for kind, make in hostile.MEDIA.items() for case in make()]
    assert len(set(cases)) == len(cases) >= 300
    assert min(Counter(kind for kind, *_ in cases).values()) >= 60


@pytest.mark.timeout(300)
@pytest.mark.parametrize("kind", hostile.MEDIA)
def test_every_file_is_read_or_refused_in_one_line(kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    ends: Counter[str] = Counter()
    for number, (name, data) in enumerate(hostile.MEDIA[kind]()):
        path = tmp_path / name
        source: Any = data
        if number % 2:
            path.write_bytes(data)
            source = path
        with nothing_else_happens():
            try:
                OPEN[kind](source)
                ends["read"] += 1
            except MediaError as error:
                assert one_clear_line(error), (name, str(error))
                ends["refused"] += 1
            except Exception as error:
                pytest.fail(f"{name} ends in {error!r}")
        path.unlink(missing_ok=True)
    assert list(tmp_path.iterdir()) == []
    assert ends["read"] and ends["refused"] > ends["read"] / 10, ends


@pytest.mark.parametrize(("kind", "name"), [(kind, name) for kind in OPEN for name in hostile.NOT_MEDIA])
def test_what_is_no_medium_is_refused(kind: str, name: str) -> None:
    with pytest.raises(MediaError):
        OPEN[kind](hostile.NOT_MEDIA[name])


@pytest.mark.parametrize("kind", OPEN)
@pytest.mark.parametrize("make", ["device", "pipe", "folder", "loop", "nowhere", "folder-itself"])
@pytest.mark.timeout(60)
def test_what_is_no_plain_file_is_refused(kind: str, make: str, tmp_path: Path) -> None:
    path = tmp_path / "a.png"
    target = {"device": "/dev/zero", "folder": tmp_path, "loop": path, "nowhere": tmp_path / "gone"}.get(make)
    if make == "pipe":
        os.mkfifo(path)
    elif target is None:
        path = tmp_path
    else:
        path.symlink_to(target)
    with pytest.raises(MediaError) as caught:
        OPEN[kind](path)
    assert one_clear_line(caught.value)


@pytest.mark.parametrize("kind", OPEN)
def test_playlists_open_no_connections(kind: str) -> None:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        listener.setblocking(False)
        url = f"http://127.0.0.1:{listener.getsockname()[1]}/secret"
        for data in (f"#EXTM3U\n#EXTINF:1,\n{url}\n#EXT-X-ENDLIST\n", f"ffconcat version 1.0\nfile '{url}'\n"):
            with pytest.raises(MediaError):
                OPEN[kind](data.encode())
        with pytest.raises(BlockingIOError):
            listener.accept()
