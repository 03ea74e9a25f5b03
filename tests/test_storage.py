"""Files appear whole or not at all."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest
import torch

from clipsonic.config import MelConfig
from clipsonic.errors import CheckpointError, OutputError
from clipsonic.storage import CONFIG_NAME, WEIGHTS_NAME, load_weights, save_part, sha256, write_text, write_whole


def test_a_failed_write_leaves_the_old_file_and_nothing_else(tmp_path: Path) -> None:
    path = tmp_path / "file.txt"
    write_text(path, "old")
    with pytest.raises(RuntimeError), write_whole(path) as temporary:
        temporary.write_text("half")
        raise RuntimeError
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_the_temporary_file_keeps_its_suffix(tmp_path: Path) -> None:
    with write_whole(tmp_path / "new" / "sound.flac") as temporary:
        assert temporary.suffix == ".flac"
        temporary.write_text("whole")
    assert (tmp_path / "new/sound.flac").read_text() == "whole"


def test_a_full_disk_is_told(tmp_path: Path) -> None:
    with pytest.raises(OutputError, match=r"No space left on device; choose"), write_whole(tmp_path / "file") as _:
        Path("/dev/full").write_text("more")
    assert not list(tmp_path.iterdir())


def test_sha256(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"abc")
    assert sha256(tmp_path / "file") == hashlib.sha256(b"abc").hexdigest()


def test_parts_come_back_in_half_precision(tmp_path: Path) -> None:
    module = torch.nn.Linear(3, 2)
    save_part(module, MelConfig(), tmp_path / "part")
    assert MelConfig.load(tmp_path / "part" / CONFIG_NAME) == MelConfig()
    other = torch.nn.Linear(3, 2)
    load_weights(other, tmp_path / "part" / WEIGHTS_NAME)
    assert torch.equal(other.weight, module.weight.half().float())


def test_broken_weights_are_told(tmp_path: Path) -> None:
    save_part(torch.nn.Linear(3, 2), MelConfig(), tmp_path)
    path = tmp_path / WEIGHTS_NAME
    with pytest.raises(CheckpointError, match="does not fit the config beside it"):
        load_weights(torch.nn.Linear(4, 2), path)
    path.write_bytes(path.read_bytes()[:-3])
    with pytest.raises(CheckpointError, match="fetch the model again"):
        load_weights(torch.nn.Linear(3, 2), path)
    with pytest.raises(CheckpointError, match="fetch the model again"):
        load_weights(torch.nn.Linear(3, 2), tmp_path / "gone.safetensors")
