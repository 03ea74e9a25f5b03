"""The desk every request passes: limits, one line in the log, the metrics, and a polite word when something breaks."""

from __future__ import annotations

import logging
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import gradio as gr
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from clipsonic.config import GenerationSettings
from clipsonic.errors import Cancelled, CheckpointError, ClipSonicError
from clipsonic.ui.door import Door
from clipsonic.ui.files import Files
from clipsonic.ui.limits import Limits
from clipsonic.ui.line import Line
from clipsonic.ui.log import RequestLog
from clipsonic.ui.metrics import Metrics
from clipsonic.ui.redact import outline, without_paths
from clipsonic.ui.rest import rest

UPLOADS = ("image", "video", "audio", "toward")


class TooLong(ClipSonicError):
    """A run took longer than the operator allows."""


class Mishap(ClipSonicError):
    """Something broke that the visitor cannot mend; the log has the same number."""


class Record:
    """What is known of one run while it lasts."""

    def __init__(self, longest_s: float, has_left: Callable[[], bool]) -> None:
        """Start the clock; `has_left` tells whether the caller hung up."""
        self.id = uuid.uuid4().hex[:8]
        self.start = time.monotonic()
        self.output: Any = None
        self._longest_s, self._has_left = longest_s, has_left

    @property
    def seconds(self) -> float:
        """How long it has been running."""
        return time.monotonic() - self.start

    def note(self, event: Any) -> None:
        """Take note of a report or of the output.

        Raises:
            TooLong: It has been running longer than it may.
            Cancelled: The caller hung up.
        """
        if hasattr(event, "timings"):
            self.output = event
        elif self.seconds > self._longest_s:
            raise TooLong(f"the run took longer than {self._longest_s:g} s and was ended; ask for less at a time")
        elif self._has_left():
            raise Cancelled("the caller left")


class Desk:
    """Watches over the requests of one page."""

    def __init__(self, limits: Limits | None = None, log: RequestLog | None = None, model: str | None = None) -> None:
        """Open the desk for a model of that name; limits and log are those of the environment if left out."""
        self.limits = limits or Limits.from_environment()
        self.log = log or RequestLog()
        self.metrics = Metrics()
        self.model = model
        self._line: Line | None = None
        self._files: Files | None = None
        self._broken = False

    def attach(self, page: gr.Blocks) -> None:
        """Begin to watch a page's queue and files."""
        self._line = Line(page)
        self._files = Files(page, self._line, self.limits.files_s, self.limits.files_mb)
        self.metrics.follow(self._line.waiting, self._line.running)

    def launch_options(self) -> dict[str, Any]:
        """Return what `launch` needs so that the door, `/health` and `/metrics` are there."""
        door = Middleware(Door, longest=self.limits.body_bytes, refuse=self.refuse, uploading=self._sweep)
        routes = [Route("/health", self._health), Route("/metrics", self._metrics)]
        return {"app_kwargs": {"middleware": [door], "routes": routes}}

    @contextmanager
    def watch(self, visitor: str, query: dict[str, Any], settings: GenerationSettings) -> Iterator[Record]:
        """Watch one run: check it against the limits, time it, count it, and log how it ended.

        Raises:
            ClipSonicError: What the run raised, without paths of this machine; a `Mishap` for anything unforeseen.
        """
        line, level = self._line, logging.INFO
        record = Record(self.limits.run_s, lambda: line is not None and line.has_left(visitor))
        result, error_name = "done", None
        waited_s = line.waited_s(visitor) if line else None
        try:
            self._use(visitor, query)
            self.limits.check(query, settings)
            yield record
        except GeneratorExit:
            result = "left"
            raise
        except Cancelled:
            result = "stopped"
            raise
        except ClipSonicError as error:
            result, error_name = "refused", self.log.reason(error)
            self._broken = isinstance(error, CheckpointError)
            raise _cleaned(error) from None
        except Exception as error:
            result, error_name, level = "failed", f"{self.log.reason(error)} at {outline(error)}", logging.ERROR
            raise Mishap(
                f"something broke here and this run was lost (number {record.id}); try again, and tell whoever runs "
                "this app the number if it stays"
            ) from None
        finally:
            self._finish(record, result, waited_s)
            self._write(record, level, waited_s, self.log.describe(query, settings), result=result, error=error_name)
            self._sweep()
            if line is None or not line.waiting():
                rest()

    def refuse(self, function: int | str, session: str | None, address: str | None) -> str | None:
        """Return why nothing more may join the queue from there, if so."""
        line = self._line
        if line is None or not line.makes_sounds(function):
            return None
        of_session, of_address = line.of(session, address)
        if of_session >= self.limits.per_visitor:
            why = f"busy: you have {of_session} sounds under way already; wait for one or stop one"
        elif of_address >= self.limits.per_address:
            why = f"busy: {of_address} sounds are under way for your network; try again in a moment"
        elif line.waiting() >= self.limits.queue:
            why = f"busy: {line.waiting()} others are waiting; try again in a moment"
        else:
            return None
        self.metrics.requests.labels("busy").inc()
        self.log.write("request", result="busy", waiting=line.waiting(), running=line.running())
        return why

    def leave(self, visitor: str) -> None:
        """Clean up after a visitor who closed the page."""
        if self._files:
            self._files.leave(visitor)

    def health(self) -> dict[str, Any]:
        """Return whether requests can be served, and how many wait."""
        waiting, running = (self._line.waiting(), self._line.running()) if self._line else (0, 0)
        return {"ready": not self._broken, "model": self.model, "waiting": waiting, "running": running}

    async def _health(self, _: Request) -> Response:
        state = self.health()
        return JSONResponse(state, 200 if state["ready"] else 503)

    async def _metrics(self, _: Request) -> Response:
        return Response(self.metrics.text(), media_type=self.metrics.content_type)

    def _use(self, visitor: str, query: dict[str, Any]) -> None:
        for path in (query.get(name) for name in UPLOADS):
            if self._files and isinstance(path, str):
                self._files.used(visitor, path)

    def _finish(self, record: Record, result: str, waited_s: float | None) -> None:
        self.metrics.requests.labels(result).inc()
        self.metrics.run_seconds.observe(record.seconds)
        if waited_s is not None:
            self.metrics.wait_seconds.observe(waited_s)
        if record.output is not None:
            self._broken = False
            self.metrics.sounds.inc(len(record.output.audios))
            for stage, seconds in record.output.timings.items():
                self.metrics.stage_seconds.labels(stage).inc(seconds)

    def _write(
        self, record: Record, level: int, waited_s: float | None, asked: dict[str, Any], **outcome: str | None
    ) -> None:
        timings = record.output.timings if record.output is not None else {}
        self.log.write(
            "request",
            level,
            id=record.id,
            **outcome,
            seconds=round(record.seconds, 3),
            waited_s=None if waited_s is None else round(waited_s, 3),
            waiting=self._line.waiting() if self._line else None,
            stages={stage: round(seconds, 3) for stage, seconds in timings.items()} or None,
            **asked,
        )

    def _sweep(self) -> None:
        if self._files:
            self._files.sweep()


def _cleaned(error: ClipSonicError) -> ClipSonicError:
    """Return an error of the same kind whose message has no paths of this machine."""
    return type(error)(without_paths(str(error)))
