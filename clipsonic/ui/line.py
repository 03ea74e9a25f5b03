"""The line of those who wait, read from Gradio's queue."""

from __future__ import annotations

import time
from typing import Any

import gradio as gr

GENERATION = "generation"
"""The `concurrency_id` that everything which makes sounds shares."""


class Line:
    """Who waits and who runs; always as Gradio has it, nothing is counted twice."""

    def __init__(self, page: gr.Blocks) -> None:
        """Remember the page whose queue is read."""
        self._page = page

    def waiting(self) -> int:
        """Return how many requests wait for a sound."""
        return len(self._waiting())

    def running(self) -> int:
        """Return how many requests are being served."""
        return len(self._running())

    def of(self, session: str | None, address: str | None) -> tuple[int, int]:
        """Return how many requests of a session, and of an address, wait or run."""
        events = [*self._waiting(), *self._running()]
        same_session = sum(session is not None and event.session_hash == session for event in events)
        return same_session, sum(address is not None and _address(event) == address for event in events)

    def waited_s(self, session: str) -> float | None:
        """Return how long ago the session's running request came, in seconds, if there is one."""
        times = [time.monotonic() - event.enqueue_time for event in self._running() if event.session_hash == session]
        return min(times, default=None)

    def has_left(self, session: str) -> bool:
        """Return whether the caller of the session's running request hung up."""
        mine = [event for event in self._running() if event.session_hash == session]
        return bool(mine) and not any(event.alive for event in mine)

    def names(self, path: str) -> bool:
        """Return whether a request that waits or runs speaks of a file."""
        return any(path in str(event.data.data) for event in [*self._waiting(), *self._running()] if event.data)

    def makes_sounds(self, function: int | str) -> bool:
        """Return whether a function of the page, by number or by name, makes sounds."""
        functions = self._page.fns.values()
        found = [fn for fn in functions if function in (fn._id, fn.api_name)]  # noqa: SLF001
        return any(fn.concurrency_id == GENERATION for fn in found)

    def _waiting(self) -> list[Any]:
        queue = self._page._queue.event_queue_per_concurrency_id.get(GENERATION)
        return list(queue.queue) if queue else []

    def _running(self) -> list[Any]:
        jobs = [job for job in self._page._queue.active_jobs if job]
        return [event for job in jobs for event in job if event.concurrency_id == GENERATION]


def _address(event: Any) -> str | None:
    client = event.request.client if event.request else None
    return client.host if client else None
