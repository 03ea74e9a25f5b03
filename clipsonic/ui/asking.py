"""How a tab's widgets make a query: which there are, and what the pipeline is asked with."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from clipsonic.errors import MediaError, SettingsError
from clipsonic.mux import write_video
from clipsonic.ui import cards
from clipsonic.video import open_video

if TYPE_CHECKING:
    from clipsonic.pipeline import ClipSonicOutput

Query = dict[str, Any]
COMPARED = {"iq": "image", "mq": "image", "aq": "audio"}
"""The query that a method asks for beside words."""


class Ask:
    """One query of one kind, rendered by the methods that fit it.

    Attributes:
        names: The widgets' names; those the pipeline knows go there as they are.
    """

    def __init__(self, names: tuple[str, ...], methods: tuple[str, ...]) -> None:
        """Remember the names of the widgets and the methods."""
        self.names, self._methods = names, methods

    def read(self, values: Mapping[str, Any]) -> tuple[Query, tuple[str, ...]]:
        """Return what the pipeline is asked with, and the methods.

        Args:
            values: The widgets' values, as the browser sent them.

        Raises:
            ClipSonicError: What was given does not make a query.
        """
        query = {name: path_or_text(value) for name, value in values.items()}
        return query, self._methods

    def finish(self, value: cards.Value, query: Query, output: ClipSonicOutput, folder: Path) -> cards.Value:
        """Return the finished sounds with whatever else the tab shows; files may be written to `folder`."""
        return value


class AskForMix(Ask):
    """A query that may go towards a text or a picture (`toward`, `toward_picture`)."""

    def read(self, values: Mapping[str, Any]) -> tuple[Query, tuple[str, ...]]:
        """Return the query with what it goes towards, if there is something."""
        query, methods = super().read(values)
        picture = query.pop("toward_picture", None)
        toward = Path(picture) if picture else query.pop("toward", None)
        return query | {"toward": toward or None}, methods


class AskForTwo(Ask):
    """Any two methods (`method_a`, `method_b`), each with the query it needs."""

    def read(self, values: Mapping[str, Any]) -> tuple[Query, tuple[str, ...]]:
        """Return the queries that the two methods need, and the two.

        Raises:
            SettingsError: They are the same, or are not to be had.
            MediaError: A picture or a sound is missing.
        """
        methods = (values["method_a"], values["method_b"])
        if not all(method in self._methods for method in methods) or methods[0] == methods[1]:
            shown = " and ".join(str(method)[:20] for method in methods)
            raise SettingsError(f"the two sides are {shown}; allowed: two different ones of {', '.join(self._methods)}")
        query: Query = {}
        for method in methods:
            kind = COMPARED.get(method, "prompt")
            query[kind] = path_or_text(values.get(kind))
            if query[kind] is None:
                word = {"image": "picture", "audio": "sound"}.get(kind, kind)
                raise MediaError(f"the side {method} asks with a {word}, and there is none; give one")
        return query, methods


class AskForVideo(Ask):
    """A video, which is shown again with its sound."""

    def read(self, values: Mapping[str, Any]) -> tuple[Query, tuple[str, ...]]:
        """Return the video, opened, and the methods.

        Raises:
            MediaError: There is none, or it cannot be used.
        """
        query, methods = super().read(values)
        if not query["video"]:
            raise MediaError("there is no video; drop one such as mp4, webm or mkv")
        return {"video": open_video(query["video"])}, methods

    def finish(self, value: cards.Value, query: Query, output: ClipSonicOutput, folder: Path) -> cards.Value:
        """Put the video with its first new sound above the cards, and with its own into each."""
        shown = {}
        for audio in output.audios:
            path = folder / cards.file_name(audio, "mp4")
            write_video(path, query["video"], audio.waveform, output.sample_rate, path.stem)
            shown[audio.method] = cards.file_data(path)
        first, *_ = shown.values()
        return value | {"video": first, "cards": [card | {"video": shown[card["method"]]} for card in value["cards"]]}


def path_or_text(query: Any) -> Any:
    """Return the path of an uploaded file, which Gradio has seen to be one, and anything else as it is."""
    if isinstance(query, dict):
        inner = query.get("video", query)  # Gradio wraps a video once more
        return inner.get("path") if isinstance(inner, dict) else None
    return query
