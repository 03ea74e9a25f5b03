"""The desk that requests pass: limits, log, metrics, files, and what strangers are told."""

from __future__ import annotations

import io
import json
import os
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import gradio as gr
import pytest
from fake_pipeline import FakePipeline
from starlette.testclient import TestClient

from clipsonic.config import GenerationSettings
from clipsonic.errors import Cancelled, CheckpointError, PromptError, SettingsError
from clipsonic.ui import Desk, build_ui
from clipsonic.ui.desk import Mishap, TooLong
from clipsonic.ui.door import Door
from clipsonic.ui.files import Files
from clipsonic.ui.handlers import Studio
from clipsonic.ui.limits import Limits, count_steps
from clipsonic.ui.line import Line
from clipsonic.ui.log import RequestLog
from clipsonic.ui.redact import outline, without_paths

SETTINGS = GenerationSettings(methods=("zs", "pd"), num_inference_steps=4, template="secret {}")


class Broken(FakePipeline):
    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        raise RuntimeError(f"secret in {Path(__file__)}")


def open_desk(with_words: bool = False, **limits: int) -> tuple[Desk, io.StringIO]:
    stream = io.StringIO()
    return Desk(Limits(**limits), RequestLog(stream, with_words)), stream


def lines(stream: io.StringIO) -> list[dict[str, Any]]:
    return [json.loads(line) for line in stream.getvalue().splitlines()]


def count(desk: Desk, result: str) -> float:
    (line,) = [
        x
        for x in desk.metrics.text().decode().splitlines()
        if x.startswith(f'clipsonic_requests_total{{result="{result}"')
    ]
    return float(line.split()[-1])


def test_limits_come_from_the_environment() -> None:
    assert Limits.from_environment({"CLIPSONIC_MAX_QUEUE": "5"}) == Limits(queue=5)
    for text in ("-1", "0", "many", "1e9", ""):
        with pytest.raises(SettingsError, match="CLIPSONIC_MAX_STEPS is"):
            Limits.from_environment({"CLIPSONIC_MAX_STEPS": text})


def test_steps_grow_with_everything_that_takes_time() -> None:
    base = count_steps({}, SETTINGS)
    assert base == 4 * 2 + 25
    values = SETTINGS.to_dict()
    for name, value in {"num_inference_steps": 5, "num_audios": 2, "candidates": 2, "duration_s": 9.0}.items():
        assert count_steps({}, GenerationSettings(**values | {name: value})) > base, name
    assert count_steps({"video": "a.mp4"}, SETTINGS) > base


def test_the_page_can_ask_for_all_its_sliders_offer() -> None:
    Limits().check({}, GenerationSettings(methods=("zs", "pd"), num_inference_steps=200, num_audios=4))
    with pytest.raises(SettingsError, match=r"32,400 steps.*allowed here: 4,000; lower"):
        Limits().check({}, GenerationSettings(methods=("zs", "pd"), num_inference_steps=1000, num_audios=16))


def test_a_run_is_one_line_without_the_visitors_words() -> None:
    desk, stream = open_desk()
    list(Studio(FakePipeline, desk).run("me", {"prompt": "my secret"}, SETTINGS))
    (line,) = lines(stream)
    assert line["result"] == "done" and line["kind"] == "prompt" and line["num_inference_steps"] == 4
    assert line["stages"]["denoising"] == 0.1 and line["seconds"] >= 0
    assert "secret" not in stream.getvalue()
    assert count(desk, "done") == 1


def test_the_operator_may_ask_for_the_words() -> None:
    desk, stream = open_desk(with_words=True)
    list(Studio(FakePipeline, desk).run("me", {"prompt": "my secret"}, SETTINGS))
    assert lines(stream)[0]["query"] == {"prompt": "my secret"}
    assert lines(stream)[0]["template"] == "secret {}"


def test_what_costs_too_much_never_reaches_the_model() -> None:
    desk, stream = open_desk(steps=20)
    pipeline = FakePipeline()
    with pytest.raises(SettingsError, match="33 steps"):
        list(Studio(lambda: pipeline, desk).run("me", {"prompt": "a dog"}, SETTINGS))
    assert not pipeline.calls
    assert lines(stream)[0]["result"] == "refused" and lines(stream)[0]["error"] == "SettingsError"


def test_a_crash_is_one_polite_line_and_touches_no_other() -> None:
    desk, stream = open_desk()
    with pytest.raises(Mishap) as caught:
        list(Studio(Broken, desk).run("me", {"prompt": "a dog"}, SETTINGS))
    (line,) = lines(stream)
    assert line["result"] == "failed" and line["level"] == "error" and line["id"] in str(caught.value)
    assert "RuntimeError at " in line["error"] and "test_ui_desk.py" in line["error"]
    assert "secret" not in stream.getvalue() and str(Path(__file__).parent) not in stream.getvalue()
    list(Studio(FakePipeline, desk).run("me", {"prompt": "a dog"}, SETTINGS))
    assert count(desk, "failed") == count(desk, "done") == 1


