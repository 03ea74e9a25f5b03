"""Words for strangers: without the paths of this machine."""

from __future__ import annotations

import re
import traceback

_PATH = re.compile(r"(?<![\w./:<])(?:[A-Za-z]:)?(?:[/\\][^\s/\\'\"<>:;,]+)+[/\\]([^\s/\\'\"<>:;,]+)")
"""An absolute path of two parts or more; what is not preceded by a letter, so that `and/or` stays."""


def without_paths(text: str) -> str:
    """Return the text with the last part alone of every absolute path in it."""
    return _PATH.sub(r"\1", text)


def outline(error: BaseException) -> str:
    """Return where an error came from: files without folders, lines and functions, newest last; no values."""
    frames = traceback.extract_tb(error.__traceback__)
    return " > ".join(f"{without_paths(frame.filename)}:{frame.lineno} {frame.name}" for frame in frames)
