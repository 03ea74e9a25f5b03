"""The import rules of `.importlinter`, and that importing is light."""

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
LISTING = "import sys; print(' '.join(sys.modules))"


def imported_by(statement: str) -> set[str]:
    """Return the modules that a fresh interpreter holds after `statement`."""
    command = [sys.executable, "-c", f"{statement}; {LISTING}"]
    result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    return set(result.stdout.split())


def test_modules_import_in_one_direction():
    code = "from importlinter.cli import lint_imports_command; lint_imports_command()"
    result = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stdout + result.stderr


@pytest.mark.parametrize("statement", ["import clipsonic", "import app, clipsonic.ui"])
def test_importing_leaves_training_and_models_alone(statement):
    modules = imported_by(statement)
    for package in ("training", "data", "evaluation"):
        assert f"clipsonic.{package}" not in modules
    assert not {"accelerate", "webdataset", "open_clip"} & modules


@pytest.mark.parametrize("modules", ["clipsonic.errors, clipsonic.config", "clipsonic.listening.server"])
def test_what_needs_no_torch_loads_none(modules):
    assert "torch" not in imported_by(f"import {modules}")
