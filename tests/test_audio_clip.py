"""The audio encoder: shapes, independence of the batch, what it learns, and the command that trains it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from clipsonic.audio_clip import AudioClip, AudioClipConfig
from clipsonic.checkpoint import ModelFolder
from clipsonic.cli import main
from clipsonic.errors import MediaError
from clipsonic.shards import Index, Sample, ShardWriter
from clipsonic.training.audio_clip import AudioClipTask, AudioClipTaskConfig
from clipsonic.training.features import FrameSoundDataset

RATE = 22050
CONFIG = AudioClipConfig(embedding_dim=32)


@pytest.fixture(scope="module")
def encoder() -> AudioClip:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return AudioClip(CONFIG).eval()


def tones(*hertz: float, seconds: float = 1.0, rate: int = RATE) -> torch.Tensor:
    times = torch.arange(round(seconds * rate)) / rate
    return torch.stack([0.4 * torch.sin(2 * torch.pi * f * times) for f in hertz])


def test_embeddings_have_unit_length_and_do_not_depend_on_the_batch(encoder):
    sounds = tones(220, 440, 3000)
    together = encoder.embed(sounds, RATE)
    assert together.shape == (3, 32)
    torch.testing.assert_close(together.norm(dim=1), torch.ones(3))
    assert torch.equal(together[1:2], encoder.embed(sounds[1:2], RATE))
    assert not torch.allclose(together[0], together[2], atol=1e-3)


def test_the_sample_rate_is_taken_into_account(encoder):
    here, there = encoder.embed(tones(440), RATE), encoder.embed(tones(440, rate=44100), 44100)
    assert (here * there).sum() > 0.99


def test_sounds_of_any_length_can_be_embedded(encoder):
    for seconds in (0.01, 0.5, 9.0):
        assert encoder.embed(tones(440, seconds=seconds), RATE).shape == (1, 32)


@pytest.mark.parametrize("shape", [(0,), (1, 0), (2, 3, 4)])
def test_what_is_no_batch_of_sounds_is_refused(encoder, shape):
    with pytest.raises(MediaError, match="expected"):
        encoder.embed(torch.zeros(shape), RATE)


def test_it_comes_back_from_its_folder(encoder, tmp_path: Path):
    encoder.save(tmp_path)
    again = AudioClip.load(tmp_path)
    torch.testing.assert_close(again.embed(tones(300), RATE), encoder.embed(tones(300), RATE), atol=1e-2, rtol=1e-2)


def test_training_brings_sounds_to_their_pictures():
    generator = torch.Generator().manual_seed(0)
    kinds = torch.nn.functional.normalize(torch.randn(4, 32, generator=generator), dim=-1)
    which = torch.arange(24) % 4
    mels = torch.full((24, 80, 64), -9.0)
    for row, kind in enumerate(which):
        mels[row, 20 * kind : 20 * kind + 15] = -2.0
    data = FrameSoundDataset(mels.half(), kinds[which][:, None].half())
    task = AudioClipTask(CONFIG, AudioClipTaskConfig(crop_frames=64), data, data, seed=0)
    before = task.metrics()["paired_cosine"]
    optimizer = torch.optim.AdamW(task.parameters(), lr=3e-3)
    batch = {"mel": mels, "embeddings": kinds[which][:, None]}
    for step in range(30):
        loss, _ = task.loss(batch, "main", torch.Generator().manual_seed(step))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    task.encoder.eval()
    after = task.metrics()
    assert after["paired_cosine"] > before + 0.3
    assert after["paired_cosine"] > after["unpaired_cosine"] + 0.2


def test_the_command_adds_the_part_to_a_model(tiny_model: Path, tmp_path: Path):
    rng = np.random.default_rng(0)
    data, out = tmp_path / "shards", tmp_path / "out"
    for split in ("train", "test"):
        with ShardWriter(data / f"{split}-000000.tar") as writer:
            for k in range(6):
                sound = (0.1 * rng.standard_normal(64 * 256)).astype(np.float32)
                frame = Image.new("RGB", (40, 40), (40 * k, 0, 90))
                writer.write(Sample(f"{split}{k}", sound, (frame, frame), {}, RATE))
        shard = writer.entry()
        known = Index.read(data).shards if (data / "index.json").is_file() else ()
        Index(settings={}, shards=(*known, shard)).write(data)
    arguments = ["--data", str(data), "--base", str(tiny_model), "--out", str(out), "--config", "tiny"]
    assert main(["train", "audio-clip", *arguments]) == 0
    part = ModelFolder.open(out).part("audio_clip")
    assert part.embed(tones(440), RATE).shape == (1, 32)
    assert "sound_to_picture_r10" in (out / "log.jsonl").read_text()
