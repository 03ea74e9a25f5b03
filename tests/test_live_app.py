"""One app, met by those who mean harm, by a small crowd, and by three ways in that must give the same sound."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from app_server import ROOT, Server, serve_app
from gradio_client import Client
from hostile import deep_json
from load_visitors import visit

from clipsonic.audio import read_audio, to_int16
from clipsonic.config import GenerationSettings
from clipsonic.pipeline import ClipSonicPipeline

WAIT_S = 120
CALL = "gradio_api/call/v2/text_to_audio"
HUGE = "9" * 400
PAYLOADS: dict[str, bytes] = {
    "no JSON": b"{",
    "not UTF-8": b"\xff\xfe",
    "a list": b"[]",
    "null": b"null",
    "deep": deep_json(100_000),
    "prompt is a number": b'{"prompt": 3}',
    "prompt is a file": b'{"prompt": {"path": "/etc/passwd", "meta": {"_type": "gradio.FileData"}}}',
    "NaN": b'{"prompt": "a dog", "guidance_scale": NaN}',
    "infinity": b'{"prompt": "a dog", "guidance_scale": 1e999}',
    "huge seed": f'{{"prompt": "a dog", "seed": {HUGE}}}'.encode(),
    "too many digits": f'{{"prompt": "a dog", "seed": {"9" * 10_000}}}'.encode(),
    "steps are a list": b'{"prompt": "a dog", "num_inference_steps": [1]}',
    "too many steps": b'{"prompt": "a dog", "num_inference_steps": 1000, "num_audios": 16}',
    "half a character": b'{"prompt": "\\ud800"}',
    "template": b'{"prompt": "a dog", "template": "{0.__class__}"}',
}
PATHS = (
    "/etc/passwd",
    "../../../../etc/passwd",
    "..%2f..%2f..%2f..%2fetc%2fpasswd",
    "/proc/self/environ",
    str(ROOT / "app.py"),
    f"{ROOT}/clipsonic/ui/../../app.py",
    "file:///etc/passwd",
    "%00",
)


@pytest.fixture(scope="module")
def server(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with serve_app(tiny_model, tmp_path_factory.mktemp("live") / "log.txt") as running:
        yield running


@pytest.fixture(scope="module")
def web(server: Server) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=server.url, timeout=WAIT_S) as client:
        yield client


def end_of(web: httpx.Client, joined: httpx.Response) -> tuple[str, Any]:
    """Return the last event of a run and its data."""
    event, data = "", None
    with web.stream("GET", f"{CALL}/{joined.json()['event_id']}") as stream:
        for line in stream.iter_lines():
            if line.startswith("event: "):
                event = line.removeprefix("event: ")
            elif line.startswith("data: ") and event in ("complete", "error"):
                data = json.loads(line.removeprefix("data: "))
    return event, data


def good_request(web: httpx.Client) -> list[dict[str, Any]]:
    """Return the files of a request that must succeed."""
    event, data = end_of(web, web.post(CALL, json={"prompt": "a dog", "num_inference_steps": 1}))
    assert event == "complete" and len(data[0]) == 2, data
    return data[0]


@pytest.mark.timeout(300)
@pytest.mark.parametrize("name", PAYLOADS)
def test_hostile_requests_are_refused(name: str, web: httpx.Client) -> None:
    answer = web.post(CALL, content=PAYLOADS[name], headers={"Content-Type": "application/json"})
    told = answer.text
    if answer.status_code == 200:
        event, data = end_of(web, answer)
        told = json.dumps(data)
        assert event == "error", (name, data)
    else:
        assert 400 <= answer.status_code < 500, (name, answer.status_code, told[:300])
    assert "Traceback" not in told and "root:" not in told and len(told) < 2000


def test_a_long_body_is_refused(web: httpx.Client) -> None:
    assert web.post(CALL, content=b'{"prompt": "' + b"a" * 3_000_000 + b'"}').status_code == 413


@pytest.mark.parametrize("path", PATHS)
def test_no_file_of_the_machine_is_served(path: str, web: httpx.Client) -> None:
    answer = web.get(f"gradio_api/file={path}")
    assert 400 <= answer.status_code < 500, (path, answer.status_code)
    assert "root:" not in answer.text and "build_ui" not in answer.text


@pytest.mark.parametrize("name", ["../../../out.txt", "..\\..\\out.txt", "/tmp/../out.txt", "a\0b/../../out.txt"])
def test_uploads_stay_in_their_folder(name: str, web: httpx.Client) -> None:
    (sound,) = [file["path"] for file in good_request(web)][:1]
    cache = Path(sound).parents[1]
    answer = web.post("gradio_api/upload", files={"files": (name, b"outside?")})
    if answer.status_code == 200:
        (kept,) = answer.json()
        assert Path(kept).resolve() == Path(kept) and Path(kept).parents[1] == cache
        assert Path(kept).read_bytes() == b"outside?"
    else:
        assert 400 <= answer.status_code < 500
    assert not any((folder / "out.txt").exists() for folder in (cache, *cache.parents, ROOT))


@pytest.mark.timeout(300)
def test_a_small_crowd_gets_what_it_asked_for(server: Server) -> None:
    tally = visit(server.url, visitors=4, seconds=15, steps=1)
    assert tally.wrong == []
    assert tally.ends["done"] > 0, tally


@pytest.mark.timeout(300)
def test_every_way_in_gives_the_same_samples(
    server: Server, tiny_model: Path, tiny_pipeline: ClipSonicPipeline, tmp_path: Path
) -> None:
    settings = GenerationSettings(methods=("zs", "pd"), seed=7, num_inference_steps=3, guidance_scale=5.0)
    made = tiny_pipeline("a dog barking", settings=settings)
    client = Client(server.url, verbose=False, download_files=tmp_path / "downloads")
    asked = {"seed": 7, "num_inference_steps": 3, "guidance_scale": 5.0}
    served, _ = client.predict("a dog barking", **asked, api_name="/text_to_audio")
    flags = ["--seed", "7", "--steps", "3", "--guidance-scale", "5", "--methods", "zs", "pd", "--device", "cpu"]
    command = [sys.executable, "-m", "clipsonic", "generate", "a dog barking", *flags]
    folder = tmp_path / "sounds"
    subprocess.run(
        [*command, "--model", str(tiny_model), "--out", str(folder)], cwd=ROOT, check=True, capture_output=True
    )
    for method, audio, file in zip(("zs", "pd"), made.audios, served, strict=True):
        (written,) = folder.glob(f"*_{method}_s7.wav")
        by_class = to_int16(audio.waveform).astype(np.int32)
        for path in (written, Path(file)):
            heard = np.round(read_audio(path)[0] * 32768).astype(np.int32)
            # The processes may use other numbers of threads, which sum in other orders.
            assert heard.shape == by_class.shape and np.abs(heard - by_class).max() <= 2, path
    assert np.abs(made.waveforms[0] - made.waveforms[1]).max() > 1e-3


def test_the_app_lives_on(web: httpx.Client, server: Server) -> None:
    assert len(good_request(web)) == 2
    assert web.get("health").json()["ready"] is True
    log = server.log.read_text()
    # Gradio logs its own refusal of a file that nobody uploaded; nothing else breaks.
    assert log.count("Traceback") == log.count("InvalidPathError: Cannot move /etc/passwd") == 1
