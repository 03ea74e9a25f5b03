"""Model folders: read lazily, checked, and clear about what is wrong with them."""

from __future__ import annotations

import json
import shutil
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from conftest import EMBEDDING_DIM, FRAMES

from clipsonic import checkpoint
from clipsonic.checkpoint import INDEX_NAME, ModelFolder, PartEntry, write_index
from clipsonic.config import DenoiserConfig, VocoderConfig
from clipsonic.denoiser import Denoiser
from clipsonic.errors import CheckpointError, ClipSonicError
from clipsonic.storage import WEIGHTS_NAME, sha256
from clipsonic.vocoder import SpectralVocoder

WEIGHTY = ("clip", "prior", "denoiser", "vocoder")


def edit_index(folder: Path, change: Callable[[dict[str, Any]], Any]) -> None:
    values = json.loads((folder / INDEX_NAME).read_text())
    change(values)
    (folder / INDEX_NAME).write_text(json.dumps(values))


def test_index_says_what_the_parts_are(tiny_model: Path) -> None:
    values = json.loads((tiny_model / INDEX_NAME).read_text())
    assert values["format"] == 1
    assert values["embedding_dim"] == EMBEDDING_DIM
    assert values["frames"] == FRAMES
    assert values["embedding_normalized"] is True
    assert set(values["parts"]) == {"clip", "prior", "denoiser", "scheduler", "vocoder"}
    for part in WEIGHTY:
        weights = tiny_model / part / WEIGHTS_NAME
        assert values["parts"][part]["sha256"][WEIGHTS_NAME] == sha256(weights)


def test_parts_load_once_and_only_when_asked(tiny_model: Path) -> None:
    folder = ModelFolder.open(tiny_model)
    assert not any(folder.is_loaded(name) for name in folder.index.parts)
    part = folder.part("denoiser")
    assert folder.is_loaded("denoiser")
    assert not folder.is_loaded("clip")
    assert folder.part("denoiser") is part


def test_threads_share_one_load(tiny_model: Path) -> None:
    folder, parts = ModelFolder.open(tiny_model), []
    threads = [threading.Thread(target=lambda: parts.append(folder.part("denoiser"))) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(parts) == 4
    assert len({id(part) for part in parts}) == 1


def test_the_hash_stands_for_the_weights(tiny_copy: Path) -> None:
    before = ModelFolder.open(tiny_copy).sha256
    assert ModelFolder.open(tiny_copy).sha256 == before
    Denoiser(DenoiserConfig.load(tiny_copy / "denoiser/config.json")).save(tiny_copy / "denoiser")
    write_index(tiny_copy, "tiny")
    assert ModelFolder.open(tiny_copy).sha256 != before


@pytest.mark.parametrize("part", WEIGHTY)
def test_a_truncated_part_is_told(part: str, tiny_copy: Path) -> None:
    weights = tiny_copy / part / WEIGHTS_NAME
    weights.write_bytes(weights.read_bytes()[:-100])
    with pytest.raises(CheckpointError, match=r"damaged or was changed.*fetch it again"):
        ModelFolder.open(tiny_copy).part(part)


@pytest.mark.parametrize("part", WEIGHTY)
def test_a_truncated_part_is_told_even_without_its_hash(part: str, tiny_copy: Path) -> None:
    weights = tiny_copy / part / WEIGHTS_NAME
    weights.write_bytes(weights.read_bytes()[:-100])
    edit_index(tiny_copy, lambda values: values["parts"][part].pop("sha256"))
    with pytest.raises(CheckpointError, match="fetch"):
        ModelFolder.open(tiny_copy).part(part)


@pytest.mark.parametrize("part", [*WEIGHTY, "scheduler"])
def test_a_missing_part_is_told(part: str, tiny_copy: Path) -> None:
    shutil.rmtree(tiny_copy / part)
    folder = ModelFolder.open(tiny_copy)
    with pytest.raises(CheckpointError, match=f"the model's {part} is missing"):
        folder.part(part)


def test_a_missing_file_is_told(tiny_copy: Path) -> None:
    (tiny_copy / "vocoder/config.json").unlink()
    with pytest.raises(CheckpointError, match=r"lacks the file .*vocoder/config.json"):
        ModelFolder.open(tiny_copy).part("vocoder")


def test_a_damaged_config_is_a_checkpoint_error(tiny_copy: Path) -> None:
    (tiny_copy / "denoiser/config.json").write_text("{}")
    edit_index(tiny_copy, lambda values: values["parts"]["denoiser"].pop("sha256"))
    with pytest.raises(CheckpointError, match="denoiser cannot be used: DenoiserConfig lacks"):
        ModelFolder.open(tiny_copy).part("denoiser")


def test_neighbours_must_agree(tiny_copy: Path) -> None:
    config = DenoiserConfig.load(tiny_copy / "denoiser/config.json")
    Denoiser(DenoiserConfig.from_dict(config.to_dict() | {"embedding_dim": 8})).save(tiny_copy / "denoiser")
    mel = {"sample_rate": 16_000}
    SpectralVocoder(VocoderConfig.from_dict({"dim": 16, "num_layers": 1, "mel": mel})).save(tiny_copy / "vocoder")
    write_index(tiny_copy, "odd")
    folder = ModelFolder.open(tiny_copy)
    with pytest.raises(CheckpointError, match=r"clip does not fit .* embedding size is 32, model_index.json says 8"):
        folder.part("clip")
    with pytest.raises(CheckpointError, match="vocoder does not fit its other parts: its mel setting"):
        folder.part("vocoder")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda v: v.update(format=2), "format 2"),
        (lambda v: v.update(embedding_normalized=False), "normalised"),
        (lambda v: v.update(colour="red"), "no setting colour"),
        (lambda v: v.pop("mel"), "lacks mel"),
        (lambda v: v["parts"].pop("vocoder"), "names no vocoder"),
        (lambda v: v["parts"].update(hat={"path": "hat"}), "names hat"),
        (lambda v: v["parts"].update(clip="clip"), "cannot be used"),
        (lambda v: v["parts"].update(clip={"folder": "clip"}), "no setting folder"),
        (lambda v: v["parts"].update(clip={"path": "../../elsewhere"}), "outside"),
    ],
)
def test_a_wrong_index_is_told(change: Callable[[dict[str, Any]], Any], message: str, tiny_copy: Path) -> None:
    edit_index(tiny_copy, change)
    with pytest.raises(CheckpointError, match=message):
        ModelFolder.open(tiny_copy)


