"""The runs under way, each known by its visitor, so that Stop reaches that visitor's alone."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from queue import SimpleQueue
from threading import Event, Lock
from time import monotonic
from typing import TYPE_CHECKING

import numpy as np

from clipsonic.errors import Cancelled

if TYPE_CHECKING:
    from clipsonic.pipeline import ClipSonicOutput, Progress

PREVIEW_EVERY_S = 0.6


class Runs:
    """Which visitor has which runs under way; safe to use from many threads."""

    def __init__(self) -> None:
        """Start with nobody."""
        self._lock = Lock()
        self._stops: dict[str, set[Event]] = {}

    @contextmanager
    def begin(self, visitor: str) -> Iterator[Event]:
        """Register a run for the length of the block and yield the event that asks it to stop.

        The event is set when the block is left, so that no run outlives whoever listens to it.
        """
        stop = Event()
        with self._lock:
            self._stops.setdefault(visitor, set()).add(stop)
        try:
            yield stop
        finally:
            stop.set()
            with self._lock:
                self._stops[visitor].discard(stop)
                if not self._stops[visitor]:
                    del self._stops[visitor]

    def stop(self, visitor: str) -> int:
        """Ask every run of `visitor` to stop, and return how many there were."""
        with self._lock:
            stops = list(self._stops.get(visitor, ()))
        for stop in stops:
            stop.set()
        return len(stops)


@dataclass(frozen=True)
class Report:
    """How far a run is.

    Attributes:
        stage: What the pipeline is doing, in its own word.
        step: How many steps of the stage are done.
        total: How many there are.
        preview: Now and then the log-mels as they stand, natural log, float32, shape (clips, n_mels, frames).
        left_s: Seconds that the rest of this stage will take, judged by what is done of it.
    """

    stage: str
    step: int
    total: int
    preview: np.ndarray | None = None
    left_s: float | None = None


def watch(
    run: Callable[[Callable[[Progress], None]], ClipSonicOutput], stop: Event
) -> Iterator[Report | ClipSonicOutput]:
    """Run in a thread and yield its newest report whenever there is one, and the output last.

    Args:
        run: Takes the callback to report to, returns the output.
        stop: Once set, the next report ends the run.

    Yields:
        Reports, of which old ones are skipped when the listener is slow, then the output.

    Raises:
        Cancelled: `stop` was set before the run ended.
    """
    reports: SimpleQueue[Report | None] = SimpleQueue()
    with ThreadPoolExecutor(max_workers=1) as pool:
        future = pool.submit(run, _reporter(reports, stop))
        future.add_done_callback(lambda _: reports.put(None))
        try:
            yield from _newest(reports)
            yield future.result()
        finally:
            stop.set()


def end_if(stop: Event) -> None:
    """End the run here if it was asked to.

    Raises:
        Cancelled: `stop` is set.
    """
    if stop.is_set():
        raise Cancelled("the run was stopped")


def _reporter(reports: SimpleQueue[Report | None], stop: Event) -> Callable[[Progress], None]:
    last_preview = monotonic()
    began: dict[str, tuple[float, int]] = {}

    def report(progress: Progress) -> None:
        nonlocal last_preview
        end_if(stop)
        preview = None
        if progress.preview is not None and monotonic() - last_preview > PREVIEW_EVERY_S:
            preview, last_preview = progress.preview(), monotonic()
        start, first = began.setdefault(progress.stage, (monotonic(), progress.step))
        done = progress.step - first
        left_s = (monotonic() - start) / done * (progress.total - progress.step) if done > 1 else None
        reports.put(Report(progress.stage, progress.step, progress.total, preview, left_s))

    return report


def _newest(reports: SimpleQueue[Report | None]) -> Iterator[Report]:
    """Yield the last report at hand until the closing None, but lose no preview."""
    while (report := reports.get()) is not None:
        while report.preview is None and not reports.empty():
            following = reports.get()
            if following is None:
                return
            report = following
        yield report
