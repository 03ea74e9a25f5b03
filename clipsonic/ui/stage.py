"""Where sounds are seen and heard: players in step with each other, drawn by `assets/studio.js`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import gradio as gr
from gradio.utils import get_upload_folder, is_in_or_equal

from clipsonic.audio import FORMATS, read_audio, read_tags, write_audio
from clipsonic.errors import ClipSonicError, MediaError, OutputError

ASSETS = Path(__file__).parent / "assets"
_SCRIPT = f"<script>{(ASSETS / 'studio.js').read_text(encoding='utf-8')}</script>"
_CALL = "clipsonic.{}(element, props, server, upload, trigger, watch);"


class Stage(gr.HTML):
    """The sounds of one run; its value is what `cards.sounds` gives. Its event `more` asks for more like one sound."""

    def __init__(self, value: Any = None, **kwargs: Any) -> None:
        """Make it inside the current layout; the arguments are those of `gr.HTML`."""
        super().__init__(value, **_drawn_by(self, "mount", "stage"), **kwargs)


class History(gr.HTML):
    """What this browser has made; it lies in the browser, the server keeps nothing."""

    def __init__(self, value: Any = None, **kwargs: Any) -> None:
        """Make it inside the current layout; the arguments are those of `gr.HTML`."""
        super().__init__(value, **_drawn_by(self, "mountHistory", "history"), **kwargs)


def _drawn_by(component: gr.HTML, function: str, name: str) -> dict[str, Any]:
    """Return what lets a function of the script draw a component, and the script convert its files."""

    def convert(asked: Any) -> dict[str, str]:
        try:
            return {"path": str(component.move_resource_to_block_cache(converted(asked)))}
        except ClipSonicError as error:
            return {"error": str(error)}

    return {
        "html_template": f'<div class="{name}"></div>',
        "js_on_load": _CALL.format(function) + " // may trigger 'more'",
        "head": _SCRIPT,
        "apply_default_css": False,
        "server_functions": [convert],
    }


def converted(asked: Any) -> Path:
    """Write a sound that the page has in another format, with the same tags, beside it.

    Args:
        asked: `{"path": a file that Gradio serves, "format": one of FORMATS}`.

    Returns:
        The new file.

    Raises:
        MediaError: The file is not one that this page serves.
        OutputError: There is no such format, or the file cannot be written.
    """
    path, suffix = (asked.get("path"), asked.get("format")) if isinstance(asked, dict) else (None, None)
    if suffix not in FORMATS:
        raise OutputError(f"the format is {str(suffix)[:20]!r}; allowed: {', '.join(FORMATS)}")
    source = Path(str(path)).resolve() if isinstance(path, str) and "\0" not in path else Path()
    if not is_in_or_equal(source, Path(get_upload_folder()).resolve()) or not source.is_file():
        raise MediaError("this sound is not here any more; make it again")
    target = source.with_suffix(f".{suffix}")
    if not target.is_file():
        waveform, rate = read_audio(source)
        write_audio(target, waveform, rate, read_tags(source))
    return target