def test_no_model_is_told(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="there is no model folder nowhere"):
        ModelFolder.open("nowhere")
    with pytest.raises(CheckpointError, match=r"cannot read .*model_index.json"):
        ModelFolder.open(tmp_path)


def test_a_hub_that_does_not_answer_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(CheckpointError, match="no model folder someone/nothing here, and the hub does not answer") as e:
        ModelFolder.open("someone/nothing")
    assert "\n" not in str(e.value)


def test_hub_repositories_are_fetched_part_by_part(tiny_model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []

    def snapshot(repo: str, revision: str | None, allow_patterns: list[str] | None) -> str:
        asked.append((repo, revision, allow_patterns))
        return str(tiny_model)

    monkeypatch.setattr(checkpoint, "snapshot_download", snapshot)
    folder = ModelFolder.open("someone/model")
    folder.part("scheduler")
    assert asked == [
        ("someone/model", None, [INDEX_NAME, "README.md"]),
        ("someone/model", None, ["scheduler/*"]),
    ]


def test_a_part_may_live_in_a_repository_of_its_own(
    tiny_copy: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.move(tiny_copy / "vocoder", tmp_path / "elsewhere")
    entry = PartEntry(repo="someone/vocoder", revision="abc", files=("config.json", "*.safetensors"))
    write_index(tiny_copy, "tiny", remote={"vocoder": entry})
    asked = []

    def snapshot(repo: str, revision: str | None, allow_patterns: list[str] | None) -> str:
        asked.append((repo, revision, allow_patterns))
        return str(tmp_path / "elsewhere")

    monkeypatch.setattr(checkpoint, "snapshot_download", snapshot)
    assert isinstance(ModelFolder.open(tiny_copy).part("vocoder"), SpectralVocoder)
    assert asked == [("someone/vocoder", "abc", ["config.json", "*.safetensors"])]


def test_an_index_needs_every_part(tiny_copy: Path) -> None:
    shutil.rmtree(tiny_copy / "scheduler")
    with pytest.raises(ClipSonicError, match="has no scheduler"):
        write_index(tiny_copy, "half")
