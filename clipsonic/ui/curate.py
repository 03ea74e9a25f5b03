"""The tab in which an organiser curates a sample set: bulk generation, decisions by button or key, and the build."""

from __future__ import annotations

import shutil
import threading
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import gradio as gr
import numpy as np

from clipsonic.audio import read_audio, to_int16
from clipsonic.config import IMAGE_METHODS, TEXT_METHODS, GenerationSettings
from clipsonic.errors import Cancelled, ClipSonicError, DataError, PromptError, SettingsError
from clipsonic.listening.build import build
from clipsonic.listening.curate import DATABASE, Candidate, Curation
from clipsonic.listening.plan import Plan, Query
from clipsonic.listening.sets import CURATION
from clipsonic.media import open_picture
from clipsonic.pipeline import check_prompt
from clipsonic.storage import slug, write_whole
from clipsonic.ui.handlers import in_page, visitor_of
from clipsonic.ui.results_tab import Gate, address_of

if TYPE_CHECKING:
    from clipsonic.pipeline import ClipSonicPipeline

MARKS = {"": "○", "keep": "✓ kept", "reject": "✗ rejected", "star": "★ starred"}
KEYS = {"k": "keep", "r": "reject", "s": "star", "u": "undo", "j": "next", "p": "previous"}
HINT = (
    "Keys, while no field has the focus: **k** keep, **r** reject, **s** star, **u** undo, **j** next, **p** previous."
)
BUSY: dict[str, Any] = {"concurrency_id": "generation", "concurrency_limit": 1, "api_visibility": "private"}
QUIET: dict[str, Any] = {"api_visibility": "private", "show_progress": "hidden"}
LISTEN_TO_KEYS = """() => document.addEventListener("keydown", event => {
  if (event.target.closest("input, textarea, select, [contenteditable]") || event.ctrlKey || event.metaKey) return;
  const names = %s;
  const button = document.getElementById("curate-" + names[event.key]);
  if (button && button.offsetParent) { event.preventDefault(); button.click(); }
})""" % str(KEYS)  # noqa: UP031 the script is full of braces


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


def choices(curation: Curation) -> list[tuple[str, str]]:
    """Return a line for each candidate, with its decision, and its id, in an order that decisions do not change."""
    asked = {
        item: query.prompt or Path(query.picture).stem
        for item, query in zip(curation.plan.item_ids(), curation.plan.queries, strict=True)
    }
    candidates = sorted(curation.candidates(), key=lambda one: (one.item, one.system, one.slot, one.seed or 0, one.id))
    return [(_line(one, asked[one.item]), one.id) for one in candidates]


def hear(curation: Curation, candidate: str) -> tuple[int, np.ndarray]:
    """Return the sample rate and a candidate's sound, int16, shape (samples,).

    Raises:
        DataError: There is no such candidate.
    """
    found = [one for one in curation.candidates() if one.id == candidate]
    if not found:
        raise DataError(f"there is no candidate {str(candidate)[:40]!r} in this set; choose one of the list")
    waveform, rate = read_audio(curation.path(found[0]))
    return rate, to_int16(waveform)


def _line(one: Candidate, prompt: str) -> str:
    score = "" if one.score is None else f" · Clip-Score {one.score:.2f}"
    return f"{MARKS[one.decision]}  {prompt or one.item} · {one.system.upper()} {one.slot + 1} · {one.id}{score}"


def add_curate_tab(folder: Path, gate: Gate, load: Callable[[], ClipSonicPipeline], page: gr.Blocks) -> None:
    """Lay out the tab inside the current `gr.Blocks`, which is `page`."""
    curator = Curator(folder, gate, load)
    with gr.Tab("Curate", id="curate"):
        with gr.Row():
            password = gr.Textbox(
                label="Organiser's password",
                info="Enter shows the sets. It is sent with every request and kept nowhere.",
                type="password",
            )
            which = gr.Dropdown([], label="Set", info="Sets that were begun here.")
        with gr.Accordion("Begin a set, or go on with one", open=True):
            title = gr.Textbox(label="Title", info="Listeners see it; the folder is named after it.", max_length=60)
            prompts = gr.Textbox(label="Prompts", info="One a line.", lines=4)
            pictures = gr.File(label="Pictures", file_count="multiple", file_types=["image"], height=120)
            methods = gr.CheckboxGroup(
                [*TEXT_METHODS, *IMAGE_METHODS],
                value=["zs", "pd"],
                label="Methods",
                info="To be compared: iq renders the pictures, the others the prompts.",
            )
            with gr.Row():
                seeds = gr.Slider(1, 5, 1, step=1, label="Sounds", info="Of each prompt and method in the test.")
                many = gr.Slider(1, 8, 2, step=1, label="Candidates", info="To choose each of those sounds from.")
                gold = gr.Slider(0, 5, 1, step=1, label="Gold items", info="Noise that an attentive ear rates low.")
                traps = gr.Slider(0, 5, 1, step=1, label="Trapping items", info="Beeps to be counted.")
            with gr.Row():
                go = gr.Button("Generate", variant="primary", elem_id="curate-generate")
                stop = gr.Button("Stop", elem_id="curate-stop")
        status = gr.Markdown(elem_id="curate-status")
        candidate = gr.Dropdown([], label="Candidate", info="By prompt, method and seed.")
        player = gr.Audio(label="Candidate", type="numpy", interactive=False, buttons=[])
        with gr.Row():
            buttons = {name: gr.Button(name.capitalize(), elem_id=f"curate-{name}") for name in KEYS.values()}
        gr.Markdown(HINT)
        finish = gr.Button("Build the set", variant="primary", elem_id="curate-build")
    _connect(
        curator,
        {"password": password, "which": which, "candidate": candidate, "player": player, "status": status},
        buttons,
    )
    form = [password, title, prompts, methods, seeds, many, gold, traps, pictures]
    go.click(_generating(curator), form, [which, status], **BUSY).success(
        _opening(curator), [password, which], [candidate, status], **QUIET
    )
    stop.click(_stopping(curator), None, None, queue=False, **QUIET)
    finish.click(_building(curator), [password, which], status, **BUSY)
    page.unload(_stopping(curator))
    page.load(None, None, None, js=LISTEN_TO_KEYS)


