"""One line of JSON for each request, on standard output, without what the visitor wrote."""

from __future__ import annotations

import json
import logging
import os
import sys
from datetime import UTC, datetime
from typing import Any, TextIO

from clipsonic.config import GenerationSettings

LOGGER = "clipsonic.requests"
PROMPTS = "CLIPSONIC_LOG_PROMPTS"
"""Set this variable to 1 to log prompts, names of files and messages of errors too."""
_WRITTEN = ("negative_prompt", "template")
"""Settings that are a visitor's own words."""


class JsonLines(logging.Formatter):
    """Writes a record whose `fields` are a dict as one line of JSON."""

    def format(self, record: logging.LogRecord) -> str:
        """Return the line; what cannot be written as JSON is written as text."""
        time = datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds")
        fields = {"time": time, "level": record.levelname.lower(), "event": record.getMessage()}
        return json.dumps(fields | getattr(record, "fields", {}), default=str)


class RequestLog:
    """Writes a line a request."""

    def __init__(self, stream: TextIO | None = None, with_words: bool | None = None) -> None:
        """Open the log.

        Args:
            stream: Where to; standard output if left out.
            with_words: Whether to write what visitors wrote; the environment decides if left out.
        """
        self._words = os.environ.get(PROMPTS, "") == "1" if with_words is None else with_words
        self._logger = logging.Logger(LOGGER, logging.INFO)
        handler = logging.StreamHandler(stream or sys.stdout)
        handler.setFormatter(JsonLines())
        self._logger.addHandler(handler)

    def write(self, event: str, level: int = logging.INFO, **fields: Any) -> None:
        """Write one line; fields that are None are left out."""
        present = {name: value for name, value in fields.items() if value is not None}
        self._logger.log(level, event, extra={"fields": present})

    def describe(self, query: dict[str, Any], settings: GenerationSettings) -> dict[str, Any]:
        """Return what was asked for, without what the visitor wrote unless the operator wants it."""
        asked = {name: value for name, value in query.items() if value is not None}
        plain = {name: value for name, value in settings.to_dict().items() if name not in _WRITTEN}
        described: dict[str, Any] = {"kind": "+".join(asked), **plain}
        if self._words:
            written = {name: getattr(settings, name) for name in _WRITTEN}
            described |= {"query": {name: str(value) for name, value in asked.items()}, **written}
        return described

    def reason(self, error: BaseException) -> str:
        """Return an error's kind, and its message, which may quote the visitor, only if the operator wants it."""
        return f"{type(error).__name__}: {error}" if self._words else type(error).__name__
