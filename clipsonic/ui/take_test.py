"""The tab in which a listening test is taken: the same page that `--listening-test` serves alone."""

from __future__ import annotations

from html import escape
from pathlib import Path
from typing import Any

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
    quiet: dict[str, Any] = {"api_visibility": "private", "show_progress": "hidden"}
    with gr.Tab("Take the test", id="listening-test") as tab:
        names = tests.names()
        which = gr.Dropdown(
            names,
            value=names[0] if names else None,
            label="Test",
            info="The tests that run here.",
            visible=len(names) > 1,
        )
        frame = gr.HTML(_frame(which.value))
        which.change(_frame, which, frame, **quiet)
    tab.select(lambda chosen: refreshed(tests, chosen), which, which, **quiet)


def refreshed(tests: Tests, chosen: str | None, alone: bool = False) -> Any:
    """Return the list of tests as it stands now, with the same one chosen; shown only if there is a choice."""
    names = tests.names()
    value = chosen if chosen in names else next(iter(names), None)
    return gr.update(choices=names, value=value, visible=alone or len(names) > 1)


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
