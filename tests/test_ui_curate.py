"""The organiser's tab: a set is generated, judged by key, survives a reload, and is built into a test."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import pytest
from PIL import Image

from clipsonic.errors import ClipSonicError
from clipsonic.listening.curate import Curation
from clipsonic.listening.verify import verify
from clipsonic.methods import TEXT_METHODS
from clipsonic.pipeline import ClipSonicPipeline
from clipsonic.ui import build_ui, launch_options
from clipsonic.ui.candidates import choices, hear
from clipsonic.ui.curator import Curator, make_plan
from clipsonic.ui.results_tab import Gate
from clipsonic.ui.take_test import listening_route, open_tests

pytestmark = pytest.mark.timeout(400)
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
FLAGS = ("--headless", "--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-background-networking")
PASSWORD = "a password of its own"
FORM = ("A small test", "a dog\n\na cat\na dog", ["zs", "pd"], 1, 1, 1, 0)


def caller(address: str = "127.0.0.1") -> SimpleNamespace:
    """What Gradio tells of a request, as far as it is looked at."""
    return SimpleNamespace(client=SimpleNamespace(host=address), session_hash="visitor")


@pytest.fixture
def curator(tiny_pipeline: ClipSonicPipeline, tmp_path: Path) -> Curator:
    return Curator(tmp_path, Gate(PASSWORD), lambda: tiny_pipeline)


def test_the_form_becomes_a_plan():
    name, plan = make_plan(*FORM)
    assert name == "a-small-test" and plan.title == "A small test"
    assert [query.prompt for query in plan.queries] == ["a dog", "a cat"]
    assert set(plan.methods) <= set(TEXT_METHODS)
    mistakes = {
        "prompts": (" \n", "no prompts and no pictures"),
        "seeds": (0, "seeds is 0"),
        "methods": ([], "no system"),
    }
    for field, (value, told) in mistakes.items():
        values = dict(zip(("title", "prompts", "methods", "seeds", "candidates", "gold", "traps"), FORM, strict=True))
        with pytest.raises(ClipSonicError, match=told):
            make_plan(**{**values, field: value})
    assert "/" not in make_plan("../../etc", *FORM[1:])[0]


def test_pictures_outlast_their_upload(curator: Curator, tmp_path: Path):
    upload = tmp_path / "upload" / "A Dog!.PNG"
    upload.parent.mkdir()
    Image.new("RGB", (40, 30), (200, 90, 0)).save(upload)
    keep = partial(curator.keep_pictures, pictures=[str(upload)])
    name, plan = make_plan("Pictures", "", ["iq"], 1, 1, 0, 0, keep)
    upload.unlink()
    curator.generate(plan, name, "visitor", lambda done, total: None)
    assert [text for text, _ in choices(curator.open(PASSWORD, name, caller()))] == ["○  a-dog · IQ 1 · p001.iq.s0"]
    assert Path(plan.queries[0].picture).is_relative_to(tmp_path / name)
    with pytest.raises(ClipSonicError, match="begun with another plan; choose another title"):
        curator.generate(make_plan(*FORM)[1], name, "visitor", lambda done, total: None)
    with pytest.raises(ClipSonicError, match="picture"):
        curator.keep_pictures(name, [__file__])


def test_what_was_decided_is_there_for_the_next_one(curator: Curator):
    name, plan = make_plan(*FORM)
    steps: list[tuple[int, int]] = []
    curator.generate(plan, name, "visitor", lambda done, total: steps.append((done, total)))
    assert steps[-1] == (2, 2) and curator.names() == [name]
    curation = curator.open(PASSWORD, name, caller())
    lines = choices(curation)
    assert len(lines) == 4 and "a dog · PD 1" in lines[0][0]
    rate, sound = hear(curation, lines[0][1])
    assert rate == 22050 and sound.dtype == "int16" and sound.any()
    curation.decide(lines[3][1], "star")
    assert [key for _, key in choices(curation)] == [key for _, key in lines], "deciding moves nothing"
    assert "★" in {key: text for text, key in choices(curator.open(PASSWORD, name, caller()))}[lines[3][1]]
    with pytest.raises(ClipSonicError, match="no candidate"):
        hear(curation, "../../etc/passwd")


def test_strangers_are_kept_out_and_lock_nobody_else_out(curator: Curator):
    for _ in range(5):
        with pytest.raises(ClipSonicError, match="not the organiser's password"):
            curator.open("guess", "any", caller("10.0.0.9"))
    with pytest.raises(ClipSonicError, match="too many wrong passwords"):
        curator.open(PASSWORD, "any", caller("10.0.0.9"))
    with pytest.raises(ClipSonicError, match="there is no set 'any' here; allowed: none yet"):
        curator.open(PASSWORD, "any", caller())


def test_stop_ends_it_and_it_goes_on_later(curator: Curator):
    name, plan = make_plan(*FORM)
    with pytest.raises(ClipSonicError, match="stopped; 1 of 2 are made"):
        curator.generate(plan, name, "visitor", lambda done, total: curator.stop("visitor"))
    assert len(choices(curator.open(PASSWORD, name, caller()))) == 2
    curator.generate(plan, name, "visitor", lambda done, total: None)
    assert len(choices(curator.open(PASSWORD, name, caller()))) == 4


@pytest.fixture
def url(tiny_pipeline: ClipSonicPipeline, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """The app with its listening tabs, on random weights."""
    monkeypatch.setenv("CLIPSONIC_ORGANISER_PASSWORD", PASSWORD)
    page = build_ui(lambda: tiny_pipeline, listening_tests=tmp_path)
    routes = {"app_kwargs": {"routes": [listening_route(open_tests(tmp_path))]}}
    address = {"server_name": "127.0.0.1", "prevent_thread_lock": True, "quiet": True}
    yield page.launch(**address, **launch_options(), **routes)[1]
    page.close()


@pytest.mark.skipif(CHROMIUM is None and not os.environ.get("CI"), reason="no Chromium on this machine")
def test_an_organisers_way_in_a_browser(url: str, tmp_path: Path):
    sync_api = pytest.importorskip("playwright.sync_api")
    with sync_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=list(FLAGS))
        page = browser.new_page()
        page.set_default_timeout(180_000)

        def enter() -> None:
            with page.expect_request(lambda request: "/heartbeat/" in request.url):
                page.goto(url)
            page.get_by_role("tab", name="Curate").click()
            page.get_by_label("Organiser's password").first.fill(PASSWORD)

        enter()
        page.get_by_label("Title").fill("Zanzibar")
        page.get_by_label("Prompts").fill("church bells")
        page.locator("#curate-generate").click()
        sync_api.expect(page.locator("#curate-status")).to_contain_text("4 candidates", timeout=180_000)
        page.locator("#curate-status").click()
        page.keyboard.press("k")
        sync_api.expect(page.locator("#curate-status")).to_contain_text("kept")
        assert [one.decision for one in Curation.open(tmp_path / "zanzibar").candidates()].count("keep") == 1
        assert "zanzibar" not in page.request.get(url + "config").text(), "names of sets are the organiser's alone"
        enter()
        page.get_by_label("Organiser's password").first.fill("")
        page.get_by_label("Set", exact=True).click()
        sync_api.expect(page.locator("#curate-status")).to_contain_text("password comes first")
        assert not page.get_by_role("option", name="zanzibar").count()
        page.get_by_label("Organiser's password").first.fill(PASSWORD)
        page.get_by_label("Set", exact=True).click()
        page.get_by_role("option", name="zanzibar").click()
        sync_api.expect(page.locator("#curate-status")).to_contain_text("4 candidates")
        assert "✓ kept" in page.get_by_label("Candidate", exact=True).first.input_value()
        page.locator("#curate-build").click()
        sync_api.expect(page.locator("#curate-status")).to_contain_text("is built")
        page.get_by_role("tab", name="Take the test").click()
        page.locator('iframe[src="listening/zanzibar/"]').wait_for()
        browser.close()
    assert verify(tmp_path / "zanzibar") == []
