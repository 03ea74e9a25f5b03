"""The pages of documentation: their snippets run, by the rule of `docs/README.md`, and their links lead somewhere."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import av
import numpy as np
import pytest
from app_server import ROOT, Server, serve_app

from clipsonic.audio import write_audio

PAGES = sorted([ROOT / "README.md", *(ROOT / "docs").glob("*.md")])
RUNNING = ("python", "bash run")
"""What the first line of a block says if the block is to be run."""
BLOCK = re.compile(r"^(?P<fence>`{3,})(?P<kind>[^\n`]*)\n(?P<code>.*?)^(?P=fence)[ \t]*$", re.MULTILINE | re.DOTALL)
LINK = re.compile(r"\]\((?P<target>[^)\s]+)\)")
APP = "http://127.0.0.1:7860"


class Block(NamedTuple):
    """A snippet and the line of the page on which its code begins."""

    kind: str
    code: str
    line: int


def read_blocks(text: str) -> list[Block]:
    """Return the snippets of a page that are to be run."""
    found = (
        Block(match["kind"].strip(), match["code"], text[: match.start("code")].count("\n") + 1)
        for match in BLOCK.finditer(text)
    )
    return [block for block in found if block.kind in RUNNING]


def run_blocks(page: str, blocks: list[Block], folder: Path, url: str) -> None:
    """Run the snippets of one page in `folder`; the Python ones share their variables."""
    variables: dict[str, Any] = {"__name__": "__main__"}
    for block in blocks:
        code = block.code.replace(APP, url.rstrip("/"))
        if block.kind == "python":
            exec(compile("\n" * (block.line - 1) + code, page, "exec"), variables)  # noqa: S102
            continue
        environment = os.environ | {
            "PYTHONPATH": str(ROOT),
            "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
        }
        command = ["bash", "-euo", "pipefail", "-c", code]
        result = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)
        assert result.returncode == 0, f"{page}, line {block.line}: {result.stdout}{result.stderr}"


def write_video(path: Path) -> None:
    """Write a silent video of half a second."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream("mpeg4", rate=10)
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
        for shade in range(5):
            picture = np.full((48, 64, 3), 40 * shade, np.uint8)
            container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
        container.mux(stream.encode())


@pytest.fixture
def scratch(hearing_model: Path, tmp_path: Path) -> Path:
    """The folder in which snippets run."""
    (tmp_path / "checkpoints").mkdir()
    (tmp_path / "checkpoints" / "mini").symlink_to(hearing_model, target_is_directory=True)
    (tmp_path / "examples").symlink_to(ROOT / "examples", target_is_directory=True)
    shutil.copy(ROOT / "examples" / "pictures" / "dog.jpg", tmp_path)
    tone = 0.3 * np.sin(np.arange(22050) * 0.1, dtype=np.float32)
    write_audio(tmp_path / "bark.wav", tone, 22050)
    write_video(tmp_path / "clip.mp4")
    return tmp_path


@pytest.fixture(scope="module")
def app(hearing_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with serve_app(hearing_model, tmp_path_factory.mktemp("app") / "log.txt") as running:
        yield running


@pytest.mark.timeout(300)
@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_snippets_run(
    page: Path, scratch: Path, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest
) -> None:
    blocks = read_blocks(page.read_text(encoding="utf-8"))
    url = request.getfixturevalue("app").url if any(APP in block.code for block in blocks) else APP
    monkeypatch.chdir(scratch)
    run_blocks(page.name, blocks, scratch, url)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_links_lead_to_files(page: Path) -> None:
    text = BLOCK.sub("", page.read_text(encoding="utf-8"))
    targets = [match["target"].split("#")[0] for match in LINK.finditer(text)]
    gone = [target for target in targets if target and ":" not in target and not (page.parent / target).exists()]
    assert gone == []


def test_the_rule() -> None:
    text = "```python\na = 1\n```\n```python no-run\nb\n```\n```bash\nc\n```\n\n```bash run\nd\n```\n"
    text += "````\n```python\n````\n"
    assert read_blocks(text) == [Block("python", "a = 1\n", 2), Block("bash run", "d\n", 12)]


def test_a_broken_snippet_fails(tmp_path: Path) -> None:
    with pytest.raises(ZeroDivisionError):
        run_blocks("page", read_blocks("```python\na = 0\n```\n```python\n1 / a\n```\n"), tmp_path, APP)
    with pytest.raises(AssertionError, match="line 2"):
        run_blocks("page", read_blocks("```bash run\nfalse\ntrue\n```\n"), tmp_path, APP)
