"""The listener's side over real HTTP: what is refused, what is never told, and what a killed server still knows."""

from __future__ import annotations

import io
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
import soundfile
from app_server import ROOT, wait_until_up
from fastapi.testclient import TestClient
from listening_sets import add_picture, build_set

from clipsonic.errors import DataError
from clipsonic.listening.answers import stored_ratings
from clipsonic.listening.server import Tests, create_app
from clipsonic.listening.sessions import RunningTest
from clipsonic.listening.sounds import bury, headphone_sound, headphone_trials, volume_noise
from clipsonic.listening.store import Store

DESIGN = {"training": 1, "gold": 1, "traps": 1, "headphones": "required", "check_trials": 3, "check_passes": 3}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    build_set(tmp_path / "tones", systems=("zs", "pd"))
    (tmp_path / "tones" / "test.json").write_text(json.dumps(DESIGN))
    return tmp_path / "tones"


@pytest.fixture
def client(folder: Path) -> Iterator[TestClient]:
    with TestClient(create_app(Tests(folder, single=True)), base_url="http://test/tones/") as client:
        yield client


def join(client: httpx.Client) -> dict[str, str]:
    answer = client.post("api/join", json={"consent": True})
    assert answer.status_code == 200, answer.text
    return {"Authorization": f"Bearer {answer.json()['key']}"}


def rate(client: httpx.Client, key: dict[str, str], **given: Any) -> httpx.Response:
    return client.post("api/answer", headers=key, json={"rating": 3, "scale": "fidelity", "plays": 1, **given})


def pages_of(client: httpx.Client, key: dict[str, str]) -> list[dict[str, Any]]:
    return client.get("api/session", headers=key).json()["pages"]


def test_a_whole_test(client: TestClient, folder: Path) -> None:
    key = join(client)
    pages = pages_of(client, key)
    assert len(pages) == 7 and [page["training"] for page in pages] == [True] + [False] * 6
    for page in pages:
        for scale in page["scales"]:
            assert rate(client, key, sound=page["sounds"][0], scale=scale, rating=4).json() == {"kept": True}
    code = client.post("api/finish", headers=key, json={"comment": "=1+1"}).json()["code"]
    assert client.post("api/finish", headers=key, json={}).json()["code"] == code
    assert client.get("api/session", headers=key).json()["code"] == code
    assert rate(client, key, sound=pages[0]["sounds"][0]).status_code == 409
    answers = stored_ratings(folder / "answers.sqlite")
    ratings = [rating for rating in answers if rating.purpose == "rating"]
    assert len(answers) == 14 and len(ratings) == 8
    assert {r.value for r in ratings} == {4.0} and {r.system for r in ratings} == {"zs", "pd"}


@pytest.mark.parametrize("rating", [7, 0, -1, 3.5, "3", None, True, [3], "<b>", 10**40])
def test_forged_ratings_are_refused(client: TestClient, rating: Any) -> None:
    key = join(client)
    sound = pages_of(client, key)[0]["sounds"][0]
    answer = rate(client, key, sound=sound, rating=rating)
    assert answer.status_code == 422 and "allowed: whole numbers from 1 to 5" in answer.json()["error"]
    assert pages_of(client, key)[0]["answers"] == {}


def test_other_forgeries_are_refused(client: TestClient) -> None:
    key, other = join(client), join(client)
    pages = pages_of(client, key)
    sound = pages[0]["sounds"][0]
    raw = {"sound": sound, "scale": "fidelity", "plays": 1}
    for body in ('{"rating": NaN}', "[1]", "no json", "[" * 5000, ""):
        assert client.post("api/answer", headers=key, content=body).status_code == 422
    assert client.post("api/answer", headers=key, content=b"x" * 20_000).status_code == 413
    assert rate(client, other, sound=sound).status_code == 404, "another listener's key"
    assert rate(client, {"Authorization": "Bearer 1.guess"}, sound=sound).status_code == 401
    assert rate(client, {}, sound=sound).status_code == 401
    assert rate(client, key, sound="unknown").status_code == 404
    assert rate(client, key, sound=["x"]).status_code == 404
    assert rate(client, key, **raw | {"scale": "beauty"}).status_code == 422
    assert rate(client, key, **raw | {"plays": 0}).status_code == 422, "unheard"
    assert rate(client, key, sound=pages[1]["sounds"][0]).status_code == 409, "training comes first"
    assert client.post("api/finish", headers=key, json={}).status_code == 409
    assert client.post("api/join", json={"consent": "yes"}).status_code == 422
    assert client.get(f"api/sound/{sound}", headers=other).status_code == 404
    for path in (
        "../nothing/api/test",
        "/%2e%2e/api/test",
        "web/..%2fserver.py",
        "web/server.py",
        "/tones/answers.sqlite",
    ):
        assert client.get(path).status_code == 404, path
    assert pages_of(client, key)[0]["answers"] == {}


