"""The sample sets that an organiser curates: begun from a form, generated in bulk, opened again; no widgets."""

from __future__ import annotations

import shutil
import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import gradio as gr

from clipsonic.config import GenerationSettings
from clipsonic.errors import Cancelled, DataError, PromptError, SettingsError
from clipsonic.listening.curate import DATABASE, Curation
from clipsonic.listening.plan import Plan, Query
from clipsonic.listening.sets import CURATION
from clipsonic.media import open_picture
from clipsonic.pipeline import check_prompt
from clipsonic.storage import slug, write_whole
from clipsonic.ui.results_tab import Gate, address_of

if TYPE_CHECKING:
    from clipsonic.pipeline import ClipSonicPipeline


class Curator:
    """What the tab's events do. All state lies on the disk, so a reload, a crash or a second tab loses nothing."""

    def __init__(self, folder: Path, gate: Gate, load: Callable[[], ClipSonicPipeline]) -> None:
        """Curate sets below `folder`, for whoever has the gate's password, with the pipeline that `load` returns."""
        self._folder, self._gate, self._load = folder, gate, load
        self._stops: dict[str, threading.Event] = {}

    def keep_pictures(self, name: str, pictures: Sequence[str]) -> list[str]:
        """Copy uploaded pictures into the set's folder, for an upload does not last; return where they lie.

        Raises:
            MediaError: One is no picture.
            OutputError: The folder cannot be written to.
        """
        kept = []
        for picture in map(Path, pictures):
            open_picture(picture)
            place = self._folder / name / CURATION / "pictures" / f"{slug(picture.stem)}{picture.suffix.lower()}"
            with write_whole(place) as temporary:
                shutil.copyfile(picture, temporary)
            kept.append(str(place))
        return sorted(set(kept))

    def names(self) -> list[str]:
        """Return the names of the sets that were begun."""
        return sorted(path.parents[1].name for path in self._folder.glob(f"*/{CURATION}/{DATABASE}"))

    def generate(self, plan: Plan, name: str, visitor: str, report: Callable[[int, int], None]) -> str:
        """Make what a set still lacks of its candidates; return the set's name.

        Raises:
            ClipSonicError: The plan or the model is at fault.
            Cancelled: `stop` was called for the visitor.
        """
        stop = self._stops[visitor] = threading.Event()

        def tell(done: int, total: int) -> None:
            if stop.is_set():
                raise Cancelled(f"stopped; {done} of {total} are made, press Generate again to go on")
            report(done, total)

        try:
            try:
                curation = Curation.create(self._folder / name, plan)
            except SettingsError as error:
                raise SettingsError(f"the set {name} was begun with another plan; choose another title") from error
            curation.generate(self._load(), tell)
        finally:
            self._stops.pop(visitor, None)
        return name

    def stop(self, visitor: str) -> None:
        """End the visitor's generation after the sounds it is at."""
        if visitor in self._stops:
            self._stops[visitor].set()

    def open(self, password: Any, name: Any, request: gr.Request) -> Curation:
        """Return a set that was begun.

        Raises:
            ClipSonicError: The password is wrong, or there is no such set.
        """
        self.check(password, request)
        if name not in self.names():
            raise DataError(
                f"there is no set {str(name)[:40]!r} here; allowed: {', '.join(self.names()) or 'none yet'}"
            )
        return Curation.open(self._folder / name)

    def check(self, password: Any, request: gr.Request) -> None:
        """Return if the password is right.

        Raises:
            ClipSonicError: It is not.
        """
        self._gate.check(password, address_of(request))


def make_plan(
    title: str,
    prompts: str,
    methods: list[str],
    seeds: int,
    candidates: int,
    gold: int,
    traps: int,
    pictures: Callable[[str], Sequence[str]] = lambda name: (),
) -> tuple[str, Plan]:
    """Return the folder's name and the plan that the form's values stand for.

    Args:
        title: Of the test; the folder is named after it.
        prompts: One a line.
        methods: To be compared.
        seeds: Sounds of each item and method.
        candidates: For each of those sounds.
        gold: Gold items.
        traps: Trapping items.
        pictures: Takes the folder's name and returns the paths of pictures, an item each.

    Raises:
        ClipSonicError: A value is outside what is allowed.
    """
    lines = [line.strip() for line in (prompts or "").splitlines() if line.strip()]
    title = (title or "").strip() or "Listening test"
    queries = [Query(prompt=check_prompt(line)) for line in dict.fromkeys(lines)]
    queries += [Query(picture=path) for path in pictures(slug(title))]
    if not queries:
        raise PromptError("there are no prompts and no pictures; write one a line, or drop some")
    plan = Plan(
        title=title,
        queries=tuple(queries),
        methods=tuple(methods),
        seeds=int(seeds),
        candidates=int(candidates),
        gold=int(gold),
        traps=int(traps),
        settings=GenerationSettings(),
    )
    return slug(title), plan
