"""Uploads and results on the disk: gone once nobody needs them, and never more than a bound."""

from __future__ import annotations

import contextlib
import time
from collections import defaultdict
from pathlib import Path
from threading import Lock

import gradio as gr

from clipsonic.ui.line import Line

MEGABYTE = 10**6


class Files:
    """The files that Gradio keeps for a page; safe to use from many threads."""

    def __init__(self, page: gr.Blocks, line: Line, keep_s: float, most_mb: int) -> None:
        """Remember the page and how much may be kept for how long."""
        self._page, self._line, self._keep_s, self._most = page, line, keep_s, most_mb * MEGABYTE
        self._lock = Lock()
        self._users: dict[str, set[str]] = defaultdict(set)
        self._left: set[str] = set()

    def used(self, visitor: str, path: str) -> None:
        """Note that a visitor's query speaks of an upload. Two visitors who upload the same share one file."""
        with self._lock:
            self._users[path].add(visitor)

    def leave(self, visitor: str) -> None:
        """Delete what the visitor uploaded and asked about, unless somebody else does too."""
        with self._lock:
            self._left.add(visitor)
            gone = []
            for path, visitors in self._users.items():
                if visitors <= self._left and not self._line.names(path):
                    gone.append(path)
            for path in gone:
                del self._users[path]
            self._left &= set().union(*self._users.values())
        for path in set(gone) & self._page.upload_file_set:
            _delete(Path(path))

    def sweep(self) -> None:
        """Delete what is too old, then the oldest until the rest is within the bound."""
        for visitor in list(self._left):
            self.leave(visitor)
        now = time.time()
        kept, total = [], 0
        for path in self._ours():
            with contextlib.suppress(OSError):
                status = path.lstat()
                if now - status.st_mtime > self._keep_s and not self._line.names(str(path)):
                    _delete(path)
                else:
                    kept.append((status.st_mtime, status.st_size, path))
                    total += status.st_size
        for _, size, path in sorted(kept, key=lambda item: item[0]):
            if total <= self._most:
                break
            if not self._line.names(str(path)):
                _delete(path)
                total -= size

    def _ours(self) -> list[Path]:
        """List the files that this page's visitors brought or got; the page's own are left alone."""
        own = {name for block in list(self._page.blocks.values()) for name in getattr(block, "keep_in_cache", ())}
        names = {name for names in list(self._page.temp_file_sets) for name in list(names)}
        return [Path(name) for name in names | set(self._page.upload_file_set) if name not in own]


def _delete(path: Path) -> None:
    with contextlib.suppress(OSError):
        path.unlink()
        path.parent.rmdir()  # Gradio gives each file a folder