def test_a_run_that_takes_too_long_is_ended() -> None:
    desk, _ = open_desk(run_s=1)
    pipeline = FakePipeline(seconds_a_step=0.1)
    with pytest.raises(TooLong, match="longer than 1 s"):
        list(Studio(lambda: pipeline, desk).run("me", {"prompt": "a dog"}, GenerationSettings(num_inference_steps=900)))
    assert pipeline.steps < 900 and pipeline.stopped == 1


def test_stopped_and_left_runs_are_told_apart() -> None:
    desk, stream = open_desk()
    studio = Studio(lambda: FakePipeline(0.05), desk)
    run = studio.run("me", {"prompt": "a dog"}, SETTINGS)
    next(run)
    studio.stop("me")
    with pytest.raises(Cancelled):
        list(run)
    run = studio.run("me", {"prompt": "a dog"}, SETTINGS)
    next(run)
    run.close()
    assert [line["result"] for line in lines(stream)] == ["stopped", "left"]


def test_errors_name_no_folders() -> None:
    def load() -> Any:
        raise CheckpointError(f"cannot read {Path(__file__).parent}/model/model_index.json: gone; fetch it")

    desk, _ = open_desk()
    with pytest.raises(CheckpointError, match=r"^cannot read model_index.json: gone; fetch it$"):
        list(Studio(load, desk).run("me", {"prompt": "a dog"}, SETTINGS))
    assert desk.health()["ready"] is False


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("cannot read /tmp/gradio/ab12/cat.png: no", "cannot read cat.png: no"),
        ("'/home/me/a.wav' is 3/4 rain and/or hail", "'a.wav' is 3/4 rain and/or hail"),
        (r"C:\Users\me\a.wav", "a.wav"),
        ("see https://example.org/a/b", "see https://example.org/a/b"),
        ("template is 'a {} b'", "template is 'a {} b'"),
    ],
)
def test_paths_are_shortened(text: str, told: str) -> None:
    assert without_paths(text) == told


def test_an_outline_says_where_and_no_values() -> None:
    try:
        int("secret")
    except ValueError as error:
        assert outline(error).startswith("test_ui_desk.py:") and "secret" not in outline(error)


def fake_line(**state: Any) -> Any:
    return SimpleNamespace(
        **{"makes_sounds": lambda _: True, "waiting": lambda: 0, "running": lambda: 0, "of": lambda *_: (0, 0)} | state
    )


def test_the_busy_are_told_why() -> None:
    desk, stream = open_desk(queue=4)
    desk._line = fake_line()
    assert desk.refuse(0, "me", "10.0.0.1") is None
    desk._line = fake_line(of=lambda *_: (3, 3))
    assert "you have 3 sounds under way" in str(desk.refuse(0, "me", "10.0.0.1"))
    desk._line = fake_line(of=lambda *_: (0, 8))
    assert "8 sounds are under way for your network" in str(desk.refuse(0, "me", "10.0.0.1"))
    desk._line = fake_line(waiting=lambda: 4)
    assert "4 others are waiting" in str(desk.refuse(0, "me", "10.0.0.1"))
    desk._line = fake_line(waiting=lambda: 4, makes_sounds=lambda _: False)
    assert desk.refuse(0, "me", "10.0.0.1") is None
    assert [line["result"] for line in lines(stream)] == ["busy"] * 3 and count(desk, "busy") == 3


def test_every_function_that_makes_sounds_is_known_to_the_line() -> None:
    page = build_ui(FakePipeline)
    line = Line(page)
    assert line.makes_sounds("text_to_audio") and not line.makes_sounds("nothing")
    known = [fn for fn in page.fns if line.makes_sounds(fn)]
    assert known == [number for number, fn in page.fns.items() if fn.concurrency_id == "generation"] != []
    assert (line.waiting(), line.running(), line.waited_s("me")) == (0, 0, None)


@pytest.fixture
def served() -> tuple[TestClient, Desk]:
    from gradio.routes import App

    desk, _ = open_desk(body_bytes=1000)
    page = build_ui(FakePipeline, desk=desk)
    return TestClient(App.create_app(page, **desk.launch_options())), desk


def test_health_and_metrics_are_served(served: tuple[TestClient, Desk]) -> None:
    client, desk = served
    assert client.get("/health").json() == {"ready": True, "model": None, "waiting": 0, "running": 0}
    desk._broken = True
    assert client.get("/health").status_code == 503
    numbers = client.get("/metrics")
    assert numbers.headers["content-type"].startswith("text/plain")
    for name in ("clipsonic_requests_total", "clipsonic_waiting 0.0", "clipsonic_run_seconds_bucket", "process_"):
        assert name in numbers.text


