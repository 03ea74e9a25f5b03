"""The tabs of the listening tests: the organiser's gate, the results, the test inside the app."""

from __future__ import annotations

from pathlib import Path

import gradio as gr
import httpx
import pytest
from listening_sets import build_set

from clipsonic.errors import ClipSonicError
from clipsonic.listening.server import Tests
from clipsonic.listening.sessions import RunningTest
from clipsonic.ui.results_tab import ATTEMPTS, Gate, add_results_tab, analysis
from clipsonic.ui.take_test import add_take_test_tab, listening_route


def test_the_gate_counts_wrong_passwords() -> None:
    gate = Gate("right")
    gate.check("right")
    for wrong in ("", None, "Right", "rïght", "x" * 1000)[:ATTEMPTS]:
        with pytest.raises(ClipSonicError, match="not the organiser's password"):
            gate.check(wrong)
    with pytest.raises(ClipSonicError, match="too many wrong passwords"):
        gate.check("right")


def test_results_of_a_running_test(tmp_path: Path) -> None:
    build_set(tmp_path / "tones")
    test = RunningTest(tmp_path / "tones")
    with pytest.raises(ClipSonicError, match="no ratings yet"):
        analysis(Tests(tmp_path), "tones")
    for number in range(3):
        listener = test.listener(test.join(True))
        for place, page in enumerate(test.store.pages(listener)):
            low, high = page.expected.get("fidelity", (1, 5))
            for scale in page.scales:
                given = {"sound": page.sounds[0].token, "scale": scale, "plays": 1}
                test.answer(listener, given | {"rating": min(max(low, 1 + (number + place) % 5), high)})
    report, plots, files = analysis(Tests(tmp_path), "tones")
    assert "zs" in report and len(plots) == 2 and any(name.endswith("mos.csv") for name in files)
    with pytest.raises(ClipSonicError, match="no test of this name"):
        analysis(Tests(tmp_path), "../tones")


def test_the_app_serves_the_tests_too(tmp_path: Path) -> None:
    build_set(tmp_path / "tones")
    tests = Tests(tmp_path)
    with gr.Blocks(analytics_enabled=False) as page:
        add_take_test_tab(tests)
        add_results_tab(tests, Gate("right"))
    routes = {"routes": [listening_route(tests)]}
    _, url, _ = page.launch(server_name="127.0.0.1", prevent_thread_lock=True, quiet=True, app_kwargs=routes)
    try:
        assert "web/test.js" in httpx.get(f"{url}listening/tones/", timeout=60).text
        assert httpx.get(f"{url}listening/tones/api/test", timeout=60).json()["title"] == "A test of tones"
        assert 'src="listening/tones/"' in httpx.get(f"{url}config", timeout=60).json()["components"].__repr__()
    finally:
        page.close()