def test_a_double_click_and_going_back(client: TestClient) -> None:
    key = join(client)
    pages = pages_of(client, key)
    sound = pages[0]["sounds"][0]
    for rating in (2, 2, 5):
        assert rate(client, key, sound=sound, rating=rating).status_code == 200
    assert pages_of(client, key)[0]["answers"] == {sound: {"fidelity": 5}}


def test_nothing_tells_the_system(tmp_path: Path) -> None:
    build_set(tmp_path / "s", systems=("systemzero", "systempink"), reference=True)
    with TestClient(create_app(Tests(tmp_path / "s", single=True)), base_url="http://test/s/") as client:
        key = join(client)
        seen = [client.get("."), client.get("api/test"), client.get("api/session", headers=key)]
        seen += [client.get(f"api/sound/{p['sounds'][0]}", headers=key) for p in seen[2].json()["pages"]]
    everything = b"".join(a.content + repr(a.headers.raw).encode() for a in seen).lower()
    for secret in (b"systemzero", b"systempink", b"anchor35", b"wavs/", b"p001", b"gold", b"guidance", b"tiny"):
        assert secret not in everything, secret
    assert len({len(a.content) for a in seen[3:]}) == 1, "equal length tells nothing"
    samples, rate_ = soundfile.read(io.BytesIO(seen[-1].content))
    assert rate_ == 16_000 and len(samples) == 8000 and np.abs(samples).max() > 0.05


def test_the_headphone_check(client: TestClient, folder: Path) -> None:
    key = join(client)
    secret = Store(folder / "answers.sqlite").fact("secret", "")
    right = [kinds.index(1) for kinds in headphone_trials(f"{secret}/1/0", 3)]
    wrong = [(place + 1) % 3 for place in right]
    sound, rate_ = soundfile.read(io.BytesIO(client.get("api/check/0", headers=key).content))
    assert sound.shape[1] == 2 and rate_ == 44_100
    assert client.post("api/check", headers=key, json={"answers": wrong}).json() == {"passed": False}
    right = [kinds.index(1) for kinds in headphone_trials(f"{secret}/1/1", 3)]
    assert client.get("api/session", headers=key).json()["checked"] == ""
    assert client.post("api/check", headers=key, json={"answers": right}).json() == {"passed": True}
    assert client.get("api/session", headers=key).json()["checked"] == "passed"
    for forged in (None, [0], [0, 1, 7], "123"):
        assert client.post("api/check", headers=key, json={"answers": forged}).status_code == 422
    assert client.get("api/check/99", headers=key).status_code == 404


def test_the_tones_tell_loudspeakers_from_headphones() -> None:
    sound, _ = soundfile.read(io.BytesIO(headphone_sound((0, 1, 2), 1.0)))
    parts = [sound[round(t * 44_100) : round((t + 0.8) * 44_100)] for t in (0.1, 1.45, 2.8)]
    ears = [np.sqrt(np.mean(part[:, 0] ** 2)) for part in parts]
    air = [np.sqrt(np.mean(part.mean(axis=1) ** 2)) for part in parts]
    assert np.argmin(ears) == 1 and np.argmin(air) == 2
    noise, _ = soundfile.read(io.BytesIO(volume_noise()))
    assert 0.05 < np.sqrt(np.mean(noise**2)) < 0.1
    tone = np.sin(np.arange(8000) / 5)[:, None].astype(np.float32) * 0.3
    buried = bury(tone)
    assert abs(np.corrcoef(buried[:, 0], tone[:, 0])[0, 1]) < 0.4 and np.isclose(buried.std(), tone.std(), rtol=0.05)


def test_a_picture_is_shown(tmp_path: Path) -> None:
    from dataclasses import replace

    made = build_set(tmp_path / "s", prompts=("a dog",))
    picture = add_picture(tmp_path / "s" / "pictures")
    items = (replace(made.manifest.items[0], picture="pictures/dog.jpg"),)
    type(made)(made.folder, replace(made.manifest, items=items), made.key).save()
    with TestClient(create_app(Tests(tmp_path, single=False)), base_url="http://test/s/") as client:
        key = join(client)
        page = next(page for page in pages_of(client, key) if page["picture"])
        assert client.get(f"api/picture/{page['page']}", headers=key).content == picture.read_bytes()
        assert client.get("api/picture/nothing", headers=key).status_code == 404


