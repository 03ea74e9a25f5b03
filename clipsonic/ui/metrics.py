"""Numbers for Prometheus."""

from __future__ import annotations

from collections.abc import Callable

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, ProcessCollector, generate_latest
from prometheus_client.exposition import CONTENT_TYPE_LATEST

RESULTS = ("done", "stopped", "left", "refused", "failed", "busy")
"""How a request ends: with sounds, by Stop, by a visitor who left, by a mistake of the caller, by a fault of ours, or
at the door."""
BUCKETS_S = (0.5, 1, 2, 5, 10, 20, 60, 120, 300, 600)


class Metrics:
    """Counts requests; each app has a registry of its own."""

    content_type = CONTENT_TYPE_LATEST

    def __init__(self) -> None:
        """Start at zero."""
        self._registry = CollectorRegistry()
        ProcessCollector(registry=self._registry)
        self.requests = Counter(
            "clipsonic_requests", "Requests by how they ended.", ["result"], registry=self._registry
        )
        for result in RESULTS:
            self.requests.labels(result)
        self.sounds = Counter("clipsonic_sounds", "Sounds made.", registry=self._registry)
        self.run_seconds = Histogram(
            "clipsonic_run_seconds", "Seconds that runs took.", buckets=BUCKETS_S, registry=self._registry
        )
        self.wait_seconds = Histogram(
            "clipsonic_wait_seconds", "Seconds that runs waited.", buckets=BUCKETS_S, registry=self._registry
        )
        self.stage_seconds = Counter(
            "clipsonic_stage_seconds", "Seconds spent by stage of the pipeline.", ["stage"], registry=self._registry
        )

    def follow(self, waiting: Callable[[], float], running: Callable[[], float]) -> None:
        """Report the queue as it stands whenever somebody looks."""
        Gauge("clipsonic_waiting", "Requests waiting.", registry=self._registry).set_function(waiting)
        Gauge("clipsonic_running", "Requests running.", registry=self._registry).set_function(running)

    def text(self) -> bytes:
        """Return all numbers in Prometheus' own format."""
        return generate_latest(self._registry)
