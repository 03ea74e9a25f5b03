"""A set's candidates in the organiser's tab: listed, heard, and decided on by button or key."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import gradio as gr
import numpy as np

from clipsonic.audio import read_audio, to_int16
from clipsonic.errors import ClipSonicError, DataError
from clipsonic.listening.curate import Candidate, Curation
from clipsonic.ui.curator import Curator
from clipsonic.ui.handlers import in_page

MARKS = {"": "○", "keep": "✓ kept", "reject": "✗ rejected", "star": "★ starred"}
KEYS = {"k": "keep", "r": "reject", "s": "star", "u": "undo", "j": "next", "p": "previous"}
STEPS = {"next": 1, "previous": -1}
HINT = (
    "Keys, while no field has the focus: **k** keep, **r** reject, **s** star, **u** undo, **j** next, **p** previous."
)
QUIET: dict[str, Any] = {"api_visibility": "private", "show_progress": "hidden"}
LISTEN_TO_KEYS = """() => document.addEventListener("keydown", event => {
  if (event.target.closest("input, textarea, select, [contenteditable]") || event.ctrlKey || event.metaKey) return;
  const names = %s;
  const button = document.getElementById("curate-" + names[event.key]);
  if (button && button.offsetParent) { event.preventDefault(); button.click(); }
})""" % str(KEYS)  # noqa: UP031 the script is full of braces


def add_candidates(curator: Curator, password: gr.Textbox, which: gr.Dropdown, status: gr.Markdown) -> gr.Dropdown:
    """Lay out the candidates inside the current `gr.Blocks`; they change with the set that is chosen.

    Args:
        curator: Opens the sets.
        password: Where the organiser's password is typed.
        which: Where the set is chosen.
        status: Says what was done.

    Returns:
        The list of candidates.
    """
    candidate = gr.Dropdown([], label="Candidate", info="By prompt, method and seed.")
    player = gr.Audio(label="Candidate", type="numpy", interactive=False, buttons=[])
    with gr.Row():
        buttons = {name: gr.Button(name.capitalize(), elem_id=f"curate-{name}") for name in KEYS.values()}
    gr.Markdown(HINT)
    which.input(opening(curator), [password, which], [candidate, status], **QUIET)
    candidate.change(_hearing(curator), [password, which, candidate], player, **QUIET)
    for name, button in buttons.items():
        button.click(_deciding(curator, name), [password, which, candidate], [candidate, status], **QUIET)
    return candidate


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


def opening(curator: Curator) -> Callable[..., Any]:
    """Return what fills the list of candidates: it takes the password and the set, and tells how many there are."""

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
            if name in STEPS:
                return gr.update(value=order[(order.index(candidate) + STEPS[name]) % len(order)]), ""
            decision = "" if name == "undo" else name
            curation.decide(candidate, decision)
            return gr.update(choices=choices(curation), value=candidate), f"{candidate}: {MARKS[decision]}"
        except ClipSonicError as error:
            raise in_page(error) from error

    return decide
