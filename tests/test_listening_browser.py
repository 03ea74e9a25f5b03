"""A listener's way through a test in a real browser: by mouse, by keyboard, after a reload, on a phone, offline."""

from __future__ import annotations

import json
import os
import re
import shutil
import socket
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import uvicorn
from app_server import ROOT
from listening_sets import build_set

from clipsonic.listening.server import Tests, create_app
from clipsonic.listening.sounds import headphone_trials
from clipsonic.listening.store import Store

sync_api = pytest.importorskip("playwright.sync_api")
axe = pytest.importorskip("axe_playwright_python.sync_playwright")
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
if CHROMIUM is None and not os.environ.get("CI"):
    pytest.skip("no Chromium on this machine; install it (Debian: apt-get install chromium)", allow_module_level=True)

pytestmark = pytest.mark.timeout(300)
ARTIFACTS = Path(os.environ.get("CLIPSONIC_ARTIFACTS", ROOT / "artifacts"))
FLAGS = ("--headless", "--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-background-networking")
PATIENCE_MS = 120_000
PHONE = {"width": 390, "height": 844}
DESIGNS = {
    "plain": {"training": 1, "gold": 0, "traps": 1, "check_trials": 1, "check_passes": 1, "check_tone_s": 0.1},
    "short": {"training": 0, "gold": 0, "traps": 0, "headphones": "off", "items_per_listener": 2},
    "pairs": {"design": "preference", "training": 0, "gold": 0, "traps": 0, "headphones": "asked", "check_tone_s": 0.1},
    "mushra": {"design": "mushra", "training": 0, "gold": 0, "traps": 0, "headphones": "off", "items_per_listener": 1},
}


