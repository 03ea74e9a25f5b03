"""The tab in which a listening test is taken: the same page that `--listening-test` serves alone."""

from __future__ import annotations

from html import escape
from pathlib import Path

import gradio as gr
from starlette.routing import Mount

from clipsonic.listening.server import Tests, create_app

MOUNTED_AT = "/listening"
EMPTY = "No test is running here. Curate a set, or put one into the folder of the tests."


def add_take_test_tab(tests: Tests) -> None:
    """Lay out the tab inside the current `gr.Blocks`.

    Args:
        tests: The tests that may be taken; the launch must be given `listening_route(tests)` too.
    """
    with gr.Tab("Take the test"):
        names = tests.names()
        which = gr.Dropdown(names, value=names[0] if names else None, label="Test", visible=len(names) > 1)
        frame = gr.HTML(_frame(which.value))
        which.change(_frame, which, frame, api_visibility="private", show_progress="hidden")


def listening_route(tests: Tests) -> Mount:
    """Return where the tests are served; `launch(app_kwargs={"routes": [...]})` takes it."""
    return Mount(MOUNTED_AT, app=create_app(tests))


def open_tests(folder: Path) -> Tests:
    """Return the tests in a folder of sets."""
    return Tests(folder)


def _frame(name: str | None) -> str:
    if not name:
        return f"<p>{EMPTY}</p>"
    address = escape(f"{MOUNTED_AT.lstrip('/')}/{name}/")
    return (
        f'<iframe src="{address}" title="Listening test" allow="autoplay" '
        'style="width: 100%; height: 85vh; border: 0"></iframe>'
        f'<p><a href="{address}" target="_blank">Open the test in a page of its own</a></p>'
    )
