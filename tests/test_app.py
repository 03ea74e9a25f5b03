"""The app as visitors' programs meet it: `python app.py` on a tiny model, through Gradio's own client."""

from __future__ import annotations

import json
import os
import threading
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from app_server import ROOT, STARTUP_S, Server, serve_app
from gradio_client import Client, handle_file
from gradio_client.exceptions import AppError
from listening_sets import build_set
from PIL import Image

from clipsonic.audio import read_audio, read_tags, write_audio
from clipsonic.config import GenerationSettings
from clipsonic.pipeline import ClipSonicPipeline

DOG = ROOT / "examples" / "pictures" / "dog.jpg"


@pytest.fixture(scope="module")
def server(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with serve_app(tiny_model, tmp_path_factory.mktemp("app") / "log.txt") as running:
        yield running


@pytest.fixture
def client(server: Server, tmp_path: Path) -> Client:
    return Client(server.url, verbose=False, download_files=tmp_path / "downloads")


def sounds(answer: tuple[list[str], dict[str, Any]]) -> np.ndarray:
    """The samples of every file of an answer, shape (files, samples)."""
    return np.stack([read_audio(Path(file))[0] for file in answer[0]])


def test_page_is_up_soon_and_before_any_model(server: Server) -> None:
    assert server.startup_s < STARTUP_S
    assert "loading" not in server.log.read_text().lower()


def test_text_gives_both_methods_with_names_tags_and_facts(client: Client) -> None:
    files, facts = client.predict("a dog barking", seed=5, num_inference_steps=3, api_name="/text_to_audio")
    assert [Path(file).name for file in files] == [f"a-dog-barking_{m}_s5.wav" for m in ("zs", "pd")]
    assert facts["settings"]["num_inference_steps"] == 3 and facts["model"] == "tiny"
    assert [audio["method"] for audio in facts["audios"]] == ["zs", "pd"]
    tags = read_tags(Path(files[1]))
    assert tags["prompt"] == "a dog barking" and tags["method"] == "pd"
    assert json.loads(tags["settings"])["num_inference_steps"] == 3


def test_defaults_are_those_of_the_python_class(client: Client, tiny_pipeline: ClipSonicPipeline) -> None:
    heard = sounds(client.predict("a dog barking", api_name="/text_to_audio"))
    made = tiny_pipeline("a dog barking", settings=GenerationSettings(methods=("zs", "pd")))
    np.testing.assert_allclose(heard, made.waveforms, atol=2 / 32768)


def test_picture_gives_variations(client: Client, tiny_pipeline: ClipSonicPipeline) -> None:
    files, facts = client.predict(handle_file(DOG), num_audios=2, num_inference_steps=2, api_name="/image_to_audio")
    assert [Path(file).name for file in files] == ["dog_iq_s0.wav", "dog_iq_s1.wav"]
    assert [audio["image"] for audio in facts["audios"]] == ["dog.jpg"] * 2
    made = tiny_pipeline(image=DOG, num_audios=2, num_inference_steps=2)
    np.testing.assert_allclose(sounds((files, facts)), made.waveforms, atol=2 / 32768)


def test_programs_choose_among_the_methods(client: Client) -> None:
    few = {"num_inference_steps": 2, "prior_num_inference_steps": 2, "api_name": "/text_to_audio"}
    both = sounds(client.predict("a dog", **few))
    files, facts = client.predict("a dog", methods=["pd"], **few)
    assert [audio["method"] for audio in facts["audios"]] == ["pd"]
    np.testing.assert_array_equal(sounds((files, facts))[0], both[1])
    none = "none that renders a prompt"
    for wrong, said in ((["xx"], "xx"), ([], "at least one of"), ("pd", "at least one of"), (["iq"], none)):
        with pytest.raises(AppError, match=said):
            client.predict("a dog", methods=wrong, **few)


CHANGES = {
    "sampler": "ddim",
    "num_inference_steps": 4,
    "guidance_scale": 7.0,
    "negative_prompt": "music",
    "prior_num_inference_steps": 4,
    "prior_guidance_scale": 6.0,
    "template": "the sound of {}",
    "seed": 1,
    "num_audios": 2,
    "duration_s": 2.0,
    "toward": "a bell",
}


def test_every_control_changes_the_sound(client: Client) -> None:
    offered = {
        p["parameter_name"]
        for p in client.view_api(return_format="dict")["named_endpoints"]["/text_to_audio"]["parameters"]
    }
    assert set(CHANGES) == offered - {"prompt", "morph", "methods"}, "morph alone does nothing"
    few = {"num_inference_steps": 3, "prior_num_inference_steps": 3}
    plain = sounds(client.predict("a dog", **few, api_name="/text_to_audio"))
    for name, value in CHANGES.items():
        changed = sounds(client.predict("a dog", **few | {name: value}, api_name="/text_to_audio"))
        if name == "num_audios":
            assert len(changed) == 4 and np.abs(changed[:2] - changed[2:]).max() > 1e-3
            continue
        if name == "duration_s":
            assert changed.shape[1] == 2 * 22050 != plain.shape[1]
            continue
        zs, pd = np.abs(changed - plain).max(axis=1) > 1e-3
        assert pd, f"{name} changes nothing"
        assert zs != name.startswith("prior_"), f"{name} should change ZS unless it is the prior's"
    mixed = [
        sounds(client.predict("a dog", toward="a bell", morph=share, **few, api_name="/text_to_audio"))
        for share in (0.0, 0.5, 1.0)
    ]
    np.testing.assert_array_equal(mixed[0], plain)
    assert min(np.abs(mixed[i] - mixed[i + 1]).max() for i in (0, 1)) > 1e-3


SOUND_CHANGES = {name: value for name, value in CHANGES.items() if not name.startswith("prior_")} | {
    "candidates": 2,
    "strength": 0.3,
}


@pytest.fixture(scope="module")
def hearing_server(hearing_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with serve_app(hearing_model, tmp_path_factory.mktemp("hearing") / "log.txt") as running:
        yield running


def test_every_control_changes_the_sound_of_a_sound(hearing_server: Server, tmp_path: Path) -> None:
    client = Client(hearing_server.url, verbose=False, download_files=tmp_path / "downloads")
    parameters = client.view_api(return_format="dict")["named_endpoints"]["/audio_to_audio"]["parameters"]
    offered = {p["parameter_name"] for p in parameters}
    assert set(SOUND_CHANGES) == offered - {"audio", "morph"}, "morph alone does nothing"
    bark = tmp_path / "bark.wav"
    write_audio(bark, np.sin(np.arange(22050) / 5).astype(np.float32) * (np.arange(22050) % 4000 < 900), 22050)

    def make(**changes: Any) -> np.ndarray:
        asked = {"num_inference_steps": 3} | changes
        return sounds(client.predict(handle_file(bark), **asked, api_name="/audio_to_audio"))

    plain = make()
    np.testing.assert_array_equal(make(strength=1), plain)
    for name, value in SOUND_CHANGES.items():
        if name == "candidates":  # the best may be the first, but not for every seed
            assert any(np.abs(make(seed=s, candidates=2) - make(seed=s)).max() > 1e-3 for s in range(20))
            continue
        words = {"toward": "a bell"} if name == "template" else {}  # a caption is only put round words
        before, changed = make(**words) if words else plain, make(**words | {name: value})
        if name == "num_audios":
            assert len(changed) == 2 and np.abs(changed[0] - changed[1]).max() > 1e-3
        elif name == "duration_s":
            assert changed.shape[1] == 2 * 22050 != plain.shape[1]
        else:
            assert np.abs(changed - before).max() > 1e-3, f"{name} changes nothing"
    mixed = [make(toward="a bell", morph=share) for share in (0.0, 0.5, 1.0)]
    np.testing.assert_array_equal(mixed[0], plain)
    assert min(np.abs(mixed[i] - mixed[i + 1]).max() for i in (0, 1)) > 1e-3
    with pytest.raises(AppError, match=r"strength is 0; allowed: a number from 0.05 to 1"):
        make(strength=0)


def test_the_tool_of_sounds_takes_the_strength(hearing_server: Server) -> None:
    tools = httpx.get(f"{hearing_server.url}gradio_api/mcp/schema", timeout=STARTUP_S).json()
    (tool,) = (tool for tool in tools if tool["name"] == "audio_to_audio")
    assert tool["inputSchema"]["properties"]["strength"]["default"] == 1 and "strength" in tool["description"]


def test_same_seed_same_bytes(client: Client) -> None:
    first, again = (
        client.predict("a bell", seed=11, num_inference_steps=2, api_name="/text_to_audio")[0] for _ in range(2)
    )
    assert [Path(file).read_bytes() for file in first] == [Path(file).read_bytes() for file in again]


def test_two_visitors_at_once_each_get_their_own(
    server: Server, tmp_path: Path, tiny_pipeline: ClipSonicPipeline
) -> None:
    prompts = ("a dog barking", "a violin")
    answers: dict[str, Any] = {}

    def ask(prompt: str) -> None:
        client = Client(server.url, verbose=False, download_files=tmp_path / prompt)
        answers[prompt] = client.predict(prompt, seed=3, num_inference_steps=8, api_name="/text_to_audio")

    threads = [threading.Thread(target=ask, args=(prompt,)) for prompt in prompts]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for prompt in prompts:
        assert {read_tags(Path(file))["prompt"] for file in answers[prompt][0]} == {prompt}
        alone = tiny_pipeline(prompt, methods=("zs", "pd"), seed=3, num_inference_steps=8).waveforms
        np.testing.assert_allclose(sounds(answers[prompt]), alone, atol=2 / 32768)


@pytest.mark.parametrize(
    ("prompt", "settings", "words"),
    [
        ("", {}, "prompt"),
        ("x" * 10_000, {}, "500"),
        ("a dog", {"num_inference_steps": 0}, "num_inference_steps is 0"),
        ("a dog", {"num_inference_steps": -1}, "num_inference_steps is -1"),
        ("a dog", {"num_inference_steps": "abc"}, "num_inference_steps is 'abc'"),
        ("a dog", {"guidance_scale": None}, "guidance_scale is"),
        ("a dog", {"sampler": "magic"}, "sampler is 'magic'"),
        ("a dog", {"num_audios": 1000}, "num_audios is 1000"),
        ("a dog", {"template": "<script>"}, "template is '&lt;script&gt;'"),
        (None, {}, "prompt"),
        (["a", {"b": 1}], {}, "prompt"),
    ],
)
def test_bad_requests_get_one_clear_line(client: Client, prompt: Any, settings: dict[str, Any], words: str) -> None:
    with pytest.raises(AppError) as caught:
        client.predict(prompt, **settings, api_name="/text_to_audio")
    told = str(caught.value)
    assert words in told and "Traceback" not in told and "\n" not in told


def truncated(path: Path) -> None:
    path.write_bytes(DOG.read_bytes()[:5000])


def huge(path: Path) -> None:
    Image.new("1", (30_000, 30_000)).save(path.with_suffix(".png"))
    path.with_suffix(".png").rename(path)


def noise(path: Path) -> None:
    path.write_bytes(os.urandom(5000))


def sound(path: Path) -> None:
    write_audio(path.with_suffix(".wav"), np.zeros(1000, np.float32), 22050)
    path.with_suffix(".wav").rename(path)


@pytest.mark.parametrize("make", [truncated, huge, noise, sound])
def test_bad_pictures_get_one_clear_line(client: Client, tmp_path: Path, make: Any) -> None:
    path = tmp_path / "picture.jpg"
    make(path)
    with pytest.raises(AppError) as caught:
        client.predict(handle_file(path), api_name="/image_to_audio")
    told = str(caught.value)
    assert "picture" in told and "\n" not in told and len(told) < 400


def test_a_picture_of_the_server_cannot_be_asked_for(server: Server, tmp_path: Path) -> None:
    secret = tmp_path / "secret.png"
    Image.new("RGB", (64, 64)).save(secret)
    picture = {"path": str(secret), "meta": {"_type": "gradio.FileData"}}
    settings = [1, 0, 0, 25, 3.0, "", "ddim", "", 0.5]
    call = f"{server.url}gradio_api/call/image_to_audio"
    body = json.dumps({"data": [picture, *settings]}).encode()
    request = urllib.request.Request(call, body, {"Content-Type": "application/json"})
    with urllib.request.urlopen(request) as answer:
        event = json.load(answer)["event_id"]
    with urllib.request.urlopen(f"{call}/{event}") as answer:
        told = answer.read().decode()
    assert "event: error" in told and "complete" not in told


def test_a_missing_picture_is_told(client: Client) -> None:
    with pytest.raises(AppError, match="picture"):
        client.predict(None, api_name="/image_to_audio")


def test_the_app_lives_on_and_logs_no_traceback(client: Client, server: Server) -> None:
    assert len(client.predict("a dog", num_inference_steps=1, api_name="/text_to_audio")[0]) == 2
    assert "ClipSonicError" not in server.log.read_text()


def test_the_flag_adds_the_listening_tests(server: Server, tiny_model: Path, tmp_path: Path) -> None:
    build_set(tmp_path / "tests" / "tones")
    test = "listening/tones/api/test"

    def labels(url: str) -> set[str]:
        parts = httpx.get(f"{url}config", timeout=STARTUP_S).json()["components"]
        return {part["props"].get("label") for part in parts if part["type"] == "tabitem"}

    with serve_app(tiny_model, tmp_path / "log.txt", "--listening-tests", str(tmp_path / "tests")) as running:
        assert httpx.get(f"{running.url}{test}", timeout=STARTUP_S).json()["title"] == "A test of tones"
        assert httpx.get(f"{running.url}listening/nothing/api/test", timeout=STARTUP_S).status_code == 404
        with_flag = labels(running.url)
    assert httpx.get(f"{server.url}{test}", timeout=STARTUP_S).status_code == 404
    assert with_flag - labels(server.url) == {"Curate", "Take the test", "Results"}


def test_a_missing_model_is_told_in_the_page(tmp_path: Path) -> None:
    with serve_app(tmp_path / "nowhere", tmp_path / "log.txt") as running, pytest.raises(AppError, match="nowhere"):
        Client(running.url, verbose=False).predict("a dog", api_name="/text_to_audio")
