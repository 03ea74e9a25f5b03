"""Models to the hub and back, up to the wire: the folder that is uploaded, and the cache that is read."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from huggingface_hub import ModelCard
from huggingface_hub.errors import LocalTokenNotFoundError
from test_pipeline import FAST, same

from clipsonic.checkpoint import INDEX_NAME, ModelFolder, PartEntry, write_index
from clipsonic.errors import CheckpointError, OutputError
from clipsonic.hub import push_to_hub, stage
from clipsonic.pipeline import ClipSonicPipeline
from clipsonic.storage import sha256

COMMIT = "0123456789abcdef0123456789abcdef01234567"


class Wire:
    """What stands where the hub's client would reach for the network; keeps what it is given."""

    def __init__(self, kept: Path, error: Exception | None = None) -> None:
        self.kept, self.error, self.calls = kept, error, []

    def create_repo(self, repo_id: str, **options: Any) -> str:
        self.calls.append(("create_repo", repo_id, options))
        if self.error:
            raise self.error
        return f"https://hub.example/{repo_id}"

    def upload_folder(self, *, repo_id: str, folder_path: str, **options: Any) -> None:
        self.calls.append(("upload_folder", repo_id, options))
        shutil.copytree(folder_path, self.kept)


def lay_out_cache(model: Path, cache: Path, repo: str) -> None:
    """Copy a model to where huggingface_hub keeps what it has fetched: blobs by hash, a snapshot of links to them."""
    root = cache / f"models--{repo.replace('/', '--')}"
    (root / "blobs").mkdir(parents=True)
    (root / "refs").mkdir()
    (root / "refs/main").write_text(COMMIT)
    for file in (path for path in model.rglob("*") if path.is_file()):
        blob, link = root / "blobs" / sha256(file), root / "snapshots" / COMMIT / file.relative_to(model)
        shutil.copy(file, blob)
        link.parent.mkdir(parents=True, exist_ok=True)
        link.symlink_to(blob)


def test_what_is_uploaded_is_a_whole_model(tiny_model: Path, tmp_path: Path) -> None:
    wire = Wire(tmp_path / "kept")
    address = push_to_hub(ModelFolder.open(tiny_model), "someone/tiny", private=True, api=wire)  # type: ignore[arg-type]
    assert address == "https://hub.example/someone/tiny"
    (created, uploaded) = wire.calls
    assert created == ("create_repo", "someone/tiny", {"private": True, "exist_ok": True})
    assert "denoiser/*" in uploaded[2]["delete_patterns"]
    again = ModelFolder.open(wire.kept)
    assert again.sha256 == ModelFolder.open(tiny_model).sha256
    assert ClipSonicPipeline(again)("dog", settings=FAST).waveforms.shape[0] == 2
    card = ModelCard.load(wire.kept / "README.md")
    assert (card.data.library_name, card.data.pipeline_tag) == ("clipsonic", "text-to-audio")
    assert "image-to-audio" in card.data.tags
    assert "Random weights, for tests." in card.text


def test_a_card_keeps_what_it_says(tiny_copy: Path, tmp_path: Path) -> None:
    (tiny_copy / "README.md").write_text("---\nlicense: mit\ntags: [dogs]\n---\n\n# Dogs\n")
    stage(ModelFolder.open(tiny_copy), tmp_path / "staged")
    card = ModelCard.load(tmp_path / "staged/README.md")
    assert (card.data.license, card.data.tags[0]) == ("mit", "dogs")
    assert card.text.strip() == "# Dogs"
    (tiny_copy / "README.md").unlink()
    stage(ModelFolder.open(tiny_copy), tmp_path / "plain")
    assert "* `denoiser`" in (tmp_path / "plain/README.md").read_text()


def test_parts_elsewhere_stay_there(tiny_copy: Path, tmp_path: Path) -> None:
    shutil.rmtree(tiny_copy / "vocoder")
    write_index(tiny_copy, "tiny", remote={"vocoder": PartEntry(repo="someone/vocoder")})
    stage(ModelFolder.open(tiny_copy), tmp_path / "staged")
    assert not (tmp_path / "staged/vocoder").exists()
    assert "someone/vocoder" in (tmp_path / "staged" / INDEX_NAME).read_text()


def test_damaged_models_and_refusals_are_told(tiny_copy: Path, tmp_path: Path) -> None:
    folder = ModelFolder.open(tiny_copy)
    with pytest.raises(OutputError, match="cannot be a repository"):
        push_to_hub(folder, "no such / name")
    refusal = Wire(tmp_path / "kept", LocalTokenNotFoundError("no token found"))
    with pytest.raises(OutputError, match="cannot push to someone/tiny: no token found; check the name, the token"):
        push_to_hub(folder, "someone/tiny", api=refusal)  # type: ignore[arg-type]
    weights = tiny_copy / "vocoder/model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-9])
    wire = Wire(tmp_path / "kept")
    with pytest.raises(CheckpointError, match="is missing or damaged"):
        push_to_hub(folder, "someone/tiny", api=wire)  # type: ignore[arg-type]
    assert wire.calls == []


def test_models_come_out_of_the_hubs_cache(
    tiny_model: Path, tiny_pipeline: ClipSonicPipeline, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lay_out_cache(tiny_model, tmp_path, "someone/tiny")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    pipeline = ClipSonicPipeline.from_pretrained("someone/tiny", device="cpu")
    pipeline.preload()
    output = pipeline("dog", settings=FAST)
    assert np.isfinite(output.waveforms).all()
    assert all(map(same, output.audios, tiny_pipeline("dog", settings=FAST).audios))
    with pytest.raises(CheckpointError, match="the hub does not answer"):
        ClipSonicPipeline.from_pretrained("someone/other", device="cpu")
