"""CLIP folders and what comes out of them."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from tiny_clip import CONFIG, build_folder

from clipsonic.clip import BULK, ClipEncoder, build_model
from clipsonic.config import ClipConfig
from clipsonic.errors import CheckpointError, MediaError, PromptError


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_folder(tmp_path_factory.mktemp("clip") / "clip")


@pytest.fixture(scope="module")
def clip(folder: Path) -> ClipEncoder:
    return ClipEncoder.load(folder)


@pytest.fixture
def broken(folder: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(folder, tmp_path / "broken"))


def pictures(count: int) -> list[Image.Image]:
    rng = np.random.default_rng(0)
    return [Image.fromarray(rng.integers(0, 256, (40, 48, 3), dtype=np.uint8)) for _ in range(count)]


def test_texts_and_pictures_share_a_space_of_unit_vectors(clip: ClipEncoder) -> None:
    for embeddings in (clip.encode_text(["a dog barking", "rain"]), clip.encode_images(pictures(2))):
        assert embeddings.shape == (2, clip.embedding_dim) == (2, 24)
        assert embeddings.dtype == torch.float32
        assert torch.allclose(embeddings.norm(dim=-1), torch.ones(2), atol=1e-5)


def test_an_embedding_does_not_depend_on_the_rest_of_the_batch(clip: ClipEncoder) -> None:
    texts = ["a dog", "a photo of the trumpet playing", "rain"]
    for text, row in zip(texts, clip.encode_text(texts), strict=True):
        assert torch.allclose(clip.encode_text([text])[0], row, atol=1e-5)
    shown = pictures(3)
    assert torch.allclose(clip.encode_images(shown[1:2])[0], clip.encode_images(shown)[1], atol=1e-5)


def test_many_pictures_at_once_embed_as_one_by_one(clip: ClipEncoder) -> None:
    shown = pictures(BULK + 3)
    alone = torch.cat([clip.encode_images(shown[n : n + 8]) for n in range(0, len(shown), 8)])
    assert (clip.encode_images(shown) * alone).sum(dim=1).min() > 0.98


def test_a_grey_or_transparent_picture_is_taken_as_colours(clip: ClipEncoder) -> None:
    for mode in ("L", "RGBA", "P"):
        assert clip.encode_images([pictures(1)[0].convert(mode)]).isfinite().all()


def test_a_folder_loads_from_wherever_it_is_moved(folder: Path, clip: ClipEncoder, broken: Path) -> None:
    moved = broken.rename(broken.parent / "moved elsewhere")
    assert torch.equal(ClipEncoder.load(moved).encode_text(["a cat"]), clip.encode_text(["a cat"]))


def test_a_folder_laid_out_by_open_clip_is_read(broken: Path, clip: ClipEncoder) -> None:
    (broken / "model.safetensors").rename(broken / "open_clip_model.safetensors")
    assert torch.equal(ClipEncoder.load(broken).encode_text(["a cat"]), clip.encode_text(["a cat"]))


def test_a_plain_open_clip_model_works_too(tiny_model: Path) -> None:
    clip = ClipEncoder.load(tiny_model / "clip")
    assert clip.encode_text(["a dog"]).shape == clip.encode_images(pictures(1)).shape == (1, clip.embedding_dim)


def test_a_model_is_loaded_by_the_name_open_clip_knows_it_under(tmp_path: Path, tiny_model: Path) -> None:
    import open_clip

    config = json.loads((tiny_model / "clip" / "open_clip_config.json").read_text())["model_cfg"]
    (tmp_path / "tiny-by-name.json").write_text(json.dumps(config))
    open_clip.add_model_config(tmp_path / "tiny-by-name.json")
    (tmp_path / "config.json").write_text(
        ClipConfig(embedding_dim=config["embed_dim"], open_clip="tiny-by-name").to_json()
    )
    clip = ClipEncoder.load(tmp_path)
    assert clip.encode_text(["a dog"]).shape == (1, config["embed_dim"])


def test_an_unknown_name_is_a_checkpoint_error(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(ClipConfig(embedding_dim=8, open_clip="ViT-none", pretrained="x").to_json())
    with pytest.raises(CheckpointError, match="ViT-none"):
        ClipEncoder.load(tmp_path)


@pytest.mark.parametrize("name", ["config.json", "open_clip_config.json", "model.safetensors", "tokenizer.json"])
def test_a_damaged_file_is_named(broken: Path, name: str) -> None:
    content = (broken / name).read_bytes()
    (broken / name).write_bytes(content[: len(content) // 2])
    with pytest.raises(CheckpointError) as error:
        ClipEncoder.load(broken)
    assert str(broken) in str(error.value)
    assert "\n" not in str(error.value)


def test_weights_of_another_model_are_refused(broken: Path, tiny_model: Path) -> None:
    shutil.copy(tiny_model / "clip" / "model.safetensors", broken / "model.safetensors")
    with pytest.raises(CheckpointError, match="does not fit"):
        ClipEncoder.load(broken)


def test_a_config_that_open_clip_cannot_build_is_refused(folder: Path) -> None:
    vision = {**CONFIG["model_cfg"]["vision_cfg"], "timm_model_name": "no_such_tower"}
    with pytest.raises(CheckpointError, match="cannot build"):
        build_model({**CONFIG["model_cfg"], "vision_cfg": vision}, folder)


def test_nothing_to_embed_is_refused(clip: ClipEncoder) -> None:
    with pytest.raises(PromptError, match="at least one text"):
        clip.encode_text([])
    with pytest.raises(PromptError, match="at least one text"):
        clip.encode_text([3])  # type: ignore[list-item]
    with pytest.raises(MediaError, match="at least one"):
        clip.encode_images([])


def test_it_moves_between_devices(folder: Path) -> None:
    clip = ClipEncoder.load(folder)
    assert clip.to("cpu") is clip
    assert clip.encode_text(["a dog"]).device == clip.device
