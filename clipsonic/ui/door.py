"""The door: what a request must pass before Gradio sees it."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

Refusal = Callable[[int | str, str | None, str | None], str | None]
"""Takes a function's number or name, the session and the address, and says why the request is refused, if it is."""


class Door:
    """Refuses bodies that are too long, and visitors who have enough in the queue already."""

    def __init__(self, app: ASGIApp, *, longest: int, refuse: Refusal, uploading: Callable[[], None]) -> None:
        """Stand before an app.

        Args:
            app: What the request goes to if all is well.
            longest: Bytes of a body that is not an upload.
            refuse: Looks at requests to join the queue.
            uploading: Called before an upload.
        """
        self._app, self._longest, self._refuse, self._uploading = app, longest, refuse, uploading

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on, or answer it here."""
        if scope["type"] != "http" or scope["method"] not in ("POST", "PUT", "PATCH"):
            return await self._app(scope, receive, send)
        if scope["path"].rstrip("/").endswith("/upload"):
            self._uploading()
            return await self._app(scope, receive, send)
        messages, body = await self._read(receive)
        if body is None:
            told = f"the request is longer than {self._longest:,} bytes; send files as uploads"
            return await JSONResponse({"detail": told}, 413)(scope, receive, send)
        if found := self._look(scope, body):
            status, words = found
            return await JSONResponse({"detail": words}, status, {"Retry-After": "10"})(scope, receive, send)
        return await self._app(scope, _replay(messages, receive), send)

    async def _read(self, receive: Receive) -> tuple[list[Message], bytes | None]:
        """Return the messages of a body and the body, or None if it is too long."""
        messages: list[Message] = []
        parts: list[bytes] = []
        length = 0
        while True:
            message = await receive()
            messages.append(message)
            if message["type"] != "http.request":
                return messages, b"".join(parts)
            parts.append(message.get("body", b""))
            length += len(parts[-1])
            if length > self._longest:
                return messages, None
            if not message.get("more_body", False):
                return messages, b"".join(parts)

    def _look(self, scope: Scope, body: bytes) -> tuple[int, str] | None:
        """Return with which status and words a request to join the queue is refused, if it is one and is."""
        path = scope["path"].rstrip("/")
        joins = path.endswith("/queue/join")
        if not joins and "/call/" not in path:
            return None
        fields = _fields(body)
        if fields is None:
            return 400, "the request is not a JSON object; see /gradio_api/openapi.json"
        function = fields.get("fn_index") if joins else path.rsplit("/", 1)[1]
        session = fields.get("session_hash")
        if not isinstance(function, int | str):
            return None  # Gradio says what is wrong
        address = scope["client"][0] if scope.get("client") else None
        told = self._refuse(function, session if isinstance(session, str) else None, address)
        return (503, told) if told else None


def _fields(body: bytes) -> dict[str, Any] | None:
    try:
        fields = json.loads(body)
    except (ValueError, RecursionError):
        return None
    return fields if isinstance(fields, dict) else None


def _replay(messages: list[Message], receive: Receive) -> Receive:
    """Return a `receive` that gives what was read already, then what comes."""
    left = iter(messages)

    async def again() -> Message:
        return next(left, None) or await receive()

    return again
