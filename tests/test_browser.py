"""The app in a real browser: type, press, wait, hear."""

from __future__ import annotations

import os
import re
import shutil
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from app_server import ROOT, Server, serve_app
from fake_pipeline import FakePipeline
from videos import make_video

from clipsonic.audio import read_audio, read_tags
from clipsonic.ui import build_ui, launch_options

sync_api = pytest.importorskip("playwright.sync_api")
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
if CHROMIUM is None and not os.environ.get("CI"):
    pytest.skip("no Chromium on this machine; install it (Debian: apt-get install chromium)", allow_module_level=True)

ARTIFACTS = Path(os.environ.get("CLIPSONIC_ARTIFACTS", ROOT / "artifacts"))
MINI = ROOT / "checkpoints" / "mini"
FLAGS = (
    "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-sync",
    "--disable-background-networking", "--disable-component-update",
)  # fmt: skip
PATIENCE_S = 300
DESKTOP, PHONE = {"width": 1280, "height": 900}, {"width": 390, "height": 844}


@pytest.fixture(scope="module")
def chromium() -> Iterator[sync_api.Browser]:
    with sync_api.sync_playwright() as playwright:
        running = playwright.chromium.launch(executable_path=CHROMIUM, args=list(FLAGS))
        yield running
        running.close()