def test_the_door_refuses_long_bodies_and_lets_short_ones_through(served: tuple[TestClient, Desk]) -> None:
    client, desk = served
    long = client.post("/gradio_api/call/text_to_audio", json={"data": ["x" * 2000]})
    assert long.status_code == 413 and "1,000 bytes" in long.json()["detail"]
    desk.refuse = lambda *_: "busy: come back"  # type: ignore[method-assign]
    assert client.post("/gradio_api/call/text_to_audio", json={"data": ["a dog"]}).status_code != 413
    for body in (b"[" * 900, b"\xff\xfe", b'{"fn_index": []}', b"null"):
        answer = client.post("/gradio_api/queue/join", content=body)
        assert answer.status_code in (400, 422), body
    assert client.post("/gradio_api/call/text_to_audio", content=b"\xff").json()["detail"].startswith("the request")


def test_nobody_gets_past_the_queue(served: tuple[TestClient, Desk]) -> None:
    client, _ = served
    assert client.post("/gradio_api/run/text_to_audio", json={"data": ["a dog"]}).status_code == 404


def test_the_door_asks_the_desk_with_session_and_address() -> None:
    asked = []

    def refuse(*who: Any) -> str:
        asked.append(who)
        return "busy: come back"

    async def app(scope: Any, receive: Any, send: Any) -> None:
        raise AssertionError("must not get here")

    client = TestClient(Door(app, longest=1000, refuse=refuse, uploading=lambda: None))
    answer = client.post("/gradio_api/queue/join", json={"fn_index": 3, "session_hash": "me", "data": []})
    assert (answer.status_code, answer.json()) == (503, {"detail": "busy: come back"})
    client.post("/gradio_api/call/text_to_audio", json={"data": []})
    assert asked == [(3, "me", "testclient"), ("text_to_audio", None, "testclient")]


def make_files(folder: Path, **limits: Any) -> tuple[Files, gr.Blocks, Any]:
    page = build_ui(FakePipeline)
    line = fake_line(names=lambda path: "wanted" in path)
    return Files(page, line, **{"keep_s": 100, "most_mb": 1} | limits), page, line


def upload(page: gr.Blocks, path: Path, size: int = 10, age_s: float = 0) -> Path:
    path.parent.mkdir(parents=True)
    path.write_bytes(b"x" * size)
    os.utime(path, (time.time() - age_s,) * 2)
    page.upload_file_set.add(str(path))
    return path


def test_uploads_go_when_their_visitors_have_left(tmp_path: Path) -> None:
    files, page, _ = make_files(tmp_path)
    mine, shared, wanted = (upload(page, tmp_path / name / "a.png") for name in ("mine", "shared", "wanted"))
    own = tmp_path / "own.png"
    own.touch()
    for visitor, path in (("me", mine), ("me", shared), ("you", shared), ("me", wanted), ("me", own)):
        files.used(visitor, str(path))
    files.leave("me")
    assert not mine.parent.exists() and shared.exists() and wanted.exists() and own.exists()
    files._line.names = lambda _: False
    files.sweep()
    assert not wanted.exists() and shared.exists()
    files.leave("you")
    assert not shared.exists()


def test_old_files_and_those_over_the_bound_go(tmp_path: Path) -> None:
    files, page, _ = make_files(tmp_path)
    old = upload(page, tmp_path / "old" / "a.png", age_s=200)
    waiting = upload(page, tmp_path / "wanted" / "a.png", age_s=200)
    older, newer = (upload(page, tmp_path / str(age) / "a", 700_000, age) for age in (60, 30))
    files.sweep()
    assert [path.exists() for path in (old, waiting, older, newer)] == [False, True, False, True]


def test_an_error_of_the_caller_keeps_its_kind() -> None:
    desk, stream = open_desk()
    with pytest.raises(PromptError, match="empty"):
        list(Studio(FakePipeline, desk).run("me", {"prompt": ""}, SETTINGS))
    assert lines(stream)[0]["error"] == "PromptError"


@pytest.mark.skipif(sys.platform != "linux", reason="looks into /proc")
def test_an_app_at_rest_gives_memory_back() -> None:
    """In a process of its own, whose memory nothing else moves."""
    script = """
import gc, re, threading, time
import numpy as np
from clipsonic.ui.rest import rest

def resident():
    return int(re.search(r"VmRSS:\\s+(\\d+)", open("/proc/self/status").read())[1]) / 1024

def run():
    cycle = [[np.ones(25_000) for _ in range(500)]]  # 100 MB in pieces that come from the thread's arena
    cycle.append(cycle)

gc.disable()
thread = threading.Thread(target=run)
thread.start(), thread.join()
before = resident()
rest()
deadline = time.monotonic() + 20
while time.monotonic() < deadline and resident() > before - 50:
    time.sleep(0.05)
print(before, resident())
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    before, after = map(float, done.stdout.split())
    assert after < before - 50
