"""Who does the work: the cores of this machine, or Ray. Both take items in order and give results in the same order."""

from __future__ import annotations

import logging
import multiprocessing
import os
import pickle
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from multiprocessing import connection
from typing import Any, Protocol

import torch

from clipsonic.data.clips import Embedder
from clipsonic.errors import DataError, SettingsError

ENGINES = ("local", "ray")
_AHEAD = 4
"""Items a process that are under way or wait to be fetched."""
_RAY_BLOCKS = 2000
Stage = Callable[[Any], Any]


@dataclass(frozen=True)
class Crashed:
    """Stands for the result of an item that brought its process down."""

    item: Any


class Engine(Protocol):
    """Runs stages over items."""

    def run(self, stages: Sequence[Stage], items: Sequence[Any]) -> Iterator[Any]:
        """Yield what the stages, one after the other, make of each item, in the items' order."""

    def close(self) -> None:
        """Let go of the processes."""


class LocalEngine:
    """Processes of this machine; with one worker, this process."""

    def __init__(self, workers: int) -> None:
        """Take a number of processes; they start when first needed."""
        self.workers = workers
        self._pool: ProcessPoolExecutor | None = None

    def run(self, stages: Sequence[Stage], items: Sequence[Any]) -> Iterator[Any]:
        """Yield results in order; an item that kills its process twice gives `Crashed`."""
        if self.workers == 1:
            threads = torch.get_num_threads()
            try:
                yield from (_chain(stages, item) for item in items)
            finally:
                torch.set_num_threads(threads)
            return
        waiting: deque[tuple[Any, Future[Any]]] = deque()
        ahead = self.workers * _AHEAD
        for item in items:
            waiting.append((item, self._submit(stages, item)))
            if len(waiting) >= ahead:
                yield self._first(stages, waiting)
        while waiting:
            yield self._first(stages, waiting)

    def close(self) -> None:
        """Stop the processes."""
        if self._pool is not None:
            self._pool.shutdown(cancel_futures=True)
            self._pool = None

    def _submit(self, stages: Sequence[Stage], item: Any) -> Future[Any]:
        if self._pool is None:
            context = multiprocessing.get_context("spawn")
            self._pool = ProcessPoolExecutor(self.workers, mp_context=context, initializer=_end_with_parent)
        try:
            return self._pool.submit(_chain, stages, item)
        except BrokenProcessPool as error:
            broken: Future[Any] = Future()
            broken.set_exception(error)
            return broken

    def _first(self, stages: Sequence[Stage], waiting: deque[tuple[Any, Future[Any]]]) -> Any:
        item, future = waiting.popleft()
        try:
            return future.result()
        except BrokenProcessPool:
            return self._retry(stages, item, waiting)

    def _retry(self, stages: Sequence[Stage], item: Any, waiting: deque[tuple[Any, Future[Any]]]) -> Any:
        """Try an item alone in new processes, so that it is known which one brings them down; then queue the others."""
        self.close()
        try:
            result = self._submit(stages, item).result()
        except BrokenProcessPool:
            self.close()
            result = Crashed(item)
        for _ in range(len(waiting)):
            other, future = waiting.popleft()
            lost = not future.done() or isinstance(future.exception(), BrokenProcessPool)
            waiting.append((other, self._submit(stages, other) if lost else future))
        return result