@pytest.fixture(scope="module")
def server(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """The app on the model of the repository, or on random weights before there is one."""
    model = MINI if (MINI / "model_index.json").is_file() else tiny_model
    with serve_app(model, tmp_path_factory.mktemp("browser") / "log.txt") as running:
        yield running


@pytest.fixture(scope="module")
def slow() -> Iterator[tuple[FakePipeline, str]]:
    """A page around a pretended pipeline that takes its time, and its address."""
    pipeline = FakePipeline(seconds_a_step=0.15)
    page = build_ui(lambda: pipeline, ROOT / "examples")
    _, url, _ = page.launch(server_name="127.0.0.1", prevent_thread_lock=True, quiet=True, **launch_options())
    yield pipeline, url
    page.close()


@pytest.fixture
def visit(chromium: sync_api.Browser) -> Iterator[Callable[..., sync_api.Page]]:
    """Open a page as a new visitor would; complains at the end if the page did or looked for anything else."""
    pages: list[sync_api.Page] = []
    elsewhere: list[str] = []

    def open_page(url: str, viewport: dict[str, int] = DESKTOP, theme: str = "light") -> sync_api.Page:
        context = chromium.new_context(viewport=viewport, accept_downloads=True)
        page = context.new_page()
        page.set_default_timeout(PATIENCE_S * 1000)
        page.on("request", lambda request: elsewhere.append(request.url))
        page.on("pageerror", lambda error: elsewhere.append(str(error)))
        with page.expect_request(lambda request: "/heartbeat/" in request.url):  # sent once the page listens
            page.goto(f"{url}?__theme={theme}")
        pages.append(page)
        return page

    yield open_page
    for page in pages:
        page.context.close()
    assert not [what for what in elsewhere if not re.match(r"(http://127\.0\.0\.1:|blob:|data:)", what)]


def generate(page: sync_api.Page, prompt: str) -> None:
    page.locator("#prompt input, #prompt textarea").fill(prompt)
    page.locator("#prompt-generate").click()


def wait_for_status(page: sync_api.Page, words: str) -> None:
    page.locator(".status:visible", has_text=words).first.wait_for()


def card(page: sync_api.Page, key: str) -> sync_api.Locator:
    """A sound on the page, such as "zs-1"."""
    return page.locator(f".card[data-key={key}]:visible")


def download(page: sync_api.Page, key: str, suffix: str = "wav") -> Path:
    """Press a sound's button for a format and return the file under the name it was given."""
    with page.expect_download() as caught:
        card(page, key).get_by_role("button", name=f"as {suffix}").click()
    path = Path(caught.value.path())
    return path.rename(path.with_name(caught.value.suggested_filename))


def seconds_shown(page: sync_api.Page, key: str) -> float:
    """The length that the player itself has found in the file."""
    page.wait_for_function(f"document.querySelector('.card[data-key={key}] audio').duration > 0")
    minutes, seconds = card(page, key).locator(".time").inner_text().split(" / ")[1].split(":")
    return 60 * int(minutes) + float(seconds)


def playing(page: sync_api.Page) -> list[str]:
    """The sounds that play."""
    return page.evaluate(
        "[...document.querySelectorAll('.card')].filter(c => !c.querySelector('audio').paused).map(c => c.dataset.key)"
    )


def at(page: sync_api.Page, key: str) -> float:
    """Where a sound stands, in seconds."""
    return page.evaluate(f"document.querySelector('.card[data-key={key}] audio').currentTime")


def screenshot(page: sync_api.Page, name: str) -> None:
    ARTIFACTS.mkdir(parents=True, exist_ok=True)
    page.screenshot(path=ARTIFACTS / f"{name}.png", full_page=True)


def test_type_press_wait_hear(server: Server, visit: Callable[..., sync_api.Page]) -> None:
    page = visit(server.url)
    generate(page, "a dog barking")
    wait_for_status(page, "Done in")
    seed = page.get_by_label("Seed").first.input_value()
    for method in ("zs", "pd", "mp"):
        path = download(page, f"{method}-1")
        waveform, rate = read_audio(path)
        assert path.name == f"a-dog-barking_{method}_s{seed}.wav"
        assert read_tags(path)["prompt"] == "a dog barking" and read_tags(path)["method"] == method
        assert abs(len(waveform) / rate - seconds_shown(page, f"{method}-1")) < 0.1
        assert card(page, f"{method}-1").locator("img").evaluate("image => image.naturalHeight") == 80
    assert not playing(page), "no sound without a click"
    screenshot(page, "text-light")
    page.locator("h1").first.click()
    for key, method in (("c", "mp"), ("b", "pd")):
        page.keyboard.press(key)
        page.wait_for_function(f"!document.querySelector('.card[data-key={method}-1] audio').paused")
        assert playing(page) == [f"{method}-1"]
    page.get_by_role("button", name="Flip between them").click()
    page.wait_for_function("!document.querySelector('.card[data-key=mp-1] audio').paused")
    assert playing(page) == ["mp-1"]


def test_an_example_needs_one_click(server: Server, visit: Callable[..., sync_api.Page]) -> None:
    page = visit(server.url, theme="dark")
    page.get_by_role("button", name="a violin playing").click()
    page.locator(".status:visible", has_text=re.compile("Done in|Made beforehand")).first.wait_for()
    sync_api.expect(card(page, "pd-1").get_by_role("button", name="Play")).to_be_enabled()
    screenshot(page, "text-dark")


def test_a_picture_sounds_with_one_click(server: Server, visit: Callable[..., sync_api.Page]) -> None:
    page = visit(server.url)
    page.get_by_role("tab", name="Image").click()
    page.locator("input[aria-label='number input for Takes']:visible").fill("2")
    page.locator(".examples:visible img[src$='dog.jpg']").click()
    wait_for_status(page, "Done in")
    files = [download(page, f"iq-{take}") for take in (1, 2)]
    assert [read_tags(path)["method"] for path in files] == ["iq", "iq"]
    assert files[0].read_bytes() != files[1].read_bytes()
    screenshot(page, "image-light")


def test_a_dropped_file_that_is_no_picture_is_told(
    server: Server, visit: Callable[..., sync_api.Page], tmp_path: Path
) -> None:
    page = visit(server.url)
    page.get_by_role("tab", name="Image").click()
    (tmp_path / "fake.png").write_bytes(b"\x89PNG nothing")
    page.locator("#picture input[type=file]").first.set_input_files(tmp_path / "fake.png")
    page.locator("#picture img").wait_for(state="attached")
    page.locator("#image-generate").click()
    page.locator(".toast-body.error").wait_for()
    assert "picture" in page.locator(".toast-body.error").inner_text()


def test_a_mistake_is_told_and_the_page_lives_on(server: Server, visit: Callable[..., sync_api.Page]) -> None:
    page = visit(server.url)
    generate(page, "   ")
    toast = page.locator(".toast-body.error")
    toast.wait_for()
    assert "prompt" in toast.inner_text() and "Traceback" not in toast.inner_text()
    generate(page, "<img src=x onerror=document.title='taken'>")
    wait_for_status(page, "Done in")
    assert "CLIPSonic" in page.title()


def test_the_lock_and_the_reroll(slow: tuple[FakePipeline, str], visit: Callable[..., sync_api.Page]) -> None:
    page = visit(slow[1])
    lock, seed = page.get_by_label("Keep this seed").first, page.get_by_label("Seed", exact=True).first
    assert not lock.is_checked()
    seed.fill("12345")
    sync_api.expect(lock).to_be_checked()
    generate(page, "a dog")
    wait_for_status(page, "Done in")
    assert seed.input_value() == "12345" == str(slow[0].calls[-1].seed)
    page.locator("#prompt-reroll").click()
    page.locator(".status:visible progress").wait_for()
    wait_for_status(page, "Done in")
    sync_api.expect(seed).to_have_value(str(slow[0].calls[-1].seed))
    assert str(slow[0].calls[-1].seed) != "12345"


def test_the_bar_moves_and_stop_stops(slow: tuple[FakePipeline, str], visit: Callable[..., sync_api.Page]) -> None:
    pipeline, url = slow
    page = visit(url)
    generate(page, "a dog")
    bar = page.locator(".status:visible progress[value]")
    bar.wait_for()
    first = int(bar.get_attribute("value"))
    page.wait_for_function(f"document.querySelector('.status progress[value]').value > {first + 2}")
    card(page, "zs-1").locator("img[src]").wait_for()  # a look at the sound while it is carved
    screenshot(page, "running")
    page.locator("#prompt-stop").click()
    wait_for_status(page, "Stopped")
    steps = pipeline.steps
    time.sleep(1)
    assert pipeline.steps - steps <= 1
    generate(page, "a cat")
    wait_for_status(page, "Done in")


def test_closing_the_page_stops_its_run_alone(
    slow: tuple[FakePipeline, str], visit: Callable[..., sync_api.Page]
) -> None:
    pipeline, url = slow
    leaving, staying = visit(url), visit(url)
    generate(leaving, "a dog")
    leaving.locator(".status:visible progress[value]").wait_for()
    generate(staying, "a cat")
    stopped = pipeline.stopped
    leaving.close()
    wait_for_status(staying, "Done in")
    assert pipeline.stopped == stopped + 1


def test_nothing_sticks_out_on_a_phone(slow: tuple[FakePipeline, str], visit: Callable[..., sync_api.Page]) -> None:
    page = visit(slow[1], viewport=PHONE)
    generate(page, "a dog")
    wait_for_status(page, "Done in")
    assert page.evaluate("document.documentElement.scrollWidth") <= PHONE["width"]
    status, settings = (
        page.locator(".status:visible").first.bounding_box(),
        page.get_by_label("Seed").first.bounding_box(),
    )
    assert status and settings and status["y"] < settings["y"], "sounds come before the settings"
    screenshot(page, "phone")


def test_keys_play_flip_and_reroll(slow: tuple[FakePipeline, str], visit: Callable[..., sync_api.Page]) -> None:
    page = visit(slow[1])
    page.locator("#prompt input, #prompt textarea").fill("a dog")
    page.keyboard.press("Enter")
    wait_for_status(page, "Done in")
    seconds_shown(page, "zs-1")
    assert not playing(page)
    page.locator("h1").first.click()
    page.keyboard.press("Space")
    page.wait_for_function("document.querySelector('.card[data-key=zs-1] audio').currentTime > 0.3")
    before = at(page, "zs-1")
    page.keyboard.press("b")
    page.wait_for_function("!document.querySelector('.card[data-key=pd-1] audio').paused")
    assert playing(page) == ["pd-1"] and at(page, "pd-1") >= before, "from the same moment on"
    page.keyboard.press("Space")
    page.wait_for_function("document.querySelector('.card[data-key=pd-1] audio').paused")
    stopped = at(page, "pd-1")
    page.keyboard.press("a")
    page.wait_for_function("!document.querySelector('.card[data-key=zs-1] audio').paused")
    assert playing(page) == ["zs-1"] and at(page, "zs-1") >= stopped
    calls = len(slow[0].calls)
    page.keyboard.press("r")
    page.locator(".status:visible progress").wait_for()
    wait_for_status(page, "Done in")
    assert len(slow[0].calls) == calls + 1 and slow[0].calls[-1].seed != slow[0].calls[-2].seed
    page.locator("#prompt input, #prompt textarea").press("b")
    assert not playing(page), "letters typed into a field are letters"


def test_history_replays_and_forgets(slow: tuple[FakePipeline, str], visit: Callable[..., sync_api.Page]) -> None:
    page = visit(slow[1])
    generate(page, "a dog that stays")
    wait_for_status(page, "Done in")
    page.get_by_role("button", name="History").click()
    page.get_by_role("button", name="Replay a dog that stays").wait_for()
    page.reload()
    page.get_by_role("button", name="History").click()
    page.get_by_role("button", name="Replay a dog that stays").click()
    page.wait_for_function("!document.querySelector('.history .card audio').paused")
    path = download(page, "pd-1", "flac")
    assert read_tags(path)["prompt"] == "a dog that stays" and path.suffix == ".flac"
    page.get_by_role("button", name="Delete a dog that stays").click()
    page.get_by_text("Nothing yet").wait_for()
    assert page.locator(".history .card").count() == 0


def set_steps(page: sync_api.Page, steps: str) -> None:
    """Type the steps until the slider shows them: on a busy machine the fold may open before its fields listen."""
    for _ in range(10):
        page.get_by_label("number input for Steps").first.fill(steps)
        page.get_by_label("number input for Steps").first.press("Tab")
        if page.get_by_label("range slider for Steps").first.input_value() == steps:
            return
        page.wait_for_timeout(200)
    pytest.fail("the slider does not take what is typed")


def test_a_link_and_a_dropped_file_make_the_sound_again(
    slow: tuple[FakePipeline, str], visit: Callable[..., sync_api.Page]
) -> None:
    page = visit(slow[1])
    page.get_by_role("button", name="Advanced").first.click()
    set_steps(page, "7")
    page.get_by_label("Seed", exact=True).first.fill("4321")
    generate(page, "a linked dog")
    wait_for_status(page, "Done in")
    first, calls = download(page, "zs-1"), len(slow[0].calls)
    page.get_by_role("button", name="History").click()
    link = page.get_by_role("link", name="Make a linked dog again").get_attribute("href")
    page.goto(f"{slow[1].rstrip('/')}{link}")
    wait_for_status(page, "Done in")
    assert len(slow[0].calls) == calls + 1 and slow[0].calls[-1].num_inference_steps == 7
    assert download(page, "zs-1").read_bytes() == first.read_bytes()
    fresh = visit(slow[1])
    fresh.get_by_role("button", name="Load settings from a file").click()
    fresh.locator("#restore input[type=file]").set_input_files(first)
    sync_api.expect(fresh.get_by_label("Seed", exact=True).first).to_have_value("4321")
    sync_api.expect(fresh.locator("#prompt input, #prompt textarea")).to_have_value("a linked dog")
    sync_api.expect(fresh.get_by_label("Keep this seed").first).to_be_checked()


def test_a_video_is_heard_by_picture_query_and_by_memory(
    server: Server, visit: Callable[..., sync_api.Page], tmp_path: Path
) -> None:
    page = visit(server.url)
    page.get_by_role("tab", name="Video").click()
    page.locator("#video input[type=file]").set_input_files(make_video(tmp_path / "film.mp4", seconds=4.0))
    page.locator("#video video").wait_for()
    page.locator("#video-generate").click()
    wait_for_status(page, "Done in")
    shown = page.locator(".stage:visible video")
    for key in ("iq-1", "mq-1"):
        card(page, key).get_by_role("button", name="Watch the video with").click()
        address = str(shown.get_attribute("src"))
        assert address == card(page, key).get_by_role("link", name="Save video").get_attribute("href")
        assert f"film_{key[:2]}_s" in address
        page.wait_for_function("document.querySelector('.stage video[src]').readyState >= 2")
        assert not shown.evaluate("video => video.paused")
        card(page, key).get_by_role("button", name="Play").click()
        assert shown.evaluate("video => video.paused"), "only one is heard at a time"
        shown.evaluate("video => video.play()")
        page.wait_for_function(f"document.querySelector('.card[data-key={key}] audio').paused")
        assert shown.evaluate("video => video.duration") == pytest.approx(seconds_shown(page, key), abs=0.3)


def test_why_pd_shows_where_words_land_and_what_they_were_looked_up_as(
    server: Server, visit: Callable[..., sync_api.Page]
) -> None:
    page = visit(server.url)
    page.get_by_role("tab", name="Why PD?").click()
    page.locator("#why-prompt input, #why-prompt textarea").fill("church <bells> ringing")
    page.locator("#why-go").click()
    plot = page.locator("#why-plot")
    plot.locator("svg title").first.wait_for(state="attached")
    titles = plot.locator("svg title").all_text_contents()
    drawn = [title.split(":")[0] for title in titles if title.endswith("church <bells> ringing")]
    assert drawn.count("ZS") == drawn.count("MP") == 1 and drawn.count("PD") == 8
    told = re.search(r"looked your words up .*: (.*)\.", plot.inner_text())
    assert told, plot.inner_text()
    shares = dict(re.findall(r"([^,]+?) (\d+)%(?:, )?", told[1]))
    assert len(shares) == 5 and "bell" in shares and 0 < sum(map(int, shares.values())) <= 100


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_axe_finds_nothing_serious(
    slow: tuple[FakePipeline, str], visit: Callable[..., sync_api.Page], theme: str
) -> None:
    axe = pytest.importorskip("axe_playwright_python.sync_playwright").Axe()
    page = visit(slow[1], theme=theme)
    generate(page, "a dog")
    wait_for_status(page, "Done in")
    found = []
    for tab in ("Text", "Image", "Video", "Compare", "Morph", "Why PD?"):
        page.get_by_role("tab", name=tab).click()
        page.locator("button.generate:visible").wait_for()
        violations = axe.run(page).response["violations"]
        found += [
            (tab, v["id"], node["target"], node["failureSummary"][:200])
            for v in violations
            if v["impact"] in ("serious", "critical")
            for node in v["nodes"]
        ]
    assert not found, "\n".join(map(str, found))
