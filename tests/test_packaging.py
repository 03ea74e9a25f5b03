"""What surrounds the code: requirements with their table and constraints, the container, the Space's front matter."""

from __future__ import annotations

import os
import re
import shlex
from datetime import date
from pathlib import Path

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parents[1]
FILES = ("requirements.txt", "requirements-train.txt", "requirements-dev.txt")
ROW = re.compile(
    r"^\| (?P<name>[a-z0-9_-]+) \| (?P<version>[0-9][^ ]*) \| (?P<released>[^|]*) \| (?P<rest>.+) \|$", re.MULTILINE
)
COLORS = {"red", "yellow", "green", "blue", "indigo", "purple", "pink", "gray"}


def requirements(name: str) -> dict[str, Requirement]:
    lines = [line.split("#")[0].strip() for line in (ROOT / name).read_text().splitlines()]
    found = [Requirement(line) for line in lines if line and not line.startswith("-r")]
    return {canonicalize_name(each.name): each for each in found}


def constraints() -> dict[str, Requirement]:
    lines = [line for line in (ROOT / "constraints.txt").read_text().splitlines() if not line.startswith("#")]
    return {canonicalize_name(each.name): each for each in map(Requirement, lines)}


def table(name: str) -> dict[str, re.Match[str]]:
    text = (ROOT / "docs" / "dependencies.md").read_text().split(f"## {name}:")[1].split("\n## ")[0]
    return {canonicalize_name(row["name"]): row for row in ROW.finditer(text)}


@pytest.mark.parametrize("name", FILES)
def test_every_dependency_has_a_row_and_a_tested_version(name: str) -> None:
    wanted, rows, tested = requirements(name), table(name), constraints()
    assert sorted(rows) == sorted(wanted), "docs/dependencies.md and the requirements differ"
    for package, requirement in wanted.items():
        version = rows[package]["version"]
        assert str(tested[package].specifier) == f"=={version}", f"{package}: constraints.txt has another version"
        assert version in requirement.specifier, f"{package} {version} is not allowed by {name}"
        assert {part.operator for part in requirement.specifier} == {">=", "<"}, f"{package} wants both bounds"
        released = rows[package]["released"]
        assert released == "–" or date.fromisoformat(released), f"{package}: released {released!r}"
        assert len(released) in (1, 10) and rows[package]["rest"].count("|") == 2, f"{package} wants six cells"
        assert all(cell.strip() for cell in rows[package]["rest"].split("|"))


def test_constraints_leave_cuda_to_torch() -> None:
    assert not [name for name in constraints() if name.startswith(("nvidia-", "cuda-", "triton"))]
    assert not [each for each in constraints().values() if "+" in str(each.specifier)]


def test_the_lowest_versions_can_be_read_off() -> None:
    script = (ROOT / ".ci" / "minimum").read_text()
    assert "requirements.txt" in script
    for test in re.findall(r"tests/\w+\.py", script):
        assert (ROOT / test).is_file(), test
    assert all(os.access(ROOT / ".ci" / name, os.X_OK) for name in ("minimum", "audit", "run"))


def instructions() -> list[tuple[str, str]]:
    text = re.sub(r"\\\n\s*", " ", (ROOT / "Dockerfile").read_text())
    return [(line.split()[0], line.split(None, 1)[1]) for line in text.splitlines() if line and line[0].isupper()]


def test_the_container_copies_what_there_is_and_what_the_app_needs() -> None:
    sources = [source for kind, rest in instructions() if kind == "COPY" for source in shlex.split(rest)[:-1]]
    assert [source for source in sources if not (ROOT / source).exists()] == []
    assert {"app.py", "clipsonic", "examples", "checkpoints/mini", "requirements.txt"} <= set(sources)
    ignored = (ROOT / ".dockerignore").read_text().split()
    assert not [source for source in sources if source in ignored or source.split("/")[0] in ignored]


def test_the_container_runs_without_rights_and_says_how_it_is() -> None:
    kinds = [kind for kind, _ in instructions()]
    said = dict(instructions())
    assert said["FROM"].startswith("python:3.12") and said["EXPOSE"] == "7860"
    assert said["USER"] not in ("root", "0") and kinds.index("USER") < kinds.index("CMD")
    assert "/health" in said["HEALTHCHECK"] and "GRADIO_SERVER_PORT=7860" in said["ENV"]


def test_the_space_is_described() -> None:
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    card = yaml.safe_load(text.split("---\n")[1])
    assert {"title", "emoji", "sdk", "sdk_version", "app_file", "short_description", "license", "tags"} <= set(card)
    assert card["sdk"] == "gradio" and (ROOT / card["app_file"]).is_file()
    assert {card["colorFrom"], card["colorTo"]} <= COLORS
    assert len(card["short_description"]) <= 60 and "arxiv.org/abs/2306.09635" in text
    assert card["sdk_version"] == str(constraints()["gradio"].specifier).removeprefix("==")
    assert card["python_version"] in ("3.10", "3.12")
    for files in card.get("preload_from_hub", []):
        assert re.fullmatch(r"[\w.-]+/[\w.-]+( [^ ]+){0,2}", files), "only files of a repository on the hub"
