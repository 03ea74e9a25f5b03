"""Files written whole or not at all, and weights kept as safetensors beside their config."""

from __future__ import annotations

import hashlib
import json
import os
import re
import tempfile
import unicodedata
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from clipsonic.config import Config
from clipsonic.errors import CheckpointError, OutputError

if TYPE_CHECKING:
    import torch

WEIGHTS_NAME = "model.safetensors"
CONFIG_NAME = "config.json"
SLUG_LENGTH = 60


@contextmanager
def write_whole(path: Path) -> Iterator[Path]:
    """Yield a temporary path that becomes `path` if the block succeeds and vanishes if it does not.

    The temporary file lies in the same folder and keeps the suffix, so that writers that look at it work.

    Raises:
        OutputError: The folder cannot be written to or the disk is full.
    """
    temporary = None
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(prefix=".", suffix=f".part{path.suffix}", dir=path.parent)
        os.close(handle)
        temporary = Path(name)
        yield temporary
        temporary.chmod(0o644)
        temporary.replace(path)
    except OSError as error:
        raise OutputError(f"cannot write {path}: {error.strerror or error}; choose a writable folder") from error
    finally:
        if temporary is not None:
            temporary.unlink(missing_ok=True)


def write_text(path: Path, text: str) -> None:
    """Write a UTF-8 text file whole or not at all.

    Raises:
        OutputError: The file cannot be written.
    """
    with write_whole(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def read_json(path: Path) -> dict[str, Any]:
    """Read a JSON object of a model folder.

    Raises:
        CheckpointError: The file cannot be read, or holds anything else.
    """
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise CheckpointError(f"cannot read {path}: {error}; fetch the model again") from error
    if not isinstance(values, dict):
        raise CheckpointError(f"{path} holds {type(values).__name__}, expected an object; fetch the model again")
    return values


def slug(text: str) -> str:
    """Return a text as a file name of lower-case ASCII letters, digits and hyphens, never empty."""
    ascii_text = unicodedata.normalize("NFKD", text).encode("ascii", "ignore").decode().lower()
    words = re.sub(r"[^a-z0-9]+", "-", ascii_text)[:SLUG_LENGTH].strip("-")
    return words or f"prompt-{hashlib.sha256(text.encode()).hexdigest()[:8]}"


def sha256(path: Path) -> str:
    """Return the SHA-256 of a file as 64 hexadecimal digits."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def save_part(module: torch.nn.Module, config: Config, folder: Path, dtype: torch.dtype | None = None) -> None:
    """Write a part of the model: `config.json` and `model.safetensors` with floats in `dtype`, or in half precision.

    Raises:
        OutputError: The folder cannot be written to.
    """
    # Imported here because much that writes files needs no torch, which takes seconds to load.
    import torch
    from safetensors.torch import save_file

    dtype = dtype or torch.float16
    tensors = {
        name: (tensor.to(dtype) if tensor.is_floating_point() else tensor).detach().cpu().contiguous().clone()
        for name, tensor in module.state_dict().items()
    }
    with write_whole(folder / WEIGHTS_NAME) as temporary:
        save_file(tensors, temporary, metadata={"format": "pt"})
    write_text(folder / CONFIG_NAME, config.to_json())


def load_weights(module: torch.nn.Module, path: Path) -> None:
    """Fill `module` from a safetensors file, converting to the module's own precision.

    Raises:
        CheckpointError: The file is missing or cut short, or its tensors are not the module's.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        tensors = load_file(path)
        module.load_state_dict(tensors)
    except (OSError, SafetensorError) as error:
        raise CheckpointError(f"cannot read {path}: {error}; fetch the model again") from error
    except RuntimeError as error:
        first = str(error).splitlines()[-1].strip()
        raise CheckpointError(f"{path} does not fit the config beside it: {first}") from error