def test_a_set_changed_under_the_test(client: TestClient, folder: Path) -> None:
    key = join(client)
    page = pages_of(client, key)[0]
    assert rate(client, key, sound=page["sounds"][0]).status_code == 200
    wavs = sorted((folder / "wavs").iterdir())
    before = {path: path.read_bytes() for path in wavs}
    for path in wavs:
        path.write_bytes(path.read_bytes()[:-2] + b"\1\1")
    answer = client.get(f"api/sound/{page['sounds'][0]}", headers=key)
    assert answer.status_code == 409 and "organiser" in answer.json()["error"] and "pd" not in answer.text
    with pytest.raises(DataError, match="is not what SHA256SUMS says"):
        RunningTest(folder)
    for path, content in before.items():
        path.write_bytes(content)
    assert client.get(f"api/sound/{page['sounds'][0]}", headers=key).status_code == 200
    assert pages_of(client, key)[0]["answers"]
    build_set(folder, prompts=("a dog barking", "church bells", "rain"))
    with pytest.raises(DataError, match="not the one that the answers"):
        RunningTest(folder)


def test_two_organisers_serve_one_set(folder: Path) -> None:
    first, second = RunningTest(folder), RunningTest(folder)
    keys = [test.join(True) for test in (first, second, first)]
    assert [second.listener(key).number for key in keys] == [0, 1, 2]
    assert first.id == second.id


def test_a_full_disk_keeps_nothing_and_says_so(client: TestClient, folder: Path, small_disk: Any) -> None:
    key = join(client)
    sound = pages_of(client, key)[0]["sounds"][0]
    with small_disk():
        answer = rate(client, key, sound=sound)
    assert answer.status_code == 503 and "sent again" in answer.json()["error"]
    assert rate(client, key, sound=sound).status_code == 200


@pytest.mark.timeout(300)
def test_a_set_that_is_none_ends_the_app_with_one_line(tmp_path: Path) -> None:
    command = [sys.executable, "app.py", "--listening-test", str(tmp_path)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=280)
    assert done.returncode == 2 and "no sample set" in done.stderr and len(done.stderr.splitlines()) == 1


class Panel:
    """Simulated listeners, and what the server told them it had kept."""

    def __init__(self, url: str) -> None:
        self.url = url
        self.kept: dict[tuple[str, str], int] = {}
        self.errors: list[str] = []

    def listen(self, number: int) -> None:
        try:
            with httpx.Client(base_url=self.url, timeout=60) as client:
                key = join(client)
                for place, page in enumerate(pages_of(client, key)):
                    for scale in page["scales"]:
                        rating = 1 + (number + place) % 5
                        answer = rate(client, key, sound=page["sounds"][0], scale=scale, rating=rating)
                        if answer.status_code == 200:
                            self.kept[page["sounds"][0], scale] = rating
                        else:
                            self.errors.append(answer.text)
        except httpx.HTTPError:
            return  # the server is gone


@pytest.mark.timeout(300)
def test_a_killed_server_has_every_answer_it_acknowledged(tmp_path: Path) -> None:
    folder = build_set(tmp_path / "tones", prompts=tuple("abcdefgh")).folder
    (folder / "test.json").write_text(json.dumps({"headphones": "off"}))
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    program = "import sys; from clipsonic.listening.server import *; serve(Path(sys.argv[1]), port=int(sys.argv[2]))"
    command = [sys.executable, "-c", program, str(folder), str(port)]
    log = tmp_path / "log.txt"
    server = subprocess.Popen(command, cwd=ROOT, stdout=log.open("wb"), stderr=subprocess.STDOUT)
    try:
        wait_until_up(server, f"http://127.0.0.1:{port}/", log)
        panel = Panel(f"http://127.0.0.1:{port}/tones/")
        threads = [threading.Thread(target=panel.listen, args=(number,)) for number in range(50)]
        for thread in threads:
            thread.start()
        deadline = time.monotonic() + 120
        while len(panel.kept) < 300 and time.monotonic() < deadline:
            time.sleep(0.02)
        os.kill(server.pid, signal.SIGKILL)
        for thread in threads:
            thread.join(120)
    finally:
        server.kill()
        server.wait(30)
    assert 300 <= len(panel.kept) < 50 * 18 * 2 and not panel.errors, "killed in the middle"
    rows = Store(folder / "answers.sqlite").table(
        "SELECT token, scale, rating FROM answers JOIN sounds ON sounds.id = answers.sound"
    )
    there = {(row["token"], row["scale"]): row["rating"] for row in rows}
    assert {place: there.get(place) for place in panel.kept} == panel.kept
    assert len(RunningTest(folder).store.table("PRAGMA integrity_check")) == 1