@pytest.fixture(scope="module")
def sets(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with one set for each design, of sounds of 0.3 s."""
    folder = tmp_path_factory.mktemp("sets")
    for name, design in DESIGNS.items():
        build_set(folder / name, prompts=("a dog <b>barking</b>",), seconds=0.3, reference=name == "mushra")
        (folder / name / "test.json").write_text(json.dumps(design))
    return folder


@pytest.fixture(scope="module")
def url(sets: Path) -> Iterator[str]:
    """Where the tests are served."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    server = uvicorn.Server(uvicorn.Config(create_app(Tests(sets)), host="127.0.0.1", port=port, log_level="warning"))
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    deadline = time.monotonic() + 60
    while not server.started and time.monotonic() < deadline:
        time.sleep(0.05)
    yield f"http://127.0.0.1:{port}/"
    server.should_exit = True
    thread.join(20)


@pytest.fixture(scope="module")
def chromium() -> Iterator[sync_api.Browser]:
    with sync_api.sync_playwright() as playwright:
        running = playwright.chromium.launch(executable_path=CHROMIUM, args=list(FLAGS))
        yield running
        running.close()


@pytest.fixture
def visit(chromium: sync_api.Browser) -> Iterator[Callable[..., sync_api.Page]]:
    """Open a page as a new listener; complains at the end if a script failed or looked elsewhere."""
    pages: list[sync_api.Page] = []
    wrong: list[str] = []

    def open_page(address: str, **options: object) -> sync_api.Page:
        page = chromium.new_context(**options).new_page()
        page.set_default_timeout(PATIENCE_MS)
        page.on("pageerror", lambda error: wrong.append(str(error)))
        page.on("request", lambda request: wrong.append(request.url))
        page.goto(address)
        pages.append(page)
        return page

    yield open_page
    for page in pages:
        page.context.close()
    assert not [what for what in wrong if not re.match(r"(http://127\.0\.0\.1:|blob:|data:)", what)]


def heading(page: sync_api.Page, text: str) -> None:
    page.get_by_role("heading", level=2, name=text).wait_for()


def press(page: sync_api.Page, name: str) -> None:
    page.get_by_role("button", name=name, exact=True).click()


def consent(page: sync_api.Page) -> None:
    heading(page, "Before we begin")
    assert page.get_by_role("button", name="Begin").is_disabled()
    page.get_by_role("checkbox").check()
    press(page, "Begin")
    heading(page, "Set the volume")


def check_headphones(page: sync_api.Page, folder: Path) -> None:
    """Answer the check as one with headphones does."""
    key = page.evaluate("Object.entries(localStorage).find(([k]) => !k.endsWith('/waiting'))[1]")
    secret = Store(folder / "answers.sqlite").fact("secret", "")
    ((kinds),) = headphone_trials(f"{secret}/{key.split('.')[0]}/0", 1)
    heading(page, "Headphone check, 1 of 1")
    assert page.get_by_role("radio").first.is_disabled()
    press(page, "Play the three tones")
    sync_api.expect(page.get_by_role("radio").first).to_be_enabled(timeout=PATIENCE_MS)
    page.get_by_role("radio").nth(kinds.index(1)).check()
    press(page, "Next")


def rate(page: sync_api.Page, ratings: tuple[int, int]) -> None:
    """Rate the sound of the page by mouse."""
    radios = page.get_by_role("radio")
    assert radios.first.is_disabled(), "nothing can be rated before it is heard"
    press(page, "Play the sound")
    sync_api.expect(radios.first).to_be_enabled(timeout=PATIENCE_MS)
    next_ = page.get_by_role("button", name="Next")
    assert next_.is_disabled()
    for group, rating in zip(page.get_by_role("group", name="sound").all()[-2:], ratings, strict=True):
        group.get_by_role("radio").nth(rating - 1).check()
    next_.click()


def no_barriers(page: sync_api.Page) -> None:
    found = axe.Axe().run(page)
    assert found.violations_count == 0, found.generate_report()


def answers(folder: Path) -> list[int]:
    rows = Store(folder / "answers.sqlite").table("SELECT rating FROM answers ORDER BY sound, scale")
    return [row["rating"] for row in rows]


def test_the_whole_way_with_a_reload_in_the_middle(url: str, sets: Path, visit: Callable[..., sync_api.Page]) -> None:
    page = visit(f"{url}plain/")
    consent(page)
    no_barriers(page)
    press(page, "The volume is right")
    check_headphones(page, sets / "plain")
    heading(page, "First, some practice")
    press(page, "Start")
    heading(page, "Practice")
    assert page.get_by_role("blockquote").inner_text() == "a dog <b>barking</b>"
    no_barriers(page)
    rate(page, (3, 4))
    heading(page, "Now it counts")
    press(page, "Go on")
    heading(page, "Listen and rate")
    rate(page, (1, 5))
    page.get_by_text("Page 3 of 4").wait_for()
    page.reload()
    page.get_by_text("Page 3 of 4").wait_for()
    press(page, "Back")
    assert [r.get_attribute("value") for r in page.get_by_role("radio").all() if r.is_checked()] == ["1", "5"]
    page.get_by_role("radio").nth(1).check()
    press(page, "Next")
    rate(page, (2, 2))
    page.get_by_text("Page 4 of 4").wait_for()
    rate(page, (4, 4))
    heading(page, "Almost done")
    no_barriers(page)
    page.get_by_label("Anything you would like to tell us").fill("=HYPERLINK(1) <script>")
    press(page, "Finish")
    heading(page, "Thank you")
    assert re.fullmatch(r"[0-9A-F]{8}", page.locator("#code").inner_text())
    assert answers(sets / "plain") == [3, 4, 2, 5, 2, 2, 4, 4]


def test_by_keyboard_alone(url: str, sets: Path, visit: Callable[..., sync_api.Page]) -> None:
    page = visit(f"{url}short/")
    heading(page, "Before we begin")
    for key in ("Tab", "Space", "Tab", "Enter"):
        page.keyboard.press(key)
    heading(page, "Set the volume")
    for key in ("Tab", "Tab", "Enter"):
        page.keyboard.press(key)
    for place in (1, 2):
        page.get_by_text(f"Page {place} of 2").wait_for()
        page.keyboard.press("4")
        assert not page.locator("input:checked").count(), "not heard yet"
        page.keyboard.press("Space")
        sync_api.expect(page.get_by_role("radio").first).to_be_enabled(timeout=PATIENCE_MS)
        for key in ("4", "2", "Enter"):
            page.keyboard.press(key)
    heading(page, "Almost done")
    for key in ("Tab", "Tab", "Tab", "Tab", "Enter"):
        page.keyboard.press(key)
    heading(page, "Thank you")
    assert answers(sets / "short") == [4, 2, 4, 2]


def test_a_phone_that_loses_the_network(url: str, sets: Path, visit: Callable[..., sync_api.Page]) -> None:
    before = len(answers(sets / "short"))
    page = visit(f"{url}short/", viewport=PHONE, has_touch=True, is_mobile=True)
    consent(page)
    press(page, "The volume is right")
    heading(page, "Listen and rate")
    page.get_by_role("button", name="Play the sound").tap()
    sync_api.expect(page.get_by_role("radio").first).to_be_enabled(timeout=PATIENCE_MS)
    page.wait_for_load_state("networkidle")
    page.context.set_offline(True)
    page.locator("label", has_text="Good").first.tap()
    page.get_by_role("status").filter(has_text="No connection").wait_for()
    page.locator("label", has_text="Poor").last.tap()
    ARTIFACTS.mkdir(parents=True, exist_ok=True)
    page.screenshot(path=ARTIFACTS / "listening-phone.png", full_page=True)
    assert page.evaluate("document.documentElement.scrollWidth") <= PHONE["width"]
    press(page, "Next")
    page.get_by_text("Page 2 of 2").wait_for()
    assert len(answers(sets / "short")) == before
    page.context.set_offline(False)
    page.get_by_role("status").filter(has_text=re.compile("Saved|Nothing was lost")).wait_for()
    deadline = time.monotonic() + 60
    while len(answers(sets / "short")) < before + 2 and time.monotonic() < deadline:
        time.sleep(0.2)
    assert answers(sets / "short")[before:] == [4, 2]


def test_pairs(url: str, sets: Path, visit: Callable[..., sync_api.Page]) -> None:
    page = visit(f"{url}pairs/")
    consent(page)
    press(page, "The volume is right")
    press(page, "I have no headphones")
    heading(page, "Listen and rate")
    press(page, "Play A")
    page.get_by_role("button", name="Play A").wait_for()
    sync_api.expect(page.locator(".playing")).to_have_count(0, timeout=PATIENCE_MS)
    assert page.get_by_role("radio").first.is_disabled(), "B was not heard yet"
    press(page, "Play B")
    sync_api.expect(page.get_by_role("radio").first).to_be_enabled(timeout=PATIENCE_MS)
    no_barriers(page)
    page.keyboard.press("2")
    page.keyboard.press("0")
    press(page, "Next")
    heading(page, "Almost done")
    assert answers(sets / "pairs") == [2, 0]


def test_mushra(url: str, sets: Path, visit: Callable[..., sync_api.Page]) -> None:
    page = visit(f"{url}mushra/")
    consent(page)
    press(page, "The volume is right")
    heading(page, "Listen and rate")
    for name in ("Reference", "A", "B", "C", "D"):
        press(page, f"Play {name}")
        page.get_by_role("button", name=f"Stop {name}", exact=True).wait_for()
        page.get_by_role("button", name=f"Play {name}", exact=True).wait_for()
    sync_api.expect(page.get_by_role("slider").first).to_be_enabled(timeout=PATIENCE_MS)
    no_barriers(page)
    for place, slider in enumerate(page.get_by_role("slider").all()):
        slider.fill(str(20 * place + 10))
    page.screenshot(path=ARTIFACTS / "listening-mushra.png", full_page=True)
    press(page, "Next")
    page.get_by_text("Page 2 of 2").wait_for()
    assert answers(sets / "mushra") == [10, 30, 50, 70]