def _connect(curator: Curator, made: dict[str, Any], buttons: dict[str, gr.Button]) -> None:
    """Connect the choosing of sets and candidates, and the decisions."""
    password, which, candidate = made["password"], made["which"], made["candidate"]
    opened = [made["candidate"], made["status"]]
    gr.on([password.submit, which.focus], _naming(curator), password, [which, made["status"]], **QUIET)
    which.input(_opening(curator), [password, which], opened, **QUIET)
    candidate.change(_hearing(curator), [password, which, candidate], made["player"], **QUIET)
    for name, button in buttons.items():
        button.click(_deciding(curator, name), [password, which, candidate], opened, **QUIET)


def _generating(curator: Curator) -> Callable[..., Any]:
    def generate(
        password: str,
        title: str,
        prompts: str,
        methods: list[str],
        seeds: int,
        candidates: int,
        gold: int,
        traps: int,
        pictures: list[str] | None,
        request: gr.Request,
        progress: gr.Progress = gr.Progress(),  # noqa: B008 how Gradio passes it
    ) -> tuple[Any, str]:
        try:
            curator.check(password, request)
            keep = partial(curator.keep_pictures, pictures=pictures or [])
            name, plan = make_plan(title, prompts, methods, seeds, candidates, gold, traps, keep)
            curator.generate(plan, name, visitor_of(request), lambda done, total: progress((done, total), unit="cells"))
        except Cancelled as told:
            return gr.update(choices=curator.names()), str(told)
        except ClipSonicError as error:
            raise in_page(error) from error
        return gr.update(choices=curator.names(), value=name), f"All candidates of {name} are made."

    return generate


def _stopping(curator: Curator) -> Callable[..., Any]:
    def stop(request: gr.Request) -> None:
        curator.stop(visitor_of(request))

    return stop


def _naming(curator: Curator) -> Callable[..., Any]:
    """Return what fills the list of sets, whose names are the organiser's alone."""

    def name(password: str, request: gr.Request) -> tuple[Any, str]:
        if not password:
            return gr.update(), "The organiser's password comes first."
        try:
            curator.check(password, request)
        except ClipSonicError as error:
            raise in_page(error) from error
        names = curator.names()
        return gr.update(choices=names), f"Choose one of {len(names)} sets, or begin one." if names else "No set yet."

    return name


def _opening(curator: Curator) -> Callable[..., Any]:
    def show(password: str, name: str | None, request: gr.Request) -> tuple[Any, str]:
        if not name:
            return gr.update(choices=[], value=None), ""
        try:
            lines = choices(curator.open(password, name, request))
        except ClipSonicError as error:
            raise in_page(error) from error
        return gr.update(choices=lines, value=lines[0][1] if lines else None), f"{len(lines)} candidates."

    return show


def _hearing(curator: Curator) -> Callable[..., Any]:
    def play(
        password: str, name: str | None, candidate: str | None, request: gr.Request
    ) -> tuple[int, np.ndarray] | None:
        if not (name and candidate):
            return None
        try:
            return hear(curator.open(password, name, request), candidate)
        except ClipSonicError as error:
            raise in_page(error) from error

    return play


def _deciding(curator: Curator, name: str) -> Callable[..., Any]:
    """Return what a button does: write a decision, or go to the next or previous candidate."""

    def decide(password: str, which: str | None, candidate: str | None, request: gr.Request) -> tuple[Any, str]:
        try:
            curation = curator.open(password, which, request)
            order = [key for _, key in choices(curation)]
            if candidate not in order:
                raise DataError("no candidate is chosen; choose one of the list")
            place = order.index(candidate)
            if name in ("next", "previous"):
                step = 1 if name == "next" else -1
                return gr.update(value=order[(place + step) % len(order)]), ""
            curation.decide(candidate, "" if name == "undo" else name)
            return gr.update(choices=choices(curation), value=candidate), f"{candidate}: {MARKS[_said(name)]}"
        except ClipSonicError as error:
            raise in_page(error) from error

    return decide


def _said(name: str) -> str:
    return "" if name == "undo" else name


def _building(curator: Curator) -> Callable[..., Any]:
    def finish(password: str, name: str | None, request: gr.Request) -> str:
        try:
            made = build(curator.open(password, name, request))
        except ClipSonicError as error:
            raise in_page(error) from error
        return f"{name} is built: {len(made.manifest.stimuli)} sounds. It can be taken in the tab *Take the test*."

    return finish
