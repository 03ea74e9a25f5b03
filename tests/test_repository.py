"""What is in the repository: sizes that hosts and readers can bear, and files that belong together."""

import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
MEGABYTE = 10**6


def tracked_files() -> list[Path]:
    result = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=False)
    if result.returncode:
        pytest.skip("not a git checkout")
    return [path for name in result.stdout.split("\0") if name and (path := ROOT / name).is_file()]


def test_no_file_is_over_60_megabytes():
    assert [str(path) for path in tracked_files() if path.stat().st_size > 60 * MEGABYTE] == []


def test_the_default_model_is_under_200_megabytes():
    sizes = [path.stat().st_size for path in tracked_files() if ROOT / "checkpoints" / "mini" in path.parents]
    assert sum(sizes) <= 200 * MEGABYTE
