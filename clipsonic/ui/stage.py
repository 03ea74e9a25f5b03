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


def make_stage(**kwargs: Any) -> gr.HTML:
    """Make the place for the sounds of one run inside the current layout.

    Its value is what `cards.sounds` gives; its event `more` asks for more like one of the sounds. (Not a class of its
    own: Gradio writes a file beside every module that has a component of its own.)

    Args:
        **kwargs: Arguments of `gr.HTML`.
    """
    return _drawn("mount", "stage", **kwargs)


def make_history(**kwargs: Any) -> gr.HTML:
    """Make the list of what this browser has made; it lies in the browser, the server keeps nothing.

    Args:
        **kwargs: Arguments of `gr.HTML`.
    """
    return _drawn("mountHistory", "history", **kwargs)


def _drawn(function: str, name: str, **kwargs: Any) -> gr.HTML:
    """Make a component that a function of the script draws, and whose sounds the script can have converted."""

    def convert(asked: Any) -> dict[str, str]:
        try:
            return {"path": str(component.move_resource_to_block_cache(converted(asked)))}
        except ClipSonicError as error:
            return {"error": str(error)}

    component = gr.HTML(
        html_template=f'<div class="{name}"></div>',
        js_on_load=_CALL.format(function) + " // may trigger 'more'",
        head=_SCRIPT,
        apply_default_css=False,
        server_functions=[convert],
        **kwargs,
    )
    return component


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
