"""Settings that come back: from an address, from a sound's own file, or from a sound to make more like."""

from __future__ import annotations

from typing import Any

import gradio as gr
from gradio.blocks import Block
from gradio.utils import get_upload_folder, is_in_or_equal

from clipsonic.audio import read_tags
from clipsonic.errors import ClipSonicError, MediaError
from clipsonic.ui import words
from clipsonic.ui.asking import path_or_text
from clipsonic.ui.handlers import in_page
from clipsonic.ui.links import read_file_settings, read_link
from clipsonic.ui.results import Updates
from clipsonic.ui.tabs import QUIET, Filled

FOLLOW = "() => clipsonic.follow()"


class Restore:
    """Fills in the widgets of the text tab."""

    def __init__(self, text: Filled, tabs: gr.Tabs) -> None:
        """Remember what is filled in."""
        self._text, self._tabs = text, tabs

    @property
    def outputs(self) -> list[Block]:
        """Every component that may be filled in."""
        return [self._tabs, self._text.query["prompt"], self._text.lock, *self._text.controls.values()]

    def from_link(self, page: gr.Blocks) -> None:
        """Fill in what the page's address asks for, and make that sound; nothing plays before it is told to."""

        def fill(request: gr.Request) -> Updates:
            try:
                return self._updates(*read_link(dict(request.query_params)))
            except ClipSonicError as error:
                raise in_page(error) from error

        page.load(fill, None, self.outputs, **QUIET).success(None, None, None, js=FOLLOW)

    def from_file(self) -> None:
        """Make the place where a saved sound is dropped."""

        def fill(file: Any) -> Updates:
            try:
                return self._updates(*read_file_settings(read_tags(path_or_text(file))))
            except ClipSonicError as error:
                raise in_page(error) from error

        file = gr.File(label=words.RESTORE[1], file_types=["audio"], height=140, elem_id="restore")
        file.upload(fill, file, self.outputs, preprocess=False, **QUIET)

    def more_like_this(self, filled: dict[str, Filled]) -> None:
        """Take a sound that is shown for a query, with the words it was made from at hand, and make more like it."""
        sound = filled["audio"]

        def take(event: gr.EventData) -> Updates:
            try:
                path = served(event._data.get("sound"))
            except ClipSonicError as error:
                raise in_page(error) from error
            words_at_hand = str(event._data.get("prompt") or "")
            return {
                self._tabs: gr.update(selected="audio"),
                sound.query["audio"]: path,
                sound.query["toward"]: words_at_hand,
                sound.controls["morph"]: 0.25 if words_at_hand else 0.0,
            }

        outputs = [self._tabs, *sound.query.values(), sound.controls["morph"]]
        for tab in filled.values():
            tab.results.stage.more(take, None, outputs, **QUIET).success(
                None, None, None, js="() => setTimeout(() => document.querySelector('#audio-generate').click(), 300)"
            )

    def _updates(self, prompt: str, settings: dict[str, Any]) -> Updates:
        if not settings and not prompt:
            return {self._text.lock: gr.skip()}
        controls = {self._text.controls[name]: value for name, value in settings.items() if name in self._text.controls}
        return {
            self._tabs: gr.update(selected="prompt"),
            self._text.query["prompt"]: prompt,
            self._text.lock: True,
            **controls,
        }


def served(path: Any) -> str:
    """Return a path if it is one that this page serves.

    Raises:
        MediaError: It is not.
    """
    if not isinstance(path, str) or "\0" in path or not is_in_or_equal(path, get_upload_folder()):
        raise MediaError("this sound is not here any more; make it again")
    return path
