"""`python app.py` as a process of its own, for the tests that meet it from outside."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import pytest

ROOT = Path(__file__).parents[1]
STARTUP_S = 240
"""How long to wait on a machine that is busy; an idle one takes a tenth."""


class Server(NamedTuple):
    """A running app."""

    url: str
    startup_s: float
    log: Path


@contextmanager
def serve_app(model: Path, log: Path, *flags: str) -> Iterator[Server]:
    """Run the app on a free port, offline, with more flags if any, for the length of the block."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    environment = os.environ | {"GRADIO_ANALYTICS_ENABLED": "False", "HF_HUB_OFFLINE": "1"}
    command = [sys.executable, "app.py", "--model", str(model), "--device", "cpu", "--host", "127.0.0.1"]
    start = time.monotonic()
    process = subprocess.Popen(
        [*command, "--port", str(port), *flags],
        cwd=ROOT,
        env=environment,
        stdout=log.open("wb"),
        stderr=subprocess.STDOUT,
    )
    url = f"http://127.0.0.1:{port}/"
    try:
        wait_until_up(process, url, log)
        yield Server(url, time.monotonic() - start, log)
    finally:
        process.terminate()
        process.wait(20)


def wait_until_up(process: subprocess.Popen[bytes], url: str, log: Path) -> None:
    """Return once the page answers."""
    deadline = time.monotonic() + STARTUP_S
    while time.monotonic() < deadline and process.poll() is None:
        try:
            with urllib.request.urlopen(url) as answer:
                assert answer.status == 200
                return
        except urllib.error.URLError:
            time.sleep(0.1)
    pytest.fail(f"the app did not come up: {log.read_text()}")
