"""The tab of results, behind the organiser's password: the table, the plots and the files of the analysis."""

from __future__ import annotations

import os
import secrets
import threading
import time
from pathlib import Path
from tempfile import mkdtemp
from typing import Any

import gradio as gr

from clipsonic.errors import ClipSonicError
from clipsonic.listening.analyze import analyze, read_ratings
from clipsonic.listening.report import to_markdown, write_report
from clipsonic.listening.server import Tests
from clipsonic.listening.sets import ListeningSet
from clipsonic.ui.handlers import in_page
from clipsonic.ui.take_test import refreshed

PASSWORD_VARIABLE = "CLIPSONIC_ORGANISER_PASSWORD"
ATTEMPTS, WITHIN_S = 5, 60.0


class Gate:
    """Lets in who knows the organiser's password; wrong guesses are counted for each address."""

    def __init__(self, password: str | None = None) -> None:
        """Take the password given, or the environment's, or make one up and print it."""
        self._password = password or os.environ.get(PASSWORD_VARIABLE) or self._made_up()
        self._wrong: dict[str, list[float]] = {}
        self._lock = threading.Lock()

    def check(self, password: Any, address: str = "") -> None:
        """Return if the password is right.

        Args:
            password: What was typed.
            address: Of whoever typed it, so that a stranger's guesses do not lock the organiser out.

        Raises:
            ClipSonicError: It is wrong, or too many wrong ones came from there within the last minute.
        """
        given = password if isinstance(password, str) else ""
        now = time.monotonic()
        with self._lock:
            recent = {who: [when for when in times if now - when < WITHIN_S] for who, times in self._wrong.items()}
            self._wrong = {who: times for who, times in recent.items() if times}
            wrong = self._wrong.setdefault(address, [])
            if len(wrong) >= ATTEMPTS:
                raise ClipSonicError(f"too many wrong passwords; wait {WITHIN_S:.0f} seconds and try again")
            if not secrets.compare_digest(given.encode(errors="replace"), self._password.encode()):
                wrong.append(now)
                raise ClipSonicError(f"this is not the organiser's password; it is in {PASSWORD_VARIABLE} or the log")

    @staticmethod
    def _made_up() -> str:
        password = secrets.token_urlsafe(12)
        print(f"Organiser's password of the listening tests: {password}", flush=True)
        return password


def add_results_tab(tests: Tests, gate: Gate) -> None:
    """Lay out the tab inside the current `gr.Blocks`; every request carries the password, none is kept."""
    names = tests.names()

    def show(name: str | None, password: str, request: gr.Request) -> tuple[str, list[str], list[str]]:
        try:
            gate.check(password, address_of(request))
            return analysis(tests, name or "")
        except ClipSonicError as error:
            raise in_page(error) from error

    with gr.Tab("Results", id="results") as tab:
        with gr.Row():
            which = gr.Dropdown(
                names, value=names[0] if names else None, label="Test", info="Whose answers to look at."
            )
            password = gr.Textbox(
                label="Organiser's password",
                info="It is sent with every request and kept nowhere.",
                type="password",
                max_length=200,
                elem_id="password",
            )
        go = gr.Button("Show the results", variant="primary", elem_id="show-results")
        report = gr.Markdown(elem_id="results-report")
        plots = gr.Gallery(label="Mean opinion scores", columns=2)
        files = gr.File(label="Tables and plots", file_count="multiple", interactive=False)
        for trigger in (go.click, password.submit):
            trigger(show, [which, password], [report, plots, files], api_visibility="private")
    tab.select(
        lambda chosen: refreshed(tests, chosen, alone=True),
        which,
        which,
        api_visibility="private",
        show_progress="hidden",
    )


def address_of(request: gr.Request) -> str:
    """Return the network address that a request came from."""
    return request.client.host if request.client else ""


def analysis(tests: Tests, name: str) -> tuple[str, list[str], list[str]]:
    """Analyse a test as it stands.

    Returns:
        The report in Markdown, the paths of the plots, and the paths of all files.

    Raises:
        ClipSonicError: There is no such test, or nobody has answered yet.
    """
    sounds = ListeningSet.load(tests.path(name))
    results = analyze(sounds, read_ratings(sounds))
    folder = Path(mkdtemp(prefix="clipsonic-results-"))  # Gradio copies what it serves
    write_report(folder, sounds, results)
    paths = sorted(str(path) for path in folder.iterdir())
    return to_markdown(sounds, results), [path for path in paths if path.endswith(".png")], paths
