"""One call under way: the parts it uses, its clock, and whom it tells how far it is."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Any

import numpy as np

from clipsonic.checkpoint import ModelFolder, ModelIndex
from clipsonic.device import memory_told
from clipsonic.output import Callback, Progress

STAGES = ("loading", "embedding", "prior", "denoising", "vocoder", "scoring")


class Run:
    """What one call needs beside its arguments; nothing of it outlives the call."""

    def __init__(self, folder: ModelFolder, callback: Callback | None = None) -> None:
        """Start the clock."""
        self.folder = folder
        self._callback = callback
        self._start = time.perf_counter()
        self._seconds = dict.fromkeys(STAGES, 0.0)

    @property
    def index(self) -> ModelIndex:
        """What the model says of itself."""
        return self.folder.index

    def part(self, name: str) -> Any:
        """Return a part of the model, telling the caller if it has to be loaded first."""
        if not self.folder.is_loaded(name):
            self.report(f"loading {name}", 0, 1)
        with self.timed("loading"):
            return self.folder.part(name)

    def precision(self) -> AbstractContextManager[None]:
        """Return the context in which networks compute."""
        return self.folder.accelerator.autocast()

    @contextmanager
    def timed(self, stage: str) -> Iterator[None]:
        """Add the block's seconds to `stage`.

        Raises:
            OutOfMemoryError: The block ran out of memory.
        """
        start = time.perf_counter()
        with memory_told():
            yield
        self._seconds[stage] += time.perf_counter() - start

    def report(self, stage: str, step: int, total: int, preview: Callable[[], np.ndarray] | None = None) -> None:
        """Tell the caller; whatever the callback raises stops the run."""
        if self._callback is not None:
            self._callback(Progress(stage=stage, step=step, total=total, preview=preview))

    def timings(self) -> dict[str, float]:
        """Return seconds by stage and in total."""
        return self._seconds | {"total": time.perf_counter() - self._start}