class RayEngine:
    """Ray Data: on this machine, or on a cluster whose machines all see the folder of videos."""

    def __init__(self, workers: int, address: str | None = None) -> None:
        """Start Ray here with so many cores, or join a cluster.

        Raises:
            SettingsError: Ray is not installed.
            DataError: There is no cluster at the address.
        """
        os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
        try:
            import ray
        except ImportError as error:
            raise SettingsError("engine 'ray' needs Ray; pip install -r requirements-train.txt") from error
        self._own = not ray.is_initialized()
        options: dict[str, Any] = {"address": address} if address else {"num_cpus": max(2, workers)}
        if not address:
            options |= {"include_dashboard": False}
        try:
            if self._own:
                ray.init(logging_level=logging.ERROR, log_to_driver=False, **options)
        except (ConnectionError, ValueError, RuntimeError, OSError) as error:
            raise DataError(f"no Ray cluster answers at {address}: {error}; start one with `ray start`") from error

    def run(self, stages: Sequence[Stage], items: Sequence[Any]) -> Iterator[Any]:
        """Yield results in order; CLIP is held by actors, on GPUs where the cluster has them."""
        import ray
        from ray.data import DataContext

        if not items:
            return
        context = DataContext.get_current()
        context.execution_options.preserve_order = True
        context.enable_progress_bars = False
        rows = [{"value": pickle.dumps(item)} for item in items]
        data: Any = ray.data.from_items(rows, override_num_blocks=min(len(rows), _RAY_BLOCKS))
        for stage, options in _placed(stages, ray.cluster_resources()):
            if options:
                data = data.map(_Actor, fn_constructor_args=(stage,), **options)
            else:
                data = data.map(_Task(stage), num_cpus=1)
        try:
            for row in data.iter_rows():
                yield pickle.loads(row["value"])
        except ray.exceptions.RayError as error:
            reason = " ".join(str(getattr(error, "cause", None) or error).split())
            raise DataError(
                f"Ray stopped: {reason:.500}; see that every machine has the videos and the model"
            ) from error

    def close(self) -> None:
        """Stop Ray if it was started here."""
        import ray

        if self._own:
            ray.shutdown()


def open_engine(name: str, workers: int, address: str | None = None) -> Engine:
    """Return an engine by name.

    Raises:
        SettingsError: The name is unknown, an address is given to the wrong one, or Ray is not installed.
        DataError: There is no cluster at the address.
    """
    if name not in ENGINES:
        raise SettingsError(f"engine is {name!r}; allowed: {', '.join(ENGINES)}")
    if name == "ray":
        return RayEngine(workers, address)
    if address:
        raise SettingsError(f"a Ray address ({address}) goes with engine 'ray', not {name!r}; add --engine ray")
    return LocalEngine(workers)


class _Task:
    """A stage over a row of Ray's, whose value is pickled: rows are tables, and these are not."""

    def __init__(self, stage: Stage) -> None:
        self.stage = stage

    def __call__(self, row: dict[str, bytes]) -> dict[str, bytes]:
        return {"value": pickle.dumps(self.stage(pickle.loads(row["value"])))}


class _Actor(_Task):
    """The same in a process that stays, with what it loaded."""


@dataclass(frozen=True)
class _Chain:
    """Stages as one."""

    stages: tuple[Stage, ...]

    def __call__(self, item: Any) -> Any:
        return _chain(self.stages, item)


def _placed(stages: Sequence[Stage], resources: dict[str, float]) -> list[tuple[Stage, dict[str, Any]]]:
    """Say where stages run: CLIP in an actor a GPU; without GPUs all of them together in an actor a core."""
    from ray.data import ActorPoolStrategy

    if not any(isinstance(stage, Embedder) for stage in stages):
        return [(stage, {}) for stage in stages]
    if gpus := int(resources.get("GPU", 0)):
        actor = {"num_gpus": 1, "compute": ActorPoolStrategy(size=gpus)}
        return [(stage, actor if isinstance(stage, Embedder) else {}) for stage in stages]
    cores = max(1, int(resources.get("CPU", 1)))
    return [(_Chain(tuple(stages)), {"num_cpus": 1, "compute": ActorPoolStrategy(size=cores)})]


def _chain(stages: Iterable[Stage], item: Any) -> Any:
    for stage in stages:
        item = stage(item)
    return item


def _end_with_parent() -> None:
    """End this worker when the process that started it dies, even by a kill: nothing else would."""
    parent = multiprocessing.parent_process()
    if parent is None:
        return

    def watch() -> None:
        connection.wait([parent.sentinel])
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()
